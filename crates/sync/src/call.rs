use crate::SyncError;
use std::fmt;

/// What a worker announces before any of its numbers move, so that workers that differ find out and nothing is mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    AllReduce { length: usize },
    Average { length: usize },
    Broadcast { root: usize, length: usize },
    AllGather,
}

impl Call {
    fn length(self) -> usize {
        match self {
            Call::AllReduce { length } | Call::Average { length } | Call::Broadcast { length, .. } => length,
            Call::AllGather => 0,
        }
    }

    fn with_length(self, length: usize) -> Self {
        match self {
            Call::AllReduce { .. } => Call::AllReduce { length },
            Call::Average { .. } => Call::Average { length },
            Call::Broadcast { root, .. } => Call::Broadcast { root, length },
            Call::AllGather => Call::AllGather,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::AllReduce { length } => write!(f, "all-reduce of {length} values"),
            Call::Average { length } => write!(f, "averaging of {length} values"),
            Call::Broadcast { root, length } => write!(f, "broadcast of {length} values from worker {root}"),
            Call::AllGather => write!(f, "all-gather"),
        }
    }
}

/// What is wrong with the calls of all workers (in order of rank), `None` if they are the same call. The answer names
/// the first worker that differs from worker 0.
pub(crate) fn disagreement(calls: &[Call]) -> Option<SyncError> {
    let first = *calls.first()?;
    let (other_rank, other) = calls.iter().copied().enumerate().find(|&(_, call)| call != first)?;
    Some(if other.with_length(first.length()) == first {
        SyncError::LengthMismatch {
            rank: 0,
            length: first.length(),
            other_rank,
            other_length: other.length(),
        }
    } else {
        SyncError::OutOfStep {
            rank: 0,
            call: first.to_string(),
            other_rank,
            other_call: other.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_calls_agree() {
        assert_eq!(disagreement(&[]), None);
        assert_eq!(disagreement(&[Call::AllGather; 3]), None);
        assert_eq!(disagreement(&[Call::AllReduce { length: 5 }; 2]), None);
    }

    #[test]
    fn lengths_that_differ_are_both_named() {
        let calls = [5, 5, 4].map(|length| Call::AllReduce { length });
        let expected = SyncError::LengthMismatch {
            rank: 0,
            length: 5,
            other_rank: 2,
            other_length: 4,
        };
        assert_eq!(disagreement(&calls), Some(expected.clone()));
        assert_eq!(
            expected.to_string(),
            "worker 2 has 4 values where worker 0 has 5; give every worker the same net and solver"
        );
    }

    #[test]
    fn different_calls_and_roots_are_out_of_step() {
        let error = disagreement(&[Call::AllGather, Call::AllReduce { length: 0 }]);
        assert!(
            matches!(
                error,
                Some(SyncError::OutOfStep {
                    rank: 0,
                    other_rank: 1,
                    ..
                })
            ),
            "{error:?}"
        );
        let error = disagreement(&[0, 1].map(|root| Call::Broadcast { root, length: 3 }));
        assert!(matches!(error, Some(SyncError::OutOfStep { .. })), "{error:?}");
    }
}
