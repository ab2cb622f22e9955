//! `cargo bench --bench versus`: lockstep against a stock Kafka replica in the same run, on this
//! machine. Ratios count; absolute numbers are those of the machine. Needs what `tests/support`
//! needs; logs belong on a RAM disk: `LOCKSTEP_TEST_DIR=/dev/shm`.

#[path = "../../tests/support/mod.rs"]
mod support;

mod catch_up;
mod gateway;
mod latency;
mod load;
mod usage;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo bench --bench versus -- [catch-up|latency|gateway] [--gib N] \
    [--rounds N] [--records N] [--daemon BINARY]";

/// What is asked for on the command line.
struct Wanted {
    catch_up: bool,
    latency: bool,
    gateway: bool,
    gib: f64,
    rounds: usize,
    records: u32,
    /// Another build of the daemon, to compare two of them.
    daemon: String,
}

fn main() -> Result<()> {
    let wanted = Wanted::parse(std::env::args().skip(1))?;
    if wanted.catch_up {
        catch_up::run(&wanted.daemon, wanted.gib, wanted.rounds)?;
    }
    if wanted.latency {
        latency::run(&wanted.daemon, wanted.rounds, wanted.records)?;
    }
    if wanted.gateway {
        gateway::run(&wanted.daemon, wanted.gib, wanted.rounds, wanted.records)?;
    }
    Ok(())
}

impl Wanted {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut wanted = Self {
            catch_up: false,
            latency: false,
            gateway: false,
            gib: 2.0,
            rounds: 3,
            records: 1000,
            daemon: env!("CARGO_BIN_EXE_lockstep").to_owned(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context(USAGE);
            match argument.as_str() {
                "catch-up" => wanted.catch_up = true,
                "latency" => wanted.latency = true,
                "gateway" => wanted.gateway = true,
                "--gib" => wanted.gib = value()?.parse()?,
                "--rounds" => wanted.rounds = value()?.parse()?,
                "--records" => wanted.records = value()?.parse()?,
                "--daemon" => wanted.daemon = value()?,
                // Cargo says it to every bench.
                "--bench" => {}
                _ => bail!(USAGE),
            }
        }
        if !wanted.catch_up && !wanted.latency && !wanted.gateway {
            (wanted.catch_up, wanted.latency, wanted.gateway) = (true, true, true);
        }
        Ok(wanted)
    }
}

/// The middle one; of an even count the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
