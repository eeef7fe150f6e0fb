//! The contract of `Transport`, for workers in one process.

mod workers;

use sparknet_sync::{InProcess, SyncError, Transport, in_process, segment};
use std::sync::{Barrier, mpsc};
use std::time::Duration;
use workers::{bits, numbers, run, run_with_timeout, second_leaves};

const LENGTHS: [usize; 9] = [0, 1, 2, 3, 4, 7, 101, 1024, 300_007];

/// The order that the contract states, element by element.
fn documented_sum(inputs: &[Vec<f32>]) -> Vec<f32> {
    let (world, length) = (inputs.len(), inputs[0].len());
    let mut sums = vec![0.0; length];
    for s in 0..world {
        for i in segment(length, s, world) {
            sums[i] = inputs[s][i];
            for turn in 1..world {
                sums[i] += inputs[(s + turn) % world][i];
            }
        }
    }
    sums
}

fn inputs(world: usize, length: usize, seed: u64) -> Vec<Vec<f32>> {
    (0..world)
        .map(|rank| numbers(length, seed * 100 + rank as u64))
        .collect()
}

#[test]
fn sums_have_the_bits_of_the_documented_order_on_every_worker() {
    for world in 1..=5 {
        for length in LENGTHS {
            let inputs = inputs(world, length, 1);
            let expected = bits(&documented_sum(&inputs));
            let sums = run(world, |mut transport| {
                let mut values = inputs[transport.rank()].clone();
                transport.all_reduce_sum(&mut values).unwrap();
                values
            });
            for (rank, sum) in sums.iter().enumerate() {
                assert!(bits(sum) == expected, "worker {rank} of {world}, {length} values");
            }
        }
    }
}

#[test]
fn the_order_of_the_documented_sum_shows_in_its_bits() {
    let mut inputs = inputs(3, 1024, 1);
    let sum = bits(&documented_sum(&inputs));
    inputs.rotate_left(1);
    assert_ne!(sum, bits(&documented_sum(&inputs)));
}

#[test]
fn not_a_number_and_infinity_reach_every_worker() {
    let sums = run(3, |mut transport| {
        let mut values = [1.0, 1.0, f32::MAX, 1.0];
        if transport.rank() == 1 {
            values[0] = f32::NAN;
            values[1] = f32::INFINITY;
        }
        transport.all_reduce_sum(&mut values).unwrap();
        values
    });
    for sum in &sums {
        assert!(sum[0].is_nan() && sum[1] == f32::INFINITY && sum[2] == f32::INFINITY && sum[3] == 3.0);
        assert_eq!(bits(sum), bits(&sums[0]));
    }
}

#[test]
fn one_worker_keeps_every_bit() {
    let values = [-0.0, f32::from_bits(1), f32::from_bits(0x7fa0_1234), f32::MAX];
    let mut result = values;
    let mut transport = in_process(1, Duration::ZERO).remove(0);
    transport.all_reduce_sum(&mut result).unwrap();
    transport.all_reduce_average(&mut result).unwrap();
    transport.broadcast(0, &mut result).unwrap();
    transport.barrier().unwrap();
    assert_eq!(bits(&result), bits(&values));
    assert_eq!(transport.all_gather(b"alone").unwrap(), [b"alone"]);
    assert_eq!((transport.rank(), transport.world()), (0, 1));
}

#[test]
fn no_workers_are_no_transports() {
    assert!(in_process(0, Duration::ZERO).is_empty());
}

#[test]
fn everyone_gets_the_values_of_the_root() {
    for world in 1..=4 {
        for root in 0..world {
            for length in LENGTHS {
                let results = run(world, |mut transport| {
                    let mut values = numbers(length, transport.rank() as u64);
                    transport.broadcast(root, &mut values).unwrap();
                    values
                });
                for values in results {
                    assert!(
                        bits(&values) == bits(&numbers(length, root as u64)),
                        "root {root} of {world}, {length}"
                    );
                }
            }
        }
    }
}

#[test]
fn messages_come_in_order_of_rank_whatever_their_length() {
    let results = run(4, |mut transport| {
        transport.all_gather(&vec![7; transport.rank()]).unwrap()
    });
    for messages in results {
        assert_eq!(messages, [vec![], vec![7], vec![7, 7], vec![7, 7, 7]]);
    }
}

#[test]
fn a_barrier_holds_until_everyone_is_there() {
    let arrived = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    for round in 1..=50 {
        run(3, |mut transport| {
            arrived.fetch_add(1, order);
            transport.barrier().unwrap();
            assert_eq!(arrived.load(order), 3 * round);
        });
    }
}

/// Calls of all kinds and lengths right after each other, with workers that are slow in turn.
#[test]
fn many_calls_in_a_row_do_not_mix() {
    for world in 2..=5 {
        run(world, |mut transport| {
            let rank = transport.rank();
            for turn in 0..60 {
                if turn % world == rank {
                    std::thread::yield_now();
                }
                let length = LENGTHS[turn % 8];
                let inputs = inputs(world, length, turn as u64);
                let mut values = inputs[rank].clone();
                transport.all_reduce_sum(&mut values).unwrap();
                assert_eq!(bits(&values), bits(&documented_sum(&inputs)));

                let messages = transport.all_gather(&[rank as u8, turn as u8]).unwrap();
                assert_eq!(
                    messages,
                    (0..world).map(|r| vec![r as u8, turn as u8]).collect::<Vec<_>>()
                );

                let root = turn % world;
                let mut values = inputs[rank].clone();
                transport.broadcast(root, &mut values).unwrap();
                assert_eq!(values, inputs[root]);
                // Two in a row from different roots: the second must not overtake readers of the first.
                let mut values = inputs[rank].clone();
                transport.broadcast(world - 1 - root, &mut values).unwrap();
                assert_eq!(values, inputs[world - 1 - root]);
            }
        });
    }
}

#[test]
fn a_worker_that_is_done_may_leave_while_others_still_read() {
    for _ in 0..200 {
        let results = run(4, |mut transport| {
            let mut values = [1.0; 64];
            transport.all_reduce_sum(&mut values).map(|()| values)
        });
        assert_eq!(results, vec![Ok([4.0; 64]); 4]);
    }
}

#[test]
fn a_drop_wakes_the_others() {
    for (first, second) in second_leaves(in_process(3, workers::TIMEOUT), drop) {
        let text = "worker 1 left the run: it ended while others still needed it; its own log says why";
        assert_eq!(first.to_string(), text);
        assert_eq!(second, first);
    }
}

#[test]
fn a_panic_wakes_the_others() {
    for (first, second) in second_leaves(in_process(3, workers::TIMEOUT), |_transport| panic!("on purpose")) {
        let text = "worker 1 left the run: its thread panicked; the message of the panic says why";
        assert_eq!(first.to_string(), text);
        assert_eq!(second, first);
    }
}

#[test]
fn an_abort_gives_its_reason_to_the_others() {
    let leave = |mut transport: InProcess| {
        transport.abort("layer `conv1` is missing");
        transport.abort("a second reason that comes too late");
    };
    for (first, second) in second_leaves(in_process(3, workers::TIMEOUT), leave) {
        assert_eq!(
            first,
            SyncError::PeerGone {
                rank: 1,
                reason: "layer `conv1` is missing".to_owned()
            }
        );
        assert_eq!(second, first);
    }
}

#[test]
fn an_abort_ends_the_run_of_workers_that_still_hold_their_transport() {
    let mut transports = in_process(2, workers::TIMEOUT);
    transports[1].abort("enough");
    for transport in &mut transports {
        let gone = SyncError::PeerGone {
            rank: 1,
            reason: "enough".to_owned(),
        };
        assert_eq!(transport.all_reduce_sum(&mut [0.0]), Err(gone.clone()));
        assert_eq!(transport.broadcast(0, &mut [0.0]), Err(gone.clone()));
        assert_eq!(transport.all_gather(&[]), Err(gone.clone()));
        assert_eq!(transport.barrier(), Err(gone));
    }
}

#[test]
fn the_deadline_names_who_was_waited_for() {
    let timeout = Duration::from_millis(20);
    let mut transports = in_process(4, timeout);
    let mut late = transports.remove(1);
    let mut also_late = transports.remove(2);
    let early = transports
        .into_iter()
        .map(|mut transport| std::thread::spawn(move || transport.all_reduce_sum(&mut [1.0; 5]).unwrap_err()));
    let errors = early
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect::<Vec<_>>();

    let timeouts = errors
        .iter()
        .filter(|error| matches!(error, SyncError::Timeout { .. }))
        .collect::<Vec<_>>();
    let SyncError::Timeout {
        rank,
        call,
        waited_for,
        timeout: waited,
    } = timeouts[0]
    else {
        unreachable!()
    };
    assert!([0, 2].contains(rank));
    assert_eq!(call, "all-reduce of 5 values");
    assert!(waited_for.ends_with(&[3]) && waited_for.contains(&1), "{waited_for:?}");
    assert_eq!(*waited, timeout);

    // The late find out as soon as they come, and need nobody for it.
    for transport in [&mut late, &mut also_late] {
        let Err(SyncError::PeerGone { rank: gone, reason }) = transport.all_reduce_sum(&mut [1.0; 5]) else {
            panic!("a run that somebody gave up goes on");
        };
        assert_eq!((gone, reason), (*rank, timeouts[0].to_string()));
    }
}

#[test]
fn a_timeout_says_what_to_do() {
    let mut transport = in_process(2, Duration::from_millis(1)).remove(0);
    let mut peer_stays = in_process(2, Duration::from_millis(1));
    assert_eq!(
        peer_stays[0].broadcast(1, &mut [0.0; 3]).unwrap_err().to_string(),
        "worker 0 waited 1ms for worker 1 in the broadcast of 3 values from worker 1 and gave up; look at what happened \
         there, or raise the sync timeout if a worker may compute for that long"
    );
    // Here the peer is known to be gone, and there is nothing to wait for.
    assert!(matches!(transport.barrier(), Err(SyncError::PeerGone { rank: 1, .. })));
}

#[test]
fn a_worker_that_computes_for_less_than_the_timeout_is_waited_for() {
    let (done, wait) = mpsc::channel();
    let mut transports = in_process(2, Duration::MAX);
    let (mut slow, mut fast) = (transports.pop().unwrap(), transports.pop().unwrap());
    let fast = std::thread::spawn(move || {
        done.send(()).unwrap();
        fast.barrier()
    });
    wait.recv().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(slow.barrier(), Ok(()));
    assert_eq!(fast.join().unwrap(), Ok(()));
}

#[test]
fn slices_of_different_length_are_an_error_on_all_and_stay_as_they_were() {
    type Reduce = fn(&mut InProcess, &mut [f32]) -> Result<(), SyncError>;
    let calls: [Reduce; 2] = [|t, values| t.all_reduce_sum(values), |t, values| t.broadcast(1, values)];
    for call in calls {
        let results = run(3, |mut transport| {
            let mut values = vec![1.0; if transport.rank() == 2 { 8 } else { 9 }];
            let result = call(&mut transport, &mut values);
            assert!(values.iter().all(|&value| value == 1.0));
            (result, transport.barrier())
        });
        let mismatch = SyncError::LengthMismatch {
            rank: 0,
            length: 9,
            other_rank: 2,
            other_length: 8,
        };
        for result in results {
            assert_eq!(result, (Err(mismatch.clone()), Err(mismatch.clone())));
        }
    }
}

#[test]
fn different_calls_are_an_error_on_all() {
    let results = run(2, |mut transport| match transport.rank() {
        0 => transport.all_reduce_sum(&mut [0.0; 4]),
        _ => transport.barrier(),
    });
    for result in results {
        assert_eq!(
            result.unwrap_err().to_string(),
            "worker 1 is at the all-gather while worker 0 is at the all-reduce of 4 values; \
             start every worker with the same sync strategy, tau and solver"
        );
    }
}

#[test]
fn a_root_that_does_not_exist_ends_the_run_for_all() {
    let results = run(2, |mut transport| match transport.rank() {
        0 => transport.broadcast(2, &mut [0.0]),
        _ => transport.barrier(),
    });
    assert_eq!(results[0], Err(SyncError::NoSuchRoot { root: 2, world: 2 }));
    let reason = "worker 2 cannot broadcast because there are only 2 workers; name one of 0 to 1".to_owned();
    assert_eq!(results[1], Err(SyncError::PeerGone { rank: 0, reason }));
}

/// Whenever one fails, at whatever point of the others' calls, all end; nobody waits for the timeout.
#[test]
fn an_error_at_any_moment_ends_all() {
    for round in 0..100 {
        let start = Barrier::new(4);
        let ends = run_with_timeout(4, Duration::MAX, |mut transport| {
            start.wait();
            let mut values = vec![1.0; 1000];
            for call in 0.. {
                if transport.rank() == 3 && call == round % 7 {
                    if round % 2 == 0 {
                        transport.abort("on purpose");
                    }
                    return None;
                }
                let result = match call % 3 {
                    0 => transport.all_reduce_sum(&mut values),
                    1 => transport.broadcast(call % 4, &mut values),
                    _ => transport.barrier(),
                };
                if let Err(error) = result {
                    return Some(error);
                }
            }
            None
        });
        assert!(ends[3].is_none());
        for end in &ends[..3] {
            assert!(matches!(end, Some(SyncError::PeerGone { rank: 3, .. })), "{end:?}");
        }
    }
}

#[test]
fn averages_of_equal_values_are_exact_for_1_2_and_4_workers() {
    let values = numbers(100_000, 5);
    for world in [1, 2, 4] {
        let results = run(world, |mut transport| {
            let mut result = values.clone();
            transport.all_reduce_average(&mut result).unwrap();
            result
        });
        assert!(
            results.iter().all(|result| bits(result) == bits(&values)),
            "{world} workers"
        );
    }
}

#[test]
fn an_average_is_the_sum_divided_by_the_number_of_workers() {
    let inputs = inputs(3, 1000, 2);
    let expected = documented_sum(&inputs).iter().map(|sum| sum / 3.0).collect::<Vec<_>>();
    let results = run(3, |mut transport| {
        let mut values = inputs[transport.rank()].clone();
        transport.all_reduce_average(&mut values).unwrap();
        values
    });
    assert!(results.iter().all(|result| bits(result) == bits(&expected)));
}

#[test]
fn a_sum_on_one_worker_and_an_average_on_another_are_an_error_on_all() {
    let results = run(2, |mut transport| {
        let mut values = [1.0; 4];
        let result = match transport.rank() {
            0 => transport.all_reduce_sum(&mut values),
            _ => transport.all_reduce_average(&mut values),
        };
        (result, values)
    });
    for (result, values) in results {
        assert!(matches!(result, Err(SyncError::OutOfStep { .. })), "{result:?}");
        assert_eq!(values, [1.0; 4]);
    }
}

/// Enough for every buffer to be used again, with a last piece that is shorter.
#[test]
fn averages_of_many_pieces_have_the_bits_of_the_documented_order() {
    for world in [2, 3, 4] {
        let inputs = inputs(world, 600_011, 3);
        let sums = documented_sum(&inputs);
        let expected = sums.iter().map(|sum| sum / world as f32).collect::<Vec<_>>();
        let results = run(world, |mut transport| {
            let mut values = inputs[transport.rank()].clone();
            transport.all_reduce_average(&mut values).unwrap();
            values
        });
        assert!(
            results.iter().all(|result| bits(result) == bits(&expected)),
            "{world} workers"
        );
    }
}
