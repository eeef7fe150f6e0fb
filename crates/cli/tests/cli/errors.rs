//! What goes wrong is one clear sentence and exit code 1, and leaves nothing half-written.

use std::fs;

use sparknet_data::LmdbWriter;
use sparknet_proto::caffe::Datum;

use crate::workplace::{Workplace, stderr, stdout};

const TRAIN: &str = "train --solver solver.prototxt --quiet";

#[test]
fn missing_files() {
    let place = Workplace::new();
    place.fails(
        "train --solver nope.prototxt",
        "cannot read nope.prototxt: No such file or directory (os error 2)",
    );
    place.fails(
        "test --model net.prototxt --weights nope.caffemodel",
        "cannot read nope.caffemodel: No such file or directory (os error 2)",
    );
    place.edit_solver("net.prototxt", "nope.prototxt");
    place.fails(
        TRAIN,
        "cannot read nope.prototxt: No such file or directory (os error 2)",
    );
    place.edit_solver("5", "5");
    place.edit_net("\"db\"", "\"nope\"");
    place.fails(
        TRAIN,
        "layer 'data': nope does not exist: check the path, which is taken from the folder that the command runs in",
    );
    place.fails(
        "time --model net.prototxt",
        "layer 'data': nope does not exist, so the shape of its records is unknown: give --input-shape c,h,w",
    );
    place.fails(
        "convert . nope.txt out",
        "nope.txt does not exist: check the path, which is taken from the folder that the command runs in",
    );
    place.fails(
        "upgrade-net nope o",
        "cannot read nope: No such file or directory (os error 2)",
    );
}

#[test]
fn damaged_files() {
    let place = Workplace::trained();
    let model = place.read("tiny_iter_20.caffemodel");
    place.write("cut.caffemodel", &model[..model.len() - 737]);
    for command in [
        "test --model net.prototxt --weights cut.caffemodel",
        &format!("{TRAIN} --weights cut.caffemodel"),
        "upgrade-net cut.caffemodel o",
    ] {
        place.fails(
            command,
            // The last layer, of 45 bytes, is gone whole: nothing says that it was there.
            "cut.caffemodel is not a whole NetParameter: 692 bytes are missing at its end: write or download it again",
        );
    }
    place.fails(
        "test --model net.prototxt --weights net.prototxt",
        "net.prototxt is not a whole NetParameter: it is a text file: name the binary one",
    );

    let database = place.read("db/data.mdb");
    place.write("db/data.mdb", &database[..40_000]);
    place.fails(
        TRAIN,
        "layer 'data': db is corrupt: the file has 40000 bytes of 110592, it is truncated; make it or copy it again",
    );
    place.write("db/data.mdb", vec![7; 50_000]);
    place.fails(
        "mean db mean.binaryproto",
        "db is corrupt: data.mdb is not a file of LMDB on a 64-bit little-endian machine; make it or copy it again",
    );
}

#[test]
fn a_file_for_a_folder_and_a_folder_for_a_file() {
    let place = Workplace::trained();
    place.fails("train --solver db", "cannot read db: it is a folder: name a file");
    place.fails(
        "test --model net.prototxt --weights db",
        "cannot read db: it is a folder: name a file",
    );
    let is_folder = "db: this is a folder: name a file to write";
    place.fails("draw net.prototxt db", is_folder);
    place.fails("upgrade-net net.prototxt db", is_folder);
    place.fails("upgrade-net net.prototxt db --binary", is_folder);
    place.fails("upgrade-solver solver.prototxt db", is_folder);
    place.fails("mean db db", is_folder);
    place.fails(&format!("{TRAIN} --evaluation-json db"), is_folder);
    place.fails(
        "test --model net.prototxt --weights tiny_iter_20.caffemodel --evaluation-json db",
        is_folder,
    );
    place.fails(
        &format!("{TRAIN} --log db"),
        "cannot write to 'db': Is a directory (os error 21): give a file in a folder that exists and may be written to",
    );
    place.fails(
        "upgrade-solver solver.prototxt nope/solver.prototxt",
        "nope/solver.prototxt: its folder does not exist: create it, or name another file",
    );
    place.fails(
        "mean net.prototxt mean.binaryproto",
        "net.prototxt is no source that can be read: LMDB and LevelDB folders, IDX images (`…-images-idx3-ubyte`) and CIFAR-10 \
         `.bin` files can",
    );
    place.edit_net("source: \"db\"", "source: \"solver.prototxt\"");
    place.fails(
        TRAIN,
        "layer 'data': solver.prototxt is a file, but an LMDB is a folder with a data.mdb in it: give the folder",
    );
}

#[test]
fn nets_that_cannot_be() {
    let place = Workplace::new();
    let cases = [
        (
            "\"Convolution\"",
            "\"Convolutoin\"",
            "layer 'conv' has type 'Convolutoin', which does not exist: did you mean \"Convolution\"?",
        ),
        (
            "bottom: \"data\" top: \"conv\"",
            "bottom: \"ip\" top: \"conv\"",
            "layer 'conv' reads blob 'ip', which layer 'ip' writes only later: move that layer up, or break the cycle",
        ),
        (
            "stride: 2",
            "stride: 0",
            "layer 'conv' (Convolution): stride is 0: give at least 1",
        ),
        (
            "batch_size: 8",
            "batch_size: -8",
            "net.prototxt:6:55: this number does not fit batch_size
      data_param { source: \"db\" backend: LMDB batch_size: -8 }
                                                          ^^ expected a whole number from 0 to 4294967295",
        ),
        (
            "batch_size: 8",
            "batch_size: 0",
            "layer 'data' (Data): data_param.batch_size is 0: give at least 1",
        ),
        (
            "num_output: 10",
            "num_output: 5",
            "layer 'accuracy' (Accuracy): label 9 at position 0 is not one of the 5 classes 0 to 4: check the data or \
             num_output",
        ),
    ];
    for (from, to, sentence) in cases {
        place.edit_net(from, to);
        place.fails(TRAIN, sentence);
    }
    // The same where another worker meets it: the first label above 8 is in worker 1's first record.
    place.fails(&format!("{TRAIN} --workers 2"), cases[5].2);
}

#[test]
fn weights_of_another_net() {
    let place = Workplace::trained();
    place.edit_net("num_output: 10", "num_output: 12");
    let sentence = "weights of layer 'ip' do not fit: the file has a blob of shape (10, 576) and the layer one of \
                    (12, 576): rename the layer to train it from scratch";
    place.fails("test --model net.prototxt --weights tiny_iter_20.caffemodel", sentence);
    place.fails(&format!("{TRAIN} --weights tiny_iter_20.caffemodel"), sentence);

    place.edit_net("name: \"ip\"", "name: \"fc\"");
    place.fails(
        "test --model net.prototxt --weights tiny_iter_20.caffemodel --workers 2",
        "tiny_iter_20.caffemodel: no weights for layer 'fc' of the net: give the weights of this net",
    );
}

#[test]
fn a_record_of_another_size() {
    let place = Workplace::new();
    let mut writer = LmdbWriter::create(&place.path("mixed")).unwrap();
    for (index, side) in [(0, 28), (1, 28), (2, 27)] {
        let datum = Datum {
            channels: Some(1),
            height: Some(side),
            width: Some(28),
            data: Some(vec![100; side as usize * 28]),
            label: Some(index),
            ..Default::default()
        };
        writer.put(&format!("{index:08}"), &datum).unwrap();
    }
    writer.finish().unwrap();
    place.edit_net("source: \"db\"", "source: \"mixed\"");
    let output = place.run(TRAIN);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.starts_with("error: mixed: record 00000002 "), "{message}");
    assert!(message.contains("27") && message.lines().count() == 1, "{message}");
    assert_eq!(place.names(), ["db", "mixed", "net.prototxt", "solver.prototxt"]);
}

#[test]
fn a_loss_that_is_no_number() {
    let place = Workplace::new();
    place.edit_solver("0.05", "1e20");
    place.fails(
        &format!("{TRAIN} --workers 2"),
        "the loss is NaN at iteration 1, first seen in layer 'ip': lower base_lr or set clip_gradients (--allow-nan, \
         in Python allowNan, goes on)",
    );
    place.succeeds(&format!("{TRAIN} --workers 2 --allow-nan --evaluation-json e.json"));
    assert!(place.path("tiny_iter_20.caffemodel").exists());
    let report: serde_json::Value = serde_json::from_str(&place.text("e.json")).unwrap();
    assert!(report["tests"][0]["scores"]["loss"].is_null(), "{report}");
}

#[test]
fn snapshots_that_cannot_be_written() {
    let place = Workplace::new();
    place.edit_solver("\"tiny\"", "\"nope/tiny\"");
    place.fails(
        TRAIN,
        "nope: snapshots go to this folder, which does not exist: create it or set snapshot_prefix",
    );
    // Even root cannot write there.
    place.edit_solver("\"tiny\"", "\"/proc/tiny\"");
    let output = place.run(TRAIN);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        message.starts_with("error: /proc: snapshots cannot be written to this folder ("),
        "{message}"
    );
    assert!(message.ends_with("): set snapshot_prefix\n"), "{message}");
}

#[test]
fn snapshots_that_cannot_be_resumed() {
    let place = Workplace::new();
    place.succeeds("train --solver solver.prototxt --quiet --workers 2");
    place.fails(
        &format!("{TRAIN} --snapshot tiny_iter_10.solverstate --weights tiny_iter_10.caffemodel"),
        "--snapshot and --weights are both given: resume with one or fine-tune with the other",
    );
    place.fails(
        &format!("{TRAIN} --snapshot tiny_iter_10.solverstate"),
        "tiny_iter_10.solverstate: it is of a run with --workers 2, not 1: give --workers 2",
    );
    place.fails(
        &format!("{TRAIN} --workers 2 --snapshot tiny_iter_20.solverstate"),
        "the snapshot is of iteration 20 and max_iter is 20: there is nothing left to train",
    );
    fs::remove_file(place.path("tiny_iter_10.caffemodel")).unwrap();
    place.fails(
        &format!("{TRAIN} --workers 2 --snapshot tiny_iter_10.solverstate"),
        "cannot read tiny_iter_10.caffemodel: No such file or directory (os error 2)",
    );
}

#[test]
fn flags_that_contradict() {
    let place = Workplace::new();
    let sentence =
        "--tau and --history go with --sync average: with allreduce workers agree every iteration, so leave them out";
    place.fails(&format!("{TRAIN} --sync allreduce --tau 5"), sentence);
    place.fails(&format!("{TRAIN} --sync allreduce --history reset"), sentence);
    place.fails(
        "time --model net.prototxt --batch 2000000000",
        "layer 'data': a batch of shape (2000000000, 1, 28, 28) has more than 2147483647 values: give a smaller --batch",
    );
    place.fails(
        "convert . solver.prototxt out --resize-height 5",
        "convert: --resize-height and --resize-width go together: give both or none",
    );
}

#[test]
fn unknown_values_of_flags_are_usage_errors() {
    let place = Workplace::new();
    for (flags, shown) in [
        ("--sync ring", "[possible values: average, allreduce]"),
        ("--history forget", "[possible values: keep, average, reset]"),
        ("--sigint-effect die", "[possible values: stop, snapshot, none]"),
        ("--workers 0", "0 is not in 1..=4096"),
        ("--tau 0", "0 is not in 1.."),
        ("--bogus", "unexpected argument '--bogus'"),
    ] {
        let output = place.run(&format!("{TRAIN} {flags}"));
        assert_eq!(output.status.code(), Some(2), "{flags}");
        assert!(stderr(&output).contains(shown), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
    let output = place.run("time --model net.prototxt --input-shape 1,28");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("give channels, height and width, such as 3,227,227"));
    assert_eq!(place.run("dataset imagenet d").status.code(), Some(2));
    assert_eq!(place.names(), ["db", "net.prototxt", "solver.prototxt"]);
}

#[test]
fn mistakes_in_text_are_shown_where_they_are() {
    let place = Workplace::new();
    place.edit_solver("momentum", "momemtum");
    let output = place.run(TRAIN);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.starts_with("error: solver.prototxt:6:1: SolverParameter has no field \"momemtum\"\n"),
        "{message}"
    );
    assert!(
        message.contains("    momemtum: 0.9\n    ^^^^^^^^ did you mean"),
        "{message}"
    );
}

#[test]
fn an_instruction_set_that_does_not_exist() {
    let place = Workplace::new();
    let output = place.command(TRAIN).env("SPARKNET_SIMD", "sse9").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: SPARKNET_SIMD is \"sse9\"; set it to avx512, avx2 or portable, or unset it\n"
    );
}

#[test]
fn a_value_of_the_winograd_switch_that_means_nothing() {
    let place = Workplace::new();
    let output = place.command(TRAIN).env("SPARKNET_WINOGRAD", "yes").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "error: SPARKNET_WINOGRAD is \"yes\"; set it to on or off, or unset it\n"
    );
}
