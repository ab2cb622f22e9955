//! The judge: a small blocking client that looks at clusters over the wire. It shares the message
//! types with lockstep but no logic: no sessions, no cache, no retries.

pub mod admin;
pub mod batch;
pub mod connection;
pub mod fetch;
pub mod log;
pub mod produce;

pub use admin::{NewTopic, Partition, Topic};
pub use batch::Batch;
pub use connection::Judge;
pub use fetch::Place;
pub use log::{LogBounds, LogReader};

use std::fmt;

use anyhow::Result;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

/// An error code that a cluster answered: tests look at the code, people at the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// Kafka's error code.
    pub code: i16,
    /// What was asked, and the broker's own words where it gave some.
    pub what: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = kafka_protocol::ResponseError::try_from_code(self.code);
        let name = name.map_or_else(|| "?".to_owned(), |name| format!("{name:?}"));
        write!(out, "{}: error {} ({name})", self.what, self.code)
    }
}

/// `Err` where a cluster answered an error; `message` is the broker's own words.
fn check(code: i16, what: impl fmt::Display, message: Option<&StrBytes>) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let message = message.map_or_else(String::new, |words| format!(" [{}]", words.as_str()));
    let what = format!("{what}{message}");
    Err(Refused { code, what }.into())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
