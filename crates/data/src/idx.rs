//! IDX, the format of MNIST and Fashion-MNIST: a file of images and a file of labels.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::DataError;
use crate::record::Record;
use crate::source::Source;

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;
/// More than this is no image: it bounds what a header may ask for.
const MAX_SIDE: u32 = 1 << 16;

/// The records of a pair of IDX files; one channel, keys `%08d` as in Caffe's MNIST converter.
pub struct IdxSource {
    images_file: PathBuf,
    images: Vec<u8>,
    labels: Vec<u8>,
    height: usize,
    width: usize,
    index: u64,
}

impl IdxSource {
    /// Opens a file of images, plain or with `.gz`; its labels lie beside it: `…images-idx3…` becomes `…labels-idx1…`, with or
    /// without `.gz`.
    pub fn open(images_file: &Path) -> Result<Self, DataError> {
        let name = images_file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let labels_name = name.replace("images", "labels").replace("idx3", "idx1");
        if labels_name == name {
            return Err(DataError::UnknownSource(images_file.to_path_buf()));
        }
        let plain = labels_name.trim_end_matches(".gz");
        let candidates = [labels_name.clone(), plain.to_string(), format!("{plain}.gz")];
        let candidates = candidates.map(|name| images_file.with_file_name(name));
        let labels_file = candidates.iter().find(|file| file.exists()).unwrap_or(&candidates[0]);
        Self::open_pair(images_file, labels_file)
    }

    /// Opens a file of images and a file of labels.
    ///
    /// # Errors
    /// A wrong magic number, a file that is shorter or longer than its header says, unequal numbers of images and labels.
    pub fn open_pair(images_file: &Path, labels_file: &Path) -> Result<Self, DataError> {
        let (images_header, images) = read_idx::<4>(images_file, IMAGES_MAGIC)?;
        let (labels_header, labels) = read_idx::<2>(labels_file, LABELS_MAGIC)?;
        let [_, image_count, height, width] = images_header;
        if image_count != labels_header[1] {
            let detail = format!(
                "it has {image_count} images, but {} has {} labels",
                labels_file.display(),
                labels_header[1]
            );
            return Err(DataError::corrupt(images_file, detail));
        }
        let (height, width) = (height as usize, width as usize);
        Ok(Self {
            images_file: images_file.to_path_buf(),
            images,
            labels,
            height,
            width,
            index: 0,
        })
    }
}

impl Source for IdxSource {
    fn len_records(&self) -> u64 {
        self.labels.len() as u64
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.index = index;
        Ok(())
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        let index = self.index as usize;
        let Some(&label) = self.labels.get(index) else {
            let detail = format!("record {index} was asked for, but there are {}", self.labels.len());
            return Err(DataError::corrupt(&self.images_file, detail));
        };
        let size = self.height * self.width;
        let image = &self.images[index * size..(index + 1) * size];
        record.set_bytes(
            &format!("{index:08}"),
            [1, self.height, self.width],
            i32::from(label),
            image,
        );
        self.index += 1;
        Ok(())
    }
}

/// Reads a header of `N` big-endian numbers, the first of which is `magic` and the others the sizes, and the bytes after it.
fn read_idx<const N: usize>(path: &Path, magic: u32) -> Result<([u32; N], Vec<u8>), DataError> {
    let file = File::open(path).map_err(|cause| DataError::io("read", path, cause))?;
    let mut reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let unreadable =
        |cause: std::io::Error| DataError::corrupt(path, format!("it cannot be read to its end ({cause})"));
    let mut header = [0; N];
    for number in &mut header {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map_err(unreadable)?;
        *number = u32::from_be_bytes(bytes);
    }
    if header[0] != magic {
        let detail = format!("its magic number is {:#010x}, not IDX's {magic:#010x}", header[0]);
        return Err(DataError::corrupt(path, detail));
    }
    if let Some(side) = header[2..].iter().find(|&&side| side == 0 || side > MAX_SIDE) {
        return Err(DataError::corrupt(
            path,
            format!("its header says images with a side of {side} pixels"),
        ));
    }
    let length = header[1..]
        .iter()
        .try_fold(1_u64, |length, &size| length.checked_mul(u64::from(size)));
    let length = length.filter(|&length| length < u64::MAX / 2);
    let length = length.ok_or_else(|| DataError::corrupt(path, "its header says more than a disk holds"))?;
    let mut bytes = Vec::new();
    // One byte more than expected tells a file that goes on.
    reader.take(length + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 != length {
        let what = if bytes.len() as u64 > length {
            "goes on behind them"
        } else {
            "ends before"
        };
        return Err(DataError::corrupt(
            path,
            format!("its header says {length} bytes of data, but the file {what}"),
        ));
    }
    Ok((header, bytes))
}
