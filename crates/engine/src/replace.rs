//! Input layers in the place of layers that read data: a net can then be built, timed and fed by a program where its
//! data are not.

use sparknet_proto::caffe::{self, InputParameter, LayerParameter, NetParameter, NetStateRule};

use crate::{
    Phase, Shape,
    spec::{InputSpec, LayerKind, LayerSpec},
};

/// The types that read data from outside the net, SparkNet's JavaData among them.
const DATA_TYPES: [&str; 7] = [
    "CoSData",
    "Data",
    "HDF5Data",
    "ImageData",
    "JavaData",
    "MemoryData",
    "WindowData",
];

/// The net with Input layers for its data layers, as SparkNet's `ProtoLoader.replaceDataLayers`: the first top of each is
/// `(batch, channels, height, width)`, the others are labels `(batch)`, with `train_batch` records in phase TRAIN and
/// `test_batch` in phase TEST. Rules on stages and levels stay.
pub fn replace_data_layers(
    net: &NetParameter,
    train_batch: usize,
    test_batch: usize,
    channels: usize,
    height: usize,
    width: usize,
) -> NetParameter {
    let mut replaced = net.clone();
    replaced.layer.clear();
    for layer in &net.layer {
        if !DATA_TYPES.contains(&layer.r#type()) {
            replaced.layer.push(layer.clone());
            continue;
        }
        let input = |batch: usize| {
            let mut shapes = vec![Shape::from([batch]); layer.top.len()];
            if let Some(first) = shapes.first_mut() {
                *first = Shape::from([batch, channels, height, width]);
            }
            input_layer(layer, &shapes)
        };
        let phases = phases_of(layer);
        if train_batch == test_batch || phases.len() < 2 || !layer.exclude.is_empty() {
            let batch = match phases[..] {
                [Phase::Test] => test_batch,
                _ => train_batch,
            };
            replaced.layer.push(input(batch));
            continue;
        }
        for (phase, batch) in [(Phase::Train, train_batch), (Phase::Test, test_batch)] {
            let mut input = input(batch);
            if input.include.is_empty() {
                input.include.push(NetStateRule::default());
            }
            input.include.retain(|rule| may_be(rule, phase));
            input
                .include
                .iter_mut()
                .for_each(|rule| rule.set_phase(phase.to_proto()));
            replaced.layer.push(input);
        }
    }
    replaced
}

/// The phases that a layer's rules leave it.
fn phases_of(layer: &LayerParameter) -> Vec<Phase> {
    let is_of_phase_alone = |rule: &&NetStateRule| {
        let mut rest = (*rule).clone();
        rest.phase = None;
        rest == NetStateRule::default()
    };
    let stays = |phase: &Phase| {
        let mut excludes = layer.exclude.iter().filter(is_of_phase_alone);
        let is_included = layer.include.is_empty() || layer.include.iter().any(|rule| may_be(rule, *phase));
        is_included && !excludes.any(|rule| may_be(rule, *phase))
    };
    [Phase::Train, Phase::Test].into_iter().filter(stays).collect()
}

fn may_be(rule: &NetStateRule, phase: Phase) -> bool {
    rule.phase.is_none() || rule.phase() == phase.to_proto()
}

/// An Input layer with the name, tops and rules of `layer`.
fn input_layer(layer: &LayerParameter, shapes: &[Shape]) -> LayerParameter {
    LayerParameter {
        name: layer.name.clone(),
        r#type: Some("Input".to_owned()),
        top: layer.top.clone(),
        phase: layer.phase,
        include: layer.include.clone(),
        exclude: layer.exclude.clone(),
        input_param: Some(InputParameter {
            shape: shapes.iter().map(Shape::to_proto).collect::<Vec<caffe::BlobShape>>(),
        }),
        ..Default::default()
    }
}

impl LayerSpec {
    /// An Input layer in the place of this one, with tops of these shapes.
    pub fn as_input(&self, shapes: Vec<Shape>) -> Self {
        Self {
            type_name: "Input",
            message: input_layer(&self.message, &shapes),
            kind: LayerKind::Input(InputSpec { shapes }),
            blobs: Vec::new(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use sparknet_proto::text;

    use super::*;
    use crate::{Net, NetSpec, NetState, net::NoData};

    const NET: &str = "
        layer { name: 'data' type: 'Data' top: 'data' top: 'label' include { phase: TRAIN stage: 'a' }
                data_param { source: 'gone' batch_size: 256 } }
        layer { name: 'data' type: 'ImageData' top: 'data' top: 'label' exclude { phase: TRAIN }
                image_data_param { source: 'gone' batch_size: 50 } }
        layer { name: 'side' type: 'HDF5Data' top: 'side' }
        layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' inner_product_param { num_output: 3 } }";

    #[test]
    fn data_layers_become_inputs_of_each_phase() {
        let net: NetParameter = text::parse("net", NET).unwrap();
        let replaced = replace_data_layers(&net, 4, 6, 3, 8, 7);
        assert_eq!(replaced.layer.last(), net.layer.last());
        let shapes = |phase, stage: &str| {
            let state = NetState {
                stages: vec![stage.to_owned()],
                ..NetState::new(phase)
            };
            let net = Net::new(NetSpec::from_proto(&replaced, state).unwrap(), &mut NoData, 1).unwrap();
            ["data", "label", "side"].map(|blob| net.blob_shape(blob).unwrap().dims().to_vec())
        };
        assert_eq!(shapes(Phase::Train, "a"), [vec![4, 3, 8, 7], vec![4], vec![4, 3, 8, 7]]);
        assert_eq!(shapes(Phase::Test, "b"), [vec![6, 3, 8, 7], vec![6], vec![6, 3, 8, 7]]);
        // The stage still chooses.
        assert!(
            NetSpec::from_proto(&replaced, NetState::new(Phase::Train))
                .is_ok_and(|spec| spec.layers.iter().all(|layer| layer.name != "data"))
        );
        assert_eq!(replace_data_layers(&net, 5, 5, 1, 1, 1).layer.len(), 4);
    }
}
