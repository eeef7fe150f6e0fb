//! A net: layers over blobs that it owns, and one flat arena each for parameters and their gradients.

mod debug_info;

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

pub use self::debug_info::DebugListener;
pub use crate::{params::Param, weights::ParamMap};

/// Values that a thread takes at a time where gradients are cleared or summed.
const THREAD_CHUNK: usize = 16 * 1024;

/// Where a net asks for the shapes of data layers that only their data tell.
pub trait InputShapes {
    /// The shapes of the tops of `layer`, one with a source.
    ///
    /// # Errors
    /// Data that cannot be opened; the net adds the layer's name.
    fn top_shapes(&mut self, layer: &LayerSpec) -> Result<Vec<Shape>, Box<dyn std::error::Error + Send + Sync>>;
}

/// No data at all: nets whose inputs are `Input`, `MemoryData` or `DummyData` layers need none.
pub struct NoData;

impl InputShapes for NoData {
    fn top_shapes(&mut self, _layer: &LayerSpec) -> Result<Vec<Shape>, Box<dyn std::error::Error + Send + Sync>> {
        Err("its data are not there: replace it by an Input layer".into())
    }
}

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
        Ok(net)
    }

    /// The net's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The description that the net was built from.
    pub fn spec(&self) -> &NetSpec {
        &self.spec
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.spec.state.phase
    }

    /// The names of the blobs, in the order of their last writers.
    pub fn blob_names(&self) -> Vec<String> {
        let mut named: Vec<(&usize, &String)> = self.by_name.iter().map(|(name, blob)| (blob, name)).collect();
        named.sort();
        named.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// The names of the blobs that no layer reads, sorted, as Caffe lists a net's outputs.
    pub fn output_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .by_name
            .iter()
            .filter(|(_, blob)| self.blobs[**blob].readers == 0)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn blob(&self, name: &str) -> Result<&Blob, Error> {
        match self.by_name.get(name) {
            Some(blob) => Ok(&self.blobs[*blob]),
            None => Err(Error::NoSuchBlob {
                blob: name.to_owned(),
                names: self.blob_names(),
            }),
        }
    }

    /// The oldest blob of a name: what later layers of the same top's name work on in place.
    pub(crate) fn first_blob(&self, name: &str) -> Result<&Blob, Error> {
        match self.blobs.iter().find(|blob| blob.name == name) {
            Some(blob) => Ok(blob),
            None => self.blob(name),
        }
    }

    /// A blob's shape.
    ///
    /// # Errors
    /// A name that no blob has; so for the next four.
    pub fn blob_shape(&self, name: &str) -> Result<&Shape, Error> {
        Ok(&self.blob(name)?.shape)
    }

    /// A blob's values; where a layer works in place, those of the last writer.
    pub fn blob_data(&self, name: &str) -> Result<&[f32], Error> {
        Ok(&self.data[self.blob(name)?.data])
    }

    /// A blob's values, to fill it; for a data layer's blob those that the layer gives, whoever works on it in place.
    pub fn blob_data_mut(&mut self, name: &str) -> Result<&mut [f32], Error> {
        let buffer = self.writable_blob(name)?.data;
        Ok(&mut self.data[buffer])
    }

    pub(crate) fn writable_blob(&self, name: &str) -> Result<&Blob, Error> {
        let first = self.first_blob(name)?;
        if is_fed(&self.spec.layers[first.producer]) {
            Ok(first)
        } else {
            self.blob(name)
        }
    }

    /// A blob's gradient after [`Net::backward`]; where layers work in place, that of the first writer's values, as in
    /// Caffe.
    pub fn blob_diff(&self, name: &str) -> Result<&[f32], Error> {
        Ok(&self.diff[self.first_blob(name)?.diff])
    }

    /// A blob's gradient, to set that of an output before [`Net::backward`]; where layers work in place, that of the
    /// last writer's values.
    pub fn blob_diff_mut(&mut self, name: &str) -> Result<&mut [f32], Error> {
        let buffer = self.blob(name)?.diff;
        self.ensure_diffs();
        Ok(&mut self.diff[buffer])
    }

    /// The learnable parameters, in Caffe's order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The parameters of layer `layer` (an index into the spec's layers), as indices into [`Net::params`].
    pub fn layer_params(&self, layer: usize) -> &[usize] {
        &self.layers[layer].params
    }

    /// All parameters, one after the other.
    pub fn param_arena(&self) -> &[f32] {
        &self.param_arena
    }

    /// All parameters, to change them.
    pub fn param_arena_mut(&mut self) -> &mut [f32] {
        &mut self.param_arena
    }

    /// All gradients, laid out as the parameters.
    pub fn gradient_arena(&self) -> &[f32] {
        &self.gradient_arena
    }

    /// Parameters to change and gradients, both at once.
    pub fn arenas_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.param_arena, &mut self.gradient_arena)
    }

    /// The learnable parameters, their values and their gradients, for the solver.
    pub(crate) fn update_parts_mut(&mut self) -> (&[Param], &mut [f32], &[f32]) {
        (&self.params, &mut self.param_arena, &self.gradient_arena)
    }

    /// The shapes of a layer's parameter blobs.
    pub(crate) fn layer_param_shapes(&self, layer: usize) -> impl Iterator<Item = (&Shape, Range<usize>)> {
        self.layers[layer]
            .params
            .iter()
            .map(|id| (&self.params[*id].shape, self.params[*id].range.clone()))
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

    /// Gives the tops of layer `layer` (a data or Input layer) new shapes and lets all layers follow. A smaller batch
    /// after a larger one keeps the buffers.
    ///
    /// # Errors
    /// Shapes that some layer cannot take; the net is then of no use until it gets a shape that fits.
    pub fn reshape_feed(&mut self, layer: usize, shapes: &[Shape]) -> Result<(), Error> {
        self.set_feed_shapes(layer, shapes)?;
        self.reshape()
    }

    /// Gives the tops of layer `layer` (a data or Input layer) new shapes; the other layers follow in
    /// [`Net::reshape`], at the latest before the next forward pass.
    ///
    /// # Errors
    /// A shape without values, or with too many.
    pub fn set_feed_shapes(&mut self, layer: usize, shapes: &[Shape]) -> Result<(), Error> {
        check_fed_shapes(&self.spec.layers[layer], shapes)?;
        for (blob, shape) in self.layers[layer].plan.tops.iter().zip(shapes) {
            let blob = &mut self.blobs[*blob];
            self.shapes_are_stale |= blob.shape != *shape;
            blob.shape = shape.clone();
            self.data_loans
                .resize(blob.data, &mut self.data[blob.data], shape.count());
        }
        Ok(())
    }

    /// The shapes of the tops of layer `layer`.
    pub fn feed_shapes(&self, layer: usize) -> Vec<Shape> {
        self.layers[layer]
            .plan
            .tops
            .iter()
            .map(|blob| self.blobs[*blob].shape.clone())
            .collect()
    }

    /// Exchanges the values of top `top` of layer `layer` with `values`: feeding without a copy. `values` has to hold
    /// as many as the top; if not, nothing happens and the answer is false.
    pub fn swap_feed(&mut self, layer: usize, top: usize, values: &mut Vec<f32>) -> bool {
        let buffer = &mut self.data[self.layers[layer].top_data[top]];
        let fits = buffer.len() == values.len();
        if fits && self.data_loans.is_lent(self.layers[layer].top_data[top]) {
            buffer.copy_from_slice(values);
        } else if fits {
            mem::swap(buffer, values);
        }
        fits
    }

    /// Lets all layers follow the shapes of the data layers.
    ///
    /// # Errors
    /// As [`Net::reshape_feed`].
    pub fn reshape(&mut self) -> Result<(), Error> {
        let shapes = self.blobs.iter().map(|blob| blob.shape.clone()).collect();
        self.reshape_from(0, shapes)?;
        self.shapes_are_stale = false;
        Ok(())
    }

    /// Lets the layers from `first` on follow `shapes`, those of all blobs.
    fn reshape_from(&mut self, first: usize, mut shapes: Vec<Shape>) -> Result<(), Error> {
        for (layer, spec) in self.layers.iter_mut().zip(&self.spec.layers).skip(first) {
            if is_fed(spec) {
                continue;
            }
            let tops = reshape_layer(layer.layer.as_mut(), spec, &layer.plan.bottoms, &shapes)?;
            for (blob, shape) in layer.plan.tops.iter().zip(tops) {
                shapes[*blob] = shape;
            }
        }
        for (blob, shape) in self.blobs.iter_mut().zip(shapes) {
            blob.shape = shape;
        }
        self.size_buffers();
        Ok(())
    }

    /// Gives the tops of a layer the extent that only its data tell, and lets the layers after it follow.
    fn follow_data(&mut self, index: usize) -> Result<(), Error> {
        let layer = &mut self.layers[index];
        let bottoms = Blobs::new(&self.data, &layer.bottom_data);
        let Some(extent) = layer.layer.extent_from_data(bottoms) else {
            return Ok(());
        };
        let has_extent = |blob: &usize| self.blobs[*blob].shape.dims().first() == Some(&extent);
        if layer.plan.tops.iter().all(has_extent) {
            return Ok(());
        }
        let mut shapes: Vec<Shape> = self.blobs.iter().map(|blob| blob.shape.clone()).collect();
        for blob in &layer.plan.tops {
            let rest = shapes[*blob].dims().get(1..).unwrap_or_default();
            shapes[*blob] = Shape::new([&[extent], rest].concat());
        }
        let followed = self.reshape_from(index + 1, shapes);
        self.shapes_are_stale |= followed.is_err();
        followed
    }

    /// [`Net::reshape`], if [`Net::set_feed_shapes`] has changed a shape since the last.
    ///
    /// # Errors
    /// As [`Net::reshape_feed`].
    pub fn settle_shapes(&mut self) -> Result<(), Error> {
        if self.shapes_are_stale { self.reshape() } else { Ok(()) }
    }

    fn size_buffers(&mut self) {
        for blob in &self.blobs {
            self.data_loans
                .resize(blob.data, &mut self.data[blob.data], blob.shape.count());
        }
        if self.diff.iter().any(|diff| !diff.is_empty()) {
            self.size_diffs();
        }
    }

    pub(crate) fn ensure_diffs(&mut self) {
        if self
            .diff
            .iter()
            .zip(&self.data)
            .any(|(diff, data)| diff.len() != data.len())
        {
            self.size_diffs();
        }
    }

    fn size_diffs(&mut self) {
        for (buffer, (diff, data)) in self.diff.iter_mut().zip(&self.data).enumerate() {
            self.diff_loans.resize(buffer, diff, data.len());
        }
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

fn is_fed(spec: &LayerSpec) -> bool {
    spec.kind.is_fed()
}

/// The shapes of a layer that is fed from outside; `None` for all others.
fn fed_shapes(spec: &LayerSpec, inputs: &mut dyn InputShapes) -> Result<Option<Vec<Shape>>, Error> {
    let shapes = match &spec.kind {
        LayerKind::Input(input) => input.shapes.clone(),
        LayerKind::MemoryData(data) => {
            let [channels, mut height, mut width] = data.record_shape;
            if data.transform.crop_size > 0 {
                (height, width) = (data.transform.crop_size, data.transform.crop_size);
            }
            vec![
                Shape::from([data.batch_size, channels, height, width]),
                Shape::from([data.batch_size]),
            ]
        }
        LayerKind::CosData(data) => data.tops.iter().map(|top| top.shape.clone()).collect(),
        kind if kind.has_source() => inputs.top_shapes(spec).map_err(|source| Error::Input {
            layer: spec.name.clone(),
            source,
        })?,
        _ => return Ok(None),
    };
    check_fed_shapes(spec, &shapes)?;
    Ok(Some(shapes))
}

/// Layers may rely on blobs that have values, but not too many.
fn check_fed_shapes(spec: &LayerSpec, shapes: &[Shape]) -> Result<(), Error> {
    for shape in shapes {
        match shape.checked_count() {
            Some(0) => return Err(layer_error(spec, LayerError::Empty { shape: shape.clone() })),
            Some(_) => {}
            None => return Err(layer_error(spec, LayerError::TooLarge { shape: shape.clone() })),
        }
    }
    Ok(())
}

fn reshape_layer(
    layer: &mut dyn Layer,
    spec: &LayerSpec,
    bottoms: &[usize],
    shapes: &[Shape],
) -> Result<Vec<Shape>, Error> {
    let bottoms: Vec<&Shape> = bottoms.iter().map(|blob| &shapes[*blob]).collect();
    let tops = layer.reshape(&bottoms).map_err(|source| layer_error(spec, source))?;
    if let Some(shape) = tops.iter().find(|shape| shape.checked_count().is_none()) {
        return Err(layer_error(spec, LayerError::TooLarge { shape: shape.clone() }));
    }
    Ok(tops)
}

fn layer_error(spec: &LayerSpec, source: LayerError) -> Error {
    Error::Layer {
        layer: spec.name.clone(),
        type_name: spec.type_name,
        source: Box::new(source),
    }
}
