use crate::SyncError;
use crate::call::{Call, disagreement};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How workers of one process wait for each other, and how they end the run together.
///
/// A worker counts the stages of its calls that it has done, from the first call to the last. Workers that make the
/// same calls count the same stages, so whatever one of them waits for is a count of the others. Counts are atomic:
/// where nobody has to wait, a stage costs one store and one load a worker. A worker that does have to wait spins for
/// a moment, then sleeps, and is woken when what it waits for has come.
pub(crate) struct Rendezvous {
    timeout: Duration,
    /// How often a worker looks again before it sleeps.
    spins: u32,
    /// By rank: the stages done. Only its worker writes it.
    stages_done: Vec<OwnCacheLine<AtomicU64>>,
    /// How many workers have their wait in `State::asleep`. Whoever counts a stage looks here afterwards, and whoever
    /// goes to sleep writes here before it looks at the counts, so that one of the two sees the other. That needs
    /// sequential consistency.
    sleepers: AtomicUsize,
    state: Mutex<State>,
    /// By rank: notified when its worker has to look again.
    wakers: Vec<Condvar>,
}

/// Keeps what different workers write from sharing a cache line.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct OwnCacheLine<T>(pub(crate) T);

/// What changes too seldom to be atomic. Vectors are by rank.
struct State {
    calls_made: Vec<u64>,
    calls: Vec<Call>,
    /// The messages of the call that is being announced. Swapped with `gathered` when all have, because the fast
    /// announce the next call while the slow still read this one's.
    announced: Vec<Vec<u8>>,
    gathered: Vec<Vec<u8>>,
    /// The stages that a worker sleeps for.
    asleep: Vec<Option<u64>>,
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
}

impl Rendezvous {
    pub(crate) fn new(world: usize, timeout: Duration) -> Self {
        // Spinning keeps the core from the worker that is waited for, if that has none: always where there are more
        // workers than cores, and often where others compute as well. Then long spinning costs many times the work.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            timeout,
            spins: if world <= cores { 100 } else { 0 },
            stages_done: (0..world).map(|_| OwnCacheLine::default()).collect(),
            sleepers: AtomicUsize::new(0),
            state: Mutex::new(State {
                calls_made: vec![0; world],
                calls: vec![Call::AllGather; world],
                announced: vec![Vec::new(); world],
                gathered: vec![Vec::new(); world],
                asleep: vec![None; world],
                gone: vec![None; world],
                failure: None,
            }),
            wakers: (0..world).map(|_| Condvar::new()).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: nothing that can panic runs between two writes to it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces the next call of worker `rank`, with a message for an all-gather, and waits until all workers have
    /// announced the same. The stages done until then; announcing is one of them.
    pub(crate) fn announce(&self, rank: usize, call: Call, message: &[u8]) -> Result<u64, SyncError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let number = state.calls_made[rank] + 1;
        state.failed(number)?;
        state.calls_made[rank] = number;
        state.calls[rank] = call;
        state.announced[rank].clear();
        state.announced[rank].extend_from_slice(message);
        if state.calls_made.iter().all(|&made| made == number) {
            std::mem::swap(&mut state.announced, &mut state.gathered);
            if let Some(error) = disagreement(&state.calls) {
                self.fail(state, number, error);
            }
        }
        drop(guard);
        let stages = self.stages_done[rank].0.load(SeqCst) + 1;
        self.advance(rank, stages);
        self.wait(rank, call, stages)?;
        self.confirm(rank)?;
        Ok(stages)
    }

    /// The messages of the call that all have announced, in order of rank.
    pub(crate) fn gathered(&self) -> Vec<Vec<u8>> {
        self.state().gathered.clone()
    }

    /// Worker `rank` has done so many stages.
    pub(crate) fn advance(&self, rank: usize, stages: u64) {
        self.stages_done[rank].0.store(stages, SeqCst);
        if self.sleepers.load(SeqCst) == 0 {
            return;
        }
        let mut state = self.state();
        for (asleep, waker) in state.asleep.iter_mut().zip(&self.wakers) {
            if asleep.is_some_and(|stages| self.needed(stages).next().is_none()) {
                *asleep = None;
                self.sleepers.fetch_sub(1, SeqCst);
                waker.notify_one();
            }
        }
    }

    /// The workers that have not done so many stages yet, in order of rank.
    fn needed(&self, stages: u64) -> impl Iterator<Item = usize> + Clone {
        let counts = self.stages_done.iter().map(|count| &count.0).enumerate();
        counts
            .filter(move |(_, count)| count.load(SeqCst) < stages)
            .map(|(rank, _)| rank)
    }

    /// Whether a short wait was enough for all to have done so many stages.
    fn soon(&self, stages: u64) -> bool {
        (0..=self.spins).any(|_| {
            let done = self.needed(stages).next().is_none();
            if !done {
                std::hint::spin_loop();
            }
            done
        })
    }

    /// Waits until all have done so many stages, however long it takes: for stages in which nobody waits for anything.
    pub(crate) fn wait_for_all(&self, rank: usize, stages: u64) {
        if self.soon(stages) {
            return;
        }
        let mut state = self.state();
        state.asleep[rank] = Some(stages);
        self.sleepers.fetch_add(1, SeqCst);
        while self.needed(stages).next().is_some() {
            let woken = self.wakers[rank].wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.asleep[rank].take().is_some() {
            self.sleepers.fetch_sub(1, SeqCst);
        }
    }

    /// Waits until all have done so many stages. Fails if one that has not is gone, if the call has failed elsewhere,
    /// or after the timeout. Success does not say that the call has not failed: see [`confirm`](Self::confirm).
    fn wait(&self, rank: usize, call: Call, stages: u64) -> Result<(), SyncError> {
        if self.soon(stages) {
            return Ok(());
        }
        let began = Instant::now();
        let mut state = self.state();
        loop {
            match self.look(&mut state, rank, call, stages, began) {
                Ok(Some(left)) => {
                    let woken = self.wakers[rank].wait_timeout(state, left);
                    (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
                }
                ended => {
                    if state.asleep[rank].take().is_some() {
                        self.sleepers.fetch_sub(1, SeqCst);
                    }
                    return ended.map(drop);
                }
            }
        }
    }

    /// One look of worker `rank` at what it waits for since `began`: how long it may sleep before the next, `None` if
    /// the wait is over.
    fn look(
        &self,
        state: &mut State,
        rank: usize,
        call: Call,
        stages: u64,
        began: Instant,
    ) -> Result<Option<Duration>, SyncError> {
        let number = state.calls_made[rank];
        state.failed(number)?;
        if state.asleep[rank].replace(stages).is_none() {
            self.sleepers.fetch_add(1, SeqCst);
        }
        let needed = self.needed(stages);
        if needed.clone().next().is_none() {
            return Ok(None);
        }
        if let Some((rank, reason)) = needed.clone().find_map(|rank| Some((rank, state.gone[rank]?))) {
            let gone = peer_gone(rank, reason);
            self.fail(state, number, gone.clone());
            return Err(gone);
        }
        let left = self.timeout.saturating_sub(began.elapsed());
        if left.is_zero() {
            let error = SyncError::Timeout {
                rank,
                call: call.to_string(),
                waited_for: needed.collect(),
                timeout: self.timeout,
            };
            self.fail(state, number, peer_gone(rank, &error.to_string()));
            return Err(error);
        }
        Ok(Some(left))
    }

    /// The error of the call if it has failed anywhere. A worker that comes through this has seen that all have
    /// announced the call, which is what others may still wait for, so that nobody fails in it any more.
    fn confirm(&self, rank: usize) -> Result<(), SyncError> {
        let state = self.state();
        state.failed(state.calls_made[rank])
    }

    /// Ends the run for everyone, unless it has ended before.
    fn fail(&self, state: &mut State, from_call: u64, error: SyncError) {
        state.failure.get_or_insert(Failure { from_call, error });
        self.wake_all();
    }

    fn wake_all(&self) {
        for waker in &self.wakers {
            waker.notify_one();
        }
    }

    /// Worker `rank` ends the run from its next call on.
    pub(crate) fn abort(&self, rank: usize, reason: &str) {
        let mut state = self.state();
        let from_call = state.calls_made[rank] + 1;
        self.fail(&mut state, from_call, peer_gone(rank, reason));
    }

    /// Worker `rank` does nothing any more.
    pub(crate) fn leave(&self, rank: usize, reason: &'static str) {
        self.state().gone[rank] = Some(reason);
        self.wake_all();
    }
}

fn peer_gone(rank: usize, reason: &str) -> SyncError {
    SyncError::PeerGone {
        rank,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn only_workers_that_are_behind_are_needed() {
        let rendezvous = Rendezvous::new(4, Duration::ZERO);
        for (rank, stages) in [7, 6, 0, 8].into_iter().enumerate() {
            rendezvous.advance(rank, stages);
        }
        let needed = |stages| rendezvous.needed(stages).collect::<Vec<_>>();
        assert_eq!(needed(0), []);
        assert_eq!(needed(6), [2]);
        assert_eq!(needed(8), [0, 1, 2]);
    }

    #[test]
    fn a_call_that_one_worker_has_come_through_succeeds_for_all() {
        let rendezvous = Rendezvous::new(2, MINUTE);
        // Both have announced a first call. Worker 0 is through and gives up; worker 1 has not even woken up.
        rendezvous.state().calls_made = vec![1, 1];
        rendezvous.advance(0, 1);
        rendezvous.advance(1, 1);
        rendezvous.abort(0, "out of disk");
        assert_eq!(rendezvous.wait(1, Call::AllGather, 1), Ok(()));
        assert_eq!(rendezvous.confirm(1), Ok(()));
        assert_eq!(
            rendezvous.announce(1, Call::AllGather, &[]),
            Err(peer_gone(0, "out of disk"))
        );
    }

    #[test]
    fn a_call_that_has_failed_for_one_worker_fails_for_those_that_need_nobody() {
        let rendezvous = Rendezvous::new(3, Duration::ZERO);
        rendezvous.state().calls_made = vec![1; 3];
        // Worker 0 gives up on worker 1, which is only late.
        rendezvous.advance(0, 1);
        rendezvous.advance(2, 1);
        let gave_up = rendezvous.wait(0, Call::AllGather, 1).unwrap_err();
        rendezvous.advance(1, 1);
        assert_eq!(rendezvous.wait(2, Call::AllGather, 1), Ok(()));
        assert_eq!(rendezvous.confirm(2), Err(peer_gone(0, &gave_up.to_string())));
    }

    /// A worker that sleeps is woken by the stage that it waits for, whether or not it fell asleep before it came.
    #[test]
    fn no_stage_is_slept_through() {
        let mut rendezvous = Rendezvous::new(2, MINUTE);
        rendezvous.spins = 0;
        let rendezvous = &rendezvous;
        std::thread::scope(|scope| {
            for rank in 0..2 {
                scope.spawn(move || {
                    for stages in 1..=5000 {
                        rendezvous.advance(rank, stages);
                        // Both ways to wait, in turn.
                        if stages % 2 == 0 {
                            rendezvous.wait_for_all(rank, stages);
                        } else {
                            assert_eq!(rendezvous.wait(rank, Call::AllGather, stages), Ok(()));
                        }
                    }
                });
            }
        });
        assert_eq!(rendezvous.sleepers.load(SeqCst), 0);
    }
}
