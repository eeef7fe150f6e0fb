//! Solvers go on from Caffe's snapshots as Caffe did: `golden/snapshots`.

mod golden;

use std::collections::BTreeSet;

use golden::{Failed, difference, fill, golden, read};
use sparknet_engine::{Net, NetSpec, NetState, Phase, Solver, SolverSpec, net::NoData};
use sparknet_proto::{binary, read_net, read_solver, read_weights};

const TOLERANCE: f32 = 1e-4;
const TAKEN_AT: usize = 6;

#[test]
fn golden_snapshots_go_on_as_in_caffe() {
    let folder = golden().join("snapshots");
    let trajectory = read(&folder.join("trajectory.safetensors"));
    let names: BTreeSet<&str> = trajectory
        .tensors
        .keys()
        .filter_map(|name| name.strip_suffix("/losses"))
        .collect();
    assert!(!names.is_empty(), "no …/losses in {}", folder.display());
    let batches = trajectory.under("data").count();
    for name in names {
        let message = read_solver(&folder.join(format!("{name}_solver.prototxt"))).unwrap();
        let net = read_net(&folder.join(message.net())).unwrap();
        let net = NetSpec::from_proto(&net, NetState::new(Phase::Train)).unwrap();
        let mut net = Net::new(net, &mut NoData, 1).unwrap();
        let model = folder.join(format!("{name}_iter_{TAKEN_AT}.caffemodel"));
        net.copy_weights_from(&read_weights(&model).unwrap()).unwrap();
        let mut solver = Solver::new(SolverSpec::from_proto(&message).unwrap(), net, 1);
        let path = folder.join(format!("{name}_iter_{TAKEN_AT}.solverstate"));
        let state: sparknet_proto::caffe::SolverState = binary::read_file(&path).unwrap();
        solver.restore_state(&state, &path).unwrap();
        assert_eq!(solver.state_to_proto(state.learned_net()), state, "{name}");

        let expected = &trajectory.tensors[&format!("{name}/losses")].values[TAKEN_AT..];
        let mut losses = Vec::new();
        for iteration in TAKEN_AT..TAKEN_AT + expected.len() {
            let loss = solver.compute_gradients(|net| {
                for blob in ["data", "label"] {
                    let tensor = format!("{blob}/{}", iteration % batches);
                    fill(net.blob_data_mut(blob)?, &trajectory.tensors[&tensor], &tensor)?;
                }
                Ok::<(), Failed>(())
            });
            losses.push(loss.unwrap_or_else(|_| panic!("{name}: iteration {iteration} failed")));
            solver.apply_update();
        }
        assert_eq!(
            difference(&format!("{name}: losses"), &losses, expected, TOLERANCE),
            None
        );
    }
}
