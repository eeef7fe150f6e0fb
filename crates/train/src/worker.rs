//! One worker's loop: train alone, agree with the others, test, write snapshots.
//!
//! Everything that workers do together (agreeing, testing, snapshots, stopping) happens at iterations that all of them
//! know beforehand, or that they have told each other in the last exchange. So no worker ever waits for one that does
//! not come, and the same run taken up again does the same.

mod reports;
mod snapshots;
mod status;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

use sparknet_engine::{Net, Phase, Solver, random};
use sparknet_proto::caffe::WorkerState;
use sparknet_sync::{Replica, Round, SyncStrategy, Transport};

use crate::{
    Error,
    checkpoint::{self, Committer, Resume, SnapshotFiles},
    events::{Event, Finish, Sink, Test},
    feeds::{FeedOpener, FeedSettings, Feeds},
    job::Job,
    outputs::Outputs,
    rows::WorkerRows,
    signals::Control,
    tester::{TestResult, Tester},
};
use status::Seconds;

/// What every worker of a run is given alike.
#[derive(Clone)]
pub struct WorkerSettings {
    /// The solver and its nets.
    pub job: Job,
    /// Where a run is taken up, if it is.
    pub resume: Option<Resume>,
    /// Files to take weights from before training.
    pub weights: Vec<PathBuf>,
    /// The seed of the run.
    pub seed: u64,
    /// Whether training goes on when the loss is not a number any more.
    pub allow_nan: bool,
    /// Whether layers without data are fed by a program; they are an error otherwise.
    pub fed_by_program: bool,
    /// The strategy, in words.
    pub sync: String,
    /// The strategy as the flags of the command line.
    pub sync_flags: String,
    /// What signals ask for.
    pub control: Control,
    /// Where workers put their states for worker 0 to write.
    pub states: Arc<Mutex<BTreeMap<usize, WorkerState>>>,
    /// By rank: what workers of this process train on instead of the net's own sources; empty where they use those.
    pub rows: BTreeMap<usize, WorkerRows>,
    /// Iterations between two commits, which fall on the next round's end; 0 for one about every 10 seconds.
    pub commit_interval: u64,
}

/// What a worker leaves behind.
#[derive(Debug)]
pub struct WorkerResult {
    /// Iterations done.
    pub iteration: u64,
    /// Whether the run was stopped before its end.
    pub stopped: bool,
    /// The weights that all workers agree on, laid out as the train net's arena.
    pub params: Vec<f32>,
    /// The last test of each test net.
    pub tests: Vec<TestResult>,
    /// The last snapshot's files.
    pub snapshot: Option<SnapshotFiles>,
}

/// One of the workers of a run. Worker 0 speaks for all: it has the sinks and writes the snapshots.
pub struct Worker<'a> {
    settings: WorkerSettings,
    /// The run's seed; a snapshot may bring its own.
    seed: u64,
    solver: Solver,
    feeds: Feeds,
    /// What the train net's HDF5Output layers write.
    files: Outputs,
    testers: Vec<Tester>,
    strategy: Box<dyn SyncStrategy>,
    transport: Box<dyn Transport>,
    sink: Option<Box<dyn Sink + 'a>>,
    prefix: PathBuf,
    /// The average of all weights, for tests and snapshots between two rounds.
    average: Vec<f32>,
    /// BatchNorm's statistics while workers agree on them, and where they lie among the weights.
    statistics: Vec<f32>,
    statistics_ranges: Vec<Range<usize>>,
    seconds: Seconds,
    rounds: u64,
    /// The iteration that this run began with, once it has begun.
    first: Option<u64>,
    /// The last displayed iteration, and the seconds of training until then.
    displayed: (u64, f64),
    started: Instant,
    /// Time of tests and snapshots, which is not training.
    paused_seconds: f64,
    last_snapshot: Option<(u64, SnapshotFiles)>,
    committer: Option<Box<dyn Committer>>,
    /// The iteration of the last commit, and when it was.
    last_commit: (u64, Instant),
    /// Lines of nets with `debug_info` that nobody has been told yet.
    debug_lines: Arc<Mutex<Vec<String>>>,
}

impl<'a> Worker<'a> {
    /// Builds a worker's nets and readers, from scratch or from where the run was left.
    ///
    /// # Errors
    /// Anything that is wrong with the nets, their data, the weights or the snapshot.
    pub fn new(
        settings: &WorkerSettings,
        strategy: Box<dyn SyncStrategy>,
        transport: Box<dyn Transport>,
        sink: Option<Box<dyn Sink + 'a>>,
    ) -> Result<Self, Error> {
        let WorkerSettings {
            job,
            resume,
            weights,
            seed,
            ..
        } = settings;
        let (rank, world) = (transport.rank(), transport.world());
        let rows = settings.rows.get(&rank);
        let mut opener = opener(settings, transport.as_ref(), *seed, resume.as_ref());
        let net = Net::new(job.train.spec.clone(), &mut opener, *seed)?;
        let feeds = opener.finish(&net)?;
        let mut solver = Solver::new(job.solver.clone(), net, random::key(&[*seed, rank as u64]));
        solver.set_allow_nan(settings.allow_nan);
        match resume {
            Some(resume) => resume.restore(&mut solver, rank)?,
            None => {
                for path in weights {
                    checkpoint::copy_weights(solver.net_mut(), path)?;
                }
            }
        }
        let mut taken = Vec::new();
        let files = Outputs::open(solver.net_mut(), world, &mut taken)?;
        let mut testers = job
            .tests
            .iter()
            .map(|(net, batches)| Tester::new(net, *batches, rank, world, *seed, Some(solver.net()), rows))
            .collect::<Result<Vec<_>, Error>>()?;
        let debug_lines: Arc<Mutex<Vec<String>>> = Arc::default();
        if sink.is_some() {
            let nets = testers.iter_mut().map(Tester::net_mut).chain([solver.net_mut()]);
            nets.for_each(|net| {
                let lines = debug_lines.clone();
                net.listen_to_debug_info(Box::new(move |line| lock(&lines).push(line)));
            });
        }
        testers
            .iter_mut()
            .try_for_each(|tester| tester.write_outputs(&mut taken))?;
        let prefix = job.snapshot_prefix();
        if rank == 0 && (job.solver.snapshot > 0 || job.solver.snapshot_after_train) {
            checkpoint::check_prefix(&prefix, job.solver.max_iter, job.solver.snapshot_format)?;
        }
        Ok(Self {
            average: Vec::new(),
            statistics: Vec::new(),
            statistics_ranges: solver.net().statistics().collect(),
            seconds: Seconds::default(),
            rounds: 0,
            first: None,
            displayed: (0, 0.0),
            started: Instant::now(),
            paused_seconds: 0.0,
            last_snapshot: None,
            committer: None,
            last_commit: (solver.iteration(), Instant::now()),
            debug_lines,
            seed: *seed,
            settings: settings.clone(),
            solver,
            feeds,
            files,
            testers,
            strategy,
            transport,
            sink,
            prefix,
        })
    }

    /// Hands what this worker holds to `committer` after rounds and at the end. All workers of a run have one, or none.
    pub fn with_committer(mut self, committer: Box<dyn Committer>) -> Self {
        self.committer = Some(committer);
        self
    }

    /// Trains to the end, or until the run is stopped.
    ///
    /// # Errors
    /// Whatever ends the run; the other workers are told.
    pub fn run(mut self) -> Result<WorkerResult, Error> {
        let result = self.train();
        if let Err(error) = &result
            && !error.is_from_a_peer()
        {
            self.transport.abort(&error.to_string());
        }
        result
    }

    fn train(&mut self) -> Result<WorkerResult, Error> {
        let max_iter = self.solver.spec().max_iter;
        let first = self.solver.iteration();
        if first >= max_iter {
            return Err(Error::Usage(format!(
                "the snapshot is of iteration {first} and max_iter is {max_iter}: there is nothing left to train"
            )));
        }
        let mut stopped = false;
        while self.solver.iteration() < max_iter && !stopped {
            stopped = self.advance()?;
        }
        if !stopped {
            self.finish()?;
            self.commit(true)?;
        }
        self.conclude(stopped)
    }

    /// What comes before the first iteration of a run.
    fn begin(&mut self) -> Result<(), Error> {
        let first = self.solver.iteration();
        self.first = Some(first);
        self.announce(first);
        if self.strategy.agrees_at(first) {
            let (params, _, _) = self.solver.arenas_mut();
            self.strategy.start(params, self.transport.as_mut())?;
        }
        self.started = Instant::now();
        self.paused_seconds = 0.0;
        self.displayed = (first, 0.0);
        Ok(())
    }

    /// One iteration, with the test before it and the snapshot behind it where they are due; says whether the run was
    /// asked to stop. The first begins the run.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub fn advance(&mut self) -> Result<bool, Error> {
        if self.first.is_none() {
            self.begin()?;
        }
        let iteration = self.solver.iteration();
        let spec = self.solver.spec();
        let max_iter = spec.max_iter;
        if is_due(iteration, spec.test_interval) && (iteration > 0 || spec.test_initialization) {
            self.test(false)?;
        }
        let (lr, round) = self.step(iteration)?;
        let done = iteration + 1;
        let spec = self.solver.spec();
        let display = is_due(done, spec.display);
        let mut snapshot = is_due(done, spec.snapshot);
        let mut stopped = false;
        if round == Round::Completed || self.transport.world() == 1 || display || done == max_iter {
            let statuses = self.exchange_statuses()?;
            stopped = done < max_iter && statuses.iter().any(|status| status.stop);
            snapshot |= statuses.iter().any(|status| status.snapshot);
            self.report(done, lr, round, display, &statuses);
            if done < max_iter && statuses.iter().any(|status| status.commit) {
                self.commit(false)?;
            }
        }
        if snapshot || stopped {
            self.write_snapshot()?;
        }
        Ok(stopped)
    }

    /// What comes after the last iteration of a run: the last agreement, the snapshot and the test behind it.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub fn complete(&mut self) -> Result<WorkerResult, Error> {
        if self.first.is_none() {
            self.begin()?;
        }
        self.finish()?;
        self.commit(true)?;
        self.conclude(false)
    }

    /// Takes the run up from a snapshot, in place.
    ///
    /// # Errors
    /// A snapshot or data that cannot be read; one of another net or solver, after which the worker is of no use.
    pub fn restore(&mut self, resume: &Resume) -> Result<(), Error> {
        let rank = self.transport.rank();
        let given = self.settings.job.solver.random_seed;
        let seed = given.or(resume.run_seed()).unwrap_or(self.seed);
        let mut opener = opener(&self.settings, self.transport.as_ref(), seed, Some(resume));
        opener.open_for(self.solver.net())?;
        let feeds = opener.finish(self.solver.net())?;
        resume.restore(&mut self.solver, rank)?;
        self.solver.set_seed(random::key(&[seed, rank as u64]));
        self.feeds = feeds;
        self.seed = seed;
        self.first = None;
        self.last_snapshot = None;
        Ok(())
    }

    /// Fills the train net's data layers with their next batches, outside of an iteration.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn feed(&mut self) -> Result<(), Error> {
        self.feeds.fill(self.solver.net_mut())?;
        Ok(())
    }

    /// The solver, with the net that is trained.
    pub fn solver(&self) -> &Solver {
        &self.solver
    }

    /// The solver, to feed its net.
    pub fn solver_mut(&mut self) -> &mut Solver {
        &mut self.solver
    }

    /// Test net `index`, which takes the train net's parameters over first.
    pub fn test_net_mut(&mut self, index: usize) -> Option<&mut Net> {
        let tester = self.testers.get_mut(index)?;
        tester.take_params(self.solver.net().param_arena());
        Some(tester.net_mut())
    }

    /// The test nets.
    pub fn testers(&self) -> &[Tester] {
        &self.testers
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.settings.job
    }

    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One iteration: gradients, update, and whatever the strategy does with them.
    fn step(&mut self, iteration: u64) -> Result<(f32, Round), Error> {
        let started = Instant::now();
        let waited_before = self.feeds.wait_seconds();
        let feeds = &mut self.feeds;
        let loss = self.solver.compute_gradients(|net| feeds.fill(net).map(|_| ()))?;
        let data_seconds = self.feeds.wait_seconds() - waited_before;
        let computed = Instant::now();
        let (_, gradients, _) = self.solver.arenas_mut();
        self.strategy
            .after_backward(iteration, gradients, self.transport.as_mut())?;
        self.agree_on_statistics(iteration)?;
        let gradients_agreed = Instant::now();
        let lr = self.solver.apply_update();
        let updated = Instant::now();
        let (params, gradients, histories) = self.solver.arenas_mut();
        let replica = Replica {
            params,
            gradients,
            histories: &mut histories.iter_mut().map(Vec::as_mut_slice),
        };
        let round = self
            .strategy
            .after_update(iteration + 1, replica, self.transport.as_mut())?;
        self.seconds.data += data_seconds;
        self.seconds.compute += (computed - started).as_secs_f64() - data_seconds;
        self.seconds.compute += (updated - gradients_agreed).as_secs_f64();
        self.seconds.sync += (gradients_agreed - computed).as_secs_f64() + updated.elapsed().as_secs_f64();
        self.tell_debug_lines();
        if let Some(sink) = &mut self.sink {
            sink.progress(iteration + 1, loss);
        }
        Ok((lr, round))
    }

    /// Where gradients are averaged, so are BatchNorm's statistics, to which each worker has just added those of its own
    /// batch: weights that the strategy calls equal then are, and a test does not depend on who runs it.
    fn agree_on_statistics(&mut self, iteration: u64) -> Result<(), Error> {
        if self.statistics_ranges.is_empty() {
            return Ok(());
        }
        let (params, _, _) = self.solver.arenas_mut();
        self.statistics.clear();
        for range in &self.statistics_ranges {
            self.statistics.extend_from_slice(&params[range.clone()]);
        }
        self.strategy
            .after_backward(iteration, &mut self.statistics, self.transport.as_mut())?;
        let mut agreed = &self.statistics[..];
        for range in &self.statistics_ranges {
            let (values, rest) = agreed.split_at(range.len());
            params[range.clone()].copy_from_slice(values);
            agreed = rest;
        }
        Ok(())
    }

    /// Tests all test nets on the averaged weights; `finished` is after the run's last agreement.
    fn test(&mut self, finished: bool) -> Result<Vec<TestResult>, Error> {
        let started = Instant::now();
        if finished {
            self.take_own_weights();
        } else {
            self.agree_on_average()?;
        }
        let mut results = Vec::with_capacity(self.testers.len());
        for index in 0..self.testers.len() {
            let test_started = Instant::now();
            let result = self.testers[index].run(Some(&self.average), self.transport.as_mut(), &mut |_| ())?;
            self.tell_debug_lines();
            self.tell(Event::Test(Test {
                iteration: self.solver.iteration(),
                net: index,
                records: result.records,
                scores: result.scores.clone(),
                evaluation: result.evaluation.clone(),
                elapsed_s: test_started.elapsed().as_secs_f64(),
            }));
            results.push(result);
        }
        self.paused_seconds += started.elapsed().as_secs_f64();
        Ok(results)
    }

    fn conclude(&mut self, stopped: bool) -> Result<WorkerResult, Error> {
        let iteration = self.solver.iteration();
        let first = self.first.unwrap_or(iteration);
        let training_seconds = self.started.elapsed().as_secs_f64() - self.paused_seconds;
        self.files.finish()?;
        let tests = if stopped { Vec::new() } else { self.test(true)? };
        self.tell(Event::Finish(Finish {
            iteration,
            stopped,
            elapsed_s: self.started.elapsed().as_secs_f64(),
            images_per_s: self.records(iteration - first) / training_seconds.max(1e-9),
        }));
        Ok(WorkerResult {
            iteration,
            stopped,
            params: self.solver.net().param_arena().to_vec(),
            tests,
            snapshot: self.last_snapshot.take().map(|(_, files)| files),
        })
    }
}

/// An opener of the train net's data, where `resume` left it.
fn opener(settings: &WorkerSettings, transport: &dyn Transport, seed: u64, resume: Option<&Resume>) -> FeedOpener {
    let rank = transport.rank();
    FeedOpener::new(FeedSettings {
        folder: settings.job.train.folder.clone(),
        phase: Phase::Train,
        rank,
        world: transport.world(),
        seed,
        positions_batches: resume.map(|resume| resume.positions_batches(rank)).unwrap_or_default(),
        max_batches: None,
        rows: settings.rows.get(&rank).map(|rows| rows.train.clone()),
        fed_by_program: settings.fed_by_program,
        repeat: true,
    })
}

fn is_due(iterations_done: u64, interval: u64) -> bool {
    interval > 0 && iterations_done.is_multiple_of(interval)
}

/// A lock whose holder panicked holds whole states all the same: they are inserted and taken in one step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
