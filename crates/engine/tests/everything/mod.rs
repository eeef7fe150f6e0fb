//! A net with a layer of every type, for what has to hold for all of them.
#![allow(dead_code)] // Every test binary uses a part of it.

use std::collections::BTreeSet;

use sparknet_engine::{Net, NetSpec, NetState, Phase, Solver, SolverSpec, layers::LAYERS, net::NoData};
use sparknet_proto::{
    caffe::{NetParameter, SolverParameter},
    text,
};

/// Types that the net cannot have: their blobs come from outside just as those of Input do, or they are computed there.
const FED: [&str; 7] = [
    "CoSData",
    "Data",
    "HDF5Data",
    "ImageData",
    "MemoryData",
    "Python",
    "WindowData",
];

const NET: &str = r#"
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param {
    shape { dim: 8 dim: 2 dim: 20 dim: 20 } shape { dim: 8 dim: 5 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 8 } } }
layer { name: "cont" type: "Input" top: "cont" top: "one" input_param { shape { dim: 4 dim: 2 } shape { dim: 1 dim: 2 } } }
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
layer { name: "ip3" type: "InnerProduct" bottom: "flat" top: "ip3"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip3" top: "ip3" batch_norm_param { eps: 0.1 } }
layer { name: "scale" type: "Scale" bottom: "ip3" top: "ip3" scale_param { bias_term: true } }
layer { name: "prelu" type: "PReLU" bottom: "ip3" top: "ip3" }
layer { name: "elu" type: "ELU" bottom: "ip3" top: "ip3" }
layer { name: "bias" type: "Bias" bottom: "ip3" top: "ip3" }
layer { name: "swish" type: "Swish" bottom: "ip3" top: "ip3" }
layer { name: "bnll" type: "BNLL" bottom: "ip3" top: "bnll" }
layer { name: "log" type: "Log" bottom: "bnll" top: "log" log_param { shift: 1 } }
layer { name: "power" type: "Power" bottom: "log" top: "power" power_param { power: 1.5 shift: 0.5 } }
layer { name: "exp" type: "Exp" bottom: "power" top: "exp" exp_param { scale: -1 } }
layer { name: "clip" type: "Clip" bottom: "exp" top: "clip" clip_param { min: 0.1 max: 0.9 } }
layer { name: "abs" type: "AbsVal" bottom: "clip" top: "abs" }
layer { name: "threshold" type: "Threshold" bottom: "data" top: "threshold" }
layer { name: "h" type: "DummyData" top: "h"
  dummy_data_param { shape { dim: 5 dim: 5 } data_filler { type: "uniform" } } }
layer { name: "contrastive" type: "ContrastiveLoss" bottom: "abs" bottom: "target" bottom: "label" top: "contrastive"
  loss_weight: 0.1 }
layer { name: "cross_entropy" type: "SigmoidCrossEntropyLoss" bottom: "ip3" bottom: "target" top: "cross_entropy"
  loss_weight: 0.1 }
layer { name: "hinge" type: "HingeLoss" bottom: "ip2" bottom: "label" top: "hinge" loss_weight: 0.1 }
layer { name: "infogain" type: "InfogainLoss" bottom: "ip2" bottom: "label" bottom: "h" top: "infogain"
  loss_weight: 0.1 }
layer { name: "logistic" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "logistic"
  loss_weight: 0.1 }
layer { name: "silence" type: "Silence" bottom: "right" bottom: "threshold" }
layer { name: "up" type: "Deconvolution" bottom: "pool2" top: "up"
  convolution_param { num_output: 4 group: 2 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "pool2" top: "crop" crop_param { offset: 1 } }
layer { name: "mvn" type: "MVN" bottom: "crop" top: "mvn" }
layer { name: "spp" type: "SPP" bottom: "mvn" top: "spp" spp_param { pyramid_height: 2 pool: AVE } }
layer { name: "im2col" type: "Im2col" bottom: "crop" top: "patches" convolution_param { kernel_size: 2 } }
layer { name: "asum" type: "Reduction" bottom: "patches" top: "asum" reduction_param { axis: 1 operation: ASUM } }
layer { name: "tile" type: "Tile" bottom: "spp" top: "tile" tile_param { tiles: 2 } }
layer { name: "filter" type: "Filter" bottom: "tile" bottom: "label" bottom: "label" top: "kept" top: "kept_label" }
layer { name: "reindex" type: "BatchReindex" bottom: "tile" bottom: "label" top: "chosen" }
layer { name: "steps" type: "Reshape" bottom: "chosen" top: "steps" reshape_param { shape { dim: 4 dim: 2 dim: -1 } } }
layer { name: "pairs" type: "Reshape" bottom: "label" top: "pairs" reshape_param { shape { dim: 4 dim: 2 } } }
layer { name: "words" type: "Embed" bottom: "pairs" top: "words"
  embed_param { num_output: 6 input_dim: 5 weight_filler { type: "xavier" } } }
layer { name: "both" type: "Concat" bottom: "steps" bottom: "words" top: "both" concat_param { axis: 2 } }
layer { name: "lstm" type: "LSTM" bottom: "both" bottom: "cont" top: "lstm"
  recurrent_param { num_output: 7 weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }
layer { name: "rnn" type: "RNN" bottom: "lstm" bottom: "cont" top: "rnn"
  recurrent_param { num_output: 3 weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }
layer { name: "c" type: "Parameter" top: "c" parameter_param { shape { dim: 1 dim: 2 dim: 3 } } }
layer { name: "gates" type: "Parameter" top: "gates" parameter_param { shape { dim: 1 dim: 2 dim: 12 } } }
layer { name: "unit" type: "LSTMUnit" bottom: "c" bottom: "gates" bottom: "one" top: "c1" top: "h1" loss_weight: 1 loss_weight: 1 }
layer { name: "best" type: "ArgMax" bottom: "prob" top: "best" argmax_param { top_k: 2 } }
layer { name: "sum_rnn" type: "Reduction" bottom: "rnn" top: "sum_rnn" loss_weight: 0.1 reduction_param { operation: SUMSQ } }
layer { name: "sum_kept" type: "Reduction" bottom: "kept" top: "sum_kept" loss_weight: 0.1 reduction_param { operation: MEAN } }
layer { name: "sum_asum" type: "Reduction" bottom: "asum" top: "sum_asum" loss_weight: 0.001 }
layer { name: "rows" type: "HDF5Output" bottom: "ip2" bottom: "label" hdf5_output_param { file_name: "unused.h5" } }
"#;

const SOLVER: &str = "base_lr: 0.01 lr_policy: 'inv' gamma: 0.1 power: 0.75 momentum: 0.9 weight_decay: 0.001
    clip_gradients: 10 iter_size: 2 average_loss: 3 max_iter: 100";

/// A solver of the net, filled from `net_seed`, whose passes are drawn from `solver_seed`.
pub fn solver(net_seed: u64, solver_seed: u64) -> Solver {
    solver_of("SGD", net_seed, solver_seed)
}

/// The same with another type of solver.
pub fn solver_of(type_name: &str, net_seed: u64, solver_seed: u64) -> Solver {
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
    // Sequences begin with each batch: what a recurrent layer remembers of the one before is not in a snapshot.
    net.blob_data_mut("cont").unwrap()[2..].fill(1.0);
    net.blob_data_mut("one").unwrap().fill(1.0);
    let mut message: SolverParameter = text::parse("solver", SOLVER).unwrap();
    message.r#type = Some(type_name.to_owned());
    Solver::new(SolverSpec::from_proto(&message).unwrap(), net, solver_seed)
}

/// One iteration; the net's data come from its DummyData layer.
pub fn step(solver: &mut Solver) {
    solver
        .compute_gradients(|_| Ok::<(), sparknet_engine::Error>(()))
        .unwrap();
    solver.apply_update();
}
