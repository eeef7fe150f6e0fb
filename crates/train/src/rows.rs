//! Nets that are fed with rows which a program hands over, a DataFrame's say, instead of the sources that their data
//! layers name.

use std::sync::Arc;

use sparknet_data::{ColorMode, Rows};
use sparknet_engine::spec::{CosDataSpec, CosTopSpec};
use sparknet_proto::caffe::{DataParameter, LayerParameter, NetParameter, TransformationParameter};

use crate::Error;

/// What one worker trains and tests on, where that is rows and not the net's own sources.
#[derive(Clone, Debug)]
pub struct WorkerRows {
    /// The rows of the train net's data layer.
    pub train: Arc<Rows>,
    /// The rows of the test nets' data layers; `None` where this worker has none to test.
    pub test: Option<Arc<Rows>>,
}

/// What a net's data layers say of the rows that are to feed them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowsWanted {
    /// The shape `(c, h, w)` of a row before it is cropped, where a layer says it.
    pub shape: Option<[usize; 3]>,
    /// What encoded images are decoded to.
    pub color: ColorMode,
    /// The edge that records are cropped to; 0 for none.
    pub crop_size: usize,
    /// The columns that a CoSData layer names, and how many numbers each has: first the one that is transformed. Empty
    /// where values and a label are enough.
    pub columns: Vec<(String, usize)>,
}

/// Turns every layer of `net` that brings data in (Data, MemoryData, ImageData, Input, CaffeOnSpark's CoSData) into a
/// `Data` layer that asks for rows, and returns what the layers said of them. Tops, batch size, phase and transform stay;
/// two `Input` layers of one top each become one layer with data and label. A CoSData layer that wants more than values
/// and a label stays: rows have numbers for its other tops.
///
/// # Errors
/// A layer that no row with values and a label can feed.
pub fn feed_by_rows(net: &mut NetParameter) -> Result<RowsWanted, Error> {
    let mut wanted = RowsWanted::default();
    let mut layers: Vec<LayerParameter> = Vec::with_capacity(net.layer.len());
    for layer in std::mem::take(&mut net.layer) {
        // A second Input layer of the same phase brings the labels of the first.
        if layer.r#type() == "Input"
            && layer.top.len() == 1
            && let Some(first) = layers.iter_mut().find(|other| {
                other.r#type() == "Data"
                    && other.input_param.is_some()
                    && other.top.len() == 1
                    && (&other.include, &other.exclude) == (&layer.include, &layer.exclude)
            })
        {
            first.top.extend(layer.top);
            continue;
        }
        layers.push(fed(layer, &mut wanted)?);
    }
    net.layer = layers;
    Ok(wanted)
}

fn fed(mut layer: LayerParameter, wanted: &mut RowsWanted) -> Result<LayerParameter, Error> {
    let name = layer.name().to_owned();
    let feed_error = |fact: &str| Error::Feed {
        layer: name.clone(),
        fact: fact.to_owned(),
    };
    let dims = |channels: u32, height: u32, width: u32| {
        let shape = [channels, height, width].map(|size| size as usize);
        (!shape.contains(&0)).then_some(shape)
    };
    let (batch_size, shape, prefetch) = match layer.r#type() {
        "Data" => {
            let param = layer.data_param.clone().unwrap_or_default();
            (param.batch_size(), None, param.prefetch)
        }
        "MemoryData" => {
            let param = layer.memory_data_param.clone().unwrap_or_default();
            let shape = dims(param.channels(), param.height(), param.width());
            (param.batch_size(), shape, None)
        }
        "ImageData" => {
            let param = layer.image_data_param.clone().unwrap_or_default();
            if param.new_height() > 0 || param.new_width() > 0 {
                return Err(feed_error(
                    "image_data_param asks for a new size, which rows are not brought to: resize the images in the \
                     DataFrame and drop new_height and new_width",
                ));
            }
            let transform = layer.transform_param.get_or_insert_default();
            if transform.force_color.is_none() && transform.force_gray.is_none() {
                transform.force_color = param.is_color().then_some(true);
                transform.force_gray = (!param.is_color()).then_some(true);
            }
            (param.batch_size(), None, None)
        }
        "Input" => {
            let shapes = layer.input_param.clone().unwrap_or_default().shape;
            let Some(first) = shapes.first().filter(|shape| !shape.dim.is_empty()) else {
                return Err(feed_error("input_param.shape is missing: give the shape of a batch"));
            };
            let size = |axis: usize| first.dim.get(axis).map_or(1, |size| u32::try_from(*size).unwrap_or(0));
            if first.dim.len() > 4 {
                return Err(feed_error("rows have at most 3 axes: give a shape of at most 4"));
            }
            (size(0), dims(size(1), size(2), size(3)), None)
        }
        "CoSData" => {
            let param = layer.cos_data_param.clone().unwrap_or_default();
            if layer.top.is_empty() {
                layer.top = param.top.iter().map(|top| top.name().to_owned()).collect();
            }
            let spec = CosDataSpec::from_layer(&layer).map_err(|fact| feed_error(&fact))?;
            let top = &param.top[spec.values_top];
            let is_label = |(index, top): (usize, &CosTopSpec)| index == 1 && top.count == 1 && !top.transpose;
            let is_plain =
                spec.values_top == 0 && !spec.tops[0].transpose && spec.tops.iter().enumerate().skip(1).all(is_label);
            if !is_plain {
                let columns = spec.columns();
                if !wanted.columns.is_empty() && wanted.columns != columns {
                    return Err(feed_error(
                        "its columns differ from those of the CoSData layer before it: give the same",
                    ));
                }
                wanted.columns = columns;
            }
            layer.transform_param = top.transform_param.clone();
            (
                param.batch_size(),
                dims(top.channels(), top.height(), top.width()),
                None,
            )
        }
        _ => return Ok(layer),
    };
    let stays = layer.r#type() == "CoSData" && !wanted.columns.is_empty();
    if layer.top.len() > 2 && !stays {
        return Err(feed_error("a row brings values and a label: keep two tops"));
    }
    let transform: TransformationParameter = layer.transform_param.clone().unwrap_or_default();
    let found = RowsWanted {
        shape,
        color: match (transform.force_color(), transform.force_gray()) {
            (true, _) => ColorMode::Color,
            (_, true) => ColorMode::Gray,
            _ => ColorMode::Native,
        },
        crop_size: transform.crop_size() as usize,
        columns: Vec::new(),
    };
    wanted.shape = wanted.shape.or(found.shape);
    if found.color != ColorMode::Native {
        wanted.color = found.color;
    }
    // Rows have to suit the train net and the test net alike.
    wanted.crop_size = wanted.crop_size.max(found.crop_size);
    if stays {
        return Ok(layer);
    }
    layer.data_param = Some(DataParameter {
        source: Some("rows".to_owned()),
        batch_size: Some(batch_size),
        prefetch,
        ..Default::default()
    });
    layer.r#type = Some("Data".to_owned());
    layer.memory_data_param = None;
    layer.image_data_param = None;
    layer.cos_data_param = None;
    Ok(layer)
}

/// Takes away what needs labels, so that the net runs on rows without: the data layers' second tops, and every layer
/// that reads what comes from them. `net` is fed by rows and has the layers of one phase.
pub fn without_labels(net: &mut NetParameter) {
    let mut gone: Vec<String> = Vec::new();
    net.layer.retain_mut(|layer| {
        if layer.r#type() == "Data" {
            gone.extend(layer.top.drain(layer.top.len().min(1)..));
            return true;
        }
        let reads_gone = layer.bottom.iter().any(|bottom| gone.contains(bottom));
        if reads_gone {
            gone.extend(layer.top.iter().cloned());
        }
        !reads_gone
    });
}
