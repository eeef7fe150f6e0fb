//! Nets that are fed with rows which a program hands over, a DataFrame's say, instead of the sources that their data
//! layers name.

use std::sync::Arc;

use sparknet_data::{ColorMode, Rows};
use sparknet_engine::spec::RowLayerSpec;
use sparknet_proto::caffe::{LayerParameter, NetParameter};

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
    /// Whether values and a label are enough for a layer.
    has_plain_layers: bool,
}

/// Turns every layer of `net` that brings data in (Data, MemoryData, ImageData, Input, CaffeOnSpark's CoSData) into a
/// `Data` layer that asks for rows, and adds what the layers said of them to `wanted`. Tops, batch size, phase and transform stay;
/// two `Input` layers of one top each become one layer with data and label. A CoSData layer that wants more than values
/// and a label stays: rows have numbers for its other tops.
///
/// # Errors
/// A layer that no row with values and a label can feed, or that wants other columns than those before it.
pub fn feed_by_rows(net: &mut NetParameter, wanted: &mut RowsWanted) -> Result<(), Error> {
    let mut layers: Vec<LayerParameter> = Vec::with_capacity(net.layer.len());
    // Of those, the ones that were of type Input.
    let mut inputs: Vec<usize> = Vec::new();
    for layer in std::mem::take(&mut net.layer) {
        let is_input = layer.r#type() == "Input";
        // A second Input layer of the same phase brings the labels of the first.
        if is_input && layer.top.len() == 1 {
            let is_first = |index: &&usize| {
                let first = &layers[**index];
                first.top.len() == 1 && (&first.include, &first.exclude) == (&layer.include, &layer.exclude)
            };
            if let Some(first) = inputs.iter().find(is_first) {
                layers[*first].top.extend(layer.top);
                continue;
            }
        }
        let row_layer = RowLayerSpec::from_layer(&layer).map_err(|fact| feed_error(&layer, &fact))?;
        let Some(row_layer) = row_layer else {
            layers.push(layer);
            continue;
        };
        wanted.add(&row_layer).map_err(|fact| feed_error(&layer, fact))?;
        if is_input {
            inputs.push(layers.len());
        }
        layers.push(row_layer.layer);
    }
    net.layer = layers;
    Ok(())
}

fn feed_error(layer: &LayerParameter, fact: &str) -> Error {
    Error::Feed {
        layer: layer.name().to_owned(),
        fact: fact.to_owned(),
    }
}

impl RowsWanted {
    /// Adds what one more layer wants: rows have to suit the train net and the test net alike.
    fn add(&mut self, layer: &RowLayerSpec) -> Result<(), &'static str> {
        let is_first = self.columns.is_empty() && !self.has_plain_layers;
        if !is_first && self.columns != layer.columns {
            return Err("it is fed by other columns than the layer before it: give both the same");
        }
        self.columns.clone_from(&layer.columns);
        self.has_plain_layers |= layer.columns.is_empty();
        self.shape = self.shape.or(layer.shape);
        match (layer.transform.force_color, layer.transform.force_gray) {
            (true, _) => self.color = ColorMode::Color,
            (_, true) => self.color = ColorMode::Gray,
            _ => {}
        }
        self.crop_size = self.crop_size.max(layer.transform.crop_size);
        Ok(())
    }
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
