//! `lockstep events`: the durable log of events, once or as it grows.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::api::Api;
use super::time::utc;
use super::{Failure, Global, Output, print};
use crate::store::{EventPage, LoggedEvent};

/// Between looks of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// Events shown first, unless asked for more.
const LIMIT: usize = 100;

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Goes on with what comes later, until stopped.
    #[arg(long)]
    follow: bool,
    /// Events of this link only.
    #[arg(long, value_name = "NAME")]
    link: Option<String>,
    /// Events of this mirror only.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Events behind this number only.
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// So many at most.
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT)]
    limit: usize,
}

/// Prints events.
pub(super) fn events(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let api = Api::new(&global.url);
    let mut after = arguments.after;
    loop {
        let page: EventPage = api.ask(&path(arguments, after))?;
        let text = match global.output {
            Output::Json if !arguments.follow => format!("{}\n", serde_json::json!(page)),
            // One object a line: a list would never end.
            Output::Json => {
                page.events.iter().map(|event| format!("{}\n", serde_json::json!(event))).collect()
            }
            Output::Table => page.events.iter().map(line).collect(),
        };
        print(&text)?;
        if !arguments.follow {
            return Ok(());
        }
        after = Some(page.next);
        std::thread::park_timeout(FOLLOW_INTERVAL);
    }
}

fn path(arguments: &Arguments, after: Option<i64>) -> String {
    let mut path = format!("/v1/events?limit={}", arguments.limit);
    // Names of links and topics have no character that would have to be escaped.
    for (key, value) in [("link", &arguments.link), ("topic", &arguments.topic)] {
        if let Some(value) = value {
            let _infallible = write!(path, "&{key}={value}");
        }
    }
    if let Some(after) = after {
        let _infallible = write!(path, "&after={after}");
    }
    path
}

fn line(logged: &LoggedEvent) -> String {
    let LoggedEvent { id, event } = logged;
    let mut text = format!("{} {id} {}", utc(event.time), event.reason);
    if let Some(link) = &event.link {
        let _infallible = write!(text, " link {link}");
    }
    match (&event.topic, event.partition) {
        (Some(topic), Some(partition)) => {
            let _infallible = write!(text, " {topic}-{partition}");
        }
        (Some(topic), None) => {
            let _infallible = write!(text, " {topic}");
        }
        _ => {}
    }
    if let (Some(start), Some(end)) = (event.start_offset, event.end_offset) {
        let _infallible = write!(text, " offsets {start}..{end}");
    }
    format!("{text}: {}\n", event.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::event::Event;
    use crate::mirror::report::Reason;
    use crate::types::Offset;

    #[test]
    fn an_event_is_one_line() {
        let event = Event::new(Reason::SourceGap, "gone").link(&"east".into());
        let mut event = event.topic(&"orders".into()).partition(3).offsets(Offset(5)..Offset(9));
        event.time = 1_700_000_000_123;
        let expected =
            "2023-11-14T22:13:20.123Z 7 SOURCE_GAP link east orders-3 offsets 5..9: gone\n";
        assert_eq!(line(&LoggedEvent { id: 7, event }), expected);
    }
}
