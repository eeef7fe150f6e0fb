//! CoSData, Data, HDF5Data, ImageData, Input, MemoryData and WindowData: blobs that are filled from outside the net.
//!
//! ```prototxt
//! layer {
//!   name: "rows" type: "CoSData" top: "data" top: "label"
//!   cos_data_param {
//!     batch_size: 64
//!     top { name: "data" type: ENCODED_IMAGE channels: 3 height: 32 width: 32 }
//!     top { name: "label" type: INT sample_num_axes: 0 }
//!   }
//! }
//! layer {
//!   name: "records" type: "Data" top: "data" top: "label" transform_param { scale: 0.00390625 mirror: true }
//!   data_param { source: "mnist_train_lmdb" batch_size: 64 backend: LMDB }
//! }
//! layer { name: "arrays" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "files.txt" batch_size: 64 } }
//! layer {
//!   name: "images" type: "ImageData" top: "data" top: "label" transform_param { crop_size: 227 }
//!   image_data_param { source: "list.txt" root_folder: "images/" batch_size: 32 new_height: 256 new_width: 256 }
//! }
//! layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 227 dim: 227 } } }
//! layer {
//!   name: "memory" type: "MemoryData" top: "data" top: "label"
//!   memory_data_param { batch_size: 64 channels: 1 height: 28 width: 28 }
//! }
//! layer {
//!   name: "windows" type: "WindowData" top: "data" top: "label" transform_param { crop_size: 227 }
//!   window_data_param { source: "windows.txt" batch_size: 128 context_pad: 16 fg_fraction: 0.25 }
//! }
//! ```

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::{CosDataSpec, DataSpec, Hdf5DataSpec, ImageDataSpec, InputSpec, MemoryDataSpec, WindowDataSpec},
};

/// The registry's entry of CoSData, CaffeOnSpark's.
pub(super) const COS_DATA: LayerDef = LayerDef {
    type_name: "CoSData",
    summary: "columns of rows, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::AtLeast(1),
    parse: CosDataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// The registry's entry of Data.
pub(super) const DATA: LayerDef = LayerDef {
    type_name: "Data",
    summary: "records of a database, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::Between(1, 2),
    parse: DataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// The registry's entry of ImageData.
pub(super) const IMAGE_DATA: LayerDef = LayerDef {
    type_name: "ImageData",
    summary: "images that a list names, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::Between(1, 2),
    parse: ImageDataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// The registry's entry of HDF5Data.
pub(super) const HDF5_DATA: LayerDef = LayerDef {
    type_name: "HDF5Data",
    summary: "rows of arrays in HDF5 files, one array a top, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::AtLeast(1),
    parse: Hdf5DataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// The registry's entry of Input.
pub(super) const INPUT: LayerDef = LayerDef {
    type_name: "Input",
    summary: "blobs of given shapes, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::AtLeast(1),
    parse: InputSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// The registry's entry of MemoryData.
pub(super) const MEMORY_DATA: LayerDef = LayerDef {
    type_name: "MemoryData",
    summary: "records and labels, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::Exactly(2),
    parse: MemoryDataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// The registry's entry of WindowData.
pub(super) const WINDOW_DATA: LayerDef = LayerDef {
    type_name: "WindowData",
    summary: "windows cut from images, fed from outside the net",
    bottoms: Arity::Exactly(0),
    tops: Arity::Between(1, 2),
    parse: WindowDataSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it has no bottom"),
};

/// A layer whose tops the net's owner fills; their shapes are the net's business.
pub struct Feed;

impl Feed {
    /// A layer that leaves its tops alone.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for Feed {
    fn reshape(&mut self, _bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        // The net keeps the shapes of what it is fed with (net.rs).
        Ok(Vec::new())
    }

    fn forward(&mut self, _io: &mut Forward<'_>) -> Result<(), LayerError> {
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}
}
