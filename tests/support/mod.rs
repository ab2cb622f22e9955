//! Real Kafka for tests, the demo and the benches: stock clusters as plain processes, a judge that
//! reads them over the wire, stock tools, and the built daemon. Blocking and without lockstep's own
//! client on purpose: what is judged must not judge itself. `README.md` beside this file shows use.

// Every test binary, example and bench compiles its own copy and uses a part of it.
#![allow(dead_code)]
#![allow(missing_docs, unused_imports)]

pub mod cluster;
pub mod compare;
pub mod daemon;
pub mod dist;
pub mod eventually;
pub mod java;
pub mod judge;
pub mod load;
pub mod pair;
pub mod process;
pub mod proxy;
pub mod sasl;
pub mod scenario;
pub mod table;
pub mod watch;
pub mod workspace;

pub use cluster::{Cluster, ClusterSpec};
pub use eventually::eventually;
pub use pair::Pair;
pub use scenario::scenario;
