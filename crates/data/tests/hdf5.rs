//! Rows of HDF5 files: which come in which batch, and files of rows that are written.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sparknet_data::{BatchConfig, BatchReader, End, Hdf5RowsWriter, Hdf5Source, Shard};
use sparknet_hdf5::{File, NewDataset, NewGroup, Object};

/// Two files, of 5 and of 3 rows: `data` is (rows, 2) and holds `10 * record` and the same plus one, `label` the record.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.file("a.h5", 0..5);
        folder.file("b.h5", 5..8);
        // Blank lines and spaces do no harm; paths are also looked for beside the list.
        fs::write(folder.list(), "a.h5\n\n  b.h5 \n").unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn list(&self) -> PathBuf {
        self.path("list.txt")
    }

    fn file(&self, name: &str, records: std::ops::Range<u64>) {
        let data: Vec<f32> = records
            .clone()
            .flat_map(|i| [10.0 * i as f32, 10.0 * i as f32 + 1.0])
            .collect();
        let labels: Vec<u64> = records.collect();
        let mut root = NewGroup::default();
        let rows = labels.len() as u64;
        root.insert("data", NewDataset::f32s(&[rows, 2], &data)).unwrap();
        root.insert("label", NewDataset::u64s(&labels)).unwrap();
        root.write(&mut fs::File::create(self.path(name)).unwrap()).unwrap();
    }

    fn source(&self, seed: Option<u64>) -> Hdf5Source {
        Hdf5Source::open(&self.list(), &["data".to_owned(), "label".to_owned()], seed).unwrap()
    }

    /// The labels of batches, each of which is checked against its data.
    fn labels(&self, seed: Option<u64>, config: BatchConfig, batches: usize) -> Vec<Vec<u64>> {
        let mut reader = BatchReader::with_source(config, Box::new(self.source(seed))).unwrap();
        let mut labels = Vec::new();
        while labels.len() < batches {
            let Some(batch) = reader.next().unwrap() else { break };
            assert!(batch.data.is_empty());
            let [data, label] = &batch.arrays[..] else {
                panic!("{} arrays", batch.arrays.len());
            };
            assert_eq!(label.len(), batch.count);
            let expected: Vec<f32> = label
                .iter()
                .flat_map(|label| [10.0 * label, 10.0 * label + 1.0])
                .collect();
            assert_eq!(*data, expected);
            labels.push(label.iter().map(|label| *label as u64).collect());
            reader.recycle(batch);
        }
        labels
    }
}

fn config(batch_size: usize) -> BatchConfig {
    BatchConfig {
        batch_size,
        ..BatchConfig::default()
    }
}

#[test]
fn rows_come_in_the_order_of_the_files_and_begin_anew() {
    let folder = Folder::new();
    assert_eq!(folder.source(None).row_shapes(), [vec![2], vec![]]);
    let labels = folder.labels(None, config(3), 6);
    let expected: Vec<u64> = (0..18).map(|i| i % 8).collect();
    assert_eq!(labels.concat(), expected);
    // A test sees every row once; the last batch is smaller.
    let test = BatchConfig {
        end: End::Stop,
        shard: Shard::Batches,
        ..config(3)
    };
    let labels = folder.labels(None, test, 100);
    assert_eq!(labels, [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
}

#[test]
fn a_shuffle_mixes_files_and_their_rows_anew_in_each_pass() {
    let folder = Folder::new();
    let (first_file, second_file): (BTreeSet<u64>, BTreeSet<u64>) = ((0..5).collect(), (5..8).collect());
    let all = folder.labels(Some(1), config(4), 40).concat();
    let passes: Vec<&[u64]> = all.chunks(8).collect();
    let mut starts_with_second = 0;
    for pass in &passes {
        // A file's rows stay together, as in Caffe.
        let starts = second_file.contains(&pass[0]);
        starts_with_second += usize::from(starts);
        let (head, tail) = pass.split_at(if starts { 3 } else { 5 });
        let sets = [head, tail].map(|rows| rows.iter().copied().collect::<BTreeSet<_>>());
        let expected = if starts {
            [&second_file, &first_file]
        } else {
            [&first_file, &second_file]
        };
        assert_eq!([&sets[0], &sets[1]], expected);
    }
    assert!((1..passes.len()).contains(&starts_with_second));
    assert!(passes.iter().collect::<BTreeSet<_>>().len() > passes.len() / 2);
    assert_ne!(folder.labels(Some(2), config(4), 40).concat(), all);

    // A run that is taken up in the middle, and workers that share the rows, see the same.
    let resumed = BatchConfig {
        start_batches: 7,
        ..config(4)
    };
    assert_eq!(folder.labels(Some(1), resumed, 33).concat(), all[28..]);
    let of_worker = |rank| {
        let config = BatchConfig {
            rank,
            world: 2,
            ..config(2)
        };
        folder.labels(Some(1), config, 40).concat()
    };
    let (even, odd) = (of_worker(0), of_worker(1));
    let together: Vec<u64> = even.iter().zip(&odd).flat_map(|(even, odd)| [*even, *odd]).collect();
    assert_eq!(together, all);
}

#[test]
fn wrong_lists_and_files_are_refused_by_name() {
    let folder = Folder::new();
    let error = |arrays: &[&str]| {
        let arrays: Vec<String> = arrays.iter().map(|name| (*name).to_owned()).collect();
        Hdf5Source::open(&folder.list(), &arrays, None)
            .err()
            .unwrap()
            .to_string()
    };
    let write = |name: &str, datasets: &[(&str, &[u64])]| {
        let values = [0.0; 64];
        let mut root = NewGroup::default();
        for (name, dims) in datasets {
            let count = dims.iter().product::<u64>() as usize;
            root.insert(name, NewDataset::f32s(dims, &values[..count])).unwrap();
        }
        root.write(&mut fs::File::create(folder.path(name)).unwrap()).unwrap();
    };
    let found = error(&["data", "image"]);
    assert!(found.contains("a.h5: its dataset 'image' does not exist"), "{found}");
    assert!(found.ends_with("it has data, label"), "{found}");
    for (datasets, expected) in [
        (
            &[("data", &[4, 2][..]), ("label", &[3])][..],
            "'label' has 3 rows and 'data' has 4",
        ),
        (
            &[("data", &[4, 3]), ("label", &[4])],
            "'data' has shape [3], and [2] in",
        ),
        (&[("data", &[4, 2]), ("label/x", &[4])], "'label' is a group"),
        (&[("data", &[]), ("label", &[])], "'data' is a single value"),
    ] {
        write("b.h5", datasets);
        let found = error(&["data", "label"]);
        assert!(found.contains("b.h5") && found.contains(expected), "{found}");
    }
    for (list, expected) in [
        ("", "it names no file"),
        ("a.h5\nc.h5\n", "c.h5 does not exist"),
        ("list.txt", "it is no HDF5 file"),
    ] {
        fs::write(folder.list(), list).unwrap();
        let found = error(&["data"]);
        assert!(found.contains(expected), "{found}");
    }
    fs::copy(folder.path("a.h5"), folder.list()).unwrap();
    let found = error(&["data"]);
    assert!(found.contains("it is an HDF5 file itself"), "{found}");
    fs::write(folder.list(), [0xff]).unwrap();
    assert!(error(&["data"]).contains("it is no list of files"));
    fs::remove_file(folder.list()).unwrap();
    assert!(error(&["data"]).contains("list.txt does not exist"));
}

fn array(path: &Path, name: &str) -> (Vec<u64>, Vec<f32>) {
    let file = File::open(path).unwrap();
    match file.root().unwrap().open(name).unwrap() {
        Some(Object::Dataset(dataset)) => (dataset.dims().to_vec(), dataset.read_f32().unwrap()),
        _ => panic!("there is no array {name}"),
    }
}

#[test]
fn rows_of_many_batches_are_one_file_that_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.h5");
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let mut writer = Hdf5RowsWriter::create(&path).unwrap();
    writer.finish().unwrap();
    assert_eq!(files(), 0);
    writer.add([(&[9, 1], &[0.0; 9]), (&[9], &[0.0; 9])]).unwrap();
    writer.restart().unwrap();
    writer
        .add([(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), (&[2], &[7.0, 8.0])])
        .unwrap();
    writer.add([(&[1, 3], &[9.0, 10.0, 11.0]), (&[1], &[12.0])]).unwrap();
    assert_eq!(files(), 0);
    let error = writer
        .add([(&[1, 2], &[0.0; 2]), (&[1], &[0.0])])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("out.h5: rows of shapes [2] and [] come after rows of [3] and []"),
        "{error}"
    );
    writer.finish().unwrap();
    assert_eq!(files(), 1);
    let expected = (vec![3, 3, 1, 1], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0, 10.0, 11.0]);
    assert_eq!(array(&path, "data"), expected);
    assert_eq!(array(&path, "label"), (vec![3, 1, 1, 1], vec![7.0, 8.0, 12.0]));
    // The next file has the next rows alone.
    writer.add([(&[1, 1], &[13.0]), (&[1], &[14.0])]).unwrap();
    writer.finish().unwrap();
    assert_eq!(array(&path, "data"), (vec![1, 1, 1, 1], vec![13.0]));
    assert!(Hdf5RowsWriter::create(&folder.path().join("missing/out.h5")).is_err());
}
