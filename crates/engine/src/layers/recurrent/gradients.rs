//! The pass backward through what LSTM and RNN share.

use rayon::prelude::*;

use super::{Recurrence, dense, scale_streams};
use crate::{kernels, layer::Backward};

impl Recurrence {
    /// The gradient `h_diff` of the hidden state before a step, as far as that step's gates go.
    pub fn carry_back(&mut self, weight: &[f32], cont: &[f32], gate_diff: &[f32], h_diff: &mut [f32]) {
        dense::input_diff(&mut self.workspaces, self.gates, weight, gate_diff, h_diff);
        scale_streams(self.spec.num_output, cont, h_diff);
    }

    /// The gradients of the inputs, and of the parameters that [`Self::params`] lists, from that of all gates.
    pub fn backward(&mut self, io: &mut Backward<'_>, gate_diff: &[f32]) {
        let (width, streams, hidden_param) = (self.gates, self.streams, self.hidden_param());
        let workspaces = &mut self.workspaces;
        if io.param_propagate_down[0] {
            let diff = io.param_diff.get_mut(0);
            dense::add_weight_diff(workspaces, width, gate_diff, io.bottom.get(0), diff);
        }
        if io.param_propagate_down[1] {
            dense::add_bias_diff(gate_diff, io.param_diff.get_mut(1));
        }
        if io.param_propagate_down[hidden_param] {
            let diff = io.param_diff.get_mut(hidden_param);
            dense::add_weight_diff(workspaces, width, gate_diff, &self.carried, diff);
        }
        if io.propagate_down[0] {
            dense::input_diff(workspaces, width, &io.params[0], gate_diff, &mut io.bottom_diff[0]);
        }
        if !self.spec.static_input {
            return;
        }
        let sums = &mut self.static_gates;
        sums.par_chunks_mut(width).enumerate().for_each(|(stream, sum)| {
            sum.fill(0.0);
            let steps = gate_diff.chunks_exact(width).skip(stream).step_by(streams);
            steps.for_each(|diff| kernels::axpy(1.0, diff, sum));
        });
        if io.param_propagate_down[2] {
            let diff = io.param_diff.get_mut(2);
            dense::add_weight_diff(workspaces, width, sums, io.bottom.get(2), diff);
        }
        if io.propagate_down[2] {
            dense::input_diff(workspaces, width, &io.params[2], sums, &mut io.bottom_diff[2]);
        }
    }
}
