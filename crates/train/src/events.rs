//! What a run tells whoever listens: the events of its first worker, and the sinks that show or keep them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::evaluation::Evaluation;

/// Something that happened in a run. As JSON, `event` names the kind, and a number that is none is null.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run begins, or is taken up again.
    Start(Start),
    /// `display` iterations have passed.
    Iteration(Iteration),
    /// All workers have agreed.
    Round(RoundEnd),
    /// A test net has seen its records.
    Test(Test),
    /// A snapshot has been written.
    Snapshot(SnapshotWritten),
    /// The run is over.
    Finish(Finish),
    /// Anything else worth a line.
    Message {
        /// One sentence.
        message: String,
    },
}

/// What a run is about to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The net's name.
    pub net: String,
    /// Learnable values.
    pub parameters: usize,
    /// Workers.
    pub workers: usize,
    /// Threads that each worker has.
    pub threads_per_worker: usize,
    /// The strategy, in words: `average of weights every 10 iterations`.
    pub sync: String,
    /// Records in a batch of one worker, of its first data layer; 0 where there is none.
    pub batch_size: usize,
    /// Records of the training data; 0 where there are no data layers.
    pub records: u64,
    /// The seed of all randomness.
    pub seed: u64,
    /// The first iteration of this run; not 0 after a resume.
    pub iteration: u64,
    /// Where the run ends.
    pub max_iter: u64,
}

/// The state of training at one iteration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Iteration {
    /// Iterations done.
    pub iteration: u64,
    /// The mean over workers of each worker's mean of its last `average_loss` losses.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f32,
    /// The learning rate of the last update.
    #[serde(deserialize_with = "number_or_nan")]
    pub lr: f32,
    /// Records a second, of all workers, since the last such event.
    #[serde(deserialize_with = "number_or_nan")]
    pub images_per_s: f64,
    /// Seconds since the run began.
    pub elapsed_s: f64,
}

/// A round: the iterations since all workers last agreed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoundEnd {
    /// Iterations done.
    pub iteration: u64,
    /// Rounds done in this run.
    pub round: u64,
    /// Seconds that each worker computed in the round, in order of rank.
    pub compute_s: Vec<f64>,
    /// Seconds that each worker waited for data, in order of rank; part of the round, not of `compute_s`.
    pub data_s: Vec<f64>,
    /// Seconds that each worker spent agreeing and waiting for the others, in order of rank.
    pub sync_s: Vec<f64>,
}

/// What a test net said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Test {
    /// Iterations done.
    pub iteration: u64,
    /// Which test net.
    pub net: usize,
    /// Records that were seen, each once.
    pub records: u64,
    /// The mean over records of each output, by blob name.
    #[serde(deserialize_with = "numbers_or_nan")]
    pub scores: BTreeMap<String, f64>,
    /// Precision, recall, F1 and confusion, where the net has scores and labels.
    pub evaluation: Option<Evaluation>,
    /// Seconds.
    pub elapsed_s: f64,
}

/// The files of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotWritten {
    /// Iterations done.
    pub iteration: u64,
    /// The `.caffemodel`.
    pub model: String,
    /// The `.solverstate`.
    pub state: String,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finish {
    /// Iterations done.
    pub iteration: u64,
    /// Whether it was stopped before `max_iter`.
    pub stopped: bool,
    /// Seconds since the run began.
    pub elapsed_s: f64,
    /// Records a second, of all workers, over the whole run without tests.
    #[serde(deserialize_with = "number_or_nan")]
    pub images_per_s: f64,
}

/// A number of JSON, or NaN for null.
fn number_or_nan<'de, D: Deserializer<'de>, T: Deserialize<'de> + From<f32>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NAN.into()))
}

/// Numbers of JSON by name, NaN for null.
///
/// # Errors
/// What is there is no map of numbers.
pub fn numbers_or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let found: BTreeMap<String, Option<f64>> = BTreeMap::deserialize(from)?;
    Ok(found
        .into_iter()
        .map(|(name, number)| (name, number.unwrap_or(f64::NAN)))
        .collect())
}

/// Whoever listens to a run.
pub trait Sink: Send {
    /// Takes an event. A sink that cannot write says so once on stderr and stays silent from then on: showing what
    /// happens must never end a run.
    fn event(&mut self, event: &Event);

    /// Called often between events, with the iterations done and the last loss, for a sink that shows progress.
    fn progress(&mut self, _iteration: u64, _loss: f32) {}
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn event(&mut self, event: &Event) {
        (**self).event(event);
    }

    fn progress(&mut self, iteration: u64, loss: f32) {
        (**self).progress(iteration, loss);
    }
}

/// All sinks of a run, told in order.
#[derive(Default)]
pub struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// These sinks.
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        Self(sinks)
    }
}

impl Sink for Sinks {
    fn event(&mut self, event: &Event) {
        self.0.iter_mut().for_each(|sink| sink.event(event));
    }

    fn progress(&mut self, iteration: u64, loss: f32) {
        self.0.iter_mut().for_each(|sink| sink.progress(iteration, loss));
    }
}
