//! The solver: gradients become updates, in Caffe's order.
//!
//! One iteration: forward and backward of `iter_size` batches, their gradients added up ([`Solver::compute_gradients`]);
//! then the learning rate, clipping, division by `iter_size`, regularisation, the rule, and the subtraction
//! ([`Solver::apply_update`]). What workers agree on happens between the two, or after both.

use std::collections::VecDeque;

use crate::{
    Error, Net,
    spec::{LrPolicy, Rule, SolverSpec},
};

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
        let spec = &self.spec;
        let (params, values, gradients) = self.net.update_parts_mut();
        let scale = clip_factor(spec.clip_gradients, gradients) / spec.iter_size as f32;
        for param in params {
            let step = Step {
                gradient_scale: scale,
                decay: spec.weight_decay * param.decay_mult,
                l1: spec.l1,
                rate: rate * param.lr_mult,
                momentum: spec.momentum,
            };
            let range = param.range.clone();
            let (values, gradients) = (&mut values[range.clone()], &gradients[range.clone()]);
            match spec.rule {
                Rule::Sgd => step.sgd(values, gradients, &mut self.histories[0][range]),
            }
        }
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
    let norm = gradients
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt() as f32;
    if norm > max_norm { max_norm / norm } else { 1.0 }
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
    /// The gradient with its regularisation.
    #[inline]
    fn regularized(&self, value: f32, gradient: f32) -> f32 {
        let slope = if !self.l1 {
            value
        } else if value == 0.0 {
            0.0
        } else {
            value.signum()
        };
        self.gradient_scale * gradient + self.decay * slope
    }

    /// `v ← momentum·v + rate·g; w ← w - v` (Caffe's momentum: the rate lies within the history).
    fn sgd(&self, values: &mut [f32], gradients: &[f32], history: &mut [f32]) {
        for ((value, gradient), history) in values.iter_mut().zip(gradients).zip(history) {
            *history = self.rate * self.regularized(*value, *gradient) + self.momentum * *history;
            *value -= *history;
        }
    }
}
