//! Records that a program hands over, such as the rows of a DataFrame: kept in memory up to a limit, then in a file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DataError;
use crate::decode::{ColorMode, decode_image};
use crate::record::{Pixels, Record};
use crate::source::Source;

/// What every row has to be, and where rows go.
#[derive(Debug, Clone)]
pub struct RowRules {
    /// What the rows are called in errors, e.g. `the DataFrame`.
    pub name: String,
    /// The shape `(c, h, w)` of rows that do not say their own; `None` takes a row of n values for `(n, 1, 1)`.
    pub shape: Option<[usize; 3]>,
    /// What encoded images are decoded to.
    pub color: ColorMode,
    /// `transform_param`'s crop: images of at least this edge may then differ in size; 0 for none.
    pub crop_size: usize,
    /// How many numbers each row has beside its values and its label, for layers with more tops than those two.
    pub numbers: usize,
    /// Whether bad rows are counted and left out, instead of ending the intake.
    pub skip_bad: bool,
    /// Bytes of values that stay in memory; beyond that, all go to a file.
    pub memory_limit_bytes: usize,
    /// The folder of that file, which has no name there and goes with the process.
    pub spill_folder: PathBuf,
}

/// One row's values as they come in.
#[derive(Debug, Clone, Copy)]
pub enum RowValues<'a> {
    /// One float a value, planar `(c, h, w)`.
    Floats(&'a [f32]),
    /// A JPEG or PNG file, or else one byte a value, planar `(c, h, w)`.
    Bytes(&'a [u8]),
    /// One byte a value, interleaved `(h, w, c)`, of this shape `(c, h, w)`: Spark's image schema.
    Interleaved(&'a [u8], [usize; 3]),
    /// No values: the row has a null.
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Bytes,
    Floats,
    Encoded,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    length_bytes: usize,
    kind: Kind,
    shape: [usize; 3],
    label: f32,
}

/// Takes rows in; [`finish`](RowsWriter::finish) makes them [`Rows`].
#[derive(Debug)]
pub struct RowsWriter {
    rules: RowRules,
    entries: Vec<Entry>,
    /// Those of all rows, one row after the other.
    numbers: Vec<f32>,
    memory: Vec<u8>,
    spill: Option<File>,
    length_bytes: u64,
    /// The shape that the first row had after decoding.
    shape: Option<[usize; 3]>,
    seen_rows: u64,
    bad_rows: u64,
    first_bad: Option<String>,
    /// What the last good row held.
    last: Vec<u8>,
    repeats: u64,
}

/// Rows that have been taken in: a source as often as needed.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    entries: Vec<Entry>,
    numbers: Vec<f32>,
    numbers_per_row: usize,
    memory: Vec<u8>,
    spill: Option<File>,
    shape: [usize; 3],
    bad_rows: u64,
    first_bad: Option<String>,
    repeats: u64,
}

impl RowsWriter {
    /// No rows yet.
    pub fn new(rules: RowRules) -> Self {
        Self {
            rules,
            entries: Vec::new(),
            numbers: Vec::new(),
            memory: Vec::new(),
            spill: None,
            length_bytes: 0,
            shape: None,
            seen_rows: 0,
            bad_rows: 0,
            first_bad: None,
            last: Vec::new(),
            repeats: 0,
        }
    }

    /// Takes a row in, and says whether it was good; `label` is no number where the row has none.
    ///
    /// # Errors
    /// A bad row, unless those are skipped; a file that cannot be written.
    pub fn push(&mut self, values: RowValues<'_>, label: f32) -> Result<bool, DataError> {
        self.push_with(values, label, &[])
    }

    /// As [`RowsWriter::push`], with the row's numbers.
    ///
    /// # Errors
    /// As [`RowsWriter::push`].
    pub fn push_with(&mut self, values: RowValues<'_>, label: f32, numbers: &[f32]) -> Result<bool, DataError> {
        let row = self.seen_rows;
        self.seen_rows += 1;
        let wanted = self.rules.numbers;
        let checked = if !label.is_finite() {
            Err("has no label (a null, or no number): fill it in, or drop the row".to_owned())
        } else if numbers.len() != wanted {
            let found = numbers.len();
            Err(format!(
                "has {found} numbers beside its values, but the net wants {wanted}: make all rows of this size"
            ))
        } else if !numbers.iter().all(|number| number.is_finite()) {
            Err(
                "has a number that is null, or columns of other sizes than the net wants: correct or drop it"
                    .to_owned(),
            )
        } else {
            self.check(values)
        };
        let (kind, shape) = match checked {
            Ok(found) => found,
            Err(detail) => {
                self.bad_rows += 1;
                let path = PathBuf::from(&self.rules.name);
                let error = DataError::bad_record(&path, row.to_string().as_bytes(), detail);
                if !self.rules.skip_bad {
                    return Err(error);
                }
                self.first_bad.get_or_insert_with(|| error.to_string());
                return Ok(false);
            }
        };
        self.shape.get_or_insert(shape);
        self.numbers.extend_from_slice(numbers);
        let offset = self.length_bytes;
        match values {
            RowValues::Bytes(bytes) => self.store(bytes)?,
            RowValues::Floats(floats) => {
                let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
                self.store(&bytes)?;
            }
            RowValues::Interleaved(bytes, [channels, ..]) => {
                let mut planar = Vec::with_capacity(bytes.len());
                for channel in 0..channels {
                    planar.extend(bytes.iter().skip(channel).step_by(channels));
                }
                self.store(&planar)?;
            }
            RowValues::Null => {}
        }
        self.entries.push(Entry {
            offset,
            length_bytes: (self.length_bytes - offset) as usize,
            kind,
            shape,
            label,
        });
        Ok(true)
    }

    /// The kind of a row, and its shape after decoding; or what is wrong with it.
    fn check(&self, values: RowValues<'_>) -> Result<(Kind, [usize; 3]), String> {
        let flat = |length: usize| match self.rules.shape {
            None if length == 0 => Err("has no values: drop the row".to_owned()),
            None => Ok([length, 1, 1]),
            Some(shape) if shape.iter().product::<usize>() == length => Ok(shape),
            Some([channels, height, width]) => Err(format!(
                "has {length} values, but {channels}x{height}x{width} are {}: make all rows of this size, or say \
                 another",
                channels * height * width
            )),
        };
        let (kind, shape) = match values {
            RowValues::Null => return Err("is null: fill it in, or drop the row".to_owned()),
            RowValues::Floats(floats) => {
                if !floats.iter().all(|value| value.is_finite()) {
                    return Err("has a value that is null or no finite number: fill it in, or drop the row".to_owned());
                }
                (Kind::Floats, flat(floats.len())?)
            }
            RowValues::Interleaved(bytes, shape) => {
                let count: usize = shape.iter().product();
                if count == 0 || bytes.len() != count {
                    let [channels, height, width] = shape;
                    return Err(format!(
                        "is an image of {} bytes that says it is {channels}x{height}x{width}: read it again",
                        bytes.len()
                    ));
                }
                (Kind::Bytes, shape)
            }
            RowValues::Bytes(bytes) => match (is_image_file(bytes), flat(bytes.len())) {
                (false, shape) => (Kind::Bytes, shape?),
                (true, flat) => match (decode_image(bytes, self.rules.color), flat) {
                    (Ok(image), _) => (Kind::Encoded, image.shape),
                    // Pixels that happen to begin as an image file does.
                    (Err(_), Ok(shape)) if self.rules.shape.is_some() => (Kind::Bytes, shape),
                    (Err(detail), _) => return Err(detail),
                },
            },
        };
        self.check_size(shape)?;
        Ok((kind, shape))
    }

    fn check_size(&self, shape: [usize; 3]) -> Result<(), String> {
        let Some(first) = self.shape.or(self.rules.shape) else {
            return Ok(());
        };
        let crop = self.rules.crop_size;
        let text = |[channels, height, width]: [usize; 3]| format!("{channels}x{height}x{width}");
        let fits = if crop == 0 {
            shape == first
        } else {
            shape[0] == first[0] && shape[1] >= crop && shape[2] >= crop
        };
        if fits {
            return Ok(());
        }
        Err(match crop {
            0 => format!(
                "is {} where the others are {}: make all of one size, or set crop_size",
                text(shape),
                text(first)
            ),
            _ => format!(
                "is {}, but with a crop_size of {crop} it has to be {}x{crop}x{crop} at least: say the rows' shape \
                 (inputShape), or give larger rows",
                text(shape),
                first[0],
            ),
        })
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let write_error = |cause, path: &Path| DataError::io("write", path, cause);
        if !self.entries.is_empty() && self.last == bytes {
            self.repeats += 1;
        } else {
            self.last.clear();
            self.last.extend_from_slice(bytes);
        }
        if self.spill.is_none() && self.memory.len() + bytes.len() > self.rules.memory_limit_bytes {
            let mut file = unnamed_file(&self.rules.spill_folder)?;
            file.write_all(&self.memory)
                .map_err(|cause| write_error(cause, &self.rules.spill_folder))?;
            self.memory = Vec::new();
            self.spill = Some(file);
        }
        match &mut self.spill {
            Some(file) => file
                .write_all(bytes)
                .map_err(|cause| write_error(cause, &self.rules.spill_folder))?,
            None => self.memory.extend_from_slice(bytes),
        }
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }

    /// How many numbers each row has to have beside its values and its label.
    pub fn numbers_per_row(&self) -> usize {
        self.rules.numbers
    }

    /// How many good rows and bad rows there are so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.entries.len() as u64, self.bad_rows)
    }

    /// The rows.
    ///
    /// # Errors
    /// Not one good row.
    pub fn finish(self) -> Result<Arc<Rows>, DataError> {
        let path = PathBuf::from(&self.rules.name);
        let Some(shape) = self.shape else {
            return Err(DataError::NoRows {
                name: self.rules.name,
                bad_rows: self.bad_rows,
                first_bad: self
                    .first_bad
                    .map(|bad| format!("; the first: {bad}"))
                    .unwrap_or_default(),
            });
        };
        Ok(Arc::new(Rows {
            path,
            entries: self.entries,
            numbers: self.numbers,
            numbers_per_row: self.rules.numbers,
            memory: self.memory,
            spill: self.spill,
            shape,
            bad_rows: self.bad_rows,
            first_bad: self.first_bad,
            repeats: self.repeats,
        }))
    }
}

impl Rows {
    /// How many rows there are.
    pub fn len_rows(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The shape `(c, h, w)` of the first row, decoded but not cropped.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// How many rows held the same values as the row before them.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// How many bad rows were left out, and what was wrong with the first.
    pub fn bad_rows(&self) -> (u64, Option<&str>) {
        (self.bad_rows, self.first_bad.as_deref())
    }

    /// Whether the rows lie in a file.
    pub fn is_spilled(&self) -> bool {
        self.spill.is_some()
    }

    /// How many numbers each row has beside its values and its label.
    pub fn numbers_per_row(&self) -> usize {
        self.numbers_per_row
    }

    /// The rows in their order, their numbers as one array.
    pub fn source(self: &Arc<Self>) -> Box<dyn Source> {
        self.source_of_arrays(match self.numbers_per_row {
            0 => Vec::new(),
            count => vec![count],
        })
    }

    /// The rows in their order, their numbers as arrays of these lengths.
    pub fn source_of_arrays(self: &Arc<Self>, array_lengths: Vec<usize>) -> Box<dyn Source> {
        Box::new(RowsSource {
            rows: self.clone(),
            array_lengths,
            next: 0,
            scratch: Vec::new(),
        })
    }

    /// A name for errors.
    pub fn name(&self) -> &Path {
        &self.path
    }
}

struct RowsSource {
    rows: Arc<Rows>,
    array_lengths: Vec<usize>,
    next: u64,
    /// A row of floats as the file has it.
    scratch: Vec<u8>,
}

impl Source for RowsSource {
    fn len_records(&self) -> u64 {
        self.rows.len_rows()
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.next = index;
        Ok(())
    }

    fn array_lengths(&self) -> &[usize] {
        &self.array_lengths
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        let rows = self.rows.clone();
        let Some(entry) = rows.entries.get(self.next as usize) else {
            return Err(DataError::bad_record(
                &rows.path,
                self.next.to_string().as_bytes(),
                "is behind the last one",
            ));
        };
        record.key.clear();
        record.key.extend_from_slice(self.next.to_string().as_bytes());
        [record.channels, record.height, record.width] = entry.shape;
        record.label = entry.label as i32;
        record.float_label = Some(entry.label);
        record.arrays.clear();
        let first = self.next as usize * rows.numbers_per_row;
        record
            .arrays
            .extend_from_slice(&rows.numbers[first..first + rows.numbers_per_row]);
        let mut bytes = match (entry.kind, &mut record.pixels) {
            (Kind::Floats, _) => std::mem::take(&mut self.scratch),
            (_, Pixels::Bytes(bytes) | Pixels::Encoded(bytes)) => std::mem::take(bytes),
            (_, Pixels::Floats(_)) => Vec::new(),
        };
        bytes.resize(entry.length_bytes, 0);
        match &rows.spill {
            Some(file) => file
                .read_exact_at(&mut bytes, entry.offset)
                .map_err(|cause| DataError::io("read back", &rows.path, cause))?,
            None => {
                let start = entry.offset as usize;
                bytes.copy_from_slice(&rows.memory[start..start + entry.length_bytes]);
            }
        }
        match entry.kind {
            Kind::Bytes => record.pixels = Pixels::Bytes(bytes),
            Kind::Encoded => record.pixels = Pixels::Encoded(bytes),
            Kind::Floats => {
                let mut floats = match &mut record.pixels {
                    Pixels::Floats(floats) => std::mem::take(floats),
                    _ => Vec::new(),
                };
                floats.clear();
                let (values, _) = bytes.as_chunks::<4>();
                floats.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
                record.pixels = Pixels::Floats(floats);
                self.scratch = bytes;
            }
        }
        self.next += 1;
        Ok(())
    }
}

/// Whether `bytes` begin as a JPEG or a PNG file does.
fn is_image_file(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8, 0xff]) || bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

/// A file in `folder` that nobody else can open and that is gone with its last handle.
pub(crate) fn unnamed_file(folder: &Path) -> Result<File, DataError> {
    static FILES: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!(
        ".sparknet-rows-{}-{}",
        process::id(),
        FILES.fetch_add(1, Ordering::Relaxed)
    ));
    let open = || {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    };
    open().map_err(|cause| DataError::io("write", &path, cause))
}
