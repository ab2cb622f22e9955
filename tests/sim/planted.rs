//! Each planted bug is found, and by which check.

use lockstep::planted::{Bug, plant};

use super::processes::play;

/// Seeds within which each bug has to be found.
const WITHIN: u64 = 60;

const BUGS: [Bug; 5] = [
    Bug::UnstampedEpochs,
    Bug::WatermarkTooEarly,
    Bug::UnverifiedLogStart,
    Bug::TruncationInsideABatch,
    Bug::GuessedHistory,
];

/// Plants what the environment of this process names; a test put it there.
pub fn plant_from_environment() {
    let name = std::env::var("LOCKSTEP_SIM_BUG").unwrap_or_default();
    if let Some(&bug) = BUGS.iter().find(|bug| format!("{bug:?}") == name) {
        plant(bug);
    }
}

/// The first seed that finds the bug, and what it says. Of the faults only `faults` are played.
fn found(bug: Bug, faults: Option<&str>) -> Option<(u64, String)> {
    let name = format!("{bug:?}");
    let mut environment = vec![("LOCKSTEP_SIM_BUG", name.as_str())];
    environment.extend(faults.map(|faults| ("LOCKSTEP_SIM_FAULTS", faults)));
    (1..=WITHIN).find_map(|seed| {
        let played = play(seed, &environment);
        let text = played.output.lines().find(|line| line.starts_with("VIOLATION"));
        text.map(|text| (seed, text.to_owned()))
    })
}

fn is_found_by(bug: Bug, faults: Option<&str>, checkers: &[&str]) {
    let (seed, text) =
        found(bug, faults).unwrap_or_else(|| panic!("{bug:?} not found in {WITHIN} seeds"));
    println!("{bug:?}: seed {seed}: {text}");
    let is_expected = checkers.iter().any(|name| text.starts_with(&format!("VIOLATION {name}")));
    assert!(is_expected, "{bug:?} was found by {text}, not by {checkers:?}");
}

#[test]
fn unstamped_epochs_are_found() {
    is_found_by(Bug::UnstampedEpochs, None, &["I2 epochs", "failed follower", "I11"]);
}

#[test]
fn a_watermark_that_is_too_early_is_found() {
    is_found_by(Bug::WatermarkTooEarly, None, &["I3"]);
}

#[test]
fn an_unverified_log_start_is_found() {
    is_found_by(Bug::UnverifiedLogStart, None, &["failed follower", "I5"]);
}

#[test]
fn a_truncation_inside_a_batch_is_found() {
    // Only a replica that was left behind by a stock leader is ever told to cut.
    let faults = Some("BrokerCrash Rebalance SlowNetwork");
    is_found_by(Bug::TruncationInsideABatch, faults, &["I5", "failed follower", "I3"]);
}

#[test]
fn a_guessed_history_is_found() {
    is_found_by(Bug::GuessedHistory, None, &["I2 epochs", "I11", "failed follower"]);
}
