//! Caffe's HDF5 form of weights and solver states: `.caffemodel.h5` and `.solverstate.h5`.
//!
//! | path | what |
//! |---|---|
//! | `/data/<layer>/<i>` | blob `i` of a layer; where layers share a parameter, its owner alone has it |
//! | `/diff/<layer>/<i>` | the blob's gradient, where the solver says `snapshot_diff` |
//! | `/iter`, `/current_step`, `/learned_net`, `/history/<i>` | the fields of a `SolverState` |
//! | `/run_seed`, `/run_sync`, `/worker/<rank>/…` | the fields that a run of several workers adds; Caffe skips them |
//!
//! A layer's name may have slashes in it: it is then a path of groups. Caffe itself fails to write such a file, and skips
//! such layers where it reads one.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use sparknet_hdf5::{Group, NewDataset, NewGroup, Object};

use crate::{
    Error, binary,
    caffe::{BlobProto, BlobShape, LayerParameter, NetParameter, SolverState, WorkerState},
};

/// More blobs than this no layer has: it bounds what a name in a damaged file may ask for.
const MAX_BLOBS_OF_LAYER: usize = 1024;

/// Whether the file at `path` begins as an HDF5 file does; a file that cannot be read does not.
pub fn is_hdf5(path: &Path) -> bool {
    // A pipe can be read only once, and nobody writes HDF5 into one.
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    let mut start = [0; sparknet_hdf5::SIGNATURE.len()];
    is_file
        && File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && start == sparknet_hdf5::SIGNATURE
}

/// Writes a net's weights, and the gradients where its blobs have any, whole or not at all. Blobs without values are
/// left out.
///
/// # Errors
/// Layers' names that HDF5 has no paths for, blobs whose shapes and values differ, and as [`binary::write_bytes_whole`].
pub fn write_weights(path: &Path, net: &NetParameter) -> Result<(), Error> {
    let mut root = NewGroup::default();
    root.group_at("data").map_err(|cause| bad(path, cause.to_string()))?;
    for layer in &net.layer {
        let layer_path = |top: &str| {
            let name = layer.name();
            let is_path = !name.is_empty()
                && name
                    .split('/')
                    .all(|part| !part.is_empty() && part != "." && part != "..");
            if is_path && !name.contains('\0') {
                Ok(format!("{top}/{name}"))
            } else {
                Err(bad(
                    path,
                    format!(
                        "HDF5 has no path for a layer named '{name}': rename the layer, or set snapshot_format BINARYPROTO"
                    ),
                ))
            }
        };
        let twice = |cause: sparknet_hdf5::Error| bad(path, format!("layer '{}': {cause}", layer.name()));
        root.group_at(&layer_path("data")?).map_err(twice)?;
        for (index, blob) in layer.blobs.iter().enumerate() {
            if !blob.data.is_empty() || !blob.double_data.is_empty() {
                let dataset = dataset(path, blob, &blob.data, &blob.double_data)?;
                let place = format!("{}/{index}", layer_path("data")?);
                root.insert(&place, dataset).map_err(twice)?;
            }
            if !blob.diff.is_empty() || !blob.double_diff.is_empty() {
                let dataset = dataset(path, blob, &blob.diff, &blob.double_diff)?;
                let place = format!("{}/{index}", layer_path("diff")?);
                root.insert(&place, dataset).map_err(twice)?;
            }
        }
    }
    write(path, root)
}

/// Writes a solver's state, whole or not at all.
///
/// # Errors
/// As [`write_weights`].
pub fn write_state(path: &Path, state: &SolverState) -> Result<(), Error> {
    let mut root = NewGroup::default();
    insert(&mut root, path, "iter", NewDataset::i32(state.iter()))?;
    insert(&mut root, path, "learned_net", NewDataset::text(state.learned_net()))?;
    insert(&mut root, path, "current_step", NewDataset::i32(state.current_step()))?;
    if let Some(seed) = state.run_seed {
        insert(&mut root, path, "run_seed", NewDataset::i64(seed))?;
    }
    if let Some(sync) = &state.run_sync {
        insert(&mut root, path, "run_sync", NewDataset::text(sync))?;
    }
    add_blobs(&mut root, path, "history", &state.history)?;
    for (rank, worker) in state.worker.iter().enumerate() {
        let place = format!("worker/{rank}");
        root.group_at(&place).map_err(|cause| bad(path, cause.to_string()))?;
        if !worker.history.is_empty() {
            add_blobs(&mut root, path, &format!("{place}/history"), &worker.history)?;
        }
        if !worker.weight.is_empty() {
            add_blobs(&mut root, path, &format!("{place}/weight"), &worker.weight)?;
        }
        let positions = &worker.data_position_batches;
        if !positions.is_empty() {
            let dataset = NewDataset::u64s(positions);
            insert(&mut root, path, &format!("{place}/data_position_batches"), dataset)?;
        }
        if !worker.recent_loss.is_empty() {
            let dataset = NewDataset::f32s(&[worker.recent_loss.len() as u64], &worker.recent_loss);
            insert(&mut root, path, &format!("{place}/recent_loss"), dataset)?;
        }
    }
    write(path, root)
}

/// Reads weights: a net whose layers have names and blobs alone. A blob that the file leaves out before others of its
/// layer is an empty message.
pub(crate) fn read_weights(path: &Path) -> Result<NetParameter, Error> {
    let file = sparknet_hdf5::File::open(path).map_err(|cause| of_file(path, cause))?;
    let root = file.root().map_err(|cause| of_file(path, cause))?;
    let Some(Object::Group(data)) = root.open("data").map_err(|cause| of_file(path, cause))? else {
        let is_state = root.names().any(|name| name == "iter");
        return Err(bad(
            path,
            if is_state {
                "it is a .solverstate.h5: give the .caffemodel.h5 beside it".to_owned()
            } else {
                "it has no group /data, so it holds no weights of Caffe's: give a .caffemodel.h5".to_owned()
            },
        ));
    };
    let mut net = NetParameter::default();
    read_layers(path, &data, "", &mut net.layer)?;
    Ok(net)
}

/// Reads the layers at and below a group, whose place under `/data` is `name`.
fn read_layers(path: &Path, group: &Group<'_>, name: &str, layers: &mut Vec<LayerParameter>) -> Result<(), Error> {
    let mut blobs: Vec<BlobProto> = Vec::new();
    let mut has_groups = false;
    for child in group.names() {
        let place = if name.is_empty() {
            child.to_owned()
        } else {
            format!("{name}/{child}")
        };
        match group.open(child).map_err(|cause| of_file(path, cause))? {
            Some(Object::Group(group)) => {
                has_groups = true;
                read_layers(path, &group, &place, layers)?;
            }
            Some(Object::Dataset(dataset)) => {
                let index = child.parse().ok().filter(|index: &usize| *index < MAX_BLOBS_OF_LAYER);
                let Some(index) = index.filter(|_| !name.is_empty()) else {
                    return Err(bad(
                        path,
                        format!(
                            "/data/{place} is an array where a layer's blobs are named 0, 1, …: give a .caffemodel.h5"
                        ),
                    ));
                };
                if blobs.len() <= index {
                    blobs.resize(index + 1, BlobProto::default());
                }
                blobs[index] = read_blob(path, &dataset)?;
            }
            None => {}
        }
    }
    if !name.is_empty() && (!blobs.is_empty() || !has_groups) {
        layers.push(LayerParameter {
            name: Some(name.to_owned()),
            blobs,
            ..Default::default()
        });
    }
    Ok(())
}

/// Reads a solver's state.
pub(crate) fn read_state(path: &Path) -> Result<SolverState, Error> {
    let file = sparknet_hdf5::File::open(path).map_err(|cause| of_file(path, cause))?;
    let root = file.root().map_err(|cause| of_file(path, cause))?;
    if !["iter", "history"]
        .iter()
        .all(|name| root.names().any(|found| found == *name))
    {
        return Err(bad(
            path,
            "it has no /iter and /history, so it is no solver state: give the .solverstate.h5 beside the \
             .caffemodel.h5"
                .to_owned(),
        ));
    }
    let mut state = SolverState {
        iter: read_integer(path, &root, "iter")?,
        current_step: read_integer(path, &root, "current_step")?,
        learned_net: read_text(path, &root, "learned_net")?,
        run_seed: read_integer(path, &root, "run_seed")?,
        run_sync: read_text(path, &root, "run_sync")?,
        history: read_blobs(path, &root, "history")?,
        worker: Vec::new(),
    };
    for group in read_numbered(path, &root, "worker")? {
        let Object::Group(group) = group else {
            return Err(bad(
                path,
                "/worker holds arrays where there are groups: it is damaged".to_owned(),
            ));
        };
        let mut worker = WorkerState {
            history: read_blobs(path, &group, "history")?,
            weight: read_blobs(path, &group, "weight")?,
            ..Default::default()
        };
        if let Some(Object::Dataset(losses)) = group.open("recent_loss").map_err(|cause| of_file(path, cause))? {
            worker.recent_loss = losses.read_f32().map_err(|cause| of_file(path, cause))?;
        }
        for position in read_integers(path, &group, "data_position_batches")? {
            worker
                .data_position_batches
                .push(fitting(path, "data_position_batches", position)?);
        }
        state.worker.push(worker);
    }
    Ok(state)
}

fn dataset<'a>(path: &Path, blob: &BlobProto, floats: &'a [f32], doubles: &'a [f64]) -> Result<NewDataset<'a>, Error> {
    let legacy = [blob.num, blob.channels, blob.height, blob.width];
    let count = floats.len().max(doubles.len()) as u64;
    let dims: Vec<u64> = match &blob.shape {
        Some(shape) => shape.dim.iter().map(|dim| u64::try_from(*dim).unwrap_or(0)).collect(),
        None if legacy.iter().any(Option::is_some) => legacy
            .iter()
            .map(|dim| u64::try_from(dim.unwrap_or(0)).unwrap_or(0))
            .collect(),
        None => vec![count],
    };
    let product = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    if product != Some(count) || dims.len() > sparknet_hdf5::MAX_AXES {
        return Err(bad(
            path,
            format!("a blob of shape {dims:?} has {count} values: the weights are damaged"),
        ));
    }
    Ok(if doubles.is_empty() {
        NewDataset::f32s(&dims, floats)
    } else {
        NewDataset::f64s(&dims, doubles)
    })
}

fn insert<'a>(root: &mut NewGroup<'a>, path: &Path, place: &str, dataset: NewDataset<'a>) -> Result<(), Error> {
    root.insert(place, dataset)
        .map_err(|cause| bad(path, cause.to_string()))
}

/// Adds a group of blobs, named 0, 1, …
fn add_blobs<'a>(root: &mut NewGroup<'a>, path: &Path, place: &str, blobs: &'a [BlobProto]) -> Result<(), Error> {
    root.group_at(place).map_err(|cause| bad(path, cause.to_string()))?;
    for (index, blob) in blobs.iter().enumerate() {
        let dataset = dataset(path, blob, &blob.data, &blob.double_data)?;
        insert(root, path, &format!("{place}/{index}"), dataset)?;
    }
    Ok(())
}

fn write(path: &Path, root: NewGroup<'_>) -> Result<(), Error> {
    binary::write_whole_with(path, |out| root.write(out))
}

fn read_blob(path: &Path, dataset: &sparknet_hdf5::Dataset<'_>) -> Result<BlobProto, Error> {
    Ok(BlobProto {
        shape: Some(BlobShape {
            // Dataset's readers refuse arrays that are larger than any i64.
            dim: dataset.dims().iter().map(|dim| *dim as i64).collect(),
        }),
        data: dataset.read_f32().map_err(|cause| of_file(path, cause))?,
        ..Default::default()
    })
}

/// The members of the group `name`, which are named 0, 1, …; none where there is no such group.
fn read_numbered<'f>(path: &Path, group: &Group<'f>, name: &str) -> Result<Vec<Object<'f>>, Error> {
    let group = match group.open(name).map_err(|cause| of_file(path, cause))? {
        Some(Object::Group(group)) => group,
        Some(Object::Dataset(_)) => {
            return Err(bad(
                path,
                format!("/{name} is an array where there is a group: it is damaged"),
            ));
        }
        None => return Ok(Vec::new()),
    };
    let count = group.names().count();
    let mut members = Vec::with_capacity(count);
    for index in 0..count {
        match group.open(&index.to_string()).map_err(|cause| of_file(path, cause))? {
            Some(member) => members.push(member),
            None => {
                return Err(bad(
                    path,
                    format!("/{name} has {count} members, but none named {index}: it is damaged"),
                ));
            }
        }
    }
    Ok(members)
}

fn read_blobs(path: &Path, group: &Group<'_>, name: &str) -> Result<Vec<BlobProto>, Error> {
    let members = read_numbered(path, group, name)?;
    let blobs = members.iter().map(|member| match member {
        Object::Dataset(dataset) => read_blob(path, dataset),
        Object::Group(_) => Err(bad(
            path,
            format!("/{name} holds groups where there are arrays: it is damaged"),
        )),
    });
    blobs.collect()
}

fn read_integers(path: &Path, group: &Group<'_>, name: &str) -> Result<Vec<i64>, Error> {
    match group.open(name).map_err(|cause| of_file(path, cause))? {
        Some(Object::Dataset(dataset)) => dataset.read_i64().map_err(|cause| of_file(path, cause)),
        Some(Object::Group(_)) => Err(bad(
            path,
            format!("/{name} is a group where there is a number: it is damaged"),
        )),
        None => Ok(Vec::new()),
    }
}

fn read_integer<T: TryFrom<i64>>(path: &Path, group: &Group<'_>, name: &str) -> Result<Option<T>, Error> {
    let value = read_integers(path, group, name)?.first().copied();
    value.map(|value| fitting(path, name, value)).transpose()
}

fn fitting<T: TryFrom<i64>>(path: &Path, name: &str, value: i64) -> Result<T, Error> {
    T::try_from(value).map_err(|_| bad(path, format!("/{name} is {value}: it is damaged")))
}

fn read_text(path: &Path, group: &Group<'_>, name: &str) -> Result<Option<String>, Error> {
    match group.open(name).map_err(|cause| of_file(path, cause))? {
        Some(Object::Dataset(dataset)) => dataset.read_text().map(Some).map_err(|cause| of_file(path, cause)),
        Some(Object::Group(_)) => Err(bad(
            path,
            format!("/{name} is a group where there is a text: it is damaged"),
        )),
        None => Ok(None),
    }
}

fn bad(path: &Path, fact: String) -> Error {
    Error::Hdf5 {
        path: path.to_owned(),
        fact,
    }
}

fn of_file(path: &Path, source: sparknet_hdf5::Error) -> Error {
    match source {
        sparknet_hdf5::Error::Read(source) => Error::Read {
            path: path.to_owned(),
            source,
        },
        other => bad(path, other.to_string()),
    }
}
