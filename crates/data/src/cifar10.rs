//! CIFAR-10's binary format: records of a label and 3×32×32 bytes, planar, one after the other.

use std::path::{Path, PathBuf};

use crate::DataError;
use crate::record::Record;
use crate::source::Source;

const SHAPE: [usize; 3] = [3, 32, 32];
const RECORD_LENGTH: usize = 1 + 3 * 32 * 32;

/// The records of one or several `.bin` files; keys `%05d` as in Caffe's CIFAR converter.
pub struct Cifar10Source {
    path: PathBuf,
    bytes: Vec<u8>,
    index: u64,
}

impl Cifar10Source {
    /// Opens one `.bin` file, or the folder with the five `data_batch_<i>.bin` of the training set.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            let files: Vec<_> = (1..=5)
                .map(|batch| path.join(format!("data_batch_{batch}.bin")))
                .collect();
            return Self::open_files(&files);
        }
        Self::open_files(&[path.to_path_buf()])
    }

    /// Opens several `.bin` files as one source, in this order.
    ///
    /// # Errors
    /// A file that is no whole number of records, a label above 9.
    pub fn open_files(files: &[PathBuf]) -> Result<Self, DataError> {
        let read = |file: &PathBuf| std::fs::read(file).map_err(|cause| DataError::io("read", file, cause));
        let parts: Vec<_> = files.iter().map(read).collect::<Result<_, _>>()?;
        files
            .iter()
            .zip(&parts)
            .try_for_each(|(file, part)| check(file, part))?;
        Ok(Self {
            path: files.first().cloned().unwrap_or_default(),
            bytes: parts.concat(),
            index: 0,
        })
    }

    /// The contents of several `.bin` files from the archive `path`.
    pub(crate) fn from_parts(path: &Path, parts: Vec<Vec<u8>>) -> Result<Self, DataError> {
        parts.iter().try_for_each(|part| check(path, part))?;
        Ok(Self {
            path: path.to_path_buf(),
            bytes: parts.concat(),
            index: 0,
        })
    }
}

fn check(file: &Path, content: &[u8]) -> Result<(), DataError> {
    if !content.len().is_multiple_of(RECORD_LENGTH) {
        let detail = format!(
            "its {} bytes are no whole number of {RECORD_LENGTH}-byte records",
            content.len()
        );
        return Err(DataError::corrupt(file, detail));
    }
    if let Some(label) = content.iter().step_by(RECORD_LENGTH).find(|&&label| label > 9) {
        return Err(DataError::corrupt(
            file,
            format!("it has the label {label}, but CIFAR-10 has 0 to 9"),
        ));
    }
    Ok(())
}

impl Source for Cifar10Source {
    fn len_records(&self) -> u64 {
        (self.bytes.len() / RECORD_LENGTH) as u64
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.index = index;
        Ok(())
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        let Some(bytes) = self.bytes.chunks_exact(RECORD_LENGTH).nth(self.index as usize) else {
            let detail = format!(
                "record {} was asked for, but there are {}",
                self.index,
                self.len_records()
            );
            return Err(DataError::corrupt(&self.path, detail));
        };
        record.set_bytes(&format!("{:05}", self.index), SHAPE, i32::from(bytes[0]), &bytes[1..]);
        self.index += 1;
        Ok(())
    }
}
