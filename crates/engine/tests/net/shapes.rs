//! Extents that blobs may have, and batches of another size.

use sparknet_engine::{Net, Shape};

use super::{input, message, net, product, set, simple};

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
