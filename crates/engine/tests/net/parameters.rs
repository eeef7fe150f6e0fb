//! Parameters that layers share, and weights that come from files and other nets.

use sparknet_engine::Net;
use sparknet_proto::caffe::{BlobProto, BlobShape, LayerParameter, NetParameter};

use super::{input, message, net, product, set, set_diff};

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
