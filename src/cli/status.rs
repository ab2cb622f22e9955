//! `lockstep status`: links and mirrors on one screen.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::api::Api;
use super::logging::colors;
use super::table::{Look, Rates};
use super::{Failure, Global, Output, print};
use crate::admin::view::{Link, Links, Mirror, Mirrors};
use crate::mirror::report::SeatReport;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Clears the terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// All that one screen shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Our seat in the destination cluster.
    pub seat: SeatReport,
    /// The links with their mirrors.
    pub links: Vec<LinkStatus>,
}

/// A link with its mirrors.
#[derive(Debug, Serialize)]
pub struct LinkStatus {
    /// The link.
    #[serde(flatten)]
    pub link: Link,
    /// Its mirrors. They take the place of the counts by state, which the table makes itself.
    pub topics: Vec<Mirror>,
}

/// Prints the status once, or again and again.
pub fn status(global: &Global, watch: bool) -> Result<(), Failure> {
    let api = Api::new(&global.url);
    let look = Look::new(colors(global.no_color));
    let mut rates = Rates::default();
    loop {
        let status = ask(&api)?;
        rates.observe(&status, Instant::now());
        let text = match global.output {
            Output::Json => format!("{}\n", serde_json::json!(status)),
            Output::Table if watch => format!("{CLEAR}{}", look.screen(&status, Some(&rates))),
            Output::Table => look.screen(&status, None),
        };
        print(&text)?;
        if !watch {
            return Ok(());
        }
        std::thread::park_timeout(WATCH_INTERVAL);
    }
}

fn ask(api: &Api) -> Result<Status, Failure> {
    let Links { seat, links } = api.ask("/v1/links")?;
    let mut with_mirrors = Vec::with_capacity(links.len());
    for link in links {
        let Mirrors { mirrors } = api.ask(&format!("/v1/links/{}/mirrors", link.name))?;
        with_mirrors.push(LinkStatus { link, topics: mirrors });
    }
    Ok(Status { seat, links: with_mirrors })
}
