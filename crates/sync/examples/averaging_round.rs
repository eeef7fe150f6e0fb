//! Measures the averaging round of workers in one process against a pass over their arenas at memory speed.
//!
//! A pass is that all workers, at the same time, read and write every value of their own arena once. Passes and rounds
//! alternate in one run. Printed are medians in ms, the spread from the first to the third quartile, and the ratio of
//! the medians. With histories averaged, a pass is over the weights and one history.
//!
//! ```text
//! cargo run --release -p sparknet-sync --example averaging_round [seconds for each measurement, 4 if not given]
//! ```

use sparknet_sync::{Average, HistoryPolicy, Replica, SyncStrategy, in_process};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// CaffeNet's and LeNet's number of weights.
const LENGTHS: [usize; 2] = [60_965_224, 431_080];
const WORLDS: [usize; 3] = [1, 2, 4];
const MIN_TURNS: usize = 9;
const MAX_TURNS: usize = 2000;

fn main() {
    let seconds = std::env::args().nth(1).map_or(4.0, |given| {
        given.parse().expect("the argument is a number of seconds, e.g. 4")
    });
    println!("| values | workers | averaged | pass (ms) | round (ms) | round / pass |");
    println!("|---|---|---|---|---|---|");
    for length in LENGTHS {
        for world in WORLDS {
            for (policy, averaged) in [
                (HistoryPolicy::Keep, "weights"),
                (HistoryPolicy::Average, "weights, history"),
            ] {
                let (mut passes, mut rounds) = measure(length, world, policy, Duration::from_secs_f64(seconds));
                let (pass, round) = (Quartiles::of(&mut passes), Quartiles::of(&mut rounds));
                let ratio = round.median / pass.median;
                println!("| {length} | {world} | {averaged} | {pass} | {round} | {ratio:.2} |");
            }
        }
    }
}

/// Times in ms of passes and of rounds, taken in turn.
fn measure(length: usize, world: usize, policy: HistoryPolicy, budget: Duration) -> (Vec<f64>, Vec<f64>) {
    let barrier = &Barrier::new(world);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads = in_process(world, Duration::from_secs(60))
            .into_iter()
            .map(|mut transport| {
                scope.spawn(move || {
                    let mut strategy = Average::new(1, policy).expect("tau is 1");
                    let mut params = vec![1.0f32; length];
                    let mut history = vec![1.0f32; if policy == HistoryPolicy::Average { length } else { 0 }];
                    let (mut passes, mut rounds) = (Vec::new(), Vec::new());
                    let mut enough = false;
                    // The first turn touches the memory and does not count.
                    for turn in 0..=MAX_TURNS {
                        let (pass, _) = timed(barrier, || {
                            for arena in [&mut params, &mut history] {
                                for value in black_box(arena) {
                                    *value *= 1.000_1;
                                }
                            }
                        });
                        let (round, now) = timed(barrier, || {
                            let replica = Replica {
                                params: black_box(&mut params),
                                gradients: &mut [],
                                histories: &mut std::iter::once(black_box(&mut history[..])),
                            };
                            strategy
                                .after_update(1, replica, &mut transport)
                                .expect("all workers are here");
                        });
                        if turn > 0 {
                            passes.push(pass);
                            rounds.push(round);
                        }
                        // Worker 0's answer counts, or workers would end at different turns.
                        enough |= turn >= MIN_TURNS && now - began > budget;
                        let mut stop = [if enough { 1.0f32 } else { 0.0 }];
                        sparknet_sync::Transport::broadcast(&mut transport, 0, &mut stop)
                            .expect("all workers are here");
                        if stop[0] == 1.0 {
                            break;
                        }
                    }
                    (passes, rounds)
                })
            });
        let threads = threads.collect::<Vec<_>>();
        let mut results = threads
            .into_iter()
            .map(|thread| thread.join().expect("no worker panics"));
        let (mut passes, mut rounds) = results.next().expect("there is a worker");
        // What counts is the slowest worker.
        for (others_passes, others_rounds) in results {
            for (times, others) in [(&mut passes, others_passes), (&mut rounds, others_rounds)] {
                for (time, other) in times.iter_mut().zip(others) {
                    *time = time.max(other);
                }
            }
        }
        (passes, rounds)
    })
}

/// The time in ms that this worker takes, from when all are ready, and the time it ends.
fn timed(barrier: &Barrier, work: impl FnOnce()) -> (f64, Instant) {
    barrier.wait();
    let began = Instant::now();
    work();
    let ended = Instant::now();
    ((ended - began).as_secs_f64() * 1e3, ended)
}

struct Quartiles {
    first: f64,
    median: f64,
    third: f64,
}

impl Quartiles {
    fn of(times: &mut [f64]) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |quarter: usize| times[(times.len() - 1) * quarter / 4];
        Self {
            first: at(1),
            median: at(2),
            third: at(3),
        }
    }
}

impl std::fmt::Display for Quartiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.first, self.third)
    }
}
