//! BatchReindex: the items of the first bottom that the second names, in its order, each as often as it is named.
//!
//! ```prototxt
//! layer { name: "chosen" type: "BatchReindex" bottom: "features" bottom: "indices" top: "chosen" }
//! ```
//!
//! `(n, …)` and `(m)` give `(m, …)`. The indices have no gradient.

use rayon::prelude::*;

use super::{Arity, LayerDef, index};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "BatchReindex",
    summary: "picks items of a batch by their indices",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(1),
    parse: |_| Ok(LayerKind::BatchReindex),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Picks items.
pub struct BatchReindex {
    items: usize,
    /// Values in an item.
    item_size: usize,
    /// The items chosen in the last pass.
    chosen: Vec<usize>,
}

impl BatchReindex {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self {
            items: 0,
            item_size: 0,
            chosen: Vec::new(),
        }
    }
}

impl Layer for BatchReindex {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let (shape, indices) = (bottom[0], bottom[1]);
        let [count] = *indices.dims() else {
            return Err(LayerError::BottomShape {
                bottom: 1,
                shape: indices.clone(),
                fact: "indices have one axis: put a Flatten layer with axis 0 before this one".to_owned(),
            });
        };
        let Some((items, rest)) = shape.dims().split_first() else {
            return Err(LayerError::Axis {
                axis: 0,
                shape: shape.clone(),
            });
        };
        (self.items, self.item_size) = (*items, shape.count_from(1));
        Ok(vec![Shape::new([&[count], rest].concat())])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let remedy = "check where the indices come from";
        index::rows(io.bottom.get(1), 1, self.items, "items", remedy, &mut self.chosen)?;
        let (x, size) = (io.bottom.get(0), self.item_size.max(1));
        let items = io.top[0].par_chunks_mut(size).zip(&self.chosen);
        items.for_each(|(y, item)| y.copy_from_slice(&x[item * size..][..size]));
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (dy, size, chosen) = (io.top_diff.get(0), self.item_size.max(1), &self.chosen);
        let items = io.bottom_diff[0].par_chunks_mut(size).enumerate();
        items.for_each(|(item, dx)| {
            dx.fill(0.0);
            for (dy, _) in dy.chunks_exact(size).zip(chosen).filter(|(_, chosen)| **chosen == item) {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            }
        });
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            1 => BottomGradient::Label("indices"),
            _ => BottomGradient::Computed,
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[4, 3, 2], &[6]],
    params: "",
    tops: 1,
    fill: super::Fill::Labels(4),
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    fn reindexed(dims: &[usize], indices: &[f32]) -> Result<Vec<f32>, String> {
        let layer = "layer { name: 'L' type: 'BatchReindex' bottom: 'x' bottom: 'i' top: 'y' }";
        let mut net = net(&format!("{}{}{layer}", input("x", dims), input("i", &[indices.len()])))?;
        let x: Vec<f32> = (0..dims.iter().product()).map(|i: usize| i as f32).collect();
        Ok(run(&mut net, &[("x", &x), ("i", indices)])?["y"].clone())
    }

    #[test]
    fn items_follow_the_indices() {
        assert_eq!(
            reindexed(&[3, 2], &[2.0, 0.0, 2.0, 1.9]),
            Ok(vec![4.0, 5.0, 0.0, 1.0, 4.0, 5.0, 2.0, 3.0])
        );
    }

    #[test]
    fn an_index_out_of_range_is_refused_by_name() {
        for wrong in [3.0, -1.0, -0.5, f32::NAN, f32::INFINITY] {
            let error = reindexed(&[3, 2], &[0.0, wrong]).unwrap_err();
            let expected = format!(
                "layer 'L' (BatchReindex): bottom 1 holds {wrong} at position 1, which is not one of the 3 items 0 to 2"
            );
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn indices_with_two_axes_are_refused_with_the_shape() {
        let layer = "layer { name: 'L' type: 'BatchReindex' bottom: 'x' bottom: 'i' top: 'y' }";
        let error = net(&format!("{}{}{layer}", input("x", &[3]), input("i", &[2, 1])))
            .err()
            .unwrap();
        assert!(
            error.contains("bottom 1 has shape (2, 1), but indices have one axis"),
            "{error}"
        );
    }
}
