//! A run that is taken up from a snapshot ends with the very bits of one that was never stopped.

mod setup;

use std::{
    fs,
    path::{Path, PathBuf},
};

use setup::{Folder, RANDOM_NET, bits, record};
use sparknet_sync::HistoryPolicy;
use sparknet_train::run::Sync;

/// Snapshots fall between two rounds as well as on one; everything that a solver remembers is in use.
const SOLVER: &str = r#"base_lr: 0.05 lr_policy: "multistep" gamma: 0.5 stepvalue: 5 stepvalue: 11 momentum: 0.9
    weight_decay: 0.001 average_loss: 4 display: 2 max_iter: 18 snapshot: 3 test_interval: 5 test_iter: 3 iter_size: 2"#;

/// A rule that remembers two values of each parameter and counts its updates.
const ADAM: &str = r#"type: "Adam" base_lr: 0.01 lr_policy: "cosine" warmup_iter: 4 momentum: 0.9 momentum2: 0.99
    weight_decay: 0.001 average_loss: 4 display: 2 max_iter: 18 snapshot: 3 test_interval: 5 test_iter: 3"#;
const HDF5: &str = "snapshot_format: HDF5 snapshot_diff: true";

/// The name that a file has in the other format.
fn in_hdf5(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.h5", path.display()))
}

fn average(tau: u64, history: HistoryPolicy) -> Sync {
    Sync::Average { tau, history }
}

#[test]
fn taken_up_again_equals_never_stopped() {
    for workers in [1, 3] {
        for (sync, format) in [
            (Sync::AllReduce, ""),
            (average(4, HistoryPolicy::Keep), ""),
            (average(6, HistoryPolicy::Average), ""),
            (average(4, HistoryPolicy::Reset), ""),
            (average(4, HistoryPolicy::Keep), HDF5),
        ] {
            assert_resumes(&format!("{SOLVER} {format}"), workers, sync);
        }
    }
}

#[test]
fn adam_taken_up_again_equals_never_stopped() {
    for sync in [
        Sync::AllReduce,
        average(4, HistoryPolicy::Keep),
        average(6, HistoryPolicy::Average),
    ] {
        assert_resumes(ADAM, 2, sync);
    }
}

fn assert_resumes(solver: &str, workers: usize, sync: Sync) {
    let folder = Folder::new(7, RANDOM_NET, true, solver);
    let (whole, whole_recorder) = record(folder.settings(workers, sync)).unwrap();
    for iteration in [3, 12, 15] {
        // As after a crash: no file is newer than the snapshot.
        let settings = folder.settings(workers, sync);
        let (rest, recorder) = record(sparknet_train::run::RunSettings {
            snapshot: Some(if solver.contains(HDF5) {
                in_hdf5(&folder.state(iteration))
            } else {
                folder.state(iteration)
            }),
            ..settings
        })
        .unwrap();
        let context = format!("{workers} workers, {sync:?}, from iteration {iteration}");
        assert_eq!(rest.iteration, 18, "{context}");
        assert_eq!(bits(&rest.params), bits(&whole.params), "{context}");
        let tail = &whole_recorder.losses[iteration as usize..];
        assert_eq!(bits(&recorder.losses), bits(tail), "{context}");
    }
}

#[test]
fn a_snapshot_of_another_number_of_workers_is_refused() {
    let folder = Folder::new(7, RANDOM_NET, false, SOLVER);
    record(folder.settings(2, Sync::AllReduce)).unwrap();
    let mut settings = folder.settings(3, Sync::AllReduce);
    settings.snapshot = Some(folder.state(3));
    let error = record(settings).unwrap_err().to_string();
    assert!(
        error.ends_with("it is of a run with --workers 2, not 3: give --workers 2"),
        "{error}"
    );
}

#[test]
fn a_snapshot_of_workers_that_agreed_in_another_way_is_refused() {
    let folder = Folder::new(7, RANDOM_NET, false, SOLVER);
    record(folder.settings(2, average(4, HistoryPolicy::Keep))).unwrap();
    for sync in [
        Sync::AllReduce,
        average(5, HistoryPolicy::Keep),
        average(4, HistoryPolicy::Reset),
    ] {
        let mut settings = folder.settings(2, sync);
        settings.snapshot = Some(folder.state(3));
        let error = record(settings).unwrap_err().to_string();
        assert!(
            error.contains("it is of a run with --sync average --tau 4 --history keep, not --sync"),
            "{error}"
        );
    }
    // One worker agrees with itself in any way.
    let folder = Folder::new(7, RANDOM_NET, false, SOLVER);
    record(folder.settings(1, average(4, HistoryPolicy::Keep))).unwrap();
    let mut settings = folder.settings(1, Sync::AllReduce);
    settings.snapshot = Some(folder.state(3));
    record(settings).unwrap();
}

#[test]
fn a_renamed_snapshot_is_found() {
    for format in ["", HDF5] {
        let name = |path: PathBuf| if format == HDF5 { in_hdf5(&path) } else { path };
        let folder = Folder::new(7, RANDOM_NET, false, &format!("{SOLVER} {format}"));
        record(folder.settings(1, Sync::AllReduce)).unwrap();
        let renamed = folder.0.path().join("mine.solverstate");
        fs::rename(name(folder.state(3)), name(renamed.clone())).unwrap();
        fs::rename(
            name(folder.state(3).with_extension("caffemodel")),
            name(renamed.with_extension("caffemodel")),
        )
        .unwrap();
        let mut settings = folder.settings(1, Sync::AllReduce);
        settings.snapshot = Some(name(renamed));
        record(settings).unwrap();
    }
}

#[test]
fn a_damaged_state_is_refused_and_nothing_is_written() {
    for format in ["", HDF5] {
        let folder = Folder::new(7, RANDOM_NET, false, &format!("{SOLVER} {format}"));
        record(folder.settings(1, Sync::AllReduce)).unwrap();
        let mut state = folder.state(6);
        if format == HDF5 {
            state = in_hdf5(&state);
        }
        let bytes = fs::read(&state).unwrap();
        let files_before = fs::read_dir(folder.0.path()).unwrap().count();
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&state, &bytes[..length]).unwrap();
            let mut settings = folder.settings(1, Sync::AllReduce);
            settings.snapshot = Some(state.clone());
            let error = record(settings).unwrap_err().to_string();
            assert!(error.contains("run_iter_6.solverstate"), "{length} bytes: {error}");
        }
        assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), files_before);
    }
}
