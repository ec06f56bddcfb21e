//! Memory for content on its way to stores: a share of the memory budget, which all mounts take from.
//!
//! Invariants:
//! - What is read of a staged file to be sent was reserved before, as long as it is there.
//! - A mount whose store hangs leaves a part of it to each other one, by the thresholds of [`Share`]; where others have
//!   taken all, a mount has [`OWN_BYTES`] of its own for one upload at a time, beside the budget.

use std::sync::Arc;

use forebay_core::{Error, ErrorKind, METRICS};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::cache::{Held, Pool, Share};

/// What one upload of a mount may take when nothing is left: the largest object of one request, or two pieces of the
/// smallest length that all stores take.
const OWN_BYTES: u64 = 16 << 20;

/// What all mounts take from. Clones share it.
#[derive(Clone)]
pub struct UploadMemory(Arc<Pool>);

/// What one mount takes.
pub(super) struct Uploads {
    share: Arc<Share>,
    own: Semaphore,
}

/// Memory of one upload; dropping it gives it back.
pub(super) struct Room<'a> {
    pub(super) bytes: u64,
    _held: Option<Held>,
    _own: Option<SemaphorePermit<'a>>,
}

impl UploadMemory {
    /// Of `bytes` for all mounts.
    pub fn new(bytes: u64) -> Self {
        Self(Pool::new(bytes))
    }

    pub(super) fn of_mount(&self) -> Uploads {
        let gauge = METRICS.memory_reserved_bytes.with_label_values(&["uploads"]);
        Uploads { share: Share::new(&self.0, gauge), own: Semaphore::new(1) }
    }
}

impl Uploads {
    /// Most that a mount gets.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.share.limit().max(OWN_BYTES)
    }

    /// Waits for memory, of which it may be less than was asked for. Cancel-safe; bounded by whoever asks, since all
    /// that have some give it back by their deadlines.
    pub(super) async fn take(&self, bytes: u64) -> Room<'_> {
        let bytes = bytes.min(self.limit_bytes());
        loop {
            let mut freed = std::pin::pin!(self.share.freed());
            // Listens before it looks, so that nothing that happens between the two is missed.
            freed.as_mut().enable();
            if let Some(held) = self.try_take(bytes) {
                return Room { bytes, _held: Some(held), _own: None };
            }
            tokio::select! {
                own = self.own.acquire() => {
                    return Room { bytes: bytes.min(OWN_BYTES), _held: None, _own: own.ok() };
                }
                () = freed => {}
            }
        }
    }

    /// Memory, if there is as much at once.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Held> {
        self.share.take(bytes)
    }
}

/// Why a write is not sent while it arrives.
pub(super) fn no_memory() -> Error {
    Error::new(ErrorKind::Unsupported, "the memory for uploads is taken; it is sent when it is whole")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn mounts_share_it_and_each_has_a_way_of_its_own() {
        let memory = UploadMemory::new(100 * MIB);
        let (hung, other) = (memory.of_mount(), memory.of_mount());
        assert_eq!(hung.take(1000 * MIB).await.bytes, 50 * MIB, "no more than half");
        let mut held = vec![hung.take(50 * MIB).await];
        held.push(hung.take(20 * MIB).await);
        assert_eq!(held[1].bytes, OWN_BYTES, "its own");
        assert!(hung.take(20 * MIB).now_or_never().is_none());
        assert_eq!(other.take(20 * MIB).await.bytes, 20 * MIB, "of what is left");
        let mut waits = Box::pin(hung.take(20 * MIB));
        assert!(waits.as_mut().now_or_never().is_none());
        held.remove(0);
        assert_eq!(waits.await.bytes, 20 * MIB);
    }
}
