//! LSTM: a long short-term memory over sequences: Hochreiter and Schmidhuber (1997), with forget gates, as in Donahue et
//! al. (2015).
//!
//! `i, f, o, g = W_xc·x_t + b_c + W_static·x_static + W_hc·(cont_t·h_{t-1})`, and then a step of LSTMUnit's.
//!
//! Bottoms are `x` `(t, n, …)`: `t` steps of `n` streams that are independent of each other, `cont` `(t, n)`: 0 where a
//! sequence begins and 1 where it goes on, and maybe `x_static` `(n, …)`, an input of every step. The top is the hidden
//! state after each step `(t, n, num_output)`. What goes on at the first step begins with the states that the pass
//! before has left; a new net's are 0, and snapshots, as in Caffe, do not hold them.
//!
//! With `expose_hidden` the states are bottoms and tops instead, `h` and `c` `(1, n, num_output)`, without gradients.
//! Parameters: `W_xc` `(4·num_output, …)`, `b_c`, `W_static` if there is `x_static`, `W_hc`. `debug_info` does nothing.
//!
//! ```prototxt
//! layer {
//!   name: "lstm1" type: "LSTM" bottom: "embedded" bottom: "cont" top: "lstm1"
//!   recurrent_param { num_output: 256 weight_filler { type: "uniform" min: -0.08 max: 0.08 } }
//! }
//! ```

use super::{
    Arity, LayerDef,
    gates::{activate, gradient},
    recurrent::Recurrence,
};
use crate::{
    LayerError, Shape, kernels,
    layer::{Backward, BottomGradient, Forward, Layer, ParamBlob},
    spec::RecurrentSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "LSTM",
    summary: "a long short-term memory over sequences",
    bottoms: Arity::Between(2, 5),
    tops: Arity::Between(1, 3),
    parse: RecurrentSpec::parse_lstm,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Runs through sequences with hidden states and cells.
pub struct Lstm {
    recurrence: Recurrence,
    /// The gates' values `(t, n, 4·num_output)` and their gradients.
    gates: Vec<f32>,
    gate_diff: Vec<f32>,
    /// The gradients of the states between two steps.
    h_diff: Vec<f32>,
    c_diff: Vec<f32>,
}

impl Lstm {
    /// A layer of this description.
    pub fn new(spec: &RecurrentSpec) -> Self {
        Self {
            recurrence: Recurrence::new(spec, 4, 2),
            gates: Vec::new(),
            gate_diff: Vec::new(),
            h_diff: Vec::new(),
            c_diff: Vec::new(),
        }
    }
}

impl Layer for Lstm {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        self.recurrence.reshape(bottom)
    }

    fn params(&self) -> Vec<ParamBlob> {
        self.recurrence.params()
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let recurrence = &mut self.recurrence;
        recurrence.begin(io, &mut self.gates);
        let (hidden, streams, size) = (recurrence.spec.num_output, recurrence.streams, recurrence.state_size());
        let steps = io.bottom.get(1).chunks_exact(streams);
        for (step, (cont, gates)) in steps.zip(self.gates.chunks_exact_mut(4 * size)).enumerate() {
            recurrence.add_hidden(step, cont, gates);
            let [h, c] = &mut recurrence.states[..] else { continue };
            let (before, after) = c.split_at_mut((step + 1) * size);
            let h = &mut h[(step + 1) * size..][..size];
            activate(hidden, cont, gates, &before[step * size..], &mut after[..size], h);
        }
        recurrence.copy_hidden(&mut io.top[0]);
        recurrence.end(io);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let recurrence = &mut self.recurrence;
        let (hidden, streams, size) = (recurrence.spec.num_output, recurrence.streams, recurrence.state_size());
        let (cont, top_diff) = (io.bottom.get(1), io.top_diff.get(0));
        let weight = &io.params[recurrence.hidden_param()];
        self.gate_diff.resize(self.gates.len(), 0.0);
        // Nothing comes back from the batch after this one.
        for diff in [&mut self.h_diff, &mut self.c_diff] {
            diff.resize(size, 0.0);
            diff.fill(0.0);
        }
        for step in (0..recurrence.steps).rev() {
            kernels::axpy(1.0, &top_diff[step * size..][..size], &mut self.h_diff);
            let gates = &self.gates[4 * step * size..][..4 * size];
            let gate_diff = &mut self.gate_diff[4 * step * size..][..4 * size];
            let c = &recurrence.states[1][step * size..][..2 * size];
            let (c_prev, c) = c.split_at(size);
            gradient(hidden, gates, c_prev, c, &self.h_diff, &mut self.c_diff, gate_diff);
            if step > 0 {
                recurrence.carry_back(weight, &cont[step * streams..][..streams], gate_diff, &mut self.h_diff);
            }
        }
        recurrence.backward(io, &self.gate_diff);
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

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};
    use crate::{Net, layers::harness::normal};

    const STREAMS: usize = 2;
    const OUTPUTS: usize = 3;

    /// A net of one recurrent layer whose parameters do not depend on the number of steps.
    fn recurrent(type_name: &str, steps: usize, states: &[&str], states_out: &[&str]) -> Net {
        let mut text = input("x", &[steps, STREAMS, 4]) + &input("cont", &[steps, STREAMS]);
        text += &input("s", &[STREAMS, 2]);
        let mut blobs = "bottom: 'x' bottom: 'cont' bottom: 's'".to_owned();
        for state in states {
            text += &input(state, &[1, STREAMS, OUTPUTS]);
            blobs += &format!(" bottom: '{state}'");
        }
        blobs += " top: 'y'";
        states_out.iter().for_each(|state| blobs += &format!(" top: '{state}'"));
        let expose = !states.is_empty();
        let param = format!(
            "recurrent_param {{ num_output: {OUTPUTS} expose_hidden: {expose}
               weight_filler {{ type: 'gaussian' std: 0.5 }} bias_filler {{ type: 'gaussian' std: 0.5 }} }}"
        );
        net(&format!(
            "{text} layer {{ name: 'L' type: '{type_name}' {blobs} {param} }}"
        ))
        .unwrap()
    }

    /// One sequence in a pass, in two passes of one net, and in two passes with the states handed on, is the same.
    #[test]
    fn sequences_go_on_in_the_next_pass() {
        for (type_name, states, states_out) in [("LSTM", &["h", "c"][..], &["h2", "c2"][..]), ("RNN", &["h"], &["h2"])]
        {
            let (x, s) = (normal(1, 5 * STREAMS * 4), normal(2, STREAMS * 2));
            let mut cont = [1.0; 5 * STREAMS];
            cont[..STREAMS].fill(0.0);
            cont[3 * STREAMS + 1] = 0.0;
            let mut whole = recurrent(type_name, 5, &[], &[]);
            let pass = |net: &mut Net, steps: std::ops::Range<usize>| {
                let x = &x[steps.start * STREAMS * 4..steps.end * STREAMS * 4];
                let cont = &cont[steps.start * STREAMS..steps.end * STREAMS];
                run(net, &[("x", x), ("cont", cont), ("s", &s)]).unwrap()
            };
            let expected = pass(&mut whole, 0..5)["y"].clone();
            assert_eq!(
                pass(&mut whole, 0..5)["y"],
                expected,
                "{type_name}: what begins anew forgets"
            );

            let mut parts = recurrent(type_name, 2, &[], &[]);
            let mut found = [pass(&mut parts, 0..2), pass(&mut parts, 2..4)]
                .map(|blobs| blobs["y"].clone())
                .concat();
            // Fewer steps, as many streams: the state is kept.
            for (layer, dims) in [(0, vec![1, STREAMS, 4]), (1, vec![1, STREAMS])] {
                parts.set_feed_shapes(layer, &[crate::Shape::new(dims)]).unwrap();
            }
            parts.reshape().unwrap();
            found.extend(&pass(&mut parts, 4..5)["y"]);
            assert_eq!(found, expected, "{type_name}");

            let mut exposed = recurrent(type_name, 2, states, states_out);
            let first = pass(&mut exposed, 0..2);
            for (from, to) in states_out.iter().zip(states) {
                exposed.blob_data_mut(to).unwrap().copy_from_slice(&first[*from]);
            }
            let second = pass(&mut exposed, 2..4);
            assert_eq!(
                [&first["y"][..], &second["y"]].concat(),
                expected[..4 * STREAMS * OUTPUTS],
                "{type_name}"
            );
        }
    }

    #[test]
    fn parameters_are_caffes() {
        let shapes = |type_name: &str| {
            let net = recurrent(type_name, 2, &[], &[]);
            net.params()
                .iter()
                .map(|param| param.shape.dims().to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(shapes("LSTM"), [vec![12, 4], vec![12], vec![12, 2], vec![12, 3]]);
        assert_eq!(
            shapes("RNN"),
            [vec![3, 4], vec![3], vec![3, 2], vec![3, 3], vec![3, 3], vec![3]]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |inputs: &[(&str, &[usize])], blobs: &str, param: &str| {
            let inputs: String = inputs.iter().map(|(name, dims)| input(name, dims)).collect();
            let layer = format!("layer {{ name: 'L' type: 'LSTM' {blobs} recurrent_param {{ {param} }} }}");
            let error = net(&format!("{inputs}{layer}")).err().unwrap();
            assert!(error.starts_with("layer 'L' (LSTM)"), "{error}");
            error
        };
        let plain = "bottom: 'x' bottom: 'c' top: 'y'";
        for (x, cont, fact) in [
            (
                &[4, 2][..],
                &[4, 2][..],
                "bottom 0 has shape (4, 2), but inputs are (steps, streams, values…)",
            ),
            (
                &[4, 2, 3],
                &[2, 4],
                "bottom 1 has shape (2, 4), but inputs (4, 2, 3) want indicators (4, 2)",
            ),
        ] {
            let error = refused(&[("x", x), ("c", cont)], plain, "num_output: 5");
            assert!(error.contains(fact), "{error}");
        }
        let good = [("x", &[4, 2, 3][..]), ("c", &[4, 2]), ("s", &[3, 6])];
        let error = refused(&good, "bottom: 'x' bottom: 'c' bottom: 's' top: 'y'", "num_output: 5");
        assert!(
            error.contains("bottom 2 has shape (3, 6)") && error.contains("(2, values…)"),
            "{error}"
        );
        assert!(refused(&good, plain, "").contains("num_output is missing"));
        assert!(refused(&good, plain, "num_output: 5 expose_hidden: true").contains("it takes 4 bottoms"));
        assert!(
            refused(&good, "bottom: 'x' bottom: 'c' top: 'y' top: 'z'", "num_output: 5").contains("0 states, not 2")
        );
        let states = "bottom: 'x' bottom: 'c' bottom: 's' bottom: 's' top: 'y' top: 'h' top: 'd'";
        let error = refused(&good, states, "num_output: 5 expose_hidden: true");
        assert!(
            error.contains("bottom 2 has shape (3, 6)") && error.contains("(1, 2, 5)"),
            "{error}"
        );
    }
}
