//! The net's parameters: which blobs there are, who shares them, and where they lie in the arenas.

use std::{collections::HashMap, ops::Range};

use crate::{
    Error, Shape,
    layer::ParamBlob,
    random,
    spec::{LayerSpec, ParamSpec},
};

/// One learnable blob of the net; layers that share it by name have one between them.
#[derive(Clone, Debug)]
pub struct Param {
    /// The layer that owns it, by index.
    pub layer: usize,
    /// Which of the layer's blobs it is.
    pub index: usize,
    /// Its shape.
    pub shape: Shape,
    /// Where it lies in the arenas of parameters, gradients and histories.
    pub range: Range<usize>,
    /// The factor on the learning rate.
    pub lr_mult: f32,
    /// The factor on the weight decay.
    pub decay_mult: f32,
}

/// Collects the parameters of a net, layer by layer, and fills them.
#[derive(Default)]
pub(crate) struct ParamTable {
    pub params: Vec<Param>,
    pub arena: Vec<f32>,
    by_name: HashMap<String, usize>,
    /// For params with a name: whether a file has given their multipliers yet.
    given: Vec<(bool, bool)>,
}

impl ParamTable {
    /// Adds `blobs`, those of layer `layer_index`, filled from `seed`; returns which parameter each is.
    pub fn add_layer(
        &mut self,
        layers: &[LayerSpec],
        layer_index: usize,
        blobs: &[ParamBlob],
        seed: u64,
    ) -> Result<Vec<usize>, Error> {
        let layer = &layers[layer_index];
        if layer.params.len() > blobs.len() {
            let (given, wanted) = (layer.params.len(), blobs.len());
            return Err(Error::Weights {
                layer: layer.name.clone(),
                fact: format!("the file gives {given} param entries, but the layer has {wanted} parameter blobs"),
            });
        }
        let default = ParamSpec::default();
        let mut ids = Vec::with_capacity(blobs.len());
        for (index, blob) in blobs.iter().enumerate() {
            let spec = layer.params.get(index).unwrap_or(&default);
            let id = match self.by_name.get(&spec.name) {
                Some(owner) => self.share(layers, layer_index, *owner, blob, spec)?,
                None => self.own(layer, layer_index, index, blob, spec, seed)?,
            };
            if ids.contains(&id) {
                return Err(Error::SharedParam {
                    layer: layer.name.clone(),
                    param: spec.name.clone(),
                    owner: layer.name.clone(),
                    fact: "one layer cannot use it twice: rename one of the two".to_owned(),
                });
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn own(
        &mut self,
        layer: &LayerSpec,
        layer_index: usize,
        index: usize,
        blob: &ParamBlob,
        spec: &ParamSpec,
        seed: u64,
    ) -> Result<usize, Error> {
        let id = self.params.len();
        let start = self.arena.len();
        let range = start..start + blob.shape.count();
        self.arena.resize(range.end, 0.0);
        let stream = random::key(&[seed, id as u64]);
        let values = &mut self.arena[range.clone()];
        blob.filler
            .fill(stream, &blob.shape, values)
            .map_err(|source| Error::Layer {
                layer: layer.name.clone(),
                type_name: layer.type_name,
                source: Box::new(source),
            })?;
        self.params.push(Param {
            layer: layer_index,
            index,
            shape: blob.shape.clone(),
            range,
            lr_mult: spec.lr_mult.unwrap_or(1.0),
            decay_mult: spec.decay_mult.unwrap_or(1.0),
        });
        self.given.push((spec.lr_mult.is_some(), spec.decay_mult.is_some()));
        if !spec.name.is_empty() {
            self.by_name.insert(spec.name.clone(), id);
        }
        Ok(id)
    }

    fn share(
        &mut self,
        layers: &[LayerSpec],
        layer_index: usize,
        owner: usize,
        blob: &ParamBlob,
        spec: &ParamSpec,
    ) -> Result<usize, Error> {
        let param = &mut self.params[owner];
        let mismatch = |fact: String| Error::SharedParam {
            layer: layers[layer_index].name.clone(),
            param: spec.name.clone(),
            owner: layers[param.layer].name.clone(),
            fact,
        };
        if spec.permissive {
            if blob.shape.count() != param.shape.count() {
                let (mine, theirs) = (&blob.shape, &param.shape);
                return Err(mismatch(format!("its shape {mine} has another count than {theirs}")));
            }
        } else if blob.shape != param.shape {
            let (mine, theirs) = (&blob.shape, &param.shape);
            return Err(mismatch(format!(
                "its shape {mine} is not {theirs}: give it share_mode PERMISSIVE if only the count has to agree"
            )));
        }
        let merge = |what: &str, mine: Option<f32>, theirs: &mut f32, given: &mut bool| match mine {
            Some(mine) if *given && mine != *theirs => Err(format!(
                "its {what} {mine} is not {theirs}: give both the same, or only one"
            )),
            Some(mine) => {
                *theirs = mine;
                *given = true;
                Ok(())
            }
            None => Ok(()),
        };
        let mut multipliers = (param.lr_mult, param.decay_mult);
        let given = &mut self.given[owner];
        merge("lr_mult", spec.lr_mult, &mut multipliers.0, &mut given.0).map_err(&mismatch)?;
        merge("decay_mult", spec.decay_mult, &mut multipliers.1, &mut given.1).map_err(&mismatch)?;
        (param.lr_mult, param.decay_mult) = multipliers;
        Ok(owner)
    }
}
