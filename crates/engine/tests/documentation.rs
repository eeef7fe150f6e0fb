//! `docs/caffe.md` names every layer type and every solver type that exists, and says so of none that does not; and what
//! ARCHITECTURE.md says of who reads messages.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sparknet_engine::{SolverSpec, layers};
use sparknet_proto::{caffe::SolverParameter, reflect};

/// The names in the first column of the table under a heading.
fn names(heading: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/caffe.md");
    let page = fs::read_to_string(path).unwrap();
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

/// The source files under a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn parameter_messages_are_read_by_the_spec_alone() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for crate_name in ["engine", "data", "sync", "train", "cli"] {
        sources(&project.join("crates").join(crate_name).join("src"), &mut files);
    }
    sources(&project.join("python/src"), &mut files);
    // The builder writes them.
    let allowed = ["engine/src/spec", "engine/src/builder"].map(|folder| project.join("crates").join(folder));
    files.retain(|file| !file.ends_with("tests.rs") && !allowed.iter().any(|folder| file.starts_with(folder)));
    assert!(files.len() > 100, "{} files", files.len());

    let layer = reflect::message("LayerParameter").unwrap();
    let names: Vec<String> = layer.fields().map(|field| field.name().to_owned()).collect();
    let messages: BTreeSet<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with("_param"))
        .collect();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("\nmod tests {").next().unwrap();
        // `layer.pool_param` is a field; `self.bias_param()` is something else.
        let is_read = |(name, rest): &(&str, &str)| messages.contains(name) && !rest.starts_with('(');
        let after_dots = code.split('.').skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            rest.split_at(end.unwrap_or(rest.len()))
        });
        let read: Vec<&str> = after_dots.filter(is_read).map(|(name, _)| name).collect();
        assert!(
            read.is_empty(),
            "{} reads {read:?}: give the spec what it wants to know",
            file.display()
        );
    }
}
