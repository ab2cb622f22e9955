//! Tests on real, stock Kafka clusters.

mod support;

mod kafka {
    mod fidelity;
    mod harness;
    mod verify;
}
