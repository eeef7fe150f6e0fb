//! `sparknet._native.Net`: a net of its own, or one of a solver's.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use pyo3::prelude::*;
use sparknet_engine::{
    Net, NetSpec, NetState, Phase,
    spec::{LayerKind, SnapshotFormat},
};
use sparknet_proto::binary;
use sparknet_train::{
    checkpoint,
    job::{NetSource, Stages},
    run::seed_from_clock,
};

use crate::{
    blob::{Blob, Which},
    error::Failure,
    handle::{Handle, contained, guarded, own_net},
    message::Message,
    threads,
};

/// The seed that set_random_seed gave; u64::MAX for one from the clock.
static SEED: AtomicU64 = AtomicU64::new(u64::MAX);

/// Fixes all randomness of nets and solvers that are built later, unless their solver has a random_seed.
#[pyfunction]
pub fn set_random_seed(seed: u32) {
    SEED.store(u64::from(seed), Ordering::Relaxed);
}

/// The seed that set_random_seed gave.
pub fn given_seed() -> Option<u64> {
    Some(SEED.load(Ordering::Relaxed)).filter(|seed| *seed != u64::MAX)
}

/// What of a net never changes.
struct Facts {
    name: String,
    phase: Phase,
    layers: Vec<LayerFacts>,
    blobs: Vec<String>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

struct LayerFacts {
    name: String,
    type_name: &'static str,
    bottoms: Vec<String>,
    tops: Vec<String>,
    params: Vec<usize>,
    loss_weights: Vec<f32>,
}

/// A layer's name, type, bottoms, tops, blobs of parameters and loss weights.
type LayerRow = (String, &'static str, Vec<String>, Vec<String>, Vec<Blob>, Vec<f32>);

/// What sparknet.Net and a solver's nets are made of.
#[pyclass(frozen, name = "Net", module = "sparknet._native")]
pub struct PyNet {
    handle: Handle,
    facts: Facts,
}

impl PyNet {
    /// The net behind `handle`.
    pub fn of(handle: Handle) -> Result<Self, Failure> {
        let facts = handle.with(|net| Ok(Facts::of(net)))?;
        Ok(Self { handle, facts })
    }

    fn layer_range(&self, start: Option<usize>, end: Option<usize>) -> std::ops::Range<usize> {
        let count = self.facts.layers.len();
        start.unwrap_or(0).min(count)..end.map_or(count, |end| (end + 1).min(count))
    }
}

impl Facts {
    fn of(net: &Net) -> Self {
        let layers: Vec<LayerFacts> = net
            .spec()
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| LayerFacts {
                name: layer.name.clone(),
                type_name: layer.type_name,
                bottoms: layer.bottoms.clone(),
                tops: layer.tops.clone(),
                params: net.layer_params(index).to_vec(),
                loss_weights: layer.loss_weights.clone(),
            })
            .collect();
        let mut blobs: Vec<String> = Vec::new();
        for top in layers.iter().flat_map(|layer| &layer.tops) {
            if !blobs.contains(top) {
                blobs.push(top.clone());
            }
        }
        let input_layers = net.spec().layers.iter();
        let input_layers = input_layers.filter(|layer| matches!(layer.kind, LayerKind::Input(_)));
        Self {
            name: net.name().to_owned(),
            phase: net.phase(),
            blobs,
            inputs: input_layers.flat_map(|layer| layer.tops.clone()).collect(),
            outputs: net.output_names(),
            layers,
        }
    }
}

#[pymethods]
impl PyNet {
    /// A net from a file, or from a NetParameter message.
    #[new]
    #[pyo3(signature = (model, weights, phase, level, stages))]
    fn new(
        py: Python<'_>,
        model: &Bound<'_, PyAny>,
        weights: Option<PathBuf>,
        phase: i64,
        level: i32,
        stages: Vec<String>,
    ) -> PyResult<Self> {
        let phase = match phase {
            0 => Phase::Train,
            1 => Phase::Test,
            _ => {
                return Err(
                    Failure::Input(format!("{phase} is no phase: give sparknet.TRAIN or sparknet.TEST")).into(),
                );
            }
        };
        let stages = Stages { level, stages };
        let source: Box<dyn FnOnce() -> Result<NetSource, Failure> + Send> =
            if let Ok(message) = model.cast::<Message>() {
                let net = message.get().to_net()?;
                Box::new(move || {
                    let state = NetState {
                        phase,
                        level: stages.level,
                        stages: stages.stages,
                    }
                    .merge(net.state.as_ref());
                    Ok(NetSource {
                        spec: NetSpec::from_proto(&net, state).map_err(sparknet_train::Error::from)?,
                        folder: PathBuf::new(),
                    })
                })
            } else {
                let path: PathBuf = model.extract()?;
                Box::new(move || Ok(NetSource::read(&path, phase, &stages)?))
            };
        let seed = given_seed().unwrap_or_else(seed_from_clock);
        let pool = threads::pool()?;
        let own = py.detach(|| {
            let build = || {
                let source = source()?;
                let mut own = own_net(source.spec, source.folder, seed)?;
                if let Some(weights) = weights {
                    checkpoint::copy_weights(&mut own.net, &weights)?;
                }
                Ok(own)
            };
            contained("net", || pool.install(build))
        })?;
        Ok(Self::of(Handle::Own(Arc::new(Mutex::new(own))))?)
    }

    #[getter]
    fn name(&self) -> &str {
        &self.facts.name
    }

    #[getter]
    fn phase(&self) -> u8 {
        u8::from(self.facts.phase == Phase::Test)
    }

    #[getter]
    fn blob_names(&self) -> Vec<String> {
        self.facts.blobs.clone()
    }

    #[getter]
    fn inputs(&self) -> Vec<String> {
        self.facts.inputs.clone()
    }

    #[getter]
    fn outputs(&self) -> Vec<String> {
        self.facts.outputs.clone()
    }

    /// The layers, in the order of the file.
    #[getter]
    fn layers(&self) -> Vec<LayerRow> {
        let layers = self.facts.layers.iter();
        layers
            .map(|layer| {
                let blobs = layer
                    .params
                    .iter()
                    .map(|id| Blob::new(self.handle.clone(), Which::Param(*id)));
                (
                    layer.name.clone(),
                    layer.type_name,
                    layer.bottoms.clone(),
                    layer.tops.clone(),
                    blobs.collect(),
                    layer.loss_weights.clone(),
                )
            })
            .collect()
    }

    /// A blob by name.
    fn blob(&self, name: String) -> Blob {
        Blob::new(self.handle.clone(), Which::Named(name))
    }

    /// Runs layers start to end, both included, forward; from the first layer, data layers get their next batches.
    #[pyo3(signature = (start, end))]
    fn forward(&self, py: Python<'_>, start: Option<usize>, end: Option<usize>) -> PyResult<f32> {
        let layers = self.layer_range(start, end);
        self.handle.compute(py, layers.start == 0, |net| {
            let mut loss = 0.0;
            for layer in layers {
                loss += net.forward_layer(layer)?;
            }
            Ok(loss)
        })
    }

    /// Runs layers start to end, both included, backward.
    #[pyo3(signature = (start, end))]
    fn backward(&self, py: Python<'_>, start: Option<usize>, end: Option<usize>) -> PyResult<()> {
        // Backward, the first to run is the last in the file.
        let layers = self.layer_range(end, start);
        self.handle.compute(py, false, |net| {
            net.settle_shapes()?;
            net.begin_backward();
            layers.rev().for_each(|layer| net.backward_layer(layer));
            Ok(net.check_backward()?)
        })
    }

    fn reshape(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.compute(py, false, |net| Ok(net.reshape()?))
    }

    fn clear_param_diffs(&self) -> PyResult<()> {
        Ok(self.handle.with(|net| {
            net.clear_gradients();
            Ok(())
        })?)
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.handle.compute(py, false, |net| {
            Ok(binary::write_file(&path, &net.to_proto(net.param_arena(), None))?)
        })
    }

    fn save_hdf5(&self, py: Python<'_>, path: PathBuf, write_diff: bool) -> PyResult<()> {
        self.handle.compute(py, false, |net| {
            let gradients = write_diff.then(|| net.gradient_arena());
            Ok(checkpoint::write_weights(
                net,
                &path,
                SnapshotFormat::Hdf5,
                net.param_arena(),
                gradients,
            )?)
        })
    }

    fn copy_from(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.handle
            .compute(py, false, |net| Ok(checkpoint::copy_weights(net, &path)?))
    }

    fn share_with(&self, other: &Self) -> PyResult<()> {
        let Handle::Own(own) = &self.handle else {
            return Err(Failure::Input(
                "a solver's net trains parameters of its own and cannot share another's: call share_with on the other"
                    .to_owned(),
            )
            .into());
        };
        if self.handle.is(&other.handle) {
            return Ok(());
        }
        Ok(guarded(own, "net", |own| {
            let map = other.handle.with(|other| Ok(own.net.param_map_from(other)?))?;
            own.shares_with = Some((other.handle.clone(), map));
            Ok(())
        })?)
    }
}
