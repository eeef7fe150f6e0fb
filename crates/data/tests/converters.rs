//! `convert`, `mean` and the datasets, from files to LMDBs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sparknet_data::{
    Backend, ConvertOptions, DataError, DatasetKind, LmdbWriter, MeanImage, Pixels, Record, build_dataset,
    compute_mean, convert, open_source,
};
use sparknet_proto::caffe::Datum;

fn records(path: &Path) -> Vec<Record> {
    let mut source = open_source(path, Backend::Lmdb).unwrap();
    let read = |_| {
        let mut record = Record::default();
        source.read(&mut record).unwrap();
        record
    };
    (0..open_source(path, Backend::Lmdb).unwrap().len_records())
        .map(read)
        .collect()
}

/// What lies in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Three images, one of them gray and of another size, one in a folder with a space.
fn image_folder() -> (tempfile::TempDir, ConvertOptions) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("images");
    fs::create_dir_all(root.join("a folder")).unwrap();
    image::RgbImage::from_pixel(4, 2, image::Rgb([30, 20, 10]))
        .save(root.join("red.png"))
        .unwrap();
    image::RgbImage::from_pixel(4, 2, image::Rgb([1, 2, 3]))
        .save(root.join("a folder/blue.png"))
        .unwrap();
    image::GrayImage::from_pixel(8, 8, image::Luma([77]))
        .save(root.join("gray.png"))
        .unwrap();
    let list = folder.path().join("list.txt");
    fs::write(&list, "red.png 5\na folder/blue.png 6\n\ngray.png\t-1\r\n").unwrap();
    let out = folder.path().join("out_lmdb");
    (
        folder,
        ConvertOptions {
            root,
            list,
            out,
            ..ConvertOptions::default()
        },
    )
}

fn run(options: &ConvertOptions) -> Result<Vec<Record>, DataError> {
    convert(options, &mut |_, _| {})?;
    let records = records(&options.out);
    fs::remove_dir_all(&options.out).unwrap();
    Ok(records)
}

#[test]
fn images_become_records_in_the_order_of_the_list() {
    let (_folder, options) = image_folder();
    let found = run(&options).unwrap();
    let keys: Vec<_> = found
        .iter()
        .map(|record| String::from_utf8_lossy(&record.key).into_owned())
        .collect();
    assert_eq!(
        keys,
        ["00000000_red.png", "00000001_a folder/blue.png", "00000002_gray.png"]
    );
    assert_eq!(found.iter().map(|record| record.label).collect::<Vec<_>>(), [5, 6, -1]);
    let planes = |values: [u8; 3], size| Pixels::Bytes(values.iter().flat_map(|&value| vec![value; size]).collect());
    assert_eq!(found[0].pixels, planes([10, 20, 30], 8), "BGR");
    assert_eq!((found[2].channels, found[2].height, found[2].width), (3, 8, 8));
    assert_eq!(found[2].pixels, planes([77; 3], 64));
}

#[test]
fn resize_and_gray_change_the_records() {
    let (_folder, options) = image_folder();
    let options = ConvertOptions {
        resize_height: 3,
        resize_width: 5,
        gray: true,
        check_size: true,
        ..options
    };
    for record in run(&options).unwrap() {
        assert_eq!((record.channels, record.height, record.width), (1, 3, 5));
    }
    let message = run(&ConvertOptions {
        resize_width: 0,
        ..options
    })
    .unwrap_err()
    .to_string();
    assert_eq!(
        message,
        "convert: --resize-height and --resize-width go together: give both or none"
    );
}

#[test]
fn encoded_images_are_kept_or_made() {
    let (_folder, options) = image_folder();
    let file = fs::read(options.root.join("red.png")).unwrap();
    let options = ConvertOptions {
        encoded: true,
        ..options
    };
    let kept = run(&options).unwrap();
    assert_eq!(kept[0].pixels, Pixels::Encoded(file.clone()));
    let is_jpeg = |record: &Record| matches!(&record.pixels, Pixels::Encoded(data) if data.starts_with(&[0xff, 0xd8]));
    let jpegs = run(&ConvertOptions {
        encode_type: Some("jpg".to_string()),
        ..options.clone()
    })
    .unwrap();
    assert!(jpegs.iter().all(is_jpeg));
    let resized = run(&ConvertOptions {
        resize_height: 2,
        resize_width: 2,
        ..options.clone()
    })
    .unwrap();
    assert!(matches!(&resized[0].pixels, Pixels::Encoded(data) if data.starts_with(b"\x89PNG") && *data != file));
    let message = run(&ConvertOptions {
        encode_type: Some("bmp".to_string()),
        ..options
    })
    .unwrap_err()
    .to_string();
    assert_eq!(
        message,
        "convert: `bmp` is no type that images can be encoded as: use --encode-type jpg or png"
    );
}

#[test]
fn shuffling_follows_the_seed() {
    let (folder, options) = image_folder();
    let lines: String = (0..40).map(|label| format!("red.png {label}\n")).collect();
    fs::write(folder.path().join("list.txt"), lines).unwrap();
    let shuffled = |seed| -> Vec<i32> {
        run(&ConvertOptions {
            shuffle: true,
            seed,
            ..options.clone()
        })
        .unwrap()
        .iter()
        .map(|record| record.label)
        .collect()
    };
    let first = shuffled(1);
    assert_eq!(first, shuffled(1));
    assert_ne!(first, shuffled(2));
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..40).collect::<Vec<_>>());
    assert_ne!(first, sorted);
}

#[test]
fn bad_lines_and_images_are_named_and_nothing_is_left() {
    let (folder, options) = image_folder();
    let list = options.list.display().to_string();
    fs::write(options.root.join("bad.png"), "no image").unwrap();
    fs::write(
        options.root.join("cut.png"),
        &fs::read(options.root.join("gray.png")).unwrap()[..40],
    )
    .unwrap();
    let image = |name: &str| options.root.join(name).display().to_string();
    let cases = [
        (
            "red.png 1\nred.png\n",
            ":2: `red.png` is not a path, a space and a label that is a whole number".to_string(),
        ),
        ("red.png 1.5\n", ":1: `red.png 1.5` is not a path".to_string()),
        (
            "red.png 1\n\nnone.png 1\n",
            format!(":3: cannot read {} (No such file", image("none.png")),
        ),
        (
            "bad.png 1\n",
            format!(
                ":1: {} is neither a JPEG nor a PNG image: encode it as one of them, or",
                image("bad.png")
            ),
        ),
        ("cut.png 1\n", format!(":1: {} cannot be decoded (", image("cut.png"))),
    ];
    for (lines, expected) in cases {
        fs::write(&options.list, lines).unwrap();
        let message = convert(&options, &mut |_, _| {}).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{list}{expected}")), "{message}");
        assert_eq!(names(folder.path()), ["images", "list.txt"], "nothing half-written");
    }
    fs::write(&options.list, "red.png 1\ngray.png 2\n").unwrap();
    let message = run(&ConvertOptions {
        check_size: true,
        ..options.clone()
    })
    .unwrap_err()
    .to_string();
    let expected =
        format!("{list}:2: gray.png is 3x8x8, but the first image is 3x2x4: give --resize-height and --resize-width, ");
    assert!(message.starts_with(&expected), "{message}");
    fs::write(&options.list, "\n").unwrap();
    assert!(matches!(run(&options), Err(DataError::Empty(_))));
}

#[test]
fn skip_bad_counts_what_it_leaves_out() {
    let (_folder, options) = image_folder();
    fs::write(&options.list, "none.png 1\nred.png 2\nnone.png 3\n").unwrap();
    let options = ConvertOptions {
        skip_bad: true,
        ..options
    };
    let mut last = (0, 0);
    let report = convert(&options, &mut |done, lines| last = (done, lines)).unwrap();
    assert_eq!((report.records, report.skipped.len(), last), (1, 2, (3, 3)));
    assert!(
        report.skipped[1].contains("list.txt:3: cannot read "),
        "{}",
        report.skipped[1]
    );
    assert_eq!(records(&options.out)[0].key, b"00000001_red.png");
    // The output is there now.
    let message = convert(&options, &mut |_, _| {}).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "{} already exists: remove it, or choose another name",
            options.out.display()
        )
    );
    fs::remove_dir_all(&options.out).unwrap();
    fs::write(&options.list, "none.png 1\n").unwrap();
    assert!(matches!(convert(&options, &mut |_, _| {}), Err(DataError::Empty(_))));
}

#[test]
fn a_mean_takes_bytes_floats_and_encoded_records() {
    let folder = tempfile::tempdir().unwrap();
    let (lmdb, out) = (folder.path().join("a_lmdb"), folder.path().join("mean.binaryproto"));
    let mut png = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_raw(2, 1, vec![9, 4])
        .unwrap()
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    let shape = Datum {
        channels: Some(1),
        height: Some(1),
        width: Some(2),
        ..Datum::default()
    };
    let mut writer = LmdbWriter::create(&lmdb).unwrap();
    writer
        .put(
            "0",
            &Datum {
                data: Some(vec![1, 2]),
                ..shape.clone()
            },
        )
        .unwrap();
    writer
        .put(
            "1",
            &Datum {
                float_data: vec![0.5, -1.5],
                ..shape.clone()
            },
        )
        .unwrap();
    writer
        .put(
            "2",
            &Datum {
                data: Some(png.into_inner()),
                encoded: Some(true),
                ..Datum::default()
            },
        )
        .unwrap();
    writer.finish().unwrap();
    let report = compute_mean(&lmdb, Backend::Lmdb, &out).unwrap();
    assert_eq!((report.records, report.shape), (3, [1, 1, 2]));
    assert_eq!(MeanImage::read(&out).unwrap().values, [3.5, 1.5]);
    assert_eq!(report.channel_means, [2.5]);
    assert_eq!(names(folder.path()), ["a_lmdb", "mean.binaryproto"]);
}

#[test]
fn a_mean_of_different_sizes_names_the_record() {
    let (folder, options) = image_folder();
    convert(&options, &mut |_, _| {}).unwrap();
    let message = compute_mean(&options.out, Backend::Lmdb, &folder.path().join("mean"))
        .unwrap_err()
        .to_string();
    let expected = format!(
        "{}: record 00000002_gray.png is 3x8x8, but the first record is 3x2x4: \
         resize with `sparknet convert --resize-height 2 --resize-width 4`",
        options.out.display()
    );
    assert_eq!(message, expected);
    assert!(!folder.path().join("mean").exists());
}

/// Raw IDX files of `train` and `test` images of 1×2, all gzipped but the training labels.
fn write_mnist(folder: &Path, train: u32, test: u32) {
    for (name, count) in [("train", train), ("t10k", test)] {
        let header = |magic: u32, sizes: &[u32]| -> Vec<u8> {
            [magic]
                .iter()
                .chain(sizes)
                .flat_map(|number| number.to_be_bytes())
                .collect()
        };
        let images: Vec<u8> = (0..2 * count).map(|value| value as u8).collect();
        let labels: Vec<u8> = (0..count).map(|label| (label % 10) as u8).collect();
        write_gzipped(
            &folder.join(format!("{name}-images-idx3-ubyte.gz")),
            &[header(0x803, &[count, 1, 2]), images].concat(),
        );
        let labels = [header(0x801, &[count]), labels].concat();
        match name {
            "train" => fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap(),
            _ => write_gzipped(&folder.join("t10k-labels-idx1-ubyte.gz"), &labels),
        }
    }
}

fn write_gzipped(path: &Path, bytes: &[u8]) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    fs::write(path, encoder.finish().unwrap()).unwrap();
}

fn build(kind: DatasetKind, dir: &Path, source: Option<&Path>) -> (sparknet_data::DatasetReport, Vec<String>) {
    let mut said = Vec::new();
    let report = build_dataset(kind, dir, source, &mut |line| said.push(line.to_string())).unwrap();
    (report, said)
}

#[test]
fn mnist_is_made_once_from_raw_files() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, dir) = (folder.path().join("raw"), folder.path().join("deep/er"));
    fs::create_dir(&raw).unwrap();
    write_mnist(&raw, 25, 4);
    for (kind, name) in [
        (DatasetKind::Mnist, "mnist"),
        (DatasetKind::FashionMnist, "fashion_mnist"),
    ] {
        let (report, said) = build(kind, &dir, Some(&raw));
        assert_eq!(report.train, dir.join(format!("{name}_train_lmdb")));
        assert_eq!(report.test, dir.join(format!("{name}_test_lmdb")));
        assert_eq!(
            (report.train_records, report.test_records, report.was_complete),
            (25, 4, false)
        );
        assert_eq!(said[0], format!("reading {}", raw.display()));
        let train = records(&report.train);
        assert_eq!((train[24].key.as_slice(), train[24].label), (b"00000024".as_slice(), 4));
        assert_eq!(train[24].pixels, Pixels::Bytes(vec![48, 49]));
        // The second time nothing is read, not even looked for.
        let (again, said) = build(kind, &dir, None);
        assert_eq!(
            (again.train_records, again.test_records, again.was_complete),
            (25, 4, true)
        );
        assert_eq!(
            said,
            [format!(
                "{} and {} are already there",
                report.train.display(),
                report.test.display()
            )]
        );
        // One half is made again, the other stays.
        fs::remove_dir_all(&report.test).unwrap();
        let (_, said) = build(kind, &dir, Some(&raw));
        assert_eq!(said[1..], [format!("writing 4 records to {}", report.test.display())]);
    }
    assert_eq!(names(&dir).len(), 4);
}

#[test]
fn raw_files_are_found_in_the_folder_itself_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    write_mnist(folder.path(), 3, 3);
    let images = folder.path().join("t10k-images-idx3-ubyte.gz");
    let whole = fs::read(&images).unwrap();
    fs::write(&images, &whole[..whole.len() - 9]).unwrap();
    let result = build_dataset(DatasetKind::Mnist, folder.path(), None, &mut |_| {});
    let message = result.unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{} is corrupt: ", images.display())),
        "{message}"
    );
    fs::write(&images, whole).unwrap();
    assert_eq!(build(DatasetKind::Mnist, folder.path(), None).0.test_records, 3);
    let missing = folder.path().join("no_such_folder");
    let other = folder.path().join("other");
    let result = build_dataset(DatasetKind::Mnist, &other, Some(&missing), &mut |_| {});
    assert!(matches!(result, Err(DataError::Missing(path)) if path == missing));
}

/// CIFAR-10's six files with `count` records each; the label and every byte of record k of file f are (f + k) mod 10.
fn cifar10_files(count: usize) -> Vec<(String, Vec<u8>)> {
    let file = |file: usize| {
        (0..count)
            .flat_map(move |record| vec![((file + record) % 10) as u8; 3073])
            .collect()
    };
    let name = |number: usize| {
        if number == 6 {
            "test_batch.bin".to_string()
        } else {
            format!("data_batch_{number}.bin")
        }
    };
    (1..=6).map(|number| (name(number), file(number))).collect()
}

fn check_cifar10(dir: &Path, source: &Path) {
    let (report, _) = build(DatasetKind::Cifar10, dir, Some(source));
    assert_eq!((report.train_records, report.test_records), (10, 2));
    let train = records(&report.train);
    let labels: Vec<_> = train.iter().map(|record| record.label).collect();
    assert_eq!(labels, [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]);
    assert_eq!(train[9].key, b"00009");
    let mean = MeanImage::read(&report.mean.unwrap()).unwrap();
    assert_eq!((mean.shape, mean.values), ([3, 32, 32], vec![3.5; 3072]));
    assert_eq!(
        names(dir),
        ["cifar10_test_lmdb", "cifar10_train_lmdb", "mean.binaryproto"]
    );
    assert!(build(DatasetKind::Cifar10, dir, None).0.was_complete);
    fs::remove_file(dir.join("mean.binaryproto")).unwrap();
    let (_, said) = build(DatasetKind::Cifar10, dir, None);
    assert_eq!(said, [format!("computing {}", dir.join("mean.binaryproto").display())]);
}

#[test]
fn cifar10_is_made_from_the_folder_and_from_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    fs::create_dir_all(at("raw/cifar-10-batches-bin")).unwrap();
    fs::create_dir_all(at("archive")).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in cifar10_files(2) {
        fs::write(at("raw/cifar-10-batches-bin").join(&name), &bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, format!("cifar-10-batches-bin/{name}"), &bytes[..])
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    write_gzipped(&at("archive/cifar-10-binary.tar.gz"), &archive);
    check_cifar10(&at("from_folder"), &at("raw"));
    check_cifar10(&at("from_archive"), &at("archive"));
    write_gzipped(&at("archive/cifar-10-binary.tar.gz"), &archive[..archive.len() / 2]);
    let result = build_dataset(
        DatasetKind::Cifar10,
        &at("from_half"),
        Some(&at("archive")),
        &mut |_| {},
    );
    let message = result.unwrap_err().to_string();
    assert!(message.contains("cifar-10-binary.tar.gz is corrupt: it "), "{message}");
    assert!(!at("from_half/cifar10_train_lmdb").exists());
}
