//! Object headers: the messages that say what an object is.

use crate::{Error, bytes::Bytes, damaged, file::File};

/// More pieces than this no header has.
const MAX_BLOCKS: usize = 1024;

/// The types of the messages that are looked at.
pub mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const FILL_VALUE: u16 = 0x05;
    pub const LINK: u16 = 0x06;
    pub const LAYOUT: u16 = 0x08;
    pub const GROUP_INFO: u16 = 0x0a;
    pub const FILTERS: u16 = 0x0b;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
}

/// One message.
pub struct Message {
    pub kind: u16,
    pub data: Vec<u8>,
}

/// The messages of the object at an address.
pub struct Header(Vec<Message>);

impl Header {
    pub fn read(file: &File, address: u64) -> Result<Self, Error> {
        file.count_opening()?;
        let start = file.bytes(address, 4)?;
        let mut messages = Vec::new();
        // Pieces that are still to be read: address and length.
        let mut blocks = Vec::new();
        let is_old = start != *b"OHDR";
        let mut has_order = false;
        if is_old {
            let prefix = file.bytes(address, 16)?;
            let mut prefix = Bytes(&prefix);
            if prefix.u8()? != 1 {
                return Err(damaged("there is no object header where one should be"));
            }
            prefix.take(7)?;
            blocks.push((address.saturating_add(16), u64::from(prefix.u32()?)));
        } else {
            let flags = file.bytes(address, 6)?[5];
            let times = if flags & 0x20 != 0 { 16 } else { 0 };
            let limits = if flags & 0x10 != 0 { 4 } else { 0 };
            has_order = flags & 0x04 != 0;
            let size_at = address.saturating_add(6 + times + limits);
            let size_of_size = 1 << (flags & 3);
            let size = Bytes(&file.bytes(size_at, size_of_size)?).sized(size_of_size as usize)?;
            blocks.push((size_at.saturating_add(size_of_size), size));
        }
        let mut next = 0;
        while let Some((start, length)) = blocks.get(next).copied() {
            next += 1;
            if next > MAX_BLOCKS {
                return Err(damaged("an object header goes round in circles"));
            }
            let block = file.bytes(start, length)?;
            let mut rest = Bytes(&block);
            if !is_old && next > 1 {
                rest.expect(b"OCHK", "continued object header")?;
                // The checksum at its end.
                rest.0 = &rest.0[..rest.0.len().saturating_sub(4)];
            }
            read_messages(rest, is_old, has_order, &mut messages, &mut blocks)?;
        }
        Ok(Self(messages))
    }

    /// The first message of a type.
    pub fn find(&self, kind: u16) -> Option<&[u8]> {
        self.all(kind).next()
    }

    /// All messages of a type.
    pub fn all(&self, kind: u16) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |message| message.kind == kind)
            .map(|message| message.data.as_slice())
    }
}

fn read_messages(
    mut rest: Bytes<'_>,
    is_old: bool,
    has_order: bool,
    messages: &mut Vec<Message>,
    blocks: &mut Vec<(u64, u64)>,
) -> Result<(), Error> {
    let head = match (is_old, has_order) {
        (true, _) => 8,
        (false, true) => 6,
        (false, false) => 4,
    };
    // What is shorter than a message's head is a gap.
    while rest.0.len() >= head {
        let kind = if is_old { rest.u16()? } else { u16::from(rest.u8()?) };
        let size = rest.u16()?;
        let flags = rest.u8()?;
        rest.take(head - if is_old { 5 } else { 4 })?;
        let data = rest.take(usize::from(size))?;
        const SHARED: u8 = 0x02;
        if flags & SHARED != 0 && matches!(kind, kind::DATASPACE | kind::DATATYPE | kind::FILTERS) {
            return Err(Error::Unsupported("a datatype with a name of its own".to_owned()));
        }
        if kind == kind::CONTINUATION {
            let mut place = Bytes(data);
            blocks.push((place.u64()?, place.u64()?));
        } else {
            messages.push(Message {
                kind,
                data: data.to_vec(),
            });
        }
    }
    Ok(())
}
