//! Images and a list file to an LMDB (Caffe's `convert_imageset`).

use std::fs;
use std::path::PathBuf;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use sparknet_proto::caffe::Datum;

use crate::DataError;
use crate::decode::{ColorMode, Image, decode_image};
use crate::list::{Line, read_list};
use crate::lmdb_writer::LmdbWriter;
use crate::random::{Draw, draw};
use crate::resize::resize;

/// OpenCV's default, which Caffe's encoded LMDBs have.
const JPEG_QUALITY: u8 = 95;
/// JPEG's limit, and far below what would not fit into memory.
const MAX_SIDE: usize = 65_535;
/// Lines that are decoded together, spread over the cores; bounds the memory.
const LINES_AT_ONCE: usize = 256;

/// What [`convert`] is to do, with `convert_imageset`'s names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConvertOptions {
    /// The folder that the list's paths start from.
    pub root: PathBuf,
    /// The list: a path and a label a line; the path may contain spaces.
    pub list: PathBuf,
    /// The LMDB to write.
    pub out: PathBuf,
    /// Rows after resizing; 0 with `resize_width` 0 leaves images as they are.
    pub resize_height: usize,
    /// Columns after resizing.
    pub resize_width: usize,
    /// One channel instead of three.
    pub gray: bool,
    /// Shuffle the list.
    pub shuffle: bool,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Store encoded images: the files' own bytes where nothing about them changes.
    pub encoded: bool,
    /// `jpg` or `png`; implies `encoded`. Without it, each file's extension decides.
    pub encode_type: Option<String>,
    /// Images of different sizes are an error.
    pub check_size: bool,
    /// Leave out images that cannot be read or decoded, instead of stopping.
    pub skip_bad: bool,
}

/// What [`convert`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertReport {
    /// Records written.
    pub records: u64,
    /// One message for each image left out (`skip_bad`).
    pub skipped: Vec<String>,
}

/// Writes the images of a list into an LMDB with keys `%08d_<path>`; `progress` is told (lines done, lines in all).
///
/// # Errors
/// A bad line or image, named by list and line (with `skip_bad` bad images are only counted); an existing output; no image at all.
pub fn convert(options: &ConvertOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<ConvertReport, DataError> {
    if (options.resize_height == 0) != (options.resize_width == 0) {
        let detail = "--resize-height and --resize-width go together: give both or none".to_string();
        return Err(DataError::BadOptions(detail));
    }
    if options.resize_height.max(options.resize_width) > MAX_SIDE {
        return Err(DataError::BadOptions(format!(
            "images are resized to at most {MAX_SIDE} pixels a side"
        )));
    }
    if let Some(encode_type) = &options.encode_type {
        Encoding::parse(encode_type).map_err(DataError::BadOptions)?;
    }
    let mut lines = read_list(&options.list)?;
    if options.shuffle {
        // Fisher and Yates.
        for last in (1..lines.len()).rev() {
            lines.swap(
                last,
                draw(options.seed, last as u64, Draw::Shuffle, last as u64 + 1) as usize,
            );
        }
    }
    let mut writer = LmdbWriter::create(&options.out)?;
    let mut report = ConvertReport {
        records: 0,
        skipped: Vec::new(),
    };
    let mut first: Option<(usize, String)> = None;
    let mut index = 0;
    for lines_at_once in lines.chunks(LINES_AT_ONCE) {
        for (line, result) in lines_at_once.iter().zip(read_images(options, lines_at_once)) {
            // As in Caffe, a key counts lines, so that a skipped image leaves a gap.
            let key = format!("{index:08}_{}", line.path);
            index += 1;
            match result {
                Ok((datum, size)) => {
                    let (_, first_size) = first.get_or_insert((line.number, size.clone()));
                    if options.check_size && *first_size != size {
                        let detail = format!(
                            "{} is {size}, but the first image is {first_size}: give --resize-height and --resize-width, \
                             or leave out --check-size",
                            line.path
                        );
                        return Err(line.error(&options.list, detail));
                    }
                    writer.put(&key, &datum)?;
                    report.records += 1;
                }
                Err(detail) if options.skip_bad => report.skipped.push(line.error(&options.list, detail).to_string()),
                Err(detail) => {
                    return Err(line.error(
                        &options.list,
                        format!("{detail}, or leave bad images out with --skip-bad"),
                    ));
                }
            }
        }
        progress(index, lines.len() as u64);
    }
    if report.records == 0 {
        return Err(DataError::Empty(options.list.clone()));
    }
    writer.finish()?;
    Ok(report)
}

type ReadImage = Result<(Datum, String), String>;

/// Reads, resizes and encodes the images of some lines, on all cores, in the lines' order.
fn read_images(options: &ConvertOptions, lines: &[Line]) -> Vec<ReadImage> {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        let spawn = |lines| {
            let read = |line| read_image(options, line);
            scope.spawn(move || -> Vec<ReadImage> { <[Line]>::iter(lines).map(read).collect() })
        };
        let handles: Vec<_> = lines
            .chunks(lines.len().div_ceil(threads))
            .map(|lines| (lines.len(), spawn(lines)))
            .collect();
        let join = |(lines, handle): (usize, std::thread::ScopedJoinHandle<'_, Vec<ReadImage>>)| {
            let panicked = || vec![Err("made the decoder panic: replace the image".to_string()); lines];
            handle.join().unwrap_or_else(|_| panicked())
        };
        handles.into_iter().flat_map(join).collect()
    })
}

/// The Datum of one line and its size in words.
fn read_image(options: &ConvertOptions, line: &Line) -> ReadImage {
    let path = options.root.join(&line.path);
    let file =
        fs::read(&path).map_err(|cause| format!("cannot read {} ({cause}): correct the path", path.display()))?;
    let mode = if options.gray {
        ColorMode::Gray
    } else {
        ColorMode::Color
    };
    let mut image = decode_image(&file, mode).map_err(|detail| format!("{} {detail}", path.display()))?;
    let is_resized = options.resize_height > 0;
    if is_resized {
        image = resize(&image, options.resize_height, options.resize_width);
    }
    let [channels, height, width] = image.shape;
    let size = format!("{channels}x{height}x{width}");
    let label = Some(line.label);
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let encode_type = match &options.encode_type {
        Some(encode_type) => Some(encode_type.as_str()),
        None => options.encoded.then_some(extension.as_str()),
    };
    let datum = match encode_type {
        None => Datum {
            channels: Some(channels as i32),
            height: Some(height as i32),
            width: Some(width as i32),
            data: Some(image.bytes),
            label,
            encoded: Some(false),
            ..Datum::default()
        },
        Some(encode_type) => {
            let encoding = Encoding::parse(encode_type)?;
            let is_kept = !is_resized && Encoding::parse(&extension) == Ok(encoding);
            let data = if is_kept { file } else { encode(&image, encoding)? };
            Datum {
                data: Some(data),
                label,
                encoded: Some(true),
                ..Datum::default()
            }
        }
    };
    Ok((datum, size))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Jpeg,
    Png,
}

impl Encoding {
    fn parse(name: &str) -> Result<Self, String> {
        match name {
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "png" => Ok(Self::Png),
            _ => Err(format!(
                "`{name}` is no type that images can be encoded as: use --encode-type jpg or png"
            )),
        }
    }
}

fn encode(image: &Image, encoding: Encoding) -> Result<Vec<u8>, String> {
    let [channels, height, width] = image.shape;
    let plane = height * width;
    // Planes in the order B, G, R become interleaved R, G, B; a single plane stays as it is.
    let interleaved: Vec<u8> = (0..plane)
        .flat_map(|pixel| {
            (0..channels)
                .rev()
                .map(move |channel| image.bytes[channel * plane + pixel])
        })
        .collect();
    let color = if channels == 1 {
        ExtendedColorType::L8
    } else {
        ExtendedColorType::Rgb8
    };
    let (width, height) = (width as u32, height as u32);
    let mut encoded = Vec::new();
    let result = match encoding {
        Encoding::Jpeg => {
            JpegEncoder::new_with_quality(&mut encoded, JPEG_QUALITY).write_image(&interleaved, width, height, color)
        }
        Encoding::Png => PngEncoder::new(&mut encoded).write_image(&interleaved, width, height, color),
    };
    result.map_err(|cause| format!("cannot be encoded ({cause}): choose another --encode-type"))?;
    Ok(encoded)
}
