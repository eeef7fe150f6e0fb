//! Published nets must compute what they compute in Caffe, with weights and inputs from a formula: `golden/models`.
//! Where a case's folder has no prototxt of it, the case is put to the project's own `models/`.

mod golden;

use golden::{Case, Failed, Tensor, difference, golden, project, run_all};
use sparknet_engine::{
    Net, NetSpec, NetState, Shape,
    net::NoData,
    spec::{InputSpec, LayerKind},
};
use sparknet_proto::read_net;

const TOLERANCE: f32 = 1e-3;

/// The inputs (n, c, h, w) that Caffe was given for the project's models; a case with a prototxt says so itself.
const INPUTS: [(&str, [usize; 4]); 3] = [
    ("caffenet", [2, 3, 227, 227]),
    ("cifar10_full", [4, 3, 32, 32]),
    ("googlenet", [2, 3, 224, 224]),
];

#[test]
fn golden_models() {
    run_all("models", run);
}

fn run(case: &Case) -> Result<Vec<String>, Failed> {
    let mut net = build(case)?;
    fill_params(&mut net);
    fill_inputs(&mut net)?;
    net.forward()?;
    net.clear_gradients();
    net.backward();

    let mut wrong = Vec::new();
    for (blob, Tensor { values, .. }) in case.under("out") {
        wrong.extend(difference(
            &format!("out/{blob}"),
            net.blob_data(blob)?,
            values,
            TOLERANCE,
        ));
    }
    let norms: Vec<f32> = net
        .params()
        .iter()
        .map(|param| {
            let gradient = &net.gradient_arena()[param.range.clone()];
            gradient
                .iter()
                .map(|value| f64::from(*value).powi(2))
                .sum::<f64>()
                .sqrt() as f32
        })
        .collect();
    let expected = case
        .tensors
        .get("grad_norm")
        .ok_or(Failed("it has no grad_norm".to_owned()))?;
    if norms.len() != expected.values.len() {
        let (found, expected) = (norms.len(), expected.values.len());
        return Err(Failed(format!("the net has {found} parameters, not {expected}")));
    }
    // Each norm by itself: those of early and late layers lie orders of magnitude apart.
    for (index, (found, expected)) in norms.iter().zip(&expected.values).enumerate() {
        wrong.extend(difference(
            &format!("grad_norm of {index}"),
            &[*found],
            &[*expected],
            TOLERANCE,
        ));
    }
    for (index, Tensor { values, .. }) in case.under("grad_head") {
        let param = index.parse::<usize>().ok().and_then(|index| net.params().get(index));
        let Some(param) = param else {
            return Err(Failed(format!("the net has no parameter {index}")));
        };
        // Relative to the whole gradient, whose norm has just been compared, and not to its first 16 values: two values
        // of a pooling window that differ by a rounding send their gradient elsewhere, in one blob or another with
        // every order of summation.
        let gradient = &net.gradient_arena()[param.range.clone()];
        let largest = gradient.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let close = |(found, expected): (&f32, &f32)| (found - expected).abs() <= TOLERANCE * largest;
        if let Some((found, expected)) = gradient.iter().zip(values).find(|pair| !close(*pair)) {
            wrong.push(format!(
                "grad_head/{index} has {found} for {expected} (largest {largest:e})"
            ));
        }
    }
    Ok(wrong)
}

fn build(case: &Case) -> Result<Net, Failed> {
    let failed = |error: sparknet_proto::Error| Failed(error.to_string());
    let given = golden().join("models").join(case.metadata("prototxt")?);
    let own = project().join("models").join(&case.name).join("net.prototxt");
    let is_given = given.exists();
    let message = read_net(if is_given { &given } else { &own }).map_err(failed)?;
    let mut spec = NetSpec::from_proto(&message, NetState::new(case.phase()?))?;
    if !is_given {
        let Some((_, dims)) = INPUTS.iter().find(|(name, _)| *name == case.name) else {
            return Err(Failed("nothing says how large its inputs are".to_owned()));
        };
        for layer in spec
            .layers
            .iter_mut()
            .filter(|layer| matches!(layer.kind, LayerKind::Data(_)))
        {
            layer.kind = LayerKind::Input(InputSpec {
                shapes: vec![Shape::from(*dims), Shape::from([dims[0]])],
            });
        }
    }
    Ok(Net::new(spec, &mut NoData, 1)?)
}

/// Value `i` of blob `p`, uniform in [0, 1).
fn uniform(p: u64, i: u64) -> f32 {
    let mut z = (p << 32 | i).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
}

/// Fills the parameters by the formula of golden/README.md.
fn fill_params(net: &mut Net) {
    let params = net.params().to_vec();
    for (p, param) in params.iter().enumerate() {
        let value: Box<dyn Fn(f32) -> f32> = match (net.spec().layers[param.layer].type_name, param.index) {
            ("BatchNorm", 1) | ("Scale", 0) => Box::new(|u| 0.5 + u),
            ("BatchNorm", 2) => Box::new(|_| 1.0),
            _ if param.shape.num_axes() == 1 => Box::new(|u| 0.1 * (2.0 * u - 1.0)),
            _ => {
                let limit = (3.0 * param.shape.dims()[0] as f32 / param.shape.count() as f32).sqrt();
                Box::new(move |u| (2.0 * u - 1.0) * limit)
            }
        };
        let values = &mut net.param_arena_mut()[param.range.clone()];
        values
            .iter_mut()
            .zip(0..)
            .for_each(|(target, i)| *target = value(uniform(p as u64, i)));
    }
}

fn fill_inputs(net: &mut Net) -> Result<(), Failed> {
    let data = net.blob_data_mut("data")?;
    data.iter_mut()
        .zip(0..)
        .for_each(|(value, i)| *value = 2.0 * uniform(1 << 31, i) - 1.0);
    let scores = net
        .spec()
        .layers
        .iter()
        .find(|layer| layer.type_name == "SoftmaxWithLoss");
    let Some(scores) = scores.map(|layer| layer.bottoms[0].clone()) else {
        return Ok(());
    };
    let classes = net.blob_shape(&scores)?.dims()[1];
    let labels = net.blob_data_mut("label")?;
    labels
        .iter_mut()
        .enumerate()
        .for_each(|(k, label)| *label = ((7 * k + 3) % classes) as f32);
    Ok(())
}
