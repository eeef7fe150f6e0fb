//! HDF5 files of arrays, as Caffe's HDF5Data layer reads them: a list names the files, each file has the same arrays, and
//! row i of all arrays together is record i.

use std::fs;
use std::path::{Path, PathBuf};

use sparknet_hdf5::{Dataset, File, Object};

use crate::DataError;
use crate::random::{Draw, draw};
use crate::record::{Pixels, Record};
use crate::source::Source;

/// More bytes than this no list of files has.
const MAX_LIST_BYTES: u64 = 1 << 26;

/// The rows of all files that a list names. The arrays of one file at a time are in memory.
pub struct Hdf5Source {
    files: Vec<ListedFile>,
    arrays: Vec<String>,
    /// Each array's shape without the rows.
    row_shapes: Vec<Vec<usize>>,
    row_lengths: Vec<usize>,
    len_records: u64,
    /// The seed of the order; `None` for that of the files.
    shuffle_seed: Option<u64>,
    epoch: u64,
    next: u64,
    order: Order,
    /// The file in memory, by its place in the list, with its arrays.
    loaded: Option<(usize, Vec<Vec<f32>>)>,
}

struct ListedFile {
    path: PathBuf,
    rows: u64,
}

/// The order of one pass.
#[derive(Default)]
struct Order {
    /// Files in order, by their places in the list.
    files: Vec<usize>,
    /// The first record of each file in that order.
    first_records: Vec<u64>,
    /// The file whose rows are in order, and their order; none without a shuffle.
    rows: Option<(usize, Vec<u64>)>,
}

impl Hdf5Source {
    /// Opens the files that `list` names, one a line; a path that does not exist is looked for in the list's folder.
    /// `arrays` are the datasets of a record. With a seed, every pass shuffles the files, and the rows within each
    /// file, as Caffe does.
    ///
    /// # Errors
    /// A list or file that cannot be read, a file without one of the arrays, arrays of one file with different numbers
    /// of rows, files whose rows have different shapes.
    pub fn open(list: &Path, arrays: &[String], shuffle_seed: Option<u64>) -> Result<Self, DataError> {
        let mut source = Self {
            files: Vec::new(),
            arrays: arrays.to_vec(),
            row_shapes: Vec::new(),
            row_lengths: Vec::new(),
            len_records: 0,
            shuffle_seed,
            epoch: 0,
            next: 0,
            order: Order::default(),
            loaded: None,
        };
        for path in read_list(list)? {
            source.add(path)?;
        }
        if source.len_records == 0 {
            return Err(DataError::Empty(list.to_path_buf()));
        }
        source.begin_epoch(0);
        Ok(source)
    }

    /// The shape of a row of each array.
    pub fn row_shapes(&self) -> &[Vec<usize>] {
        &self.row_shapes
    }

    /// Looks at a file's arrays, without reading their values.
    fn add(&mut self, path: PathBuf) -> Result<(), DataError> {
        let wrong = |detail: String| DataError::Hdf5 {
            path: path.clone(),
            detail,
        };
        let file = open(&path)?;
        let mut file_rows = None;
        let mut row_shapes = Vec::new();
        for name in &self.arrays {
            let dataset = find(&file, &path, name)?;
            let Some((&rows, shape)) = dataset.dims().split_first() else {
                return Err(wrong(format!(
                    "its dataset '{name}' is a single value: make it an array of rows"
                )));
            };
            if *file_rows.get_or_insert(rows) != rows {
                return Err(wrong(format!(
                    "its dataset '{name}' has {rows} rows and '{}' has {}: give all the same number",
                    self.arrays[0],
                    file_rows.unwrap_or(0)
                )));
            }
            let mut row_shape = Vec::with_capacity(shape.len());
            for &size in shape {
                row_shape.push(usize::try_from(size).map_err(|_| wrong(format!("its dataset '{name}' is too large")))?);
            }
            row_shapes.push(row_shape);
        }
        if self.files.is_empty() {
            for (shape, name) in row_shapes.iter().zip(&self.arrays) {
                let length = shape.iter().try_fold(1usize, |length, &size| length.checked_mul(size));
                let Some(length) = length.filter(|&length| length > 0) else {
                    return Err(wrong(format!(
                        "a row of its dataset '{name}' has no values: make the file again"
                    )));
                };
                self.row_lengths.push(length);
            }
            self.row_shapes = row_shapes;
        } else if let Some(i) = (0..row_shapes.len()).find(|&i| row_shapes[i] != self.row_shapes[i]) {
            return Err(wrong(format!(
                "a row of its dataset '{}' has shape {:?}, and {:?} in {}: give all files rows of one shape",
                self.arrays[i],
                row_shapes[i],
                self.row_shapes[i],
                self.files[0].path.display()
            )));
        }
        let rows = file_rows.unwrap_or(0);
        self.len_records = self
            .len_records
            .checked_add(rows)
            .ok_or_else(|| wrong("its header says more rows than a disk holds".to_owned()))?;
        self.files.push(ListedFile { path, rows });
        Ok(())
    }

    /// The file and row of the record at the cursor.
    fn locate(&mut self) -> Option<(usize, u64)> {
        if self.next >= self.len_records {
            return None;
        }
        // The last file that begins at or before the record; files without rows begin where the next one does.
        let place = self.order.first_records.partition_point(|&first| first <= self.next) - 1;
        let (file, row) = (self.order.files[place], self.next - self.order.first_records[place]);
        let Some(seed) = self.shuffle_seed else {
            return Some((file, row));
        };
        if self.order.rows.as_ref().is_none_or(|(ordered, _)| *ordered != file) {
            let key = draw(seed, self.epoch, Draw::Shuffle, u64::MAX);
            let rows = shuffled(
                self.files[file].rows,
                draw(key, file as u64 + 1, Draw::Shuffle, u64::MAX),
            );
            self.order.rows = Some((file, rows));
        }
        self.order.rows.as_ref().map(|(_, rows)| (file, rows[row as usize]))
    }

    /// Reads a file's arrays into memory, if they are not there.
    fn load(&mut self, file: usize) -> Result<(), DataError> {
        if self.loaded.as_ref().is_some_and(|(loaded, _)| *loaded == file) {
            return Ok(());
        }
        // The old arrays go first: two files at once may be more than fits.
        self.loaded = None;
        let ListedFile { path, rows } = &self.files[file];
        let opened = open(path)?;
        let mut arrays = Vec::with_capacity(self.arrays.len());
        for (name, length) in self.arrays.iter().zip(&self.row_lengths) {
            let dataset = find(&opened, path, name)?;
            let values = dataset.read_f32().map_err(|cause| of_file(path, cause))?;
            if values.len() as u64 != rows * *length as u64 {
                return Err(DataError::Hdf5 {
                    path: path.clone(),
                    detail: format!(
                        "its dataset '{name}' has changed since it was opened: leave it alone while it is read"
                    ),
                });
            }
            arrays.push(values);
        }
        self.loaded = Some((file, arrays));
        Ok(())
    }
}

impl Source for Hdf5Source {
    fn len_records(&self) -> u64 {
        self.len_records
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.next = index;
        Ok(())
    }

    fn array_lengths(&self) -> &[usize] {
        &self.row_lengths
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        let files = self.files.len() as u64;
        let places = match self.shuffle_seed {
            Some(seed) => shuffled(files, draw(seed, epoch, Draw::Shuffle, u64::MAX)),
            None => (0..files).collect(),
        };
        self.order.files = places.iter().map(|&place| place as usize).collect();
        self.order.first_records.clear();
        self.order.rows = None;
        let mut first = 0;
        for &file in &self.order.files {
            self.order.first_records.push(first);
            first += self.files[file].rows;
        }
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        record.key.clear();
        record.key.extend_from_slice(self.next.to_string().as_bytes());
        let Some((file, row)) = self.locate() else {
            let path = &self.files[self.files.len() - 1].path;
            return Err(DataError::bad_record(path, &record.key, "is behind the last one"));
        };
        self.load(file)?;
        record.arrays.clear();
        if let Some((_, arrays)) = &self.loaded {
            for (array, length) in arrays.iter().zip(&self.row_lengths) {
                let start = row as usize * length;
                record.arrays.extend_from_slice(&array[start..start + length]);
            }
        }
        [record.channels, record.height, record.width] = [0; 3];
        record.pixels = Pixels::Bytes(Vec::new());
        record.label = 0;
        record.float_label = None;
        self.next += 1;
        Ok(())
    }
}

/// The numbers below `count` in a random order (Fisher and Yates' shuffle).
fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last as usize, draw(seed, last, Draw::Shuffle, last + 1) as usize);
    }
    order
}

/// The files that a list names.
fn read_list(list: &Path) -> Result<Vec<PathBuf>, DataError> {
    let metadata = fs::metadata(list).map_err(|cause| DataError::io("read", list, cause))?;
    let is_list = metadata.is_file() && metadata.len() <= MAX_LIST_BYTES;
    let bytes = if is_list {
        fs::read(list).map_err(|cause| DataError::io("read", list, cause))?
    } else {
        Vec::new()
    };
    let is_hdf5 = bytes.starts_with(&sparknet_hdf5::SIGNATURE);
    let text = String::from_utf8(bytes).ok().filter(|_| is_list && !is_hdf5);
    let Some(text) = text else {
        return Err(DataError::Hdf5 {
            path: list.to_path_buf(),
            detail: if is_hdf5 {
                "it is an HDF5 file itself: give a text file with its path in a line".to_owned()
            } else {
                "it is no list of files: give a text file with the path of an HDF5 file in each line".to_owned()
            },
        });
    };
    let folder = list.parent().unwrap_or(Path::new(""));
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let paths: Vec<PathBuf> = names
        .map(|name| {
            let here = PathBuf::from(name);
            let beside = folder.join(name);
            if !here.exists() && beside.exists() {
                beside
            } else {
                here
            }
        })
        .collect();
    if paths.is_empty() {
        return Err(DataError::Hdf5 {
            path: list.to_path_buf(),
            detail: "it names no file: give the path of an HDF5 file in each line".to_owned(),
        });
    }
    Ok(paths)
}

fn open(path: &Path) -> Result<File, DataError> {
    File::open(path).map_err(|cause| of_file(path, cause))
}

fn find<'f>(file: &'f File, path: &Path, name: &str) -> Result<Dataset<'f>, DataError> {
    let root = file.root().map_err(|cause| of_file(path, cause))?;
    match root.open(name).map_err(|cause| of_file(path, cause))? {
        Some(Object::Dataset(dataset)) => Ok(dataset),
        found => {
            let names: Vec<&str> = root.names().take(20).collect();
            let what = if found.is_some() {
                "is a group"
            } else {
                "does not exist"
            };
            Err(DataError::Hdf5 {
                path: path.to_path_buf(),
                detail: format!(
                    "its dataset '{name}' {what}, and a top of the layer has that name: it has {}",
                    names.join(", ")
                ),
            })
        }
    }
}

fn of_file(path: &Path, cause: sparknet_hdf5::Error) -> DataError {
    match cause {
        sparknet_hdf5::Error::Read(cause) => DataError::io("read", path, cause),
        other => DataError::Hdf5 {
            path: path.to_path_buf(),
            detail: other.to_string(),
        },
    }
}
