//! Where a gradient is needed that a layer has not: what to say about it.

use std::{collections::VecDeque, mem};

use super::Plan;
use crate::{
    error::NoGradient,
    layer::{BottomGradient, Layer},
    spec::LayerSpec,
};

impl Plan {
    /// The first layer that drops the gradient of one of its tops, where a loss has one for it.
    pub(super) fn dropped_gradient(
        &self,
        specs: &[LayerSpec],
        layers: &[Box<dyn Layer>],
        under_loss: &[bool],
    ) -> Option<(usize, NoGradient)> {
        let sentence = |index: usize, blob: usize, need: String| {
            let spec = &specs[index];
            let blob = self.blobs[blob].name.clone();
            let fact = format!("to hand on from its top '{blob}', {need}");
            let (layer, type_name) = (spec.name.clone(), spec.type_name);
            Some((
                index,
                NoGradient {
                    layer,
                    type_name,
                    blob,
                    fact,
                },
            ))
        };
        let drops = |index: usize, blob: usize| {
            let plan = &self.layers[index];
            let top = plan.tops.iter().position(|top| *top == blob);
            plan.needs_backward && top.is_some_and(|top| !layers[index].takes_gradient(top))
        };
        for (reader, plan) in self.layers.iter().enumerate() {
            for top in &plan.tops {
                if self.blobs[*top].loss_weight != 0.0 && drops(reader, *top) {
                    return sentence(
                        reader,
                        *top,
                        "but a loss_weight for it: give it loss_weight: 0".to_owned(),
                    );
                }
            }
            let is_under_loss = |top: &usize| self.blobs[*top].loss_weight != 0.0 || under_loss[*top];
            if !plan.tops.iter().any(is_under_loss) {
                continue;
            }
            let learned = plan
                .bottoms
                .iter()
                .zip(&plan.propagate_down)
                .filter(|(_, wanted)| **wanted);
            for (blob, _) in learned {
                let producer = self.blobs[*blob].producer;
                if drops(producer, *blob) {
                    let reader = &specs[reader].name;
                    let need = format!(
                        "by which layer '{reader}' would have the net learn: write propagate_down: false for it into \
                         '{reader}', or take another top"
                    );
                    return sentence(producer, *blob, need);
                }
            }
        }
        None
    }

    /// The sentence about the gradient of bottom `i` of layer `index`, which is needed and not there.
    pub(super) fn no_gradient(
        &self,
        specs: &[LayerSpec],
        layers: &[Box<dyn Layer>],
        learns: &[bool],
        [index, i]: [usize; 2],
    ) -> NoGradient {
        let (spec, plan) = (&specs[index], &self.layers[index]);
        let what = match layers[index].bottom_gradient(i) {
            BottomGradient::Label(what) => format!("which holds {what}"),
            _ => "which it only compares".to_owned(),
        };
        let need = match self.learning_layer(learns, plan.bottoms[i]) {
            Some(layer) => format!("layer '{}' before it learns", specs[layer].name),
            None if spec.propagate_down.get(i) == Some(&true) => "its propagate_down asks for one".to_owned(),
            None => "force_backward asks for one".to_owned(),
        };
        let passes = |j: usize| plan.propagate_down[j] && layers[index].bottom_gradient(j) == BottomGradient::Computed;
        let remedy: Vec<String> = (0..plan.bottoms.len())
            .map(|j| format!("propagate_down: {}", passes(j)))
            .collect();
        NoGradient {
            layer: spec.name.clone(),
            type_name: spec.type_name,
            blob: spec.bottoms[i].clone(),
            fact: format!(
                "for its bottom '{}', {what}, but {need}: write {} into it, if nothing is to be learned through there",
                spec.bottoms[i],
                remedy.join(" ")
            ),
        }
    }

    /// The nearest layer that learns on the way from a blob to what it is computed from.
    fn learning_layer(&self, learns: &[bool], blob: usize) -> Option<usize> {
        let mut seen = vec![false; self.blobs.len()];
        let mut next = VecDeque::from([blob]);
        while let Some(blob) = next.pop_front() {
            let producer = self.blobs[blob].producer;
            if learns[producer] {
                return Some(producer);
            }
            for bottom in &self.layers[producer].bottoms {
                if !mem::replace(&mut seen[*bottom], true) {
                    next.push_back(*bottom);
                }
            }
        }
        None
    }
}
