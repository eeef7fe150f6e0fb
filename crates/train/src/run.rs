//! A run of several workers in this process, each with threads of its own.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sparknet_sync::{AllReduce, Average, HistoryPolicy, InProcess, SyncStrategy, Transport, in_process};

use crate::{
    Error,
    checkpoint::Resume,
    events::Sink,
    job::Job,
    rows::WorkerRows,
    signals::Control,
    worker::{Worker, WorkerResult, WorkerSettings},
};

/// How the workers agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// SparkNet: the weights are averaged every `tau` iterations.
    Average {
        /// Iterations that a worker trains alone.
        tau: u64,
        /// What becomes of the workers' histories.
        history: HistoryPolicy,
    },
    /// Synchronous SGD: the gradients are averaged every iteration.
    AllReduce,
}

impl Sync {
    /// The strategy itself.
    ///
    /// # Errors
    /// A `tau` of 0.
    pub fn strategy(self) -> Result<Box<dyn SyncStrategy>, Error> {
        Ok(match self {
            Self::Average { tau, history } => Box::new(Average::new(tau, history)?),
            Self::AllReduce => Box::new(AllReduce),
        })
    }

    /// The strategy as the flags of the command line: what a snapshot records of it.
    pub fn flags(self) -> String {
        match self {
            Self::Average { tau, history } => format!("--sync average --tau {tau} --history {history}"),
            Self::AllReduce => "--sync allreduce".to_owned(),
        }
    }

    /// The strategy in words.
    pub fn describe(self, workers: usize) -> String {
        match self {
            _ if workers == 1 => "alone".to_owned(),
            Self::Average { tau, .. } => format!("average of weights every {tau} iterations"),
            Self::AllReduce => "average of gradients every iteration".to_owned(),
        }
    }
}

/// A run: a job, and what the command line says beside it.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The solver and its nets.
    pub job: Job,
    /// The number of workers.
    pub workers: usize,
    /// Threads of all workers together; `None` for one a core.
    pub threads: Option<usize>,
    /// How the workers agree.
    pub sync: Sync,
    /// A `.solverstate` to take the run up from.
    pub snapshot: Option<PathBuf>,
    /// Files to take weights from before training; the solver's own where empty.
    pub weights: Vec<PathBuf>,
    /// Whether training goes on when the loss is not a number any more.
    pub allow_nan: bool,
    /// Whether layers without data are fed by a program; they are an error otherwise.
    pub fed_by_program: bool,
    /// The seed where neither the solver nor the snapshot has one; `None` for one from the clock.
    pub fallback_seed: Option<u64>,
    /// How long a worker waits for another before the run ends.
    pub sync_timeout: Duration,
    /// What signals ask for.
    pub control: Control,
    /// What the workers train on, in order of rank, instead of the net's own sources; empty where they use those.
    pub rows: Vec<WorkerRows>,
}

impl RunSettings {
    /// One worker, everything else as the solver says.
    pub fn new(job: Job) -> Self {
        Self {
            job,
            workers: 1,
            threads: None,
            sync: Sync::Average {
                tau: 10,
                history: HistoryPolicy::Keep,
            },
            snapshot: None,
            weights: Vec::new(),
            allow_nan: false,
            fed_by_program: false,
            fallback_seed: None,
            sync_timeout: Duration::from_secs(3600),
            control: Control::default(),
            rows: Vec::new(),
        }
    }
}

/// The number of threads that each of `workers` gets: its share of `threads`, or of the machine's cores; at least one.
pub fn threads_per_worker(threads: Option<usize>, workers: usize) -> usize {
    let cores = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    (cores / workers.max(1)).max(1)
}

/// Runs `work` on a pool of `threads` threads of its own.
///
/// # Errors
/// Threads that cannot be started; what `work` says.
pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::Usage(format!("{threads} threads cannot be started ({error}): give fewer")))?;
    pool.install(work)
}

/// Trains with all workers and returns what worker 0 leaves behind; `sink` hears of everything.
///
/// # Errors
/// Whatever ends the run, from the worker where it happened.
pub fn run(settings: RunSettings, sink: &mut dyn Sink) -> Result<WorkerResult, Error> {
    let (workers, threads, sync_timeout) = (settings.workers, settings.threads, settings.sync_timeout);
    let sync = settings.sync;
    let worker_settings = worker_settings(settings)?;
    sync.strategy()?;
    // Worker 0 takes it; the others find nothing.
    let sink = Mutex::new(Some(sink));
    on_workers(workers, threads, sync_timeout, |transport| {
        let sink = match transport.rank() {
            0 => sink.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        };
        let sink = sink.map(|sink| -> Box<dyn Sink + '_> { Box::new(sink) });
        Worker::new(&worker_settings, sync.strategy()?, Box::new(transport), sink)?.run()
    })
}

/// A run of one worker, to be taken step by step on the caller's threads.
///
/// # Errors
/// As [`Worker::new`].
pub fn alone(settings: RunSettings, sink: Box<dyn Sink>) -> Result<Worker<'static>, Error> {
    let (sync, sync_timeout) = (settings.sync, settings.sync_timeout);
    let settings = worker_settings(RunSettings { workers: 1, ..settings })?;
    let transport: Box<dyn Transport> = match in_process(1, sync_timeout).into_iter().next() {
        Some(transport) => Box::new(transport),
        None => return Err(Error::Usage("--workers is 0: give at least 1".to_owned())),
    };
    Worker::new(&settings, sync.strategy()?, transport, Some(sink))
}

/// What each worker is given.
fn worker_settings(settings: RunSettings) -> Result<WorkerSettings, Error> {
    let RunSettings {
        job,
        workers,
        sync,
        snapshot,
        mut weights,
        allow_nan,
        fed_by_program,
        fallback_seed,
        control,
        rows,
        ..
    } = settings;
    if !rows.is_empty() && rows.len() != workers {
        return Err(Error::Usage(format!(
            "there are rows for {} workers and --workers is {workers}: give rows for each",
            rows.len()
        )));
    }
    if snapshot.is_some() && !weights.is_empty() {
        return Err(Error::Usage(
            "--snapshot and --weights are both given: resume with one or fine-tune with the other".to_owned(),
        ));
    }
    if snapshot.is_none() && weights.is_empty() {
        weights = job.solver.weights.iter().map(PathBuf::from).collect();
    }
    let resume = snapshot
        .map(|path| Resume::read(&path, workers, &sync.flags()))
        .transpose()?;
    let seed = job
        .solver
        .random_seed
        .or(resume.as_ref().and_then(Resume::run_seed))
        .or(fallback_seed)
        .unwrap_or_else(seed_from_clock);
    Ok(WorkerSettings {
        job,
        resume,
        weights,
        seed,
        allow_nan,
        fed_by_program,
        sync: sync.describe(workers),
        sync_flags: sync.flags(),
        control,
        states: Arc::new(Mutex::new(BTreeMap::new())),
        rows: rows.into_iter().enumerate().collect(),
        commit_interval: 0,
    })
}

/// Runs `work` once a worker, each on a thread and with a pool of `threads` threads of its own, and returns what worker
/// 0 makes of it.
///
/// # Errors
/// Threads that cannot be started; what `work` says, from the worker where it happened rather than from its peers.
pub(crate) fn on_workers<T: Send>(
    workers: usize,
    threads: Option<usize>,
    sync_timeout: Duration,
    work: impl Fn(InProcess) -> Result<T, Error> + std::marker::Sync,
) -> Result<T, Error> {
    if workers == 0 {
        return Err(Error::Usage("--workers is 0: give at least 1".to_owned()));
    }
    let threads = threads_per_worker(threads, workers);
    let work = &work;
    let mut results = thread::scope(|scope| {
        let spawned: Vec<_> = in_process(workers, sync_timeout)
            .into_iter()
            .enumerate()
            .map(|(rank, transport)| {
                thread::Builder::new()
                    .name(format!("worker {rank}"))
                    .spawn_scoped(scope, move || on_threads(threads, move || work(transport)))
                    .map_err(|error| Error::Worker {
                        rank,
                        fact: format!("its thread cannot be started: {error}"),
                    })
            })
            .collect();
        spawned
            .into_iter()
            .enumerate()
            .map(|(rank, worker)| {
                worker?.join().unwrap_or_else(|_| {
                    Err(Error::Worker {
                        rank,
                        fact: "it panicked; please report this as a bug".to_owned(),
                    })
                })
            })
            .collect::<Vec<Result<T, Error>>>()
    });
    let origin = results
        .iter()
        .position(|result| result.as_ref().is_err_and(|error| !error.is_from_a_peer()));
    results.swap_remove(origin.unwrap_or(0))
}

/// A seed for runs that name none.
pub fn seed_from_clock() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A seed has to survive the state's int64, and a user may want to type it.
    since_epoch.as_nanos() as u64 % 1_000_000_007
}
