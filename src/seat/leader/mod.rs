//! Leadership over mirror partitions: one task owns them all; others talk to it by its handle.

mod handle;
mod sessions;

pub use handle::{
    About, Adoption, Command, FetchedPartition, FollowerAnswer, FollowerRequest, LeaderHandle,
    LedPartition, MirrorTopic, PartitionAnswer, Question, QuestionAnswer,
};
