//! Features: what blobs of a trained net hold for each record of its data, as LMDBs of float Datums.

use std::path::PathBuf;

use sparknet_data::LmdbWriter;
use sparknet_engine::{Net, Phase, Shape};
use sparknet_proto::caffe::Datum;

use crate::{
    Error, checkpoint,
    feeds::{FeedOpener, FeedSettings},
    job::NetSource,
    run::{on_threads, threads_per_worker},
};

/// What is extracted, and where it goes.
#[derive(Clone, Debug)]
pub struct FeatureSettings {
    /// The net, in phase TEST.
    pub net: NetSource,
    /// Files to take weights from; where two have a layer, the later one's count.
    pub weights: Vec<PathBuf>,
    /// The blobs, each with the LMDB that it is written to.
    pub blobs: Vec<(String, PathBuf)>,
    /// Batches; `None` for every record once.
    pub max_batches: Option<u64>,
    /// Threads; `None` for one a core.
    pub threads: Option<usize>,
}

/// Runs the net forward on its data and writes what each blob holds for each record, as Caffe's `extract_features`: keys
/// are the records' places in ten digits, values are Datums of the blob's channels, height and width. Returns the number
/// of records; `progress` hears of it after every batch.
///
/// # Errors
/// A net, data or weights that are wrong, a blob that is not there or has no value of its own for each record, an LMDB
/// that exists or cannot be written.
pub fn extract_features(settings: &FeatureSettings, progress: &mut (dyn FnMut(u64) + Send)) -> Result<u64, Error> {
    on_threads(threads_per_worker(settings.threads, 1), || extract(settings, progress))
}

fn extract(settings: &FeatureSettings, progress: &mut dyn FnMut(u64)) -> Result<u64, Error> {
    let mut opener = FeedOpener::new(FeedSettings {
        folder: settings.net.folder.clone(),
        phase: Phase::Test,
        rank: 0,
        world: 1,
        seed: 1,
        positions_batches: Vec::new(),
        max_batches: settings.max_batches,
        rows: None,
        fed_by_program: false,
        repeat: false,
    });
    let mut net = Net::new(settings.net.spec.clone(), &mut opener, 1)?;
    let mut feeds = opener.finish(&net)?;
    if feeds.is_empty() {
        return Err(Error::Usage(format!(
            "net '{}' has no data layer to take records from: add one for phase TEST",
            net.name()
        )));
    }
    for path in &settings.weights {
        checkpoint::copy_weights(&mut net, path)?;
    }
    let mut outputs = Vec::with_capacity(settings.blobs.len());
    for (blob, path) in &settings.blobs {
        net.blob_shape(blob)?;
        outputs.push((blob, LmdbWriter::create(path)?));
    }
    let mut records = 0;
    while let Some((count, _)) = feeds.fill(&mut net)? {
        net.forward()?;
        for (blob, writer) in &mut outputs {
            let shape = net.blob_shape(blob)?;
            let size = record_size(blob, shape, count)?;
            let values_per_record = shape.count_from(1);
            for (record, values) in net.blob_data(blob)?.chunks_exact(values_per_record).enumerate() {
                let [channels, height, width] = size.map(Some);
                writer.put(
                    &format!("{:010}", records + record as u64),
                    &Datum {
                        channels,
                        height,
                        width,
                        float_data: values.to_vec(),
                        ..Default::default()
                    },
                )?;
            }
        }
        records += count as u64;
        progress(records);
    }
    for (_, writer) in outputs {
        writer.finish()?;
    }
    Ok(records)
}

/// Channels, height and width of one record of a blob; axes beyond the fourth lie within the width.
fn record_size(blob: &str, shape: &Shape, count: usize) -> Result<[i32; 3], Error> {
    if shape.dims().first() != Some(&count) {
        return Err(Error::Usage(format!(
            "blob '{blob}' has shape {shape} for a batch of {count} records: ask for one with values for each record"
        )));
    }
    // A blob has at most 2^31 - 1 values.
    Ok([shape.dim_or_1(1), shape.dim_or_1(2), shape.count_from(3)].map(|extent| extent as i32))
}
