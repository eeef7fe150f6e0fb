//! The solver: gradients become updates, in Caffe's order.
//!
//! One iteration: forward and backward of `iter_size` batches, their gradients added up ([`Solver::compute_gradients`]);
//! then the learning rate, clipping, division by `iter_size`, regularisation, the rule, and the subtraction
//! ([`Solver::apply_update`]). What workers agree on happens between the two, or after both.

mod rules;

use std::{collections::VecDeque, f64::consts::PI};

use crate::{
    Error, Net, kernels,
    spec::{LrPolicy, SolverSpec},
};
use rules::{Stretch, Update};

/// Parameters that a thread updates at a time.
const CHUNK: usize = 64 * 1024;

/// Trains a net.
pub struct Solver {
    spec: SolverSpec,
    net: Net,
    /// One arena for each value that the rule remembers of a parameter, laid out as the parameters.
    histories: Vec<Vec<f32>>,
    /// LARS' factor on the rate of each parameter blob; 1 in other rules.
    trust: Vec<f32>,
    iteration: u64,
    /// How many steps the learning rate has taken, as Caffe's solver states record it.
    current_step: u64,
    losses: VecDeque<f32>,
    seed: u64,
    allow_nan: bool,
}

impl Solver {
    /// A solver at iteration 0. All randomness of the training passes comes from `seed`, which differs from worker
    /// to worker.
    pub fn new(spec: SolverSpec, net: Net, seed: u64) -> Self {
        let histories = vec![vec![0.0; net.param_arena().len()]; spec.rule.histories()];
        let losses = VecDeque::with_capacity(spec.average_loss + 1);
        let trust = vec![1.0; net.params().len()];
        Self {
            spec,
            net,
            histories,
            trust,
            iteration: 0,
            current_step: 0,
            losses,
            seed,
            allow_nan: false,
        }
    }

    /// Whether training goes on when the loss is not a number any more; it stops by default.
    pub fn set_allow_nan(&mut self, allow_nan: bool) {
        self.allow_nan = allow_nan;
    }

    /// Draws all randomness of the training passes from `seed` from now on.
    pub fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// The settings.
    pub fn spec(&self) -> &SolverSpec {
        &self.spec
    }

    /// The net.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The net, to feed it.
    pub fn net_mut(&mut self) -> &mut Net {
        &mut self.net
    }

    /// Updates made so far.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// What the rule remembers of each parameter, an arena a kind.
    pub fn histories(&self) -> &[Vec<f32>] {
        &self.histories
    }

    /// The parameters, their gradients and the histories, all at once, for workers to agree on.
    pub fn arenas_mut(&mut self) -> (&mut [f32], &mut [f32], &mut [Vec<f32>]) {
        let (params, gradients) = self.net.arenas_mut();
        (params, gradients, &mut self.histories)
    }

    pub(crate) fn net_and_histories_mut(&mut self) -> (&Net, &mut [Vec<f32>]) {
        (&self.net, &mut self.histories)
    }

    /// Steps that the learning rate has taken, as Caffe's solver states record it.
    pub fn current_step(&self) -> u64 {
        self.current_step
    }

    /// The losses that the smoothed loss still looks at, oldest first.
    pub fn recent_losses(&self) -> impl Iterator<Item = f32> {
        self.losses.iter().copied()
    }

    /// Takes up a run where it was left.
    pub fn restore(&mut self, iteration: u64, current_step: u64, recent_losses: &[f32]) {
        self.iteration = iteration;
        self.current_step = current_step;
        self.losses.clear();
        self.losses.extend(recent_losses);
    }

    /// The mean of the last `average_loss` losses.
    pub fn average_loss(&self) -> f32 {
        self.losses.iter().sum::<f32>() / self.losses.len().max(1) as f32
    }

    /// Runs `iter_size` batches forward and backward; `feed` fills the net's data blobs before each. Returns the mean
    /// of their losses.
    ///
    /// # Errors
    /// Whatever `feed` says; data that a layer cannot take; a loss that is not finite.
    pub fn compute_gradients<E: From<Error>>(
        &mut self,
        mut feed: impl FnMut(&mut Net) -> Result<(), E>,
    ) -> Result<f32, E> {
        self.net.clear_gradients();
        let iter_size = self.spec.iter_size as u64;
        let mut sum_loss = 0.0;
        for batch in 0..iter_size {
            feed(&mut self.net)?;
            self.net.set_random_pass(self.seed, self.iteration * iter_size + batch);
            sum_loss += self.net.forward()?;
            self.net.backward();
            self.net.check_backward()?;
        }
        let loss = sum_loss / iter_size as f32;
        if !loss.is_finite() && !self.allow_nan {
            let layer = self.net.first_non_finite_layer().unwrap_or("the loss").to_owned();
            return Err(Error::NonFiniteLoss {
                loss,
                iteration: self.iteration,
                layer,
            }
            .into());
        }
        if self.losses.len() == self.spec.average_loss {
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        Ok(loss)
    }

    /// Turns the gradients into an update and subtracts it; returns the learning rate. The iteration advances last.
    pub fn apply_update(&mut self) -> f32 {
        let rate = self.learning_rate();
        let before = self.net.params_before_update();
        let spec = &self.spec;
        let (params, values, gradients) = self.net.update_parts_mut();
        let update = Update {
            spec,
            iteration: self.iteration,
            rate,
            gradient_scale: clip_factor(spec.clip_gradients, gradients) / spec.iter_size as f32,
        };
        update.measure_trust(params, values, gradients, &mut self.trust);
        let mut histories = self.histories.iter_mut().map(Vec::as_mut_slice);
        let stretch = Stretch {
            values,
            gradients,
            histories: [(); 2].map(|()| histories.next().unwrap_or_default()),
        };
        update.apply(params, &self.trust, 0, stretch);
        self.net.tell_update(before);
        self.iteration += 1;
        rate
    }

    /// The learning rate of this iteration.
    pub fn learning_rate(&mut self) -> f32 {
        let (rate, current_step) = learning_rate(&self.spec, self.iteration, self.current_step);
        self.current_step = current_step;
        rate
    }
}

/// The learning rate of an iteration and the steps that it has taken by then, in double precision as Caffe's `pow`.
fn learning_rate(spec: &SolverSpec, iteration: u64, current_step: u64) -> (f32, u64) {
    let base = f64::from(spec.base_lr);
    let t = iteration as f64;
    let max_iter = spec.max_iter.max(1) as f64;
    let (rate, current_step) = match &spec.lr_policy {
        LrPolicy::Fixed => (base, current_step),
        LrPolicy::Step { gamma, stepsize } => {
            let step = iteration / stepsize;
            (base * f64::from(*gamma).powf(step as f64), step)
        }
        LrPolicy::Exp { gamma } => (base * f64::from(*gamma).powf(t), current_step),
        LrPolicy::Inv { gamma, power } => (
            base * (1.0 + f64::from(*gamma) * t).powf(-f64::from(*power)),
            current_step,
        ),
        LrPolicy::MultiStep { gamma, stepvalues } => {
            // Caffe takes at most one step an iteration, in the order of the file.
            let due = stepvalues
                .get(current_step as usize)
                .is_some_and(|value| iteration >= *value);
            let step = current_step + u64::from(due);
            (base * f64::from(*gamma).powf(step as f64), step)
        }
        LrPolicy::Poly { power } => (base * (1.0 - t / max_iter).powf(f64::from(*power)), current_step),
        LrPolicy::Sigmoid { gamma, stepsize } => (
            base / (1.0 + (-f64::from(*gamma) * (t - *stepsize as f64)).exp()),
            current_step,
        ),
        LrPolicy::Cosine { min_lr } => {
            let min = f64::from(*min_lr);
            let half = (1.0 + (PI * (t / max_iter).min(1.0)).cos()) / 2.0;
            (min + (base - min) * half, current_step)
        }
    };
    let rate = if iteration < spec.warmup_iter {
        let start = f64::from(spec.warmup_start_lr);
        start + (rate - start) * t / spec.warmup_iter as f64
    } else {
        rate
    };
    (rate as f32, current_step)
}

/// What all gradients are multiplied with so that their L2 norm is at most `max_norm`.
fn clip_factor(max_norm: Option<f32>, gradients: &[f32]) -> f32 {
    let Some(max_norm) = max_norm else {
        return 1.0;
    };
    let norm = sum_of_squares(gradients).sqrt() as f32;
    if norm > max_norm { max_norm / norm } else { 1.0 }
}

/// On all threads, in an order that depends on the length alone.
fn sum_of_squares(values: &[f32]) -> f64 {
    if values.len() <= CHUNK {
        return kernels::sum_of_squares(values);
    }
    let (left, right) = values.split_at(values.len() / 2);
    let (left, right) = rayon::join(|| sum_of_squares(left), || sum_of_squares(right));
    left + right
}
