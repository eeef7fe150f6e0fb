//! The project's LeNet on Fashion-MNIST, against what real Caffe did with the same initial weights and records.

mod setup;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use safetensors::SafeTensors;
use setup::{golden, project, record};
use sparknet_data::DatasetKind;
use sparknet_engine::spec::LayerKind;
use sparknet_train::{
    job::{Job, NetSource, Stages},
    run::{RunSettings, Sync},
};

/// Fashion-MNIST as LMDBs, made once and kept with the build.
fn fashion_mnist() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fashion-mnist");
        sparknet_data::build_dataset(DatasetKind::FashionMnist, &folder, None, &mut |_| ())
            .unwrap_or_else(|error| panic!("{error} (`make test` installs what this test needs)"));
        folder
    };
    FOLDER.get_or_init(make).clone()
}

/// The project's solver as the golden run had it: 400 iterations, and no snapshots.
fn settings(max_iter: u64) -> RunSettings {
    let solver = project().join("models/lenet/solver.prototxt");
    std::env::set_current_dir(project()).unwrap();
    let mut job = Job::read(&solver, &Stages::default()).unwrap();
    let data = fashion_mnist();
    let tests = job.tests.iter_mut().map(|(net, _)| net);
    for NetSource { spec, .. } in std::iter::once(&mut job.train).chain(tests) {
        for layer in &mut spec.layers {
            if let LayerKind::Data(layer_data) = &mut layer.kind {
                let name = Path::new(&layer_data.source).file_name().unwrap();
                layer_data.source = data.join(name).display().to_string();
            }
        }
    }
    job.solver.max_iter = max_iter;
    job.solver.snapshot = 0;
    job.solver.snapshot_after_train = false;
    job.solver.test_initialization = false;
    let workers = 1;
    RunSettings { workers, threads: std::env::var("T").ok().map(|t| t.parse().unwrap()), sync: Sync::AllReduce, ..RunSettings::new(job) }
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn assert_losses(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for i in 0..found.len() { if i%10==0 || found.len()<=50 { println!("DBG {} {:e} {}", i, (found[i]-expected[i]).abs(), expected[i]); } }
    for (iteration, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance * expected.abs().max(1.0),
            "iteration {iteration}: loss {found}, Caffe's {expected}"
        );
    }
}

#[test]
fn golden_lenet_trains_as_in_caffe() {
    let bytes = std::fs::read(golden().join("lenet/trajectory.safetensors")).unwrap();
    let trajectory = SafeTensors::deserialize(&bytes).unwrap();
    let mut run = settings(400);
    run.weights = vec![golden().join("lenet/init.caffemodel")];
    let (result, recorder) = record(run).unwrap();
    let losses = tensor(&trajectory, "losses");
    let d = |n: usize, m: usize| recorder.losses[n..m].iter().zip(&losses[n..m]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    println!("DBGMAX first50 {:e} all {:e}", d(0, 50), d(0, 400));
    assert_losses(&recorder.losses[..50], &losses[..50], 1e-4);
    assert_losses(&recorder.losses, &losses, 1e-2);
    let scores = &result.tests[0].scores;
    let (accuracy, loss) = (tensor(&trajectory, "test_accuracy_400")[0], tensor(&trajectory, "test_loss_400")[0]);
    assert!((scores["accuracy"] - f64::from(accuracy)).abs() <= 0.005, "accuracy {}", scores["accuracy"]);
    assert!((scores["loss"] - f64::from(loss)).abs() <= 0.01 * f64::from(loss), "loss {}", scores["loss"]);
}

#[test]
fn golden_lenet_goes_on_from_caffes_solverstate() {
    let bytes = std::fs::read(golden().join("lenet/trajectory.safetensors")).unwrap();
    let trajectory = SafeTensors::deserialize(&bytes).unwrap();
    let mut run = settings(250);
    run.snapshot = Some(golden().join("lenet/iter_200.solverstate"));
    let (_, recorder) = record(run).unwrap();
    // Caffe's states do not know the place in the data, so that its run began with the first record again.
    assert_losses(&recorder.losses, &tensor(&trajectory, "resumed_losses_200"), 1e-4);
}
