//! Which layer reads and writes which blob, who may run in place, and who needs a gradient: Caffe's rules, worked out
//! once when a net is built.
//!
//! Every top is a blob of its own here, also one that a file writes in place: the blob's *name* then moves on to the
//! newer one. Whether the two lie in one buffer is decided afterwards, so that in-place in a file never changes what is
//! computed.

mod no_gradient;

use std::collections::HashMap;

use crate::{
    Error, error,
    error::NoGradient,
    layer::{BottomGradient, Layer},
    spec::{LayerKind, LayerSpec},
};

/// A blob of the net.
#[derive(Clone, Debug)]
pub(crate) struct BlobPlan {
    /// Its name; a later blob of the same name lies over it, in place.
    pub name: String,
    /// The layer that writes it.
    pub producer: usize,
    /// How many bottoms it is.
    pub readers: usize,
    /// Its weight in the loss.
    pub loss_weight: f32,
    /// The buffer of its values.
    pub data: usize,
    /// The buffer of its gradient.
    pub diff: usize,
    /// Whether it has a gradient.
    pub needs_backward: bool,
}

/// What the plan says of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerPlan {
    /// Its bottoms, as blobs.
    pub bottoms: Vec<usize>,
    /// Its tops, as blobs.
    pub tops: Vec<usize>,
    /// Whether its top lies over its bottom.
    pub in_place: bool,
    /// Whether it runs in the backward pass.
    pub needs_backward: bool,
    /// Which bottoms it gives a gradient.
    pub propagate_down: Vec<bool>,
    /// Which of those are added to what another reader of the blob has already given.
    pub accumulate: Vec<bool>,
}

/// The plan of a net.
pub(crate) struct Plan {
    pub blobs: Vec<BlobPlan>,
    pub layers: Vec<LayerPlan>,
    /// The blob that a name stands for.
    pub by_name: HashMap<String, usize>,
    /// The number of buffers of values, and of gradients.
    pub buffers: usize,
}

impl Plan {
    /// Resolves names to blobs.
    ///
    /// # Errors
    /// A bottom that nobody produces, a top that is produced twice.
    pub fn connect(specs: &[LayerSpec]) -> Result<Self, Error> {
        let mut plan = Self {
            blobs: Vec::new(),
            layers: Vec::new(),
            by_name: HashMap::new(),
            buffers: 0,
        };
        for (layer_index, spec) in specs.iter().enumerate() {
            let mut layer = LayerPlan::default();
            for bottom in &spec.bottoms {
                let Some(blob) = plan.by_name.get(bottom) else {
                    return Err(unknown_bottom(specs, layer_index, bottom, &plan));
                };
                plan.blobs[*blob].readers += 1;
                layer.bottoms.push(*blob);
            }
            for (i, top) in spec.tops.iter().enumerate() {
                let in_place_in_file = spec.bottoms.get(i) == Some(top);
                if let Some(older) = plan.by_name.get(top)
                    && !in_place_in_file
                {
                    return Err(Error::DuplicateTop {
                        layer: spec.name.clone(),
                        blob: top.clone(),
                        producer: specs[plan.blobs[*older].producer].name.clone(),
                    });
                }
                let blob = plan.blobs.len();
                plan.blobs.push(BlobPlan {
                    name: top.clone(),
                    producer: layer_index,
                    readers: 0,
                    loss_weight: spec.loss_weights[i],
                    data: 0,
                    diff: 0,
                    needs_backward: false,
                });
                plan.by_name.insert(top.clone(), blob);
                layer.tops.push(blob);
            }
            plan.layers.push(layer);
        }
        Ok(plan)
    }

    /// Gives blobs their buffers: a top that the file writes over its bottom shares the bottom's where nobody else
    /// needs the bottom's values.
    pub fn assign_buffers(&mut self, specs: &[LayerSpec], layers: &[Box<dyn Layer>]) {
        for (layer_index, spec) in specs.iter().enumerate() {
            let plan = &mut self.layers[layer_index];
            if let ([bottom], [top]) = (&plan.bottoms[..], &plan.tops[..])
                && spec.bottoms[0] == spec.tops[0]
                && layers[layer_index].can_run_in_place()
            {
                let blob = &self.blobs[*bottom];
                let producer = &specs[blob.producer].kind;
                let fed = producer.is_fed() || matches!(producer, LayerKind::DummyData(_));
                plan.in_place = !fed
                    && blob.readers == 1
                    && blob.loss_weight == 0.0
                    && !layers[blob.producer].reads_top_in_backward();
                if plan.in_place {
                    self.blobs[*top].data = self.blobs[*bottom].data;
                    self.blobs[*top].diff = self.blobs[*bottom].diff;
                    continue;
                }
            }
            for top in &plan.tops {
                self.blobs[*top].data = self.buffers;
                self.blobs[*top].diff = self.buffers;
                self.buffers += 1;
            }
        }
    }

    /// Finds out who needs a gradient. `param_lr_mults` are the learning rate factors of each layer's parameters. The
    /// answer is the first layer that has not the gradient that is needed of it, with its index.
    pub fn plan_backward(
        &mut self,
        specs: &[LayerSpec],
        layers: &[Box<dyn Layer>],
        param_lr_mults: &[Vec<f32>],
        force_backward: bool,
    ) -> Option<(usize, NoGradient)> {
        let learns: Vec<bool> = param_lr_mults
            .iter()
            .map(|lr_mults| lr_mults.iter().any(|lr_mult| *lr_mult != 0.0))
            .collect();
        // Downstream of anything that learns.
        for (layer_index, spec) in specs.iter().enumerate() {
            let layer = &mut self.layers[layer_index];
            let reads_needed = layer.bottoms.iter().any(|blob| self.blobs[*blob].needs_backward);
            layer.needs_backward = learns[layer_index] || reads_needed;
            layer.propagate_down = (0..layer.bottoms.len())
                .map(|i| match spec.propagate_down.get(i) {
                    Some(wanted) => *wanted,
                    None => self.blobs[layer.bottoms[i]].needs_backward,
                })
                .collect();
            for top in &layer.tops {
                self.blobs[*top].needs_backward = layer.needs_backward;
            }
        }
        // Upstream of any loss, and not cut off from it.
        let mut under_loss = vec![false; self.blobs.len()];
        let mut gets_gradient: Vec<bool> = self
            .blobs
            .iter()
            .map(|blob| blob.readers == 0 || blob.loss_weight != 0.0)
            .collect();
        for layer in self.layers.iter_mut().rev() {
            let contributes = layer
                .tops
                .iter()
                .any(|top| self.blobs[*top].loss_weight != 0.0 || under_loss[*top]);
            if !contributes || !layer.tops.iter().any(|top| gets_gradient[*top]) {
                layer.needs_backward = false;
                layer.propagate_down.fill(false);
            }
            for (blob, propagate) in layer.bottoms.iter().zip(&layer.propagate_down) {
                under_loss[*blob] |= contributes;
                gets_gradient[*blob] |= propagate;
            }
        }
        if force_backward {
            let is_under_loss = |top: &usize| self.blobs[*top].loss_weight != 0.0 || under_loss[*top];
            for ((layer, spec), plan) in layers.iter().zip(specs).zip(&mut self.layers) {
                plan.needs_backward = true;
                for (i, propagate) in plan.propagate_down.iter_mut().enumerate() {
                    *propagate |= match layer.bottom_gradient(i) {
                        BottomGradient::Computed => true,
                        // Caffe asks for none of labels either.
                        BottomGradient::Zero | BottomGradient::Label(_) => false,
                        // Off the way to a loss nobody misses it: an Accuracy layer, say.
                        BottomGradient::Step => {
                            plan.tops.iter().any(is_under_loss) && spec.propagate_down.get(i) != Some(&false)
                        }
                    };
                }
            }
        }
        let mut missing = None;
        for (index, layer) in layers.iter().enumerate() {
            for i in 0..self.layers[index].bottoms.len() {
                let gradient = layer.bottom_gradient(i);
                if gradient == BottomGradient::Computed {
                    continue;
                }
                let plan = &self.layers[index];
                if missing.is_none()
                    && gradient != BottomGradient::Zero
                    && plan.needs_backward
                    && plan.propagate_down[i]
                {
                    missing = Some((index, self.no_gradient(specs, layers, &learns, [index, i])));
                }
                self.layers[index].propagate_down[i] = false;
            }
        }
        self.plan_accumulation();
        missing.or_else(|| self.dropped_gradient(specs, layers, &under_loss))
    }

    /// The first to write a blob's gradient in the backward pass overwrites; the others add.
    fn plan_accumulation(&mut self) {
        // The gradient of a term of the loss begins with its weight.
        let mut written: Vec<bool> = self.blobs.iter().map(|blob| blob.loss_weight != 0.0).collect();
        for layer in self.layers.iter_mut().rev() {
            layer.accumulate = vec![false; layer.bottoms.len()];
            if !layer.needs_backward {
                continue;
            }
            for (i, blob) in layer.bottoms.iter().enumerate() {
                if layer.propagate_down[i] {
                    layer.accumulate[i] = written[*blob];
                    written[*blob] = true;
                }
            }
        }
    }
}

fn unknown_bottom(specs: &[LayerSpec], layer_index: usize, bottom: &str, plan: &Plan) -> Error {
    let writes = |spec: &&LayerSpec| spec.tops.iter().any(|top| top == bottom);
    let fact = if specs[layer_index].tops.iter().any(|top| top == bottom) {
        "only it writes: a layer cannot read its own top".to_owned()
    } else if let Some(later) = specs[layer_index..].iter().find(writes) {
        format!(
            "layer '{}' writes only later: move that layer up, or break the cycle",
            later.name
        )
    } else {
        let mut names: Vec<&String> = plan.by_name.keys().collect();
        names.sort();
        if names.is_empty() {
            "no layer before it writes: begin the net with a layer that brings data in, an Input say".to_owned()
        } else {
            format!("no layer before it writes: there is {}", error::quoted(&names))
        }
    };
    Error::UnknownBottom {
        layer: specs[layer_index].name.clone(),
        blob: bottom.to_owned(),
        fact,
    }
}
