//! Every kind of batch that a producer or a broker makes: codecs, timestamps, headers, nulls, size.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{batches, start_daemon, tens, wait_mirrored};
use crate::support::cluster::{Cluster, ClusterSpec};
use crate::support::java::Produce;
use crate::support::judge::{Batch, NewTopic};
use crate::support::scenario;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
const ZSTD: i16 = 4;
/// The first moments of 1970 and of 2300 in milliseconds.
const YEAR_1970: i64 = 0;
const YEAR_2300: i64 = 10_413_792_000_000;
const LARGE: i64 = 20_000_000;
const TOPICS: [&str; 5] = ["codecs", "append-time", "recompressed", "ages", "large"];

#[test]
fn every_kind_of_batch_is_mirrored_as_it_is() {
    scenario("kinds", |workspace| {
        let source = ClusterSpec::new("source").start_in(workspace)?;
        // Limits as they are: 1 MiB a fetched partition, 10 MiB an answer.
        let destination = ClusterSpec::new("destination").brokers(3).start_in(workspace)?;
        create_topics(&source)?;
        // One half waits for the daemon, the other arrives while it mirrors.
        all_kinds(&source, 0).run(source.dist())?;
        let _daemon = start_daemon(&source, &destination, &TOPICS, workspace)?;
        for topic in TOPICS {
            wait_mirrored(&source, &destination, topic)?;
        }
        all_kinds(&source, 1).run(source.dist())?;
        has_what_is_claimed(&source)?;
        for topic in TOPICS {
            wait_mirrored(&source, &destination, topic)?;
        }
        Ok(())
    });
}

fn create_topics(source: &Cluster) -> Result<()> {
    let any_age = NewTopic::new("ages", 2)
        .config("message.timestamp.after.max.ms", i64::MAX)
        .config("message.timestamp.before.max.ms", i64::MAX)
        // Or the source's own retention takes what is from 1970.
        .config("retention.ms", -1);
    let topics = [
        NewTopic::new("codecs", 2),
        NewTopic::new("append-time", 2).config("message.timestamp.type", "LogAppendTime"),
        NewTopic::new("recompressed", 2).config("compression.type", "zstd"),
        any_age,
        NewTopic::new("large", 2).config("max.message.bytes", 25_000_000),
    ];
    topics.iter().try_for_each(|topic| source.create_topic(topic))
}

/// All of it to one partition of each topic.
fn all_kinds(source: &Cluster, partition: i32) -> Produce {
    let load = |topic: &str| tens(source, topic).option("partition", partition);
    // Names of headers repeat and some values are null; keys are there with one half only.
    let rich = |topic: &str, codec: &str, keys: u32| {
        let load = load(topic).option("compression", codec).option("keys", keys);
        load.option("headers", 5).option("null-values", 3).count(20)
    };
    let per_codec = CODECS.map(|codec| {
        let codecs = rich("codecs", codec, 0).and(rich("codecs", codec, 4));
        codecs.and(rich("append-time", codec, 4)).and(rich("recompressed", codec, 4))
    });
    let old = load("ages").option("timestamp", YEAR_1970);
    let mut all = old.and(load("ages").option("timestamp", YEAR_2300)).and(load("ages"));
    for loads in per_codec {
        all = all.and(loads);
    }
    let small = || load("large");
    let large = load("large").count(1).option("size", LARGE);
    let large = large.option("producer.max.request.size", 2 * LARGE);
    all.and(small()).and(large.option("producer.buffer.memory", 3 * LARGE)).and(small())
}

/// A comparison proves what is there to compare.
fn has_what_is_claimed(source: &Cluster) -> Result<()> {
    for partition in [0, 1] {
        let log = |topic: &str| batches(source, topic, partition);
        let codecs: BTreeSet<_> = log("codecs")?.iter().map(Batch::codec).collect();
        ensure!(codecs == (0..=ZSTD).collect(), "codecs {codecs:?}");
        let stamped = log("append-time")?;
        ensure!(stamped.iter().any(Batch::is_log_append_time), "no time of append");
        let recompressed = log("recompressed")?;
        let is_zstd = |batch: &Batch| batch.codec() == ZSTD;
        ensure!(recompressed.iter().all(is_zstd), "recompressed holds other codecs");
        let ages = log("ages")?;
        for year in [YEAR_1970, YEAR_2300] {
            let in_year = |batch: &Batch| (year..year + 100).contains(&batch.max_timestamp());
            ensure!(ages.iter().any(in_year), "nothing at {year}");
        }
        let large = log("large")?;
        let sizes: Vec<_> = large.iter().map(|batch| batch.bytes.len()).collect();
        let is_large = |size: &usize| i64::try_from(*size).is_ok_and(|size| size > LARGE);
        ensure!(sizes.len() >= 3 && sizes.iter().any(is_large), "{sizes:?}");
    }
    Ok(())
}
