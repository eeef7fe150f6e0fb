//! Jobs that need no files of the driver's.

use std::path::PathBuf;

use prost::Message;
use pyo3::{prelude::*, types::PyBytes};
use sparknet_data::ColorMode;
use sparknet_proto::caffe::{LayerParameter, NetParameter};
use sparknet_train::{
    packed::{PackedJob, Text},
    rows::without_labels,
};

use super::to_python;

/// A solver with its nets, to be sent to workers.
#[pyclass(name = "PackedJob", module = "sparknet._native", frozen)]
pub struct PyPackedJob(PackedJob);

fn text((text, name, folder): (String, String, PathBuf)) -> Text {
    Text { text, name, folder }
}

#[pymethods]
impl PyPackedJob {
    /// Packs a solver; it and the net are `(text, name, folder)`.
    #[new]
    #[pyo3(signature = (solver, net, overrides, has_test_rows))]
    fn new(
        solver: (String, String, PathBuf),
        net: Option<(String, String, PathBuf)>,
        overrides: &str,
        has_test_rows: bool,
    ) -> PyResult<Self> {
        let net = net.map(text);
        let packed = PackedJob::pack(&text(solver), net.as_ref(), overrides, has_test_rows).map_err(to_python)?;
        Ok(Self(packed))
    }

    /// The solver with its nets, for `train_worker`.
    fn solver<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.solver.encode_to_vec())
    }

    /// The mean files: their names on the workers, and where they lie here.
    #[getter]
    fn files(&self) -> Vec<(String, PathBuf)> {
        self.0.files.clone()
    }

    /// The files that the solver takes weights from before training.
    #[getter]
    fn weights(&self) -> Vec<PathBuf> {
        self.0.weights.clone()
    }

    /// The weights of several files as one .caffemodel; where two have a layer, the later one's count.
    fn united_weights<'py>(&self, py: Python<'py>, paths: Vec<PathBuf>) -> PyResult<Bound<'py, PyBytes>> {
        let united = py.detach(|| self.0.united_weights(&paths)).map_err(to_python)?;
        Ok(PyBytes::new(py, &united.encode_to_vec()))
    }

    /// The shape `(c, h, w)` of rows, where the nets say it.
    #[getter]
    fn shape(&self) -> Option<[usize; 3]> {
        self.0.wanted.shape
    }

    /// What images are decoded to: native, color or gray.
    #[getter]
    fn color(&self) -> &'static str {
        match self.0.wanted.color {
            ColorMode::Native => "native",
            ColorMode::Color => "color",
            ColorMode::Gray => "gray",
        }
    }

    /// The edge that records are cropped to; 0 for none.
    #[getter]
    fn crop_size(&self) -> usize {
        self.0.wanted.crop_size
    }

    /// The columns that feed a CoSData layer and their numbers, first the one that is transformed; empty for features
    /// and a label.
    #[getter]
    fn columns(&self) -> Vec<(String, usize)> {
        self.0.wanted.columns.clone()
    }

    /// Where training ends.
    #[getter]
    fn max_iter(&self) -> i32 {
        self.0.solver.max_iter()
    }

    /// The solver's random_seed, if it has one.
    #[getter]
    fn seed(&self) -> Option<i64> {
        self.0.solver.random_seed.filter(|seed| *seed >= 0)
    }

    /// Records that a worker needs for a batch.
    #[getter]
    fn batch_size(&self) -> PyResult<usize> {
        let job = self.0.job(&PathBuf::new()).map_err(to_python)?;
        let sizes = job.train.spec.layers.iter().filter_map(|layer| layer.kind.batch_size());
        Ok(sizes.max().unwrap_or(0))
    }

    /// The net's name.
    #[getter]
    fn net_name(&self) -> PyResult<String> {
        Ok(self.0.job(&PathBuf::new()).map_err(to_python)?.train.spec.name)
    }

    /// The net in phase TEST, fed by rows, with labels or without.
    #[pyo3(signature = (with_labels))]
    fn test_net<'py>(&self, py: Python<'py>, with_labels: bool) -> PyResult<Bound<'py, PyBytes>> {
        let mut net = self.0.test_net().map_err(to_python)?;
        if !with_labels {
            without_labels(&mut net);
        }
        Ok(PyBytes::new(py, &net.encode_to_vec()))
    }

    /// Whether the net that is tested reads labels.
    #[getter]
    fn has_labels(&self) -> PyResult<bool> {
        let net = self.0.test_net().map_err(to_python)?;
        let is_fed = |layer: &&LayerParameter| matches!(layer.r#type(), "Data" | "CoSData");
        Ok(net.layer.iter().filter(is_fed).any(|layer| layer.top.len() > 1))
    }

    /// The blobs that the net has where there are no labels.
    #[getter]
    fn blobs(&self) -> PyResult<Vec<String>> {
        let mut net = self.0.test_net().map_err(to_python)?;
        without_labels(&mut net);
        let mut found: Vec<String> = Vec::new();
        for top in net.layer.into_iter().flat_map(|layer| layer.top) {
            if !found.contains(&top) {
                found.push(top);
            }
        }
        Ok(found)
    }

    /// The blob that transform looks at, whether a softmax makes it probabilities, whether it has scores of classes at
    /// all, and whether these can be probabilities.
    fn scores(&self) -> PyResult<(String, bool, bool, bool)> {
        Ok(scores(&self.0.test_net().map_err(to_python)?, &self.blobs()?))
    }
}

/// Of layers that read predictions: whether a softmax makes these probabilities, whether they are scores of classes, and
/// whether they can be probabilities. What comes first counts more.
const READERS: [(&str, (bool, bool, bool)); 7] = [
    ("SoftmaxWithLoss", (true, true, true)),
    ("InfogainLoss", (true, true, true)),
    ("MultinomialLogisticLoss", (false, true, true)),
    ("HingeLoss", (false, true, false)),
    ("Accuracy", (true, true, true)),
    ("EuclideanLoss", (false, false, false)),
    ("SigmoidCrossEntropyLoss", (false, false, false)),
];

/// Where a net's predictions are found among `blobs`, those that it has without labels: what its Softmax layer makes, or
/// else what its loss or Accuracy layer reads, or else the last one.
fn scores(net: &NetParameter, blobs: &[String]) -> (String, bool, bool, bool) {
    let by_type = |name: &str| net.layer.iter().rev().find(|layer| layer.r#type() == name);
    if let Some(top) = by_type("Softmax").and_then(|layer| layer.top.first())
        && blobs.contains(top)
    {
        return (top.clone(), false, true, true);
    }
    for (name, (needs_softmax, is_classifier, has_probabilities)) in READERS {
        if let Some(bottom) = by_type(name).and_then(|layer| layer.bottom.first())
            && blobs.contains(bottom)
        {
            return (bottom.clone(), needs_softmax, is_classifier, has_probabilities);
        }
    }
    (blobs.last().cloned().unwrap_or_default(), false, false, false)
}
