//! What LSTM and RNN share: their bottoms, the states that they carry from step to step and from batch to batch, and
//! the products with weights that are the same at every step.
//!
//! Caffe unrolls a net over the steps. Here the inputs of all steps are multiplied in one product before the steps run
//! one by one, and the gradients of all weights in one after them.

use rayon::prelude::*;

use super::vectorized::{copy, vectorized};
use crate::{
    LayerError, Shape,
    kernels::{self, Matrix, Workspace},
    layer::{Backward, Forward, ParamBlob},
    spec::RecurrentSpec,
};

/// Outputs whose bias gradients a thread sums at a time.
const CHUNK: usize = 256;

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
        let wrong = |i: usize, fact: String| {
            let shape = bottom[i].clone();
            Err(LayerError::BottomShape { bottom: i, shape, fact })
        };
        let &[steps, streams, _, ..] = bottom[0].dims() else {
            return wrong(0, "inputs are (steps, streams, values…)".to_owned());
        };
        if *bottom[1].dims() != [steps, streams] {
            return wrong(1, format!("inputs {} want indicators ({steps}, {streams})", bottom[0]));
        }
        let static_input = self.spec.static_input.then(|| bottom[2]);
        if let Some(shape) = static_input
            && (shape.num_axes() < 2 || shape.dims()[0] != streams)
        {
            return wrong(
                2,
                format!("inputs {} want static inputs ({streams}, values…)", bottom[0]),
            );
        }
        let outputs = self.spec.num_output;
        let state = Shape::from([1, streams, outputs]);
        for i in self.hidden_param()..bottom.len() {
            if *bottom[i] != state {
                return wrong(i, format!("with inputs {} a first state is {state}", bottom[0]));
            }
        }
        let (inputs, static_inputs) = (
            bottom[0].count_from(2),
            static_input.map_or(0, |shape| shape.count_from(1)),
        );
        if self.inputs != 0 && (inputs, static_inputs) != (self.inputs, self.static_inputs) {
            let (was, static_was) = (self.inputs, self.static_inputs);
            return wrong(
                0,
                format!(
                    "the weights are for {was} values a step and {static_was} static ones: only steps and streams may change"
                ),
            );
        }
        let sizes = [
            [steps + 1, streams, self.gates],
            [1, inputs, self.gates],
            [1, static_inputs, self.gates],
        ];
        for shape in sizes.map(Shape::from) {
            if shape.checked_count().is_none() {
                return Err(LayerError::TooLarge { shape });
            }
        }
        (self.inputs, self.static_inputs) = (inputs, static_inputs);
        self.resize(steps, streams);
        let mut tops = vec![Shape::from([steps, streams, outputs])];
        if self.spec.expose_hidden {
            tops.extend(self.states.iter().map(|_| state.clone()));
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
        let (size, width, rows) = (self.state_size(), self.gates, self.steps * self.streams);
        let first_state = self.hidden_param();
        for (i, state) in self.states.iter_mut().enumerate() {
            if self.spec.expose_hidden {
                state[..size].copy_from_slice(io.bottom.get(first_state + i));
            } else {
                state.copy_within(self.steps * size.., 0);
            }
        }
        self.workspaces.resize_with(io.context.threads, Workspace::default);
        gates.resize(rows * width, 0.0);
        let x = Matrix::row_major(io.bottom.get(0), self.inputs);
        let weight = Matrix::row_major(&io.params[0], self.inputs).transposed();
        kernels::gemm_parallel(
            &mut self.workspaces,
            rows,
            width,
            self.inputs,
            x,
            weight,
            gates,
            width,
            false,
        );
        let bias = &io.params[1];
        if self.spec.static_input {
            let count = self.static_inputs;
            let x = Matrix::row_major(io.bottom.get(2), count);
            let weight = Matrix::row_major(&io.params[2], count).transposed();
            let (workspaces, sums) = (&mut self.workspaces, &mut self.static_gates);
            kernels::gemm_parallel(workspaces, self.streams, width, count, x, weight, sums, width, false);
        }
        let (streams, static_gates) = (self.streams, self.spec.static_input.then_some(&self.static_gates));
        gates.par_chunks_mut(width).enumerate().for_each(|(row, gates)| {
            kernels::axpy(1.0, bias, gates);
            if let Some(sums) = static_gates {
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
        let (h, weight) = (
            Matrix::row_major(carried, outputs),
            Matrix::row_major(&self.hidden_weight, width),
        );
        kernels::gemm_parallel(
            &mut self.workspaces,
            self.streams,
            width,
            outputs,
            h,
            weight,
            gates,
            width,
            true,
        );
    }

    /// Ends a pass: shows the last states where they are exposed.
    pub fn end(&self, io: &mut Forward<'_>) {
        let last = self.steps * self.state_size();
        for (top, state) in io.top.iter_mut().skip(1).zip(&self.states) {
            top.copy_from_slice(&state[last..]);
        }
    }

    /// The gradient `h_diff` of the hidden state before a step, as far as that step's gates go.
    pub fn carry_back(&mut self, weight: &[f32], cont: &[f32], gate_diff: &[f32], h_diff: &mut [f32]) {
        let (outputs, width) = (self.spec.num_output, self.gates);
        let (dy, weight) = (Matrix::row_major(gate_diff, width), Matrix::row_major(weight, outputs));
        let workspaces = &mut self.workspaces;
        kernels::gemm_parallel(
            workspaces,
            self.streams,
            outputs,
            width,
            dy,
            weight,
            h_diff,
            outputs,
            false,
        );
        scale_streams(outputs, cont, h_diff);
    }

    /// The gradients of the inputs, and of the parameters that [`Self::params`] lists, from that of all gates.
    pub fn backward(&mut self, io: &mut Backward<'_>, gate_diff: &[f32]) {
        let (width, rows, hidden_param) = (self.gates, self.steps * self.streams, self.hidden_param());
        let static_bottom = self.spec.static_input && io.propagate_down[2];
        let static_param = self.spec.static_input && io.param_propagate_down[2];
        if static_bottom || static_param {
            let sums = self.static_gates.par_chunks_mut(width).enumerate();
            let streams = self.streams;
            sums.for_each(|(stream, sum)| {
                sum.fill(0.0);
                let steps = gate_diff.chunks_exact(width).skip(stream).step_by(streams);
                steps.for_each(|diff| kernels::axpy(1.0, diff, sum));
            });
        }
        if io.param_propagate_down[0] {
            let (x, diff) = (io.bottom.get(0), io.param_diff.get_mut(0));
            add_weight_diff(&mut self.workspaces, rows, width, gate_diff, x, diff);
        }
        if io.param_propagate_down[1] {
            add_bias_diff(gate_diff, width, io.param_diff.get_mut(1));
        }
        if static_param {
            let (x, diff) = (io.bottom.get(2), io.param_diff.get_mut(2));
            add_weight_diff(&mut self.workspaces, self.streams, width, &self.static_gates, x, diff);
        }
        if io.param_propagate_down[hidden_param] {
            let diff = io.param_diff.get_mut(hidden_param);
            add_weight_diff(&mut self.workspaces, rows, width, gate_diff, &self.carried, diff);
        }
        let workspaces = &mut self.workspaces;
        if io.propagate_down[0] {
            let (dy, weight) = (
                Matrix::row_major(gate_diff, width),
                Matrix::row_major(&io.params[0], self.inputs),
            );
            let dx = &mut io.bottom_diff[0];
            kernels::gemm_parallel(workspaces, rows, self.inputs, width, dy, weight, dx, self.inputs, false);
        }
        if static_bottom {
            let count = self.static_inputs;
            let (dy, weight) = (
                Matrix::row_major(&self.static_gates, width),
                Matrix::row_major(&io.params[2], count),
            );
            let dx = &mut io.bottom_diff[2];
            kernels::gemm_parallel(workspaces, self.streams, count, width, dy, weight, dx, count, false);
        }
    }

    /// Whether a bottom has a gradient: as in Caffe neither the indicators nor the first states have.
    pub fn accepts_gradient(&self, bottom: usize) -> bool {
        bottom == 0 || (bottom == 2 && self.spec.static_input)
    }

    /// Computes the tops that are not exposed states: a copy of the hidden state after each step.
    pub fn copy_hidden(&self, top: &mut [f32]) {
        copy(&self.states[0][self.state_size()..], top);
    }
}

/// `diff (outputs, inputs) += dyᵀ·x`, of `rows` rows.
pub fn add_weight_diff(
    workspaces: &mut [Workspace],
    rows: usize,
    outputs: usize,
    dy: &[f32],
    x: &[f32],
    diff: &mut [f32],
) {
    let inputs = diff.len() / outputs;
    let (dy, x) = (
        Matrix::row_major(dy, outputs).transposed(),
        Matrix::row_major(x, inputs),
    );
    kernels::gemm_parallel(workspaces, outputs, inputs, rows, dy, x, diff, inputs, true);
}

/// `diff += ` the sum of the rows of `dy`.
pub fn add_bias_diff(dy: &[f32], outputs: usize, diff: &mut [f32]) {
    let chunks = diff.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(chunk, diff)| {
        for row in dy.chunks_exact(outputs) {
            kernels::axpy(1.0, &row[chunk * CHUNK..][..diff.len()], diff);
        }
    });
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
