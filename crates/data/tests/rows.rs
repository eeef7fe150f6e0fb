//! Rows that a program hands over: in memory or in a file they are the same, and bad ones are said or counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sparknet_data::{
    BatchConfig, BatchReader, ColorMode, DataError, Pixels, Record, RowRules, RowValues, Rows, RowsWriter, Shard,
};

fn rules(folder: &Path, memory_limit_bytes: usize) -> RowRules {
    RowRules {
        name: "the DataFrame".to_owned(),
        shape: Some([2, 2, 3]),
        color: ColorMode::default(),
        crop_size: 0,
        numbers: 0,
        skip_bad: false,
        memory_limit_bytes,
        spill_folder: folder.to_owned(),
    }
}

/// Eight rows: bytes, floats and interleaved bytes in turn.
fn taken_in(rules: RowRules) -> Arc<Rows> {
    let mut writer = RowsWriter::new(rules);
    for row in 0..8u8 {
        let bytes: Vec<u8> = (0..12).map(|i| 12 * row + i).collect();
        let floats: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte) / 4.0).collect();
        let values = match row % 3 {
            0 => RowValues::Bytes(&bytes),
            1 => RowValues::Floats(&floats),
            _ => RowValues::Interleaved(&bytes, [2, 2, 3]),
        };
        assert!(writer.push(values, f32::from(row) + 0.5).unwrap());
    }
    writer.finish().unwrap()
}

fn records(rows: &Arc<Rows>) -> Vec<Record> {
    let mut source = rows.source();
    let mut records = Vec::new();
    // Not in order, with the same record used again: floats after bytes after floats.
    for index in [1u64, 0, 7, 2, 4, 3, 6, 5] {
        source.seek(index).unwrap();
        let mut record = records.last().cloned().unwrap_or_default();
        source.read(&mut record).unwrap();
        records.push(record);
    }
    records
}

#[test]
fn spilled_rows_are_those_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let memory = taken_in(rules(folder.path(), 1 << 20));
    assert!(!memory.is_spilled());
    let expected = records(&memory);
    let interleaved = expected.iter().find(|record| record.key == b"2").unwrap();
    // Pixel by pixel with 2 channels becomes plane by plane.
    let planar = [24, 26, 28, 30, 32, 34, 25, 27, 29, 31, 33, 35];
    assert_eq!(interleaved.pixels, Pixels::Bytes(planar.to_vec()));
    assert_eq!(interleaved.float_label, Some(2.5));
    // From the first row on, in the middle, and with the last row.
    for limit in [0, 100, 8 * 12 + 3 * 36 - 1] {
        let spilled = taken_in(rules(folder.path(), limit));
        assert!(spilled.is_spilled(), "{limit}");
        assert_eq!(records(&spilled), expected, "{limit}");
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "the file has no name that could be left behind");
}

#[test]
fn rows_that_repeat_the_one_before_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for limit in [0, 1 << 20] {
        assert_eq!(taken_in(rules(folder.path(), limit)).repeats(), 0);
        let mut writer = RowsWriter::new(rules(folder.path(), limit));
        for value in [1u8, 1, 1, 2, 1, 2, 2] {
            writer.push(RowValues::Bytes(&[value; 12]), 0.0).unwrap();
        }
        assert_eq!(writer.finish().unwrap().repeats(), 3, "{limit}");
    }
}

#[test]
fn a_row_behind_the_last_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = taken_in(rules(folder.path(), 0)).source();
    source.seek(8).unwrap();
    let error = source.read(&mut Record::default()).unwrap_err();
    assert!(error.to_string().contains("is behind the last one"), "{error}");
}

#[test]
fn bad_rows_are_said_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let first_error = |values: RowValues<'_>, label: f32| {
        let mut writer = RowsWriter::new(rules(folder.path(), 1 << 20));
        writer.push(RowValues::Bytes(&[0; 12]), 0.0).unwrap();
        writer.push(values, label).unwrap_err().to_string()
    };
    for (values, label, fact) in [
        (RowValues::Null, 0.0, "is null: fill it in, or drop the row"),
        (RowValues::Bytes(&[0; 12]), f32::NAN, "has no label"),
        (RowValues::Bytes(&[0; 11]), 0.0, "has 11 values, but 2x2x3 are 12"),
        (RowValues::Floats(&[f32::INFINITY; 12]), 0.0, "no finite number"),
        (
            RowValues::Interleaved(&[0; 12], [3, 2, 2]),
            0.0,
            "is 3x2x2 where the others are 2x2x3",
        ),
        (RowValues::Interleaved(&[0; 12], [3, 2, 3]), 0.0, "says it is 3x2x3"),
    ] {
        let error = first_error(values, label);
        assert!(error.contains(fact) && error.contains("the DataFrame"), "{error}");
    }
}

#[test]
fn bad_rows_are_counted_where_they_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let skipping = RowRules {
        skip_bad: true,
        ..rules(folder.path(), 1 << 20)
    };
    let mut writer = RowsWriter::new(skipping.clone());
    assert!(!writer.push(RowValues::Null, 1.0).unwrap());
    assert!(writer.push(RowValues::Bytes(&[7; 12]), 1.0).unwrap());
    assert!(!writer.push(RowValues::Bytes(&[7; 3]), 1.0).unwrap());
    assert_eq!(writer.counts(), (1, 2));
    let rows = writer.finish().unwrap();
    let (bad_rows, first) = rows.bad_rows();
    assert_eq!((rows.len_rows(), bad_rows), (1, 2));
    assert!(first.unwrap().contains("is null"), "{first:?}");

    let mut writer = RowsWriter::new(skipping);
    writer.push(RowValues::Null, 1.0).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, DataError::NoRows { bad_rows: 1, .. }), "{error}");
}

#[test]
fn a_folder_that_cannot_take_the_file_is_named() {
    let folder = PathBuf::from("/nowhere/at/all");
    let mut writer = RowsWriter::new(rules(&folder, 0));
    let error = writer.push(RowValues::Bytes(&[0; 12]), 0.0).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all"), "{error}");
}

#[test]
fn numbers_beside_the_values_come_with_their_row() {
    let folder = tempfile::tempdir().unwrap();
    let rules = RowRules {
        numbers: 2,
        skip_bad: true,
        ..rules(folder.path(), 1 << 20)
    };
    let mut writer = RowsWriter::new(rules);
    let values = [0.0; 12];
    for row in 0..6 {
        let numbers: &[f32] = match row {
            1 => &[1.0],
            3 => &[3.0, f32::NAN],
            _ => &[row as f32, -row as f32],
        };
        let is_good = writer.push_with(RowValues::Floats(&values), 0.0, numbers).unwrap();
        assert_eq!(is_good, row != 1 && row != 3);
    }
    let rows = writer.finish().unwrap();
    assert_eq!(rows.bad_rows().0, 2);
    let config = BatchConfig {
        batch_size: 2,
        world: 1,
        shard: Shard::Own,
        ..Default::default()
    };
    let mut reader = BatchReader::with_source(config.clone(), rows.source()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().arrays, [[0.0, 0.0, 2.0, -2.0]]);
    assert_eq!(reader.next().unwrap().unwrap().arrays, [[4.0, -4.0, 5.0, -5.0]]);
    let mut reader = BatchReader::with_source(config.clone(), rows.source_of_arrays(vec![1, 1])).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().arrays, [[0.0, 2.0], [0.0, -2.0]]);
    let wrong = BatchReader::with_source(config, rows.source_of_arrays(vec![1, 2]))
        .unwrap()
        .next();
    let error = wrong.unwrap_err().to_string();
    assert!(error.contains("another number of values in its arrays"), "{error}");
}
