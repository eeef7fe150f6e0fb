//! Runs that are stopped or killed, and what is left of them.

use crate::workplace::{SOLVER, Workplace};

/// Never ends by itself, and writes nothing unless asked to.
const ENDLESS: &str = r#"net: "net.prototxt"
test_iter: 5
test_interval: 100000000
test_initialization: false
base_lr: 0.01
lr_policy: "fixed"
momentum: 0.9
max_iter: 100000000
snapshot_prefix: "tiny"
random_seed: 7
"#;

fn count(place: &Workplace, needle: &str) -> usize {
    std::fs::read_to_string(place.path("events.jsonl")).map_or(0, |events| events.matches(needle).count())
}

/// The weights after `iterations` of a run that nobody interrupts.
fn weights_of_uninterrupted_run(flags: &str, iterations: u64) -> Vec<u8> {
    let place = Workplace::new();
    place.write("solver.prototxt", ENDLESS);
    place.succeeds(&format!(
        "train --solver solver.prototxt --quiet {flags} --max-iter {iterations}"
    ));
    place.read(&format!("tiny_iter_{iterations}.caffemodel"))
}

#[test]
fn ctrl_c_writes_a_snapshot_and_says_how_to_go_on() {
    let place = Workplace::new();
    place.write("solver.prototxt", ENDLESS);
    let flags = "--workers 2 --tau 5";
    let mut running = place.start(&format!(
        "train --solver solver.prototxt --quiet --events events.jsonl {flags}"
    ));
    running.wait_until("the first rounds", || count(&place, "\"event\":\"round\"") >= 3);
    running.signal("HUP");
    running.wait_until("the snapshot", || count(&place, "\"event\":\"snapshot\"") == 1);
    running.signal("INT");
    let (code, text) = running.finish();
    assert_eq!(code, Some(0), "{text}");

    let words: Vec<&str> = text.split_whitespace().collect();
    let iteration: u64 = words[2].parse().unwrap();
    let hint =
        format!("--solver solver.prototxt --snapshot tiny_iter_{iteration}.solverstate {flags} --events events.jsonl");
    assert_eq!(
        text,
        format!("stopped after {iteration} iterations; to go on: sparknet train {hint}\n")
    );
    assert_eq!(iteration % 5, 0, "it stops at the end of a round");
    assert_eq!(count(&place, "\"event\":\"snapshot\""), 2);

    let end = iteration + 23;
    place.succeeds(&format!("train {hint} --quiet --max-iter {end}"));
    let resumed = place.read(&format!("tiny_iter_{end}.caffemodel"));
    assert!(
        resumed == weights_of_uninterrupted_run(flags, end),
        "resumed after {iteration} iterations"
    );
}

#[test]
fn a_killed_run_goes_on_from_its_last_snapshot() {
    let place = Workplace::new();
    place.write("solver.prototxt", format!("{ENDLESS}snapshot: 7\n"));
    let flags = "--workers 3 --tau 4 --history average";
    let mut running = place.start(&format!(
        "train --solver solver.prototxt --quiet --events events.jsonl {flags}"
    ));
    running.wait_until("three snapshots", || count(&place, "\"event\":\"snapshot\"") >= 3);
    running.signal("KILL");
    assert_eq!(running.finish().0, None);

    let iteration_of = |name: &String| {
        name.strip_prefix("tiny_iter_")?
            .strip_suffix(".solverstate")?
            .parse::<u64>()
            .ok()
    };
    let last = place.names().iter().filter_map(iteration_of).max().unwrap();
    assert!(last >= 21 && last % 7 == 0, "{last}");
    let end = last + 10;
    place.succeeds(&format!(
        "train --solver solver.prototxt --quiet {flags} --snapshot tiny_iter_{last}.solverstate --max-iter {end} \
         --events events.jsonl"
    ));
    let resumed = place.read(&format!("tiny_iter_{end}.caffemodel"));
    assert!(
        resumed == weights_of_uninterrupted_run(flags, end),
        "killed after iteration {last}"
    );
    // What was cut off in the middle does not spoil the events that follow.
    assert_eq!(count(&place, "\"event\":\"start\""), 2);
    assert_eq!(count(&place, "\"event\":\"finish\""), 1);
}

#[test]
fn a_second_ctrl_c_stops_at_once() {
    let place = Workplace::new();
    place.write("solver.prototxt", ENDLESS);
    // The round never ends, so the first Ctrl-C waits for ever.
    let mut running =
        place.start("train --solver solver.prototxt --quiet --events events.jsonl --workers 2 --tau 1000000000");
    running.wait_until("the start", || count(&place, "\"event\":\"start\"") == 1);
    let mut signals = 0;
    let code = loop {
        if let Some(code) = running.exit_code() {
            break code;
        }
        assert!(signals < 100, "does not stop");
        running.signal("INT");
        signals += 1;
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert_eq!(code, 130);
    assert!(signals >= 2, "the first one lets the round end");
    assert_eq!(place.names(), ["db", "events.jsonl", "net.prototxt", "solver.prototxt"]);
}

#[test]
fn ctrl_c_can_ask_for_a_snapshot_alone() {
    let place = Workplace::new();
    place.write("solver.prototxt", ENDLESS);
    let mut running = place.start(
        "train --solver solver.prototxt --quiet --events events.jsonl --sigint-effect snapshot --sighup-effect stop",
    );
    running.wait_until("the first rounds", || count(&place, "\"event\":\"round\"") >= 1);
    running.signal("INT");
    running.wait_until("the snapshot", || count(&place, "\"event\":\"snapshot\"") == 1);
    running.signal("HUP");
    let (code, text) = running.finish();
    assert_eq!(code, Some(0));
    assert!(text.starts_with("stopped after "), "{text}");
}

#[test]
fn snapshot_of_a_finished_run_trains_on() {
    let place = Workplace::new();
    assert!(SOLVER.contains("max_iter: 20"));
    place.succeeds("train --solver solver.prototxt --quiet --sync allreduce --workers 2");
    place.succeeds(
        "train --solver solver.prototxt --quiet --sync allreduce --workers 2 --max-iter 30 \
         --snapshot tiny_iter_20.solverstate",
    );
    let resumed = place.read("tiny_iter_30.caffemodel");
    place.succeeds("train --solver solver.prototxt --quiet --sync allreduce --workers 2 --max-iter 30");
    assert!(resumed == place.read("tiny_iter_30.caffemodel"));
}
