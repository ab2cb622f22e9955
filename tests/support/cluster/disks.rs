//! What can happen to the disks of stopped nodes: saved, put back as they were, or replaced by those
//! of another cluster.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Cluster, format};

impl Cluster {
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
