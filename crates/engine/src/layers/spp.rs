//! SPP: pools an image into a pyramid of grids of 1, 2×2, 4×4 … bins and joins them to one row, whose length depends
//! on the number of channels alone.
//!
//! He et al.: Spatial pyramid pooling in deep convolutional networks for visual recognition (2014). A level is a
//! Pooling layer whose kernel, stride and padding follow from the image's size by Caffe's formula. A pyramid of one
//! level gives `(n, c, 1, 1)`, a higher one `(n, Σ c·bins)`.
//!
//! ```prototxt
//! layer { name: "spp" type: "SPP" bottom: "conv5" top: "spp" spp_param { pyramid_height: 3 pool: MAX } }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef, pooling::Pooling};
use crate::{
    LayerError, Shape, kernels,
    layer::{Backward, Blobs, Context, Forward, Layer, Params},
    random,
    spec::{PoolingMethod, PoolingSpec, SppSpec},
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "SPP",
    summary: "pools images of any size into a pyramid of bins",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: SppSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Pools into a pyramid.
pub struct Spp {
    spec: SppSpec,
    levels: Vec<Pooling>,
    /// Values that an image has in each level.
    rows: Vec<usize>,
    /// Each level's top, and its gradient.
    tops: Vec<Vec<f32>>,
    top_diffs: Vec<Vec<f32>>,
    /// The gradient that one level hands to the bottom.
    bottom_diff: Vec<f32>,
}

impl Spp {
    /// A layer of this description.
    pub fn new(spec: &SppSpec) -> Self {
        Self {
            spec: spec.clone(),
            levels: Vec::new(),
            rows: Vec::new(),
            tops: Vec::new(),
            top_diffs: Vec::new(),
            bottom_diff: Vec::new(),
        }
    }

    /// The pooling of `level` over images of this height and width.
    fn pooling(&self, level: usize, extents: [usize; 2]) -> Result<PoolingSpec, String> {
        let bins = 1usize << level;
        let kernel = extents.map(|extent| extent.div_ceil(bins));
        let pad = [0, 1].map(|i| (kernel[i] * bins - extents[i]).div_ceil(2));
        if pad[0] >= kernel[0] || pad[1] >= kernel[1] {
            return Err(format!(
                "level {level} of the pyramid would be {bins} bins with kernels {kernel:?} and as much padding: \
                 lower pyramid_height, or make the image larger"
            ));
        }
        if pad != [0, 0] && self.spec.method == PoolingMethod::Stochastic {
            return Err(format!(
                "level {level} of the pyramid needs padding, which goes with pool MAX and AVE only: \
                 make height and width multiples of {bins}"
            ));
        }
        Ok(PoolingSpec {
            method: self.spec.method,
            kernel,
            stride: kernel,
            pad,
            global: false,
            round_up: true,
        })
    }
}

/// The random numbers of each level are its own.
fn level_context(context: Context, level: usize) -> Context {
    Context {
        random_key: random::key(&[context.random_key, level as u64]),
        ..context
    }
}

impl Layer for Spp {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let error = |fact: String| LayerError::BottomShape {
            bottom: 0,
            shape: shape.clone(),
            fact,
        };
        let [images, _, height, width] = *shape.dims() else {
            return Err(error(
                "it has to have four axes (n, c, h, w): put a Reshape layer before this one".to_owned(),
            ));
        };
        (self.levels, self.rows) = (Vec::new(), Vec::new());
        for level in 0..self.spec.pyramid_height {
            let mut pooling = Pooling::new(&self.pooling(level, [height, width]).map_err(error)?);
            // MAX gives a mask, too.
            let top = pooling.reshape(bottom)?.swap_remove(0);
            self.levels.push(pooling);
            self.rows.push(top.count_from(1));
            if self.spec.pyramid_height == 1 {
                return Ok(vec![top]);
            }
        }
        let sizes = || self.rows.iter().map(|row| vec![0.0; images * row]).collect();
        (self.tops, self.top_diffs) = (sizes(), sizes());
        Ok(vec![Shape::from([images, self.rows.iter().sum()])])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let mut no_params = [];
        let mut start = 0;
        let row: usize = self.rows.iter().sum();
        for (level, pooling) in self.levels.iter_mut().enumerate() {
            let tops = if self.spec.pyramid_height == 1 {
                &mut *io.top
            } else {
                &mut self.tops[level..=level]
            };
            pooling.forward(&mut Forward {
                bottom: io.bottom,
                top: tops,
                params: Params::new(&mut no_params, &[]),
                in_place: false,
                context: level_context(io.context, level),
            })?;
            if self.spec.pyramid_height > 1 {
                let part = self.rows[level];
                let images = io.top[0].par_chunks_mut(row).zip(self.tops[level].par_chunks(part));
                images.for_each(|(y, level)| y[start..start + part].copy_from_slice(level));
                start += part;
            }
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (mut no_params, mut no_diffs) = ([], []);
        let mut start = 0;
        let row: usize = self.rows.iter().sum();
        for (level, pooling) in self.levels.iter_mut().enumerate() {
            let (mut top, mut top_diff) = (io.top, io.top_diff);
            let id = [level];
            if self.spec.pyramid_height > 1 {
                let part = self.rows[level];
                let images = self.top_diffs[level].par_chunks_mut(part);
                images
                    .zip(io.top_diff.get(0).par_chunks(row))
                    .for_each(|(level, dy)| level.copy_from_slice(&dy[start..start + part]));
                start += part;
                (top, top_diff) = (Blobs::new(&self.tops, &id), Blobs::new(&self.top_diffs, &id));
            }
            // The first level writes the gradient, the others add to it.
            let mut bottom_diff = if level == 0 {
                std::mem::take(&mut io.bottom_diff[0])
            } else {
                std::mem::take(&mut self.bottom_diff)
            };
            bottom_diff.resize(io.bottom.get(0).len(), 0.0);
            let mut lent = [bottom_diff];
            pooling.backward(&mut Backward {
                bottom: io.bottom,
                top,
                top_diff,
                bottom_diff: &mut lent,
                propagate_down: &[true],
                params: Params::new(&mut no_params, &[]),
                param_diff: Params::new(&mut no_diffs, &[]),
                param_propagate_down: &[],
                in_place: false,
                context: level_context(io.context, level),
            });
            let [bottom_diff] = lent;
            if level == 0 {
                io.bottom_diff[0] = bottom_diff;
            } else {
                kernels::axpy(1.0, &bottom_diff, &mut io.bottom_diff[0]);
                self.bottom_diff = bottom_diff;
            }
        }
    }

    fn reads_top_in_backward(&self) -> bool {
        self.spec.pyramid_height == 1 && self.spec.method == PoolingMethod::Stochastic
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
    case(&[&[2, 2, 9, 7]], "spp_param { pyramid_height: 3 pool: MAX }"),
    case(&[&[2, 2, 7, 9]], "spp_param { pyramid_height: 3 pool: AVE }"),
    case(&[&[2, 2, 3, 4]], "spp_param { pyramid_height: 1 pool: AVE }"),
    case(&[&[1, 2, 4, 4]], "spp_param { pyramid_height: 2 }"),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    fn text(params: &str, dims: &[usize]) -> String {
        let layer = format!("layer {{ name: 'L' type: 'SPP' bottom: 'x' top: 'y' spp_param {{ {params} }} }}");
        format!("force_backward: true {}{layer}", input("x", dims))
    }

    #[test]
    fn a_row_is_all_bins_of_a_level_after_the_other() {
        let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let mut net = net(&text("pyramid_height: 2", &[1, 2, 4, 4])).unwrap();
        let y = run(&mut net, &[("x", &x)]).unwrap()["y"].clone();
        assert_eq!(y, [15.0, 31.0, 5.0, 7.0, 13.0, 15.0, 21.0, 23.0, 29.0, 31.0]);
        net.blob_diff_mut("y").unwrap().fill(1.0);
        net.backward();
        let dx = net.blob_diff("x").unwrap();
        assert_eq!((dx[15], dx[5], dx[31], dx[0]), (2.0, 1.0, 2.0, 0.0));
    }

    #[test]
    fn images_are_padded_to_whole_bins() {
        let y = |params: &str, dims: &[usize]| {
            let x: Vec<f32> = (1..=dims.iter().product()).map(|i| i as f32).collect();
            let mut net = net(&text(params, dims)).unwrap();
            run(&mut net, &[("x", &x)]).unwrap()["y"].clone()
        };
        // 2 × 2 bins of 2 × 2 pixels, which begin a pixel above and left of the image.
        assert_eq!(y("pyramid_height: 2", &[1, 1, 3, 3]), [9.0, 1.0, 3.0, 7.0, 9.0]);
        // Padding counts in a mean.
        assert_eq!(
            y("pyramid_height: 2 pool: AVE", &[1, 1, 3, 3]),
            [5.0, 0.25, 1.25, 2.75, 7.0]
        );
        // Above alone.
        assert_eq!(y("pyramid_height: 2", &[1, 1, 3, 4]), [12.0, 2.0, 4.0, 10.0, 12.0]);
    }

    #[test]
    fn stochastic_bins_draw_one_of_their_values() {
        let x: Vec<f32> = (0..2 * 4 * 4 * 50).map(|i| 1.0 + (i % 16) as f32).collect();
        let mut net = net(&text("pyramid_height: 3 pool: STOCHASTIC", &[2, 50, 4, 4])).unwrap();
        let y = run(&mut net, &[("x", &x)]).unwrap()["y"].clone();
        let (row, images) = (50 * 21, y.chunks(50 * 21));
        assert_eq!(images.len(), 2);
        for image in images {
            let drawn = &image[..50];
            assert!(drawn.iter().any(|value| *value != drawn[0]), "{drawn:?}");
            assert_eq!(
                image[row - 50 * 16..],
                x[..50 * 16],
                "the last level has a bin for each pixel"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_shape() {
        for (params, dims, fact) in [
            (
                "pyramid_height: 3",
                &[1, 1, 3, 4][..],
                "level 2 of the pyramid would be 4 bins",
            ),
            ("pyramid_height: 31", &[1, 1, 3, 4], "lower pyramid_height"),
            (
                "pyramid_height: 2 pool: STOCHASTIC",
                &[1, 1, 3, 4],
                "level 1 of the pyramid needs padding",
            ),
            ("pyramid_height: 2", &[1, 4, 4], "four axes"),
            ("", &[1, 1, 3, 4], "pyramid_height is missing"),
            ("pyramid_height: 32", &[1, 1, 3, 4], "at most 31"),
        ] {
            let error = net(&text(params, dims)).err().unwrap();
            assert!(error.starts_with("layer 'L' (SPP)") && error.contains(fact), "{error}");
        }
    }
}
