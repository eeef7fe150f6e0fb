//! Sources: where records come from, and how one is opened.

use std::path::Path;

use sparknet_proto::caffe::data_parameter::Db;

use crate::DataError;
use crate::cifar10::Cifar10Source;
use crate::idx::IdxSource;
use crate::leveldb::LeveldbSource;
use crate::lmdb::LmdbSource;
use crate::record::Record;

/// Records in a fixed order with a cursor on the next one. A source that has just been opened stands at record 0.
pub trait Source: Send {
    /// How many records there are; at least one.
    fn len_records(&self) -> u64;

    /// Puts the cursor on record `index`, counted from 0; `len_records()` is the end. Beyond it, this or the next read is
    /// an error, except where records are drawn without end.
    fn seek(&mut self, index: u64) -> Result<(), DataError>;

    /// The number of values of each array that a record has: those are beside its pixels and its label, or all there is,
    /// and are not transformed.
    fn array_lengths(&self) -> &[usize] {
        &[]
    }

    /// Reads the record at the cursor into `record`, whose buffers are used again, and moves on. Reading at the end
    /// is an error: who wants to wrap seeks.
    fn read(&mut self, record: &mut Record) -> Result<(), DataError>;

    /// Says, before a record of another pass over the records is read, which pass it is of, counted from 0: sources that
    /// shuffle have another order in each.
    fn begin_epoch(&mut self, _epoch: u64) {}

    /// How records of `height` × `width` can be had of this source, as the end of a sentence.
    fn remedy_for_sizes(&self, height: usize, width: usize) -> String {
        format!("resize with `sparknet convert --resize-height {height} --resize-width {width}`")
    }
}

/// The kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A folder with LMDB's `data.mdb`, whose values are Caffe's `Datum`.
    Lmdb,
    /// A folder of LevelDB, whose values are Caffe's `Datum`.
    Leveldb,
    /// MNIST's format: the path is the file of images, `…images-idx3-ubyte` or the same with `.gz`; the labels lie beside it
    /// in `…labels-idx1-ubyte`.
    Idx,
    /// CIFAR-10's binary format: the path is one `.bin` file, or the folder with `data_batch_1.bin` to `data_batch_5.bin`.
    Cifar10,
}

impl From<Db> for Backend {
    fn from(db: Db) -> Self {
        match db {
            Db::Leveldb => Self::Leveldb,
            Db::Lmdb => Self::Lmdb,
        }
    }
}

impl Backend {
    /// Tells the kind of source from what lies at `path`.
    pub fn detect(path: &Path) -> Result<Self, DataError> {
        std::fs::metadata(path).map_err(|cause| DataError::io("read", path, cause))?;
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.is_dir() {
            if path.join("data.mdb").exists() {
                return Ok(Self::Lmdb);
            }
            if path.join("CURRENT").exists() {
                return Ok(Self::Leveldb);
            }
            if path.join("data_batch_1.bin").exists() {
                return Ok(Self::Cifar10);
            }
        } else if name.contains("idx3-ubyte") {
            return Ok(Self::Idx);
        } else if name.ends_with(".bin") {
            return Ok(Self::Cifar10);
        }
        Err(DataError::UnknownSource(path.to_path_buf()))
    }
}

/// Opens the source at `path`.
///
/// # Errors
/// A path that does not exist or is of another kind, a corrupt or truncated file, a source without records.
pub fn open_source(path: &Path, backend: Backend) -> Result<Box<dyn Source>, DataError> {
    let source: Box<dyn Source> = match backend {
        Backend::Lmdb => Box::new(LmdbSource::open(path)?),
        Backend::Leveldb => Box::new(LeveldbSource::open(path)?),
        Backend::Idx => Box::new(IdxSource::open(path)?),
        Backend::Cifar10 => Box::new(Cifar10Source::open(path)?),
    };
    if source.len_records() == 0 {
        return Err(DataError::Empty(path.to_path_buf()));
    }
    Ok(source)
}
