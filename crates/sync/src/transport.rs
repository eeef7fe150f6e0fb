use crate::SyncError;
use std::ops::Range;

/// How the numbers of one worker reach the others: one value of this a worker.
///
/// All workers make the same calls in the same order, with slices of the same length. A call waits for the others, but
/// never longer than the transport's timeout for any one of them. After an error the transport is of no more use to
/// any worker, and the values that were given to the call may be half changed.
///
/// A worker that drops its transport, or whose thread panics, wakes the workers that need it with
/// [`SyncError::PeerGone`]. One that has an error of its own should say so first, with [`abort`](Transport::abort).
pub trait Transport: Send {
    /// Which worker this is, from 0 to `world() - 1`.
    fn rank(&self) -> usize;

    /// How many workers there are, this one included.
    fn world(&self) -> usize;

    /// Replaces `values` by their sum over all workers: the same bits on every worker, in every run, over every
    /// transport.
    ///
    /// For that the order is part of the contract. With x_r the values of worker r, [`segment`] s is
    /// `((x_s + x_(s+1)) + x_(s+2)) + …`, ranks modulo world: the order in which a ring reduce-scatter adds
    /// (Patarasu and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009).
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), SyncError>;

    /// Replaces `values` by those of worker `root`.
    fn broadcast(&mut self, root: usize, values: &mut [f32]) -> Result<(), SyncError>;

    /// Gives every worker the `bytes` of all, in order of rank; their lengths may differ. Meant for small messages.
    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SyncError>;

    /// Ends the run for all workers: whoever waits, or calls later, gets [`SyncError::PeerGone`] with this `reason`.
    /// If the run has ended already, the first reason stays.
    fn abort(&mut self, reason: &str);

    /// Returns once every worker has called it.
    fn barrier(&mut self) -> Result<(), SyncError> {
        self.all_gather(&[]).map(drop)
    }

    /// Replaces `values` by their average over all workers: [`all_reduce_sum`](Transport::all_reduce_sum), then each
    /// sum divided by `world`. The result has the same bits on every worker.
    ///
    /// It divides, and does not multiply by a rounded 1/world, so that workers that are equal stay equal to the bit
    /// where float32 allows it: always with 1, 2 or 4 workers, unless the sum overflows. With another number the sum
    /// itself may round, and an average of equal values can be off in the last bit or two. One worker's values are not
    /// touched.
    fn all_reduce_average(&mut self, values: &mut [f32]) -> Result<(), SyncError> {
        let world = self.world();
        if world == 1 {
            return Ok(());
        }
        self.all_reduce_sum(values)?;
        for value in values {
            *value /= world as f32;
        }
        Ok(())
    }
}

/// The part of a slice of `length` values that is summed starting with worker `index` of `world`: the segments of all
/// workers lie one after the other, cover everything, and differ in length by at most 1.
pub fn segment(length: usize, index: usize, world: usize) -> Range<usize> {
    length * index / world..length * (index + 1) / world
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn segments_cover_everything_once_and_evenly() {
        for world in 1..=7 {
            for length in [0, 1, 2, 5, 6, 7, 8, 1000, 431_080] {
                let mut end = 0;
                for index in 0..world {
                    let part = segment(length, index, world);
                    assert_eq!(part.start, end, "{length} values, segment {index} of {world}");
                    assert!(part.len() == length / world || part.len() == length.div_ceil(world));
                    end = part.end;
                }
                assert_eq!(end, length);
            }
        }
    }
}
