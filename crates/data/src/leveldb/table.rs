//! LevelDB's tables: sorted keys with their values, in blocks that may be compressed.
//!
//! At a table's end are 48 bytes: two handles (offset and size as varints), of which the second is that of the index block,
//! zeros, and a magic number. The index block's values are the handles of the data blocks. Behind every block are its kind
//! (u8: plain 0, Snappy 1) and its checksum (u32, of block and kind). A block is entries (three varints: how many bytes of
//! the key before begin this one, how many follow, the value's length; then these bytes and the value), then the offsets
//! (u32) of entries with whole keys, and their number (u32). A key ends with a u64: its sequence number and, in the lowest
//! byte, 1 for a put and 0 for a deletion.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Place, is_checksum, take, take_varint};
use crate::DataError;

const FOOTER: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Kind and checksum behind a block.
const TRAILER: usize = 5;
const SNAPPY: u8 = 1;
/// No more than this comes out of a byte of Snappy's: three bytes copy 64.
const MAX_EXPANSION: usize = 64;

/// Where a block lies in its file, without what is behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle {
    pub offset: u64,
    pub size: u64,
}

impl Handle {
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            offset: take_varint(bytes)?,
            size: take_varint(bytes)?,
        })
    }
}

/// Calls `visit` with every key of a table of `size` bytes, its sequence number and the place of its value, `None` for a
/// deletion.
///
/// # Errors
/// A file that cannot be read, has another size or is damaged.
pub(super) fn read(path: &Path, size: u64, mut visit: impl FnMut(&[u8], u64, Option<Place>)) -> Result<(), DataError> {
    let read_error = |cause| DataError::io("read", path, cause);
    let damaged = |detail: &str| DataError::corrupt(path, detail);
    let file = File::open(path).map_err(read_error)?;
    let found = file.metadata().map_err(read_error)?.len();
    if found != size || size < FOOTER as u64 {
        let detail = format!("it has {found} bytes of {size}, it is truncated");
        return Err(damaged(&detail));
    }
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, size - FOOTER as u64)
        .map_err(read_error)?;
    if footer[FOOTER - 8..] != MAGIC.to_le_bytes() {
        return Err(damaged("it is no table of LevelDB's"));
    }
    let handles = &mut &footer[..];
    let index = Handle::take(handles).and_then(|_| Handle::take(handles));
    let index = index.ok_or_else(|| damaged("its last bytes are damaged"))?;
    let (mut index_block, mut block) = (Vec::new(), Vec::new());
    read_block(&file, path, index, &mut index_block)?;
    let entry_damaged = || damaged("a block in it is damaged");
    let mut handles = Vec::new();
    for_each_entry(&index_block, |_, start, length| {
        handles.push(Handle::take(&mut &index_block[start..start + length])?);
        Some(())
    })
    .ok_or_else(entry_damaged)?;
    for handle in handles {
        let is_compressed = read_block(&file, path, handle, &mut block)?;
        for_each_entry(&block, |key, start, length| {
            let (key, tag) = key.split_last_chunk::<8>()?;
            let tag = u64::from_le_bytes(*tag);
            let place = if is_compressed {
                Place::Compressed {
                    block: handle,
                    start,
                    length,
                }
            } else {
                Place::Plain {
                    offset: handle.offset + start as u64,
                    length,
                }
            };
            match tag as u8 {
                0 => visit(key, tag >> 8, None),
                1 => visit(key, tag >> 8, Some(place)),
                _ => return None,
            }
            Some(())
        })
        .ok_or_else(entry_damaged)?;
    }
    Ok(())
}

/// Reads a block into `block`, decompressed, and says whether it was compressed.
pub(super) fn read_block(file: &File, path: &Path, handle: Handle, block: &mut Vec<u8>) -> Result<bool, DataError> {
    let read_error = |cause| DataError::io("read", path, cause);
    let damaged = |what: &str| DataError::corrupt(path, format!("the block at byte {} {what}", handle.offset));
    let length = file.metadata().map_err(read_error)?.len();
    let end = handle
        .offset
        .checked_add(handle.size)
        .and_then(|end| end.checked_add(TRAILER as u64));
    if end.is_none_or(|end| end > length) {
        return Err(damaged("goes beyond its end"));
    }
    // It fits into the file, so it fits into a usize.
    let size = handle.size as usize;
    block.resize(size + TRAILER, 0);
    file.read_exact_at(block, handle.offset).map_err(read_error)?;
    if !is_checksum(&block[size + 1..], &block[..size + 1]) {
        return Err(damaged("has a wrong checksum"));
    }
    match block[size] {
        0 => {
            block.truncate(size);
            Ok(false)
        }
        SNAPPY => {
            let compressed = &block[..size];
            let length = snap::raw::decompress_len(compressed).unwrap_or(usize::MAX);
            if length > size.saturating_mul(MAX_EXPANSION) {
                return Err(damaged("says an impossible length"));
            }
            let mut plain = vec![0; length];
            snap::raw::Decoder::new()
                .decompress(compressed, &mut plain)
                .map_err(|cause| damaged(&format!("cannot be decompressed ({cause})")))?;
            *block = plain;
            Ok(true)
        }
        kind => Err(damaged(&format!(
            "is compressed in a way ({kind}) that Caffe's databases never are"
        ))),
    }
}

/// Calls `visit` with the key, and the value's place and length, of every entry of a block. `None` if the block is damaged,
/// or `visit` says so.
fn for_each_entry(block: &[u8], mut visit: impl FnMut(&[u8], usize, usize) -> Option<()>) -> Option<()> {
    let (rest, restarts) = block.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?.checked_mul(4)?;
    let entries = &rest[..rest.len().checked_sub(restarts)?];
    let mut rest = entries;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let [shared, added, length] = [(); 3].map(|()| take_varint(&mut rest).and_then(|n| usize::try_from(n).ok()));
        let (shared, added, length) = (shared?, added?, length?);
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(take(&mut rest, added)?);
        let start = entries.len() - rest.len();
        take(&mut rest, length)?;
        visit(&key, start, length)?;
    }
    Some(())
}
