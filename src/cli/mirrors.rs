//! `lockstep mirrors`: mirrors and their partitions, and the operator's word on what has failed.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _};

use clap::{Args, Subcommand};

use super::api::Api;
use super::time::utc;
use super::{Exit, Failure, Global, Output, print};
use crate::admin::kept::Operation;
use crate::admin::resume::Selection;
use crate::admin::view::{Links, Mirrors};
use crate::mirror::report::{PartitionReport, TopicReport};

/// What to do with mirrors.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// One line for each mirror.
    List {
        /// Of this link only.
        #[arg(long, value_name = "NAME")]
        link: Option<String>,
    },
    /// One mirror with its partitions, and of failed ones both offsets.
    Describe {
        /// Its name at the destination.
        topic: String,
        /// Its link, where there are several.
        #[arg(long, value_name = "NAME")]
        link: Option<String>,
    },
    /// Lets failed mirrors go on as the source is now; gives up what stands against it.
    ResumeFailed(Resume),
}

/// Which failed mirrors go on.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Their names at the destination.
    #[arg(required_unless_present = "pattern", conflicts_with = "pattern")]
    topics: Vec<String>,
    /// All that have failed of a pattern: a literal, `prefix*` or `/regex/`.
    #[arg(long)]
    pattern: Option<String>,
    /// Their link, where there are several.
    #[arg(long, value_name = "NAME")]
    link: Option<String>,
    /// Only says what would be given up.
    #[arg(long)]
    dry_run: bool,
    /// Does not ask.
    #[arg(long)]
    yes: bool,
}

/// Asks the daemon.
pub(super) fn mirrors(verb: &Verb, global: &Global) -> Result<(), Failure> {
    let api = Api::new(&global.url);
    match verb {
        Verb::List { link } => list(&api, link.as_deref(), global),
        Verb::Describe { topic, link } => {
            let link = one_link(&api, link.as_deref())?;
            let topic: TopicReport = api.ask(&format!("/v1/links/{link}/mirrors/{topic}"))?;
            match global.output {
                Output::Json => print(&format!("{}\n", serde_json::json!(topic))),
                Output::Table => print(&described(&link, &topic)),
            }
        }
        Verb::ResumeFailed(resume) => resume_failed(&api, resume, global),
    }
}

fn names(api: &Api, link: Option<&str>) -> Result<Vec<String>, Failure> {
    match link {
        Some(link) => Ok(vec![link.to_owned()]),
        None => {
            let Links { links, .. } = api.ask("/v1/links")?;
            Ok(links.into_iter().map(|link| link.name).collect())
        }
    }
}

fn one_link(api: &Api, link: Option<&str>) -> Result<String, Failure> {
    let mut names = names(api, link)?;
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        (Some(_), false) => {
            Err(Failure::new(Exit::Usage, "several links").advise("name one with --link"))
        }
        (None, _) => Err(Failure::new(Exit::NotSo, "the daemon has no link")),
    }
}

fn list(api: &Api, link: Option<&str>, global: &Global) -> Result<(), Failure> {
    let mut text = String::new();
    let mut all = Vec::new();
    for link in names(api, link)? {
        let Mirrors { mirrors } = api.ask(&format!("/v1/links/{link}/mirrors"))?;
        for mirror in &mirrors {
            let state = mirror.partition_state.map_or(mirror.state.name(), |state| state.name());
            let reason = mirror.reason.or(mirror.partition_reason);
            let reason = reason.map_or("", |reason| reason.name());
            let lag = mirror.progress.lag_records.map_or("?".to_owned(), |lag| lag.to_string());
            let _infallible = writeln!(
                text,
                "{link:<16} {:<40} {state:<22} {reason:<28} lag {lag:>10} since {}",
                mirror.topic,
                utc(mirror.since)
            );
        }
        all.push(serde_json::json!({ "link": link, "mirrors": mirrors }));
    }
    match global.output {
        Output::Json => print(&format!("{}\n", serde_json::json!(all))),
        Output::Table => print(&text),
    }
}

fn described(link: &str, topic: &TopicReport) -> String {
    let mut text = format!(
        "mirror {} of {} (link {link}): {} since {}\n",
        topic.topic,
        topic.source_topic,
        topic.state,
        utc(topic.since)
    );
    if let Some(reason) = topic.reason {
        let _infallible = writeln!(text, "reason: {reason}");
    }
    for partition in &topic.partitions {
        text.push_str(&partition_line(partition));
    }
    text
}

fn partition_line(partition: &PartitionReport) -> String {
    let offset = |value: Option<i64>| value.map_or("?".to_owned(), |offset| offset.to_string());
    let mut text = format!(
        "  {:>5} {:<22} leader {}, source end {}, mirror end {}, in sync {:?}",
        partition.partition,
        partition.state,
        partition.leader.map_or("?".to_owned(), |leader| leader.to_string()),
        offset(partition.source_end_offset),
        offset(partition.high_watermark),
        partition.in_sync
    );
    if let Some(reason) = partition.reason {
        let _infallible = write!(text, ", {reason}");
    }
    if let Some(failure) = &partition.failure {
        let _infallible = write!(
            text,
            "\n        ours {}, source {}: {}",
            offset(failure.offset),
            offset(failure.source_offset),
            failure.text
        );
    }
    text.push('\n');
    text
}

/// Asks first what would be given up, and the operator whether he means it.
fn resume_failed(api: &Api, resume: &Resume, global: &Global) -> Result<(), Failure> {
    let link = one_link(api, resume.link.as_deref())?;
    let path = format!("/v1/links/{link}/mirrors:resume-failed");
    let topics = resume.pattern.is_none().then(|| resume.topics.clone());
    let mut selection = Selection { topics, pattern: resume.pattern.clone(), dry_run: true };
    let plan: Operation = api.post(&path, &selection)?;
    if resume.dry_run {
        return told(&plan, global);
    }
    if !resume.yes {
        print(&lines(&plan))?;
        confirm()?;
    }
    selection.dry_run = false;
    let operation: Operation = api.post(&path, &selection)?;
    told(&operation, global)
}

fn told(operation: &Operation, global: &Global) -> Result<(), Failure> {
    match global.output {
        Output::Json => print(&format!("{}\n", serde_json::json!(operation))),
        Output::Table => print(&lines(operation)),
    }
}

fn lines(operation: &Operation) -> String {
    let mut text = String::new();
    if !operation.id.is_empty() {
        let _infallible = writeln!(text, "operation {}: {:?}", operation.id, operation.entry.state);
    }
    for one in &operation.entry.partitions {
        let reason = one.reason.map_or("?", |reason| reason.name());
        let offset = |value: Option<i64>| value.map_or("?".to_owned(), |offset| offset.to_string());
        let _infallible = writeln!(
            text,
            "{}-{} {reason}, ours {}, source {}: {}",
            one.topic,
            one.partition,
            offset(one.offset),
            offset(one.source_offset),
            one.outcome.as_deref().unwrap_or("being resumed")
        );
    }
    text
}

fn confirm() -> Result<(), Failure> {
    let no = |cause: &str| {
        Err(Failure::new(Exit::Usage, cause).advise("say it with --yes, or look with --dry-run"))
    };
    let input = std::io::stdin();
    if !input.is_terminal() {
        return no("nobody is there to be asked");
    }
    print("Go on? [y/N] ")?;
    let mut answer = String::new();
    match input.lock().read_line(&mut answer) {
        Ok(_) if matches!(answer.trim(), "y" | "yes") => Ok(()),
        _ => no("not confirmed; nothing was done"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::report::{FailureReport, PartitionState, Reason};
    use crate::mirror::topic::MirrorState;

    #[test]
    fn a_failed_partition_is_shown_with_both_offsets() {
        let failure =
            FailureReport { offset: Some(20), source_offset: Some(10), text: "cut".to_owned() };
        let partition = PartitionReport {
            state: PartitionState::Failed,
            reason: Some(Reason::SourceTruncated),
            leader: Some(9001),
            failure: Some(failure),
            ..PartitionReport::unknown(3)
        };
        let topic = TopicReport {
            topic: "east.orders".to_owned(),
            source_topic: "orders".to_owned(),
            state: MirrorState::Failed,
            reason: Some(Reason::SourceTruncated),
            since: 0,
            partitions: vec![partition],
        };
        let expected = "\
mirror east.orders of orders (link east): Failed since 1970-01-01T00:00:00.000Z
reason: SOURCE_TRUNCATED
      3 Failed                 leader 9001, source end ?, mirror end ?, in sync [], SOURCE_TRUNCATED
        ours 20, source 10: cut
";
        assert_eq!(described("east", &topic), expected);
    }
}
