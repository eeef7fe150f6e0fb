//! HDF5 files, as far as Caffe and h5py's defaults make use of the format.
//!
//! Read: superblocks 0 to 3, groups as symbol tables or as links in their header, contiguous, compact and chunked arrays
//! of integers, floats and fixed text, gzip, shuffle and checksum filters. What a newer library may put into a file
//! instead (groups in fractal heaps, the chunk indices of HDF5 1.10) is an error that says so. Written: what Caffe's
//! library writes, groups as symbol tables and contiguous arrays, which every HDF5 library reads.
//!
//! A damaged file is an error: no address in it is trusted, and memory is bounded by what the file stores.
//!
//! ```
//! use sparknet_hdf5::{File, NewDataset, NewGroup, Object};
//!
//! let path = std::env::temp_dir().join(format!("sparknet-hdf5-{}.h5", std::process::id()));
//! let mut root = NewGroup::default();
//! root.insert("data/conv/0", NewDataset::f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]))?;
//! root.write(&mut std::fs::File::create(&path)?)?;
//!
//! let file = File::open(&path)?;
//! if let Some(Object::Dataset(dataset)) = file.root()?.open("data/conv/0")? {
//!     assert_eq!(dataset.dims(), [2, 2]);
//!     assert_eq!(dataset.read_f32()?, [1.0, 2.0, 3.0, 4.0]);
//! }
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The format: HDF5 File Format Specification, version 3.0 (The HDF Group).

mod bytes;
mod chunks;
mod dataset;
mod datatype;
mod file;
mod group;
mod header;
mod writer;

use std::io;

pub use dataset::Dataset;
pub use file::File;
pub use group::{Group, Object};
pub use writer::{NewDataset, NewGroup};

/// What an HDF5 file begins with.
pub const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// The most axes that an array has.
pub const MAX_AXES: usize = 32;

/// "There is no such address."
const UNDEFINED: u64 = u64::MAX;

/// Why a file cannot be read, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The file is of another kind.
    #[error("it is no HDF5 file: give one")]
    NotHdf5,
    /// The file breaks the rules of its format.
    #[error("the HDF5 file is damaged ({0}): write or copy it again")]
    Damaged(String),
    /// The file uses a part of the format that is not read here.
    #[error(
        "the HDF5 file has {0}, which is not read here: write it again without it, or with h5py's libver='earliest'"
    )]
    Unsupported(String),
    /// An array holds something else than is asked for.
    #[error("the HDF5 file has an array of {found} where it should have {wanted}: store it as such")]
    OtherType {
        /// What it holds.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// An array that is larger than the memory.
    #[error("an array of {0} bytes does not fit into memory: split it")]
    TooLarge(u64),
    /// Two things to be written have one path.
    #[error("the path /{0} would be there twice: rename one")]
    Twice(String),
}

/// What is wrong with a damaged file.
fn damaged(fact: impl Into<String>) -> Error {
    Error::Damaged(fact.into())
}
