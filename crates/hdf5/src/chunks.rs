//! Arrays in chunks: the B-tree that names them, and the filters that each went through.

use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::{
    Error,
    bytes::{Bytes, text},
    damaged,
    file::File,
    group::TreeNode,
};

/// The most that zlib makes of a byte.
const MAX_ZLIB_RATIO: u64 = 1032;

/// A chunk: where it lies in the array and in the file.
pub struct Chunk {
    offsets: Vec<u64>,
    stored_bytes: u64,
    /// A bit for each filter that was left out.
    filter_mask: u32,
    address: u64,
}

/// A filter that chunks go through when they are written.
pub enum Filter {
    Zlib,
    /// Bytes of elements of this size are sorted by their place.
    Shuffle(usize),
    /// Four bytes of checksum at the end.
    Checksum,
}

impl Filter {
    /// Reads the filters of an array, in the order of writing.
    pub fn read_all(message: &[u8]) -> Result<Vec<Self>, Error> {
        let mut rest = Bytes(message);
        let (version, count) = (rest.u8()?, rest.u8()?);
        if version == 1 {
            rest.take(6)?;
        }
        let mut filters = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            const FIRST_WITH_NAME: u16 = 256;
            let number = rest.u16()?;
            let has_name = version == 1 || number >= FIRST_WITH_NAME;
            let name_bytes = if has_name { usize::from(rest.u16()?) } else { 0 };
            rest.u16()?;
            let values = usize::from(rest.u16()?);
            let padding = if version == 1 {
                name_bytes.next_multiple_of(8) - name_bytes
            } else {
                0
            };
            let name = text(rest.take(name_bytes)?)?;
            rest.take(padding)?;
            let mut first = None;
            for _ in 0..values {
                let value = rest.u32()?;
                first.get_or_insert(value);
            }
            if version == 1 && values % 2 == 1 {
                rest.u32()?;
            }
            filters.push(match number {
                1 => Self::Zlib,
                2 => Self::Shuffle(first.unwrap_or(1).max(1) as usize),
                3 => Self::Checksum,
                _ => {
                    let name = if name.is_empty() { number.to_string() } else { name };
                    return Err(Error::Unsupported(format!(
                        "chunks that went through the filter {name} (gzip can be read)"
                    )));
                }
            });
        }
        Ok(filters)
    }
}

/// The chunks of an array.
pub fn list(file: &File, tree: u64, chunk_dims: &[u64], dims: &[u64]) -> Result<Vec<Chunk>, Error> {
    let mut chunks = Vec::new();
    // Neither nodes nor chunks overlap.
    let mut bytes_left = file.length();
    walk(file, tree, None, chunk_dims, dims, &mut bytes_left, &mut chunks)?;
    let stored = chunks
        .iter()
        .fold(0u64, |sum, chunk| sum.saturating_add(chunk.stored_bytes));
    if stored > file.length() {
        return Err(damaged("chunks of an array overlap"));
    }
    Ok(chunks)
}

fn walk(
    file: &File,
    address: u64,
    level_above: Option<u8>,
    chunk_dims: &[u64],
    dims: &[u64],
    bytes_left: &mut u64,
    chunks: &mut Vec<Chunk>,
) -> Result<(), Error> {
    let key_bytes = 8 + (dims.len() + 1) * 8;
    let node = TreeNode::read(file, address, 1, key_bytes, level_above, bytes_left)?;
    for (key, child) in node.children()? {
        if node.level > 0 {
            walk(file, child, Some(node.level), chunk_dims, dims, bytes_left, chunks)?;
            continue;
        }
        let mut key = Bytes(key);
        let (stored_bytes, filter_mask) = (u64::from(key.u32()?), key.u32()?);
        let offsets = (0..dims.len()).map(|_| key.u64()).collect::<Result<Vec<_>, _>>()?;
        let is_inside = (0..dims.len()).all(|i| offsets[i] < dims[i] && offsets[i].is_multiple_of(chunk_dims[i]));
        if !is_inside {
            return Err(damaged(format!(
                "a chunk lies at {offsets:?} of an array of shape {dims:?}"
            )));
        }
        chunks.push(Chunk {
            offsets,
            stored_bytes,
            filter_mask,
            address: child,
        });
    }
    Ok(())
}

/// The most bytes that the chunks can hold between them.
pub fn unpacked_limit(chunks: &[Chunk], chunk_bytes: u64) -> u64 {
    let limits = chunks
        .iter()
        .map(|chunk| chunk_bytes.min(chunk.stored_bytes * MAX_ZLIB_RATIO));
    limits.fold(0, u64::saturating_add)
}

impl Chunk {
    /// The chunk's elements, which are `chunk_bytes`.
    pub fn read(&self, file: &File, filters: &[Filter], chunk_bytes: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = file.bytes(self.address, self.stored_bytes)?;
        for (index, filter) in filters.iter().enumerate().rev() {
            if index < 32 && self.filter_mask & (1 << index) != 0 {
                continue;
            }
            match filter {
                Filter::Zlib => {
                    let mut unpacked = Vec::new();
                    // What comes before it in writing may have added a few bytes.
                    let limit = chunk_bytes.saturating_add(16);
                    ZlibDecoder::new(bytes.as_slice())
                        .take(limit)
                        .read_to_end(&mut unpacked)
                        .map_err(|cause| damaged(format!("a chunk cannot be unpacked: {cause}")))?;
                    bytes = unpacked;
                }
                Filter::Shuffle(size) => bytes = unshuffle(&bytes, *size),
                Filter::Checksum => {
                    let length = bytes.len().checked_sub(4);
                    bytes.truncate(length.ok_or_else(|| damaged("a chunk has no checksum"))?);
                }
            }
        }
        if bytes.len() as u64 != chunk_bytes {
            return Err(damaged(format!(
                "a chunk has {} bytes instead of {chunk_bytes}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }
}

fn unshuffle(bytes: &[u8], size: usize) -> Vec<u8> {
    let count = bytes.len() / size;
    let mut unshuffled = bytes.to_vec();
    for (place, plane) in bytes.chunks_exact(count.max(1)).take(size).enumerate() {
        for (element, byte) in plane.iter().enumerate() {
            unshuffled[element * size + place] = *byte;
        }
    }
    unshuffled
}

/// Copies a chunk's elements to where they belong; what lies outside of the array is left out.
pub fn place(bytes: &[u8], raw: &mut [u8], chunk: &Chunk, chunk_dims: &[u64], dims: &[u64], size: usize) {
    let last = dims.len() - 1;
    let extent = |axis: usize| chunk_dims[axis].min(dims[axis] - chunk.offsets[axis]) as usize;
    let run = extent(last) * size;
    // The index within the chunk on all axes but the last.
    let mut index = vec![0usize; last];
    loop {
        let (mut from, mut to) = (0usize, 0usize);
        for axis in 0..last {
            from = from * chunk_dims[axis] as usize + index[axis];
            to = to * dims[axis] as usize + chunk.offsets[axis] as usize + index[axis];
        }
        from = from * chunk_dims[last] as usize * size;
        to = (to * dims[last] as usize + chunk.offsets[last] as usize) * size;
        raw[to..to + run].copy_from_slice(&bytes[from..from + run]);
        let Some(axis) = (0..last).rev().find(|axis| index[*axis] + 1 < extent(*axis)) else {
            return;
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}
