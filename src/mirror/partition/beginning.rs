//! What leadership over a partition begins with. Plain data.

use crate::mirror::lineage::EpochHistory;
use crate::types::Offset;

/// What is known of the log when leadership begins.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// It holds nothing: copying begins where the link's configuration says.
    Fresh {
        /// Epochs in which others led it and appended nothing.
        history: EpochHistory,
    },
    /// We followed the leader before us up to its end.
    Continued {
        /// Epochs up to `log_end`.
        history: EpochHistory,
        /// End of the log of the leader before us.
        log_end: Offset,
        /// Its log start.
        log_start: Offset,
        /// The high watermark, where it is known from an epoch of our own; or what a replica knew of
        /// it, which is never above it.
        high_watermark: Option<Offset>,
    },
    /// By a decision the log ends at `at` from now on, and every replica that has more is told to cut
    /// it, the in-sync ones too. Only in a new leader epoch: old and new batches must not share one.
    Cut {
        /// Epochs up to `at`.
        history: EpochHistory,
        /// Its new end, at the boundary of a batch, not below `log_start`.
        at: Offset,
        /// Its log start.
        log_start: Offset,
    },
}
