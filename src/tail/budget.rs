//! A budget for record bytes. What was read is paid for until its last slice is gone, wherever that
//! slice went: the permit lives in the bytes themselves.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit of the semaphore stands for.
const UNIT: usize = 1024;

/// Record bytes held at any time, over all links.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total: usize,
}

/// Bytes set aside for an answer that is still to come.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

struct Paid {
    bytes: BytesMut,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl MemoryBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), total: units * UNIT }
    }

    /// All of it, in bytes.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes in use or set aside.
    pub fn used(&self) -> usize {
        self.total - self.units.available_permits() * UNIT
    }

    /// Waits until `bytes` can be set aside; more than the whole budget counts as the whole, so
    /// that one answer larger than the budget still passes, alone.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let units = units_for(bytes.min(self.total));
        let permit = match Arc::clone(&self.units).acquire_many_owned(units).await {
            Ok(permit) => permit,
            // The semaphore is never closed: it has no owner that would.
            Err(_closed) => unreachable!("the budget is never closed"),
        };
        Reservation { permit }
    }
}

impl Reservation {
    /// Gives back what an answer did not need and ties the rest to the life of its bytes.
    pub fn pay_for(self, bytes: BytesMut) -> Bytes {
        let mut permit = self.permit;
        let surplus = permit.num_permits().saturating_sub(units_for(bytes.capacity()) as usize);
        drop(permit.split(surplus));
        Bytes::from_owner(Paid { bytes, _permit: permit })
    }
}

fn units_for(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_paid_for_until_the_last_slice_is_gone() {
        let budget = MemoryBudget::new(64 * 1024);
        let reservation = budget.reserve(32 * 1024).await;
        assert_eq!(budget.used(), 32 * 1024);
        let bytes = reservation.pay_for(BytesMut::zeroed(4096));
        assert_eq!(budget.used(), 4096);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.used(), 4096);
        drop(slice);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn an_answer_above_the_whole_budget_passes_alone() {
        let budget = MemoryBudget::new(4096);
        let held = budget.reserve(1 << 30).await;
        assert_eq!(budget.used(), 4096);
        drop(held.pay_for(BytesMut::zeroed(1 << 20)));
        assert_eq!(budget.used(), 0);
    }
}
