//! What comes from Caffe's own command and from fields of its solvers.

use std::collections::BTreeMap;

use serde_json::Value;
use sparknet_data::{Backend, Pixels, Record, open_source};
use sparknet_proto::read_weights;

use crate::workplace::{NET, Workplace};

fn records(place: &Workplace, folder: &str) -> Vec<Record> {
    let mut source = open_source(&place.path(folder), Backend::Lmdb).unwrap();
    let count = source.len_records();
    let read = |_| {
        let mut record = Record::default();
        source.read(&mut record).unwrap();
        record
    };
    (0..count).map(read).collect()
}

fn floats(record: &Record) -> &[f32] {
    match &record.pixels {
        Pixels::Floats(values) => values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn extract_features_writes_each_record_once() {
    let place = Workplace::trained();
    let command = "extract-features --model net.prototxt --weights tiny_iter_20.caffemodel";
    let text = place.succeeds(&format!("{command} --blobs conv,ip,label --out conv,ip,label"));
    assert_eq!(
        text,
        "conv: conv (96 records)\nip: ip (96 records)\nlabel: label (96 records)\n"
    );
    let [conv, ip, label] = ["conv", "ip", "label"].map(|folder| records(&place, folder));
    assert_eq!([conv.len(), ip.len(), label.len()], [96, 96, 96]);
    assert_eq!(conv[95].key, b"0000000095");
    let size = |record: &Record| [record.channels, record.height, record.width];
    assert_eq!(
        [size(&conv[7]), size(&ip[7]), size(&label[7])],
        [[4, 12, 12], [10, 1, 1], [1, 1, 1]]
    );

    // The inner product of what was extracted is what was extracted of the inner product.
    let weights = read_weights(&place.path("tiny_iter_20.caffemodel")).unwrap();
    let ip_layer = weights.layer.iter().find(|layer| layer.name() == "ip").unwrap();
    let (weight, bias) = (&ip_layer.blobs[0].data, &ip_layer.blobs[1].data);
    for record in [0, 20, 95] {
        let x = floats(&conv[record]);
        for (output, found) in floats(&ip[record]).iter().enumerate() {
            let row = &weight[output * x.len()..][..x.len()];
            let expected: f32 = bias[output] + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
            assert!((found - expected).abs() < 1e-3, "{record} {output}: {found} {expected}");
        }
    }
    let labels: Vec<f32> = label.iter().map(|record| floats(record)[0]).collect();
    let original: Vec<f32> = records(&place, "db").iter().map(|record| record.label as f32).collect();
    assert_eq!(labels, original);

    place.succeeds(&format!("{command} --blobs ip --out two --iterations 2"));
    assert_eq!(records(&place, "two"), ip[..40]);
    // Another net reads them.
    place.edit_net("\"db\"", "\"conv\"");
    place.succeeds("time --model net.prototxt --phase test --iterations 1");

    place.write("net.prototxt", NET);
    place.fails(
        &format!("{command} --blobs ip,conv --out a"),
        "--blobs has 2 names and --out 1 folders: give one folder a blob",
    );
    place.fails(
        &format!("{command} --blobs ip2 --out a"),
        "the net has no blob 'ip2': it has data, label, conv, ip, accuracy, loss",
    );
    place.fails(
        &format!("{command} --blobs ip,loss --out a,b"),
        "blob 'loss' has shape () for a batch of 20 records: ask for one with values for each record",
    );
    place.fails(
        &format!("{command} --blobs ip,conv --out a,a"),
        "a: two outputs have this name: name a file for each",
    );
}

#[test]
fn device_query_tells_what_computes() {
    let place = Workplace::new();
    let lines = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let pairs = text.lines().map(|line| line.split_once(": ").unwrap());
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let found = lines(&mut place.command("device-query"));
    let cores = std::thread::available_parallelism().unwrap().to_string();
    assert_eq!(found["cores"], cores);
    assert_eq!(found["GPUs"], "SparkNet computes on the CPU only and looks for none");
    let set = &found["instruction set"];
    let capped = lines(place.command("device-query").env("SPARKNET_SIMD", "portable"));
    let expected = match &set[..] {
        "portable" => set.clone(),
        set => format!("{set}, of which SPARKNET_SIMD allows portable"),
    };
    assert_eq!(capped["instruction set"], expected);
}

/// The events of a kind that a run wrote.
fn events(place: &Workplace, kind: &str) -> Vec<Value> {
    let text = place.text("events.jsonl");
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == kind).collect()
}

#[test]
fn several_test_nets_have_states_and_batches_of_their_own() {
    let place = Workplace::new();
    // A top that is there in stage "deep" only, and another batch size in the net that is written inside the solver.
    let deep = "layer { name: \"prob\" type: \"Softmax\" bottom: \"ip\" top: \"prob\" include { stage: \"deep\" } }
        layer { name: \"more\" type: \"SoftmaxWithLoss\" bottom: \"ip\" bottom: \"label\" top: \"more\"
                include { stage: \"deep\" phase: TEST } }";
    place.write("net.prototxt", format!("{NET}{deep}"));
    place.write("other.prototxt", NET.replace("batch_size: 20", "batch_size: 12"));
    place.write(
        "solver.prototxt",
        format!(
            "net: \"net.prototxt\" test_net: \"other.prototxt\" test_net_param {{ {} }}
             test_iter: 2 test_iter: 3 test_iter: 1
             test_state {{ }} test_state {{ }} test_state {{ stage: \"deep\" }}
             train_state {{ stage: \"deep\" }}
             test_interval: 2 base_lr: 0.05 lr_policy: \"fixed\" max_iter: 2 random_seed: 7 snapshot_after_train: false",
            NET.replace("batch_size: 20", "batch_size: 5")
        ),
    );
    place.succeeds("train --solver solver.prototxt --quiet --events events.jsonl");
    let tests = events(&place, "test");
    // Those written inside the solver come first, then files, then the net that is trained too.
    let seen: Vec<(u64, u64)> = tests
        .iter()
        .map(|test| (test["net"].as_u64().unwrap(), test["records"].as_u64().unwrap()))
        .collect();
    assert_eq!(seen, [(0, 10), (1, 36), (2, 20), (0, 10), (1, 36), (2, 20)]);
    let names = |test: &Value| test["scores"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&tests[0]), ["accuracy", "loss"]);
    assert_eq!(names(&tests[2]), ["accuracy", "loss", "more"]);

    let solver = place.text("solver.prototxt");
    place.write("solver.prototxt", solver.replace("test_iter: 3", "test_iter: 0"));
    place.succeeds("train --solver solver.prototxt --quiet --events events.jsonl");
    let records: Vec<u64> = events(&place, "test")
        .iter()
        .map(|test| test["records"].as_u64().unwrap())
        .collect();
    assert_eq!(records, [10, 20, 10, 20], "a net with a test_iter of 0 is not tested");
    place.write("solver.prototxt", solver.replacen("test_iter: 1", "", 1));
    place.fails(
        "train --solver solver.prototxt --quiet",
        "solver.prototxt: test_state is given 3 times for 2 test nets: give one each",
    );
}

#[test]
fn train_takes_layers_by_stage_and_level() {
    let place = Workplace::new();
    place.edit_net(
        "layer { name: \"relu\"",
        "layer { include { stage: \"a\" stage: \"b\" min_level: 2 } name: \"hidden\" type: \"InnerProduct\" bottom: \"conv\"
                 top: \"hidden\" inner_product_param { num_output: 1 } }
         layer { name: \"relu\"",
    );
    let parameters = |flags: &str| {
        place.succeeds(&format!(
            "train --solver solver.prototxt --quiet --max-iter 1 --events events.jsonl {flags}"
        ));
        events(&place, "start")[0]["parameters"].as_u64().unwrap()
    };
    assert_eq!(
        parameters("--stage a,b --level 2"),
        parameters("--stage a --level 2") + 4 * 12 * 12 + 1
    );
}

#[test]
fn a_solver_names_the_weights_to_begin_with() {
    let place = Workplace::trained();
    let trained = place.read("tiny_iter_20.caffemodel");
    let solver = "net: \"net.prototxt\" base_lr: 0 lr_policy: \"fixed\" max_iter: 1 random_seed: 3
        snapshot_prefix: \"fine\" weights: \"tiny_iter_10.caffemodel, tiny_iter_20.caffemodel\"";
    place.write("fine.prototxt", solver);
    place.succeeds("train --solver fine.prototxt --quiet");
    // Nothing is learned at a rate of 0, and of two files the later counts.
    assert!(place.read("fine_iter_1.caffemodel") == trained);
    place.write("fine.prototxt", solver.replace("iter_20", "iter_30"));
    place.fails(
        "train --solver fine.prototxt --quiet",
        "cannot read tiny_iter_30.caffemodel: No such file or directory (os error 2)",
    );
}

#[test]
fn debug_info_tells_every_blob() {
    let place = Workplace::new();
    place.edit_solver("display: 5", "display: 5 debug_info: true");
    let quiet = place.succeeds("train --solver solver.prototxt --quiet --max-iter 1");
    assert!(!quiet.contains("[Forward]"), "{quiet}");
    let text = place.succeeds("train --solver solver.prototxt --no-progress --max-iter 1 --workers 2 --tau 1");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("    [")).collect();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    // One training pass; a test of 5 batches before it and one after it, shared by two workers, of which the first tells.
    assert_eq!(count("    [Forward] Layer accuracy, top blob accuracy data: "), 6);
    assert_eq!(count("    [Forward] Layer conv, param blob 0 data: "), 7);
    assert_eq!(count("    [Backward] Layer ip, bottom blob conv diff: "), 1);
    assert_eq!(count("    [Backward] Layer conv, bottom blob data diff: "), 0);
    assert_eq!(count("    [Backward] All net params (data, diff): L1 norm = ("), 1);
    assert_eq!(count("    [Update] Layer ip, param 1 data: 0; diff: "), 1);
}

#[test]
fn layers_in_python_need_python() {
    let place = Workplace::new();
    place.edit_net(
        "type: \"ReLU\" bottom: \"conv\" top: \"conv\"",
        "type: \"Python\" bottom: \"conv\" top: \"conv\" python_param { module: \"m\" layer: \"L\" }",
    );
    place.fails(
        "train --solver solver.prototxt --quiet",
        "layer 'relu' (Python): the class m.L runs in Python, which this command does not: \
         train and test this net with the Python package sparknet",
    );
}
