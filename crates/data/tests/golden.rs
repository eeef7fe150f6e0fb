//! What Caffe's own converters wrote: records, means, images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, EnvFlags, EnvOpenOptions};
use md5::{Digest, Md5};
use prost::Message;
use sparknet_data::{
    Backend, ColorMode, ConvertOptions, IdxSource, MeanImage, Pixels, Record, Source, compute_mean, convert,
    copy_to_lmdb, decode_image, open_source,
};
use sparknet_proto::caffe::Datum;

fn golden() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    std::env::var_os("SPARKNET_GOLDEN")
        .map_or(here, PathBuf::from)
        .join("data")
}

/// Every key and value of an LMDB, read by the C library: the reader under test has no part in it.
fn read_by_c_library(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(path.join("data.mdb"), copy.path().join("data.mdb")).unwrap();
    let mut options = EnvOpenOptions::new();
    options.map_size(1 << 26);
    // SAFETY: the files are copies of whole LMDBs that nobody else knows of.
    let env = unsafe { options.flags(EnvFlags::READ_ONLY).open(copy.path()).unwrap() };
    let database = env.open_databases_and_commit(env.read_txn().unwrap(), |opener, transaction| {
        opener
            .open_database::<Bytes, Bytes>(transaction, None)
            .map(CommitOrAbort::<_, ()>::Commit)
    });
    let database = database.unwrap().unwrap_commit().unwrap();
    let transaction = env.read_txn().unwrap();
    let records = database.iter(&transaction).unwrap().map(|record| {
        let (key, value) = record.unwrap();
        (key.to_vec(), value.to_vec())
    });
    records.collect()
}

fn read_all(path: &Path) -> Vec<Record> {
    let mut source = open_source(path, Backend::Lmdb).unwrap();
    let read = |_| {
        let mut record = Record::default();
        source.read(&mut record).unwrap();
        record
    };
    (0..source_len(path)).map(read).collect()
}

fn source_len(path: &Path) -> u64 {
    open_source(path, Backend::Lmdb).unwrap().len_records()
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| a.abs_diff(b)).max().unwrap()
}

fn average_difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
    sum as f64 / a.len() as f64
}

#[test]
fn golden_lmdbs_are_read_as_the_c_library_reads_them() {
    for name in ["raw_lmdb", "encoded_lmdb", "resized_lmdb"] {
        let path = golden().join(name);
        let expected = read_by_c_library(&path);
        let records = read_all(&path);
        assert_eq!(records.len(), expected.len());
        for (record, (key, value)) in records.iter().zip(&expected) {
            let datum = Datum::decode(&value[..]).unwrap();
            assert_eq!(&record.key, key);
            assert_eq!(record.label, datum.label());
            let (Pixels::Bytes(data) | Pixels::Encoded(data)) = &record.pixels else {
                panic!("no bytes")
            };
            assert_eq!(data, datum.data());
            assert_eq!(matches!(record.pixels, Pixels::Encoded(_)), datum.encoded());
        }
    }
}

#[test]
fn golden_idx_becomes_the_lmdb_that_caffe_writes() {
    let folder = tempfile::tempdir().unwrap();
    let lmdb = folder.path().join("a_lmdb");
    let mut source = IdxSource::open(&golden().join("images-idx3-ubyte")).unwrap();
    assert_eq!(copy_to_lmdb(&mut source, &lmdb).unwrap(), source.len_records());
    assert_eq!(read_by_c_library(&lmdb), read_by_c_library(&golden().join("raw_lmdb")));
}

#[test]
fn golden_mean_is_caffes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mean.binaryproto");
    let report = compute_mean(&golden().join("raw_lmdb"), Backend::Lmdb, &file).unwrap();
    let golden_file = golden().join("mean.binaryproto");
    assert_eq!(
        std::fs::read(&file).unwrap(),
        std::fs::read(&golden_file).unwrap(),
        "the same bytes"
    );
    let mean = MeanImage::read(&golden_file).unwrap();
    assert_eq!(
        (report.shape, report.records),
        (mean.shape, source_len(&golden().join("raw_lmdb")))
    );
    let average = mean.values.iter().sum::<f32>() / mean.values.len() as f32;
    assert!((report.channel_means[0] - average).abs() < 1e-3);
}

fn convert_golden(out: &Path, resize: usize, encode_type: Option<&str>) {
    let options = ConvertOptions {
        root: golden().join("jpg"),
        list: golden().join("list.txt"),
        out: out.to_path_buf(),
        resize_height: resize,
        resize_width: resize,
        encode_type: encode_type.map(str::to_string),
        ..ConvertOptions::default()
    };
    convert(&options, &mut |_, _| {}).unwrap();
}

#[test]
fn golden_images_are_resized_as_caffe_does() {
    let folder = tempfile::tempdir().unwrap();
    let lmdb = folder.path().join("a_lmdb");
    let golden_records = read_by_c_library(&golden().join("resized_lmdb"));
    let datum = |value: &Vec<u8>| Datum::decode(&value[..]).unwrap();
    let side = datum(golden_records.values().next().unwrap()).height();
    convert_golden(&lmdb, side as usize, None);
    let records = read_by_c_library(&lmdb);
    assert!(records.keys().eq(golden_records.keys()));
    for ((key, ours), golden) in records.iter().zip(golden_records.values()) {
        let (ours, golden) = (datum(ours), datum(golden));
        let largest = largest_difference(ours.data(), golden.data());
        println!(
            "{} {largest} {}",
            String::from_utf8_lossy(key),
            average_difference(ours.data(), golden.data())
        );
        assert!(largest <= 4, "{}: {largest}", String::from_utf8_lossy(key));
        assert_eq!(Datum { data: None, ..ours }, Datum { data: None, ..golden });
    }
}

#[test]
fn golden_images_are_encoded_as_caffe_does() {
    let folder = tempfile::tempdir().unwrap();
    let lmdb = folder.path().join("a_lmdb");
    convert_golden(&lmdb, 0, Some("jpg"));
    let (records, golden_records) = (
        read_by_c_library(&lmdb),
        read_by_c_library(&golden().join("encoded_lmdb")),
    );
    assert!(records.keys().eq(golden_records.keys()));
    for ((key, ours), golden) in records.iter().zip(golden_records.values()) {
        if key.ends_with(b".jpg") {
            assert_eq!(ours, golden, "a JPEG file is kept as it is");
            continue;
        }
        // The PNG is encoded anew, by another encoder than Caffe's: near the same pixels.
        let (ours, golden) = (Datum::decode(&ours[..]).unwrap(), Datum::decode(&golden[..]).unwrap());
        let decode = |datum: &Datum| decode_image(datum.data(), ColorMode::Native).unwrap();
        let (our_image, golden_image) = (decode(&ours), decode(&golden));
        assert_eq!(our_image.shape, golden_image.shape);
        let average = average_difference(&our_image.bytes, &golden_image.bytes);
        println!(
            "{} {average}",
            largest_difference(&our_image.bytes, &golden_image.bytes)
        );
        assert!(average < 2.0, "{average}");
        assert_eq!(Datum { data: None, ..ours }, Datum { data: None, ..golden });
    }
}

/// MD5 of what `djpeg` (libjpeg-turbo 2.1.5) prints for each file, in colour and with `-grayscale`.
#[test]
fn jpegs_are_decoded_as_by_libjpeg() {
    // Of these very files, whatever other folder the golden tests run over.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/data/jpg");
    for (name, colour_md5, gray_md5) in [
        (
            "astronaut",
            "64e84572b04203c9a29d662ef93f082b",
            "dcf97a7f68201b62afb89e9225a43847",
        ),
        (
            "cat",
            "4e4d99e3f6a4956fcc9ed45293594c1b",
            "30d9830ec3886dd7beef0f7c62e11217",
        ),
        (
            "coffee",
            "fe673fac52b36ac0f4495851168d3ad3",
            "4babd2dbc0de888cf91e65915d466254",
        ),
        (
            "rocket",
            "028fd485151238d1df572d63c7223302",
            "233e7c49efd3c8e8c3706a971b51f8c9",
        ),
    ] {
        let file = std::fs::read(folder.join(format!("{name}.jpg"))).unwrap();
        let md5 = |bytes: &[u8]| -> String { Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
        let colour = decode_image(&file, ColorMode::Native).unwrap();
        assert_eq!(colour, decode_image(&file, ColorMode::Color).unwrap());
        let [3, height, width] = colour.shape else {
            panic!("{:?}", colour.shape);
        };
        let plane = height * width;
        let rgb: Vec<u8> = (0..plane)
            .flat_map(|pixel| [2, 1, 0].map(|channel| colour.bytes[channel * plane + pixel]))
            .collect();
        assert_eq!(md5(&rgb), colour_md5, "{name}");
        let gray = decode_image(&file, ColorMode::Gray).unwrap();
        assert_eq!(
            (gray.shape, md5(&gray.bytes)),
            ([1, height, width], gray_md5.to_string()),
            "{name}"
        );
    }
}
