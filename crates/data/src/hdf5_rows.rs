//! Writes rows that come batch by batch to an HDF5 file with datasets `data` and `label`, as Caffe's HDF5Output layer
//! does with its first batch.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sparknet_hdf5::{NewDataset, NewGroup};
use sparknet_proto::binary;

use crate::DataError;
use crate::rows::unnamed_file;

/// The datasets' names.
const NAMES: [&str; 2] = ["data", "label"];

/// Collects rows. The file itself is written by [`Hdf5RowsWriter::finish`], whole or not at all: until then the rows lie
/// in files without names beside it, which go with the process.
pub struct Hdf5RowsWriter {
    path: PathBuf,
    spills: [BufWriter<File>; 2],
    /// The shapes of the first batch without their rows.
    row_shapes: Option<[Vec<u64>; 2]>,
    rows: u64,
}

impl Hdf5RowsWriter {
    /// A writer of the file `path`.
    ///
    /// # Errors
    /// A folder that is missing or may not be written, or a path that no file can have.
    pub fn create(path: &Path) -> Result<Self, DataError> {
        binary::check_writable(path)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        Ok(Self {
            path: path.to_path_buf(),
            spills: [
                BufWriter::new(unnamed_file(folder)?),
                BufWriter::new(unnamed_file(folder)?),
            ],
            row_shapes: None,
            rows: 0,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the rows of a batch: two blobs, each with its extents `(rows, …)`, of which the first is that of both.
    ///
    /// # Errors
    /// Rows of another shape than those before, a full disk.
    pub fn add(&mut self, blobs: [(&[usize], &[f32]); 2]) -> Result<(), DataError> {
        let row_shape = |dims: &[usize]| dims.iter().skip(1).map(|&dim| dim as u64).collect::<Vec<_>>();
        let row_shapes = blobs.map(|(dims, _)| row_shape(dims));
        let first = self.row_shapes.get_or_insert_with(|| row_shapes.clone());
        if *first != row_shapes {
            return Err(DataError::Hdf5 {
                path: self.path.clone(),
                detail: format!(
                    "rows of shapes {:?} and {:?} come after rows of {:?} and {:?}: write them to files of their own",
                    row_shapes[0], row_shapes[1], first[0], first[1]
                ),
            });
        }
        for (spill, (_, values)) in self.spills.iter_mut().zip(blobs) {
            for value in values {
                spill
                    .write_all(&value.to_le_bytes())
                    .map_err(|cause| DataError::io("write", &self.path, cause))?;
            }
        }
        self.rows += blobs[0].0.first().map_or(0, |&rows| rows as u64);
        Ok(())
    }

    /// Writes the file and begins anew, for the rows of another. Without rows nothing is written.
    ///
    /// # Errors
    /// A file that cannot be written; it is then as it was before.
    pub fn finish(&mut self) -> Result<(), DataError> {
        let Some(row_shapes) = self.row_shapes.take() else {
            return Ok(());
        };
        let rows = std::mem::take(&mut self.rows);
        let mut root = NewGroup::default();
        for ((name, spill), shape) in NAMES.iter().zip(&mut self.spills).zip(&row_shapes) {
            spill
                .flush()
                .map_err(|cause| DataError::io("write", &self.path, cause))?;
            // Caffe's blobs are written with four axes at least.
            let mut dims = vec![rows];
            dims.extend(shape);
            dims.resize(dims.len().max(4), 1);
            let values = Spilled {
                file: spill.get_ref(),
                offset: 0,
            };
            root.insert(name, NewDataset::f32_stream(&dims, Box::new(values)))
                .map_err(|cause| DataError::Hdf5 {
                    path: self.path.clone(),
                    detail: cause.to_string(),
                })?;
        }
        binary::write_whole_with(&self.path, |out| root.write(out))?;
        self.restart()
    }

    /// Forgets the rows that came since the last file.
    ///
    /// # Errors
    /// The operating system refuses to cut a file.
    pub fn restart(&mut self) -> Result<(), DataError> {
        self.row_shapes = None;
        self.rows = 0;
        for spill in &mut self.spills {
            spill
                .rewind()
                .and_then(|()| spill.get_ref().set_len(0))
                .map_err(|cause| DataError::io("write", &self.path, cause))?;
        }
        Ok(())
    }
}

/// A spill file from its beginning, wherever its cursor is.
struct Spilled<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Spilled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
