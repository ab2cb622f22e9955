//! Builds the parts from a checked configuration, runs them and drains them.
