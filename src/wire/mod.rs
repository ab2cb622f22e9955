//! Kafka's bytes: frames, batches and answers as lists of shared slices. Decides nothing.

pub mod batch;
pub mod bounded;
pub mod fetch_answer;
pub mod frame;
pub mod records;
pub mod segments;
pub mod shape;
