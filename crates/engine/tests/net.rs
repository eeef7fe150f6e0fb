//! How a net is put together: who is in it, who reads what, whose gradients add up, whose weights fit.

use sparknet_engine::{Error, Net, NetSpec, NetState, Phase, Shape, net::NoData};
use sparknet_proto::{
    caffe::{BlobProto, BlobShape, LayerParameter, NetParameter},
    text,
};

fn spec(prototxt: &str, state: NetState) -> Result<NetSpec, Error> {
    let message: NetParameter = text::parse("test", prototxt).unwrap_or_else(|error| panic!("{error}"));
    Ok(NetSpec::from_proto(&message, state)?)
}

fn build(prototxt: &str) -> Result<Net, Error> {
    Net::new(spec(prototxt, NetState::new(Phase::Train))?, &mut NoData, 1)
}

fn net(prototxt: &str) -> Net {
    build(prototxt).unwrap_or_else(|error| panic!("{error}"))
}

fn message(prototxt: &str) -> String {
    match build(prototxt) {
        Ok(_) => panic!("taken: {prototxt}"),
        Err(error) => error.to_string(),
    }
}

fn input(name: &str, dims: &[usize]) -> String {
    let dims: String = dims.iter().map(|dim| format!("dim: {dim} ")).collect();
    format!("layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ {dims} }} }} }}\n")
}

/// A layer without parameters between single blobs.
fn simple(type_name: &str, bottom: &str, top: &str) -> String {
    format!("layer {{ name: '{type_name} {bottom} {top}' type: '{type_name}' bottom: '{bottom}' top: '{top}' }}\n")
}

/// `top = factor · bottom`
fn times(factor: f32, bottom: &str, top: &str) -> String {
    format!(
        "layer {{ name: 'times {top}' type: 'Eltwise' bottom: '{bottom}' bottom: '{bottom}' top: '{top}'
           eltwise_param {{ coeff: {factor} coeff: 0 }} }}\n"
    )
}

/// An InnerProduct without bias.
fn product(name: &str, bottom: &str, num_output: usize, more: &str) -> String {
    format!(
        "layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{name}' {more}
           inner_product_param {{ num_output: {num_output} bias_term: false }} }}\n"
    )
}

fn set(net: &mut Net, blob: &str, values: &[f32]) {
    net.blob_data_mut(blob).unwrap().copy_from_slice(values);
}

fn set_diff(net: &mut Net, blob: &str, values: &[f32]) {
    net.blob_diff_mut(blob).unwrap().copy_from_slice(values);
}

// Who is in the net.

#[test]
fn rules_choose_the_layers() {
    let layer = |name: &str, rules: &str| {
        format!("layer {{ name: '{name}' type: 'Split' bottom: 'x' top: '{name}' {rules} }}\n")
    };
    let prototxt = [
        input("x", &[1]),
        layer("always", ""),
        layer("train", "include { phase: TRAIN }"),
        layer("not_train", "exclude { phase: TRAIN }"),
        layer("level_1_to_3", "include { min_level: 1 max_level: 3 }"),
        layer("a_and_b", "include { stage: 'a' stage: 'b' }"),
        layer("a_not_b", "include { stage: 'a' not_stage: 'b' }"),
        layer("test_or_a", "include { phase: TEST } include { stage: 'a' }"),
        layer("neither_test_nor_a", "exclude { phase: TEST } exclude { stage: 'a' }"),
    ]
    .concat();
    let names = |phase, level, stages: &[&str]| {
        let stages = stages.iter().map(|stage| (*stage).to_owned()).collect();
        let spec = spec(&prototxt, NetState { phase, level, stages }).unwrap();
        let names: Vec<String> = spec.layers.iter().skip(2).map(|layer| layer.name.clone()).collect();
        names.join(" ")
    };
    assert_eq!(names(Phase::Train, 0, &[]), "train neither_test_nor_a");
    assert_eq!(names(Phase::Test, 0, &[]), "not_train test_or_a");
    assert_eq!(names(Phase::Train, 1, &["b"]), "train level_1_to_3 neither_test_nor_a");
    assert_eq!(names(Phase::Train, 3, &["a"]), "train level_1_to_3 a_not_b test_or_a");
    assert_eq!(names(Phase::Test, 4, &["a", "b"]), "not_train a_and_b test_or_a");
}

#[test]
fn rules_that_leave_nothing_or_contradict_are_refused() {
    let error =
        message("layer { name: 'x' type: 'Input' top: 'x' include { phase: TEST } input_param { shape { dim: 1 } } }");
    assert!(error.contains("no layer is left") && error.contains("Train"), "{error}");
    let both = "layer { name: 'x' type: 'Input' top: 'x' include { phase: TEST } exclude { stage: 'a' } }";
    assert!(
        message(both).contains("'x'") && message(both).contains("not both"),
        "{}",
        message(both)
    );
}

#[test]
fn the_net_state_is_overlaid() {
    let message = sparknet_proto::caffe::NetState {
        phase: None,
        level: Some(2),
        stage: vec!["b".to_owned()],
    };
    let mut state = NetState::new(Phase::Test);
    state.stages.push("a".to_owned());
    let merged = state.merge(Some(&message));
    assert_eq!((merged.phase, merged.level), (Phase::Test, 2));
    assert_eq!(merged.stages, ["a", "b"]);
}

// Who reads what.

#[test]
fn unknown_bottoms_cycles_and_duplicates_are_named() {
    let error = message(&format!("{}{}", input("x", &[1]), simple("TanH", "z", "y")));
    assert_eq!(
        error,
        "layer 'TanH z y' reads blob 'z', which no layer before it writes: there is 'x'"
    );
    let cycle = format!("{}{}", simple("TanH", "b", "a"), simple("Sigmoid", "a", "b"));
    let error = message(&cycle);
    assert!(
        error.starts_with("layer 'TanH b a' reads blob 'b', which layer 'Sigmoid a b' writes only later"),
        "{error}"
    );
    let error = message(&simple("TanH", "a", "a"));
    assert!(error.contains("a layer cannot read its own top"), "{error}");
    let twice = format!(
        "{}{}{}",
        input("x", &[1]),
        simple("TanH", "x", "y"),
        simple("Sigmoid", "x", "y")
    );
    let error = message(&twice);
    assert!(
        error.starts_with("layer 'Sigmoid x y' writes blob 'y' that layer 'TanH x y' has already written"),
        "{error}"
    );
}

#[test]
fn outputs_are_what_nobody_reads_by_name() {
    let net = net(&[
        input("x", &[1]),
        simple("TanH", "x", "z"),
        simple("TanH", "x", "y"),
        simple("ReLU", "z", "z"),
    ]
    .concat());
    assert_eq!(net.output_names(), ["y", "z"]);
    assert_eq!(net.blob_names(), ["x", "y", "z"]);
    let error = net.blob_data("w").unwrap_err().to_string();
    assert_eq!(error, "the net has no blob 'w': it has x, y, z");
}

#[test]
fn extents_that_are_no_extents_are_refused() {
    for dim in ["0", "-1"] {
        let layer =
            format!("layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: {dim} }} }} }}");
        let error = message(&layer);
        assert!(
            error.starts_with("layer 'x' (Input)") && error.contains(&format!("dim {dim}:")),
            "{error}"
        );
    }
    let large = input("x", &[1 << 20, 1 << 20]);
    assert!(message(&large).contains("2147483647"), "{}", message(&large));
    let grown = [
        input("z", &[1 << 16, 1 << 14]),
        "layer { name: 'c' type: 'Concat' bottom: 'z' bottom: 'z' top: 'c' }".to_owned(),
    ]
    .concat();
    let error = message(&grown);
    assert!(
        error.starts_with("layer 'c' (Concat): a blob of shape (65536, 32768) has more than"),
        "{error}"
    );
}

// Whose gradients add up.

#[test]
fn gradients_of_several_readers_add_up() {
    let mut net = net(&[
        "force_backward: true ".to_owned(),
        input("x", &[2]),
        times(2.0, "x", "a"),
        times(3.0, "x", "b"),
        times(5.0, "x", "c"),
    ]
    .concat());
    net.forward().unwrap();
    for (blob, diff) in [("a", 1.0), ("b", 10.0), ("c", 100.0)] {
        set_diff(&mut net, blob, &[diff, -diff]);
    }
    for _ in 0..2 {
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), [532.0, -532.0]);
    }
}

#[test]
fn a_layer_may_read_a_blob_twice() {
    let square =
        "layer { name: 'y' type: 'Eltwise' bottom: 'x' bottom: 'x' top: 'y' eltwise_param { operation: PROD } }";
    let mut net = net(&format!("force_backward: true {}{square}", input("x", &[2])));
    set(&mut net, "x", &[3.0, -4.0]);
    net.forward().unwrap();
    assert_eq!(net.blob_data("y").unwrap(), [9.0, 16.0]);
    set_diff(&mut net, "y", &[1.0, 10.0]);
    net.backward();
    assert_eq!(net.blob_diff("x").unwrap(), [6.0, -80.0]);
}

#[test]
fn in_place_never_changes_what_others_read() {
    // Two layers read h before ReLU works on it in place, one after.
    let mut net = net(&[
        "force_backward: true ".to_owned(),
        input("x", &[2]),
        simple("Split", "x", "h"),
        times(2.0, "h", "a"),
        times(3.0, "h", "b"),
        simple("ReLU", "h", "h"),
        times(5.0, "h", "c"),
    ]
    .concat());
    set(&mut net, "x", &[-1.0, 4.0]);
    net.forward().unwrap();
    assert_eq!(net.blob_data("a").unwrap(), [-2.0, 8.0]);
    assert_eq!(net.blob_data("b").unwrap(), [-3.0, 12.0]);
    assert_eq!(net.blob_data("h").unwrap(), [0.0, 4.0]);
    assert_eq!(net.blob_data("c").unwrap(), [0.0, 20.0]);
    for blob in ["a", "b", "c"] {
        set_diff(&mut net, blob, &[1.0, 1.0]);
    }
    net.backward();
    assert_eq!(net.blob_diff("x").unwrap(), [5.0, 10.0]);
    assert_eq!(
        net.blob_diff("h").unwrap(),
        [5.0, 10.0],
        "the gradient of the first writer's values"
    );
}

#[test]
fn values_that_backward_needs_are_not_written_over() {
    // TanH's gradient is 1 - y², of its own top.
    let mut chain = net(&[
        "force_backward: true ".to_owned(),
        input("x", &[1]),
        simple("TanH", "x", "h"),
        simple("Sigmoid", "h", "h"),
        simple("TanH", "h", "h"),
    ]
    .concat());
    set(&mut chain, "x", &[0.5]);
    chain.forward().unwrap();
    set_diff(&mut chain, "h", &[1.0]);
    chain.backward();
    let a = 0.5f64.tanh();
    let b = 1.0 / (1.0 + (-a).exp());
    let c = b.tanh();
    assert!((f64::from(chain.blob_data("h").unwrap()[0]) - c).abs() < 1e-6);
    let expected = (1.0 - c * c) * b * (1.0 - b) * (1.0 - a * a);
    assert!((f64::from(chain.blob_diff("x").unwrap()[0]) - expected).abs() < 1e-6);
}

#[test]
fn inputs_survive_layers_that_work_on_them_in_place() {
    let mut net = net(&[
        "force_backward: true ".to_owned(),
        input("x", &[2]),
        simple("ReLU", "x", "x"),
        simple("Split", "x", "y"),
    ]
    .concat());
    set(&mut net, "x", &[-1.0, 4.0]);
    for _ in 0..2 {
        net.forward().unwrap();
        assert_eq!(net.blob_data("y").unwrap(), [0.0, 4.0]);
    }
    assert_eq!(net.blob_data_mut("x").unwrap(), [-1.0, 4.0]);
    set_diff(&mut net, "y", &[7.0, 8.0]);
    net.backward();
    assert_eq!(net.blob_diff("x").unwrap(), [0.0, 8.0]);
}

#[test]
fn loss_weights_scale_loss_and_gradient() {
    // A loss, a term of the loss that another layer reads, and a loss that counts nothing.
    let mut net = net(&[
        "force_backward: true ".to_owned(),
        input("x", &[1, 2]),
        input("t", &[1, 2]),
        "layer { name: 'y' type: 'Split' bottom: 'x' top: 'y' loss_weight: 3 }".to_owned(),
        "layer { name: 'l' type: 'EuclideanLoss' bottom: 'y' bottom: 't' top: 'l' loss_weight: 0.5 }".to_owned(),
        "layer { name: 'm' type: 'EuclideanLoss' bottom: 'x' bottom: 't' top: 'm' loss_weight: 0 }".to_owned(),
    ]
    .concat());
    set(&mut net, "x", &[1.0, 4.0]);
    set(&mut net, "t", &[1.0, 2.0]);
    // 3·(1 + 4) + 0.5·(0² + 2²)/2
    assert_eq!(net.forward().unwrap(), 16.0);
    net.backward();
    assert_eq!(net.blob_diff("x").unwrap(), [3.0, 3.0 + 0.5 * 2.0]);
    assert_eq!(net.blob_diff("t").unwrap(), [0.0, -0.5 * 2.0]);
}

/// x → a → b → loss against t, with `more` in b; returns the net after backward.
fn two_products(before: &str, more_a: &str, more_b: &str) -> Net {
    let loss = "layer { name: 'l' type: 'EuclideanLoss' bottom: 'b' bottom: 't' top: 'l' }";
    let mut net = net(&format!(
        "{before} {}{}{}{}{loss}",
        input("x", &[1, 1]),
        input("t", &[1, 1]),
        product("a", "x", 1, more_a),
        product("b", "a", 1, more_b)
    ));
    set(&mut net, "x", &[2.0]);
    net.param_arena_mut().copy_from_slice(&[3.0, 5.0]);
    net.forward().unwrap();
    net.blob_diff_mut("x").unwrap().fill(-1.0);
    net.backward();
    net
}

#[test]
fn gradients_go_where_something_learns() {
    // a = 6, b = 30 = dl/db; dl/d(b's weight) = 30·6, dl/da = 150, dl/d(a's weight) = 300, dl/dx = 450.
    let net = two_products("", "", "");
    assert_eq!(net.gradient_arena(), [300.0, 180.0]);
    assert_eq!(
        net.blob_diff("x").unwrap(),
        [-1.0],
        "nobody asks for the input's gradient"
    );
    let net = two_products("force_backward: true", "", "");
    assert_eq!(
        (net.gradient_arena(), net.blob_diff("x").unwrap()),
        (&[300.0, 180.0][..], &[450.0][..])
    );
    let net = two_products("", "propagate_down: true", "");
    assert_eq!(net.blob_diff("x").unwrap(), [450.0]);
    let net = two_products("", "", "propagate_down: false");
    assert_eq!(net.gradient_arena(), [0.0, 180.0]);
    let net = two_products("", "param { lr_mult: 0 }", "");
    assert_eq!(net.gradient_arena(), [0.0, 180.0]);
    let net = two_products("", "", "param { lr_mult: 0 }");
    assert_eq!(net.gradient_arena(), [300.0, 0.0]);
}

#[test]
fn gradients_of_parameters_add_up_until_they_are_cleared() {
    let mut net = two_products("", "", "");
    net.backward();
    assert_eq!(net.gradient_arena(), [600.0, 360.0]);
    net.clear_gradients();
    net.backward();
    assert_eq!(net.gradient_arena(), [300.0, 180.0]);
}

// Parameters that are shared.

fn shared(a: &str, b: &str, dims_z: &[usize], num_output_b: usize) -> String {
    let (a, b) = (
        format!("param {{ name: 'w' {a} }}"),
        format!("param {{ name: 'w' {b} }}"),
    );
    format!(
        "force_backward: true {}{}{}{}",
        input("x", &[1, 6]),
        input("z", dims_z),
        product("a", "x", 2, &a),
        product("b", "z", num_output_b, &b)
    )
}

#[test]
fn shared_parameters_are_one() {
    let mut net = net(&shared("", "", &[1, 6], 2));
    assert_eq!(net.params().len(), 1);
    assert_eq!(net.layer_params(2), net.layer_params(3));
    let x: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let z: Vec<f32> = (0..6).map(|i| 10.0 * i as f32).collect();
    set(&mut net, "x", &x);
    set(&mut net, "z", &z);
    net.forward().unwrap();
    set_diff(&mut net, "a", &[1.0, 0.0]);
    set_diff(&mut net, "b", &[1.0, 2.0]);
    net.backward();
    let first: Vec<f32> = (0..6).map(|i| 11.0 * i as f32).collect();
    let second: Vec<f32> = (0..6).map(|i| 20.0 * i as f32).collect();
    assert_eq!(net.gradient_arena(), [first, second].concat());
}

#[test]
fn shared_parameters_have_to_fit() {
    let error = message(&shared("", "", &[1, 4], 3));
    assert!(
        error.starts_with("layer 'b' shares parameter 'w' with layer 'a', but its shape (3, 4) is not (2, 6)"),
        "{error}"
    );
    assert!(error.contains("PERMISSIVE"), "{error}");
    let permissive = net(&shared("", "share_mode: PERMISSIVE", &[1, 4], 3));
    assert_eq!(permissive.params().len(), 1);
    let error = message(&shared("", "share_mode: PERMISSIVE", &[1, 4], 2));
    assert!(
        error.contains("its shape (2, 4) has another count than (2, 6)"),
        "{error}"
    );
}

#[test]
fn shared_parameters_have_one_multiplier() {
    let multipliers = |a: &str, b: &str| {
        let net = net(&shared(a, b, &[1, 6], 2));
        (net.params()[0].lr_mult, net.params()[0].decay_mult)
    };
    assert_eq!(multipliers("", ""), (1.0, 1.0));
    assert_eq!(multipliers("lr_mult: 2", "decay_mult: 3"), (2.0, 3.0));
    assert_eq!(multipliers("lr_mult: 2 decay_mult: 0", "lr_mult: 2"), (2.0, 0.0));
    let error = message(&shared("lr_mult: 2", "lr_mult: 1", &[1, 6], 2));
    assert!(error.contains("'b'") && error.contains("lr_mult 1 is not 2"), "{error}");
    let error = message(&shared("decay_mult: 2", "decay_mult: 0", &[1, 6], 2));
    assert!(error.contains("decay_mult 0 is not 2"), "{error}");
}

#[test]
fn parameters_that_the_layer_does_not_have_are_refused() {
    let error = message(&format!(
        "{}{}",
        input("x", &[1, 2]),
        product("a", "x", 1, "param { } param { }")
    ));
    assert!(
        error.contains("'a'") && error.contains("2 param entries") && error.contains("1 parameter blobs"),
        "{error}"
    );
}

// Weights.

fn blob(dims: &[i64], values: &[f32]) -> BlobProto {
    BlobProto {
        shape: Some(BlobShape { dim: dims.to_vec() }),
        data: values.to_vec(),
        ..Default::default()
    }
}

fn weights(layers: &[(&str, Vec<BlobProto>)]) -> NetParameter {
    let layer = |(name, blobs): &(&str, Vec<BlobProto>)| LayerParameter {
        name: Some((*name).to_owned()),
        blobs: blobs.clone(),
        ..Default::default()
    };
    NetParameter {
        layer: layers.iter().map(layer).collect(),
        ..Default::default()
    }
}

/// x (1, 2) → a (1, 1) → b (1, 1); parameters 2 and 1.
fn weighed() -> Net {
    let mut net = net(&[input("x", &[1, 2]), product("a", "x", 1, ""), product("b", "a", 1, "")].concat());
    net.param_arena_mut().copy_from_slice(&[7.0, 8.0, 9.0]);
    net
}

#[test]
fn weights_go_by_layer_name() {
    let mut net = weighed();
    let file = weights(&[
        ("extra", vec![blob(&[5], &[0.0; 5])]),
        ("b", vec![blob(&[1, 1], &[3.0])]),
        ("x", Vec::new()),
    ]);
    assert_eq!(net.copy_weights_from(&file).unwrap(), 1);
    assert_eq!(net.param_arena(), [7.0, 8.0, 3.0]);
    let mut other = weighed();
    let snapshot = net.to_proto(net.param_arena(), None);
    assert_eq!(other.copy_weights_from(&snapshot).unwrap(), 2);
    assert_eq!(other.param_arena(), net.param_arena());
}

#[test]
fn weights_may_be_legacy_or_double() {
    let mut net = weighed();
    let legacy = BlobProto {
        num: Some(1),
        channels: Some(1),
        height: Some(1),
        width: Some(2),
        data: vec![1.0, 2.0],
        ..Default::default()
    };
    let double = BlobProto {
        shape: Some(BlobShape { dim: vec![1, 1] }),
        double_data: vec![4.0],
        ..Default::default()
    };
    net.copy_weights_from(&weights(&[("a", vec![legacy.clone()]), ("b", vec![double])]))
        .unwrap();
    assert_eq!(net.param_arena(), [1.0, 2.0, 4.0]);
    let turned = BlobProto {
        height: Some(2),
        width: Some(1),
        ..legacy
    };
    assert!(net.copy_weights_from(&weights(&[("a", vec![turned])])).is_err());
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    for (blobs, fact) in [
        (
            vec![blob(&[2, 1], &[0.0; 2])],
            "a blob of shape (2, 1) and the layer one of (1, 2)",
        ),
        (
            vec![blob(&[1, 2], &[0.0; 2]), blob(&[1], &[0.0])],
            "the file has 2 blobs and the layer 1",
        ),
        (Vec::new(), "the file has 0 blobs and the layer 1"),
        (vec![blob(&[1, 2], &[0.0; 3])], "the file has 3 values and the layer 2"),
        (vec![blob(&[1, -2], &[0.0; 2])], "blob"),
    ] {
        let error = weighed()
            .copy_weights_from(&weights(&[("a", blobs)]))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("weights of layer 'a' do not fit: ") && error.contains(fact),
            "{error}"
        );
    }
}

#[test]
fn a_test_net_takes_the_train_nets_weights() {
    let train = weighed();
    let mut test = net(&[input("x", &[1, 1]), product("b", "x", 1, "")].concat());
    let map = test.param_map_from(&train).unwrap();
    test.load_params(&map, train.param_arena());
    assert_eq!(test.param_arena(), [9.0]);
    let other = net(&[input("x", &[1, 3]), product("a", "x", 1, "")].concat());
    let error = other.param_map_from(&train).unwrap_err().to_string();
    assert!(
        error.contains("'a'") && error.contains("(1, 2)") && error.contains("(1, 3)"),
        "{error}"
    );
}

// Other batch sizes.

#[test]
fn a_smaller_batch_and_back() {
    let of_batch = |n: usize| {
        let loss = "layer { name: 'l' type: 'SoftmaxWithLoss' bottom: 'b' bottom: 't' top: 'l' }";
        let layers = [
            product("a", "x", 4, ""),
            simple("Sigmoid", "a", "a"),
            product("b", "a", 3, ""),
            loss.to_owned(),
        ]
        .concat();
        let both = format!("input_param {{ shape {{ dim: {n} dim: 5 }} shape {{ dim: {n} }} }}");
        let mut net = net(&format!(
            "force_backward: true layer {{ name: 'in' type: 'Input' top: 'x' top: 't' {both} }} {layers}"
        ));
        let params = net.param_arena_mut().iter_mut().enumerate();
        params.for_each(|(i, value)| *value = (i % 7) as f32 / 7.0 - 0.4);
        net
    };
    let outcome = |net: &mut Net| {
        let count = net.blob_shape("x").unwrap().count();
        let x: Vec<f32> = (0..count).map(|i| (i % 11) as f32 / 5.0 - 1.0).collect();
        let t: Vec<f32> = (0..count / 5).map(|i| (i % 3) as f32).collect();
        set(net, "x", &x);
        set(net, "t", &t);
        net.clear_gradients();
        let loss = net.forward().unwrap();
        net.backward();
        (
            loss,
            net.gradient_arena().to_vec(),
            net.blob_diff("x").unwrap().to_vec(),
        )
    };
    let mut net = of_batch(6);
    outcome(&mut net);
    for n in [2, 6, 9] {
        net.reshape_feed(0, &[Shape::from([n, 5]), Shape::from([n])]).unwrap();
        assert_eq!(net.blob_shape("b").unwrap(), &Shape::from([n, 3]));
        assert_eq!(outcome(&mut net), outcome(&mut of_batch(n)), "batch {n}");
    }
}

#[test]
fn a_feed_has_to_have_values_that_fit() {
    let mut net = net(&[input("x", &[4, 2]), product("a", "x", 1, "")].concat());
    let error = net.reshape_feed(0, &[Shape::from([0, 2])]).unwrap_err().to_string();
    assert!(
        error.starts_with("layer 'x' (Input)") && error.contains("(0, 2)"),
        "{error}"
    );
    let error = net.reshape_feed(0, &[Shape::from([4, 3])]).unwrap_err().to_string();
    assert!(
        error.starts_with("layer 'a' (InnerProduct)") && error.contains("(4, 3)"),
        "{error}"
    );
    net.reshape_feed(0, &[Shape::from([1, 2])]).unwrap();
    net.forward().unwrap();
}
