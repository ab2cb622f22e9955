//! Tests on real, stock Kafka clusters.

mod support;

mod kafka {
<<<<<<< HEAD
    mod fidelity;
=======
    mod bad_input;
    mod behaviour;
    mod faults;
>>>>>>> h/behaviour
    mod harness;
    mod verify;
}
