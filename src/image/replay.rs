//! Applies records to an image under construction, and hands out what may be seen of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::records::{self, Record, Undecodable};
use super::{Delta, Image, ImageError, Misfit};
use crate::types::Offset;

/// Replays the metadata log: one record after the other in, images and deltas out.
///
/// Of a metadata transaction (KIP-868) nothing is to be seen before its end, and of an aborted one
/// nothing ever.
#[derive(Debug, Default)]
pub struct Replay {
    image: Image,
    /// While a metadata transaction is open: the image before it, which is what may be seen.
    before_transaction: Option<Image>,
    taken: Arc<Image>,
    skipped: BTreeMap<u64, u64>,
}

impl Replay {
    /// A replay of which nothing was applied or taken yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, of a cluster with this id: the image can tell seats from other brokers.
    pub fn of_cluster(cluster_id: &str) -> Self {
        let image = Image::of_cluster(cluster_id);
        Self { taken: Arc::new(image.clone()), image, ..Self::default() }
    }

    /// Starts over: the records of a snapshot follow. The next delta still compares with what was
    /// last taken, so call [`Self::take`] only after the snapshot's last record: before it, what
    /// is yet to come seems to have vanished.
    pub fn begin_snapshot(&mut self) {
        let cluster_id = self.image.cluster_id.clone();
        self.image = Image { cluster_id, ..Image::default() };
        self.before_transaction = None;
    }

    /// Applies the value of the record at `offset`. After an error the image is as before; what
    /// follows must not be applied until [`Self::begin_snapshot`].
    pub fn apply(&mut self, offset: Offset, value: &[u8]) -> Result<(), ImageError> {
        let record = records::decode(value).map_err(|cause| undecodable(offset, cause))?;
        self.replay(record).map_err(|misfit| ImageError::Misfit { offset, misfit })
    }

    /// The image, and what changed in it since the last call; `None` where nothing did. Nothing of
    /// an open metadata transaction is in it.
    pub fn take(&mut self) -> Option<(Arc<Image>, Delta)> {
        let visible = self.before_transaction.as_mut().unwrap_or(&mut self.image);
        let delta = Delta::between(&self.taken, visible);
        if delta.is_empty() {
            // Equal, and yet perhaps built anew: share again, so that the next look is cheap.
            *visible = Image::clone(&self.taken);
            return None;
        }
        self.taken = Arc::new(visible.clone());
        Some((self.taken.clone(), delta))
    }

    /// How many records of each unknown key were passed over.
    pub fn skipped(&self) -> &BTreeMap<u64, u64> {
        &self.skipped
    }

    fn replay(&mut self, record: Record) -> Result<(), Misfit> {
        match record {
            Record::BeginTransaction => {
                if self.before_transaction.is_some() {
                    return Err(Misfit::TransactionOpen);
                }
                self.before_transaction = Some(self.image.clone());
            }
            Record::EndTransaction => {
                self.before_transaction.take().ok_or(Misfit::NoTransaction)?;
            }
            Record::AbortTransaction => {
                self.image = self.before_transaction.take().ok_or(Misfit::NoTransaction)?;
            }
            Record::Unknown(key) => *self.skipped.entry(key.into()).or_default() += 1,
            Record::Unused => {}
            other => self.image.apply(other)?,
        }
        Ok(())
    }
}

fn undecodable(offset: Offset, cause: Undecodable) -> ImageError {
    match cause {
        Undecodable::Malformed(malformed) => ImageError::Malformed { offset, malformed },
        Undecodable::Version { name, key, version, newest } => {
            ImageError::UnknownVersion { offset, name, key, version, newest }
        }
    }
}
