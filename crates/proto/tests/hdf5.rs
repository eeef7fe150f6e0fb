//! Weights and solver states in HDF5: what is written is read, and what is wrong is told.

use std::{fs, path::PathBuf};

use sparknet_proto::caffe::{BlobProto, BlobShape, LayerParameter, NetParameter, SolverState, WorkerState};
use sparknet_proto::{binary, hdf5, read_state, read_weights};

fn blob(dims: &[i64], values: &[f32]) -> BlobProto {
    BlobProto {
        shape: Some(BlobShape { dim: dims.to_vec() }),
        data: values.to_vec(),
        ..Default::default()
    }
}

fn layer(name: &str, blobs: Vec<BlobProto>) -> LayerParameter {
    LayerParameter {
        name: Some(name.to_owned()),
        blobs,
        ..Default::default()
    }
}

fn net(layers: Vec<LayerParameter>) -> NetParameter {
    NetParameter {
        layer: layers,
        ..Default::default()
    }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../golden/snapshots")
        .join(name)
}

#[test]
fn weights_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.caffemodel.h5");
    // GoogLeNet's names have slashes; a layer may lie below another; the second layer leaves its first blob out.
    let odd = [f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX];
    let written = net(vec![
        layer("conv", vec![blob(&[2, 1, 1, 2], &odd), blob(&[2], &[3.0, 4.0])]),
        layer("conv/5x5", vec![BlobProto::default(), blob(&[1], &[5.0])]),
        layer("conv/5x5/relu", Vec::new()),
        layer("data", Vec::new()),
    ]);
    hdf5::write_weights(&path, &written).unwrap();
    let mut read = read_weights(&path).unwrap();
    read.layer.sort_by(|a, b| a.name().cmp(b.name()));
    let bits = |net: &NetParameter| {
        let blobs = |layer: &LayerParameter| {
            let blobs = layer.blobs.iter();
            let blobs = blobs.map(|blob| {
                (
                    blob.shape.clone(),
                    blob.data.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                )
            });
            (layer.name().to_owned(), blobs.collect::<Vec<_>>())
        };
        net.layer.iter().map(blobs).collect::<Vec<_>>()
    };
    assert_eq!(bits(&read), bits(&written));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    // Gradients lie beside the values, and change nothing for who reads those.
    let mut with_diff = written.clone();
    with_diff.layer[0].blobs[1].diff = vec![6.0, 7.0];
    let other = folder.path().join("b.h5");
    hdf5::write_weights(&other, &with_diff).unwrap();
    assert_ne!(fs::read(&other).unwrap(), fs::read(&path).unwrap());
    let mut read = read_weights(&other).unwrap();
    read.layer.sort_by(|a, b| a.name().cmp(b.name()));
    assert_eq!(bits(&read), bits(&written));
}

#[test]
fn states_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.solverstate.h5");
    let whole = SolverState {
        iter: Some(200),
        learned_net: Some("a_iter_200.caffemodel.h5".to_owned()),
        history: (0..12).map(|i| blob(&[1], &[i as f32])).collect(),
        current_step: Some(3),
        worker: vec![
            WorkerState::default(),
            WorkerState {
                history: vec![blob(&[2], &[1.0, 2.0])],
                weight: vec![blob(&[1, 1], &[3.0])],
                data_position_batches: vec![0, 1 << 40],
                recent_loss: vec![0.5, 0.25],
            },
        ],
        run_seed: Some(-1),
        run_sync: Some("--sync allreduce".to_owned()),
    };
    hdf5::write_state(&path, &whole).unwrap();
    assert_eq!(read_state(&path).unwrap(), whole);
    // The same by the other form, whatever the file is called.
    binary::write_file(&path, &whole).unwrap();
    assert_eq!(read_state(&path).unwrap(), whole);

    let caffes = read_state(&golden("adam_iter_6.solverstate.h5")).unwrap();
    assert_eq!(caffes, {
        let mut binary: SolverState = binary::read_file(&golden("adam_iter_6.solverstate")).unwrap();
        binary.learned_net = Some("adam_iter_6.caffemodel.h5".to_owned());
        binary
    });
}

#[test]
fn what_hdf5_cannot_hold_is_refused_and_nothing_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    let cases = [
        (net(vec![layer("a//b", Vec::new())]), "no path for a layer named 'a//b'"),
        (net(vec![layer("", Vec::new())]), "no path for a layer named ''"),
        (net(vec![layer("..", Vec::new())]), "no path for a layer named '..'"),
        (
            net(vec![layer("a", vec![blob(&[1], &[0.0])]), layer("a/0", Vec::new())]),
            "layer 'a/0': the path /data/a/0 would be there twice",
        ),
        (
            net(vec![layer("a", vec![blob(&[2], &[0.0])])]),
            "a blob of shape [2] has 1 values",
        ),
    ];
    for (net, expected) in cases {
        let error = hdf5::write_weights(&path, &net).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: ", path.display())) && error.contains(expected),
            "{error}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn files_of_another_kind_are_told_apart() {
    let error = |result: Result<(), sparknet_proto::Error>| result.unwrap_err().to_string();
    let state = golden("sgd_iter_6.solverstate.h5");
    let weights = golden("sgd_iter_6.caffemodel.h5");
    let found = error(read_weights(&state).map(|_| ()));
    assert!(
        found.contains("it is a .solverstate.h5: give the .caffemodel.h5"),
        "{found}"
    );
    let found = error(read_state(&weights).map(|_| ()));
    assert!(found.contains("so it is no solver state"), "{found}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    for (place, read_as_state, expected) in [
        (
            "data/0",
            false,
            "/data/0 is an array where a layer's blobs are named 0, 1",
        ),
        ("data/conv/weights", false, "/data/conv/weights is an array"),
        ("data/conv/4000000000", false, "/data/conv/4000000000 is an array"),
        ("history/1", true, "/history has 1 members, but none named 0"),
        ("history/0/0", true, "/history holds groups"),
    ] {
        let mut root = sparknet_hdf5::NewGroup::default();
        root.insert(place, sparknet_hdf5::NewDataset::i32(1)).unwrap();
        root.insert("iter", sparknet_hdf5::NewDataset::i64(1)).unwrap();
        root.write(&mut fs::File::create(&path).unwrap()).unwrap();
        let found = if read_as_state {
            error(read_state(&path).map(|_| ()))
        } else {
            error(read_weights(&path).map(|_| ()))
        };
        assert!(found.contains(expected), "{found}");
    }
    let mut root = sparknet_hdf5::NewGroup::default();
    root.group_at("history").unwrap();
    root.insert("iter", sparknet_hdf5::NewDataset::i64(1 << 40)).unwrap();
    root.write(&mut fs::File::create(&path).unwrap()).unwrap();
    let found = error(read_state(&path).map(|_| ()));
    assert!(found.contains("/iter is 1099511627776: it is damaged"), "{found}");
}

/// A file with any byte of its first part changed is read, or is an error that names it.
#[test]
fn damaged_snapshots_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    for name in ["sgd_iter_6.caffemodel.h5", "adam_iter_6.solverstate.h5"] {
        let whole = fs::read(golden(name)).unwrap();
        for at in (0..whole.len().min(4096)).step_by(13) {
            for byte in [0, 1, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                fs::write(&path, &bytes).unwrap();
                let results = [read_weights(&path).map(|_| ()), read_state(&path).map(|_| ())];
                for error in results.into_iter().filter_map(Result::err) {
                    assert!(error.to_string().contains("a.h5"), "{error}");
                }
            }
        }
    }
}
