//! The decisions: state and event in, actions out. No I/O, no clock.

pub mod decision;
pub mod epoch_bump;
pub mod epoch_search;
pub mod event;
pub mod evidence;
pub mod filter;
pub mod follower;
pub mod ledger;
pub mod lineage;
pub mod partition;
pub mod placement;
pub mod report;
pub mod revival;
pub mod seats;
pub mod strays;
pub mod topic;
pub mod topic_configs;
pub mod topic_plan;
pub mod topic_refusal;
