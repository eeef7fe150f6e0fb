//! What each command does when all is well.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

use serde_json::Value;
use sparknet_data::MeanImage;
use sparknet_proto::{read_net, read_solver, read_weights};

use crate::workplace::{SOLVER, Workplace, golden, stderr, stdout};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn train_learns_and_leaves_weights_logs_and_an_evaluation() {
    let place = Workplace::new();
    let text = place.succeeds(
        "train --solver solver.prototxt --workers 2 --tau 5 --log run.log --events events.jsonl --evaluation-json e.json",
    );
    assert!(
        text.starts_with("training tiny for 20 iterations: 5874 parameters, 2 workers of "),
        "{text}"
    );
    assert!(text.contains("\niteration 20 of 20, loss "), "{text}");
    assert!(text.contains("confusion matrix"), "{text}");
    assert!(
        text.ends_with("\nweights: tiny_iter_20.caffemodel, to resume: tiny_iter_20.solverstate\n"),
        "{text}"
    );

    let report = json(&place.text("e.json"));
    assert_eq!(report["iteration"], 20);
    let test = &report["tests"][0];
    assert_eq!(test["records"], 96);
    assert_eq!(test["evaluation"]["records"], 96);
    assert!(test["scores"]["accuracy"].as_f64().unwrap() > 0.4, "{report}");

    let events: Vec<Value> = place.text("events.jsonl").lines().map(json).collect();
    let kinds = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!(
        (kinds("start"), kinds("round"), kinds("iteration"), kinds("finish")),
        (1, 4, 4, 1)
    );
    assert_eq!((kinds("test"), kinds("snapshot")), (3, 2));
    assert!(
        place
            .text("run.log")
            .lines()
            .last()
            .unwrap()
            .contains(", i = 20: finished after 20 iterations")
    );

    let weights = read_weights(&place.path("tiny_iter_20.caffemodel")).unwrap();
    assert_eq!(weights.layer.iter().filter(|layer| !layer.blobs.is_empty()).count(), 2);
}

#[test]
fn quiet_shows_only_the_result() {
    let place = Workplace::new();
    let text = place.succeeds("train --solver solver.prototxt --quiet");
    assert!(!text.contains("iteration"), "{text}");
    assert!(text.contains("confusion matrix"), "{text}");
    let lines = Workplace::new().succeeds("train --solver solver.prototxt --no-progress");
    assert!(lines.contains("iteration 5 of 20, "), "{lines}");
}

#[test]
fn resume_and_fine_tune() {
    let place = Workplace::trained();
    let weights = place.read("tiny_iter_20.caffemodel");
    place.succeeds("train --solver solver.prototxt --quiet --snapshot tiny_iter_10.solverstate");
    assert!(
        weights == place.read("tiny_iter_20.caffemodel"),
        "a resumed run ends as the whole one"
    );

    place.succeeds("train --solver solver.prototxt --quiet --weights tiny_iter_10.caffemodel,tiny_iter_20.caffemodel");
    assert!(
        weights != place.read("tiny_iter_20.caffemodel"),
        "fine-tuning begins with other weights"
    );
}

#[test]
fn stages_choose_layers() {
    let place = Workplace::new();
    place.edit_net(
        "layer { name: \"relu\"",
        "layer { include { stage: \"deep\" min_level: -2 max_level: -2 } name: \"relu\"",
    );
    let layers = |flags: &str| {
        let timing = json(&place.succeeds(&format!("time --model net.prototxt --iterations 1 --json {flags}")));
        timing["layers"].as_array().unwrap().len()
    };
    assert_eq!(layers(""), 4);
    assert_eq!(layers("--stage other,deep --level -2"), 5);
    assert_eq!(layers("--stage deep"), 4);
}

#[test]
fn test_sees_every_record_once_with_any_number_of_workers() {
    let place = Workplace::trained();
    let command = "test --model net.prototxt --weights tiny_iter_20.caffemodel";
    let alone = place.succeeds(&format!("{command} --json"));
    let report = json(&alone);
    assert_eq!(report["records"], 96);
    let accuracy = report["scores"]["accuracy"].as_f64().unwrap();
    assert!(
        (accuracy - report["evaluation"]["accuracy"].as_f64().unwrap()).abs() < 1e-6,
        "{report}"
    );
    assert!(accuracy > 0.4, "{report}");
    for workers in [2, 7] {
        assert_eq!(place.succeeds(&format!("{command} --json --workers {workers}")), alone);
    }

    let text = place.succeeds(&format!("{command} --evaluation-json e.json"));
    assert!(
        text.starts_with(&format!("accuracy = {accuracy:.4}\nloss = ")),
        "{text}"
    );
    assert!(
        text.contains("96 records\n") && text.contains("confusion matrix"),
        "{text}"
    );
    assert_eq!(json(&place.text("e.json")), report);

    let first = json(&place.succeeds(&format!("{command} --json --iterations 2 --workers 2")));
    assert_eq!(first["records"], 40);
}

#[test]
fn time_counts_the_arithmetic_of_a_step() {
    let place = Workplace::new();
    let timing = json(&place.succeeds("time --model net.prototxt --iterations 3 --threads 1 --json"));
    assert_eq!(timing["net"], "tiny");
    assert_eq!(
        (&timing["batch"], &timing["threads"]),
        (&Value::from(8), &Value::from(1))
    );
    let layers = timing["layers"].as_array().unwrap();
    let names: Vec<&str> = layers.iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["data", "conv", "relu", "ip", "loss"]);
    for costs in [&timing, &layers[1], &layers[3]] {
        for field in [
            "step_ms",
            "forward_ms",
            "backward_ms",
            "update_ms",
            "images_per_s",
            "gflops",
        ] {
            assert!(costs[field].as_f64().unwrap() > 0.0, "{field}: {costs}");
        }
    }
    let parameters: Vec<u64> = layers
        .iter()
        .map(|layer| layer["parameters"].as_u64().unwrap())
        .collect();
    assert_eq!(parameters, [0, 4 * 25 + 4, 0, 576 * 10 + 10, 0]);
    assert_eq!(timing["parameters"], parameters.iter().sum::<u64>());
    assert_eq!(layers[0]["top_shapes"].to_string(), "[[8,1,28,28],[8]]");
    assert_eq!(layers[3]["top_shapes"].to_string(), "[[8,10]]");
    // Two passes of conv, which has no gradient to hand down, and three of ip.
    let (conv, ip) = (2.0 * 8.0 * (4.0 * 12.0 * 12.0 * 25.0), 2.0 * 8.0 * 576.0 * 10.0);
    let close = |value: &Value, flop: f64| (value.as_f64().unwrap() * 1e9 - flop).abs() < 1.0;
    assert!(close(&layers[1]["gflop"], 2.0 * conv), "{timing}");
    assert!(close(&timing["gflop"], 2.0 * conv + 3.0 * ip), "{timing}");

    let timing = json(&place.succeeds("time --model net.prototxt --phase test --batch 4 --iterations 1 --json"));
    assert_eq!(timing["batch"], 4);
    assert_eq!(timing["backward_ms"], 0.0);
    assert!(close(&timing["gflop"], 0.5 * (conv + ip)), "{timing}");

    let table = place.succeeds("time --model net.prototxt --iterations 1");
    assert!(
        table.starts_with("layer  type  ") && table.contains("\nall  "),
        "{table}"
    );
}

#[test]
fn time_needs_no_data() {
    let place = Workplace::new();
    place.edit_net("\"db\"", "\"nope\"");
    let timing = json(&place.succeeds("time --model net.prototxt --input-shape 1,28,28 --iterations 1 --json"));
    assert_eq!(timing["batch"], 8);
    place.edit_net(
        "transform_param { scale: 0.00390625 }\n  data_param { source: \"db\"",
        "transform_param { crop_size: 30 mean_value: 1 mean_value: 2 }\n  data_param { source: \"nope\"",
    );
    let timing = json(&place.succeeds("time --model net.prototxt --iterations 1 --json"));
    let conv_gflop = timing["layers"][1]["gflop"].as_f64().unwrap();
    let expected = 2.0 * 2.0 * 8.0 * 4.0 * 13.0 * 13.0 * 50.0 / 1e9;
    assert!((conv_gflop - expected).abs() < 1e-9, "records of (2, 30, 30): {timing}");

    // Labels have to suit the smaller number of classes, also through a layer that only moves them.
    place.write(
        "net.prototxt",
        r#"name: "two heads"
        layer {
          name: "in" type: "Input" top: "data" top: "pair"
          input_param { shape { dim: 16 dim: 6 } shape { dim: 16 dim: 2 } }
        }
        layer { name: "cut" type: "Slice" bottom: "pair" top: "first" top: "second" slice_param { axis: 1 } }
        layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 50 } }
        layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" inner_product_param { num_output: 2 } }
        layer { name: "loss a" type: "SoftmaxWithLoss" bottom: "a" bottom: "first" top: "loss a" }
        layer { name: "loss b" type: "SoftmaxWithLoss" bottom: "b" bottom: "second" top: "loss b" }"#,
    );
    let timing = json(&place.succeeds("time --model net.prototxt --iterations 1 --json --batch 32"));
    assert_eq!(timing["batch"], 32);
}

#[test]
fn dataset_writes_both_halves() {
    let place = Workplace::new();
    fs::create_dir(place.path("raw")).unwrap();
    for half in ["train", "t10k"] {
        for kind in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
            fs::copy(golden(kind), place.path(&format!("raw/{half}-{kind}"))).unwrap();
        }
    }
    let text = place.succeeds("dataset fashion-mnist data --source raw");
    assert_eq!(
        text,
        "data/fashion_mnist_train_lmdb: 96 records\ndata/fashion_mnist_test_lmdb: 96 records\n"
    );
    assert_eq!(
        place.succeeds("dataset fashion-mnist data"),
        text,
        "what is there stays"
    );
    place.edit_net("\"db\"", "\"data/fashion_mnist_train_lmdb\"");
    place.succeeds("train --solver solver.prototxt --quiet");
}

#[test]
fn convert_and_mean() {
    let place = Workplace::new();
    let (root, list) = (golden("jpg"), golden("list.txt"));
    let (root, list) = (root.display(), list.display());
    let text = place.succeeds(&format!(
        "convert {root} {list} out --resize-height 16 --resize-width 20 --shuffle"
    ));
    assert_eq!(text, "out: 5 records\n");
    let text = place.succeeds("mean out out.binaryproto");
    assert!(
        text.starts_with("out.binaryproto: mean of 5 records of shape (3, 16, 20)\nmean of channel 0: "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4);

    let before = place.names();
    let output = place.run(&format!("convert {root} {list} out"));
    assert_eq!(
        stderr(&output),
        "error: out already exists: remove it, or choose another name\n"
    );
    assert_eq!((output.status.code(), place.names()), (Some(1), before));

    place.succeeds("mean db db.binaryproto");
    let (found, caffes) = (place.path("db.binaryproto"), golden("mean.binaryproto"));
    assert_eq!(MeanImage::read(&found).unwrap(), MeanImage::read(&caffes).unwrap());

    place.write("list.txt", "astronaut.jpg 0\nnope.jpg 1\n");
    let output = place.run(&format!("convert {root} list.txt some --skip-bad --gray --encoded"));
    assert_eq!(stdout(&output), "some: 1 records, 1 images left out\n");
    assert!(
        stderr(&output).starts_with("left out: list.txt:2: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn upgrades_keep_the_kind_of_file() {
    let place = Workplace::new();
    place.write(
        "old.prototxt",
        "layers { name: \"ip\" type: INNER_PRODUCT bottom: \"x\" top: \"y\" blobs_lr: 2 }\n",
    );
    place.succeeds("upgrade-net old.prototxt new.prototxt");
    let net = read_net(&place.path("new.prototxt")).unwrap();
    assert_eq!(
        (net.layer[0].r#type(), net.layer[0].param[0].lr_mult()),
        ("InnerProduct", 2.0)
    );
    assert!(place.text("new.prototxt").contains("type: \"InnerProduct\""));

    place.succeeds("upgrade-net old.prototxt new.caffemodel --binary");
    assert_eq!(read_weights(&place.path("new.caffemodel")).unwrap(), net);
    place.succeeds("upgrade-net new.caffemodel again.caffemodel");
    assert!(place.read("again.caffemodel") == place.read("new.caffemodel"));

    place.write("old_solver.prototxt", "net: \"n\"\nsolver_type: NESTEROV\n");
    place.succeeds("upgrade-solver old_solver.prototxt old_solver.prototxt");
    assert_eq!(
        read_solver(&place.path("old_solver.prototxt")).unwrap().r#type(),
        "Nesterov"
    );
    assert!(!place.text("old_solver.prototxt").contains("solver_type"));
}

#[test]
fn draw_shows_shapes_where_they_are_known() {
    let place = Workplace::new();
    let draw = |flags: &str| {
        place.succeeds(&format!("draw net.prototxt net.svg {flags}"));
        place.text("net.svg")
    };
    let train = draw("");
    assert!(train.starts_with("<svg ") && train.trim_end().ends_with("</svg>"));
    assert!(
        train.contains("8 × 4 × 12 × 12") && !train.contains("Accuracy"),
        "{train}"
    );
    let test = draw("--phase test");
    assert!(test.contains("20 × 4 × 12 × 12") && test.contains("Accuracy"), "{test}");
    let all = draw("--phase all");
    assert!(
        all.contains("Accuracy") && all.contains("batch 8") && all.contains("batch 20"),
        "{all}"
    );

    place.edit_net("\"db\"", "\"nope\"");
    let without = draw("");
    assert!(
        without.contains("Convolution") && !without.contains("× 12"),
        "{without}"
    );
}

#[test]
fn help_shows_examples_and_a_closed_pipe_is_no_error() {
    let place = Workplace::trained();
    assert_eq!(
        place.succeeds("--version"),
        format!("sparknet {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = place.succeeds("--help");
    for command in [
        "",
        "train",
        "test",
        "time",
        "dataset",
        "convert",
        "mean",
        "upgrade-net",
        "upgrade-solver",
        "draw",
        "extract-features",
        "device-query",
    ] {
        assert!(help.contains(command), "{command}");
        let text = place.succeeds(&format!("{command} --help"));
        assert!(text.contains(&format!("Examples:\n  sparknet {command}")), "{text}");
    }
    for arguments in [
        "--help",
        "test --model net.prototxt --weights tiny_iter_20.caffemodel",
        "train --solver solver.prototxt",
    ] {
        let mut child = place
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed before anything is written, or while it is.
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(child.wait().unwrap().success(), "{arguments}: {errors}");
        assert!(
            !errors.contains("panicked") && !errors.contains("error:"),
            "{arguments}: {errors}"
        );
    }
    let full = Command::new("sh")
        .args([
            "-c",
            &format!("'{}' --version > /dev/full", env!("CARGO_BIN_EXE_sparknet")),
        ])
        .output()
        .unwrap();
    assert!(!stderr(&full).contains("panicked"), "{}", stderr(&full));
}

#[test]
fn snapshots_in_hdf5_serve_every_command() {
    let place = Workplace::new();
    place.succeeds("train --solver solver.prototxt --quiet");
    let tested = "test --model net.prototxt --json --weights";
    let score = place.succeeds(&format!("{tested} tiny_iter_20.caffemodel"));
    place.write("solver.prototxt", format!("{SOLVER} snapshot_format: HDF5"));
    let text = place.succeeds("train --solver solver.prototxt --no-progress");
    assert!(
        text.ends_with("\nweights: tiny_iter_20.caffemodel.h5, to resume: tiny_iter_20.solverstate.h5\n"),
        "{text}"
    );
    assert_eq!(place.succeeds(&format!("{tested} tiny_iter_20.caffemodel.h5")), score);

    // From one form to the other and back.
    place.succeeds("upgrade-net tiny_iter_20.caffemodel.h5 back.caffemodel");
    assert_eq!(place.succeeds(&format!("{tested} back.caffemodel")), score);
    place.succeeds("upgrade-net tiny_iter_20.caffemodel forth.h5");
    assert_eq!(place.read("forth.h5"), place.read("tiny_iter_20.caffemodel.h5"));

    // A run that is taken up ends with the same file.
    let whole = place.read("tiny_iter_20.caffemodel.h5");
    place.succeeds("train --solver solver.prototxt --quiet --snapshot tiny_iter_10.solverstate.h5");
    assert_eq!(place.read("tiny_iter_20.caffemodel.h5"), whole);
    place.succeeds("train --solver solver.prototxt --quiet --weights tiny_iter_10.caffemodel.h5");

    place.write("cut.h5", &whole[..whole.len() - 100]);
    place.fails(
        "test --model net.prototxt --weights cut.h5",
        &format!(
            "cut.h5: the HDF5 file is damaged ({} of its {} bytes are there): write or copy it again",
            whole.len() - 100,
            whole.len()
        ),
    );
}
