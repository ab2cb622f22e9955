//! Other people's clients and tools as judges of what the seat answers: Java clients of several releases,
//! librdkafka, kafka-python, franz-go, sarama. A short form runs with every `cargo test`; `.ci/clients`
//! sets `LOCKSTEP_CLIENTS=all`.

mod support;

mod clients {
    mod applications;
    mod commands;
    mod grouping;
    mod producing;
    mod programs;
    mod reading;
    mod stage;
    mod story;
    mod tools;
}
