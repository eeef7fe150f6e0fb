//! What plain loops and the vectors of each instruction set give, against the definitions: to the bit.

use std::ops::Add;

use super::{Axis, Rows, Simd, Windows};
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

/// The definitions, of one channel.
impl Windows {
    fn defined_max(&self, x: &[f32]) -> Vec<(f32, u32)> {
        let outputs = 0..self.top_count();
        let max_of = |output| {
            let mut indices = self.indices(output);
            let mut taken = indices.next().unwrap();
            for index in indices {
                let is_first_nan = x[index].is_nan() && !x[taken].is_nan();
                if x[index] > x[taken] || is_first_nan {
                    taken = index;
                }
            }
            (x[taken], taken as u32)
        };
        outputs.map(max_of).collect()
    }

    fn defined_sum(&self, x: &[f32], average: bool) -> Vec<f32> {
        let sum_of = |output| {
            let (row, column) = (output / self.width.output, output % self.width.output);
            let rows = self.height.window(row);
            let value = |row: usize, column| x[row * self.width.input + column];
            let sum_of_column = |column| rows.clone().map(|row| value(row, column)).fold(0.0, f32::add);
            let sum = self.width.window(column).map(sum_of_column).fold(0.0, f32::add);
            if average { sum / self.area(row, column) } else { sum }
        };
        (0..self.top_count()).map(sum_of).collect()
    }

    fn defined_average_gradient(&self, dy: &[f32]) -> Vec<f32> {
        let sum_of = |input| {
            let (row, column) = (input / self.width.input, input % self.width.input);
            let columns = self.width.windows_over(column);
            let share = |row: usize, column: usize| dy[row * self.width.output + column] / self.area(row, column);
            let sum_of_row = |row| columns.clone().map(|column| share(row, column)).fold(0.0, f32::add);
            self.height.windows_over(row).map(sum_of_row).fold(0.0, f32::add)
        };
        (0..self.bottom_count()).map(sum_of).collect()
    }

    fn area(&self, row: usize, column: usize) -> f32 {
        self.height.extent(row) as f32 * self.width.extent(column) as f32
    }
}

/// Every axis along the width once, with heights that take turns.
fn for_each_shape(mut check: impl FnMut(&Windows, usize, &str)) {
    let axes = axes();
    let heights: Vec<Axis> = axes.iter().copied().filter(|axis| axis.input <= 9).collect();
    assert!(axes.len() > 500 && heights.len() > 100);
    for (i, width) in axes.iter().enumerate() {
        let height = heights[i * 7 % heights.len()];
        let planes = 1 + i % 6;
        let what = format!("{planes} channels, height {height:?}, width {width:?}");
        check(&Windows::plain(height, *width), planes, &format!("plain, {what}"));
        for simd in sets() {
            let windows = Windows::for_set(simd, height, *width);
            check(&windows, planes, &format!("{simd}, {what}"));
        }
    }
}

#[test]
fn maxima_are_the_first_of_the_greatest() {
    let mut rows = Rows::default();
    for_each_shape(|windows, planes, what| {
        for (nan, seed) in [(false, 1), (true, 2)] {
            let x = values(seed, planes * windows.bottom_count(), nan);
            let count = planes * windows.top_count();
            let (mut y, mut places) = (Guarded::new(count, 7.5), Guarded::new(count, 77));
            windows.max(&mut rows, &x, y.values(), places.values());
            y.check(7.5, what);
            places.check(77, what);
            let channels = x.chunks_exact(windows.bottom_count());
            let expected = channels.flat_map(|x| windows.defined_max(x));
            let (expected, expected_places): (Vec<_>, Vec<_>) = expected.unzip();
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
    for_each_shape(|windows, planes, what| {
        let (bottom, top) = (planes * windows.bottom_count(), planes * windows.top_count());
        let (x, mut y) = (normal(bottom), Guarded::new(top, 7.5));
        for average in [true, false] {
            if average {
                windows.average(&mut rows, &x, y.values());
            } else {
                windows.sum(&mut rows, &x, y.values());
            }
            y.check(7.5, what);
            let channels = x.chunks_exact(windows.bottom_count());
            let expected: Vec<f32> = channels.flat_map(|x| windows.defined_sum(x, average)).collect();
            assert_eq!(bits(y.values()), bits(&expected), "y of {what}, average: {average}");
        }
        let (dy, mut dx) = (normal(top), Guarded::new(bottom, 7.5));
        windows.average_gradient(&mut rows, &dy, dx.values());
        dx.check(7.5, what);
        let channels = dy.chunks_exact(windows.top_count());
        let expected: Vec<f32> = channels.flat_map(|dy| windows.defined_average_gradient(dy)).collect();
        assert_eq!(bits(dx.values()), bits(&expected), "dx of {what}");
    });
}

#[test]
fn gradients_go_to_the_places_that_were_taken() {
    let mut rows = Rows::default();
    for_each_shape(|windows, planes, what| {
        let (bottom, top) = (planes * windows.bottom_count(), planes * windows.top_count());
        let (mut y, mut places) = (vec![0.0; top], vec![0; top]);
        windows.max(&mut rows, &values(4, bottom, false), &mut y, &mut places);
        let (dy, mut dx) = (values(5, top, true), Guarded::new(bottom, 7.5));
        windows.gradient_of_taken(&places, &dy, dx.values());
        dx.check(7.5, what);
        let mut expected = vec![0.0; bottom];
        for (i, (place, dy)) in places.iter().zip(&dy).enumerate() {
            expected[i / windows.top_count() * windows.bottom_count() + *place as usize] += dy;
        }
        assert_eq!(bits(dx.values()), bits(&expected), "{what}");
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
            let windows = Windows::for_set(simd, axis, axis);
            assert!(
                windows.forward.is_some() && windows.backward.is_some(),
                "{simd}, {axis:?}"
            );
        }
    }
}
