//! Producers of every kind meet a mirror: refused at once, with a text that says what it is, and they go on
//! with other topics. Nothing of theirs gets into the mirror.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::programs::{Program, all, go, java_producers, python};
use super::stage::{DEADLINE, Stage};
use crate::support::java::Background;

/// A refusal has to come within this, in the long form: a machine on which everything runs is slower.
const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(5);
const MIRROR: &str = "codecs";
const OTHER: &str = "written";
/// Clients that show the broker's words; the others show the name of the code.
const SHOWS_WORDS: [&str; 4] = ["java 4.3.1", "java 3.9.1", "java 2.8.2", "kafka-python"];
/// The short form has the first alone.
const JAVA: [(&str, &str); 3] =
    [("java 4.3.1", "4.3.1"), ("java 3.9.1", "3.9.1"), ("java 2.8.2", "2.8.2")];
const KINDS: [&str; 4] = ["plain", "idempotent", "transactional", "unacknowledged"];

/// What one producer met.
#[derive(Debug, Deserialize)]
struct Met {
    kind: String,
    /// Its name in that client; empty where there was none.
    error: String,
    message: String,
    milliseconds: u64,
    /// What went wrong afterwards, with the other topic.
    after: String,
}

/// All clients, beside each other.
pub fn judge(stage: &Stage) -> Result<()> {
    let to = stage.destination.bootstrap();
    let words = [to.clone(), MIRROR.to_owned(), OTHER.to_owned()];
    let of_go = |client: &str| {
        let mirror = format!("mirror={MIRROR}");
        [format!("client={client}"), format!("bootstrap={to}"), mirror, format!("other={OTHER}")]
    };
    let ends = || stage.log_ends(MIRROR);
    let before = ends()?;
    let mut running = Vec::new();
    for (name, version) in if all() { &JAVA[..] } else { &JAVA[..1] } {
        running.push((*name, java_producers(version, &words)?));
    }
    if Program::Librdkafka.is_there() {
        running.push(("librdkafka", python("refused_librdkafka.py", &words)?));
        running.push(("kafka-python", python("refused_kafka_python.py", &words)?));
    }
    if Program::Go.is_there() {
        running.push(("franz-go", go(&of_go("franz-producer"))?));
        running.push(("sarama", go(&of_go("sarama-producer"))?));
    }
    let judged: Vec<_> =
        running.into_iter().map(|(client, process)| all_are_refused(client, process)).collect();
    judged.into_iter().collect::<Result<Vec<()>>>()?;
    ensure!(ends()? == before, "{MIRROR} has grown from {before:?} to {:?}", ends()?);
    Ok(())
}

fn all_are_refused(client: &str, process: Background) -> Result<()> {
    let outcome = process.wait(DEADLINE).with_context(|| client.to_owned())?;
    let outcome = outcome.success().with_context(|| client.to_owned())?;
    let met = outcome.stdout.lines().filter(|line| line.starts_with('{'));
    let met = met.map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    let met: Vec<Met> = met.collect::<Result<_>>()?;
    let kinds: Vec<_> = met.iter().map(|met| met.kind.as_str()).collect();
    ensure!(kinds == KINDS, "{client}: {met:#?}");
    for met in met {
        eprintln!("{client}: {met:?}");
        let place = || format!("{client}: {met:?}");
        ensure!(met.after.is_empty(), "cannot go on: {}", place());
        if met.kind == "unacknowledged" {
            continue;
        }
        let most = if all() { AT_ONCE } else { SOON };
        ensure!(Duration::from_millis(met.milliseconds) < most, "late: {}", place());
        let said = format!("{} {}", met.error, met.message).to_lowercase().replace([' ', '_'], "");
        ensure!(said.contains("policy"), "{}", place());
        let named = ["codecs", "link test"].iter().all(|word| met.message.contains(word));
        ensure!(named || !SHOWS_WORDS.contains(&client), "does not say what it is: {}", place());
    }
    Ok(())
}
