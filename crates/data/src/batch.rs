//! Batches, read ahead on a thread of their own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::DataError;
use crate::decode::{Image, decode_image};
use crate::mean::other_size;
use crate::plan::{End, Plan, Shard};
use crate::random::{Draw, draw};
use crate::record::{Pixels, Record};
use crate::source::{Backend, Source, open_source};
use crate::transform::{TransformSpec, Transformer, Values};

/// More batches than this never wait, whatever a net asks for: they would only fill the memory.
const MAX_PREFETCH: usize = 1024;

/// What a [`BatchReader`] reads.
#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// The source's file or folder.
    pub source: PathBuf,
    /// The kind of source.
    pub backend: Backend,
    /// Records in a batch of one worker.
    pub batch_size: usize,
    /// The data layer's `transform_param`.
    pub transform: TransformSpec,
    /// TRAIN crops at random, TEST in the centre.
    pub phase_train: bool,
    /// This worker, from 0.
    pub rank: usize,
    /// How many workers share the records.
    pub world: usize,
    /// Seed of crops, mirrors and rand_skip; the same on all workers.
    pub seed: u64,
    /// Batches that this worker already took before a resume; the reader goes on behind them.
    pub start_batches: u64,
    /// How many finished batches may wait; at least 1 and at most 1024 is used.
    pub prefetch: usize,
    /// What happens at the end of the data.
    pub end: End,
    /// How the workers share the records.
    pub shard: Shard,
    /// Only batches with a global number (see [`Batch::index`]) below this, over all workers (a test's `test_iter`).
    pub max_batches: Option<u64>,
    /// The stream starts at a random record below this (Caffe's rand_skip); 0 for the first.
    pub rand_skip: u64,
}

impl Default for BatchConfig {
    /// One worker, TRAIN, batches of 1, and no source.
    fn default() -> Self {
        Self {
            source: PathBuf::new(),
            backend: Backend::Lmdb,
            batch_size: 1,
            transform: TransformSpec::default(),
            phase_train: true,
            rank: 0,
            world: 1,
            seed: 0,
            start_batches: 0,
            prefetch: 4,
            end: End::Wrap,
            shard: Shard::Records,
            max_batches: None,
            rand_skip: 0,
        }
    }
}

/// Transformed records.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// `(count, c, h, w)`; empty where records are arrays alone.
    pub data: Vec<f32>,
    /// `(count)`: the Datums' labels, 0 where there are none.
    pub labels: Vec<f32>,
    /// `(count, …)` each: the arrays of sources whose records have any ([`Source::array_lengths`]).
    pub arrays: Vec<Vec<f32>>,
    /// Records in this batch: `batch_size`, or fewer in the last batch of [`End::Stop`].
    pub count: usize,
    /// The batch's global number. With [`Shard::Records`] the workers' batches of one iteration share it, with
    /// [`Shard::Batches`] every batch has its own.
    pub index: u64,
}

/// Reads, decodes and transforms batches ahead on a thread of its own. Dropping it ends the thread.
pub struct BatchReader {
    source: PathBuf,
    record_shape: [usize; 3],
    len_records: u64,
    batches: Option<Receiver<Result<Batch, DataError>>>,
    spare: SyncSender<Batch>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    has_failed: bool,
    wait_seconds: f64,
}

impl BatchReader {
    /// Opens the source, reads its first record for the shape and starts to read ahead.
    ///
    /// # Errors
    /// A source that cannot be opened, a transform that is impossible or does not fit the first record.
    pub fn open(config: BatchConfig) -> Result<Self, DataError> {
        let source = open_source(&config.source, config.backend)?;
        Self::with_source(config, source)
    }

    /// As [`Self::open`], over a source that is already open; `config.source` is then only its name in errors.
    pub fn with_source(config: BatchConfig, mut source: Box<dyn Source>) -> Result<Self, DataError> {
        if config.batch_size == 0 {
            return Err(DataError::BadConfig(
                "batch_size is 0: it must be at least 1".to_string(),
            ));
        }
        if config.rank >= config.world {
            let detail = format!(
                "worker {} of {} does not exist: workers count from 0",
                config.rank, config.world
            );
            return Err(DataError::BadConfig(detail));
        }
        let len_records = source.len_records();
        if len_records == 0 {
            return Err(DataError::Empty(config.source));
        }
        let transformer = Transformer::new(config.transform, config.phase_train, config.seed)?;
        let plan = Plan {
            len_records,
            batch_size: config.batch_size as u64,
            rank: config.rank as u64,
            world: config.world as u64,
            end: config.end,
            shard: config.shard,
            max_batches: config.max_batches,
            offset: if config.rand_skip > 0 {
                draw(config.seed, 0, Draw::RandSkip, config.rand_skip)
            } else {
                0
            },
        };
        let mut record = Record::default();
        source.seek(0)?;
        source.read(&mut record)?;
        let (prefetch, path) = (config.prefetch.clamp(1, MAX_PREFETCH), config.source);
        let (spare, spares) = sync_channel(prefetch + 2);
        let stop = Arc::new(AtomicBool::new(false));
        let mut producer = Producer {
            path: path.clone(),
            source,
            cursor: 1,
            epoch: 0,
            record,
            image: None,
            transformer,
            plan,
            taken: config.start_batches,
            first_shape: [0; 3],
            output_shape: [0; 3],
            spares,
            stop: stop.clone(),
        };
        producer.first_shape = producer.decode()?;
        producer.output_shape = producer.transformer.output_shape(producer.first_shape)?;
        let record_shape = producer.output_shape;
        let (sender, batches) = sync_channel(prefetch);
        let thread = std::thread::Builder::new()
            .name("prefetch".to_string())
            .spawn(move || producer.run(&sender))
            .map_err(|cause| DataError::Io {
                action: "start a thread to read",
                path: path.clone(),
                cause,
            })?;
        Ok(Self {
            source: path,
            record_shape,
            len_records,
            batches: Some(batches),
            spare,
            stop,
            thread: Some(thread),
            has_failed: false,
            wait_seconds: 0.0,
        })
    }

    /// The shape `(c, h, w)` of a record in a batch, after decoding and cropping.
    pub fn record_shape(&self) -> [usize; 3] {
        self.record_shape
    }

    /// How many records the source has, for all workers together.
    pub fn len_records(&self) -> u64 {
        self.len_records
    }

    /// The next batch of this worker; `None` after the last one.
    ///
    /// # Errors
    /// Whatever went wrong on the thread, its panic included. After an error there are no more batches.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        let Some(batches) = &self.batches else {
            return if self.has_failed {
                Err(DataError::ReaderStopped(self.source.clone()))
            } else {
                Ok(None)
            };
        };
        let start = Instant::now();
        let received = batches.recv();
        self.wait_seconds += start.elapsed().as_secs_f64();
        let result = match received {
            Ok(Ok(batch)) => return Ok(Some(batch)),
            Ok(Err(error)) => Err(error),
            // The thread is gone: it has come to the end, or it panicked.
            Err(_) => match self.thread.take().map(JoinHandle::join) {
                Some(Err(panic)) => {
                    let message = panic.downcast_ref::<String>().cloned();
                    let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                    let message = message.unwrap_or_else(|| "no message".to_string());
                    Err(DataError::ReaderPanicked {
                        path: self.source.clone(),
                        message,
                    })
                }
                _ => Ok(None),
            },
        };
        self.batches = None;
        self.has_failed = result.is_err();
        result
    }

    /// Gives a batch back when it has been used, so that its buffers serve again.
    pub fn recycle(&mut self, batch: Batch) {
        // A full queue means that there are spares enough.
        let _ = self.spare.try_send(batch);
    }

    /// How long [`Self::next`] has waited in all, in seconds.
    pub fn wait_seconds(&self) -> f64 {
        self.wait_seconds
    }
}

impl Drop for BatchReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits for room in the queue wakes up when the queue's other end is gone.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What runs on the thread.
struct Producer {
    path: PathBuf,
    source: Box<dyn Source>,
    /// The record that the source stands on.
    cursor: u64,
    /// The pass over the source that it stands in.
    epoch: u64,
    record: Record,
    /// The record's image where it is encoded.
    image: Option<Image>,
    transformer: Transformer,
    plan: Plan,
    taken: u64,
    first_shape: [usize; 3],
    output_shape: [usize; 3],
    spares: Receiver<Batch>,
    stop: Arc<AtomicBool>,
}

impl Producer {
    fn run(&mut self, sender: &SyncSender<Result<Batch, DataError>>) {
        loop {
            let result = self.produce().transpose();
            let Some(result) = result else { return };
            let is_over = result.is_err();
            if sender.send(result).is_err() || is_over {
                return;
            }
        }
    }

    /// The next batch, or `None` at the end of the data or when the reader is dropped.
    fn produce(&mut self) -> Result<Option<Batch>, DataError> {
        let index = self.plan.batch(self.taken);
        let count = self.plan.count(index) as usize;
        if count == 0 {
            return Ok(None);
        }
        let mut batch = self.spares.try_recv().unwrap_or_default();
        let size: usize = self.output_shape.iter().product();
        resize(&mut batch.data, count.saturating_mul(size))?;
        resize(&mut batch.labels, count)?;
        let lengths = self.source.array_lengths();
        batch.arrays.resize_with(lengths.len(), Vec::new);
        for (array, length) in batch.arrays.iter_mut().zip(lengths) {
            resize(array, count.saturating_mul(*length))?;
        }
        for item in 0..count {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let record = self.plan.record(index, item as u64);
            let (epoch, position) = self.plan.position(record);
            if epoch != self.epoch {
                self.source.begin_epoch(epoch);
                self.epoch = epoch;
            }
            self.read(position)?;
            self.split(&mut batch.arrays, item)?;
            let shape = self.decode()?;
            self.check_shape(shape)?;
            let values = match (&self.record.pixels, &self.image) {
                (Pixels::Floats(floats), _) => Values::Floats(floats),
                (_, Some(image)) => Values::Bytes(&image.bytes),
                (Pixels::Bytes(bytes) | Pixels::Encoded(bytes), None) => Values::Bytes(bytes),
            };
            if size > 0 {
                let output = &mut batch.data[item * size..(item + 1) * size];
                self.transformer.apply(shape, values, record, output)?;
            }
            batch.labels[item] = self.record.float_label.unwrap_or(self.record.label as f32);
        }
        batch.count = count;
        batch.index = index;
        self.taken += 1;
        Ok(Some(batch))
    }

    /// Takes the arrays of the record as item `item` of a batch.
    fn split(&self, arrays: &mut [Vec<f32>], item: usize) -> Result<(), DataError> {
        let lengths = self.source.array_lengths();
        let values = &self.record.arrays;
        if !lengths.is_empty() && values.len() != lengths.iter().sum::<usize>() {
            let detail = "has another number of values in its arrays than it should: make the source again";
            return Err(DataError::bad_record(&self.path, &self.record.key, detail));
        }
        let mut start = 0;
        for (array, length) in arrays.iter_mut().zip(lengths) {
            array[item * length..(item + 1) * length].copy_from_slice(&values[start..start + length]);
            start += length;
        }
        Ok(())
    }

    fn read(&mut self, position: u64) -> Result<(), DataError> {
        if position != self.cursor {
            self.source.seek(position)?;
        }
        self.source.read(&mut self.record)?;
        self.cursor = position + 1;
        Ok(())
    }

    /// Decodes the record if it is encoded and returns its shape `(c, h, w)`.
    fn decode(&mut self) -> Result<[usize; 3], DataError> {
        let Pixels::Encoded(encoded) = &self.record.pixels else {
            self.image = None;
            return Ok([self.record.channels, self.record.height, self.record.width]);
        };
        let image = decode_image(encoded, self.transformer.color_mode())
            .map_err(|detail| DataError::bad_record(&self.path, &self.record.key, detail))?;
        let shape = image.shape;
        self.image = Some(image);
        Ok(shape)
    }

    /// Without a crop, or with a mean image, every record must have the first one's size; with a crop, be large enough.
    fn check_shape(&self, shape: [usize; 3]) -> Result<(), DataError> {
        let (first, key, crop) = (self.first_shape, &self.record.key, self.transformer.crop_size());
        if shape == first {
            return Ok(());
        }
        if shape[0] != first[0] {
            let detail = format!(
                "has {} channels, but the first record has {}: set force_color or force_gray for encoded records, \
                 or convert all of them with or all without `--gray`",
                shape[0], first[0]
            );
            return Err(DataError::bad_record(&self.path, key, detail));
        }
        let error = |other: &str| {
            let remedy = self.source.remedy_for_sizes(first[1], first[2]) + other;
            Err(other_size(&self.path, key, shape, first, &remedy))
        };
        if crop == 0 {
            return error(" or set crop_size");
        }
        if self.transformer.has_mean_image() {
            return error(" or use mean_value instead of mean_file");
        }
        if shape[1] < crop || shape[2] < crop {
            return error(&format!(" or set crop_size, now {crop}, lower"));
        }
        Ok(())
    }
}

/// Resizes a buffer, with an error where a batch is larger than the memory.
fn resize(buffer: &mut Vec<f32>, length: usize) -> Result<(), DataError> {
    buffer
        .try_reserve_exact(length.saturating_sub(buffer.len()))
        .map_err(|_| {
            DataError::BadConfig(format!(
                "a batch of {length} values does not fit into memory: lower batch_size"
            ))
        })?;
    buffer.resize(length, 0.0);
    Ok(())
}
