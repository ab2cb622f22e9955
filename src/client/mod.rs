//! Connections to Kafka brokers and a view of a cluster.
