//! A net with a layer of every type, for what has to hold for all of them.

use std::collections::BTreeSet;

use sparknet_engine::{Net, NetSpec, NetState, Phase, Solver, SolverSpec, layers::LAYERS, net::NoData};
use sparknet_proto::{
    caffe::{NetParameter, SolverParameter},
    text,
};

/// Types that the net cannot have, because their blobs come from outside just as those of Input do.
const FED: [&str; 3] = ["Data", "HDF5Data", "MemoryData"];

const NET: &str = r#"
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param {
    shape { dim: 8 dim: 2 dim: 20 dim: 20 } shape { dim: 8 dim: 5 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 12 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 3 alpha: 0.1 } }
layer { name: "norm2" type: "LRN" bottom: "norm1" top: "norm2"
  lrn_param { local_size: 3 alpha: 0.1 norm_region: WITHIN_CHANNEL } }
layer { name: "a" type: "Convolution" bottom: "norm2" top: "a"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 weight_filler { type: "xavier" } } }
layer { name: "b" type: "Convolution" bottom: "norm2" top: "b"
  convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "b" top: "b" }
layer { name: "cat" type: "Concat" bottom: "a" bottom: "b" top: "cat" }
layer { name: "pool2" type: "Pooling" bottom: "cat" top: "pool2"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "slice" type: "Slice" bottom: "pool2" top: "s1" top: "s2" }
layer { name: "max" type: "Eltwise" bottom: "s1" bottom: "s2" top: "max" eltwise_param { operation: MAX } }
layer { name: "prod" type: "Eltwise" bottom: "s1" bottom: "s2" top: "prod" eltwise_param { operation: PROD } }
layer { name: "sum" type: "Eltwise" bottom: "max" bottom: "prod" top: "sum" }
layer { name: "split" type: "Split" bottom: "sum" top: "left" top: "right" }
layer { name: "tanh" type: "TanH" bottom: "left" top: "left" }
layer { name: "flat" type: "Flatten" bottom: "left" top: "flat" }
layer { name: "ip1" type: "InnerProduct" bottom: "flat" top: "ip1"
  inner_product_param { num_output: 50 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" top: "per_class" }
layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }
layer { name: "distance" type: "EuclideanLoss" bottom: "prob" bottom: "target" top: "distance" loss_weight: 0.1 }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "rows" type: "HDF5Output" bottom: "ip2" bottom: "label" hdf5_output_param { file_name: "unused.h5" } }
layer { name: "silence" type: "Silence" bottom: "right" }
"#;

const SOLVER: &str = "base_lr: 0.01 lr_policy: 'inv' gamma: 0.1 power: 0.75 momentum: 0.9 weight_decay: 0.001
    clip_gradients: 10 iter_size: 2 average_loss: 3 max_iter: 100";

/// A solver of the net, filled from `net_seed`, whose passes are drawn from `solver_seed`.
pub fn solver(net_seed: u64, solver_seed: u64) -> Solver {
    let message: NetParameter = text::parse("everything", NET).unwrap();
    let spec = NetSpec::from_proto(&message, NetState::new(Phase::Train)).unwrap();
    let types: BTreeSet<&str> = spec.layers.iter().map(|layer| layer.type_name).chain(FED).collect();
    let all: BTreeSet<&str> = LAYERS.iter().map(|def| def.type_name).collect();
    assert_eq!(types, all, "give the net a layer of every type");
    let mut net = Net::new(spec, &mut NoData, net_seed).unwrap();
    let labels = net.blob_data_mut("label").unwrap();
    labels
        .iter_mut()
        .enumerate()
        .for_each(|(i, label)| *label = (i % 5) as f32);
    let message: SolverParameter = text::parse("solver", SOLVER).unwrap();
    Solver::new(SolverSpec::from_proto(&message).unwrap(), net, solver_seed)
}

/// One iteration; the net's data come from its DummyData layer.
pub fn step(solver: &mut Solver) {
    solver
        .compute_gradients(|_| Ok::<(), sparknet_engine::Error>(()))
        .unwrap();
    solver.apply_update();
}
