//! The configuration file: raw text to checked values. What is checked here cannot be wrong in the
//! modules that take it; what only a cluster can tell is checked when it is connected to.

mod check;
mod later;
mod problem;
mod raw;
mod section;
mod values;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use problem::{ConfigError, Problem};

use crate::link::config::LinkConfig;
use crate::seat::config::DestinationConfig;
use crate::types::BrokerId;

/// The checked configuration of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The process itself.
    pub daemon: DaemonConfig,
    /// The cluster that we take a seat in.
    pub destination: DestinationConfig,
    /// The links; their names differ.
    pub links: Vec<LinkConfig>,
    /// What the file asks for and this version does not do yet: said at the start, loudly.
    pub notices: Vec<Problem>,
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Our seat in the destination cluster; never negative.
    pub broker_id: BrokerId,
    /// Where the HTTP API listens; loopback.
    pub http: SocketAddr,
    /// Record bytes held at any time, all links together.
    pub memory_bytes: usize,
    /// Where the incarnation id is kept; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
}

impl Config {
    /// Reads a file; `${NAME}` is looked up in the environment of the process.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory, &|name| std::env::var(name).ok())
            .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Reads a file's text. Relative paths in it start at `directory`.
    pub fn parse(
        text: &str,
        directory: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<Problem>> {
        let document = DeTable::parse(text).map_err(|error| {
            vec![Problem {
                line: error.span().map_or(0, |span| section::line_of(text, span.start)),
                place: String::new(),
                text: format!("is not TOML: {}", error.message().replace('\n', " ")),
            }]
        })?;
        let surroundings = section::Surroundings {
            text,
            directory,
            environment,
            problems: RefCell::default(),
            notices: RefCell::default(),
        };
        let root = section::Section::root(&surroundings, document.get_ref());
        let raw = raw::RawFile::read(&root);
        let mut problems = surroundings.problems.take();
        // Not both kinds at once: a misspelt key would be reported as missing, too.
        if problems.is_empty() {
            match check::check(&raw) {
                Ok(config) => {
                    return Ok(Self { notices: surroundings.notices.take(), ..config });
                }
                Err(found) => problems = found,
            }
        }
        problems.sort_by_key(|problem| problem.line);
        Err(problems)
    }
}

#[cfg(test)]
mod tests;
