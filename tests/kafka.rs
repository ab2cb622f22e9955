//! Tests on real, stock Kafka clusters.

#[path = "matrix/cell.rs"]
mod cell;
mod support;

mod kafka {
    mod bad_input;
    mod behaviour;
    mod controllers;
    mod faults;
    mod fidelity;
    mod gateway;
    mod handover;
    mod harness;
    mod in_sync;
    mod isr_refusals;
    mod journal;
    mod kill_loop;
    mod lineage;
    mod log_start;
    mod lost_ends;
    mod network;
    mod network_several;
    mod placement;
    mod proofs;
    mod replica_cut;
    mod resume;
    mod returning;
    mod routes;
    mod seats;
    mod takeover;
    mod verify;
    mod versions;
}
