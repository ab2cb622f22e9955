//! The live table: what the daemon's HTTP API says of its mirrors, redrawn in place on a terminal,
//! else as one plain line per topic now and then.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;

use super::support::daemon::Daemon;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Between two blocks of plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

const COLUMNS: [&str; 8] =
    ["TOPIC", "STATE", "SOURCE END", "MIRROR END", "LAG", "LAG TIME", "RECORDS/S", "KIB/S"];
/// The first columns are text.
const TEXT_COLUMNS: usize = 2;

/// One mirror as the API tells it; fields that the demo does not show are left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Mirror {
    /// Its name.
    pub topic: String,
    /// `Active` unless something is wrong.
    pub state: String,
    /// Of the worst partition.
    pub partition_state: Option<String>,
    /// Sum over the partitions.
    pub source_end_offset_sum: i64,
    /// Sum over the partitions.
    pub high_watermark_sum: i64,
    /// `None`: not known now.
    pub lag_records: Option<u64>,
    /// `None`: not known now.
    pub lag_seconds: Option<f64>,
    records_total: u64,
    bytes_total: u64,
}

impl Mirror {
    /// Whether it is being mirrored.
    pub fn is_active(&self) -> bool {
        self.state == "Active"
    }
}

#[derive(Deserialize)]
struct Mirrors {
    mirrors: Vec<Mirror>,
}

/// What the daemon says of all mirrors of its one link.
pub fn mirrors(daemon: &Daemon) -> Result<Vec<Mirror>> {
    let (status, body) = daemon.get("/v1/links/test/mirrors")?;
    ensure!(status == 200, "the daemon answers {status}: {body}");
    let answer: Mirrors = serde_json::from_str(&body).context("read the list of mirrors")?;
    Ok(answer.mirrors)
}

/// The table on the screen.
pub struct Board {
    is_terminal: bool,
    lines: usize,
    told: Option<Instant>,
    before: BTreeMap<String, (Instant, u64, u64)>,
}

impl Board {
    /// Nothing on the screen yet.
    pub fn new() -> Self {
        let is_terminal = stdout().is_terminal();
        Self { is_terminal, lines: 0, told: None, before: BTreeMap::new() }
    }

    /// Shows the mirrors until `is_done` says so.
    pub fn show_until(
        &mut self,
        daemon: &Daemon,
        mut is_done: impl FnMut(&[Mirror]) -> bool,
    ) -> Result<()> {
        loop {
            let mirrors = mirrors(daemon)?;
            let done = is_done(&mirrors);
            self.show(&mirrors, done)?;
            if done {
                return Ok(());
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn show(&mut self, mirrors: &[Mirror], is_last: bool) -> Result<()> {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= PLAIN_EVERY);
        if !self.is_terminal && !is_due && !is_last {
            return Ok(());
        }
        let rows: Vec<_> = mirrors.iter().map(|mirror| self.row(mirror)).collect();
        self.told = Some(Instant::now());
        let mut out = stdout().lock();
        if !self.is_terminal {
            for row in rows {
                let mut words = Vec::new();
                for (name, value) in COLUMNS.iter().zip(&row).skip(1) {
                    words.push(format!("{} {value}", name.to_lowercase()));
                }
                writeln!(out, "  {}: {}", row[0], words.join(", "))?;
            }
            return Ok(());
        }
        let text = table(rows);
        if self.lines > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        self.lines = text.lines().count();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    fn row(&mut self, mirror: &Mirror) -> [String; 8] {
        let now = Instant::now();
        let seen = (now, mirror.records_total, mirror.bytes_total);
        let before = self.before.insert(mirror.topic.clone(), seen);
        let rates = before.map(|(then, records, bytes)| {
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            let records = mirror.records_total.saturating_sub(records) as f64 / seconds;
            let bytes = mirror.bytes_total.saturating_sub(bytes) as f64 / seconds;
            (format!("{records:.0}"), format!("{:.1}", bytes / 1024.0))
        });
        let (records, bytes) = rates.unwrap_or_default();
        let unknown = || "?".to_owned();
        let state = match (&mirror.partition_state, mirror.state.as_str()) {
            (Some(state), "Active") => state.clone(),
            (_, state) => state.to_owned(),
        };
        [
            mirror.topic.clone(),
            state,
            // A sum of what is known alone would look like a source that has gone back.
            mirror.lag_records.map_or_else(unknown, |_| mirror.source_end_offset_sum.to_string()),
            mirror.high_watermark_sum.to_string(),
            mirror.lag_records.map_or_else(unknown, |lag| lag.to_string()),
            mirror.lag_seconds.map_or_else(unknown, |lag| format!("{lag:.2} s")),
            records,
            bytes,
        ]
    }
}

fn table(rows: Vec<[String; 8]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    table.set_header(COLUMNS);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(TEXT_COLUMNS) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}
