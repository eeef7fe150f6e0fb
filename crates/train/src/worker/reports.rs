//! What worker 0 tells its sink of a run.

use sparknet_sync::Round;

use super::{
    Worker, lock,
    status::{Seconds, Status},
};
use crate::events::{Event, Iteration, RoundEnd, Start};

impl Worker<'_> {
    /// Tells of the run's begin.
    pub(super) fn announce(&mut self, first: u64) {
        let net = self.solver.net();
        let start = Start {
            net: net.name().to_owned(),
            parameters: net.param_arena().len(),
            workers: self.transport.world(),
            threads_per_worker: rayon::current_num_threads(),
            sync: self.settings.sync.clone(),
            batch_size: self.feeds.batch_size(),
            records: self.feeds.len_records(),
            seed: self.seed,
            iteration: first,
            max_iter: self.solver.spec().max_iter,
        };
        self.tell(Event::Start(start));
    }

    pub(super) fn tell_debug_lines(&mut self) {
        let lines = std::mem::take(&mut *lock(&self.debug_lines));
        for message in lines {
            self.tell(Event::Message { message });
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        if let Some(sink) = &mut self.sink {
            sink.event(&event);
        }
    }

    /// Tells the sinks of a round and of a display interval.
    pub(super) fn report(&mut self, done: u64, lr: f32, round: Round, display: bool, statuses: &[Status]) {
        if round == Round::Completed {
            self.rounds += 1;
            self.seconds = Seconds::default();
            let each = |seconds: fn(&Seconds) -> f64| statuses.iter().map(|s| seconds(&s.seconds)).collect();
            self.tell(Event::Round(RoundEnd {
                iteration: done,
                round: self.rounds,
                compute_s: each(|seconds| seconds.compute),
                data_s: each(|seconds| seconds.data),
                sync_s: each(|seconds| seconds.sync),
            }));
        }
        if display {
            let sum_loss: f32 = statuses
                .iter()
                .map(|status| f32::from_bits(status.average_loss_bits))
                .sum();
            let training_seconds = self.started.elapsed().as_secs_f64() - self.paused_seconds;
            let (since, since_seconds) = self.displayed;
            self.displayed = (done, training_seconds);
            self.tell(Event::Iteration(Iteration {
                iteration: done,
                loss: sum_loss / statuses.len() as f32,
                lr,
                images_per_s: self.records(done - since) / (training_seconds - since_seconds).max(1e-9),
                elapsed_s: self.started.elapsed().as_secs_f64(),
            }));
        }
    }

    /// Records that all workers see in `iterations`.
    pub(super) fn records(&self, iterations: u64) -> f64 {
        (self.feeds.batch_size() * self.solver.spec().iter_size * self.transport.world()) as f64 * iterations as f64
    }
}
