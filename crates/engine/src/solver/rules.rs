//! The update rules: what is subtracted from the parameters, of their gradients and what the solver remembers of each.
//!
//! With `w` a parameter, `η` its rate (lr_mult included), `g` its gradient after clipping, division by iter_size and
//! regularisation, `μ` the momentum and `δ` the delta, as Caffe has them:
//!
//! | rule | remembers | update |
//! |---|---|---|
//! | SGD | `v ← μv + ηg` | `w ← w - v` |
//! | Nesterov | `v' = μv + ηg` | `w ← w - ((1+μ)v' - μv)` |
//! | AdaGrad (Duchi et al. 2011) | `h ← h + g²` | `w ← w - ηg / (√h + δ)` |
//! | RMSProp (Tieleman and Hinton 2012) | `h ← (1-ρ)g² + ρh` | `w ← w - ηg / (√h + δ)` |
//! | AdaDelta (Zeiler 2012) | `h ← (1-μ)g² + μh`, then `u ← (1-μ)d² + μu` | `d = g·√((δ+u) / (δ+h))`, `w ← w - ηd` |
//! | Adam (Kingma and Ba 2015) | `m ← (1-μ)g + μm`, `v ← (1-μ₂)g² + μ₂v` | `w ← w - η·√(1-μ₂ᵗ)/(1-μᵗ)·m / (√v + δ)` |
//! | AdamW (Loshchilov and Hutter 2019) | as Adam, of `g` without decay | `w ← w - η(m̂ / (√v̂ + δ) + λw)`, `m̂ = m/(1-μᵗ)`, `v̂ = v/(1-μ₂ᵗ)` |
//! | LARS (You et al. 2017) | `v ← μv + ητg`, `τ = c‖w‖ / (‖g₀‖ + λ‖w‖)` | `w ← w - v` |
//!
//! `t` counts updates from 1; `ρ` is rms_decay, `μ₂` momentum2, `λ` the weight decay (decay_mult included), `c` the
//! trust coefficient. LARS takes its norms over one blob, `g₀` is its gradient before regularisation, and `τ` is 1 where
//! a norm is 0 (a bias that begins at 0 has no size to go by).

use super::{CHUNK, sum_of_squares};
use crate::{
    layers::vectorized::vectorized,
    net::Param,
    spec::{Rule, SolverSpec},
};

impl Rule {
    /// How many values the rule remembers of each parameter, in Caffe's order: in the table's.
    pub(super) fn histories(self) -> usize {
        match self {
            Self::Sgd | Self::Nesterov | Self::AdaGrad { .. } | Self::RmsProp { .. } | Self::Lars { .. } => 1,
            Self::AdaDelta { .. } | Self::Adam { .. } | Self::AdamW { .. } => 2,
        }
    }
}

/// One update of all parameters.
pub(super) struct Update<'a> {
    pub spec: &'a SolverSpec,
    /// The updates before this one.
    pub iteration: u64,
    pub rate: f32,
    /// Clipping and the division by `iter_size`.
    pub gradient_scale: f32,
}

/// A stretch of the arenas.
pub(super) struct Stretch<'a> {
    pub values: &'a mut [f32],
    pub gradients: &'a [f32],
    /// As long as the values, or empty where the rule remembers less.
    pub histories: [&'a mut [f32]; 2],
}

/// Turns a stored gradient into the one that a rule takes.
#[derive(Clone, Copy)]
struct Regularizer {
    gradient_scale: f32,
    decay: f32,
    l1: bool,
}

impl Update<'_> {
    /// LARS' factor on the rate of each parameter blob.
    pub fn measure_trust(&self, params: &[Param], values: &[f32], gradients: &[f32], trust: &mut [f32]) {
        let Rule::Lars { trust_coefficient } = self.spec.rule else {
            return;
        };
        for (param, trust) in params.iter().zip(trust) {
            let norm = |arena: &[f32]| sum_of_squares(&arena[param.range.clone()]).sqrt();
            let (weights, gradient) = (norm(values), norm(gradients) * f64::from(self.gradient_scale));
            let decay = f64::from(self.spec.weight_decay * param.decay_mult);
            *trust = if weights > 0.0 && gradient > 0.0 {
                (f64::from(trust_coefficient) * weights / (gradient + decay * weights)) as f32
            } else {
                1.0
            };
        }
    }

    /// Updates the stretch that begins at `start` of the arenas, on all threads. `trust` is LARS', one a parameter blob.
    pub fn apply(&self, params: &[Param], trust: &[f32], start: usize, mut stretch: Stretch<'_>) {
        let length = stretch.values.len();
        if length > CHUNK {
            let half = (length / 2).next_multiple_of(CHUNK);
            let (left, right) = stretch.split_at(half);
            rayon::join(
                || self.apply(params, trust, start, left),
                || self.apply(params, trust, start + half, right),
            );
            return;
        }
        let (mut start, end) = (start, start + length);
        let first = params.partition_point(|param| param.range.end <= start);
        // Parameters lie one after the other.
        for (param, trust) in params[first..].iter().zip(&trust[first..]) {
            if start == end {
                break;
            }
            let part_end = param.range.end.min(end);
            let (part, rest) = stretch.split_at(part_end - start);
            self.apply_to(param, *trust, part);
            (start, stretch) = (part_end, rest);
        }
    }

    fn apply_to(&self, param: &Param, trust: f32, part: Stretch<'_>) {
        let momentum = self.spec.momentum;
        let decay = self.spec.weight_decay * param.decay_mult;
        let rate = self.rate * param.lr_mult;
        let regularizer = Regularizer {
            gradient_scale: self.gradient_scale,
            decay,
            l1: self.spec.l1,
        };
        match self.spec.rule {
            Rule::Sgd => part.sgd(regularizer, rate, momentum),
            Rule::Lars { .. } => part.sgd(regularizer, rate * trust, momentum),
            Rule::Nesterov => part.with_one(
                regularizer,
                #[inline(always)]
                move |w, g, v| {
                    let old = *v;
                    *v = rate * g + momentum * old;
                    *w -= (1.0 + momentum) * *v - momentum * old;
                },
            ),
            Rule::AdaGrad { delta } => part.with_one(
                regularizer,
                #[inline(always)]
                move |w, g, h| {
                    *h += g * g;
                    *w -= rate * (g / (h.sqrt() + delta));
                },
            ),
            Rule::RmsProp { rms_decay, delta } => part.with_one(
                regularizer,
                #[inline(always)]
                move |w, g, h| {
                    *h = (1.0 - rms_decay) * (g * g) + rms_decay * *h;
                    *w -= rate * (g / (h.sqrt() + delta));
                },
            ),
            Rule::AdaDelta { delta } => part.with_two(
                regularizer,
                #[inline(always)]
                move |w, g, h, u| {
                    *h = (1.0 - momentum) * (g * g) + momentum * *h;
                    let d = g * ((delta + *u) / (delta + *h)).sqrt();
                    *u = (1.0 - momentum) * (d * d) + momentum * *u;
                    *w -= rate * d;
                },
            ),
            Rule::Adam { momentum2, delta } => {
                let [first, second] = self.corrections(momentum2);
                let rate = rate * (second.sqrt() / first) as f32;
                part.with_two(
                    regularizer,
                    #[inline(always)]
                    move |w, g, m, v| {
                        *m = (1.0 - momentum) * g + momentum * *m;
                        *v = (1.0 - momentum2) * (g * g) + momentum2 * *v;
                        *w -= rate * (*m / (v.sqrt() + delta));
                    },
                );
            }
            Rule::AdamW { momentum2, delta } => {
                let [first, second] = self.corrections(momentum2).map(|correction| (1.0 / correction) as f32);
                part.with_two(
                    Regularizer {
                        decay: 0.0,
                        ..regularizer
                    },
                    #[inline(always)]
                    move |w, g, m, v| {
                        *m = (1.0 - momentum) * g + momentum * *m;
                        *v = (1.0 - momentum2) * (g * g) + momentum2 * *v;
                        *w -= rate * ((*m * first) / ((*v * second).sqrt() + delta) + decay * *w);
                    },
                );
            }
        }
    }

    /// Adam's `1 - μᵗ` and `1 - μ₂ᵗ`: the share of the moments that is not their start at 0.
    fn corrections(&self, momentum2: f32) -> [f64; 2] {
        let updates = (self.iteration + 1) as f64;
        [self.spec.momentum, momentum2].map(|share| 1.0 - f64::from(share).powf(updates))
    }
}

impl<'a> Stretch<'a> {
    fn split_at(self, at: usize) -> (Self, Self) {
        let (values, values_after) = self.values.split_at_mut(at);
        let (gradients, gradients_after) = self.gradients.split_at(at);
        let [first, second] = self
            .histories
            .map(|history| history.split_at_mut(at.min(history.len())));
        let stretch = |values, gradients, histories| Self {
            values,
            gradients,
            histories,
        };
        (
            stretch(values, gradients, [first.0, second.0]),
            stretch(values_after, gradients_after, [first.1, second.1]),
        )
    }

    fn sgd(self, regularizer: Regularizer, rate: f32, momentum: f32) {
        self.with_one(
            regularizer,
            #[inline(always)]
            move |w, g, v| {
                *v = rate * g + momentum * *v;
                *w -= *v;
            },
        );
    }

    /// Calls `rule` with each parameter, its gradient and what is remembered of it.
    fn with_one(self, regularizer: Regularizer, rule: impl Fn(&mut f32, f32, &mut f32)) {
        let [history, _] = self.histories;
        let all = self.values.iter_mut().zip(self.gradients).zip(history);
        vectorized(
            #[inline(always)]
            move || {
                for ((value, gradient), history) in all {
                    let gradient = regularizer.gradient(*gradient, *value);
                    rule(value, gradient, history);
                }
            },
        );
    }

    /// As [`Self::with_one`], for rules that remember two values.
    fn with_two(self, regularizer: Regularizer, rule: impl Fn(&mut f32, f32, &mut f32, &mut f32)) {
        let [first, second] = self.histories;
        let all = self.values.iter_mut().zip(self.gradients).zip(first).zip(second);
        vectorized(
            #[inline(always)]
            move || {
                for (((value, gradient), first), second) in all {
                    let gradient = regularizer.gradient(*gradient, *value);
                    rule(value, gradient, first, second);
                }
            },
        );
    }
}

impl Regularizer {
    #[inline(always)]
    fn gradient(self, gradient: f32, value: f32) -> f32 {
        let slope = if self.l1 { sign(value) } else { value };
        self.gradient_scale * gradient + self.decay * slope
    }
}

/// 1, -1 or 0, of a NaN too.
#[inline(always)]
fn sign(value: f32) -> f32 {
    f32::from(i8::from(value > 0.0) - i8::from(value < 0.0))
}
