//! Softmax: `yᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)` along `axis`.
//!
//! ```prototxt
//! layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }
//! ```
//!
//! Bottom and top are `(outer, classes, inner)` around the axis.

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::SoftmaxSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Softmax",
    summary: "probabilities from scores",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: SoftmaxSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Positions along `inner` that are computed at a time: their sums fit registers, their rows cache lines.
const BLOCK: usize = 32;

/// Turns scores into probabilities.
pub struct Softmax {
    axis: i32,
    classes: usize,
    inner: usize,
}

impl Softmax {
    /// A layer with the classes on `spec.axis`.
    pub fn new(spec: &SoftmaxSpec) -> Self {
        let SoftmaxSpec { axis } = *spec;
        Self {
            axis,
            classes: 0,
            inner: 0,
        }
    }
}

impl Layer for Softmax {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let axis = shape.require_axis(self.axis)?;
        self.classes = shape.dims()[axis];
        self.inner = shape.count_from(axis + 1);
        Ok(vec![shape.clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        if !io.in_place {
            io.top[0].copy_from_slice(io.bottom.get(0));
        }
        softmax(&mut io.top[0], self.classes, self.inner);
        Ok(())
    }

    /// `dxᵢ = yᵢ·(dyᵢ - Σⱼ yⱼ·dyⱼ)`
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        if !io.in_place {
            io.bottom_diff[0].copy_from_slice(io.top_diff.get(0));
        }
        let (inner, image) = (self.inner, self.classes * self.inner);
        let images = io.bottom_diff[0]
            .par_chunks_mut(image)
            .zip(io.top.get(0).par_chunks(image));
        images.for_each(|(diff, y)| {
            for start in (0..inner).step_by(BLOCK) {
                let block = start..inner.min(start + BLOCK);
                let mut dots = [0.0f32; BLOCK];
                for (diff, y) in diff.chunks(inner).zip(y.chunks(inner)) {
                    let pairs = diff[block.clone()].iter().zip(&y[block.clone()]);
                    dots.iter_mut().zip(pairs).for_each(|(dot, (dy, y))| *dot += dy * y);
                }
                for (diff, y) in diff.chunks_mut(inner).zip(y.chunks(inner)) {
                    let pairs = diff[block.clone()].iter_mut().zip(&y[block.clone()]);
                    pairs.zip(&dots).for_each(|((dx, y), dot)| *dx = (*dx - dot) * y);
                }
            }
        });
    }

    fn can_run_in_place(&self) -> bool {
        true
    }

    fn reads_top_in_backward(&self) -> bool {
        true
    }
}

/// Replaces scores `(outer, classes, inner)` by probabilities.
pub fn softmax(values: &mut [f32], classes: usize, inner: usize) {
    values.par_chunks_mut(classes * inner).for_each(|image| {
        for start in (0..inner).step_by(BLOCK) {
            let block = start..inner.min(start + BLOCK);
            // Taking the maximum away changes nothing but keeps the exponential from overflowing.
            let mut maxima = [f32::NEG_INFINITY; BLOCK];
            for row in image.chunks(inner) {
                let pairs = maxima.iter_mut().zip(&row[block.clone()]);
                pairs.for_each(|(maximum, x)| *maximum = maximum.max(*x));
            }
            let mut sums = [0.0f32; BLOCK];
            for row in image.chunks_mut(inner) {
                let row = row[block.clone()].iter_mut();
                row.zip(&maxima).zip(&mut sums).for_each(|((value, maximum), sum)| {
                    *value = (*value - maximum).exp();
                    *sum += *value;
                });
            }
            for row in image.chunks_mut(inner) {
                let pairs = row[block.clone()].iter_mut().zip(&sums);
                pairs.for_each(|(value, sum)| *value /= sum);
            }
        }
    });
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 5]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 5, 7]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[4, 2, 3]],
        params: "softmax_param { axis: -3 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn large_scores_do_not_overflow() {
        let layer = "layer { name: 'L' type: 'Softmax' bottom: 'x' top: 'y' }";
        let mut net = net(&format!("{}{layer}", input("x", &[3, 2]))).unwrap();
        let x = [1e30, -1e30, 1000.0, 1000.0, f32::NAN, 0.0];
        let y = &run(&mut net, &[("x", &x)]).unwrap()["y"];
        assert_eq!(y[..4], [1.0, 0.0, 0.5, 0.5]);
        assert!(y[4].is_nan() && y[5].is_nan(), "a NaN is not hidden");
    }

    #[test]
    fn positions_are_independent() {
        // More positions than a block has, and no multiple of it.
        let (classes, inner) = (3, 70);
        let x: Vec<f32> = (0..classes * inner).map(|i| ((i * 37) % 101) as f32 / 25.0).collect();
        let layer = "layer { name: 'L' type: 'Softmax' bottom: 'x' top: 'y' }";
        let mut net = net(&format!("{}{layer}", input("x", &[1, classes, inner]))).unwrap();
        let y = &run(&mut net, &[("x", &x)]).unwrap()["y"];
        for j in 0..inner {
            let sum: f32 = (0..classes).map(|k| x[k * inner + j].exp()).sum();
            for k in 0..classes {
                let expected = x[k * inner + j].exp() / sum;
                assert!((y[k * inner + j] - expected).abs() < 1e-6, "class {k} of position {j}");
            }
        }
    }
}
