//! Sources: what they yield, and what they say about bad files.

use std::fs;
use std::path::Path;

use prost::Message;
use sparknet_data::{Backend, DataError, LmdbWriter, Pixels, Record, Source, open_source};
use sparknet_proto::caffe::Datum;

fn raw_datum(shape: [i32; 3], data: Vec<u8>, label: i32) -> Datum {
    let [channels, height, width] = shape.map(Some);
    Datum {
        channels,
        height,
        width,
        data: Some(data),
        label: Some(label),
        ..Datum::default()
    }
}

/// An LMDB of `count` records; record k has the label k and `bytes` bytes of value k.
fn write_lmdb(path: &Path, count: usize, bytes: usize) {
    let mut writer = LmdbWriter::create(path).unwrap();
    for k in 0..count {
        writer
            .put(
                &format!("{k:08}"),
                &raw_datum([1, 1, bytes as i32], vec![k as u8; bytes], k as i32),
            )
            .unwrap();
    }
    assert_eq!(writer.finish().unwrap(), count as u64);
}

fn read_labels(source: &mut dyn Source, count: u64) -> Vec<i32> {
    let mut record = Record::default();
    (0..count)
        .map(|_| {
            source.read(&mut record).unwrap();
            record.label
        })
        .collect()
}

fn open_error(path: &Path, backend: Backend) -> String {
    open_source(path, backend).err().unwrap().to_string()
}

/// Opens and reads everything; the error of either.
fn read_all(path: &Path, backend: Backend) -> Result<u64, DataError> {
    let mut source = open_source(path, backend)?;
    let mut record = Record::default();
    for _ in 0..source.len_records() {
        source.read(&mut record)?;
    }
    Ok(source.len_records())
}

#[test]
fn lmdb_of_a_thousand_pages_is_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    // Small values lie in the leaves (three levels of pages), large ones in pages of their own.
    for (count, bytes) in [(20_000, 200), (300, 5000), (2500, 9000), (1, 1)] {
        let _ = fs::remove_dir_all(&path);
        write_lmdb(&path, count, bytes);
        let mut source = open_source(&path, Backend::Lmdb).unwrap();
        assert_eq!(source.len_records(), count as u64);
        let mut record = Record::default();
        for k in 0..count {
            source.read(&mut record).unwrap();
            assert_eq!(record.key, format!("{k:08}").into_bytes());
            assert_eq!((record.channels, record.height, record.width), (1, 1, bytes));
            assert_eq!(record.label, k as i32);
            assert_eq!(record.pixels, Pixels::Bytes(vec![k as u8; bytes]));
        }
        assert!(source.read(&mut record).is_err());
    }
}

#[test]
fn lmdb_seeks_any_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    write_lmdb(&path, 5000, 100);
    let mut source = open_source(&path, Backend::Lmdb).unwrap();
    for index in [0, 1, 4999, 17, 18, 3000, 2999, 0] {
        source.seek(index).unwrap();
        assert_eq!(read_labels(source.as_mut(), 1), [index as i32]);
    }
    source.seek(2).unwrap();
    assert_eq!(read_labels(source.as_mut(), 2), [2, 3]);
    source.seek(999).unwrap();
    assert_eq!(read_labels(source.as_mut(), 1), [999]);
    source.seek(5000).unwrap();
    assert!(source.read(&mut Record::default()).is_err());
    assert!(source.seek(5001).is_err() && source.seek(u64::MAX).is_err());
    source.seek(4998).unwrap();
    assert_eq!(read_labels(source.as_mut(), 2), [4998, 4999]);
}

#[test]
fn lmdb_is_opened_many_times_at_once_and_written_to_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    write_lmdb(&path, 500, 100);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || read_labels(open_source(&path, Backend::Lmdb).unwrap().as_mut(), 500))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (0..500).collect::<Vec<_>>());
    }
    let files: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, ["data.mdb"]);
}

#[test]
fn lmdb_truncated_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (count, bytes) in [(2000, 100), (50, 9000)] {
        let path = folder.path().join(format!("{bytes}_lmdb"));
        write_lmdb(&path, count, bytes);
        let whole = fs::read(path.join("data.mdb")).unwrap();
        let quarters = (0..4).map(|quarter| whole.len() * quarter / 4);
        for length in quarters.chain([1, 100, 4096, 8191, 8192, whole.len() * 9 / 10]) {
            fs::write(path.join("data.mdb"), &whole[..length]).unwrap();
            let message = open_error(&path, Backend::Lmdb);
            let start = format!("{} is corrupt: ", path.display());
            assert!(message.starts_with(&start), "{length}: {message}");
            assert!(
                message.contains("truncated") && message.ends_with("; make it or copy it again"),
                "{length}: {message}"
            );
        }
        // The last page may be one of LMDB's list of free pages: without it, all records are still there.
        fs::write(path.join("data.mdb"), &whole[..whole.len() - 1]).unwrap();
        if let Ok(mut source) = open_source(&path, Backend::Lmdb) {
            assert_eq!(
                read_labels(source.as_mut(), count as u64),
                (0..count as i32).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn lmdb_with_garbage_anywhere_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    for (count, bytes) in [(200, 100), (20, 5000)] {
        let path = folder.path().join(format!("{bytes}_lmdb"));
        write_lmdb(&path, count, bytes);
        let whole = fs::read(path.join("data.mdb")).unwrap();
        let mut errors = 0;
        for block in 0..whole.len() / 128 {
            let mut damaged = whole.clone();
            for (offset, byte) in damaged[block * 128..block * 128 + 128].iter_mut().enumerate() {
                *byte = (block * 31 + offset * 97 + 13) as u8;
            }
            fs::write(path.join("data.mdb"), &damaged).unwrap();
            errors += usize::from(read_all(&path, Backend::Lmdb).is_err());
            damaged[block * 128..block * 128 + 128].fill(0xff);
            fs::write(path.join("data.mdb"), &damaged).unwrap();
            errors += usize::from(read_all(&path, Backend::Lmdb).is_err());
        }
        assert!(errors > 10, "{errors}");
    }
}

#[test]
fn paths_that_are_no_lmdb_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let expected = format!(
        "{} does not exist: check the path, which is taken from the folder that the command runs in",
        missing.display()
    );
    assert_eq!(open_error(&missing, Backend::Lmdb), expected);
    let file = folder.path().join("file");
    fs::write(&file, "no LMDB").unwrap();
    let expected = format!(
        "{} is a file, but an LMDB is a folder with a data.mdb in it: give the folder",
        file.display()
    );
    assert_eq!(open_error(&file, Backend::Lmdb), expected);
    let expected = format!(
        "{} has no data.mdb in it, so it is not an LMDB: `sparknet dataset` and `sparknet convert` make one",
        folder.path().display()
    );
    assert_eq!(open_error(folder.path(), Backend::Lmdb), expected);
    fs::write(folder.path().join("data.mdb"), vec![1; 8192]).unwrap();
    assert!(
        open_error(folder.path(), Backend::Lmdb).contains("is not a file of LMDB on a 64-bit little-endian machine")
    );
    assert!(open_error(folder.path(), Backend::Leveldb).ends_with("set `backend: LMDB` if it is an LMDB"));
    let empty = folder.path().join("empty_lmdb");
    LmdbWriter::create(&empty).unwrap().finish().unwrap();
    let expected = format!(
        "{} holds no records: make it again from a source that has some",
        empty.display()
    );
    assert_eq!(open_error(&empty, Backend::Lmdb), expected);
}

#[test]
fn bad_datums_are_named_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (
            raw_datum([1, 2, 2], vec![0; 5], 0),
            "holds 5 values, but 1x2x2 are 4: make it again",
        ),
        (
            raw_datum([1, -2, 2], vec![0; 4], 0),
            "says that it is 1x-2x2: every size must be at least 1",
        ),
        (
            raw_datum([1, 2, 2], vec![], 0),
            "holds 0 values, but 1x2x2 are 4: make it again",
        ),
        (raw_datum([i32::MAX; 3], vec![1], 0), "every size must be at least 1"),
    ];
    for (number, (datum, expected)) in cases.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}_lmdb"));
        let mut writer = LmdbWriter::create(&path).unwrap();
        writer.put("the_key", &datum).unwrap();
        writer.finish().unwrap();
        let message = read_all(&path, Backend::Lmdb).unwrap_err().to_string();
        let start = format!("{}: record the_key ", path.display());
        assert!(message.starts_with(&start) && message.ends_with(expected), "{message}");
    }
}

#[test]
fn a_value_that_is_no_datum_is_named_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    let mut writer = LmdbWriter::create(&path).unwrap();
    let datum = raw_datum([1, 1, 3], vec![7; 3], 1);
    writer.put("k", &datum).unwrap();
    writer.finish().unwrap();
    let mut bytes = fs::read(path.join("data.mdb")).unwrap();
    let serialised = datum.encode_to_vec();
    let place = bytes
        .windows(serialised.len())
        .position(|window| window == serialised)
        .unwrap();
    bytes[place..place + serialised.len()].fill(0xff);
    fs::write(path.join("data.mdb"), bytes).unwrap();
    let message = read_all(&path, Backend::Lmdb).unwrap_err().to_string();
    assert!(message.contains("record k is not a Datum ("), "{message}");
}

#[test]
fn float_datums_are_read_as_floats_between_byte_datums() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    let floats = Datum {
        data: None,
        float_data: vec![0.5, -1.5],
        ..raw_datum([2, 1, 1], vec![], 3)
    };
    let mut writer = LmdbWriter::create(&path).unwrap();
    writer.put("0", &floats).unwrap();
    writer.put("1", &raw_datum([2, 1, 1], vec![1, 2], 4)).unwrap();
    writer.put("2", &floats).unwrap();
    writer.finish().unwrap();
    let mut source = open_source(&path, Backend::Lmdb).unwrap();
    let mut record = Record::default();
    for expected in [
        Pixels::Floats(vec![0.5, -1.5]),
        Pixels::Bytes(vec![1, 2]),
        Pixels::Floats(vec![0.5, -1.5]),
    ] {
        source.read(&mut record).unwrap();
        assert_eq!(record.pixels, expected);
    }
}

#[test]
fn a_writer_leaves_nothing_behind_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    let mut writer = LmdbWriter::create(&path).unwrap();
    writer.put("0", &raw_datum([1, 1, 1], vec![1], 0)).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    write_lmdb(&path, 3, 3);
    let expected = format!("{} already exists: remove it, or choose another name", path.display());
    assert_eq!(LmdbWriter::create(&path).err().unwrap().to_string(), expected);
    assert_eq!(read_all(&path, Backend::Lmdb).unwrap(), 3);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn write_idx(folder: &Path, images: &[u8], labels: &[u8]) -> std::path::PathBuf {
    let path = folder.join("t10k-images-idx3-ubyte");
    fs::write(&path, images).unwrap();
    fs::write(folder.join("t10k-labels-idx1-ubyte"), labels).unwrap();
    path
}

const IMAGES: [u8; 22] = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
const LABELS: [u8; 10] = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];

#[test]
fn idx_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_idx(folder.path(), &IMAGES, &LABELS);
    assert_eq!(Backend::detect(&path).unwrap(), Backend::Idx);
    let mut source = open_source(&path, Backend::Idx).unwrap();
    assert_eq!(source.len_records(), 2);
    let mut record = Record::default();
    source.seek(1).unwrap();
    source.read(&mut record).unwrap();
    assert_eq!(
        (record.channels, record.height, record.width, record.label),
        (1, 1, 3, 9)
    );
    assert_eq!(record.pixels, Pixels::Bytes(vec![4, 5, 6]));
    assert_eq!(record.key, b"00000001");
    assert!(source.read(&mut record).is_err());
}

#[test]
fn bad_idx_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong_magic = IMAGES;
    wrong_magic[3] = 1;
    let mut too_wide = IMAGES;
    too_wide[12] = 0xff;
    let three_labels = [0, 0, 8, 1, 0, 0, 0, 3, 7, 9, 1];
    let longer: Vec<u8> = IMAGES.iter().copied().chain([0]).collect();
    let cases: [(&[u8], &[u8], &str); 6] = [
        (
            &wrong_magic,
            &LABELS,
            "its magic number is 0x00000801, not IDX's 0x00000803",
        ),
        (
            &IMAGES[..20],
            &LABELS,
            "its header says 6 bytes of data, but the file ends before",
        ),
        (
            &longer,
            &LABELS,
            "its header says 6 bytes of data, but the file goes on behind them",
        ),
        (&IMAGES[..10], &LABELS, "it cannot be read to its end"),
        (
            &too_wide,
            &LABELS,
            "its header says images with a side of 4278190083 pixels",
        ),
        (&IMAGES, &three_labels, "it has 2 images, but"),
    ];
    for (images, labels, expected) in cases {
        let path = write_idx(folder.path(), images, labels);
        let message = open_error(&path, Backend::Idx);
        assert!(
            message.starts_with(&format!("{} is corrupt: {expected}", path.display())),
            "{message}"
        );
    }
}

#[test]
fn cifar10_is_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let record_of = |label: u8, value: u8| [vec![label], vec![value; 3072]].concat();
    for batch in 1..=5_u8 {
        let bytes = [record_of(batch, 10 * batch), record_of(batch + 1, 1)].concat();
        fs::write(folder.path().join(format!("data_batch_{batch}.bin")), bytes).unwrap();
    }
    assert_eq!(Backend::detect(folder.path()).unwrap(), Backend::Cifar10);
    let mut source = open_source(folder.path(), Backend::Cifar10).unwrap();
    assert_eq!(source.len_records(), 10);
    source.seek(4).unwrap();
    let mut record = Record::default();
    source.read(&mut record).unwrap();
    assert_eq!(
        (record.channels, record.height, record.width, record.label),
        (3, 32, 32, 3)
    );
    assert_eq!(record.pixels, Pixels::Bytes(vec![30; 3072]));
    assert_eq!(record.key, b"00004");
    let bad = folder.path().join("bad.bin");
    fs::write(&bad, &record_of(1, 1)[1..]).unwrap();
    assert!(open_error(&bad, Backend::Cifar10).contains("its 3072 bytes are no whole number of 3073-byte records"));
    fs::write(&bad, record_of(10, 1)).unwrap();
    assert!(open_error(&bad, Backend::Cifar10).contains("it has the label 10, but CIFAR-10 has 0 to 9"));
}

#[test]
fn unknown_sources_are_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let message = Backend::detect(folder.path()).unwrap_err().to_string();
    assert!(message.contains("is no source that can be read"), "{message}");
    assert!(matches!(
        Backend::detect(&folder.path().join("none")),
        Err(DataError::Missing(_))
    ));
}
