//! Formats the log directories of a KRaft cluster with Kafka's own storage tool.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use super::super::dist::Dist;

const STORAGE_TOOL: &str = "kafka.tools.StorageTool";
const META: &str = "meta.properties";

/// Formats `log_dir` as the property file says.
pub fn format(
    dist: &Dist,
    cluster_id: &str,
    properties: &Path,
    release_version: Option<&str>,
) -> Result<()> {
    let mut options = dist.logging("warn")?;
    options.push("-XX:TieredStopAtLevel=1".to_owned());
    let output = dist
        .java(&options, STORAGE_TOOL)?
        .args(["format", "--cluster-id", cluster_id, "--config"])
        .arg(properties)
        .args(release_version.into_iter().flat_map(|version| ["--release-version", version]))
        .output()
        .context("run the storage tool")?;
    ensure!(
        output.status.success(),
        "the storage tool failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Makes `log_dir` from one that the storage tool has formatted for another node of the same
/// cluster: a JVM less. Only the two identities in `meta.properties` differ between nodes.
pub fn format_alike(formatted: &Path, log_dir: &Path, node_id: i32) -> Result<()> {
    std::fs::create_dir_all(log_dir)?;
    for entry in std::fs::read_dir(formatted)? {
        let entry = entry?;
        let to = log_dir.join(entry.file_name());
        if entry.file_name() == META {
            let text = std::fs::read_to_string(entry.path())?;
            let lines = text.lines().map(|line| match line.split_once('=') {
                Some(("node.id", _)) => format!("node.id={node_id}\n"),
                Some(("directory.id", _)) => format!("directory.id={}\n", random_id()),
                _ => format!("{line}\n"),
            });
            std::fs::write(to, lines.collect::<String>())?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// A random uuid as Kafka writes it: 22 characters of URL-safe base64.
pub fn random_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits and four zero bits are 22 characters of six bits each. A first character '-' would
    // look like an option to the tools: the first bit is cleared.
    let bits = Uuid::new_v4().as_u128() & (u128::MAX >> 1);
    (0..22)
        .map(|place| {
            let shift = 122 - 6 * place;
            let six = if shift >= 0 { bits >> shift } else { bits << -shift };
            char::from(ALPHABET[(six & 63) as usize])
        })
        .collect()
}
