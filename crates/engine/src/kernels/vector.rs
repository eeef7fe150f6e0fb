//! Vector operations, and the product of a matrix and a vector.
//!
//! Written once in plain Rust and compiled for each instruction set. No fused multiply-adds and a fixed order of sums,
//! so that all sets give the same bits.

use std::ops::Range;

use super::pack::Lanes;
use super::product::{Product, Target};
use super::{Simd, Workspace, floats};

/// Floats summed in f32 before the sum goes on in f64.
const BLOCK: usize = 4096;

/// Columns of a matrix that are summed at once, row by row; the sums sit in L1.
const STRIPE: usize = 512;

/// Compiles the call of an `#[inline(always)]` function for each instruction set and picks one at run time.
macro_rules! dispatch {
    ($simd:expr, $body:ident($($name:ident: $type:ty),*) $(-> $result:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn avx512($($name: $type),*) $(-> $result)? {
            $body($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2($($name: $type),*) $(-> $result)? {
            $body($($name),*)
        }
        let simd: Simd = $simd;
        debug_assert!(simd <= Simd::detect());
        match simd {
            // SAFETY: callers pass Simd::current() or a set that they have checked.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => unsafe { avx512($($name),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { avx2($($name),*) },
            _ => $body($($name),*),
        }
    }};
}

/// `y += alpha · x`.
///
/// # Panics
/// If the lengths differ.
pub fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy: lengths differ");
    dispatch!(Simd::current(), axpy_body(alpha: f32, x: &[f32], y: &mut [f32]));
}

#[inline(always)]
fn axpy_body(alpha: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// The sum of `x[i] · y[i]`: blocks in f32, their sums in f64, always in the same order.
///
/// # Panics
/// If the lengths differ.
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len(), "dot: lengths differ");
    dispatch!(Simd::current(), dot_body(x: &[f32], y: &[f32]) -> f64)
}

/// The sum of `x[i]²`, summed as by [`dot`].
pub fn sum_of_squares(x: &[f32]) -> f64 {
    dot(x, x)
}

#[inline(always)]
fn dot_body(x: &[f32], y: &[f32]) -> f64 {
    x.chunks(BLOCK)
        .zip(y.chunks(BLOCK))
        .map(|(x, y)| f64::from(dot_block::<64, 1>([x], y)[0]))
        .sum()
}

/// The dot products of `COUNT` vectors with `y`, each over `LANES` sums side by side that are then added up by halves.
#[inline(always)]
fn dot_block<const LANES: usize, const COUNT: usize>(x: [&[f32]; COUNT], y: &[f32]) -> [f32; COUNT] {
    let mut sums = [[0.0f32; LANES]; COUNT];
    let whole = y.len() - y.len() % LANES;
    let x = x.map(|x| &x[..y.len()]);
    for start in (0..whole).step_by(LANES) {
        let y = &y[start..][..LANES];
        for index in 0..COUNT {
            let x = &x[index][start..][..LANES];
            for lane in 0..LANES {
                sums[index][lane] += x[lane] * y[lane];
            }
        }
    }
    let mut results = [0.0; COUNT];
    for index in 0..COUNT {
        let mut sums = sums[index];
        for ((sum, x), y) in sums.iter_mut().zip(&x[index][whole..]).zip(&y[whole..]) {
            *sum += x * y;
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
        }
        results[index] = sums[0];
    }
    results
}

/// A product whose `a` or `b` is a vector, as a matrix of lanes (rows of `a` or columns of `b`) times that vector.
#[derive(Clone, Copy)]
pub(super) struct MatrixVector<'a> {
    matrix: Lanes<'a>,
    vector: &'a [f32],
    vector_stride: usize,
    /// Distance between results.
    result_stride: usize,
    accumulate: bool,
}

impl<'a> MatrixVector<'a> {
    /// The product in this form, if it is one and its matrix is contiguous along one of its dimensions.
    pub(super) fn of(product: &Product<'a>, ldc: usize) -> Option<MatrixVector<'a>> {
        let Product {
            m,
            n,
            k,
            a,
            b,
            accumulate,
        } = *product;
        let lanes = |data, lanes, lane_stride, depth_stride| Lanes {
            data,
            lanes,
            lane_stride,
            depth: k,
            depth_stride,
        };
        let (matrix, vector, vector_stride, result_stride) = if m == 1 {
            (
                lanes(b.data, n, b.column_stride, b.row_stride),
                a.data,
                a.column_stride,
                1,
            )
        } else if n == 1 {
            (
                lanes(a.data, m, a.row_stride, a.column_stride),
                b.data,
                b.row_stride,
                ldc,
            )
        } else {
            return None;
        };
        let contiguous = matrix.lane_stride == 1 || matrix.depth_stride == 1;
        contiguous.then_some(MatrixVector {
            matrix,
            vector,
            vector_stride,
            result_stride,
            accumulate,
        })
    }

    /// How many results there are.
    pub(super) fn lanes(&self) -> usize {
        self.matrix.lanes
    }

    /// Computes some of the results.
    ///
    /// # Safety
    /// The results of these lanes lie in the allocation of `target`, the first of all at its start, and nobody else
    /// touches them.
    pub(super) unsafe fn run(self, simd: Simd, lanes: Range<usize>, target: Target, workspace: &mut Workspace) {
        let depth = self.matrix.depth;
        let vector = if self.vector_stride == 1 {
            &self.vector[..depth]
        } else {
            let copy = floats(&mut workspace.a, depth);
            for (step, copy) in copy.iter_mut().enumerate() {
                *copy = self.vector[step * self.vector_stride];
            }
            copy
        };
        let mut stripe = [0.0; STRIPE];
        for first in lanes.clone().step_by(STRIPE) {
            let sums = &mut stripe[..STRIPE.min(lanes.end - first)];
            multiply_stripe(simd, self.matrix, first, vector, sums);
            for (index, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let result = target.data.add((first + index) * self.result_stride);
                    *result = if self.accumulate { *result + sum } else { sum };
                }
            }
        }
    }
}

/// `sums[l]` = lane `first + l` times the vector.
fn multiply_stripe(simd: Simd, matrix: Lanes<'_>, first: usize, vector: &[f32], sums: &mut [f32]) {
    dispatch!(simd, multiply_stripe_body(matrix: Lanes<'_>, first: usize, vector: &[f32], sums: &mut [f32]));
}

#[inline(always)]
fn multiply_stripe_body(matrix: Lanes<'_>, first: usize, vector: &[f32], sums: &mut [f32]) {
    let Lanes {
        data,
        lane_stride,
        depth_stride,
        ..
    } = matrix;
    if depth_stride == 1 {
        // Four lanes at once read the vector a quarter as often; a lane's order of sums is the same in a group and alone.
        let lane = |lane: usize| &data[(first + lane) * lane_stride..][..vector.len()];
        let (groups, rest) = sums.as_chunks_mut::<4>();
        let grouped = 4 * groups.len();
        for (group, sums) in groups.iter_mut().enumerate() {
            let group = 4 * group;
            *sums = dot_block::<16, 4>([lane(group), lane(group + 1), lane(group + 2), lane(group + 3)], vector);
        }
        for (index, sum) in rest.iter_mut().enumerate() {
            [*sum] = dot_block::<16, 1>([lane(grouped + index)], vector);
        }
    } else {
        sums.fill(0.0);
        for (step, &alpha) in vector.iter().enumerate() {
            axpy_body(alpha, &data[first + step * depth_stride..][..sums.len()], sums);
        }
    }
}
