//! Which records make which batch of which worker: pure arithmetic.

/// What happens at the end of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Go on with the first record, for ever (training).
    Wrap,
    /// Every record once; the last batch may be smaller (tests).
    Stop,
}

/// How the workers share the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shard {
    /// Record k goes to worker k mod N. N workers with batch B see in each iteration the same records as one with batch N·B.
    Records,
    /// Batch b goes as a whole to worker b mod N, so that N workers test the same batches as one.
    Batches,
    /// The source holds this worker's records alone, one more of which goes into each place that [`Shard::Records`] gives
    /// it; batches are numbered as with [`Shard::Batches`].
    Own,
}

/// The stream of records 0, 1, 2, … (with [`End::Wrap`] it runs on beyond the number of records) and one worker's part of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub len_records: u64,
    pub batch_size: u64,
    pub rank: u64,
    pub world: u64,
    pub end: End,
    pub shard: Shard,
    pub max_batches: Option<u64>,
    /// The place in the source where the stream starts (rand_skip).
    pub offset: u64,
}

impl Plan {
    /// The global number of the batch that follows after this worker took `taken` batches. With [`Shard::Records`] it is that
    /// of the iteration: the workers' batches with the same number belong together.
    pub fn batch(&self, taken: u64) -> u64 {
        match self.shard {
            Shard::Records => taken,
            Shard::Batches | Shard::Own => taken.saturating_mul(self.world).saturating_add(self.rank),
        }
    }

    /// The place in the stream of item `item` of batch `batch`.
    pub fn record(&self, batch: u64, item: u64) -> u64 {
        let batch = if self.shard == Shard::Own {
            batch / self.world
        } else {
            batch
        };
        let place = batch.saturating_mul(self.batch_size).saturating_add(item);
        match self.shard {
            Shard::Records | Shard::Own => place.saturating_mul(self.world).saturating_add(self.rank),
            Shard::Batches => place,
        }
    }

    /// How many records batch `batch` has; 0 where there is no such batch.
    pub fn count(&self, batch: u64) -> u64 {
        if self.max_batches.is_some_and(|max_batches| batch >= max_batches) {
            return 0;
        }
        match self.end {
            End::Wrap => self.batch_size,
            End::Stop => {
                let first = self.record(batch, 0);
                let left = match self.shard {
                    Shard::Records => self.len_records.saturating_sub(first).div_ceil(self.world),
                    Shard::Batches => self.len_records.saturating_sub(first),
                    Shard::Own => self.len_records.saturating_sub(first / self.world),
                };
                left.min(self.batch_size)
            }
        }
    }

    /// Where in the source a record of the stream lies.
    pub fn position(&self, record: u64) -> u64 {
        (self.place(record) % u128::from(self.len_records)) as u64
    }

    /// Which pass over the source a record of the stream belongs to, from 0.
    pub fn pass(&self, record: u64) -> u64 {
        (self.place(record) / u128::from(self.len_records)) as u64
    }

    fn place(&self, record: u64) -> u128 {
        let record = if self.shard == Shard::Own {
            record / self.world
        } else {
            record
        };
        u128::from(record) + u128::from(self.offset)
    }
}
