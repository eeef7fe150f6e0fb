//! Values in half the bytes: IEEE binary16 with one power of 2 as the scale of a whole piece.
//!
//! The scale brings the largest value of a piece near the top of what binary16 can hold, so that nothing overflows and
//! gradients, which are mostly far below binary16's smallest normal number, keep their bits. A value comes back with a
//! relative error of at most 2⁻¹¹, or, where it is less than about 2⁻²⁹ of the largest of its piece, with an absolute
//! error of at most 2⁻³⁹ of that. (Pieces whose largest is below 2⁻⁸⁶ lose more: 2⁻¹²⁵ at most.)

use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ops::RangeInclusive;

/// The exponents that there are. Their powers of 2, and the inverses of these, are normal numbers.
pub(crate) const EXPONENTS: RangeInclusive<i32> = -100..=113;

/// The power of 2 to divide these values by, so that the largest lies in 2¹⁴..2¹⁵. What is not finite does not
/// count, and comes through as it is.
pub(crate) fn exponent(values: &[f32]) -> i32 {
    // Lanes, because the compiler may not turn one maximum into several.
    let mut lanes = [0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger_if_finite(*lane, *value);
        }
    }
    let largest = lanes
        .iter()
        .chain(rest)
        .fold(0.0, |largest, value| larger_if_finite(largest, *value));
    let largest = largest.to_bits();
    let log2 = (largest >> 23).cast_signed() - 127;
    (log2 - 14).clamp(*EXPONENTS.start(), *EXPONENTS.end())
}

fn larger_if_finite(largest: f32, value: f32) -> f32 {
    let magnitude = value.abs();
    // False for what is not a number, too.
    let finite = if magnitude < f32::INFINITY { magnitude } else { 0.0 };
    if finite > largest { finite } else { largest }
}

fn power_of_2(exponent: i32) -> f32 {
    f32::from_bits((exponent + 127).cast_unsigned() << 23)
}

/// Replaces what is in `compressed`. Keeps its memory.
pub(crate) fn compress(values: &[f32], exponent: i32, compressed: &mut Vec<u16>) {
    let scale = power_of_2(-exponent);
    compressed.resize(values.len(), 0);
    let mut scaled = [0.0; 256];
    for (values, compressed) in values.chunks(256).zip(compressed.chunks_mut(256)) {
        let scaled = &mut scaled[..values.len()];
        for (scaled, value) in scaled.iter_mut().zip(values) {
            *scaled = value * scale;
        }
        halves(compressed).convert_from_f32_slice(scaled);
    }
}

/// The inverse, up to the error of compression.
pub(crate) fn decompress(compressed: &[u16], exponent: i32, values: &mut [f32]) {
    let scale = power_of_2(exponent);
    for (values, compressed) in values.chunks_mut(256).zip(compressed.chunks(256)) {
        half::slice::HalfBitsSliceExt::reinterpret_cast::<f16>(compressed).convert_to_f32_slice(values);
        for value in values {
            *value *= scale;
        }
    }
}

fn halves(bits: &mut [u16]) -> &mut [f16] {
    half::slice::HalfBitsSliceExt::reinterpret_cast_mut::<f16>(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(values: &[f32], exponent: i32) -> Vec<f32> {
        let mut compressed = Vec::new();
        compress(values, exponent, &mut compressed);
        let mut result = vec![0.0; values.len()];
        decompress(&compressed, exponent, &mut result);
        result
    }

    #[test]
    fn values_of_every_size_come_back_within_the_error() {
        for power in -86..127 {
            let largest = 1.999 * 2f32.powi(power);
            let values = (0..600).map(|i| largest * (0.97f32).powi(i) * if i % 3 == 0 { -1.0 } else { 1.0 });
            let values = values.collect::<Vec<_>>();
            let result = there_and_back(&values, exponent(&values));
            for (value, result) in values.iter().zip(result) {
                let bound = (value.abs() / 2048.0).max(largest * 2f32.powi(-39));
                assert!((value - result).abs() <= bound, "{value} became {result}");
            }
        }
    }

    /// A worker passes on what it received, with the exponent that it received, and nobody may get other bits.
    #[test]
    fn what_has_been_rounded_once_is_not_rounded_again() {
        // The largest is rounded up to the next power of 2, where its own exponent would be another.
        let values = [1.9999, 3.3e-9, -7.7e-12, 0.0, f32::INFINITY];
        let exponent = exponent(&values);
        let once = there_and_back(&values, exponent);
        assert_eq!(once[0], 2.0);
        assert_eq!(there_and_back(&once, exponent), once);
    }

    #[test]
    fn the_largest_finite_value_decides_the_exponent() {
        assert_eq!(exponent(&[1.0, -3.0, 0.5]), 1 - 14);
        assert_eq!(exponent(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0]), -14);
        assert_eq!(exponent(&[f32::MAX]), 127 - 14);
        for nothing in [&[][..], &[0.0; 40], &[f32::from_bits(1)]] {
            assert_eq!(exponent(nothing), *EXPONENTS.start());
        }
        let mut values = vec![0.0; 40];
        for place in 0..40 {
            values[place] = -8.0;
            assert_eq!(exponent(&values), 3 - 14, "at {place}");
            values[place] = 0.0;
        }
    }
}
