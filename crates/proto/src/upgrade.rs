//! Brings legacy nets and solvers to the current form, with the results of Caffe's `upgrade_net_proto_text` and
//! `upgrade_solver_proto_text`.
//!
//! A net's layers were first `layers { layer { … } }` (V0), then `layers { … }` with a type from an enum (V1), and are
//! `layer { … }` with a type by name (V2). Weight files are such nets too; their blobs stay with their layers.

use crate::{
    caffe::{
        BlobShape, InputParameter, LayerParameter, NetParameter, ParamSpec, SolverParameter, V1LayerParameter,
        param_spec, solver_parameter::SolverType, v1_layer_parameter,
    },
    v0,
};
use v1_layer_parameter::LayerType;

/// Why a legacy file has no current form.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // The message of each variant says what its fields are.
pub enum UpgradeError {
    #[error("the net has both `layer` and `layers`: write every layer as `layer`")]
    LayerAndLayers,
    #[error(
        "layer {layer:?} is in another of Caffe's old forms than the layers beside it: write every layer as `layer`"
    )]
    MixedForms { layer: String },
    #[error("layer {layer:?} has the type {type_name:?}, which Caffe's first form did not have: see its spelling")]
    UnknownV0Type { layer: String, type_name: String },
    #[error("layer {layer:?} has {field}, which a {type_name:?} layer of Caffe's first form does not take: remove it")]
    MisplacedV0Field {
        layer: String,
        type_name: String,
        field: &'static str,
    },
    #[error("layer {layer:?} has {field}: {size}, which is below zero: give the size in pixels, or 0 to keep it")]
    NegativeSize {
        layer: String,
        field: &'static str,
        size: i32,
    },
    #[error("layer {layer:?} reads {blob:?}, which neither an input nor a layer before it makes: see its spelling")]
    UnknownBottom { layer: String, blob: String },
    #[error(
        "layer {layer:?} reads from the padding layer {padding:?}, which only a \"conv\" or \"pool\" layer with one \
         bottom may do: put pad into the layer that needs it"
    )]
    PaddingReader { layer: String, padding: String },
    #[error("padding layer {layer:?} has {bottoms} bottoms and {tops} tops: give it one of each")]
    PaddingArity { layer: String, bottoms: usize, tops: usize },
    #[error("layer {layer:?} has the type number {number}, which Caffe does not know: the file is damaged")]
    UnknownV1Type { layer: String, number: i32 },
    #[error("the net has {inputs} `input` but {dims} `input_dim`: give four to each input (n, c, h, w)")]
    InputDims { inputs: usize, dims: usize },
    #[error("the net has {inputs} `input` but {shapes} `input_shape`: give one to each input")]
    InputShapes { inputs: usize, shapes: usize },
    #[error("the input {input:?} has no shape: add `input_shape {{ dim: … }}`, or use an Input layer")]
    InputWithoutShape { input: String },
    #[error("the net has `input_dim` or `input_shape` but no `input`: add `input: \"data\"`")]
    ShapeWithoutInput,
    #[error("the solver has both `type` and the old `solver_type`: keep `type`")]
    TypeAndSolverType,
    #[error(
        "the solver has the solver_type number {number}, which Caffe does not know: write `type: \"SGD\"` or another"
    )]
    UnknownSolverType { number: i32 },
}

/// Upgrades a net, or the weights of one, to the current form; a current one comes back as it was.
///
/// # Errors
/// The net mixes forms, or has what Caffe's old forms did not take.
pub fn net(mut net: NetParameter) -> Result<NetParameter, UpgradeError> {
    if !net.layers.is_empty() {
        if !net.layer.is_empty() {
            return Err(UpgradeError::LayerAndLayers);
        }
        if net.layers.iter().any(|layer| layer.layer.is_some()) {
            v0::upgrade(&mut net)?;
        }
        move_transform_fields(&mut net.layers);
        net.layer = std::mem::take(&mut net.layers)
            .into_iter()
            .map(v1_layer)
            .collect::<Result<_, _>>()?;
    }
    upgrade_inputs(&mut net)?;
    upgrade_batch_norms(&mut net.layer);
    Ok(net)
}

/// Upgrades a solver to the current form, and (unlike Caffe, which then trains a net without layers) the nets that are
/// written inside it.
///
/// # Errors
/// The solver has both `type` and `solver_type`, or as [`net`] for a net inside it.
pub fn solver(mut solver: SolverParameter) -> Result<SolverParameter, UpgradeError> {
    if let Some(number) = solver.solver_type {
        if solver.r#type.is_some() {
            return Err(UpgradeError::TypeAndSolverType);
        }
        let solver_type = SolverType::try_from(number).map_err(|_| UpgradeError::UnknownSolverType { number })?;
        let name = match solver_type {
            SolverType::Sgd => "SGD",
            SolverType::Nesterov => "Nesterov",
            SolverType::Adagrad => "AdaGrad",
            SolverType::Rmsprop => "RMSProp",
            SolverType::Adadelta => "AdaDelta",
            SolverType::Adam => "Adam",
        };
        solver.r#type = Some(name.to_owned());
        solver.solver_type = None;
    }
    let one_net = |inner: Option<NetParameter>| inner.map(net).transpose();
    solver.net_param = one_net(solver.net_param)?;
    solver.train_net_param = one_net(solver.train_net_param)?;
    solver.test_net_param = solver.test_net_param.into_iter().map(net).collect::<Result<_, _>>()?;
    Ok(solver)
}

/// Moves what data layers once had of their own (scale, mean_file, crop_size, mirror) into transform_param. Once one
/// layer of the net needs it, Caffe gives all its data layers a transform_param, be it empty.
fn move_transform_fields(layers: &mut [V1LayerParameter]) {
    macro_rules! needs_move {
        ($layer:ident, $param:ident) => {
            $layer.$param.as_ref().is_some_and(|param| {
                param.scale.is_some()
                    || param.mean_file.is_some()
                    || param.crop_size.is_some()
                    || param.mirror.is_some()
            })
        };
    }
    macro_rules! move_fields {
        ($layer:ident, $param:ident) => {{
            let param = $layer.$param.get_or_insert_default();
            let transform = $layer.transform_param.get_or_insert_default();
            transform.scale = param.scale.take().or(transform.scale);
            transform.mean_file = param.mean_file.take().or(transform.mean_file.take());
            transform.crop_size = param.crop_size.take().or(transform.crop_size);
            transform.mirror = param.mirror.take().or(transform.mirror);
        }};
    }
    let is_needed = layers.iter().any(|layer| match layer.r#type() {
        LayerType::Data => needs_move!(layer, data_param),
        LayerType::ImageData => needs_move!(layer, image_data_param),
        LayerType::WindowData => needs_move!(layer, window_data_param),
        _ => false,
    });
    if !is_needed {
        return;
    }
    for layer in layers {
        match layer.r#type() {
            LayerType::Data => move_fields!(layer, data_param),
            LayerType::ImageData => move_fields!(layer, image_data_param),
            LayerType::WindowData => move_fields!(layer, window_data_param),
            _ => {}
        }
    }
}

fn v1_layer(v1: V1LayerParameter) -> Result<LayerParameter, UpgradeError> {
    let type_name = v1
        .r#type
        .map(|number| match LayerType::try_from(number) {
            Ok(layer_type) => Ok(v1_type_name(layer_type).to_owned()),
            Err(_) => Err(UpgradeError::UnknownV1Type {
                layer: v1.name().to_owned(),
                number,
            }),
        })
        .transpose()?;
    Ok(LayerParameter {
        param: param_specs(&v1),
        name: v1.name,
        r#type: type_name,
        bottom: v1.bottom,
        top: v1.top,
        loss_weight: v1.loss_weight,
        blobs: v1.blobs,
        include: v1.include,
        exclude: v1.exclude,
        transform_param: v1.transform_param,
        loss_param: v1.loss_param,
        accuracy_param: v1.accuracy_param,
        argmax_param: v1.argmax_param,
        concat_param: v1.concat_param,
        contrastive_loss_param: v1.contrastive_loss_param,
        convolution_param: v1.convolution_param,
        data_param: v1.data_param,
        dropout_param: v1.dropout_param,
        dummy_data_param: v1.dummy_data_param,
        eltwise_param: v1.eltwise_param,
        exp_param: v1.exp_param,
        hdf5_data_param: v1.hdf5_data_param,
        hdf5_output_param: v1.hdf5_output_param,
        hinge_loss_param: v1.hinge_loss_param,
        image_data_param: v1.image_data_param,
        infogain_loss_param: v1.infogain_loss_param,
        inner_product_param: v1.inner_product_param,
        lrn_param: v1.lrn_param,
        memory_data_param: v1.memory_data_param,
        mvn_param: v1.mvn_param,
        pooling_param: v1.pooling_param,
        power_param: v1.power_param,
        relu_param: v1.relu_param,
        sigmoid_param: v1.sigmoid_param,
        slice_param: v1.slice_param,
        softmax_param: v1.softmax_param,
        tanh_param: v1.tanh_param,
        threshold_param: v1.threshold_param,
        window_data_param: v1.window_data_param,
        ..LayerParameter::default()
    })
}

/// One spec a blob from the four lists that V1 had, each of which may be shorter than the others.
fn param_specs(v1: &V1LayerParameter) -> Vec<ParamSpec> {
    use param_spec::DimCheckMode as New;
    use v1_layer_parameter::DimCheckMode as Old;
    let share_mode = |&mode: &i32| match Old::try_from(mode) {
        Ok(Old::Permissive) => New::Permissive as i32,
        _ => New::Strict as i32,
    };
    let lengths = [
        v1.param.len(),
        v1.blob_share_mode.len(),
        v1.blobs_lr.len(),
        v1.weight_decay.len(),
    ];
    let count = lengths.into_iter().max().unwrap_or_default();
    (0..count)
        .map(|i| ParamSpec {
            name: v1.param.get(i).cloned(),
            share_mode: v1.blob_share_mode.get(i).map(share_mode),
            lr_mult: v1.blobs_lr.get(i).copied(),
            decay_mult: v1.weight_decay.get(i).copied(),
        })
        .collect()
}

fn v1_type_name(layer_type: LayerType) -> &'static str {
    match layer_type {
        LayerType::None => "",
        LayerType::Absval => "AbsVal",
        LayerType::Accuracy => "Accuracy",
        LayerType::Argmax => "ArgMax",
        LayerType::Bnll => "BNLL",
        LayerType::Concat => "Concat",
        LayerType::ContrastiveLoss => "ContrastiveLoss",
        LayerType::Convolution => "Convolution",
        LayerType::Data => "Data",
        LayerType::Deconvolution => "Deconvolution",
        LayerType::Dropout => "Dropout",
        LayerType::DummyData => "DummyData",
        LayerType::EuclideanLoss => "EuclideanLoss",
        LayerType::Eltwise => "Eltwise",
        LayerType::Exp => "Exp",
        LayerType::Flatten => "Flatten",
        LayerType::Hdf5Data => "HDF5Data",
        LayerType::Hdf5Output => "HDF5Output",
        LayerType::HingeLoss => "HingeLoss",
        LayerType::Im2col => "Im2col",
        LayerType::ImageData => "ImageData",
        LayerType::InfogainLoss => "InfogainLoss",
        LayerType::InnerProduct => "InnerProduct",
        LayerType::Lrn => "LRN",
        LayerType::MemoryData => "MemoryData",
        LayerType::MultinomialLogisticLoss => "MultinomialLogisticLoss",
        LayerType::Mvn => "MVN",
        LayerType::Pooling => "Pooling",
        LayerType::Power => "Power",
        LayerType::Relu => "ReLU",
        LayerType::Sigmoid => "Sigmoid",
        LayerType::SigmoidCrossEntropyLoss => "SigmoidCrossEntropyLoss",
        LayerType::Silence => "Silence",
        LayerType::Softmax => "Softmax",
        LayerType::SoftmaxLoss => "SoftmaxWithLoss",
        LayerType::Split => "Split",
        LayerType::Slice => "Slice",
        LayerType::Tanh => "TanH",
        LayerType::WindowData => "WindowData",
        LayerType::Threshold => "Threshold",
    }
}

/// Makes the net's `input` fields an Input layer before all others.
fn upgrade_inputs(net: &mut NetParameter) -> Result<(), UpgradeError> {
    let inputs = std::mem::take(&mut net.input);
    let mut shapes = std::mem::take(&mut net.input_shape);
    let dims = std::mem::take(&mut net.input_dim);
    if inputs.is_empty() {
        return if shapes.is_empty() && dims.is_empty() {
            Ok(())
        } else {
            Err(UpgradeError::ShapeWithoutInput)
        };
    }
    if shapes.is_empty() && dims.is_empty() {
        // Old Caffe wrote the inputs of its weight files without shapes; nothing is built from those.
        let is_weights = net.layer.iter().any(|layer| !layer.blobs.is_empty());
        return if is_weights {
            Ok(())
        } else {
            Err(UpgradeError::InputWithoutShape { input: inputs.concat() })
        };
    }
    if shapes.is_empty() {
        if dims.len() != 4 * inputs.len() {
            return Err(UpgradeError::InputDims {
                inputs: inputs.len(),
                dims: dims.len(),
            });
        }
        shapes = dims
            .chunks(4)
            .map(|dim| BlobShape {
                dim: dim.iter().map(|&d| d.into()).collect(),
            })
            .collect();
    }
    if shapes.len() != inputs.len() {
        return Err(UpgradeError::InputShapes {
            inputs: inputs.len(),
            shapes: shapes.len(),
        });
    }
    let layer = LayerParameter {
        name: Some("input".to_owned()),
        r#type: Some("Input".to_owned()),
        top: inputs,
        input_param: Some(InputParameter { shape: shapes }),
        ..LayerParameter::default()
    };
    net.layer.insert(0, layer);
    Ok(())
}

/// BatchNorm layers once had to say themselves that the solver must leave their three statistics alone.
fn upgrade_batch_norms(layers: &mut [LayerParameter]) {
    let old = layers
        .iter_mut()
        .filter(|layer| layer.r#type() == "BatchNorm" && layer.param.len() == 3);
    for param in old.flat_map(|layer| &mut layer.param) {
        param.lr_mult = Some(0.0);
        param.decay_mult = Some(0.0);
    }
}
