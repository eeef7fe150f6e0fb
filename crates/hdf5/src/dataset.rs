//! Arrays.

use crate::{
    Error, MAX_AXES, UNDEFINED,
    bytes::{Bytes, text},
    chunks::{self, Filter},
    damaged,
    datatype::Datatype,
    file::File,
    header::{Header, kind},
};

/// So many bytes may be zeros that no file stores: arrays may be declared and not written.
const MAX_UNWRITTEN_BYTES: u64 = 1 << 24;

/// An array; its values are read when they are asked for.
pub struct Dataset<'f> {
    file: &'f File,
    dims: Vec<u64>,
    datatype: Datatype,
    layout: Layout,
    filters: Vec<Filter>,
    /// An element that was not written; zeros where empty.
    fill_value: Vec<u8>,
}

/// Where the values are.
enum Layout {
    /// In the header itself.
    Compact(Vec<u8>),
    /// In one piece at an address.
    Contiguous(u64),
    /// In pieces of these extents, which a B-tree at an address names.
    Chunked { tree: u64, chunk_dims: Vec<u64> },
}

impl<'f> Dataset<'f> {
    pub(crate) fn of_header(file: &'f File, header: &Header) -> Result<Self, Error> {
        let message = |kind, what: &str| {
            header
                .find(kind)
                .ok_or_else(|| damaged(format!("an array has no {what}")))
        };
        let dims = read_dataspace(message(kind::DATASPACE, "dataspace")?)?;
        let datatype = Datatype::read(message(kind::DATATYPE, "datatype")?)?;
        let layout = read_layout(message(kind::LAYOUT, "layout")?, dims.len())?;
        let filters = match header.find(kind::FILTERS) {
            Some(filters) => Filter::read_all(filters)?,
            None => Vec::new(),
        };
        let mut fill_value = header.find(kind::FILL_VALUE).map(read_fill_value).transpose()?;
        let fill_value = fill_value.take().filter(|value| value.len() == datatype.size());
        Ok(Self {
            file,
            dims,
            datatype,
            layout,
            filters,
            fill_value: fill_value.unwrap_or_default(),
        })
    }

    /// The extents, outermost first; empty for a single value.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// All values, of integers or floats of any size.
    ///
    /// # Errors
    /// A damaged file, an array of text, one that does not fit into memory.
    pub fn read_f32(&self) -> Result<Vec<f32>, Error> {
        self.datatype.to_f32(&self.read_raw()?)
    }

    /// All values, of integers of any size; those above `i64::MAX` become that.
    ///
    /// # Errors
    /// As [`Dataset::read_f32`]; an array of floats.
    pub fn read_i64(&self) -> Result<Vec<i64>, Error> {
        self.datatype.to_i64(&self.read_raw()?)
    }

    /// The text that is the array's only element.
    ///
    /// # Errors
    /// As [`Dataset::read_f32`]; an array of numbers, or of another number of elements.
    pub fn read_text(&self) -> Result<String, Error> {
        let found = self.datatype.name();
        match self.datatype {
            Datatype::Text { .. } if self.dims.iter().all(|dim| *dim == 1) => text(&self.read_raw()?),
            _ => Err(Error::OtherType {
                found,
                wanted: "one text",
            }),
        }
    }

    /// The bytes of all elements.
    fn read_raw(&self) -> Result<Vec<u8>, Error> {
        let size = self.datatype.size() as u64;
        let total = self.dims.iter().try_fold(size, |total, dim| total.checked_mul(*dim));
        let Some(total) = total.filter(|total| *total <= i64::MAX as u64) else {
            return Err(damaged(format!(
                "an array of shape {:?} is larger than any disk",
                self.dims
            )));
        };
        match &self.layout {
            _ if total == 0 => Ok(Vec::new()),
            Layout::Compact(bytes) if bytes.len() as u64 >= total => Ok(bytes[..total as usize].to_vec()),
            Layout::Compact(_) => Err(damaged("an array in a header is cut short")),
            Layout::Contiguous(UNDEFINED) => self.unwritten(total, 0),
            Layout::Contiguous(address) => self.file.bytes(*address, total),
            Layout::Chunked { tree: UNDEFINED, .. } => self.unwritten(total, 0),
            Layout::Chunked { tree, chunk_dims } => {
                let chunks = chunks::list(self.file, *tree, chunk_dims, &self.dims)?;
                let chunk_bytes = chunk_dims.iter().try_fold(size, |bytes, dim| bytes.checked_mul(*dim));
                let chunk_bytes = chunk_bytes.ok_or_else(|| damaged("a chunk is larger than any disk"))?;
                let stored = chunks::unpacked_limit(&chunks, chunk_bytes);
                let mut raw = self.unwritten(total, stored)?;
                for chunk in &chunks {
                    let bytes = chunk.read(self.file, &self.filters, chunk_bytes)?;
                    chunks::place(&bytes, &mut raw, chunk, chunk_dims, &self.dims, size as usize);
                }
                Ok(raw)
            }
        }
    }

    /// `total` bytes of elements that were not written, where the file can hold `stored` that were.
    fn unwritten(&self, total: u64, stored: u64) -> Result<Vec<u8>, Error> {
        if total > stored.saturating_add(MAX_UNWRITTEN_BYTES) {
            return Err(damaged(format!(
                "an array of shape {:?} is mostly not there",
                self.dims
            )));
        }
        let mut raw = Vec::new();
        raw.try_reserve_exact(total as usize)
            .map_err(|_| Error::TooLarge(total))?;
        raw.resize(total as usize, 0);
        if !self.fill_value.is_empty() {
            for element in raw.chunks_exact_mut(self.fill_value.len()) {
                element.copy_from_slice(&self.fill_value);
            }
        }
        Ok(raw)
    }
}

fn read_dataspace(message: &[u8]) -> Result<Vec<u64>, Error> {
    let mut rest = Bytes(message);
    let (version, axes, _flags) = (rest.u8()?, usize::from(rest.u8()?), rest.u8()?);
    match version {
        1 => drop(rest.take(5)?),
        2 => {
            const NULL: u8 = 2;
            if rest.u8()? == NULL {
                return Ok(vec![0]);
            }
        }
        _ => return Err(damaged(format!("a dataspace has version {version}"))),
    }
    if axes > MAX_AXES {
        return Err(damaged(format!("an array has {axes} axes")));
    }
    (0..axes).map(|_| rest.u64()).collect()
}

fn read_layout(message: &[u8], axes: usize) -> Result<Layout, Error> {
    let mut rest = Bytes(message);
    let (version, class) = (rest.u8()?, rest.u8()?);
    match (version, class) {
        (1 | 2, _) => Err(Error::Unsupported(
            "an array in a layout from before HDF5 1.6.3".to_owned(),
        )),
        (3..=5, 0) => {
            let size = rest.u16()?;
            Ok(Layout::Compact(rest.take(usize::from(size))?.to_vec()))
        }
        (3..=5, 1) => Ok(Layout::Contiguous(rest.u64()?)),
        (3, 2) => {
            let extents = usize::from(rest.u8()?);
            let tree = rest.u64()?;
            // The last extent is the size of an element.
            if axes == 0 || extents != axes + 1 {
                return Err(damaged("an array and its chunks have different numbers of axes"));
            }
            let chunk_dims = (0..axes).map(|_| rest.u32().map(u64::from));
            let chunk_dims = chunk_dims.collect::<Result<Vec<_>, _>>()?;
            if chunk_dims.contains(&0) {
                return Err(damaged("a chunk has an extent of 0"));
            }
            Ok(Layout::Chunked { tree, chunk_dims })
        }
        (4 | 5, 2) => Err(Error::Unsupported(
            "an array in chunks as HDF5 1.10 indexes them".to_owned(),
        )),
        (3..=5, 3) => Err(Error::Unsupported(
            "an array that is made of those of other files".to_owned(),
        )),
        _ => Err(damaged(format!(
            "an array's layout has version {version} and class {class}"
        ))),
    }
}

/// The value of elements that were not written; empty where it is not defined.
fn read_fill_value(message: &[u8]) -> Result<Vec<u8>, Error> {
    let mut rest = Bytes(message);
    let version = rest.u8()?;
    let is_defined = match version {
        1 | 2 => {
            rest.take(2)?;
            rest.u8()? != 0
        }
        3 => rest.u8()? & 0x20 != 0,
        _ => false,
    };
    if !is_defined {
        return Ok(Vec::new());
    }
    let size = rest.u32()?;
    Ok(rest.take(size as usize)?.to_vec())
}
