//! The version matrix: `.ci/matrix` runs it (`docs/CONTRIBUTING.md`). Each line of its output is a row
//! of the table in `docs/PROTOCOL.md`.
//!
//! `cargo test --test matrix -- [DESTINATION:SOURCE]...`; without arguments all cells.

// A program, and clippy takes only `#[test]` functions for tests.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

#[path = "matrix/cell.rs"]
mod cell;
mod support;

use std::process::ExitCode;
use std::time::Instant;

use cell::Cell;
use support::workspace::Workspace;

const NEWEST: &str = "4.3.1";
const DESTINATIONS: [&str; 6] = ["3.7.2", "3.9.1", "4.0.0", "4.1.1", "4.2.0", NEWEST];
/// 2.8 with ZooKeeper.
const SOURCES: [&str; 2] = ["2.8.2", "3.9.1"];

fn main() -> ExitCode {
    let of_newest = DESTINATIONS.map(|destination| Cell { destination, source: NEWEST });
    let to_newest = SOURCES.map(|source| Cell { destination: NEWEST, source });
    let wanted: Vec<_> = std::env::args().skip(1).collect();
    let name = |cell: &Cell| format!("{}:{}", cell.destination, cell.source);
    let cells = of_newest.into_iter().chain(to_newest);
    let cells: Vec<_> =
        cells.filter(|cell| wanted.is_empty() || wanted.contains(&name(cell))).collect();
    if cells.is_empty() {
        eprintln!("no such cell: {wanted:?}");
        return ExitCode::from(2);
    }
    println!("| destination | source | result | seconds |\n|---|---|---|---|");
    let mut all_held = true;
    for cell in cells {
        let began = Instant::now();
        let outcome = play(cell);
        let told = outcome.as_ref().map_or_else(|error| format!("{error:#}"), |()| "holds".into());
        let seconds = began.elapsed().as_secs();
        println!("| {} | {} | {told} | {seconds} |", cell.destination, cell.source);
        all_held &= outcome.is_ok();
    }
    ExitCode::from(u8::from(!all_held))
}

fn play(cell: Cell) -> anyhow::Result<()> {
    let mut workspace = Workspace::new("matrix")?;
    let outcome = cell.play(env!("CARGO_BIN_EXE_lockstep"), &workspace);
    if outcome.is_err() {
        workspace.keep();
    }
    outcome
}
