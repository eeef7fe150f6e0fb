//! The solver's settings, validated.

use sparknet_proto::caffe::{SolverParameter, solver_parameter};

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
    /// The factor on the history in every update.
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
    /// Whether to write a snapshot at the end.
    pub snapshot_after_train: bool,
    /// Whether snapshots hold the gradients too.
    pub snapshot_diff: bool,
    /// The seed, where given.
    pub random_seed: Option<u64>,
    /// Files to take weights from before training.
    pub weights: Vec<String>,
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd,
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
}

impl SolverSpec {
    /// Validates an upgraded solver.
    ///
    /// # Errors
    /// A missing or contradictory field, an unknown type or policy.
    pub fn from_proto(solver: &SolverParameter) -> Result<Self, SpecError> {
        let error = |fact: String| Err(SpecError::Solver(fact));
        let rule = match solver.r#type() {
            "SGD" => Rule::Sgd,
            other @ ("Nesterov" | "AdaGrad" | "RMSProp" | "AdaDelta" | "Adam") => {
                return error(format!("type \"{other}\" does not exist yet: use SGD"));
            }
            other => return error(format!("type \"{other}\" does not exist: use SGD")),
        };
        let non_negative = |name: &str, value: i32| {
            u64::try_from(value).map_err(|_| SpecError::Solver(format!("{name} is {value}: give 0 or more")))
        };
        let positive = |name: &str, value: i32| match non_negative(name, value)? {
            0 => Err(SpecError::Solver(format!("{name} is 0: give at least 1"))),
            value => Ok(value),
        };
        if solver.snapshot_format() == solver_parameter::SnapshotFormat::Hdf5 {
            return error("snapshot_format HDF5 does not exist yet: use BINARYPROTO".to_owned());
        }
        if solver.base_lr.is_none() {
            return error("base_lr is missing".to_owned());
        }
        let regularization = solver.regularization_type();
        if !matches!(regularization, "L1" | "L2") {
            return error(format!(
                "regularization_type \"{regularization}\" does not exist: use L1 or L2"
            ));
        }
        Ok(Self {
            rule,
            base_lr: solver.base_lr(),
            lr_policy: LrPolicy::from_proto(solver)?,
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

impl LrPolicy {
    fn from_proto(solver: &SolverParameter) -> Result<Self, SpecError> {
        let policy = solver.lr_policy();
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
            "" => return Err(SpecError::Solver("lr_policy is missing".to_owned())),
            other => {
                return Err(SpecError::Solver(format!(
                    "lr_policy \"{other}\" does not exist: use fixed, step, exp, inv, multistep, poly or sigmoid"
                )));
            }
        })
    }
}
