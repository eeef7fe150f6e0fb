//! The shapes of a net's blobs: those of data layers come from outside, the others follow.

use std::mem;

use super::{Net, layer_error};
use crate::{
    Error, LayerError, Shape,
    layer::{Blobs, Layer},
    spec::{LayerKind, LayerSpec},
};

/// Where a net asks for the shapes of data layers that only their data tell.
pub trait InputShapes {
    /// The shapes of the tops of `layer`, one with a source.
    ///
    /// # Errors
    /// Data that cannot be opened; the net adds the layer's name.
    fn top_shapes(&mut self, layer: &LayerSpec) -> Result<Vec<Shape>, Box<dyn std::error::Error + Send + Sync>>;
}

/// No data at all: nets whose inputs are `Input`, `MemoryData` or `DummyData` layers need none.
pub struct NoData;

impl InputShapes for NoData {
    fn top_shapes(&mut self, _layer: &LayerSpec) -> Result<Vec<Shape>, Box<dyn std::error::Error + Send + Sync>> {
        Err("its data are not there: replace it by an Input layer".into())
    }
}

impl Net {
    /// Gives the tops of layer `layer` (a data or Input layer) new shapes and lets all layers follow. A smaller batch
    /// after a larger one keeps the buffers.
    ///
    /// # Errors
    /// Shapes that some layer cannot take; the net is then of no use until it gets a shape that fits.
    pub fn reshape_feed(&mut self, layer: usize, shapes: &[Shape]) -> Result<(), Error> {
        self.set_feed_shapes(layer, shapes)?;
        self.reshape()
    }

    /// Gives the tops of layer `layer` (a data or Input layer) new shapes; the other layers follow in
    /// [`Net::reshape`], at the latest before the next forward pass.
    ///
    /// # Errors
    /// A shape without values, or with too many.
    pub fn set_feed_shapes(&mut self, layer: usize, shapes: &[Shape]) -> Result<(), Error> {
        check_fed_shapes(&self.spec.layers[layer], shapes)?;
        for (blob, shape) in self.layers[layer].plan.tops.iter().zip(shapes) {
            let blob = &mut self.blobs[*blob];
            self.shapes_are_stale |= blob.shape != *shape;
            blob.shape = shape.clone();
            self.data_loans
                .resize(blob.data, &mut self.data[blob.data], shape.count());
        }
        Ok(())
    }

    /// The shapes of the tops of layer `layer`.
    pub fn feed_shapes(&self, layer: usize) -> Vec<Shape> {
        self.layers[layer]
            .plan
            .tops
            .iter()
            .map(|blob| self.blobs[*blob].shape.clone())
            .collect()
    }

    /// Exchanges the values of top `top` of layer `layer` with `values`: feeding without a copy. `values` has to hold
    /// as many as the top; if not, nothing happens and the answer is false.
    pub fn swap_feed(&mut self, layer: usize, top: usize, values: &mut Vec<f32>) -> bool {
        let buffer = &mut self.data[self.layers[layer].top_data[top]];
        let fits = buffer.len() == values.len();
        if fits && self.data_loans.is_lent(self.layers[layer].top_data[top]) {
            buffer.copy_from_slice(values);
        } else if fits {
            mem::swap(buffer, values);
        }
        fits
    }

    /// Lets all layers follow the shapes of the data layers.
    ///
    /// # Errors
    /// As [`Net::reshape_feed`].
    pub fn reshape(&mut self) -> Result<(), Error> {
        let shapes = self.blobs.iter().map(|blob| blob.shape.clone()).collect();
        self.reshape_from(0, shapes)?;
        self.shapes_are_stale = false;
        Ok(())
    }

    /// Lets the layers from `first` on follow `shapes`, those of all blobs.
    fn reshape_from(&mut self, first: usize, mut shapes: Vec<Shape>) -> Result<(), Error> {
        for (layer, spec) in self.layers.iter_mut().zip(&self.spec.layers).skip(first) {
            if is_fed(spec) {
                continue;
            }
            let tops = reshape_layer(layer.layer.as_mut(), spec, &layer.plan.bottoms, &shapes)?;
            for (blob, shape) in layer.plan.tops.iter().zip(tops) {
                shapes[*blob] = shape;
            }
        }
        for (blob, shape) in self.blobs.iter_mut().zip(shapes) {
            blob.shape = shape;
        }
        self.size_buffers();
        Ok(())
    }

    /// Gives the tops of a layer the extent that only its data tell, and lets the layers after it follow.
    pub(super) fn follow_data(&mut self, index: usize) -> Result<(), Error> {
        let layer = &mut self.layers[index];
        let bottoms = Blobs::new(&self.data, &layer.bottom_data);
        let Some(extent) = layer.layer.extent_from_data(bottoms) else {
            return Ok(());
        };
        let has_extent = |blob: &usize| self.blobs[*blob].shape.dims().first() == Some(&extent);
        if layer.plan.tops.iter().all(has_extent) {
            return Ok(());
        }
        let mut shapes: Vec<Shape> = self.blobs.iter().map(|blob| blob.shape.clone()).collect();
        for blob in &layer.plan.tops {
            let rest = shapes[*blob].dims().get(1..).unwrap_or_default();
            shapes[*blob] = Shape::new([&[extent], rest].concat());
        }
        let followed = self.reshape_from(index + 1, shapes);
        self.shapes_are_stale |= followed.is_err();
        followed
    }

    /// [`Net::reshape`], if [`Net::set_feed_shapes`] has changed a shape since the last.
    ///
    /// # Errors
    /// As [`Net::reshape_feed`].
    pub fn settle_shapes(&mut self) -> Result<(), Error> {
        if self.shapes_are_stale { self.reshape() } else { Ok(()) }
    }

    pub(super) fn size_buffers(&mut self) {
        for blob in &self.blobs {
            self.data_loans
                .resize(blob.data, &mut self.data[blob.data], blob.shape.count());
        }
        if self.diff.iter().any(|diff| !diff.is_empty()) {
            self.size_diffs();
        }
    }

    pub(crate) fn ensure_diffs(&mut self) {
        if self
            .diff
            .iter()
            .zip(&self.data)
            .any(|(diff, data)| diff.len() != data.len())
        {
            self.size_diffs();
        }
    }

    fn size_diffs(&mut self) {
        for (buffer, (diff, data)) in self.diff.iter_mut().zip(&self.data).enumerate() {
            self.diff_loans.resize(buffer, diff, data.len());
        }
    }
}

pub(super) fn is_fed(spec: &LayerSpec) -> bool {
    spec.kind.is_fed()
}

/// The shapes of a layer that is fed from outside; `None` for all others.
pub(super) fn fed_shapes(spec: &LayerSpec, inputs: &mut dyn InputShapes) -> Result<Option<Vec<Shape>>, Error> {
    let shapes = match &spec.kind {
        LayerKind::Input(input) => input.shapes.clone(),
        LayerKind::MemoryData(data) => {
            let [channels, mut height, mut width] = data.record_shape;
            if data.transform.crop_size > 0 {
                (height, width) = (data.transform.crop_size, data.transform.crop_size);
            }
            vec![
                Shape::from([data.batch_size, channels, height, width]),
                Shape::from([data.batch_size]),
            ]
        }
        LayerKind::CosData(data) => data.tops.iter().map(|top| top.shape.clone()).collect(),
        kind if kind.has_source() => inputs.top_shapes(spec).map_err(|source| Error::Input {
            layer: spec.name.clone(),
            source,
        })?,
        _ => return Ok(None),
    };
    check_fed_shapes(spec, &shapes)?;
    Ok(Some(shapes))
}

/// Layers may rely on blobs that have values, but not too many.
fn check_fed_shapes(spec: &LayerSpec, shapes: &[Shape]) -> Result<(), Error> {
    for shape in shapes {
        match shape.checked_count() {
            Some(0) => return Err(layer_error(spec, LayerError::Empty { shape: shape.clone() })),
            Some(_) => {}
            None => return Err(layer_error(spec, LayerError::TooLarge { shape: shape.clone() })),
        }
    }
    Ok(())
}

pub(super) fn reshape_layer(
    layer: &mut dyn Layer,
    spec: &LayerSpec,
    bottoms: &[usize],
    shapes: &[Shape],
) -> Result<Vec<Shape>, Error> {
    let bottoms: Vec<&Shape> = bottoms.iter().map(|blob| &shapes[*blob]).collect();
    let tops = layer.reshape(&bottoms).map_err(|source| layer_error(spec, source))?;
    if let Some(shape) = tops.iter().find(|shape| shape.checked_count().is_none()) {
        return Err(layer_error(spec, LayerError::TooLarge { shape: shape.clone() }));
    }
    Ok(tops)
}
