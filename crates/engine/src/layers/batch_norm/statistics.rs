//! The mean and variance of each channel: of a batch, and as three parameters keep them over all batches.

use super::Channels;
use crate::layer::Params;

/// What BatchNorm normalises with: a mean and a variance a channel.
#[derive(Default)]
pub struct Statistics {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

impl Statistics {
    /// Makes room for so many channels.
    pub fn resize(&mut self, count: usize) {
        self.mean.resize(count, 0.0);
        self.variance.resize(count, 0.0);
    }

    /// Takes both from the parameters: 0 while no batch is in them, as in Caffe.
    pub fn load(&mut self, params: &Params<'_>) {
        let sum_weights = params[2][0];
        let scale = if sum_weights == 0.0 { 0.0 } else { 1.0 / sum_weights };
        for (own, stored) in [(&mut self.mean, &params[0]), (&mut self.variance, &params[1])] {
            own.iter_mut()
                .zip(stored)
                .for_each(|(own, stored)| *own = scale * stored);
        }
    }

    /// Takes both from a batch.
    pub fn measure(&mut self, channels: Channels, partial_sums: &mut Vec<f64>, x: &[f32]) {
        let values = (channels.outer * channels.inner) as f64;
        let (mean, variance) = (&mut self.mean, &mut self.variance);
        channels.sum(
            partial_sums,
            x,
            x,
            [],
            #[inline(always)]
            |x, _, []| [x],
            |channel, [sum]| mean[channel] = (sum / values) as f32,
        );
        // From the mean's distances, not from the squares, whose difference would lose what a large mean leaves over.
        channels.sum(
            partial_sums,
            x,
            x,
            [mean],
            #[inline(always)]
            |x, _, [mean]| [(x - mean) * (x - mean)],
            |channel, [sum]| variance[channel] = (sum / values) as f32,
        );
    }

    /// Adds those of a batch of so many `values` a channel to the parameters, whose share goes down to `fraction`.
    pub fn store(&self, params: &mut Params<'_>, fraction: f32, values: usize) {
        let unbiased = if values > 1 {
            values as f32 / (values - 1) as f32
        } else {
            1.0
        };
        for (param, (batch, scale)) in [(&self.mean, 1.0), (&self.variance, unbiased)].into_iter().enumerate() {
            let pairs = params.get_mut(param).iter_mut().zip(batch);
            pairs.for_each(|(stored, batch)| *stored = scale * batch + fraction * *stored);
        }
        let sum_weights = &mut params.get_mut(2)[0];
        *sum_weights = fraction * *sum_weights + 1.0;
    }
}
