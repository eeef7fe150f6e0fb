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
    /// The first failure; from then on every call of every worker returns it.
    failure: Option<SyncError>,
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
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.calls[self.rank] = call;
        state.announced[self.rank].clear();
        state.announced[self.rank].extend_from_slice(message);
        state.calls_made[self.rank] += 1;
        let number = state.calls_made[self.rank];
        if state.calls_made.iter().all(|&made| made == number) {
            let State {
                announced, gathered, ..
            } = &mut *state;
            std::mem::swap(announced, gathered);
            state.turns.fill(0);
            state.failure = disagreement(&state.calls);
            self.shared.changed.notify_all();
        }
        drop(state);
        self.wait(call, Wait::Calls(number))
    }

    /// Waits until no worker is needed any more. Fails if one that is needed is gone, if anything has failed anywhere,
    /// or after the timeout.
    fn wait(&self, call: Call, wait: Wait) -> Result<(), SyncError> {
        let began = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let needed = (0..self.shared.world).filter(|&rank| wait.needs(rank, &state));
            if needed.clone().next().is_none() {
                return Ok(());
            }
            if let Some((rank, reason)) = needed.clone().find_map(|rank| Some((rank, state.gone[rank]?))) {
                let failure = SyncError::PeerGone {
                    rank,
                    reason: reason.to_owned(),
                };
                drop(state);
                self.fail(failure.clone());
                return Err(failure);
            }
            let Some(left) = self
                .shared
                .timeout
                .checked_sub(began.elapsed())
                .filter(|left| !left.is_zero())
            else {
                let timeout = SyncError::Timeout {
                    rank: self.rank,
                    call: call.to_string(),
                    waited_for: needed.collect(),
                    timeout: self.shared.timeout,
                };
                drop(state);
                self.fail(SyncError::PeerGone {
                    rank: self.rank,
                    reason: timeout.to_string(),
                });
                return Err(timeout);
            };
            (state, _) = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes every call of every worker return `failure`, unless one has failed before.
    fn fail(&self, failure: SyncError) {
        self.state().failure.get_or_insert(failure);
        self.shared.changed.notify_all();
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
        self.fail(SyncError::PeerGone {
            rank: self.rank,
            reason: reason.to_owned(),
        });
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
