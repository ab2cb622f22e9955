//! The commands: arguments in, text and an exit code out. What they show comes from the daemon's
//! HTTP API or from the configuration file.

mod api;
mod check;
mod events;
mod links;
mod logging;
mod mirrors;
mod repeats;
mod run;
mod seat;
mod status;
mod table;
mod time;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

pub use logging::LogFormat;

/// Mirrors topics of one Kafka cluster into another: the same bytes at the same offsets.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
struct Global {
    /// The daemon's HTTP API.
    #[arg(long, global = true, env = "LOCKSTEP_URL", default_value = "http://127.0.0.1:8900")]
    url: String,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// No colours; so too when NO_COLOR is set or the output is no terminal.
    #[arg(long, global = true)]
    no_color: bool,
    /// What is logged to stderr: a level, or filters such as "info,lockstep::seat=debug".
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info")]
    log: String,
    /// How it is logged.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// The fields of the HTTP API.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon; it runs until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Says whether a configuration file is right; changes nothing.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Connects to nothing.
        #[arg(long)]
        offline: bool,
    },
    /// Links and mirrors on one screen: states, lag, and with --watch throughput.
    Status {
        /// Shows it anew each second.
        #[arg(long)]
        watch: bool,
    },
    /// Our seat in the destination cluster.
    #[command(subcommand)]
    Seat(seat::Command),
    /// Links and how they are.
    Links {
        #[command(subcommand)]
        verb: links::Verb,
    },
    /// Mirrors, their partitions, and what to do about failed ones.
    Mirrors {
        #[command(subcommand)]
        verb: mirrors::Verb,
    },
    /// The durable log of events: gaps, truncations, failures, with offsets.
    Events(events::Arguments),
    /// Reads source and destination and compares them batch by batch; needs no daemon.
    Verify(verify::Arguments),
    /// Prints a script that completes commands in a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
}

/// Why a command failed.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    cause: String,
    advice: Option<String>,
}

/// Exit codes other than 0; clap itself ends with 2 on wrong usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// The thing asked for is not so.
    NotSo = 1,
    /// Usage or configuration.
    Usage = 2,
    /// The daemon or a cluster cannot be reached.
    Unreachable = 3,
    /// The state does not allow it.
    Refused = 4,
}

impl Failure {
    fn new(exit: Exit, cause: impl Into<String>) -> Self {
        Self { exit, cause: cause.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl Cli {
    /// Sets up logging and does what was asked; failures go to stderr, the cause first.
    pub fn execute(self) -> ExitCode {
        let done = logging::start(&self.global.log, self.global.log_format, self.global.no_color)
            .and_then(|()| self.command.execute(&self.global));
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("error: {}", failure.cause);
                if let Some(advice) = failure.advice {
                    eprintln!("  {advice}");
                }
                ExitCode::from(failure.exit as u8)
            }
        }
    }
}

impl Command {
    fn execute(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Run { config } => run::run(&config),
            Self::Check { config, offline } => check::check(&config, offline, global.output),
            Self::Status { watch } => status::status(global, watch),
            Self::Seat(command) => command.execute(global),
            Self::Links { verb } => links::links(&verb, global),
            Self::Mirrors { verb } => mirrors::mirrors(&verb, global),
            Self::Events(arguments) => events::events(&arguments, global),
            Self::Verify(arguments) => verify::verify(&arguments, global.output),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "lockstep", &mut script);
                print(&String::from_utf8_lossy(&script))
            }
            Self::Man => {
                let mut page = Vec::new();
                clap_mangen::Man::new(Cli::command())
                    .render(&mut page)
                    .map_err(|error| Failure::new(Exit::NotSo, format!("write manual: {error}")))?;
                print(&String::from_utf8_lossy(&page))
            }
        }
    }
}

/// To stdout. A reader that has gone away, as `head` does, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::NotSo, format!("write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for words in
            [["lockstep", "--output", "json", "status"], ["lockstep", "status", "--output", "json"]]
        {
            assert_eq!(Cli::parse_from(words).global.output, Output::Json);
        }
    }
}
