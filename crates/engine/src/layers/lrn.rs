//! LRN: `y = x · s^-beta`, local response normalisation.
//!
//! Across channels, `s = k + alpha/size · Σ x²` over the `size` channels around a value's own; within a channel,
//! `s = 1 + alpha/size² · Σ x²` over the `size` × `size` square around it. What lies outside counts as 0. Krizhevsky,
//! Sutskever and Hinton: ImageNet classification with deep convolutional neural networks (2012), section 3.3.
//!
//! ```prototxt
//! layer {
//!   name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
//!   lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 norm_region: ACROSS_CHANNELS }
//! }
//! ```

mod across_channels;
mod formula;
mod within_channel;

use rayon::prelude::*;

use super::{Arity, LayerDef, vectorized::vectorized};
use crate::{
    LayerError, Shape,
    kernels::pooling::{Axis, Rows, Windows},
    layer::{Backward, Forward, Layer},
    spec::LrnSpec,
};

use formula::Formula;

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "LRN",
    summary: "normalises each value by its neighbours' squares",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: LrnSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Within channels, about so many values are worked on at once.
const PLANES_COUNT: usize = 8192;

/// Normalises each value by its neighbours' squares.
///
/// The pass backward works s out again, which takes less time than to read it from memory.
pub struct Lrn {
    formula: Formula,
    within_channel: bool,
    /// How far neighbours lie apart at most.
    reach: usize,
    images: usize,
    channels: usize,
    /// Values in a channel of an image.
    plane: usize,
    /// The neighbours within a channel.
    windows: Windows,
    /// Each thread's buffers.
    buffers: Vec<Buffers>,
}

/// Of the values that are worked on at once, which have no neighbours but each other.
#[derive(Default)]
struct Buffers {
    /// s of each, or of those in one channel; then s^-beta.
    scale: Vec<f32>,
    /// What is summed over neighbours: x² or, backward, dy · y / s.
    terms: Vec<f32>,
    rows: Rows,
}

impl Lrn {
    /// A layer of this description.
    pub fn new(spec: &LrnSpec) -> Self {
        let LrnSpec {
            local_size,
            alpha,
            beta,
            k,
            within_channel,
        } = *spec;
        let size = local_size as f32;
        let (constant, factor) = if within_channel {
            (1.0, alpha / (size * size))
        } else {
            (k, alpha / size)
        };
        Self {
            formula: Formula { constant, factor, beta },
            within_channel,
            reach: (local_size - 1) / 2,
            images: 0,
            channels: 0,
            plane: 0,
            windows: Windows::new(Axis::default(), Axis::default()),
            buffers: Vec::new(),
        }
    }

    /// Sizes the buffers; returns how many values are worked on at once within channels, and how many each part has.
    fn prepare(&mut self, threads: usize) -> (usize, usize) {
        let image = self.channels * self.plane;
        // A multiple of 4, since pooling works on up to 4 narrow channels at once.
        let planes_at_once = PLANES_COUNT.div_ceil(self.plane.max(1)).next_multiple_of(4);
        let at_once = (self.plane * planes_at_once).max(1);
        let buffer_count = if self.within_channel {
            at_once.min(self.images * image)
        } else {
            self.channels * self.block()
        };
        self.buffers.resize_with(threads, Buffers::default);
        for buffers in &mut self.buffers {
            buffers.scale.resize(buffer_count, 0.0);
            buffers.terms.resize(buffer_count, 0.0);
        }
        (at_once, self.images.div_ceil(threads).max(1) * image)
    }
}

impl Layer for Lrn {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let [images, channels, height, width] = *bottom[0].dims() else {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: bottom[0].clone(),
                fact: "it has to have four axes (n, c, h, w): put a Reshape layer before this one".to_owned(),
            });
        };
        (self.images, self.channels, self.plane) = (images, channels, height * width);
        if self.within_channel {
            let axis = |input: usize| Axis {
                input,
                output: input,
                kernel: 2 * self.reach + 1,
                stride: 1,
                pad: self.reach,
            };
            self.windows = Windows::new(axis(height), axis(width));
        }
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (at_once, chunk) = self.prepare(io.context.threads);
        let mut all_buffers = std::mem::take(&mut self.buffers);
        let values = io.top[0].par_chunks_mut(chunk).zip(io.bottom.get(0).par_chunks(chunk));
        let parts = all_buffers.par_iter_mut().zip(values).with_max_len(1);
        parts.for_each(|(buffers, (y, x))| {
            vectorized(
                #[inline(always)]
                || {
                    if self.within_channel {
                        for (y, x) in y.chunks_mut(at_once).zip(x.chunks(at_once)) {
                            self.forward_planes(buffers, x, y);
                        }
                    } else {
                        for (start, count) in self.blocks(x) {
                            self.forward_block(buffers, [start, count], x, y);
                        }
                    }
                },
            );
        });
        self.buffers = all_buffers;
        Ok(())
    }

    /// `dx = dy · s^-beta - 2 · factor · beta · x · Σ dy · y / s`, the sum over the same neighbours.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (at_once, chunk) = self.prepare(io.context.threads);
        let mut all_buffers = std::mem::take(&mut self.buffers);
        let values = io
            .top_diff
            .get(0)
            .par_chunks(chunk)
            .zip(io.bottom.get(0).par_chunks(chunk));
        let values = io.bottom_diff[0].par_chunks_mut(chunk).zip(values);
        let parts = all_buffers.par_iter_mut().zip(values).with_max_len(1);
        parts.for_each(|(buffers, (dx, (dy, x)))| {
            vectorized(
                #[inline(always)]
                || {
                    if self.within_channel {
                        for (dx, (dy, x)) in dx.chunks_mut(at_once).zip(dy.chunks(at_once).zip(x.chunks(at_once))) {
                            self.backward_planes(buffers, [x, dy], dx);
                        }
                    } else {
                        for (start, count) in self.blocks(x) {
                            self.backward_block(buffers, [start, count], [x, dy], dx);
                        }
                    }
                },
            );
        });
        self.buffers = all_buffers;
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[2, 7, 2, 3]], "lrn_param { local_size: 5 alpha: 1.0 beta: 0.75 }"),
    super::case(
        &[&[2, 2, 2, 3]],
        "lrn_param { local_size: 5 alpha: 2.0 beta: 0.5 k: 2.0 }",
    ),
    super::case(&[&[1, 4, 2, 2]], "lrn_param { local_size: 1 alpha: 0.5 beta: 1.3 }"),
    super::case(
        &[&[2, 2, 4, 5]],
        "lrn_param { local_size: 3 alpha: 2.0 beta: 0.75 norm_region: WITHIN_CHANNEL }",
    ),
    super::case(
        &[&[1, 2, 2, 3]],
        "lrn_param { local_size: 5 alpha: 2.0 beta: 0.6 norm_region: WITHIN_CHANNEL }",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Phase,
        layers::harness::{assert_close, normal, run},
    };

    /// y and dx straight from the definition, in f64.
    fn reference(spec: &LrnSpec, dims: [usize; 4], x: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [_, channels, height, width] = dims;
        let reach = (spec.local_size - 1) / 2;
        let place = |i: usize| {
            let plane = height * width;
            (
                i / (channels * plane),
                i / plane % channels,
                i % plane / width,
                i % width,
            )
        };
        let are_neighbours = |i: usize, j: usize| {
            let (a, b) = (place(i), place(j));
            if spec.within_channel {
                (a.0, a.1) == (b.0, b.1) && a.2.abs_diff(b.2) <= reach && a.3.abs_diff(b.3) <= reach
            } else {
                (a.0, a.2, a.3) == (b.0, b.2, b.3) && a.1.abs_diff(b.1) <= reach
            }
        };
        let (size, alpha, beta) = (spec.local_size as f64, f64::from(spec.alpha), f64::from(spec.beta));
        let (constant, factor) = if spec.within_channel {
            (1.0, alpha / size.powi(2))
        } else {
            (f64::from(spec.k), alpha / size)
        };
        let value = |values: &[f32], i: usize| f64::from(values[i]);
        let sum =
            |i: usize, f: &dyn Fn(usize) -> f64| (0..x.len()).filter(|j| are_neighbours(i, *j)).map(f).sum::<f64>();
        let scale: Vec<f64> = (0..x.len())
            .map(|i| constant + factor * sum(i, &|j| value(x, j).powi(2)))
            .collect();
        let y = |i: usize| value(x, i) * scale[i].powf(-beta);
        let dx = |i: usize| {
            let through_scale = sum(i, &|j| value(dy, j) * y(j) / scale[j]);
            value(dy, i) * scale[i].powf(-beta) - 2.0 * factor * beta * value(x, i) * through_scale
        };
        (
            (0..x.len()).map(|i| y(i) as f32).collect(),
            (0..x.len()).map(|i| dx(i) as f32).collect(),
        )
    }

    #[test]
    fn matches_the_definition() {
        for within_channel in [false, true] {
            for local_size in [1, 3, 5, 9] {
                for (beta, k) in [(0.75, 1.0), (0.5, 2.0), (1.2, 0.5)] {
                    for dims in [[1, 1, 1, 1], [2, 7, 2, 3], [4, 3, 5, 4], [1, 3, 15, 10]] {
                        let spec = LrnSpec {
                            local_size,
                            alpha: 1.5,
                            beta,
                            k,
                            within_channel,
                        };
                        let shape = Shape::from(dims);
                        let x = normal(1, shape.count());
                        let mut layer = Lrn::new(&spec);
                        for threads in 1..=3 {
                            let found = run(&mut layer, &[(shape.clone(), x.clone())], &[], 1, Phase::Train, threads);
                            let (y, dx) = reference(&spec, dims, &x, &found.top_diffs[0]);
                            let what = format!("{spec:?} {shape}");
                            assert_close(&format!("y of {what}"), &found.tops[0].1, &y, 1e-5);
                            assert_close(&format!("dx of {what}"), &found.bottom_diffs[0], &dx, 1e-5);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn large_values_do_not_spoil_those_far_away() {
        // A running sum that takes away what it has added would leave rounding errors, or infinity minus infinity.
        let spec = LrnSpec {
            local_size: 3,
            alpha: 3.0,
            beta: 0.75,
            k: 1.0,
            within_channel: false,
        };
        let x = vec![1e30, 1.0, 1.0, 1.0, 1.0, 1.0];
        let bottom = [(Shape::from([1, 6, 1, 1]), x)];
        let found = run(&mut Lrn::new(&spec), &bottom, &[], 1, Phase::Test, 1);
        let expected = 4.0_f32.powf(-0.75);
        assert!((found.tops[0].1[3] - expected).abs() < 1e-6, "{:?}", found.tops[0].1);
    }

    #[test]
    fn needs_four_axes() {
        let spec = LrnSpec {
            local_size: 3,
            alpha: 1.0,
            beta: 0.75,
            k: 1.0,
            within_channel: false,
        };
        let refused = Lrn::new(&spec)
            .reshape(&[&Shape::from([2, 3])])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("shape (2, 3), but it has to have four axes"),
            "{refused}"
        );
    }
}
