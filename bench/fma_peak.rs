//! How many multiply-adds the processor makes at best: independent chains of them, in registers alone.
//!
//! `rustc --edition 2024 -O bench/fma_peak.rs && ./fma_peak THREADS [avx2]` prints GFLOP/s, two operations for each multiply-add.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::{env, hint::black_box, thread, time::Instant};

/// Chains enough to hide the latency of 4 cycles of two units, and few enough for 16 registers.
const CHAINS: usize = 12;
const ROUNDS: usize = 10_000_000;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_512() -> f32 {
    let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_256() -> f32 {
    let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
fn main() {
    let threads: usize = env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1);
    let narrow = env::args().nth(2).is_some_and(|set| set == "avx2");
    let wide = !narrow && is_x86_feature_detected!("avx512f");
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        println!("0");
        return;
    }
    let floats = if wide { 16 } else { 8 };
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    // SAFETY: main has seen that the processor has AVX-512F, or AVX2 and FMA.
                    black_box(unsafe { if wide { chains_512() } else { chains_256() } })
                });
            }
        });
        let operations = 2 * threads * CHAINS * ROUNDS * floats;
        best = best.max(operations as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    println!("{best:.1}");
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("0");
}
