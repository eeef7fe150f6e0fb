//! One record as a source holds it, and its way out of a `Datum`.

use std::mem;
use std::path::Path;

use prost::Message;
use sparknet_proto::caffe::Datum;

use crate::DataError;

/// A record's values as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// One byte a value, planar `(c, h, w)`.
    Bytes(Vec<u8>),
    /// One float a value, planar `(c, h, w)`.
    Floats(Vec<f32>),
    /// A JPEG or PNG file; its size is known only after decoding.
    Encoded(Vec<u8>),
}

/// One record as a source holds it: the Datum's pixels or floats, undecoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The key under which the source holds it.
    pub key: Vec<u8>,
    /// Channels; for encoded records what the Datum says, mostly 0.
    pub channels: usize,
    /// Rows; for encoded records what the Datum says, mostly 0.
    pub height: usize,
    /// Columns; for encoded records what the Datum says, mostly 0.
    pub width: usize,
    /// The class.
    pub label: i32,
    /// The label of a source that has labels beyond whole numbers; it then counts.
    pub float_label: Option<f32>,
    /// The arrays of sources whose records have any ([`Source::array_lengths`](crate::Source::array_lengths)), one
    /// after the other.
    pub arrays: Vec<f32>,
    /// The values; none, of shape 0×0×0, where arrays are all there is.
    pub pixels: Pixels,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            key: Vec::new(),
            channels: 0,
            height: 0,
            width: 0,
            label: 0,
            float_label: None,
            arrays: Vec::new(),
            pixels: Pixels::Bytes(Vec::new()),
        }
    }
}

impl Record {
    /// Fills the record with bytes `(c, h, w)` that a source holds in memory.
    pub(crate) fn set_bytes(&mut self, key: &str, shape: [usize; 3], label: i32, bytes: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(key.as_bytes());
        [self.channels, self.height, self.width] = shape;
        self.label = label;
        self.float_label = None;
        let mut buffer = self.take_bytes();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.pixels = Pixels::Bytes(buffer);
    }

    /// Fills the record from a serialised `Datum`; `path` and the record's key are named in errors. `datum` is scratch.
    /// As in Caffe, `float_data` counts where `data` is empty.
    pub(crate) fn set_datum(&mut self, path: &Path, serialised: &[u8], datum: &mut Datum) -> Result<(), DataError> {
        // Merging into a cleared message instead of decoding a new one keeps its buffers.
        let mut data = self.take_bytes();
        data.clear();
        let mut float_data = mem::take(&mut datum.float_data);
        float_data.clear();
        *datum = Datum {
            data: Some(data),
            float_data,
            ..Datum::default()
        };
        datum.merge(serialised).map_err(|cause| {
            DataError::bad_record(
                path,
                &self.key,
                format!("is not a Datum ({cause}): make the source again"),
            )
        })?;
        let data = datum.data.take().unwrap_or_default();
        self.label = datum.label();
        self.float_label = None;
        let shape = [datum.channels(), datum.height(), datum.width()];
        if datum.encoded() {
            [self.channels, self.height, self.width] = shape.map(|size| usize::try_from(size).unwrap_or(0));
            self.pixels = Pixels::Encoded(data);
            return Ok(());
        }
        let wrong = |detail: String| Err(DataError::bad_record(path, &self.key, detail));
        let [channels, height, width] = shape;
        let count = shape
            .iter()
            .try_fold(1_usize, |count, &size| count.checked_mul(usize::try_from(size).ok()?));
        let Some(count) = count.filter(|&count| count > 0) else {
            return wrong(format!(
                "says that it is {channels}x{height}x{width}: every size must be at least 1"
            ));
        };
        let (values, pixels) = if data.is_empty() {
            (datum.float_data.len(), Pixels::Floats(mem::take(&mut datum.float_data)))
        } else {
            (data.len(), Pixels::Bytes(data))
        };
        if values != count {
            return wrong(format!(
                "holds {values} values, but {channels}x{height}x{width} are {count}: make it again"
            ));
        }
        [self.channels, self.height, self.width] = shape.map(|size| size as usize);
        self.pixels = pixels;
        Ok(())
    }

    fn take_bytes(&mut self) -> Vec<u8> {
        match &mut self.pixels {
            Pixels::Bytes(bytes) | Pixels::Encoded(bytes) => mem::take(bytes),
            Pixels::Floats(_) => Vec::new(),
        }
    }
}
