//! Im2col: the patches that a convolution's kernel meets, each as a column: `(n, c, h, w)` becomes
//! `(n, c·kernel…, output…)`, over any number of spatial axes.
//!
//! ```prototxt
//! layer { name: "patches" type: "Im2col" bottom: "x" top: "patches" convolution_param { kernel_size: 3 pad: 1 } }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, patches::Patches};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::ConvolutionSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Im2col",
    summary: "the patches that a kernel meets, as columns",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ConvolutionSpec::parse_im2col,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Writes patches out.
pub struct Im2col {
    spec: ConvolutionSpec,
    patches: Patches,
    /// Channels of all images.
    channels: usize,
    /// For each thread the columns of one channel, which summing them up destroys.
    columns: Vec<Vec<f32>>,
}

impl Im2col {
    /// A layer of this description.
    pub fn new(spec: &ConvolutionSpec) -> Self {
        Self {
            spec: spec.clone(),
            patches: Patches::default(),
            channels: 0,
            columns: Vec::new(),
        }
    }

    /// Values in the columns of a channel.
    fn columns_count(&self) -> usize {
        self.patches.kernel_count * self.patches.output_count
    }
}

impl Layer for Im2col {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let axis = shape.require_axis(self.spec.axis)?;
        let (patches, _, output) = Patches::new(&self.spec, shape, axis)?;
        let channels = shape.dims()[axis].saturating_mul(patches.kernel_count);
        let top = Shape::new([&shape.dims()[..axis], &[channels], &output].concat());
        self.channels = shape.count_to(axis + 1);
        self.patches = patches;
        self.columns.clear();
        Ok(vec![top])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let patches = &self.patches;
        let channels = io.bottom.get(0).par_chunks(patches.input_count.max(1));
        let tops = io.top[0].par_chunks_mut(self.columns_count().max(1));
        tops.zip(channels)
            .for_each(|(columns, channel)| patches.im2col(channel, columns));
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let parts = io.context.threads;
        let (count, part) = (self.columns_count().max(1), self.channels.div_ceil(parts).max(1));
        self.columns.resize_with(parts, || vec![0.0; count]);
        let patches = &self.patches;
        let bottoms = io.bottom_diff[0].par_chunks_mut(part * patches.input_count.max(1));
        let tops = io.top_diff.get(0).par_chunks(part * count);
        let work = self.columns.par_iter_mut().zip(bottoms).zip(tops).with_max_len(1);
        work.for_each(|((columns, dx), dy)| {
            let channels = dx.chunks_exact_mut(patches.input_count.max(1));
            for (dx, dy) in channels.zip(dy.chunks_exact(count)) {
                columns.copy_from_slice(dy);
                patches.col2im(columns, dx);
            }
        });
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(
        &[&[2, 3, 5, 4]],
        "convolution_param { kernel_size: 3 pad: 1 stride: 2 }",
    ),
    super::case(
        &[&[1, 2, 6, 7]],
        "convolution_param { kernel_h: 2 kernel_w: 3 dilation: 2 pad_w: 2 }",
    ),
    super::case(&[&[2, 3, 7]], "convolution_param { kernel_size: 3 stride: 3 pad: 1 }"),
    super::case(
        &[&[1, 2, 3, 4, 3]],
        "convolution_param { kernel_size: 2 pad: 1 stride: 2 }",
    ),
    super::case(&[&[2, 2, 3, 3]], "convolution_param { kernel_size: 2 axis: 2 }"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Phase,
        filler::Filler,
        layers::harness::{normal, run},
    };

    fn spec(kernel: &[usize], stride: &[usize], pad: &[usize], dilation: &[usize]) -> ConvolutionSpec {
        ConvolutionSpec {
            num_output: 1,
            bias_term: true,
            kernel: kernel.to_vec(),
            stride: stride.to_vec(),
            pad: pad.to_vec(),
            dilation: dilation.to_vec(),
            group: 1,
            axis: 1,
            weight_filler: Filler::Constant(0.0),
            bias_filler: Filler::Constant(0.0),
        }
    }

    /// The columns of a `(n, c, h, w)` bottom, straight from the definition.
    fn definition(x: &[f32], dims: [usize; 4], spec: &ConvolutionSpec, output: [usize; 2]) -> Vec<f32> {
        let [n, c, h, w] = dims;
        let mut columns = Vec::new();
        for plane in 0..n * c {
            for tap in 0..spec.kernel[0] * spec.kernel[1] {
                for position in 0..output[0] * output[1] {
                    let place = |axis: usize, tap: usize, position: usize| {
                        (position * spec.stride[axis] + tap * spec.dilation[axis]).wrapping_sub(spec.pad[axis])
                    };
                    let row = place(0, tap / spec.kernel[1], position / output[1]);
                    let column = place(1, tap % spec.kernel[1], position % output[1]);
                    let inside = row < h && column < w;
                    columns.push(if inside { x[(plane * h + row) * w + column] } else { 0.0 });
                }
            }
        }
        columns
    }

    #[test]
    fn columns_are_the_patches() {
        for (dims, kernel, stride, pad, dilation) in [
            ([2, 3, 7, 6], [3, 3], [2, 2], [1, 1], [1, 1]),
            ([1, 2, 5, 9], [2, 3], [1, 3], [0, 2], [2, 1]),
            ([3, 1, 4, 4], [1, 1], [1, 1], [0, 0], [1, 1]),
            ([1, 1, 2, 2], [3, 3], [1, 1], [2, 2], [1, 1]),
            ([1, 1, 1, 1], [2, 2], [1, 1], [5, 4], [3, 2]),
        ] {
            let spec = spec(&kernel, &stride, &pad, &dilation);
            let shape = Shape::from(dims);
            let x = normal(1, shape.count());
            for threads in [1, 3] {
                let bottom = [(shape.clone(), x.clone())];
                let found = run(&mut Im2col::new(&spec), &bottom, &[], 1, Phase::Train, threads);
                let (top, y) = &found.tops[0];
                let output = [top.dims()[2], top.dims()[3]];
                assert_eq!(*y, definition(&x, dims, &spec, output), "{spec:?}");
                // Backward is the transpose.
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let difference = dot(y, &found.top_diffs[0]) - dot(&x, &found.bottom_diffs[0]);
                assert!(difference.abs() < 1e-4, "{spec:?}: {difference}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_shape() {
        let refused = |spec: &ConvolutionSpec, dims: &[usize]| {
            let shape = Shape::new(dims);
            Im2col::new(spec).reshape(&[&shape]).unwrap_err().to_string()
        };
        let error = refused(&spec(&[3], &[], &[], &[]), &[1, 2, 2, 9]);
        assert!(error.contains("(1, 2, 2, 9)") && error.contains("axis 2"), "{error}");
        let error = refused(&spec(&[3, 3], &[], &[], &[]), &[1, 2, 9]);
        assert!(
            error.contains("kernel_size has 2 values for its 1 spatial axes"),
            "{error}"
        );
        let error = refused(&spec(&[3], &[], &[], &[]), &[2]);
        assert!(error.contains("axis 1 does not exist"), "{error}");
    }
}
