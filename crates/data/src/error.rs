//! What can go wrong with data, each with its place and the way out.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a source, a transform or a dataset.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        cause: io::Error,
    },
    /// A path that the user gave does not exist.
    #[error("{path} does not exist: check the path, which is taken from the folder that the command runs in", path = .0.display())]
    Missing(PathBuf),
    /// A folder of raw files was expected, but the path is a file.
    #[error("{path} is a file: give the folder that it is in", path = .0.display())]
    SourceIsFile(PathBuf),
    /// An LMDB was expected, but the path is a file.
    #[error("{path} is a file, but an LMDB is a folder with a data.mdb in it: give the folder", path = .0.display())]
    LmdbIsFile(PathBuf),
    /// An LMDB was expected, but the folder has no data.mdb.
    #[error("{path} has no data.mdb in it, so it is not an LMDB: `sparknet dataset` and `sparknet convert` make one", path = .0.display())]
    NotAnLmdb(PathBuf),
    /// A LevelDB was expected, but the path is a file.
    #[error("{path} is a file, but a LevelDB is a folder with a CURRENT in it: give the folder", path = .0.display())]
    LeveldbIsFile(PathBuf),
    /// A LevelDB was expected, but the folder has no CURRENT.
    #[error("{path} has no CURRENT in it, so it is not a LevelDB: set `backend: LMDB` if it is an LMDB", path = .0.display())]
    NotALeveldb(PathBuf),
    /// A source's file breaks the rules of its format.
    #[error("{path} is corrupt: {detail}; make it or copy it again", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which rule, with the numbers.
        detail: String,
    },
    /// A source without a record.
    #[error("{path} holds no records: make it again from a source that has some", path = .0.display())]
    Empty(PathBuf),
    /// Rows that a program handed over, none of which is good.
    #[error("{name} has no row to read ({bad_rows} bad ones were left out{first_bad}): give it rows")]
    NoRows {
        /// What the rows are called.
        name: String,
        /// How many rows there were.
        bad_rows: u64,
        /// Empty, or what was wrong with the first, after `; the first: `.
        first_bad: String,
    },
    /// An HDF5 file, or a list of some, that is damaged or lacks what it should have, or that cannot be written.
    #[error("{path}: {detail}", path = path.display())]
    Hdf5 {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the way out.
        detail: String,
    },
    /// A file of ours could not be written.
    #[error(transparent)]
    File(#[from] sparknet_proto::Error),
    /// A path from whose name and content no kind of source can be told.
    #[error("{path} is no source that can be read: LMDB and LevelDB folders, IDX images (`…-images-idx3-ubyte`) and CIFAR-10 `.bin` files can", path = .0.display())]
    UnknownSource(PathBuf),
    /// One record of a source is bad.
    #[error("{path}: record {key} {detail}", path = path.display())]
    BadRecord {
        /// The source.
        path: PathBuf,
        /// The record's key.
        key: String,
        /// What is wrong with it, and the way out.
        detail: String,
    },
    /// `transform_param` asks for something impossible.
    #[error("transform_param: {0}")]
    Transform(String),
    /// A mean file does not hold a mean image.
    #[error("mean file {path}: {detail}", path = path.display())]
    BadMean {
        /// The mean file.
        path: PathBuf,
        /// What is wrong with it, and the way out.
        detail: String,
    },
    /// A batch reader was asked for something impossible.
    #[error("data layer: {0}")]
    BadConfig(String),
    /// The prefetching thread died of a bug.
    #[error("the thread that reads {path} died ({message}): this is a bug of sparknet, please report it", path = path.display())]
    ReaderPanicked {
        /// The source that it read.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
    /// A batch was asked for after the reader had failed.
    #[error("{path} cannot be read on after the error before", path = .0.display())]
    ReaderStopped(PathBuf),
    /// An output that would overwrite something.
    #[error("{path} already exists: remove it, or choose another name", path = .0.display())]
    Exists(PathBuf),
    /// The LMDB library failed to write.
    #[error("cannot write the LMDB {path}: {cause}", path = path.display())]
    LmdbWrite {
        /// The LMDB's folder.
        path: PathBuf,
        /// What the library says.
        cause: String,
    },
    /// A line of a list file is wrong, or the image that it names.
    #[error("{list}:{line}: {detail}", list = list.display())]
    BadListLine {
        /// The list file.
        list: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and the way out.
        detail: String,
    },
    /// Options of `convert` that contradict each other.
    #[error("convert: {0}")]
    BadOptions(String),
    /// A dataset's raw file is nowhere to be found and could not be downloaded.
    #[error("{name} could not be downloaded ({cause}): fetch it from {url} and put it into {folder}, or name the folder that has it with --source{other_way}", folder = folder.display())]
    Download {
        /// The file.
        name: String,
        /// Where it can be fetched.
        url: String,
        /// Where to put it.
        folder: PathBuf,
        /// Another way to the file: empty, or a clause that begins with `, or`.
        other_way: &'static str,
        /// Why the download failed.
        cause: String,
    },
}

impl DataError {
    /// Wraps an error of the operating system; a missing file gets its own message.
    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        if action == "read" && cause.kind() == io::ErrorKind::NotFound {
            return Self::Missing(path.to_path_buf());
        }
        Self::Io {
            action,
            path: path.to_path_buf(),
            cause,
        }
    }

    pub(crate) fn corrupt(path: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            detail: detail.into(),
        }
    }

    pub(crate) fn bad_record(path: &Path, key: &[u8], detail: impl Into<String>) -> Self {
        let key = String::from_utf8_lossy(key).into_owned();
        Self::BadRecord {
            path: path.to_path_buf(),
            key,
            detail: detail.into(),
        }
    }
}
