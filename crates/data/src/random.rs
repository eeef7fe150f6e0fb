//! Random draws that depend on nothing but the seed and a record's number, so that neither threads nor a resume change them.

/// What a draw decides: draws for different things are independent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Draw {
    Mirror = 1,
    CropRow = 2,
    CropColumn = 3,
    RandSkip = 4,
    Shuffle = 5,
    Window = 6,
}

/// A number from 0 to `below - 1` for record number `record`; `below` is at least 1.
pub(crate) fn draw(seed: u64, record: u64, what: Draw, below: u64) -> u64 {
    let hash = mix(mix(mix(seed).wrapping_add(record)).wrapping_add(what as u64));
    // The high half of the product spreads the hash over the range without a division.
    ((u128::from(hash) * u128::from(below)) >> 64) as u64
}

/// One step of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
