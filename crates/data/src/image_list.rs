//! Images that a list names, decoded as they are read: what Caffe's ImageData layer feeds.

use std::fs;
use std::path::PathBuf;

use crate::DataError;
use crate::decode::{ColorMode, decode_image};
use crate::list::{Line, read_list};
use crate::random::{Draw, draw};
use crate::record::{Pixels, Record};
use crate::resize::resize;
use crate::source::Source;

/// `image_data_param`, without what all data layers have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageListSpec {
    /// The list: a path, a space and a label a line.
    pub list: PathBuf,
    /// What goes before every path; empty for the folder that the command runs in.
    pub root: String,
    /// The size `(h, w)` that images are brought to; `None` keeps theirs.
    pub new_size: Option<[usize; 2]>,
    /// Three channels (BGR), or else one.
    pub is_color: bool,
    /// A new order in every pass over the list.
    pub shuffle: bool,
    /// The seed of those orders.
    pub seed: u64,
}

/// The images of a list as records of bytes.
pub struct ImageListSource {
    spec: ImageListSpec,
    lines: Vec<Line>,
    /// Which line each record of this pass is.
    order: Vec<usize>,
    next: u64,
}

impl ImageListSource {
    /// Reads the list; the images are opened when their turn comes.
    ///
    /// # Errors
    /// A list that cannot be read, a bad line, no line at all.
    pub fn open(spec: ImageListSpec) -> Result<Self, DataError> {
        let lines = read_list(&spec.list)?;
        let mut source = Self {
            order: Vec::new(),
            spec,
            lines,
            next: 0,
        };
        source.begin_epoch(0);
        Ok(source)
    }
}

impl Source for ImageListSource {
    fn len_records(&self) -> u64 {
        self.lines.len() as u64
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.next = index;
        Ok(())
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        let Self {
            spec,
            lines,
            order,
            next,
        } = self;
        let Some(line) = order.get(*next as usize).map(|line| &lines[*line]) else {
            let detail = format!("record {next} was asked for, but there are {}", lines.len());
            return Err(DataError::corrupt(&spec.list, detail));
        };
        let path = under(&spec.root, &line.path);
        let file = fs::read(&path).map_err(|cause| {
            let detail = format!(
                "cannot read {} ({cause}): correct the path or root_folder",
                path.display()
            );
            line.error(&spec.list, detail)
        })?;
        let mode = if spec.is_color {
            ColorMode::Color
        } else {
            ColorMode::Gray
        };
        let mut image = decode_image(&file, mode)
            .map_err(|detail| line.error(&spec.list, format!("{} {detail}", path.display())))?;
        if let Some([height, width]) = spec.new_size {
            image = resize(&image, height, width);
        }
        record.key.clear();
        record.key.extend_from_slice(line.path.as_bytes());
        [record.channels, record.height, record.width] = image.shape;
        record.label = line.label;
        record.float_label = None;
        record.pixels = Pixels::Bytes(image.bytes);
        *next += 1;
        Ok(())
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.order.clear();
        self.order.extend(0..self.lines.len());
        if self.spec.shuffle {
            // Fisher and Yates.
            for last in (1..self.order.len()).rev() {
                let other = draw(
                    self.spec.seed.wrapping_add(epoch),
                    last as u64,
                    Draw::Shuffle,
                    last as u64 + 1,
                );
                self.order.swap(last, other as usize);
            }
        }
    }

    fn remedy_for_sizes(&self, _height: usize, _width: usize) -> String {
        "set new_height and new_width".to_owned()
    }
}

/// `path` in `root`, also where it begins with a slash: Caffe writes one behind the other.
pub(crate) fn under(root: &str, path: &str) -> PathBuf {
    if root.is_empty() {
        return PathBuf::from(path);
    }
    PathBuf::from(format!(
        "{}/{}",
        root.trim_end_matches('/'),
        path.trim_start_matches('/')
    ))
}
