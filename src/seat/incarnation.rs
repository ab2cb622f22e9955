//! Which incarnation a process takes the seat under. One that was left by a crash may be taken on: the
//! controller then accepts us at once, and leadership stays where it was. It is poison after a clean
//! stop, under other addresses and in two processes, so it is kept in a file under a lock, together
//! with all that must not have changed, and taken away before the seat is left.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::registration::AdvertisedListener;
use crate::types::{BrokerId, Uuid};

const LOCK_FILE: &str = "lock";
const FILE: &str = "incarnation.json";
/// Written under this name first.
const NEW_FILE: &str = "incarnation.json.new";
const SCHEMA: u32 = 1;
/// Differs after each start of the machine: a file that was copied to another one, or restored, is
/// never taken for a process that just crashed here.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Trouble with the directory: the daemon goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process holds the lock.
    #[error("{0} is locked by another process; give each daemon a daemon.state_dir of its own")]
    Locked(PathBuf),
    /// The machine does not say when it started.
    #[error("{BOOT_ID} cannot be read, so a crash cannot be told from another machine")]
    NoBootId,
}

/// What must be the same for an incarnation to be taken on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    schema: u32,
    boot_id: String,
    cluster_id: String,
    broker_id: i32,
    /// Listener names with their addresses.
    listeners: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    incarnation: String,
    #[serde(flatten)]
    circumstances: Circumstances,
}

/// The directory of a running process.
#[derive(Debug)]
pub struct StateDir {
    directory: PathBuf,
    /// Held as long as the process lives.
    _lock: File,
}

/// An incarnation and where it is kept.
#[derive(Debug)]
pub struct Incarnation {
    /// Its id.
    pub id: Uuid,
    /// Whether a process before us had it.
    pub is_taken_on: bool,
    kept_in: Option<StateDir>,
}

impl Circumstances {
    /// Those of this process.
    pub fn here(
        cluster_id: &str,
        id: BrokerId,
        listeners: &[AdvertisedListener],
    ) -> Result<Self, StateDirError> {
        let boot_id = std::fs::read_to_string(BOOT_ID).map_err(|_error| StateDirError::NoBootId)?;
        let mut listeners: Vec<_> = listeners
            .iter()
            .map(|l| format!("{} {} {}", l.name, l.endpoint, l.security_protocol))
            .collect();
        listeners.sort();
        Ok(Self {
            schema: SCHEMA,
            boot_id: boot_id.trim().to_owned(),
            cluster_id: cluster_id.to_owned(),
            broker_id: id.0,
            listeners,
        })
    }
}

impl Incarnation {
    /// A new one that is kept nowhere.
    pub fn unkept() -> Self {
        Self { id: Uuid::new_v4(), is_taken_on: false, kept_in: None }
    }

    /// The one that a crashed process left in `directory` under the same circumstances, else a new
    /// one; kept there from now on.
    pub fn kept(directory: &Path, circumstances: Circumstances) -> Result<Self, StateDirError> {
        let kept_in = StateDir::open(directory)?;
        let left = kept_in.read().filter(|stored| stored.circumstances == circumstances);
        let left = left.and_then(|stored| stored.incarnation.parse().ok());
        let (id, is_taken_on) = left.map_or_else(|| (Uuid::new_v4(), false), |id| (id, true));
        kept_in.write(&Stored { incarnation: id.to_string(), circumstances })?;
        Ok(Self { id, is_taken_on, kept_in: Some(kept_in) })
    }

    /// Takes it away: nobody may take it on after the controller has heard that we want to go.
    pub fn forget(&self) -> Result<(), StateDirError> {
        self.kept_in.as_ref().map_or(Ok(()), StateDir::remove)
    }
}

impl StateDir {
    fn open(directory: &Path) -> Result<Self, StateDirError> {
        std::fs::create_dir_all(directory).map_err(at(directory))?;
        let path = directory.join(LOCK_FILE);
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::Locked(path)),
            Err(TryLockError::Error(error)) => Err(StateDirError::Io { path, error }),
        }
    }

    /// What a process before us left; anything that cannot be understood is as good as nothing.
    fn read(&self) -> Option<Stored> {
        let text = std::fs::read(self.directory.join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, stored: &Stored) -> Result<(), StateDirError> {
        let (path, new) = (self.directory.join(FILE), self.directory.join(NEW_FILE));
        let text = serde_json::to_vec(stored)
            .map_err(|error| StateDirError::Io { path: new.clone(), error: error.into() })?;
        let mut file = File::create(&new).map_err(at(&new))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(at(&new))?;
        std::fs::rename(&new, &path).map_err(at(&path))
    }

    fn remove(&self) -> Result<(), StateDirError> {
        let path = self.directory.join(FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StateDirError::Io { path, error })
            }
            _ => Ok(()),
        }
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StateDirError {
    let path = path.to_owned();
    move |error| StateDirError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Endpoint;

    fn circumstances(port: u16) -> Circumstances {
        let listener = AdvertisedListener {
            name: "PLAINTEXT".to_owned(),
            endpoint: Endpoint { host: "here".to_owned(), port },
            security_protocol: 0,
        };
        Circumstances::here("cluster", BrokerId(9001), &[listener]).unwrap()
    }

    #[test]
    fn a_crash_leaves_an_incarnation_and_a_clean_stop_none() {
        let directory = tempfile::tempdir().unwrap();
        let first = Incarnation::kept(directory.path(), circumstances(1)).unwrap();
        let id = first.id;
        drop(first);
        let second = Incarnation::kept(directory.path(), circumstances(1)).unwrap();
        assert!(second.is_taken_on && second.id == id);
        second.forget().unwrap();
        drop(second);
        let third = Incarnation::kept(directory.path(), circumstances(1)).unwrap();
        assert!(!third.is_taken_on && third.id != id);
    }

    #[test]
    fn other_circumstances_make_another_incarnation() {
        let directory = tempfile::tempdir().unwrap();
        let mut ids = Vec::new();
        for changed in 0..4 {
            let mut circumstances = circumstances(if changed == 0 { 1 } else { 2 });
            match changed {
                2 => circumstances.boot_id = "another".to_owned(),
                3 => circumstances.cluster_id = "another".to_owned(),
                _ => {}
            }
            let incarnation = Incarnation::kept(directory.path(), circumstances).unwrap();
            assert!(!incarnation.is_taken_on && !ids.contains(&incarnation.id));
            ids.push(incarnation.id);
        }
        std::fs::write(directory.path().join(FILE), "garbage").unwrap();
        assert!(!Incarnation::kept(directory.path(), circumstances(1)).unwrap().is_taken_on);
    }

    #[test]
    fn a_directory_serves_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Incarnation::kept(directory.path(), circumstances(1)).unwrap();
        let second = Incarnation::kept(directory.path(), circumstances(1));
        assert!(matches!(second, Err(StateDirError::Locked(_))), "{second:?}");
    }
}
