//! What layers share whose parameters go with some axes of a blob, such as its channels.

use rayon::prelude::*;

use super::{neuron::CHUNK, vectorized::vectorized};
use crate::{LayerError, Shape, layer::Blobs, spec::AxesSpec};

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
        self.map_each(
            x,
            None,
            y,
            values,
            #[inline(always)]
            move |x, _, values| f(x, values),
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
        self.map_each(dy, Some(z), dx, values, f);
    }

    /// `y = f(x, z, values of its channel)`; without x or z, y's old value is given for them.
    #[inline(always)]
    fn map_each<const N: usize>(
        self,
        x: Option<&[f32]>,
        z: Option<&[f32]>,
        y: &mut [f32],
        values: [&[f32]; N],
        f: impl Fn(f32, f32, [f32; N]) -> f32 + Copy + Send + Sync,
    ) {
        self.parts(
            y,
            #[inline(always)]
            move |start, channel, y| {
                let x = x.map(|x| &x[start..][..y.len()]);
                let z = z.map(|z| &z[start..][..y.len()]);
                if self.inner == 1 {
                    let values = values.map(|values| &values[channel..][..y.len()]);
                    for i in 0..y.len() {
                        let (x, z) = (x.map_or(y[i], |x| x[i]), z.map_or(y[i], |z| z[i]));
                        y[i] = f(x, z, values.map(|values| values[i]));
                    }
                } else {
                    let values = values.map(|values| values[channel]);
                    for i in 0..y.len() {
                        let (x, z) = (x.map_or(y[i], |x| x[i]), z.map_or(y[i], |z| z[i]));
                        y[i] = f(x, z, values);
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
pub mod tests {
    use super::*;
    use crate::layers::harness::normal;

    pub const LAYOUTS: [(usize, usize, usize); 7] = [
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
