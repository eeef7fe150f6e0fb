//! Encoded images (JPEG, PNG) to planar bytes in OpenCV's channel order, as Caffe sees them.

use image::{DynamicImage, ImageFormat};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

/// A damaged header may ask for more than any picture has.
const MAX_JPEG_PIXELS: u64 = 1 << 28;

/// What `force_color` and `force_gray` ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorMode {
    /// The image's own channels (`cv::imdecode` with -1): 1 for gray, 3 (BGR) for colour, 4 (BGRA) with alpha.
    #[default]
    Native,
    /// 3 channels, BGR; gray is repeated, alpha dropped.
    Color,
    /// 1 channel: 0.299 R + 0.587 G + 0.114 B, which a JPEG file stores as its first channel.
    Gray,
}

/// A decoded image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `(c, h, w)`.
    pub shape: [usize; 3],
    /// Planar `(c, h, w)`; colour in the order B, G, R, alpha last.
    pub bytes: Vec<u8>,
}

/// Decodes a JPEG or PNG file; a JPEG to the very values of libjpeg-turbo, which OpenCV and with it Caffe use (one with four
/// channels, for print, comes close). The orientation that a camera notes in EXIF is not applied.
///
/// # Errors
/// What is wrong with the image, as the rest of a sentence that begins with its name.
pub fn decode_image(encoded: &[u8], mode: ColorMode) -> Result<Image, String> {
    let format = image::guess_format(encoded).ok();
    let Some(format) = format.filter(|format| matches!(format, ImageFormat::Jpeg | ImageFormat::Png)) else {
        return Err("is neither a JPEG nor a PNG image: encode it as one of them".to_string());
    };
    if format == ImageFormat::Jpeg {
        let image = decode_jpeg(encoded, mode);
        if let Some(image) = image.map_err(|cause| format!("cannot be decoded ({cause}): replace the image"))? {
            return Ok(image);
        }
    }
    let decoded = image::load_from_memory_with_format(encoded, format)
        .map_err(|cause| format!("cannot be decoded ({cause}): replace the image"))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let has_16_bits = !matches!(
        decoded,
        DynamicImage::ImageLuma8(_)
            | DynamicImage::ImageLumaA8(_)
            | DynamicImage::ImageRgb8(_)
            | DynamicImage::ImageRgba8(_)
    );
    if has_16_bits && mode == ColorMode::Native {
        return Err("has 16 bits a channel: set force_color or force_gray, or save it with 8".to_string());
    }
    let is_gray = !decoded.color().has_color();
    let bytes = match (mode, is_gray) {
        (ColorMode::Native, true) if !decoded.color().has_alpha() => decoded.into_luma8().into_raw(),
        (ColorMode::Native, _) if decoded.color().has_alpha() => planes(&decoded.into_rgba8().into_raw(), [2, 1, 0, 3]),
        (ColorMode::Gray, true) => decoded.into_luma8().into_raw(),
        (ColorMode::Gray, false) => gray(&decoded.into_rgb8().into_raw()),
        (ColorMode::Native | ColorMode::Color, _) => planes(&decoded.into_rgb8().into_raw(), [2, 1, 0]),
    };
    let channels = bytes.len().checked_div(height * width).unwrap_or(0);
    Ok(Image {
        shape: [channels, height, width],
        bytes,
    })
}

/// A JPEG with one or three channels; `None` for others.
fn decode_jpeg(encoded: &[u8], mode: ColorMode) -> Result<Option<Image>, JpegError> {
    let limits = DecodeLimits {
        max_pixels: MAX_JPEG_PIXELS,
        ..DecodeLimits::default()
    };
    let mut decoder = Decoder::new_with_limits(encoded, limits)?;
    let is_gray = match decoder.header().components.len() {
        1 => true,
        3 => false,
        _ => return Ok(None),
    };
    // OpenCV, too, takes gray from the file's own luminance rather than from R, G and B.
    let to_gray = is_gray || mode == ColorMode::Gray;
    decoder.set_output_format(if to_gray {
        PixelFormat::Grayscale
    } else {
        PixelFormat::Rgb
    });
    let decoded = decoder.decode_image()?;
    let (channels, bytes) = match (to_gray, mode) {
        (true, ColorMode::Color) => (3, decoded.data.repeat(3)),
        (true, _) => (1, decoded.data),
        (false, _) => (3, planes(&decoded.data, [2, 1, 0])),
    };
    Ok(Some(Image {
        shape: [channels, decoded.height, decoded.width],
        bytes,
    }))
}

/// Interleaved pixels of `N` channels to planes in the order that `channels` gives.
fn planes<const N: usize>(interleaved: &[u8], channels: [usize; N]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(interleaved.len());
    for channel in channels {
        bytes.extend(interleaved.chunks_exact(N).map(|pixel| pixel[channel]));
    }
    bytes
}

/// OpenCV's fixed-point weights of R, G and B (14 bits).
fn gray(rgb: &[u8]) -> Vec<u8> {
    let luma = |pixel: &[u8]| {
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
        ((red * 4899 + green * 9617 + blue * 1868 + (1 << 13)) >> 14) as u8
    };
    rgb.chunks_exact(3).map(luma).collect()
}
