//! Runs a closure on every worker of a world, each on its own thread.

#![allow(dead_code)] // Every test binary uses a part of this.

pub mod proxy;
pub mod tcp;

use sparknet_sync::{InProcess, SyncError, Transport, in_process};
use std::time::Duration;

/// So long that a test that gets here fails with the error instead of hanging.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What `work` returned on each worker, in order of rank.
pub fn run<T: Send>(world: usize, work: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
    run_with_timeout(world, TIMEOUT, work)
}

/// As [`run`], with another timeout for the transports.
pub fn run_with_timeout<T: Send>(world: usize, timeout: Duration, work: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads = in_process(world, timeout)
            .into_iter()
            .map(|transport| scope.spawn(move || work(transport)));
        let threads = threads.collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Worker 1 leaves before its third call in the way that `leave` says; what each of the others then gets, twice.
pub fn second_leaves<T: Transport>(transports: Vec<T>, leave: impl Fn(T) + Sync) -> Vec<(SyncError, SyncError)> {
    let others = transports.len() - 1;
    let results = std::thread::scope(|scope| {
        let threads = transports.into_iter().map(|mut transport| {
            let leave = &leave;
            scope.spawn(move || {
                for _ in 0..2 {
                    transport.all_reduce_sum(&mut [1.0; 9]).unwrap();
                }
                if transport.rank() == 1 {
                    leave(transport);
                    return None;
                }
                let first = transport.all_reduce_sum(&mut [1.0; 9]).unwrap_err();
                Some((first, transport.all_gather(&[]).unwrap_err()))
            })
        });
        let threads = threads.collect::<Vec<_>>().into_iter();
        threads
            .filter_map(|thread| thread.join().ok().flatten())
            .collect::<Vec<_>>()
    });
    assert_eq!(results.len(), others);
    results
}

/// Values without a pattern, of very different sizes so that the order of adding shows.
pub fn numbers(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
            unit * 2f32.powi((state >> 20) as i32 % 16)
        })
        .collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
