//! What is done about a partition that failed: by the link's policies at once, else by an operator's
//! word. Decides only; nothing here shortens a copy.

use std::fmt;

use super::report::Reason;
use crate::types::Offset;

/// What a link's file says of failures that a person may decide in advance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// `on_gap = "continue"`: go on where the source begins now.
    pub continues_over_gaps: bool,
    /// `on_divergence = "truncate"`: follow the source's truncation.
    pub follows_truncations: bool,
}

/// Why a partition failed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason that users see.
    pub reason: Reason,
    /// End of the copy, where it matters.
    pub ours: Option<Offset>,
    /// Where the source's log or epoch ends; for a gap: where its log starts.
    pub source: Option<Offset>,
}

/// What is done about it. Idempotent: applied again, or to a partition that has recovered
/// meanwhile, it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Look again: what was wrong has been mended, or proves itself wrong again.
    Retry,
    /// Go on at the source's log start and leave out `ours..source_start`.
    GoOn {
        /// End of the copy.
        ours: Offset,
        /// Where the source's log started when it was decided; the gap may have grown since.
        source_start: Offset,
    },
    /// Cut the copy where it parts from the source, and follow the source from there. Where that is
    /// is found out when it is done; never above `ours`.
    Truncate {
        /// End of the copy when it was decided.
        ours: Offset,
    },
}

/// An operator's word that cannot be followed, and what to do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The failure's reason.
    pub reason: Reason,
}

impl Policies {
    /// What the file decides; `None`: a person must.
    pub fn decide(self, failure: Failure) -> Option<Decision> {
        let decision = decide(failure).ok()?;
        let is_allowed = match decision {
            Decision::GoOn { .. } => self.continues_over_gaps,
            Decision::Truncate { .. } => self.follows_truncations,
            Decision::Retry => false,
        };
        is_allowed.then_some(decision)
    }
}

/// What an operator's `resume-failed` means for a failure.
pub fn decide(failure: Failure) -> Result<Decision, Refused> {
    let refused = Refused { reason: failure.reason };
    match failure.reason {
        Reason::SourceGap => {
            let ours = failure.ours.ok_or(refused)?;
            let source_start = failure.source.ok_or(refused)?;
            Ok(Decision::GoOn { ours, source_start })
        }
        Reason::SourceTruncated => Ok(Decision::Truncate { ours: failure.ours.ok_or(refused)? }),
        Reason::SourceTopicDeleted | Reason::CorruptBatch | Reason::UnsupportedMessageFormat => {
            Ok(Decision::Retry)
        }
        _ => Err(refused),
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("look again"),
            Self::GoOn { ours, source_start } => {
                write!(f, "go on at the source's log start and leave out {ours}..{source_start}")
            }
            Self::Truncate { ours } => {
                write!(f, "cut the copy, which ends at {ours}, where it parts from the source")
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.reason {
            Reason::SourcePartitionsDecreased => {
                "create the source topic with as many partitions again, or exclude it"
            }
            Reason::SourceClusterIdChanged => {
                "set link.source.bootstrap_servers to the cluster that is mirrored, or make a new link"
            }
            Reason::DestinationTopicExists => {
                "delete or rename the destination topic, or set link.topics.rename_prefix"
            }
            // Two lineages never mix, and that the new topic continues the old one nobody can prove.
            Reason::SourceTopicIdChanged
            | Reason::DestinationDiverged
            | Reason::DestinationForeignWrite => {
                "delete the mirror, so that it is copied anew, or exclude the topic"
            }
            _ => "it is retried without being told; mend what the reason names",
        };
        write!(f, "{} is not a failure that can be resumed: {advice}", self.reason)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: Reason) -> Failure {
        Failure { reason, ours: Some(Offset(40)), source: Some(Offset(70)) }
    }

    #[test]
    fn a_policy_decides_only_what_it_names() {
        let stop = Policies::default();
        let all = Policies { continues_over_gaps: true, follows_truncations: true };
        let go_on = Decision::GoOn { ours: Offset(40), source_start: Offset(70) };
        let truncate = Decision::Truncate { ours: Offset(40) };
        for &reason in Reason::ALL {
            assert_eq!(stop.decide(failure(reason)), None, "{reason}");
            let expected = match reason {
                Reason::SourceGap => Some(go_on),
                Reason::SourceTruncated => Some(truncate),
                _ => None,
            };
            assert_eq!(all.decide(failure(reason)), expected, "{reason}");
        }
    }

    #[test]
    fn an_operator_may_resume_what_can_be_mended() {
        let resumable: Vec<_> =
            Reason::ALL.iter().filter(|&&reason| decide(failure(reason)).is_ok()).collect();
        let expected = [
            Reason::SourceTopicDeleted,
            Reason::SourceTruncated,
            Reason::SourceGap,
            Reason::UnsupportedMessageFormat,
            Reason::CorruptBatch,
        ];
        assert_eq!(resumable, expected.iter().collect::<Vec<_>>());
        let unknown = Failure { ours: None, ..failure(Reason::SourceTruncated) };
        assert!(decide(unknown).is_err(), "nothing is cut without an offset");
    }
}
