//! The typed parameters of ImageData, WindowData and CaffeOnSpark's CoSData.

use sparknet_proto::caffe::{CoSDataParameter, LayerParameter, TopBlob, top_blob};

use super::{
    LayerKind, TransformSpec,
    data_layers::record_transform,
    kinds::{Parsed, required},
};
use crate::Shape;

/// `ImageData`.
#[derive(Clone, Debug)]
pub struct ImageDataSpec {
    /// The list of images.
    pub source: String,
    /// What goes before every path in it; empty for nothing.
    pub root_folder: String,
    /// Records a batch.
    pub batch_size: usize,
    /// Up to how many records are skipped at the start.
    pub rand_skip: usize,
    /// Whether every pass over the list has an order of its own.
    pub shuffle: bool,
    /// The size `(h, w)` that images are brought to; `None` keeps theirs.
    pub new_size: Option<[usize; 2]>,
    /// Three channels, or else one.
    pub is_color: bool,
    /// How many batches are read ahead.
    pub prefetch: usize,
    /// What happens to each record.
    pub transform: TransformSpec,
}

impl ImageDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.image_data_param.clone().unwrap_or_default();
        if param.source().is_empty() {
            return Err("image_data_param.source is missing: give the list of images".to_owned());
        }
        let new_size = match (param.new_height() as usize, param.new_width() as usize) {
            (0, 0) => None,
            (height, width) if height > 0 && width > 0 => Some([height, width]),
            _ => return Err("new_height and new_width go together: give both or none".to_owned()),
        };
        Ok(LayerKind::ImageData(Self {
            source: param.source().to_owned(),
            root_folder: param.root_folder().to_owned(),
            batch_size: required(Some(param.batch_size()), "image_data_param.batch_size")?,
            rand_skip: param.rand_skip() as usize,
            shuffle: param.shuffle(),
            new_size,
            is_color: param.is_color(),
            prefetch: prefetch(layer),
            transform: TransformSpec::parse(record_transform(layer)?.as_ref())?,
        }))
    }
}

/// `WindowData`.
#[derive(Clone, Debug)]
pub struct WindowDataSpec {
    /// The file of windows.
    pub source: String,
    /// What goes before every path in it; empty for nothing.
    pub root_folder: String,
    /// Windows a batch.
    pub batch_size: usize,
    /// The overlap from which a window is an object.
    pub fg_threshold: f32,
    /// The overlap below which it is background.
    pub bg_threshold: f32,
    /// The share of objects in a batch.
    pub fg_fraction: f32,
    /// Pixels of surroundings on each side of a warped window.
    pub context_pad: usize,
    /// Whether windows are widened to squares before they are warped.
    pub is_square: bool,
    /// Whether image files are kept in memory.
    pub cache_images: bool,
    /// How many batches are read ahead.
    pub prefetch: usize,
    /// What happens to each window; `crop_size` is its side.
    pub transform: TransformSpec,
}

impl WindowDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.window_data_param.clone().unwrap_or_default();
        if param.source().is_empty() {
            return Err("window_data_param.source is missing: give the file of windows".to_owned());
        }
        let mut transform = TransformSpec::parse(record_transform(layer)?.as_ref())?;
        // The only field of the old ones that Caffe still reads; it forgets transform_param's.
        transform.scale = param.scale.unwrap_or(transform.scale);
        if transform.crop_size == 0 {
            return Err("transform_param.crop_size is missing: give the side of a warped window".to_owned());
        }
        if 2 * param.context_pad() as usize >= transform.crop_size {
            return Err(format!(
                "context_pad {} leaves nothing of a crop_size of {}: make it smaller",
                param.context_pad(),
                transform.crop_size
            ));
        }
        if !(0.0..=1.0).contains(&param.fg_fraction()) {
            return Err(format!(
                "fg_fraction is {}: give a number from 0 to 1",
                param.fg_fraction()
            ));
        }
        Ok(LayerKind::WindowData(Self {
            source: param.source().to_owned(),
            root_folder: param.root_folder().to_owned(),
            batch_size: required(param.batch_size, "window_data_param.batch_size")?,
            fg_threshold: param.fg_threshold(),
            bg_threshold: param.bg_threshold(),
            fg_fraction: param.fg_fraction(),
            context_pad: param.context_pad() as usize,
            is_square: match param.crop_mode() {
                "warp" => false,
                "square" => true,
                other => return Err(format!("crop_mode \"{other}\" does not exist: use warp or square")),
            },
            cache_images: param.cache_images(),
            prefetch: prefetch(layer),
            transform,
        }))
    }
}

/// `CoSData`, CaffeOnSpark's: tops that are fed with columns of rows.
#[derive(Clone, Debug)]
pub struct CosDataSpec {
    /// Records a batch.
    pub batch_size: usize,
    /// The tops, in order.
    pub tops: Vec<CosTopSpec>,
    /// The top whose column is decoded and transformed; the others take numbers as they are.
    pub values_top: usize,
}

/// One top of a `CoSData` layer.
#[derive(Clone, Debug)]
pub struct CosTopSpec {
    /// The column that feeds it.
    pub column: String,
    /// Values of a record.
    pub count: usize,
    /// A batch's shape: `(n, …)`, or `(…, n)` where it is transposed.
    pub shape: Shape,
    /// Whether the batch lies along the last axis, as recurrent layers want their sequences.
    pub transpose: bool,
    /// What happens to each record.
    pub transform: TransformSpec,
}

impl CosDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        Self::from_layer(layer).map(LayerKind::CosData)
    }

    /// Validates a `CoSData` layer.
    ///
    /// # Errors
    /// What is wrong with its parameters, and the way out.
    pub fn from_layer(layer: &LayerParameter) -> Result<Self, String> {
        let param: CoSDataParameter = layer.cos_data_param.clone().unwrap_or_default();
        if param.top.is_empty() {
            return Err("cos_data_param.top is missing: give the tops".to_owned());
        }
        if param.top.len() != layer.top.len() {
            return Err(format!(
                "cos_data_param has {} tops, but the layer {}: give as many",
                param.top.len(),
                layer.top.len()
            ));
        }
        let batch_size = required(param.batch_size, "cos_data_param.batch_size")?;
        let tops = param.top.iter().map(|top| CosTopSpec::parse(top, batch_size));
        let tops = tops.collect::<Parsed<Vec<_>>>()?;
        let mut special =
            (0..tops.len()).filter(|top| is_image(&param.top[*top]) || param.top[*top].transform_param.is_some());
        let values_top = special.next().unwrap_or(0);
        if let Some(second) = special.next() {
            return Err(format!(
                "tops '{}' and '{}' both hold images or have a transform_param, but only one column can: feed numbers",
                param.top[values_top].name(),
                param.top[second].name()
            ));
        }
        Ok(Self {
            batch_size,
            tops,
            values_top,
        })
    }

    /// The columns that feed the layer, and how many numbers each has: first the one that is transformed.
    pub fn columns(&self) -> Vec<(String, usize)> {
        let mut tops: Vec<&CosTopSpec> = self.tops.iter().collect();
        let values = tops.remove(self.values_top);
        let column = |top: &CosTopSpec| (top.column.clone(), top.count);
        std::iter::once(values).chain(tops).map(column).collect()
    }
}

impl CosTopSpec {
    fn parse(top: &TopBlob, batch_size: usize) -> Parsed<Self> {
        use top_blob::Type;
        let name = top.name();
        if name.is_empty() {
            return Err("a cos_data_param.top has no name: name the column that feeds it".to_owned());
        }
        let transform = TransformSpec::parse(top.transform_param.as_ref())?;
        let or = |size: u32, other: u32| if size > 0 { size } else { other } as usize;
        let mut record = vec![
            or(top.out_channels(), top.channels()),
            or(top.out_height(), top.height()),
            or(top.out_width(), top.width()),
        ];
        if transform.crop_size > 0 {
            record[1..].fill(transform.crop_size);
        }
        let axes = top.sample_num_axes() as usize;
        if axes > 3 {
            return Err(format!("top '{name}' has sample_num_axes {axes}: give 0 to 3"));
        }
        record.truncate(axes);
        if let Some(missing) = record.iter().position(|size| *size == 0) {
            let field = ["channels", "height", "width"][missing];
            return Err(format!(
                "top '{name}' with sample_num_axes {axes} wants {field}: give it"
            ));
        }
        if top.transpose() && axes != 1 {
            return Err(format!(
                "top '{name}' is transposed, but its sample_num_axes is {axes}: only 1 can be"
            ));
        }
        let count = Shape::new(&record[..]).checked_count();
        let count = count.ok_or_else(|| format!("top '{name}' has more than 2147483647 values a record"))?;
        if top.r#type() == Type::String && count != 1 {
            return Err(format!(
                "top '{name}' is of type STRING and has {count} values a record, but a text is one number: give \
                 FLOAT_ARRAY"
            ));
        }
        let dims = if top.transpose() {
            vec![record[0], batch_size]
        } else {
            [&[batch_size], &record[..]].concat()
        };
        Ok(Self {
            column: name.to_owned(),
            count,
            shape: Shape::new(dims),
            transpose: top.transpose(),
            transform,
        })
    }
}

fn is_image(top: &TopBlob) -> bool {
    use top_blob::Type;
    matches!(
        top.r#type(),
        Type::EncodedImage | Type::RawImage | Type::EncodedImageWithDim
    )
}

/// Every data layer of Caffe's looks for this in `data_param`.
fn prefetch(layer: &LayerParameter) -> usize {
    layer.data_param.clone().unwrap_or_default().prefetch().max(1) as usize
}
