//! What the bottoms of a recurrent layer say of its sequences, or what is wrong with them.

use crate::{LayerError, Shape, spec::RecurrentSpec};

/// The extents of a batch of sequences.
#[derive(Clone, Copy)]
pub struct Sequences {
    pub steps: usize,
    /// Sequences side by side, independent of each other.
    pub streams: usize,
    /// Values in an input of a step.
    pub inputs: usize,
    /// Values that are an input of every step; 0 without `x_static`.
    pub static_inputs: usize,
}

impl Sequences {
    /// Those of bottoms `x` `(t, n, …)`, `cont` `(t, n)`, maybe `x_static` `(n, …)`, and from `first_state` on the states
    /// before the first step, `(1, n, num_output)` each.
    ///
    /// # Errors
    /// Shapes that do not suit each other.
    pub fn of(bottom: &[&Shape], spec: &RecurrentSpec, first_state: usize) -> Result<Self, LayerError> {
        let &[steps, streams, _, ..] = bottom[0].dims() else {
            return Err(wrong(bottom, 0, "inputs are (steps, streams, values…)".to_owned()));
        };
        if *bottom[1].dims() != [steps, streams] {
            let fact = format!("inputs {} want indicators ({steps}, {streams})", bottom[0]);
            return Err(wrong(bottom, 1, fact));
        }
        let static_input = spec.static_input.then(|| bottom[2]);
        if let Some(shape) = static_input
            && (shape.num_axes() < 2 || shape.dims()[0] != streams)
        {
            let fact = format!("inputs {} want static inputs ({streams}, values…)", bottom[0]);
            return Err(wrong(bottom, 2, fact));
        }
        let state = Shape::from([1, streams, spec.num_output]);
        for i in first_state..bottom.len() {
            if *bottom[i] != state {
                let fact = format!("with inputs {} a first state is {state}", bottom[0]);
                return Err(wrong(bottom, i, fact));
            }
        }
        Ok(Self {
            steps,
            streams,
            inputs: bottom[0].count_from(2),
            static_inputs: static_input.map_or(0, |shape| shape.count_from(1)),
        })
    }

    /// Whether weights, and the values that are computed for all steps, can be blobs.
    ///
    /// # Errors
    /// Too many values.
    pub fn check_sizes(self, gates: usize, outputs: usize) -> Result<(), LayerError> {
        let weights = [self.inputs, self.static_inputs, outputs].map(|inputs| [1, inputs, gates]);
        let sizes = weights.into_iter().chain([[self.steps + 1, self.streams, gates]]);
        match sizes.map(Shape::from).find(|shape| shape.checked_count().is_none()) {
            Some(shape) => Err(LayerError::TooLarge { shape }),
            None => Ok(()),
        }
    }
}

/// Bottom `i` does not suit.
pub fn wrong(bottom: &[&Shape], i: usize, fact: String) -> LayerError {
    let shape = bottom[i].clone();
    LayerError::BottomShape { bottom: i, shape, fact }
}
