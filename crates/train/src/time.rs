//! How long a net's layers take: forward, backward and update, on random data of the right shapes.

mod inputs;

use std::{collections::HashSet, time::Instant};

use inputs::random_inputs;
use serde::Serialize;
use sparknet_engine::{
    InputShapes, Net, NetSpec, Phase, Shape, Solver, SolverSpec,
    net::NoData,
    spec::{Hdf5DataSpec, LayerKind, LayerSpec, TransformSpec},
};
use sparknet_proto::caffe::SolverParameter;

use crate::{
    Error,
    feeds::{FeedOpener, FeedSettings},
    job::{NetSource, resolve},
    run::{on_threads, threads_per_worker},
};

/// Steps before the first that counts: they allocate, and wake the threads up.
const WARM_UP_STEPS: u64 = 2;
const SEED: u64 = 1;

/// What is timed, and how.
#[derive(Clone, Debug)]
pub struct TimeSettings {
    /// The net. In phase TRAIN whole steps are timed, in phase TEST the forward pass alone.
    pub net: NetSource,
    /// Threads; `None` for one a core.
    pub threads: Option<usize>,
    /// Steps that count.
    pub iterations: u64,
    /// Records a batch, where not as the file says.
    pub batch: Option<usize>,
    /// The shape (c, h, w) of the records of data layers, where not as the data say.
    pub input_shape: Option<[usize; 3]>,
}

/// How long a net takes. All times are medians over the iterations, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The net's name.
    pub net: String,
    /// Records a batch.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Iterations that counted.
    pub iterations: u64,
    /// The whole net's.
    #[serde(flatten)]
    pub costs: Costs,
    /// The layers, in the net's order.
    pub layers: Vec<LayerTiming>,
}

/// How long a layer takes. The medians of the layers need not add up to those of the net.
#[derive(Clone, Debug, Serialize)]
pub struct LayerTiming {
    /// The layer's name.
    pub name: String,
    /// The layer's type.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// The shapes of its tops.
    pub top_shapes: Vec<Vec<usize>>,
    /// The layer's. Its share of the update is that of its parameters, since the update is one pass over all of them,
    /// whatever their layer. Parameters that several layers share count for the first of them.
    #[serde(flatten)]
    pub costs: Costs,
}

/// What a step of a net or of one layer costs.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// A whole step: forward, backward and update.
    pub step_ms: f64,
    /// The forward pass.
    pub forward_ms: f64,
    /// The backward pass; the net's with the clearing of the gradients.
    pub backward_ms: f64,
    /// SGD with momentum and weight decay.
    pub update_ms: f64,
    /// Records a second.
    pub images_per_s: f64,
    /// The arithmetic of a step in units of 10⁹: two for each multiply-add of Convolution and InnerProduct layers,
    /// forward and, where it runs, backward.
    pub gflop: f64,
    /// `gflop` a second.
    pub gflops: f64,
    /// Values of all parameters.
    pub parameters: usize,
}

/// Times a net.
///
/// # Errors
/// A net that cannot be built, or records whose shape nobody knows.
pub fn time(settings: &TimeSettings) -> Result<Timing, Error> {
    let threads = threads_per_worker(settings.threads, 1);
    let spec = with_input_layers(&settings.net, settings.batch, settings.input_shape)?;
    on_threads(threads, || time_net(spec, settings.iterations, threads))
}

fn time_net(spec: NetSpec, iterations: u64, threads: usize) -> Result<Timing, Error> {
    let net = Net::new(spec, &mut NoData, SEED)?;
    let inputs = random_inputs(&net)?;
    let batch = batch_size(&net);
    let work = Work::of(&net)?;
    let trains = net.phase() == Phase::Train;
    let mut solver = Solver::new(solver_spec()?, net, SEED);

    let num_layers = solver.net().spec().layers.len();
    let mut forward_ms = vec![Vec::new(); num_layers];
    let mut backward_ms = vec![Vec::new(); num_layers];
    let (mut sum_forward_ms, mut sum_backward_ms, mut update_ms, mut step_ms) = (vec![], vec![], vec![], vec![]);
    for iteration in 0..WARM_UP_STEPS + iterations {
        let net = solver.net_mut();
        for (blob, values) in &inputs {
            // Again each time, because a layer may work in place on its input.
            net.blob_data_mut(blob)?.copy_from_slice(values);
        }
        net.set_random_pass(SEED, iteration);
        let counts = iteration >= WARM_UP_STEPS;
        let keep = |samples: &mut Vec<f64>, ms: f64| {
            if counts {
                samples.push(ms);
            }
        };

        let start = Instant::now();
        for (index, samples) in forward_ms.iter_mut().enumerate() {
            let layer_start = Instant::now();
            net.forward_layer(index)?;
            keep(samples, ms_since(layer_start));
        }
        let forward = ms_since(start);
        keep(&mut sum_forward_ms, forward);
        if trains {
            let backward_start = Instant::now();
            net.clear_gradients();
            net.begin_backward();
            for (index, samples) in backward_ms.iter_mut().enumerate().rev() {
                let layer_start = Instant::now();
                net.backward_layer(index);
                keep(samples, ms_since(layer_start));
            }
            keep(&mut sum_backward_ms, ms_since(backward_start));
            let update_start = Instant::now();
            solver.apply_update();
            keep(&mut update_ms, ms_since(update_start));
        }
        keep(&mut step_ms, ms_since(start));
    }

    let update_ms = median(&mut update_ms);
    let net = solver.net();
    let parameters = layer_parameters(net);
    let sum_parameters: usize = parameters.iter().sum();
    let mut layers = Vec::with_capacity(num_layers);
    for (index, layer) in net.spec().layers.iter().enumerate() {
        let (forward_ms, backward_ms) = (median(&mut forward_ms[index]), median(&mut backward_ms[index]));
        let update_ms = update_ms * parameters[index] as f64 / sum_parameters.max(1) as f64;
        let step_ms = forward_ms + backward_ms + update_ms;
        let gflop = work.gflop(index, trains);
        let mut top_shapes = Vec::with_capacity(layer.tops.len());
        for top in &layer.tops {
            top_shapes.push(net.blob_shape(top)?.dims().to_vec());
        }
        layers.push(LayerTiming {
            name: layer.name.clone(),
            type_name: layer.type_name,
            top_shapes,
            costs: Costs {
                step_ms,
                forward_ms,
                backward_ms,
                update_ms,
                images_per_s: a_second(batch as f64, step_ms),
                gflop,
                gflops: a_second(gflop, step_ms),
                parameters: parameters[index],
            },
        });
    }
    let step_ms = median(&mut step_ms);
    let gflop = layers.iter().map(|layer: &LayerTiming| layer.costs.gflop).sum();
    Ok(Timing {
        net: net.spec().name.clone(),
        batch,
        threads,
        iterations,
        costs: Costs {
            step_ms,
            forward_ms: median(&mut sum_forward_ms),
            backward_ms: median(&mut sum_backward_ms),
            update_ms,
            images_per_s: a_second(batch as f64, step_ms),
            gflop,
            gflops: a_second(gflop, step_ms),
            parameters: sum_parameters,
        },
        layers,
    })
}

/// How many values of the parameter arena each layer brings.
fn layer_parameters(net: &Net) -> Vec<usize> {
    let mut counts = vec![0; net.spec().layers.len()];
    for param in net.params() {
        counts[param.layer] += param.range.len();
    }
    counts
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// `amount` a second where it takes `ms`; 0 where it takes no time.
fn a_second(amount: f64, ms: f64) -> f64 {
    if ms > 0.0 { amount * 1000.0 / ms } else { 0.0 }
}

/// The middle of the samples, or the mean of the two in the middle; 0 without any.
fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    match samples.len() {
        0 => 0.0,
        n if n % 2 == 1 => samples[n / 2],
        n => (samples[n / 2 - 1] + samples[n / 2]) / 2.0,
    }
}

/// Plain SGD; the rate is small, so that random data drive no weight out of range.
fn solver_spec() -> Result<SolverSpec, Error> {
    Ok(SolverSpec::from_proto(&SolverParameter {
        base_lr: Some(1e-6),
        lr_policy: Some("fixed".to_owned()),
        momentum: Some(0.9),
        weight_decay: Some(0.0005),
        ..Default::default()
    })?)
}

/// The net with Input layers where it has layers that are fed with records, so that it can be built without its data.
/// `batch` overrides the first extent of every input, `input_shape` (c, h, w) the shape of the data layers' records.
///
/// # Errors
/// Data that are there but cannot be read, or records whose shape nobody knows.
pub fn with_input_layers(
    net: &NetSource,
    batch: Option<usize>,
    input_shape: Option<[usize; 3]>,
) -> Result<NetSpec, Error> {
    let mut spec = net.spec.clone();
    for layer in &mut spec.layers {
        let batch_size = match &layer.kind {
            LayerKind::Input(input) => {
                let mut shapes = input.shapes.clone();
                shapes
                    .iter_mut()
                    .try_for_each(|shape| set_batch(shape, batch, &layer.name))?;
                *layer = layer.as_input(shapes);
                continue;
            }
            LayerKind::DummyData(data) => {
                let mut data = data.clone();
                data.tops
                    .iter_mut()
                    .try_for_each(|(shape, _)| set_batch(shape, batch, &layer.name))?;
                layer.kind = LayerKind::DummyData(data);
                continue;
            }
            LayerKind::Hdf5Data(data) => {
                let mut shapes = array_shapes(net, layer, data, input_shape)?;
                shapes
                    .iter_mut()
                    .try_for_each(|shape| set_batch(shape, batch, &layer.name))?;
                *layer = layer.as_input(shapes);
                continue;
            }
            LayerKind::CosData(data) => {
                let mut shapes: Vec<Shape> = data.tops.iter().map(|top| top.shape.clone()).collect();
                let whole = data.tops.iter().zip(&mut shapes).filter(|(top, _)| !top.transpose);
                for (_, shape) in whole {
                    set_batch(shape, batch, &layer.name)?;
                }
                *layer = layer.as_input(shapes);
                continue;
            }
            kind => match kind.batch_size() {
                Some(batch_size) => batch_size,
                None => continue,
            },
        };
        let [channels, height, width] = match input_shape {
            Some(shape) => shape,
            None => record_shape(net, layer)?,
        };
        let mut shapes = vec![
            Shape::from([batch_size, channels, height, width]),
            Shape::from([batch_size]),
        ];
        shapes.truncate(layer.tops.len());
        shapes
            .iter_mut()
            .try_for_each(|shape| set_batch(shape, batch, &layer.name))?;
        *layer = layer.as_input(shapes);
    }
    Ok(spec)
}

/// Sets a shape's first extent where a batch is given and there is one.
fn set_batch(shape: &mut Shape, batch: Option<usize>, layer: &str) -> Result<(), Error> {
    if let (Some(batch), [_, record @ ..]) = (batch, shape.dims()) {
        *shape = Shape::new([&[batch], record].concat());
    }
    if shape.checked_count().is_none() {
        return Err(Error::Feed {
            layer: layer.to_owned(),
            fact: format!("a batch of shape {shape} has more than 2147483647 values: give a smaller --batch"),
        });
    }
    Ok(())
}

/// The shape (c, h, w) of a data layer's records, after its transform: from its data if they are there.
fn record_shape(net: &NetSource, layer: &LayerSpec) -> Result<[usize; 3], Error> {
    match &layer.kind {
        LayerKind::MemoryData(data) => {
            let [channels, height, width] = data.record_shape;
            Ok(match data.transform.crop_size {
                0 => [channels, height, width],
                crop => [channels, crop, crop],
            })
        }
        kind => {
            let Some((source, transform)) = kind.source() else {
                return Err(unknown_shape(layer, "its source"));
            };
            if !resolve(source, &net.folder).exists() {
                let new_size = match kind {
                    LayerKind::ImageData(data) => data
                        .new_size
                        .map(|[height, width]| [if data.is_color { 3 } else { 1 }, height, width]),
                    _ => None,
                };
                let guessed = guessed_shape(transform).or(new_size);
                return guessed.ok_or_else(|| unknown_shape(layer, source));
            }
            let shapes = shapes_of_data(net, layer)?;
            match shapes[0].dims() {
                [_, channels, height, width] => Ok([*channels, *height, *width]),
                _ => Err(unknown_shape(layer, source)),
            }
        }
    }
}

/// The shapes of an HDF5Data layer's tops: from its files if they are there, else records and labels.
fn array_shapes(
    net: &NetSource,
    layer: &LayerSpec,
    data: &Hdf5DataSpec,
    input_shape: Option<[usize; 3]>,
) -> Result<Vec<Shape>, Error> {
    match input_shape {
        _ if resolve(&data.source, &net.folder).exists() => shapes_of_data(net, layer),
        Some([channels, height, width]) => {
            let mut shapes = vec![Shape::from([data.batch_size]); layer.tops.len()];
            shapes[0] = Shape::from([data.batch_size, channels, height, width]);
            Ok(shapes)
        }
        None => Err(unknown_shape(layer, &data.source)),
    }
}

/// The shapes that a data layer's data give its tops.
fn shapes_of_data(net: &NetSource, layer: &LayerSpec) -> Result<Vec<Shape>, Error> {
    let mut opener = FeedOpener::new(FeedSettings {
        folder: net.folder.clone(),
        phase: net.spec.state.phase,
        rank: 0,
        world: 1,
        seed: SEED,
        positions_batches: Vec::new(),
        max_batches: None,
        rows: None,
        fed_by_program: false,
        repeat: false,
    });
    opener.top_shapes(layer).map_err(|cause| Error::Feed {
        layer: layer.name.clone(),
        fact: cause.to_string(),
    })
}

fn unknown_shape(layer: &LayerSpec, source: &str) -> Error {
    Error::Feed {
        layer: layer.name.clone(),
        fact: format!("{source} does not exist, so the shape of its records is unknown: give --input-shape c,h,w"),
    }
}

/// What a transform says of its records: crops give height and width; pictures that are cropped have three channels
/// unless the file says otherwise.
fn guessed_shape(transform: &TransformSpec) -> Option<[usize; 3]> {
    let channels = match transform.mean_values.len() {
        _ if transform.force_gray => 1,
        0 | 1 => 3,
        values => values,
    };
    (transform.crop_size > 0).then_some([channels, transform.crop_size, transform.crop_size])
}

/// Records a batch: the first extent of the first blob that has one.
fn batch_size(net: &Net) -> usize {
    let layers = net.spec().layers.iter();
    let mut fed = layers.filter(|layer| matches!(layer.kind, LayerKind::Input(_) | LayerKind::DummyData(_)));
    let first = fed.find_map(|layer| net.blob_shape(layer.tops.first()?).ok()?.dims().first().copied());
    first.unwrap_or(1)
}

/// The multiply-adds of each layer's forward pass, and how many times as many its backward pass has.
struct Work(Vec<(u64, u64)>);

impl Work {
    fn of(net: &Net) -> Result<Self, Error> {
        let spec = net.spec();
        let has_loss = spec
            .layers
            .iter()
            .any(|layer| layer.loss_weights.iter().any(|weight| *weight != 0.0));
        let mut want_gradient: HashSet<&str> = HashSet::new();
        let mut work = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let learns = net
                .layer_params(index)
                .iter()
                .any(|id| net.params()[*id].lr_mult != 0.0);
            let goes_down = spec.force_backward
                || layer.bottoms.iter().enumerate().any(|(i, bottom)| {
                    want_gradient.contains(bottom.as_str()) && layer.propagate_down.get(i).copied().unwrap_or(true)
                });
            if learns || goes_down {
                want_gradient.extend(layer.tops.iter().map(String::as_str));
            }
            let passes = if has_loss {
                u64::from(learns) + u64::from(goes_down)
            } else {
                0
            };
            work.push((multiply_adds(net, index)?, passes));
        }
        Ok(Self(work))
    }

    fn gflop(&self, layer: usize, trains: bool) -> f64 {
        let (multiply_adds, backward_passes) = self.0[layer];
        let passes = if trains { 1 + backward_passes } else { 1 };
        2.0 * multiply_adds as f64 * passes as f64 / 1e9
    }
}

/// Multiply-adds of a layer's forward pass; each value of a top is a dot product with a row of the weights.
fn multiply_adds(net: &Net, index: usize) -> Result<u64, Error> {
    let layer = &net.spec().layers[index];
    let Some(weights) = net.layer_params(index).first().map(|id| &net.params()[*id].shape) else {
        return Ok(0);
    };
    let outputs = match &layer.kind {
        LayerKind::Convolution(spec) => spec.num_output,
        LayerKind::InnerProduct(spec) => spec.num_output,
        _ => return Ok(0),
    };
    let row = (weights.count() / outputs) as u64;
    let mut sum = 0;
    for top in &layer.tops {
        sum += net.blob_shape(top)?.count() as u64 * row;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0, 1.0, 200.0]), 3.0);
        assert_eq!(median(&mut [4.0, 1.0, 200.0, 2.0]), 3.0);
    }

    #[test]
    fn shapes_of_records_that_are_not_there() {
        let transform = |crop_size, mean_values: &[f32], force_gray| TransformSpec {
            crop_size,
            mean_values: mean_values.to_vec(),
            force_gray,
            ..Default::default()
        };
        assert_eq!(guessed_shape(&transform(0, &[1.0, 2.0, 3.0], false)), None);
        assert_eq!(guessed_shape(&transform(227, &[], false)), Some([3, 227, 227]));
        assert_eq!(guessed_shape(&transform(8, &[104.0], false)), Some([3, 8, 8]));
        assert_eq!(guessed_shape(&transform(8, &[1.0, 2.0], false)), Some([2, 8, 8]));
        assert_eq!(guessed_shape(&transform(8, &[], true)), Some([1, 8, 8]));
    }
}
