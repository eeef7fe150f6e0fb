//! What goes over a connection once both ends have proved who they are: frames of a header and a payload.
//!
//! | bytes | what (little-endian) |
//! |---|---|
//! | 0..4 | `SNf1` |
//! | 4..8 | kind |
//! | 8..16 | number of the call, from 1 |
//! | 16..20 | index: of a piece within its call; of the worker that an abort blames |
//! | 20..24 | length of the payload in bytes |
//! | 24..28 | exponent of the payload's scale (f16 only), else 0 |
//! | 28..32 | CRC-32 of bytes 0..28 and the payload |

pub(crate) const HEADER_LENGTH: usize = 32;
const MAGIC: [u8; 4] = *b"SNf1";

#[cfg(target_endian = "big")]
compile_error!("values go over the wire as they lie in memory, which has to be little-endian");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The call that a worker is at. Payload: the call, then the message of an all-gather.
    Announcement = 1,
    /// The run is over. Payload: the reason.
    Abort = 2,
    /// The worker does nothing any more. Payload: the reason.
    Leave = 3,
    /// Values of a call.
    Piece = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) call: u64,
    pub(crate) index: u32,
    pub(crate) length: u32,
    pub(crate) exponent: i32,
}

impl Header {
    /// The bytes of the header, for a payload whose parts lie one after the other.
    pub(crate) fn encode(&self, payload: &[&[u8]]) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.call.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.index.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.exponent.to_le_bytes());
        let checksum = checksum(&bytes, payload);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header in these bytes, or what is wrong with them. The checksum is not looked at: the payload is not here.
    pub(crate) fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return Err("something that is no frame".to_owned());
        }
        let kind = match word(4) {
            1 => Kind::Announcement,
            2 => Kind::Abort,
            3 => Kind::Leave,
            4 => Kind::Piece,
            other => return Err(format!("a frame of unknown kind {other}")),
        };
        Ok(Self {
            kind,
            call: u64::from(word(8)) | u64::from(word(12)) << 32,
            index: word(16),
            length: word(20),
            exponent: word(24).cast_signed(),
        })
    }
}

/// Whether the header's checksum is that of the frame.
pub(crate) fn is_intact(header: &[u8; HEADER_LENGTH], payload: &[u8]) -> bool {
    header[28..] == checksum(header, &[payload]).to_le_bytes()
}

fn checksum(header: &[u8; HEADER_LENGTH], payload: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..28]);
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_encoding_and_no_bit_of_a_frame_may_change() {
        let header = Header {
            kind: Kind::Piece,
            call: 0x0102_0304_0506_0708,
            index: 9,
            length: 3,
            exponent: -7,
        };
        let bytes = header.encode(&[b"ab", b"c"]);
        assert_eq!(Header::decode(&bytes), Ok(header));
        assert!(is_intact(&bytes, b"abc"));
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_intact(&other, b"abc"), "bit {bit}");
        }
        assert!(!is_intact(&bytes, b"abd"));
    }

    #[test]
    fn what_is_no_frame_is_said_to_be_none() {
        assert_eq!(
            Header::decode(b"GET / HTTP/1.1\r\nHost: other.host"),
            Err("something that is no frame".to_owned())
        );
        let mut bytes = Header {
            kind: Kind::Leave,
            call: 1,
            index: 0,
            length: 0,
            exponent: 0,
        }
        .encode(&[]);
        bytes[4] = 77;
        assert_eq!(Header::decode(&bytes), Err("a frame of unknown kind 77".to_owned()));
    }
}
