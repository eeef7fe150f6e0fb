//! `docs/caffe.md` names every layer type and every solver type that exists, and says so of none that does not.

use std::{collections::BTreeSet, path::Path};

use sparknet_engine::{SolverSpec, layers};
use sparknet_proto::caffe::SolverParameter;

/// The names in the first column of the table under a heading.
fn names(heading: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/caffe.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with("| type |"));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap_or_else(|| panic!("{row}")).to_owned())
        .collect()
}

#[test]
fn the_page_has_every_layer_type() {
    let types: BTreeSet<String> = layers::LAYERS.iter().map(|def| def.type_name.to_owned()).collect();
    assert_eq!(names("Layers"), types);
    assert_eq!(types.len(), 62, "Caffe's 61 types and CoSData");
}

#[test]
fn the_page_has_every_solver_type() {
    let page = names("Solvers");
    let solver = |name: &str| {
        SolverSpec::from_proto(&SolverParameter {
            r#type: Some(name.to_owned()),
            base_lr: Some(0.1),
            lr_policy: Some("fixed".to_owned()),
            ..Default::default()
        })
    };
    // The sentence about a type that does not exist lists those that do.
    let list = solver("none of them").unwrap_err().to_string();
    let (_, list) = list.split_once("use ").unwrap();
    for name in list.split([',', ' ']).filter(|word| !["", "or"].contains(word)) {
        assert!(page.contains(name), "docs/caffe.md has no row of {name}");
    }
    for name in &page {
        solver(name).unwrap_or_else(|error| panic!("docs/caffe.md: {error}"));
    }
}
