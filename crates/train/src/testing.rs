//! A test of trained weights by several workers in this process.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sparknet_engine::Net;
use sparknet_proto::{caffe::NetParameter, read_weights};
use sparknet_sync::{InProcess, Transport};

use crate::{
    Error,
    job::NetSource,
    run::on_workers,
    tester::{TestResult, Tester},
};

/// What is tested, and by how many.
#[derive(Clone, Debug)]
pub struct TestSettings {
    /// The net, in phase TEST.
    pub net: NetSource,
    /// Files to take weights from; where two have a layer, the later one's count.
    pub weights: Vec<PathBuf>,
    /// Batches of all workers together; `None` for every record once.
    pub max_batches: Option<u64>,
    /// The number of workers.
    pub workers: usize,
    /// Threads of all workers together; `None` for one a core.
    pub threads: Option<usize>,
    /// How long a worker waits for another before the test ends.
    pub sync_timeout: Duration,
}

/// Tests with all workers; `progress` hears from any of them how many records all have seen.
///
/// # Errors
/// A net, data or weights that are wrong, and layers with parameters that none of the files has weights for.
pub fn test(settings: &TestSettings, progress: &(dyn Fn(u64) + Sync)) -> Result<TestResult, Error> {
    let weights = settings
        .weights
        .iter()
        .map(|path| read_weights(path))
        .collect::<Result<Vec<_>, _>>()?;
    let seen_records = AtomicU64::new(0);
    on_workers(
        settings.workers,
        settings.threads,
        settings.sync_timeout,
        |mut transport| {
            let result = test_part(settings, &weights, &mut transport, &seen_records, progress);
            if let Err(error) = &result
                && !error.is_from_a_peer()
            {
                transport.abort(&error.to_string());
            }
            result
        },
    )
}

fn test_part(
    settings: &TestSettings,
    weights: &[NetParameter],
    transport: &mut InProcess,
    seen_records: &AtomicU64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<TestResult, Error> {
    let (rank, world) = (transport.rank(), transport.world());
    // Nothing in a test is random that ends up in the result: the seed only fills what the weights overwrite.
    let seed = 1;
    let mut tester = Tester::new(&settings.net, settings.max_batches, rank, world, seed, None, None)?;
    tester.write_outputs(&mut Vec::new())?;
    for message in weights {
        tester.net_mut().copy_weights_from(message)?;
    }
    check_all_trained(tester.net_mut(), weights, &settings.weights)?;
    let mut mine = 0;
    let mut count = |seen: u64| {
        let new = seen - mine;
        mine = seen;
        progress(seen_records.fetch_add(new, Ordering::Relaxed) + new);
    };
    tester.run(None, transport, &mut count)
}

/// Caffe tests layers that no file has weights for with what their fillers made, and says nothing.
pub(crate) fn check_all_trained(net: &Net, weights: &[NetParameter], paths: &[PathBuf]) -> Result<(), Error> {
    let mut trained: HashSet<usize> = HashSet::new();
    for (index, layer) in net.spec().layers.iter().enumerate() {
        let sources = weights.iter().flat_map(|message| &message.layer);
        for source in sources.filter(|source| source.name() == layer.name) {
            let blobs = source.blobs.iter().zip(net.layer_params(index));
            // HDF5 files leave the values of shared parameters out where another layer owns them.
            let with_values = blobs.filter(|(blob, _)| !blob.data.is_empty() || !blob.double_data.is_empty());
            trained.extend(with_values.map(|(_, id)| *id));
        }
    }
    let Some(untrained) = (0..net.params().len()).find(|id| !trained.contains(id)) else {
        return Ok(());
    };
    let layer = &net.spec().layers[net.params()[untrained].layer].name;
    let path = paths.last().cloned().unwrap_or_default();
    Err(Error::Path {
        path,
        fact: format!("no weights for layer '{layer}' of the net: give the weights of this net"),
    })
}
