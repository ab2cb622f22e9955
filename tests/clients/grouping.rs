//! Consumer groups of both protocols on mirrors: what they read, commit and find is what the same groups
//! do at the source, also after other brokers have led in between.

use anyhow::{Context, Result, ensure};

use super::programs::java_groups;
use super::stage::{DEADLINE, Stage};
use crate::support::cluster::Cluster;
use crate::support::java::Background;

const TOPICS: &str = "codecs,payments";
const VERSION: &str = "4.3.1";
/// Lines of the first act, and of the second.
const STEPS: [usize; 2] = [4, 12];

/// One act under way, at the source and here.
pub struct Groups {
    act: &'static str,
    steps: usize,
    source: Background,
    mirror: Background,
}

impl Groups {
    /// Two members share the topics, and read each record once.
    pub fn together(stage: &Stage) -> Result<Self> {
        Self::start(stage, "together", STEPS[0])
    }

    /// A later member goes on where they were; others begin early, late, or at a time.
    pub fn resume(stage: &Stage) -> Result<Self> {
        Self::start(stage, "resume", STEPS[1])
    }

    fn start(stage: &Stage, act: &'static str, steps: usize) -> Result<Self> {
        let start = |cluster: &Cluster| {
            let words = [cluster.bootstrap(), TOPICS.to_owned(), act.to_owned()];
            java_groups(VERSION, &words)
        };
        let (source, mirror) = (start(&stage.source)?, start(&stage.destination)?);
        Ok(Self { act, steps, source, mirror })
    }

    /// Waits for their end, and compares.
    pub fn judge(self) -> Result<()> {
        let act = self.act;
        let end = |side: Background| Ok(side.wait(DEADLINE)?.success()?.stdout);
        let wanted: Result<_> = end(self.source);
        let found: Result<_> = end(self.mirror);
        let (wanted, found) = (wanted.context("groups at the source")?, found.context("groups")?);
        eprint!("{found}");
        ensure!(wanted.lines().count() == self.steps, "steps at the source:\n{wanted}");
        let differing = wanted.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
        ensure!(differing.is_none(), "groups: {act}: at the source and here: {differing:#?}");
        ensure!(wanted == found, "groups: {act}: {found}");
        Ok(())
    }
}
