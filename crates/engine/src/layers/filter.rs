//! Filter: the items of all bottoms but the last for which the last, the selector, is not zero.
//!
//! ```prototxt
//! layer {
//!   name: "kept" type: "Filter" bottom: "features" bottom: "label" bottom: "selector"
//!   top: "kept_features" top: "kept_label"
//! }
//! ```
//!
//! `(n, …)` with a selector `(n)` or `(n, 1, …)` gives `(m, …)`, `m` being as many as are selected in this pass: the
//! layers after this one follow, and are passed over where it is 0. The selector has no gradient.

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Blobs, BottomGradient, Forward, Layer},
    spec::FilterSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Filter",
    summary: "the items of a batch that a selector lets through",
    bottoms: Arity::AtLeast(2),
    tops: Arity::AtLeast(1),
    parse: FilterSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Lets selected items through.
pub struct Filter {
    /// The bottoms that are filtered; the selector is the next.
    num_tops: usize,
    /// Values in an item of each.
    item_sizes: Vec<usize>,
    /// The items selected in the last pass.
    selected: Vec<usize>,
}

impl Filter {
    /// A layer of this description.
    pub fn new(spec: &FilterSpec) -> Self {
        let FilterSpec { num_tops } = *spec;
        Self {
            num_tops,
            item_sizes: Vec::new(),
            selected: Vec::new(),
        }
    }

    fn select(&mut self, selector: &[f32]) {
        self.selected.clear();
        let items = selector.iter().enumerate().filter(|(_, value)| **value != 0.0);
        self.selected.extend(items.map(|(item, _)| item));
    }
}

impl Layer for Filter {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let Some((selector, filtered)) = bottom.split_last() else {
            return Ok(Vec::new());
        };
        if selector.num_axes() == 0 || selector.count_from(1) != 1 {
            return Err(LayerError::BottomShape {
                bottom: filtered.len(),
                shape: (*selector).clone(),
                fact: "a selector has one value an item: its axes after the first have extent 1".to_owned(),
            });
        }
        for (i, shape) in filtered.iter().enumerate() {
            if shape.dims().first() != selector.dims().first() {
                return Err(LayerError::BottomShapes {
                    first: i,
                    first_shape: (*shape).clone(),
                    second: filtered.len(),
                    second_shape: (*selector).clone(),
                    fact: "a selector has as many items as what it filters".to_owned(),
                });
            }
        }
        self.item_sizes = filtered.iter().map(|shape| shape.count_from(1).max(1)).collect();
        self.selected.reserve(selector.count());
        Ok(filtered.iter().map(|shape| (*shape).clone()).collect())
    }

    fn extent_from_data(&mut self, bottom: Blobs<'_>) -> Option<usize> {
        self.select(bottom.get(self.num_tops));
        Some(self.selected.len())
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.select(io.bottom.get(self.num_tops));
        for (i, (top, size)) in io.top.iter_mut().zip(&self.item_sizes).enumerate() {
            let x = io.bottom.get(i);
            let items = top.par_chunks_mut(*size).zip(&self.selected);
            items.for_each(|(y, item)| y.copy_from_slice(&x[item * size..][..*size]));
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let selected = &self.selected;
        for (i, size) in self
            .item_sizes
            .iter()
            .enumerate()
            .filter(|(i, _)| io.propagate_down[*i])
        {
            let dy = io.top_diff.get(i);
            let items = io.bottom_diff[i].par_chunks_mut(*size).enumerate();
            items.for_each(|(item, dx)| match selected.binary_search(&item) {
                Ok(place) => dx.copy_from_slice(&dy[place * size..][..*size]),
                Err(_) => dx.fill(0.0),
            });
        }
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        if bottom < self.num_tops {
            BottomGradient::Computed
        } else {
            BottomGradient::Label("a selector")
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[6, 3, 2], &[6]],
        params: "",
        tops: 1,
        fill: super::Fill::Labels(2),
    },
    super::GradientCase {
        bottoms: &[&[5, 3], &[5], &[5, 1, 1]],
        params: "",
        tops: 2,
        fill: super::Fill::Labels(2),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    fn filter(bottoms: &str, tops: &str) -> String {
        format!("layer {{ name: 'L' type: 'Filter' {bottoms} {tops} }}")
    }

    /// A net that classifies what is let through: with a layer in place, one without bottoms of its own, and a loss.
    fn classifier() -> String {
        let inputs = [input("x", &[4, 3]), input("t", &[4]), input("s", &[4])].concat();
        let filter = filter("bottom: 'x' bottom: 't' bottom: 's'", "top: 'y' top: 'u'");
        format!(
            "{inputs} layer {{ name: 'split' type: 'Split' bottom: 'x' top: 'c' }} {filter} force_backward: true
             layer {{ name: 'relu' type: 'ReLU' bottom: 'y' top: 'y' }}
             layer {{ name: 'ip' type: 'InnerProduct' bottom: 'y' top: 'z'
               inner_product_param {{ num_output: 2 weight_filler {{ type: 'xavier' }} }} }}
             layer {{ name: 'both' type: 'Concat' bottom: 'y' bottom: 'c' top: 'both' concat_param {{ axis: 0 }} }}
             layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'z' bottom: 'u' top: 'loss' }}"
        )
    }

    #[test]
    fn tops_follow_the_selector_from_pass_to_pass() {
        let mut net = net(&classifier()).unwrap();
        let x: Vec<f32> = (1..13).map(|i| i as f32).collect();
        for selector in [
            [0.0, 1.0, 0.0, -2.0],
            [1.0, 1.0, 1.0, 0.5],
            [0.0; 4],
            [1.0, 0.0, 0.0, 0.0],
            [0.0; 4],
        ] {
            let kept: Vec<usize> = (0..4).filter(|i| selector[*i] != 0.0).collect();
            let blobs = run(&mut net, &[("x", &x), ("t", &[0.0, 1.0, 1.0, 0.0]), ("s", &selector)]).unwrap();
            let expected: Vec<f32> = kept.iter().flat_map(|i| x[3 * i..3 * i + 3].to_vec()).collect();
            assert_eq!(blobs["y"], expected, "{selector:?}");
            assert_eq!(blobs["both"], [expected, x.clone()].concat());
            assert_eq!(net.blob_shape("z").unwrap().dims(), [kept.len(), 2]);
            assert_eq!(blobs["u"].len(), kept.len());
            assert_eq!(blobs["loss"][0] == 0.0, kept.is_empty(), "{}", blobs["loss"][0]);
            net.clear_gradients();
            net.blob_diff_mut("both").unwrap().fill(0.0);
            net.backward();
            let items = net.blob_diff("x").unwrap().chunks(3);
            let touched: Vec<usize> = (0..4)
                .zip(items)
                .filter(|(_, dx)| *dx != [0.0; 3])
                .map(|(i, _)| i)
                .collect();
            assert_eq!(touched, kept);
            assert_eq!(net.gradient_arena().iter().all(|value| *value == 0.0), kept.is_empty());
        }
    }

    #[test]
    fn a_layer_that_cannot_follow_says_so_and_the_next_batch_may_suit_it() {
        let text = format!(
            "{}{}{} layer {{ name: 'ip' type: 'InnerProduct' bottom: 'y' top: 'z'
               inner_product_param {{ num_output: 1 weight_filler {{ value: 1 }} }} }}
             layer {{ name: 'R' type: 'Reshape' bottom: 'z' top: 'r' reshape_param {{ shape {{ dim: 2 dim: -1 }} }} }}",
            input("x", &[4, 1]),
            input("s", &[4]),
            filter("bottom: 'x' bottom: 's'", "top: 'y'"),
        );
        let mut net = net(&text).unwrap();
        let x = [1.0, 2.0, 3.0, 4.0];
        let mut pass = |selector: &[f32]| run(&mut net, &[("x", &x), ("s", selector)]).map(|blobs| blobs["r"].clone());
        for (selector, expected) in [([1.0; 4], &x[..]), ([0.0, 1.0, 0.0, 1.0], &[2.0, 4.0])] {
            assert_eq!(pass(&selector), Ok(expected.to_vec()));
            let error = pass(&[1.0, 1.0, 1.0, 0.0]).unwrap_err();
            assert!(
                error.starts_with("layer 'R' (Reshape): bottom 0 has shape (3, 1)"),
                "{error}"
            );
            assert_eq!(pass(&selector), Ok(expected.to_vec()), "after an error");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_shapes() {
        let build = |x: &[usize], s: &[usize], bottoms: &str, tops: &str| {
            net(&[input("x", x), input("s", s), filter(bottoms, tops)].concat())
                .err()
                .unwrap()
        };
        let two = "bottom: 'x' bottom: 's'";
        let error = build(&[4, 2], &[4, 2], two, "top: 'y'");
        assert!(
            error.contains("bottom 1 has shape (4, 2)") && error.contains("one value an item"),
            "{error}"
        );
        let error = build(&[4, 2], &[3], two, "top: 'y'");
        assert!(error.contains("(4, 2)") && error.contains("bottom 1 (3)"), "{error}");
        let error = build(&[4, 2], &[4], two, "top: 'y' top: 'z'");
        assert!(error.contains("2 bottoms and 2 tops"), "{error}");
    }
}
