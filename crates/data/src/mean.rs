//! Mean images: `mean.binaryproto` or `mean.npy`, read and computed.

use std::fs;
use std::io::Write;
use std::path::Path;

use prost::Message;
use sparknet_proto::caffe::BlobProto;

use crate::decode::{ColorMode, decode_image};
use crate::source::{Backend, open_source};
use crate::{DataError, Pixels, Record, npy};

/// A mean image.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanImage {
    /// `(c, h, w)`.
    pub shape: [usize; 3],
    /// Planar `(c, h, w)`.
    pub values: Vec<f32>,
}

impl MeanImage {
    /// Reads a `BlobProto` or NumPy file (`.npy`) that has one image.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bad = |detail: String| DataError::BadMean {
            path: path.to_path_buf(),
            detail,
        };
        let bytes = fs::read(path).map_err(|cause| DataError::io("read", path, cause))?;
        let (dimensions, values) = if bytes.starts_with(npy::MAGIC) {
            let (shape, values) = npy::parse(&bytes).map_err(bad)?;
            (shape.iter().map(|size| *size as i64).collect(), values)
        } else {
            let blob = BlobProto::decode(&bytes[..]).map_err(|cause| {
                bad(format!(
                    "it is not a binary BlobProto ({cause}), and no .npy file: make it with `sparknet mean`"
                ))
            })?;
            blob_values(blob)
        };
        let image = match dimensions[..] {
            [1, channels, height, width] | [channels, height, width] => Some([channels, height, width]),
            _ => None,
        };
        let shape = image.map(|shape| shape.map(|size| usize::try_from(size).unwrap_or(0)));
        let shape =
            shape.filter(|shape| shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size)) == Some(values.len()));
        match shape {
            Some(shape) if !values.is_empty() => Ok(Self { shape, values }),
            _ => Err(bad(format!(
                "it has the shape {dimensions:?} and {} values, which is no single image: make it with `sparknet mean`",
                values.len()
            ))),
        }
    }

    /// Writes the image as Caffe's `compute_image_mean` does: a `BlobProto` with num, channels, height and width.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let [channels, height, width] = self.shape.map(|size| i32::try_from(size).unwrap_or(i32::MAX));
        let blob = BlobProto {
            num: Some(1),
            channels: Some(channels),
            height: Some(height),
            width: Some(width),
            data: self.values.clone(),
            ..BlobProto::default()
        };
        write_whole(path, &blob.encode_to_vec())
    }
}

/// The blob's shape and values.
fn blob_values(blob: BlobProto) -> (Vec<i64>, Vec<f32>) {
    let dimensions = match &blob.shape {
        Some(shape) => shape.dim.clone(),
        None => [blob.num(), blob.channels(), blob.height(), blob.width()]
            .map(i64::from)
            .to_vec(),
    };
    let values = if blob.data.is_empty() {
        blob.double_data.iter().map(|&value| value as f32).collect()
    } else {
        blob.data
    };
    (dimensions, values)
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".tmp-{}", std::process::id()));
    let temporary = Path::new(&temporary);
    let write = || {
        let mut file = fs::File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().map_err(|cause| {
        let _ = fs::remove_file(temporary);
        DataError::io("write", path, cause)
    })
}

/// What [`compute_mean`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanReport {
    /// How many records were averaged.
    pub records: u64,
    /// `(c, h, w)` of each of them.
    pub shape: [usize; 3],
    /// The mean of each channel, for `mean_value`.
    pub channel_means: Vec<f32>,
}

/// Averages every record of a source, encoded ones decoded with their own channels, and writes the mean image to `output`.
///
/// # Errors
/// A source or record that cannot be read, records of different sizes.
pub fn compute_mean(source: &Path, backend: Backend, output: &Path) -> Result<MeanReport, DataError> {
    let mut reader = open_source(source, backend)?;
    let mut record = Record::default();
    let mut shape = [0; 3];
    let mut sums: Vec<f64> = Vec::new();
    let records = reader.len_records();
    for index in 0..records {
        reader.read(&mut record)?;
        let stored = [record.channels, record.height, record.width];
        let record_shape = match &record.pixels {
            Pixels::Encoded(encoded) => {
                let image = decode_image(encoded, ColorMode::Native)
                    .map_err(|detail| DataError::bad_record(source, &record.key, detail))?;
                add(&mut sums, image.bytes.iter().map(|&byte| f64::from(byte)));
                image.shape
            }
            Pixels::Bytes(bytes) => {
                add(&mut sums, bytes.iter().map(|&byte| f64::from(byte)));
                stored
            }
            Pixels::Floats(floats) => {
                add(&mut sums, floats.iter().map(|&float| f64::from(float)));
                stored
            }
        };
        if index == 0 {
            shape = record_shape;
        } else if record_shape != shape {
            let remedy = reader.remedy_for_sizes(shape[1], shape[2]);
            return Err(other_size(source, &record.key, record_shape, shape, &remedy));
        }
    }
    let values: Vec<f32> = sums.iter().map(|sum| (sum / records as f64) as f32).collect();
    let plane = shape[1] * shape[2];
    let average = |values: &[f32]| (values.iter().map(|&value| f64::from(value)).sum::<f64>() / plane as f64) as f32;
    let channel_means = values.chunks_exact(plane).map(average).collect();
    MeanImage { shape, values }.write(output)?;
    Ok(MeanReport {
        records,
        shape,
        channel_means,
    })
}

/// Adds one record; the first one makes the sums. Records of another size add what fits and are rejected by the caller.
fn add(sums: &mut Vec<f64>, values: impl ExactSizeIterator<Item = f64>) {
    if sums.is_empty() {
        sums.resize(values.len(), 0.0);
    }
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// The error for a record whose size is not that of the first one.
pub(crate) fn other_size(source: &Path, key: &[u8], found: [usize; 3], first: [usize; 3], remedy: &str) -> DataError {
    let size = |[channels, height, width]: [usize; 3]| format!("{channels}x{height}x{width}");
    let detail = format!("is {}, but the first record is {}: {remedy}", size(found), size(first));
    DataError::bad_record(source, key, detail)
}
