//! The binary form on disk: whole files, broken files, and files that take the place of others.

use std::{env, fs, path::PathBuf, process};

use prost::Message;
use sparknet_proto::caffe::{BlobProto, BlobShape, NetParameter, SolverState};
use sparknet_proto::{binary, read_net, read_solver, read_weights};

/// An empty folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("sparknet-proto-{test}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn state() -> SolverState {
    let history = BlobProto {
        shape: Some(BlobShape { dim: vec![2, 3] }),
        data: vec![1.5; 6],
        ..Default::default()
    };
    SolverState {
        iter: Some(200),
        learned_net: Some("lenet_iter_200.caffemodel".to_owned()),
        history: vec![history],
        ..Default::default()
    }
}

#[test]
fn what_is_written_is_read() {
    let folder = Folder::new("round-trip");
    let path = folder.file("a.solverstate");
    binary::write_file(&path, &SolverState::default()).unwrap();
    binary::write_file(&path, &state()).unwrap();
    assert_eq!(binary::read_file::<SolverState>(&path).unwrap(), state());
    assert_eq!(folder.names(), ["a.solverstate"]);
}

#[test]
fn a_write_that_fails_leaves_the_folder_as_it_was() {
    let folder = Folder::new("failed-write");
    fs::create_dir(folder.file("taken")).unwrap();
    let error = binary::write_bytes_whole(&folder.file("taken"), b"x")
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("taken: it is a folder or a device: name a file"),
        "{error}"
    );
    let error = binary::write_bytes_whole(&folder.file("none/a"), b"x")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot write ") && error.contains("none/a: No such file"),
        "{error}"
    );
    // A name that is valid, but too long once the temporary suffix is on it.
    assert!(binary::write_bytes_whole(&folder.file(&"n".repeat(255)), b"x").is_err());
    assert_eq!(folder.names(), ["taken"]);
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_stays_and_a_device_is_refused() {
    let folder = Folder::new("links");
    fs::write(folder.file("target"), "old").unwrap();
    std::os::unix::fs::symlink("target", folder.file("link")).unwrap();
    binary::write_bytes_whole(&folder.file("link"), b"new").unwrap();
    assert!(fs::symlink_metadata(folder.file("link")).unwrap().is_symlink());
    assert_eq!(fs::read(folder.file("target")).unwrap(), b"new");
    let error = binary::write_bytes_whole("/dev/null".as_ref(), b"x").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write /dev/null: it is a folder or a device: name a file"
    );
}

#[test]
fn broken_files_are_told_apart() {
    let folder = Folder::new("broken");
    let whole = state().encode_to_vec();
    let damaged: Vec<u8> = whole.iter().map(|byte| byte ^ 0xff).collect();
    for (name, bytes, expected) in [
        (
            "empty",
            &whole[..0],
            "is not a whole SolverState: the file is empty: write or download it again",
        ),
        (
            "cut",
            &whole[..whole.len() - 5],
            "is not a whole SolverState: 5 bytes are missing at its end: write or download it again",
        ),
        (
            "text",
            b"iter: 200\n",
            "is not a whole SolverState: it is a text file: name the binary one",
        ),
        (
            "hdf5",
            b"\x89HDF\r\n\x1a\n\0\0",
            "is not a whole SolverState: it is an HDF5 file: give one in binary protobuf",
        ),
        (
            "damaged",
            &damaged,
            "is not a whole SolverState: failed to decode Protobuf message: invalid wire type value: 7: it is damaged or of another kind",
        ),
    ] {
        let path = folder.file(name);
        fs::write(&path, bytes).unwrap();
        let result = binary::read_file::<SolverState>(&path);
        let error = result.expect_err(name).to_string();
        assert_eq!(error, format!("{} {expected}", path.display()));
    }
    let error = binary::decode::<SolverState>(&whole[..2], "record 7 of train_lmdb").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("record 7 of train_lmdb is not a whole SolverState: "),
        "{error}"
    );
}

/// Every cut is noticed, save those between two fields, after which less is there but nothing is broken.
#[test]
fn every_cut_is_an_error_or_a_shorter_message() {
    let whole = state().encode_to_vec();
    let shorter = (0..whole.len())
        .filter(
            |&length| match binary::decode::<SolverState>(&whole[..length], "state") {
                Ok(message) => message.encoded_len() == length,
                Err(error) => !error.to_string().contains("is not a whole SolverState: "),
            },
        )
        .count();
    assert_eq!(shorter, 3);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = Folder::new("unreadable");
    let missing = folder.file("missing.prototxt");
    for error in [
        read_net(&missing).unwrap_err(),
        read_solver(&missing).unwrap_err(),
        read_weights(&missing).unwrap_err(),
    ] {
        let expected = format!(
            "cannot read {}: No such file or directory (os error 2)",
            missing.display()
        );
        assert_eq!(error.to_string(), expected);
    }
    let error = read_net(&folder.0).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot read {}: it is a folder: name a file", folder.0.display())
    );

    let binary_file = folder.file("net.caffemodel");
    fs::write(&binary_file, b"name: 'a'\n\xff").unwrap();
    let error = read_net(&binary_file).unwrap_err().to_string();
    let reason = "not UTF-8 text: save the file as UTF-8, or name a text file if this is a binary one";
    assert_eq!(error, format!("{}:2: {reason}", binary_file.display()));

    let mixed = folder.file("mixed.prototxt");
    fs::write(&mixed, "layer {} layers {}").unwrap();
    let error = read_net(&mixed).unwrap_err().to_string();
    let reason = "the net has both `layer` and `layers`: write every layer as `layer`";
    assert_eq!(error, format!("{}: {reason}", mixed.display()));
}

#[test]
fn a_file_beyond_the_limit_is_not_read() {
    let folder = Folder::new("limit");
    let path = folder.file("huge.caffemodel");
    // Sparse: it takes no room on disk.
    fs::File::create(&path)
        .unwrap()
        .set_len(binary::LIMIT_BYTES + 1)
        .unwrap();
    let error = binary::read_file::<NetParameter>(&path).unwrap_err().to_string();
    let expected = "has 2147483648 bytes or more, but a protobuf message ends at 2147483647: split it";
    assert_eq!(error, format!("{} {expected}", path.display()));
}
