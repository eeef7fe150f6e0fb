//! Legacy files must become what Caffe's own upgrade tools print for them.

use std::{env, fmt::Debug, fs, path::Path, path::PathBuf};

use prost::Name;
use sparknet_proto::{caffe::NetParameter, caffe::SolverParameter, read_net, read_solver, text};

/// Every legacy file, and beside it what Caffe makes of it.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let golden = env::var_os("SPARKNET_GOLDEN").map_or(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden"),
        PathBuf::from,
    );
    let folder = golden.join("upgrade");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut legacy: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    legacy.retain(|path| path.extension().is_some_and(|extension| extension == "prototxt"));
    legacy.sort();
    assert!(!legacy.is_empty(), "no .prototxt in {}", folder.display());
    let after = |path: &PathBuf| folder.join("after").join(path.file_name().unwrap());
    legacy.iter().map(|path| (path.clone(), after(path))).collect()
}

fn is_solver(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().contains("solver")
}

#[test]
fn golden_upgrade() {
    for (legacy, after) in cases() {
        let shown = legacy.display();
        if is_solver(&legacy) {
            let expected: SolverParameter = text::read_file(&after).unwrap();
            assert_eq!(read_solver(&legacy).unwrap(), expected, "{shown}");
        } else {
            let expected: NetParameter = text::read_file(&after).unwrap();
            assert_eq!(read_net(&legacy).unwrap(), expected, "{shown}");
        }
    }
}

/// Caffe's own print of a message comes out of ours letter for letter.
#[test]
fn golden_print() {
    fn check<M: Name + Default + Debug + PartialEq>(path: &Path, is_printed: bool) {
        let message: M = text::read_file(path).unwrap();
        let printed = text::print(&message);
        assert_eq!(
            text::parse::<M>("printed", &printed).unwrap(),
            message,
            "{}",
            path.display()
        );
        if is_printed {
            assert_eq!(printed, fs::read_to_string(path).unwrap(), "{}", path.display());
        }
    }
    for (legacy, after) in cases() {
        if is_solver(&legacy) {
            check::<SolverParameter>(&legacy, false);
            check::<SolverParameter>(&after, true);
        } else {
            check::<NetParameter>(&legacy, false);
            check::<NetParameter>(&after, true);
        }
    }
}
