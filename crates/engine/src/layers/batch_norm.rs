//! BatchNorm: `y = (x - mean) / √(variance + eps)`, channel by channel: of the batch while training, of all batches so
//! far in the phase TEST (or as `use_global_stats` says).
//!
//! ```prototxt
//! layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" batch_norm_param { eps: 1e-5 } }
//! ```
//!
//! x is `(n, channels, …)`; without a second axis all is one channel. Three parameter blobs hold statistics that the
//! solver leaves alone (their lr_mult is 0): with every batch in which its own mean and variance are used,
//!
//! ```text
//! blob 0 ← fraction · blob 0 + mean
//! blob 1 ← fraction · blob 1 + variance · m / (m - 1)     m values a channel
//! blob 2 ← fraction · blob 2 + 1                          what to divide the others by
//! ```
//!
//! Workers that train together normalise with the statistics of their own batches, as Caffe's solvers on several GPUs
//! do. Being parameters, the three blobs are averaged wherever weights are: the mean of equally weighted statistics is
//! that of all records, but for how the workers' means differ. Where only gradients are averaged, `sparknet-train`
//! averages [statistics](crate::Net::statistics) beside them.

mod statistics;

use super::{
    Arity, LayerDef,
    channels::{Channels, keep_param_shape, top_gradient},
};
use crate::{
    LayerError, Phase, Shape,
    filler::Filler,
    layer::{Backward, Context, Forward, Layer, ParamBlob},
    spec::BatchNormSpec,
};

use statistics::Statistics;

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "BatchNorm",
    summary: "subtracts each channel's mean and divides by its standard deviation",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: BatchNormSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Gives each channel the mean 0 and the variance 1 (Ioffe and Szegedy 2015).
pub struct BatchNorm {
    spec: BatchNormSpec,
    channels: Channels,
    /// The shape of the first two parameters, once it is known.
    param_shape: Option<Shape>,
    statistics: Statistics,
    /// `1 / √(variance + eps)`, which backward needs too.
    inverse_std: Vec<f32>,
    /// What backward takes away from each gradient: a constant, and a multiple of y.
    slopes: [Vec<f32>; 2],
    partial_sums: Vec<f64>,
}

impl BatchNorm {
    /// A layer of this description.
    pub fn new(spec: &BatchNormSpec) -> Self {
        Self {
            spec: spec.clone(),
            channels: Channels::default(),
            param_shape: None,
            statistics: Statistics::default(),
            inverse_std: Vec::new(),
            slopes: Default::default(),
            partial_sums: Vec::new(),
        }
    }

    fn uses_stored_statistics(&self, context: &Context) -> bool {
        self.spec.use_global_stats.unwrap_or(context.phase == Phase::Test)
    }

    /// Values a channel.
    fn values(&self) -> usize {
        self.channels.outer * self.channels.inner
    }
}

impl Layer for BatchNorm {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        self.channels = match shape.num_axes() {
            0 => {
                return Err(LayerError::BottomShape {
                    bottom: 0,
                    shape: shape.clone(),
                    fact: "there has to be an axis of records".to_owned(),
                });
            }
            1 => Channels::new(shape, 1, 0),
            _ => Channels::new(shape, 1, 1),
        };
        let count = self.channels.count;
        keep_param_shape(shape, Shape::from([count]), &mut self.param_shape)?;
        self.statistics.resize(count);
        for values in self.slopes.iter_mut().chain([&mut self.inverse_std]) {
            values.resize(count, 0.0);
        }
        Ok(vec![shape.clone()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let blob = |count: usize| ParamBlob {
            shape: Shape::from([count]),
            filler: Filler::Constant(0.0),
        };
        vec![blob(self.channels.count), blob(self.channels.count), blob(1)]
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        if self.uses_stored_statistics(&io.context) {
            self.statistics.load(&io.params);
        } else {
            let x = if io.in_place { &io.top[0] } else { io.bottom.get(0) };
            self.statistics.measure(self.channels, &mut self.partial_sums, x);
            let fraction = self.spec.moving_average_fraction;
            self.statistics.store(&mut io.params, fraction, self.values());
        }
        for (inverse_std, variance) in self.inverse_std.iter_mut().zip(&self.statistics.variance) {
            *inverse_std = 1.0 / (variance + self.spec.eps).sqrt();
        }
        self.channels.map(
            (!io.in_place).then(|| io.bottom.get(0)),
            &mut io.top[0],
            [&self.statistics.mean, &self.inverse_std],
            #[inline(always)]
            |x, [mean, inverse_std]| (x - mean) * inverse_std,
        );
        Ok(())
    }

    /// `dx = (dy - mean(dy) - mean(dy · y) · y) / √(variance + eps)`; with stored statistics, which do not depend on x,
    /// without the two means.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let elsewhere = (!io.in_place).then(|| io.top_diff.get(0));
        if self.uses_stored_statistics(&io.context) {
            return self.channels.map(
                elsewhere,
                &mut io.bottom_diff[0],
                [&self.inverse_std],
                #[inline(always)]
                |dy, [inverse_std]| dy * inverse_std,
            );
        }
        let (y, values) = (io.top.get(0), self.values() as f64);
        let (inverse_std, [offset, slope]) = (&self.inverse_std, &mut self.slopes);
        self.channels.sum(
            &mut self.partial_sums,
            top_gradient(io.top_diff, &io.bottom_diff[0], io.in_place),
            y,
            [],
            #[inline(always)]
            |dy, y, []| [dy, dy * y],
            |channel, [sum_dy, sum_dy_y]| {
                let scale = f64::from(inverse_std[channel]) / values;
                offset[channel] = (scale * sum_dy) as f32;
                slope[channel] = (scale * sum_dy_y) as f32;
            },
        );
        self.channels.map_pairs(
            elsewhere,
            y,
            &mut io.bottom_diff[0],
            [inverse_std, offset, slope],
            #[inline(always)]
            |dy, y, [inverse_std, offset, slope]| dy * inverse_std - offset - slope * y,
        );
    }

    fn can_run_in_place(&self) -> bool {
        true
    }

    fn reads_top_in_backward(&self) -> bool {
        self.spec.use_global_stats != Some(true)
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[3, 2, 2, 3]], ""),
    super::case(&[&[6, 4]], "batch_norm_param { eps: 0.1 }"),
    super::case(&[&[8]], "batch_norm_param { eps: 0.1 }"),
    super::case(&[&[3, 2, 4]], "batch_norm_param { use_global_stats: true eps: 0.5 }"),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};
    use crate::{Net, Phase, net::NoData};

    fn layer(dims: &[usize], params: &str) -> Result<Net, String> {
        let layer = format!("layer {{ name: 'L' type: 'BatchNorm' bottom: 'x' top: 'y' {params} }}");
        net(&format!("{}{layer}", input("x", dims)))
    }

    #[test]
    fn statistics_are_kept_over_batches_and_written_to_models() {
        let params = "batch_norm_param { moving_average_fraction: 0.5 }";
        let mut net = layer(&[5, 1], params).unwrap();
        run(&mut net, &[("x", &[1.0, 2.0, 3.0, 4.0, 5.0])]).unwrap();
        // The mean of the first is 3 and its unbiased variance 10 / 4.
        run(&mut net, &[("x", &[5.0; 5])]).unwrap();
        assert_eq!(net.param_arena(), [0.5 * 3.0 + 5.0, 0.5 * 2.5, 1.5]);
        assert_eq!(net.statistics().collect::<Vec<_>>(), [0..1, 1..2, 2..3]);
        assert!(net.params().iter().all(|param| param.lr_mult == 0.0));
        let blobs = &net.to_proto(net.param_arena(), None).layer[1].blobs;
        assert_eq!(blobs.iter().map(|blob| blob.data.len()).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn without_any_statistics_mean_and_variance_are_zero_as_in_caffe() {
        let mut net = layer(&[2, 1], "batch_norm_param { use_global_stats: true eps: 0.25 }").unwrap();
        assert_eq!(run(&mut net, &[("x", &[3.0, -1.0])]).unwrap()["y"], [6.0, -2.0]);
        assert_eq!(net.param_arena(), [0.0; 3]);
    }

    #[test]
    fn tests_normalise_by_what_is_stored() {
        let y = |phase: Phase, params: &str| {
            let mut spec = layer(&[2, 1], params).unwrap().spec().clone();
            spec.state.phase = phase;
            let mut net = Net::new(spec, &mut NoData, 1).unwrap();
            // The mean is 2 and the variance 8.
            net.param_arena_mut().copy_from_slice(&[3.0, 12.0, 1.5]);
            let y = run(&mut net, &[("x", &[5.0, -1.0])]).unwrap()["y"].clone();
            (y, net.param_arena().to_vec())
        };
        let stored = (vec![1.0, -1.0], vec![3.0, 12.0, 1.5]);
        assert_eq!(y(Phase::Test, "batch_norm_param { eps: 1 }"), stored);
        assert_eq!(
            y(Phase::Train, "batch_norm_param { eps: 1 use_global_stats: true }"),
            stored
        );
        // The batch's mean is 2, too, and its variance 9.
        let batch = (vec![0.75, -0.75], vec![0.5 * 3.0 + 2.0, 0.5 * 12.0 + 18.0, 1.75]);
        let params = "moving_average_fraction: 0.5 eps: 7";
        assert_eq!(y(Phase::Train, &format!("batch_norm_param {{ {params} }}")), batch);
        assert_eq!(
            y(
                Phase::Test,
                &format!("batch_norm_param {{ {params} use_global_stats: false }}")
            ),
            batch
        );
    }

    #[test]
    fn a_large_mean_leaves_the_variance_alone() {
        let mut net = layer(&[64, 2, 4], "batch_norm_param { eps: 0 }").unwrap();
        let x: Vec<f32> = (0..64 * 8).map(|i| 10_000.0 + (i % 2) as f32).collect();
        let blobs = run(&mut net, &[("x", &x)]).unwrap();
        let y = |i: usize| if i.is_multiple_of(2) { -1.0 } else { 1.0 };
        assert!(
            (0..x.len()).all(|i| (blobs["y"][i] - y(i)).abs() < 1e-3),
            "{:?}",
            blobs["y"]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_remedy() {
        let error = layer(&[], "").err().unwrap();
        assert!(
            error.contains("layer 'L' (BatchNorm): bottom 0 has shape ()"),
            "{error}"
        );
        let error = layer(&[2, 3], "param { lr_mult: 1 }").err().unwrap();
        assert!(error.contains("give lr_mult 0"), "{error}");
        let error = layer(&[2, 3], "batch_norm_param { eps: -1 }").err().unwrap();
        assert!(error.contains("eps is -1"), "{error}");
        let mut net = layer(&[2, 3], "param { lr_mult: 0 }").unwrap();
        let error = net.reshape_feed(0, &[[2, 4].into()]).unwrap_err().to_string();
        assert!(
            error.contains("layer 'L' (BatchNorm)") && error.contains("(2, 4)"),
            "{error}"
        );
        net.reshape_feed(0, &[[5, 3].into()]).unwrap();
    }
}
