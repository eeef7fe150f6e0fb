//! Options of layers and solvers that neither a golden case nor a gradient tells from their defaults.

use sparknet_engine::{Net, NetSpec, NetState, Phase, Shape, Solver, SolverSpec, net::NoData, spec::LayerKind};
use sparknet_proto::{caffe::NetParameter, text};

/// A net of layer L with these fields, which reads inputs b0, b1 … of these shapes.
fn net(fields: &str, bottoms: &[&[usize]]) -> Net {
    let mut text = "force_backward: true ".to_owned();
    for (i, dims) in bottoms.iter().enumerate() {
        let dims: String = dims.iter().map(|dim| format!("dim: {dim} ")).collect();
        text += &format!("layer {{ name: 'b{i}' type: 'Input' top: 'b{i}' input_param {{ shape {{ {dims} }} }} }}\n");
    }
    let names: String = (0..bottoms.len()).map(|i| format!("bottom: 'b{i}' ")).collect();
    text += &format!("layer {{ name: 'L' {names} top: 'y' {fields} }}");
    let message: NetParameter = text::parse("net", &text).unwrap_or_else(|error| panic!("{error}"));
    let spec = NetSpec::from_proto(&message, NetState::new(Phase::Train)).unwrap_or_else(|error| panic!("{error}"));
    Net::new(spec, &mut NoData, 1).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn shapes_of_tops_and_parameters_follow_the_options() {
    for (fields, bottom, top, params) in [
        (
            "type: 'Convolution' convolution_param { num_output: 6 kernel_size: 2 axis: 2 }",
            &[2, 3, 4, 5, 6][..],
            &[2, 3, 6, 4, 5][..],
            &[&[6, 4, 2, 2][..], &[6]][..],
        ),
        (
            "type: 'Convolution' convolution_param { num_output: 6 kernel_size: 3 bias_term: false group: 2 }",
            &[2, 4, 5, 5],
            &[2, 6, 3, 3],
            &[&[6, 2, 3, 3]],
        ),
        (
            "type: 'Convolution' convolution_param
             { num_output: 1 kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 2 }",
            &[1, 1, 6, 5],
            &[1, 1, 3, 9],
            &[&[1, 1, 3, 1], &[1]],
        ),
        (
            "type: 'Deconvolution' convolution_param { num_output: 6 kernel_size: 2 axis: 2 bias_term: false }",
            &[2, 3, 4, 5, 6],
            &[2, 3, 6, 6, 7],
            &[&[4, 6, 2, 2]],
        ),
        (
            "type: 'Embed' embed_param { num_output: 3 input_dim: 7 bias_term: false }",
            &[2, 2],
            &[2, 2, 3],
            &[&[7, 3]],
        ),
        (
            "type: 'Im2col' convolution_param { kernel_size: 2 dilation: 2 axis: 2 }",
            &[2, 3, 4, 5, 6],
            &[2, 3, 16, 3, 4],
            &[],
        ),
        (
            "type: 'InnerProduct' inner_product_param { num_output: 5 axis: 2 transpose: true bias_term: false }",
            &[2, 3, 4],
            &[2, 3, 5],
            &[&[4, 5]],
        ),
        (
            "type: 'Pooling' pooling_param
             { kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 round_mode: FLOOR }",
            &[1, 2, 6, 5],
            &[1, 2, 3, 4],
            &[],
        ),
        (
            "type: 'Pooling' pooling_param { global_pooling: true }",
            &[1, 2, 6, 5],
            &[1, 2, 1, 1],
            &[],
        ),
        (
            "type: 'PReLU' prelu_param { channel_shared: true }",
            &[2, 3],
            &[2, 3],
            &[&[]],
        ),
        (
            "type: 'Scale' scale_param { axis: 0 num_axes: 2 bias_term: true }",
            &[2, 3, 4],
            &[2, 3, 4],
            &[&[2, 3], &[2, 3]],
        ),
    ] {
        let net = net(fields, &[bottom]);
        assert_eq!(net.blob_shape("y").unwrap(), &Shape::new(top), "{fields}");
        let found: Vec<&[usize]> = net.params().iter().map(|param| param.shape.dims()).collect();
        assert_eq!(found, params, "{fields}");
    }
}

#[test]
fn fillers_follow_their_options() {
    let weights = |filler: &str| {
        let ip = format!(
            "type: 'InnerProduct' inner_product_param {{ num_output: 400 bias_term: false weight_filler {{ {filler} }} }}"
        );
        net(&ip, &[&[1, 100]]).param_arena().to_vec()
    };
    let variance = |filler: &str| {
        let weights = weights(filler);
        weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32
    };
    // Variances of 40,000 values; three parts in a hundred are four standard deviations of them.
    for (filler, expected) in [
        ("type: 'msra'", 2.0 / 100.0),
        ("type: 'msra' variance_norm: FAN_OUT", 2.0 / 400.0),
        ("type: 'xavier' variance_norm: AVERAGE", 1.0 / 250.0),
    ] {
        let found = variance(filler);
        assert!(
            (found - expected).abs() < 0.03 * expected,
            "{filler}: {found}, not {expected}"
        );
    }
    let sparse = weights("type: 'gaussian' std: 1 sparse: 40");
    let share = sparse.iter().filter(|weight| **weight != 0.0).count() as f32 / sparse.len() as f32;
    assert!(
        (share - 0.1).abs() < 0.01,
        "{share} are not 0: each input goes on to 40 of 400 outputs"
    );
}

#[test]
fn contrastive_loss_has_two_versions() {
    // Distances 0.5 (similar), 0.5, 1.5 and 3.
    let (a, b) = ([0.5, 0.5, 1.5, 3.0], [0.0; 4]);
    for (options, expected) in [
        ("margin: 2", (0.25 + 1.5f32.powi(2) + 0.5f32.powi(2)) / 8.0),
        ("", (0.25 + 0.5f32.powi(2)) / 8.0),
        ("margin: 2 legacy_version: true", (0.25 + 1.75) / 8.0),
    ] {
        let layer = format!("type: 'ContrastiveLoss' contrastive_loss_param {{ {options} }}");
        let mut net = net(&layer, &[&[4, 1], &[4, 1], &[4]]);
        for (blob, values) in [("b0", a), ("b1", b), ("b2", [1.0, 0.0, 0.0, 0.0])] {
            net.blob_data_mut(blob).unwrap().copy_from_slice(&values);
        }
        let loss = net.forward().unwrap();
        assert!((loss - expected).abs() < 1e-6, "{options}: {loss}, not {expected}");
    }
}

#[test]
fn the_stable_gradient_of_a_product_knows_zeros() {
    let gradient = |options: &str| {
        let product = format!("type: 'Eltwise' eltwise_param {{ operation: PROD {options} }}");
        let mut net = net(&product, &[&[1], &[1]]);
        net.blob_data_mut("b1").unwrap()[0] = 3.0;
        net.forward().unwrap();
        net.blob_diff_mut("y").unwrap()[0] = 1.0;
        net.backward();
        net.blob_diff("b0").unwrap()[0]
    };
    assert_eq!(gradient(""), 3.0);
    assert!(gradient("stable_prod_grad: false").is_nan(), "Caffe divides 0 by 0");
}

#[test]
fn the_smoothed_loss_is_the_mean_of_the_last() {
    let solver = "base_lr: 0 lr_policy: 'fixed' average_loss: 3";
    let spec = SolverSpec::from_proto(&text::parse("solver", solver).unwrap()).unwrap();
    let mut solver = Solver::new(spec, net("type: 'Power' loss_weight: 1", &[&[1]]), 1);
    let mut means = Vec::new();
    for loss in [3.0, 6.0, 9.0, 12.0] {
        let feed = |net: &mut Net| {
            net.blob_data_mut("b0")?[0] = loss;
            Ok::<(), sparknet_engine::Error>(())
        };
        assert_eq!(solver.compute_gradients(feed).unwrap(), loss);
        means.push(solver.average_loss());
    }
    assert_eq!(means, [3.0, 4.5, 6.0, 9.0]);
}

#[test]
fn a_layer_may_bring_its_own_weights() {
    let layer =
        "type: 'InnerProduct' inner_product_param { num_output: 2 } blobs { shape { dim: 2 dim: 1 } data: 3 data: 4 }";
    let bias = "blobs { shape { dim: 2 } data: 5 data: 6 }";
    let net = net(&format!("{layer} {bias}"), &[&[1, 1]]);
    assert_eq!(net.param_arena(), [3.0, 4.0, 5.0, 6.0]);
    // Nets that are made from it have those of their own file.
    assert!(net.spec().to_proto().layer[1].blobs.is_empty());
    let text = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 1 } } }";
    let text = format!("{text} layer {{ name: 'L' bottom: 'x' top: 'y' {layer} }}");
    let spec = NetSpec::from_proto(&text::parse("net", &text).unwrap(), NetState::new(Phase::Train)).unwrap();
    let error = Net::new(spec, &mut NoData, 1).err().unwrap().to_string();
    assert!(
        error.contains("'L'") && error.contains("1 blobs and the layer 2"),
        "{error}"
    );
}

#[test]
fn dropping_nothing_is_the_identity() {
    let mut net = net("type: 'Dropout' dropout_param { dropout_ratio: 0 }", &[&[1000]]);
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    net.blob_data_mut("b0").unwrap().copy_from_slice(&x);
    net.forward().unwrap();
    assert_eq!(net.blob_data("y").unwrap(), x);
    for ratio in ["1", "-0.1", "nan"] {
        let layer = format!("dropout_param {{ dropout_ratio: {ratio} }}");
        let error = kind("Dropout", &layer).unwrap_err();
        assert!(error.contains("from 0 on and below 1"), "{error}");
    }
    let uniform = "inner_product_param { num_output: 1 weight_filler { type: 'uniform' sparse: 2 } }";
    let error = kind("InnerProduct", uniform).unwrap_err();
    assert!(error.contains("sparse goes with type gaussian"), "{error}");
}

/// A layer of type `type_name`, or what is wrong with it.
fn kind(type_name: &str, fields: &str) -> Result<LayerKind, String> {
    let bottom = if type_name.ends_with("Data") {
        "top: 'x'"
    } else {
        "bottom: 'x'"
    };
    let text = format!("layer {{ name: 'L' type: '{type_name}' {bottom} top: 'y' {fields} }}");
    let message: NetParameter = text::parse("net", &text).unwrap_or_else(|error| panic!("{error}"));
    let spec = NetSpec::from_proto(&message, NetState::new(Phase::Train)).map_err(|error| error.to_string())?;
    Ok(spec.layers[0].kind.clone())
}

#[test]
fn the_old_names_of_transforms_are_read_or_refused() {
    for (type_name, message, wanted) in [
        ("Data", "data_param", "source: 's' batch_size: 1"),
        ("ImageData", "image_data_param", "source: 's' batch_size: 1"),
        ("WindowData", "window_data_param", "source: 's' batch_size: 1"),
    ] {
        let with = |field: &str| {
            let fields = format!("{message} {{ {wanted} {field} }} transform_param {{ crop_size: 8 }}");
            kind(type_name, &fields)
        };
        with("").unwrap();
        for field in ["scale: 2", "mean_file: 'm'", "crop_size: 4", "mirror: true"] {
            if (type_name, field) == ("WindowData", "scale: 2") {
                // The one that Caffe still reads.
                assert_eq!(with(field).unwrap().source().unwrap().1.scale, 2.0);
                continue;
            }
            let error = with(field).unwrap_err();
            let name = format!("{message}.{}", field.split(':').next().unwrap());
            assert!(error.contains(&name) && error.contains("transform_param"), "{error}");
        }
    }
    let data = "data_param { source: 's' batch_size: 1 force_encoded_color: true }";
    assert!(kind("Data", data).unwrap().source().unwrap().1.force_color);
    let error = kind("Data", &format!("{data} transform_param {{ force_gray: true }}")).unwrap_err();
    assert!(error.contains("both force_color and force_gray"), "{error}");
}
