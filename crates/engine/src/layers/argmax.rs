//! ArgMax: where the `top_k` greatest values lie, the greatest first; of equal values the last comes first.
//!
//! ```prototxt
//! layer { name: "best" type: "ArgMax" bottom: "prob" top: "best" argmax_param { top_k: 5 } }
//! ```
//!
//! Without `axis` all axes after the first are one: the top is `(n, 1, top_k)`, indices, or with `out_max_val`
//! `(n, 2, top_k)`, indices and values; a bottom of more than three axes gets a top of as many. With `axis` that axis
//! has extent `top_k` in the top, of indices, or with `out_max_val` of values.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::{Arity, LayerDef, vectorized::vectorized};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::ArgMaxSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "ArgMax",
    summary: "where the greatest values lie",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ArgMaxSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it chooses"),
};

/// Neighbouring positions that are looked at together: their rows fill cache lines.
const BLOCK: usize = 32;

/// Finds the greatest values.
pub struct ArgMax {
    spec: ArgMaxSpec,
    /// The bottom is (outer, extent, inner) around the axis.
    outer: usize,
    extent: usize,
    inner: usize,
    /// The candidates of one position, for each thread.
    candidates: Vec<Vec<(f32, usize)>>,
}

impl ArgMax {
    /// A layer of this description.
    pub fn new(spec: &ArgMaxSpec) -> Self {
        Self {
            spec: spec.clone(),
            outer: 0,
            extent: 0,
            inner: 0,
            candidates: Vec::new(),
        }
    }

    /// Whether each index has its value beside it.
    fn gives_both(&self) -> bool {
        self.spec.out_max_val && self.spec.axis.is_none()
    }

    /// Writes what is given of the candidates, the best first, to their places in `y`.
    fn write(&self, best: impl Iterator<Item = (f32, usize)>, y: &mut [f32], column: usize) {
        let top_k = self.spec.top_k;
        for (rank, (value, index)) in best.enumerate() {
            let place = rank * self.inner + column;
            if self.gives_both() {
                (y[place], y[place + top_k]) = (index as f32, value);
            } else {
                y[place] = if self.spec.out_max_val { value } else { index as f32 };
            }
        }
    }

    /// The best of each position of one step of the outer axes.
    fn best(&self, x: &[f32], y: &mut [f32]) {
        let inner = self.inner;
        for start in (0..inner).step_by(BLOCK) {
            let width = BLOCK.min(inner - start);
            let (mut values, mut indices) = ([f32::NEG_INFINITY; BLOCK], [0u32; BLOCK]);
            let (best, places) = (&mut values, &mut indices);
            vectorized(
                #[inline(always)]
                move || {
                    for (row, index) in x.chunks_exact(inner).zip(0..) {
                        let row = row[start..start + width].iter();
                        for ((best, place), value) in best.iter_mut().zip(&mut *places).zip(row) {
                            let is_better = *value >= *best || value.is_nan();
                            *best = if is_better { *value } else { *best };
                            *place = if is_better { index } else { *place };
                        }
                    }
                },
            );
            for (i, best) in values.iter().zip(indices).take(width).enumerate() {
                self.write([(*best.0, best.1 as usize)].into_iter(), y, start + i);
            }
        }
    }

    /// The `top_k` best of each position of one step of the outer axes.
    fn several_best(&self, candidates: &mut Vec<(f32, usize)>, x: &[f32], y: &mut [f32]) {
        let top_k = self.spec.top_k;
        for column in 0..self.inner {
            candidates.clear();
            let values = x.iter().skip(column).step_by(self.inner).copied();
            candidates.extend(values.zip(0..));
            if top_k < candidates.len() {
                candidates.select_nth_unstable_by(top_k, order);
            }
            candidates[..top_k].sort_unstable_by(order);
            self.write(candidates[..top_k].iter().copied(), y, column);
        }
    }
}

/// The greater value first, a NaN before all; of equal ones the later first, as Caffe sorts pairs.
fn order(a: &(f32, usize), b: &(f32, usize)) -> Ordering {
    let values = b.0.partial_cmp(&a.0).unwrap_or(b.0.is_nan().cmp(&a.0.is_nan()));
    values.then(b.1.cmp(&a.1))
}

impl Layer for ArgMax {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let (shape, top_k) = (bottom[0], self.spec.top_k);
        let top = if let Some(axis) = self.spec.axis {
            let axis = shape.require_axis(axis)?;
            (self.outer, self.extent) = (shape.count_to(axis), shape.dims()[axis]);
            self.inner = shape.count_from(axis + 1);
            let mut dims = shape.dims().to_vec();
            dims[axis] = top_k;
            dims
        } else {
            (self.outer, self.extent, self.inner) = (shape.dim_or_1(0), shape.count_from(1), 1);
            let mut dims = vec![1; shape.num_axes().max(3)];
            (dims[0], dims[1], dims[2]) = (self.outer, if self.gives_both() { 2 } else { 1 }, top_k);
            dims
        };
        if top_k > self.extent {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: format!("there are only {} values for top_k {top_k}: lower top_k", self.extent),
            });
        }
        Ok(vec![Shape::new(top)])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let parts = io.context.threads;
        let mut all = std::mem::take(&mut self.candidates);
        all.resize_with(parts, Vec::new);
        let layer = &*self;
        let (bottom_row, kept) = (layer.extent * layer.inner, layer.spec.top_k * layer.inner);
        let top_row = if layer.gives_both() { 2 * kept } else { kept };
        let rows = layer.outer.div_ceil(parts).max(1);
        let bottoms = io.bottom.get(0).par_chunks(rows * bottom_row);
        let tops = io.top[0].par_chunks_mut(rows * top_row);
        let work = all.par_iter_mut().zip(bottoms).zip(tops).with_max_len(1);
        work.for_each(|((candidates, x), y)| {
            for (x, y) in x.chunks_exact(bottom_row).zip(y.chunks_exact_mut(top_row)) {
                if layer.spec.top_k == 1 {
                    layer.best(x, y);
                } else {
                    layer.several_best(candidates, x, y);
                }
            }
        });
        self.candidates = all;
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}

    fn bottom_gradient(&self, _bottom: usize) -> BottomGradient {
        BottomGradient::Step
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    /// The top's shape and values.
    fn argmax(params: &str, dims: &[usize], x: &[f32]) -> Result<(String, Vec<f32>), String> {
        let layer = format!("layer {{ name: 'L' type: 'ArgMax' bottom: 'x' top: 'y' argmax_param {{ {params} }} }}");
        let mut net = net(&format!("{}{layer}", input("x", dims)))?;
        let y = run(&mut net, &[("x", x)])?["y"].clone();
        Ok((net.blob_shape("y").unwrap().to_string(), y))
    }

    #[test]
    fn every_option_has_its_shape() {
        let x = [1.0, 5.0, 3.0, 9.0, 8.0, 7.0];
        let expect = |params: &str, dims: &[usize], shape: &str, y: &[f32]| {
            assert_eq!(
                argmax(params, dims, &x),
                Ok((shape.to_owned(), y.to_vec())),
                "{params} {dims:?}"
            );
        };
        expect("", &[2, 3], "(2, 1, 1)", &[1.0, 0.0]);
        expect("top_k: 2", &[2, 3], "(2, 1, 2)", &[1.0, 2.0, 0.0, 1.0]);
        expect("out_max_val: true", &[2, 3], "(2, 2, 1)", &[1.0, 5.0, 0.0, 9.0]);
        expect(
            "top_k: 2 out_max_val: true",
            &[1, 1, 2, 3],
            "(1, 2, 2, 1)",
            &[3.0, 4.0, 9.0, 8.0],
        );
        expect("axis: -2", &[2, 3], "(1, 3)", &[1.0, 1.0, 1.0]);
        expect("axis: 0 out_max_val: true", &[2, 3], "(1, 3)", &[9.0, 8.0, 7.0]);
        expect("axis: 0 top_k: 2", &[3, 2], "(2, 2)", &[2.0, 1.0, 1.0, 2.0]);
        expect("", &[6], "(6, 1, 1)", &[0.0; 6]);
    }

    #[test]
    fn of_equal_values_the_last_comes_first_and_a_nan_before_all() {
        let best = |params: &str, x: &[f32]| argmax(params, &[1, x.len()], x).unwrap().1;
        let infinity = f32::INFINITY;
        assert_eq!(best("", &[2.0, 2.0, 1.0]), [1.0]);
        assert_eq!(best("top_k: 3", &[2.0, 2.0, 1.0]), [1.0, 0.0, 2.0]);
        assert_eq!(best("", &[-infinity, -infinity]), [1.0]);
        assert_eq!(best("top_k: 2", &[1.0, f32::NAN, infinity]), [1.0, 2.0]);
        assert_eq!(best("", &[1.0, f32::NAN, infinity]), [1.0]);
    }

    #[test]
    fn more_than_there_are_is_refused() {
        let error = argmax("top_k: 4", &[2, 3], &[0.0; 6]).unwrap_err();
        assert!(error.contains("(2, 3)") && error.contains("top_k 4"), "{error}");
        let error = argmax("axis: 2", &[2, 3], &[0.0; 6]).unwrap_err();
        assert!(error.contains("axis 2 does not exist"), "{error}");
    }
}
