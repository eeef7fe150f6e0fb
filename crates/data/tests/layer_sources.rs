//! The sources behind Caffe's ImageData and WindowData layers, and means from NumPy.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageEncoder, codecs::png::PngEncoder};
use sparknet_data::{
    BatchConfig, BatchReader, ColorMode, DataError, End, ImageListSource, ImageListSpec, MeanImage, Pixels, Record,
    RowRules, RowValues, RowsWriter, Shard, Source, TransformSpec, WindowSource, WindowSpec,
};

fn png(path: &Path, width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) {
    let pixels: Vec<u8> = (0..width * height).flat_map(|i| pixel(i % width, i / width)).collect();
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&pixels, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .unwrap();
    fs::write(path, file).unwrap();
}

/// Ten images of 4 × 6 whose pixels are (number, column, row), and their list.
fn images(folder: &Path) -> PathBuf {
    let mut list = String::new();
    for number in 0..10 {
        let name = format!("image {number}.png");
        png(&folder.join(&name), 6, 4, |x, y| [number, x as u8, y as u8]);
        list += &format!("{name} {}\n", 100 + u32::from(number));
    }
    let path = folder.join("list.txt");
    fs::write(&path, list).unwrap();
    path
}

fn list_spec(folder: &Path) -> ImageListSpec {
    ImageListSpec {
        list: images(folder),
        root: folder.display().to_string(),
        is_color: true,
        ..Default::default()
    }
}

fn labels(source: impl Source + 'static, world: usize, rank: usize, batches: usize, start: u64) -> Vec<f32> {
    let config = BatchConfig {
        batch_size: 2,
        rank,
        world,
        start_batches: start,
        end: End::Wrap,
        shard: Shard::Records,
        ..BatchConfig::default()
    };
    let mut reader = BatchReader::with_source(config, Box::new(source)).unwrap();
    (0..batches)
        .flat_map(|_| reader.next().unwrap().unwrap().labels)
        .collect()
}

#[test]
fn images_of_a_list_come_in_blue_green_red() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = ImageListSource::open(list_spec(folder.path())).unwrap();
    assert_eq!(source.len_records(), 10);
    let mut record = Record::default();
    source.seek(3).unwrap();
    source.read(&mut record).unwrap();
    assert_eq!(
        (record.channels, record.height, record.width, record.label),
        (3, 4, 6, 103)
    );
    let Pixels::Bytes(bytes) = &record.pixels else {
        panic!("{:?}", record.pixels);
    };
    assert_eq!(bytes[..8], [0, 0, 0, 0, 0, 0, 1, 1], "blue is the row");
    assert_eq!(bytes[24..32], [0, 1, 2, 3, 4, 5, 0, 1], "green is the column");
    assert_eq!(bytes[48..], [3; 24], "red is the number");

    let gray = ImageListSpec {
        is_color: false,
        new_size: Some([8, 3]),
        ..list_spec(folder.path())
    };
    let mut source = ImageListSource::open(gray).unwrap();
    source.read(&mut record).unwrap();
    assert_eq!((record.channels, record.height, record.width), (1, 8, 3));
}

#[test]
fn every_pass_over_a_list_has_its_own_order_whoever_reads() {
    let folder = tempfile::tempdir().unwrap();
    let open = |shuffle| {
        let spec = ImageListSpec {
            shuffle,
            seed: 5,
            ..list_spec(folder.path())
        };
        ImageListSource::open(spec).unwrap()
    };
    let in_order: Vec<f32> = (0..10).map(|i| 100.0 + i as f32).collect();
    assert_eq!(labels(open(false), 1, 0, 5, 0), in_order);
    let whole = labels(open(true), 1, 0, 15, 0);
    let passes: Vec<&[f32]> = whole.chunks(10).collect();
    for pass in &passes {
        let mut sorted = pass.to_vec();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, in_order);
    }
    assert!(passes[0] != passes[1] && passes[1] != passes[2] && passes[0] != in_order);
    assert_eq!(labels(open(true), 1, 0, 8, 7), whole[14..], "from the eighth batch on");
    // Two workers take turns in the same order.
    let [even, odd] = [0, 1].map(|rank| labels(open(true), 2, rank, 7, 0));
    let both: Vec<f32> = even.into_iter().zip(odd).flat_map(|(even, odd)| [even, odd]).collect();
    assert_eq!(both, whole[..28]);
}

#[test]
fn lists_and_images_that_are_wrong_are_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let spec = list_spec(folder.path());
    let read = |list: &str| {
        fs::write(&spec.list, list).unwrap();
        let mut source = ImageListSource::open(spec.clone())?;
        let mut record = Record::default();
        (0..source.len_records()).try_for_each(|_| source.read(&mut record))
    };
    fs::write(folder.path().join("text.png"), "no image").unwrap();
    for (list, expected) in [
        (
            "image 1.png 1\nimage 2.png two\n",
            "list.txt:2: `image 2.png two` is not a path, a space and a label",
        ),
        ("image 1.png 1\n\nnone.png 1\n", "none.png (No such file or directory"),
        (
            "text.png 1",
            "text.png is neither a JPEG nor a PNG image: encode it as one of them",
        ),
    ] {
        let message = read(list).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with(&format!("{}:", spec.list.display())), "{message}");
    }
    assert!(matches!(read("\n"), Err(DataError::Empty(_))));

    png(&folder.path().join("large.png"), 9, 9, |_, _| [0; 3]);
    fs::write(&spec.list, "image 1.png 1\nlarge.png 1\n").unwrap();
    let source = ImageListSource::open(spec.clone()).unwrap();
    let config = BatchConfig {
        source: spec.list.clone(),
        batch_size: 2,
        ..BatchConfig::default()
    };
    let message = BatchReader::with_source(config, Box::new(source))
        .unwrap()
        .next()
        .unwrap_err();
    assert!(
        message.to_string().ends_with(
            "record large.png is 3x9x9, but the first record is 3x4x6: set new_height and new_width or set crop_size"
        ),
        "{message}"
    );
}

/// Two images of 20 rows and 30 columns, each with windows of both kinds.
fn window_spec(folder: &Path) -> WindowSpec {
    for number in 0..2 {
        png(&folder.join(format!("{number}.png")), 30, 20, |x, y| {
            [number, x as u8, y as u8]
        });
    }
    let file = folder.join("windows.txt");
    let windows = "# 0\n0.png\n3\n20\n30\n4\n7 0.9 4 2 11 9\n1 0.4 0 0 29 19\n2 0.6 8 8 15 15\n3 0.2 1 1 8 8\n\
                   # 1\n1.png\n3 20 30 2\n8 1 22 12 29 19\n0 0 0 0 7 7\n";
    fs::write(&file, windows).unwrap();
    WindowSpec {
        file,
        root: format!("{}/", folder.display()),
        fg_threshold: 0.5,
        bg_threshold: 0.3,
        fg_fraction: 0.3,
        context_pad: 0,
        is_square: false,
        cache_images: false,
        transform: TransformSpec {
            crop_size: 8,
            ..TransformSpec::default()
        },
        batch_size: 10,
        records_per_place: 1,
        seed: 1,
    }
}

fn floats(record: &Record) -> &[f32] {
    match &record.pixels {
        Pixels::Floats(floats) => floats,
        other => panic!("{other:?}"),
    }
}

#[test]
fn windows_are_drawn_by_kind_and_cut_where_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let spec = window_spec(folder.path());
    let mut source = WindowSource::open(spec.clone()).unwrap();
    // The one with an overlap of 0.4 is neither.
    assert_eq!(source.len_records(), 5);
    let mut record = Record::default();
    let mut seen = BTreeSet::new();
    for epoch in 0..40 {
        source.begin_epoch(epoch);
        source.seek(0).unwrap();
        for place in 5 * epoch..5 * epoch + 5 {
            source.read(&mut record).unwrap();
            assert_eq!((record.channels, record.height, record.width), (3, 8, 8));
            // 3 of 10 are objects, the last ones.
            assert_eq!(record.label > 0, place % 10 >= 7, "{place}");
            // All windows are of the frame's size, so that no pixel is changed: green is the column, blue the row.
            let [blue, green, red] = [0, 1, 2].map(|channel| &floats(&record)[64 * channel..64 * (channel + 1)]);
            let (x1, y1) = (green[0], blue[0]);
            for (i, (blue, green)) in blue.iter().zip(green).enumerate() {
                assert_eq!((*green, *blue), (x1 + (i % 8) as f32, y1 + (i / 8) as f32));
            }
            seen.insert((record.label, red[0] as i32, x1 as i32, y1 as i32));
        }
    }
    let expected = [(0, 0, 1, 1), (0, 1, 0, 0), (2, 0, 8, 8), (7, 0, 4, 2), (8, 1, 22, 12)];
    assert_eq!(seen, BTreeSet::from(expected));

    // The same draws, mirrored or not, with mean and scale, from the cache.
    let mut plain = WindowSource::open(spec.clone()).unwrap();
    let mirrored = WindowSpec {
        cache_images: true,
        transform: TransformSpec {
            mirror: true,
            scale: 0.5,
            mean_values: vec![1.0, 2.0, 3.0],
            ..spec.transform
        },
        ..spec
    };
    let mut mirrored = WindowSource::open(mirrored).unwrap();
    let (mut other, mut mirrors) = (Record::default(), 0);
    for place in 0..25 {
        for source in [&mut plain, &mut mirrored] {
            source.begin_epoch(place / 5);
            source.seek(place % 5).unwrap();
        }
        plain.read(&mut record).unwrap();
        mirrored.read(&mut other).unwrap();
        let values = |mirror: bool| -> Vec<f32> {
            let value = |i: usize| {
                let from = if mirror { i / 8 * 8 + 7 - i % 8 } else { i };
                (floats(&record)[from] - [1.0, 2.0, 3.0][i / 64]) * 0.5
            };
            (0..192).map(value).collect()
        };
        mirrors += usize::from(floats(&other) == values(true));
        assert!(floats(&other) == values(true) || floats(&other) == values(false));
    }
    assert!((5..20).contains(&mirrors), "{mirrors}");
}

#[test]
fn context_is_taken_in_and_padded_where_the_image_ends() {
    let folder = tempfile::tempdir().unwrap();
    // One window of 4 × 4 at the corner; context of 2 on each side of 8 makes it 8 × 8, of which a quarter is outside.
    let spec = WindowSpec {
        context_pad: 2,
        fg_fraction: 1.0,
        batch_size: 1,
        ..window_spec(folder.path())
    };
    let windows = |line: &str| fs::write(&spec.file, format!("# 0\n0.png\n3 20 30 1\n{line}\n")).unwrap();
    let read = |spec: &WindowSpec| {
        let mut record = Record::default();
        let mut source = WindowSource::open(spec.clone())?;
        source.read(&mut record).map(|()| record)
    };
    windows("1 1 0 0 3 3");
    let record = read(&spec).unwrap();
    // Caffe's rounding: the expanded window is from -2 to 6, 9 pixels, of which 2 are outside.
    let (blue, green) = (&floats(&record)[..64], &floats(&record)[64..128]);
    let outside = (0..64).filter(|i| i % 8 < 2 || i / 8 < 2);
    outside.for_each(|i| assert_eq!((blue[i], green[i]), (0.0, 0.0), "{i}"));
    assert_eq!(green[2 * 8 + 2..2 * 8 + 8], [0.0, 1.0, 2.0, 4.0, 5.0, 6.0]);
    assert_eq!(blue[7 * 8 + 2], 6.0);

    // A square around a wide window reaches beyond the image's top and bottom.
    let square = WindowSpec {
        context_pad: 0,
        is_square: true,
        ..spec.clone()
    };
    windows("1 1 0 5 29 14");
    let record = read(&square).unwrap();
    let green = &floats(&record)[64..128];
    assert!(green[..8].iter().all(|value| *value == 0.0), "{green:?}");
    assert!(green[4 * 8 + 7] > 20.0, "{green:?}");

    for (line, expected) in [
        (
            "1 1 5 5 4 9",
            "0.png is 20x30, but has a window from (5, 5) to (4, 9): correct it",
        ),
        ("1 1 -2147483648 0 2147483647 9", "correct it"),
        (
            "0 1 0 0 3 3",
            "image 0 has an object with label 0: objects count from 1",
        ),
        ("1 1 0 0 3", "image 0 has its end where a number or path should be"),
        ("1 0.1 0 0 3 3", "it has no window with object: lower fg_threshold"),
    ] {
        windows(line);
        let plain = WindowSpec {
            context_pad: 0,
            ..spec.clone()
        };
        let message = read(&plain).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(
            read(&spec).is_err() && read(&square).is_err() || line.contains("2147483647"),
            "{line}"
        );
    }
}

/// Whatever a caller asks for: no panic, and nothing but an error or a record.
fn seek_far(source: &mut dyn Source, has_end: bool) {
    let mut record = Record::default();
    source.begin_epoch(u64::MAX);
    for index in [u64::MAX, u64::MAX - 1, 1 << 32] {
        let read = source.seek(index).and_then(|()| source.read(&mut record));
        assert_eq!(read.is_err(), has_end, "{read:?}");
    }
    source.seek(1).unwrap();
    source.read(&mut record).unwrap();
}

#[test]
fn a_seek_beyond_all_records_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    seek_far(&mut ImageListSource::open(list_spec(folder.path())).unwrap(), true);
    // Windows are drawn without end.
    seek_far(&mut WindowSource::open(window_spec(folder.path())).unwrap(), false);
    let mut writer = RowsWriter::new(RowRules {
        name: "the rows".to_owned(),
        shape: None,
        color: ColorMode::Native,
        crop_size: 0,
        numbers: 0,
        skip_bad: false,
        memory_limit_bytes: 100,
        spill_folder: folder.path().to_owned(),
    });
    for _ in 0..4 {
        writer.push(RowValues::Bytes(&[1, 2]), 0.0).unwrap();
    }
    seek_far(&mut *writer.finish().unwrap().source(), true);
}

#[test]
fn npy_means_are_read_like_binaryprotos() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mean.npy");
    let write = |version: u8, header: &str, values: &[u8]| {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(values);
        fs::write(&path, bytes).unwrap();
        MeanImage::read(&path)
    };
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32 / 2.0).to_le_bytes()).collect();
    let doubles: Vec<u8> = (0..6).flat_map(|i| (f64::from(i) / 2.0).to_le_bytes()).collect();
    let expected = MeanImage {
        shape: [1, 2, 3],
        values: vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5],
    };
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }   \n";
    assert_eq!(write(1, header, &floats).unwrap(), expected);
    assert_eq!(
        write(2, &header.replace("(1, 2, 3)", "(1, 1, 2, 3)"), &floats).unwrap(),
        expected
    );
    assert_eq!(write(1, &header.replace("<f4", "<f8"), &doubles).unwrap(), expected);
    let bytes = write(1, &header.replace("<f4", "|u1"), &[7; 6]).unwrap();
    assert_eq!(bytes.values, [7.0; 6]);
    for (header, values, part) in [
        (
            header.replace("False", "True"),
            &floats[..],
            "save numpy.ascontiguousarray of it",
        ),
        (
            header.replace("<f4", "<i8"),
            &doubles[..],
            "its values are of the type <i8: save it as float32",
        ),
        (
            header.to_owned(),
            &floats[..20],
            "another number of values than its shape says",
        ),
        (
            header.replace("(1, 2, 3)", "(6,)"),
            &floats[..],
            "which is no single image",
        ),
        (
            header.replace("shape", "shade"),
            &floats[..],
            "its header lacks a field",
        ),
        (
            header.replace("(1, 2, 3)", "(-1, 2, 3)"),
            &floats[..],
            "its shape is none",
        ),
    ] {
        let message = write(1, &header, values).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("mean file {}: ", path.display())),
            "{message}"
        );
        assert!(message.contains(part), "{message}");
    }
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(MeanImage::read(&path).is_err(), "{length} bytes");
    }
}
