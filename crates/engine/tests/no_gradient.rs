//! Labels, indices and step functions have no gradient: where one is needed the net says so, and nowhere else.

use sparknet_engine::{Net, NetSpec, NetState, Phase, net::NoData};
use sparknet_proto::{caffe::NetParameter, text};

/// Blobs of all kinds: fed ones, and ones that layer `ip` learns to compute.
const BLOBS: &str = "
    layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 4 dim: 3 } } }
    layer { name: 'label' type: 'Input' top: 'label' input_param { shape { dim: 4 } } }
    layer { name: 'steps' type: 'Input' top: 'steps' input_param { shape { dim: 2 dim: 2 dim: 3 } } }
    layer { name: 'cells' type: 'Input' top: 'cells' input_param { shape { dim: 1 dim: 2 dim: 3 } } }
    layer { name: 'gates' type: 'Input' top: 'gates' input_param { shape { dim: 1 dim: 2 dim: 12 } } }
    layer { name: 'cont' type: 'Input' top: 'cont' input_param { shape { dim: 2 dim: 2 } } }
    layer { name: 'matrix' type: 'Input' top: 'matrix' input_param { shape { dim: 3 dim: 3 } } }
    layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'ip' inner_product_param { num_output: 3 } }
    layer { name: 'one' type: 'Reduction' bottom: 'ip' top: 'one' reduction_param { axis: 1 } }
    layer { name: 'one_cont' type: 'Reshape' bottom: 'one' top: 'one_cont' reshape_param { shape { dim: 2 dim: 2 } } }
    layer { name: 'matrix_ip' type: 'InnerProduct' bottom: 'matrix' top: 'matrix_ip' inner_product_param { num_output: 3 } }
    layer { name: 'state' type: 'Scale' bottom: 'cells' top: 'state' }
    layer { name: 'one_step' type: 'Slice' bottom: 'one_cont' top: 'now' top: 'later' slice_param { axis: 0 } }
";

fn net(text: &str, phase: Phase) -> Result<Net, String> {
    let message: NetParameter = text::parse("net", text).unwrap_or_else(|error| panic!("{error}"));
    let spec = NetSpec::from_proto(&message, NetState::new(phase)).unwrap_or_else(|error| panic!("{error}"));
    Net::new(spec, &mut NoData, 1).map_err(|error| error.to_string())
}

/// A layer L of these fields whose first top is y, and a loss that wants it small.
fn with_layer(head: &str, fields: &str, extra: &str) -> String {
    let top = if fields.contains("top: 'y'") { "" } else { "top: 'y'" };
    let loss = "layer { name: 'loss' type: 'Power' bottom: 'y' top: 'loss' loss_weight: 1 }";
    format!("{head} {BLOBS} layer {{ name: 'L' {fields} {top} {extra} }} {loss}")
}

/// Fields of a layer, and what is said of which of its bottoms.
const LEARNED: &[(&str, &str, &str)] = &[
    ("type: 'Threshold' bottom: 'ip'", "ip", "which it only compares"),
    ("type: 'ArgMax' bottom: 'ip'", "ip", "which it only compares"),
    (
        "type: 'Accuracy' bottom: 'ip' bottom: 'label'",
        "ip",
        "which it only compares",
    ),
    (
        "type: 'Accuracy' bottom: 'x' bottom: 'one'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'one'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'one'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'HingeLoss' bottom: 'ip' bottom: 'one'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'MultinomialLogisticLoss' bottom: 'ip' bottom: 'one'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'InfogainLoss' bottom: 'ip' bottom: 'one' bottom: 'matrix'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'InfogainLoss' bottom: 'ip' bottom: 'label' bottom: 'matrix_ip'",
        "matrix_ip",
        "which holds an infogain matrix",
    ),
    (
        "type: 'ContrastiveLoss' bottom: 'ip' bottom: 'x' bottom: 'one'",
        "one",
        "which holds labels",
    ),
    (
        "type: 'SigmoidCrossEntropyLoss' bottom: 'x' bottom: 'ip'",
        "ip",
        "which holds targets",
    ),
    (
        "type: 'Filter' bottom: 'ip' bottom: 'one'",
        "one",
        "which holds a selector",
    ),
    (
        "type: 'BatchReindex' bottom: 'ip' bottom: 'one'",
        "one",
        "which holds indices",
    ),
    (
        "type: 'Embed' bottom: 'one' embed_param { input_dim: 5 num_output: 2 }",
        "one",
        "which holds indices",
    ),
    (
        "type: 'LSTM' bottom: 'steps' bottom: 'one_cont' recurrent_param { num_output: 3 }",
        "one_cont",
        "which holds indicators of sequences",
    ),
    (
        "type: 'RNN' bottom: 'steps' bottom: 'cont' bottom: 'state' top: 'y' top: 'last'
         recurrent_param { num_output: 3 expose_hidden: true }",
        "state",
        "which holds first states",
    ),
    (
        "type: 'LSTMUnit' bottom: 'state' bottom: 'gates' bottom: 'now' top: 'y' top: 'h'",
        "now",
        "which holds indicators of sequences",
    ),
];

#[test]
fn a_gradient_that_something_learns_by_is_an_error_with_a_remedy_that_works() {
    for (fields, bottom, what) in LEARNED {
        let layer = |extra: &str| with_layer("", fields, extra);
        let error = net(&layer(""), Phase::Train)
            .err()
            .unwrap_or_else(|| panic!("{fields}"));
        let begins = format!(") has no gradient for its bottom '{bottom}', {what}, but layer '");
        assert!(error.starts_with("layer 'L' (") && error.contains(&begins), "{error}");
        assert!(error.contains("' before it learns: write "), "{error}");
        let (_, rest) = error.split_once(": write ").unwrap();
        let (remedy, _) = rest.split_once(" into it").unwrap();
        net(&layer(remedy), Phase::Train).unwrap_or_else(|error| panic!("{fields} {remedy}: {error}"));
    }
}

#[test]
fn a_gradient_that_is_asked_for_is_an_error_too() {
    let softmax = "type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label'";
    let error = net(
        &with_layer("", softmax, "propagate_down: true propagate_down: true"),
        Phase::Train,
    );
    assert_eq!(
        error.err().unwrap(),
        "layer 'L' (SoftmaxWithLoss) has no gradient for its bottom 'label', which holds labels, but its propagate_down \
         asks for one: write propagate_down: true propagate_down: false into it, if nothing is to be learned through there"
    );
    let error = net(
        &with_layer("force_backward: true", "type: 'Threshold' bottom: 'x'", ""),
        Phase::Train,
    );
    assert_eq!(
        error.err().unwrap(),
        "layer 'L' (Threshold) has no gradient for its bottom 'x', which it only compares, but force_backward asks for \
         one: write propagate_down: false into it, if nothing is to be learned through there"
    );
}

#[test]
fn the_first_layer_is_named_and_what_is_off_stays_off() {
    let contrastive = "type: 'ContrastiveLoss' bottom: 'ip' bottom: 'x' bottom: 'one'";
    let text = with_layer("", contrastive, "")
        + "layer { name: 'later' type: 'Threshold' bottom: 'ip' top: 't' loss_weight: 1 }";
    let error = net(&text, Phase::Train).err().unwrap();
    // x is fed.
    let remedy = "write propagate_down: true propagate_down: false propagate_down: false into it";
    assert!(error.starts_with("layer 'L' ") && error.contains(remedy), "{error}");
}

#[test]
fn what_is_cut_off_from_the_loss_does_not_run_backward() {
    let scale = "type: 'Scale' bottom: 'ip' propagate_down: false";
    let mut net = net(&with_layer("", scale, ""), Phase::Train).unwrap();
    net.forward().unwrap();
    net.blob_diff_mut("ip").unwrap().fill(1.0);
    net.backward();
    let ip = net.spec().layers.iter().position(|layer| layer.name == "ip").unwrap();
    let bias = net.params()[net.layer_params(ip)[1]].range.clone();
    assert_eq!(net.gradient_arena()[bias], [0.0; 3]);
}

#[test]
fn a_top_whose_gradient_is_dropped_is_an_error_where_a_loss_has_one() {
    let softmax = "type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'y' top: 'second'";
    let lstm =
        "type: 'LSTM' bottom: 'steps' bottom: 'cont' bottom: 'cells' bottom: 'cells' top: 'y' top: 'second' top: 'c'
        recurrent_param { num_output: 3 expose_hidden: true }";
    let pooling = "type: 'Pooling' bottom: 'ip4' top: 'y' top: 'second' pooling_param { kernel_size: 1 }";
    for (fields, type_name) in [(softmax, "SoftmaxWithLoss"), (lstm, "LSTM"), (pooling, "Pooling")] {
        let build = |extra: &str, reader: &str| {
            let ip4 = "layer { name: 'ip4' type: 'Reshape' bottom: 'ip' top: 'ip4'
                reshape_param { shape { dim: 1 dim: 1 dim: 4 dim: 3 } } }";
            let text =
                with_layer("", fields, extra).replacen("layer { name: 'L'", &format!("{ip4} layer {{ name: 'L'"), 1);
            net(
                &format!("{text} layer {{ name: 'R' type: 'Power' bottom: 'second' top: 'z' {reader} }}"),
                Phase::Train,
            )
        };
        assert_eq!(
            build("", "loss_weight: 1").err().unwrap(),
            format!(
                "layer 'L' ({type_name}) has no gradient to hand on from its top 'second', by which layer 'R' would have \
                 the net learn: write propagate_down: false for it into 'R', or take another top"
            )
        );
        build("", "loss_weight: 1 propagate_down: false").unwrap_or_else(|error| panic!("{error}"));
        build("", "").unwrap_or_else(|error| panic!("{error}"));
        // The way to the loss may be longer.
        let error = build(
            "",
            "} layer { name: 'R2' type: 'Power' bottom: 'z' top: 'z2' loss_weight: 1",
        );
        assert!(error.err().unwrap().contains("top 'second', by which layer 'R'"));
        let weights = if type_name == "LSTM" { "loss_weight: 0" } else { "" };
        let error = build(&format!("loss_weight: 1 loss_weight: 1 {weights}"), "")
            .err()
            .unwrap();
        assert!(
            error.contains("top 'second', but a loss_weight for it: give it"),
            "{error}"
        );
    }
}

#[test]
fn nobody_else_is_bothered() {
    let build = |text: String| net(&text, Phase::Train).unwrap_or_else(|error| panic!("{text}: {error}"));
    let embed = "type: 'Embed' bottom: 'label' embed_param { input_dim: 5 num_output: 2 }";
    for (head, fields, extra) in [
        // What is fed or drawn wants no gradient, even if force_backward asks for all.
        ("", "type: 'Threshold' bottom: 'x'", ""),
        ("", "type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label'", ""),
        (
            "force_backward: true",
            "type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label'",
            "",
        ),
        (
            "force_backward: true",
            "type: 'BatchReindex' bottom: 'ip' bottom: 'label'",
            "",
        ),
        (
            "force_backward: true",
            "type: 'Filter' bottom: 'ip' bottom: 'label'",
            "",
        ),
        ("force_backward: true", embed, ""),
        // Nothing before a top learns whose gradient is dropped.
        (
            "",
            "type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'label' top: 'y' top: 'second'",
            "loss_weight: 1 loss_weight: 1",
        ),
        // Nobody learns from what reads it.
        (
            "force_backward: true",
            "type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'y' top: 'second'",
            "} layer { name: 'R' type: 'Power' bottom: 'second' top: 'z'",
        ),
        (
            "force_backward: true",
            "type: 'AbsVal' bottom: 'ip'",
            "} layer { name: 'T' type: 'Threshold' bottom: 'ip' top: 't' } layer { name: 'S' type: 'Silence' bottom: 't'",
        ),
        // The shape alone counts.
        (
            "",
            "type: 'Crop' bottom: 'ip' bottom: 'matrix_ip' crop_param { axis: 1 }",
            "",
        ),
        // Nothing before it learns.
        (
            "",
            "type: 'Threshold' bottom: 'x'",
            "propagate_down: true loss_weight: 1",
        ),
        // What is stopped is stopped, also where force_backward would ask.
        ("", "type: 'Threshold' bottom: 'ip'", "propagate_down: false"),
        (
            "force_backward: true",
            "type: 'Threshold' bottom: 'x'",
            "propagate_down: false",
        ),
    ] {
        build(with_layer(head, fields, extra));
    }
    // Off the way to a loss nobody learns from it.
    for head in ["", "force_backward: true"] {
        let accuracy = "layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' }
            layer { name: 'best' type: 'ArgMax' bottom: 'ip' top: 'best' }";
        build(with_layer(head, "type: 'AbsVal' bottom: 'ip'", "") + accuracy);
    }
    let fixed = BLOBS.replace(
        "num_output: 3 } }",
        "num_output: 3 } param { lr_mult: 0 } param { lr_mult: 0 } }",
    );
    build(with_layer("", "type: 'Threshold' bottom: 'ip'", "").replace(BLOBS, &fixed));
}

#[test]
fn a_test_net_says_so_when_it_runs_backward() {
    let text = with_layer("", "type: 'Threshold' bottom: 'ip'", "");
    let mut net = net(&text, Phase::Test).unwrap();
    net.forward().unwrap();
    let layers = net.spec().layers.len();
    net.begin_backward();
    net.backward_layer(layers - 1);
    net.check_backward().unwrap();
    net.backward();
    let error = net.check_backward().unwrap_err().to_string();
    assert!(error.starts_with("layer 'L' (Threshold) has no gradient"), "{error}");
    net.check_backward().unwrap();
}
