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

use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LrnSpec,
};

/// Normalises each value by its neighbours' squares.
pub struct Lrn {
    /// s = constant + factor · Σ x².
    constant: f32,
    factor: f32,
    beta: f32,
    region: Region,
    /// s of each value, kept for backward.
    scale: Vec<f32>,
    /// Each thread's buffers.
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    /// Of one image: what is summed over neighbours.
    values: Vec<f32>,
    /// Of one image: s^-beta; only backward needs it.
    powers: Vec<f32>,
    /// Of one channel.
    row_sums: Vec<f32>,
}

/// Which values are neighbours, in images (c, h, w).
struct Region {
    within_channel: bool,
    /// How far neighbours lie apart at most.
    reach: usize,
    images: usize,
    channels: usize,
    height: usize,
    width: usize,
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
        let region = Region {
            within_channel,
            reach: (local_size - 1) / 2,
            images: 0,
            channels: 0,
            height: 0,
            width: 0,
        };
        Self {
            constant,
            factor,
            beta,
            region,
            scale: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Sizes the buffers; returns how many values the images of one part have.
    fn prepare(&mut self, threads: usize) -> usize {
        let region = &self.region;
        self.scale.resize(region.images * region.image_count(), 0.0);
        self.parts.resize_with(threads, Part::default);
        for part in &mut self.parts {
            part.values.resize(region.image_count(), 0.0);
            part.row_sums.resize(
                if region.within_channel {
                    region.height * region.width
                } else {
                    0
                },
                0.0,
            );
        }
        region.images.div_ceil(threads).max(1) * region.image_count()
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
        self.region = Region {
            images,
            channels,
            height,
            width,
            ..self.region
        };
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let chunk = self.prepare(io.context.threads);
        let (region, constant, factor, beta) = (&self.region, self.constant, self.factor, self.beta);
        let values = io.top[0].par_chunks_mut(chunk).zip(io.bottom.get(0).par_chunks(chunk));
        let parts = self
            .parts
            .par_iter_mut()
            .zip(self.scale.par_chunks_mut(chunk))
            .zip(values)
            .with_max_len(1);
        parts.for_each(|((part, scale), (y, x))| {
            let size = region.image_count();
            let images = y
                .chunks_exact_mut(size)
                .zip(x.chunks_exact(size))
                .zip(scale.chunks_exact_mut(size));
            for ((y, x), s) in images {
                part.values.iter_mut().zip(x).for_each(|(square, x)| *square = x * x);
                region.sum_neighbours(&part.values, &mut part.row_sums, s);
                s.iter_mut().for_each(|s| *s = constant + factor * *s);
                power(s, -beta, y);
                y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
            }
        });
        Ok(())
    }

    /// `dx = dy · s^-beta - 2 · factor · beta · x · Σ dy · y / s`, the sum over the same neighbours.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let chunk = self.prepare(io.context.threads);
        let (region, beta, slope) = (&self.region, self.beta, 2.0 * self.factor * self.beta);
        let values = io
            .top_diff
            .get(0)
            .par_chunks(chunk)
            .zip(io.bottom.get(0).par_chunks(chunk));
        let diff = io.bottom_diff[0]
            .par_chunks_mut(chunk)
            .zip(self.scale.par_chunks(chunk));
        let parts = self.parts.par_iter_mut().zip(diff).zip(values).with_max_len(1);
        parts.for_each(|((part, (dx, scale)), (dy, x))| {
            let size = region.image_count();
            part.powers.resize(size, 0.0);
            let images = dx.chunks_exact_mut(size).zip(scale.chunks_exact(size));
            for ((dx, s), (dy, x)) in images.zip(dy.chunks_exact(size).zip(x.chunks_exact(size))) {
                power(s, -beta, &mut part.powers);
                let ratios = part.values.iter_mut().zip(&part.powers);
                ratios
                    .zip(s)
                    .zip(dy.iter().zip(x))
                    .for_each(|(((ratio, p), s), (dy, x))| *ratio = dy * x * p / s);
                region.sum_neighbours(&part.values, &mut part.row_sums, dx);
                let sums = dx.iter_mut().zip(&part.powers);
                sums.zip(dy.iter().zip(x))
                    .for_each(|((dx, p), (dy, x))| *dx = dy * p - slope * x * *dx);
            }
        });
    }
}

impl Region {
    /// Values in an image.
    fn image_count(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The indices within `reach` of `index`, of `count` that there are.
    fn around(&self, index: usize, count: usize) -> Range<usize> {
        index.saturating_sub(self.reach)..(index + self.reach + 1).min(count)
    }

    /// Sums up, for each value of an image, its neighbours and itself. `row_sums` has room for a channel.
    fn sum_neighbours(&self, values: &[f32], row_sums: &mut [f32], sums: &mut [f32]) {
        let plane = self.height * self.width;
        if !self.within_channel {
            return self.sum_lines(values, plane, sums);
        }
        for (values, sums) in values.chunks_exact(plane).zip(sums.chunks_exact_mut(plane)) {
            let rows = values
                .chunks_exact(self.width)
                .zip(row_sums.chunks_exact_mut(self.width));
            for (values, sums) in rows {
                sums.copy_from_slice(values);
                for distance in 1..=self.reach.min(self.width - 1) {
                    let rest = self.width - distance;
                    sums[..rest]
                        .iter_mut()
                        .zip(&values[distance..])
                        .for_each(|(sum, value)| *sum += value);
                    sums[distance..]
                        .iter_mut()
                        .zip(&values[..rest])
                        .for_each(|(sum, value)| *sum += value);
                }
            }
            self.sum_lines(row_sums, self.width, sums);
        }
    }

    /// Sums up, for each of the lines that `values` consists of, its neighbours and itself.
    fn sum_lines(&self, values: &[f32], line: usize, sums: &mut [f32]) {
        for (i, sums) in sums.chunks_exact_mut(line).enumerate() {
            let around = self.around(i, values.len() / line);
            sums.copy_from_slice(&values[around.start * line..][..line]);
            for neighbour in values[(around.start + 1) * line..around.end * line].chunks_exact(line) {
                sums.iter_mut().zip(neighbour).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}

/// Writes `values` to the power of `exponent`; the exponents that nets use without the slow `powf`.
fn power(values: &[f32], exponent: f32, powers: &mut [f32]) {
    let pairs = powers.iter_mut().zip(values);
    if exponent == -0.75 {
        pairs.for_each(|(power, value)| *power = 1.0 / (value.sqrt() * value.sqrt().sqrt()));
    } else if exponent == -0.5 {
        pairs.for_each(|(power, value)| *power = 1.0 / value.sqrt());
    } else {
        pairs.for_each(|(power, value)| *power = value.powf(exponent));
    }
}

#[cfg(test)]
const fn case(bottoms: &'static [&'static [usize]], params: &'static str) -> super::GradientCase {
    super::GradientCase {
        bottoms,
        params,
        tops: 1,
        fill: super::Fill::Normal,
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case(&[&[2, 7, 2, 3]], "lrn_param { local_size: 5 alpha: 1.0 beta: 0.75 }"),
    case(
        &[&[2, 2, 2, 3]],
        "lrn_param { local_size: 5 alpha: 2.0 beta: 0.5 k: 2.0 }",
    ),
    case(&[&[1, 4, 2, 2]], "lrn_param { local_size: 1 alpha: 0.5 beta: 1.3 }"),
    case(
        &[&[2, 2, 4, 5]],
        "lrn_param { local_size: 3 alpha: 2.0 beta: 0.75 norm_region: WITHIN_CHANNEL }",
    ),
    case(
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
                    for dims in [[1, 1, 1, 1], [2, 7, 2, 3], [4, 3, 5, 4]] {
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
