//! A trained net on rows.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::{prelude::*, types::PyBytes};
use sparknet_proto::{binary, caffe::NetParameter, upgrade};
use sparknet_train::{
    Error,
    predict::{self, Predictor},
    run,
};

use super::{data::PyRows, to_python};

/// A trained net in phase TEST, fed by rows.
#[pyclass(name = "Predictor", module = "sparknet._native")]
pub struct PyPredictor {
    /// Python may use an object from any thread.
    predictor: Mutex<Predictor>,
    threads: usize,
}

fn net_of(bytes: &[u8], what: &str) -> Result<NetParameter, Error> {
    let net = binary::decode(bytes, what)?;
    upgrade::net(net).map_err(|error| Error::Usage(format!("{what}: {error}")))
}

#[pymethods]
impl PyPredictor {
    /// A net (`PackedJob.test_net`) with the weights of a `.caffemodel`; `rows` tell it its shapes.
    #[new]
    fn new(
        py: Python<'_>,
        net: &[u8],
        folder: PathBuf,
        weights: &[u8],
        rows: &PyRows,
        threads: usize,
    ) -> PyResult<Self> {
        let predictor = py.detach(|| {
            let (net, weights) = (net_of(net, "the net")?, net_of(weights, "the model's weights")?);
            run::on_threads(threads, || Predictor::new(&net, &folder, &weights, &rows.0))
        });
        Ok(Self {
            predictor: Mutex::new(predictor.map_err(to_python)?),
            threads,
        })
    }

    /// What each of `blobs` holds for the rows, as arrays `(rows, values a row)`.
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        rows: &PyRows,
        blobs: Vec<String>,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        let (predictor, threads) = (
            self.predictor.get_mut().unwrap_or_else(PoisonError::into_inner),
            self.threads,
        );
        let found = py
            .detach(|| run::on_threads(threads, || predictor.run(&rows.0, &blobs)))
            .map_err(to_python)?;
        found
            .into_iter()
            .map(|blob| {
                let rows = blob.values.len().checked_div(blob.values_per_row).unwrap_or(0);
                PyArray1::from_vec(py, blob.values).reshape([rows, blob.values_per_row])
            })
            .collect()
    }

    /// The blobs that can be asked for.
    fn blob_names(&self) -> Vec<String> {
        self.predictor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blob_names()
    }
}

/// Tests a net on rows: a part for `evaluation`.
#[pyfunction]
pub fn evaluate_part<'py>(
    py: Python<'py>,
    net: &[u8],
    folder: PathBuf,
    weights: &[u8],
    rows: &PyRows,
    threads: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let part = py.detach(|| {
        let (net, weights) = (net_of(net, "the net")?, net_of(weights, "the model's weights")?);
        run::on_threads(threads, || predict::evaluate_part(&net, &folder, &weights, &rows.0))
    });
    Ok(PyBytes::new(py, &part.map_err(to_python)?))
}

/// What all parts found together, as JSON: records, scores and evaluation; and its table for people.
#[pyfunction]
pub fn evaluation(parts: Vec<Vec<u8>>) -> PyResult<(String, String)> {
    let result = predict::evaluation(&parts).map_err(to_python)?;
    let table = result.evaluation.as_ref().map(ToString::to_string).unwrap_or_default();
    let json = serde_json::json!({
        "records": result.records,
        "scores": result.scores,
        "evaluation": result.evaluation,
    });
    Ok((json.to_string(), table))
}
