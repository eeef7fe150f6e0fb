//! Kernels slid over images as products with patches that are read from padded copies of the images, never written out.

use rayon::prelude::*;

use crate::{
    kernels::{self, Indexed, PackedRows, Runs, Workspace},
    layers::patches::{PaddedImage, Patches},
};

/// Positions that are computed at a time, if the images have so many: what a thread's cache takes.
const CHUNK_POSITIONS: usize = 512;

/// Floats of padded images held at a time, if there are several.
const CHUNK_FLOATS: usize = 256 << 10;

/// When several threads share an image, each takes a multiple of so many outputs: whole tiles of every kernel.
const BAND: usize = 24;

/// `target[o] = Σ_c weight[o, c] ⋆ source[c]`, in groups.
#[derive(Default)]
pub struct Correlation {
    /// Channels of the source.
    channels: usize,
    /// Channels of the target.
    outputs: usize,
    group: usize,
    /// Values in a channel of the source, and of the target.
    source_size: usize,
    target_size: usize,
    padded: PaddedImage,
    /// Where each (channel of a group, kernel…) begins in a padded image.
    taps: Vec<usize>,
    /// Where each (image of a chunk, output…) begins.
    positions: Vec<usize>,
    /// Images that are computed at a time.
    chunk: usize,
}

/// What one part of the images is computed with.
#[derive(Default)]
pub struct Buffers {
    /// More than one where the images are too few for all threads, which then share each image.
    pub workspaces: Vec<Workspace>,
    padded: Vec<f32>,
}

impl Correlation {
    /// The patches slid over `images` images of `channels` channels at most, giving `outputs` channels.
    pub fn new(patches: &Patches, channels: usize, outputs: usize, group: usize, images: usize) -> Self {
        let padded = patches.padded_image();
        let image_size = channels * padded.channel_size;
        let target_size = patches.output_count;
        let fitting = (CHUNK_FLOATS / image_size.max(1)).max(CHUNK_POSITIONS.div_ceil(4).div_ceil(target_size.max(1)));
        let chunk = CHUNK_POSITIONS
            .div_ceil(target_size.max(1))
            .min(fitting)
            .min(images)
            .max(1);
        let taps = (0..channels / group)
            .flat_map(|channel| padded.taps.iter().map(move |tap| (channel, tap)))
            .map(|(channel, tap)| channel * padded.channel_size + tap)
            .collect();
        let positions = (0..chunk)
            .flat_map(|image| {
                padded
                    .positions
                    .iter()
                    .map(move |position| image * image_size + position)
            })
            .collect();
        Self {
            channels,
            outputs,
            group,
            source_size: patches.input_count,
            target_size,
            padded,
            taps,
            positions,
            chunk,
        }
    }

    /// Values in an image of the source.
    fn source_count(&self) -> usize {
        self.channels * self.source_size
    }

    /// Values in an image of the target.
    fn target_count(&self) -> usize {
        self.outputs * self.target_size
    }

    /// Rows of the weight matrix of a group.
    pub fn group_rows(&self) -> usize {
        self.outputs / self.group
    }

    /// Columns of the weight matrix.
    pub fn group_depth(&self) -> usize {
        self.taps.len()
    }

    /// Where channel 0 of a group begins in a padded image.
    fn group_offset(&self, group: usize) -> usize {
        group * (self.channels / self.group) * self.padded.channel_size
    }

    /// Images at a time: fewer than a chunk where threads share each of them.
    fn images_at_a_time(&self, buffers: &Buffers) -> usize {
        if buffers.workspaces.len() > 1 { 1 } else { self.chunk }
    }

    /// The images with their padding: a copy, or themselves where there is none.
    fn pad<'a>(&self, source: &'a [f32], padded: &'a mut Vec<f32>) -> &'a [f32] {
        if self.padded.is_image {
            return source;
        }
        let size = self.padded.channel_size;
        // The copies always lie at the same places: what is once zero in the padding stays zero.
        padded.resize(self.chunk * self.channels * size, 0.0);
        for (channel, padded) in source.chunks_exact(self.source_size).zip(padded.chunks_exact_mut(size)) {
            self.padded.copy(channel, padded);
        }
        padded
    }

    /// Computes the targets of some images: `weights`, packed by group, times their patches, plus the bias.
    pub fn run(
        &self,
        buffers: &mut Buffers,
        weights: &[PackedRows],
        bias: Option<&[f32]>,
        source: &[f32],
        target: &mut [f32],
    ) {
        let images = self.images_at_a_time(buffers);
        let sources = source.chunks(images * self.source_count());
        let targets = target.chunks_mut(images * self.target_count());
        let Buffers { workspaces, padded } = buffers;
        let rows = self.group_rows();
        let runs = Runs {
            run: self.target_size,
            run_stride: self.target_count(),
        };
        for (source, target) in sources.zip(targets) {
            let images = target.len() / self.target_count();
            let padded = self.pad(source, padded);
            for (group, weights) in weights.iter().enumerate() {
                let patches = Indexed {
                    data: &padded[self.group_offset(group)..],
                    row_offsets: &self.taps,
                    column_offsets: &self.positions[..images * self.target_size],
                };
                let bias = bias.map(|bias| &bias[group * rows..][..rows]);
                let target = &mut target[group * rows * self.target_size..];
                if let [workspace] = &mut workspaces[..] {
                    kernels::gemm_indexed(workspace, weights, 0..rows, patches, target, runs, bias);
                    continue;
                }
                let band = rows.div_ceil(workspaces.len()).next_multiple_of(BAND);
                workspaces
                    .par_iter_mut()
                    .zip(target[..rows * self.target_size].par_chunks_mut(band * self.target_size))
                    .enumerate()
                    .with_max_len(1)
                    .for_each(|(i, (workspace, target))| {
                        let rows = i * band..((i + 1) * band).min(rows);
                        let bias = bias.map(|bias| &bias[rows.clone()]);
                        kernels::gemm_indexed(workspace, weights, rows, patches, target, runs, bias);
                    });
            }
        }
    }

    /// The gradient of the weights, transposed: (group, channel of a group, kernel…, output of a group), summed over
    /// some images.
    pub fn weight_diff(&self, buffers: &mut Buffers, source: &[f32], target_diff: &[f32], weight_diff: &mut [f32]) {
        let images = self.images_at_a_time(buffers);
        let sources = source.chunks(images * self.source_count());
        let diffs = target_diff.chunks(images * self.target_count());
        let Buffers { workspaces, padded } = buffers;
        let (rows, depth) = (self.group_rows(), self.group_depth());
        let runs = Runs {
            run: self.target_size,
            run_stride: self.target_count(),
        };
        for (i, (source, diff)) in sources.zip(diffs).enumerate() {
            let images = diff.len() / self.target_count();
            let padded = self.pad(source, padded);
            for (group, weight_diff) in weight_diff.chunks_exact_mut(rows * depth).enumerate() {
                let patches = Indexed {
                    data: &padded[self.group_offset(group)..],
                    row_offsets: &self.taps,
                    column_offsets: &self.positions[..images * self.target_size],
                };
                let diff = &diff[group * rows * self.target_size..];
                let band = depth.div_ceil(workspaces.len());
                workspaces
                    .par_iter_mut()
                    .zip(weight_diff.par_chunks_mut(band * rows))
                    .zip(self.taps.par_chunks(band))
                    .with_max_len(1)
                    .for_each(|((workspace, weight_diff), taps)| {
                        let patches = Indexed {
                            row_offsets: taps,
                            ..patches
                        };
                        kernels::gemm_indexed_rows(workspace, patches, rows, diff, runs, weight_diff, i > 0);
                    });
            }
        }
    }
}
