//! Twenty iterations of every solver must go as Caffe's: `golden/solvers`.

mod golden;

use golden::{Case, Failed, difference, fill, param_range, run_all};
use sparknet_engine::{Phase, Solver, SolverSpec};
use sparknet_proto::{caffe::SolverParameter, text, upgrade};

const TOLERANCE: f32 = 1e-4;

#[test]
fn golden_solvers() {
    run_all("solvers", run);
}

fn run(case: &Case) -> Result<Vec<String>, Failed> {
    let message: SolverParameter =
        text::parse(&case.name, case.metadata("solver")?).map_err(|error| Failed(error.to_string()))?;
    let message = upgrade::solver(message).map_err(|error| Failed(error.to_string()))?;
    let spec = SolverSpec::from_proto(&message)?;
    let mut net = case.net("net", Phase::Train)?;
    for (param, tensor) in case.under("init") {
        let range = param_range(&net, param)?;
        fill(&mut net.param_arena_mut()[range], tensor, &format!("init/{param}"))?;
    }

    let mut solver = Solver::new(spec, net, 1);
    let (mut losses, mut wrong) = (Vec::new(), Vec::new());
    let expected = tensor(case, "losses")?;
    let batches = case.under("data").count();
    for iteration in 0..expected.values.len() {
        let loss = solver.compute_gradients(|net| {
            for blob in ["data", "label"] {
                let name = format!("{blob}/{}", iteration % batches);
                fill(net.blob_data_mut(blob)?, tensor(case, &name)?, &name)?;
            }
            Ok::<(), Failed>(())
        })?;
        losses.push(loss);
        solver.apply_update();
        if iteration + 1 == 5 {
            wrong.extend(compare_params(case, "after_5", &solver)?);
        }
    }
    wrong.extend(compare_params(case, "final", &solver)?);
    wrong.extend(difference("losses", &losses, &expected.values, TOLERANCE));
    Ok(wrong)
}

fn tensor<'a>(case: &'a Case, name: &str) -> Result<&'a golden::Tensor, Failed> {
    case.tensors
        .get(name)
        .ok_or_else(|| Failed(format!("it has no tensor {name}")))
}

fn compare_params(case: &Case, prefix: &str, solver: &Solver) -> Result<Vec<String>, Failed> {
    let mut wrong = Vec::new();
    for (param, tensor) in case.under(prefix) {
        let found = &solver.net().param_arena()[param_range(solver.net(), param)?];
        wrong.extend(difference(
            &format!("{prefix}/{param}"),
            found,
            &tensor.values,
            TOLERANCE,
        ));
    }
    if wrong.is_empty() && case.under(prefix).next().is_none() {
        wrong.push(format!("it has no {prefix}/…"));
    }
    Ok(wrong)
}
