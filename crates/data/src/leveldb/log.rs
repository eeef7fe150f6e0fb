//! LevelDB's logs, of which the manifest is one.
//!
//! A file of blocks of 32 KiB. A record is one or several fragments, none of which crosses a block: checksum (u32, of what
//! follows the length), length (u16), kind (u8: whole 1, first 2, middle 3, last 4) and bytes. All fragments but the last
//! reach to the end of their block. Where less than a header is left of a block, it is filled with zeros.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::DataError;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Calls `visit` with every record of the log and the place in the file where its bytes begin, see [`place_in_file`].
///
/// # Errors
/// A file that cannot be read, is damaged, or ends within a record; what `visit` says.
pub(super) fn read(path: &Path, mut visit: impl FnMut(&[u8], u64) -> Result<(), DataError>) -> Result<(), DataError> {
    let mut file = File::open(path).map_err(|cause| DataError::io("read", path, cause))?;
    let mut block = Vec::with_capacity(BLOCK);
    let mut block_start = 0;
    let mut record = Vec::new();
    // Where the record that has begun begins.
    let mut start = None;
    loop {
        read_block(&mut file, &mut block).map_err(|cause| DataError::io("read", path, cause))?;
        let damaged =
            |at: usize, what: &str| DataError::corrupt(path, format!("{what} at byte {}", block_start + at as u64));
        let mut at = 0;
        while at + HEADER <= block.len() {
            let (header, rest) = block[at..].split_at(HEADER);
            let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
            let kind = header[6];
            let Some(payload) = rest.get(..length) else {
                let what = match block.len() {
                    BLOCK => "a record is damaged",
                    _ => "it ends within a record, it is truncated:",
                };
                return Err(damaged(at, what));
            };
            if !super::is_checksum(&header[..4], &block[at + 6..at + HEADER + length]) {
                return Err(damaged(at, "the checksum is wrong"));
            }
            let end = at + HEADER + length;
            let is_in_order = match kind {
                WHOLE | FIRST => start.is_none(),
                MIDDLE | LAST => start.is_some(),
                _ => false,
            };
            let fills_block = matches!(kind, WHOLE | LAST) || end == BLOCK;
            if !is_in_order || !fills_block {
                return Err(damaged(at, "a record is out of order"));
            }
            if matches!(kind, WHOLE | FIRST) {
                record.clear();
            }
            record.extend_from_slice(payload);
            let begin = *start.get_or_insert(block_start + (at + HEADER) as u64);
            if matches!(kind, WHOLE | LAST) {
                visit(&record, begin)?;
                start = None;
            }
            at = end;
        }
        let is_padding = block[at..].iter().all(|byte| *byte == 0);
        if block.len() < BLOCK {
            return match (is_padding, start) {
                (true, None) => Ok(()),
                _ => Err(damaged(at, "it ends within a record, it is truncated:")),
            };
        }
        if !is_padding {
            return Err(damaged(at, "a record is damaged"));
        }
        block_start += BLOCK as u64;
    }
}

/// Where in the file the byte `offset` of a record lies whose bytes begin at `start`.
pub(super) fn place_in_file(start: u64, offset: usize) -> u64 {
    let (block, offset) = (BLOCK as u64, offset as u64);
    let room = (block - start % block) % block;
    if offset < room {
        return start + offset;
    }
    let behind = offset - room;
    let payload = block - HEADER as u64;
    start + room + behind / payload * block + HEADER as u64 + behind % payload
}

/// How many bytes of the file `length` bytes of a record from `place` on are, with the headers among them.
pub(super) fn length_with_headers(place: u64, length: usize) -> usize {
    match length {
        0 => 0,
        _ => (place_in_file(place, length - 1) - place) as usize + 1,
    }
}

/// Takes the headers out of bytes of the file from `place` on.
pub(super) fn remove_headers(place: u64, bytes: &mut Vec<u8>) {
    let first_block = (BLOCK - (place % BLOCK as u64) as usize) % BLOCK;
    let mut kept = first_block.min(bytes.len());
    let mut header = kept;
    while header + HEADER <= bytes.len() {
        let end = (header + BLOCK).min(bytes.len());
        bytes.copy_within(header + HEADER..end, kept);
        kept += end - header - HEADER;
        header = end;
    }
    bytes.truncate(kept);
}

/// Up to a block; less at the end of the file.
fn read_block(file: &mut File, block: &mut Vec<u8>) -> io::Result<()> {
    block.clear();
    file.take(BLOCK as u64).read_to_end(block)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_counted_and_taken_out() {
        let block = BLOCK as u64;
        // A record's bytes are 1, 2, 3, …; headers are 0.
        let mut file = vec![0; 3 * BLOCK];
        for offset in 0..BLOCK + 100 {
            file[place_in_file(block - 10, offset) as usize] = (offset % 250) as u8 + 1;
        }
        assert!(file[..BLOCK - 10].iter().all(|byte| *byte == 0));
        assert_eq!(file[BLOCK..BLOCK + HEADER + 1], [0, 0, 0, 0, 0, 0, 0, 11]);
        for (offset, length) in [
            (0, 5),
            (0, 10),
            (0, 11),
            (3, 20),
            (3, BLOCK + 50),
            (10, 1),
            (20, BLOCK),
            (7, 0),
        ] {
            let place = place_in_file(block - 10, offset);
            let taken = length_with_headers(place, length);
            let mut bytes = file[place as usize..place as usize + taken].to_vec();
            remove_headers(place, &mut bytes);
            let expected: Vec<u8> = (offset..offset + length)
                .map(|offset| (offset % 250) as u8 + 1)
                .collect();
            assert_eq!(bytes, expected, "{length} bytes from {offset}");
        }
        // A first fragment without a byte: the record's bytes begin behind the next header.
        assert_eq!(place_in_file(block, 0), block + HEADER as u64);
    }
}
