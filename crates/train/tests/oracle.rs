//! Deeplearning4j's oracle: several workers that agree every iteration are one worker with a batch as large as theirs
//! together.

mod setup;

use setup::{Folder, PLAIN_NET, RANDOM_NET, bits, max_distance, record};
use sparknet_sync::HistoryPolicy;
use sparknet_train::{events::Event, run::Sync};

const AVERAGE_1: Sync = Sync::Average {
    tau: 1,
    history: HistoryPolicy::Keep,
};
const MOMENTUM: &str = r#"base_lr: 0.05 lr_policy: "inv" gamma: 0.01 power: 0.75 momentum: 0.9 weight_decay: 0.001
    max_iter: 12 random_seed: 3 snapshot_after_train: false"#;
const NO_MOMENTUM: &str = r#"base_lr: 0.05 lr_policy: "fixed" weight_decay: 0.001 max_iter: 12 random_seed: 3
    snapshot_after_train: false"#;

/// The delta keeps gradients that are rounding noise from becoming whole steps.
const ADAM: &str = r#"type: "Adam" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 momentum2: 0.99 delta: 0.001
    weight_decay: 0.001 max_iter: 12 random_seed: 3 snapshot_after_train: false"#;

fn params(batch: usize, workers: usize, sync: Sync, solver: &str) -> Vec<f32> {
    let folder = Folder::new(batch, PLAIN_NET, false, solver);
    record(folder.settings(workers, sync)).unwrap().0.params
}

#[test]
fn allreduce_of_4_workers_is_one_worker_with_4_times_the_batch() {
    for solver in [MOMENTUM, ADAM] {
        let one = params(40, 1, Sync::AllReduce, solver);
        let four = params(10, 4, Sync::AllReduce, solver);
        let distance = max_distance(&one, &four);
        assert!(distance < 1e-5, "weights differ by {distance}: {solver}");
        // The comparison means something only if training moves the weights.
        let one_iteration = solver.replace("max_iter: 12", "max_iter: 1");
        assert!(max_distance(&one, &params(40, 1, Sync::AllReduce, &one_iteration)) > 1e-2);
    }
}

#[test]
fn averaging_every_iteration_without_momentum_is_one_worker_with_4_times_the_batch() {
    let one = params(40, 1, AVERAGE_1, NO_MOMENTUM);
    let four = params(10, 4, AVERAGE_1, NO_MOMENTUM);
    let distance = max_distance(&one, &four);
    assert!(distance < 1e-5, "weights differ by {distance}");
}

#[test]
fn a_larger_tau_is_another_algorithm() {
    let one = params(40, 1, AVERAGE_1, NO_MOMENTUM);
    let four = params(
        10,
        4,
        Sync::Average {
            tau: 6,
            history: HistoryPolicy::Keep,
        },
        NO_MOMENTUM,
    );
    assert!(max_distance(&one, &four) > 1e-5);
}

#[test]
fn history_policies_differ_with_momentum() {
    let with = |history| params(10, 3, Sync::Average { tau: 3, history }, MOMENTUM);
    let (keep, average, reset) = (
        with(HistoryPolicy::Keep),
        with(HistoryPolicy::Average),
        with(HistoryPolicy::Reset),
    );
    assert!(max_distance(&keep, &average) > 1e-7 && max_distance(&keep, &reset) > 1e-4);
}

#[test]
fn same_seed_same_weights_another_seed_others() {
    for (workers, sync) in [
        (1, AVERAGE_1),
        (2, Sync::AllReduce),
        (
            3,
            Sync::Average {
                tau: 5,
                history: HistoryPolicy::Keep,
            },
        ),
    ] {
        let run = |solver: &str| {
            let folder = Folder::new(10, RANDOM_NET, true, solver);
            bits(&record(folder.settings(workers, sync)).unwrap().0.params)
        };
        let first = run(MOMENTUM);
        assert_eq!(first, run(MOMENTUM), "{workers} workers");
        assert_ne!(
            first,
            run(&MOMENTUM.replace("random_seed: 3", "random_seed: 4")),
            "{workers} workers"
        );
    }
}

#[test]
fn every_record_is_tested_once_however_many_workers() {
    let solver = format!("{MOMENTUM} test_interval: 6 test_iter: 5");
    let tests = |workers| {
        let folder = Folder::new(10, PLAIN_NET, false, &solver.replace("base_lr: 0.05", "base_lr: 0"));
        let (_, recorder) = record(folder.settings(workers, AVERAGE_1)).unwrap();
        let tests = recorder.events.into_iter().filter_map(|event| match event {
            Event::Test(test) => Some(test),
            _ => None,
        });
        tests.collect::<Vec<_>>()
    };
    let one = tests(1);
    // Before the first iteration, after 6, and at the end.
    assert_eq!(one.iter().map(|test| test.iteration).collect::<Vec<_>>(), [0, 6, 12]);
    for workers in [1, 2, 3, 7] {
        for (test, expected) in tests(workers).iter().zip(&one) {
            // 96 records in batches of 20: the last has 16.
            assert_eq!(test.records, 96, "{workers} workers");
            assert_eq!(test.scores, expected.scores, "{workers} workers");
            let evaluation = test.evaluation.as_ref().unwrap();
            assert_eq!(evaluation.records, 96);
            assert!((evaluation.accuracy.unwrap() - test.scores["accuracy"]).abs() < 1e-6);
        }
    }
}

#[test]
fn statistics_are_those_of_all_workers_batches() {
    const FIXED: &str = r#"base_lr: 0 lr_policy: "fixed" max_iter: 5 random_seed: 3 snapshot_after_train: false"#;
    /// ip1's weights end here; 16 means, 16 variances and their divisor follow.
    const START: usize = 4 * 25 + 4 + 16 * 144 + 16;
    let statistics = |batch, workers, sync| {
        let folder = Folder::new(batch, PLAIN_NET, false, FIXED);
        let path = folder.0.path().join("net.prototxt");
        let net = std::fs::read_to_string(&path).unwrap();
        let relu = r#"layer { name: "relu""#;
        let batch_norm = r#"layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }"#;
        std::fs::write(&path, net.replace(relu, &format!("{batch_norm} {relu}"))).unwrap();
        let params = record(folder.settings(workers, sync)).unwrap().0.params;
        params[START..START + 33].to_vec()
    };
    let one = statistics(40, 1, Sync::AllReduce);
    assert!((one[32] - 4.990_01).abs() < 1e-4, "not five batches: {one:?}");
    for sync in [Sync::AllReduce, AVERAGE_1] {
        let four = statistics(10, 4, sync);
        // The mean of the batches' means is that of their records; their variances lack the distance of the means.
        let largest = one[..16].iter().fold(0.0f32, |largest, mean| largest.max(mean.abs()));
        assert!(
            max_distance(&one[..16], &four[..16]) < 1e-5 * largest,
            "{one:?} and {four:?}"
        );
        assert_eq!(one[32], four[32]);
        assert!(max_distance(&one[16..32], &four[16..32]) > 0.0);
    }
}
