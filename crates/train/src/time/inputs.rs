//! What Input layers are filled with: labels and indices that the layers can take, else normal values.

use std::collections::HashMap;

use sparknet_engine::{
    Net, random,
    spec::{LayerKind, LayerSpec},
};

use super::SEED;
use crate::Error;

/// Values for every top of the Input layers: labels and indices that the layers can take, else normal ones.
pub fn random_inputs(net: &Net) -> Result<Vec<(String, Vec<f32>)>, Error> {
    let counts = counts_to_choose_from(net)?;
    let mut inputs = Vec::new();
    let layers = net
        .spec()
        .layers
        .iter()
        .filter(|layer| matches!(layer.kind, LayerKind::Input(_)));
    for (stream, blob) in layers.flat_map(|layer| &layer.tops).enumerate() {
        let key = random::key(&[SEED, stream as u64]);
        let count = net.blob_shape(blob)?.count() as u64;
        let values = match counts.get(blob) {
            Some(choices) => (0..count)
                .map(|i| (random::bits(key, i) % *choices as u64) as f32)
                .collect(),
            None => (0..count).map(|i| random::normal(key, i)).collect(),
        };
        inputs.push((blob.clone(), values));
    }
    Ok(inputs)
}

/// The blobs that hold labels or indices, by name, each with the smallest number of what the layers choose from by it
/// that read it: directly, or through layers that only move values.
fn counts_to_choose_from(net: &Net) -> Result<HashMap<String, usize>, Error> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for layer in net.spec().layers.iter().rev() {
        let moved = match &layer.kind {
            LayerKind::Split(_)
            | LayerKind::Slice(_)
            | LayerKind::Concat(_)
            | LayerKind::Flatten(_)
            | LayerKind::Reshape(_)
            | LayerKind::Tile(_) => &layer.bottoms[..],
            LayerKind::BatchReindex | LayerKind::Crop(_) => &layer.bottoms[..1],
            LayerKind::Filter(spec) => &layer.bottoms[..spec.num_tops],
            _ => &[],
        };
        let least = layer.tops.iter().filter_map(|top| counts.get(top)).min().copied();
        if let Some(least) = least {
            moved.iter().for_each(|bottom| keep_least(&mut counts, bottom, least));
        }
        if let Some((bottom, count)) = chooses_by(net, layer)? {
            keep_least(&mut counts, &layer.bottoms[bottom], count);
        }
    }
    Ok(counts)
}

/// Which bottom of a layer holds labels or indices, and the number of what it chooses from by them.
fn chooses_by(net: &Net, layer: &LayerSpec) -> Result<Option<(usize, usize)>, Error> {
    let Some(first) = layer.bottoms.first() else {
        return Ok(None);
    };
    let shape = net.blob_shape(first)?;
    let classes_on = |axis: i32| shape.axis(axis).map(|axis| (1, shape.dims()[axis]));
    Ok(match &layer.kind {
        LayerKind::Accuracy(spec) => classes_on(spec.axis),
        LayerKind::SoftmaxWithLoss(spec) => classes_on(spec.axis),
        LayerKind::InfogainLoss(spec) => classes_on(spec.axis),
        LayerKind::HingeLoss(_) | LayerKind::MultinomialLogisticLoss => Some((1, shape.count_from(1))),
        LayerKind::BatchReindex => classes_on(0),
        LayerKind::Embed(spec) => Some((0, spec.input_dim)),
        // Alike or not; a sequence goes on or begins.
        LayerKind::ContrastiveLoss(_) | LayerKind::LstmUnit => Some((2, 2)),
        LayerKind::Lstm(_) | LayerKind::Rnn(_) => Some((1, 2)),
        _ => None,
    })
}

fn keep_least(counts: &mut HashMap<String, usize>, blob: &str, count: usize) {
    // Above this, floats are not exact.
    let count = count.clamp(1, 1 << 24);
    let least = counts.entry(blob.to_owned()).or_insert(count);
    *least = count.min(*least);
}

#[cfg(test)]
mod tests {
    use sparknet_engine::{NetSpec, NetState, Phase, net::NoData};
    use sparknet_proto::text;

    use super::{super::time_net, *};

    /// Every layer that refuses labels or indices out of range, each fed by an input, some through layers that move them.
    const CHOOSING: &str = "
        layer { name: 'in' type: 'Input' top: 'x' top: 'words' top: 'items' top: 'kept' top: 'cont' top: 'a' top: 'b' top: 'c'
          input_param { shape { dim: 6 dim: 4 } shape { dim: 3 dim: 4 } shape { dim: 12 } shape { dim: 6 }
            shape { dim: 3 dim: 4 } shape { dim: 6 } shape { dim: 6 } shape { dim: 6 dim: 1 } } }
        layer { name: 'sort' type: 'BatchReindex' bottom: 'x' bottom: 'items' top: 'sorted' }
        layer { name: 'words2' type: 'Reshape' bottom: 'words' top: 'words2' reshape_param { shape { dim: 3 dim: -1 } } }
        layer { name: 'embed' type: 'Embed' bottom: 'words2' top: 'embed' embed_param { input_dim: 5 num_output: 2 } }
        layer { name: 'lstm' type: 'LSTM' bottom: 'embed' bottom: 'cont' top: 'lstm' recurrent_param { num_output: 2 } }
        layer { name: 'filter' type: 'Filter' bottom: 'x' bottom: 'a' bottom: 'kept' top: 'x2' top: 'a2' }
        layer { name: 'ip' type: 'InnerProduct' bottom: 'x2' top: 'ip' inner_product_param { num_output: 3 } }
        layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'a2' top: 'loss' }
        layer { name: 'hinge' type: 'HingeLoss' bottom: 'x' bottom: 'b' top: 'hinge' }
        layer { name: 'tile' type: 'Tile' bottom: 'c' top: 'c2' tile_param { tiles: 1 } }
        layer { name: 'logistic' type: 'MultinomialLogisticLoss' bottom: 'x' bottom: 'c2' top: 'logistic' }";

    #[test]
    fn inputs_are_indices_where_layers_choose_by_them() {
        let message = text::parse("net", CHOOSING).unwrap();
        let spec = NetSpec::from_proto(&message, NetState::new(Phase::Train)).unwrap();
        let net = Net::new(spec.clone(), &mut NoData, SEED).unwrap();
        let choices = ["words", "items", "cont", "a", "b", "c"].map(|blob| counts_to_choose_from(&net).unwrap()[blob]);
        assert_eq!(choices, [5, 6, 2, 3, 4, 4]);
        let timing = time_net(spec, 1, 1).unwrap();
        assert!(
            timing.layers.iter().all(|layer| layer.costs.forward_ms > 0.0),
            "{timing:?}"
        );
    }
}
