//! LevelDB, read only: Caffe's other database.
//!
//! The format (<https://github.com/google/leveldb/tree/main/doc>): `CURRENT` names the manifest, whose records say which
//! tables (`000005.ldb`, or `.sst` of old) are alive and from which log (`000003.log`) on writes are not in tables yet.
//! Every key carries the sequence number of its write; the latest one counts, which may be a deletion.
//!
//! LevelDB does not say how many records it has, and its order of keys is spread over tables and logs. So opening reads
//! everything once, checks every checksum, and keeps the keys with the places of their values. Nothing is written, and no
//! lock is taken: the C++ library and its ports write a log and may compact on opening, which a shared folder does not allow.

mod log;
mod table;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sparknet_proto::caffe::Datum;

use crate::DataError;
use crate::record::Record;
use crate::source::Source;

/// The only order of keys that Caffe's databases have.
const COMPARATOR: &[u8] = b"leveldb.BytewiseComparator";

/// The records of a LevelDB in the order of their keys; each value is a `Datum`.
pub struct LeveldbSource {
    folder: PathBuf,
    index: Index,
    /// The record that the cursor stands on.
    next: u64,
    /// The file that was read last: a database may have more of them than a process may open.
    open: Option<(usize, File)>,
    /// The compressed block that was read last: its file and its offset there.
    block_place: Option<(usize, u64)>,
    block: Vec<u8>,
    value: Vec<u8>,
    datum: Datum,
}

/// Where a value lies in its file.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// As it is.
    Plain { offset: u64, length: usize },
    /// In a log, whose every block begins with a header.
    InLog { offset: u64, length: usize },
    /// In a compressed block of a table.
    Compressed {
        block: table::Handle,
        start: usize,
        length: usize,
    },
}

/// A write of a key, or a deletion where it has no place.
struct Entry {
    key_start: usize,
    key_length: usize,
    sequence: u64,
    file: usize,
    place: Option<Place>,
}

/// All keys, and where their values are.
#[derive(Default)]
struct Index {
    files: Vec<PathBuf>,
    keys: Vec<u8>,
    entries: Vec<Entry>,
}

/// What the manifest says.
#[derive(Default)]
struct Manifest {
    /// Live tables by number, with their sizes.
    tables: BTreeMap<u64, u64>,
    /// Logs before this one are in tables, but for `previous_log`.
    first_log: u64,
    previous_log: u64,
}

impl LeveldbSource {
    /// Opens the LevelDB in the folder `path` at its first record.
    ///
    /// # Errors
    /// No such folder, a file instead of a folder, a folder without `CURRENT`, a missing, truncated or corrupt file.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let metadata = fs::metadata(path).map_err(|cause| DataError::io("read", path, cause))?;
        if !metadata.is_dir() {
            return Err(DataError::LeveldbIsFile(path.to_path_buf()));
        }
        if !path.join("CURRENT").exists() {
            return Err(DataError::NotALeveldb(path.to_path_buf()));
        }
        let mut index = Index::default();
        let manifest = read_manifest(path)?;
        for (number, size) in &manifest.tables {
            index.add_table(&table_path(path, *number)?, *size)?;
        }
        for log in live_logs(path, &manifest)? {
            index.add_log(&log)?;
        }
        index.keep_latest();
        Ok(Self {
            folder: path.to_path_buf(),
            index,
            next: 0,
            open: None,
            block_place: None,
            block: Vec::new(),
            value: Vec::new(),
            datum: Datum::default(),
        })
    }

    /// Reads the value at `place` of file number `file` into `self.value`.
    fn read_value(&mut self, file: usize, place: Place) -> Result<(), DataError> {
        let path = &self.index.files[file];
        let handle = match &self.open {
            Some((open, handle)) if *open == file => handle,
            _ => {
                let handle = File::open(path).map_err(|cause| DataError::io("read", path, cause))?;
                &self.open.insert((file, handle)).1
            }
        };
        let read = |offset: u64, buffer: &mut [u8]| {
            let result = handle.read_exact_at(buffer, offset);
            result.map_err(|cause| DataError::io("read", path, cause))
        };
        match place {
            Place::Plain { offset, length } => {
                self.value.resize(length, 0);
                read(offset, &mut self.value)
            }
            Place::InLog { offset, length } => {
                self.value.resize(log::length_with_headers(offset, length), 0);
                read(offset, &mut self.value)?;
                log::remove_headers(offset, &mut self.value);
                Ok(())
            }
            Place::Compressed { block, start, length } => {
                if self.block_place != Some((file, block.offset)) {
                    self.block_place = None;
                    table::read_block(handle, path, block, &mut self.block)?;
                    self.block_place = Some((file, block.offset));
                }
                // The block may have changed since it was indexed.
                let value = self.block.get(start..start.saturating_add(length));
                let value = value.ok_or_else(|| DataError::corrupt(path, "it changed while it was read"))?;
                self.value.clear();
                self.value.extend_from_slice(value);
                Ok(())
            }
        }
    }

    fn check_index(&self, index: u64) -> Result<(), DataError> {
        let count = self.len_records();
        if index > count {
            let detail = format!("record {index} was asked for, but there are {count}");
            return Err(DataError::corrupt(&self.folder, detail));
        }
        Ok(())
    }
}

impl Source for LeveldbSource {
    fn len_records(&self) -> u64 {
        self.index.entries.len() as u64
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.check_index(index)?;
        self.next = index;
        Ok(())
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        self.check_index(self.next + 1)?;
        let Entry {
            key_start,
            key_length,
            file,
            place,
            ..
        } = self.index.entries[self.next as usize];
        record.key.clear();
        record
            .key
            .extend_from_slice(&self.index.keys[key_start..key_start + key_length]);
        // Deletions are not among the entries any more.
        if let Some(place) = place {
            self.read_value(file, place)?;
        }
        record.set_datum(&self.folder, &self.value, &mut self.datum)?;
        self.next += 1;
        Ok(())
    }
}

impl Index {
    fn add_table(&mut self, path: &Path, size: u64) -> Result<(), DataError> {
        let file = self.add_file(path);
        table::read(path, size, |key, sequence, place| self.push(file, key, sequence, place))
    }

    /// Takes a file up; its number.
    fn add_file(&mut self, path: &Path) -> usize {
        self.files.push(path.to_path_buf());
        self.files.len() - 1
    }

    fn push(&mut self, file: usize, key: &[u8], sequence: u64, place: Option<Place>) {
        self.entries.push(Entry {
            key_start: self.keys.len(),
            key_length: key.len(),
            sequence,
            file,
            place,
        });
        self.keys.extend_from_slice(key);
    }

    fn add_log(&mut self, path: &Path) -> Result<(), DataError> {
        let file = self.add_file(path);
        log::read(path, |record, start| {
            let damaged = || DataError::corrupt(path, "a batch of writes in it is damaged");
            for_each_write(record, |sequence, key, value| {
                let place = value.map(|(offset, length)| Place::InLog {
                    offset: log::place_in_file(start, offset),
                    length,
                });
                self.push(file, key, sequence, place);
            })
            .ok_or_else(damaged)
        })
    }

    /// Leaves of every key the latest write, and none where that is a deletion.
    fn keep_latest(&mut self) {
        let Self { keys, entries, .. } = self;
        let key = |entry: &Entry| &keys[entry.key_start..entry.key_start + entry.key_length];
        entries.sort_by(|a, b| key(a).cmp(key(b)).then(b.sequence.cmp(&a.sequence)));
        entries.dedup_by(|later, first| key(later) == key(first));
        entries.retain(|entry| entry.place.is_some());
    }
}

/// Calls `visit` with the sequence number, key and, unless it is a deletion, place and length of the value of every write
/// in a batch. `None` if the batch is damaged.
///
/// A batch is a sequence number (u64), a count (u32) and so many writes: 1, key and value for a put, 0 and key for a
/// deletion, where a length (varint) goes before each.
fn for_each_write(batch: &[u8], mut visit: impl FnMut(u64, &[u8], Option<(usize, usize)>)) -> Option<()> {
    let mut rest = batch;
    let sequence = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let count = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
    for write in 0..u64::from(count) {
        let kind = take(&mut rest, 1)?[0];
        let key = take_prefixed(&mut rest)?;
        let value = match kind {
            0 => None,
            1 => {
                let value = take_prefixed(&mut rest)?;
                Some((batch.len() - rest.len() - value.len(), value.len()))
            }
            _ => return None,
        };
        visit(sequence.checked_add(write)?, key, value);
    }
    rest.is_empty().then_some(())
}

fn read_manifest(folder: &Path) -> Result<Manifest, DataError> {
    let current = folder.join("CURRENT");
    let name = fs::read(&current).map_err(|cause| DataError::io("read", &current, cause))?;
    let name = name.strip_suffix(b"\n").and_then(|name| std::str::from_utf8(name).ok());
    let Some(name) = name.filter(|name| name.starts_with("MANIFEST-") && !name.contains('/')) else {
        return Err(DataError::corrupt(&current, "it names no manifest"));
    };
    let path = folder.join(name);
    let mut manifest = Manifest::default();
    log::read(&path, |edit, _| match manifest.apply(edit) {
        Some(Ok(())) => Ok(()),
        Some(Err(detail)) => Err(DataError::corrupt(&path, detail)),
        None => Err(DataError::corrupt(&path, "a record in it is damaged")),
    })?;
    Ok(manifest)
}

impl Manifest {
    /// Applies one record: fields, each with a number (varint) before it. `None` if it is damaged.
    fn apply(&mut self, mut edit: &[u8]) -> Option<Result<(), &'static str>> {
        let rest = &mut edit;
        while !rest.is_empty() {
            match take_varint(rest)? {
                1 => {
                    if take_prefixed(rest)? != COMPARATOR {
                        return Some(Err("its keys are in another order than Caffe's databases have"));
                    }
                }
                2 => self.first_log = take_varint(rest)?,
                9 => self.previous_log = take_varint(rest)?,
                // The next file's number, and the last sequence number.
                3 | 4 => {
                    take_varint(rest)?;
                }
                // Where the next compaction of a level begins.
                5 => {
                    take_varint(rest)?;
                    take_prefixed(rest)?;
                }
                6 => {
                    take_varint(rest)?;
                    self.tables.remove(&take_varint(rest)?);
                }
                // A new table: its level, number, size, smallest and largest key.
                7 => {
                    take_varint(rest)?;
                    let (number, size) = (take_varint(rest)?, take_varint(rest)?);
                    take_prefixed(rest)?;
                    take_prefixed(rest)?;
                    self.tables.insert(number, size);
                }
                _ => return None,
            }
        }
        Some(Ok(()))
    }
}

fn table_path(folder: &Path, number: u64) -> Result<PathBuf, DataError> {
    let names = ["ldb", "sst"].map(|extension| folder.join(format!("{number:06}.{extension}")));
    let found = names.iter().find(|path| path.exists());
    found.cloned().ok_or_else(|| {
        let name = names[0].file_name().unwrap_or_default().display();
        DataError::corrupt(folder, format!("its file {name} is missing"))
    })
}

/// The logs whose writes are not in tables, oldest first.
fn live_logs(folder: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).map_err(|cause| DataError::io("read", folder, cause))?;
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry.map_err(|cause| DataError::io("read", folder, cause))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let number = stem.and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|extension| extension == "log")
            && (number >= manifest.first_log || number == manifest.previous_log)
        {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// The next `count` bytes.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// A number of up to 64 bits, 7 to a byte, the lowest first.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Bytes with their number before them.
fn take_prefixed<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    take(bytes, length)
}

/// Whether `stored`, as LevelDB stores it, is the CRC-32C of the bytes. It is stored rotated and moved, so that the checksum of
/// bytes that hold checksums stays one.
fn is_checksum(stored: &[u8], bytes: &[u8]) -> bool {
    let expected = crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8);
    stored == expected.to_le_bytes()
}
