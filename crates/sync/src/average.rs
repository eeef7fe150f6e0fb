use crate::{Replica, Round, SyncError, SyncStrategy, Transport};
use std::{fmt, str::FromStr};

/// Every worker trains alone for τ iterations, then all go on from the average of their weights:
///
/// ```text
/// w_r ← (w_0 + w_1 + … + w_(world-1)) / world      when τ divides the iterations done
/// ```
///
/// The algorithm of SparkNet (Moritz et al., "SparkNet: Training Deep Networks in Spark", ICLR 2016) and of
/// Deeplearning4j's parameter averaging. A larger τ talks less and lets workers drift further apart. With τ = 1 and no
/// momentum it is synchronous SGD.
///
/// One worker is never touched, whatever the settings: it trains exactly as without this.
#[derive(Debug, Clone)]
pub struct Average {
    tau: u64,
    history: HistoryPolicy,
}

/// What becomes of a worker's histories (momentum) when its weights are replaced by the average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HistoryPolicy {
    /// Each worker keeps its own, as in SparkNet.
    #[default]
    Keep,
    /// They are averaged like the weights, as in Deeplearning4j.
    Average,
    /// They start again at zero.
    Reset,
}

impl Average {
    /// Workers agree every `tau` iterations. A `tau` of 0 is an error.
    pub fn new(tau: u64, history: HistoryPolicy) -> Result<Self, SyncError> {
        if tau == 0 {
            Err(SyncError::ZeroTau)
        } else {
            Ok(Self { tau, history })
        }
    }

    fn complete_round(&self, replica: Replica<'_>, transport: &mut dyn Transport) -> Result<Round, SyncError> {
        if transport.world() == 1 {
            return Ok(Round::Completed);
        }
        transport.all_reduce_average(replica.params)?;
        for history in replica.histories {
            match self.history {
                HistoryPolicy::Keep => {}
                HistoryPolicy::Average => transport.all_reduce_average(history)?,
                HistoryPolicy::Reset => history.fill(0.0),
            }
        }
        Ok(Round::Completed)
    }
}

impl SyncStrategy for Average {
    fn name(&self) -> &'static str {
        "average"
    }

    fn after_backward(&mut self, _: u64, _: &mut [f32], _: &mut dyn Transport) -> Result<(), SyncError> {
        Ok(())
    }

    fn after_update(
        &mut self,
        iterations_done: u64,
        replica: Replica<'_>,
        transport: &mut dyn Transport,
    ) -> Result<Round, SyncError> {
        if round_is_due(self.tau, iterations_done) {
            self.complete_round(replica, transport)
        } else {
            Ok(Round::None)
        }
    }

    fn finish(
        &mut self,
        iterations_done: u64,
        replica: Replica<'_>,
        transport: &mut dyn Transport,
    ) -> Result<Round, SyncError> {
        if self.agrees_at(iterations_done) {
            Ok(Round::None)
        } else {
            self.complete_round(replica, transport)
        }
    }

    fn agrees_at(&self, iterations_done: u64) -> bool {
        iterations_done == 0 || round_is_due(self.tau, iterations_done)
    }
}

/// Whether workers that agree every `tau` iterations do so after `iterations_done` of them. Never at 0, where there is
/// nothing to agree on, nor for a `tau` of 0.
pub fn round_is_due(tau: u64, iterations_done: u64) -> bool {
    iterations_done > 0 && iterations_done.is_multiple_of(tau)
}

impl FromStr for HistoryPolicy {
    type Err = SyncError;

    fn from_str(given: &str) -> Result<Self, SyncError> {
        match given {
            "keep" => Ok(Self::Keep),
            "average" => Ok(Self::Average),
            "reset" => Ok(Self::Reset),
            _ => Err(SyncError::UnknownHistoryPolicy {
                given: given.to_owned(),
            }),
        }
    }
}

impl fmt::Display for HistoryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Average => "average",
            Self::Reset => "reset",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_due_at_the_multiples_of_tau() {
        let due = |tau| (0..=10).filter(|&done| round_is_due(tau, done)).collect::<Vec<u64>>();
        assert_eq!(due(1), (1..=10).collect::<Vec<_>>());
        assert_eq!(due(3), [3, 6, 9]);
        assert_eq!(due(10), [10]);
        assert_eq!(due(11), []);
        assert_eq!(due(0), []);
        assert!(round_is_due(u64::MAX, u64::MAX));
    }

    #[test]
    fn workers_agree_at_the_start_and_at_every_round() {
        let average = Average::new(4, HistoryPolicy::Keep).unwrap();
        assert_eq!(
            (0..=9).filter(|&done| average.agrees_at(done)).collect::<Vec<u64>>(),
            [0, 4, 8]
        );
    }

    #[test]
    fn a_tau_of_zero_is_an_error() {
        assert_eq!(Average::new(0, HistoryPolicy::Keep).unwrap_err(), SyncError::ZeroTau);
    }

    #[test]
    fn history_policies_are_read_by_the_name_they_print() {
        for policy in [HistoryPolicy::Keep, HistoryPolicy::Average, HistoryPolicy::Reset] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let error = "Keep".parse::<HistoryPolicy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "history policy `Keep` is unknown; choose keep, average or reset"
        );
    }
}
