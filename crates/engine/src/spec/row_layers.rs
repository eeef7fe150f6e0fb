//! Layers that bring data in, as what they want of rows that a program hands over in the place of their own sources.

use sparknet_proto::caffe::{DataParameter, LayerParameter, TransformationParameter};

use super::{CosDataSpec, CosTopSpec, TransformSpec, data_layers::record_transform, kinds::Parsed};

/// What a data layer wants of rows.
#[derive(Clone, Debug)]
pub struct RowLayerSpec {
    /// The shape `(c, h, w)` of a row before it is cropped, where the layer says it.
    pub shape: Option<[usize; 3]>,
    /// What happens to each row.
    pub transform: TransformSpec,
    /// The columns that a CoSData layer names, and how many numbers each has: first the one that is transformed. Empty
    /// where values and a label are enough.
    pub columns: Vec<(String, usize)>,
    /// The layer that rows feed: of type Data, or CoSData where there are columns.
    pub layer: LayerParameter,
}

/// What the layer's own message says.
struct Wanted {
    batch_size: u32,
    shape: Option<[usize; 3]>,
    prefetch: Option<u32>,
    transform: Option<TransformationParameter>,
    columns: Vec<(String, usize)>,
}

impl RowLayerSpec {
    /// What `layer` wants; `None` if it brings no data in. Its tops, phase and transform stay.
    ///
    /// # Errors
    /// What no row with values and a label can feed, and the way out.
    pub fn from_layer(layer: &LayerParameter) -> Result<Option<Self>, String> {
        let mut layer = layer.clone();
        let wanted = match layer.r#type() {
            "Data" => {
                let param = layer.data_param.clone().unwrap_or_default();
                Wanted {
                    prefetch: param.prefetch,
                    ..Wanted::new(param.batch_size(), None, record_transform(&layer)?)
                }
            }
            "MemoryData" => {
                let param = layer.memory_data_param.clone().unwrap_or_default();
                let shape = dims(param.channels(), param.height(), param.width());
                Wanted::new(param.batch_size(), shape, layer.transform_param.clone())
            }
            "ImageData" => of_images(&layer)?,
            "Input" => of_input(&layer)?,
            "CoSData" => of_columns(&mut layer)?,
            _ => return Ok(None),
        };
        if wanted.columns.is_empty() {
            if layer.top.len() > 2 {
                return Err("a row brings values and a label: keep two tops".to_owned());
            }
            layer.r#type = Some("Data".to_owned());
            layer.data_param = Some(DataParameter {
                source: Some("rows".to_owned()),
                batch_size: Some(wanted.batch_size),
                prefetch: wanted.prefetch,
                ..Default::default()
            });
            layer.input_param = None;
            layer.memory_data_param = None;
            layer.image_data_param = None;
            layer.cos_data_param = None;
        }
        layer.transform_param = wanted.transform;
        Ok(Some(Self {
            shape: wanted.shape,
            transform: TransformSpec::parse(layer.transform_param.as_ref())?,
            columns: wanted.columns,
            layer,
        }))
    }
}

impl Wanted {
    fn new(batch_size: u32, shape: Option<[usize; 3]>, transform: Option<TransformationParameter>) -> Self {
        Self {
            batch_size,
            shape,
            prefetch: None,
            transform,
            columns: Vec::new(),
        }
    }
}

fn dims(channels: u32, height: u32, width: u32) -> Option<[usize; 3]> {
    let shape = [channels, height, width].map(|size| size as usize);
    (!shape.contains(&0)).then_some(shape)
}

fn of_images(layer: &LayerParameter) -> Parsed<Wanted> {
    let param = layer.image_data_param.clone().unwrap_or_default();
    if param.new_height() > 0 || param.new_width() > 0 {
        return Err(
            "image_data_param asks for a new size, which rows are not brought to: resize the images in the DataFrame \
             and drop new_height and new_width"
                .to_owned(),
        );
    }
    let mut transform = record_transform(layer)?.unwrap_or_default();
    if transform.force_color.is_none() && transform.force_gray.is_none() {
        transform.force_color = param.is_color().then_some(true);
        transform.force_gray = (!param.is_color()).then_some(true);
    }
    Ok(Wanted::new(param.batch_size(), None, Some(transform)))
}

fn of_input(layer: &LayerParameter) -> Parsed<Wanted> {
    let shapes = layer.input_param.clone().unwrap_or_default().shape;
    let Some(first) = shapes.first().filter(|shape| !shape.dim.is_empty()) else {
        return Err("input_param.shape is missing: give the shape of a batch".to_owned());
    };
    let size = |axis: usize| first.dim.get(axis).map_or(1, |size| u32::try_from(*size).unwrap_or(0));
    if first.dim.len() > 4 {
        return Err("rows have at most 3 axes: give a shape of at most 4".to_owned());
    }
    let shape = dims(size(1), size(2), size(3));
    Ok(Wanted::new(size(0), shape, layer.transform_param.clone()))
}

/// Also gives the layer the tops that its message names, where it has none.
fn of_columns(layer: &mut LayerParameter) -> Parsed<Wanted> {
    let param = layer.cos_data_param.clone().unwrap_or_default();
    if layer.top.is_empty() {
        layer.top = param.top.iter().map(|top| top.name().to_owned()).collect();
    }
    let spec = CosDataSpec::from_layer(layer)?;
    let top = &param.top[spec.values_top];
    let is_label = |(index, top): (usize, &CosTopSpec)| index == 1 && top.count == 1 && !top.transpose;
    let is_plain =
        spec.values_top == 0 && !spec.tops[0].transpose && spec.tops.iter().enumerate().skip(1).all(is_label);
    let shape = dims(top.channels(), top.height(), top.width());
    Ok(Wanted {
        columns: if is_plain { Vec::new() } else { spec.columns() },
        ..Wanted::new(param.batch_size(), shape, top.transform_param.clone())
    })
}

/// The names of the mean files that a layer's transforms ask for.
pub fn mean_files(layer: &mut LayerParameter) -> impl Iterator<Item = &mut String> {
    let tops = layer.cos_data_param.iter_mut().flat_map(|param| &mut param.top);
    let transforms = tops
        .map(|top| &mut top.transform_param)
        .chain([&mut layer.transform_param]);
    transforms
        .flatten()
        .filter_map(|transform| transform.mean_file.as_mut())
}

/// The name of the file with the infogain matrix that a layer asks for.
pub fn infogain_file(layer: &mut LayerParameter) -> Option<&mut String> {
    layer.infogain_loss_param.as_mut()?.source.as_mut()
}
