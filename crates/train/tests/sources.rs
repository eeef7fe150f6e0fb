//! Nets that are fed from LevelDBs, image lists and window files.

mod setup;

use std::{fs, path::Path};

use setup::{Folder, Recorder, bits, golden, record};
use sparknet_data::{ColorMode, RowRules, RowValues, RowsWriter};
use sparknet_engine::{Net, NetSpec, NetState, Phase};
use sparknet_proto::{caffe::NetParameter, text};
use sparknet_train::{
    feeds::{FeedOpener, FeedSettings},
    job::{Job, Stages},
    rows::{RowsWanted, feed_by_rows},
    run::{RunSettings, Sync},
    worker::WorkerResult,
};

const SOLVER: &str = r#"base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 12 snapshot: 5 display: 0
    test_iter: 2 test_interval: 6 random_seed: 3"#;

#[test]
fn leveldb_trains_as_lmdb_does() {
    let params = |backend: &str| {
        let folder = Folder::new(7, setup::RANDOM_NET, true, SOLVER);
        let path = folder.0.path().join("net.prototxt");
        let net = fs::read_to_string(&path).unwrap();
        let net = net.replace("raw_lmdb", &format!("raw_{}", backend.to_lowercase()));
        fs::write(&path, net.replace("backend: LMDB", &format!("backend: {backend}"))).unwrap();
        record(folder.settings(2, Sync::AllReduce)).unwrap().0.params
    };
    assert_eq!(bits(&params("LEVELDB")), bits(&params("LMDB")));
}

/// Trains a classifier on what `data` feeds, in `folder`.
fn train(folder: &Path, data: &str, snapshot: Option<u64>) -> Result<(WorkerResult, Recorder), String> {
    let net = format!(
        "layer {{ name: 'data' top: 'data' top: 'label' {data} }}
         layer {{ name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip'
           inner_product_param {{ num_output: 10 weight_filler {{ type: 'xavier' }} }} }}
         layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }}"
    );
    fs::write(folder.join("net.prototxt"), net).unwrap();
    let prefix = folder.join("run");
    let solver = format!("net: 'net.prototxt' snapshot_prefix: '{}' {SOLVER}", prefix.display());
    fs::write(folder.join("solver.prototxt"), solver).unwrap();
    let job = Job::read(&folder.join("solver.prototxt"), &Stages::default()).map_err(|error| error.to_string())?;
    record(RunSettings {
        workers: 2,
        threads: Some(2),
        sync: Sync::AllReduce,
        snapshot: snapshot.map(|iteration| folder.join(format!("run_iter_{iteration}.solverstate"))),
        ..RunSettings::new(job)
    })
    .map_err(|error| error.to_string())
}

fn assert_trains_and_resumes(folder: &Path, data: &str) {
    let (whole, recorder) = train(folder, data, None).unwrap();
    assert_eq!(recorder.losses.len(), 12);
    let (first, last) = (recorder.losses[0], recorder.losses[11]);
    assert!(last < first, "{first} to {last}: {data}");
    assert!(whole.tests[0].scores["loss"].is_finite());
    let (rest, _) = train(folder, data, Some(5)).unwrap();
    assert_eq!(bits(&rest.params), bits(&whole.params), "{data}");
}

/// `golden/data/jpg`, whose labels are 0 to 4, as a root folder.
fn root() -> String {
    format!("{}/data/jpg", fs::canonicalize(golden()).unwrap().display())
}

#[test]
fn image_data_trains_and_resumes_in_the_middle_of_a_shuffled_pass() {
    let folder = tempfile::tempdir().unwrap();
    let list = format!("{}/data/list.txt", fs::canonicalize(golden()).unwrap().display());
    let data = format!(
        "type: 'ImageData' transform_param {{ scale: 0.004 crop_size: 12 mirror: true mean_value: 100 }}
         image_data_param {{ source: '{list}' root_folder: '{}' batch_size: 3 new_height: 16 new_width: 14 shuffle: true
           rand_skip: 3 }}",
        root()
    );
    assert_trains_and_resumes(folder.path(), &data);
    let error = train(folder.path(), &data.replace("list.txt", "none.txt"), None)
        .err()
        .unwrap();
    assert!(
        error.contains("'data'") && error.contains("none.txt does not exist"),
        "{error}"
    );
}

#[test]
fn window_data_trains_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let windows = "# 0 cat.jpg 3 64 64 3 1 0.9 0 0 30 30 0 0.1 20 20 50 50 0 0 5 5 40 40
        # 1 coffee.jpg 3 64 64 2 2 1 8 8 40 40 0 0.2 1 1 30 20";
    fs::write(folder.path().join("windows.txt"), windows).unwrap();
    // The file lies beside the net.
    let data = format!(
        "type: 'WindowData' transform_param {{ crop_size: 12 mirror: true mean_value: 100 }}
         window_data_param {{ source: 'windows.txt' root_folder: '{}' batch_size: 4 fg_fraction: 0.5 context_pad: 2
           crop_mode: 'square' cache_images: true scale: 0.004 }}",
        root()
    );
    assert_trains_and_resumes(folder.path(), &data);
}

#[test]
fn cos_data_says_where_its_rows_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let data =
        "type: 'CoSData' cos_data_param { batch_size: 2 top { name: 'image' type: RAW_IMAGE channels: 1 height: 2
        width: 2 } top { name: 'class' type: INT sample_num_axes: 0 } }";
    let error = train(folder.path(), data, None).err().unwrap();
    assert!(
        error.contains("'data'") && error.contains("columns of a DataFrame"),
        "{error}"
    );
}

const COS_NET: &str = r#"
    layer { name: "data" type: "CoSData" top: "words" top: "image" top: "target" top: "weight"
      cos_data_param { batch_size: 2
        top { name: "words" type: INT_ARRAY channels: 3 sample_num_axes: 1 transpose: true }
        top { name: "image" type: RAW_IMAGE channels: 1 height: 2 width: 2 transform_param { scale: 0.5 } }
        top { name: "target" type: FLOAT_ARRAY channels: 2 sample_num_axes: 1 }
        top { name: "weight" type: FLOAT sample_num_axes: 0 } } }
    layer { name: "flat" type: "Flatten" bottom: "image" top: "flat" }"#;

#[test]
fn cos_data_gives_each_top_its_column() {
    let mut message: NetParameter = text::parse("net", COS_NET).unwrap();
    let mut wanted = RowsWanted::default();
    feed_by_rows(&mut message, &mut wanted).unwrap();
    let columns = [("image", 4), ("words", 3), ("target", 2), ("weight", 1)];
    assert_eq!(wanted.columns, columns.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(wanted.shape, Some([1, 2, 2]));
    let rows = |numbers: usize| {
        let mut writer = RowsWriter::new(RowRules {
            name: "the DataFrame".to_owned(),
            shape: wanted.shape,
            color: ColorMode::Native,
            crop_size: 0,
            numbers,
            skip_bad: false,
            memory_limit_bytes: 1 << 20,
            spill_folder: std::env::temp_dir(),
        });
        for row in 0..3u8 {
            let beside: Vec<f32> = (0..numbers).map(|i| f32::from(row) * 10.0 + i as f32).collect();
            writer
                .push_with(RowValues::Bytes(&[row, 2, 4, 6]), 0.0, &beside)
                .unwrap();
        }
        writer.finish().unwrap()
    };
    let open = |numbers| {
        let settings = FeedSettings {
            folder: "".into(),
            phase: Phase::Test,
            rank: 0,
            world: 1,
            seed: 1,
            positions_batches: Vec::new(),
            max_batches: None,
            rows: Some(rows(numbers)),
            fed_by_program: false,
            repeat: false,
        };
        let mut opener = FeedOpener::new(settings);
        let spec = NetSpec::from_proto(&message, NetState::new(Phase::Test)).unwrap();
        let net = Net::new(spec, &mut opener, 1).unwrap();
        opener
            .finish(&net)
            .map(|feeds| (net, feeds))
            .map_err(|error| error.to_string())
    };
    let (mut net, mut feeds) = open(6).unwrap();
    let mut batch = || {
        let count = feeds.fill(&mut net).unwrap().map(|(count, _)| count);
        net.forward().unwrap();
        let blobs = ["words", "flat", "target", "weight"];
        (count, blobs.map(|blob| net.blob_data(blob).unwrap().to_vec()))
    };
    let words = vec![0.0, 10.0, 1.0, 11.0, 2.0, 12.0];
    let image = vec![0.0, 1.0, 2.0, 3.0, 0.5, 1.0, 2.0, 3.0];
    assert_eq!(
        batch(),
        (Some(2), [words, image, vec![3.0, 4.0, 13.0, 14.0], vec![5.0, 15.0]])
    );
    // The last batch is smaller; the words' batch is their second axis.
    let last = [
        vec![20.0, 21.0, 22.0],
        vec![1.0, 1.0, 2.0, 3.0],
        vec![23.0, 24.0],
        vec![25.0],
    ];
    assert_eq!(batch(), (Some(1), last));
    assert_eq!(net.blob_shape("words").unwrap().dims(), [3, 1]);

    let error = open(5).err().unwrap();
    assert!(
        error.contains("4 values in column image and 5 numbers beside them, but cos_data_param says 4 and 6"),
        "{error}"
    );
    let twice = COS_NET.replace("INT_ARRAY", "RAW_IMAGE");
    let error = feed_by_rows(&mut text::parse("net", &twice).unwrap(), &mut RowsWanted::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("tops 'words' and 'image' both hold images"), "{error}");
}

#[test]
fn cos_data_of_values_and_a_label_is_fed_like_data() {
    let plain = r#"layer { name: "data" type: "CoSData" top: "image" top: "class"
      cos_data_param { batch_size: 2 top { name: "image" type: RAW_IMAGE channels: 1 height: 2 width: 2 }
        top { name: "class" type: INT sample_num_axes: 0 } } }"#;
    let mut message: NetParameter = text::parse("net", plain).unwrap();
    let mut wanted = RowsWanted::default();
    feed_by_rows(&mut message, &mut wanted).unwrap();
    assert!(wanted.columns.is_empty());
    assert_eq!(message.layer[0].r#type(), "Data");
    // Rows have either values and a label or columns.
    let error = feed_by_rows(&mut text::parse("net", COS_NET).unwrap(), &mut wanted).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("'data'") && error.contains("other columns"), "{error}");
}
