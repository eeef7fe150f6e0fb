//! Products of rows with rows, `a · bᵀ`, whose sums run along the lanes of vectors: for few rows on both sides that are
//! long. Rows lie anywhere and are read where they are; neither their number nor the other's has to fill vectors.

use super::Simd;
use super::lanes::{Job, MAX_LANES, lanes_of, load_first, with_vector};
use super::registers::Register;

/// Rows of one length, each at an offset of its own.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Holds all rows.
    pub data: &'a [f32],
    /// Where each row begins.
    pub offsets: &'a [usize],
}

impl<'a> Rows<'a> {
    fn check(&self, len: usize) {
        let last = self.offsets.iter().max().copied().unwrap_or(0);
        assert!(
            self.offsets.is_empty() || last.checked_add(len).is_some_and(|end| end <= self.data.len()),
            "dots: a row of {len} at {last} reaches past its {}",
            self.data.len()
        );
    }

    /// `N` rows from `first` on; the last again where there are fewer.
    fn pointers<const N: usize>(&self, first: usize) -> [*const f32; N] {
        std::array::from_fn(|i| self.data[self.offsets[(first + i).min(self.offsets.len() - 1)]..].as_ptr())
    }
}

/// Floats that [`dots`] keeps for each pair of rows.
pub fn sums_per_pair(simd: Simd) -> usize {
    lanes_of(simd)
}

/// The rows of `a` and of `b` that a tile takes: as many pairs as there are registers, of 16 lanes and of 8.
const WIDE: [usize; 2] = [5, 5];
const NARROW: [usize; 2] = [3, 4];

/// The rows of `a` and of `b` that are computed at a time.
pub fn tile_rows(simd: Simd) -> [usize; 2] {
    if lanes_of(simd) == MAX_LANES { WIDE } else { NARROW }
}

/// For each pair `(i, j)` the products of row `i` of `a` and row `j` of `b`, `len` values each, summed up lane by lane:
/// [`sums_per_pair`] floats a pair, pairs in rows of as many as `b` has rows. `accumulate` adds to what is there.
///
/// # Panics
/// If a row or the sums lie past their data, or the processor lacks the set.
pub fn dots(simd: Simd, a: Rows<'_>, b: Rows<'_>, len: usize, sums: &mut [f32], accumulate: bool) {
    a.check(len);
    b.check(len);
    assert!(
        a.offsets.len() * b.offsets.len() * lanes_of(simd) <= sums.len(),
        "dots: too few sums"
    );
    let work = Dots {
        a,
        b,
        len,
        sums,
        accumulate,
    };
    with_vector(simd, work);
}

/// Adds up the lanes of the sums of all pairs: a result for each pair.
///
/// # Panics
/// If there are fewer sums than results need, or the processor lacks the set.
pub fn add_lanes(simd: Simd, sums: &[f32], results: &mut [f32]) {
    assert!(results.len() * lanes_of(simd) <= sums.len(), "dots: too few sums");
    with_vector(simd, AddLanes { sums, results });
}

struct Dots<'a> {
    a: Rows<'a>,
    b: Rows<'a>,
    len: usize,
    sums: &'a mut [f32],
    accumulate: bool,
}

impl Job for Dots<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            if V::LANES == MAX_LANES {
                self.run_tiles::<V, { WIDE[0] }, { WIDE[1] }>();
            } else {
                self.run_tiles::<V, { NARROW[0] }, { NARROW[1] }>();
            }
        }
    }
}

impl Dots<'_> {
    /// # Safety
    /// As [`Job::run`].
    #[inline(always)]
    unsafe fn run_tiles<V: Register, const R: usize, const C: usize>(self) {
        let (rows, all_columns) = (self.a.offsets.len(), self.b.offsets.len());
        for row in (0..rows).step_by(R) {
            let a = self.a.pointers::<R>(row);
            for column in (0..all_columns).step_by(C) {
                let b = self.b.pointers::<C>(column);
                let (rows, columns) = (R.min(rows - row), C.min(all_columns - column));
                let sums = &mut self.sums[(row * all_columns + column) * V::LANES..];
                let place = |i: usize, j: usize| (i * all_columns + j) * V::LANES;
                // SAFETY: all rows hold `len` values and there are sums for all pairs, as checked, and the processor has
                // the set.
                unsafe {
                    let mut tile = [[V::zero(); C]; R];
                    if self.accumulate {
                        for (i, tile) in tile.iter_mut().enumerate().take(rows) {
                            for (j, sum) in tile.iter_mut().enumerate().take(columns) {
                                *sum = V::load(sums[place(i, j)..].as_ptr());
                            }
                        }
                    }
                    add_rows(&mut tile, a, b, self.len);
                    for (i, tile) in tile.iter().enumerate().take(rows) {
                        for (j, sum) in tile.iter().enumerate().take(columns) {
                            sum.store(sums[place(i, j)..].as_mut_ptr());
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of `R × C` pairs of rows.
///
/// # Safety
/// The processor has the set; `len` floats may be read from each pointer.
#[inline(always)]
unsafe fn add_rows<V: Register, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    a: [*const f32; R],
    b: [*const f32; C],
    len: usize,
) {
    let whole = len - len % V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        for at in (0..whole).step_by(V::LANES) {
            add_products(sums, a.map(|a| V::load(a.add(at))), b.map(|b| V::load(b.add(at))));
        }
        if whole < len {
            let rest = len - whole;
            let a = a.map(|a| load_first::<V>(a.add(whole), rest));
            let b = b.map(|b| load_first::<V>(b.add(whole), rest));
            add_products(sums, a, b);
        }
    }
}

/// # Safety
/// The processor has the set.
#[inline(always)]
unsafe fn add_products<V: Register, const R: usize, const C: usize>(sums: &mut [[V; C]; R], a: [V; R], b: [V; C]) {
    for (sums, a) in sums.iter_mut().zip(a) {
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum = a.mul_add_each(b, *sum);
        }
    }
}

struct AddLanes<'a> {
    sums: &'a [f32],
    results: &'a mut [f32],
}

impl Job for AddLanes<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        let sums = self.sums.chunks(V::LANES * V::LANES);
        for (results, sums) in self.results.chunks_mut(V::LANES).zip(sums) {
            // SAFETY: there is a vector of sums for each result; the caller's promise.
            unsafe {
                let mut rows = [V::zero(); MAX_LANES];
                for (row, sums) in rows.iter_mut().zip(sums.chunks_exact(V::LANES)).take(results.len()) {
                    *row = V::load(sums.as_ptr());
                }
                V::sums(rows).store_some(0, results.len(), results.as_mut_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::supported;
    use super::*;
    use crate::random;

    /// Whole vectors and not, more and fewer rows than tiles have, each against the definition in f64.
    #[test]
    fn pairs_of_rows_are_as_defined() {
        for simd in supported() {
            for (rows, columns, len) in [
                (1, 1, 1),
                (5, 5, 16),
                (3, 4, 8),
                (7, 6, 37),
                (20, 25, 576),
                (2, 11, 100),
            ] {
                let value = |stream, i| random::normal(random::key(&[7, stream]), i as u64);
                let a: Vec<f32> = (0..rows * len + 3).map(|i| value(0, i)).collect();
                // Rows that overlap, the last one first; past the last row lies what would spoil any sum.
                let b: Vec<f32> = (0..columns + len)
                    .map(|i| if i + 1 < columns + len { value(1, i) } else { f32::NAN })
                    .collect();
                let a_offsets: Vec<usize> = (0..rows).map(|row| row * len + 3).collect();
                let b_offsets: Vec<usize> = (0..columns).rev().collect();
                let (a_rows, b_rows) = (
                    Rows {
                        data: &a,
                        offsets: &a_offsets,
                    },
                    Rows {
                        data: &b,
                        offsets: &b_offsets,
                    },
                );
                let mut sums = vec![f32::NAN; rows * columns * sums_per_pair(simd)];
                dots(simd, a_rows, b_rows, len, &mut sums, false);
                dots(simd, a_rows, b_rows, len, &mut sums, true);
                let mut results = vec![f32::NAN; rows * columns];
                add_lanes(simd, &sums, &mut results);
                for (i, result) in results.iter().enumerate() {
                    let (a, b) = (&a[a_offsets[i / columns]..], &b[b_offsets[i % columns]..]);
                    let products = a.iter().zip(b).take(len).map(|(a, b)| f64::from(*a) * f64::from(*b));
                    let wanted = 2.0 * products.sum::<f64>();
                    let error = (f64::from(*result) - wanted).abs();
                    assert!(
                        error < 1e-5 * (len as f64).sqrt(),
                        "{simd} ({rows}, {columns}) · {len}, {i}: {result} for {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "reaches past")]
    fn rows_past_their_data_are_refused() {
        let rows = Rows {
            data: &[0.0; 8],
            offsets: &[0, 5],
        };
        dots(Simd::Portable, rows, rows, 4, &mut [0.0; 32], false);
    }
}
