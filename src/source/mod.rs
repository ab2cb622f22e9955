//! Reads the source cluster and fills tails.
#![allow(dead_code)]

mod answer;
mod cut;
mod fetch_session;
mod verdict;
