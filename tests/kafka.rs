//! Tests on real, stock Kafka clusters.

mod support;

mod kafka {
    mod bad_input;
    mod behaviour;
    mod faults;
    mod fidelity;
    mod harness;
    mod in_sync;
    mod placement;
    mod returning;
    mod seats;
    mod verify;
}
