//! An LMDB of Caffe's for tasks that read a range of its records each.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use numpy::PyArray1;
use pyo3::{prelude::*, types::PyBytes};
use sparknet_data::{Backend, Pixels, Record, Source, open_source};
use sparknet_train::Error;

use super::to_python;

/// An LMDB whose values are Caffe's `Datum`; every task opens it for itself.
#[pyclass(name = "Lmdb", module = "sparknet._native")]
pub struct PyLmdb {
    /// Python may use an object from any thread.
    source: Mutex<Box<dyn Source>>,
    records: u64,
    path: PathBuf,
    /// What every record has to be: as the first one.
    form: Form,
}

/// What a record's values are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Encoded,
    /// One byte a value, of this shape `(c, h, w)`.
    Bytes([usize; 3]),
    /// One float a value, of this shape `(c, h, w)`.
    Floats([usize; 3]),
}

impl Form {
    fn of(record: &Record) -> Self {
        let shape = [record.channels, record.height, record.width];
        match record.pixels {
            Pixels::Encoded(_) => Self::Encoded,
            Pixels::Bytes(_) => Self::Bytes(shape),
            Pixels::Floats(_) => Self::Floats(shape),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Encoded => "an encoded image".to_owned(),
            Self::Bytes([c, h, w]) => format!("{c}x{h}x{w} bytes"),
            Self::Floats([c, h, w]) => format!("{c}x{h}x{w} floats"),
        }
    }
}

/// A record's key as text: Caffe's are numbers and names.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn first_form(path: &Path) -> Result<(Box<dyn Source>, Form), Error> {
    let mut source = open_source(path, Backend::Lmdb)?;
    let mut record = Record::default();
    source.read(&mut record)?;
    Ok((source, Form::of(&record)))
}

#[pymethods]
impl PyLmdb {
    /// Opens the LMDB in the folder `path`, which has a record at least.
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        let (source, form) = first_form(&path).map_err(to_python)?;
        Ok(Self {
            records: source.len_records(),
            source: Mutex::new(source),
            path,
            form,
        })
    }

    fn __len__(&self) -> usize {
        self.records as usize
    }

    /// The shape `(c, h, w)` of the records; None where they are encoded images.
    #[getter]
    fn shape(&self) -> Option<[usize; 3]> {
        match self.form {
            Form::Encoded => None,
            Form::Bytes(shape) | Form::Floats(shape) => Some(shape),
        }
    }

    /// Whether a value is a float rather than a byte.
    #[getter]
    fn has_floats(&self) -> bool {
        matches!(self.form, Form::Floats(_))
    }

    /// Records from `start` on, in the order of their keys: at most `max_records` of them, and no more once they have
    /// `max_bytes`. Returns their keys, their labels, their values one after the other (floats as they lie in memory),
    /// and the bytes at which each record's begin and the last one's end.
    #[allow(clippy::type_complexity)]
    fn read<'py>(
        &mut self,
        py: Python<'py>,
        start: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> PyResult<(
        Vec<String>,
        Bound<'py, PyArray1<f32>>,
        Bound<'py, PyBytes>,
        Bound<'py, PyArray1<i32>>,
    )> {
        let (mut keys, mut labels, mut values, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), vec![0]);
        let mut record = Record::default();
        let source = self.source.get_mut().unwrap_or_else(PoisonError::into_inner);
        source.seek(start).map_err(to_python)?;
        while keys.len() < max_records && values.len() < max_bytes {
            source.read(&mut record).map_err(to_python)?;
            let form = Form::of(&record);
            let mixed = Form::Encoded != self.form && form != self.form
                || Form::Encoded == self.form && matches!(form, Form::Floats(_));
            if mixed {
                return Err(to_python(Error::Path {
                    path: self.path.clone(),
                    fact: format!(
                        "record {} is {} where the first is {}: make all records alike",
                        text(&record.key),
                        form.describe(),
                        self.form.describe()
                    ),
                }));
            }
            match &record.pixels {
                Pixels::Bytes(bytes) | Pixels::Encoded(bytes) => values.extend_from_slice(bytes),
                Pixels::Floats(floats) => values.extend(floats.iter().flat_map(|value| value.to_ne_bytes())),
            }
            keys.push(text(&record.key));
            labels.push(record.label as f32);
            let Ok(end) = i32::try_from(values.len()) else {
                return Err(to_python(Error::Path {
                    path: self.path.clone(),
                    fact: format!("record {} has more than 2 GB: leave it out", text(&record.key)),
                }));
            };
            offsets.push(end);
        }
        Ok((
            keys,
            PyArray1::from_vec(py, labels),
            PyBytes::new(py, &values),
            PyArray1::from_vec(py, offsets),
        ))
    }
}
