//! Values in half the bytes: IEEE binary16 with one power of 2 as the scale of a whole piece.
//!
//! The scale brings the largest value of a piece near the top of what binary16 can hold, so that nothing overflows and
//! gradients, which are mostly far below binary16's smallest normal number, keep their bits. A value comes back with a
//! relative error of at most 2⁻¹¹, or, where it is less than about 2⁻²⁹ of the largest of its piece, with an absolute
//! error of at most 2⁻⁴⁰ of that.

use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ops::RangeInclusive;

/// The exponents that there are. Their powers of 2, and the inverses of these, are normal numbers.
pub(crate) const EXPONENTS: RangeInclusive<i32> = -100..=114;

/// The power of 2 to divide these values by, so that the largest lies in 2¹³..2¹⁴ or so. What is not finite does not
/// count, and comes through as it is.
pub(crate) fn exponent(values: &[f32]) -> i32 {
    let largest = values.iter().fold(0u32, |largest, value| {
        let magnitude = value.to_bits() & 0x7fff_ffff;
        // As integers, magnitudes are ordered as they are as numbers.
        largest.max(if magnitude < 0x7f80_0000 { magnitude } else { 0 })
    });
    let log2 = (largest >> 23).cast_signed() - 127;
    (log2 - 14).clamp(*EXPONENTS.start(), *EXPONENTS.end())
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
