use crate::call::{Call, disagreement};
use crate::{SyncError, Transport, segment};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The transport between workers that are threads of one process. Made by [`in_process`], one for each worker.
///
/// A call has two parts. First every worker announces what it calls and waits until all have (so nothing of the last
/// call is in use any more, and calls that differ are an error before a number has moved). Then numbers go through one
/// shared buffer a segment. In an all-reduce, worker r takes the segments r, r - 1, … one after the other, so that at
/// any time each worker adds into another one; then everybody copies the sums out.
///
/// It allocates only when a call is longer than all before it.
pub struct InProcess {
    rank: usize,
    shared: Arc<Shared>,
}

/// Transports for `world` workers in this process, in order of rank.
///
/// `timeout` is how long a worker waits for any one other: it must be longer than the workers' computing between two
/// calls can differ.
pub fn in_process(world: usize, timeout: Duration) -> Vec<InProcess> {
    let shared = Arc::new(Shared {
        world,
        timeout,
        state: Mutex::new(State {
            calls_made: vec![0; world],
            calls: vec![Call::AllGather; world],
            announced: vec![Vec::new(); world],
            gathered: vec![Vec::new(); world],
            turns: vec![0; world],
            gone: vec![None; world],
            failure: None,
        }),
        changed: Condvar::new(),
        segments: (0..world).map(|_| RwLock::default()).collect(),
    });
    (0..world)
        .map(|rank| InProcess {
            rank,
            shared: Arc::clone(&shared),
        })
        .collect()
}

struct Shared {
    world: usize,
    timeout: Duration,
    state: Mutex<State>,
    /// Notified at every change of `state` that somebody may wait for.
    changed: Condvar,
    /// The numbers on their way. `State::turns` says who may use which; the locks only prove it to the compiler, and
    /// nobody waits for anything else while holding one.
    segments: Vec<RwLock<Vec<f32>>>,
}

/// All but the numbers. Vectors are by rank.
struct State {
    calls_made: Vec<u64>,
    calls: Vec<Call>,
    /// The messages of the call that is being announced. Swapped with `gathered` when all have, because the fast
    /// announce the next call while the slow still read this one's.
    announced: Vec<Vec<u8>>,
    gathered: Vec<Vec<u8>>,
    /// By segment: how many workers have had their turn at it in this call.
    turns: Vec<usize>,
    /// Why a worker that dropped its transport did so. No failure until somebody needs it: workers that are done leave.
    gone: Vec<Option<&'static str>>,
    failure: Option<Failure>,
}

/// Why the run is over. Calls before number `from_call` were complete when it happened: a call that one worker has come
/// through succeeds for all, so that all know the same rounds as completed.
struct Failure {
    from_call: u64,
    error: SyncError,
}

impl State {
    /// The error of call `number`, if it or one before has failed.
    fn failed(&self, number: u64) -> Result<(), SyncError> {
        match &self.failure {
            Some(failure) if failure.from_call <= number => Err(failure.error.clone()),
            _ => Ok(()),
        }
    }

    /// Ends the run for everyone, unless it has ended before.
    fn fail(&mut self, from_call: u64, error: SyncError) {
        self.failure.get_or_insert(Failure { from_call, error });
    }
}

/// What a worker waits for.
#[derive(Clone, Copy)]
enum Wait {
    /// That every worker has made this many calls.
    Calls(u64),
    /// That `count` workers, from rank `first` upwards, have had their turn at the segment.
    Turns { segment: usize, first: usize, count: usize },
}

impl Wait {
    /// Whether worker `rank` still has to do something before this wait is over.
    fn needs(self, rank: usize, state: &State) -> bool {
        match self {
            Wait::Calls(count) => state.calls_made[rank] < count,
            Wait::Turns { segment, first, count } => {
                let world = state.turns.len();
                let turn = (rank + world - first) % world;
                state.turns[segment] <= turn && turn < count
            }
        }
    }
}

impl InProcess {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: nothing that can panic runs between two writes to it.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all workers have announced the same call, with a message for an all-gather.
    fn enter(&self, call: Call, message: &[u8]) -> Result<(), SyncError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let number = state.calls_made[self.rank] + 1;
        state.failed(number)?;
        state.calls_made[self.rank] = number;
        state.calls[self.rank] = call;
        state.announced[self.rank].clear();
        state.announced[self.rank].extend_from_slice(message);
        if state.calls_made.iter().all(|&made| made == number) {
            std::mem::swap(&mut state.announced, &mut state.gathered);
            state.turns.fill(0);
            if let Some(error) = disagreement(&state.calls) {
                state.fail(number, error);
            }
            self.shared.changed.notify_all();
        }
        drop(guard);
        self.wait(call, Wait::Calls(number))
    }

    /// Waits until no worker is needed any more. Fails if one that is needed is gone, if the call has failed elsewhere,
    /// or after the timeout.
    fn wait(&self, call: Call, wait: Wait) -> Result<(), SyncError> {
        let Shared {
            world,
            timeout,
            changed,
            ..
        } = &*self.shared;
        let began = Instant::now();
        let mut state = self.state();
        let number = state.calls_made[self.rank];
        loop {
            state.failed(number)?;
            let needed = (0..*world).filter(|&rank| wait.needs(rank, &state));
            if needed.clone().next().is_none() {
                return Ok(());
            }
            if let Some((rank, reason)) = needed.clone().find_map(|rank| Some((rank, state.gone[rank]?))) {
                let gone = SyncError::PeerGone {
                    rank,
                    reason: reason.to_owned(),
                };
                state.fail(number, gone.clone());
                changed.notify_all();
                return Err(gone);
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                let (rank, waited_for) = (self.rank, needed.collect());
                let error = SyncError::Timeout {
                    rank,
                    call: call.to_string(),
                    waited_for,
                    timeout: *timeout,
                };
                state.fail(
                    number,
                    SyncError::PeerGone {
                        rank,
                        reason: error.to_string(),
                    },
                );
                changed.notify_all();
                return Err(error);
            }
            (state, _) = changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn copy_out(&self, index: usize, values: &mut [f32]) {
        let part = segment(values.len(), index, self.shared.world);
        let buffer = self.shared.segments[index]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        values[part].copy_from_slice(&buffer);
    }

    /// This worker's turn at a segment: `work` between the shared buffer and this worker's part of `values`.
    fn take_turn(&self, index: usize, values: &mut [f32], work: Work) {
        let part = segment(values.len(), index, self.shared.world);
        let mine = &mut values[part];
        let mut buffer = self.shared.segments[index]
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match work {
            Work::CopyIn => {
                buffer.clear();
                buffer.extend_from_slice(mine);
            }
            Work::Add => {
                for (sum, value) in buffer.iter_mut().zip(mine) {
                    *sum += *value;
                }
            }
            Work::AddAndCopyOut => {
                for (sum, value) in buffer.iter_mut().zip(mine) {
                    *sum += *value;
                    *value = *sum;
                }
            }
        }
        drop(buffer);
        self.state().turns[index] += 1;
        self.shared.changed.notify_all();
    }
}

#[derive(Clone, Copy)]
enum Work {
    CopyIn,
    Add,
    AddAndCopyOut,
}

impl Transport for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.world
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        let (rank, world) = (self.rank, self.shared.world);
        let call = Call::AllReduce { length: values.len() };
        self.enter(call, &[])?;
        if world == 1 {
            return Ok(());
        }
        for step in 0..world {
            let segment = (rank + world - step) % world;
            self.wait(
                call,
                Wait::Turns {
                    segment,
                    first: segment,
                    count: step,
                },
            )?;
            let work = match step {
                0 => Work::CopyIn,
                _ if step + 1 < world => Work::Add,
                _ => Work::AddAndCopyOut,
            };
            self.take_turn(segment, values, work);
        }
        // All but segment rank + 1, whose last adder this worker was.
        for step in 0..world - 1 {
            let segment = (rank + world - step) % world;
            self.wait(
                call,
                Wait::Turns {
                    segment,
                    first: segment,
                    count: world,
                },
            )?;
            self.copy_out(segment, values);
        }
        Ok(())
    }

    fn broadcast(&mut self, root: usize, values: &mut [f32]) -> Result<(), SyncError> {
        let world = self.shared.world;
        let call = Call::Broadcast {
            root,
            length: values.len(),
        };
        if root >= world {
            let error = SyncError::NoSuchRoot { root, world };
            self.abort(&error.to_string());
            return Err(error);
        }
        self.enter(call, &[])?;
        if world == 1 {
            return Ok(());
        }
        for segment in 0..world {
            if self.rank == root {
                self.take_turn(segment, values, Work::CopyIn);
            } else {
                self.wait(
                    call,
                    Wait::Turns {
                        segment,
                        first: root,
                        count: 1,
                    },
                )?;
                self.copy_out(segment, values);
            }
        }
        Ok(())
    }

    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SyncError> {
        self.enter(Call::AllGather, bytes)?;
        Ok(self.state().gathered.clone())
    }

    fn abort(&mut self, reason: &str) {
        let mut state = self.state();
        let from_call = state.calls_made[self.rank] + 1;
        state.fail(
            from_call,
            SyncError::PeerGone {
                rank: self.rank,
                reason: reason.to_owned(),
            },
        );
        self.shared.changed.notify_all();
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.state().gone[self.rank] = Some(if std::thread::panicking() {
            "its thread panicked; the message of the panic says why"
        } else {
            "it ended while others still needed it; its own log says why"
        });
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers are in an all-reduce and need the third, which has announced it as well.
    fn third_leaves_in_mid_reduce(leave: fn(InProcess)) -> [Result<(), SyncError>; 2] {
        let mut transports = in_process(3, Duration::from_secs(60));
        let third = transports.pop().unwrap();
        let others = transports
            .into_iter()
            .map(|mut transport| std::thread::spawn(move || transport.all_reduce_sum(&mut [1.0; 10])));
        let others = others.collect::<Vec<_>>();
        let third = std::thread::spawn(move || {
            third.enter(Call::AllReduce { length: 10 }, &[]).unwrap();
            leave(third);
        });
        let results = others
            .into_iter()
            .map(|other| other.join().unwrap())
            .collect::<Vec<_>>();
        let _ = third.join();
        results.try_into().unwrap()
    }

    #[test]
    fn a_drop_in_mid_reduce_wakes_the_others() {
        for result in third_leaves_in_mid_reduce(drop) {
            let reason = "it ended while others still needed it; its own log says why".to_owned();
            assert_eq!(result, Err(SyncError::PeerGone { rank: 2, reason }));
        }
    }

    #[test]
    fn a_panic_in_mid_reduce_wakes_the_others() {
        for result in third_leaves_in_mid_reduce(|_third| panic!("on purpose")) {
            let reason = "its thread panicked; the message of the panic says why".to_owned();
            assert_eq!(result, Err(SyncError::PeerGone { rank: 2, reason }));
        }
    }

    #[test]
    fn only_the_workers_before_in_the_order_are_needed_for_a_turn() {
        let transport = &in_process(4, Duration::ZERO)[0];
        let needed = |wait: Wait| {
            (0..4)
                .filter(|&rank| wait.needs(rank, &transport.state()))
                .collect::<Vec<_>>()
        };
        let before_worker_1 = Wait::Turns {
            segment: 2,
            first: 2,
            count: 3,
        };
        assert_eq!(needed(before_worker_1), [0, 2, 3]);
        transport.state().turns[2] = 2;
        assert_eq!(needed(before_worker_1), [0]);
        transport.state().turns[2] = 3;
        assert_eq!(needed(before_worker_1), []);

        transport.state().calls_made = vec![7, 6, 7, 8];
        assert_eq!(needed(Wait::Calls(7)), [1]);
    }

    #[test]
    fn a_call_that_one_worker_has_come_through_succeeds_for_all() {
        let mut transports = in_process(2, Duration::from_secs(60));
        // Both have announced a first call. Worker 0 is through and gives up; worker 1 has not even woken up.
        transports[0].state().calls_made = vec![1, 1];
        transports[0].abort("out of disk");
        assert_eq!(transports[1].wait(Call::AllGather, Wait::Calls(1)), Ok(()));
        let gone = SyncError::PeerGone {
            rank: 0,
            reason: "out of disk".to_owned(),
        };
        assert_eq!(transports[1].all_reduce_sum(&mut [1.0]), Err(gone));
    }
}
