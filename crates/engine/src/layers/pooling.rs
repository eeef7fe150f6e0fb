//! Pooling: the maximum, the average or a random value of each window of each channel.
//!
//! Windows follow Caffe: their number is rounded up, so that the last ones may stick out of the bottom; an average
//! counts the padding as zeros, but not what lies beyond it. A second top of MAX is the mask: where in its channel each
//! maximum lies. STOCHASTIC (Zeiler and Fergus 2013) draws a value in proportion to the values while training, and is
//! their average weighted by themselves in a test.
//!
//! ```prototxt
//! layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Phase, Shape,
    kernels::pooling::{Axis, Rows, Windows},
    layer::{Backward, Forward, Layer},
    spec::{PoolingMethod, PoolingSpec},
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Pooling",
    summary: "the maximum, average or a random value of windows",
    bottoms: Arity::Exactly(1),
    tops: Arity::Between(1, 2),
    parse: PoolingSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Makes each window of a channel a single value.
pub struct Pooling {
    spec: PoolingSpec,
    /// Channels of all images.
    planes: usize,
    windows: Windows,
    /// For each value of the top, where in its channel it was taken from; not for AVE.
    taken_from: Vec<u32>,
    /// One for each thread.
    rows: Vec<Rows>,
}

impl Pooling {
    /// A layer of this description.
    pub fn new(spec: &PoolingSpec) -> Self {
        Self {
            spec: spec.clone(),
            planes: 0,
            windows: Windows::new(Axis::default(), Axis::default()),
            taken_from: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Sizes the buffers; returns how many planes each part has.
    fn prepare(&mut self, threads: usize) -> usize {
        self.rows.resize_with(threads, Rows::default);
        self.taken_from.resize(self.planes * self.windows.top_count(), 0);
        self.planes.div_ceil(threads).max(1)
    }
}

impl Layer for Pooling {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let error = |fact: &str| LayerError::BottomShape {
            bottom: 0,
            shape: bottom[0].clone(),
            fact: fact.to_owned(),
        };
        let [images, channels, height, width] = *bottom[0].dims() else {
            return Err(error(
                "it has to have four axes (n, c, h, w): put a Reshape layer before this one",
            ));
        };
        let PoolingSpec {
            kernel,
            stride,
            pad,
            global,
            round_up,
            ..
        } = self.spec;
        let axis = |i: usize, input: usize| {
            let kernel = if global { input } else { kernel[i] };
            Axis::new([input, kernel, stride[i], pad[i]], round_up, pad != [0, 0])
                .map_err(|fact| error(&format!("axis {} has {input} positions and {fact}", i + 2)))
        };
        self.planes = images * channels;
        self.windows = Windows::new(axis(0, height)?, axis(1, width)?);
        let top = Shape::from([images, channels, self.windows.height.output, self.windows.width.output]);
        let tops = if self.spec.method == PoolingMethod::Max { 2 } else { 1 };
        Ok(vec![top; tops])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let planes = self.prepare(io.context.threads);
        let (windows, method, context) = (&self.windows, self.spec.method, io.context);
        let (bottom_count, top_count) = (windows.bottom_count(), windows.top_count());
        let tops = io.top[0]
            .par_chunks_mut(planes * top_count)
            .zip(self.taken_from.par_chunks_mut(planes * top_count));
        let bottoms = io.bottom.get(0).par_chunks(planes * bottom_count).enumerate();
        let parts = self.rows.par_iter_mut().zip(tops).zip(bottoms).with_max_len(1);
        parts.for_each(|((rows, (y, taken_from)), (i, x))| match (method, context.phase) {
            (PoolingMethod::Max, _) => windows.max(rows, x, y, taken_from),
            (PoolingMethod::Average, _) => windows.average(rows, x, y),
            (PoolingMethod::Stochastic, phase) => {
                let tops = y
                    .chunks_exact_mut(top_count)
                    .zip(taken_from.chunks_exact_mut(top_count));
                for (plane, ((y, taken_from), x)) in tops.zip(x.chunks_exact(bottom_count)).enumerate() {
                    let first_random = ((i * planes + plane) * top_count) as u64;
                    match phase {
                        Phase::Train => windows.draw(context.random_key, first_random, x, y, taken_from),
                        Phase::Test => windows.weighted_average(x, y),
                    }
                }
            }
        });
        if let [_, mask] = io.top {
            mask.iter_mut()
                .zip(&self.taken_from)
                .for_each(|(mask, index)| *mask = *index as f32);
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let planes = self.prepare(io.context.threads);
        let (windows, method, phase) = (&self.windows, self.spec.method, io.context.phase);
        let (bottom_count, top_count) = (windows.bottom_count(), windows.top_count());
        let tops = io
            .top_diff
            .get(0)
            .par_chunks(planes * top_count)
            .zip(io.top.get(0).par_chunks(planes * top_count));
        let tops = tops.zip(self.taken_from.par_chunks(planes * top_count));
        let bottoms = io.bottom_diff[0].par_chunks_mut(planes * bottom_count);
        let bottoms = bottoms.zip(io.bottom.get(0).par_chunks(planes * bottom_count));
        let parts = self.rows.par_iter_mut().zip(bottoms).zip(tops).with_max_len(1);
        parts.for_each(|((rows, (dx, x)), ((dy, y), taken_from))| match (method, phase) {
            (PoolingMethod::Average, _) => windows.average_gradient(rows, dy, dx),
            (PoolingMethod::Stochastic, Phase::Test) => {
                let tops = dy.chunks_exact(top_count).zip(y.chunks_exact(top_count));
                let bottoms = dx.chunks_exact_mut(bottom_count).zip(x.chunks_exact(bottom_count));
                for ((dx, x), (dy, y)) in bottoms.zip(tops) {
                    dx.fill(0.0);
                    windows.weighted_average_gradient(x, y, dy, dx);
                }
            }
            _ => windows.gradient_of_taken(taken_from, dy, dx),
        });
    }

    fn reads_top_in_backward(&self) -> bool {
        self.spec.method == PoolingMethod::Stochastic
    }

    fn takes_gradient(&self, top: usize) -> bool {
        top == 0
    }
}

#[cfg(test)]
const fn case(bottoms: &'static [&'static [usize]], params: &'static str) -> super::GradientCase {
    super::GradientCase {
        fill: super::Fill::Distinct,
        ..super::case(bottoms, params)
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case(&[&[2, 2, 4, 6]], "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
    case(&[&[2, 2, 6, 5]], "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"),
    case(
        &[&[1, 2, 5, 6]],
        "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR }",
    ),
    case(
        &[&[1, 2, 4, 5]],
        "pooling_param { pool: MAX kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 3 pad_w: 1 }",
    ),
    case(&[&[2, 3, 4, 5]], "pooling_param { pool: MAX global_pooling: true }"),
    case(&[&[2, 2, 6, 5]], "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"),
    case(
        &[&[1, 2, 7, 6]],
        "pooling_param { pool: AVE kernel_size: 5 stride: 3 pad: 2 }",
    ),
    case(
        &[&[1, 2, 5, 4]],
        "pooling_param { pool: AVE kernel_size: 2 stride: 1 pad: 1 round_mode: FLOOR }",
    ),
    case(&[&[2, 3, 4, 5]], "pooling_param { pool: AVE global_pooling: true }"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::harness::{assert_close, normal, run};

    fn spec(method: PoolingMethod, kernel: [usize; 2], stride: [usize; 2], pad: [usize; 2]) -> PoolingSpec {
        PoolingSpec {
            method,
            kernel,
            stride,
            pad,
            global: false,
            round_up: true,
        }
    }

    /// The windows of a channel as Caffe's loops have them: the indices, and the divisor of an average.
    fn windows(spec: &PoolingSpec, input: [usize; 2], output: [usize; 2]) -> Vec<(Vec<usize>, f32)> {
        let mut windows = Vec::new();
        for row in 0..output[0] {
            for column in 0..output[1] {
                let place = [row, column];
                let start = [0, 1].map(|i| (place[i] * spec.stride[i]) as i64 - spec.pad[i] as i64);
                let end = [0, 1].map(|i| (start[i] + spec.kernel[i] as i64).min((input[i] + spec.pad[i]) as i64));
                let divisor = ((end[0] - start[0]) * (end[1] - start[1])) as f32;
                let inside = |i: usize| start[i].max(0) as usize..end[i].min(input[i] as i64) as usize;
                let columns = inside(1);
                let indices = inside(0).flat_map(|row| columns.clone().map(move |column| row * input[1] + column));
                windows.push((indices.collect(), divisor));
            }
        }
        windows
    }

    /// Compares forward and backward with the definition, on several numbers of threads; false if the shape is refused.
    fn check(spec: &PoolingSpec, dims: [usize; 4], x: &[f32]) -> bool {
        let shape = Shape::from(dims);
        let mut layer = Pooling::new(spec);
        let Ok(tops) = layer.reshape(&[&shape]) else {
            return false;
        };
        let output = [tops[0].dims()[2], tops[0].dims()[3]];
        let windows = windows(spec, [dims[2], dims[3]], output);
        let num_tops = if spec.method == PoolingMethod::Max { 2 } else { 1 };
        for threads in 1..=3 {
            let found = run(
                &mut layer,
                &[(shape.clone(), x.to_vec())],
                &[],
                num_tops,
                Phase::Test,
                threads,
            );
            let (mut y, mut mask, mut dx) = (Vec::new(), Vec::new(), vec![0.0; x.len()]);
            let mut diffs = found.top_diffs[0].iter();
            for plane in 0..dims[0] * dims[1] {
                let offset = plane * dims[2] * dims[3];
                for (indices, divisor) in &windows {
                    let dy = diffs.next().unwrap();
                    let values: Vec<f32> = indices.iter().map(|i| x[offset + i]).collect();
                    let sum: f32 = values.iter().sum();
                    match spec.method {
                        PoolingMethod::Max => {
                            let greatest = values.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                            let first = indices[values.iter().position(|value| *value == greatest).unwrap()];
                            y.push(greatest);
                            mask.push(first as f32);
                            dx[offset + first] += dy;
                        }
                        PoolingMethod::Average => {
                            y.push(sum / divisor);
                            indices.iter().for_each(|i| dx[offset + i] += dy / divisor);
                        }
                        PoolingMethod::Stochastic => {
                            y.push(values.iter().map(|x| x * x).sum::<f32>() / sum);
                            let y = y[y.len() - 1];
                            indices
                                .iter()
                                .for_each(|i| dx[offset + i] += dy * (2.0 * x[offset + i] - y) / sum);
                        }
                    }
                }
            }
            let what = format!("{spec:?} {shape}");
            assert_close(&format!("y of {what}"), &found.tops[0].1, &y, 1e-5);
            assert_close(&format!("dx of {what}"), &found.bottom_diffs[0], &dx, 1e-5);
            if num_tops == 2 {
                assert_eq!(found.tops[1].1, mask, "mask of {what}");
            }
        }
        true
    }

    #[test]
    fn matches_the_definition() {
        let (mut checked, mut all) = (0, 0);
        for method in [PoolingMethod::Max, PoolingMethod::Average, PoolingMethod::Stochastic] {
            for kernel in [[1, 1], [2, 2], [3, 3], [2, 5], [4, 3]] {
                for stride in [[1, 1], [2, 2], [3, 1], [1, 3], [4, 5]] {
                    for pad in [[0, 0], [1, 1], [0, 2], [3, 2]] {
                        if pad[0] >= kernel[0] || pad[1] >= kernel[1] {
                            continue;
                        }
                        for round_up in [true, false] {
                            for (dims, seed) in [([2, 3, 7, 6], 1), ([1, 2, 5, 9], 2), ([1, 1, 2, 3], 3)] {
                                let mut x = normal(seed, dims.iter().product());
                                if method == PoolingMethod::Stochastic {
                                    x.iter_mut().for_each(|x| *x = x.abs());
                                } else {
                                    // Coarse, so that there are ties.
                                    x.iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
                                }
                                let spec = PoolingSpec {
                                    round_up,
                                    ..spec(method, kernel, stride, pad)
                                };
                                checked += usize::from(check(&spec, dims, &x));
                                all += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(checked * 10 > all * 8, "only {checked} of {all} shapes were taken");
    }

    fn top_dims(spec: &PoolingSpec, height: usize, width: usize) -> Result<[usize; 2], String> {
        match Pooling::new(spec).reshape(&[&Shape::from([1, 1, height, width])]) {
            Ok(tops) => Ok([tops[0].dims()[2], tops[0].dims()[3]]),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn windows_are_counted_as_caffe_does() {
        let max =
            |kernel: usize, stride: usize, pad: usize| spec(PoolingMethod::Max, [kernel; 2], [stride; 2], [pad; 2]);
        assert_eq!(top_dims(&max(3, 2, 0), 8, 7), Ok([4, 3]));
        assert_eq!(
            top_dims(
                &PoolingSpec {
                    round_up: false,
                    ..max(3, 2, 0)
                },
                8,
                7
            ),
            Ok([3, 3])
        );
        // (6 + 2 - 2) / 3 + 1 = 3 windows, the last of which begins at 6 - 1 and sees one row.
        assert_eq!(top_dims(&max(2, 3, 1), 6, 5), Ok([3, 2]));
        assert_eq!(
            top_dims(&max(2, 2, 1), 5, 5),
            Ok([3, 3]),
            "a fourth would begin in the padding"
        );
        assert_eq!(top_dims(&max(3, 2, 0), 2, 2), Ok([1, 1]), "a window may stick out");
        let global = PoolingSpec {
            global: true,
            ..spec(PoolingMethod::Max, [0; 2], [1; 2], [0; 2])
        };
        assert_eq!(top_dims(&global, 6, 7), Ok([1, 1]));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_remedy() {
        let refused = top_dims(&spec(PoolingMethod::Max, [6; 2], [1; 2], [0; 2]), 5, 5).unwrap_err();
        assert!(
            refused.contains("axis 2 has 5 positions and the kernel is larger"),
            "{refused}"
        );
        let refused = top_dims(&spec(PoolingMethod::Max, [1; 2], [5; 2], [0; 2]), 3, 3).unwrap_err();
        assert!(
            refused.contains("axis 2 has 3 positions and the last window begins beyond it: set round_mode: FLOOR"),
            "{refused}"
        );
        let mut layer = Pooling::new(&spec(PoolingMethod::Max, [1; 2], [1; 2], [0; 2]));
        let refused = layer.reshape(&[&Shape::from([1, 3, 5])]).unwrap_err().to_string();
        assert!(refused.contains("(1, 3, 5), but it has to have four axes"), "{refused}");
        // However large the kernel, buffers are not.
        let huge = spec(
            PoolingMethod::Max,
            [u32::MAX as usize; 2],
            [u32::MAX as usize; 2],
            [0; 2],
        );
        let bottom = [(Shape::from([1, 1, 2, 2]), vec![1.0, 4.0, 3.0, 2.0])];
        assert_eq!(
            run(&mut Pooling::new(&huge), &bottom, &[], 1, Phase::Train, 1).tops[0].1,
            [4.0]
        );
    }

    #[test]
    fn a_maximum_shows_nan_and_survives_infinities() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let two = spec(PoolingMethod::Max, [2; 2], [2; 2], [1; 2]);
        let x = vec![
            -infinity, 1.0, nan, 2.0, //
            3.0, 4.0, 5.0, 6.0, //
            -infinity, -infinity, nan, nan, //
            -infinity, -infinity, 0.0, infinity,
        ];
        let bottom = [(Shape::from([1, 1, 4, 4]), x)];
        let found = run(&mut Pooling::new(&two), &bottom, &[], 2, Phase::Train, 1);
        let (y, mask) = (&found.tops[0].1, &found.tops[1].1);
        assert_eq!((y[0], mask[0]), (-infinity, 0.0), "the padding is never taken");
        assert!(y[1].is_nan() && mask[1] == 2.0);
        assert_eq!(y[3], 3.0);
        assert!(y[4].is_nan());
        assert_eq!((y[6], mask[6]), (-infinity, 12.0));
        assert_eq!(y[8], infinity);
    }

    #[test]
    fn stochastic_draws_in_proportion_to_the_values() {
        let channels = 4000;
        let x = [1.0, 0.0, 2.0, 5.0].repeat(channels);
        let bottom = [(Shape::from([1, channels, 2, 2]), x)];
        let mut layer = Pooling::new(&spec(PoolingMethod::Stochastic, [2; 2], [2; 2], [0; 2]));
        let one = run(&mut layer, &bottom, &[], 1, Phase::Train, 1);
        let y = &one.tops[0].1;
        for (value, share) in [(0.0, 0.0), (1.0, 0.125), (2.0, 0.25), (5.0, 0.625)] {
            let found = y.iter().filter(|y| **y == value).count() as f32 / channels as f32;
            assert!((found - share).abs() < 0.03, "{value}: {found} is not {share}");
        }
        for (plane, (y, dy)) in y.iter().zip(&one.top_diffs[0]).enumerate() {
            let expected = [1.0, 0.0, 2.0, 5.0].map(|x| if x == *y { *dy } else { 0.0 });
            assert_eq!(
                one.bottom_diffs[0][plane * 4..][..4],
                expected,
                "the gradient goes where y came from"
            );
        }
        let three = run(&mut layer, &bottom, &[], 1, Phase::Train, 3);
        assert_eq!(*y, three.tops[0].1, "draws do not depend on the number of threads");
        let zeros = [(Shape::from([1, 1, 2, 2]), vec![0.0; 4])];
        for phase in [Phase::Train, Phase::Test] {
            assert_eq!(run(&mut layer, &zeros, &[], 1, phase, 1).tops[0].1, [0.0]);
        }
    }
}
