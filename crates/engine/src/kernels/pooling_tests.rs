//! What the vectors give, for each instruction set, against the definitions: to the bit.

use super::Simd;
use super::pooling::{Axis, Rows, Windows};
use crate::random;

fn sets() -> impl Iterator<Item = Simd> {
    let sets = [Simd::Portable, Simd::Avx2, Simd::Avx512];
    sets.into_iter().filter(|simd| *simd <= Simd::detect())
}

/// Small numbers of numbers, so that there are ties; some are infinite, or NaN with `nan`, or a zero of either sign.
fn values(seed: u64, count: usize, nan: bool) -> Vec<f32> {
    let key = random::key(&[seed]);
    let value = |i| match (random::uniform(key, i) * 40.0) as u32 {
        0 | 1 => f32::NEG_INFINITY,
        2 => f32::INFINITY,
        3 => -0.0,
        4 if nan => f32::NAN,
        small => (small / 4) as f32 - 4.0,
    };
    (0..count as u64).map(value).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |value: &f32| if value.is_nan() { f32::NAN } else { *value }.to_bits();
    values.iter().map(bits).collect()
}

/// Axes as layers make them, of all sorts.
fn axes() -> Vec<Axis> {
    let mut axes = Vec::new();
    for input in [1, 2, 3, 4, 7, 8, 9, 13, 14, 16, 17, 24, 27, 31, 32, 33, 55, 70] {
        for kernel in [1, 2, 3, 5, 12, 40] {
            for stride in [1, 2, 3, 6] {
                for pad in [0, 1, 2, 4] {
                    let axis = Axis::new([input, kernel, stride, pad], kernel % 2 == 1, true);
                    if pad < kernel
                        && let Ok(axis) = axis
                    {
                        axes.push(axis);
                    }
                }
            }
        }
    }
    axes
}

/// A buffer of `count` values with others before and behind them, which must stay.
struct Guarded<T>(Vec<T>);

const GUARD: usize = 40;

impl<T: Copy + PartialEq + std::fmt::Debug> Guarded<T> {
    fn new(count: usize, guard: T) -> Self {
        Self(vec![guard; count + 2 * GUARD])
    }

    fn values(&mut self) -> &mut [T] {
        let end = self.0.len() - GUARD;
        &mut self.0[GUARD..end]
    }

    fn check(&self, guard: T, what: &str) {
        let end = self.0.len() - GUARD;
        let mut guards = self.0[..GUARD].iter().chain(&self.0[end..]);
        assert!(guards.all(|value| *value == guard), "{what}: written beyond the end");
    }
}

/// Every axis along the width once, with heights that take turns.
fn for_each_shape(check: impl Fn(&Windows, &Windows, usize, &str)) {
    let axes = axes();
    let heights: Vec<Axis> = axes.iter().copied().filter(|axis| axis.input <= 9).collect();
    assert!(axes.len() > 500 && heights.len() > 100);
    for simd in sets() {
        for (i, width) in axes.iter().enumerate() {
            let height = heights[i * 7 % heights.len()];
            let planes = 1 + i % 6;
            let what = format!("{simd}, {planes} channels, height {height:?}, width {width:?}");
            check(
                &Windows::for_set(simd, height, *width),
                &Windows::plain(height, *width),
                planes,
                &what,
            );
        }
    }
}

#[test]
fn maxima_are_the_first_of_the_greatest() {
    let mut rows = Rows::default();
    let rows = std::cell::RefCell::new(&mut rows);
    for_each_shape(|windows, plain, planes, what| {
        for (nan, seed) in [(false, 1), (true, 2)] {
            let x = values(seed, planes * windows.bottom_count(), nan);
            let count = planes * windows.top_count();
            let (mut y, mut places) = (Guarded::new(count, 7.5), Guarded::new(count, 77));
            windows.max(&mut rows.borrow_mut(), &x, y.values(), places.values());
            y.check(7.5, what);
            places.check(77, what);
            let (mut expected, mut expected_places) = (vec![0.0; count], vec![0; count]);
            plain.max(&mut rows.borrow_mut(), &x, &mut expected, &mut expected_places);
            assert_eq!(places.values(), expected_places, "{what}");
            assert_eq!(bits(y.values()), bits(&expected), "{what}");
        }
    });
}

#[test]
fn averages_and_their_gradients_are_summed_in_one_order() {
    let normal = |count: usize| -> Vec<f32> {
        (0..count as u64)
            .map(|i| random::normal(random::key(&[3]), i))
            .collect()
    };
    let mut rows = Rows::default();
    let rows = std::cell::RefCell::new(&mut rows);
    for_each_shape(|windows, plain, planes, what| {
        let (bottom, top) = (planes * windows.bottom_count(), planes * windows.top_count());
        let (x, mut y, mut expected) = (normal(bottom), Guarded::new(top, 7.5), vec![0.0; top]);
        windows.average(&mut rows.borrow_mut(), &x, y.values());
        y.check(7.5, what);
        plain.average(&mut rows.borrow_mut(), &x, &mut expected);
        assert_eq!(bits(y.values()), bits(&expected), "y of {what}");

        windows.sum(&mut rows.borrow_mut(), &x, y.values());
        y.check(7.5, what);
        plain.sum(&mut rows.borrow_mut(), &x, &mut expected);
        assert_eq!(bits(y.values()), bits(&expected), "sums of {what}");

        let (dy, mut dx, mut expected) = (normal(top), Guarded::new(bottom, 7.5), vec![0.0; bottom]);
        windows.average_gradient(&mut rows.borrow_mut(), &dy, dx.values());
        dx.check(7.5, what);
        plain.average_gradient(&mut rows.borrow_mut(), &dy, &mut expected);
        assert_eq!(bits(dx.values()), bits(&expected), "dx of {what}");
    });
}

#[test]
fn common_windows_fit_the_registers() {
    for simd in sets() {
        for (input, kernel, stride, pad) in [
            (24, 2, 2, 0),
            (8, 2, 2, 0),
            (113, 3, 2, 0),
            (7, 3, 1, 1),
            (14, 14, 1, 0),
        ] {
            let axis = Axis::new([input, kernel, stride, pad], true, true).unwrap();
            assert!(Windows::for_set(simd, axis, axis).uses_vectors(), "{simd}, {axis:?}");
        }
    }
}
