//! `lockstep check`.

use std::path::Path;

use serde_json::json;

use super::{Exit, Failure, Output, print};
use crate::config::{Config, ConfigError};

/// Says whether a configuration file is right.
pub fn check(path: &Path, offline: bool, output: Output) -> Result<(), Failure> {
    let config = load(path)?;
    for notice in &config.notices {
        eprintln!("warning: {notice}");
    }
    if !offline {
        let cause = "online checks are not there yet; the file itself is right";
        return Err(Failure::new(Exit::Usage, cause).advise("use --offline"));
    }
    let links: Vec<_> = config.links.iter().map(|link| link.name.to_string()).collect();
    if output == Output::Json {
        let answer = json!({ "ok": true, "broker_id": config.daemon.broker_id.0, "links": links });
        return print(&format!("{answer}\n"));
    }
    let links = if links.is_empty() { "none".to_owned() } else { links.join(", ") };
    let broker_id = config.daemon.broker_id;
    print(&format!("ok: {} (seat {broker_id}; links: {links})\n", path.display()))
}

/// The checked configuration, or all that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|error| {
        let advice = match &error {
            ConfigError::Read { .. } => "name an existing, readable file with --config".to_owned(),
            ConfigError::Invalid { path, .. } => {
                format!("correct {}; then: lockstep check --offline --config FILE", path.display())
            }
        };
        Failure::new(Exit::Usage, error.to_string()).advise(advice)
    })
}
