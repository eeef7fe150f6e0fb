//! What LSTM and RNN share: their bottoms, the states that they carry from step to step and from batch to batch, and
//! the products with weights that are the same at every step.
//!
//! Caffe unrolls a net over the steps. Here the inputs of all steps are multiplied in one product before the steps run
//! one by one, and the gradients of all weights in one after them.

mod gradients;
mod sequences;

use rayon::prelude::*;

use super::{
    dense,
    vectorized::{copy, vectorized},
};
use crate::{
    LayerError, Shape,
    kernels::{self, Matrix, Workspace},
    layer::{BottomGradient, Forward, ParamBlob},
    spec::RecurrentSpec,
};

use sequences::{Sequences, wrong};

/// The sequences of a batch, `n` streams of `t` steps, and what a recurrent layer remembers of them.
pub struct Recurrence {
    pub spec: RecurrentSpec,
    /// Values that a step computes of its inputs for each stream: a multiple of `num_output`.
    pub gates: usize,
    pub steps: usize,
    pub streams: usize,
    /// Values in an input of a step; 0 before the first batch.
    inputs: usize,
    static_inputs: usize,
    /// Each state before the first step and after every step: `(t + 1, n, num_output)`. The first is the hidden one.
    pub states: Vec<Vec<f32>>,
    /// The hidden states that each step begins with: 0 where a sequence does.
    carried: Vec<f32>,
    /// Of all steps together: what the static input adds, or its gradient `(n, gates)`.
    static_gates: Vec<f32>,
    /// The weights of the hidden state, transposed: as each step's product reads them.
    hidden_weight: Vec<f32>,
    pub workspaces: Vec<Workspace>,
}

impl Recurrence {
    /// A recurrence with so many `states`, whose steps compute `gates` times `num_output` values.
    pub fn new(spec: &RecurrentSpec, gates: usize, states: usize) -> Self {
        Self {
            spec: spec.clone(),
            gates: gates * spec.num_output,
            steps: 0,
            streams: 0,
            inputs: 0,
            static_inputs: 0,
            states: vec![Vec::new(); states],
            carried: Vec::new(),
            static_gates: Vec::new(),
            hidden_weight: Vec::new(),
            workspaces: Vec::new(),
        }
    }

    /// Values in one step of a state.
    pub fn state_size(&self) -> usize {
        self.streams * self.spec.num_output
    }

    /// Which parameter holds the weights of the hidden state.
    pub fn hidden_param(&self) -> usize {
        if self.spec.static_input { 3 } else { 2 }
    }

    /// Checks the bottoms' shapes and returns the tops'. A state that still fits is kept.
    pub fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let found = Sequences::of(bottom, &self.spec, self.hidden_param())?;
        let Sequences {
            steps,
            streams,
            inputs,
            static_inputs,
        } = found;
        if self.inputs != 0 && (inputs, static_inputs) != (self.inputs, self.static_inputs) {
            let (was, static_was) = (self.inputs, self.static_inputs);
            let fact = format!(
                "the weights are for {was} values a step and {static_was} static ones: only steps and streams may change"
            );
            return Err(wrong(bottom, 0, fact));
        }
        found.check_sizes(self.gates, self.spec.num_output)?;
        (self.inputs, self.static_inputs) = (inputs, static_inputs);
        self.resize(steps, streams);
        let outputs = self.spec.num_output;
        let mut tops = vec![Shape::from([steps, streams, outputs])];
        if self.spec.expose_hidden {
            tops.extend(self.states.iter().map(|_| Shape::from([1, streams, outputs])));
        }
        Ok(tops)
    }

    fn resize(&mut self, steps: usize, streams: usize) {
        if (steps, streams) == (self.steps, self.streams) {
            return;
        }
        let size = streams * self.spec.num_output;
        for state in &mut self.states {
            let mut resized = vec![0.0; (steps + 1) * size];
            if streams == self.streams {
                resized[steps * size..].copy_from_slice(&state[self.steps * size..]);
            }
            *state = resized;
        }
        (self.steps, self.streams) = (steps, streams);
        self.carried = vec![0.0; steps * size];
        self.static_gates = vec![0.0; streams * self.gates];
    }

    /// The parameters of the inputs and of the hidden state, in Caffe's order.
    pub fn params(&self) -> Vec<ParamBlob> {
        let weight = |inputs: usize| ParamBlob {
            shape: Shape::from([self.gates, inputs]),
            filler: self.spec.weight_filler.clone(),
        };
        let mut params = vec![weight(self.inputs), self.bias(self.gates)];
        if self.spec.static_input {
            params.push(weight(self.static_inputs));
        }
        params.push(weight(self.spec.num_output));
        params
    }

    /// A bias of so many outputs.
    pub fn bias(&self, outputs: usize) -> ParamBlob {
        ParamBlob {
            shape: Shape::from([outputs]),
            filler: self.spec.bias_filler.clone(),
        }
    }

    /// Begins a pass: fetches the first states, from the bottoms or from the end of the pass before, and computes what
    /// the inputs of all steps add to `gates` `(t·n, gates)`.
    pub fn begin(&mut self, io: &Forward<'_>, gates: &mut Vec<f32>) {
        let (size, width, streams) = (self.state_size(), self.gates, self.streams);
        let first_state = self.hidden_param();
        for (i, state) in self.states.iter_mut().enumerate() {
            if self.spec.expose_hidden {
                state[..size].copy_from_slice(io.bottom.get(first_state + i));
            } else {
                state.copy_within(self.steps * size.., 0);
            }
        }
        self.workspaces.resize_with(io.context.threads, Workspace::default);
        gates.resize(self.steps * streams * width, 0.0);
        dense::multiply(&mut self.workspaces, width, &io.params[0], io.bottom.get(0), gates);
        let (bias, sums) = (&io.params[1], &mut self.static_gates);
        if self.spec.static_input {
            dense::multiply(&mut self.workspaces, width, &io.params[2], io.bottom.get(2), sums);
        }
        let sums = self.spec.static_input.then_some(&*sums);
        gates.par_chunks_mut(width).enumerate().for_each(|(row, gates)| {
            kernels::axpy(1.0, bias, gates);
            if let Some(sums) = sums {
                kernels::axpy(1.0, &sums[row % streams * width..][..width], gates);
            }
        });
        let (weight, outputs) = (&io.params[self.hidden_param()], self.spec.num_output);
        self.hidden_weight.resize(weight.len(), 0.0);
        let rows = self.hidden_weight.par_chunks_mut(width).enumerate();
        rows.for_each(|(row, target)| {
            let column = weight[row..].iter().step_by(outputs);
            target
                .iter_mut()
                .zip(column)
                .for_each(|(target, value)| *target = *value);
        });
    }

    /// Adds to a step's gates what the hidden state before it does; `cont` `(n)` is 0 where a sequence begins.
    pub fn add_hidden(&mut self, step: usize, cont: &[f32], gates: &mut [f32]) {
        let (size, outputs, width) = (self.state_size(), self.spec.num_output, self.gates);
        let carried = &mut self.carried[step * size..][..size];
        carried.copy_from_slice(&self.states[0][step * size..][..size]);
        scale_streams(outputs, cont, carried);
        let h = Matrix::row_major(carried, outputs);
        let weight = Matrix::row_major(&self.hidden_weight, width);
        let workspaces = &mut self.workspaces;
        kernels::gemm_parallel(workspaces, self.streams, width, outputs, h, weight, gates, width, true);
    }

    /// Ends a pass: shows the last states where they are exposed.
    pub fn end(&self, io: &mut Forward<'_>) {
        let last = self.steps * self.state_size();
        for (top, state) in io.top.iter_mut().skip(1).zip(&self.states) {
            top.copy_from_slice(&state[last..]);
        }
    }

    /// Whether a bottom has a gradient: as in Caffe neither the indicators nor the first states have.
    pub fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            0 => BottomGradient::Computed,
            1 => BottomGradient::Label("indicators of sequences"),
            2 if self.spec.static_input => BottomGradient::Computed,
            _ => BottomGradient::Label("first states"),
        }
    }

    /// Copies the hidden state after each step to a top.
    pub fn copy_hidden(&self, top: &mut [f32]) {
        copy(&self.states[0][self.state_size()..], top);
    }
}

/// Multiplies the values of each stream with its indicator.
fn scale_streams(outputs: usize, cont: &[f32], values: &mut [f32]) {
    for (values, cont) in values.chunks_exact_mut(outputs).zip(cont) {
        let cont = *cont;
        vectorized(
            #[inline(always)]
            move || values.iter_mut().for_each(|value| *value *= cont),
        );
    }
}
