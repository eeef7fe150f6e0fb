//! Caffe's messages: the schema, its text form (`.prototxt`), its binary form (`.caffemodel`, `Datum`), its HDF5 form
//! (`.caffemodel.h5`) and the upgrades of legacy files.
//!
//! A file becomes a current message in one call:
//!
//! ```no_run
//! # fn main() -> Result<(), sparknet_proto::Error> {
//! let solver = sparknet_proto::read_solver("models/lenet/solver.prototxt".as_ref())?;
//! let net = sparknet_proto::read_net("models/lenet/net.prototxt".as_ref())?;
//! let weights = sparknet_proto::read_weights("lenet_iter_500.caffemodel".as_ref())?;
//! # Ok(()) }
//! ```

use std::{io, path::Path, path::PathBuf};

pub mod binary;
pub mod hdf5;
mod lexer;
mod parser;
mod printer;
pub mod reflect;
mod schema;
pub mod text;
pub mod upgrade;
mod v0;

use caffe::{NetParameter, SolverParameter, SolverState};

/// The structs that `proto/caffe.proto` stands for, one a message, with Caffe's field names and defaults.
#[allow(missing_docs, clippy::all)]
pub mod caffe {
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}

/// Why a file of Caffe's messages could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written; what stood there before is untouched.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More bytes than a protobuf message may have.
    #[error("{what} has {size_bytes} bytes or more, but a protobuf message ends at {limit_bytes}: split it")]
    TooLarge {
        /// The file.
        what: String,
        /// How much there is at least.
        size_bytes: u64,
        /// [`binary::LIMIT_BYTES`].
        limit_bytes: u64,
    },
    /// A text file with bytes that are no text.
    #[error("{}:{line}: not UTF-8 text: save the file as UTF-8, or name a text file if this is a binary one", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first line with such bytes, from 1.
        line: usize,
    },
    /// A mistake in a text file.
    #[error(transparent)]
    Text(#[from] text::TextError),
    /// Bytes that are not a whole message.
    #[error("{what} is not a whole {message}: {reason}")]
    Binary {
        /// The file, or what else the bytes are.
        what: String,
        /// The message's name in `caffe.proto`.
        message: String,
        /// What is wrong, and the way out.
        reason: String,
    },
    /// An HDF5 file that is damaged or holds something else, or that cannot hold what it should.
    #[error("{}: {fact}", path.display())]
    Hdf5 {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the way out.
        fact: String,
    },
    /// A legacy file that has no current form.
    #[error("{}: {source}", path.display())]
    Upgrade {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: upgrade::UpgradeError,
    },
}

/// Reads a net's `.prototxt` and upgrades it to the current form.
///
/// # Errors
/// The file cannot be read, has a mistake, or has no current form.
pub fn read_net(path: &Path) -> Result<NetParameter, Error> {
    let net = text::read_file(path)?;
    upgrade::net(net).map_err(|source| upgrade_error(path, source))
}

/// Reads a solver's `.prototxt` and upgrades it, and the nets written inside it, to the current form.
///
/// # Errors
/// As [`read_net`].
pub fn read_solver(path: &Path) -> Result<SolverParameter, Error> {
    let solver = text::read_file(path)?;
    upgrade::solver(solver).map_err(|source| upgrade_error(path, source))
}

/// Reads a `.caffemodel` and upgrades it to the current form, or a `.caffemodel.h5`, which has the layers' names and
/// blobs alone ([`hdf5`]); the blobs stay with their layers. What the file is counts, not its name.
///
/// # Errors
/// The file cannot be read, is not a whole `NetParameter`, or has no current form.
pub fn read_weights(path: &Path) -> Result<NetParameter, Error> {
    if hdf5::is_hdf5(path) {
        return hdf5::read_weights(path);
    }
    let net = binary::read_file(path)?;
    upgrade::net(net).map_err(|source| upgrade_error(path, source))
}

/// Reads a `.solverstate` or a `.solverstate.h5`. What the file is counts, not its name.
///
/// # Errors
/// The file cannot be read, or is not a whole `SolverState`.
pub fn read_state(path: &Path) -> Result<SolverState, Error> {
    if hdf5::is_hdf5(path) {
        return hdf5::read_state(path);
    }
    binary::read_file(path)
}

fn upgrade_error(path: &Path, source: upgrade::UpgradeError) -> Error {
    Error::Upgrade {
        path: path.to_owned(),
        source,
    }
}
