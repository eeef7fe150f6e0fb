//! Runs a single layer in tests, without a net around it.

use crate::{
    Phase, Shape,
    layer::{Backward, Blobs, Context, Forward, Layer, Params},
    random,
};

/// What one forward and one backward pass gave.
pub struct Outcome {
    /// The tops' shapes and values.
    pub tops: Vec<(Shape, Vec<f32>)>,
    /// The gradients of the tops that were fed in: standard normal values.
    pub top_diffs: Vec<Vec<f32>>,
    /// The bottoms' gradients.
    pub bottom_diffs: Vec<Vec<f32>>,
    /// What was added to the parameters' gradients.
    pub param_diffs: Vec<Vec<f32>>,
}

/// Standard normal values.
pub fn normal(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|i| random::normal(random::key(&[seed]), i))
        .collect()
}

/// Runs `layer` on `threads` threads, twice, as a layer's buffers must not tell the second pass of the first.
/// Checks that tops and bottom gradients are written whole and that parameter gradients are added to.
pub fn run(
    layer: &mut dyn Layer,
    bottoms: &[(Shape, Vec<f32>)],
    params: &[Vec<f32>],
    num_tops: usize,
    phase: Phase,
    threads: usize,
) -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads start");
    pool.install(|| {
        run_here(layer, bottoms, params, num_tops, phase, threads);
        run_here(layer, bottoms, params, num_tops, phase, threads)
    })
}

fn run_here(
    layer: &mut dyn Layer,
    bottoms: &[(Shape, Vec<f32>)],
    params: &[Vec<f32>],
    num_tops: usize,
    phase: Phase,
    threads: usize,
) -> Outcome {
    let shapes: Vec<&Shape> = bottoms.iter().map(|(shape, _)| shape).collect();
    let top_shapes = layer.reshape(&shapes).expect("the shapes fit");
    let top_shapes = &top_shapes[..num_tops];
    for (blob, values) in layer.params().iter().zip(params) {
        assert_eq!(blob.shape.count(), values.len());
    }
    assert_eq!(layer.params().len(), params.len());
    let context = Context {
        phase,
        random_key: 42,
        threads,
    };
    let bottom_data: Vec<Vec<f32>> = bottoms.iter().map(|(_, values)| values.clone()).collect();
    let ids: Vec<usize> = (0..bottoms.len().max(num_tops)).collect();
    let mut arena = params.concat();
    let mut ranges = Vec::new();
    for values in params {
        let start = ranges.last().map_or(0, |range: &std::ops::Range<usize>| range.end);
        ranges.push(start..start + values.len());
    }
    let mut tops: Vec<Vec<f32>> = top_shapes.iter().map(|shape| vec![f32::NAN; shape.count()]).collect();
    layer
        .forward(&mut Forward {
            bottom: Blobs::new(&bottom_data, &ids[..bottoms.len()]),
            top: &mut tops,
            params: Params::new(&mut arena, &ranges),
            in_place: false,
            context,
        })
        .expect("the data suit");
    let top_diffs: Vec<Vec<f32>> = tops
        .iter()
        .enumerate()
        .map(|(i, top)| normal(1000 + i as u64, top.len()))
        .collect();
    let mut bottom_diffs: Vec<Vec<f32>> = bottom_data.iter().map(|data| vec![f32::NAN; data.len()]).collect();
    let mut param_diff = vec![1.0; arena.len()];
    layer.backward(&mut Backward {
        bottom: Blobs::new(&bottom_data, &ids[..bottoms.len()]),
        top: Blobs::new(&tops, &ids[..num_tops]),
        top_diff: Blobs::new(&top_diffs, &ids[..num_tops]),
        bottom_diff: &mut bottom_diffs,
        propagate_down: &vec![true; bottoms.len()],
        params: Params::new(&mut arena, &ranges),
        param_diff: Params::new(&mut param_diff, &ranges),
        param_propagate_down: &vec![true; params.len()],
        in_place: false,
        context,
    });
    param_diff.iter_mut().for_each(|diff| *diff -= 1.0);
    Outcome {
        tops: top_shapes.iter().cloned().zip(tops).collect(),
        top_diffs,
        bottom_diffs,
        param_diffs: ranges.iter().map(|range| param_diff[range.clone()].to_vec()).collect(),
    }
}

/// Asserts that two tensors differ by at most `tolerance` of the larger's greatest magnitude.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let magnitude = expected
        .iter()
        .fold(1e-3_f32, |largest, value| largest.max(value.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance * magnitude,
            "{what} at {i}: {found} is not {expected}"
        );
    }
}
