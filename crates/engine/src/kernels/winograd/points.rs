//! Where tiles are evaluated, and the transforms along one axis that follow from it.
//!
//! The points of a tile of 6 inputs are 0, ±√½, ±√2 and ∞, those of a tile of 8 are 0, ±1, ±2, ±½ and ∞. Either set
//! holds a point's inverse with it, so that the numbers of the transforms stay small and with them the rounding
//! (bench/NOTES.md has the errors of others).

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use super::super::lanes::Vector;

/// A point and its negative.
struct Pair {
    /// The point's powers.
    powers: [f32; 5],
    /// The product of all `x² − q²` with q the other pairs' points: the coefficients of 1, x² and so on, but for the last,
    /// which is 1.
    others: &'static [f32],
    /// The inverse of the product of the point's distances to all other finite points.
    scale: f32,
}

/// The points of tiles of so many inputs.
struct Points {
    pairs: &'static [Pair],
    /// The product of `x² − q²` with all points, as in [`Pair::others`].
    whole: &'static [f32],
}

const POINTS_OF_6: Points = Points {
    pairs: &[
        Pair {
            powers: [1.0, FRAC_1_SQRT_2, 0.5, 0.5 * FRAC_1_SQRT_2, 0.25],
            others: &[-2.0],
            scale: -2.0 / 3.0,
        },
        Pair {
            powers: [1.0, SQRT_2, 2.0, 2.0 * SQRT_2, 4.0],
            others: &[-0.5],
            scale: 1.0 / 6.0,
        },
    ],
    whole: &[1.0, -2.5],
};

const POINTS_OF_8: Points = Points {
    pairs: &[
        Pair {
            powers: [1.0; 5],
            others: &[1.0, -4.25],
            scale: -2.0 / 9.0,
        },
        Pair {
            powers: [1.0, 2.0, 4.0, 8.0, 16.0],
            others: &[0.25, -1.25],
            scale: 1.0 / 90.0,
        },
        Pair {
            powers: [1.0, 0.5, 0.25, 0.125, 0.0625],
            others: &[4.0, -5.0],
            scale: 32.0 / 45.0,
        },
    ],
    whole: &[-1.0, 5.25, -5.25],
};

/// The points of a tile of `T` inputs, 6 or 8.
const fn points<const T: usize>() -> &'static Points {
    match T {
        6 => &POINTS_OF_6,
        _ => &POINTS_OF_8,
    }
}

/// `S`: the inverse of the product of each point's distances to the others.
#[inline(always)]
pub(super) fn scales<const T: usize>() -> [f32; T] {
    let Points { pairs, whole } = points::<T>();
    let mut scales = [1.0 / whole[0]; T];
    for (i, pair) in pairs.iter().enumerate() {
        scales[1 + 2 * i] = pair.scale;
        scales[2 + 2 * i] = pair.scale;
    }
    scales[T - 1] = 1.0;
    scales
}

/// `B d`: from the inputs to the values at the points. Row p of `B` holds the coefficients of the product of all
/// `x − q` with q a finite point other than p.
#[inline(always)]
pub(super) fn from_inputs<V: Vector, const T: usize>(d: [V; T]) -> [V; T] {
    let Points { pairs, whole } = points::<T>();
    let (mut at_zero, mut at_infinity) = (d[T - 2], d[T - 1]);
    for (i, whole) in whole.iter().enumerate() {
        at_zero = d[2 * i].mul_add(*whole, at_zero);
        at_infinity = d[2 * i + 1].mul_add(*whole, at_infinity);
    }
    let mut v = [at_zero; T];
    for (p, pair) in pairs.iter().enumerate() {
        let (mut even, mut odd) = (d[T - 2], d[T - 3]);
        for (i, other) in pair.others.iter().enumerate() {
            even = d[2 * i + 2].mul_add(*other, even);
            odd = d[2 * i + 1].mul_add(*other, odd);
        }
        v[1 + 2 * p] = odd.mul_add(pair.powers[1], even);
        v[2 + 2 * p] = odd.mul_add(-pair.powers[1], even);
    }
    v[T - 1] = at_infinity;
    v
}

/// `Bᵀ v`: from the gradients of the values at the points to those of the inputs.
#[inline(always)]
pub(super) fn to_inputs<V: Vector, const T: usize>(v: [V; T]) -> [V; T] {
    let Points { pairs, whole } = points::<T>();
    let mut d = [v[0]; T];
    for (i, whole) in whole.iter().enumerate() {
        d[2 * i] = v[0].scale(*whole);
        d[2 * i + 1] = v[T - 1].scale(*whole);
    }
    d[T - 1] = v[T - 1];
    // The order of sums is one with which a tie in the golden run falls as Caffe's (bench/NOTES.md).
    for (p, pair) in pairs.iter().enumerate().rev() {
        let even = v[1 + 2 * p].add(v[2 + 2 * p]);
        let odd = v[1 + 2 * p].sub(v[2 + 2 * p]).scale(pair.powers[1]);
        for (i, other) in pair.others.iter().enumerate() {
            d[2 * i + 2] = even.mul_add(*other, d[2 * i + 2]);
            d[2 * i + 1] = odd.mul_add(*other, d[2 * i + 1]);
        }
        d[T - 2] = d[T - 2].add(even);
        d[T - 3] = d[T - 3].add(odd);
    }
    d
}

/// `E(N) x`: the values of a polynomial of `N` coefficients at the points.
#[inline(always)]
pub(super) fn evaluate<V: Vector, const N: usize, const T: usize>(x: [V; N]) -> [V; T] {
    let mut v = [x[0]; T];
    for (p, pair) in points::<T>().pairs.iter().enumerate() {
        let (mut even, mut odd) = (x[0], x[1].scale(pair.powers[1]));
        for (i, x) in x.iter().enumerate().skip(2) {
            if i % 2 == 0 {
                even = x.mul_add(pair.powers[i], even);
            } else {
                odd = x.mul_add(pair.powers[i], odd);
            }
        }
        v[1 + 2 * p] = even.add(odd);
        v[2 + 2 * p] = even.sub(odd);
    }
    v[T - 1] = x[N - 1];
    v
}

/// `E(N)ᵀ v`.
#[inline(always)]
pub(super) fn collect<V: Vector, const T: usize, const N: usize>(v: [V; T]) -> [V; N] {
    let mut x = [v[0]; N];
    for (p, pair) in points::<T>().pairs.iter().enumerate() {
        let (even, odd) = (v[1 + 2 * p].add(v[2 + 2 * p]), v[1 + 2 * p].sub(v[2 + 2 * p]));
        x[0] = x[0].add(even);
        for (i, x) in x.iter_mut().enumerate().skip(1) {
            let half = if i % 2 == 0 { even } else { odd };
            *x = match p {
                0 => half.scale(pair.powers[i]),
                _ => half.mul_add(pair.powers[i], *x),
            };
        }
    }
    x[N - 1] = x[N - 1].add(v[T - 1]);
    x
}
