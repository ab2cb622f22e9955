//! Leadership over mirror partitions: one task owns them all; others talk to it by its handle.

mod answers;
mod decisions;
mod handle;
mod in_sync;
mod learned;
mod led;
mod refill;
mod report;
mod revive;
mod roles;
mod serving;
mod sessions;
mod strays;
mod task;
mod unknown;

pub use handle::{
    About, Adoption, Command, CopyCut, FetchedPartition, FollowerAnswer, FollowerRequest,
    LeaderHandle, LedPartition, MirrorTopic, PartitionAnswer, Proof, Question, QuestionAnswer,
    Unknown, Unproved,
};
pub use refill::RefillTask;
pub use report::LeaderReport;
pub use task::{LeaderConfig, LeaderInputs, LeaderOutputs, LeaderTask};
