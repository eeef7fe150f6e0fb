//! The solver: gradients become updates, in Caffe's order.
//!
//! One iteration: forward and backward of `iter_size` batches, their gradients added up ([`Solver::compute_gradients`]);
//! then the learning rate, clipping, division by `iter_size`, regularisation, the rule, and the subtraction
//! ([`Solver::apply_update`]). What workers agree on happens between the two, or after both.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::{
    Error, Net, kernels,
    layers::vectorized::vectorized,
    net::Param,
    spec::{LrPolicy, Rule, SolverSpec},
};

/// Parameters that a thread updates at a time.
const CHUNK: usize = 64 * 1024;

/// Trains a net.
pub struct Solver {
    spec: SolverSpec,
    net: Net,
    /// One arena for each value that the rule remembers of a parameter, laid out as the parameters.
    histories: Vec<Vec<f32>>,
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
        Self {
            spec,
            net,
            histories,
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
        let Rule::Sgd = spec.rule;
        let (params, values, gradients) = self.net.update_parts_mut();
        let gradient_scale = clip_factor(spec.clip_gradients, gradients) / spec.iter_size as f32;
        let step = |param: &Param| Step {
            gradient_scale,
            decay: spec.weight_decay * param.decay_mult,
            l1: spec.l1,
            rate: rate * param.lr_mult,
            momentum: spec.momentum,
        };
        // One pass over the arenas, in which parameters lie one after the other.
        let chunks = values
            .par_chunks_mut(CHUNK)
            .zip(gradients.par_chunks(CHUNK))
            .zip(self.histories[0].par_chunks_mut(CHUNK));
        chunks.enumerate().for_each(|(chunk, ((values, gradients), history))| {
            let start = chunk * CHUNK;
            let end = start + values.len();
            let first = params.partition_point(|param| param.range.end <= start);
            for param in params[first..].iter().take_while(|param| param.range.start < end) {
                let part = param.range.start.max(start) - start..param.range.end.min(end) - start;
                step(param).sgd(&mut values[part.clone()], &gradients[part.clone()], &mut history[part]);
            }
        });
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

impl Rule {
    /// How many values the rule remembers of each parameter.
    fn histories(self) -> usize {
        match self {
            Self::Sgd => 1,
        }
    }
}

/// The learning rate of an iteration and the steps that it has taken by then, in double precision as Caffe's `pow`.
fn learning_rate(spec: &SolverSpec, iteration: u64, current_step: u64) -> (f32, u64) {
    let base = f64::from(spec.base_lr);
    let t = iteration as f64;
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
        LrPolicy::Poly { power } => (
            base * (1.0 - t / spec.max_iter.max(1) as f64).powf(f64::from(*power)),
            current_step,
        ),
        LrPolicy::Sigmoid { gamma, stepsize } => (
            base / (1.0 + (-f64::from(*gamma) * (t - *stepsize as f64)).exp()),
            current_step,
        ),
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

/// What one update of one parameter blob is made with.
struct Step {
    /// Clipping and the division by `iter_size`.
    gradient_scale: f32,
    decay: f32,
    l1: bool,
    rate: f32,
    momentum: f32,
}

impl Step {
    /// `v ← momentum·v + rate·g; w ← w - v` (Caffe's momentum: the rate lies within the history).
    fn sgd(self, values: &mut [f32], gradients: &[f32], history: &mut [f32]) {
        let Self {
            gradient_scale,
            decay,
            l1,
            rate,
            momentum,
        } = self;
        let triples = values.iter_mut().zip(gradients).zip(history);
        vectorized(
            #[inline(always)]
            move || {
                for ((value, gradient), history) in triples {
                    let slope = if l1 { sign(*value) } else { *value };
                    let regularized = gradient_scale * gradient + decay * slope;
                    *history = rate * regularized + momentum * *history;
                    *value -= *history;
                }
            },
        );
    }
}

/// 1, -1 or 0, of a NaN too.
#[inline(always)]
fn sign(value: f32) -> f32 {
    f32::from(i8::from(value > 0.0) - i8::from(value < 0.0))
}
