//! Reads the files of `golden/`, builds their nets and compares tensors with Caffe's.
#![allow(dead_code)] // Every test binary uses a part of it.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use sparknet_engine::{Error, Net, NetSpec, NetState, Phase, Shape, SpecError, net::NoData};
use sparknet_proto::{caffe::NetParameter, text, upgrade};

/// One file: its metadata and its tensors by name.
pub struct Case {
    pub name: String,
    pub metadata: HashMap<String, String>,
    pub tensors: BTreeMap<String, Tensor>,
}

pub struct Tensor {
    pub shape: Shape,
    pub values: Vec<f32>,
}

/// Why a case could not be run.
pub struct Failed(pub String);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<SpecError> for Failed {
    fn from(error: SpecError) -> Self {
        Error::from(error).into()
    }
}

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of golden files: the project's, or the one that SPARKNET_GOLDEN names.
pub fn golden() -> PathBuf {
    project().join(env::var_os("SPARKNET_GOLDEN").unwrap_or("golden".into()))
}

/// Runs every case of a folder of golden files; panics with all that differ.
pub fn run_all(folder: &str, run: impl Fn(&Case) -> Result<Vec<String>, Failed>) {
    let folder = golden().join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    assert!(!paths.is_empty(), "no .safetensors in {}", folder.display());

    let (mut ran, mut wrong) = (0, Vec::new());
    for path in &paths {
        let case = read(path);
        match run(&case) {
            Ok(differences) => {
                ran += 1;
                wrong.extend(
                    differences
                        .iter()
                        .map(|difference| format!("{}: {difference}", case.name)),
                );
            }
            Err(Failed(error)) => wrong.push(format!("{}: {error}", case.name)),
        }
    }
    println!("{}: {ran} of {} cases ran", folder.display(), paths.len());
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ran > 0, "no case of {} ran", folder.display());
}

/// The file at `path`.
pub fn read(path: &Path) -> Case {
    let bytes = fs::read(path).unwrap();
    let fail = |error: safetensors::SafeTensorError| -> ! { panic!("{}: {error}", path.display()) };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|error| fail(error));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| fail(error));
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        assert_eq!(view.dtype(), Dtype::F32, "{}: {name}", path.display());
        let values = view.data().chunks_exact(4);
        let values = values
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let shape = Shape::new(view.shape());
        (name, Tensor { shape, values })
    });
    Case {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        metadata: metadata.metadata().clone().unwrap_or_default(),
        tensors: tensors.collect(),
    }
}

impl Case {
    pub fn metadata(&self, key: &str) -> Result<&str, Failed> {
        let value = self.metadata.get(key);
        value
            .map(String::as_str)
            .ok_or_else(|| Failed(format!("its metadata have no '{key}'")))
    }

    /// The tensors `<prefix>/<rest>`, by the rest.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.tensors
            .iter()
            .filter_map(move |(name, tensor)| Some((name.strip_prefix(prefix)?.strip_prefix('/')?, tensor)))
    }

    /// The phase of the metadata.
    pub fn phase(&self) -> Result<Phase, Failed> {
        match self.metadata("phase")? {
            "TRAIN" => Ok(Phase::Train),
            "TEST" => Ok(Phase::Test),
            other => Err(Failed(format!("phase {other} does not exist"))),
        }
    }

    /// The net of the metadata `key`.
    pub fn net(&self, key: &str, phase: Phase) -> Result<Net, Failed> {
        let message: NetParameter =
            text::parse(&self.name, self.metadata(key)?).map_err(|error| Failed(error.to_string()))?;
        let message = upgrade::net(message).map_err(|error| Failed(error.to_string()))?;
        let spec = NetSpec::from_proto(&message, NetState::new(phase).merge(message.state.as_ref()))?;
        Ok(Net::new(spec, &mut NoData, 1)?)
    }
}

/// Where parameter `<layer>/<i>` lies in the arenas.
pub fn param_range(net: &Net, name: &str) -> Result<std::ops::Range<usize>, Failed> {
    let find = || {
        let (layer, index) = name.rsplit_once('/')?;
        let layer = net.spec().layers.iter().position(|spec| spec.name == layer)?;
        let id = net.layer_params(layer).get(index.parse::<usize>().ok()?)?;
        Some(net.params()[*id].range.clone())
    };
    find().ok_or_else(|| Failed(format!("the net has no parameter {name}")))
}

/// Copies a tensor to where it belongs.
pub fn fill(target: &mut [f32], tensor: &Tensor, what: &str) -> Result<(), Failed> {
    if target.len() != tensor.values.len() {
        let (found, shape) = (target.len(), &tensor.shape);
        return Err(Failed(format!("{what} has {found} values, not {shape}")));
    }
    target.copy_from_slice(&tensor.values);
    Ok(())
}

/// How `found` differs from `expected` by more than `tolerance` of the largest magnitude in `expected`.
///
/// A tensor that is zero in exact arithmetic (a bias' gradient before BatchNorm) holds rounding noise whose size the
/// largest magnitude does not tell: differences below float32's epsilon pass.
pub fn difference(what: &str, found: &[f32], expected: &[f32], tolerance: f32) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{what} has {} values, not {}", found.len(), expected.len()));
    }
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let allowed = (tolerance * largest).max(f32::EPSILON);
    // Written so that a NaN differs from everything but a NaN.
    let differs =
        |found: f32, expected: f32| !((found - expected).abs() <= allowed || found.is_nan() && expected.is_nan());
    let mut wrong = (0..found.len()).filter(|i| differs(found[*i], expected[*i]));
    let first = wrong.next()?;
    Some(format!(
        "{what}[{first}] is {}, not {} (allowed {allowed:e}), and so {} more of {}",
        found[first],
        expected[first],
        wrong.count(),
        found.len()
    ))
}
