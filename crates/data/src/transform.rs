//! What happens to a record on its way into a batch: crop, mirror, mean, scale (Caffe's `DataTransformer`).
//!
//! `y = (x - mean) * scale`, of a crop that is random in TRAIN and central in TEST, mirrored or not at random (in both phases, as in
//! Caffe). The mean image has the size of the uncropped record and is cropped at the same place.

use std::path::PathBuf;

use crate::DataError;
use crate::decode::ColorMode;
use crate::mean::MeanImage;
use crate::random::{Draw, draw};

/// `transform_param` of a data layer.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformSpec {
    /// Every value is multiplied by this after the mean is subtracted.
    pub scale: f32,
    /// Mirror half of the records.
    pub mirror: bool,
    /// The side of the square to crop, 0 for none.
    pub crop_size: usize,
    /// A mean image to subtract, the size of the uncropped record.
    pub mean_file: Option<PathBuf>,
    /// A mean to subtract: none, one for all channels, or one a channel.
    pub mean_values: Vec<f32>,
    /// Decode encoded records to three channels. As in Caffe, raw records stay as they are.
    pub force_color: bool,
    /// Decode encoded records to one channel. As in Caffe, raw records stay as they are.
    pub force_gray: bool,
}

impl Default for TransformSpec {
    fn default() -> Self {
        Self {
            scale: 1.0,
            mirror: false,
            crop_size: 0,
            mean_file: None,
            mean_values: Vec::new(),
            force_color: false,
            force_gray: false,
        }
    }
}

/// A record's values before the transform, planar `(c, h, w)`.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Stored or decoded bytes.
    Bytes(&'a [u8]),
    /// Stored floats.
    Floats(&'a [f32]),
}

/// Transforms records; made once from a [`TransformSpec`].
pub struct Transformer {
    spec: TransformSpec,
    mean: Option<MeanImage>,
    is_train: bool,
    seed: u64,
}

impl Transformer {
    /// Checks the spec and reads its mean file.
    ///
    /// # Errors
    /// Options that exclude each other, a mean file that cannot be read.
    pub fn new(spec: TransformSpec, is_train: bool, seed: u64) -> Result<Self, DataError> {
        if spec.mean_file.is_some() && !spec.mean_values.is_empty() {
            return Err(DataError::Transform(
                "mean_file and mean_value exclude each other: remove one".to_string(),
            ));
        }
        if spec.force_color && spec.force_gray {
            return Err(DataError::Transform(
                "force_color and force_gray exclude each other: remove one".to_string(),
            ));
        }
        let mean = spec.mean_file.as_deref().map(MeanImage::read).transpose()?;
        Ok(Self {
            spec,
            mean,
            is_train,
            seed,
        })
    }

    /// How encoded records are to be decoded.
    pub fn color_mode(&self) -> ColorMode {
        match (self.spec.force_color, self.spec.force_gray) {
            (true, _) => ColorMode::Color,
            (_, true) => ColorMode::Gray,
            _ => ColorMode::Native,
        }
    }

    /// The side of the crop, 0 for none.
    pub fn crop_size(&self) -> usize {
        self.spec.crop_size
    }

    /// Whether a mean image ties the records to its size.
    pub fn has_mean_image(&self) -> bool {
        self.mean.is_some()
    }

    /// The shape `(c, h, w)` that a record of shape `(c, h, w)` has after the transform.
    ///
    /// # Errors
    /// A crop larger than the record, a mean that does not fit it.
    pub fn output_shape(&self, shape: [usize; 3]) -> Result<[usize; 3], DataError> {
        let [channels, height, width] = shape;
        let crop = self.spec.crop_size;
        if crop > height || crop > width {
            return Err(DataError::Transform(format!(
                "crop_size {crop} is larger than a record of {channels}x{height}x{width}: \
                 make it smaller, or the records larger with `sparknet convert --resize-height … --resize-width …`"
            )));
        }
        if let Some(mean) = &self.mean
            && mean.shape != shape
        {
            let [mean_channels, mean_height, mean_width] = mean.shape;
            let path = self.spec.mean_file.clone().unwrap_or_default();
            let detail = format!(
                "it is {mean_channels}x{mean_height}x{mean_width}, but a record is {channels}x{height}x{width} before cropping: \
                 make it from this data with `sparknet mean`"
            );
            return Err(DataError::BadMean { path, detail });
        }
        let means = self.spec.mean_values.len();
        if means > 1 && means != channels {
            return Err(DataError::Transform(format!(
                "there are {means} times mean_value, but a record has {channels} channels: give one, or one a channel"
            )));
        }
        Ok(if crop > 0 { [channels, crop, crop] } else { shape })
    }

    /// Transforms record number `record` of the stream, of shape `(c, h, w)`, into `output`, which has the size of
    /// [`Self::output_shape`]. The random choices depend on the seed and `record` only.
    pub fn apply(
        &self,
        shape: [usize; 3],
        values: Values<'_>,
        record: u64,
        output: &mut [f32],
    ) -> Result<(), DataError> {
        let [channels, crop_height, crop_width] = self.output_shape(shape)?;
        let [_, height, width] = shape;
        let mirror = self.spec.mirror && draw(self.seed, record, Draw::Mirror, 2) == 1;
        let (top, left) = if self.is_train {
            let offset = |what, room| draw(self.seed, record, what, room as u64 + 1) as usize;
            (
                offset(Draw::CropRow, height - crop_height),
                offset(Draw::CropColumn, width - crop_width),
            )
        } else {
            ((height - crop_height) / 2, (width - crop_width) / 2)
        };
        let mut rows = output.chunks_exact_mut(crop_width);
        for channel in 0..channels {
            let channel_mean = match self.spec.mean_values[..] {
                [] => 0.0,
                [mean] => mean,
                _ => self.spec.mean_values[channel],
            };
            for (row, output) in (top..top + crop_height).zip(&mut rows) {
                let start = (channel * height + row) * width + left;
                let range = start..start + crop_width;
                let mean = match &self.mean {
                    Some(mean) => Mean::Row(&mean.values[range.clone()]),
                    None => Mean::Value(channel_mean),
                };
                match values {
                    Values::Bytes(bytes) => transform_row(&bytes[range], mean, self.spec.scale, output),
                    Values::Floats(floats) => transform_row(&floats[range], mean, self.spec.scale, output),
                }
                if mirror {
                    output.reverse();
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Mean<'a> {
    Value(f32),
    Row(&'a [f32]),
}

fn transform_row<T: Copy + Into<f32>>(row: &[T], mean: Mean<'_>, scale: f32, output: &mut [f32]) {
    match mean {
        Mean::Value(mean) => {
            for (y, &x) in output.iter_mut().zip(row) {
                *y = (x.into() - mean) * scale;
            }
        }
        Mean::Row(means) => {
            for ((y, &x), mean) in output.iter_mut().zip(row).zip(means) {
                *y = (x.into() - mean) * scale;
            }
        }
    }
}
