//! The text form: what is read, how it is printed, and what a user sees of a mistake.

use prost::Name;
use sparknet_proto::caffe::{
    Datum, LayerParameter, NetParameter, Phase, SolverParameter, pooling_parameter::PoolMethod,
};
use sparknet_proto::text;

fn parse<M: Name + Default>(input: &str) -> M {
    text::parse("test.prototxt", input).unwrap_or_else(|error| panic!("{error}"))
}

fn mistake<M: Name + Default>(input: &str) -> String {
    match text::parse::<M>("test.prototxt", input) {
        Ok(_) => panic!("{input} was read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn reads_every_spelling_of_a_message() {
    let expected = parse::<NetParameter>("layer { name: \"a\" pooling_param { pool: AVE } }");
    assert_eq!(expected.layer[0].pooling_param.unwrap().pool(), PoolMethod::Ave);
    for spelling in [
        "layer: { name: \"a\" pooling_param: { pool: AVE } }",
        "layer < name: 'a' pooling_param < pool: AVE > >",
        "layer{name:\"a\"pooling_param{pool:AVE}}",
        "layer { name: \"a\"; pooling_param { pool: AVE, }, };",
        "# first\nlayer { # second\n name: \"a\" # \"third\"\r\n pooling_param { pool: 1 } } # last",
        "layer: [{ name: \"a\" pooling_param { pool: AVE } }]",
        "layer [ < name: \"a\" pooling_param { pool: AVE } > ]",
        "\u{feff}layer { name: \"a\" pooling_param { pool: AVE } }",
    ] {
        assert_eq!(parse::<NetParameter>(spelling), expected, "{spelling}");
    }
}

#[test]
fn reads_lists() {
    let solver: SolverParameter = parse("stepvalue: [1, 2] stepvalue: 3 stepvalue: [] test_net: ['a' 'b', \"c\"]");
    assert_eq!(solver.stepvalue, [1, 2, 3]);
    assert_eq!(solver.test_net, ["ab", "c"]);
    assert_eq!(parse::<NetParameter>("layer [{}, {}]").layer.len(), 2);
}

#[test]
fn reads_floats() {
    let cases: &[(&str, f32)] = &[
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-5", 1e-5),
        ("1.e2", 100.0),
        ("1E+2", 100.0),
        ("1f", 1.0),
        ("1.5F", 1.5),
        ("-2", -2.0),
        ("- 2.5", -2.5),
        ("0", 0.0),
        ("inf", f32::INFINITY),
        ("-Infinity", f32::NEG_INFINITY),
        ("3.40282347e+38", f32::MAX),
        ("0.1", 0.1),
    ];
    for (written, expected) in cases {
        let solver: SolverParameter = parse(&format!("base_lr: {written}"));
        assert_eq!(solver.base_lr, Some(*expected), "{written}");
    }
    assert!(parse::<SolverParameter>("base_lr: nan").base_lr().is_nan());
}

#[test]
fn reads_integers() {
    for (written, expected) in [
        ("7", 7),
        ("-7", -7),
        ("017", 15),
        ("0x1F", 31),
        ("-2147483648", i32::MIN),
        ("0", 0),
    ] {
        let solver: SolverParameter = parse(&format!("display: {written}"));
        assert_eq!(solver.display, Some(expected), "{written}");
    }
    assert_eq!(
        parse::<SolverParameter>("random_seed: -0x7fffffffffffffff").random_seed(),
        -i64::MAX
    );
}

#[test]
fn reads_booleans_and_enums() {
    for (written, expected) in [
        ("true", true),
        ("True", true),
        ("t", true),
        ("1", true),
        ("false", false),
        ("f", false),
        ("0", false),
    ] {
        assert_eq!(
            parse::<SolverParameter>(&format!("debug_info: {written}")).debug_info,
            Some(expected),
            "{written}"
        );
    }
    assert_eq!(parse::<LayerParameter>("phase: TEST").phase(), Phase::Test);
}

#[test]
fn reads_strings() {
    let name = |written: &str| parse::<LayerParameter>(&format!("name: {written}")).name().to_owned();
    assert_eq!(name(r#""a" 'b' "c""#), "abc");
    assert_eq!(name("\"a\" # comment\n 'b'"), "ab");
    assert_eq!(
        name(r#""\n\t\\\"\'\101\x41\u00e9\U0001f600\303\251""#),
        "\n\t\\\"'AA\u{e9}\u{1f600}\u{e9}"
    );
    assert_eq!(name("'conv1/3×3'"), "conv1/3×3");
    assert_eq!(parse::<Datum>(r#"data: "\000\377\xfe""#).data(), [0, 255, 254]);
}

#[test]
fn prints_floats_as_caffe_does() {
    for (value, expected) in [
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (0.0001, "0.0001"),
        (0.00390625, "0.00390625"),
        (123456.0, "123456"),
        (1e6, "1e+06"),
        (1234567.0, "1234567"),
        (16777216.0, "16777216"),
        (1e20, "1e+20"),
        (2.5e-10, "2.5e-10"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
        (f32::NAN, "nan"),
    ] {
        let solver = SolverParameter {
            base_lr: Some(value),
            ..Default::default()
        };
        assert_eq!(text::print(&solver), format!("base_lr: {expected}\n"));
    }
}

#[test]
fn prints_strings_and_bytes() {
    let layer: LayerParameter = parse(r#"name: "a\"\\\n\001é" "#);
    assert_eq!(text::print(&layer), "name: \"a\\\"\\\\\\n\\001é\"\n");
    let datum: Datum = parse(r#"data: "a\377\000" label: 3"#);
    assert_eq!(text::print(&datum), "data: \"a\\377\\000\"\nlabel: 3\n");
}

#[test]
fn shows_an_unknown_field() {
    assert_eq!(
        mistake::<SolverParameter>("net: \"net.prototxt\"\n\n    base_lrr: 0.01  # rate\n"),
        "test.prototxt:3:5: SolverParameter has no field \"base_lrr\"\n\
        \u{20}       base_lrr: 0.01  # rate\n\
        \u{20}       ^^^^^^^^ did you mean \"base_lr\"?"
    );
    assert_eq!(
        mistake::<NetParameter>("layer {\n\tnum_output: 10 }"),
        "test.prototxt:2:2: LayerParameter has no field \"num_output\"\n\
        \u{20}    num_output: 10 }\n\
        \u{20}    ^^^^^^^^^^ it belongs inside convolution_param or inner_product_param or embed_param or recurrent_param"
    );
    assert_eq!(
        mistake::<NetParameter>("base_lr: 0.01"),
        "test.prototxt:1:1: NetParameter has no field \"base_lr\"\n\
        \u{20}   base_lr: 0.01\n\
        \u{20}   ^^^^^^^ it is a field of SolverParameter"
    );
    assert_eq!(
        mistake::<NetParameter>("state { foo: 1 }"),
        "test.prototxt:1:9: NetState has no field \"foo\"\n\
        \u{20}   state { foo: 1 }\n\
        \u{20}           ^^^ expected one of phase, level, stage"
    );
}

/// The fact, the marked part of the line, and what was expected.
fn parts<M: Name + Default>(input: &str) -> (String, String, String) {
    let message = mistake::<M>(input);
    let lines: Vec<&str> = message.split('\n').collect();
    let [head, line, carets] = lines[..] else {
        panic!("{message} has not three lines");
    };
    let fact = head.splitn(4, ':').nth(3).unwrap().trim();
    let start = carets.find('^').unwrap();
    let width = carets.chars().filter(|&c| c == '^').count();
    let marked: String = line.chars().skip(start).take(width).collect();
    (fact.to_owned(), marked, carets[start + width..].trim().to_owned())
}

#[test]
fn shows_what_was_expected() {
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "base_lr 0.01",
            "base_lr has no colon after it",
            "0.01",
            "expected \"base_lr: 0.01\"",
        ),
        (
            "base_lr: \"fixed\"",
            "base_lr is a number, found \"fixed\"",
            "\"fixed\"",
            "expected a value such as 0.01",
        ),
        (
            "base_lr:\n",
            "base_lr is a number, found the end of the file",
            "",
            "expected a value such as 0.01",
        ),
        (
            "base_lr: 1e39",
            "this number does not fit base_lr",
            "1e39",
            "expected a number from -3.4e+38 to 3.4e+38, or inf",
        ),
        (
            "base_lr: 0x10",
            "base_lr is a number with a fraction, found 0x10",
            "0x10",
            "expected a decimal number without leading zeros",
        ),
        (
            "base_lr: 0.01.5",
            "\"0.01.5\" is not a number",
            "0.01.5",
            "expected a number such as 3, -0.5 or 1e-05, with a space after it",
        ),
        (
            "base_lr: 0.01s",
            "\"0.01s\" is not a number",
            "0.01s",
            "expected a number such as 3, -0.5 or 1e-05, with a space after it",
        ),
        (
            "display: 089",
            "\"089\" is not a number",
            "089",
            "expected a number such as 3, -0.5 or 1e-05, with a space after it",
        ),
        (
            "display: 1.5",
            "display is a whole number from -2147483648 to 2147483647, found 1.5",
            "1.5",
            "expected a number without a fraction",
        ),
        (
            "display: -2147483649",
            "this number does not fit display",
            "-2147483649",
            "expected a whole number from -2147483648 to 2147483647",
        ),
        (
            "net: lenet",
            "net is a text, found \"lenet\"",
            "lenet",
            "expected quotes: \"lenet\"",
        ),
        (
            "net: \"lenet\nbase_lr: 1",
            "this text has no closing quote on its line",
            "\"lenet",
            "expected \" at its end, and \\n for a line break",
        ),
        (
            "net: \"C:\\models\"",
            "this text has an unknown escape",
            "\\m",
            r#"expected \n, \t, \", \\, an octal \101 or a hexadecimal \x41; write \\ for a backslash"#,
        ),
        (
            "net: '\\377'",
            "the escapes in net make no UTF-8 text",
            "'\\377'",
            "expected \\u escapes, or the characters themselves",
        ),
        (
            "debug_info: yes",
            "debug_info is true or false, found \"yes\"",
            "yes",
            "expected a value such as true",
        ),
        (
            "solver_mode: GPV",
            "solver_mode has no value \"GPV\"",
            "GPV",
            "did you mean \"GPU\"?",
        ),
        (
            "solver_mode: \"CPU\"",
            "solver_mode has no value \"CPU\"",
            "\"CPU\"",
            "expected CPU without quotes",
        ),
        (
            "solver_mode: 7",
            "solver_mode has no value \"7\"",
            "7",
            "expected one of CPU, GPU",
        ),
        (
            "base_lr: 1\nmax_iter: 5\nbase_lr: 2",
            "base_lr is given twice",
            "base_lr",
            "it may be given once and stands in line 1 already",
        ),
        (
            "train_state {} train_state {}",
            "train_state is given twice",
            "train_state",
            "it may be given once and stands in line 1 already",
        ),
        (
            "train_state: 3",
            "train_state is a message, found \"3\"",
            "3",
            "expected a value such as train_state { … }",
        ),
        (
            "train_state {\n level: 1\n",
            "train_state is not closed before the end of the file",
            "{",
            "expected its \"}\"",
        ),
        (
            "train_state { level: 1 >",
            "found \">\"",
            ">",
            "expected a field of NetState or \"}\"",
        ),
        (
            "display: 1 }",
            "found \"}\"",
            "}",
            "expected a field of SolverParameter",
        ),
        (
            "display: [1]",
            "display is a whole number from -2147483648 to 2147483647, found \"[\"",
            "[",
            "expected a value such as 1",
        ),
        (
            "stepvalue: [1 2]",
            "found \"2\" in the list of stepvalue",
            "2",
            "expected \",\" or \"]\"",
        ),
        (
            "display: 1 @",
            "the character '@' means nothing here",
            "@",
            "expected a field's name, or quotes around a text",
        ),
        (
            "é: 1",
            "the character 'é' means nothing here",
            "é",
            "expected a field's name, or quotes around a text",
        ),
    ];
    for (input, fact, marked, expected) in cases {
        let found = parts::<SolverParameter>(input);
        assert_eq!(
            (found.0.as_str(), found.1.as_str(), found.2.as_str()),
            (*fact, *marked, *expected),
            "{input}"
        );
    }
    assert_eq!(
        parts::<LayerParameter>("convolution_param { group: -1 }"),
        (
            "this number does not fit group".to_owned(),
            "-1".to_owned(),
            "expected a whole number from 0 to 4294967295".to_owned()
        )
    );
    assert_eq!(
        parts::<LayerParameter>("clip_param { min: 0 }"),
        (
            "clip_param has no max".to_owned(),
            "clip_param".to_owned(),
            "expected \"max: …\" inside it".to_owned()
        )
    );
}

#[test]
fn shows_only_the_surroundings_in_a_long_line() {
    let input = format!(
        "{} foo: 1 {}",
        "stepvalue: 1 ".repeat(10_000),
        "stepvalue: 1 ".repeat(10_000)
    );
    let error = text::parse::<SolverParameter>("test.prototxt", &input).unwrap_err();
    assert_eq!((error.line(), error.column()), (1, 130_002));
    let message = error.to_string();
    assert!(message.len() < 600, "{} bytes", message.len());
    assert_eq!(parts::<SolverParameter>(&input).1, "foo");
}

/// Unknown fields end the reading, known ones end with the schema, so no text can go deep.
#[test]
fn deep_nesting_is_a_mistake() {
    for open in ["layer {", "layer <", "[", "state: [", "a {"] {
        mistake::<NetParameter>(&open.repeat(1_000_000));
    }
}
