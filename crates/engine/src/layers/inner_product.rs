//! InnerProduct: `y = x · Wᵀ + b`, each row of `x` being all axes from `axis` on.
//!
//! ```prototxt
//! layer {
//!   name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
//!   inner_product_param { num_output: 500 weight_filler { type: "xavier" } }
//! }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    kernels::{self, Matrix, Workspace},
    layer::{Backward, Forward, Layer, ParamBlob},
    spec::InnerProductSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "InnerProduct",
    summary: "a matrix product with learned weights",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: InnerProductSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Outputs whose bias gradients a thread sums at a time.
const CHUNK: usize = 256;

/// Multiplies rows with learned weights, (outputs, inputs) or with `transpose` (inputs, outputs).
pub struct InnerProduct {
    spec: InnerProductSpec,
    /// The extents of the axes that are joined to a row, and how many rows there are.
    inputs: usize,
    rows: usize,
    workspaces: Vec<Workspace>,
}

impl InnerProduct {
    /// A layer of this description.
    pub fn new(spec: &InnerProductSpec) -> Self {
        Self {
            spec: spec.clone(),
            inputs: 0,
            rows: 0,
            workspaces: Vec::new(),
        }
    }

    /// The weights as a matrix (inputs, outputs).
    fn matrix<'a>(&self, weight: &'a [f32]) -> Matrix<'a> {
        if self.spec.transpose {
            Matrix::row_major(weight, self.spec.num_output)
        } else {
            Matrix::row_major(weight, self.inputs).transposed()
        }
    }
}

impl Layer for InnerProduct {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let bottom = bottom[0];
        let axis = bottom.require_axis(self.spec.axis)?;
        let inputs = bottom.count_from(axis);
        if self.inputs != 0 && inputs != self.inputs {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: bottom.clone(),
                fact: format!(
                    "the weights are for {} values a row: only the axes before {axis} may change",
                    self.inputs
                ),
            });
        }
        (self.inputs, self.rows) = (inputs, bottom.count_to(axis));
        let top = Shape::new([&bottom.dims()[..axis], &[self.spec.num_output]].concat());
        let weight = Shape::from([self.spec.num_output, inputs]);
        match weight.checked_count() {
            Some(_) => Ok(vec![top]),
            None => Err(LayerError::TooLarge { shape: weight }),
        }
    }

    fn params(&self) -> Vec<ParamBlob> {
        let InnerProductSpec {
            num_output,
            bias_term,
            transpose,
            weight_filler,
            bias_filler,
            ..
        } = &self.spec;
        let shape = if *transpose {
            [self.inputs, *num_output]
        } else {
            [*num_output, self.inputs]
        };
        let bias_filler = bias_term.then_some(bias_filler);
        ParamBlob::weight_and_bias(Shape::from(shape), weight_filler, *num_output, bias_filler)
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.workspaces.resize_with(io.context.threads, Workspace::default);
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.spec.num_output);
        let top = &mut io.top[0];
        let (x, weight) = (Matrix::row_major(io.bottom.get(0), inputs), self.matrix(&io.params[0]));
        kernels::gemm_parallel(
            &mut self.workspaces,
            rows,
            outputs,
            inputs,
            x,
            weight,
            top,
            outputs,
            false,
        );
        // After the product, as in Caffe: it is rounded once more.
        if self.spec.bias_term {
            let bias = &io.params[1];
            top.par_chunks_mut(outputs)
                .for_each(|row| kernels::axpy(1.0, bias, row));
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        self.workspaces.resize_with(io.context.threads, Workspace::default);
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.spec.num_output);
        let x = Matrix::row_major(io.bottom.get(0), inputs);
        let dy = Matrix::row_major(io.top_diff.get(0), outputs);
        if io.param_propagate_down[0] {
            let diff = io.param_diff.get_mut(0);
            let workspaces = &mut self.workspaces;
            if self.spec.transpose {
                kernels::gemm_parallel(
                    workspaces,
                    inputs,
                    outputs,
                    rows,
                    x.transposed(),
                    dy,
                    diff,
                    outputs,
                    true,
                );
            } else {
                kernels::gemm_parallel(
                    workspaces,
                    outputs,
                    inputs,
                    rows,
                    dy.transposed(),
                    x,
                    diff,
                    inputs,
                    true,
                );
            }
        }
        if self.spec.bias_term && io.param_propagate_down[1] {
            let top_diff = io.top_diff.get(0);
            let chunks = io.param_diff.get_mut(1).par_chunks_mut(CHUNK).enumerate();
            chunks.for_each(|(chunk, diff)| {
                for row in top_diff.chunks_exact(outputs) {
                    diff.iter_mut()
                        .zip(&row[chunk * CHUNK..])
                        .for_each(|(diff, dy)| *diff += dy);
                }
            });
        }
        if io.propagate_down[0] {
            let weight = self.matrix(&io.params[0]).transposed();
            let diff = &mut io.bottom_diff[0];
            kernels::gemm_parallel(
                &mut self.workspaces,
                rows,
                inputs,
                outputs,
                dy,
                weight,
                diff,
                inputs,
                false,
            );
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[3, 2, 2, 2]], "inner_product_param { num_output: 5 }"),
    super::case(&[&[3, 7]], "inner_product_param { num_output: 4 bias_term: false }"),
    super::case(&[&[3, 7]], "inner_product_param { num_output: 4 transpose: true }"),
    super::case(&[&[2, 3, 5]], "inner_product_param { num_output: 4 axis: -1 }"),
    super::case(&[&[2, 3]], "inner_product_param { num_output: 2 axis: 0 }"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Phase,
        filler::Filler,
        layers::harness::{assert_close, normal, run},
    };

    fn spec(num_output: usize) -> InnerProductSpec {
        InnerProductSpec {
            num_output,
            bias_term: true,
            axis: 1,
            transpose: false,
            weight_filler: Filler::Constant(0.0),
            bias_filler: Filler::Constant(0.0),
        }
    }

    #[test]
    fn matches_the_definition() {
        for (rows, inputs, outputs) in [(1, 1, 1), (5, 7, 3), (2, 70, 600), (33, 17, 65)] {
            for (transpose, bias_term) in [(false, true), (true, true), (false, false), (true, false)] {
                let shape = Shape::from([rows, inputs]);
                let (x, weight, bias) = (
                    normal(1, rows * inputs),
                    normal(2, inputs * outputs),
                    normal(3, outputs),
                );
                let mut layer = InnerProduct::new(&InnerProductSpec {
                    transpose,
                    bias_term,
                    ..spec(outputs)
                });
                let params = if bias_term {
                    vec![weight.clone(), bias.clone()]
                } else {
                    vec![weight.clone()]
                };
                for threads in 1..=3 {
                    let bottom = [(shape.clone(), x.clone())];
                    let found = run(&mut layer, &bottom, &params, 1, Phase::Train, threads);
                    let dy = &found.top_diffs[0];
                    let mut y = if bias_term {
                        bias.repeat(rows)
                    } else {
                        vec![0.0; rows * outputs]
                    };
                    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
                    for row in 0..rows {
                        for output in 0..outputs {
                            for input in 0..inputs {
                                let w = if transpose {
                                    input * outputs + output
                                } else {
                                    output * inputs + input
                                };
                                y[row * outputs + output] += x[row * inputs + input] * weight[w];
                                dx[row * inputs + input] += dy[row * outputs + output] * weight[w];
                                dw[w] += dy[row * outputs + output] * x[row * inputs + input];
                            }
                        }
                    }
                    assert_eq!(found.tops[0].0, Shape::from([rows, outputs]));
                    assert_close("y", &found.tops[0].1, &y, 1e-5);
                    assert_close("dx", &found.bottom_diffs[0], &dx, 1e-5);
                    assert_close("dw", &found.param_diffs[0], &dw, 1e-5);
                    if bias_term {
                        let db: Vec<f32> = (0..outputs).map(|o| dy.iter().skip(o).step_by(outputs).sum()).collect();
                        assert_close("db", &found.param_diffs[1], &db, 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn axes_before_the_axis_are_rows() {
        let top = |axis: i32| {
            let mut layer = InnerProduct::new(&InnerProductSpec { axis, ..spec(9) });
            let top = layer.reshape(&[&Shape::from([2, 3, 4, 5])]).unwrap().remove(0);
            (top, layer.params()[0].shape.clone())
        };
        assert_eq!(top(1), (Shape::from([2, 9]), Shape::from([9, 60])));
        assert_eq!(top(-1), (Shape::from([2, 3, 4, 9]), Shape::from([9, 5])));
        assert_eq!(top(0), (Shape::from([9]), Shape::from([9, 120])));
        let mut layer = InnerProduct::new(&InnerProductSpec {
            transpose: true,
            ..spec(9)
        });
        layer.reshape(&[&Shape::from([2, 3])]).unwrap();
        assert_eq!(layer.params()[0].shape, Shape::from([3, 9]));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_remedy() {
        let mut layer = InnerProduct::new(&InnerProductSpec { axis: 2, ..spec(9) });
        let refused = layer.reshape(&[&Shape::from([2, 3])]).unwrap_err();
        assert_eq!(refused.to_string(), "axis 2 does not exist in bottom 0 of shape (2, 3)");
        let mut layer = InnerProduct::new(&spec(9));
        assert!(layer.reshape(&[&Shape::from([2, 3])]).is_ok());
        assert!(
            layer.reshape(&[&Shape::from([4, 3])]).is_ok(),
            "more rows need no other weights"
        );
        let refused = layer.reshape(&[&Shape::from([4, 2])]).unwrap_err().to_string();
        assert!(refused.contains("the weights are for 3 values a row"), "{refused}");
        let refused = InnerProduct::new(&spec(u32::MAX as usize)).reshape(&[&Shape::from([1, 3])]);
        assert!(matches!(refused, Err(LayerError::TooLarge { .. })));
    }
}
