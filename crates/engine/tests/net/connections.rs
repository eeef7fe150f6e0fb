//! Who is in the net, and who reads what.

use sparknet_engine::{NetState, Phase};

use super::{input, message, net, simple, spec};

#[test]
fn rules_choose_the_layers() {
    let layer = |name: &str, rules: &str| {
        format!("layer {{ name: '{name}' type: 'Split' bottom: 'x' top: '{name}' {rules} }}\n")
    };
    let prototxt = [
        input("x", &[1]),
        layer("always", ""),
        layer("train", "include { phase: TRAIN }"),
        layer("not_train", "exclude { phase: TRAIN }"),
        layer("level_1_to_3", "include { min_level: 1 max_level: 3 }"),
        layer("a_and_b", "include { stage: 'a' stage: 'b' }"),
        layer("a_not_b", "include { stage: 'a' not_stage: 'b' }"),
        layer("test_or_a", "include { phase: TEST } include { stage: 'a' }"),
        layer("neither_test_nor_a", "exclude { phase: TEST } exclude { stage: 'a' }"),
    ]
    .concat();
    let names = |phase, level, stages: &[&str]| {
        let stages = stages.iter().map(|stage| (*stage).to_owned()).collect();
        let spec = spec(&prototxt, NetState { phase, level, stages }).unwrap();
        let names: Vec<String> = spec.layers.iter().skip(2).map(|layer| layer.name.clone()).collect();
        names.join(" ")
    };
    assert_eq!(names(Phase::Train, 0, &[]), "train neither_test_nor_a");
    assert_eq!(names(Phase::Test, 0, &[]), "not_train test_or_a");
    assert_eq!(names(Phase::Train, 1, &["b"]), "train level_1_to_3 neither_test_nor_a");
    assert_eq!(names(Phase::Train, 3, &["a"]), "train level_1_to_3 a_not_b test_or_a");
    assert_eq!(names(Phase::Test, 4, &["a", "b"]), "not_train a_and_b test_or_a");
}

#[test]
fn rules_that_leave_nothing_or_contradict_are_refused() {
    let error =
        message("layer { name: 'x' type: 'Input' top: 'x' include { phase: TEST } input_param { shape { dim: 1 } } }");
    assert!(error.contains("no layer is left") && error.contains("Train"), "{error}");
    let both = "layer { name: 'x' type: 'Input' top: 'x' include { phase: TEST } exclude { stage: 'a' } }";
    assert!(
        message(both).contains("'x'") && message(both).contains("not both"),
        "{}",
        message(both)
    );
}

#[test]
fn the_net_state_is_overlaid() {
    let message = sparknet_proto::caffe::NetState {
        phase: None,
        level: Some(2),
        stage: vec!["b".to_owned()],
    };
    let mut state = NetState::new(Phase::Test);
    state.stages.push("a".to_owned());
    let merged = state.merge(Some(&message));
    assert_eq!((merged.phase, merged.level), (Phase::Test, 2));
    assert_eq!(merged.stages, ["a", "b"]);
}

#[test]
fn unknown_bottoms_cycles_and_duplicates_are_named() {
    let error = message(&format!("{}{}", input("x", &[1]), simple("TanH", "z", "y")));
    assert_eq!(
        error,
        "layer 'TanH z y' reads blob 'z', which no layer before it writes: there is 'x'"
    );
    let error = message(&simple("TanH", "z", "y"));
    assert!(
        error.ends_with("begin the net with a layer that brings data in, an Input say"),
        "{error}"
    );
    let cycle = format!("{}{}", simple("TanH", "b", "a"), simple("Sigmoid", "a", "b"));
    let error = message(&cycle);
    assert!(
        error.starts_with("layer 'TanH b a' reads blob 'b', which layer 'Sigmoid a b' writes only later"),
        "{error}"
    );
    let error = message(&simple("TanH", "a", "a"));
    assert!(error.contains("a layer cannot read its own top"), "{error}");
    let twice = format!(
        "{}{}{}",
        input("x", &[1]),
        simple("TanH", "x", "y"),
        simple("Sigmoid", "x", "y")
    );
    let error = message(&twice);
    assert!(
        error.starts_with("layer 'Sigmoid x y' writes blob 'y' that layer 'TanH x y' has already written"),
        "{error}"
    );
}

#[test]
fn outputs_are_what_nobody_reads_by_name() {
    let net = net(&[
        input("x", &[1]),
        simple("TanH", "x", "z"),
        simple("TanH", "x", "y"),
        simple("ReLU", "z", "z"),
    ]
    .concat());
    assert_eq!(net.output_names(), ["y", "z"]);
    assert_eq!(net.blob_names(), ["x", "y", "z"]);
    let error = net.blob_data("w").unwrap_err().to_string();
    assert_eq!(error, "the net has no blob 'w': it has x, y, z");
}
