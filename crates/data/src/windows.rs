//! Windows that are cut from images and warped to one size: what Caffe's WindowData layer feeds (Girshick et al., Rich
//! feature hierarchies for accurate object detection, 2014: R-CNN).
//!
//! Every batch is drawn at random: first background, then a share of objects. A record is a window as the net gets it, mean
//! and scale included, because the mean image is cut where the window lies in its frame.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::{FromStr, SplitAsciiWhitespace};

use crate::DataError;
use crate::decode::{ColorMode, Image, decode_image};
use crate::image_list::under;
use crate::mean::MeanImage;
use crate::random::{Draw, draw};
use crate::record::{Pixels, Record};
use crate::resize::resize;
use crate::source::Source;
use crate::transform::TransformSpec;

/// `window_data_param` and `transform_param`.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowSpec {
    /// The file of windows.
    pub file: PathBuf,
    /// What goes before every path; empty for the folder that the command runs in.
    pub root: String,
    /// Windows with an object: those that overlap it by at least so much.
    pub fg_threshold: f32,
    /// Background: windows whose overlap is below this.
    pub bg_threshold: f32,
    /// The share of objects in a batch.
    pub fg_fraction: f32,
    /// Pixels of surroundings on each side of a warped window.
    pub context_pad: usize,
    /// Whether a window is widened to a square before it is warped.
    pub is_square: bool,
    /// Whether the image files are kept in memory once they were read.
    pub cache_images: bool,
    /// `transform_param`: the crop is the side of a warped window, and the centre of the mean image is subtracted.
    /// Windows always have three channels.
    pub transform: TransformSpec,
    /// Windows in a batch of one worker.
    pub batch_size: usize,
    /// How many records of the stream go to a place of a batch: one for each worker that shares an iteration.
    pub records_per_place: usize,
    /// The seed of all draws.
    pub seed: u64,
}

/// Windows drawn at random, as records of floats `(3, crop_size, crop_size)`.
///
/// The stream has no end; what counts as its length is the number of windows.
pub struct WindowSource {
    spec: WindowSpec,
    images: Vec<String>,
    /// Background and objects.
    windows: [Vec<Window>; 2],
    mean: Option<MeanImage>,
    cache: HashMap<usize, Vec<u8>>,
    epoch: u64,
    next: u64,
}

/// A window, both corners included.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    image: usize,
    label: i32,
    x1: i32,
    y1: i32,
    x2: i32,
    y2: i32,
}

/// Which part of an image goes where.
#[derive(Debug, PartialEq)]
struct Warp {
    /// First row and column, rows and columns of the part.
    part: [usize; 4],
    /// Rows and columns that it is warped to.
    size: [usize; 2],
    /// First row and column of it in the warped window.
    at: [usize; 2],
}

impl WindowSource {
    /// Reads the file of windows and the mean; the images are opened when their turn comes.
    ///
    /// # Errors
    /// A file that cannot be read or has a bad line; no background or no object; options that contradict each other.
    pub fn open(spec: WindowSpec) -> Result<Self, DataError> {
        let impossible = |detail: String| Err(DataError::BadConfig(detail));
        if spec.transform.crop_size == 0 {
            return impossible("WindowData wants transform_param.crop_size, the side of a warped window".to_owned());
        }
        if 2 * spec.context_pad >= spec.transform.crop_size {
            return impossible(format!(
                "context_pad {} leaves nothing of a crop_size of {}: make it smaller",
                spec.context_pad, spec.transform.crop_size
            ));
        }
        if !matches!(spec.transform.mean_values.len(), 0 | 1 | 3) {
            return impossible(format!(
                "there are {} times mean_value, but windows have 3 channels: give one, or one a channel",
                spec.transform.mean_values.len()
            ));
        }
        let mean = spec.transform.mean_file.as_deref().map(MeanImage::read).transpose()?;
        if let (Some(mean), Some(path)) = (&mean, &spec.transform.mean_file)
            && (mean.shape[0] != 3 || mean.shape[1..].iter().any(|side| *side < spec.transform.crop_size))
        {
            let [channels, height, width] = mean.shape;
            let detail = format!(
                "it is {channels}x{height}x{width}, but windows are 3x{0}x{0}: give one that is as large",
                spec.transform.crop_size
            );
            return Err(DataError::BadMean {
                path: path.clone(),
                detail,
            });
        }
        let (images, windows) = read_windows(&spec)?;
        let objects = objects_a_batch(&spec);
        for (windows, count, what) in [
            (&windows[0], spec.batch_size - objects, "background: raise bg_threshold"),
            (&windows[1], objects, "object: lower fg_threshold"),
        ] {
            if windows.is_empty() && count > 0 {
                return Err(DataError::corrupt(&spec.file, format!("it has no window with {what}")));
            }
        }
        Ok(Self {
            spec,
            images,
            windows,
            mean,
            cache: HashMap::new(),
            epoch: 0,
            next: 0,
        })
    }

    fn decode(&mut self, image: usize) -> Result<Image, DataError> {
        let path = under(&self.spec.root, &self.images[image]);
        let decode = |file: &[u8]| {
            decode_image(file, ColorMode::Color)
                .map_err(|detail| DataError::bad_record(&self.spec.file, self.images[image].as_bytes(), detail))
        };
        if let Some(file) = self.cache.get(&image) {
            return decode(file);
        }
        let file = fs::read(&path).map_err(|cause| DataError::io("read", &path, cause))?;
        let decoded = decode(&file)?;
        if self.spec.cache_images {
            self.cache.insert(image, file);
        }
        Ok(decoded)
    }
}

impl Source for WindowSource {
    fn len_records(&self) -> u64 {
        self.windows.iter().map(|windows| windows.len() as u64).sum()
    }

    fn seek(&mut self, index: u64) -> Result<(), DataError> {
        self.next = index;
        Ok(())
    }

    fn read(&mut self, record: &mut Record) -> Result<(), DataError> {
        // A number to draw with, so that it may wrap.
        let place = self.epoch.wrapping_mul(self.len_records()).wrapping_add(self.next);
        let (seed, batch_size) = (self.spec.seed, self.spec.batch_size as u64);
        let item = place / self.spec.records_per_place.max(1) as u64 % batch_size;
        // The first ones of a batch are background.
        let is_object = item >= batch_size - objects_a_batch(&self.spec) as u64;
        let windows = &self.windows[usize::from(is_object)];
        let window = windows[draw(seed, place, Draw::Window, windows.len() as u64) as usize];
        let mirror = self.spec.transform.mirror && draw(seed, place, Draw::Mirror, 2) == 1;
        let image = self.decode(window.image)?;
        let [channels, height, width] = image.shape;
        let Some(warp) = warp(&self.spec, window, mirror, [height, width]) else {
            let Window { x1, y1, x2, y2, .. } = window;
            let detail = format!("is {height}x{width}, but has a window from ({x1}, {y1}) to ({x2}, {y2}): correct it");
            let name = self.images[window.image].as_bytes();
            return Err(DataError::bad_record(&self.spec.file, name, detail));
        };
        let crop = self.spec.transform.crop_size;
        let mut floats = match std::mem::replace(&mut record.pixels, Pixels::Bytes(Vec::new())) {
            Pixels::Floats(floats) => floats,
            _ => Vec::new(),
        };
        floats.clear();
        floats.resize(channels * crop * crop, 0.0);
        let [rows, columns] = warp.size;
        if rows > 0 && columns > 0 {
            let warped = resize(&cut(&image, warp.part), rows, columns);
            for channel in 0..channels {
                for row in 0..rows {
                    let pixels = &warped.bytes[(channel * rows + row) * columns..][..columns];
                    let top = warp.at[0] + row;
                    let output = &mut floats[(channel * crop + top) * crop + warp.at[1]..][..columns];
                    for (column, value) in output.iter_mut().enumerate() {
                        let pixel = pixels[if mirror { columns - 1 - column } else { column }];
                        let mean = match (&self.mean, &self.spec.transform.mean_values[..]) {
                            (Some(mean), _) => {
                                // As Caffe has it: one offset for rows and columns.
                                let [_, mean_height, mean_width] = mean.shape;
                                let offset = (mean_width.min(mean_height) - crop) / 2;
                                let left = warp.at[1] + column;
                                mean.values[(channel * mean_height + offset + top) * mean_width + offset + left]
                            }
                            (None, []) => 0.0,
                            (None, [mean]) => *mean,
                            (None, means) => means[channel],
                        };
                        *value = (f32::from(pixel) - mean) * self.spec.transform.scale;
                    }
                }
            }
        }
        record.key.clear();
        record.key.extend_from_slice(self.images[window.image].as_bytes());
        [record.channels, record.height, record.width] = [channels, crop, crop];
        record.label = window.label;
        record.float_label = None;
        record.pixels = Pixels::Floats(floats);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }
}

fn objects_a_batch(spec: &WindowSpec) -> usize {
    ((spec.batch_size as f32 * spec.fg_fraction) as usize).min(spec.batch_size)
}

/// The part of an image that begins at row and column `part[0..2]` and has so many of them as `part[2..4]` says.
fn cut(image: &Image, [top, left, rows, columns]: [usize; 4]) -> Image {
    let [channels, height, width] = image.shape;
    let mut bytes = Vec::with_capacity(channels * rows * columns);
    for channel in 0..channels {
        for row in top..top + rows {
            bytes.extend_from_slice(&image.bytes[(channel * height + row) * width + left..][..columns]);
        }
    }
    Image {
        shape: [channels, rows, columns],
        bytes,
    }
}

/// How a window of an image of `(h, w)` gets into its frame; `None` if it does not lie in the image.
fn warp(spec: &WindowSpec, window: Window, mirror: bool, [height, width]: [usize; 2]) -> Option<Warp> {
    let crop = spec.transform.crop_size as f32;
    let (height, width) = (i32::try_from(height).ok()?, i32::try_from(width).ok()?);
    let Window {
        mut x1,
        mut y1,
        mut x2,
        mut y2,
        ..
    } = window;
    if x1 > x2 || y1 > y2 {
        return None;
    }
    let mut size = [spec.transform.crop_size; 2];
    let mut at = [0; 2];
    if spec.context_pad > 0 || spec.is_square {
        // So much larger that the window itself is warped to the frame without its surroundings.
        let context_scale = crop / (spec.transform.crop_size - 2 * spec.context_pad) as f32;
        let mut half = [y1.abs_diff(y2), x1.abs_diff(x2)].map(|side| (side as f32 + 1.0) / 2.0);
        let center = [y1 as f32 + half[0], x1 as f32 + half[1]];
        if spec.is_square {
            half = [half[0].max(half[1]); 2];
        }
        let corner = |axis: usize, side: f32| (center[axis] + side * half[axis] * context_scale).round() as i32;
        [y1, x1] = [corner(0, -1.0), corner(1, -1.0)];
        [y2, x2] = [corner(0, 1.0), corner(1, 1.0)];
        let length = |from: i32, to: i32| to.checked_sub(from)?.checked_add(1);
        let unclipped = [length(y1, y2)?, length(x1, x2)?];
        // What lies outside of the image stays zero.
        let before = [y1, x1].map(|corner| corner.saturating_neg().max(0));
        let after = [
            y2.saturating_sub(height - 1).max(0),
            x2.saturating_sub(width - 1).max(0),
        ];
        (y1, x1) = (y1 + before[0], x1 + before[1]);
        (y2, x2) = (y2 - after[0], x2 - after[1]);
        let clipped = [length(y1, y2)?, length(x1, x2)?];
        for axis in [0, 1] {
            let scale = crop / unclipped[axis] as f32;
            let scaled = |pixels: i32| (pixels as f32 * scale).round().max(0.0) as usize;
            at[axis] = match (axis, mirror) {
                (1, true) => scaled(after[axis]),
                _ => scaled(before[axis]),
            }
            .min(spec.transform.crop_size);
            size[axis] = scaled(clipped[axis]).min(spec.transform.crop_size - at[axis]);
        }
    }
    let is_inside = x1 >= 0 && y1 >= 0 && x1 <= x2 && y1 <= y2 && x2 < width && y2 < height;
    is_inside.then(|| Warp {
        part: [y1, x1, y2 - y1 + 1, x2 - x1 + 1].map(|side| side as usize),
        size,
        at,
    })
}

/// The file's images, and its windows without and with an object.
///
/// Images come one after the other: `# index`, path, channels, height, width, number of windows, and for each window label,
/// overlap, x1, y1, x2, y2.
fn read_windows(spec: &WindowSpec) -> Result<(Vec<String>, [Vec<Window>; 2]), DataError> {
    let text = fs::read(&spec.file).map_err(|cause| DataError::io("read", &spec.file, cause))?;
    let text = String::from_utf8(text).map_err(|_| DataError::corrupt(&spec.file, "it is no UTF-8 text"))?;
    let mut images = Vec::new();
    let mut windows = [Vec::new(), Vec::new()];
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        let image = images.len();
        if word != "#" || next::<usize>(&spec.file, &mut words, image)? != image {
            let detail = format!("image {image} does not begin with `# {image}`");
            return Err(DataError::corrupt(&spec.file, detail));
        }
        images.push(next::<String>(&spec.file, &mut words, image)?);
        for _ in 0..3 {
            next::<u32>(&spec.file, &mut words, image)?;
        }
        for _ in 0..next::<u32>(&spec.file, &mut words, image)? {
            let label = next::<i32>(&spec.file, &mut words, image)?;
            let overlap = next::<f32>(&spec.file, &mut words, image)?;
            let mut corner = || next::<i32>(&spec.file, &mut words, image);
            let (x1, y1, x2, y2) = (corner()?, corner()?, corner()?, corner()?);
            let is_object = overlap >= spec.fg_threshold;
            if is_object && label <= 0 {
                let detail = format!("image {image} has an object with label {label}: objects count from 1");
                return Err(DataError::corrupt(&spec.file, detail));
            }
            if is_object || overlap < spec.bg_threshold {
                windows[usize::from(is_object)].push(Window {
                    image,
                    label: if is_object { label } else { 0 },
                    x1,
                    y1,
                    x2,
                    y2,
                });
            }
        }
    }
    Ok((images, windows))
}

/// The next word of what the file says of an image.
fn next<T: FromStr>(file: &Path, words: &mut SplitAsciiWhitespace<'_>, image: usize) -> Result<T, DataError> {
    let word = words.next();
    word.and_then(|word| word.parse().ok()).ok_or_else(|| {
        let found = word.map_or("its end".to_owned(), |word| {
            let shown: String = word.chars().take(100).collect();
            format!("`{}`", shown.escape_debug())
        });
        DataError::corrupt(
            file,
            format!("image {image} has {found} where a number or path should be"),
        )
    })
}
