//! What layers share whose parameters go with some axes of a blob, such as its channels.

use rayon::prelude::*;

use super::{neuron::CHUNK, vectorized::vectorized};
use crate::{LayerError, Shape, layer::Blobs, spec::AxesSpec};

/// Sums side by side, which become vectors.
const LANES: usize = 32;

/// Values summed in f32 before the sum goes on in f64.
const BLOCK: usize = 4096;

/// Channels that a thread sums at a time where each lies in a column of its own.
const COLUMNS: usize = 64;

/// A blob as `(outer, count, inner)` around the `count` values that go with its middle axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// The product of the extents before the axes.
    pub outer: usize,
    /// The product of their own extents.
    pub count: usize,
    /// The product of the extents behind them.
    pub inner: usize,
}

impl Channels {
    /// `shape` around `num_axes` axes from `axis` on.
    pub fn new(shape: &Shape, axis: usize, num_axes: usize) -> Self {
        Self {
            outer: shape.count_to(axis),
            count: shape.dims()[axis..axis + num_axes].iter().product(),
            inner: shape.count_from(axis + num_axes),
        }
    }

    /// The layout of a `Bias` or `Scale` layer's bottoms, and the shape of the values, which are the second bottom or
    /// else a parameter.
    ///
    /// # Errors
    /// Axes that the first bottom does not have, a second bottom of another shape.
    pub fn of_bottoms(bottom: &[&Shape], spec: &AxesSpec) -> Result<(Self, Shape), LayerError> {
        let shape = bottom[0];
        let num_axes = bottom.get(1).map_or(spec.num_axes, |values| Some(values.num_axes()));
        // As in Caffe, it does not matter where a single value starts.
        let axis = if num_axes == Some(0) { 0 } else { spec.axis };
        let start = shape.axis(axis).or((num_axes == Some(0)).then_some(0));
        let start = start.ok_or_else(|| LayerError::Axis {
            axis,
            shape: shape.clone(),
        })?;
        let num_axes = num_axes.unwrap_or(shape.num_axes() - start);
        let Some(dims) = shape.dims()[start..].get(..num_axes) else {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: format!("from axis {start} on there have to be {num_axes} axes"),
            });
        };
        let expected = Shape::new(dims);
        match bottom.get(1) {
            Some(values) if **values != expected => Err(LayerError::BottomShapes {
                first: 0,
                first_shape: shape.clone(),
                second: 1,
                second_shape: (*values).clone(),
                fact: format!("from axis {start} on they have to agree: {expected} would do"),
            }),
            _ => Ok((Self::new(shape, start, num_axes), expected)),
        }
    }

    /// `y = f(x, values of its channel)`; `None` for x finds it in y. Vectorised as in `neuron::map`.
    pub fn map<const N: usize>(
        self,
        x: Option<&[f32]>,
        y: &mut [f32],
        values: [&[f32]; N],
        f: impl Fn(f32, [f32; N]) -> f32 + Copy + Send + Sync,
    ) {
        self.parts(
            y,
            #[inline(always)]
            move |start, channel, y| {
                let x = x.map(|x| &x[start..][..y.len()]);
                match (self.inner, x) {
                    (1, _) => {
                        let values = values.map(|values| &values[channel..][..y.len()]);
                        for i in 0..y.len() {
                            y[i] = f(x.map_or(y[i], |x| x[i]), values.map(|values| values[i]));
                        }
                    }
                    (_, Some(x)) => {
                        let values = values.map(|values| values[channel]);
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x, values));
                    }
                    (_, None) => {
                        let values = values.map(|values| values[channel]);
                        y.iter_mut().for_each(|y| *y = f(*y, values));
                    }
                }
            },
        );
    }

    /// `dx = f(dy, z, values of its channel)`; `None` for dy finds it in dx. Vectorised as in `neuron::map`.
    pub fn map_pairs<const N: usize>(
        self,
        dy: Option<&[f32]>,
        z: &[f32],
        dx: &mut [f32],
        values: [&[f32]; N],
        f: impl Fn(f32, f32, [f32; N]) -> f32 + Copy + Send + Sync,
    ) {
        self.parts(
            dx,
            #[inline(always)]
            move |start, channel, dx| {
                let dy = dy.map(|dy| &dy[start..][..dx.len()]);
                let z = &z[start..][..dx.len()];
                match (self.inner, dy) {
                    (1, _) => {
                        let values = values.map(|values| &values[channel..][..dx.len()]);
                        for i in 0..dx.len() {
                            dx[i] = f(dy.map_or(dx[i], |dy| dy[i]), z[i], values.map(|values| values[i]));
                        }
                    }
                    (_, Some(dy)) => {
                        let values = values.map(|values| values[channel]);
                        let pairs = dy.iter().zip(z);
                        dx.iter_mut()
                            .zip(pairs)
                            .for_each(|(dx, (dy, z))| *dx = f(*dy, *z, values));
                    }
                    (_, None) => {
                        let values = values.map(|values| values[channel]);
                        dx.iter_mut().zip(z).for_each(|(dx, z)| *dx = f(*dx, *z, values));
                    }
                }
            },
        );
    }

    /// Calls `run(start, channel, part)` for each part of `blob` of one channel or, where each channel has one value in
    /// a row, of one row from that channel on.
    #[inline(always)]
    fn parts(self, blob: &mut [f32], run: impl Fn(usize, usize, &mut [f32]) + Copy + Send + Sync) {
        let Self { count, inner, .. } = self;
        let part = if inner == 1 { count } else { inner };
        // Whole parts, unless a part is so large that threads share it.
        let chunk = if part < CHUNK { CHUNK / part * part } else { CHUNK };
        blob.par_chunks_mut(chunk).enumerate().for_each(|(index, blob)| {
            vectorized(
                #[inline(always)]
                move || {
                    let (mut start, mut rest) = (index * chunk, blob);
                    while !rest.is_empty() {
                        let (length, channel) = (part - start % part, start / inner % count);
                        let (this, behind) = rest.split_at_mut(length.min(rest.len()));
                        run(start, channel, this);
                        start += this.len();
                        rest = behind;
                    }
                },
            );
        });
    }

    /// Calls `take(channel, sums)` for each channel in turn, with the sums of `f(a, b, values of the channel)` over all
    /// of its values, in an order that does not depend on the number of threads. `partial` is kept between calls so
    /// that nothing is allocated.
    pub fn sum<const M: usize, const N: usize>(
        self,
        partial: &mut Vec<f64>,
        a: &[f32],
        b: &[f32],
        values: [&[f32]; M],
        f: impl Fn(f32, f32, [f32; M]) -> [f32; N] + Copy + Send + Sync,
        mut take: impl FnMut(usize, [f64; N]),
    ) {
        let Self { outer, count, inner } = self;
        if inner == 1 {
            partial.resize(count * N, 0.0);
            let columns = partial.par_chunks_mut(COLUMNS * N).enumerate();
            columns.for_each(|(index, sums)| {
                vectorized(
                    #[inline(always)]
                    move || column_sums(sums, index * COLUMNS, count, a, b, values, f),
                );
            });
        } else {
            partial.resize(outer * count * N, 0.0);
            let planes = a.par_chunks(inner).zip(b.par_chunks(inner)).enumerate();
            planes
                .zip(partial.par_chunks_mut(N))
                .with_min_len((CHUNK / inner).max(1))
                .for_each(|((plane, (a, b)), sums)| {
                    let values = values.map(|values| values[plane % count]);
                    vectorized(
                        #[inline(always)]
                        move || sums.copy_from_slice(&plane_sums(a, b, values, f)),
                    );
                });
        }
        for channel in 0..count {
            let mut sums = [0.0; N];
            for partial in partial.chunks_exact(N).skip(channel).step_by(count) {
                sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
            }
            take(channel, sums);
        }
    }
}

/// The sums of the columns from `first` on, `N` each.
#[inline(always)]
fn column_sums<const M: usize, const N: usize>(
    sums: &mut [f64],
    first: usize,
    count: usize,
    a: &[f32],
    b: &[f32],
    values: [&[f32]; M],
    f: impl Fn(f32, f32, [f32; M]) -> [f32; N],
) {
    let columns = sums.len() / N;
    let mut lanes = [[0.0f64; COLUMNS]; N];
    let values = values.map(|values| &values[first..][..columns]);
    for (a, b) in a.chunks_exact(count).zip(b.chunks_exact(count)) {
        let (a, b) = (&a[first..][..columns], &b[first..][..columns]);
        for column in 0..columns {
            let terms = f(a[column], b[column], values.map(|values| values[column]));
            for n in 0..N {
                lanes[n][column] += f64::from(terms[n]);
            }
        }
    }
    for (column, sums) in sums.chunks_exact_mut(N).enumerate() {
        for (sum, lanes) in sums.iter_mut().zip(&lanes) {
            *sum = lanes[column];
        }
    }
}

/// The sums of one plane: many side by side in f32, block by block, and the blocks' in f64.
#[inline(always)]
fn plane_sums<const M: usize, const N: usize>(
    a: &[f32],
    b: &[f32],
    values: [f32; M],
    f: impl Fn(f32, f32, [f32; M]) -> [f32; N],
) -> [f64; N] {
    let mut sums = [0.0f64; N];
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [[0.0f32; LANES]; N];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                let terms = f(a[lane], b[lane], values);
                for n in 0..N {
                    lanes[n][lane] += terms[n];
                }
            }
        }
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            let terms = f(*a, *b, values);
            for n in 0..N {
                lanes[n][lane] += terms[n];
            }
        }
        for (sum, lanes) in sums.iter_mut().zip(&lanes) {
            *sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        }
    }
    sums
}

/// Keeps the shape of a layer's parameters, which follow from its bottom's shape.
///
/// # Errors
/// A bottom that changes its shape so that the parameters that there are fit no more.
pub fn keep_param_shape(bottom: &Shape, wanted: Shape, kept: &mut Option<Shape>) -> Result<(), LayerError> {
    match kept {
        Some(kept) if *kept != wanted => Err(LayerError::BottomShape {
            bottom: 0,
            shape: bottom.clone(),
            fact: format!("the parameters have shape {kept}, not {wanted}: only other axes may change"),
        }),
        _ => {
            *kept = Some(wanted);
            Ok(())
        }
    }
}

/// The top's gradient, which in place lies in the bottom's.
pub fn top_gradient<'a>(top_diff: Blobs<'a>, bottom_diff: &'a [f32], in_place: bool) -> &'a [f32] {
    // A bottom that wants no gradient is not lent, and then the top's is where it is anyway.
    if in_place && !bottom_diff.is_empty() {
        bottom_diff
    } else {
        top_diff.get(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::harness::{assert_close, normal};

    const LAYOUTS: [(usize, usize, usize); 7] = [
        (5, 3, 7),
        (4, 70, 1),
        (3, CHUNK + 5, 1),
        (2, 2, 2 * CHUNK + 3),
        (1, 1, 3 * CHUNK),
        (3, 1, 1),
        (300, 3, 100),
    ];

    #[test]
    fn every_value_meets_those_of_its_channel() {
        for (outer, count, inner) in LAYOUTS {
            let channels = Channels { outer, count, inner };
            let length = outer * count * inner;
            let (x, z) = (normal(1, length), normal(2, length));
            let (a, b) = (normal(3, count), normal(4, count));
            let channel = |i: usize| i / inner % count;

            let expected: Vec<f32> = (0..length).map(|i| x[i] * a[channel(i)] - b[channel(i)]).collect();
            let mut apart = vec![f32::NAN; length];
            channels.map(Some(&x), &mut apart, [&a, &b], |x, [a, b]| x * a - b);
            let mut in_place = x.clone();
            channels.map(None, &mut in_place, [&a, &b], |x, [a, b]| x * a - b);
            assert!(apart == expected && in_place == expected, "{channels:?}");

            let expected: Vec<f32> = (0..length).map(|i| x[i] * a[channel(i)] - z[i]).collect();
            let mut apart = vec![f32::NAN; length];
            channels.map_pairs(Some(&x), &z, &mut apart, [&a], |x, z, [a]| x * a - z);
            let mut in_place = x.clone();
            channels.map_pairs(None, &z, &mut in_place, [&a], |x, z, [a]| x * a - z);
            assert!(apart == expected && in_place == expected, "{channels:?} with pairs");
        }
    }

    #[test]
    fn sums_are_right_and_the_same_on_any_number_of_threads() {
        for (outer, count, inner) in LAYOUTS {
            let channels = Channels { outer, count, inner };
            let length = outer * count * inner;
            let (x, z, a) = (normal(1, length), normal(2, length), normal(3, count));
            let mut expected = vec![[0.0f64; 2]; count];
            for i in 0..length {
                let channel = i / inner % count;
                expected[channel][0] += f64::from((x[i] - a[channel]) * z[i]);
                expected[channel][1] += f64::from(x[i]);
            }
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut found = Vec::new();
                pool.install(|| {
                    // What is left in the buffer by another layout must not show through.
                    let mut partial = vec![f64::NAN; 10];
                    let f = |x: f32, z: f32, [a]: [f32; 1]| [(x - a) * z, x];
                    channels.sum(&mut partial, &x, &z, [&a], f, |channel, sums| {
                        assert_eq!(channel, found.len());
                        found.push(sums);
                    });
                });
                found
            };
            let one = run(1);
            assert_eq!(one, run(3), "{channels:?}");
            let floats = |sums: &[[f64; 2]]| sums.as_flattened().iter().map(|sum| *sum as f32).collect::<Vec<f32>>();
            assert_close(&format!("{channels:?}"), &floats(&one), &floats(&expected), 1e-5);
        }
    }

    fn of_bottoms(dims: &[&[usize]], axis: i32, num_axes: Option<usize>) -> Result<(Channels, Shape), String> {
        let shapes: Vec<Shape> = dims.iter().map(|dims| Shape::new(*dims)).collect();
        let bottoms: Vec<&Shape> = shapes.iter().collect();
        Channels::of_bottoms(&bottoms, &AxesSpec { axis, num_axes }).map_err(|error| error.to_string())
    }

    #[test]
    fn axes_may_be_any_that_are_there() {
        let channels = |outer, count, inner| Channels { outer, count, inner };
        for (dims, axis, num_axes, layout, values) in [
            (&[&[2usize, 3, 4][..]][..], 1, Some(1), channels(2, 3, 4), &[3usize][..]),
            (&[&[2, 3, 4]], -2, None, channels(2, 12, 1), &[3, 4]),
            (&[&[2, 3, 4]], 0, Some(2), channels(1, 6, 4), &[2, 3]),
            // A single value starts anywhere, also where there is no such axis.
            (&[&[5]], 1, Some(0), channels(1, 1, 5), &[]),
            (&[&[]], 1, Some(0), channels(1, 1, 1), &[]),
            // The second bottom says how many axes there are.
            (&[&[2, 3, 4], &[3, 4]], 1, Some(1), channels(2, 12, 1), &[3, 4]),
            (&[&[2, 3, 4], &[]], 1, Some(1), channels(1, 1, 24), &[]),
        ] {
            let found = of_bottoms(dims, axis, num_axes);
            assert_eq!(found, Ok((layout, Shape::new(values))), "{dims:?} axis {axis}");
        }
        for (dims, axis, num_axes, named) in [
            (&[&[2usize, 3][..]][..], 2, Some(1), "axis 2"),
            (&[&[2, 3]], 1, Some(2), "(2, 3)"),
            (&[&[2, 3], &[2]], 1, None, "bottom 1 (2)"),
            (&[&[2, 3], &[3, 1]], 1, None, "from axis 1 on there have to be 2 axes"),
        ] {
            let error = of_bottoms(dims, axis, num_axes).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn parameters_keep_their_shape() {
        let (bottom, mut kept) = (Shape::from([2, 5]), None);
        assert_eq!(keep_param_shape(&bottom, Shape::from([3]), &mut kept), Ok(()));
        assert_eq!(keep_param_shape(&bottom, Shape::from([3]), &mut kept), Ok(()));
        let error = keep_param_shape(&bottom, Shape::from([5]), &mut kept)
            .unwrap_err()
            .to_string();
        assert!(error.contains("(2, 5)") && error.contains("(3), not (5)"), "{error}");
    }
}
