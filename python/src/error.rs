//! Errors of the other crates as exceptions of the package: the same sentence, in a class that says whose fault it is.

use std::{error::Error as StdError, io};

use pyo3::{prelude::*, sync::PyOnceLock, types::PyType};
use sparknet_train::Error;

use crate::layer::raised;

/// Why a call failed.
pub enum Failure {
    /// What the other crates say.
    Run(Error),
    /// What is wrong with the arguments.
    Input(String),
    /// The net or solver is in use.
    Busy(&'static str),
    /// A bug of ours.
    Internal(String),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Run(error) => match (raised(&error), io_error(&error)) {
                (Some(exception), _) => exception,
                (None, Some(cause)) => file_error(&error, cause),
                (None, None) => new("InputError", error.to_string()),
            },
            Failure::Input(fact) => new("InputError", fact),
            Failure::Busy(what) => new(
                "BusyError",
                format!("the {what} is in use by another call: wait until its forward, backward or step has returned"),
            ),
            Failure::Internal(fact) => new("InternalError", fact),
        }
    }
}

/// The system's error at the bottom of an error, if that is what it is about.
fn io_error(error: &Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

fn file_error(error: &Error, cause: &io::Error) -> PyErr {
    let class = match cause.kind() {
        io::ErrorKind::NotFound => "MissingFileError",
        _ => "FileError",
    };
    let exception = new(class, error.to_string());
    Python::attach(|py| {
        // One argument keeps the sentence as it is; two would make Python write its own.
        exception.value(py).setattr("errno", cause.raw_os_error())
    })
    .map_or_else(|failure| failure, |()| exception)
}

/// An exception of a class of `sparknet.errors`.
pub fn new(class: &'static str, sentence: String) -> PyErr {
    static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Python::attach(|py| {
        let class = || {
            let module = CLASSES.get_or_try_init(py, || py.import("sparknet.errors").map(Bound::unbind))?;
            Ok(module.bind(py).getattr(class)?.cast_into::<PyType>()?)
        };
        class().map_or_else(|failure: PyErr| failure, |class| PyErr::from_type(class, (sentence,)))
    })
}
