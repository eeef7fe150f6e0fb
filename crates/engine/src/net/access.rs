//! What others see of a net: its blobs by name, its parameters, the arenas.

use std::ops::Range;

use super::{Blob, Net, shapes::is_fed};
use crate::{Error, Phase, Shape, params::Param, spec::NetSpec};

impl Net {
    /// The net's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The description that the net was built from.
    pub fn spec(&self) -> &NetSpec {
        &self.spec
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.spec.state.phase
    }

    /// The names of the blobs, in the order of their last writers.
    pub fn blob_names(&self) -> Vec<String> {
        let mut named: Vec<(&usize, &String)> = self.by_name.iter().map(|(name, blob)| (blob, name)).collect();
        named.sort();
        named.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// The names of the blobs that no layer reads, sorted, as Caffe lists a net's outputs.
    pub fn output_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .by_name
            .iter()
            .filter(|(_, blob)| self.blobs[**blob].readers == 0)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn blob(&self, name: &str) -> Result<&Blob, Error> {
        match self.by_name.get(name) {
            Some(blob) => Ok(&self.blobs[*blob]),
            None => Err(Error::NoSuchBlob {
                blob: name.to_owned(),
                names: self.blob_names(),
            }),
        }
    }

    /// The oldest blob of a name: what later layers of the same top's name work on in place.
    pub(crate) fn first_blob(&self, name: &str) -> Result<&Blob, Error> {
        match self.blobs.iter().find(|blob| blob.name == name) {
            Some(blob) => Ok(blob),
            None => self.blob(name),
        }
    }

    /// A blob's shape.
    ///
    /// # Errors
    /// A name that no blob has; so for the next four.
    pub fn blob_shape(&self, name: &str) -> Result<&Shape, Error> {
        Ok(&self.blob(name)?.shape)
    }

    /// A blob's values; where a layer works in place, those of the last writer.
    pub fn blob_data(&self, name: &str) -> Result<&[f32], Error> {
        Ok(&self.data[self.blob(name)?.data])
    }

    /// A blob's values, to fill it; for a data layer's blob those that the layer gives, whoever works on it in place.
    pub fn blob_data_mut(&mut self, name: &str) -> Result<&mut [f32], Error> {
        let buffer = self.writable_blob(name)?.data;
        Ok(&mut self.data[buffer])
    }

    pub(crate) fn writable_blob(&self, name: &str) -> Result<&Blob, Error> {
        let first = self.first_blob(name)?;
        if is_fed(&self.spec.layers[first.producer]) {
            Ok(first)
        } else {
            self.blob(name)
        }
    }

    /// A blob's gradient after [`Net::backward`]; where layers work in place, that of the first writer's values, as in
    /// Caffe.
    pub fn blob_diff(&self, name: &str) -> Result<&[f32], Error> {
        Ok(&self.diff[self.first_blob(name)?.diff])
    }

    /// A blob's gradient, to set that of an output before [`Net::backward`]; where layers work in place, that of the
    /// last writer's values.
    pub fn blob_diff_mut(&mut self, name: &str) -> Result<&mut [f32], Error> {
        let buffer = self.blob(name)?.diff;
        self.ensure_diffs();
        Ok(&mut self.diff[buffer])
    }

    /// The learnable parameters, in Caffe's order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The parameters of layer `layer` (an index into the spec's layers), as indices into [`Net::params`].
    pub fn layer_params(&self, layer: usize) -> &[usize] {
        &self.layers[layer].params
    }

    /// All parameters, one after the other.
    pub fn param_arena(&self) -> &[f32] {
        &self.param_arena
    }

    /// All parameters, to change them.
    pub fn param_arena_mut(&mut self) -> &mut [f32] {
        &mut self.param_arena
    }

    /// All gradients, laid out as the parameters.
    pub fn gradient_arena(&self) -> &[f32] {
        &self.gradient_arena
    }

    /// Parameters to change and gradients, both at once.
    pub fn arenas_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.param_arena, &mut self.gradient_arena)
    }

    /// The learnable parameters, their values and their gradients, for the solver.
    pub(crate) fn update_parts_mut(&mut self) -> (&[Param], &mut [f32], &[f32]) {
        (&self.params, &mut self.param_arena, &self.gradient_arena)
    }

    /// The shapes of a layer's parameter blobs.
    pub(crate) fn layer_param_shapes(&self, layer: usize) -> impl Iterator<Item = (&Shape, Range<usize>)> {
        self.layers[layer]
            .params
            .iter()
            .map(|id| (&self.params[*id].shape, self.params[*id].range.clone()))
    }
}
