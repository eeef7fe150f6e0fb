//! `sparknet._native.Solver`: a run of one worker, step by step.

use std::{
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pyo3::prelude::*;
use sparknet_proto::read_solver;
use sparknet_train::{
    checkpoint::Resume,
    events::{Event, Sink},
    job::{Job, Stages},
    run::{RunSettings, alone},
    worker::Worker,
};

use crate::{
    error::Failure,
    handle::{Handle, OwnSolver, check_process, contained, guarded_in_turn},
    net::{PyNet, given_seed},
    threads,
};

/// Keeps events, as JSON, until Python takes them between two iterations.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Vec<String>>>);

impl Sink for Queue {
    fn event(&mut self, event: &Event) {
        // An event is numbers and strings, which JSON always has a form for.
        if let Ok(json) = serde_json::to_string(event) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(json);
        }
    }
}

/// What sparknet.Solver is made of.
#[pyclass(frozen, name = "Solver", module = "sparknet._native")]
pub struct PySolver {
    own: Arc<Mutex<OwnSolver>>,
    /// Whether a call runs iterations; between them the lock is free, for callbacks.
    is_running: AtomicBool,
    iteration: AtomicU64,
    max_iter: u64,
    test_nets: usize,
    events: Queue,
}

/// Marks the solver as running, until it is dropped.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl PySolver {
    fn start(&self) -> Result<Running<'_>, Failure> {
        if self.is_running.swap(true, Ordering::Acquire) {
            return Err(Failure::Busy("solver"));
        }
        Ok(Running(&self.is_running))
    }

    /// Runs `work` on the process's threads, with the GIL released.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Worker<'static>) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let pool = threads::pool()?;
        let result = py.detach(|| {
            guarded_in_turn(&self.own, "solver", |own| {
                check_process(own.process, "solver")?;
                let result = pool.install(|| work(&mut own.worker));
                self.iteration.store(own.worker.solver().iteration(), Ordering::Release);
                result
            })
        });
        Ok(result?)
    }

    /// Hands events to Python, and lets Ctrl-C in.
    fn between_iterations(&self, py: Python<'_>, on_event: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let events = std::mem::take(&mut *self.events.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(on_event) = on_event {
            for event in events {
                on_event.call1((event,))?;
            }
        }
        py.check_signals()
    }
}

#[pymethods]
impl PySolver {
    /// A solver from a file, of the file's type or another; the weights are those that the file names, if it does.
    #[new]
    #[pyo3(signature = (path, solver_type, allow_nan, level, stages))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        solver_type: Option<String>,
        allow_nan: bool,
        level: i32,
        stages: Vec<String>,
    ) -> PyResult<Self> {
        let events = Queue::default();
        let sink = events.clone();
        let pool = threads::pool()?;
        let worker = py.detach(|| {
            let build = || {
                let mut message = read_solver(&path)?;
                message.r#type = solver_type.or(message.r#type);
                let job = Job::from_message(&message, &path, &Stages { level, stages })?;
                let settings = RunSettings {
                    allow_nan,
                    fed_by_program: true,
                    fallback_seed: given_seed(),
                    ..RunSettings::new(job)
                };
                Ok(alone(settings, Box::new(sink))?)
            };
            contained("solver", || pool.install(build))
        })?;
        let test_nets = worker.testers().len();
        Ok(Self {
            is_running: AtomicBool::new(false),
            iteration: AtomicU64::new(worker.solver().iteration()),
            max_iter: worker.solver().spec().max_iter,
            test_nets,
            events,
            own: Arc::new(Mutex::new(OwnSolver {
                worker,
                test_feeds: (0..test_nets).map(|_| None).collect(),
                process: process::id(),
                passes: 0,
            })),
        })
    }

    /// The net that is trained.
    fn net(&self) -> PyResult<PyNet> {
        Ok(PyNet::of(Handle::Train(Arc::clone(&self.own)))?)
    }

    /// The nets that are tested.
    fn test_nets(&self) -> PyResult<Vec<PyNet>> {
        let nets = (0..self.test_nets).map(|index| PyNet::of(Handle::Test(Arc::clone(&self.own), index)));
        Ok(nets.collect::<Result<_, _>>()?)
    }

    /// Iterations done.
    #[getter]
    fn iter(&self) -> u64 {
        self.iteration.load(Ordering::Acquire)
    }

    /// Where solve ends.
    #[getter]
    fn max_iter(&self) -> u64 {
        self.max_iter
    }

    /// Runs iterations; on_event is called with each event, as JSON.
    #[pyo3(signature = (iterations, on_event))]
    fn step(&self, py: Python<'_>, iterations: u64, on_event: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let _running = self.start()?;
        for _ in 0..iterations {
            self.work(py, |worker| Ok(worker.advance()?))?;
            self.between_iterations(py, on_event)?;
        }
        Ok(())
    }

    /// Runs the iterations that are left, then the last snapshot and test.
    #[pyo3(signature = (on_event))]
    fn solve(&self, py: Python<'_>, on_event: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let _running = self.start()?;
        while self.iter() < self.max_iter {
            self.work(py, |worker| Ok(worker.advance()?))?;
            self.between_iterations(py, on_event)?;
        }
        self.work(py, |worker| Ok(worker.complete()?))?;
        self.between_iterations(py, on_event)
    }

    /// Writes a snapshot and returns the path of its state.
    fn snapshot(&self, py: Python<'_>) -> PyResult<PathBuf> {
        let _running = self.start()?;
        let files = self.work(py, |worker| Ok(worker.write_snapshot()?))?;
        Ok(files.state)
    }

    /// Goes on from a snapshot's state.
    fn restore(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let _running = self.start()?;
        self.work(py, |worker| Ok(worker.restore(&Resume::read(&path, 1, "")?)?))
    }
}
