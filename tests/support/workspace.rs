//! A directory for one test's clusters and logs: removed at the end, kept where the test failed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where workspaces are made, e.g. `/dev/shm` for benches; default: the system's.
pub const TEST_DIR: &str = "LOCKSTEP_TEST_DIR";
/// When set, every workspace is kept.
pub const KEEP: &str = "LOCKSTEP_TEST_KEEP";

/// A temporary directory that survives a panic, so that logs of a failure can be read.
#[derive(Debug)]
pub struct Workspace {
    directory: Option<TempDir>,
    path: PathBuf,
    keep: bool,
}

impl Workspace {
    /// Makes a fresh directory with `name` in its name.
    pub fn new(name: &str) -> Result<Self> {
        let parent = std::env::var_os(TEST_DIR).map_or_else(std::env::temp_dir, PathBuf::from);
        std::fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("lockstep-{name}-"))
            .tempdir_in(&parent)
            .with_context(|| format!("create a directory in {}", parent.display()))?;
        Ok(Self {
            path: directory.path().to_owned(),
            directory: Some(directory),
            keep: std::env::var_os(KEEP).is_some(),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory: the test failed in a way that is not a panic.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if (self.keep || std::thread::panicking())
            && let Some(directory) = self.directory.take()
        {
            eprintln!("kept for reading: {}", directory.keep().display());
        }
    }
}
