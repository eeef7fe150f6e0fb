//! A net: layers over blobs that it owns, and one flat arena each for parameters and their gradients.

mod access;
mod debug_info;
mod shapes;

use std::{collections::HashMap, mem, ops::Range};

use rayon::prelude::*;

use crate::{
    Error, LayerError, Phase, Shape,
    error::NoGradient,
    layer::{Backward, Blobs, Context, Forward, Layer, Params, RowSink},
    layers,
    lending::Loans,
    params::ParamTable,
    plan::{LayerPlan, Plan},
    random,
    spec::{LayerKind, LayerSpec, NetSpec},
};

use self::shapes::{fed_shapes, reshape_layer};
pub use self::{
    debug_info::DebugListener,
    shapes::{InputShapes, NoData},
};
pub use crate::{params::Param, weights::ParamMap};

/// Values that a thread takes at a time where gradients are cleared or summed.
const THREAD_CHUNK: usize = 16 * 1024;

/// A net in one phase, with its parameters.
pub struct Net {
    spec: NetSpec,
    layers: Vec<NetLayer>,
    blobs: Vec<Blob>,
    by_name: HashMap<String, usize>,
    /// The blobs' values, by buffer; a layer that runs in place has one for its bottom and its top.
    pub(crate) data: Vec<Vec<f32>>,
    /// The blobs' gradients, by buffer; empty until the first backward pass.
    pub(crate) diff: Vec<Vec<f32>>,
    pub(crate) data_loans: Loans,
    pub(crate) diff_loans: Loans,
    params: Vec<Param>,
    pub(crate) param_arena: Vec<f32>,
    pub(crate) gradient_arena: Vec<f32>,
    /// Gradients that are about to be added to those of another reader.
    scratch: Vec<Vec<f32>>,
    /// Buffers lent to the layer that runs: kept so that lending allocates nothing, and that none is freed if it panics.
    lent: Vec<Vec<f32>>,
    /// The layer that has not the gradient that is needed of it, and whether it has run in the last backward pass.
    missing_gradient: Option<(usize, NoGradient)>,
    misses_gradient: bool,
    /// Whether a data layer has a shape that the others have not followed yet.
    shapes_are_stale: bool,
    seed: u64,
    pass: u64,
    debug: Option<DebugListener>,
}

struct NetLayer {
    layer: Box<dyn Layer>,
    plan: LayerPlan,
    bottom_data: Vec<usize>,
    top_data: Vec<usize>,
    top_diff: Vec<usize>,
    /// The layer's parameters, by index and where they lie in the arenas.
    params: Vec<usize>,
    param_ranges: Vec<Range<usize>>,
    param_propagate_down: Vec<bool>,
}

pub(crate) struct Blob {
    /// Its name; a later blob of the same name lies over it, in place.
    name: String,
    pub(crate) shape: Shape,
    pub(crate) data: usize,
    pub(crate) diff: usize,
    pub(crate) readers: usize,
    producer: usize,
    loss_weight: f32,
}

impl Net {
    /// Builds a net and fills its parameters from `seed`. `inputs` is asked for the shapes of layers with sources.
    ///
    /// # Errors
    /// Anything that a user may have written wrongly: unknown bottoms, shapes that do not fit, data that is not there.
    pub fn new(spec: NetSpec, inputs: &mut dyn InputShapes, seed: u64) -> Result<Self, Error> {
        let mut plan = Plan::connect(&spec.layers)?;
        let mut built: Vec<Box<dyn Layer>> = spec.layers.iter().map(|layer| layers::build(&layer.kind)).collect();
        plan.assign_buffers(&spec.layers, &built);

        let mut shapes: Vec<Shape> = vec![Shape::default(); plan.blobs.len()];
        let mut table = ParamTable::default();
        let mut params_of_layers = Vec::with_capacity(built.len());
        for (index, (layer, layer_spec)) in built.iter_mut().zip(&spec.layers).enumerate() {
            let tops = match fed_shapes(layer_spec, inputs)? {
                Some(shapes) => shapes,
                None => reshape_layer(layer.as_mut(), layer_spec, &plan.layers[index].bottoms, &shapes)?,
            };
            for (blob, shape) in plan.layers[index].tops.iter().zip(tops) {
                shapes[*blob] = shape;
            }
            params_of_layers.push(table.add_layer(&spec.layers, index, &layer.params(), seed)?);
        }

        let lr_mults: Vec<Vec<f32>> = params_of_layers
            .iter()
            .map(|ids| ids.iter().map(|id| table.params[*id].lr_mult).collect())
            .collect();
        let missing = plan.plan_backward(&spec.layers, &built, &lr_mults, spec.force_backward);
        // A test net may never run backward.
        if spec.state.phase == Phase::Train
            && let Some((_, error)) = missing
        {
            return Err(error.into());
        }

        let blobs: Vec<Blob> = plan
            .blobs
            .iter()
            .zip(shapes)
            .map(|(blob, shape)| Blob {
                name: blob.name.clone(),
                shape,
                data: blob.data,
                diff: blob.diff,
                readers: blob.readers,
                producer: blob.producer,
                loss_weight: blob.loss_weight,
            })
            .collect();
        let layers = built
            .into_iter()
            .zip(plan.layers)
            .zip(params_of_layers)
            .map(|((layer, plan), params)| NetLayer {
                layer,
                bottom_data: plan.bottoms.iter().map(|blob| blobs[*blob].data).collect(),
                top_data: plan.tops.iter().map(|blob| blobs[*blob].data).collect(),
                top_diff: plan.tops.iter().map(|blob| blobs[*blob].diff).collect(),
                param_ranges: params.iter().map(|id| table.params[*id].range.clone()).collect(),
                param_propagate_down: params
                    .iter()
                    .map(|id| spec.force_backward || table.params[*id].lr_mult != 0.0)
                    .collect(),
                params,
                plan,
            })
            .collect();
        let mut net = Self {
            layers,
            blobs,
            by_name: plan.by_name,
            data: vec![Vec::new(); plan.buffers],
            diff: vec![Vec::new(); plan.buffers],
            data_loans: Loans::default(),
            diff_loans: Loans::default(),
            gradient_arena: vec![0.0; table.arena.len()],
            param_arena: table.arena,
            params: table.params,
            scratch: Vec::new(),
            lent: Vec::new(),
            missing_gradient: missing,
            misses_gradient: false,
            shapes_are_stale: false,
            seed,
            pass: 0,
            debug: None,
            spec,
        };
        net.size_buffers();
        for index in 0..net.layers.len() {
            let blobs = mem::take(&mut net.spec.layers[index].blobs);
            if !blobs.is_empty() {
                net.copy_layer_blobs(index, &blobs)?;
            }
        }
        Ok(net)
    }

    /// Tells layer `layer`, an `HDF5Output`, where its rows go; the answer is whether it is one.
    pub fn set_row_sink(&mut self, layer: usize, sink: Box<dyn RowSink>) -> bool {
        let is_output = matches!(self.spec.layers[layer].kind, LayerKind::Hdf5Output(_));
        if is_output {
            self.layers[layer].layer.set_row_sink(sink);
        }
        is_output
    }

    /// What the next pass draws random numbers from: a stream of its own for each value of `pass`.
    pub fn set_random_pass(&mut self, seed: u64, pass: u64) {
        self.seed = seed;
        self.pass = pass;
    }

    fn context(&self, layer: usize) -> Context {
        Context {
            phase: self.spec.state.phase,
            random_key: random::key(&[self.seed, self.pass, layer as u64]),
            threads: rayon::current_num_threads(),
        }
    }

    /// Computes every blob; returns the loss: the sum of all tops times their loss weights.
    ///
    /// # Errors
    /// Data that a layer cannot take, such as a label out of range.
    pub fn forward(&mut self) -> Result<f32, Error> {
        let mut loss = 0.0;
        for index in 0..self.layers.len() {
            loss += self.forward_layer(index)?;
        }
        Ok(loss)
    }

    /// Runs one layer forward; returns what its tops add to the loss.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn forward_layer(&mut self, index: usize) -> Result<f32, Error> {
        self.settle_shapes()?;
        self.follow_data(index)?;
        let context = self.context(index);
        let layer = &mut self.layers[index];
        if has_nothing_to_read(layer, &self.data) {
            layer.top_data.iter().for_each(|buffer| self.data[*buffer].fill(0.0));
            return Ok(0.0);
        }
        let lent = &mut self.lent;
        lent.extend(layer.top_data.iter().map(|buffer| mem::take(&mut self.data[*buffer])));
        let result = layer.layer.forward(&mut Forward {
            bottom: Blobs::new(&self.data, &layer.bottom_data),
            top: lent,
            params: Params::new(&mut self.param_arena, &layer.param_ranges),
            in_place: layer.plan.in_place,
            context,
        });
        for (buffer, values) in layer.top_data.iter().zip(lent.drain(..)) {
            self.data[*buffer] = values;
        }
        result.map_err(|source| layer_error(&self.spec.layers[index], source))?;

        let mut loss = 0.0;
        for top in &layer.plan.tops {
            let blob = &self.blobs[*top];
            if blob.loss_weight != 0.0 {
                loss += blob.loss_weight * self.data[blob.data].iter().sum::<f32>();
            }
        }
        self.tell_forward(index);
        Ok(loss)
    }

    /// Computes the gradients of all blobs and adds those of the parameters to the gradient arena.
    pub fn backward(&mut self) {
        self.begin_backward();
        for index in (0..self.layers.len()).rev() {
            self.backward_layer(index);
        }
        self.tell_backward_end();
    }

    /// What comes before the first [`Net::backward_layer`]: the loss weights become gradients.
    pub fn begin_backward(&mut self) {
        self.ensure_diffs();
        for blob in self.blobs.iter().filter(|blob| blob.loss_weight != 0.0) {
            self.diff[blob.diff].fill(blob.loss_weight);
        }
    }

    /// Runs one layer backward, where it has to.
    pub fn backward_layer(&mut self, index: usize) {
        if !self.layers[index].plan.needs_backward {
            return;
        }
        self.misses_gradient |= self.missing_gradient.as_ref().is_some_and(|(layer, _)| *layer == index);
        let context = self.context(index);
        let layer = &mut self.layers[index];
        if has_nothing_to_read(layer, &self.data) {
            return;
        }
        let lent = &mut self.lent;
        let mut scratch_used = 0;
        for (i, blob) in layer.plan.bottoms.iter().enumerate() {
            if !layer.plan.propagate_down[i] {
                lent.push(Vec::new());
            } else if layer.plan.accumulate[i] {
                if self.scratch.len() == scratch_used {
                    self.scratch.push(Vec::new());
                }
                let mut values = mem::take(&mut self.scratch[scratch_used]);
                values.resize(self.blobs[*blob].shape.count(), 0.0);
                lent.push(values);
                scratch_used += 1;
            } else {
                lent.push(mem::take(&mut self.diff[self.blobs[*blob].diff]));
            }
        }
        layer.layer.backward(&mut Backward {
            bottom: Blobs::new(&self.data, &layer.bottom_data),
            top: Blobs::new(&self.data, &layer.top_data),
            top_diff: Blobs::new(&self.diff, &layer.top_diff),
            bottom_diff: lent,
            propagate_down: &layer.plan.propagate_down,
            params: Params::new(&mut self.param_arena, &layer.param_ranges),
            param_diff: Params::new(&mut self.gradient_arena, &layer.param_ranges),
            param_propagate_down: &layer.param_propagate_down,
            in_place: layer.plan.in_place,
            context,
        });
        // Gradients that were overwritten go home first: a layer may read one blob twice, and then adds to it.
        for (i, blob) in layer.plan.bottoms.iter().enumerate() {
            if layer.plan.propagate_down[i] && !layer.plan.accumulate[i] {
                self.diff[self.blobs[*blob].diff] = mem::take(&mut lent[i]);
            }
        }
        let mut scratch_used = 0;
        for (i, blob) in layer.plan.bottoms.iter().enumerate() {
            if layer.plan.propagate_down[i] && layer.plan.accumulate[i] {
                let sum = &mut self.diff[self.blobs[*blob].diff];
                let chunks = sum.par_chunks_mut(THREAD_CHUNK).zip(lent[i].par_chunks(THREAD_CHUNK));
                chunks.for_each(|(sum, values)| sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value));
                self.scratch[scratch_used] = mem::take(&mut lent[i]);
                scratch_used += 1;
            }
        }
        lent.clear();
        self.tell_backward(index);
    }

    /// What went wrong in the last backward pass: nothing, unless code from outside computes a layer, or a net of phase
    /// TEST runs backward through a layer without a gradient.
    ///
    /// # Errors
    /// What the first such layer says that ran; its gradients are then zero.
    pub fn check_backward(&mut self) -> Result<(), Error> {
        let missing = self
            .missing_gradient
            .as_ref()
            .filter(|_| mem::take(&mut self.misses_gradient));
        let mut first = missing.map_or(Ok(()), |(_, error)| Err(error.clone().into()));
        for (layer, spec) in self.layers.iter_mut().zip(&self.spec.layers).rev() {
            // All are taken, so that none comes up after another pass.
            if let Some(error) = layer.layer.take_backward_error() {
                first = first.and(Err(layer_error(spec, error)));
            }
        }
        first
    }

    /// Sets all parameter gradients to zero.
    pub fn clear_gradients(&mut self) {
        let chunks = self.gradient_arena.par_chunks_mut(THREAD_CHUNK);
        chunks.for_each(|gradients| gradients.fill(0.0));
    }

    /// The first layer, in order, one of whose tops holds a value that is not finite.
    pub fn first_non_finite_layer(&self) -> Option<&str> {
        let bad = self
            .blobs
            .iter()
            .find(|blob| self.data[blob.data].iter().any(|value| !value.is_finite()))?;
        Some(&self.spec.layers[bad.producer].name)
    }
}

/// Whether a layer has bottoms, but none of them a value, as after a Filter that lets nothing through: most layers could
/// do nothing with them, and some would divide by their number.
fn has_nothing_to_read(layer: &NetLayer, data: &[Vec<f32>]) -> bool {
    !layer.bottom_data.is_empty() && layer.bottom_data.iter().all(|buffer| data[*buffer].is_empty())
}

fn layer_error(spec: &LayerSpec, source: LayerError) -> Error {
    Error::Layer {
        layer: spec.name.clone(),
        type_name: spec.type_name,
        source: Box::new(source),
    }
}
