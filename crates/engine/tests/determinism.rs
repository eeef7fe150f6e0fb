//! Same files, seed and thread count: the same bits.

mod everything;

use everything::{solver, step};

/// The bits of the weights after five steps.
fn weights(threads: usize, net_seed: u64, solver_seed: u64) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut solver = solver(net_seed, solver_seed);
        for _ in 0..5 {
            step(&mut solver);
        }
        assert!(solver.net().param_arena().iter().all(|value| value.is_finite()));
        solver.net().param_arena().iter().map(|value| value.to_bits()).collect()
    })
}

#[test]
fn runs_repeat_bit_for_bit() {
    for threads in [1, 2, 3] {
        assert_eq!(weights(threads, 1, 1), weights(threads, 1, 1), "{threads} threads");
    }
}

#[test]
fn seeds_matter() {
    let first = weights(1, 1, 1);
    assert_ne!(first, weights(1, 2, 1), "the seed of the weights");
    assert_ne!(first, weights(1, 1, 2), "the seed of the passes");
}

#[test]
fn threads_change_the_rounding_only() {
    let (one, three) = (weights(1, 1, 1), weights(3, 1, 1));
    for (i, (one, three)) in one.into_iter().zip(three).enumerate() {
        let (one, three) = (f32::from_bits(one), f32::from_bits(three));
        assert!((one - three).abs() < 1e-4, "parameter {i}: {one} and {three}");
    }
}

#[test]
fn a_restored_run_draws_what_an_uninterrupted_one_draws() {
    let mut whole = solver(1, 1);
    let mut first = solver(1, 1);
    for _ in 0..2 {
        step(&mut whole);
        step(&mut first);
    }
    let mut second = solver(9, 1);
    second.restore(
        first.iteration(),
        first.current_step(),
        &first.recent_losses().collect::<Vec<_>>(),
    );
    let (params, _, histories) = second.arenas_mut();
    params.copy_from_slice(first.net().param_arena());
    histories
        .iter_mut()
        .zip(first.histories())
        .for_each(|(target, history)| target.copy_from_slice(history));
    for _ in 0..3 {
        step(&mut whole);
        step(&mut second);
    }
    assert_eq!(whole.net().param_arena(), second.net().param_arena());
    assert_eq!(whole.average_loss(), second.average_loss());
}
