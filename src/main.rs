//! The `lockstep` binary: arguments, logging, exit code; nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use lockstep::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().execute()
}
