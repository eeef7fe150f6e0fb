//! Groups: members by name.

use crate::{
    Error, UNDEFINED,
    bytes::{Bytes, text},
    damaged,
    dataset::Dataset,
    file::File,
    header::{Header, kind},
};

/// Groups and soft links deeper than this are taken for a circle.
const MAX_DEPTH: u32 = 64;

/// A group, with the names of its members.
pub struct Group<'f> {
    file: &'f File,
    links: Vec<(String, Link)>,
    depth: u32,
}

/// A member of a group.
pub enum Object<'f> {
    /// A group.
    Group(Group<'f>),
    /// An array.
    Dataset(Dataset<'f>),
}

enum Link {
    /// The address of the member's header.
    Hard(u64),
    /// A path from the root, or from the group.
    Soft(String),
    /// To another file, or of a program's own.
    Other,
}

impl<'f> Group<'f> {
    pub(crate) fn read(file: &'f File, address: u64, depth: u32) -> Result<Self, Error> {
        match Object::read(file, address, depth)? {
            Object::Group(group) => Ok(group),
            Object::Dataset(_) => Err(damaged("its root is no group")),
        }
    }

    fn of_header(file: &'f File, header: &Header, depth: u32) -> Result<Self, Error> {
        let links = match header.find(kind::SYMBOL_TABLE) {
            Some(table) => {
                let mut table = Bytes(table);
                SymbolTable::read(file, table.u64()?, table.u64()?)?
            }
            None => {
                if let Some(info) = header.find(kind::LINK_INFO) {
                    check_compact(info)?;
                }
                header.all(kind::LINK).map(read_link).collect::<Result<_, _>>()?
            }
        };
        Ok(Self { file, links, depth })
    }

    /// The names of the members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|(name, _)| name.as_str())
    }

    /// The member `name`, which may be a path of groups and a name; `None` if there is none.
    ///
    /// # Errors
    /// A damaged file, a member that is written in a way that is not read here.
    pub fn open(&self, name: &str) -> Result<Option<Object<'f>>, Error> {
        let mut parts = name.split('/').filter(|part| !part.is_empty());
        let Some(first) = parts.next() else {
            return Ok(None);
        };
        let mut found = self.member(first)?;
        for part in parts {
            found = match found {
                Some(Object::Group(group)) => group.member(part)?,
                _ => return Ok(None),
            };
        }
        Ok(found)
    }

    fn member(&self, name: &str) -> Result<Option<Object<'f>>, Error> {
        let Some((_, link)) = self.links.iter().find(|(found, _)| found == name) else {
            return Ok(None);
        };
        if self.depth >= MAX_DEPTH {
            return Err(damaged(format!("its groups lie more than {MAX_DEPTH} deep")));
        }
        match link {
            Link::Hard(address) => Object::read(self.file, *address, self.depth + 1).map(Some),
            Link::Soft(path) if path.starts_with('/') => {
                Self::read(self.file, self.file.root_address(), self.depth + 1)?.open(path)
            }
            Link::Soft(path) => {
                let deeper = Self {
                    file: self.file,
                    links: Vec::new(),
                    depth: self.depth + 1,
                };
                self.open_from(path, &deeper)
            }
            Link::Other => Err(Error::Unsupported(format!("a link '{name}' to another file"))),
        }
    }

    /// Opens a path that is relative to this group, at the depth of `deeper`.
    fn open_from(&self, path: &str, deeper: &Self) -> Result<Option<Object<'f>>, Error> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let found = match self.links.iter().find(|(name, _)| name == first) {
            Some((_, Link::Hard(address))) => Object::read(self.file, *address, deeper.depth)?,
            // Soft links to soft links are followed where they begin at the root.
            _ => return Ok(None),
        };
        match (found, rest) {
            (found, "") => Ok(Some(found)),
            (Object::Group(group), rest) => group.open(rest),
            (Object::Dataset(_), _) => Ok(None),
        }
    }
}

impl<'f> Object<'f> {
    fn read(file: &'f File, address: u64, depth: u32) -> Result<Self, Error> {
        let header = Header::read(file, address)?;
        if header.find(kind::LAYOUT).is_some() {
            return Ok(Self::Dataset(Dataset::of_header(file, &header)?));
        }
        let is_group = [kind::SYMBOL_TABLE, kind::LINK_INFO, kind::LINK, kind::GROUP_INFO]
            .iter()
            .any(|kind| header.find(*kind).is_some());
        if is_group {
            return Ok(Self::Group(Group::of_header(file, &header, depth)?));
        }
        if header.find(kind::DATATYPE).is_some() {
            return Err(Error::Unsupported("a datatype with a name of its own".to_owned()));
        }
        Err(damaged("an object in it is neither a group nor an array"))
    }
}

/// Groups since HDF5 1.8 keep few members in their header, and many in a fractal heap.
fn check_compact(info: &[u8]) -> Result<(), Error> {
    let mut info = Bytes(info);
    info.u8()?;
    if info.u8()? & 1 != 0 {
        info.u64()?;
    }
    if info.u64()? != UNDEFINED {
        return Err(Error::Unsupported(
            "a group whose members lie in a fractal heap".to_owned(),
        ));
    }
    Ok(())
}

fn read_link(message: &[u8]) -> Result<(String, Link), Error> {
    let mut rest = Bytes(message);
    let (version, flags) = (rest.u8()?, rest.u8()?);
    if version != 1 {
        return Err(damaged(format!("a link has version {version}")));
    }
    let link_type = if flags & 0x08 != 0 { rest.u8()? } else { 0 };
    if flags & 0x04 != 0 {
        rest.u64()?;
    }
    if flags & 0x10 != 0 {
        rest.u8()?;
    }
    let length = rest.sized(1 << (flags & 3))?;
    let name = text(rest.take(usize::try_from(length).unwrap_or(usize::MAX))?)?;
    let link = match link_type {
        0 => Link::Hard(rest.u64()?),
        1 => {
            let length = rest.u16()?;
            Link::Soft(text(rest.take(usize::from(length))?)?)
        }
        _ => Link::Other,
    };
    Ok((name, link))
}

/// A group of before HDF5 1.8: a B-tree of nodes with entries, whose names lie in a heap.
struct SymbolTable<'f> {
    file: &'f File,
    names: Vec<u8>,
    links: Vec<(String, Link)>,
    /// Bytes of nodes that may still be read: nodes do not overlap.
    bytes_left: u64,
}

impl<'f> SymbolTable<'f> {
    fn read(file: &'f File, tree: u64, heap: u64) -> Result<Vec<(String, Link)>, Error> {
        let head = file.bytes(heap, 32)?;
        let mut head = Bytes(&head);
        head.expect(b"HEAP", "heap of names")?;
        head.u32()?;
        let (size, _, address) = (head.u64()?, head.u64()?, head.u64()?);
        let mut table = Self {
            file,
            names: file.bytes(address, size)?,
            links: Vec::new(),
            bytes_left: file.length(),
        };
        table.walk(tree, None)?;
        Ok(table.links)
    }

    fn walk(&mut self, address: u64, level_above: Option<u8>) -> Result<(), Error> {
        let node = TreeNode::read(self.file, address, 0, 8, level_above, &mut self.bytes_left)?;
        for (_, child) in node.children()? {
            if node.level > 0 {
                self.walk(child, Some(node.level))?;
            } else {
                self.read_entries(child)?;
            }
        }
        Ok(())
    }

    fn read_entries(&mut self, address: u64) -> Result<(), Error> {
        const ENTRY_BYTES: u64 = 40;
        let head = self.file.bytes(address, 8)?;
        let mut head = Bytes(&head);
        head.expect(b"SNOD", "node of names")?;
        head.u16()?;
        let count = u64::from(head.u16()?);
        charge(&mut self.bytes_left, 8 + count * ENTRY_BYTES)?;
        let entries = self.file.bytes(address.saturating_add(8), count * ENTRY_BYTES)?;
        let mut rest = Bytes(&entries);
        for _ in 0..count {
            let name = self.name(rest.u64()?)?;
            let (address, cached) = (rest.u64()?, rest.u32()?);
            rest.u32()?;
            let value_at = u64::from(rest.u32()?);
            rest.take(12)?;
            const SOFT_LINK: u32 = 2;
            let link = if cached == SOFT_LINK {
                Link::Soft(self.name(value_at)?)
            } else {
                Link::Hard(address)
            };
            self.links.push((name, link));
        }
        Ok(())
    }

    fn name(&self, offset: u64) -> Result<String, Error> {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.names.get(offset..));
        text(bytes.ok_or_else(|| damaged("a name lies outside of its heap"))?)
    }
}

/// Takes `bytes` from what a tree may still read.
fn charge(bytes_left: &mut u64, bytes: u64) -> Result<(), Error> {
    let left = bytes_left.checked_sub(bytes);
    *bytes_left = left.ok_or_else(|| damaged("a B-tree goes round in circles"))?;
    Ok(())
}

/// A node of a B-tree of version 1.
pub(crate) struct TreeNode {
    pub level: u8,
    entries: usize,
    key_bytes: usize,
    /// Keys and children in turn.
    body: Vec<u8>,
}

impl TreeNode {
    /// Reads a node of a tree of `node_type` with keys of `key_bytes`. Levels fall by one and nodes are taken from
    /// `bytes_left`, so that no walk is endless.
    pub fn read(
        file: &File,
        address: u64,
        node_type: u8,
        key_bytes: usize,
        level_above: Option<u8>,
        bytes_left: &mut u64,
    ) -> Result<Self, Error> {
        let head = file.bytes(address, 24)?;
        let mut head = Bytes(&head);
        head.expect(b"TREE", "B-tree")?;
        let (found_type, level, entries) = (head.u8()?, head.u8()?, head.u16()?);
        if found_type != node_type || level_above.is_some_and(|above| above.checked_sub(1) != Some(level)) {
            return Err(damaged("a B-tree has a wrong branch"));
        }
        let body_bytes = usize::from(entries) * (key_bytes + 8);
        charge(bytes_left, 24 + body_bytes as u64)?;
        Ok(Self {
            level,
            entries: usize::from(entries),
            key_bytes,
            body: file.bytes(address.saturating_add(24), body_bytes as u64)?,
        })
    }

    /// Each child's key and address.
    pub fn children(&self) -> Result<Vec<(&[u8], u64)>, Error> {
        let mut rest = Bytes(&self.body);
        let child = |_| Ok((rest.take(self.key_bytes)?, rest.u64()?));
        (0..self.entries).map(child).collect()
    }
}
