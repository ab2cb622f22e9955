//! Plays `partition*.txt`: leadership over one mirror partition.
//!
//! ```text
//! lead EPOCH replicas=9001,1,2 [isr=9001,1] [fresh | log=START..END history=EPOCH:START,... [committed=N | cut=OFFSET]]
//! image partition_epoch=N [replicas=..] [isr=..]   the metadata log changed the partition
//! started OFFSET                  the source said where a fresh copy begins
//! append END                      batches up to END are in memory
//! seats 9001,9002                which replicas are seats
//! source-start OFFSET             the source's log start
//! fetch BROKER OFFSET [epoch=N] [last=N] [memory=OFFSET] [registration=N]
//! time SECONDS                    time passes
//! alive BROKER                    its session asked again, without news of this partition
//! broker ID [fenced] [registration=N]   what the image says of it
//! isr                             what change is proposed, with a lag time of 30 s
//! unheard                         whether nobody in sync has asked for half the lag time
//! heard                           who in sync has asked for 3 s, or all
//! contradicted                    by which replica what we know is contradicted
//! refused | unknown               the controller refused it; gave no answer
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use lockstep::mirror::lineage::{EpochHistory, EpochStart};
use lockstep::mirror::partition::{Assignment, Beginning, Candidate, FollowerFetch, Leadership};
use lockstep::types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

const SEAT: BrokerId = BrokerId(9001);
const LAG_TIME: Duration = Duration::from_secs(30);

/// What a file has built up so far.
#[derive(Default)]
pub struct State {
    leadership: Option<Leadership>,
    now: Duration,
    brokers: BTreeMap<i32, Candidate>,
}

/// Plays one command.
pub fn run(state: &mut State, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[0] {
        "lead" => lead(state, &words),
        "broker" => {
            let epoch = BrokerEpoch(option(&words, "registration").unwrap_or(1));
            let is_eligible = !words.contains(&"fenced");
            state.brokers.insert(words[1].parse().unwrap(), Candidate { epoch, is_eligible });
        }
        "time" => state.now += Duration::from_secs(words[1].parse().unwrap()),
        other => return act(state, other, &words),
    }
    describe(state)
}

fn act(state: &mut State, verb: &str, words: &[&str]) -> String {
    let now = state.now;
    let leadership = state.leadership.as_mut().expect("lead comes first");
    match verb {
        "image" => {
            let mut next = leadership.assignment().clone();
            next.partition_epoch = option(words, "partition_epoch").unwrap();
            next.replicas = ids(words, "replicas").unwrap_or(next.replicas);
            next.in_sync = ids(words, "isr").unwrap_or(next.in_sync);
            leadership.on_assignment(next, now).unwrap();
        }
        "started" => leadership.on_started(offset(words[1])).unwrap(),
        "append" => leadership.on_append(offset(words[1])),
        "seats" => {
            let seats = words[1].split(',').map(|id| BrokerId(id.parse().unwrap()));
            leadership.on_seats(seats.collect());
        }
        "source-start" => leadership.on_source_log_start(offset(words[1])),
        "alive" => leadership.on_alive(now, BrokerId(words[1].parse().unwrap())),
        "refused" => leadership.on_isr_refused(leadership.assignment().partition_epoch),
        "unknown" => leadership.on_isr_unknown(leadership.assignment().partition_epoch),
        "unheard" => return leadership.is_unheard(now, LAG_TIME / 2).to_string(),
        "heard" => {
            let heard = leadership.in_sync_heard(now, Duration::from_secs(3));
            return format!("{:?}", heard.iter().map(|id| id.0).collect::<Vec<_>>());
        }
        "contradicted" => {
            let by = leadership.contradicted_by().map(|by| (by.broker.0, by.offset.0));
            return format!("{by:?}");
        }
        "isr" => {
            let brokers = &state.brokers;
            let candidate = |id: BrokerId| brokers.get(&id.0).copied();
            return match leadership.propose_isr(now, LAG_TIME, candidate) {
                Some(proposal) => {
                    let members: Vec<_> = proposal.in_sync.iter().map(|(id, _)| id.0).collect();
                    format!("propose {members:?} on partition epoch {}", proposal.partition_epoch)
                }
                None => "no change".to_owned(),
            };
        }
        "fetch" => return fetch(state, words),
        _ => panic!("unknown command {verb}"),
    }
    describe(state)
}

fn lead(state: &mut State, words: &[&str]) {
    let replicas = ids(words, "replicas").expect("replicas");
    let assignment = Assignment {
        leader_epoch: LeaderEpoch(words[1].parse().unwrap()),
        partition_epoch: 0,
        in_sync: ids(words, "isr").unwrap_or_else(|| replicas.clone()),
        replicas,
    };
    for id in &assignment.replicas {
        let candidate = Candidate { epoch: BrokerEpoch(1), is_eligible: true };
        state.brokers.entry(id.0).or_insert(candidate);
    }
    let beginning = if words.contains(&"fresh") {
        Beginning::Fresh { history: EpochHistory::default() }
    } else {
        let log: String = option(words, "log").unwrap();
        let (log_start, log_end) = log.split_once("..").unwrap();
        let steps: String = option(words, "history").unwrap();
        let steps = steps.split(',').map(|step| {
            let (epoch, start) = step.split_once(':').unwrap();
            EpochStart { epoch: LeaderEpoch(epoch.parse().unwrap()), start: offset(start) }
        });
        let history = EpochHistory::from_starts(steps).unwrap();
        if let Some(at) = option(words, "cut").map(Offset) {
            let mut history = history;
            history.cut(at);
            Beginning::Cut { history, at, log_start: offset(log_start) }
        } else {
            Beginning::Continued {
                history,
                log_end: offset(log_end),
                log_start: offset(log_start),
                high_watermark: option(words, "committed").map(Offset),
            }
        }
    };
    let seats = BTreeSet::from([SEAT]);
    state.leadership = Some(Leadership::begin(seats, assignment, beginning, state.now));
}

fn fetch(state: &mut State, words: &[&str]) -> String {
    let leadership = state.leadership.as_mut().unwrap();
    let epoch = leadership.assignment().leader_epoch.0;
    let fetch = FollowerFetch {
        broker: BrokerId(words[1].parse().unwrap()),
        broker_epoch: BrokerEpoch(option(words, "registration").unwrap_or(1)),
        current_leader_epoch: LeaderEpoch(option(words, "epoch").unwrap_or(epoch)),
        offset: offset(words[2]),
        last_fetched_epoch: LeaderEpoch(option(words, "last").unwrap_or(-1)),
    };
    leadership.on_fetch(state.now, fetch).unwrap();
    let memory = option(words, "memory").map_or(Offset::ZERO, Offset);
    let verdict = leadership.verdict(fetch, memory);
    format!("{verdict:?}\n{}", describe(state))
}

fn describe(state: &State) -> String {
    let Some(leadership) = &state.leadership else { return "ok".to_owned() };
    let shown = |offset: Option<Offset>| offset.map_or("?".to_owned(), |o| o.to_string());
    let mut text = format!(
        "log {}..{} high watermark {}",
        shown(leadership.log_start()),
        leadership.log_end(),
        shown(leadership.high_watermark())
    );
    if let Some(history) = leadership.history() {
        let steps = history.starts().iter().map(|step| format!("{}:{}", step.epoch, step.start));
        write!(text, " epochs {}", steps.collect::<Vec<_>>().join(",")).unwrap();
    }
    text
}

fn offset(text: &str) -> Offset {
    Offset(text.parse().unwrap())
}

fn option<T: std::str::FromStr<Err: std::fmt::Debug>>(words: &[&str], key: &str) -> Option<T> {
    let prefix = format!("{key}=");
    words.iter().find_map(|word| word.strip_prefix(&prefix)).map(|value| value.parse().unwrap())
}

fn ids(words: &[&str], key: &str) -> Option<Vec<BrokerId>> {
    let list: String = option(words, key)?;
    Some(list.split(',').map(|id| BrokerId(id.parse().unwrap())).collect())
}
