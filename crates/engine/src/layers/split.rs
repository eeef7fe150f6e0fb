//! Split: copies its bottom to every top; the bottom's gradient is the sum of the tops'.
//!
//! ```prototxt
//! layer { name: "split" type: "Split" bottom: "x" top: "a" top: "b" }
//! ```
//!
//! Nets do not need it, because any number of layers may read a blob; files of other tools have it.

use rayon::prelude::*;

use super::{
    Arity, LayerDef,
    neuron::CHUNK,
    vectorized::{copy, vectorized},
};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::SplitSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Split",
    summary: "copies its bottom to every top",
    bottoms: Arity::Exactly(1),
    tops: Arity::AtLeast(1),
    parse: SplitSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Copies a blob.
pub struct Split {
    num_tops: usize,
}

impl Split {
    /// A layer that makes `spec.num_tops` copies.
    pub fn new(spec: &SplitSpec) -> Self {
        let SplitSpec { num_tops } = *spec;
        Self { num_tops }
    }
}

impl Layer for Split {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone(); self.num_tops])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        for top in &mut *io.top {
            copy(io.bottom.get(0), top);
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let top_diff = io.top_diff;
        let chunks = io.bottom_diff[0].par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(chunk, dx)| {
            let part = |top: usize| &top_diff[top][chunk * CHUNK..][..dx.len()];
            dx.copy_from_slice(part(0));
            for top in 1..top_diff.len() {
                let dy = &top_diff[top][chunk * CHUNK..];
                vectorized(
                    #[inline(always)]
                    || dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy),
                );
            }
        });
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "",
        tops: 3,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
];
