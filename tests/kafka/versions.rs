//! One old destination on every run; `.ci/matrix` plays the others.

use crate::cell::Cell;
use crate::support::scenario;

#[test]
fn the_oldest_destination_mirrors_the_newest_source() {
    let cell = Cell { destination: "3.7.2", source: "4.3.1" };
    scenario("versions", |workspace| cell.play(env!("CARGO_BIN_EXE_lockstep"), workspace));
}
