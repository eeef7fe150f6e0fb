//! Layers that classes in Python compute: `type: "Python"`.
//!
//! The class is run by `sparknet.layer._Runner` on arrays of its own, which values are copied into before a call and out of
//! after it: whatever the class keeps, no array of it ever looks at the net's memory. The engine runs with the GIL
//! released; each call takes it, which cannot wait for ever because nobody waits for the engine while holding it.

use std::fmt;

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::{prelude::*, types::PyList};
use sparknet_engine::{
    Error, ForeignError, LayerError, Phase, Shape,
    filler::Filler,
    layer::{Backward, Blobs, Forward, Layer, ParamBlob, Params},
    spec::PythonSpec,
};

/// An exception on its way through the engine.
#[derive(Debug)]
struct Raised(PyErr);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Raised {}

/// The exception that a layer in Python raised, if that is what `error` is.
pub fn raised(error: &sparknet_train::Error) -> Option<PyErr> {
    let sparknet_train::Error::Engine(Error::Layer { source, .. }) = error else {
        return None;
    };
    let LayerError::Foreign(ForeignError(cause)) = &**source else {
        return None;
    };
    let raised: &Raised = cause.downcast_ref()?;
    Some(Python::attach(|py| raised.0.clone_ref(py)))
}

fn foreign(error: PyErr) -> LayerError {
    LayerError::Foreign(ForeignError(std::sync::Arc::new(Raised(error))))
}

/// The layer of a class; it is imported and made in the first `reshape`.
pub fn build(spec: &PythonSpec) -> Box<dyn Layer> {
    Box::new(PythonLayer {
        spec: spec.clone(),
        runner: None,
        params: Vec::new(),
        backward_error: None,
    })
}

struct PythonLayer {
    spec: PythonSpec,
    runner: Option<Py<PyAny>>,
    params: Vec<ParamBlob>,
    backward_error: Option<LayerError>,
}

impl PythonLayer {
    fn runner<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(runner) = &self.runner {
            return Ok(runner.bind(py).clone());
        }
        let spec = &self.spec;
        let phase = u8::from(spec.phase == Phase::Test);
        let arguments = (
            &spec.module,
            &spec.layer,
            &spec.param_str,
            phase,
            spec.num_bottoms,
            spec.num_tops,
        );
        let runner = py.import("sparknet.layer")?.getattr("_Runner")?.call1(arguments)?;
        self.runner = Some(runner.clone().unbind());
        Ok(runner)
    }

    fn reshape_tops(&mut self, bottom: &[&Shape]) -> PyResult<Vec<Shape>> {
        Python::attach(|py| {
            let is_new = self.runner.is_none();
            let runner = self.runner(py)?;
            let bottoms: Vec<Vec<usize>> = bottom.iter().map(|shape| shape.dims().to_vec()).collect();
            let tops: Vec<Vec<usize>> = runner.call_method1("reshape", (bottoms,))?.extract()?;
            if is_new {
                let params: Vec<(Vec<usize>, PyReadonlyArray1<'_, f32>)> = runner.call_method0("params")?.extract()?;
                for (dims, values) in params {
                    self.params.push(ParamBlob {
                        shape: Shape::new(dims),
                        filler: Filler::Values(values.as_slice()?.to_vec()),
                    });
                }
            }
            Ok(tops.into_iter().map(Shape::new).collect())
        })
    }

    fn run_forward(&mut self, io: &mut Forward<'_>) -> PyResult<()> {
        Python::attach(|py| {
            let arguments = (blobs(py, &io.bottom)?, params(py, &io.params)?);
            let tops: Vec<PyReadonlyArray1<'_, f32>> =
                self.runner(py)?.call_method1("forward", arguments)?.extract()?;
            for (top, values) in io.top.iter_mut().zip(&tops) {
                copy(values.as_slice()?, top)?;
            }
            Ok(())
        })
    }

    fn run_backward(&mut self, io: &mut Backward<'_>) -> PyResult<()> {
        Python::attach(|py| {
            let arguments = (
                blobs(py, &io.bottom)?,
                blobs(py, &io.top_diff)?,
                io.propagate_down.to_vec(),
                params(py, &io.params)?,
            );
            let (bottoms, param_diffs): (Vec<PyReadonlyArray1<'_, f32>>, Vec<PyReadonlyArray1<'_, f32>>) =
                self.runner(py)?.call_method1("backward", arguments)?.extract()?;
            for (i, values) in bottoms.iter().enumerate().filter(|(i, _)| io.propagate_down[*i]) {
                copy(values.as_slice()?, &mut io.bottom_diff[i])?;
            }
            for (i, values) in param_diffs.iter().enumerate() {
                if io.param_propagate_down[i] {
                    let diff = io.param_diff.get_mut(i);
                    let values = same_length(values.as_slice()?, diff.len())?;
                    diff.iter_mut().zip(values).for_each(|(diff, value)| *diff += value);
                }
            }
            Ok(())
        })
    }
}

impl Layer for PythonLayer {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        self.reshape_tops(bottom).map_err(foreign)
    }

    fn params(&self) -> Vec<ParamBlob> {
        self.params.clone()
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.run_forward(io).map_err(foreign)
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if let Err(error) = self.run_backward(io) {
            for (diff, wanted) in io.bottom_diff.iter_mut().zip(io.propagate_down) {
                if *wanted {
                    diff.fill(0.0);
                }
            }
            self.backward_error = Some(foreign(error));
        }
    }

    fn take_backward_error(&mut self) -> Option<LayerError> {
        self.backward_error.take()
    }

    fn reads_top_in_backward(&self) -> bool {
        true
    }
}

/// Copies, flat.
fn blobs<'py>(py: Python<'py>, blobs: &Blobs<'_>) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, (0..blobs.len()).map(|i| PyArray1::from_slice(py, &blobs[i])))
}

/// Copies, flat.
fn params<'py>(py: Python<'py>, params: &Params<'_>) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, (0..params.len()).map(|i| PyArray1::from_slice(py, &params[i])))
}

fn copy(values: &[f32], target: &mut [f32]) -> PyResult<()> {
    target.copy_from_slice(same_length(values, target.len())?);
    Ok(())
}

/// The runner checks shapes; here nothing may depend on that.
fn same_length(values: &[f32], wanted: usize) -> PyResult<&[f32]> {
    if values.len() == wanted {
        return Ok(values);
    }
    let found = values.len();
    Err(crate::error::new(
        "InternalError",
        format!("a layer in Python gave {found} values for {wanted}"),
    ))
}
