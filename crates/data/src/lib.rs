//! Records and batches: sources, transforms, datasets.
//!
//! A [`Source`] yields [`Record`]s as they are stored (LMDB, LevelDB, IDX, CIFAR-10 binary, HDF5); a [`BatchReader`] decodes them, applies
//! Caffe's `transform_param` and hands out [`Batch`]es that a thread of its own prepares ahead. [`build_dataset`], [`convert`]
//! and [`compute_mean`] make what Caffe's converters make.

mod batch;
mod cifar10;
mod convert;
mod datasets;
mod decode;
mod download;
mod error;
mod hdf5;
mod hdf5_rows;
mod idx;
mod image_list;
mod leveldb;
mod list;
mod lmdb;
mod lmdb_writer;
mod mean;
mod npy;
mod plan;
mod random;
mod record;
mod resize;
mod rows;
mod source;
mod transform;
mod unfinished;
mod windows;

pub use batch::{Batch, BatchConfig, BatchReader};
pub use cifar10::Cifar10Source;
pub use convert::{ConvertOptions, ConvertReport, convert};
pub use datasets::{DatasetKind, DatasetReport, Half, build_dataset, copy_to_lmdb};
pub use decode::{ColorMode, Image, decode_image};
pub use error::DataError;
pub use hdf5::Hdf5Source;
pub use hdf5_rows::Hdf5RowsWriter;
pub use idx::IdxSource;
pub use image_list::{ImageListSource, ImageListSpec};
pub use leveldb::LeveldbSource;
pub use lmdb::LmdbSource;
pub use lmdb_writer::LmdbWriter;
pub use mean::{MeanImage, MeanReport, compute_mean};
pub use plan::{End, Shard};
pub use record::{Pixels, Record};
pub use rows::{RowRules, RowValues, Rows, RowsWriter};
pub use source::{Backend, Source, open_source};
pub use transform::{TransformSpec, Transformer, Values};
pub use unfinished::remove_unfinished;
pub use windows::{WindowSource, WindowSpec};
