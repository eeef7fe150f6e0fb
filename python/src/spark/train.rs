//! One worker of a Spark job, and the same run without Spark.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message;
use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    types::{PyBytes, PyDict, PyTuple},
};
use sparknet_engine::Net;
use sparknet_proto::{binary, caffe::SolverParameter};
use sparknet_sync::{Compression, HistoryPolicy, JobToken, Listener, TcpOptions};
use sparknet_train::{
    Error,
    checkpoint::{Commit, Committer, Resume, state_of_commit},
    events::{Event, Sink},
    feeds::{FeedOpener, FeedSettings},
    job::{Job, Stages},
    rows::WorkerRows,
    run::{self, RunSettings, Sync},
    signals::Control,
    worker::{Worker, WorkerSettings},
};

use super::{data::PyRows, to_python};

/// A worker's address, open before anybody knows it.
#[pyclass(name = "Listener", module = "sparknet._native")]
pub struct PyListener(Option<Listener>);

#[pymethods]
impl PyListener {
    /// Listens on a free port of `host`.
    #[new]
    fn new(host: &str) -> PyResult<Self> {
        let address = if host.contains(':') {
            format!("[{host}]:0")
        } else {
            format!("{host}:0")
        };
        Ok(Self(Some(Listener::bind(&address).map_err(to_python)?)))
    }

    /// `host:port`.
    #[getter]
    fn address(&self) -> PyResult<String> {
        let listener = self.0.as_ref().ok_or_else(taken)?;
        Ok(listener.local_addr().to_string())
    }
}

fn taken() -> PyErr {
    PyValueError::new_err("this listener trains already: make a new one")
}

/// Events as lines of JSON, to a Python function. What it raises is not the run's business.
struct Told(Py<PyAny>);

impl Sink for Told {
    fn event(&mut self, event: &Event) {
        let Ok(line) = serde_json::to_string(event) else {
            return;
        };
        Python::attach(|py| {
            if let Err(error) = self.0.call1(py, (line,)) {
                error.write_unraisable(py, None);
            }
        });
    }
}

/// Commits, to a Python function.
struct Kept {
    rank: usize,
    callback: Py<PyAny>,
}

impl Committer for Kept {
    fn commit(&mut self, commit: Commit) -> Result<(), Error> {
        Python::attach(|py| {
            let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
            let of_all = commit.model.as_deref().zip(commit.state.as_deref());
            let of_all = of_all.map(|(model, state)| (bytes(model), bytes(state)));
            let arguments = (commit.iteration, commit.finished, of_all, bytes(&commit.worker));
            self.callback.call1(py, arguments).map(drop)
        })
        .map_err(|error| Error::Worker {
            rank: self.rank,
            fact: format!("the driver did not take iteration {}: {error}", commit.iteration),
        })
    }
}

fn sync_of(sync: &str, tau: u64, history: &str) -> PyResult<Sync> {
    match sync {
        "average" => Ok(Sync::Average {
            tau,
            history: HistoryPolicy::from_str(history).map_err(to_python)?,
        }),
        "allreduce" => Ok(Sync::AllReduce),
        _ => Err(PyValueError::new_err(format!(
            "sync is {sync}: choose average or allreduce"
        ))),
    }
}

fn job_of(solver: &[u8], folder: &std::path::Path) -> PyResult<Job> {
    let solver: SolverParameter = binary::decode(solver, "the packed solver").map_err(to_python)?;
    Job::from_message(&solver, &folder.join("solver.prototxt"), &Stages::default()).map_err(to_python)
}

/// Trains as worker `rank` of as many as there are `peers`, and returns the iterations done. `on_event` gets lines of
/// JSON, `on_commit` this worker's part of every commit: (iteration, whether the run is over, (model, state) of worker
/// 0, the worker's own). `resume` is (model, state, the worker's own) of a commit.
#[pyfunction]
#[pyo3(signature = (*, solver, folder, listener, rank, peers, token, rows, test_rows, seed, threads, sync, tau, history,
                    compress, timeout_s, allow_nan, weights, resume, commit_interval, on_event, on_commit))]
#[allow(clippy::too_many_arguments)]
pub fn train_worker(
    py: Python<'_>,
    solver: &[u8],
    folder: PathBuf,
    listener: &mut PyListener,
    rank: usize,
    peers: Vec<String>,
    token: &str,
    rows: &PyRows,
    test_rows: Option<&PyRows>,
    seed: u64,
    threads: usize,
    sync: &str,
    tau: u64,
    history: &str,
    compress: &str,
    timeout_s: f64,
    allow_nan: bool,
    weights: Option<PathBuf>,
    resume: Option<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    commit_interval: u64,
    on_event: Py<PyAny>,
    on_commit: Py<PyAny>,
) -> PyResult<u64> {
    let sync = sync_of(sync, tau, history)?;
    let world = peers.len();
    let timeout = Duration::try_from_secs_f64(timeout_s)
        .map_err(|error| PyValueError::new_err(format!("the timeout is {timeout_s} s: {error}")))?;
    let options = TcpOptions {
        timeout,
        compression: compress.parse::<Compression>().map_err(to_python)?,
    };
    let token: JobToken = token.parse().map_err(to_python)?;
    let resume = resume
        .map(|(model, state, worker)| Resume::from_commit(&model, &state, rank, &worker))
        .transpose()
        .map_err(to_python)?;
    let rows = WorkerRows {
        train: rows.0.clone(),
        test: test_rows.map(|rows| rows.0.clone()),
    };
    let settings = WorkerSettings {
        job: job_of(solver, &folder)?,
        weights: if resume.is_some() {
            Vec::new()
        } else {
            weights.into_iter().collect()
        },
        resume,
        seed,
        allow_nan,
        fed_by_program: false,
        sync: sync.describe(world),
        sync_flags: sync.flags(),
        control: Control::default(),
        states: Arc::new(Mutex::new(BTreeMap::new())),
        rows: BTreeMap::from([(rank, rows)]),
        commit_interval,
    };
    let listener = listener.0.take().ok_or_else(taken)?;
    let sink = (rank == 0).then(|| -> Box<dyn Sink> { Box::new(Told(on_event)) });
    py.detach(|| {
        run::on_threads(threads, || {
            let transport = listener.connect(rank, &peers, &token, options)?;
            let worker = Worker::new(&settings, sync.strategy()?, Box::new(transport), sink)?;
            worker
                .with_committer(Box::new(Kept {
                    rank,
                    callback: on_commit,
                }))
                .run()
        })
    })
    .map(|result| result.iteration)
    .map_err(to_python)
}

/// The `.solverstate` of what was committed, to lie beside the file `model`.
#[pyfunction]
#[pyo3(signature = (*, model, state, workers, sync, tau, history))]
pub fn solverstate<'py>(
    py: Python<'py>,
    model: PathBuf,
    state: &[u8],
    workers: Vec<Vec<u8>>,
    sync: &str,
    tau: u64,
    history: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let flags = sync_of(sync, tau, history)?.flags();
    let written = state_of_commit(&model, state, &workers, &flags).map_err(to_python)?;
    Ok(PyBytes::new(py, &written))
}

/// A snapshot as its workers would have committed it: iteration, seed, model, state, and each worker's own.
#[pyfunction]
#[pyo3(signature = (path, *, workers, sync, tau, history))]
pub fn read_snapshot<'py>(
    py: Python<'py>,
    path: PathBuf,
    workers: usize,
    sync: &str,
    tau: u64,
    history: &str,
) -> PyResult<Bound<'py, PyTuple>> {
    let flags = sync_of(sync, tau, history)?.flags();
    let found = Resume::read(&path, workers, &flags).map_err(to_python)?;
    let commits = found.to_commits(workers).map_err(to_python)?;
    let of_all = |content: Option<&Vec<u8>>| PyBytes::new(py, content.map_or(&[], Vec::as_slice));
    let (model, state) = (
        commits.first().and_then(|commit| commit.model.as_ref()),
        commits.first().and_then(|commit| commit.state.as_ref()),
    );
    let parts: Vec<_> = commits.iter().map(|commit| PyBytes::new(py, &commit.worker)).collect();
    (found.iteration(), found.run_seed(), of_all(model), of_all(state), parts).into_pyobject(py)
}

/// The same run with all workers in this process; returns the model and the tests' scores by iteration.
#[pyfunction]
#[pyo3(signature = (*, solver, folder, rows, test_rows, seed, threads, sync, tau, history, timeout_s, weights, on_event))]
#[allow(clippy::too_many_arguments)]
pub fn train_in_process<'py>(
    py: Python<'py>,
    solver: &[u8],
    folder: PathBuf,
    rows: Vec<PyRef<'py, PyRows>>,
    test_rows: Vec<Option<PyRef<'py, PyRows>>>,
    seed: u64,
    threads: usize,
    sync: &str,
    tau: u64,
    history: &str,
    timeout_s: f64,
    weights: Option<PathBuf>,
    on_event: Py<PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut job = job_of(solver, &folder)?;
    job.solver.random_seed = Some(seed);
    if rows.len() != test_rows.len() || rows.is_empty() {
        return Err(PyValueError::new_err(
            "give rows, and test rows or None, for each worker",
        ));
    }
    let rows: Vec<WorkerRows> = rows
        .iter()
        .zip(&test_rows)
        .map(|(rows, test_rows)| WorkerRows {
            train: rows.0.clone(),
            test: test_rows.as_ref().map(|rows| rows.0.clone()),
        })
        .collect();
    let settings = RunSettings {
        workers: rows.len(),
        threads: Some(threads * rows.len()),
        sync: sync_of(sync, tau, history)?,
        weights: weights.into_iter().collect(),
        sync_timeout: Duration::try_from_secs_f64(timeout_s)
            .map_err(|error| PyValueError::new_err(format!("the timeout is {timeout_s} s: {error}")))?,
        rows: rows.clone(),
        ..RunSettings::new(job.clone())
    };
    let trained = py.detach(|| -> Result<_, Error> {
        let result = run::run(settings, &mut Told(on_event))?;
        let mut opener = FeedOpener::new(FeedSettings {
            folder,
            phase: sparknet_engine::Phase::Train,
            rank: 0,
            world: rows.len(),
            seed,
            positions_batches: Vec::new(),
            max_batches: None,
            rows: rows.first().map(|rows| rows.train.clone()),
            fed_by_program: false,
            repeat: true,
        });
        let net = Net::new(job.train.spec.clone(), &mut opener, seed)?;
        Ok((net.to_proto(&result.params, None).encode_to_vec(), result.iteration))
    });
    let (model, iteration) = trained.map_err(to_python)?;
    let result = PyDict::new(py);
    result.set_item("model", PyBytes::new(py, &model))?;
    result.set_item("iteration", iteration)?;
    Ok(result)
}
