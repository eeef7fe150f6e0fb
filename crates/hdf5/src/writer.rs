//! Writes files as Caffe's library does by default: a superblock of version 0, groups as symbol tables, arrays in one
//! piece. First comes everything that describes, then the values.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Read, Write},
};

use crate::{Error, SIGNATURE, UNDEFINED};

/// Entries in a node of names, twice the number that the superblock gives.
const NODE_ENTRIES: usize = 8;
/// Children of a node of a group's B-tree, twice the number that the superblock gives.
const TREE_CHILDREN: usize = 32;
const TREE_NODE_BYTES: usize = 24 + TREE_CHILDREN * 8 + (TREE_CHILDREN + 1) * 8;

/// A group that is to be written.
#[derive(Default)]
pub struct NewGroup<'a> {
    /// In the order of their bytes, which is that of the B-tree.
    members: BTreeMap<String, Node<'a>>,
}

enum Node<'a> {
    Group(NewGroup<'a>),
    Dataset(NewDataset<'a>),
}

/// An array that is to be written.
pub struct NewDataset<'a> {
    /// `None` for a single value.
    dims: Option<Vec<u64>>,
    datatype: Vec<u8>,
    content: Content<'a>,
    length_bytes: u64,
}

enum Content<'a> {
    Bytes(Vec<u8>),
    F32(&'a [f32]),
    F64(&'a [f64]),
    /// So many bytes as the array has, little-endian.
    Stream(Box<dyn Read + 'a>),
}

impl<'a> NewGroup<'a> {
    /// The group at a path, made with all groups on the way where they are missing.
    ///
    /// # Errors
    /// An array on the way.
    pub fn group_at(&mut self, path: &str) -> Result<&mut Self, Error> {
        let mut group = self;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let member = group.members.entry(part.to_owned());
            match member.or_insert_with(|| Node::Group(NewGroup::default())) {
                Node::Group(inner) => group = inner,
                Node::Dataset(_) => return Err(Error::Twice(path.to_owned())),
            }
        }
        Ok(group)
    }

    /// Puts an array at a path, whose groups are made where they are missing.
    ///
    /// # Errors
    /// Something is there already.
    pub fn insert(&mut self, path: &str, dataset: NewDataset<'a>) -> Result<(), Error> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let group = self.group_at(folder)?;
        if group.members.contains_key(name) {
            return Err(Error::Twice(path.to_owned()));
        }
        group.members.insert(name.to_owned(), Node::Dataset(dataset));
        Ok(())
    }

    /// Writes a file with this group as its root.
    ///
    /// # Errors
    /// What `out` says, or a stream that ends too early.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        let mut layout = Layout {
            described: superblock(),
            contents: Vec::new(),
            contents_bytes: 0,
        };
        let root = layout.group(self);
        let values_at = layout.described.len() as u64;
        for (place, _) in &layout.contents {
            put(&mut layout.described, place.address_at, values_at + place.offset);
        }
        let end = values_at + layout.contents_bytes;
        put(&mut layout.described, 40, end);
        // The root's entry: its name is the empty one, and where its B-tree and heap are is said here too.
        put(&mut layout.described, 64, root.header);
        put(&mut layout.described, 80, root.tree);
        put(&mut layout.described, 88, root.heap);

        let mut out = BufWriter::with_capacity(1 << 16, out);
        out.write_all(&layout.described)?;
        for (place, content) in layout.contents {
            content.write(place.length_bytes, &mut out)?;
            let padding = place.length_bytes.next_multiple_of(8) - place.length_bytes;
            out.write_all(&[0; 8][..padding as usize])?;
        }
        out.flush()
    }
}

impl<'a> NewDataset<'a> {
    /// An array of floats; `dims` are the extents, whose product is the number of values.
    pub fn f32s(dims: &[u64], values: &'a [f32]) -> Self {
        Self::new(Some(dims), FLOAT_32, Content::F32(values), size_of_val(values))
    }

    /// As [`NewDataset::f32s`], of floats of 64 bits.
    pub fn f64s(dims: &[u64], values: &'a [f64]) -> Self {
        Self::new(Some(dims), FLOAT_64, Content::F64(values), size_of_val(values))
    }

    /// As [`NewDataset::f32s`], of values that are read when the file is written: little-endian, four bytes each.
    pub fn f32_stream(dims: &[u64], values: Box<dyn Read + 'a>) -> Self {
        let mut dataset = Self::new(Some(dims), FLOAT_32, Content::Stream(values), 0);
        dataset.length_bytes = dims.iter().product::<u64>() * 4;
        dataset
    }

    /// An array of one integer.
    pub fn i32(value: i32) -> Self {
        Self::new(
            Some(&[1]),
            &integer(4, true),
            Content::Bytes(value.to_le_bytes().to_vec()),
            4,
        )
    }

    /// An array of one integer.
    pub fn i64(value: i64) -> Self {
        Self::new(
            Some(&[1]),
            &integer(8, true),
            Content::Bytes(value.to_le_bytes().to_vec()),
            8,
        )
    }

    /// An array of integers.
    pub fn u64s(values: &[u64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let length = bytes.len();
        Self::new(
            Some(&[values.len() as u64]),
            &integer(8, false),
            Content::Bytes(bytes),
            length,
        )
    }

    /// A text, with a NUL at its end.
    pub fn text(text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        let mut datatype = vec![0x13, 0, 0, 0];
        datatype.extend((bytes.len() as u32).to_le_bytes());
        let length = bytes.len();
        Self::new(None, &datatype, Content::Bytes(bytes), length)
    }

    fn new(dims: Option<&[u64]>, datatype: &[u8], content: Content<'a>, length_bytes: usize) -> Self {
        Self {
            dims: dims.map(<[u64]>::to_vec),
            datatype: datatype.to_vec(),
            content,
            length_bytes: length_bytes as u64,
        }
    }
}

/// IEEE floats of 32 bits: class and version, little-endian with an implied leading bit and the sign at 31, size, first
/// bit and number of bits, place and size of exponent and fraction, bias of the exponent.
const FLOAT_32: &[u8] = &[0x11, 0x20, 31, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0];
const FLOAT_64: &[u8] = &[0x11, 0x20, 63, 0, 8, 0, 0, 0, 0, 0, 64, 0, 52, 11, 0, 52, 0xff, 3, 0, 0];

/// Little-endian integers.
fn integer(size: u8, signed: bool) -> Vec<u8> {
    let sign = if signed { 8 } else { 0 };
    vec![0x10, sign, 0, 0, size, 0, 0, 0, 0, 0, size * 8, 0]
}

impl Content<'_> {
    fn write(self, length_bytes: u64, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => out.write_all(&bytes),
            Self::F32(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
            Self::F64(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
            Self::Stream(stream) => {
                if io::copy(&mut stream.take(length_bytes), out)? < length_bytes {
                    return Err(io::Error::other(
                        "values that were to be written are not there any more",
                    ));
                }
                Ok(())
            }
        }
    }
}

/// Where a group's parts are.
struct GroupPlace {
    header: u64,
    tree: u64,
    heap: u64,
}

/// Where an array's values come.
struct ContentPlace {
    /// Where in the description their address has to be put.
    address_at: usize,
    /// Behind the description.
    offset: u64,
    length_bytes: u64,
}

/// A file that is being laid out.
struct Layout<'a> {
    described: Vec<u8>,
    contents: Vec<(ContentPlace, Content<'a>)>,
    contents_bytes: u64,
}

impl<'a> Layout<'a> {
    fn here(&self) -> u64 {
        self.described.len() as u64
    }

    fn add(&mut self, bytes: &[u8]) {
        self.described.extend_from_slice(bytes);
    }

    fn add_u16(&mut self, value: u16) {
        self.add(&value.to_le_bytes());
    }

    fn add_u64(&mut self, value: u64) {
        self.add(&value.to_le_bytes());
    }

    fn pad(&mut self) {
        self.described.resize(self.described.len().next_multiple_of(8), 0);
    }

    /// Describes a group and all in it.
    fn group(&mut self, group: NewGroup<'a>) -> GroupPlace {
        // The empty name, which is less than any other, comes first in the heap.
        let mut names = vec![0; 8];
        let mut entries = Vec::with_capacity(group.members.len());
        for (name, node) in group.members {
            let header = match node {
                Node::Group(inner) => self.group(inner).header,
                Node::Dataset(dataset) => self.dataset(dataset),
            };
            entries.push((names.len() as u64, header));
            names.extend(name.bytes());
            names.push(0);
            names.resize(names.len().next_multiple_of(8), 0);
        }
        let heap = self.heap(&names);
        let tree = self.tree(&entries);
        let header = self.here();
        self.header(&[(0x11, [tree.to_le_bytes(), heap.to_le_bytes()].concat())]);
        GroupPlace { header, tree, heap }
    }

    fn heap(&mut self, names: &[u8]) -> u64 {
        const NO_FREE_SPACE: u64 = 1;
        let heap = self.here();
        self.add(b"HEAP\0\0\0\0");
        self.add_u64(names.len() as u64);
        self.add_u64(NO_FREE_SPACE);
        self.add_u64(heap + 32);
        self.add(names);
        heap
    }

    /// The B-tree of a group's entries: where each name is in the heap, and where its object.
    fn tree(&mut self, entries: &[(u64, u64)]) -> u64 {
        // Each child with the last name below it.
        let mut children: Vec<(u64, u64)> = Vec::new();
        for entries in entries.chunks(NODE_ENTRIES) {
            children.push((self.here(), entries[entries.len() - 1].0));
            self.add(b"SNOD\x01\0");
            self.add_u16(entries.len() as u16);
            for (name, header) in entries {
                self.add_u64(*name);
                self.add_u64(*header);
                // Nothing is said here of what the object's header says.
                self.add(&[0; 24]);
            }
            let unused = NODE_ENTRIES - entries.len();
            self.add(&vec![0; unused * 40]);
        }
        let mut level = 0;
        loop {
            let first = self.here();
            let nodes = children.len().div_ceil(TREE_CHILDREN).max(1);
            let address = |node: usize| first + (node * TREE_NODE_BYTES) as u64;
            let mut parents = Vec::with_capacity(nodes);
            let mut name_before = 0;
            for node in 0..nodes {
                let end = children.len().min((node + 1) * TREE_CHILDREN);
                let below = &children[node * TREE_CHILDREN..end];
                self.add(b"TREE\0");
                self.add(&[level]);
                self.add_u16(below.len() as u16);
                self.add_u64(if node > 0 { address(node - 1) } else { UNDEFINED });
                self.add_u64(if node + 1 < nodes { address(node + 1) } else { UNDEFINED });
                self.add_u64(name_before);
                for (child, last_name) in below {
                    self.add_u64(*child);
                    self.add_u64(*last_name);
                    name_before = *last_name;
                }
                self.described.resize(address(node + 1) as usize, 0);
                parents.push((address(node), name_before));
            }
            if nodes == 1 {
                return first;
            }
            children = parents;
            level += 1;
        }
    }

    fn dataset(&mut self, dataset: NewDataset<'a>) -> u64 {
        let dims = dataset.dims.unwrap_or_default();
        let mut dataspace = vec![1, dims.len() as u8, 0, 0, 0, 0, 0, 0];
        dims.iter().for_each(|dim| dataspace.extend(dim.to_le_bytes()));
        // Space is taken when values come, and what is not written is zero.
        let fill_value = vec![2, 2, 2, 1, 0, 0, 0, 0];
        let mut place = vec![3, 1];
        place.extend(UNDEFINED.to_le_bytes());
        place.extend(dataset.length_bytes.to_le_bytes());
        let header = self.here();
        self.header(&[
            (0x01, dataspace),
            (0x03, dataset.datatype),
            (0x05, fill_value),
            (0x08, place),
        ]);
        if dataset.length_bytes > 0 {
            // The layout comes last: 24 bytes, of which the address is the third to the tenth.
            let place = ContentPlace {
                address_at: self.described.len() - 22,
                offset: self.contents_bytes,
                length_bytes: dataset.length_bytes,
            };
            self.contents_bytes += dataset.length_bytes.next_multiple_of(8);
            self.contents.push((place, dataset.content));
        }
        header
    }

    /// An object's header with these messages.
    fn header(&mut self, messages: &[(u16, Vec<u8>)]) {
        let padded = |data: &[u8]| data.len().next_multiple_of(8);
        let size: usize = messages.iter().map(|(_, data)| 8 + padded(data)).sum();
        self.add(&[1, 0]);
        self.add_u16(messages.len() as u16);
        self.add(&1u32.to_le_bytes());
        self.add(&(size as u32).to_le_bytes());
        self.add(&[0; 4]);
        for (kind, data) in messages {
            self.add_u16(*kind);
            self.add_u16(padded(data) as u16);
            self.add(&[0; 4]);
            self.add(data);
            self.pad();
        }
    }
}

/// The superblock, without what is known only at the end.
fn superblock() -> Vec<u8> {
    let mut block = SIGNATURE.to_vec();
    // Five versions of 0, and addresses and lengths of 8 bytes.
    block.extend([0, 0, 0, 0, 0, 8, 8, 0]);
    block.extend((NODE_ENTRIES as u16 / 2).to_le_bytes());
    block.extend((TREE_CHILDREN as u16 / 2).to_le_bytes());
    block.extend([0; 4]);
    // The base, free space, the end of the file (at 40), a driver.
    for address in [0, UNDEFINED, 0, UNDEFINED] {
        block.extend(address.to_le_bytes());
    }
    // The root's entry: its name, its header (at 64), and that what follows is its B-tree and heap (at 80).
    block.extend([0; 16]);
    block.extend(1u64.to_le_bytes());
    block.extend([0; 16]);
    block
}

fn put(block: &mut [u8], at: usize, value: u64) {
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
