//! Every layer must compute what Caffe computes: `golden/layers`.

mod golden;

use golden::{Case, Failed, difference, fill, param_range, run_all};
use sparknet_engine::Shape;

const TOLERANCE: f32 = 1e-5;

#[test]
fn golden_layers() {
    run_all("layers", run);
}

fn run(case: &Case) -> Result<Vec<String>, Failed> {
    let phase = case.phase()?;
    let known = [
        "bottom",
        "param",
        "top",
        "top_diff",
        "bottom_diff",
        "param_diff",
        "param_after",
    ];
    if let Some(name) = case.tensors.keys().find(|name| {
        let prefix = name.split('/').next().unwrap_or_default();
        !known.contains(&prefix)
    }) {
        return Err(Failed(format!("nothing is known of tensor {name}")));
    }

    let mut net = case.net("prototxt", phase)?;
    for (blob, tensor) in case.under("bottom") {
        fill(net.blob_data_mut(blob)?, tensor, &format!("bottom/{blob}"))?;
    }
    for (param, tensor) in case.under("param") {
        let range = param_range(&net, param)?;
        fill(&mut net.param_arena_mut()[range], tensor, &format!("param/{param}"))?;
    }

    net.forward()?;
    let mut wrong = Vec::new();
    for (blob, tensor) in case.under("top") {
        let what = format!("top/{blob}");
        // Caffe's scalars have one axis in some of its interfaces and none in others.
        let scalar = |shape: &Shape| shape.count() == 1 && shape.num_axes() <= 1;
        let (found, expected) = (net.blob_shape(blob)?, &tensor.shape);
        if found != expected && !(scalar(found) && scalar(expected)) {
            wrong.push(format!("{what} has shape {found}, not {expected}"));
        }
        wrong.extend(difference(&what, net.blob_data(blob)?, &tensor.values, TOLERANCE));
    }
    for (param, tensor) in case.under("param_after") {
        let found = &net.param_arena()[param_range(&net, param)?];
        wrong.extend(difference(
            &format!("param_after/{param}"),
            found,
            &tensor.values,
            TOLERANCE,
        ));
    }
    if case.under("bottom_diff").next().is_none() && case.under("param_diff").next().is_none() {
        return Ok(wrong);
    }

    for (blob, tensor) in case.under("top_diff") {
        fill(net.blob_diff_mut(blob)?, tensor, &format!("top_diff/{blob}"))?;
    }
    net.clear_gradients();
    net.backward();
    for (blob, tensor) in case.under("bottom_diff") {
        let what = format!("bottom_diff/{blob}");
        wrong.extend(difference(&what, net.blob_diff(blob)?, &tensor.values, TOLERANCE));
    }
    for (param, tensor) in case.under("param_diff") {
        let found = &net.gradient_arena()[param_range(&net, param)?];
        wrong.extend(difference(
            &format!("param_diff/{param}"),
            found,
            &tensor.values,
            TOLERANCE,
        ));
    }
    Ok(wrong)
}
