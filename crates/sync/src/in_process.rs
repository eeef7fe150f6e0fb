use crate::call::Call;
use crate::rendezvous::{OwnCacheLine, Rendezvous};
use crate::{SyncError, Transport, segment};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::time::Duration;

/// How many values of each worker are summed at a time: as many as stay in the core's cache until all have the sums.
const PIECE_LENGTH: usize = 4 * 1024;

/// The transport between workers that are threads of one process. Made by [`in_process`], one for each worker.
///
/// Workers use each other's values where they lie, so that memory is read and written once and there is nothing to
/// allocate. Every worker announces what it calls, and where its values are, and waits until all have: calls that
/// differ are an error before a number has moved. Then worker r, and nobody else, reads segment r of all workers and
/// writes the sums over it. The call ends for all when the last worker is done.
pub struct InProcess {
    rank: usize,
    shared: Arc<Shared>,
}

/// Transports for `world` workers in this process, in order of rank.
///
/// `timeout` is how long a worker waits for any one other to make a call: it must be longer than the workers' computing
/// between two calls can differ.
pub fn in_process(world: usize, timeout: Duration) -> Vec<InProcess> {
    let shared = Arc::new(Shared {
        rendezvous: Rendezvous::new(world, timeout),
        values: (0..world).map(|_| OwnCacheLine::default()).collect(),
    });
    (0..world)
        .map(|rank| InProcess {
            rank,
            shared: Arc::clone(&shared),
        })
        .collect()
}

struct Shared {
    rendezvous: Rendezvous,
    /// By rank: where the values of its call begin.
    values: Vec<OwnCacheLine<AtomicPtr<f32>>>,
}

/// The values of all workers, from when all have announced a call until all are done with it. Dropped, it waits for that:
/// whatever a worker does, its values are not given back to it while another may still use them.
struct Lent<'a> {
    rank: usize,
    shared: &'a Shared,
    length: usize,
    /// The stages that are done when all are done with the values.
    done: u64,
    own: PhantomData<&'a mut [f32]>,
}

impl<'a> Lent<'a> {
    /// Announces `call` and waits until all have announced the same, each with its `values`.
    fn new(rank: usize, shared: &'a Shared, call: Call, values: &'a mut [f32]) -> Result<Self, SyncError> {
        // Before the announcement, so that whoever has seen all announcements sees all addresses.
        shared.values[rank].0.store(values.as_mut_ptr(), SeqCst);
        let announced = shared.rendezvous.announce(rank, call, &[])?;
        Ok(Self {
            rank,
            shared,
            length: values.len(),
            done: announced + 1,
            own: PhantomData,
        })
    }

    fn world(&self) -> usize {
        self.shared.values.len()
    }

    /// The other workers, in the order in which their values are added.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, world) = (self.rank, self.world());
        (1..world).map(move |turn| (rank + turn) % world)
    }

    /// Some values of worker `of`.
    ///
    /// # Safety
    /// As long as they are borrowed nobody writes to them, and this worker reads them only through this.
    unsafe fn values(&self, of: usize, range: Range<usize>) -> &[f32] {
        assert!(range.start <= range.end && range.end <= self.length);
        let values = self.shared.values[of].0.load(SeqCst);
        // SAFETY: since all have announced the same call, `values` are `length` values that their worker has lent until
        // all are done, which this worker is not before `self` is dropped. The caller sees to the rest.
        unsafe { std::slice::from_raw_parts(values.add(range.start), range.len()) }
    }

    /// Some values of worker `of`, to write to.
    ///
    /// # Safety
    /// As long as they are borrowed nobody else reads or writes them, this worker included.
    #[allow(clippy::mut_from_ref)] // They are not part of `self`; who may write to which is the caller's proof.
    unsafe fn values_mut(&self, of: usize, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.length);
        let values = self.shared.values[of].0.load(SeqCst);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(values.add(range.start), range.len()) }
    }

    /// Sums this worker's segment in the order of the contract and gives `finish` of the sums to all.
    fn sum(&self, finish: impl Fn(f32) -> f32) {
        let segment = segment(self.length, self.rank, self.world());
        let last_rank = (self.rank + self.world() - 1) % self.world();
        for start in segment.clone().step_by(PIECE_LENGTH) {
            let piece = start..(start + PIECE_LENGTH).min(segment.end);
            // SAFETY: of all workers' values the segment `rank` is used by the worker of this rank only; `own`, `last` and
            // the `other`s are different workers', and each other's is given back before the next is taken.
            let (own, last) = unsafe {
                (
                    self.values_mut(self.rank, piece.clone()),
                    self.values_mut(last_rank, piece.clone()),
                )
            };
            for other in self.others().filter(|&other| other != last_rank) {
                // SAFETY: as above.
                let other = unsafe { self.values(other, piece.clone()) };
                for (sum, value) in own.iter_mut().zip(other) {
                    *sum += *value;
                }
            }
            for (sum, value) in own.iter_mut().zip(last) {
                *sum = finish(*sum + *value);
                *value = *sum;
            }
            for other in self.others().filter(|&other| other != last_rank) {
                // SAFETY: as above.
                unsafe { self.values_mut(other, piece.clone()) }.copy_from_slice(own);
            }
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.shared.rendezvous.advance(self.rank, self.done);
        self.shared.rendezvous.wait_for_all(self.rank, self.done);
    }
}

impl InProcess {
    fn lend<'a>(&'a self, call: Call, values: &'a mut [f32]) -> Result<Lent<'a>, SyncError> {
        Lent::new(self.rank, &self.shared, call, values)
    }
}

impl Transport for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.values.len()
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        let call = Call::AllReduce { length: values.len() };
        let lent = self.lend(call, values)?;
        if self.world() > 1 {
            lent.sum(|sum| sum);
        }
        Ok(())
    }

    /// Divides each sum while it is in the cache.
    fn all_reduce_average(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        let world = self.world();
        if world == 1 {
            return Ok(());
        }
        let call = Call::Average { length: values.len() };
        let lent = self.lend(call, values)?;
        let divisor = world as f32;
        if world.is_power_of_two() {
            // A power of 2 has an exact inverse, and the product is the quotient to the bit.
            let inverse = 1.0 / divisor;
            lent.sum(|sum| sum * inverse);
        } else {
            lent.sum(|sum| sum / divisor);
        }
        Ok(())
    }

    fn broadcast(&mut self, root: usize, values: &mut [f32]) -> Result<(), SyncError> {
        let (rank, world) = (self.rank, self.world());
        let length = values.len();
        if root >= world {
            let error = SyncError::NoSuchRoot { root, world };
            self.abort(&error.to_string());
            return Err(error);
        }
        let lent = self.lend(Call::Broadcast { root, length }, values)?;
        if rank != root {
            // SAFETY: nobody writes to the root's values, and this worker's are used by nobody else.
            unsafe {
                lent.values_mut(rank, 0..length)
                    .copy_from_slice(lent.values(root, 0..length))
            };
        }
        Ok(())
    }

    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SyncError> {
        self.shared.rendezvous.announce(self.rank, Call::AllGather, bytes)?;
        Ok(self.shared.rendezvous.gathered())
    }

    fn abort(&mut self, reason: &str) {
        self.shared.rendezvous.abort(self.rank, reason);
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() {
            "its thread panicked; the message of the panic says why"
        } else {
            "it ended while others still needed it; its own log says why"
        };
        self.shared.rendezvous.leave(self.rank, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker's values are its own again only when all are done with them, even if it panics before.
    #[test]
    fn a_panic_in_mid_call_waits_for_those_who_use_the_values_and_fails_the_next_call() {
        let transports = in_process(3, Duration::from_secs(60));
        let workers = transports.into_iter().map(|mut transport| {
            std::thread::spawn(move || {
                let mut values = [1.0; 10];
                if transport.rank == 2 {
                    let _lent = transport.lend(Call::AllReduce { length: 10 }, &mut values).unwrap();
                    panic!("on purpose");
                }
                transport.all_reduce_sum(&mut values).unwrap();
                (values, transport.barrier())
            })
        });
        let workers = workers.collect::<Vec<_>>();
        let mut results = workers.into_iter().map(std::thread::JoinHandle::join);
        for _ in 0..2 {
            let (values, next) = results.next().unwrap().unwrap();
            // The segments of those who did their part.
            assert_eq!(values[..6], [3.0; 6]);
            let reason = "its thread panicked; the message of the panic says why".to_owned();
            assert_eq!(next, Err(SyncError::PeerGone { rank: 2, reason }));
        }
        assert!(results.next().unwrap().is_err());
    }
}
