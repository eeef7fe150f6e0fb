//! Initial values of parameter blobs: Caffe's fillers.

use crate::{LayerError, Shape, random};

/// How a parameter blob is filled before training.
#[derive(Clone, Debug, PartialEq)]
pub enum Filler {
    /// Every value is this one.
    Constant(f32),
    /// Uniform in [min, max).
    Uniform {
        /// The least value.
        min: f32,
        /// The upper bound.
        max: f32,
    },
    /// Normal; with `sparse`, each output keeps about that many of its inputs' weights and the rest is zero.
    Gaussian {
        /// The mean.
        mean: f32,
        /// The standard deviation.
        std: f32,
        /// The expected number of weights that are not zero, for each output.
        sparse: Option<usize>,
    },
    /// Uniform in [0, 1), then divided so that each output's weights sum to 1.
    PositiveUnitball,
    /// Uniform in ±√(3/n) (Glorot and Bengio 2010).
    Xavier(VarianceNorm),
    /// Normal with variance 2/n (He et al. 2015).
    Msra(VarianceNorm),
    /// Bilinear upsampling kernels, for Deconvolution.
    Bilinear,
    /// These values, as many as the blob has; no file can say so.
    Values(Vec<f32>),
}

/// What `n` is in the variance of [`Filler::Xavier`] and [`Filler::Msra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarianceNorm {
    /// The number of inputs of an output.
    FanIn,
    /// The number of outputs of an input.
    FanOut,
    /// The mean of both.
    Average,
}

impl VarianceNorm {
    fn n(self, shape: &Shape) -> f32 {
        let fan_in = shape.count_from(1) as f32;
        let fan_out = shape.count() as f32 / shape.dim_or_1(1) as f32;
        match self {
            Self::FanIn => fan_in,
            Self::FanOut => fan_out,
            Self::Average => (fan_in + fan_out) / 2.0,
        }
    }
}

impl Filler {
    /// Whether the filler gives the same values for every key.
    pub fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_) | Self::Bilinear | Self::Values(_))
    }

    /// Fills `values`, a blob of `shape`, from the random stream `key`.
    ///
    /// # Errors
    /// A bilinear filler wants a square 4-D blob.
    pub fn fill(&self, key: u64, shape: &Shape, values: &mut [f32]) -> Result<(), LayerError> {
        let each = |values: &mut [f32], f: &dyn Fn(u64) -> f32| {
            values.iter_mut().zip(0..).for_each(|(value, i)| *value = f(i));
        };
        match *self {
            Self::Constant(value) => values.fill(value),
            Self::Uniform { min, max } => each(values, &|i| min + (max - min) * random::uniform(key, i)),
            Self::Gaussian { mean, std, sparse } => {
                each(values, &|i| mean + std * random::normal(key, i));
                if let Some(sparse) = sparse {
                    // As in Caffe, the probability is taken over the blob's first axis.
                    let keep_probability = sparse as f32 / shape.dim_or_1(0).max(1) as f32;
                    let mask_key = random::key(&[key, 1]);
                    for (value, i) in values.iter_mut().zip(0..) {
                        if random::uniform(mask_key, i) >= keep_probability {
                            *value = 0.0;
                        }
                    }
                }
            }
            Self::PositiveUnitball => {
                each(values, &|i| random::uniform(key, i));
                let dim = shape.count_from(1).max(1);
                for row in values.chunks_mut(dim) {
                    let sum: f32 = row.iter().sum();
                    row.iter_mut().for_each(|value| *value /= sum);
                }
            }
            Self::Xavier(norm) => {
                let limit = (3.0 / norm.n(shape)).sqrt();
                each(values, &|i| limit * (2.0 * random::uniform(key, i) - 1.0));
            }
            Self::Msra(norm) => {
                let std = (2.0 / norm.n(shape)).sqrt();
                each(values, &|i| std * random::normal(key, i));
            }
            Self::Bilinear => fill_bilinear(shape, values)?,
            Self::Values(ref given) => values.copy_from_slice(given),
        }
        Ok(())
    }
}

fn fill_bilinear(shape: &Shape, values: &mut [f32]) -> Result<(), LayerError> {
    let &[_, _, height, width] = shape.dims() else {
        return Err(LayerError::BilinearFiller { shape: shape.clone() });
    };
    if height != width || width == 0 {
        return Err(LayerError::BilinearFiller { shape: shape.clone() });
    }
    let factor = width.div_ceil(2) as f32;
    let centre = (width - 1) as f32 / (2.0 * factor);
    for (i, value) in values.iter_mut().enumerate() {
        let (x, y) = ((i % width) as f32, ((i / width) % height) as f32);
        *value = (1.0 - (x / factor - centre).abs()) * (1.0 - (y / factor - centre).abs());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(filler: Filler, shape: &Shape) -> Vec<f32> {
        let mut values = vec![f32::NAN; shape.count()];
        filler.fill(random::key(&[3]), shape, &mut values).unwrap();
        values
    }

    fn mean_and_variance(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance)
    }

    #[test]
    fn moments_follow_the_definitions() {
        let shape = Shape::from([64, 50, 5, 5]);
        let (fan_in, fan_out) = (50.0 * 25.0, 64.0 * 25.0);
        for (filler, mean, variance) in [
            (Filler::Constant(2.5), 2.5, 0.0),
            (Filler::Uniform { min: -1.0, max: 3.0 }, 1.0, 16.0 / 12.0),
            (
                Filler::Gaussian {
                    mean: 0.5,
                    std: 0.1,
                    sparse: None,
                },
                0.5,
                0.01,
            ),
            (Filler::Xavier(VarianceNorm::FanIn), 0.0, 1.0 / fan_in),
            (Filler::Xavier(VarianceNorm::FanOut), 0.0, 1.0 / fan_out),
            (Filler::Xavier(VarianceNorm::Average), 0.0, 2.0 / (fan_in + fan_out)),
            (Filler::Msra(VarianceNorm::FanIn), 0.0, 2.0 / fan_in),
        ] {
            let (actual_mean, actual_variance) = mean_and_variance(&filled(filler.clone(), &shape));
            let std = f64::sqrt(variance);
            assert!(
                (actual_mean - mean).abs() <= 0.02 * std,
                "{filler:?}: mean {actual_mean}"
            );
            assert!(
                (actual_variance - variance).abs() <= 0.03 * variance,
                "{filler:?}: variance {actual_variance}"
            );
        }
    }

    #[test]
    fn unitball_sums_to_one_and_sparse_keeps_few() {
        let values = filled(Filler::PositiveUnitball, &Shape::from([4, 100]));
        for row in values.chunks(100) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row.iter().all(|v| *v >= 0.0));
        }
        let sparse = Filler::Gaussian {
            mean: 0.0,
            std: 1.0,
            sparse: Some(10),
        };
        let kept = filled(sparse, &Shape::from([100, 300]))
            .iter()
            .filter(|v| **v != 0.0)
            .count();
        assert!(
            (2700..3300).contains(&kept),
            "{kept} of 30000 kept, expected about 3000"
        );
    }

    #[test]
    fn bilinear_interpolates() {
        for row in [
            &[0.5, 0.5][..],
            &[0.5, 1.0, 0.5],
            &[0.25, 0.75, 0.75, 0.25],
            &[1.0 / 6.0, 0.5, 5.0 / 6.0, 5.0 / 6.0, 0.5, 1.0 / 6.0],
            &[0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25],
        ] {
            let width = row.len();
            let values = filled(Filler::Bilinear, &Shape::from([1, 1, width, width]));
            for (i, value) in values.iter().enumerate() {
                let expected: f32 = row[i % width] * row[i / width];
                assert!((value - expected).abs() < 1e-6, "{values:?}, not of {row:?}");
            }
        }
        let mut flat = [0.0; 6];
        assert!(Filler::Bilinear.fill(0, &Shape::from([2, 3]), &mut flat).is_err());
    }
}
