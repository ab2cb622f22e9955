//! A Kafka Streams application and a Kafka Connect file sink that live on mirrors, over the daemon's death
//! and return: each record counts once, and is in the file once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::programs::{connect, streams};
use super::stage::{DEADLINE, LINES, Stage, line};
use crate::support::cluster::{Cluster, ports};
use crate::support::eventually;
use crate::support::java::{Background, Consume};
use crate::support::judge::NewTopic;
use crate::support::workspace::Workspace;

/// What is counted, by key.
const COUNTED: &str = "payments";
/// Where the counts are written to.
const COUNTS: &str = "counts";

/// Both, running.
pub struct Applications {
    streams: Background,
    connect: Background,
    file: PathBuf,
}

impl Applications {
    /// Starts both, and waits until each has begun.
    pub fn start(stage: &Stage, workspace: &Workspace) -> Result<Self> {
        stage.destination.create_topic(&NewTopic::new(COUNTS, 2))?;
        let home = workspace.path().join("applications");
        std::fs::create_dir_all(&home)?;
        let to = stage.destination.bootstrap();
        let state = home.join("state").display().to_string();
        let words = [to.clone(), COUNTED.to_owned(), COUNTS.to_owned(), state];
        let file = home.join("lines");
        let port = ports::free_ports(1)?.first().copied().context("a port")?;
        let worker = format!(
            "bootstrap.servers={to}\nlisteners=http://127.0.0.1:{port}\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n\
             offset.storage.file.filename={}\noffset.flush.interval.ms=500\n",
            home.join("offsets").display()
        );
        let sink = format!(
            "name=sink\nconnector.class=FileStreamSink\ntasks.max=1\ntopics={LINES}\nfile={}\n\
             consumer.override.auto.offset.reset=earliest\n",
            file.display()
        );
        let files = [("worker.properties", worker), ("sink.properties", sink)];
        let paths = files.map(|(name, text)| {
            let path = home.join(name);
            std::fs::write(&path, text).map(|()| path.display().to_string())
        });
        let [worker, sink] = paths;
        let (streams, connect) = (streams(&words)?, connect(&[worker?, sink?])?);
        let applications = Self { streams, connect, file };
        eventually(DEADLINE, "both applications to begin", || {
            ensure!(
                !applications.streams.lines()?.is_empty(),
                "{}",
                applications.streams.complaints()?
            );
            ensure!(applications.file.exists(), "{}", applications.connect.complaints()?);
            Ok(())
        })?;
        Ok(applications)
    }

    /// Waits until both are at the source's end, and compares.
    pub fn judge(self, stage: &Stage) -> Result<()> {
        let wanted = counts_at(&stage.source)?;
        eventually(DEADLINE, "all counts", || {
            let found = last_counts(&self.streams.lines()?)?;
            ensure!(found == wanted, "{found:?}, not {wanted:?}: {}", self.streams.complaints()?);
            Ok(())
        })?;
        let wanted = sorted((0..stage.lines()).map(line));
        eventually(DEADLINE, "all lines in the file", || {
            let found = sorted(std::fs::read_to_string(&self.file)?.lines().map(str::to_owned));
            let count = (found.len(), wanted.len());
            ensure!(found == wanted, "{} of {} lines", count.0, count.1);
            Ok(())
        })?;
        self.streams.stop()?;
        self.connect.stop()?;
        // What was committed to the output is what was counted.
        let output = Consume::from(&stage.destination.bootstrap(), &[COUNTS]);
        let output = output.option("isolation", "read_committed").run(stage.destination.dist())?;
        let mut last = BTreeMap::new();
        for line in &output {
            let words: Vec<_> = line.split(' ').collect();
            last.insert(words[5].to_owned(), words[6].to_owned());
        }
        let keys = counts_at(&stage.source)?.len();
        ensure!(last.len() == keys, "{} of {keys} keys in {COUNTS}: {last:?}", last.len());
        eprintln!("Streams counted {keys} keys, Connect wrote {} lines", wanted.len());
        Ok(())
    }
}

/// Committed records of each key.
fn counts_at(source: &Cluster) -> Result<BTreeMap<String, u64>> {
    let read = Consume::from(&source.bootstrap(), &[COUNTED]);
    let read = read.option("isolation", "read_committed").run(source.dist())?;
    let mut counts = BTreeMap::new();
    for line in &read {
        let key = line.split(' ').nth(5).and_then(|key| key.strip_prefix("b64:"));
        *counts.entry(key.context("a key")?.to_owned()).or_default() += 1;
    }
    ensure!(counts.len() > 1, "{counts:?}");
    Ok(counts)
}

/// The last count of each key, as the application prints them.
fn last_counts(lines: &[String]) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let (key, count) = line.split_once(' ').context("a count")?;
        counts.insert(key.to_owned(), count.parse()?);
    }
    Ok(counts)
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}
