//! What is written is read, by us and by HDF5's own library; what others wrote is read; what is damaged is an error.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sparknet_hdf5::{Dataset, Error, File, Group, NewDataset, NewGroup, Object, SIGNATURE};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../golden/snapshots")
        .join(name)
}

fn dataset<'f>(root: &Group<'f>, name: &str) -> Dataset<'f> {
    match root.open(name) {
        Ok(Some(Object::Dataset(dataset))) => dataset,
        Ok(_) => panic!("there is no array {name}"),
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Reads all that a group has, and says how many arrays that was and how many errors there were on the way.
fn read_all(group: &Group<'_>, depth: usize) -> (usize, usize) {
    let (mut arrays, mut errors) = (0, 0);
    for name in group.names() {
        match group.open(name) {
            // A damaged file's circle would be walked on each of its ways.
            Ok(Some(Object::Group(group))) if depth < 4 => {
                let below = read_all(&group, depth + 1);
                (arrays, errors) = (arrays + below.0, errors + below.1);
            }
            Ok(Some(Object::Dataset(dataset))) => {
                let text = || dataset.read_text().map(|_| Vec::new());
                match dataset.read_f32().or_else(|_| text()) {
                    Ok(_) => arrays += 1,
                    Err(_) => errors += 1,
                }
            }
            Ok(_) => {}
            Err(_) => errors += 1,
        }
    }
    (arrays, errors)
}

fn read_file(path: &Path) -> Result<(usize, usize), Error> {
    Ok(read_all(&File::open(path)?.root()?, 0))
}

#[test]
fn caffes_own_files_are_read() {
    let file = File::open(&golden("sgd_iter_6.caffemodel.h5")).unwrap();
    let root = file.root().unwrap();
    let Some(Object::Group(data)) = root.open("data").unwrap() else {
        panic!("/data is no group");
    };
    let names: Vec<&str> = data.names().collect();
    assert_eq!(names, ["conv", "data", "ip", "label", "loss", "pool", "relu"]);
    assert_eq!(dataset(&root, "data/conv/0").dims(), [6, 3, 3, 3]);
    assert_eq!(dataset(&root, "data/ip/1").read_f32().unwrap().len(), 5);
    assert!(root.open("data/relu/0").unwrap().is_none());

    let file = File::open(&golden("adam_iter_6.solverstate.h5")).unwrap();
    let root = file.root().unwrap();
    assert_eq!(dataset(&root, "iter").read_i64().unwrap(), [6]);
    assert_eq!(
        dataset(&root, "learned_net").read_text().unwrap(),
        "adam_iter_6.caffemodel.h5"
    );
    assert!(matches!(
        dataset(&root, "learned_net").read_f32(),
        Err(Error::OtherType { .. })
    ));
}

#[test]
fn h5pys_files_are_read() {
    let ramp: Vec<f32> = (0..70).map(|i| i as f32).collect();
    let file = File::open(&here("h5py.h5")).unwrap();
    let root = file.root().unwrap();
    for name in ["float", "double", "half", "gzip", "soft"] {
        let found = dataset(&root, name);
        assert_eq!(found.dims(), [10, 7], "{name}");
        assert_eq!(found.read_f32().unwrap(), ramp, "{name}");
    }
    let ints: Vec<i64> = (-5..5).collect();
    assert_eq!(dataset(&root, "int").read_i64().unwrap(), ints);
    assert_eq!(dataset(&root, "big_endian").read_i64().unwrap(), ints);
    assert_eq!(dataset(&root, "byte").read_f32().unwrap(), &ramp[..10]);
    assert_eq!(dataset(&root, "scalar").dims(), []);
    assert_eq!(dataset(&root, "scalar").read_f32().unwrap(), [7.0]);
    assert_eq!(dataset(&root, "text").read_text().unwrap(), "some text");
    assert_eq!(dataset(&root, "unwritten").read_f32().unwrap(), [3.0; 20]);
    for (name, what) in [("lzf", "the filter lzf"), ("boolean", "booleans")] {
        let error = root.open(name).err().unwrap().to_string();
        assert!(error.contains(what) && error.contains("write it again"), "{error}");
    }

    let file = File::open(&here("h5py_latest.h5")).unwrap();
    let root = file.root().unwrap();
    assert_eq!(dataset(&root, "float").read_f32().unwrap(), ramp);
    assert_eq!(dataset(&root, "group/int").read_i64().unwrap(), [0, 1, 2]);
    let error = root.open("chunked").err().unwrap().to_string();
    assert!(error.contains("HDF5 1.10"), "{error}");
}

#[test]
fn what_is_written_is_read_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    // More members than one node has, than one B-tree node has, and than two levels of nodes have.
    let odd = [f32::MIN_POSITIVE / 3.0, -0.0, f32::NAN, f32::INFINITY];
    for members in [0, 1, 8, 9, 256, 257, 9000] {
        let values: Vec<f32> = (0..members).map(|i| i as f32).collect();
        let stream = [1.0f32, 2.0].map(f32::to_le_bytes).concat();
        let mut root = NewGroup::default();
        for (i, value) in values.iter().enumerate() {
            let dataset = NewDataset::f32s(&[1, 1], std::slice::from_ref(value));
            root.insert(&format!("many/member {i}/0"), dataset).unwrap();
        }
        root.group_at("empty").unwrap();
        root.insert("odd", NewDataset::f32s(&[2, 2], &odd)).unwrap();
        root.insert("doubles", NewDataset::f64s(&[1], &[0.1])).unwrap();
        root.insert("i32", NewDataset::i32(-7)).unwrap();
        root.insert("i64", NewDataset::i64(i64::MIN)).unwrap();
        root.insert("u64s", NewDataset::u64s(&[1, 1 << 40])).unwrap();
        root.insert("text", NewDataset::text("läuft")).unwrap();
        root.insert("stream", NewDataset::f32_stream(&[2], Box::new(stream.as_slice())))
            .unwrap();
        assert!(matches!(root.insert("odd/0", NewDataset::i32(1)), Err(Error::Twice(_))));
        assert!(matches!(root.insert("odd", NewDataset::i32(1)), Err(Error::Twice(_))));
        root.write(&mut fs::File::create(&path).unwrap()).unwrap();

        let file = File::open(&path).unwrap();
        let root = file.root().unwrap();
        if let Some(Object::Group(many)) = root.open("many").unwrap() {
            assert_eq!(many.names().count(), members);
            for (i, value) in values.iter().enumerate().step_by(1 + members / 300) {
                let found = dataset(&many, &format!("member {i}/0"));
                assert_eq!(found.read_f32().unwrap(), [*value]);
            }
        }
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&dataset(&root, "odd").read_f32().unwrap()), bits(&odd));
        assert_eq!(dataset(&root, "doubles").read_f32().unwrap(), [0.1]);
        assert_eq!(dataset(&root, "i32").read_i64().unwrap(), [-7]);
        assert_eq!(dataset(&root, "i64").read_i64().unwrap(), [i64::MIN]);
        assert_eq!(dataset(&root, "u64s").read_i64().unwrap(), [1, 1 << 40]);
        assert_eq!(dataset(&root, "text").read_text().unwrap(), "läuft");
        assert_eq!(dataset(&root, "stream").read_f32().unwrap(), [1.0, 2.0]);
        assert!(matches!(root.open("empty").unwrap(), Some(Object::Group(group)) if group.names().count() == 0));
    }
}

#[test]
fn a_stream_that_ends_too_early_is_an_error() {
    let values = [0u8; 7];
    let mut root = NewGroup::default();
    root.insert("stream", NewDataset::f32_stream(&[2], Box::new(values.as_slice())))
        .unwrap();
    assert!(root.write(&mut Vec::new()).is_err());
}

#[test]
fn other_files_and_cut_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    let whole = fs::read(golden("sgd_iter_6.caffemodel.h5")).unwrap();
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        File::open(&path).err().unwrap().to_string()
    };
    assert_eq!(error(b""), "it is no HDF5 file: give one");
    assert_eq!(error(b"layer { name: 'a' }"), "it is no HDF5 file: give one");
    assert!(error(&SIGNATURE).contains("damaged"));
    assert_eq!(
        error(&whole[..whole.len() - 1]),
        format!(
            "the HDF5 file is damaged ({} of its {} bytes are there): write or copy it again",
            whole.len() - 1,
            whole.len()
        )
    );
    assert!(File::open(folder.path()).is_err());
    assert!(File::open(&folder.path().join("missing")).is_err());
    // A block of the user's own may come first.
    fs::write(&path, [&[0; 512], whole.as_slice()].concat()).unwrap();
    assert_eq!(read_file(&path).unwrap(), (4, 0));
}

/// A number that is random enough (xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn damaged_files_are_errors_and_nothing_worse() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    let files = [
        golden("sgd_iter_6.caffemodel.h5"),
        golden("adam_iter_6.solverstate.h5"),
        here("h5py.h5"),
        here("h5py_latest.h5"),
    ];
    let mut state = 1;
    for name in files {
        let whole = fs::read(&name).unwrap();
        let whole_errors = read_file(&name).unwrap().1;
        let mut damaged = 0;
        const CASES: u64 = 1500;
        for case in 0..CASES {
            let mut bytes = whole.clone();
            if case % 4 == 0 {
                bytes.truncate(next(&mut state) as usize % whole.len());
            } else {
                for _ in 0..=next(&mut state) % 4 {
                    // What describes lies in front of most values.
                    let at = next(&mut state) as usize % bytes.len().min(8192);
                    bytes[at] = match next(&mut state) % 3 {
                        0 => 0xff,
                        1 => bytes[at] ^ (1 << (next(&mut state) % 8)),
                        _ => next(&mut state) as u8,
                    };
                }
            }
            fs::write(&path, &bytes).unwrap();
            let is_cut = bytes.len() < whole.len();
            let is_noticed = read_file(&path).map_or(true, |(_, errors)| errors > whole_errors);
            assert!(is_noticed || !is_cut, "{} cut to {}", name.display(), bytes.len());
            damaged += u64::from(is_noticed);
        }
        assert!(damaged > CASES / 3, "{}: {damaged}", name.display());
    }
}
