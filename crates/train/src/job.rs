//! What the user asked for, loaded and validated: the solver, its train net and its test nets.

use std::path::{Path, PathBuf};

use sparknet_engine::{
    NetSpec, NetState, Phase, SolverSpec,
    spec::{InfogainLossSpec, LayerKind},
};
use sparknet_proto::{
    caffe::{NetParameter, SolverParameter},
    read_net, read_solver,
};

use crate::Error;

/// A solver and its nets.
#[derive(Clone, Debug)]
pub struct Job {
    /// The solver's settings.
    pub solver: SolverSpec,
    /// The net that is trained.
    pub train: NetSource,
    /// The nets that are tested, with how many batches each; `None` for all of their data. Nets with a `test_iter` of 0
    /// are not among them.
    pub tests: Vec<(NetSource, Option<u64>)>,
    /// The solver's file.
    pub solver_path: PathBuf,
    /// The files of its nets.
    pub net_paths: Vec<PathBuf>,
}

/// A net and where it was read from.
#[derive(Clone, Debug)]
pub struct NetSource {
    /// The net, in one state.
    pub spec: NetSpec,
    /// The folder of its file, where relative paths are looked for second.
    pub folder: PathBuf,
}

/// What of a net is included, beyond its phase.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// The level.
    pub level: i32,
    /// The stages.
    pub stages: Vec<String>,
}

/// `path` as it is if it exists, else in `folder` if it exists there, else as it is.
pub fn resolve(path: &str, folder: &Path) -> PathBuf {
    let here = PathBuf::from(path);
    let there = folder.join(path);
    if !here.exists() && there.exists() { there } else { here }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

impl NetSource {
    /// The net in `path` for one phase.
    ///
    /// # Errors
    /// A file that cannot be read or is no net.
    pub fn read(path: &Path, phase: Phase, stages: &Stages) -> Result<Self, Error> {
        let net = read_net(path)?;
        let state = NetState {
            phase,
            level: stages.level,
            stages: stages.stages.clone(),
        }
        .merge(net.state.as_ref());
        Self::new(&net, state, folder_of(path))
    }

    /// The layers of `state`; the files that they read by themselves are looked for as data are.
    pub(crate) fn new(net: &NetParameter, state: NetState, folder: PathBuf) -> Result<Self, Error> {
        let mut spec = NetSpec::from_proto(net, state)?;
        for layer in &mut spec.layers {
            if let LayerKind::InfogainLoss(InfogainLossSpec {
                source: Some(source), ..
            }) = &mut layer.kind
            {
                *source = resolve(source, &folder).display().to_string();
            }
        }
        Ok(Self { spec, folder })
    }
}

impl Job {
    /// Reads a solver and all its nets.
    ///
    /// # Errors
    /// A file that cannot be read, a field that is wrong, no or more than one train net.
    pub fn read(solver_path: &Path, stages: &Stages) -> Result<Self, Error> {
        Self::from_message(&read_solver(solver_path)?, solver_path, stages)
    }

    /// As [`Job::read`], of a solver that has been read already: `solver_path` says where its relative paths begin, and
    /// need not exist.
    ///
    /// # Errors
    /// As [`Job::read`].
    pub fn from_message(message: &SolverParameter, solver_path: &Path, stages: &Stages) -> Result<Self, Error> {
        let folder = folder_of(solver_path);
        let mut solver = SolverSpec::from_proto(message)?;
        if solver.max_iter == 0 {
            return Err(Error::Usage(format!(
                "{}: max_iter is missing or 0",
                solver_path.display()
            )));
        }
        solver.weights = solver
            .weights
            .iter()
            .map(|path| resolve(path, &folder).display().to_string())
            .collect();
        let mut train = train_net(message, &folder, stages).map_err(|error| name_file(solver_path, error))?;
        let mut tests = test_nets(message, &folder).map_err(|error| name_file(solver_path, error))?;
        for net in tests.iter_mut().map(|(net, _)| net).chain([&mut train]) {
            net.spec.debug_info |= message.debug_info();
        }
        Ok(Self {
            solver,
            train,
            tests,
            solver_path: solver_path.to_owned(),
            net_paths: [&message.net, &message.train_net]
                .into_iter()
                .flatten()
                .chain(&message.test_net)
                .map(|path| resolve(path, &folder))
                .collect(),
        })
    }

    /// What snapshot files begin with, as Caffe has it: the solver's path without its extension where no prefix is
    /// given, and the solver's name in the prefix where that is a folder.
    pub fn snapshot_prefix(&self) -> PathBuf {
        let stem = self.solver_path.file_stem().unwrap_or_default();
        match &self.solver.snapshot_prefix {
            None => self.solver_path.with_extension(""),
            Some(prefix) if Path::new(prefix).is_dir() => Path::new(prefix).join(stem),
            Some(prefix) => PathBuf::from(prefix),
        }
    }
}

fn name_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Usage(fact) => Error::Usage(format!("{}: {fact}", path.display())),
        other => other,
    }
}

/// A net message of the solver with the folder that its paths are relative to.
fn load(path: &str, folder: &Path) -> Result<(NetParameter, PathBuf), Error> {
    let path = resolve(path, folder);
    Ok((read_net(&path)?, folder_of(&path)))
}

fn inline(net: &NetParameter, folder: &Path) -> Result<(NetParameter, PathBuf), Error> {
    let net = sparknet_proto::upgrade::net(net.clone()).map_err(|error| Error::Usage(error.to_string()))?;
    Ok((net, folder.to_owned()))
}

fn train_net(solver: &SolverParameter, folder: &Path, stages: &Stages) -> Result<NetSource, Error> {
    let given = [
        solver.train_net_param.is_some(),
        solver.train_net.is_some(),
        solver.net_param.is_some(),
        solver.net.is_some(),
    ];
    let (net, net_folder) = match given {
        [true, false, false, false] => inline(&solver.train_net_param.clone().unwrap_or_default(), folder)?,
        [false, true, false, false] => load(solver.train_net(), folder)?,
        [false, false, true, false] => inline(&solver.net_param.clone().unwrap_or_default(), folder)?,
        [false, false, false, true] => load(solver.net(), folder)?,
        [false, false, false, false] => return Err(Error::Usage("no net is given: set net".to_owned())),
        _ => {
            return Err(Error::Usage(
                "more than one of net, net_param, train_net and train_net_param is given: keep one".to_owned(),
            ));
        }
    };
    let mut state = NetState {
        phase: Phase::Train,
        level: stages.level,
        stages: stages.stages.clone(),
    };
    state = state.merge(net.state.as_ref()).merge(solver.train_state.as_ref());
    NetSource::new(&net, state, net_folder)
}

/// The test nets in Caffe's order: `test_net_param`, `test_net`, then `net_param` or `net` as often as there are
/// values of `test_iter` left, without those whose `test_iter` is 0. Without any `test_iter` but with a `test_interval`, each is tested on all of its data.
fn test_nets(solver: &SolverParameter, folder: &Path) -> Result<Vec<(NetSource, Option<u64>)>, Error> {
    let mut nets = Vec::new();
    for net in &solver.test_net_param {
        nets.push(inline(net, folder)?);
    }
    for path in &solver.test_net {
        nets.push(load(path, folder)?);
    }
    let has_generic = solver.net.is_some() || solver.net_param.is_some();
    if solver.test_iter.len() < nets.len() && !solver.test_iter.is_empty() {
        let (given, wanted) = (solver.test_iter.len(), nets.len());
        return Err(Error::Usage(format!(
            "test_iter is given {given} times for {wanted} test nets: give one each"
        )));
    }
    let left = if solver.test_iter.is_empty() {
        usize::from(nets.is_empty() && solver.test_interval() > 0)
    } else {
        solver.test_iter.len() - nets.len()
    };
    if left > 0 && !has_generic {
        if solver.test_iter.is_empty() {
            return Err(Error::Usage(
                "test_interval is set, but there is no test net: set test_net".to_owned(),
            ));
        }
        return Err(Error::Usage(format!(
            "test_iter is given {left} times more than there are test nets"
        )));
    }
    for _ in 0..left {
        nets.push(match &solver.net_param {
            Some(net) => inline(net, folder)?,
            None => load(solver.net(), folder)?,
        });
    }
    if !solver.test_state.is_empty() && solver.test_state.len() != nets.len() {
        let (given, wanted) = (solver.test_state.len(), nets.len());
        return Err(Error::Usage(format!(
            "test_state is given {given} times for {wanted} test nets: give one each"
        )));
    }
    let mut tests = Vec::with_capacity(nets.len());
    for (index, (net, net_folder)) in nets.into_iter().enumerate() {
        let state = NetState::new(Phase::Test)
            .merge(net.state.as_ref())
            .merge(solver.test_state.get(index));
        let batches = solver
            .test_iter
            .get(index)
            .and_then(|batches| u64::try_from(*batches).ok());
        let net = NetSource::new(&net, state, net_folder)?;
        // Caffe builds such a net, never runs it, and calls its scores NaN.
        if batches != Some(0) {
            tests.push((net, batches));
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_layers_are_looked_for_beside_their_net() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.prototxt");
        let net = "layer { name: 'L' type: 'InfogainLoss' bottom: 'x' bottom: 't'
            infogain_loss_param { source: 'h.binaryproto' } }";
        std::fs::write(&path, net).unwrap();
        let source = || match &NetSource::read(&path, Phase::Train, &Stages::default())
            .unwrap()
            .spec
            .layers[0]
            .kind
        {
            LayerKind::InfogainLoss(spec) => spec.source.clone().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(source(), "h.binaryproto");
        let beside = folder.path().join("h.binaryproto");
        std::fs::write(&beside, []).unwrap();
        assert_eq!(source(), beside.display().to_string());
    }
}
