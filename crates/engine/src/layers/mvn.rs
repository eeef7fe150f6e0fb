//! MVN: takes the mean of each channel away and divides by its standard deviation: `y = (x - mean) / (σ + eps)`.
//!
//! ```prototxt
//! layer { name: "mvn" type: "MVN" bottom: "data" top: "mvn" mvn_param { across_channels: true } }
//! ```
//!
//! As in Caffe a bottom of fewer axes than `(n, c, h, w)` gives a top of four.

use rayon::prelude::*;

use super::{Arity, LayerDef, convolution::sum, vectorized::vectorized};
use crate::{
    LayerError, Shape, kernels,
    layer::{Backward, Forward, Layer},
    spec::MvnSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "MVN",
    summary: "takes the mean away and divides by the standard deviation",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: MvnSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Normalizes channels, or whole images.
pub struct Mvn {
    spec: MvnSpec,
    /// Values that have one mean.
    row: usize,
    /// What each row was divided by in the last pass.
    divisors: Vec<f32>,
}

impl Mvn {
    /// A layer of this description.
    pub fn new(spec: &MvnSpec) -> Self {
        Self {
            spec: spec.clone(),
            row: 0,
            divisors: Vec::new(),
        }
    }
}

fn mean(x: &[f32]) -> f32 {
    (x.chunks(1024).map(|x| f64::from(sum(x))).sum::<f64>() / x.len() as f64) as f32
}

impl Layer for Mvn {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        if shape.num_axes() > 4 {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: "it has to have at most four axes (n, c, h, w): put a Reshape layer before this one".to_owned(),
            });
        }
        let dims: Vec<usize> = (0..4).map(|axis| shape.dim_or_1(axis)).collect();
        let top = Shape::new(dims);
        let first = if self.spec.across_channels { 1 } else { 2 };
        self.row = top.count_from(first).max(1);
        self.divisors.resize(top.count_to(first), 1.0);
        Ok(vec![top])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let MvnSpec {
            normalize_variance,
            eps,
            ..
        } = self.spec;
        let rows = io.top[0]
            .par_chunks_mut(self.row)
            .zip(io.bottom.get(0).par_chunks(self.row));
        rows.zip(&mut self.divisors).for_each(|((y, x), divisor)| {
            let mean = mean(x);
            subtract(mean, x, y);
            if normalize_variance {
                let variance = kernels::sum_of_squares(y) / y.len() as f64;
                *divisor = variance.sqrt() as f32 + eps;
                divide(*divisor, y);
            }
        });
        Ok(())
    }

    /// `dx = (dy - mean(dy) - y·mean(y·dy)) / (σ + eps)`: Caffe's, which leaves `eps` out of the gradient of the root.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (row, normalize_variance) = (self.row, self.spec.normalize_variance);
        let bottoms = io.bottom_diff[0].par_chunks_mut(row);
        let tops = io.top_diff.get(0).par_chunks(row).zip(io.top.get(0).par_chunks(row));
        bottoms
            .zip(tops)
            .zip(&self.divisors)
            .for_each(|((dx, (dy, y)), divisor)| {
                subtract(mean(dy), dy, dx);
                if normalize_variance {
                    let slope = (kernels::dot(y, dy) / row as f64) as f32;
                    kernels::axpy(-slope, y, dx);
                    divide(*divisor, dx);
                }
            });
    }

    fn reads_top_in_backward(&self) -> bool {
        self.spec.normalize_variance
    }
}

/// `y = x - value`
fn subtract(value: f32, x: &[f32], y: &mut [f32]) {
    vectorized(
        #[inline(always)]
        move || y.iter_mut().zip(x).for_each(|(y, x)| *y = x - value),
    );
}

/// `y = y / value`
fn divide(value: f32, y: &mut [f32]) {
    vectorized(
        #[inline(always)]
        move || y.iter_mut().for_each(|y| *y /= value),
    );
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[2, 3, 4, 3]], ""),
    super::case(&[&[2, 3, 2, 2]], "mvn_param { across_channels: true }"),
    super::case(&[&[2, 3, 2, 2]], "mvn_param { normalize_variance: false }"),
    super::case(&[&[3, 5]], "mvn_param { across_channels: true eps: 1e-3 }"),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    fn normalized(params: &str, dims: &[usize], x: &[f32]) -> Result<(String, Vec<f32>), String> {
        let layer = format!("layer {{ name: 'L' type: 'MVN' bottom: 'x' top: 'y' mvn_param {{ {params} }} }}");
        let mut net = net(&format!("{}{layer}", input("x", dims)))?;
        let y = run(&mut net, &[("x", x)])?["y"].clone();
        Ok((net.blob_shape("y").unwrap().to_string(), y))
    }

    #[test]
    fn eps_is_added_to_the_standard_deviation() {
        let found = normalized("across_channels: true eps: 0.5", &[1, 2], &[1.0, 5.0]);
        assert_eq!(found, Ok(("(1, 2, 1, 1)".to_owned(), vec![-0.8, 0.8])));
        let constant = normalized("", &[1, 1, 2, 2], &[3.0; 4]);
        assert_eq!(constant, Ok(("(1, 1, 2, 2)".to_owned(), vec![0.0; 4])));
    }

    #[test]
    fn more_than_four_axes_are_refused() {
        let error = normalized("", &[1, 1, 1, 1, 1], &[0.0]).unwrap_err();
        assert!(
            error.contains("(1, 1, 1, 1, 1), but it has to have at most four axes"),
            "{error}"
        );
    }
}
