//! What a stranger once broke.

use std::fs;
use std::path::Path;

use sparknet_data::{
    Backend, BatchConfig, BatchReader, ConvertOptions, DataError, DatasetKind, LmdbWriter, Record, build_dataset,
    convert, open_source,
};
use sparknet_proto::caffe::Datum;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn datum(value: u8) -> Datum {
    Datum {
        channels: Some(1),
        height: Some(1),
        width: Some(1),
        data: Some(vec![value]),
        label: Some(0),
        ..Datum::default()
    }
}

#[test]
fn two_writers_of_one_lmdb_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("db");
    let mut first = LmdbWriter::create(&target).unwrap();
    let mut second = LmdbWriter::create(&target).unwrap();
    for index in 0..3 {
        first.put(&format!("{index}"), &datum(1)).unwrap();
        second.put(&format!("{index}"), &datum(2)).unwrap();
    }
    second.put("3", &datum(2)).unwrap();
    assert_eq!(first.finish().unwrap(), 3);
    assert!(matches!(second.finish(), Err(DataError::Exists(_))));
    assert_eq!(names(folder.path()), ["db"]);
    assert_eq!(open_source(&target, Backend::Lmdb).unwrap().len_records(), 3);
}

/// A lock file is mapped and written to: on a full disk that is a SIGBUS.
#[test]
fn an_lmdb_is_written_without_a_lock_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LmdbWriter::create(&folder.path().join("db")).unwrap();
    writer.put("0", &datum(1)).unwrap();
    let temporary = folder.path().join(&names(folder.path())[0]);
    assert_eq!(names(&temporary), ["data.mdb"]);
    writer.finish().unwrap();
}

#[test]
fn a_dataset_that_cannot_be_made_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, file) = (folder.path().join("new"), folder.path().join("raw.gz"));
    fs::write(&file, "").unwrap();
    let message = |source: &Path| {
        build_dataset(DatasetKind::Mnist, &dir, Some(source), &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    let expected = format!("{} is a file: give the folder that it is in", file.display());
    assert_eq!(message(&file), expected);
    assert!(message(&folder.path().join("nope")).contains("nope does not exist"));

    let raw = folder.path().join("raw");
    fs::create_dir(&raw).unwrap();
    for half in ["train", "t10k"] {
        for kind in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
            fs::write(raw.join(format!("{half}-{kind}")), "no such thing").unwrap();
        }
    }
    message(&raw);
    assert!(!dir.exists());
}

#[test]
fn a_huge_prefetch_does_not_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("db");
    let mut writer = LmdbWriter::create(&source).unwrap();
    writer.put("0", &datum(1)).unwrap();
    writer.finish().unwrap();
    let config = BatchConfig {
        source,
        prefetch: u32::MAX as usize,
        ..BatchConfig::default()
    };
    assert!(BatchReader::open(config).is_ok());
}

#[test]
fn a_list_that_is_no_list_is_shown_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    let message = |content: &[u8]| {
        fs::write(&list, content).unwrap();
        let options = ConvertOptions {
            list: list.clone(),
            out: folder.path().join("out"),
            ..ConvertOptions::default()
        };
        convert(&options, &mut |_, _| ()).unwrap_err().to_string()
    };
    let name = list.display();
    assert_eq!(
        message(&[0; 1 << 20]),
        format!(
            "{name}:1: `{}` is not a path, a space and a label that is a whole number",
            "\\0".repeat(100)
        )
    );
    assert_eq!(
        message(b"a.png 1\n\xff\xd8\xff"),
        format!("{name}:2: not UTF-8 text: give a text file with a path and a label a line")
    );
}

#[test]
fn an_lmdb_that_is_cut_while_it_is_read_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("db");
    let mut writer = LmdbWriter::create(&db).unwrap();
    for index in 0..2000 {
        writer.put(&format!("{index:08}"), &datum(1)).unwrap();
    }
    writer.finish().unwrap();
    let mut source = open_source(&db, Backend::Lmdb).unwrap();
    let mut record = Record::default();
    source.read(&mut record).unwrap();
    let file = fs::OpenOptions::new().write(true).open(db.join("data.mdb")).unwrap();
    file.set_len(4096).unwrap();
    let message = (1..2000)
        .find_map(|_| source.read(&mut record).err())
        .unwrap()
        .to_string();
    let expected = format!(
        "{} is corrupt: data.mdb became shorter while it was read; make it or copy it again",
        db.display()
    );
    assert_eq!(message, expected);
}
