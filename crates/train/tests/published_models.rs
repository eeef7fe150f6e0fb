//! `SPARKNET_MODELS=DIR cargo test --release published_models`: every net and solver in a folder tree is read, upgraded
//! and built, nets in both phases. Without the variable these are the project's own `models/`.

use std::{
    collections::HashSet,
    env, fs,
    path::{Path, PathBuf},
};

use sparknet_engine::{Net, NetSpec, NetState, Phase, SolverSpec, net::NoData, spec::LayerKind};
use sparknet_proto::{
    caffe::{NetParameter, SolverParameter},
    read_net, read_solver, text,
};
use sparknet_train::{
    Error,
    job::{Job, NetSource, Stages},
    time::with_input_layers,
};

/// Its solver can be checked alone.
const NOT_THERE: &str = "which is not in the tree";

/// Records a batch, so that a net needs little memory.
const BATCH: u32 = 2;

/// The shape (c, h, w) of the records of well-known data, by a word in the path of their source.
const RECORDS: [(&str, [usize; 3]); 3] = [("siamese", [2, 28, 28]), ("mnist", [1, 28, 28]), ("cifar", [3, 32, 32])];

#[test]
fn published_models() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = project.join(env::var_os("SPARKNET_MODELS").unwrap_or("models".into()));
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();

    let mut builder = Builder::default();
    let (mut nets, mut solvers) = (0, 0);
    let (mut alone, mut staged, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for path in &files {
        let name = path.strip_prefix(&root).unwrap_or(path).display();
        let text = fs::read_to_string(path).unwrap();
        // The content says what a file is: no text is both, unless it says nothing.
        let as_net = text::parse::<NetParameter>(&name.to_string(), &text);
        let as_solver = text::parse::<SolverParameter>(&name.to_string(), &text);
        let outcome = match (as_net, as_solver) {
            (Ok(_), _) => {
                nets += 1;
                builder.net(path)
            }
            (Err(_), Ok(_)) => {
                solvers += 1;
                builder.solver(path, &files)
            }
            (Err(net), Err(solver)) => Err(format!("no net ({net}) and no solver ({solver})")),
        };
        match outcome {
            Err(error) if error.contains(NOT_THERE) => alone.push(format!("{name}: {error}")),
            // Parts of it belong to stages, which a solver sets.
            Err(error) if text.contains("stage:") => staged.push((path, format!("{name}: {error}"))),
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(()) => {}
        }
    }
    let without_solver = staged.into_iter().filter(|(path, _)| !builder.named.contains(*path));
    wrong.extend(without_solver.map(|(_, error)| error));
    println!("{}: {nets} nets and {solvers} solvers", root.display());
    println!("solvers without their nets:\n{}", alone.join("\n"));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(nets > 0 && solvers > 0, "nothing in {}", root.display());
}

/// All .prototxt files under `folder`.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "prototxt") {
            files.push(path);
        }
    }
}

/// Builds each net once, however many files name it.
#[derive(Default)]
struct Builder {
    built: HashSet<String>,
    /// The nets of solvers that could be built.
    named: HashSet<PathBuf>,
}

impl Builder {
    fn net(&mut self, path: &Path) -> Result<(), String> {
        let mut net = read_net(path).map_err(|error| error.to_string())?;
        for phase in [Phase::Train, Phase::Test] {
            let state = NetState::new(phase).merge(net.state.as_ref());
            NetSpec::from_proto(&net, state.clone()).map_err(|error| error.to_string())?;
            shrink(&mut net);
            let source = NetSource {
                spec: NetSpec::from_proto(&net, state).map_err(|error| error.to_string())?,
                folder: path.parent().map(Path::to_path_buf).unwrap_or_default(),
            };
            self.build(&source).map_err(|error| format!("{phase:?}: {error}"))?;
        }
        Ok(())
    }

    fn solver(&mut self, path: &Path, files: &[PathBuf]) -> Result<(), String> {
        let mut solver = read_solver(path).map_err(|error| error.to_string())?;
        SolverSpec::from_proto(&solver).map_err(|error| error.to_string())?;
        // The paths in a published solver begin where its authors stood. Nets are put into it, made small.
        let mut named_nets = Vec::new();
        let mut load = |named: &str| {
            let found = find(named, path, files).ok_or_else(|| format!("it names {named}, {NOT_THERE}"))?;
            named_nets.push(found.to_owned());
            read_net(found).map_err(|error| error.to_string())
        };
        solver.train_net_param = match solver.train_net.take() {
            Some(named) => Some(load(&named)?),
            None => solver.train_net_param,
        };
        solver.net_param = match solver.net.take() {
            Some(named) => Some(load(&named)?),
            None => solver.net_param,
        };
        for named in std::mem::take(&mut solver.test_net) {
            solver.test_net_param.push(load(&named)?);
        }
        let nets = solver.net_param.iter_mut().chain(&mut solver.train_net_param);
        nets.chain(&mut solver.test_net_param).for_each(shrink);
        let job = Job::from_message(&solver, path, &Stages::default()).map_err(|error| error.to_string())?;
        for source in job.tests.iter().map(|(net, _)| net).chain([&job.train]) {
            self.build(source).map_err(|error| error.to_string())?;
        }
        self.named.extend(named_nets);
        Ok(())
    }

    fn build(&mut self, source: &NetSource) -> Result<(), Error> {
        let key = text::print(&source.spec.to_proto());
        if !self.built.insert(key) {
            return Ok(());
        }
        let known = source.spec.layers.iter().find_map(|layer| match &layer.kind {
            LayerKind::Data(data) => RECORDS.iter().find(|(word, _)| data.source.contains(word)),
            _ => None,
        });
        let spec = with_input_layers(source, None, None)
            .or_else(|_| with_input_layers(source, None, known.map(|(_, shape)| *shape)))?;
        Net::new(spec, &mut NoData, 1)?;
        Ok(())
    }
}

/// Makes batches small, and leaves weights at zero, which takes no time.
fn shrink(net: &mut NetParameter) {
    for layer in &mut net.layer {
        let batches = [
            layer.data_param.as_mut().map(|param| &mut param.batch_size),
            layer.image_data_param.as_mut().map(|param| &mut param.batch_size),
            layer.memory_data_param.as_mut().map(|param| &mut param.batch_size),
            layer.window_data_param.as_mut().map(|param| &mut param.batch_size),
        ];
        for batch_size in batches.into_iter().flatten() {
            *batch_size = batch_size.map(|batch| batch.min(BATCH));
        }
        if let Some(param) = &mut layer.convolution_param {
            param.weight_filler = None;
        }
        if let Some(param) = &mut layer.inner_product_param {
            param.weight_filler = None;
        }
        // Of images alone: the first axis of a recurrent net's inputs is time.
        for shape in layer.input_param.iter_mut().flat_map(|param| &mut param.shape) {
            if let [batch, _, _, _] = &mut shape.dim[..] {
                *batch = (*batch).min(BATCH.into());
            }
        }
    }
}

/// The file of the tree whose path ends most as `named` does; of several, the one beside the solver.
fn find<'a>(named: &str, solver: &Path, files: &'a [PathBuf]) -> Option<&'a Path> {
    let common = |path: &Path| {
        let pairs = path.components().rev().zip(Path::new(named).components().rev());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let rank = |path: &&PathBuf| (common(path), path.parent() == solver.parent());
    let best = files.iter().max_by_key(rank)?;
    (common(best) > 0).then_some(best)
}
