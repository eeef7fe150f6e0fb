//! Measures the averaging round of workers in one process against a pass over their arenas at memory speed.
//!
//! A pass is that all workers, at the same time, read and write every value of their own arena once: what a round does
//! at least, since the average is of all values and replaces all of them. Passes and rounds alternate in one run, and
//! take so many arenas in turn that none is still in the cache when its turn comes. Printed are medians in ms, the
//! spread from the first to the third quartile, and the ratio of the medians. With histories averaged, a pass is over
//! the weights and one history.
//!
//! ```text
//! cargo run --release -p sparknet-sync --example averaging_round [seconds for each measurement, 4 if not given]
//! ```

use sparknet_sync::{Average, HistoryPolicy, Replica, SyncStrategy, in_process};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// CaffeNet's and LeNet's number of weights.
const LENGTHS: [usize; 2] = [60_965_224, 431_080];
const WORLDS: [usize; 3] = [1, 2, 4];
/// A worker's arenas have at least so many values together: 128 MiB.
const MIN_VALUES: usize = 32 << 20;
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

/// Times in ms of passes and of rounds, taken in turn, each from when the first worker begins to when the last one ends.
fn measure(length: usize, world: usize, policy: HistoryPolicy, budget: Duration) -> (Vec<f64>, Vec<f64>) {
    let barrier = &Barrier::new(world);
    let enough = &AtomicBool::new(false);
    let begin = Instant::now();
    let spans = std::thread::scope(|scope| {
        let threads = in_process(world, Duration::from_secs(60))
            .into_iter()
            .map(|mut transport| {
                scope.spawn(move || {
                    let mut strategy = Average::new(1, policy).expect("tau is 1");
                    let with_history = policy == HistoryPolicy::Average;
                    let history_length = if with_history { length } else { 0 };
                    let count = MIN_VALUES.div_ceil(length);
                    let mut arenas = vec![(vec![1.0f32; length], vec![1.0f32; history_length]); count];
                    let mut spans = Vec::new();
                    // The first turn does not count.
                    for turn in 0..=MAX_TURNS {
                        let (params, history) = &mut arenas[2 * turn % count];
                        let pass = timed(barrier, || {
                            for arena in [params, history] {
                                for value in black_box(arena) {
                                    *value *= 1.000_1;
                                }
                            }
                        });
                        let (params, history) = &mut arenas[(2 * turn + 1) % count];
                        let round = timed(barrier, || {
                            let replica = Replica {
                                params: black_box(params),
                                gradients: &mut [],
                                histories: &mut with_history.then_some(black_box(&mut history[..])).into_iter(),
                            };
                            let result = strategy.after_update(1, replica, &mut transport);
                            result.expect("all workers are here");
                        });
                        if turn > 0 {
                            spans.push([pass, round]);
                        }
                        if turn >= MIN_TURNS && begin.elapsed() > budget {
                            enough.store(true, Relaxed);
                        }
                        // All see the same answer: nobody can change it before all are at the next barrier.
                        barrier.wait();
                        if enough.load(Relaxed) {
                            break;
                        }
                        barrier.wait();
                    }
                    spans
                })
            });
        let threads = threads.collect::<Vec<_>>().into_iter();
        threads
            .map(|thread| thread.join().expect("no worker panics"))
            .collect::<Vec<_>>()
    });
    let time = |turn: usize, what: usize| {
        let began = spans.iter().map(|spans| spans[turn][what].0).min();
        let ended = spans.iter().map(|spans| spans[turn][what].1).max();
        ended
            .zip(began)
            .map_or(0.0, |(ended, began)| (ended - began).as_secs_f64() * 1e3)
    };
    let times = |what| (0..spans[0].len()).map(|turn| time(turn, what)).collect();
    (times(0), times(1))
}

/// When this worker begins and ends its work. All begin together.
fn timed(barrier: &Barrier, work: impl FnOnce()) -> (Instant, Instant) {
    barrier.wait();
    let began = Instant::now();
    work();
    (began, Instant::now())
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
