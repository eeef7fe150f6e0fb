//! What the elements of an array are, and how they become numbers.

use crate::{Error, bytes::Bytes};

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Datatype {
    Integer {
        size: usize,
        signed: bool,
        big_endian: bool,
    },
    Float {
        size: usize,
        big_endian: bool,
    },
    /// So many bytes each.
    Text {
        size: usize,
    },
}

impl Datatype {
    pub fn read(message: &[u8]) -> Result<Self, Error> {
        let mut rest = Bytes(message);
        let class = rest.u8()? & 0x0f;
        let bits = rest.array::<3>()?;
        let size = rest.u32()? as usize;
        let big_endian = bits[0] & 1 != 0;
        let unsupported = |what: &str| Err(Error::Unsupported(what.to_owned()));
        match class {
            0 => {
                let (offset, precision) = (rest.u16()?, usize::from(rest.u16()?));
                if !matches!(size, 1 | 2 | 4 | 8) || offset != 0 || precision != size * 8 {
                    return unsupported("integers of an unusual size");
                }
                let signed = bits[0] & 8 != 0;
                Ok(Self::Integer {
                    size,
                    signed,
                    big_endian,
                })
            }
            1 => {
                let (_, precision) = (rest.u16()?, rest.u16()?);
                let [_, exponent_bits, _, fraction_bits] = rest.array()?;
                let is_ieee = matches!(
                    (size, precision, exponent_bits, fraction_bits),
                    (2, 16, 5, 10) | (4, 32, 8, 23) | (8, 64, 11, 52)
                );
                if !is_ieee || bits[0] & 0x40 != 0 {
                    return unsupported("floats that are not IEEE's");
                }
                Ok(Self::Float { size, big_endian })
            }
            3 => Ok(Self::Text { size }),
            6 => unsupported("an array of records of several fields"),
            8 => unsupported("an enumeration (h5py stores booleans so)"),
            9 => unsupported("an array of variable length"),
            _ => unsupported(&format!("a datatype of class {class}")),
        }
    }

    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::Integer { size, .. } | Self::Float { size, .. } | Self::Text { size } => size,
        }
    }

    /// What it is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer { .. } => "integers",
            Self::Float { .. } => "floats",
            Self::Text { .. } => "text",
        }
    }

    /// The numbers that `raw` holds, as floats.
    pub fn to_f32(self, raw: &[u8]) -> Result<Vec<f32>, Error> {
        match self {
            Self::Float { size: 4, big_endian } => values(raw, big_endian, f32::from_le_bytes),
            Self::Float { size: 8, big_endian } => values(raw, big_endian, |bytes| f64::from_le_bytes(bytes) as f32),
            Self::Float { big_endian, .. } => values(raw, big_endian, |bytes| half(u16::from_le_bytes(bytes))),
            Self::Integer { .. } => self.integers(raw, |value| value as f32),
            Self::Text { .. } => Err(self.mismatch("numbers")),
        }
    }

    /// The integers that `raw` holds; those above `i64::MAX` become that.
    pub fn to_i64(self, raw: &[u8]) -> Result<Vec<i64>, Error> {
        self.integers(raw, |value| i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn integers<T>(self, raw: &[u8], convert: impl Fn(i128) -> T) -> Result<Vec<T>, Error> {
        let Self::Integer {
            size,
            signed,
            big_endian,
        } = self
        else {
            return Err(self.mismatch("integers"));
        };
        match (size, signed) {
            (1, false) => values(raw, big_endian, |b| convert(u8::from_le_bytes(b).into())),
            (1, true) => values(raw, big_endian, |b| convert(i8::from_le_bytes(b).into())),
            (2, false) => values(raw, big_endian, |b| convert(u16::from_le_bytes(b).into())),
            (2, true) => values(raw, big_endian, |b| convert(i16::from_le_bytes(b).into())),
            (4, false) => values(raw, big_endian, |b| convert(u32::from_le_bytes(b).into())),
            (4, true) => values(raw, big_endian, |b| convert(i32::from_le_bytes(b).into())),
            (_, false) => values(raw, big_endian, |b| convert(u64::from_le_bytes(b).into())),
            (_, true) => values(raw, big_endian, |b| convert(i64::from_le_bytes(b).into())),
        }
    }

    fn mismatch(self, wanted: &'static str) -> Error {
        Error::OtherType {
            found: self.name(),
            wanted,
        }
    }
}

/// The elements of `N` bytes that `raw` holds.
fn values<const N: usize, T>(raw: &[u8], big_endian: bool, convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Error> {
    let (elements, _) = raw.as_chunks::<N>();
    let mut values = Vec::new();
    values
        .try_reserve_exact(elements.len())
        .map_err(|_| Error::TooLarge(elements.len() as u64 * size_of::<T>() as u64))?;
    values.extend(elements.iter().map(|bytes| {
        let mut bytes = *bytes;
        if big_endian {
            bytes.reverse();
        }
        convert(bytes)
    }));
    Ok(values)
}

/// A 16-bit IEEE float's value.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    };
    sign * magnitude
}
