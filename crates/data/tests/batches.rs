//! Batches: who gets which record, resume, prefetch, errors.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sparknet_data::{
    Backend, Batch, BatchConfig, BatchReader, DataError, End, LmdbWriter, Pixels, Record, Shard, Source, TransformSpec,
};
use sparknet_proto::caffe::Datum;

/// Records of 1×4×4 bytes in memory; record k has the label k and random-looking bytes.
struct Counting {
    len: u64,
    index: u64,
    reads: Arc<AtomicUsize>,
    panic_at: Option<u64>,
}

impl Source for Counting {
    fn len_records(&self) -> u64 {
        self.len
    }
    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.index = index;
        Ok(())
    }
    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        assert!(self.index < self.len, "read behind the end");
        assert!(Some(self.index) != self.panic_at, "told to panic");
        self.reads.fetch_add(1, Ordering::SeqCst);
        let bytes = (0..16).map(|i| (self.index * 16 + i) as u8).collect();
        *record = Record {
            key: self.index.to_string().into_bytes(),
            channels: 1,
            height: 4,
            width: 4,
            label: self.index as i32,
            float_label: None,
            arrays: Vec::new(),
            pixels: Pixels::Bytes(bytes),
        };
        self.index += 1;
        Ok(())
    }
}

fn open(len: u64, config: BatchConfig) -> BatchReader {
    let source = Counting {
        len,
        index: 0,
        reads: Arc::default(),
        panic_at: None,
    };
    BatchReader::with_source(config, Box::new(source)).unwrap()
}

fn take(reader: &mut BatchReader, count: usize) -> Vec<Batch> {
    (0..count).map(|_| reader.next().unwrap().unwrap()).collect()
}

fn rest(mut reader: BatchReader) -> Vec<Batch> {
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn labels(batches: &[Batch]) -> Vec<f32> {
    batches.iter().flat_map(|batch| batch.labels.clone()).collect()
}

/// Crops and mirrors at random, so that the data shows which draws were made.
fn random() -> TransformSpec {
    TransformSpec {
        crop_size: 2,
        mirror: true,
        ..TransformSpec::default()
    }
}

#[test]
fn training_wraps_and_keeps_its_place() {
    let mut reader = open(
        5,
        BatchConfig {
            batch_size: 3,
            ..BatchConfig::default()
        },
    );
    assert_eq!((reader.record_shape(), reader.len_records()), ([1, 4, 4], 5));
    let batches = take(&mut reader, 4);
    assert_eq!(labels(&batches), [0., 1., 2., 3., 4., 0., 1., 2., 3., 4., 0., 1.]);
    assert_eq!(
        batches.iter().map(|batch| batch.index).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert_eq!(batches[1].data[..3], [48.0, 49.0, 50.0]);
    assert_eq!((batches[1].count, batches[1].data.len()), (3, 48));
}

#[test]
fn workers_together_see_what_one_worker_sees_with_a_larger_batch() {
    for (len, world, batch_size) in [(7, 3, 2), (12, 4, 3), (2, 5, 3), (10, 1, 4)] {
        let config = BatchConfig {
            batch_size: batch_size * world,
            transform: random(),
            seed: 9,
            ..BatchConfig::default()
        };
        let single = take(&mut open(len, config), 6);
        for rank in 0..world {
            let config = BatchConfig {
                batch_size,
                transform: random(),
                seed: 9,
                rank,
                world,
                ..BatchConfig::default()
            };
            for (batch, whole) in take(&mut open(len, config), 6).iter().zip(&single) {
                let part: Vec<_> = whole.labels.iter().copied().skip(rank).step_by(world).collect();
                assert_eq!(batch.labels, part);
                let part: Vec<_> = whole
                    .data
                    .chunks(4)
                    .skip(rank)
                    .step_by(world)
                    .flatten()
                    .copied()
                    .collect();
                assert_eq!(batch.data, part, "random draws follow the record, not the worker");
                assert_eq!(batch.index, whole.index);
            }
        }
    }
}

#[test]
fn a_test_reads_every_record_once() {
    for shard in [Shard::Records, Shard::Batches] {
        for (len, world, batch_size) in [(10, 3, 2), (10, 1, 4), (1, 3, 4), (12, 2, 3), (7, 7, 1)] {
            let mut seen = Vec::new();
            let mut indices = HashSet::new();
            for rank in 0..world {
                let config = BatchConfig {
                    batch_size,
                    rank,
                    world,
                    end: End::Stop,
                    shard,
                    phase_train: false,
                    ..BatchConfig::default()
                };
                for batch in rest(open(len, config)) {
                    assert!(batch.count >= 1 && batch.count <= batch_size);
                    assert_eq!((batch.labels.len(), batch.data.len()), (batch.count, 16 * batch.count));
                    seen.extend(batch.labels.iter().map(|&label| label as u64));
                    indices.insert((batch.index, if shard == Shard::Records { rank } else { 0 }));
                }
            }
            seen.sort_unstable();
            assert_eq!(
                seen,
                (0..len).collect::<Vec<_>>(),
                "{shard:?} {len} {world} {batch_size}"
            );
            if shard == Shard::Batches {
                assert_eq!(
                    indices.len() as u64,
                    len.div_ceil(batch_size as u64),
                    "batches of all workers are numbered"
                );
            }
        }
    }
}

#[test]
fn batch_shards_are_the_batches_of_one_worker() {
    let config = |rank, world| BatchConfig {
        batch_size: 4,
        rank,
        world,
        end: End::Stop,
        shard: Shard::Batches,
        phase_train: false,
        transform: random(),
        ..BatchConfig::default()
    };
    let single = rest(open(30, config(0, 1)));
    assert_eq!(single.last().unwrap().count, 2);
    let mut all: Vec<_> = (0..3).flat_map(|rank| rest(open(30, config(rank, 3)))).collect();
    all.sort_by_key(|batch| batch.index);
    assert_eq!(all, single);
}

#[test]
fn max_batches_counts_over_all_workers() {
    let config = |rank, world, end| BatchConfig {
        batch_size: 4,
        rank,
        world,
        end,
        shard: Shard::Batches,
        max_batches: Some(5),
        ..BatchConfig::default()
    };
    assert_eq!(labels(&rest(open(100, config(0, 1, End::Stop)))).len(), 20);
    assert_eq!(rest(open(100, config(0, 2, End::Stop))).len(), 3);
    assert_eq!(rest(open(100, config(1, 2, End::Stop))).len(), 2);
    // Caffe's test_iter may ask for more than there is: it wraps.
    assert_eq!(labels(&rest(open(6, config(0, 1, End::Wrap)))).len(), 20);
    assert_eq!(labels(&rest(open(6, config(0, 1, End::Stop)))).len(), 6);
}

#[test]
fn resuming_equals_never_stopping() {
    for shard in [Shard::Records, Shard::Batches] {
        let config = |start_batches| BatchConfig {
            batch_size: 3,
            rank: 1,
            world: 2,
            shard,
            seed: 5,
            transform: random(),
            rand_skip: 4,
            start_batches,
            ..BatchConfig::default()
        };
        let whole = take(&mut open(7, config(0)), 12);
        for start in [1, 5, 9] {
            assert_eq!(
                take(&mut open(7, config(start)), 3),
                whole[start as usize..start as usize + 3]
            );
        }
    }
}

#[test]
fn equal_seeds_give_equal_bits_and_others_do_not() {
    let config = |seed, prefetch| BatchConfig {
        batch_size: 8,
        seed,
        prefetch,
        transform: random(),
        ..BatchConfig::default()
    };
    let batches = take(&mut open(20, config(1, 1)), 5);
    assert_eq!(take(&mut open(20, config(1, 7)), 5), batches);
    assert_ne!(take(&mut open(20, config(2, 1)), 5), batches);
    // The second time round, a record is cropped and mirrored anew.
    let one = take(&mut open(1, config(1, 1)), 1);
    assert!(one[0].data.chunks(4).any(|crop| crop != &one[0].data[..4]));
}

#[test]
fn rand_skip_starts_somewhere_else_and_loses_nothing() {
    let config = |seed, end| BatchConfig {
        batch_size: 1,
        seed,
        rand_skip: 10,
        end,
        ..BatchConfig::default()
    };
    let starts: HashSet<_> = (0..50)
        .map(|seed| take(&mut open(10, config(seed, End::Wrap)), 1)[0].labels[0] as u32)
        .collect();
    assert!(starts.len() > 7, "{starts:?}");
    let mut seen = labels(&rest(open(10, config(3, End::Stop))));
    seen.sort_by(f32::total_cmp);
    assert_eq!(seen, (0..10).map(|label| label as f32).collect::<Vec<_>>());
}

#[test]
fn buffers_come_back() {
    let mut reader = open(
        6,
        BatchConfig {
            batch_size: 4,
            end: End::Stop,
            prefetch: 1,
            ..BatchConfig::default()
        },
    );
    let batch = reader.next().unwrap().unwrap();
    reader.recycle(batch);
    // The last batch is smaller, so a buffer that came back must not keep old records.
    let last = reader.next().unwrap().unwrap();
    assert_eq!(last.labels, [4.0, 5.0]);
    assert_eq!(last.data.len(), 32);
    drop(reader);

    let mut reader = open(
        6,
        BatchConfig {
            batch_size: 4,
            prefetch: 1,
            ..BatchConfig::default()
        },
    );
    let mut returned = false;
    for _ in 0..20 {
        let mut batch = reader.next().unwrap().unwrap();
        returned |= batch.data.capacity() >= 100_000;
        batch.data.reserve_exact(100_000);
        reader.recycle(batch);
    }
    assert!(returned);
}

#[test]
fn the_thread_reads_ahead_and_no_further() {
    let reads = Arc::new(AtomicUsize::new(0));
    let source = Counting {
        len: 1000,
        index: 0,
        reads: reads.clone(),
        panic_at: None,
    };
    let config = BatchConfig {
        batch_size: 2,
        prefetch: 3,
        ..BatchConfig::default()
    };
    let mut reader = BatchReader::with_source(config, Box::new(source)).unwrap();
    for _ in 0..10 {
        reader.next().unwrap().unwrap();
    }
    assert!(reader.wait_seconds() > 0.0);
    // Dropping joins the thread, so the count is final: the first record for the shape, ten batches taken, three waiting and
    // one that waits for room.
    drop(reader);
    let reads = reads.load(Ordering::SeqCst);
    assert!((21..=1 + 2 * (10 + 3 + 1)).contains(&reads), "{reads}");
}

#[test]
fn a_panic_on_the_thread_is_an_error() {
    let source = Counting {
        len: 10,
        index: 0,
        reads: Arc::default(),
        panic_at: Some(5),
    };
    let config = BatchConfig {
        source: "the_source".into(),
        batch_size: 4,
        ..BatchConfig::default()
    };
    let mut reader = BatchReader::with_source(config, Box::new(source)).unwrap();
    assert!(reader.next().is_ok());
    let message = reader.next().unwrap_err().to_string();
    let expected = "the thread that reads the_source died (told to panic): this is a bug of sparknet, please report it";
    assert_eq!(message, expected);
    assert_eq!(
        reader.next().unwrap_err().to_string(),
        "the_source cannot be read on after the error before"
    );
}

#[test]
fn impossible_configs_are_told() {
    let message = |config: BatchConfig| {
        let source = Counting {
            len: 10,
            index: 0,
            reads: Arc::default(),
            panic_at: None,
        };
        BatchReader::with_source(config, Box::new(source))
            .err()
            .unwrap()
            .to_string()
    };
    let config = BatchConfig {
        batch_size: 0,
        ..BatchConfig::default()
    };
    assert_eq!(message(config), "data layer: batch_size is 0: it must be at least 1");
    let config = BatchConfig {
        rank: 2,
        world: 2,
        ..BatchConfig::default()
    };
    assert_eq!(
        message(config),
        "data layer: worker 2 of 2 does not exist: workers count from 0"
    );
    let config = BatchConfig {
        transform: TransformSpec {
            crop_size: 5,
            ..TransformSpec::default()
        },
        ..BatchConfig::default()
    };
    assert!(message(config).contains("crop_size 5 is larger than a record of 1x4x4"));
    let config = BatchConfig {
        batch_size: usize::MAX / 64,
        ..BatchConfig::default()
    };
    let source = Counting {
        len: 10,
        index: 0,
        reads: Arc::default(),
        panic_at: None,
    };
    let error = BatchReader::with_source(config, Box::new(source))
        .unwrap()
        .next()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("does not fit into memory: lower batch_size")
    );
}

fn write_sizes(path: &Path, shapes: &[[i32; 3]]) {
    let mut writer = LmdbWriter::create(path).unwrap();
    for (k, shape) in shapes.iter().enumerate() {
        let [channels, height, width] = shape.map(Some);
        let data = Some(vec![k as u8; shape.iter().product::<i32>() as usize]);
        let datum = Datum {
            channels,
            height,
            width,
            data,
            label: Some(k as i32),
            ..Datum::default()
        };
        writer.put(&format!("{k:08}"), &datum).unwrap();
    }
    writer.finish().unwrap();
}

fn batch_of(path: &Path, batch_size: usize, transform: TransformSpec) -> Result<Option<Batch>, DataError> {
    let config = BatchConfig {
        source: path.into(),
        backend: Backend::Lmdb,
        batch_size,
        transform,
        ..BatchConfig::default()
    };
    BatchReader::open(config)?.next()
}

#[test]
fn records_of_another_size_are_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    write_sizes(&path, &[[3, 6, 8], [3, 6, 7], [3, 4, 4], [1, 6, 8]]);
    let crop = |crop_size| TransformSpec {
        crop_size,
        ..TransformSpec::default()
    };
    let message = |count, crop_size| batch_of(&path, count, crop(crop_size)).unwrap_err().to_string();
    let expected = format!(
        "{}: record 00000001 is 3x6x7, but the first record is 3x6x8: \
         resize with `sparknet convert --resize-height 6 --resize-width 8` or set crop_size",
        path.display()
    );
    assert_eq!(message(2, 0), expected);
    // With a crop that fits into all of them, sizes may differ.
    let batch = batch_of(&path, 3, crop(4)).unwrap().unwrap();
    assert_eq!(batch.data, [[0.0; 48], [1.0; 48], [2.0; 48]].concat());
    assert!(
        message(3, 5).contains("record 00000002 is 3x4x4") && message(3, 5).ends_with("or set crop_size, now 5, lower")
    );
    assert!(
        message(4, 4)
            .contains("record 00000003 has 1 channels, but the first record has 3: set force_color or force_gray")
    );
}

#[test]
fn an_undecodable_record_is_named_at_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    let mut png = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(5, 4)
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    let datum = |data: &[u8]| Datum {
        data: Some(data.to_vec()),
        encoded: Some(true),
        label: Some(1),
        ..Datum::default()
    };
    let mut writer = LmdbWriter::create(&path).unwrap();
    writer.put("good", &datum(png.get_ref())).unwrap();
    writer.put("truncated", &datum(&png.get_ref()[..50])).unwrap();
    writer.finish().unwrap();
    let gray = TransformSpec {
        force_gray: true,
        ..TransformSpec::default()
    };
    assert_eq!(
        batch_of(&path, 1, TransformSpec::default())
            .unwrap()
            .unwrap()
            .data
            .len(),
        60
    );
    assert_eq!(batch_of(&path, 1, gray).unwrap().unwrap().data.len(), 20);
    let message = batch_of(&path, 2, TransformSpec::default()).unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{}: record truncated cannot be decoded (", path.display())),
        "{message}"
    );
}

#[test]
fn workers_of_one_process_read_one_lmdb() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    write_sizes(&path, &[[1, 2, 2]; 100]);
    let config = |rank| BatchConfig {
        source: path.clone(),
        batch_size: 5,
        rank,
        world: 4,
        ..BatchConfig::default()
    };
    let mut readers: Vec<_> = (0..4).map(|rank| BatchReader::open(config(rank)).unwrap()).collect();
    for iteration in 0..12 {
        for (rank, reader) in readers.iter_mut().enumerate() {
            let batch = reader.next().unwrap().unwrap();
            let expected: Vec<_> = (0..5)
                .map(|item| ((iteration * 5 + item) * 4 + rank) as f32 % 100.0)
                .collect();
            assert_eq!(batch.labels, expected);
            reader.recycle(batch);
        }
    }
}
