//! The solver's settings, validated.

use sparknet_proto::{
    caffe::{SolverParameter, solver_parameter},
    reflect::nearest,
};

use crate::SpecError;

/// How gradients become updates, and for how long.
#[derive(Clone, Debug)]
pub struct SolverSpec {
    /// The update rule.
    pub rule: Rule,
    /// The learning rate that the policy starts from.
    pub base_lr: f32,
    /// How the learning rate changes.
    pub lr_policy: LrPolicy,
    /// Iterations at the start in which the rate climbs in a line to what the policy says; 0 for none. An extension.
    pub warmup_iter: u64,
    /// The rate that the climb begins with.
    pub warmup_start_lr: f32,
    /// The factor on the history in every update; the share of the old mean in the new in AdaDelta, beta1 in Adam.
    pub momentum: f32,
    /// The factor on the regularisation gradient.
    pub weight_decay: f32,
    /// Whether the regularisation is L1 and not L2.
    pub l1: bool,
    /// The L2 norm that gradients are clipped to, where given.
    pub clip_gradients: Option<f32>,
    /// Batches whose gradients are added up to one update.
    pub iter_size: usize,
    /// Losses that the shown loss averages.
    pub average_loss: usize,
    /// The number of iterations.
    pub max_iter: u64,
    /// Iterations between two lines of output; 0 for none.
    pub display: u64,
    /// Batches of each test net, 0 for one that is not tested; empty where not given.
    pub test_iter: Vec<u64>,
    /// Iterations between two tests; 0 for none.
    pub test_interval: u64,
    /// Whether to test before the first iteration.
    pub test_initialization: bool,
    /// Iterations between two snapshots; 0 for none.
    pub snapshot: u64,
    /// What snapshot files begin with, where given.
    pub snapshot_prefix: Option<String>,
    /// The format of snapshot files.
    pub snapshot_format: SnapshotFormat,
    /// Whether to write a snapshot at the end.
    pub snapshot_after_train: bool,
    /// Whether snapshots hold the gradients too.
    pub snapshot_diff: bool,
    /// The seed, where given.
    pub random_seed: Option<u64>,
    /// Files to take weights from before training.
    pub weights: Vec<String>,
}

/// The format of a snapshot's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFormat {
    /// Binary protobuf: `.caffemodel` and `.solverstate`.
    BinaryProto,
    /// HDF5: `.caffemodel.h5` and `.solverstate.h5`.
    Hdf5,
}

/// The update rule; `solver/rules.rs` has the equations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Nesterov's accelerated gradient.
    Nesterov,
    /// Rates that fall with the sum of squared gradients.
    AdaGrad {
        /// Keeps from dividing by zero.
        delta: f32,
    },
    /// Rates that fall with the moving mean of squared gradients.
    RmsProp {
        /// The share of the old mean in the new.
        rms_decay: f32,
        /// Keeps from dividing by zero.
        delta: f32,
    },
    /// As RMSProp, but updates have the size of those before.
    AdaDelta {
        /// Keeps from dividing by zero, and lets the first updates begin.
        delta: f32,
    },
    /// Momentum over RMSProp, both corrected for their start at zero.
    Adam {
        /// The share of the old mean square in the new (beta2).
        momentum2: f32,
        /// Keeps from dividing by zero.
        delta: f32,
    },
    /// Adam whose weight decay does not go through the moments. An extension.
    AdamW {
        /// As in Adam.
        momentum2: f32,
        /// As in Adam.
        delta: f32,
    },
    /// SGD whose rate for a blob is in proportion to the blob's norm over its gradient's. An extension.
    Lars {
        /// A step's share of the weights' norm, at a learning rate of 1.
        trust_coefficient: f32,
    },
}

/// The learning rate of iteration `t`, as Caffe defines it.
#[derive(Clone, Debug, PartialEq)]
pub enum LrPolicy {
    /// `base_lr`
    Fixed,
    /// `base_lr · gamma^floor(t / stepsize)`
    Step {
        /// The factor.
        gamma: f32,
        /// Iterations a step.
        stepsize: u64,
    },
    /// `base_lr · gamma^t`
    Exp {
        /// The factor.
        gamma: f32,
    },
    /// `base_lr · (1 + gamma·t)^-power`
    Inv {
        /// The factor on the iteration.
        gamma: f32,
        /// The exponent.
        power: f32,
    },
    /// `base_lr · gamma^(number of stepvalues ≤ t)`
    MultiStep {
        /// The factor.
        gamma: f32,
        /// The iterations at which the rate changes.
        stepvalues: Vec<u64>,
    },
    /// `base_lr · (1 - t/max_iter)^power`
    Poly {
        /// The exponent.
        power: f32,
    },
    /// `base_lr / (1 + exp(-gamma·(t - stepsize)))`
    Sigmoid {
        /// The steepness.
        gamma: f32,
        /// The iteration of the middle.
        stepsize: i64,
    },
    /// `min_lr + (base_lr - min_lr)·(1 + cos(π·t/max_iter))/2`. An extension (Loshchilov and Hutter, SGDR, 2017, without
    /// restarts).
    Cosine {
        /// The rate at the end.
        min_lr: f32,
    },
}

impl SolverSpec {
    /// Validates an upgraded solver.
    ///
    /// # Errors
    /// A missing or contradictory field, an unknown type or policy.
    pub fn from_proto(solver: &SolverParameter) -> Result<Self, SpecError> {
        let error = |fact: String| Err(SpecError::Solver(fact));
        let non_negative = |name: &str, value: i32| {
            u64::try_from(value).map_err(|_| SpecError::Solver(format!("{name} is {value}: give 0 or more")))
        };
        let positive = |name: &str, value: i32| match non_negative(name, value)? {
            0 => Err(SpecError::Solver(format!("{name} is 0: give at least 1"))),
            value => Ok(value),
        };
        if solver.base_lr.is_none() {
            return error("base_lr is missing".to_owned());
        }
        let regularization = solver.regularization_type();
        if !matches!(regularization, "L1" | "L2") {
            return error(format!(
                "regularization_type \"{regularization}\" does not exist: use L1 or L2"
            ));
        }
        let warmup_iter = non_negative("warmup_iter", solver.warmup_iter())?;
        if warmup_iter == 0 && solver.warmup_start_lr.is_some() {
            return error("warmup_start_lr goes with warmup_iter: give both or none".to_owned());
        }
        Ok(Self {
            rule: Rule::from_proto(solver)?,
            base_lr: solver.base_lr(),
            lr_policy: LrPolicy::from_proto(solver)?,
            warmup_iter,
            warmup_start_lr: solver.warmup_start_lr(),
            momentum: solver.momentum(),
            weight_decay: solver.weight_decay(),
            l1: regularization == "L1",
            clip_gradients: Some(solver.clip_gradients()).filter(|norm| *norm >= 0.0),
            iter_size: positive("iter_size", solver.iter_size())? as usize,
            average_loss: positive("average_loss", solver.average_loss())? as usize,
            max_iter: non_negative("max_iter", solver.max_iter())?,
            display: non_negative("display", solver.display())?,
            test_iter: solver
                .test_iter
                .iter()
                .map(|n| non_negative("test_iter", *n))
                .collect::<Result<_, _>>()?,
            test_interval: non_negative("test_interval", solver.test_interval())?,
            test_initialization: solver.test_initialization(),
            snapshot: non_negative("snapshot", solver.snapshot())?,
            snapshot_prefix: solver.snapshot_prefix.clone(),
            snapshot_format: match solver.snapshot_format() {
                solver_parameter::SnapshotFormat::Hdf5 => SnapshotFormat::Hdf5,
                solver_parameter::SnapshotFormat::Binaryproto => SnapshotFormat::BinaryProto,
            },
            snapshot_after_train: solver.snapshot_after_train(),
            snapshot_diff: solver.snapshot_diff(),
            random_seed: u64::try_from(solver.random_seed()).ok(),
            weights: solver
                .weights
                .iter()
                .flat_map(|list| list.split(','))
                .map(|w| w.trim().to_owned())
                .collect(),
        })
    }
}

impl Rule {
    const TYPES: [&'static str; 8] = [
        "SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "AdamW", "LARS",
    ];

    fn from_proto(solver: &SolverParameter) -> Result<Self, SpecError> {
        let type_name = solver.r#type();
        let error = |fact: String| Err(SpecError::Solver(fact));
        let (momentum, momentum2, delta) = (solver.momentum(), solver.momentum2(), solver.delta());
        let rule = match type_name {
            "SGD" => Self::Sgd,
            "Nesterov" => Self::Nesterov,
            "AdaGrad" => Self::AdaGrad { delta },
            "RMSProp" => Self::RmsProp {
                rms_decay: solver.rms_decay(),
                delta,
            },
            "AdaDelta" => Self::AdaDelta { delta },
            "Adam" => Self::Adam { momentum2, delta },
            "AdamW" => Self::AdamW { momentum2, delta },
            "LARS" => Self::Lars {
                trust_coefficient: solver.trust_coefficient(),
            },
            other => {
                let remedy = match nearest(other, Self::TYPES.into_iter()) {
                    Some(name) => format!("did you mean \"{name}\"?"),
                    None => format!("use {}", Self::TYPES.join(", ")),
                };
                return error(format!("type \"{other}\" does not exist: {remedy}"));
            }
        };
        // Means of squares: outside of this their roots are not numbers, or never leave zero.
        let share = |name: &str, value: f32| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(SpecError::Solver(format!(
                "type \"{type_name}\" wants a {name} of at least 0 and below 1, not {value}"
            ))),
        };
        match rule {
            Self::AdaGrad { .. } | Self::RmsProp { .. } if momentum != 0.0 => {
                return error(format!(
                    "type \"{type_name}\" takes no momentum, but momentum is {momentum}: remove it, or use Adam"
                ));
            }
            Self::RmsProp { rms_decay, .. } => share("rms_decay", rms_decay)?,
            Self::AdaDelta { .. } => share("momentum", momentum)?,
            Self::Adam { momentum2, .. } | Self::AdamW { momentum2, .. } => {
                share("momentum", momentum)?;
                share("momentum2", momentum2)?;
            }
            Self::Lars { trust_coefficient } if !(trust_coefficient > 0.0 && trust_coefficient.is_finite()) => {
                return error(format!(
                    "trust_coefficient is {trust_coefficient}: give a number above 0"
                ));
            }
            _ => {}
        }
        let is_extension = matches!(rule, Self::AdamW { .. } | Self::Lars { .. });
        if is_extension && solver.regularization_type() == "L1" {
            return error(format!(
                "type \"{type_name}\" decays weights by L2 only: remove regularization_type, or use another type"
            ));
        }
        if solver.trust_coefficient.is_some() && !matches!(rule, Self::Lars { .. }) {
            return error("trust_coefficient goes with type \"LARS\" only: remove it".to_owned());
        }
        Ok(rule)
    }
}

impl LrPolicy {
    fn from_proto(solver: &SolverParameter) -> Result<Self, SpecError> {
        let policy = solver.lr_policy();
        if solver.min_lr.is_some() && policy != "cosine" {
            return Err(SpecError::Solver(
                "min_lr goes with lr_policy \"cosine\" only: remove it".to_owned(),
            ));
        }
        let missing = |field: &str| SpecError::Solver(format!("lr_policy \"{policy}\" wants {field}"));
        let gamma = || solver.gamma.ok_or_else(|| missing("gamma"));
        let power = || solver.power.ok_or_else(|| missing("power"));
        Ok(match policy {
            "fixed" => Self::Fixed,
            "step" => Self::Step {
                gamma: gamma()?,
                stepsize: u64::try_from(solver.stepsize())
                    .ok()
                    .filter(|stepsize| *stepsize > 0)
                    .ok_or_else(|| missing("a positive stepsize"))?,
            },
            "exp" => Self::Exp { gamma: gamma()? },
            "inv" => Self::Inv {
                gamma: gamma()?,
                power: power()?,
            },
            "multistep" => Self::MultiStep {
                gamma: gamma()?,
                stepvalues: solver
                    .stepvalue
                    .iter()
                    .map(|value| u64::try_from(*value).map_err(|_| missing("stepvalues of 0 or more")))
                    .collect::<Result<_, _>>()?,
            },
            "poly" => Self::Poly { power: power()? },
            "sigmoid" => Self::Sigmoid {
                gamma: gamma()?,
                stepsize: i64::from(solver.stepsize()),
            },
            "cosine" => Self::Cosine {
                min_lr: solver.min_lr(),
            },
            "" => return Err(SpecError::Solver("lr_policy is missing".to_owned())),
            other => {
                return Err(SpecError::Solver(format!(
                    "lr_policy \"{other}\" does not exist: use fixed, step, exp, inv, multistep, poly, \
                     sigmoid or cosine"
                )));
            }
        })
    }
}
