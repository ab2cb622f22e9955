//! Every client reads mirrors while the daemon is up, is killed in the middle, and returns; what each
//! read is the source's, record by record.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::programs::{Program, all};
use super::stage::{BEFORE, DEADLINE, Stage, TOPICS};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::java::Background;

/// Milliseconds after each record of a reader that is to be met in the middle.
const PACE: u32 = 8;
/// Records of each reader before the daemon is killed, or returns.
const BEGUN: usize = 50;
/// The load whose marks end every reader.
const END: &str = "end";
/// The newest client judges what the others read.
const REFERENCE: Program = Program::Java("4.3.1");

/// Plays it: the daemon is killed and started again.
pub fn judge(stage: &mut Stage) -> Result<()> {
    let readers = readers(stage.destination.dist().major() >= 4);
    let middle = Running::start(&readers, &stage.destination, "middle", PACE)?;
    let before = middle.wait_each(BEGUN)?;
    stage.daemon.kill()?;
    stage.wait_real_leaders()?;
    middle.have_gone_on(&before)?;
    let late = all().then(|| Running::start(&readers, &stage.destination, "late", PACE));
    let late = late.transpose()?;
    // They begin while nobody but real brokers is there.
    late.as_ref().map_or(Ok(()), |late| late.wait_each(BEGUN).map(drop))?;
    stage.load("while-dead", 1)?;
    stage.daemon.start_again()?;
    stage.daemon.wait_ready()?;
    stage.wait_led()?;
    stage.load(END, 1)?;
    let reference = Reference::read(&stage.source)?;
    reference.compare(middle.wait()?)?;
    if let Some(late) = late {
        reference.compare(late.wait()?)?;
        // All anew, from the beginning, as fast as it goes.
        reference.compare(Running::start(&readers, &stage.destination, "again", 0)?.wait()?)?;
    }
    Ok(())
}

/// One reader: a client in one way of reading.
#[derive(Clone, Debug)]
struct Reader {
    program: Program,
    name: String,
    mode: &'static str,
    committed: bool,
    topics: Vec<(&'static str, i32)>,
    /// Arguments that only this one has.
    more: Vec<&'static str>,
}

impl Reader {
    fn new(program: Program, name: &str, mode: &'static str, committed: bool) -> Self {
        let (topics, more) = (TOPICS.to_vec(), Vec::new());
        Self { program, name: name.to_owned(), mode, committed, topics, more }
    }

    /// Reads only these.
    fn of(mut self, topics: &[&str]) -> Self {
        self.topics.retain(|(topic, _)| topics.contains(topic));
        self
    }

    fn with(mut self, arguments: &[&'static str]) -> Self {
        self.more.extend(arguments);
        self
    }

    fn partitions(&self) -> i32 {
        self.topics.iter().map(|(_, count)| count).sum()
    }

    fn arguments(&self, cluster: &Cluster, pace: u32) -> Vec<String> {
        let isolation = if self.committed { "read_committed" } else { "read_uncommitted" };
        let topics: Vec<_> = self.topics.iter().map(|(topic, _)| *topic).collect();
        // One that reads less takes as long.
        let pace = pace * if self.topics.len() < TOPICS.len() { 2 } else { 1 };
        let mut arguments = vec![
            // A group of its own for each round.
            format!("name={}", self.name),
            format!("bootstrap={}", cluster.bootstrap()),
            format!("topics={}", topics.join(",")),
            format!("mode={}", self.mode),
            format!("isolation={isolation}"),
            format!("partitions={}", self.partitions()),
            format!("pace={pace}"),
        ];
        arguments.extend(self.more.iter().map(|more| (*more).to_owned()));
        arguments
    }
}

/// Who reads; KIP-848 came with 4.0.
fn readers(has_848: bool) -> Vec<Reader> {
    let java = |version, mode, committed| {
        let kind = if committed { "-committed" } else { "" };
        Reader::new(
            Program::Java(version),
            &format!("java-{version}-{mode}{kind}"),
            mode,
            committed,
        )
    };
    let go = |name, client, mode, committed| {
        Reader::new(Program::Go, name, mode, committed).with(&[client])
    };
    let mut readers = vec![
        java("4.3.1", "group", true),
        java("4.3.1", "consumer", true),
        java("4.3.1", "assign", false),
        java("3.9.1", "group", true),
        // No zstd before 2.1.
        java("2.0.1", "group", true).of(&["payments"]),
        Reader::new(Program::Librdkafka, "librdkafka", "group", true),
        Reader::new(Program::KafkaPython, "kafka-python", "group", true),
        go("franz-go", "client=franz", "group", true),
        go("sarama-4", "client=sarama", "assign", true).with(&["version=4.0.0"]),
        go("sarama", "client=sarama", "group", true),
    ];
    if all() {
        readers.extend([
            java("4.3.1", "assign", true),
            java("3.9.1", "assign", false),
            java("2.8.2", "assign", false),
            java("2.8.2", "group", true),
            java("2.0.1", "assign", false).of(&["payments"]),
            go("sarama-2.1", "client=sarama", "group", true).with(&["version=2.1.0"]),
            go("sarama-1.0", "client=sarama", "group", true)
                .with(&["version=1.0.0"])
                .of(&["payments"]),
            Reader::new(Program::Librdkafka, "librdkafka-848", "consumer", true),
            Reader::new(Program::Librdkafka, "librdkafka-assign", "assign", false),
            Reader::new(Program::KafkaPython, "kafka-python-assign", "assign", false),
            go("franz-go-assign", "client=franz", "assign", false),
            go("sarama-4-group", "client=sarama", "group", false).with(&["version=4.0.0"]),
        ]);
    }
    readers.retain(|reader| has_848 || reader.mode != "consumer");
    readers.retain(|reader| reader.program.is_there());
    readers
}

/// Readers under way.
struct Running {
    readers: Vec<Reader>,
    processes: Vec<Background>,
}

impl Running {
    fn start(readers: &[Reader], cluster: &Cluster, round: &str, pace: u32) -> Result<Self> {
        let readers: Vec<_> = readers
            .iter()
            .cloned()
            .map(|reader| Reader { name: format!("{}-{round}", reader.name), ..reader })
            .collect();
        let mut together: Vec<(Program, Vec<String>)> = Vec::new();
        for reader in &readers {
            let arguments = reader.arguments(cluster, pace);
            let of_same = |(program, _): &&mut (Program, _)| *program == reader.program;
            match together.iter_mut().find(of_same) {
                Some((program, words)) if program.takes_several() => {
                    words.push("and".to_owned());
                    words.extend(arguments);
                }
                _ => together.push((reader.program, arguments)),
            }
        }
        let started = together.iter().map(|(program, words)| program.read(words));
        Ok(Self { processes: started.collect::<Result<_>>()?, readers })
    }

    /// What each has read so far.
    fn progress(&self) -> Result<BTreeMap<String, Progress>> {
        let mut all: BTreeMap<_, _> =
            self.readers.iter().map(|reader| (reader.name.clone(), Progress::default())).collect();
        let mark = hex(BEFORE);
        for process in &self.processes {
            for line in process.lines()? {
                let of: ReaderOf = serde_json::from_str(&line).with_context(|| line.clone())?;
                let progress = all.get_mut(&of.reader).context("a stranger prints")?;
                progress.records += 1;
                progress.marks += i32::from(of.value.as_ref() == Some(&mark));
            }
        }
        Ok(all)
    }

    fn wait_each(&self, least: usize) -> Result<BTreeMap<String, Progress>> {
        eventually(DEADLINE, format!("{least} records of each reader"), || {
            let all = self.progress()?;
            let late: Vec<_> = all.iter().filter(|(_, one)| one.records < least).collect();
            ensure!(late.is_empty(), "{late:?}; {}", self.complaints());
            Ok(all)
        })
    }

    /// What they say on standard error, the end of it.
    fn complaints(&self) -> String {
        let all = self.processes.iter().filter_map(|process| process.complaints().ok());
        let ends = all.map(|text| text.lines().rev().take(5).collect::<Vec<_>>().join(" | "));
        ends.collect::<Vec<_>>().join("\n")
    }

    /// Each has read on since, or had everything then.
    fn have_gone_on(&self, before: &BTreeMap<String, Progress>) -> Result<()> {
        let now = self.progress()?;
        let mut still = Vec::new();
        for reader in &self.readers {
            let (before, now) = (before[&reader.name], now[&reader.name]);
            eprintln!("{}: {} and {} records", reader.name, before.records, now.records);
            if before.marks < reader.partitions() && now.records <= before.records {
                still.push(reader.name.as_str());
            }
        }
        ensure!(still.is_empty(), "read nothing while the daemon was dead: {still:?}");
        Ok(())
    }

    /// Records of each reader, in the order in which it read them.
    fn wait(self) -> Result<Vec<(Reader, Vec<Record>)>> {
        let mut records: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for process in self.processes {
            let outcome = process.wait(DEADLINE)?;
            let stdout = outcome.success()?.stdout;
            for line in stdout.lines() {
                let of: ReaderOf = serde_json::from_str(line).with_context(|| line.to_owned())?;
                let record: Record = serde_json::from_str(line)?;
                records.entry(of.reader).or_default().push(record);
            }
        }
        let of = |reader: Reader| {
            let read = records.remove(&reader.name).unwrap_or_default();
            (reader, read)
        };
        Ok(self.readers.into_iter().map(of).collect())
    }
}

#[derive(Deserialize)]
struct ReaderOf {
    reader: String,
    value: Option<String>,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    records: usize,
    /// Partitions in which it has everything that was there when it began.
    marks: i32,
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// A record as any client tells it; keys and values in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Record {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

type Log = BTreeMap<(String, i32), Vec<Record>>;

/// Records by partition, in the order in which they were read.
fn by_partition(records: Vec<Record>) -> Log {
    let mut log = Log::new();
    for record in records {
        log.entry((record.topic.clone(), record.partition)).or_default().push(record);
    }
    log
}

/// What is at the source.
struct Reference {
    committed: Log,
    all: Log,
}

impl Reference {
    fn read(source: &Cluster) -> Result<Self> {
        let readers = [
            Reader::new(REFERENCE, "committed", "assign", true),
            Reader::new(REFERENCE, "all", "assign", false),
        ];
        let mut read = Running::start(&readers, source, "source", 0)?.wait()?.into_iter();
        let mut next = || read.next().map(|(_, records)| by_partition(records));
        let (committed, all) = next().zip(next()).context("two readers")?;
        let count = |log: &Log| log.values().map(Vec::len).sum::<usize>();
        let (few, many) = (count(&committed), count(&all));
        ensure!(few > 1000 && few < many, "{few} committed records of {many}");
        Ok(Self { committed, all })
    }

    /// Fails with the first record that a reader read otherwise.
    fn compare(&self, read: Vec<(Reader, Vec<Record>)>) -> Result<()> {
        for (reader, records) in read {
            let wanted = if reader.committed { &self.committed } else { &self.all };
            let found = by_partition(records);
            let is_read = |topic: &str| reader.topics.iter().any(|(read, _)| *read == topic);
            for (place, wanted) in wanted.iter().filter(|((topic, _), _)| is_read(topic)) {
                let found = found.get(place).map_or(&[][..], Vec::as_slice);
                let both = wanted.iter().zip(found);
                let differing = both.into_iter().find(|(wanted, found)| wanted != found);
                ensure!(differing.is_none(), "{}: {place:?}: {differing:#?}", reader.name);
                let (wanted, found) = (wanted.len(), found.len());
                ensure!(wanted == found, "{}: {place:?}: {found} of {wanted}", reader.name);
            }
        }
        Ok(())
    }
}

#[test]
fn a_record_read_otherwise_is_found() {
    let record = |offset| Record {
        topic: "codecs".to_owned(),
        partition: 0,
        offset,
        timestamp: 17,
        key: None,
        value: Some("ff".to_owned()),
        headers: vec![("name".to_owned(), None)],
    };
    let all = by_partition(vec![record(0), record(2)]);
    let reference = Reference { committed: all.clone(), all };
    let reader = Reader::new(Program::Go, "reader", "assign", true);
    let judge = |read: Vec<Record>| reference.compare(vec![(reader.clone(), read)]).is_ok();
    assert!(judge(vec![record(0), record(2)]));
    let otherwise = [
        Record { timestamp: 18, ..record(2) },
        Record { key: Some(String::new()), ..record(2) },
        Record { value: None, ..record(2) },
        Record { headers: Vec::new(), ..record(2) },
        record(1),
    ];
    for other in otherwise {
        assert!(!judge(vec![record(0), other]));
    }
    assert!(!judge(vec![record(0)]));
    assert!(!judge(vec![record(2), record(0)]));
    assert!(!judge(vec![record(0), record(2), record(2)]));
    assert!(!judge(vec![record(0), record(0), record(2)]));
}
