//! Caffe's snapshots in both formats: read, gone on from, and written again without a bit's difference.

mod setup;

use std::{
    fs,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;
use setup::golden;
use sparknet_engine::{
    Error as EngineError, Net, NetSpec, NetState, Phase, Solver, SolverSpec, net::NoData, spec::SnapshotFormat,
};
use sparknet_proto::{caffe::WorkerState, read_net, read_solver, read_state, read_weights};
use sparknet_train::checkpoint::{self, Resume, SnapshotFiles};

const TOLERANCE: f32 = 1e-4;
/// The iteration of the snapshots, and how many batches the records go round in.
const ITERATION: usize = 6;
const BATCHES: usize = 5;

fn folder() -> PathBuf {
    golden().join("snapshots")
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file
        .tensor(name)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .data();
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// A solver of the folder with its net.
fn solver(name: &str, format: SnapshotFormat) -> Solver {
    let message = read_solver(&folder().join(format!("{name}_solver.prototxt"))).unwrap();
    let mut spec = SolverSpec::from_proto(&message).unwrap();
    spec.snapshot_format = format;
    let net = read_net(&folder().join("net.prototxt")).unwrap();
    let net = NetSpec::from_proto(&net, NetState::new(Phase::Train)).unwrap();
    Solver::new(spec, Net::new(net, &mut NoData, 1).unwrap(), 1)
}

fn extension(format: SnapshotFormat) -> &'static str {
    match format {
        SnapshotFormat::BinaryProto => "",
        SnapshotFormat::Hdf5 => ".h5",
    }
}

/// Runs on from iteration 6; says how the losses differ from Caffe's.
fn compare(what: &str, solver: &mut Solver, trajectory: &SafeTensors<'_>, losses: &[f32]) {
    let largest = losses.iter().fold(0.0f32, |largest, loss| largest.max(loss.abs()));
    for (iteration, expected) in losses.iter().enumerate().skip(ITERATION) {
        let loss = solver
            .compute_gradients(|net| {
                for blob in ["data", "label"] {
                    let values = tensor(trajectory, &format!("{blob}/{}", iteration % BATCHES));
                    net.blob_data_mut(blob)?.copy_from_slice(&values);
                }
                Ok::<(), EngineError>(())
            })
            .unwrap();
        assert!(
            (loss - expected).abs() <= TOLERANCE * largest,
            "{what}, iteration {iteration}: loss {loss}, Caffe's {expected}"
        );
        solver.apply_update();
    }
}

/// Everything that two snapshots hold.
fn assert_same(what: &str, one: &SnapshotFiles, other: &SnapshotFiles) {
    let blobs = |path: &Path| {
        let mut layers = read_weights(path).unwrap().layer;
        layers.retain(|layer| !layer.blobs.is_empty());
        layers.sort_by(|a, b| a.name().cmp(b.name()));
        let blobs = layers.into_iter().flat_map(|layer| {
            let name = layer.name().to_owned();
            layer
                .blobs
                .into_iter()
                .map(move |blob| (name.clone(), blob.shape, bits(&blob.data)))
        });
        blobs.collect::<Vec<_>>()
    };
    assert_eq!(blobs(&one.model), blobs(&other.model), "{what}");
    let state = |path: &Path| {
        let state = read_state(path).unwrap();
        let history = state.history.iter().map(|blob| (blob.shape.clone(), bits(&blob.data)));
        (state.iter, state.current_step(), history.collect::<Vec<_>>())
    };
    assert_eq!(state(&one.state), state(&other.state), "{what}");
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn golden_snapshots() {
    let bytes = fs::read(folder().join("trajectory.safetensors")).unwrap();
    let trajectory = SafeTensors::deserialize(&bytes).unwrap();
    let names = trajectory.names();
    let mut solvers: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("/losses")).collect();
    solvers.sort_unstable();
    assert!(!solvers.is_empty());
    let scratch = tempfile::tempdir().unwrap();
    for name in solvers {
        let losses = tensor(&trajectory, &format!("{name}/losses"));
        for format in [SnapshotFormat::BinaryProto, SnapshotFormat::Hdf5] {
            let mut solver = solver(name, format);
            let what = format!("{name}{}", extension(format));
            let files = SnapshotFiles::new(&folder().join(name), ITERATION as u64, format);
            assert_same(
                &what,
                &files,
                &SnapshotFiles::new(&folder().join(name), ITERATION as u64, SnapshotFormat::BinaryProto),
            );
            Resume::read(&files.state, 1, "")
                .unwrap()
                .restore(&mut solver, 0)
                .unwrap();
            assert_eq!(solver.iteration(), ITERATION as u64, "{what}");

            let written = SnapshotFiles::new(&scratch.path().join(name), ITERATION as u64, format);
            let params = solver.net().param_arena().to_vec();
            checkpoint::write(
                &written,
                &solver,
                &params,
                vec![WorkerState::default()],
                1,
                "--sync allreduce",
            )
            .unwrap();
            assert_same(&what, &written, &files);
            compare(&what, &mut solver, &trajectory, &losses);
        }
    }
}
