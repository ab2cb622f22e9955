//! What can happen to disks: those of stopped nodes saved, put back as they were, or replaced by those
//! of another cluster; one of a running broker full.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Cluster, format};

impl Cluster {
    /// Where a broker has a partition.
    pub fn partition_dir(&self, id: i32, partition: &str) -> Result<PathBuf> {
        let disks = self.spec.disks(id, &self.node(id)?.log_dir).into_iter();
        let mut found = disks.map(|disk| disk.join(partition)).filter(|path| path.exists());
        found.next().with_context(|| format!("broker {id} has no {partition}"))
    }

    /// No file of a running broker grows beyond so many bytes any more, until it is started again:
    /// writes beyond fail, as on a full disk. Needs no rights, no mount and no second disk.
    pub fn limit_files(&self, id: i32, bytes: u64) -> Result<()> {
        let pid = self.node(id)?.pid().with_context(|| format!("node {id} does not run"))?;
        let mut command = Command::new("prlimit");
        let status = command.arg(format!("--pid={pid}")).arg(format!("--fsize={bytes}")).status();
        ensure!(status.context("run prlimit")?.success(), "prlimit of process {pid} failed");
        Ok(())
    }

    /// Copies the disks of all nodes aside; all must be stopped.
    pub fn save_disks(&self) -> Result<()> {
        for node in self.nodes.values() {
            ensure!(node.process.is_none(), "node {} runs", node.id);
            let saved = node.log_dir.with_extension("saved");
            if saved.exists() {
                std::fs::remove_dir_all(&saved)?;
            }
            copy_tree(&node.log_dir, &saved)?;
        }
        Ok(())
    }

    /// Puts back what was saved; all nodes must be stopped.
    pub fn restore_disks(&self) -> Result<()> {
        for node in self.nodes.values() {
            ensure!(node.process.is_none(), "node {} runs", node.id);
            std::fs::remove_dir_all(&node.log_dir)?;
            copy_tree(&node.log_dir.with_extension("saved"), &node.log_dir)?;
        }
        Ok(())
    }

    /// Another, empty cluster at the same addresses; all nodes must be stopped.
    pub fn replace(&mut self) -> Result<()> {
        self.cluster_id = format::random_id();
        let mut formatted: Option<std::path::PathBuf> = None;
        for node in self.nodes.values() {
            ensure!(node.process.is_none(), "node {} runs", node.id);
            std::fs::remove_dir_all(&node.log_dir)?;
            match &formatted {
                None => {
                    let release = self.spec.release_version.as_deref();
                    format::format(&self.dist, &self.cluster_id, &node.properties, release)?;
                }
                Some(formatted) => format::format_alike(formatted, &node.log_dir, node.id)?,
            }
            formatted.get_or_insert_with(|| node.log_dir.clone());
        }
        Ok(())
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
