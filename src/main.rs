//! The `lockstep` binary: arguments, logging, exit code; nothing else.

fn main() {}
