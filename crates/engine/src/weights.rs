//! A net's weights: taken from files and from other nets by layer name, and written to files.

use std::ops::Range;

use sparknet_proto::caffe::{BlobProto, NetParameter};

use crate::{Error, Net, Shape};

impl Net {
    /// Where statistics lie in the arena of parameters: blobs that no gradient moves but their layer's forward pass
    /// (BatchNorm's), so that workers differ in them until they are averaged.
    pub fn statistics(&self) -> impl Iterator<Item = Range<usize>> {
        let layers = &self.spec().layers;
        let params = self.params().iter();
        params
            .filter(|param| param.index < layers[param.layer].kind.num_statistics())
            .map(|param| param.range.clone())
    }

    /// Copies parameters from another net's arena by layer name, as a test net takes those of its train net.
    ///
    /// # Errors
    /// A layer of the same name whose parameters have other shapes.
    pub fn param_map_from(&self, other: &Net) -> Result<ParamMap, Error> {
        let mut pairs = Vec::new();
        for (index, spec) in self.spec().layers.iter().enumerate() {
            let Some(source) = other.spec().layers.iter().position(|layer| layer.name == spec.name) else {
                continue;
            };
            let (mine, theirs) = (self.layer_param_shapes(index), other.layer_param_shapes(source));
            if self.layer_params(index).len() != other.layer_params(source).len() {
                return Err(Error::Weights {
                    layer: spec.name.clone(),
                    fact: "the two nets' layers of that name have different numbers of parameter blobs".to_owned(),
                });
            }
            for ((my_shape, my_range), (their_shape, their_range)) in mine.zip(theirs) {
                if my_shape.count() != their_shape.count() {
                    return Err(Error::Weights {
                        layer: spec.name.clone(),
                        fact: format!("one net has a blob of shape {their_shape}, the other {my_shape}"),
                    });
                }
                pairs.push((their_range, my_range));
            }
        }
        Ok(ParamMap { pairs })
    }

    /// Takes parameters from `arena`, which is laid out as that of the net that `map` comes from.
    pub fn load_params(&mut self, map: &ParamMap, arena: &[f32]) {
        for (theirs, mine) in &map.pairs {
            self.param_arena_mut()[mine.clone()].copy_from_slice(&arena[theirs.clone()]);
        }
    }

    /// Copies the weights of layers that `weights` has by the same name; other layers on either side are left alone.
    /// Returns how many layers took weights.
    ///
    /// # Errors
    /// Blobs of another number or shape.
    pub fn copy_weights_from(&mut self, weights: &NetParameter) -> Result<usize, Error> {
        let mut taken = 0;
        for source in &weights.layer {
            let Some(index) = self.spec().layers.iter().position(|layer| layer.name == source.name()) else {
                continue;
            };
            if source.blobs.is_empty()
                && self
                    .layer_params(index)
                    .iter()
                    .all(|id| self.params()[*id].layer != index)
            {
                // Without parameters, or with those of other layers alone, which HDF5 files leave out.
                continue;
            }
            self.copy_layer_blobs(index, &source.blobs)?;
            taken += 1;
        }
        Ok(taken)
    }

    pub(crate) fn copy_layer_blobs(&mut self, index: usize, blobs: &[BlobProto]) -> Result<(), Error> {
        let layer = self.spec().layers[index].name.clone();
        let error = |fact: String| Error::Weights {
            layer: layer.clone(),
            fact,
        };
        let (found, wanted) = (blobs.len(), self.layer_params(index).len());
        let is_shared = |id: &usize| self.params()[*id].layer != index;
        if found > wanted || !self.layer_params(index)[found..].iter().all(is_shared) {
            return Err(error(format!(
                "the file has {found} blobs and the layer {wanted}: rename the layer to train it from scratch"
            )));
        }
        for (position, blob) in blobs.iter().enumerate() {
            let param = self.params()[self.layer_params(index)[position]].clone();
            if is_left_out(blob) && param.layer != index {
                continue;
            }
            if !blob_has_shape(blob, &param.shape) {
                return Err(error(format!(
                    "the file has a blob of shape {} and the layer one of {}: rename the layer to train it from scratch",
                    blob_shape(blob),
                    param.shape
                )));
            }
            let target = &mut self.param_arena_mut()[param.range];
            read_blob(blob, target).map_err(error)?;
        }
        Ok(())
    }

    /// The net with its weights, as a `.caffemodel` holds it. `params` and `gradients` are laid out as this net's.
    pub fn to_proto(&self, params: &[f32], gradients: Option<&[f32]>) -> NetParameter {
        let mut message = self.spec().to_proto();
        for (index, target) in message.layer.iter_mut().enumerate() {
            target.blobs = self
                .layer_params(index)
                .iter()
                .map(|id| &self.params()[*id])
                .map(|param| BlobProto {
                    shape: Some(param.shape.to_proto()),
                    data: params[param.range.clone()].to_vec(),
                    diff: gradients.map_or_else(Vec::new, |gradients| gradients[param.range.clone()].to_vec()),
                    ..Default::default()
                })
                .collect();
        }
        message
    }

    /// Takes the values of shared parameters out of `message`, which [`Net::to_proto`] made, where another layer owns
    /// them: HDF5 files have each parameter once.
    pub fn keep_owned_values(&self, message: &mut NetParameter) {
        for (index, layer) in message.layer.iter_mut().enumerate() {
            for (blob, id) in layer.blobs.iter_mut().zip(self.layer_params(index)) {
                if self.params()[*id].layer != index {
                    blob.data.clear();
                }
            }
        }
    }
}

/// Which slices of one net's parameters are which of another's.
#[derive(Clone, Debug)]
pub struct ParamMap {
    pairs: Vec<(Range<usize>, Range<usize>)>,
}

/// A blob message's shape; files from before N-D blobs have four extents instead.
pub(crate) fn blob_shape(blob: &BlobProto) -> Shape {
    match &blob.shape {
        Some(shape) => Shape::from_proto(shape).unwrap_or_default(),
        None => Shape::new(
            [blob.num(), blob.channels(), blob.height(), blob.width()]
                .iter()
                .map(|dim| usize::try_from(*dim).unwrap_or(0))
                .collect::<Vec<_>>(),
        ),
    }
}

/// Whether a blob message has `shape`; four legacy extents fit a shape of fewer axes with ones before it.
fn blob_has_shape(blob: &BlobProto, shape: &Shape) -> bool {
    let found = blob_shape(blob);
    if blob.shape.is_some() {
        return found == *shape;
    }
    let missing = 4usize.saturating_sub(shape.num_axes());
    shape.num_axes() <= 4
        && found.dims()[..missing].iter().all(|dim| *dim == 1)
        && found.dims()[missing..] == *shape.dims()
}

/// Whether a file has no values for a blob: HDF5 files have shared parameters once, with the layer that owns them.
fn is_left_out(blob: &BlobProto) -> bool {
    blob.shape.is_none() && blob.data.is_empty() && blob.double_data.is_empty()
}

/// Reads a blob message's values, which may be floats or doubles.
pub(crate) fn read_blob(blob: &BlobProto, values: &mut [f32]) -> Result<(), String> {
    let found = blob.data.len().max(blob.double_data.len());
    if found != values.len() {
        return Err(format!(
            "the file has {found} values and the layer {}: the file is damaged",
            values.len()
        ));
    }
    if blob.double_data.is_empty() {
        values.copy_from_slice(&blob.data);
    } else {
        values
            .iter_mut()
            .zip(&blob.double_data)
            .for_each(|(value, double)| *value = *double as f32);
    }
    Ok(())
}
