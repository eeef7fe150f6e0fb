//! Runs a trained net on rows: what a model is asked for after training.

use std::{path::Path, sync::Arc};

use sparknet_data::Rows;
use sparknet_engine::{Net, NetState, Phase};
use sparknet_proto::caffe::NetParameter;

use crate::{
    Error,
    feeds::{FeedOpener, FeedSettings},
    job::NetSource,
    rows::WorkerRows,
    tester::{TestResult, Tester, merge_parts},
    testing::check_all_trained,
};

/// A trained net in phase TEST.
pub struct Predictor {
    net: Net,
    feed: FeedSettings,
}

/// What a blob holds for rows: `(rows, values_per_row)`.
#[derive(Clone, Debug, Default)]
pub struct BlobRows {
    /// One row's values after the other's.
    pub values: Vec<f32>,
    /// How many values a row has.
    pub values_per_row: usize,
}

impl Predictor {
    /// Builds a net that is fed by rows ([`feed_by_rows`](crate::rows::feed_by_rows)); mean files lie in `folder`.
    /// `rows` tell it its shapes.
    ///
    /// # Errors
    /// A net that does not fit the rows, or layers that `weights` have nothing for.
    pub fn new(net: &NetParameter, folder: &Path, weights: &NetParameter, rows: &Arc<Rows>) -> Result<Self, Error> {
        let feed = FeedSettings {
            folder: folder.to_owned(),
            phase: Phase::Test,
            rank: 0,
            world: 1,
            seed: 1,
            positions_batches: Vec::new(),
            max_batches: None,
            rows: Some(rows.clone()),
            fed_by_program: false,
            repeat: false,
        };
        let spec = NetSource::new(net, NetState::new(Phase::Test), folder.to_owned())?.spec;
        let mut opener = FeedOpener::new(feed.clone());
        // Nothing is random here: the seed only fills what the weights overwrite.
        let mut net = Net::new(spec, &mut opener, feed.seed)?;
        net.copy_weights_from(weights)?;
        check_all_trained(&net, std::slice::from_ref(weights), &["the model".into()])?;
        Ok(Self { net, feed })
    }

    /// What `blobs` hold for each of the rows, in the order of both.
    ///
    /// # Errors
    /// A blob that the net does not have or that has no value of its own for each row; rows of another size.
    pub fn run(&mut self, rows: &Arc<Rows>, blobs: &[String]) -> Result<Vec<BlobRows>, Error> {
        self.feed.rows = Some(rows.clone());
        let mut opener = FeedOpener::new(self.feed.clone());
        opener.open_for(&self.net)?;
        let mut feeds = opener.finish(&self.net)?;
        let mut found = vec![BlobRows::default(); blobs.len()];
        while let Some((count, _)) = feeds.fill(&mut self.net)? {
            self.net.forward()?;
            for (blob, found) in blobs.iter().zip(&mut found) {
                let shape = self.net.blob_shape(blob)?;
                if shape.dims().first() != Some(&count) {
                    return Err(Error::Usage(format!(
                        "blob '{blob}' has shape {shape} for a batch of {count} rows: ask for one with values for each row"
                    )));
                }
                found.values_per_row = shape.count_from(1);
                found.values.extend_from_slice(self.net.blob_data(blob)?);
            }
        }
        Ok(found)
    }

    /// The blobs that can be asked for.
    pub fn blob_names(&self) -> Vec<String> {
        self.net.blob_names()
    }
}

/// Tests a net, fed by rows, on all of `rows`: a part that [`evaluation`] takes.
///
/// # Errors
/// As [`Predictor::new`]; a label out of range.
pub fn evaluate_part(
    net: &NetParameter,
    folder: &Path,
    weights: &NetParameter,
    rows: &Arc<Rows>,
) -> Result<Vec<u8>, Error> {
    let source = NetSource::new(net, NetState::new(Phase::Test), folder.to_owned())?;
    let rows = WorkerRows {
        train: rows.clone(),
        test: Some(rows.clone()),
    };
    let mut tester = Tester::new(&source, None, 0, 1, 1, None, Some(&rows))?;
    tester.net_mut().copy_weights_from(weights)?;
    check_all_trained(tester.net_mut(), std::slice::from_ref(weights), &["the model".into()])?;
    tester.part()
}

/// What the parts found together; every record counts once, in whatever part it is.
///
/// # Errors
/// No part, parts of different nets, or bytes that are no part.
pub fn evaluation(parts: &[Vec<u8>]) -> Result<TestResult, Error> {
    merge_parts(parts)
}
