//! Update rules against their papers, learning rates, and what a solver refuses.

use sparknet_engine::{Net, NetSpec, NetState, Phase, Solver, SolverSpec, net::NoData};
use sparknet_proto::{
    caffe::{NetParameter, SolverParameter},
    text, upgrade,
};

/// More weights than a thread updates at a time, so that their blobs are cut; each blob has multipliers of its own.
const NET: &str = r#"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 350 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" param { decay_mult: 1 } param { lr_mult: 2 decay_mult: 0.5 }
  inner_product_param { num_output: 400 weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 } } }
layer { name: "ip2" type: "InnerProduct" bottom: "x" top: "z" param { lr_mult: 0.5 decay_mult: 2 }
  inner_product_param { num_output: 400 bias_term: false weight_filler { type: "gaussian" std: 3 } } }
layer { name: "silence" type: "Silence" bottom: "y" bottom: "z" }
"#;
const WEIGHTS: usize = 350 * 400;
/// Where the weights of the second layer begin.
const SECOND: usize = WEIGHTS + 400;
const UPDATES: usize = 4;

const RATE: f64 = 0.25;
const MOMENTUM: f64 = 0.875;
const DECAY: f64 = 0.125;

fn spec(settings: &str) -> Result<SolverSpec, String> {
    let message: SolverParameter = text::parse("solver", settings).map_err(|error| error.to_string())?;
    let message = upgrade::solver(message).map_err(|error| error.to_string())?;
    SolverSpec::from_proto(&message).map_err(|error| error.to_string())
}

fn solver(settings: &str) -> Solver {
    let message: NetParameter = text::parse("net", NET).unwrap();
    let net = NetSpec::from_proto(&message, NetState::new(Phase::Train)).unwrap();
    Solver::new(spec(settings).unwrap(), Net::new(net, &mut NoData, 1).unwrap(), 1)
}

/// Gradients that differ from update to update and from parameter to parameter.
fn gradient(update: usize, index: usize) -> f32 {
    ((index * 31 + update * 17) as f32 * 0.7).sin()
}

/// What a rule gives for one parameter in double precision: `(w, g, remembered, updates before) → w`, where `g` has the
/// decay in it unless the rule adds it itself.
type Reference = fn(f64, f64, &mut [f64; 2], f64, f64, i32) -> f64;

#[test]
fn every_rule_is_that_of_its_paper() {
    let sgd: Reference = |w, g, [v, _], rate, _, _| {
        *v = MOMENTUM * *v + rate * g;
        w - *v
    };
    let nesterov: Reference = |w, g, [v, _], rate, _, _| {
        // Sutskever et al. 2013, in the place that the net looks from.
        let old = *v;
        *v = MOMENTUM * old + rate * g;
        w + MOMENTUM * old - (1.0 + MOMENTUM) * *v
    };
    let ada_grad: Reference = |w, g, [h, _], rate, _, _| {
        *h += g * g;
        w - rate * g / (h.sqrt() + 0.01)
    };
    let rms_prop: Reference = |w, g, [h, _], rate, _, _| {
        *h = 0.75 * *h + 0.25 * g * g;
        w - rate * g / (h.sqrt() + 0.01)
    };
    let ada_delta: Reference = |w, g, [h, u], rate, _, _| {
        *h = MOMENTUM * *h + (1.0 - MOMENTUM) * g * g;
        let d = (*u + 0.01).sqrt() / (*h + 0.01).sqrt() * g;
        *u = MOMENTUM * *u + (1.0 - MOMENTUM) * d * d;
        w - rate * d
    };
    let adam: Reference = |w, g, [m, v], rate, _, t| {
        *m = MOMENTUM * *m + (1.0 - MOMENTUM) * g;
        *v = 0.75 * *v + 0.25 * g * g;
        // The paper's second form, "at the expense of clarity".
        let rate = rate * (1.0 - 0.75f64.powi(t)).sqrt() / (1.0 - MOMENTUM.powi(t));
        w - rate * *m / (v.sqrt() + 0.01)
    };
    let adam_w: Reference = |w, g, [m, v], rate, decay, t| {
        *m = MOMENTUM * *m + (1.0 - MOMENTUM) * g;
        *v = 0.75 * *v + 0.25 * g * g;
        let (m_hat, v_hat) = (*m / (1.0 - MOMENTUM.powi(t)), *v / (1.0 - 0.75f64.powi(t)));
        w - rate * (m_hat / (v_hat.sqrt() + 0.01) + decay * w)
    };
    for (settings, reference) in [
        ("type: 'SGD' momentum: 0.875", sgd),
        ("type: 'Nesterov' momentum: 0.875", nesterov),
        ("type: 'AdaGrad' delta: 0.01", ada_grad),
        ("type: 'RMSProp' rms_decay: 0.75 delta: 0.01", rms_prop),
        ("type: 'AdaDelta' momentum: 0.875 delta: 0.01", ada_delta),
        ("type: 'Adam' momentum: 0.875 momentum2: 0.75 delta: 0.01", adam),
        ("type: 'AdamW' momentum: 0.875 momentum2: 0.75 delta: 0.01", adam_w),
        ("type: 'LARS' momentum: 0.875 trust_coefficient: 0.5", sgd),
    ] {
        let mut solver = solver(&format!(
            "base_lr: 0.25 lr_policy: 'fixed' weight_decay: 0.125 iter_size: 2 {settings}"
        ));
        let count = solver.net().param_arena().len();
        let mut weights: Vec<f64> = solver.net().param_arena().iter().copied().map(f64::from).collect();
        let mut remembered = vec![[0.0; 2]; count];
        for update in 0..UPDATES {
            let gradients: Vec<f32> = (0..count).map(|index| gradient(update, index)).collect();
            solver.arenas_mut().1.copy_from_slice(&gradients);
            solver.apply_update();

            for (blob, rate, decay) in [
                (0..WEIGHTS, RATE, DECAY),
                (WEIGHTS..SECOND, 2.0 * RATE, 0.5 * DECAY),
                (SECOND..count, 0.5 * RATE, 2.0 * DECAY),
            ] {
                // What iter_size 2 makes of them.
                let gradients: Vec<f64> = gradients[blob.clone()].iter().map(|g| f64::from(*g) / 2.0).collect();
                let weights = &mut weights[blob.clone()];
                let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
                let rate = if settings.contains("LARS") {
                    let size = norm(weights);
                    rate * 0.5 * size / (norm(&gradients) + decay * size)
                } else {
                    rate
                };
                let all = weights.iter_mut().zip(&gradients).zip(&mut remembered[blob]);
                for ((w, g), remembered) in all {
                    let g = if settings.contains("AdamW") { *g } else { g + decay * *w };
                    *w = reference(*w, g, remembered, rate, decay, update as i32 + 1);
                }
            }
        }
        for (index, (found, expected)) in solver.net().param_arena().iter().zip(&weights).enumerate() {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4,
                "{settings}: parameter {index} is {found}, not {expected}"
            );
        }
        for (kind, history) in solver.histories().iter().enumerate() {
            for (found, expected) in history.iter().zip(&remembered) {
                assert!(
                    (f64::from(*found) - expected[kind]).abs() < 1e-4,
                    "{settings}: history {kind}: {found}, not {}",
                    expected[kind]
                );
            }
        }
    }
}

#[test]
fn lars_takes_the_plain_rate_where_there_is_no_norm() {
    let mut solver = solver("base_lr: 0.25 lr_policy: 'fixed' type: 'LARS'");
    let (params, gradients, _) = solver.arenas_mut();
    params.fill(0.0);
    gradients.fill(1.0);
    solver.apply_update();
    assert_eq!(solver.net().param_arena()[0], -0.25);
    assert_eq!(solver.net().param_arena()[WEIGHTS], -0.5);
}

#[test]
fn gradients_are_clipped_before_they_are_divided_by_iter_size() {
    for (clip, expected) in [(1.0, [3.0 / 5.0 / 4.0, 4.0 / 5.0 / 4.0]), (6.0, [3.0 / 4.0, 4.0 / 4.0])] {
        let mut solver = solver(&format!(
            "base_lr: 1 lr_policy: 'fixed' iter_size: 4 clip_gradients: {clip}"
        ));
        let (params, gradients, _) = solver.arenas_mut();
        params.fill(0.0);
        gradients.fill(0.0);
        gradients[..2].copy_from_slice(&[3.0, 4.0]);
        solver.apply_update();
        let found = &solver.net().param_arena()[..2];
        let is_close = found
            .iter()
            .zip(expected)
            .all(|(found, step)| (found + step).abs() < 1e-6);
        assert!(is_close, "{found:?} with clip_gradients {clip}");
    }
}

#[test]
fn l1_pulls_to_zero_and_leaves_what_is_there() {
    let mut solver = solver("base_lr: 1 lr_policy: 'fixed' weight_decay: 0.25 regularization_type: 'L1'");
    let (params, gradients, _) = solver.arenas_mut();
    params[..4].copy_from_slice(&[2.0, -2.0, 0.0, -0.0]);
    gradients.fill(0.0);
    solver.apply_update();
    assert_eq!(solver.net().param_arena()[..4], [1.75, -1.75, 0.0, 0.0]);
}

#[test]
fn rates_climb_and_fall() {
    let rates = |settings: &str| {
        let mut solver = solver(settings);
        (0..9).map(|_| solver.apply_update()).collect::<Vec<f32>>()
    };
    let close = |found: Vec<f32>, expected: [f32; 9]| {
        let is_close = found
            .iter()
            .zip(expected)
            .all(|(found, expected)| (found - expected).abs() < 1e-6);
        assert!(is_close, "{found:?}, not {expected:?}");
    };
    close(
        rates("base_lr: 3 lr_policy: 'cosine' min_lr: 1 max_iter: 4"),
        [
            3.0,
            2.0 + 0.5f32.sqrt(),
            2.0,
            2.0 - 0.5f32.sqrt(),
            1.0,
            1.0,
            1.0,
            1.0,
            1.0,
        ],
    );
    close(
        rates("base_lr: 8 lr_policy: 'fixed' warmup_iter: 4 max_iter: 9"),
        [0.0, 2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0],
    );
    // The policy goes on beneath: its steps are where they would be without, and the climb ends at what it says.
    close(
        rates(
            "base_lr: 8 lr_policy: 'multistep' gamma: 0.5 stepvalue: 2 stepvalue: 6 warmup_iter: 4 warmup_start_lr: 1",
        ),
        [1.0, 2.75, 2.5, 3.25, 4.0, 4.0, 2.0, 2.0, 2.0],
    );
}

#[test]
fn old_solver_types_are_types() {
    let types = ["SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM"];
    let histories = types.map(|name| {
        solver(&format!("base_lr: 1 lr_policy: 'fixed' solver_type: {name}"))
            .histories()
            .len()
    });
    assert_eq!(histories, [1, 1, 1, 1, 2, 2]);
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    for (settings, expected) in [
        (
            "type: 'AdaGrad' momentum: 0.9",
            "type \"AdaGrad\" takes no momentum, but momentum is 0.9: remove it, or use Adam",
        ),
        (
            "solver_type: RMSPROP momentum: 0.5",
            "type \"RMSProp\" takes no momentum, but momentum is 0.5: remove it, or use Adam",
        ),
        (
            "type: 'RMSProp' rms_decay: 1",
            "type \"RMSProp\" wants a rms_decay of at least 0 and below 1, not 1",
        ),
        (
            "type: 'Adam' momentum2: 1",
            "type \"Adam\" wants a momentum2 of at least 0 and below 1, not 1",
        ),
        (
            "type: 'AdaDelta' momentum: -0.1",
            "type \"AdaDelta\" wants a momentum of at least 0 and below 1, not -0.1",
        ),
        ("type: 'adam'", "type \"adam\" does not exist: did you mean \"Adam\"?"),
        (
            "type: 'Shampoo'",
            "type \"Shampoo\" does not exist: use SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam, AdamW, LARS",
        ),
        (
            "type: 'AdamW' regularization_type: 'L1'",
            "type \"AdamW\" decays weights by L2 only: remove regularization_type, or use another type",
        ),
        (
            "type: 'LARS' trust_coefficient: 0",
            "trust_coefficient is 0: give a number above 0",
        ),
        (
            "trust_coefficient: 0.1",
            "trust_coefficient goes with type \"LARS\" only: remove it",
        ),
        ("min_lr: 0.1", "min_lr goes with lr_policy \"cosine\" only: remove it"),
        (
            "warmup_start_lr: 0.1",
            "warmup_start_lr goes with warmup_iter: give both or none",
        ),
        ("warmup_iter: -1", "warmup_iter is -1: give 0 or more"),
    ] {
        let error = spec(&format!("base_lr: 1 lr_policy: 'fixed' {settings}")).unwrap_err();
        assert_eq!(error, format!("solver: {expected}"), "{settings}");
    }
}

#[test]
fn extensions_survive_a_print_and_others_leave_no_trace() {
    let settings = "base_lr: 1 lr_policy: \"cosine\" type: \"LARS\" warmup_iter: 5 min_lr: 0.5 trust_coefficient: 0.25";
    let message: SolverParameter = text::parse("solver", settings).unwrap();
    let again: SolverParameter =
        text::parse("print", &text::print(&upgrade::solver(message.clone()).unwrap())).unwrap();
    assert_eq!(message, again);
    let plain: SolverParameter = text::parse("solver", "base_lr: 1 type: \"Adam\"").unwrap();
    assert_eq!(
        text::print(&upgrade::solver(plain).unwrap()),
        "base_lr: 1\ntype: \"Adam\"\n"
    );
}
