//! LSTMUnit: one step of a long short-term memory: Hochreiter and Schmidhuber (1997), with forget gates.
//!
//! `i, f, o = σ(x₁), cont·σ(x₂), σ(x₃); g = tanh(x₄); c = f·c₋₁ + i·g; h = o·tanh(c)`
//!
//! Bottoms are the cells before the step `(1, n, d)`, the gates' inputs `x` `(1, n, 4d)` and `cont` `(1, n)`, 0 where a
//! sequence begins; tops are the cells `c` and the hidden state `h`, each `(1, n, d)`.
//!
//! ```prototxt
//! layer { name: "unit" type: "LSTMUnit" bottom: "c_0" bottom: "gates" bottom: "cont" top: "c_1" top: "h_1" }
//! ```

use super::{
    Arity, LayerDef,
    gates::{activate, gradient},
};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "LSTMUnit",
    summary: "one step of a long short-term memory",
    bottoms: Arity::Exactly(3),
    tops: Arity::Exactly(2),
    parse: |_| Ok(LayerKind::LstmUnit),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// One step for `n` streams.
pub struct LstmUnit {
    hidden: usize,
    /// The values of the gates, as [`activate`] leaves them.
    gates: Vec<f32>,
    /// The cells' gradient where nobody wants it, and the gates'.
    cell_diff: Vec<f32>,
    gate_diff: Vec<f32>,
}

impl LstmUnit {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self {
            hidden: 0,
            gates: Vec::new(),
            cell_diff: Vec::new(),
            gate_diff: Vec::new(),
        }
    }
}

impl Layer for LstmUnit {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let error = |bottom: usize, shape: &Shape, fact: String| LayerError::BottomShape {
            bottom,
            shape: shape.clone(),
            fact,
        };
        let [1, streams, hidden] = *bottom[0].dims() else {
            return Err(error(
                0,
                bottom[0],
                "the cells before the step are (1, n, d)".to_owned(),
            ));
        };
        if *bottom[1].dims() != [1, streams, 4 * hidden] {
            let fact = format!("cells {} want gates (1, {streams}, {})", bottom[0], 4 * hidden);
            return Err(error(1, bottom[1], fact));
        }
        if *bottom[2].dims() != [1, streams] {
            let fact = format!("cells {} want indicators (1, {streams})", bottom[0]);
            return Err(error(2, bottom[2], fact));
        }
        self.hidden = hidden;
        Ok(vec![bottom[0].clone(); 2])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.gates.clear();
        self.gates.extend_from_slice(io.bottom.get(1));
        let [c, h] = &mut *io.top else { return Ok(()) };
        activate(self.hidden, io.bottom.get(2), &mut self.gates, io.bottom.get(0), c, h);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let [c_diff, x_diff, _] = &mut *io.bottom_diff else {
            return;
        };
        let c_diff = if io.propagate_down[0] {
            c_diff
        } else {
            self.cell_diff.resize(io.bottom.get(0).len(), 0.0);
            &mut self.cell_diff
        };
        c_diff.copy_from_slice(io.top_diff.get(0));
        let x_diff = if io.propagate_down[1] {
            x_diff
        } else {
            self.gate_diff.resize(self.gates.len(), 0.0);
            &mut self.gate_diff
        };
        let (c_prev, c, h_diff) = (io.bottom.get(0), io.top.get(0), io.top_diff.get(1));
        gradient(self.hidden, &self.gates, c_prev, c, h_diff, c_diff, x_diff);
    }

    fn reads_top_in_backward(&self) -> bool {
        true
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            2 => BottomGradient::Label("indicators of sequences"),
            _ => BottomGradient::Computed,
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[1, 4, 3], &[1, 4, 12], &[1, 4]],
        params: "",
        tops: 2,
        fill: super::Fill::Labels(2),
    },
    super::GradientCase {
        bottoms: &[&[1, 1, 17], &[1, 1, 68], &[1, 1]],
        params: "",
        tops: 2,
        fill: super::Fill::Labels(1),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net};

    #[test]
    fn shapes_are_checked_by_name() {
        for (shapes, fact) in [
            ([&[2, 3, 4][..], &[1, 3, 16], &[1, 3]], "bottom 0 has shape (2, 3, 4)"),
            (
                [&[1, 3, 4], &[1, 3, 12], &[1, 3]],
                "bottom 1 has shape (1, 3, 12), but cells (1, 3, 4) want gates (1, 3, 16)",
            ),
            (
                [&[1, 3, 4], &[1, 3, 16], &[3]],
                "bottom 2 has shape (3), but cells (1, 3, 4) want indicators (1, 3)",
            ),
        ] {
            let inputs: String = ["c", "x", "i"]
                .iter()
                .zip(shapes)
                .map(|(name, dims)| input(name, dims))
                .collect();
            let layer = "layer { name: 'L' type: 'LSTMUnit' bottom: 'c' bottom: 'x' bottom: 'i' top: 'd' top: 'h' }";
            let error = net(&format!("{inputs}{layer}")).err().unwrap();
            assert!(
                error.starts_with("layer 'L' (LSTMUnit)") && error.contains(fact),
                "{error}"
            );
        }
    }
}
