//! The typed parameters of the layers that read and write HDF5 files.

use sparknet_proto::caffe::LayerParameter;

use super::{
    LayerKind,
    kinds::{Parsed, required},
};

/// `HDF5Data`.
#[derive(Clone, Debug)]
pub struct Hdf5DataSpec {
    /// A text file that names the HDF5 files, one a line.
    pub source: String,
    /// Rows a batch.
    pub batch_size: usize,
    /// Whether each pass goes through the files, and through the rows of each, in an order of its own.
    pub shuffle: bool,
}

impl Hdf5DataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.hdf5_data_param.clone().unwrap_or_default();
        if layer.transform_param.is_some() {
            return Err("HDF5 arrays are fed as they are: drop transform_param".to_owned());
        }
        let source = param.source().to_owned();
        if source.is_empty() {
            return Err(
                "hdf5_data_param.source is missing: give a text file with a line for each HDF5 file".to_owned(),
            );
        }
        Ok(LayerKind::Hdf5Data(Self {
            source,
            batch_size: required(param.batch_size, "hdf5_data_param.batch_size")?,
            shuffle: param.shuffle(),
        }))
    }
}

/// `HDF5Output`.
#[derive(Clone, Debug)]
pub struct Hdf5OutputSpec {
    /// The file to write.
    pub file_name: String,
}

impl Hdf5OutputSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.hdf5_output_param.clone().unwrap_or_default();
        let file_name = param.file_name().to_owned();
        if file_name.is_empty() {
            return Err("hdf5_output_param.file_name is missing: give the file to write".to_owned());
        }
        Ok(LayerKind::Hdf5Output(Self { file_name }))
    }
}
