//! A job without its files: what a driver reads once and sends to workers on other machines.

use std::path::{Path, PathBuf};

use sparknet_engine::{NetState, Phase, SolverSpec, spec};
use sparknet_proto::{
    caffe::{LayerParameter, NetParameter, SolverParameter},
    upgrade,
};

use crate::{
    Error,
    checkpoint::no_layer_in_common,
    job::{Job, Stages, resolve},
    rows::{RowsWanted, feed_by_rows},
};

/// A solver with its nets inside, all fed by rows.
#[derive(Clone, Debug)]
pub struct PackedJob {
    /// The solver; paths in it are the names of `files`.
    pub solver: SolverParameter,
    /// The mean files and infogain matrices that the nets ask for: the name there, and where it lies here.
    pub files: Vec<(String, PathBuf)>,
    /// What the nets say of their rows.
    pub wanted: RowsWanted,
    /// The files that the solver takes weights from before training.
    pub weights: Vec<PathBuf>,
    /// The solver's first test net and its state, which it has no more where there are no rows to test on.
    test_net: Option<NetParameter>,
    test_state: Option<sparknet_proto::caffe::NetState>,
}

/// A text and where it is from.
#[derive(Clone, Debug)]
pub struct Text {
    /// The prototxt.
    pub text: String,
    /// Its file's name, for messages.
    pub name: String,
    /// The folder that its paths are looked up in second.
    pub folder: PathBuf,
}

impl PackedJob {
    /// Packs a solver. `net` replaces the net that the solver names; `overrides` are fields of a solver in Caffe's text
    /// form that replace the solver's own. Its snapshots are left out: the driver keeps what workers commit. So are its
    /// test nets, unless there are rows to test on (`has_test_rows`); then they see all of them, whatever test_iter says.
    ///
    /// # Errors
    /// A mistake in a text, a file that is missing, a data layer that rows cannot feed, a net that is none.
    pub fn pack(solver: &Text, net: Option<&Text>, overrides: &str, has_test_rows: bool) -> Result<Self, Error> {
        let mut message: SolverParameter = upgraded_solver(&solver.name, &solver.text)?;
        let overrides: SolverParameter = upgraded_solver("the parameters", overrides)?;
        override_fields(&mut message, overrides);
        let mut packed = Self {
            solver: SolverParameter::default(),
            files: Vec::new(),
            wanted: RowsWanted::default(),
            weights: Vec::new(),
            test_net: None,
            test_state: None,
        };
        if let Some(net) = net {
            message.train_net = None;
            message.net = None;
            message.train_net_param = None;
            message.test_net.clear();
            message.test_net_param.clear();
            let parsed = sparknet_proto::text::parse(&net.name, &net.text).map_err(sparknet_proto::Error::from)?;
            message.net_param = Some(upgraded_net(&net.name, parsed)?);
            packed.take(message.net_param.as_mut(), &net.folder)?;
        } else {
            let folder = &solver.folder;
            for nets in [&mut message.net_param, &mut message.train_net_param] {
                packed.take(nets.as_mut(), folder)?;
            }
            for net in &mut message.test_net_param {
                packed.take(Some(net), folder)?;
            }
            if let Some(path) = message.net.take() {
                message.net_param = Some(packed.read(&path, folder)?);
            }
            if let Some(path) = message.train_net.take() {
                message.train_net_param = Some(packed.read(&path, folder)?);
            }
            // Caffe tests test_net_param first, then test_net.
            for path in std::mem::take(&mut message.test_net) {
                let net = packed.read(&path, folder)?;
                message.test_net_param.push(net);
            }
        }
        message.snapshot = None;
        message.snapshot_after_train = Some(false);
        message.snapshot_prefix = None;
        let weights = SolverSpec::from_proto(&message)?.weights;
        packed.weights = weights.iter().map(|path| resolve(path, &solver.folder)).collect();
        message.weights.clear();
        message.test_iter.clear();
        message.test_state.truncate(1);
        message.test_net_param.truncate(1);
        packed.test_state = message.test_state.first().cloned();
        packed.test_net = message.test_net_param.first().cloned();
        if has_test_rows {
            let max_iter = message.max_iter();
            if message.test_interval() <= 0 {
                // No test on the way, one at the end.
                message.test_interval = Some(max_iter.saturating_add(1));
                message.test_initialization = Some(false);
            }
        } else {
            message.test_interval = None;
            message.test_state.clear();
            message.test_net_param.clear();
        }
        packed.solver = message;
        // Everything that is wrong with the nets is said here rather than by each worker.
        packed.job(Path::new(""))?;
        Ok(packed)
    }

    /// The job on a machine that has the packed files in `folder`.
    ///
    /// # Errors
    /// As [`Job::from_message`].
    pub fn job(&self, folder: &Path) -> Result<Job, Error> {
        Job::from_message(&self.solver, &folder.join("solver.prototxt"), &Stages::default())
    }

    /// The net that tests and predicts: the first test net, or else the train net, in phase TEST, with its layers alone.
    ///
    /// # Errors
    /// No layer is left in phase TEST, or one is wrong.
    pub fn test_net(&self) -> Result<NetParameter, Error> {
        let candidates = [
            self.test_net.as_ref(),
            self.solver.net_param.as_ref(),
            self.solver.train_net_param.as_ref(),
        ];
        let net = candidates.into_iter().flatten().next().cloned().unwrap_or_default();
        let state = NetState::new(Phase::Test)
            .merge(net.state.as_ref())
            .merge(self.test_state.as_ref());
        let mut filtered = sparknet_engine::NetSpec::from_proto(&net, state)?.to_proto();
        for layer in &mut filtered.layer {
            // The rules have been applied.
            layer.include.clear();
            layer.exclude.clear();
        }
        Ok(filtered)
    }

    /// The weights of several files as those of one net; where two have a layer, the later one's count.
    ///
    /// # Errors
    /// A file that cannot be read, or that has no layer of the net that is trained.
    pub fn united_weights(&self, paths: &[PathBuf]) -> Result<NetParameter, Error> {
        let layers = self.job(Path::new(""))?.train.spec.layers;
        let mut united = NetParameter::default();
        for path in paths {
            let net = sparknet_proto::read_weights(path)?;
            let is_of_net = |name: &str| layers.iter().any(|layer| layer.name == name);
            let has_weights = |layer: &&LayerParameter| !layer.blobs.is_empty();
            if !net
                .layer
                .iter()
                .filter(has_weights)
                .any(|layer| is_of_net(layer.name()))
            {
                return Err(no_layer_in_common(path));
            }
            united
                .layer
                .retain(|layer| net.layer.iter().all(|later| later.name() != layer.name()));
            united.layer.extend(net.layer);
        }
        Ok(united)
    }

    fn read(&mut self, path: &str, folder: &Path) -> Result<NetParameter, Error> {
        let path = resolve(path, folder);
        let mut net = sparknet_proto::read_net(&path)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        self.take(Some(&mut net), &folder)?;
        Ok(net)
    }

    /// Feeds a net by rows and renames the files that it asks for.
    fn take(&mut self, net: Option<&mut NetParameter>, folder: &Path) -> Result<(), Error> {
        let Some(net) = net else { return Ok(()) };
        feed_by_rows(net, &mut self.wanted)?;
        for layer in &mut net.layer {
            for mean_file in spec::mean_files(layer) {
                let hint = "the mean file does not exist: compute it with `sparknet mean`, or correct mean_file";
                self.bring(mean_file, folder, "mean", hint)?;
            }
            if let Some(source) = spec::infogain_file(layer) {
                let hint = "the infogain matrix does not exist: write it, or correct infogain_loss_param.source";
                self.bring(source, folder, "infogain", hint)?;
            }
        }
        Ok(())
    }

    /// Has a file sent along, and `name` be its name there: `kind` and a number.
    fn bring(&mut self, name: &mut String, folder: &Path, kind: &str, hint: &str) -> Result<(), Error> {
        let path = resolve(name, folder);
        if !path.is_file() {
            let fact = hint.to_owned();
            return Err(Error::Path { path, fact });
        }
        if let Some((known, _)) = self.files.iter().find(|(_, other)| *other == path) {
            name.clone_from(known);
        } else {
            *name = format!("{kind}_{}.binaryproto", self.files.len());
            self.files.push((name.clone(), path));
        }
        Ok(())
    }
}

fn upgraded_solver(name: &str, text: &str) -> Result<SolverParameter, Error> {
    let message = sparknet_proto::text::parse(name, text).map_err(sparknet_proto::Error::from)?;
    upgrade::solver(message).map_err(|error| Error::Usage(format!("{name}: {error}")))
}

fn upgraded_net(name: &str, net: NetParameter) -> Result<NetParameter, Error> {
    upgrade::net(net).map_err(|error| Error::Usage(format!("{name}: {error}")))
}

fn override_fields(solver: &mut SolverParameter, overrides: SolverParameter) {
    macro_rules! replace {
        ($($field:ident)*) => { $( if overrides.$field.is_some() { solver.$field = overrides.$field; } )* };
    }
    if let Some(state) = overrides.train_state {
        // As with the flags of a run without Spark: the solver's own level counts more, stages add up.
        let own = solver.train_state.get_or_insert_default();
        own.level = own.level.or(state.level);
        own.stage.extend(state.stage);
    }
    replace!(max_iter test_interval test_initialization random_seed base_lr momentum weight_decay gamma power display
             iter_size average_loss clip_gradients lr_policy stepsize);
}
