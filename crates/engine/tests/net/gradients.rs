//! Whose gradients add up, and where they go.

use sparknet_engine::Net;

use super::{input, net, product, set, set_diff, simple, times};

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
    // Two layers read h before ReLU works on it in place, one after; the square's gradient needs h.
    let square =
        "layer { name: 'a' type: 'Eltwise' bottom: 'h' bottom: 'h' top: 'a' eltwise_param { operation: PROD } }";
    let mut net = net(&[
        "force_backward: true ".to_owned(),
        input("x", &[2]),
        simple("Split", "x", "h"),
        square.to_owned(),
        times(3.0, "h", "b"),
        simple("ReLU", "h", "h"),
        times(5.0, "h", "c"),
    ]
    .concat());
    set(&mut net, "x", &[-1.0, 4.0]);
    net.forward().unwrap();
    assert_eq!(net.blob_data("a").unwrap(), [1.0, 16.0]);
    assert_eq!(net.blob_data("b").unwrap(), [-3.0, 12.0]);
    assert_eq!(net.blob_data("h").unwrap(), [0.0, 4.0]);
    assert_eq!(net.blob_data("c").unwrap(), [0.0, 20.0]);
    for blob in ["a", "b", "c"] {
        set_diff(&mut net, blob, &[1.0, 1.0]);
    }
    net.backward();
    assert_eq!(net.blob_diff("x").unwrap(), [1.0, 16.0]);
    assert_eq!(
        net.blob_diff("h").unwrap(),
        [1.0, 16.0],
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
