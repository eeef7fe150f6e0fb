//! The passes of a convolution, each over parts of the images, a part a thread.

use rayon::prelude::*;

use super::{Convolution, correlation::Buffers, dots, geometry::Transposed, sum};
use crate::layer::Params;

/// Output channels whose weights' gradients a thread sums up at a time: what a line of cache holds.
const OUTPUTS: usize = 16;

/// What one part of the images is computed with.
#[derive(Default)]
pub struct Part {
    pub forward: Buffers,
    pub backward: Buffers,
    weight_dots: dots::Buffers,
    /// (c, kernel…) × (output…): the gradient of the patches of one image.
    pub columns: Vec<f32>,
    /// Transposed: (group, c of a group, kernel…, num_output of a group).
    weight_diff: Vec<f32>,
    bias_diff: Vec<f32>,
}

impl Convolution {
    /// Packs the weights for [`Self::correlate`].
    pub(in crate::layers) fn pack(&mut self, threads: usize, weight: &[f32]) {
        let (_, images) = self.prepare(threads);
        let geometry = &self.geometry;
        match geometry.winograd_forward(threads, images) {
            Some(winograd) => winograd.pack(weight, false, &mut self.winograd_parts, &mut self.transformed),
            None => geometry.pack(weight, &mut self.packed),
        }
    }

    /// Computes the top `y` of one bottom with the packed weights.
    pub(in crate::layers) fn correlate(&mut self, threads: usize, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let (used, images) = self.prepare(threads);
        let geometry = &self.geometry;
        let bottom = x.par_chunks(images * geometry.bottom_count());
        let top = y.par_chunks_mut(images * geometry.top_count());
        if let Some(winograd) = geometry.winograd_forward(threads, images) {
            let packed = &self.transformed;
            let parts = self.winograd_parts[..used].par_iter_mut().zip(bottom).zip(top);
            parts
                .with_max_len(1)
                .for_each(|((part, x), y)| winograd.run(images, part, packed, bias, x, y));
            return;
        }
        let packed = &self.packed;
        let parts = self.parts[..used].par_iter_mut().zip(bottom).zip(top).with_max_len(1);
        parts.for_each(|((part, x), y)| geometry.forward.run(&mut part.forward, packed, bias, x, y));
    }

    /// Adds to `diff` the gradients of the parameters for one bottom: of the weights and of the bias, as wanted.
    pub(in crate::layers) fn backward_params(
        &mut self,
        threads: usize,
        x: &[f32],
        dy: &[f32],
        diff: &mut Params<'_>,
        [wants_weight, wants_bias]: [bool; 2],
    ) {
        if !wants_weight && !wants_bias {
            return;
        }
        let (used, images) = self.prepare(threads);
        let geometry = &self.geometry;
        let winograd = geometry
            .unless_shared(&geometry.winograd_forward, threads)
            .filter(|winograd| winograd.pays_for_weights());
        let dots = geometry.unless_shared(&geometry.weight_dots, threads);
        let parts = &mut self.parts[..used];
        let bottom = x.par_chunks(images * geometry.bottom_count());
        let top_diff = dy.par_chunks(images * geometry.top_count());
        parts
            .par_iter_mut()
            .zip(bottom)
            .zip(top_diff)
            .with_max_len(1)
            .for_each(|((part, x), dy)| {
                part.bias_diff.clear();
                part.bias_diff.resize(geometry.num_output, 0.0);
                if wants_weight && winograd.is_none() {
                    part.weight_diff.resize(geometry.weight_shape.count(), 0.0);
                    match dots {
                        Some(dots) => dots.weight_diff(&mut part.weight_dots, x, dy, &mut part.weight_diff),
                        None => geometry
                            .forward
                            .weight_diff(&mut part.forward, x, dy, &mut part.weight_diff),
                    }
                }
                if wants_bias {
                    for dy in dy.chunks_exact(geometry.top_count()) {
                        let channels = dy.chunks_exact(geometry.patches.output_count);
                        part.bias_diff
                            .iter_mut()
                            .zip(channels)
                            .for_each(|(db, dy)| *db += sum(dy));
                    }
                }
            });
        if let (true, Some(winograd)) = (wants_weight, winograd) {
            winograd.weight_diff(
                &mut self.winograd_parts,
                &mut self.winograd_sums,
                &mut self.transformed,
                x,
                dy,
                diff.get_mut(0),
            );
        } else if wants_weight {
            let (rows, columns) = geometry.group_matrix();
            let outputs = diff.get_mut(0).par_chunks_mut(OUTPUTS * columns).enumerate();
            outputs.for_each(|(chunk, diff)| {
                for (i, diff) in diff.chunks_exact_mut(columns).enumerate() {
                    let output = chunk * OUTPUTS + i;
                    let start = output / rows * rows * columns + output % rows;
                    for part in parts.iter() {
                        let sums = part.weight_diff[start..].iter().step_by(rows);
                        diff.iter_mut().zip(sums).for_each(|(diff, sum)| *diff += sum);
                    }
                }
            });
        }
        if wants_bias {
            parts.iter().for_each(|part| add(diff.get_mut(1), &part.bias_diff));
        }
    }

    /// Computes the gradient `dx` of one bottom.
    pub(in crate::layers) fn backward_bottom(&mut self, threads: usize, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (used, images) = self.prepare(threads);
        let geometry = &self.geometry;
        if let Some((winograd, batch)) = geometry.winograd_backward(threads, images) {
            winograd.pack(weight, batch.is_none(), &mut self.winograd_parts, &mut self.transformed);
            let packed = &self.transformed;
            let bottom_diff = dx.par_chunks_mut(images * geometry.bottom_count());
            let top_diff = dy.par_chunks(images * geometry.top_count());
            let parts = self.winograd_parts[..used]
                .par_iter_mut()
                .zip(bottom_diff)
                .zip(top_diff);
            parts.with_max_len(1).for_each(|((part, dx), dy)| match batch {
                Some(batch) => batch.run_backward(&mut part.batch, packed, dy, dx),
                None => winograd.run(images, part, packed, None, dy, dx),
            });
            return;
        }
        if let Some(transposed) = &geometry.backward {
            transposed.pack(weight, geometry.group, &mut self.packed);
        }
        let packed = &self.packed;
        let bottom_diff = dx.par_chunks_mut(images * geometry.bottom_count());
        let top_diff = dy.par_chunks(images * geometry.top_count());
        let parts = self.parts[..used]
            .par_iter_mut()
            .zip(bottom_diff)
            .zip(top_diff)
            .with_max_len(1);
        parts.for_each(|((part, dx), dy)| {
            if let Some(Transposed { correlation, .. }) = &geometry.backward {
                return correlation.run(&mut part.backward, packed, None, dy, dx);
            }
            part.columns.resize(geometry.columns_count(), 0.0);
            let images = dx
                .chunks_exact_mut(geometry.bottom_count())
                .zip(dy.chunks_exact(geometry.top_count()));
            images.for_each(|(dx, dy)| geometry.backward_image(part, weight, dy, dx));
        });
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
