//! Sums over all values of each channel.

use rayon::prelude::*;

use super::{channels::Channels, neuron::CHUNK, vectorized::vectorized};

/// Sums side by side, which become vectors.
const LANES: usize = 32;

/// Values summed in f32 before the sum goes on in f64.
const BLOCK: usize = 4096;

/// Channels that a thread sums at a time where each lies in a column of its own.
const COLUMNS: usize = 64;

impl Channels {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{
        channels::tests::LAYOUTS,
        harness::{assert_close, normal},
    };

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
}
