//! What the demo produces: a lively mix, each topic by a Java producer of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::support::java::{Background, Produce, sent};
use super::support::judge::NewTopic;
use super::support::{Cluster, eventually};

/// One topic and what is produced into it.
struct Stream {
    topic: &'static str,
    partitions: i32,
    configs: &'static [(&'static str, &'static str)],
    options: &'static [(&'static str, &'static str)],
}

/// The topic whose records the demo counts and tries to overwrite.
pub const PLAIN: &str = "orders";
/// Cleaned by each side on its own, so it is compared by the last value of each key.
pub const COMPACTED: &str = "customers";

/// Small segments and an eager cleaner, so that it compacts while one watches.
const COMPACT: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("segment.ms", "5000"),
    ("min.cleanable.dirty.ratio", "0.01"),
];

const STREAMS: &[Stream] = &[
    Stream {
        topic: PLAIN,
        partitions: 3,
        configs: &[],
        options: &[("rate", "400"), ("size", "200"), ("headers", "2"), ("flush", "40")],
    },
    Stream {
        topic: "payments",
        partitions: 2,
        configs: &[],
        options: &[("rate", "200"), ("transactions", "mix"), ("per-transaction", "20")],
    },
    Stream {
        topic: COMPACTED,
        partitions: 1,
        configs: COMPACT,
        options: &[
            ("rate", "500"),
            ("size", "400"),
            ("keys", "40"),
            ("null-values", "37"),
            ("flush", "25"),
        ],
    },
    Stream { topic: "clicks.zstd", partitions: 2, configs: &[], options: CLICKS_ZSTD },
    Stream { topic: "clicks.lz4", partitions: 2, configs: &[], options: CLICKS_LZ4 },
    Stream { topic: "clicks.gzip", partitions: 1, configs: &[], options: CLICKS_GZIP },
];
const CLICKS_ZSTD: &[(&str, &str)] =
    &[("rate", "300"), ("size", "500"), ("compression", "zstd"), ("flush", "50")];
const CLICKS_LZ4: &[(&str, &str)] =
    &[("rate", "300"), ("size", "500"), ("compression", "lz4"), ("flush", "50")];
const CLICKS_GZIP: &[(&str, &str)] =
    &[("rate", "200"), ("size", "500"), ("compression", "gzip"), ("transactions", "idempotent")];

/// Six JVMs start at once, on machines of any size.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Names of all topics.
pub fn topics() -> Vec<&'static str> {
    STREAMS.iter().map(|stream| stream.topic).collect()
}

/// Creates the topics at the source.
pub fn create_topics(source: &Cluster) -> Result<()> {
    let mut judge = source.any_judge()?;
    for stream in STREAMS {
        let mut topic = NewTopic::new(stream.topic, stream.partitions);
        for (key, value) in stream.configs {
            topic = topic.config(key, value);
        }
        judge.create_topic(&topic).with_context(|| format!("create {}", stream.topic))?;
    }
    Ok(())
}

/// Producers at work; dropped, they are killed.
pub struct Load {
    running: Vec<(&'static str, Background)>,
}

impl Load {
    /// All streams, endless; each has its first record acknowledged.
    pub fn start(source: &Cluster) -> Result<Self> {
        let mut running = Vec::new();
        for stream in STREAMS {
            let mut produce = Produce::to(&source.bootstrap(), stream.topic).count(0);
            for (key, value) in stream.options {
                produce = produce.option(key, value);
            }
            running.push((stream.topic, produce.start(source.dist())?));
        }
        for (topic, producer) in &running {
            eventually(START_DEADLINE, format!("the first record of {topic}"), || {
                ensure!(!producer.lines()?.is_empty(), "nothing is acknowledged");
                Ok(())
            })?;
        }
        Ok(Self { running })
    }

    /// Ends all in good order; how many records were acknowledged.
    pub fn stop(self) -> Result<usize> {
        let mut records = 0;
        for (topic, producer) in self.running {
            let outcome = producer.stop().with_context(|| format!("stop producing {topic}"))?;
            let outcome = outcome.success().with_context(|| format!("produce to {topic}"))?;
            records += sent(&outcome.stdout)?.len();
        }
        Ok(records)
    }
}
