//! Tests a net on its data: every record once, split over the workers by whole batches, so that any number of workers
//! finds the same.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use sparknet_engine::{
    Net, Phase,
    net::ParamMap,
    spec::{LayerKind, LayerSpec},
};
use sparknet_sync::Transport;

use crate::{
    Error,
    evaluation::{ConfusionMatrix, Evaluation, count_predictions},
    feeds::{FeedOpener, FeedSettings},
    job::NetSource,
    outputs::Outputs,
    rows::WorkerRows,
};

/// A test net and how to feed it.
pub struct Tester {
    net: Net,
    /// Whether other workers have all the records.
    is_idle: bool,
    params_from_train: Option<ParamMap>,
    feed: FeedSettings,
    files: Outputs,
    outputs: Vec<String>,
    predictions: Option<Predictions>,
}

/// Where a net's predictions are found: the bottoms of an Accuracy or SoftmaxWithLoss layer.
struct Predictions {
    scores: String,
    labels: String,
    axis: i32,
    ignore_label: Option<i32>,
}

/// What one worker found in its batches.
#[derive(Default, Serialize, Deserialize)]
struct Part {
    /// The name of each of a batch's scores; empty where there were no batches.
    names: Vec<String>,
    batches: Vec<BatchScores>,
    confusion: Option<ConfusionMatrix>,
}

#[derive(Serialize, Deserialize)]
struct BatchScores {
    index: u64,
    records: u64,
    /// Bits, because JSON has no NaN.
    score_bits: Vec<u32>,
}

/// What a test found.
#[derive(Clone, Debug, Deserialize)]
pub struct TestResult {
    /// Records that were seen, each once.
    pub records: u64,
    /// The mean over records of each output, by blob name; `name[i]` where an output has several values.
    #[serde(deserialize_with = "crate::events::numbers_or_nan")]
    pub scores: BTreeMap<String, f64>,
    /// Precision, recall, F1 and confusion, where the net has scores and labels.
    pub evaluation: Option<Evaluation>,
}

impl Tester {
    /// Builds a test net. `train` is the net whose parameters it takes by layer name; without one it takes weights
    /// from a file ([`Tester::net_mut`]). `rows` are tested instead of the net's own source.
    ///
    /// # Errors
    /// As [`Net::new`]; data that is not there.
    pub fn new(
        source: &NetSource,
        max_batches: Option<u64>,
        rank: usize,
        world: usize,
        seed: u64,
        train: Option<&Net>,
        rows: Option<&WorkerRows>,
    ) -> Result<Self, Error> {
        let feed = FeedSettings {
            folder: source.folder.clone(),
            phase: Phase::Test,
            rank,
            world,
            seed,
            positions_batches: Vec::new(),
            max_batches,
            // Without rows to test, those to train tell the net its shapes.
            rows: rows.map(|rows| rows.test.as_ref().unwrap_or(&rows.train).clone()),
            fed_by_program: false,
            repeat: false,
        };
        let mut opener = FeedOpener::new(feed.clone());
        let net = Net::new(source.spec.clone(), &mut opener, seed)?;
        if opener.finish(&net)?.is_empty() {
            return Err(Error::Usage(format!(
                "net '{}' has no data layer to test on: add one for phase TEST",
                net.name()
            )));
        }
        let outputs = scalar_outputs(&net);
        Ok(Self {
            params_from_train: train.map(|train| net.param_map_from(train)).transpose()?,
            predictions: source.spec.layers.iter().rev().find_map(predictions_of),
            is_idle: rows.is_some_and(|rows| rows.test.is_none()),
            feed,
            files: Outputs::default(),
            outputs,
            net,
        })
    }

    /// Lets the net's HDF5Output layers write their files, once a test; without it they do nothing. `taken` as in
    /// [`Outputs::open`].
    ///
    /// # Errors
    /// As [`Outputs::open`].
    pub fn write_outputs(&mut self, taken: &mut Vec<PathBuf>) -> Result<(), Error> {
        self.files = Outputs::open(&mut self.net, self.feed.world, taken)?;
        Ok(())
    }

    /// The net, to load weights.
    pub fn net_mut(&mut self) -> &mut Net {
        &mut self.net
    }

    /// Takes the train net's parameters `params` over.
    pub fn take_params(&mut self, params: &[f32]) {
        if let Some(map) = &self.params_from_train {
            self.net.load_params(map, params);
        }
    }

    /// How the net is fed.
    pub fn feed_settings(&self) -> &FeedSettings {
        &self.feed
    }

    /// Tests with the train net's parameters `params`, together with the other workers.
    ///
    /// # Errors
    /// Data that cannot be read, a label out of range, a worker that is gone.
    pub fn run(
        &mut self,
        params: Option<&[f32]>,
        transport: &mut dyn Transport,
        progress: &mut dyn FnMut(u64),
    ) -> Result<TestResult, Error> {
        if let Some(params) = params {
            self.take_params(params);
        }
        let part = self.run_part(progress)?;
        let bytes = serde_json::to_vec(&part).map_err(|error| Error::Usage(error.to_string()))?;
        let parts = read_parts(&transport.all_gather(&bytes)?)?;
        merge(parts)
    }

    /// Tests on this tester's records alone; [`merge_parts`] adds what others found.
    pub(crate) fn part(&mut self) -> Result<Vec<u8>, Error> {
        let part = self.run_part(&mut |_| ())?;
        serde_json::to_vec(&part).map_err(|error| Error::Usage(error.to_string()))
    }

    fn run_part(&mut self, progress: &mut dyn FnMut(u64)) -> Result<Part, Error> {
        if self.is_idle {
            return Ok(Part::default());
        }
        // Each test opens its data anew, so that it always begins with the first record.
        let mut opener = FeedOpener::new(self.feed.clone());
        opener.open_for(&self.net)?;
        let mut feeds = opener.finish(&self.net)?;
        self.files.restart()?;
        let mut part = Part::default();
        let mut seen = 0;
        while let Some((records, index)) = feeds.fill(&mut self.net)? {
            self.net.forward()?;
            let mut score_bits = Vec::with_capacity(self.outputs.len());
            for output in &self.outputs {
                score_bits.extend(self.net.blob_data(output)?.iter().map(|value| value.to_bits()));
            }
            part.batches.push(BatchScores {
                index,
                records: records as u64,
                score_bits,
            });
            self.count_predictions(&mut part.confusion)?;
            seen += records as u64;
            progress(seen);
        }
        self.files.finish()?;
        part.names = self.score_names();
        Ok(part)
    }

    fn count_predictions(&self, confusion: &mut Option<ConfusionMatrix>) -> Result<(), Error> {
        let Some(Predictions {
            scores,
            labels,
            axis,
            ignore_label,
        }) = &self.predictions
        else {
            return Ok(());
        };
        let shape = self.net.blob_shape(scores)?;
        let Some(axis) = shape.axis(*axis) else {
            return Ok(());
        };
        let (outer, classes, inner) = (shape.count_to(axis), shape.dims()[axis], shape.count_from(axis + 1));
        let matrix = confusion.get_or_insert_with(|| ConfusionMatrix::new(classes));
        let (scores, labels) = (self.net.blob_data(scores)?, self.net.blob_data(labels)?);
        Ok(count_predictions(
            scores,
            labels,
            outer,
            classes,
            inner,
            *ignore_label,
            matrix,
        )?)
    }

    /// The name of each value that a batch is scored with.
    fn score_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for output in &self.outputs {
            let count = self.net.blob_data(output).map_or(0, <[f32]>::len);
            names.extend((0..count).map(|i| {
                if count == 1 {
                    output.clone()
                } else {
                    format!("{output}[{i}]")
                }
            }));
        }
        names
    }
}

/// What parts found that were made one by one ([`Tester::part`]): the batches of each count behind those of the one before.
pub(crate) fn merge_parts(parts: &[Vec<u8>]) -> Result<TestResult, Error> {
    let mut parts = read_parts(parts)?;
    let mut first = 0;
    for part in &mut parts {
        for batch in &mut part.batches {
            batch.index += first;
        }
        first = part.batches.iter().map(|batch| batch.index + 1).max().unwrap_or(first);
    }
    merge(parts)
}

fn read_parts(parts: &[Vec<u8>]) -> Result<Vec<Part>, Error> {
    let read = |bytes: &Vec<u8>| serde_json::from_slice(bytes).map_err(|error| Error::Usage(error.to_string()));
    parts.iter().map(read).collect()
}

fn merge(parts: Vec<Part>) -> Result<TestResult, Error> {
    let mut names = Vec::new();
    let mut confusion: Option<ConfusionMatrix> = None;
    let mut batches = Vec::new();
    for part in parts {
        if names.is_empty() {
            names = part.names;
        }
        batches.extend(part.batches);
        match (&mut confusion, part.confusion) {
            (Some(sum), Some(part)) => sum.merge(&part)?,
            (sum @ None, part) => *sum = part,
            (Some(_), None) => {}
        }
    }
    // In the order of the data whoever read them: sums then do not depend on the number of workers.
    batches.sort_by_key(|batch| batch.index);
    let records: u64 = batches.iter().map(|batch| batch.records).sum();
    let mut sums = vec![0.0f64; names.len()];
    for batch in &batches {
        for (sum, bits) in sums.iter_mut().zip(&batch.score_bits) {
            *sum += f64::from(f32::from_bits(*bits)) * batch.records as f64;
        }
    }
    Ok(TestResult {
        records,
        scores: names
            .into_iter()
            .zip(sums.into_iter().map(|sum| sum / records.max(1) as f64))
            .collect(),
        evaluation: confusion.map(|matrix| Evaluation::new(&matrix, None)),
    })
}

/// The outputs that say something of a whole batch: single values, and the tops of Accuracy and losses.
fn scalar_outputs(net: &Net) -> Vec<String> {
    let is_score = |name: &String| {
        let of_score_layer = net.spec().layers.iter().any(|layer| {
            layer.tops.contains(name)
                && (layer.kind.is_loss() && layer.tops.first() == Some(name)
                    || matches!(layer.kind, LayerKind::Accuracy(_)))
        });
        of_score_layer || net.blob_shape(name).is_ok_and(|shape| shape.num_axes() == 0)
    };
    net.output_names().into_iter().filter(is_score).collect()
}

fn predictions_of(layer: &LayerSpec) -> Option<Predictions> {
    let (axis, ignore_label) = match &layer.kind {
        LayerKind::Accuracy(spec) => (spec.axis, spec.ignore_label),
        LayerKind::SoftmaxWithLoss(spec) => (spec.axis, spec.ignore_label),
        _ => return None,
    };
    let [scores, labels] = &layer.bottoms[..] else {
        return None;
    };
    Some(Predictions {
        scores: scores.clone(),
        labels: labels.clone(),
        axis,
        ignore_label,
    })
}
