//! What the tests of whole runs share: a small net on the 96 Fashion-MNIST records of golden/data, and a sink that
//! remembers.
#![allow(dead_code)] // Every test binary uses a part of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sparknet_train::{
    Error,
    events::{Event, Sink},
    job::{Job, Stages},
    run::{RunSettings, Sync, run},
    worker::WorkerResult,
};

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of golden files: the project's, or the one that SPARKNET_GOLDEN names.
pub fn golden() -> PathBuf {
    let folder = std::env::var_os("SPARKNET_GOLDEN").map_or_else(|| PathBuf::from("golden"), PathBuf::from);
    project().join(folder)
}

/// What a run told.
#[derive(Debug, Default)]
pub struct Recorder {
    pub events: Vec<Event>,
    /// Worker 0's loss of each iteration.
    pub losses: Vec<f32>,
}

impl Sink for Recorder {
    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    fn progress(&mut self, _iteration: u64, loss: f32) {
        self.losses.push(loss);
    }
}

/// A folder with a net and a solver that train on the 96 records; removed when dropped.
pub struct Folder(pub tempfile::TempDir);

/// A net with every source of randomness: crops, mirrors and dropout.
pub const RANDOM_NET: &str = r#"
    transform_param { scale: 0.00390625 crop_size: 24 mirror: true }"#;
/// The same without any, so that runs can be compared with other numbers of workers.
pub const PLAIN_NET: &str = r#"
    transform_param { scale: 0.00390625 }"#;

impl Folder {
    /// The net with `batch` records a batch and this transform; `dropout` puts a Dropout layer in.
    pub fn new(batch: usize, transform: &str, dropout: bool, solver: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = project().join("golden/data/raw_lmdb");
        let source = source.display();
        let data = |phase: &str, batch: usize| {
            format!(
                r#"layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }} {transform}
                   data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }} }}
                "#
            )
        };
        let dropout = if dropout {
            r#"layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" dropout_param { dropout_ratio: 0.4 } }"#
        } else {
            ""
        };
        let net = data("TRAIN", batch)
            + &data("TEST", 20)
            + r#"
            layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
              convolution_param { num_output: 4 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
            layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
            layer { name: "ip1" type: "InnerProduct" bottom: "pool" top: "ip1"
              inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
            layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
            "#
            + dropout
            + r#"
            layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
              inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
            layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
            layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
            "#;
        fs::write(folder.path().join("net.prototxt"), net).unwrap();
        let prefix = folder.path().join("run");
        let solver = format!(
            "net: \"net.prototxt\" snapshot_prefix: \"{}\" {solver}",
            prefix.display()
        );
        fs::write(folder.path().join("solver.prototxt"), solver).unwrap();
        Self(folder)
    }

    /// Settings of a run in this folder.
    pub fn settings(&self, workers: usize, sync: Sync) -> RunSettings {
        let job = Job::read(&self.0.path().join("solver.prototxt"), &Stages::default()).unwrap();
        // One thread a worker: tests run beside each other.
        RunSettings {
            workers,
            sync,
            threads: Some(workers),
            ..RunSettings::new(job)
        }
    }

    /// The `.solverstate` of an iteration.
    pub fn state(&self, iteration: u64) -> PathBuf {
        self.0.path().join(format!("run_iter_{iteration}.solverstate"))
    }
}

/// Runs and records.
pub fn record(settings: RunSettings) -> Result<(WorkerResult, Recorder), Error> {
    let mut recorder = Recorder::default();
    let result = run(settings, &mut recorder)?;
    Ok((result, recorder))
}

/// The bits of weights, for comparisons that know no tolerance.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The largest distance of two slices.
pub fn max_distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
