//! Counter-based random numbers: value `i` of a stream is a function of the stream's key and `i` alone, so that the
//! bits do not depend on the number of threads, and a resumed run draws what an uninterrupted one would have drawn.

/// Mixes `value` so that every bit of it affects every bit of the result: the output function of SplitMix64
/// (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of the stream that `parts` name (a seed, a rank, an iteration, a layer …), order included.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |state, part| mix(state ^ mix(*part)))
}

/// Value `index` of a stream, uniform over all of `u64`.
pub fn bits(key: u64, index: u64) -> u64 {
    mix(key ^ index.wrapping_mul(0xD134_2543_DE82_EF95))
}

/// Value `index` of a stream, uniform in [0, 1), with 24 bits.
pub fn uniform(key: u64, index: u64) -> f32 {
    (bits(key, index) >> 40) as f32 / (1u32 << 24) as f32
}

/// Value `index` of a stream, standard normal (Box and Muller 1958, the cosine half).
pub fn normal(key: u64, index: u64) -> f32 {
    // 1 - u lies in (0, 1], so that the logarithm is finite.
    let radius_uniform = 1.0 - (bits(key, 2 * index) >> 11) as f64 / (1u64 << 53) as f64;
    let angle_uniform = (bits(key, 2 * index + 1) >> 11) as f64 / (1u64 << 53) as f64;
    ((-2.0 * radius_uniform.ln()).sqrt() * (std::f64::consts::TAU * angle_uniform).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_repeat() {
        assert_eq!(key(&[1, 2]), key(&[1, 2]));
        assert_ne!(key(&[1, 2]), key(&[2, 1]));
        assert_ne!(key(&[1]), key(&[1, 0]));
        assert_ne!(bits(key(&[1]), 0), bits(key(&[1]), 1));
    }

    #[test]
    fn moments_are_right() {
        let stream = key(&[7]);
        let n = 200_000u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| f64::from(uniform(stream, i))) - 0.5).abs() < 0.005);
        assert!((mean(&|i| f64::from(uniform(stream, i)).powi(2)) - 1.0 / 3.0).abs() < 0.005);
        assert!(mean(&|i| f64::from(normal(stream, i))).abs() < 0.01);
        assert!((mean(&|i| f64::from(normal(stream, i)).powi(2)) - 1.0).abs() < 0.02);
        // Neighbours are uncorrelated.
        let product = mean(&|i| f64::from(normal(stream, i)) * f64::from(normal(stream, i + 1)));
        assert!(product.abs() < 0.01);
    }
}
