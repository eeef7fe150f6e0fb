//! What a stranger once broke.

use std::fs;

use crate::workplace::{Workplace, golden, stderr};

const TRAIN: &str = "train --solver solver.prototxt --quiet";

#[test]
fn an_output_that_is_read_or_written_twice_is_refused() {
    let place = Workplace::trained();
    let is_read = |path: &str| format!("{path}: the command reads this file: name another one to write");
    let files = ["solver.prototxt", "net.prototxt", "tiny_iter_20.caffemodel"];
    let before = files.map(|file| place.read(file));
    place.fails(&format!("{TRAIN} --log solver.prototxt"), &is_read("solver.prototxt"));
    place.fails(&format!("{TRAIN} --events ./net.prototxt"), &is_read("./net.prototxt"));
    let weights = "tiny_iter_20.caffemodel";
    place.fails(
        &format!("{TRAIN} --weights {weights} --evaluation-json {weights}"),
        &is_read(weights),
    );
    place.fails(
        &format!("test --model net.prototxt --weights {weights} --evaluation-json {weights}"),
        &is_read(weights),
    );
    place.fails("draw net.prototxt net.prototxt", &is_read("net.prototxt"));
    fs::copy(golden("images-idx3-ubyte"), place.path("t10k-images-idx3-ubyte")).unwrap();
    place.fails(
        "mean t10k-images-idx3-ubyte t10k-images-idx3-ubyte",
        &is_read("t10k-images-idx3-ubyte"),
    );
    place.fails(
        &format!("{TRAIN} --log x --events x"),
        "x: two outputs have this name: name a file for each",
    );
    assert!(before == files.map(|file| place.read(file)));
    place.succeeds(&format!("{TRAIN} --log /dev/null --events /dev/null"));
}

#[test]
fn a_run_that_does_not_begin_leaves_older_logs_alone() {
    let place = Workplace::new();
    place.write("old.log", "of last week\n");
    place.fails(
        &format!("{TRAIN} --log old.log --events new.jsonl --weights nope"),
        "cannot read nope: No such file or directory (os error 2)",
    );
    assert_eq!(place.text("old.log"), "of last week\n");
    place.succeeds(&format!("{TRAIN} --log old.log"));
    assert!(!place.text("old.log").contains("of last week"));
}

#[test]
fn names_that_no_snapshot_can_have_are_found_before_training() {
    let place = Workplace::new();
    for (prefix, sentence) in [
        (
            "tiny/",
            "error: tiny: snapshots go to this folder, which does not exist: ",
        ),
        (
            &"a".repeat(250),
            "error: .: snapshots cannot be written to this folder (",
        ),
        ("a\\000b", "error: .: snapshots cannot be written to this folder ("),
    ] {
        place.edit_solver("\"tiny\"", &format!("\"{prefix}\""));
        let before = place.names();
        let output = place.run("train --solver solver.prototxt --no-progress");
        assert!(stderr(&output).starts_with(sentence), "{}", stderr(&output));
        assert!(output.stdout.is_empty(), "it had begun");
        assert_eq!((output.status.code(), place.names()), (Some(1), before));
    }
}

#[test]
fn ctrl_c_while_data_are_written_leaves_nothing() {
    let place = Workplace::new();
    let images = golden("jpg");
    let list = fs::read_to_string(golden("list.txt")).unwrap();
    // Enough for minutes.
    place.write("list.txt", list.repeat(20_000));
    let before = place.names();
    let mut running = place.start(&format!("convert {} list.txt out", images.display()));
    running.wait_until("the LMDB", || {
        place.names().iter().any(|name| {
            name.starts_with("out.tmp-") && fs::metadata(place.path(name).join("data.mdb")).is_ok_and(|m| m.len() > 0)
        })
    });
    running.signal("INT");
    assert_eq!(running.finish().0, Some(130));
    assert_eq!(place.names(), before);
}

#[test]
fn what_killed_snapshots_left_goes_when_the_run_is_resumed() {
    let place = Workplace::trained();
    let abandoned = ".tiny_iter_20.solverstate.123456789-7.tmp";
    place.write(abandoned, "half");
    place.write(".tiny_iter_20.solverstate.mine.tmp", "of somebody else");
    place.succeeds(&format!("{TRAIN} --snapshot tiny_iter_10.solverstate"));
    assert!(!place.path(abandoned).exists());
    assert!(place.path(".tiny_iter_20.solverstate.mine.tmp").exists());
}
