//! Reduction: `coeff` times the sum, the sum of magnitudes, the sum of squares or the mean of all axes from `axis` on.
//!
//! ```prototxt
//! layer {
//!   name: "l1" type: "Reduction" bottom: "weights" top: "l1" loss_weight: 0.01
//!   reduction_param { operation: ASUM }
//! }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, convolution::sum, neuron::CHUNK, vectorized::vectorized};
use crate::{
    LayerError, Shape, kernels,
    layer::{Backward, Forward, Layer},
    spec::{ReductionOperation, ReductionSpec},
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Reduction",
    summary: "the sum or mean of values, magnitudes or squares",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ReductionSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Reduces the last axes.
pub struct Reduction {
    spec: ReductionSpec,
    /// Values that are reduced to one.
    row: usize,
    /// `coeff`, of a mean divided by their number.
    factor: f32,
}

impl Reduction {
    /// A layer of this description.
    pub fn new(spec: &ReductionSpec) -> Self {
        Self {
            spec: spec.clone(),
            row: 0,
            factor: 1.0,
        }
    }
}

/// What a part of a row adds to the result.
fn part(operation: ReductionOperation, x: &[f32]) -> f64 {
    match operation {
        ReductionOperation::Sum | ReductionOperation::Mean => f64::from(sum(x)),
        ReductionOperation::AbsoluteSum => f64::from(x.iter().map(|x| x.abs()).sum::<f32>()),
        ReductionOperation::SumOfSquares => kernels::sum_of_squares(x),
    }
}

/// The sum over a row, on all threads, in an order that depends on its length alone.
fn reduce(operation: ReductionOperation, x: &[f32]) -> f64 {
    if x.len() <= CHUNK {
        return x.chunks(1024).map(|x| part(operation, x)).sum();
    }
    let (left, right) = x.split_at(x.len() / 2);
    let (left, right) = rayon::join(|| reduce(operation, left), || reduce(operation, right));
    left + right
}

impl Layer for Reduction {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let axis = shape.require_axis(self.spec.axis)?;
        self.row = shape.count_from(axis);
        self.factor = match self.spec.operation {
            ReductionOperation::Mean => self.spec.coeff / self.row as f32,
            _ => self.spec.coeff,
        };
        Ok(vec![Shape::new(&shape.dims()[..axis])])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (operation, factor) = (self.spec.operation, self.factor);
        let rows = io.top[0]
            .par_iter_mut()
            .zip(io.bottom.get(0).par_chunks(self.row.max(1)));
        rows.for_each(|(y, x)| *y = reduce(operation, x) as f32 * factor);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (operation, factor, row) = (self.spec.operation, self.factor, self.row.max(1));
        let rows = io.bottom_diff[0]
            .par_chunks_mut(row)
            .zip(io.bottom.get(0).par_chunks(row));
        rows.zip(io.top_diff.get(0)).for_each(|((dx, x), dy)| {
            let slope = dy * factor;
            let chunks = dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
            chunks.for_each(|(dx, x)| gradient(operation, slope, x, dx));
        });
    }
}

fn gradient(operation: ReductionOperation, slope: f32, x: &[f32], dx: &mut [f32]) {
    vectorized(
        #[inline(always)]
        move || match operation {
            ReductionOperation::Sum | ReductionOperation::Mean => dx.fill(slope),
            ReductionOperation::AbsoluteSum => {
                let sign = |x: f32| f32::from(i8::from(x > 0.0) - i8::from(x < 0.0));
                dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = slope * sign(*x));
            }
            ReductionOperation::SumOfSquares => {
                dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = 2.0 * slope * x);
            }
        },
    );
}

#[cfg(test)]
const fn case(bottoms: &'static [&'static [usize]], params: &'static str) -> super::GradientCase {
    super::GradientCase {
        fill: super::Fill::AwayFromZero,
        ..super::case(bottoms, params)
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case(&[&[3, 4]], ""),
    case(&[&[3, 2, 4]], "reduction_param { axis: 1 operation: MEAN coeff: 3 }"),
    case(
        &[&[3, 2, 4]],
        "reduction_param { axis: -1 operation: ASUM coeff: -1.5 }",
    ),
    case(&[&[2, 5]], "reduction_param { axis: 1 operation: SUMSQ coeff: 0.5 }"),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn long_rows_are_summed_whole() {
        let count = 3 * super::CHUNK + 5;
        let x: Vec<f32> = (0..count).map(|i| if i % 2 == 0 { 1.0 } else { -0.5 }).collect();
        let (even, odd) = (count.div_ceil(2) as f32, (count / 2) as f32);
        for (operation, expected) in [
            ("SUM", even - 0.5 * odd),
            ("ASUM", even + 0.5 * odd),
            ("SUMSQ", even + 0.25 * odd),
            ("MEAN", (even - 0.5 * odd) / count as f32),
        ] {
            let layer = format!(
                "layer {{ name: 'L' type: 'Reduction' bottom: 'x' top: 'y'
                   reduction_param {{ operation: {operation} coeff: 2 }} }}"
            );
            let mut net = net(&format!("{}{layer}", input("x", &[count]))).unwrap();
            let y = run(&mut net, &[("x", &x)]).unwrap()["y"].clone();
            assert!((y[0] - 2.0 * expected).abs() <= 1e-6 * expected, "{operation}: {y:?}");
            assert_eq!(net.blob_shape("y").unwrap().num_axes(), 0);
        }
    }

    #[test]
    fn a_scalar_has_no_axis_to_reduce() {
        let scalar = "layer { name: 'p' type: 'Parameter' top: 'x' }";
        let error = net(&format!(
            "{scalar} layer {{ name: 'L' type: 'Reduction' bottom: 'x' top: 'y' }}"
        ));
        assert!(
            error
                .err()
                .unwrap()
                .contains("axis 0 does not exist in bottom 0 of shape ()")
        );
    }
}
