//! EuclideanLoss: `y = Σ (x₀ - x₁)² / 2n`, with n the first axis' extent.
//!
//! ```prototxt
//! layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, neuron::CHUNK};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "EuclideanLoss",
    summary: "half the mean squared distance of two blobs",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(1),
    parse: |_| Ok(LayerKind::EuclideanLoss),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Half the mean squared distance of two blobs.
pub struct EuclideanLoss {
    /// The extent of the first axis.
    n: usize,
}

impl EuclideanLoss {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self { n: 0 }
    }
}

impl Layer for EuclideanLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let [first, second] = [bottom[0], bottom[1]];
        self.n = first.dim_or_1(0);
        if self.n != second.dim_or_1(0) || first.count() != second.count() {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: first.clone(),
                second: 1,
                second_shape: second.clone(),
                fact: "they have to agree in their first extent and their count".to_owned(),
            });
        }
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let pairs = io.bottom.get(0).iter().zip(io.bottom.get(1));
        let sum_squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        io.top[0][0] = (sum_squares / self.n as f64 / 2.0) as f32;
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let scale = io.top_diff[0][0] / self.n as f32;
        for (i, scale) in [(0, scale), (1, -scale)] {
            if io.propagate_down[i] {
                let (a, b) = (io.bottom.get(0).par_chunks(CHUNK), io.bottom.get(1).par_chunks(CHUNK));
                let chunks = io.bottom_diff[i].par_chunks_mut(CHUNK).zip(a).zip(b);
                chunks.for_each(|((dx, a), b)| {
                    dx.iter_mut()
                        .zip(a)
                        .zip(b)
                        .for_each(|((dx, a), b)| *dx = scale * (a - b));
                });
            }
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[4, 3], &[4, 3]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 2], &[2, 6]],
        params: "loss_weight: 0.3",
        tops: 1,
        fill: super::Fill::Normal,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn shapes_must_agree() {
        let layer = "layer { name: 'L' type: 'EuclideanLoss' bottom: 'x' bottom: 'z' top: 'y' }";
        let build = |x: &[usize], z: &[usize]| net(&format!("{}{}{layer}", input("x", x), input("z", z)));
        assert!(build(&[2, 6], &[3, 4]).err().unwrap().contains("(3, 4)"));
        assert!(build(&[2, 6], &[2, 5]).is_err());
        let mut net = build(&[2, 2], &[2, 2]).unwrap();
        let bottoms: [(&str, &[f32]); 2] = [("x", &[1.0, 2.0, 3.0, 4.0]), ("z", &[1.0, 0.0, 3.0, 1.0])];
        assert_eq!(run(&mut net, &bottoms).unwrap()["y"], [(4.0 + 9.0) / 4.0]);
    }
}
