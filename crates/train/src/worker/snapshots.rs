//! The weights that all workers agree on, and how they are kept: snapshots and commits.

use std::time::{Duration, Instant};

use sparknet_sync::{Replica, Round};

use super::{Worker, lock};
use crate::{
    Error,
    checkpoint::{self, SnapshotFiles},
    events::{Event, SnapshotWritten},
};

/// How long a run goes without a commit where nothing else is asked for.
const COMMIT_EVERY: Duration = Duration::from_secs(10);

impl Worker<'_> {
    /// Whether all workers have the same weights now.
    fn agrees_now(&self) -> bool {
        self.strategy.agrees_at(self.solver.iteration()) || self.transport.world() == 1
    }

    /// Takes this worker's weights for those of all, as they are after a round and after the last agreement.
    pub(super) fn take_own_weights(&mut self) {
        self.average.clear();
        self.average.extend_from_slice(self.solver.net().param_arena());
    }

    /// The weights that all agree on: the worker's own after a round, else the average of all.
    pub(super) fn agree_on_average(&mut self) -> Result<(), Error> {
        self.take_own_weights();
        if !self.agrees_now() {
            self.transport.all_reduce_average(&mut self.average)?;
        }
        Ok(())
    }

    /// Whether worker 0, which decides for all, wants a commit now.
    pub(super) fn commit_is_due(&self) -> bool {
        let (done, (last, since)) = (self.solver.iteration(), self.last_commit);
        let interval = self.settings.commit_interval;
        let is_due = match interval {
            0 => since.elapsed() >= COMMIT_EVERY,
            _ => done / interval > last / interval,
        };
        self.committer.is_some() && self.transport.rank() == 0 && self.agrees_now() && is_due
    }

    /// Hands what this worker holds to the committer, if there is one.
    pub(super) fn commit(&mut self, finished: bool) -> Result<(), Error> {
        let started = Instant::now();
        if let Some(committer) = &mut self.committer {
            let (rank, positions) = (self.transport.rank(), self.feeds.positions_batches());
            let part = checkpoint::part(&self.solver, rank, positions, self.seed, finished);
            committer.commit(part)?;
            self.last_commit = (self.solver.iteration(), Instant::now());
            self.paused_seconds += started.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// Writes a snapshot of this iteration.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write_snapshot(&mut self) -> Result<SnapshotFiles, Error> {
        let started = Instant::now();
        self.agree_on_average()?;
        let files = self.save(self.agrees_now())?;
        self.paused_seconds += started.elapsed().as_secs_f64();
        Ok(files)
    }

    /// Writes what all workers hold; `self.average` has the weights of all.
    fn save(&mut self, agrees: bool) -> Result<SnapshotFiles, Error> {
        let iteration = self.solver.iteration();
        let rank = self.transport.rank();
        let state = checkpoint::worker_state(&self.solver, self.feeds.positions_batches(), agrees);
        lock(&self.settings.states).insert(rank, state);
        self.transport.all_gather(&[])?;
        let files = SnapshotFiles::new(&self.prefix, iteration, self.solver.spec().snapshot_format);
        if rank == 0 {
            let states = std::mem::take(&mut *lock(&self.settings.states))
                .into_values()
                .collect();
            checkpoint::write(
                &files,
                &self.solver,
                &self.average,
                states,
                self.seed,
                &self.settings.sync_flags,
            )?;
        }
        // Nobody goes on before the files are there; if they are not, worker 0 ends the run.
        self.transport.all_gather(&[])?;
        self.tell(Event::Snapshot(SnapshotWritten {
            iteration,
            model: files.model.display().to_string(),
            state: files.state.display().to_string(),
        }));
        self.last_snapshot = Some((iteration, files.clone()));
        Ok(files)
    }

    /// The last agreement, and the snapshot behind it.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let done = self.solver.iteration();
        let (params, gradients, histories) = self.solver.arenas_mut();
        let replica = Replica {
            params,
            gradients,
            histories: &mut histories.iter_mut().map(Vec::as_mut_slice),
        };
        let agreed_now = self.strategy.finish(done, replica, self.transport.as_mut())? == Round::Completed;
        let is_written = self
            .last_snapshot
            .as_ref()
            .is_some_and(|(iteration, _)| *iteration == done);
        if self.solver.spec().snapshot_after_train && (agreed_now || !is_written) {
            self.take_own_weights();
            self.save(true)?;
        }
        Ok(())
    }
}
