//! The states of one mirror topic, and the one table of steps between them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a mirror topic, in the order of its life.
///
/// ```text
/// Pending     --> Active | Failed
/// Active      --> Paused | Failed | Promoting
/// Paused      --> Active | Failed | Promoting
/// Failed      --> Active | Paused | Promoting
/// Promoting   --> Active | Paused | Failed | Promoted
/// Promoted    --> FailingBack
/// FailingBack --> Active | Failed | Promoted
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MirrorState {
    /// It is being created at the destination.
    Pending,
    /// It follows the source.
    Active,
    /// An operator stopped it; followers keep what they have.
    Paused,
    /// A person must decide: going on could destroy data.
    Failed,
    /// It is on the way to an ordinary writable topic; where it came from is in the journal, so
    /// that an interrupted promotion can be undone.
    Promoting,
    /// It is an ordinary writable topic.
    Promoted,
    /// It becomes a mirror again, of the cluster that it once fed.
    FailingBack,
}

impl MirrorState {
    /// All states, in the order of their life.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Active,
        Self::Paused,
        Self::Failed,
        Self::Promoting,
        Self::Promoted,
        Self::FailingBack,
    ];

    /// The whole table of legal steps. Nothing else in the crate decides this. To stay is no step.
    pub fn may_become(self, next: Self) -> bool {
        use MirrorState::{Active, Failed, FailingBack, Paused, Pending, Promoted, Promoting};
        match self {
            Pending => matches!(next, Active | Failed),
            Active => matches!(next, Paused | Failed | Promoting),
            Paused => matches!(next, Active | Failed | Promoting),
            Failed => matches!(next, Active | Paused | Promoting),
            Promoting => matches!(next, Active | Paused | Failed | Promoted),
            Promoted => matches!(next, FailingBack),
            FailingBack => matches!(next, Active | Failed | Promoted),
        }
    }

    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Active => "Active",
            Self::Paused => "Paused",
            Self::Failed => "Failed",
            Self::Promoting => "Promoting",
            Self::Promoted => "Promoted",
            Self::FailingBack => "FailingBack",
        }
    }
}

impl fmt::Display for MirrorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the drawing above the enum, as this file has them.
    fn drawing() -> Vec<String> {
        include_str!("topic.rs")
            .lines()
            .skip_while(|line| *line != "/// ```text")
            .skip(1)
            .take_while(|line| *line != "/// ```")
            .map(|line| line.trim_start_matches("/// ").to_owned())
            .collect()
    }

    #[test]
    fn the_table_of_steps_is_the_drawing_above_the_enum() {
        let table = MirrorState::ALL.map(|from| {
            let steps = MirrorState::ALL.into_iter().filter(|to| from.may_become(*to));
            let names: Vec<_> = steps.map(MirrorState::name).collect();
            format!("{from:<11} --> {}", names.join(" | "))
        });
        assert_eq!(table.to_vec(), drawing());
    }

    #[test]
    fn nothing_becomes_what_it_is() {
        for state in MirrorState::ALL {
            assert!(!state.may_become(state), "{state}");
        }
    }
}
