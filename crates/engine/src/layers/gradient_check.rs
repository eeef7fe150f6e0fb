//! Walks the registry: every layer's backward must agree with differences of its forward, and keep the contract of
//! `layer.rs`. Also what the layers' own tests build their nets with.

use std::collections::BTreeMap;

use sparknet_proto::{caffe::NetParameter, text, upgrade};

use super::{Fill, GradientCase, Gradients, LAYERS, LayerDef, build};
use crate::{
    Net, NetSpec, NetState, Phase, Shape, SpecError,
    layer::{Backward, Blobs, BottomGradient, Context, Forward, Layer, Params},
    net::NoData,
    plan::Plan,
    random,
};

const SEED: u64 = 1;

/// The spec of a prototxt in the phase TRAIN; the error is what a user would read.
pub fn spec(prototxt: &str) -> Result<NetSpec, SpecError> {
    let message: NetParameter = text::parse("test", prototxt).unwrap_or_else(|error| panic!("{error}"));
    NetSpec::from_proto(&upgrade::net(message).unwrap(), NetState::new(Phase::Train))
}

/// A net from a prototxt in the phase TRAIN; the error is what a user would read.
pub fn net(prototxt: &str) -> Result<Net, String> {
    let spec = spec(prototxt).map_err(|error| error.to_string())?;
    Net::new(spec, &mut NoData, SEED).map_err(|error| error.to_string())
}

/// An Input layer for blob `name`.
pub fn input(name: &str, dims: &[usize]) -> String {
    let dims: String = dims.iter().map(|dim| format!("dim: {dim} ")).collect();
    format!("layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ {dims} }} }} }}\n")
}

/// Feeds `bottoms` and runs forward; returns all blobs by name.
pub fn run(net: &mut Net, bottoms: &[(&str, &[f32])]) -> Result<BTreeMap<String, Vec<f32>>, String> {
    for (name, values) in bottoms {
        net.blob_data_mut(name).unwrap().copy_from_slice(values);
    }
    net.forward().map_err(|error| error.to_string())?;
    let blob = |name: String| {
        let values = net.blob_data(&name).unwrap().to_vec();
        (name, values)
    };
    Ok(net.blob_names().into_iter().map(blob).collect())
}

/// Every case of the registry, with a name for messages.
fn cases() -> impl Iterator<Item = (String, &'static LayerDef, &'static GradientCase)> {
    LAYERS.iter().flat_map(|def| {
        let cases = match def.gradients {
            Gradients::Check(cases) => cases,
            Gradients::None(_) => &[],
        };
        let name = |i: usize, case: &GradientCase| format!("{} case {i} ({})", def.type_name, case.params);
        cases
            .iter()
            .enumerate()
            .map(move |(i, case)| (name(i, case), def, case))
    })
}

/// The layer of a case, its bottoms b0, b1 … and its tops as given.
pub fn layer_text(def: &LayerDef, params: &str, bottoms: usize, tops: &[String]) -> String {
    let bottoms: String = (0..bottoms).map(|i| format!("bottom: 'b{i}' ")).collect();
    let tops: String = tops.iter().map(|top| format!("top: '{top}' ")).collect();
    format!(
        "layer {{ name: 'L' type: '{}' {bottoms}{tops}{params} }}\n",
        def.type_name
    )
}

fn tops(case: &GradientCase) -> Vec<String> {
    (0..case.tops).map(|i| format!("t{i}")).collect()
}

fn case_text(def: &LayerDef, case: &GradientCase) -> String {
    let inputs: String = case
        .bottoms
        .iter()
        .enumerate()
        .map(|(i, dims)| input(&format!("b{i}"), dims))
        .collect();
    let layer = layer_text(def, case.params, case.bottoms.len(), &tops(case));
    format!("force_backward: true\n{inputs}{layer}")
}

fn fill(fill: Fill, bottom: usize, bottoms: usize, values: &mut [f32]) {
    let key = random::key(&[SEED, bottom as u64]);
    let normal = |i: usize| random::normal(key, i as u64);
    let classes = match fill {
        Fill::Labels(classes) | Fill::Probabilities(classes) if bottom + 1 == bottoms => Some(classes),
        Fill::SecondLabels(classes) if bottom == 1 => Some(classes),
        _ => None,
    };
    if let Some(classes) = classes {
        let class = |i: usize| (random::uniform(key, i as u64) * classes as f32).floor();
        values.iter_mut().enumerate().for_each(|(i, value)| *value = class(i));
        return;
    }
    match fill {
        Fill::Sequences(streams) if bottom == 1 => {
            let goes_on = |i: usize| f32::from(random::uniform(key, i as u64) < 0.7);
            values.iter_mut().enumerate().for_each(|(i, value)| *value = goes_on(i));
            values[..streams].fill(0.0);
        }
        Fill::Normal | Fill::Labels(_) | Fill::SecondLabels(_) | Fill::Sequences(_) => {
            values.iter_mut().enumerate().for_each(|(i, value)| *value = normal(i));
        }
        Fill::Probabilities(_) => {
            let probability = |i: usize| 0.2 + 0.8 * random::uniform(key, i as u64);
            values
                .iter_mut()
                .enumerate()
                .for_each(|(i, value)| *value = probability(i));
        }
        Fill::AwayFromZero => values.iter_mut().enumerate().for_each(|(i, value)| {
            let normal = normal(i);
            *value = normal + 0.1f32.copysign(normal);
        }),
        Fill::Distinct => {
            // The bottoms' ladders are interleaved, so that values of different bottoms differ too.
            let count = values.len();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by_key(|i| random::bits(key, *i as u64));
            for (rung, i) in order.into_iter().enumerate() {
                values[i] = 0.1 * ((rung * bottoms + bottom) as f32 - (count * bottoms) as f32 / 2.0);
            }
        }
    }
}

/// Fills the bottoms and parameters of a case's net.
fn fill_net(net: &mut Net, case: &GradientCase) {
    for bottom in 0..case.bottoms.len() {
        let values = net.blob_data_mut(&format!("b{bottom}")).unwrap();
        fill(case.fill, bottom, case.bottoms.len(), values);
    }
    fill_params(net);
}

/// Fills the parameters but for statistics, which a layer keeps itself and which have no gradient.
fn fill_params(net: &mut Net) {
    let key = random::key(&[SEED, 1000]);
    for i in learned(net) {
        net.param_arena_mut()[i] = random::normal(key, i as u64);
    }
}

/// Where the parameters that are learned lie in the arenas.
fn learned(net: &Net) -> Vec<usize> {
    let learned = net.params().iter().filter(|param| param.lr_mult != 0.0);
    learned.flat_map(|param| param.range.clone()).collect()
}

/// What a top's values are multiplied with in the objective: its loss weight, or random numbers. Later tops of a loss
/// have no gradient.
fn top_weights(net: &Net, top: usize) -> Vec<f32> {
    let layer = net.spec().layers.iter().find(|layer| layer.name == "L").unwrap();
    let count = net.blob_data(&layer.tops[top]).unwrap().len();
    if layer.loss_weights.iter().any(|weight| *weight != 0.0) {
        return vec![layer.loss_weights[top]; count];
    }
    let key = random::key(&[SEED, 2000 + top as u64]);
    (0..count).map(|i| random::normal(key, i as u64)).collect()
}

fn objective(net: &mut Net, case: &GradientCase) -> f64 {
    net.forward().unwrap();
    let top_sum = |top: usize| {
        let weights = top_weights(net, top);
        let values = net.blob_data(&format!("t{top}")).unwrap();
        values
            .iter()
            .zip(weights)
            .map(|(y, w)| f64::from(*y) * f64::from(w))
            .sum::<f64>()
    };
    (0..case.tops).map(top_sum).sum()
}

/// Forward, then backward from the objective.
fn forward_backward(net: &mut Net, case: &GradientCase) {
    net.forward().unwrap();
    for top in 0..case.tops {
        let weights = top_weights(net, top);
        net.blob_diff_mut(&format!("t{top}")).unwrap().copy_from_slice(&weights);
    }
    net.backward();
}

/// Whether a layer has a gradient for a bottom.
fn computes(layer: &dyn Layer, bottom: usize) -> bool {
    layer.bottom_gradient(bottom) == BottomGradient::Computed
}

fn the_layer(net: &Net) -> Box<dyn Layer> {
    build(&net.spec().layers.iter().find(|layer| layer.name == "L").unwrap().kind)
}

/// Compares one gradient with central differences, where `value` changes the value that it belongs to.
fn check(
    what: &str,
    net: &mut Net,
    case: &GradientCase,
    gradient: &[f32],
    value: impl Fn(&mut Net, usize) -> &mut f32,
) {
    const STEP: f32 = 1e-2;
    let estimate = |i: usize| {
        let old = *value(net, i);
        let (above, below) = (old + STEP, old - STEP);
        *value(net, i) = above;
        let objective_above = objective(net, case);
        *value(net, i) = below;
        let objective_below = objective(net, case);
        *value(net, i) = old;
        (objective_above - objective_below) / f64::from(above - below)
    };
    let estimates: Vec<f64> = (0..gradient.len()).map(estimate).collect();
    let largest = estimates.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    // Forward rounds to about 1e-6, which the division by the step turns into 1e-4.
    let allowed = 1e-2 * largest + 2e-4;
    for (i, (found, estimate)) in gradient.iter().zip(&estimates).enumerate() {
        assert!(
            (f64::from(*found) - estimate).abs() <= allowed,
            "{what}[{i}]: backward says {found}, differences {estimate}"
        );
    }
}

fn check_case(name: &str, def: &LayerDef, case: &GradientCase) {
    let mut net = net(&case_text(def, case)).unwrap_or_else(|error| panic!("{name}: {error}"));
    fill_net(&mut net, case);
    net.clear_gradients();
    forward_backward(&mut net, case);
    let layer = the_layer(&net);
    let mut checked = 0;
    for bottom in (0..case.bottoms.len()).filter(|bottom| computes(&*layer, *bottom)) {
        let blob = format!("b{bottom}");
        let gradient = net.blob_diff(&blob).unwrap().to_vec();
        check(&format!("{name}: {blob}"), &mut net, case, &gradient, |net, i| {
            &mut net.blob_data_mut(&blob).unwrap()[i]
        });
        checked += gradient.len();
    }
    let learned = learned(&net);
    let gradient: Vec<f32> = learned.iter().map(|i| net.gradient_arena()[*i]).collect();
    check(&format!("{name}: params"), &mut net, case, &gradient, |net, i| {
        &mut net.param_arena_mut()[learned[i]]
    });
    assert!(
        checked + gradient.len() > 0,
        "{name} has no gradient: use Gradients::None"
    );
}

#[test]
fn gradients_agree_with_differences() {
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| cases().for_each(|(name, def, case)| check_case(&name, def, case)));
    }
}

#[test]
fn tops_and_bottom_gradients_are_overwritten_and_parameter_gradients_added_to() {
    for (name, def, case) in cases() {
        let mut net = net(&case_text(def, case)).unwrap();
        fill_net(&mut net, case);
        net.clear_gradients();
        forward_backward(&mut net, case);
        let snapshot = |net: &Net| {
            let bottoms = (0..case.bottoms.len()).map(|i| net.blob_diff(&format!("b{i}")).unwrap());
            let tops = (0..case.tops).map(|i| net.blob_data(&format!("t{i}")).unwrap());
            bottoms
                .chain(tops)
                .flatten()
                .map(|value| value.to_bits())
                .collect::<Vec<u32>>()
        };
        let (once, gradients) = (snapshot(&net), net.gradient_arena().to_vec());

        let layer = the_layer(&net);
        for bottom in (0..case.bottoms.len()).filter(|bottom| computes(&*layer, *bottom)) {
            net.blob_diff_mut(&format!("b{bottom}")).unwrap().fill(f32::NAN);
        }
        for top in 0..case.tops {
            net.blob_data_mut(&format!("t{top}")).unwrap().fill(f32::NAN);
        }
        forward_backward(&mut net, case);
        assert_eq!(snapshot(&net), once, "{name}: what was in its blobs shows through");
        for (i, (twice, once)) in net.gradient_arena().iter().zip(&gradients).enumerate() {
            let difference = (twice - 2.0 * once).abs();
            assert!(
                difference <= 1e-5 * once.abs().max(1.0),
                "{name}: param gradient {i}: {once}, then {twice}"
            );
        }
    }
}

/// A layer outside a net, so that it can be asked for some gradients only.
struct Alone {
    layer: Box<dyn Layer>,
    data: Vec<Vec<f32>>,
    top_diff: Vec<Vec<f32>>,
    params: Vec<f32>,
    ranges: Vec<std::ops::Range<usize>>,
}

impl Alone {
    fn new(net: &Net, case: &GradientCase) -> Self {
        let mut layer = the_layer(net);
        let shapes: Vec<Shape> = case.bottoms.iter().map(|dims| Shape::new(*dims)).collect();
        layer.reshape(&shapes.iter().collect::<Vec<_>>()).unwrap();
        let bottoms = (0..case.bottoms.len()).map(|i| net.blob_data(&format!("b{i}")).unwrap().to_vec());
        let tops = (0..case.tops).map(|i| net.blob_data(&format!("t{i}")).unwrap().to_vec());
        Self {
            layer,
            data: bottoms.chain(tops).collect(),
            top_diff: (0..case.tops).map(|top| top_weights(net, top)).collect(),
            params: net.param_arena().to_vec(),
            ranges: net.params().iter().map(|param| param.range.clone()).collect(),
        }
    }

    /// The gradients of the bottoms (empty where not wanted) and of the parameters.
    fn gradients(&mut self, wanted: &[bool], params_wanted: bool) -> (Vec<Vec<f32>>, Vec<f32>) {
        let context = Context {
            phase: Phase::Train,
            // That of layer 'L' in the net: it comes after the inputs.
            random_key: random::key(&[SEED, 0, wanted.len() as u64]),
            threads: 1,
        };
        let ids: Vec<usize> = (0..self.data.len()).collect();
        let (bottoms, tops) = ids.split_at(wanted.len());
        let mut top = self.data.split_off(wanted.len());
        self.layer
            .forward(&mut Forward {
                bottom: Blobs::new(&self.data, bottoms),
                top: &mut top,
                params: Params::new(&mut self.params, &self.ranges),
                in_place: false,
                context,
            })
            .unwrap();
        self.data.extend(top);
        let size = |(blob, wanted): (&Vec<f32>, &bool)| vec![f32::NAN; if *wanted { blob.len() } else { 0 }];
        let mut bottom_diff: Vec<Vec<f32>> = self.data.iter().zip(wanted).map(size).collect();
        let mut param_diff = vec![0.0; self.params.len()];
        let top_ids: Vec<usize> = (0..tops.len()).collect();
        self.layer.backward(&mut Backward {
            bottom: Blobs::new(&self.data, bottoms),
            top: Blobs::new(&self.data, tops),
            top_diff: Blobs::new(&self.top_diff, &top_ids),
            bottom_diff: &mut bottom_diff,
            propagate_down: wanted,
            params: Params::new(&mut self.params, &self.ranges),
            param_diff: Params::new(&mut param_diff, &self.ranges),
            param_propagate_down: &vec![params_wanted; self.ranges.len()],
            in_place: false,
            context,
        });
        (bottom_diff, param_diff)
    }
}

#[test]
fn gradients_that_are_not_wanted_are_left_alone_and_change_no_other() {
    for (name, def, case) in cases() {
        let mut net = net(&case_text(def, case)).unwrap();
        fill_net(&mut net, case);
        net.forward().unwrap();
        let mut alone = Alone::new(&net, case);
        let all: Vec<bool> = (0..case.bottoms.len()).map(|i| computes(&*alone.layer, i)).collect();
        let (full, full_params) = alone.gradients(&all, true);
        assert!(
            !full.concat().iter().any(|value| value.is_nan()),
            "{name}: a gradient is not written whole"
        );
        for left_out in (0..all.len()).filter(|i| all[*i]) {
            let mut wanted = all.clone();
            wanted[left_out] = false;
            let (some, params) = alone.gradients(&wanted, true);
            for i in (0..all.len()).filter(|i| wanted[*i]) {
                assert_eq!(some[i], full[i], "{name}: bottom {i} without {left_out}");
            }
            assert_eq!(params, full_params, "{name}: params without bottom {left_out}");
        }
        let (bottoms, params) = alone.gradients(&all, false);
        assert_eq!(bottoms, full, "{name}: bottoms without params");
        assert!(
            params.iter().all(|value| *value == 0.0),
            "{name}: params that are not wanted"
        );
    }
}

#[test]
fn in_place_changes_nothing() {
    let mut checked = 0;
    for (name, def, case) in cases().filter(|(_, _, case)| case.bottoms.len() == 1 && case.tops == 1) {
        let text = |top: &str| {
            let input = input("x", case.bottoms[0]);
            // A producer that does not mind that its top is written over, unlike an input.
            let split = "layer { name: 'S' type: 'Split' bottom: 'x' top: 'b0' }";
            let layer = layer_text(def, case.params, 1, &[top.to_owned()]);
            format!("force_backward: true {input}{split}{layer}")
        };
        let apart = net(&text("t0"));
        if !the_layer(apart.as_ref().unwrap()).can_run_in_place() {
            continue;
        }
        checked += 1;
        let in_place_spec = spec(&text("b0")).unwrap();
        let mut plan = Plan::connect(&in_place_spec.layers).unwrap();
        let layers: Vec<_> = in_place_spec.layers.iter().map(|layer| build(&layer.kind)).collect();
        plan.assign_buffers(&in_place_spec.layers, &layers);
        assert!(
            plan.layers[2].in_place,
            "{name} can run in place, but the plan does not let it"
        );

        let outcome = |mut net: Net, top: &str| {
            fill(case.fill, 0, 1, net.blob_data_mut("x").unwrap());
            fill_params(&mut net);
            net.forward().unwrap();
            let top_values = net.blob_data(top).unwrap().to_vec();
            let weights = top_weights(&net, 0);
            net.blob_diff_mut(top).unwrap().copy_from_slice(&weights);
            net.backward();
            (
                top_values,
                net.blob_diff("x").unwrap().to_vec(),
                net.gradient_arena().to_vec(),
            )
        };
        let in_place = Net::new(in_place_spec, &mut NoData, SEED).unwrap();
        assert_eq!(outcome(in_place, "b0"), outcome(apart.unwrap(), "t0"), "{name}");
    }
    assert!(checked > 0);
}

/// A Filter may let nothing through: whoever comes after it is asked for its tops of a full batch, of nothing, and of a
/// full batch again.
#[test]
fn batches_of_nothing_have_shapes() {
    for (name, def, case) in cases().filter(|(_, _, case)| !case.bottoms.is_empty()) {
        let net = net(&case_text(def, case)).unwrap();
        let mut layer = the_layer(&net);
        let full: Vec<Shape> = case.bottoms.iter().map(|dims| Shape::new(*dims)).collect();
        let nothing: Vec<Shape> = full
            .iter()
            .map(|shape| Shape::new([&[0], &shape.dims()[1..]].concat()))
            .collect();
        let full: Vec<&Shape> = full.iter().collect();
        layer.reshape(&full).unwrap();
        // Layers that count on a number of items may refuse, but not panic.
        let _ = layer.reshape(&nothing.iter().collect::<Vec<_>>());
        let tops = layer.reshape(&full);
        let expected = net.blob_shape("t0").ok();
        assert_eq!(tops.ok().as_ref().and_then(|tops| tops.first()), expected, "{name}");
    }
}
