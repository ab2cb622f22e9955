//! Logs to stderr, as text for people or as JSON for machines.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::repeats::Repeats;
use super::{Exit, Failure};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends all logs of the process to stderr from here on.
pub fn start(filter: &str, format: LogFormat, no_color: bool) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Failure::new(Exit::Usage, format!("read log filter {filter:?}: {error}"))
            .advise("write a level, or filters such as \"info,lockstep::seat=debug\"")
    })?;
    let repeats = Repeats::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(colors(no_color) && std::io::stderr().is_terminal());
            logs.with(lines.with_filter(repeats.clone())).try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            logs.with(lines.with_filter(repeats.clone())).try_init()
        }
    };
    repeats.tell();
    started.map_err(|error| Failure::new(Exit::NotSo, format!("start logging: {error}")))
}

/// Whether colours are wanted at all (<https://no-color.org>).
pub fn colors(no_color: bool) -> bool {
    !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
