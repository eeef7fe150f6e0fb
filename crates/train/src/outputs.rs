//! The files that a net's HDF5Output layers write.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sparknet_data::Hdf5RowsWriter;
use sparknet_engine::{Net, Shape, layer::RowSink, spec::LayerKind};

use crate::Error;

/// The writers of a net's HDF5Output layers; rows reach them in every forward pass. A train net's file is there when its
/// run is over (of a run that was taken up: the rows since then), a test net's after each test.
#[derive(Default)]
pub struct Outputs {
    writers: Vec<Arc<Mutex<Hdf5RowsWriter>>>,
}

struct Sink(Arc<Mutex<Hdf5RowsWriter>>);

impl RowSink for Sink {
    fn take(&mut self, bottoms: [(&Shape, &[f32]); 2]) -> Result<(), String> {
        lock(&self.0)
            .add(bottoms.map(|(shape, values)| (shape.dims(), values)))
            .map_err(|error| error.to_string())
    }
}

impl Outputs {
    /// Connects a net's HDF5Output layers with their files, which exist once [`Outputs::finish`] is called. `taken` are
    /// the files that other nets of this run write; the net's are added.
    ///
    /// # Errors
    /// A file that cannot be written, or that somebody else writes; more than one worker, which would write it each.
    pub fn open(net: &mut Net, world: usize, taken: &mut Vec<PathBuf>) -> Result<Self, Error> {
        let mut writers = Vec::new();
        for index in 0..net.spec().layers.len() {
            let layer = &net.spec().layers[index];
            let LayerKind::Hdf5Output(output) = &layer.kind else {
                continue;
            };
            let error = |fact: String| Error::Feed {
                layer: layer.name.clone(),
                fact,
            };
            let path = PathBuf::from(&output.file_name);
            if taken.contains(&path) {
                return Err(error(format!(
                    "another HDF5Output layer of this run, or the same in another phase, writes {} too: give each a file \
                     of its own, or the layer an include rule",
                    path.display()
                )));
            }
            if world > 1 {
                return Err(error(format!(
                    "an HDF5Output layer writes one file, and there are {world} workers: give --workers 1, or exclude the \
                     layer"
                )));
            }
            let writer = Arc::new(Mutex::new(Hdf5RowsWriter::create(&path)?));
            taken.push(path);
            net.set_row_sink(index, Box::new(Sink(writer.clone())));
            writers.push(writer);
        }
        Ok(Self { writers })
    }

    /// Writes the files, each whole or not at all, with the rows that have come since the last time. A file that no row
    /// has come for is not written.
    ///
    /// # Errors
    /// A file that cannot be written; it is then as it was before.
    pub fn finish(&self) -> Result<(), Error> {
        self.writers.iter().try_for_each(|writer| Ok(lock(writer).finish()?))
    }

    /// Forgets rows that are not in a file yet: those of a pass that nobody finished.
    ///
    /// # Errors
    /// Temporary files that cannot be emptied.
    pub fn restart(&self) -> Result<(), Error> {
        self.writers.iter().try_for_each(|writer| Ok(lock(writer).restart()?))
    }
}

/// A writer whose user panicked ends with its run all the same.
fn lock(writer: &Mutex<Hdf5RowsWriter>) -> MutexGuard<'_, Hdf5RowsWriter> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}
