//! Silence: takes blobs so that they are no outputs of the net; their gradient is zero.
//!
//! ```prototxt
//! layer { name: "silence" type: "Silence" bottom: "label" bottom: "weight" }
//! ```

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Silence",
    summary: "takes blobs so that they are no outputs of the net",
    bottoms: Arity::AtLeast(1),
    tops: Arity::Exactly(0),
    parse: |_| Ok(LayerKind::Silence),
    #[cfg(test)]
    gradients: super::Gradients::None("it has no top"),
};

/// Does nothing with its bottoms.
pub struct Silence;

impl Silence {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for Silence {
    fn reshape(&mut self, _bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(Vec::new())
    }

    fn forward(&mut self, _io: &mut Forward<'_>) -> Result<(), LayerError> {
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        for (diff, wanted) in io.bottom_diff.iter_mut().zip(io.propagate_down) {
            if *wanted {
                diff.fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn silenced_blobs_are_no_outputs_and_get_zero_gradients() {
        let silence = "force_backward: true layer { name: 'L' type: 'Silence' bottom: 'x' bottom: 'z' }";
        let mut net = net(&format!("{}{}{silence}", input("x", &[2, 3]), input("z", &[4]))).unwrap();
        assert!(net.output_names().is_empty());
        run(&mut net, &[]).unwrap();
        net.blob_diff_mut("z").unwrap().fill(7.0);
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), [0.0; 6]);
        assert_eq!(net.blob_diff("z").unwrap(), [0.0; 4]);
    }
}
