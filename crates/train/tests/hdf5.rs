//! Whole runs with HDF5 files on both ends, and weights that layers share.

mod setup;

use std::{fs, path::PathBuf};

use setup::{bits, max_distance, record};
use sparknet_engine::{Net, NetSpec, NetState, Phase, net::NoData, spec::SnapshotFormat};
use sparknet_hdf5::{File, NewDataset, NewGroup, Object};
use sparknet_proto::{caffe::NetParameter, read_weights, text};
use sparknet_train::{
    checkpoint,
    job::{Job, NetSource, Stages},
    run::{RunSettings, Sync},
    testing::{TestSettings, test},
};

const ROWS: usize = 24;

struct Folder(tempfile::TempDir);

impl Folder {
    /// Two files of 12 rows each: four values, a class of three, and a weight for each row.
    fn new(batch: usize) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let value = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
        for file in 0..2 {
            let rows = file * ROWS / 2..(file + 1) * ROWS / 2;
            let data: Vec<f32> = rows
                .clone()
                .flat_map(|row| (0..4).map(move |i| value(row * 4 + i)))
                .collect();
            let labels: Vec<u64> = rows.map(|row| row as u64 % 3).collect();
            let mut root = NewGroup::default();
            root.insert("data", NewDataset::f32s(&[12, 4], &data)).unwrap();
            root.insert("label", NewDataset::u64s(&labels)).unwrap();
            root.insert("extra", NewDataset::f32s(&[12, 2, 2], &data)).unwrap();
            let path = folder.path(&format!("{file}.h5"));
            root.write(&mut fs::File::create(path).unwrap()).unwrap();
        }
        fs::write(folder.path("list.txt"), "0.h5\n1.h5\n").unwrap();
        let net = |output: &str| {
            format!(
                r#"layer {{ name: "rows" type: "HDF5Data" top: "data" top: "label" top: "extra" include {{ phase: TRAIN }}
                     hdf5_data_param {{ source: "list.txt" batch_size: {batch} shuffle: true }} }}
                   layer {{ name: "rows" type: "HDF5Data" top: "data" top: "label" top: "extra" include {{ phase: TEST }}
                     hdf5_data_param {{ source: "list.txt" batch_size: 10 }} }}
                   layer {{ name: "flat" type: "Flatten" bottom: "extra" top: "flat" }}
                   layer {{ name: "sum" type: "Eltwise" bottom: "data" bottom: "flat" top: "sum" }}
                   layer {{ name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
                     inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
                   layer {{ name: "out" type: "HDF5Output" bottom: "ip" bottom: "label" {output}
                     hdf5_output_param {{ file_name: "{}" }} }}
                   layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}"#,
                folder.path("out.h5").display()
            )
        };
        fs::write(folder.path("net.prototxt"), net("include { phase: TEST }")).unwrap();
        fs::write(folder.path("both.prototxt"), net("")).unwrap();
        fs::write(folder.path("none.prototxt"), net("include { stage: \"never\" }")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self, net: &str, workers: usize) -> RunSettings {
        let solver = format!(
            "net: '{net}.prototxt' base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 7 test_interval: 3 test_iter: 2 \
             random_seed: 1 snapshot_format: HDF5 snapshot_prefix: '{}'",
            self.path("run").display()
        );
        fs::write(self.path("solver.prototxt"), solver).unwrap();
        let job = Job::read(&self.path("solver.prototxt"), &Stages::default()).unwrap();
        RunSettings {
            workers,
            threads: Some(workers),
            sync: Sync::AllReduce,
            ..RunSettings::new(job)
        }
    }
}

fn array(folder: &Folder, name: &str) -> (Vec<u64>, Vec<f32>) {
    let file = File::open(&folder.path("out.h5")).unwrap();
    match file.root().unwrap().open(name).unwrap() {
        Some(Object::Dataset(dataset)) => (dataset.dims().to_vec(), dataset.read_f32().unwrap()),
        _ => panic!("there is no array {name}"),
    }
}

#[test]
fn a_net_trains_on_hdf5_files_and_each_test_writes_its_rows() {
    let folder = Folder::new(6);
    record(folder.settings("net", 1)).unwrap();
    // The last test: two batches of 10.
    let (dims, _) = array(&folder, "data");
    assert_eq!(dims, [20, 3, 1, 1]);
    let (dims, labels) = array(&folder, "label");
    assert_eq!(dims, [20, 1, 1, 1]);
    let expected: Vec<f32> = (0..20).map(|row| (row % 12 % 3) as f32).collect();
    assert_eq!(labels, expected);

    // A test of its own sees every row once, by the weights that the run has left.
    let settings = |workers| TestSettings {
        net: NetSource::read(&folder.path("net.prototxt"), Phase::Test, &Stages::default()).unwrap(),
        weights: vec![folder.path("run_iter_7.caffemodel.h5")],
        max_batches: None,
        workers,
        threads: Some(1),
        sync_timeout: std::time::Duration::from_secs(60),
    };
    let result = test(&settings(1), &|_| ()).unwrap();
    assert_eq!(result.records, ROWS as u64);
    assert_eq!(array(&folder, "data").0, [ROWS as u64, 3, 1, 1]);
    let error = test(&settings(2), &|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("layer 'out': an HDF5Output layer writes one file, and there are 2 workers"),
        "{error}"
    );
}

#[test]
fn rows_of_a_run_are_written_at_its_end_and_one_file_has_one_writer() {
    let folder = Folder::new(6);
    let error = record(folder.settings("both", 1)).unwrap_err().to_string();
    assert!(
        error.contains("layer 'out': another HDF5Output layer of this run"),
        "{error}"
    );
    let mut settings = folder.settings("both", 1);
    settings.job.tests.clear();
    record(settings).unwrap();
    assert_eq!(array(&folder, "data").0, [7 * 6, 3, 1, 1]);
}

#[test]
fn workers_that_share_hdf5_rows_are_one_with_a_larger_batch() {
    let small = Folder::new(3);
    let large = Folder::new(6);
    let (two, _) = record(small.settings("none", 2)).unwrap();
    let (one, _) = record(large.settings("none", 1)).unwrap();
    assert!(max_distance(&two.params, &one.params) < 1e-5);
    let (again, _) = record(large.settings("none", 1)).unwrap();
    assert_eq!(bits(&again.params), bits(&one.params));
}

#[test]
fn shared_parameters_are_in_the_file_once() {
    const NET: &str = r#"
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
        layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "ba" }
          inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
          inner_product_param { num_output: 3 bias_filler { type: "uniform" } } }
        layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" } param { name: "ba" }
          inner_product_param { num_output: 3 } }"#;
    let net = |seed| {
        let message: NetParameter = text::parse("net", NET).unwrap();
        let spec = NetSpec::from_proto(&message, NetState::new(Phase::Train)).unwrap();
        Net::new(spec, &mut NoData, seed).unwrap()
    };
    let (one, mut other) = (net(1), net(2));
    assert_ne!(one.param_arena(), other.param_arena());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.caffemodel.h5");
    let gradients = Some(one.gradient_arena());
    checkpoint::write_weights(&one, &path, SnapshotFormat::Hdf5, one.param_arena(), gradients).unwrap();
    let file = File::open(&path).unwrap();
    let root = file.root().unwrap();
    let is_there = |name: &str| root.open(name).unwrap().is_some();
    assert!(is_there("data/a/0") && is_there("data/a/1") && is_there("data/b/1") && is_there("data/c"));
    assert!(!is_there("data/b/0") && !is_there("data/c/0") && !is_there("data/c/1"));
    assert!(is_there("diff/b/0") && is_there("diff/c/1"));
    checkpoint::copy_weights(&mut other, &path).unwrap();
    assert_eq!(bits(other.param_arena()), bits(one.param_arena()));

    // A blob that nobody else has is missed.
    let mut message = read_weights(&path).unwrap();
    for layer in message.layer.iter_mut().filter(|layer| layer.name() == "a") {
        layer.blobs.pop();
    }
    let error = other.copy_weights_from(&message).unwrap_err().to_string();
    assert!(error.contains("the file has 1 blobs and the layer 2"), "{error}");
}
