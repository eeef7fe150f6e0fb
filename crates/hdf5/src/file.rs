//! A file: its superblock, and bytes at addresses.

use std::{cell::Cell, fs, io, os::unix::fs::FileExt, path::Path};

use crate::{Error, SIGNATURE, UNDEFINED, bytes::Bytes, damaged, group::Group};

/// The superblock begins at 0, 512, 1024, 2048, …; nobody has been seen to go further than this.
const LAST_SUPERBLOCK: u64 = 1 << 20;

/// An HDF5 file that is open for reading. What is read comes from the file when it is asked for.
pub struct File {
    file: fs::File,
    length: u64,
    /// Where the superblock is: addresses count from there.
    base: u64,
    /// The address of the root group's header.
    root: u64,
    /// Objects that may still be opened: a damaged file may hold circles.
    openings_left: Cell<u64>,
}

impl File {
    /// Opens a file and looks at its superblock.
    ///
    /// # Errors
    /// A file that is missing, of another kind, cut short, or written in a way that is not read here.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::other("it is a folder: name a file").into());
        }
        let length = metadata.len();
        let mut opened = Self {
            file,
            length,
            base: 0,
            root: UNDEFINED,
            openings_left: Cell::new((length / 16 + 64).min(1 << 20)),
        };
        while opened.bytes(0, 8).is_ok_and(|bytes| bytes != SIGNATURE) && opened.base < LAST_SUPERBLOCK {
            opened.base = (opened.base * 2).max(512);
        }
        if opened.bytes(0, 8).map_or(true, |bytes| bytes != SIGNATURE) {
            return Err(Error::NotHdf5);
        }
        opened.read_superblock()?;
        Ok(opened)
    }

    fn read_superblock(&mut self) -> Result<(), Error> {
        let start = self.bytes(8, 1)?[0];
        let (sizes, end, root) = match start {
            0 | 1 => {
                let head = self.bytes(13, 2)?;
                let numbers = self.bytes(if start == 0 { 24 } else { 28 }, 48)?;
                let mut numbers = Bytes(&numbers);
                // The base address, that of free space, the end, that of the driver, and the root's entry.
                let (_, _, end, _, _) = (
                    numbers.u64()?,
                    numbers.u64()?,
                    numbers.u64()?,
                    numbers.u64()?,
                    numbers.u64()?,
                );
                ([head[0], head[1]], end, numbers.u64()?)
            }
            2 | 3 => {
                let head = self.bytes(9, 2)?;
                let numbers = self.bytes(12, 32)?;
                let mut numbers = Bytes(&numbers);
                let (_, _, end) = (numbers.u64()?, numbers.u64()?, numbers.u64()?);
                ([head[0], head[1]], end, numbers.u64()?)
            }
            version => return Err(Error::Unsupported(format!("a superblock of version {version}"))),
        };
        if sizes != [8, 8] {
            return Err(Error::Unsupported(format!("addresses of {} bytes", sizes[0])));
        }
        if self.base == 0 && end > self.length {
            return Err(damaged(format!("{} of its {end} bytes are there", self.length)));
        }
        self.root = root;
        Ok(())
    }

    /// The group that all others are in.
    ///
    /// # Errors
    /// A damaged file.
    pub fn root(&self) -> Result<Group<'_>, Error> {
        Group::read(self, self.root, 0)
    }

    pub(crate) fn root_address(&self) -> u64 {
        self.root
    }

    /// How many bytes there are in all.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Counts the opening of an object.
    pub(crate) fn count_opening(&self) -> Result<(), Error> {
        match self.openings_left.get().checked_sub(1) {
            Some(left) => {
                self.openings_left.set(left);
                Ok(())
            }
            None => Err(damaged("its groups go round in circles")),
        }
    }

    /// The `count` bytes at an address. Never allocates more than the file has.
    pub(crate) fn bytes(&self, address: u64, count: u64) -> Result<Vec<u8>, Error> {
        let start = self.base.checked_add(address).filter(|_| address != UNDEFINED);
        let start = start.filter(|start| start.checked_add(count).is_some_and(|end| end <= self.length));
        let Some(start) = start else {
            return Err(damaged(format!(
                "it refers to {count} bytes at {address}, behind its end"
            )));
        };
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(count as usize)
            .map_err(|_| Error::TooLarge(count))?;
        bytes.resize(count as usize, 0);
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }
}
