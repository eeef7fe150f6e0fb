//! LevelDBs that the C++ library wrote: Caffe's in `golden/data`, and two small ones in `tests/leveldb`.
//!
//! Those two hold the same 240 keys, written in three sessions with overwrites and deletions, so that they have tables at
//! two levels and a log; the tables of one are compressed. plyvel made them with blocks of 512 bytes, as [`expected`] says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sparknet_data::{Backend, DataError, Pixels, Record, compute_mean, open_source};

fn small(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/leveldb").join(name)
}

fn golden(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    std::env::var_os("SPARKNET_GOLDEN")
        .map_or(here, PathBuf::from)
        .join("data")
        .join(name)
}

fn read_all(path: &Path, backend: Backend) -> Result<Vec<Record>, DataError> {
    let mut source = open_source(path, backend)?;
    let count = source.len_records();
    let read = |_| {
        let mut record = Record::default();
        source.read(&mut record).map(|()| record)
    };
    (0..count).map(read).collect()
}

/// What the small ones hold: three sessions of writes.
fn expected() -> Vec<Record> {
    let mut versions = BTreeMap::new();
    versions.extend((0..200).map(|i| (i, 0)));
    versions.extend((0..200).step_by(7).map(|i| (i, 1)));
    versions.retain(|i, _| i % 10 != 3);
    versions.extend((200..240).map(|i| (i, 0)));
    versions.extend((0..200).step_by(11).map(|i| (i, 2)));
    versions.retain(|i, _| *i >= 200 || i % 20 != 5);
    let record = |(i, version)| Record {
        key: format!("{i:08}").into_bytes(),
        channels: 1,
        height: 1,
        width: 50,
        label: i,
        float_label: None,
        arrays: Vec::new(),
        pixels: Pixels::Bytes((0..50).map(|j| (i + version + j / 10) as u8).collect()),
    };
    versions.into_iter().map(record).collect()
}

/// Where the records of a log of one block begin: a cut there leaves a whole log.
fn record_starts(log: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    while let Some([_, _, _, _, low, high, _]) = log.get(starts[starts.len() - 1]..).and_then(<[u8]>::first_chunk) {
        starts.push(starts[starts.len() - 1] + 7 + usize::from(u16::from_le_bytes([*low, *high])));
    }
    starts
}

/// A copy that may be damaged.
fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn golden_leveldb_holds_what_the_lmdb_holds() {
    let folder = copy(&golden("raw_leveldb"));
    let records = read_all(folder.path(), Backend::detect(folder.path()).unwrap()).unwrap();
    assert_eq!(records.len(), 96);
    assert_eq!(records, read_all(&golden("raw_lmdb"), Backend::Lmdb).unwrap());
    let [from_leveldb, from_lmdb] = ["leveldb", "lmdb"].map(|name| folder.path().join(name));
    let report = compute_mean(folder.path(), Backend::Leveldb, &from_leveldb).unwrap();
    assert_eq!(
        report,
        compute_mean(&golden("raw_lmdb"), Backend::Lmdb, &from_lmdb).unwrap()
    );
    assert_eq!(fs::read(from_leveldb).unwrap(), fs::read(from_lmdb).unwrap());
}

#[test]
fn the_latest_write_of_a_key_counts_wherever_it_is() {
    let expected = expected();
    assert_eq!(expected.len(), 240 - 20 - 10 + 2);
    for name in ["plain", "snappy"] {
        let folder = copy(&small(name));
        let files = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let files = entries.map(|entry| entry.unwrap().path());
            files
                .map(|path| (path.clone(), fs::read(path).unwrap()))
                .collect::<BTreeMap<_, _>>()
        };
        let before = files();
        let mut permissions = fs::metadata(folder.path()).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(folder.path(), permissions).unwrap();
        assert_eq!(read_all(folder.path(), Backend::Leveldb).unwrap(), expected, "{name}");
        assert_eq!(files(), before, "{name}: reading changes nothing");
        // From the end to the start, so that each read comes from another block.
        let mut source = open_source(folder.path(), Backend::Leveldb).unwrap();
        let mut record = Record::default();
        for (index, expected) in expected.iter().enumerate().rev() {
            source.seek(index as u64).unwrap();
            source.read(&mut record).unwrap();
            assert_eq!(record, *expected, "{name}: {index}");
        }
        source.seek(expected.len() as u64).unwrap();
        assert!(source.read(&mut record).is_err());
        assert!(source.seek(expected.len() as u64 + 1).is_err());
    }
}

#[test]
fn every_damage_is_found() {
    let sources = [small("plain"), small("snappy"), golden("raw_leveldb")];
    for from in sources {
        let folder = copy(&from);
        let whole = read_all(folder.path(), Backend::Leveldb).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = fs::read(&path).unwrap();
            let check = |damaged: &[u8], what: &str| {
                fs::write(&path, damaged).unwrap();
                let result = read_all(folder.path(), Backend::Leveldb);
                let message = match result {
                    // Bytes that nobody reads, such as a table's filters; or a log that ends with a record.
                    Ok(records) => {
                        assert_eq!(records, whole, "{name}: {what}");
                        return false;
                    }
                    Err(error) => error.to_string(),
                };
                assert!(
                    message.starts_with(folder.path().to_str().unwrap()),
                    "{name}: {what}: {message}"
                );
                true
            };
            let is_log = name.ends_with(".log") || name.starts_with("MANIFEST");
            let step = (bytes.len() / 30).max(1);
            let mut found = 0;
            for at in (0..bytes.len()).step_by(step) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x5a;
                found += usize::from(check(&damaged, &format!("byte {at}")));
                let end = (at + 100).min(bytes.len());
                damaged[at..end]
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, byte)| *byte = (i * 97 + at) as u8);
                found += usize::from(check(&damaged, &format!("garbage at {at}")));
                damaged[at..end].fill(0);
                found += usize::from(check(&damaged, &format!("zeros at {at}")));
                if !is_log || !record_starts(&bytes).contains(&at) {
                    assert!(check(&bytes[..at], &format!("cut at {at}")), "{name}: cut at {at}");
                }
            }
            assert!(found > 10, "{name}: {found}");
            fs::remove_file(&path).unwrap();
            if !name.ends_with(".log") {
                assert!(read_all(folder.path(), Backend::Leveldb).is_err(), "{name} is missing");
            }
            fs::write(&path, &bytes).unwrap();
        }
    }
}

#[test]
fn paths_that_are_no_leveldb_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| open_source(path, Backend::Leveldb).err().unwrap().to_string();
    let path = folder.path().display();
    assert_eq!(
        error(folder.path()),
        format!("{path} has no CURRENT in it, so it is not a LevelDB: set `backend: LMDB` if it is an LMDB")
    );
    let current = folder.path().join("CURRENT");
    fs::write(&current, "../../secret\n").unwrap();
    assert_eq!(
        error(folder.path()),
        format!("{path}/CURRENT is corrupt: it names no manifest; make it or copy it again")
    );
    assert_eq!(
        error(&current),
        format!("{path}/CURRENT is a file, but a LevelDB is a folder with a CURRENT in it: give the folder")
    );
    fs::write(&current, "MANIFEST-000001\n").unwrap();
    assert!(error(folder.path()).contains("MANIFEST-000001 does not exist"));
}
