use crate::call::Call;
use crate::rendezvous::{OwnCacheLine, Rendezvous, Wait};
use crate::{SyncError, Transport, segment};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// How many values of each worker are in one piece of a call. Larger pieces leave the cache before they are done with,
/// smaller ones cost more waiting for each other.
const PIECE_LENGTH: usize = 64 * 1024;

/// How many pieces are on their way at once: one that is handed out, one that is summed and one that is collected.
const PIECES_IN_FLIGHT: usize = 3;

/// The transport between workers that are threads of one process. Made by [`in_process`], one for each worker.
///
/// A call has two parts. First every worker announces what it calls and waits until all have (so nothing of the last
/// call is in use any more, and calls that differ are an error before a number has moved). Then the numbers move.
///
/// An all-reduce goes over the values in pieces that fit a core's cache, so that memory is read and written once. Piece
/// p is the p-th part of every segment, and has three stages:
///
/// 1. hand out: worker r copies its values of the others' segments into buffers, one for each of them;
/// 2. sum: worker r adds the others' values of segment r to its own, in the order of the contract;
/// 3. collect: worker r copies the sums of the others' segments over its values.
///
/// A worker hands out a piece, then sums the one before, then collects the one before that. Whatever it needs for that,
/// the others did most of a turn ago, so that workers seldom wait.
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
        rendezvous: Rendezvous::new(world, timeout),
        handed_out: (0..PIECES_IN_FLIGHT * world * world)
            .map(|_| OwnCacheLine::default())
            .collect(),
        sums: (0..PIECES_IN_FLIGHT * world).map(|_| OwnCacheLine::default()).collect(),
    });
    (0..world)
        .map(|rank| InProcess {
            rank,
            shared: Arc::clone(&shared),
        })
        .collect()
}

/// The numbers on their way are in `handed_out` and `sums`. The stages done say who may use which buffer; the locks only
/// prove it to the compiler, and nobody waits for anything else while holding one.
struct Shared {
    world: usize,
    rendezvous: Rendezvous,
    /// By piece in flight, worker that has handed out and worker that sums.
    handed_out: Vec<OwnCacheLine<Mutex<Vec<f32>>>>,
    /// By piece in flight and worker that has summed.
    sums: Vec<OwnCacheLine<RwLock<Vec<f32>>>>,
}

impl Shared {
    fn handed_out(&self, piece: usize, from: usize, to: usize) -> MutexGuard<'_, Vec<f32>> {
        let index = (piece % PIECES_IN_FLIGHT * self.world + from) * self.world + to;
        self.handed_out[index].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sums(&self, piece: usize, of: usize) -> &RwLock<Vec<f32>> {
        &self.sums[piece % PIECES_IN_FLIGHT * self.world + of].0
    }

    fn write_sums(&self, piece: usize, of: usize, values: &[f32]) {
        let mut sums = self.sums(piece, of).write().unwrap_or_else(PoisonError::into_inner);
        overwrite(&mut sums, values);
    }

    fn read_sums(&self, piece: usize, of: usize, values: &mut [f32]) {
        let sums = self.sums(piece, of).read().unwrap_or_else(PoisonError::into_inner);
        values.copy_from_slice(&sums);
    }
}

/// Replaces what is in the buffer. Keeps its memory.
fn overwrite(buffer: &mut Vec<f32>, values: &[f32]) {
    buffer.clear();
    buffer.extend_from_slice(values);
}

/// How an all-reduce of `length` values is cut into pieces.
#[derive(Clone, Copy)]
struct Pieces {
    length: usize,
    world: usize,
    /// Of a piece of one segment, the last piece excepted.
    part_length: usize,
    count: usize,
}

impl Pieces {
    fn new(length: usize, world: usize) -> Self {
        let part_length = PIECE_LENGTH.div_ceil(world);
        Self {
            length,
            world,
            part_length,
            count: length.div_ceil(world).div_ceil(part_length),
        }
    }

    /// Where this piece of a segment is.
    fn part(&self, piece: usize, index: usize) -> Range<usize> {
        let segment = segment(self.length, index, self.world);
        let start = segment.start + piece * self.part_length;
        start.min(segment.end)..(start + self.part_length).min(segment.end)
    }
}

/// What becomes of a sum.
#[derive(Clone, Copy)]
enum Finish {
    Sum,
    Average,
}

/// Adds the last worker's values, finishes the sums and copies them.
fn add_last(values: &mut [f32], last: &[f32], finished: &mut Vec<f32>, finish: impl Fn(f32) -> f32) {
    finished.resize(values.len(), 0.0);
    for ((value, last), finished) in values.iter_mut().zip(last).zip(finished) {
        *value = finish(*value + *last);
        *finished = *value;
    }
}

impl InProcess {
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, world) = (self.rank, self.shared.world);
        (1..world).map(move |turn| (rank + turn) % world)
    }

    fn hand_out(&self, pieces: Pieces, piece: usize, values: &[f32]) {
        for other in self.others() {
            let mut buffer = self.shared.handed_out(piece, self.rank, other);
            overwrite(&mut buffer, &values[pieces.part(piece, other)]);
        }
    }

    fn sum(&self, pieces: Pieces, piece: usize, finish: Finish, values: &mut [f32]) {
        let (rank, world) = (self.rank, self.shared.world);
        let values = &mut values[pieces.part(piece, rank)];
        let last_rank = (rank + world - 1) % world;
        for other in self.others().take(world - 2) {
            for (value, other) in values.iter_mut().zip(&*self.shared.handed_out(piece, other, rank)) {
                *value += *other;
            }
        }
        let last = self.shared.handed_out(piece, last_rank, rank);
        let mut sums = self
            .shared
            .sums(piece, rank)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let divisor = world as f32;
        match finish {
            Finish::Sum => add_last(values, &last, &mut sums, |sum| sum),
            // A power of 2 has an exact inverse, and the product is the quotient to the bit.
            Finish::Average if world.is_power_of_two() => {
                let inverse = 1.0 / divisor;
                add_last(values, &last, &mut sums, |sum| sum * inverse);
            }
            Finish::Average => add_last(values, &last, &mut sums, |sum| sum / divisor),
        }
    }

    fn collect(&self, pieces: Pieces, piece: usize, values: &mut [f32]) {
        for other in self.others() {
            self.shared
                .read_sums(piece, other, &mut values[pieces.part(piece, other)]);
        }
    }

    fn all_reduce(&mut self, call: Call, finish: Finish, values: &mut [f32]) -> Result<(), SyncError> {
        let rank = self.rank;
        let rendezvous = &self.shared.rendezvous;
        let announced = rendezvous.announce(rank, call, &[])?;
        if self.shared.world == 1 {
            return Ok(());
        }
        let pieces = Pieces::new(values.len(), self.shared.world);
        // The stages done when a piece is handed out, summed and collected: three in a turn of the loop below.
        let handed_out = |piece: usize| announced + 3 * piece as u64 + 1;
        let summed = |piece: usize| announced + 3 * (piece as u64 + 1) + 2;
        let collected = |piece: usize| announced + 3 * (piece as u64 + 2) + 3;
        let wait = |stages| rendezvous.wait(rank, call, Wait { stages, only: None });
        for turn in 0..pieces.count + 2 {
            if turn < pieces.count {
                let piece = turn;
                if let Some(same_buffers) = piece.checked_sub(PIECES_IN_FLIGHT) {
                    wait(summed(same_buffers))?;
                }
                self.hand_out(pieces, piece, values);
                rendezvous.advance(rank, handed_out(piece));
            }
            if let Some(piece) = turn.checked_sub(1).filter(|&piece| piece < pieces.count) {
                wait(handed_out(piece))?;
                if let Some(same_buffers) = piece.checked_sub(PIECES_IN_FLIGHT) {
                    wait(collected(same_buffers))?;
                }
                self.sum(pieces, piece, finish, values);
                rendezvous.advance(rank, summed(piece));
            }
            if let Some(piece) = turn.checked_sub(2) {
                wait(summed(piece))?;
                self.collect(pieces, piece, values);
                rendezvous.advance(rank, collected(piece));
            }
        }
        rendezvous.confirm(rank)
    }
}

impl Transport for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.world
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        let call = Call::AllReduce { length: values.len() };
        self.all_reduce(call, Finish::Sum, values)
    }

    /// Divides each sum while it is in the cache.
    fn all_reduce_average(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        if self.shared.world == 1 {
            return Ok(());
        }
        let call = Call::Average { length: values.len() };
        self.all_reduce(call, Finish::Average, values)
    }

    fn broadcast(&mut self, root: usize, values: &mut [f32]) -> Result<(), SyncError> {
        let (rank, world) = (self.rank, self.shared.world);
        let call = Call::Broadcast {
            root,
            length: values.len(),
        };
        if root >= world {
            let error = SyncError::NoSuchRoot { root, world };
            self.abort(&error.to_string());
            return Err(error);
        }
        let rendezvous = &self.shared.rendezvous;
        let announced = rendezvous.announce(rank, call, &[])?;
        if world == 1 {
            return Ok(());
        }
        // One stage a piece: the root's is to write it, the others' is to read it.
        for (piece, part) in values.chunks_mut(PIECE_LENGTH).enumerate() {
            let stage = announced + piece as u64 + 1;
            if rank == root {
                if piece >= PIECES_IN_FLIGHT {
                    // All have read what was in the buffer. The root itself has written more than that.
                    let stages = stage - PIECES_IN_FLIGHT as u64;
                    rendezvous.wait(rank, call, Wait { stages, only: None })?;
                }
                self.shared.write_sums(piece, root, part);
            } else {
                let only = Some(root);
                rendezvous.wait(rank, call, Wait { stages: stage, only })?;
                self.shared.read_sums(piece, root, part);
            }
            rendezvous.advance(rank, stage);
        }
        rendezvous.confirm(rank)
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

    /// Two workers are in an all-reduce and need the third, which has announced it as well.
    fn third_leaves_in_mid_reduce(leave: fn(InProcess)) -> [Result<(), SyncError>; 2] {
        let mut transports = in_process(3, Duration::from_secs(60));
        let third = transports.pop().unwrap();
        let others = transports
            .into_iter()
            .map(|mut transport| std::thread::spawn(move || transport.all_reduce_sum(&mut [1.0; 10])));
        let others = others.collect::<Vec<_>>();
        let third = std::thread::spawn(move || {
            let call = Call::AllReduce { length: 10 };
            third.shared.rendezvous.announce(third.rank, call, &[]).unwrap();
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
}
