//! LMDB, read with plain file reads.
//!
//! The file format (data version 1, unchanged since 2011) is a B+ tree of pages; a cursor over it needs no more than this
//! file. The C library is used for writing only: it maps the file and trusts every number in it, so that a truncated or
//! damaged file kills the process (measured: 67 of 150 files with one block of garbage crashed it by SIGSEGV, SIGBUS or
//! an assertion). Here a bad page is an error. Nothing is written, not even a lock file, so read-only folders work and any
//! number of readers, in any number of processes, may have the same LMDB open.
//!
//! Layout, little-endian: a page starts with its number (u64), 2 unused bytes, flags (u16), then `lower` and `upper` (u16
//! each) and from byte 16 to `lower` the offsets (u16) of its nodes. A node is four u16 (low, high, flags, key size), the key
//! and, in a leaf, the value: `low | high << 16` bytes of it in place or, with the flag BIG_DATA, the number of the page that it
//! starts in. In a branch the numbers low, high and flags are the 48 bits of the child's page number. Pages 0 and 1 are meta pages.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sparknet_proto::caffe::Datum;

use crate::DataError;
use crate::record::Record;
use crate::source::Source;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
/// The bytes of a meta page that are used.
const META_LENGTH: usize = 152;
const MAX_DEPTH: usize = 32;

const BRANCH_PAGE: u16 = 0x01;
const LEAF_PAGE: u16 = 0x02;
const OVERFLOW_PAGE: u16 = 0x04;
const META_PAGE: u16 = 0x08;
const BIG_DATA_NODE: u16 = 0x01;
const DUPLICATES: u16 = 0x04;

/// The records of an LMDB in the order of their keys; each value is a `Datum`.
pub struct LmdbSource {
    folder: PathBuf,
    file: File,
    file_length: u64,
    meta: Meta,
    /// The pages from the root (first) to the leaf (last) that the cursor stands in.
    levels: Vec<Level>,
    /// The record that the cursor stands on.
    index: u64,
    value: Vec<u8>,
    datum: Datum,
}

/// What the newer meta page says.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_size: usize,
    last_page: u64,
    transaction: u64,
    flags: u16,
    depth: usize,
    entries: u64,
    root: u64,
}

#[derive(Default)]
struct Level {
    page: Vec<u8>,
    nodes: usize,
    position: usize,
}

/// Where a value lies.
enum Value {
    /// In the leaf page itself.
    InLeaf { start: usize, length: usize },
    /// In pages of its own.
    InPages { page: u64, length: usize },
}

impl LmdbSource {
    /// Opens the LMDB in the folder `path` at its first record.
    ///
    /// # Errors
    /// No such folder, a file instead of a folder, a folder without `data.mdb`, a truncated or corrupt file.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let metadata = std::fs::metadata(path).map_err(|cause| DataError::io("read", path, cause))?;
        if !metadata.is_dir() {
            return Err(DataError::LmdbIsFile(path.to_path_buf()));
        }
        let data_file = path.join("data.mdb");
        if !data_file.exists() {
            return Err(DataError::NotAnLmdb(path.to_path_buf()));
        }
        let mut file = File::open(&data_file).map_err(|cause| DataError::io("read", &data_file, cause))?;
        let file_length = file
            .metadata()
            .map_err(|cause| DataError::io("read", &data_file, cause))?
            .len();
        let meta = read_newest_meta(path, &mut file, file_length)?;
        let levels = (0..meta.depth).map(|_| Level::default()).collect();
        let mut source = Self {
            folder: path.to_path_buf(),
            file,
            file_length,
            meta,
            levels,
            index: 0,
            value: Vec::new(),
            datum: Datum::default(),
        };
        if meta.entries > 0 {
            source.check_length()?;
            source.rewind()?;
        }
        Ok(source)
    }

    /// A file shorter than its last page is truncated, unless that page is a free one that was never written: so every
    /// page of the tree is looked at, but only in such a file.
    fn check_length(&mut self) -> Result<(), DataError> {
        let expected = (self.meta.last_page.saturating_add(1)).saturating_mul(self.meta.page_size as u64);
        if self.file_length >= expected {
            return Ok(());
        }
        let complete = self.rewind().and_then(|()| {
            (0..self.meta.entries).try_for_each(|_| {
                if let (_, Value::InPages { page, length }) = self.node()? {
                    self.value_offset(page, length)?;
                }
                self.seek(self.index + 1)
            })
        });
        let detail = format!("the file has {} bytes of {expected}, it is truncated", self.file_length);
        complete.map_err(|_| DataError::corrupt(&self.folder, detail))
    }

    fn rewind(&mut self) -> Result<(), DataError> {
        self.index = 0;
        self.descend(0, self.meta.root)
    }

    /// Loads page `number` at `level` and the first page of every level below it.
    fn descend(&mut self, level: usize, number: u64) -> Result<(), DataError> {
        let mut number = number;
        for level in level..self.levels.len() {
            let is_leaf = level + 1 == self.levels.len();
            self.load(level, number, if is_leaf { LEAF_PAGE } else { BRANCH_PAGE })?;
            if !is_leaf {
                number = self.child(level)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, level: usize, number: u64, kind: u16) -> Result<(), DataError> {
        let Self {
            levels,
            file,
            meta,
            folder,
            file_length,
            ..
        } = self;
        let Level { page, nodes, position } = &mut levels[level];
        page.resize(meta.page_size, 0);
        let offset = number.saturating_mul(meta.page_size as u64);
        if offset.saturating_add(meta.page_size as u64) > *file_length {
            return Err(DataError::corrupt(
                folder,
                format!("page {number} lies behind the end of the file"),
            ));
        }
        read_at(folder, file, offset, page)?;
        let (found, flags, lower) = (u64_at(page, 0), u16_at(page, 10), usize::from(u16_at(page, 12)));
        if found != number || flags & (BRANCH_PAGE | LEAF_PAGE | OVERFLOW_PAGE | META_PAGE) != kind {
            let detail = format!("page {number} is not the page of the tree that it should be");
            return Err(DataError::corrupt(folder, detail));
        }
        if lower <= PAGE_HEADER || lower > meta.page_size {
            return Err(DataError::corrupt(
                folder,
                format!("page {number} has no valid list of nodes"),
            ));
        }
        *nodes = (lower - PAGE_HEADER) / 2;
        *position = 0;
        Ok(())
    }

    /// The child of the branch page at `level` that the cursor stands in.
    fn child(&self, level: usize) -> Result<u64, DataError> {
        let Level { page, position, .. } = &self.levels[level];
        let start = usize::from(u16_at(page, PAGE_HEADER + 2 * position));
        let node = page.get(start..start + NODE_HEADER);
        let node = node.ok_or_else(|| self.corrupt_node(page))?;
        Ok(u64::from(u16_at(node, 0)) | u64::from(u16_at(node, 2)) << 16 | u64::from(u16_at(node, 4)) << 32)
    }

    /// Steps from the last node of a leaf to the first of the next leaf; false at the end of the tree.
    fn next_leaf(&mut self) -> Result<bool, DataError> {
        for level in (0..self.levels.len().saturating_sub(1)).rev() {
            if self.levels[level].position + 1 < self.levels[level].nodes {
                self.levels[level].position += 1;
                let child = self.child(level)?;
                self.descend(level + 1, child)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The node that the cursor stands on: where its key starts and how long it is, and where its value lies.
    fn node(&mut self) -> Result<((usize, usize), Value), DataError> {
        let leaf = &self.levels[self.levels.len() - 1];
        if leaf.position >= leaf.nodes && !self.next_leaf()? {
            let detail = format!(
                "it says {} records, but its tree ends after {}",
                self.meta.entries, self.index
            );
            return Err(DataError::corrupt(&self.folder, detail));
        }
        let Level { page, position, .. } = &self.levels[self.levels.len() - 1];
        let start = usize::from(u16_at(page, PAGE_HEADER + 2 * position));
        let header = page
            .get(start..start + NODE_HEADER)
            .ok_or_else(|| self.corrupt_node(page))?;
        let length = usize::from(u16_at(header, 0)) | usize::from(u16_at(header, 2)) << 16;
        let (flags, key_length) = (u16_at(header, 4), usize::from(u16_at(header, 6)));
        let key_start = start + NODE_HEADER;
        let value_start = key_start + key_length;
        let in_leaf = if flags & BIG_DATA_NODE != 0 { 8 } else { length };
        if flags & !BIG_DATA_NODE != 0 || value_start + in_leaf > page.len() {
            return Err(self.corrupt_node(page));
        }
        let value = if flags & BIG_DATA_NODE != 0 {
            Value::InPages {
                page: u64_at(page, value_start),
                length,
            }
        } else {
            Value::InLeaf {
                start: value_start,
                length,
            }
        };
        Ok(((key_start, key_length), value))
    }

    fn corrupt_node(&self, page: &[u8]) -> DataError {
        DataError::corrupt(
            &self.folder,
            format!("page {} has a node outside of itself", u64_at(page, 0)),
        )
    }

    /// Where in the file the pages of a value start, after checking that it ends within the file.
    fn value_offset(&self, page: u64, length: usize) -> Result<u64, DataError> {
        let offset = page.saturating_mul(self.meta.page_size as u64);
        if offset.saturating_add((PAGE_HEADER + length) as u64) > self.file_length {
            let detail = format!("the value in page {page} goes beyond the end of the file");
            return Err(DataError::corrupt(&self.folder, detail));
        }
        Ok(offset)
    }
}

impl Source for LmdbSource {
    fn len_records(&self) -> u64 {
        self.meta.entries
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        if index > self.meta.entries {
            let detail = format!("record {index} was asked for, but there are {}", self.meta.entries);
            return Err(DataError::corrupt(&self.folder, detail));
        }
        if index < self.index {
            self.rewind()?;
        }
        while self.index < index {
            let leaf = &mut self.levels[self.meta.depth - 1];
            let left = (leaf.nodes - leaf.position) as u64;
            let step = left.min(index - self.index);
            leaf.position += step as usize;
            self.index += step;
            if self.index < index && !self.next_leaf()? {
                let detail = format!(
                    "it says {} records, but its tree ends after {}",
                    self.meta.entries, self.index
                );
                return Err(DataError::corrupt(&self.folder, detail));
            }
        }
        Ok(())
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        if self.index >= self.meta.entries {
            let detail = format!(
                "record {} was asked for, but there are {}",
                self.index, self.meta.entries
            );
            return Err(DataError::corrupt(&self.folder, detail));
        }
        let ((key_start, key_length), value) = self.node()?;
        let leaf = self.levels.len() - 1;
        record.key.clear();
        record
            .key
            .extend_from_slice(&self.levels[leaf].page[key_start..key_start + key_length]);
        match value {
            Value::InLeaf { start, length } => {
                let serialised = &self.levels[leaf].page[start..start + length];
                record.set_datum(&self.folder, serialised, &mut self.datum)?;
            }
            Value::InPages { page, length } => {
                let offset = self.value_offset(page, length)?;
                self.value.resize(PAGE_HEADER + length, 0);
                read_at(&self.folder, &mut self.file, offset, &mut self.value)?;
                if u64_at(&self.value, 0) != page || u16_at(&self.value, 10) & OVERFLOW_PAGE == 0 {
                    let detail = format!("page {page} is not the start of a value that it should be");
                    return Err(DataError::corrupt(&self.folder, detail));
                }
                record.set_datum(&self.folder, &self.value[PAGE_HEADER..], &mut self.datum)?;
            }
        }
        self.levels[leaf].position += 1;
        self.index += 1;
        Ok(())
    }
}

/// Reads both meta pages and takes the one of the later transaction, as LMDB does.
fn read_newest_meta(folder: &Path, file: &mut File, file_length: u64) -> Result<Meta, DataError> {
    let first = read_meta(folder, file, file_length, 0)?;
    let second = read_meta(folder, file, file_length, first.page_size as u64)?;
    let newest = if second.transaction > first.transaction {
        second
    } else {
        first
    };
    // The second meta page repeats the page size, but nobody reads it there.
    let meta = Meta {
        page_size: first.page_size,
        ..newest
    };
    if meta.flags & DUPLICATES != 0 {
        return Err(DataError::corrupt(
            folder,
            "it has several values for a key, which Caffe's LMDBs never have",
        ));
    }
    if meta.entries > 0 && !(1..=MAX_DEPTH).contains(&meta.depth) {
        return Err(DataError::corrupt(
            folder,
            format!("its tree is {} pages deep", meta.depth),
        ));
    }
    Ok(meta)
}

fn read_meta(folder: &Path, file: &mut File, file_length: u64, offset: u64) -> Result<Meta, DataError> {
    if offset + META_LENGTH as u64 > file_length {
        let detail = format!("data.mdb has only {file_length} bytes, it is truncated");
        return Err(DataError::corrupt(folder, detail));
    }
    let mut page = [0; META_LENGTH];
    read_at(folder, file, offset, &mut page)?;
    if u32_at(&page, 16) != MAGIC {
        return Err(DataError::corrupt(
            folder,
            "data.mdb is not a file of LMDB on a 64-bit little-endian machine",
        ));
    }
    if u32_at(&page, 20) != VERSION {
        let detail = format!("it is of LMDB's data version {}, not {VERSION}", u32_at(&page, 20));
        return Err(DataError::corrupt(folder, detail));
    }
    let page_size = u32_at(&page, 40);
    if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return Err(DataError::corrupt(
            folder,
            format!("it says pages of {page_size} bytes"),
        ));
    }
    Ok(Meta {
        page_size: page_size as usize,
        flags: u16_at(&page, 92),
        depth: usize::from(u16_at(&page, 94)),
        entries: u64_at(&page, 120),
        root: u64_at(&page, 128),
        last_page: u64_at(&page, 136),
        transaction: u64_at(&page, 144),
    })
}

fn read_at(folder: &Path, file: &mut File, offset: u64, buffer: &mut [u8]) -> Result<(), DataError> {
    let result = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buffer));
    result.map_err(|cause| match cause.kind() {
        // Every offset was checked against the length that the file had when it was opened.
        ErrorKind::UnexpectedEof => DataError::corrupt(folder, "data.mdb became shorter while it was read"),
        _ => DataError::Io {
            action: "read",
            path: folder.join("data.mdb"),
            cause,
        },
    })
}

fn u16_at(bytes: &[u8], start: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, start))
}

fn u32_at(bytes: &[u8], start: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, start))
}

fn u64_at(bytes: &[u8], start: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, start))
}

/// Callers have checked that the bytes are there.
fn array_at<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[start..start + N]);
    array
}
