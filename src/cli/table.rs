//! The status as text for people.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Instant;

use comfy_table::{Cell, CellAlignment, Color, Table, presets};

use super::status::{LinkStatus, Status};
use crate::admin::view::{Mirror, Progress};
use crate::mirror::report::PartitionState;
use crate::mirror::topic::MirrorState;

const MIB: f64 = 1024.0 * 1024.0;

/// Columns of the mirrors' table that are text; the others are numbers.
const TEXT_COLUMNS: usize = 3;

const COLUMNS: [&str; 10] = [
    "MIRROR",
    "STATE",
    "REASON",
    "PARTITIONS",
    "SOURCE END",
    "MIRROR END",
    "LAG",
    "LAG TIME",
    "RECORDS/S",
    "MIB/S",
];

/// How things look.
pub struct Look {
    colors: bool,
}

/// How fast each mirror grows: the difference of two observations.
#[derive(Default)]
pub struct Rates {
    seen: HashMap<(String, String), (Instant, u64, u64)>,
    rates: HashMap<(String, String), (f64, f64)>,
}

impl Rates {
    /// Takes note of what was seen at a time.
    pub fn observe(&mut self, status: &Status, now: Instant) {
        let mut seen = HashMap::new();
        self.rates.clear();
        for link in &status.links {
            for mirror in &link.topics {
                let key = (link.link.name.clone(), mirror.topic.clone());
                let Progress { records_total, bytes_total, .. } = mirror.progress;
                if let Some((then, records, bytes)) = self.seen.get(&key) {
                    let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
                    // A daemon that was started anew counts from zero again.
                    let records = records_total.saturating_sub(*records) as f64;
                    let bytes = bytes_total.saturating_sub(*bytes) as f64;
                    self.rates.insert(key.clone(), (records / seconds, bytes / seconds));
                }
                seen.insert(key, (now, records_total, bytes_total));
            }
        }
        self.seen = seen;
    }

    fn of(&self, link: &str, topic: &str) -> Option<(f64, f64)> {
        self.rates.get(&(link.to_owned(), topic.to_owned())).copied()
    }
}

impl Look {
    /// With colours where they are wanted and the output is a terminal.
    pub fn new(colors: bool) -> Self {
        Self { colors: colors && std::io::stdout().is_terminal() }
    }

    /// The whole screen; with rates where they are known.
    pub fn screen(&self, status: &Status, rates: Option<&Rates>) -> String {
        let seat = &status.seat;
        let how = seat.reason.as_deref().unwrap_or(if seat.ready { "ready" } else { "not ready" });
        let mut text = format!("seat {}: {how}\n", seat.broker_id);
        for link in &status.links {
            let _infallible = write!(text, "\n{}\n{}\n", headline(link), self.table(link, rates));
            self.needs_a_person(link, &mut text);
        }
        if status.links.is_empty() {
            text.push_str("\nno links\n");
        }
        text
    }

    fn table(&self, link: &LinkStatus, rates: Option<&Rates>) -> String {
        let columns = if rates.is_some() { COLUMNS.len() } else { COLUMNS.len() - 2 };
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if !self.colors {
            table.force_no_tty();
        }
        table.set_header(COLUMNS.iter().take(columns));
        for mirror in &link.topics {
            let rate = rates.map(|rates| rates.of(&link.link.name, &mirror.topic));
            table.add_row(self.row(mirror, rate));
        }
        for column in table.column_iter_mut().skip(TEXT_COLUMNS) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }

    fn row(&self, mirror: &Mirror, rate: Option<Option<(f64, f64)>>) -> Vec<Cell> {
        let (state, color) = state(mirror);
        let mut state = Cell::new(state);
        if self.colors {
            state = state.fg(color);
        }
        let reason = mirror.reason.or(mirror.partition_reason);
        let progress = &mirror.progress;
        let mut row = vec![
            Cell::new(&mirror.topic),
            state,
            Cell::new(reason.map_or("", |reason| reason.name())),
            Cell::new(mirror.partition_count),
            Cell::new(progress.source_end_offset_sum),
            Cell::new(progress.high_watermark_sum),
            Cell::new(or_unknown(progress.lag_records)),
            Cell::new(progress.lag_seconds.map_or("?".to_owned(), |lag| format!("{lag:.1} s"))),
        ];
        if let Some(rate) = rate {
            let text = |value: Option<f64>, digits: usize| {
                value.map_or(String::new(), |value| format!("{value:.digits$}"))
            };
            row.push(Cell::new(text(rate.map(|(records, _)| records), 0)));
            row.push(Cell::new(text(rate.map(|(_, bytes)| bytes / MIB), 2)));
        }
        row
    }

    fn needs_a_person(&self, link: &LinkStatus, text: &mut String) {
        for mirror in &link.topics {
            let partition_failed = mirror.partition_state == Some(PartitionState::Failed);
            if mirror.state != MirrorState::Failed && !partition_failed {
                continue;
            }
            let reason = mirror.reason.or(mirror.partition_reason);
            let reason = reason.map_or("", |reason| reason.name());
            let place = match mirror.worst_partition {
                Some(partition) if partition_failed => format!("{}-{partition}", mirror.topic),
                _ => mirror.topic.clone(),
            };
            let _infallible = writeln!(text, "needs a person: {place} {reason}");
        }
    }
}

fn headline(link: &LinkStatus) -> String {
    let LinkStatus { link, .. } = link;
    let reason = link.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let counts: Vec<_> =
        link.mirrors.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mirrors = if counts.is_empty() { "no mirrors".to_owned() } else { counts.join(", ") };
    let progress = &link.progress;
    let lag_seconds = progress.lag_seconds.map_or("?".to_owned(), |lag| format!("{lag:.1}"));
    let lag_mib =
        progress.lag_bytes.map_or("?".to_owned(), |lag| format!("{:.1}", lag as f64 / MIB));
    format!(
        "link {}: {}{reason}; {mirrors}; lag {} records, {lag_mib} MiB, {lag_seconds} s",
        link.name,
        link.state,
        or_unknown(progress.lag_records),
    )
}

fn state(mirror: &Mirror) -> (&'static str, Color) {
    match (mirror.state, mirror.partition_state) {
        (MirrorState::Active, Some(partition)) => {
            let color = match partition {
                PartitionState::InSync => Color::Green,
                PartitionState::Failed => Color::Red,
                _ => Color::Yellow,
            };
            (partition.name(), color)
        }
        (state @ (MirrorState::Active | MirrorState::Promoted), _) => (state.name(), Color::Green),
        (state @ MirrorState::Failed, _) => (state.name(), Color::Red),
        (state, _) => (state.name(), Color::Yellow),
    }
}

fn or_unknown(count: Option<u64>) -> String {
    count.map_or("?".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::view::Link;
    use crate::mirror::report::{ClusterReport, LinkReport, LinkState, Reason};

    fn mirror(topic: &str, copied: u64) -> Mirror {
        Mirror {
            topic: topic.to_owned(),
            source_topic: topic.to_owned(),
            state: MirrorState::Active,
            reason: None,
            since: 0,
            partition_count: 2,
            partition_state: Some(PartitionState::CatchingUp),
            partition_reason: None,
            worst_partition: Some(1),
            progress: Progress {
                source_end_offset_sum: 120,
                high_watermark_sum: 100,
                lag_records: Some(20),
                lag_bytes: Some(20 << 20),
                lag_seconds: Some(1.25),
                bytes_total: copied << 20,
                records_total: copied,
                batches_total: 1,
            },
        }
    }

    fn status(copied: u64) -> Status {
        let link = LinkReport {
            name: "east".to_owned(),
            state: LinkState::Active,
            reason: None,
            since: 0,
            topics: Vec::new(),
        };
        let failed = Mirror {
            partition_state: Some(PartitionState::Failed),
            partition_reason: Some(Reason::CorruptBatch),
            ..mirror("payments", 0)
        };
        let mut link = Link::of(&link);
        link.progress = mirror("", 0).progress;
        link.mirrors.insert(MirrorState::Active, 2);
        let topics = vec![mirror("orders", copied), failed];
        let seat = ClusterReport::default().seat;
        Status { seat, links: vec![LinkStatus { link, topics }] }
    }

    #[test]
    fn the_screen_shows_lag_rates_and_what_needs_a_person() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.observe(&status(100), start);
        rates.observe(&status(150), start + Duration::from_secs(2));
        let screen = Look { colors: false }.screen(&status(150), Some(&rates));
        let expected = "\
seat -1: starting

link east: Active; 2 Active; lag 20 records, 20.0 MiB, 1.2 s
 MIRROR    STATE       REASON         PARTITIONS  SOURCE END  MIRROR END  LAG  LAG TIME  RECORDS/S  MIB/S
 orders    CatchingUp                          2         120         100   20     1.2 s         25  25.00
 payments  Failed      CORRUPT_BATCH           2         120         100   20     1.2 s          0   0.00
needs a person: payments-1 CORRUPT_BATCH
";
        assert_eq!(screen, expected, "\n{screen}");
    }
}
