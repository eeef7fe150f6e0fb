//! Products of rows with learned weights `(outputs, inputs)`, forward and backward: what recurrent layers have several
//! of.

use rayon::prelude::*;

use crate::kernels::{self, Matrix, Workspace};

/// Outputs whose bias gradients a thread sums at a time.
const CHUNK: usize = 256;

/// `y (rows, outputs) = x (rows, inputs) · weightᵀ`
pub fn multiply(workspaces: &mut [Workspace], outputs: usize, weight: &[f32], x: &[f32], y: &mut [f32]) {
    let (rows, inputs) = (y.len() / outputs, weight.len() / outputs);
    let (x, weight) = (
        Matrix::row_major(x, inputs),
        Matrix::row_major(weight, inputs).transposed(),
    );
    kernels::gemm_parallel(workspaces, rows, outputs, inputs, x, weight, y, outputs, false);
}

/// `dx (rows, inputs) = dy (rows, outputs) · weight`
pub fn input_diff(workspaces: &mut [Workspace], outputs: usize, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (rows, inputs) = (dy.len() / outputs, weight.len() / outputs);
    let (dy, weight) = (Matrix::row_major(dy, outputs), Matrix::row_major(weight, inputs));
    kernels::gemm_parallel(workspaces, rows, inputs, outputs, dy, weight, dx, inputs, false);
}

/// `diff (outputs, inputs) += dyᵀ · x`
pub fn add_weight_diff(workspaces: &mut [Workspace], outputs: usize, dy: &[f32], x: &[f32], diff: &mut [f32]) {
    let (rows, inputs) = (dy.len() / outputs, diff.len() / outputs);
    let (dy, x) = (
        Matrix::row_major(dy, outputs).transposed(),
        Matrix::row_major(x, inputs),
    );
    kernels::gemm_parallel(workspaces, outputs, inputs, rows, dy, x, diff, inputs, true);
}

/// `diff (outputs) +=` the sum of the rows of `dy`.
pub fn add_bias_diff(dy: &[f32], diff: &mut [f32]) {
    let outputs = diff.len();
    let chunks = diff.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(chunk, diff)| {
        for row in dy.chunks_exact(outputs) {
            kernels::axpy(1.0, &row[chunk * CHUNK..][..diff.len()], diff);
        }
    });
}
