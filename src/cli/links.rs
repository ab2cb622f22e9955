//! `lockstep links`: the links of a daemon and how they are.

use std::fmt::Write as _;

use clap::Subcommand;

use super::api::Api;
use super::time::utc;
use super::{Failure, Global, Output, print};
use crate::admin::view::{Link, Links};

/// What to do with links.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// One line for each link.
    List,
    /// All that is known of one link.
    Describe {
        /// Its name in the configuration.
        name: String,
    },
}

/// Asks the daemon.
pub(super) fn links(verb: &Verb, global: &Global) -> Result<(), Failure> {
    let api = Api::new(&global.url);
    match verb {
        Verb::List => {
            let Links { links, .. } = api.ask("/v1/links")?;
            match global.output {
                Output::Json => print(&format!("{}\n", serde_json::json!(links))),
                Output::Table => print(&links.iter().map(line).collect::<String>()),
            }
        }
        Verb::Describe { name } => {
            let link: Link = api.ask(&format!("/v1/links/{name}"))?;
            match global.output {
                Output::Json => print(&format!("{}\n", serde_json::json!(link))),
                Output::Table => print(&described(&link)),
            }
        }
    }
}

fn line(link: &Link) -> String {
    let reason = link.reason.map_or("", |reason| reason.name());
    let mirrors: usize = link.mirrors.values().sum();
    format!(
        "{:<20} {:<18} {:<28} {mirrors:>6} mirrors, since {}\n",
        link.name,
        link.state,
        reason,
        utc(link.since)
    )
}

fn described(link: &Link) -> String {
    let unknown = || "not known".to_owned();
    let progress = &link.progress;
    let mut text = format!("link {}: {} since {}\n", link.name, link.state, utc(link.since));
    if let Some(reason) = link.reason {
        let _infallible = writeln!(text, "reason: {reason}");
    }
    for (state, count) in &link.mirrors {
        let _infallible = writeln!(text, "mirrors {state}: {count}");
    }
    let records = progress.lag_records.map_or_else(unknown, |lag| lag.to_string());
    let seconds = progress.lag_seconds.map_or_else(unknown, |lag| format!("{lag:.1}"));
    let _infallible = writeln!(text, "lag: {records} records, {seconds} s");
    text
}
