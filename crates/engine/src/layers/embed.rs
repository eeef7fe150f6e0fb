//! Embed: the row of a learned table that each value of the bottom names, plus a bias.
//!
//! ```prototxt
//! layer {
//!   name: "embed" type: "Embed" bottom: "words" top: "embed"
//!   embed_param { input_dim: 8801 num_output: 1000 weight_filler { type: "uniform" min: -0.08 max: 0.08 } }
//! }
//! ```
//!
//! A bottom `(…)` gives `(…, num_output)`; the table is `(input_dim, num_output)`. The bottom has no gradient.

use rayon::prelude::*;

use super::{Arity, LayerDef, index};
use crate::{
    LayerError, Shape, kernels,
    layer::{Backward, BottomGradient, Forward, Layer, ParamBlob},
    spec::EmbedSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Embed",
    summary: "learned vectors by their indices",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: EmbedSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Outputs whose bias gradients a thread sums at a time.
const CHUNK: usize = 256;

/// Looks vectors up.
pub struct Embed {
    spec: EmbedSpec,
    /// The rows that the last pass took.
    rows: Vec<usize>,
}

impl Embed {
    /// A layer of this description.
    pub fn new(spec: &EmbedSpec) -> Self {
        Self {
            spec: spec.clone(),
            rows: Vec::new(),
        }
    }
}

impl Layer for Embed {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![Shape::new([bottom[0].dims(), &[self.spec.num_output]].concat())])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let EmbedSpec {
            num_output,
            input_dim,
            bias_term,
            weight_filler,
            bias_filler,
        } = &self.spec;
        let bias_filler = bias_term.then_some(bias_filler);
        ParamBlob::weight_and_bias(
            Shape::from([*input_dim, *num_output]),
            weight_filler,
            *num_output,
            bias_filler,
        )
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (outputs, count) = (self.spec.num_output, self.spec.input_dim);
        let remedy = "raise input_dim, or check the data";
        index::rows(io.bottom.get(0), 0, count, "indices", remedy, &mut self.rows)?;
        let (weight, bias) = (&io.params[0], self.spec.bias_term.then(|| &io.params[1]));
        let tops = io.top[0].par_chunks_mut(outputs).zip(&self.rows);
        tops.for_each(|(y, row)| {
            y.copy_from_slice(&weight[row * outputs..][..outputs]);
            if let Some(bias) = bias {
                kernels::axpy(1.0, bias, y);
            }
        });
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let (outputs, dy) = (self.spec.num_output, io.top_diff.get(0));
        if io.param_propagate_down[0] {
            // Each thread has rows of its own and looks for them in the order of the bottom.
            let part = self.spec.input_dim.div_ceil(io.context.threads);
            let parts = io.param_diff.get_mut(0).par_chunks_mut(part * outputs).enumerate();
            parts.with_max_len(1).for_each(|(i, diff)| {
                let first = i * part;
                let own = first..first + diff.len() / outputs;
                for (row, dy) in self.rows.iter().zip(dy.chunks_exact(outputs)) {
                    if own.contains(row) {
                        kernels::axpy(1.0, dy, &mut diff[(row - first) * outputs..][..outputs]);
                    }
                }
            });
        }
        if self.spec.bias_term && io.param_propagate_down[1] {
            let chunks = io.param_diff.get_mut(1).par_chunks_mut(CHUNK).enumerate();
            chunks.for_each(|(chunk, diff)| {
                for row in dy.chunks_exact(outputs) {
                    kernels::axpy(1.0, &row[chunk * CHUNK..][..diff.len()], diff);
                }
            });
        }
    }

    fn bottom_gradient(&self, _bottom: usize) -> BottomGradient {
        BottomGradient::Label("indices")
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[4, 3]],
        params: "embed_param { num_output: 5 input_dim: 7 }",
        tops: 1,
        fill: super::Fill::Labels(7),
    },
    super::GradientCase {
        bottoms: &[&[5]],
        params: "embed_param { num_output: 3 input_dim: 2 bias_term: false }",
        tops: 1,
        fill: super::Fill::Labels(2),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn an_index_out_of_range_is_refused_by_name() {
        let layer = "layer { name: 'L' type: 'Embed' bottom: 'x' top: 'y' embed_param { num_output: 2 input_dim: 9 } }";
        let mut net = net(&format!("{}{layer}", input("x", &[2, 2]))).unwrap();
        assert_eq!(net.blob_shape("y").unwrap().to_string(), "(2, 2, 2)");
        for wrong in [9.0, -1.0, f32::NAN] {
            let error = run(&mut net, &[("x", &[0.0, 8.0, wrong, 0.0])]).unwrap_err();
            let fact = format!("bottom 0 holds {wrong} at position 2, which is not one of the 9 indices 0 to 8");
            assert!(error.starts_with(&format!("layer 'L' (Embed): {fact}")), "{error}");
            assert!(error.contains("input_dim"), "{error}");
        }
    }

    #[test]
    fn sizes_are_checked() {
        for (params, fact) in [
            ("num_output: 2", "input_dim is missing"),
            ("input_dim: 2", "num_output is missing"),
            ("input_dim: 2000000000 num_output: 2", "2147483647"),
        ] {
            let layer = format!("layer {{ name: 'L' type: 'Embed' bottom: 'x' top: 'y' embed_param {{ {params} }} }}");
            let error = net(&format!("{}{layer}", input("x", &[2]))).err().unwrap();
            assert!(error.contains(fact), "{error}");
        }
    }
}
