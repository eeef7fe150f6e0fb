//! Rows of Arrow batches, on their way into Rust.

use std::{path::PathBuf, sync::Arc};

use numpy::PyReadonlyArray1;
use pyo3::{exceptions::PyValueError, prelude::*};
use sparknet_data::{ColorMode, RowRules, RowValues, Rows, RowsWriter};

use super::to_python;

/// Takes rows in: those of one worker, in their order.
#[pyclass(name = "RowsWriter", module = "sparknet._native")]
pub struct PyRowsWriter(Option<RowsWriter>);

/// Rows that have been taken in.
#[pyclass(name = "Rows", module = "sparknet._native", frozen)]
pub struct PyRows(pub Arc<Rows>);

fn finished() -> PyErr {
    PyValueError::new_err("these rows are finished: make a new RowsWriter")
}

/// `values[offsets[row]..offsets[row + 1]]`, checked.
fn slice<'a, T>(values: &'a [T], offsets: &[i64], row: usize) -> PyResult<&'a [T]> {
    let range = |row: usize| usize::try_from(offsets[row]).unwrap_or(usize::MAX);
    let (start, end) = (range(row), range(row + 1));
    if start <= end && end <= values.len() {
        Ok(&values[start..end])
    } else {
        Err(PyValueError::new_err(format!(
            "row {row} lies at {start} to {end} of {} values: the Arrow batch is damaged",
            values.len()
        )))
    }
}

fn check_lengths(offsets: &[i64], labels: &[f32], is_valid: &[u8], numbers: &[f32], per_row: usize) -> PyResult<()> {
    if offsets.len() == labels.len() + 1 && labels.len() == is_valid.len() && numbers.len() == labels.len() * per_row {
        return Ok(());
    }
    Err(PyValueError::new_err(
        "a batch needs an offset more than labels, and a validity and all numbers each",
    ))
}

fn all<'a>(numbers: &'a Option<PyReadonlyArray1<'_, f32>>) -> PyResult<&'a [f32]> {
    Ok(numbers
        .as_ref()
        .map(|numbers| numbers.as_slice())
        .transpose()?
        .unwrap_or_default())
}

#[pymethods]
impl PyRowsWriter {
    #[new]
    #[pyo3(signature = (name, shape, color, crop_size, skip_bad, memory_limit_bytes, spill_folder, numbers=0))]
    #[allow(clippy::too_many_arguments)] // Python calls it with names.
    fn new(
        name: String,
        shape: Option<[usize; 3]>,
        color: &str,
        crop_size: usize,
        skip_bad: bool,
        memory_limit_bytes: usize,
        spill_folder: PathBuf,
        numbers: usize,
    ) -> PyResult<Self> {
        let color = match color {
            "native" => ColorMode::Native,
            "color" => ColorMode::Color,
            "gray" => ColorMode::Gray,
            _ => return Err(PyValueError::new_err("color is native, color or gray")),
        };
        Ok(Self(Some(RowsWriter::new(RowRules {
            name,
            shape,
            color,
            crop_size,
            numbers,
            skip_bad,
            memory_limit_bytes,
            spill_folder,
        }))))
    }

    /// How many numbers each row has beside its values and its label.
    #[getter]
    fn numbers_per_row(&self) -> PyResult<usize> {
        Ok(self.0.as_ref().ok_or_else(finished)?.numbers_per_row())
    }

    /// Rows of floats: row k is `values[offsets[k]:offsets[k + 1]]`. `numbers` are those beside the values, one row after
    /// the other. Returns which rows are bad and left out.
    #[pyo3(signature = (values, offsets, labels, is_valid, numbers=None))]
    fn push_floats(
        &mut self,
        py: Python<'_>,
        values: PyReadonlyArray1<'_, f32>,
        offsets: PyReadonlyArray1<'_, i64>,
        labels: PyReadonlyArray1<'_, f32>,
        is_valid: PyReadonlyArray1<'_, u8>,
        numbers: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<Vec<usize>> {
        let writer = self.0.as_mut().ok_or_else(finished)?;
        let (values, offsets) = (values.as_slice()?, offsets.as_slice()?);
        let (labels, is_valid) = (labels.as_slice()?, is_valid.as_slice()?);
        let (numbers, per_row) = (all(&numbers)?, writer.numbers_per_row());
        check_lengths(offsets, labels, is_valid, numbers, per_row)?;
        py.detach(|| {
            let mut bad = Vec::new();
            for (row, label) in labels.iter().enumerate() {
                let values = match is_valid[row] {
                    0 => RowValues::Null,
                    _ => RowValues::Floats(slice(values, offsets, row)?),
                };
                let numbers = &numbers[row * per_row..(row + 1) * per_row];
                if !writer.push_with(values, *label, numbers).map_err(to_python)? {
                    bad.push(row);
                }
            }
            Ok(bad)
        })
    }

    /// Rows of bytes: image files, or raw values; with `shapes`, `(c, h, w)` a row, interleaved pixels. Returns as
    /// `push_floats`.
    #[pyo3(signature = (bytes, offsets, labels, is_valid, shapes=None, numbers=None))]
    #[allow(clippy::too_many_arguments)] // Python leaves the last ones out.
    fn push_bytes(
        &mut self,
        py: Python<'_>,
        bytes: PyReadonlyArray1<'_, u8>,
        offsets: PyReadonlyArray1<'_, i64>,
        labels: PyReadonlyArray1<'_, f32>,
        is_valid: PyReadonlyArray1<'_, u8>,
        shapes: Option<PyReadonlyArray1<'_, i64>>,
        numbers: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<Vec<usize>> {
        let writer = self.0.as_mut().ok_or_else(finished)?;
        let (bytes, offsets) = (bytes.as_slice()?, offsets.as_slice()?);
        let (labels, is_valid) = (labels.as_slice()?, is_valid.as_slice()?);
        let (numbers, per_row) = (all(&numbers)?, writer.numbers_per_row());
        check_lengths(offsets, labels, is_valid, numbers, per_row)?;
        let shapes = shapes.as_ref().map(|shapes| shapes.as_slice()).transpose()?;
        if shapes.is_some_and(|shapes| shapes.len() != 3 * labels.len()) {
            return Err(PyValueError::new_err("shapes has to be three numbers a row"));
        }
        py.detach(|| {
            let mut bad = Vec::new();
            for (row, label) in labels.iter().enumerate() {
                let values = match (is_valid[row], shapes) {
                    (0, _) => RowValues::Null,
                    (_, None) => RowValues::Bytes(slice(bytes, offsets, row)?),
                    (_, Some(shapes)) => {
                        let shape = [0, 1, 2].map(|axis| usize::try_from(shapes[3 * row + axis]).unwrap_or(0));
                        RowValues::Interleaved(slice(bytes, offsets, row)?, shape)
                    }
                };
                let numbers = &numbers[row * per_row..(row + 1) * per_row];
                if !writer.push_with(values, *label, numbers).map_err(to_python)? {
                    bad.push(row);
                }
            }
            Ok(bad)
        })
    }

    /// The rows; there has to be one.
    fn finish(&mut self) -> PyResult<PyRows> {
        let writer = self.0.take().ok_or_else(finished)?;
        Ok(PyRows(writer.finish().map_err(to_python)?))
    }

    /// How many good rows and bad rows there are so far.
    fn counts(&self) -> PyResult<(u64, u64)> {
        Ok(self.0.as_ref().ok_or_else(finished)?.counts())
    }
}

#[pymethods]
impl PyRows {
    fn __len__(&self) -> usize {
        self.0.len_rows() as usize
    }

    /// `(c, h, w)` of the first row, decoded.
    #[getter]
    fn shape(&self) -> [usize; 3] {
        self.0.shape()
    }

    /// How many rows held the same values as the row before them.
    #[getter]
    fn repeats(&self) -> u64 {
        self.0.repeats()
    }

    /// How many rows were left out because they were bad.
    #[getter]
    fn bad_rows(&self) -> u64 {
        self.0.bad_rows().0
    }

    /// What was wrong with the first of them.
    #[getter]
    fn first_bad(&self) -> Option<String> {
        self.0.bad_rows().1.map(str::to_owned)
    }

    /// Whether the rows lie in a file.
    #[getter]
    fn is_spilled(&self) -> bool {
        self.0.is_spilled()
    }
}
