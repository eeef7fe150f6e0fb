//! The files of a run's snapshot, and how a run is taken up from them.
//!
//! A snapshot is a `.caffemodel` with the weights that all workers agree on (their average between two rounds) and a
//! `.solverstate` that Caffe reads too, with what each worker holds beside them: its histories where they differ from
//! worker 0's, its weights between two rounds, and how far it is in its data.

use std::path::{Path, PathBuf};

use prost::Message;
use sparknet_engine::{
    Net, Solver,
    snapshot::{arena_from_proto, arena_to_proto},
    spec::SnapshotFormat,
};
use sparknet_proto::{
    binary,
    caffe::{NetParameter, SolverState, WorkerState},
    hdf5, read_state, read_weights, upgrade,
};

use crate::Error;

/// A snapshot's two files.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    /// The `.caffemodel`, or `.caffemodel.h5`.
    pub model: PathBuf,
    /// The `.solverstate`, or `.solverstate.h5`.
    pub state: PathBuf,
}

impl SnapshotFiles {
    /// The files of iteration `iteration` behind `prefix`, named as Caffe names them.
    pub fn new(prefix: &Path, iteration: u64, format: SnapshotFormat) -> Self {
        let with = |extension: &str| {
            let mut name = prefix.as_os_str().to_owned();
            name.push(format!("_iter_{iteration}.{extension}"));
            if format == SnapshotFormat::Hdf5 {
                name.push(".h5");
            }
            PathBuf::from(name)
        };
        Self {
            model: with("caffemodel"),
            state: with("solverstate"),
        }
    }
}

/// One worker's part of what all hold after a round, for somebody else to keep: a driver, whose workers may die.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Iterations done.
    pub iteration: u64,
    /// Whether the run is over.
    pub finished: bool,
    /// Of worker 0: the weights of all, as a `.caffemodel` has them.
    pub model: Option<Vec<u8>>,
    /// Of worker 0: its solver's state, as a `.solverstate` has it.
    pub state: Option<Vec<u8>>,
    /// What this worker holds beside them: a `WorkerState`.
    pub worker: Vec<u8>,
}

/// Whoever keeps commits.
pub trait Committer: Send {
    /// Takes this worker's part. A round is committed once every worker's part of it is there.
    ///
    /// # Errors
    /// The part cannot be handed over; the run then ends.
    fn commit(&mut self, commit: Commit) -> Result<(), Error>;
}

/// Worker `rank`'s part of the state after a round.
pub(crate) fn part(solver: &Solver, rank: usize, positions_batches: Vec<u64>, seed: u64, finished: bool) -> Commit {
    let mut worker = worker_state(solver, positions_batches, true);
    let net = solver.net();
    let of_all = (rank == 0).then(|| {
        worker.history.clear();
        let mut state = solver.state_to_proto("committed");
        state.run_seed = Some(seed as i64);
        (
            net.to_proto(net.param_arena(), None).encode_to_vec(),
            state.encode_to_vec(),
        )
    });
    let (model, state) = of_all.unzip();
    Commit {
        iteration: solver.iteration(),
        finished,
        model,
        state,
        worker: worker.encode_to_vec(),
    }
}

/// Checks before the first iteration that snapshots up to iteration `max_iter` can be written behind `prefix`.
///
/// # Errors
/// A folder that is missing or cannot be written to, a name that no file can have.
pub fn check_prefix(prefix: &Path, max_iter: u64, format: SnapshotFormat) -> Result<(), Error> {
    let state = SnapshotFiles::new(prefix, max_iter, format).state;
    let folder = match state.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let error = |fact: String| Error::Path {
        path: folder.to_owned(),
        fact,
    };
    if !folder.is_dir() {
        return Err(error(
            "snapshots go to this folder, which does not exist: create it or set snapshot_prefix".into(),
        ));
    }
    binary::check_writable(&state).map_err(|cause| {
        error(format!(
            "snapshots cannot be written to this folder ({cause}): set snapshot_prefix"
        ))
    })
}

/// Takes a net's weights from a `.caffemodel` or `.caffemodel.h5` by layer name.
///
/// # Errors
/// A file that cannot be read, blobs of other shapes, no layer that both have.
pub fn copy_weights(net: &mut Net, path: &Path) -> Result<(), Error> {
    if net.copy_weights_from(&read_weights(path)?)? > 0 {
        return Ok(());
    }
    Err(no_layer_in_common(path))
}

/// Weights that are of another net altogether.
pub(crate) fn no_layer_in_common(path: &Path) -> Error {
    Error::Path {
        path: path.to_owned(),
        fact: "no layer of the net has a name that occurs in it: check that it is this net's".to_owned(),
    }
}

/// Writes a net's weights: `params`, and `gradients` where they are wanted, are laid out as the net's arenas.
///
/// # Errors
/// A file that cannot be written; it is then as it was before. Layers' names that HDF5 has no paths for.
pub fn write_weights(
    net: &Net,
    path: &Path,
    format: SnapshotFormat,
    params: &[f32],
    gradients: Option<&[f32]>,
) -> Result<(), Error> {
    let mut message = net.to_proto(params, gradients);
    match format {
        SnapshotFormat::BinaryProto => binary::write_file(path, &message)?,
        SnapshotFormat::Hdf5 => {
            net.keep_owned_values(&mut message);
            hdf5::write_weights(path, &message)?;
        }
    }
    Ok(())
}

/// What a worker holds beside the weights that all share. `agrees` is whether its weights are those of all.
pub fn worker_state(solver: &Solver, positions_batches: Vec<u64>, agrees: bool) -> WorkerState {
    let net = solver.net();
    let weight = if agrees {
        Vec::new()
    } else {
        arena_to_proto(net.params(), net.param_arena()).collect()
    };
    WorkerState {
        history: solver.histories_to_proto(),
        weight,
        data_position_batches: positions_batches,
        recent_loss: solver.recent_losses().collect(),
    }
}

/// Writes the snapshot: `params` are the weights of all, `workers` each worker's state in order of rank. The model is
/// written first, so that a state never names a model that is not there.
///
/// # Errors
/// Files that cannot be written; each is then as it was before.
pub fn write(
    files: &SnapshotFiles,
    solver: &Solver,
    params: &[f32],
    mut workers: Vec<WorkerState>,
    run_seed: u64,
    run_sync: &str,
) -> Result<(), Error> {
    let (net, format) = (solver.net(), solver.spec().snapshot_format);
    let gradients = solver.spec().snapshot_diff.then(|| net.gradient_arena());
    write_weights(net, &files.model, format, params, gradients)?;
    let mut state = solver.state_to_proto(&files.model.display().to_string());
    for worker in &mut workers {
        if worker.history == state.history {
            worker.history.clear();
        }
    }
    state.worker = workers;
    state.run_seed = Some(run_seed as i64);
    state.run_sync = Some(run_sync.to_owned());
    match format {
        SnapshotFormat::BinaryProto => binary::write_file(&files.state, &state)?,
        SnapshotFormat::Hdf5 => hdf5::write_state(&files.state, &state)?,
    }
    Ok(())
}

/// The `.solverstate` of a committed round, to lie beside `model`: `state` is worker 0's, `workers` what each holds beside
/// it, in order of rank, and `run_sync` how they agree, in flags.
///
/// # Errors
/// Bytes that are not what was committed.
pub fn state_of_commit(model: &Path, state: &[u8], workers: &[Vec<u8>], run_sync: &str) -> Result<Vec<u8>, Error> {
    let mut state: SolverState = binary::decode(state, "the committed state")?;
    state.learned_net = Some(model.display().to_string());
    state.run_sync = Some(run_sync.to_owned());
    state.worker = workers
        .iter()
        .map(|worker| binary::decode(worker, "the committed worker's state"))
        .collect::<Result<_, _>>()?;
    Ok(state.encode_to_vec())
}

/// A snapshot that a run is taken up from.
#[derive(Clone, Debug)]
pub struct Resume {
    path: PathBuf,
    state: SolverState,
    /// The weights of all, where they are not in a file beside the state.
    model: Option<NetParameter>,
}

impl Resume {
    /// Reads a `.solverstate` or `.solverstate.h5` for a run of `workers` workers that agree as the flags `run_sync` say. A state that Caffe
    /// wrote knows neither and suits any.
    ///
    /// # Errors
    /// A file that cannot be read, a run of another number of workers, or of workers that agreed in another way: what
    /// they hold would not fit together.
    pub fn read(path: &Path, workers: usize, run_sync: &str) -> Result<Self, Error> {
        let state = read_state(path)?;
        let error = |fact: String| Error::Path {
            path: path.to_owned(),
            fact,
        };
        if state.learned_net().is_empty() && state.history.is_empty() {
            return Err(error(
                "this is no .solverstate: give the one beside the .caffemodel".to_owned(),
            ));
        }
        let found = state.worker.len();
        if found != 0 && found != workers {
            return Err(error(format!(
                "it is of a run with --workers {found}, not {workers}: give --workers {found}"
            )));
        }
        // One worker agrees with itself in any way.
        match &state.run_sync {
            Some(given) if workers > 1 && given != run_sync => Err(error(format!(
                "it is of a run with {given}, not {run_sync}: give the same, or begin a new run from its .caffemodel \
                 with --weights"
            ))),
            _ => Ok(Self {
                path: path.to_owned(),
                state,
                model: None,
            }),
        }
    }

    /// What worker `rank` needs of a state that was committed elsewhere: the model of all, worker 0's state, and its
    /// own; as [`Commit`] has them.
    ///
    /// # Errors
    /// Bytes that are not what was committed.
    pub fn from_commit(model: &[u8], state: &[u8], rank: usize, worker: &[u8]) -> Result<Self, Error> {
        let model = upgrade::net(binary::decode(model, "the committed model")?)
            .map_err(|error| Error::Usage(format!("the committed model: {error}")))?;
        let mut state: SolverState = binary::decode(state, "the committed state")?;
        state.worker = vec![WorkerState::default(); rank];
        state
            .worker
            .push(binary::decode(worker, "the committed worker's state")?);
        Ok(Self {
            path: PathBuf::from("the committed state"),
            state,
            model: Some(model),
        })
    }

    /// The same as every worker would have committed it, in order of rank.
    ///
    /// # Errors
    /// The model cannot be read.
    pub fn to_commits(&self, workers: usize) -> Result<Vec<Commit>, Error> {
        let model = match &self.model {
            Some(model) => model.encode_to_vec(),
            None => read_weights(&self.model())?.encode_to_vec(),
        };
        let mut state = self.state.clone();
        let mut parts = std::mem::take(&mut state.worker);
        parts.resize(workers, WorkerState::default());
        let (mut model, mut state) = (Some(model), Some(state.encode_to_vec()));
        let commits = parts.iter().map(|part| Commit {
            iteration: self.iteration(),
            finished: false,
            // Worker 0 speaks for all.
            model: model.take(),
            state: state.take(),
            worker: part.encode_to_vec(),
        });
        Ok(commits.collect())
    }

    /// Iterations done.
    pub fn iteration(&self) -> u64 {
        u64::try_from(self.state.iter()).unwrap_or(0)
    }

    /// The seed that the run had.
    pub fn run_seed(&self) -> Option<u64> {
        self.state.run_seed.map(|seed| seed as u64)
    }

    /// How far worker `rank` is in its data.
    pub fn positions_batches(&self, rank: usize) -> Vec<u64> {
        self.state
            .worker
            .get(rank)
            .map(|worker| worker.data_position_batches.clone())
            .unwrap_or_default()
    }

    /// The model beside the state: where the state says it is, or else in the state's own folder, under the name that
    /// the state says or under the state's own, should both have been renamed.
    fn model(&self) -> PathBuf {
        let named = PathBuf::from(self.state.learned_net());
        let in_folder = self.path.with_file_name(named.file_name().unwrap_or_default());
        let renamed = match self.path.extension() {
            Some(extension) if extension == "h5" => self.path.with_extension("").with_extension("caffemodel.h5"),
            _ => self.path.with_extension("caffemodel"),
        };
        let candidates = [&named, &in_folder, &renamed];
        candidates
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or(&named)
            .clone()
    }

    /// Takes worker `rank`'s solver to where it was.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of another net or solver.
    pub fn restore(&self, solver: &mut Solver, rank: usize) -> Result<(), Error> {
        match &self.model {
            Some(model) => solver.net_mut().copy_weights_from(model)?,
            None => solver.net_mut().copy_weights_from(&read_weights(&self.model())?)?,
        };
        solver.restore_state(&self.state, &self.path)?;
        let Some(worker) = self.state.worker.get(rank) else {
            return Ok(());
        };
        let error = |fact: String| Error::Path {
            path: self.path.clone(),
            fact,
        };
        if !worker.history.is_empty() {
            solver.restore_histories(&worker.history).map_err(error)?;
        }
        if !worker.weight.is_empty() {
            let params = solver.net().params().to_vec();
            arena_from_proto(&worker.weight, &params, solver.net_mut().param_arena_mut()).map_err(error)?;
        }
        solver.restore(solver.iteration(), solver.current_step(), &worker.recent_loss);
        Ok(())
    }
}
