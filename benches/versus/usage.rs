//! What a process has used so far, from `/proc`.

use anyhow::{Context, Result};

/// Clock ticks in a second: `USER_HZ`, 100 on every Linux that Kafka runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds of a process, user and system.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may have spaces.
    let (_, fields) = stat.rsplit_once(") ").context("process name")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("field")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The most memory that a process has had resident, in bytes.
pub fn peak_resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).context("VmHWM")?;
    Ok(kibibytes.parse::<u64>()? << 10)
}
