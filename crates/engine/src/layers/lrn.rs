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

use std::ops::Range;

use rayon::prelude::*;

use super::{Arity, LayerDef, vectorized::vectorized};
use crate::{
    LayerError, Shape,
    kernels::pooling::{Axis, Rows, Windows},
    layer::{Backward, Forward, Layer},
    spec::LrnSpec,
};

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

/// Across channels, so many positions are worked on at once, in all channels: what is needed of them stays in the cache.
const BLOCK: usize = 128;

/// Images of no more values are worked on whole: their channels need not be worked on one by one, each with a rest.
const MAX_WHOLE_IMAGE: usize = 128 << 10;

/// Within a channel, about so many values are.
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

/// y = x · s^-beta with s = constant + factor · Σ x².
#[derive(Clone, Copy)]
struct Formula {
    constant: f32,
    factor: f32,
    beta: f32,
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

    /// How many positions are worked on at once across channels.
    fn block(&self) -> usize {
        if self.channels * self.plane <= MAX_WHOLE_IMAGE {
            self.plane
        } else {
            BLOCK.min(self.plane)
        }
    }

    /// The blocks of positions of `images`, as the offset of the first channel's and their number.
    fn blocks(&self, images: &[f32]) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (image, plane, block) = (self.channels * self.plane, self.plane, self.block());
        let starts = move |image| (0..plane).step_by(block).map(move |start| (image, start));
        let starts = (0..images.len()).step_by(image).flat_map(starts);
        starts.map(move |(image, start)| (image + start, block.min(plane - start)))
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

/// Within channels: `x`, `dy`, `y` and `dx` are whole channels (h, w).
impl Lrn {
    #[inline(always)]
    fn forward_planes(&self, buffers: &mut Buffers, x: &[f32], y: &mut [f32]) {
        let sums = &mut buffers.scale[..x.len()];
        add_up([x].into_iter(), |x| x * x, y);
        self.windows.sum(&mut buffers.rows, y, sums);
        self.formula.normalize(sums, x, y);
    }

    #[inline(always)]
    fn backward_planes(&self, buffers: &mut Buffers, values: [&[f32]; 2], dx: &mut [f32]) {
        let (scale, terms) = (&mut buffers.scale[..dx.len()], &mut buffers.terms[..dx.len()]);
        add_up([values[0]].into_iter(), |x| x * x, terms);
        self.windows.sum(&mut buffers.rows, terms, scale);
        self.formula.gradient_terms(values, scale, terms);
        self.windows.sum(&mut buffers.rows, terms, dx);
        self.formula.gradient(values, scale, dx);
    }
}

/// Across channels: a block of positions from `start` on, in all channels of an image.
impl Lrn {
    /// The channels around channel `index`.
    fn around(&self, index: usize) -> Range<usize> {
        index.saturating_sub(self.reach)..(index + self.reach + 1).min(self.channels)
    }

    /// How many runs of neighbouring values a block consists of, and their length: one run if it is a whole image.
    fn lines(&self, count: usize) -> (usize, usize) {
        if count == self.plane {
            (1, self.channels * count)
        } else {
            (self.channels, count)
        }
    }

    /// For each channel of a block, the squares of the channels around it, added up.
    #[inline(always)]
    fn sum_squares(&self, [start, count]: [usize; 2], x: &[f32], sums: &mut [f32]) {
        for channel in 0..self.channels {
            let x_of = |channel: usize| &x[start + channel * self.plane..][..count];
            let sums = &mut sums[channel * count..][..count];
            add_up(self.around(channel).map(x_of), |x| x * x, sums);
        }
    }

    #[inline(always)]
    fn forward_block(&self, buffers: &mut Buffers, [start, count]: [usize; 2], x: &[f32], y: &mut [f32]) {
        let (plane, scale) = (self.plane, &mut buffers.scale);
        self.sum_squares([start, count], x, scale);
        let (lines, length) = self.lines(count);
        for line in 0..lines {
            let values = start + line * plane..start + line * plane + length;
            let sums = &scale[line * count..][..length];
            self.formula.normalize(sums, &x[values.clone()], &mut y[values]);
        }
    }

    #[inline(always)]
    fn backward_block(&self, buffers: &mut Buffers, [start, count]: [usize; 2], [x, dy]: [&[f32]; 2], dx: &mut [f32]) {
        let (plane, Buffers { scale, terms, .. }) = (self.plane, buffers);
        self.sum_squares([start, count], x, scale);
        let (lines, length) = self.lines(count);
        for line in 0..lines {
            let values = start + line * plane..start + line * plane + length;
            let buffer = line * count..line * count + length;
            let (sums, terms) = (&mut scale[buffer.clone()], &mut terms[buffer]);
            self.formula
                .gradient_terms([&x[values.clone()], &dy[values]], sums, terms);
        }
        for channel in 0..self.channels {
            let terms_of = |channel: usize| &terms[channel * count..][..count];
            let dx = &mut dx[start + channel * plane..][..count];
            add_up(self.around(channel).map(terms_of), |term| term, dx);
        }
        for line in 0..lines {
            let values = start + line * plane..start + line * plane + length;
            let powers = &scale[line * count..][..length];
            self.formula
                .gradient([&x[values.clone()], &dy[values.clone()]], powers, &mut dx[values]);
        }
    }
}

impl Formula {
    /// `y = x · s^-beta`.
    #[inline(always)]
    fn normalize(self, sums_of_squares: &[f32], x: &[f32], y: &mut [f32]) {
        // The exponents that nets use go without the slow `powf`.
        match self.beta {
            0.75 => self.normalize_by(power_of_minus_3_4, sums_of_squares, x, y),
            0.5 => self.normalize_by(power_of_minus_1_2, sums_of_squares, x, y),
            beta => self.normalize_by(|s| s.powf(-beta), sums_of_squares, x, y),
        }
    }

    #[inline(always)]
    fn normalize_by(self, power: impl Fn(f32) -> f32, sums_of_squares: &[f32], x: &[f32], y: &mut [f32]) {
        for ((y, x), sum) in y.iter_mut().zip(x).zip(sums_of_squares) {
            *y = power(self.constant + self.factor * sum) * x;
        }
    }

    /// `terms = dy · y / s`; s^-beta takes the place of the sums of squares.
    #[inline(always)]
    fn gradient_terms(self, values: [&[f32]; 2], sums_of_squares: &mut [f32], terms: &mut [f32]) {
        match self.beta {
            0.75 => self.gradient_terms_by(power_of_minus_3_4, values, sums_of_squares, terms),
            0.5 => self.gradient_terms_by(power_of_minus_1_2, values, sums_of_squares, terms),
            beta => self.gradient_terms_by(|s| s.powf(-beta), values, sums_of_squares, terms),
        }
    }

    #[inline(always)]
    fn gradient_terms_by(
        self,
        power: impl Fn(f32) -> f32,
        [x, dy]: [&[f32]; 2],
        sums_of_squares: &mut [f32],
        terms: &mut [f32],
    ) {
        for (((term, sum), x), dy) in terms.iter_mut().zip(sums_of_squares).zip(x).zip(dy) {
            let s = self.constant + self.factor * *sum;
            *sum = power(s);
            *term = dy * x * *sum / s;
        }
    }

    /// `dx`, in which the sums of the neighbours' terms are.
    #[inline(always)]
    fn gradient(self, [x, dy]: [&[f32]; 2], powers: &[f32], dx: &mut [f32]) {
        let slope = 2.0 * self.factor * self.beta;
        for (((dx, power), x), dy) in dx.iter_mut().zip(powers).zip(x).zip(dy) {
            *dx = dy * power - slope * x * *dx;
        }
    }
}

#[inline(always)]
fn power_of_minus_3_4(s: f32) -> f32 {
    1.0 / (s.sqrt() * s.sqrt().sqrt())
}

#[inline(always)]
fn power_of_minus_1_2(s: f32) -> f32 {
    1.0 / s.sqrt()
}

/// Adds up what `f` makes of rows of equal length.
#[inline(always)]
fn add_up<'a>(mut rows: impl Iterator<Item = &'a [f32]>, f: impl Fn(f32) -> f32, sums: &mut [f32]) {
    if let Some(row) = rows.next() {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum = f(*value));
    }
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f(*value));
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
