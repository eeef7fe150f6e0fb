//! RNN: a recurrent net of one hidden layer over sequences: Elman (1990).
//!
//! `h_t = tanh(W_xh·x_t + b_h + W_static·x_static + W_hh·(cont_t·h_{t-1})); o_t = tanh(W_ho·h_t + b_o)`
//!
//! Bottoms, tops and states are those of LSTM, without cells; the top is `o`. Parameters: `W_xh` `(num_output, …)`,
//! `b_h`, `W_static` if there is `x_static`, `W_hh`, `W_ho`, `b_o`.
//!
//! ```prototxt
//! layer { name: "rnn1" type: "RNN" bottom: "x" bottom: "cont" top: "rnn1" recurrent_param { num_output: 64 } }
//! ```

use rayon::prelude::*;

use super::{
    Arity, LayerDef, dense,
    gates::tanh,
    neuron::{CHUNK, map_pairs},
    recurrent::Recurrence,
    vectorized::vectorized,
};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer, ParamBlob},
    spec::RecurrentSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "RNN",
    summary: "a recurrent net of one hidden layer over sequences",
    bottoms: Arity::Between(2, 4),
    tops: Arity::Between(1, 2),
    parse: RecurrentSpec::parse_rnn,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Runs through sequences with hidden states.
pub struct Rnn {
    recurrence: Recurrence,
    /// What the hidden states are the tangents of `(t, n, num_output)`, and its gradient.
    sums: Vec<f32>,
    sum_diff: Vec<f32>,
    /// The gradient of what the outputs are the tangents of.
    output_diff: Vec<f32>,
    /// The gradient of the hidden state that the step after hands back.
    h_diff: Vec<f32>,
}

impl Rnn {
    /// A layer of this description.
    pub fn new(spec: &RecurrentSpec) -> Self {
        Self {
            recurrence: Recurrence::new(spec, 1, 1),
            sums: Vec::new(),
            sum_diff: Vec::new(),
            output_diff: Vec::new(),
            h_diff: Vec::new(),
        }
    }
}

impl Layer for Rnn {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        self.recurrence.reshape(bottom)
    }

    fn params(&self) -> Vec<ParamBlob> {
        let (mut params, outputs) = (self.recurrence.params(), self.recurrence.spec.num_output);
        params.push(ParamBlob {
            shape: Shape::from([outputs, outputs]),
            filler: self.recurrence.spec.weight_filler.clone(),
        });
        params.push(self.recurrence.bias(outputs));
        params
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let recurrence = &mut self.recurrence;
        recurrence.begin(io, &mut self.sums);
        let (outputs, streams, size) = (recurrence.spec.num_output, recurrence.streams, recurrence.state_size());
        let steps = io.bottom.get(1).chunks_exact(streams);
        for (step, (cont, sums)) in steps.zip(self.sums.chunks_exact_mut(size)).enumerate() {
            recurrence.add_hidden(step, cont, sums);
            let h = recurrence.states[0][(step + 1) * size..][..size].iter_mut();
            vectorized(
                #[inline(always)]
                move || h.zip(sums).for_each(|(h, sum)| *h = tanh(*sum)),
            );
        }
        let hidden_param = recurrence.hidden_param();
        let (weight, bias) = (&io.params[hidden_param + 1], &io.params[hidden_param + 2]);
        let (h, top) = (&recurrence.states[0][size..], &mut io.top[0]);
        dense::multiply(&mut recurrence.workspaces, outputs, weight, h, top);
        top.par_chunks_mut(outputs).for_each(|o| {
            vectorized(
                #[inline(always)]
                move || o.iter_mut().zip(bias).for_each(|(o, bias)| *o = tanh(*o + bias)),
            );
        });
        recurrence.end(io);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let recurrence = &mut self.recurrence;
        let (outputs, streams, size) = (recurrence.spec.num_output, recurrence.streams, recurrence.state_size());
        let (hidden_param, rows) = (recurrence.hidden_param(), recurrence.steps * streams);
        for diff in [&mut self.output_diff, &mut self.sum_diff] {
            diff.resize(rows * outputs, 0.0);
        }
        map_pairs(
            io.top.get(0),
            io.top_diff.get(0),
            &mut self.output_diff,
            #[inline(always)]
            |o, d_o| d_o * (1.0 - o * o),
        );
        let (workspaces, output_diff) = (&mut recurrence.workspaces, &self.output_diff);
        if io.param_propagate_down[hidden_param + 1] {
            let (h, diff) = (&recurrence.states[0][size..], io.param_diff.get_mut(hidden_param + 1));
            dense::add_weight_diff(workspaces, outputs, output_diff, h, diff);
        }
        if io.param_propagate_down[hidden_param + 2] {
            dense::add_bias_diff(output_diff, io.param_diff.get_mut(hidden_param + 2));
        }
        let weight = &io.params[hidden_param + 1];
        dense::input_diff(workspaces, outputs, weight, output_diff, &mut self.sum_diff);

        // Nothing comes back from the batch after this one.
        self.h_diff.resize(size, 0.0);
        self.h_diff.fill(0.0);
        for step in (0..recurrence.steps).rev() {
            let sum_diff = &mut self.sum_diff[step * size..][..size];
            let h = &recurrence.states[0][(step + 1) * size..][..size];
            let parts = sum_diff
                .par_chunks_mut(CHUNK)
                .zip(h.par_chunks(CHUNK))
                .zip(self.h_diff.par_chunks(CHUNK));
            parts.for_each(|((sum_diff, h), h_diff)| {
                vectorized(
                    #[inline(always)]
                    move || {
                        let all = sum_diff.iter_mut().zip(h).zip(h_diff);
                        all.for_each(|((diff, h), h_diff)| *diff = (*diff + h_diff) * (1.0 - h * h));
                    },
                );
            });
            if step > 0 {
                let cont = &io.bottom.get(1)[step * streams..][..streams];
                recurrence.carry_back(&io.params[hidden_param], cont, sum_diff, &mut self.h_diff);
            }
        }
        recurrence.backward(io, &self.sum_diff);
    }

    fn reads_top_in_backward(&self) -> bool {
        true
    }

    fn takes_gradient(&self, top: usize) -> bool {
        top == 0
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        self.recurrence.bottom_gradient(bottom)
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[4, 2, 3], &[4, 2]],
        params: "recurrent_param { num_output: 5 }",
        tops: 1,
        fill: super::Fill::Sequences(2),
    },
    super::GradientCase {
        bottoms: &[&[3, 2, 2, 2], &[3, 2], &[2, 3]],
        params: "recurrent_param { num_output: 4 }",
        tops: 1,
        fill: super::Fill::Sequences(2),
    },
];
