//! Reads the source cluster.
