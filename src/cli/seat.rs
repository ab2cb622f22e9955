//! `lockstep seat`: how our seat is, and leaving the destination for long.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::api::Api;
use super::{Exit, Failure, Global, Output, print};
use crate::admin::LeaveRequest;
use crate::config::Config;
use crate::mirror::report::{LeaveReport, LeaveStage, SeatReport};
use crate::seat::leave::MirrorReplicas;

/// Between looks at how far it is.
const INTERVAL: Duration = Duration::from_millis(200);
/// Longer than the daemon takes.
const DEADLINE: Duration = Duration::from_secs(180);

/// What to do with the seat.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fenced, cordoned, partitions led, and strays: replicas of topics that are no mirrors.
    Status,
    /// Leaves the destination for long: leadership and strays go to real brokers, and the seat is
    /// unregistered, so that nothing is placed on it. Through the running daemon, which ends then; with
    /// --config for a daemon that does not run.
    Leave(Arguments),
}

/// How to leave.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The file of a daemon that does not run: talks to the destination itself.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Takes the seat out of the mirrors' replicas too. They stay locked, and no daemon goes on with
    /// them by itself.
    #[arg(long)]
    leave_mirrors: bool,
}

impl Command {
    pub fn execute(&self, global: &Global) -> Result<(), Failure> {
        let api = Api::new(&global.url);
        match self {
            Self::Status => status(&api, global.output),
            Self::Leave(arguments) => match &arguments.config {
                Some(config) => leave_for_stopped(config, arguments),
                None => leave_by_daemon(&api, arguments),
            },
        }
    }
}

fn status(api: &Api, output: Output) -> Result<(), Failure> {
    let seat: SeatReport = api.ask("/v1/seat")?;
    match output {
        Output::Json => print(&format!("{}\n", serde_json::json!(seat))),
        Output::Table => print(&table(&seat)),
    }
}

fn table(seat: &SeatReport) -> String {
    let yes_no = |is_so: bool| if is_so { "yes" } else { "no" };
    let mut text = format!(
        "broker id        {}\nready            {}\nfenced           {}\ncordoned         {}\n\
         partitions led   {}\nmetadata offset  {}\nstrays           {}\n",
        seat.broker_id,
        seat.reason.as_ref().map_or("yes".to_owned(), |reason| format!("no: {reason}")),
        yes_no(seat.fenced),
        yes_no(seat.cordoned),
        seat.partitions_led,
        seat.metadata_offset,
        seat.strays.len(),
    );
    for stray in &seat.strays {
        let (topic, partition, replicas) = (&stray.topic, stray.partition, &stray.replicas);
        text.push_str(&format!("  {topic}-{partition} on {replicas:?}: {}\n", stray.state));
    }
    if let Some(leaving) = &seat.leaving {
        text.push_str(&format!("leaving          {}\n", leaving.stage));
    }
    text
}

fn leave_for_stopped(config: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let config =
        Config::load(config).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let mirrors =
        if arguments.leave_mirrors { MirrorReplicas::Remove } else { MirrorReplicas::Keep };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::NotSo, format!("start the runtime: {error}")))?;
    let left = runtime.block_on(crate::daemon::leave_for_stopped(&config, mirrors, tell));
    left.map_err(|error| Failure::new(Exit::Refused, format!("leave the destination: {error:#}")))
}

fn leave_by_daemon(api: &Api, arguments: &Arguments) -> Result<(), Failure> {
    let request = LeaveRequest { leave_mirrors: arguments.leave_mirrors };
    api.send("/v1/seat:leave", &request)?;
    let began = Instant::now();
    let mut last: Option<LeaveStage> = None;
    while began.elapsed() < DEADLINE {
        let leaving = match api.ask::<SeatReport>("/v1/seat") {
            Ok(seat) => seat.leaving,
            Err(failure) => return ended(last, failure),
        };
        if let Some(LeaveReport { stage, reason }) = leaving
            && last != Some(stage)
        {
            tell(stage);
            last = Some(stage);
            match stage {
                LeaveStage::Left => return Ok(()),
                LeaveStage::Refused | LeaveStage::Failed => {
                    return Err(Failure::new(Exit::Refused, reason.unwrap_or_default()));
                }
                _ => {}
            }
        }
        std::thread::park_timeout(INTERVAL);
    }
    Err(Failure::new(Exit::NotSo, format!("the seat has not left within {DEADLINE:?}")))
}

/// The daemon does not answer any more.
fn ended(last: Option<LeaveStage>, failure: Failure) -> Result<(), Failure> {
    match last {
        None => Err(failure),
        Some(stage) => {
            let text = format!("the daemon ended while it was at {stage}");
            Err(Failure::new(Exit::NotSo, text)
                .advise("run `lockstep seat leave --config FILE`: it goes on from there"))
        }
    }
}

fn tell(stage: LeaveStage) {
    let text = match stage {
        LeaveStage::Refused => "refused",
        LeaveStage::HandingOver => "handing leadership over",
        LeaveStage::MovingStrays => "moving strays to real brokers",
        LeaveStage::LeavingMirrors => "leaving the mirrors' replicas",
        LeaveStage::Unregistering => "unregistering",
        LeaveStage::Left => "left",
        LeaveStage::Failed => "failed",
    };
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::report::{StrayReport, StrayState};

    #[test]
    fn strays_are_named_in_the_table() {
        let stray = StrayReport {
            topic: "own".to_owned(),
            partition: 3,
            replicas: vec![1, 9001],
            state: StrayState::Moving,
        };
        let seat = SeatReport { broker_id: 9001, strays: vec![stray], ..SeatReport::default() };
        let text = table(&seat);
        assert!(text.contains("strays           1\n  own-3 on [1, 9001]: Moving\n"), "{text}");
    }
}
