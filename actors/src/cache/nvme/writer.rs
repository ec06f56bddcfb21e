//! The writer: takes pages off the queue and puts them on the disk, one after the other, on blocking threads.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

use super::NvmeTier;
use crate::cache::page::PageKey;

/// Complete files read back at once.
const VERIFICATIONS: usize = 2;

/// A page for the disk. Its bytes hold their reservation in memory until it is written.
pub(super) struct Offer {
    pub(super) key: PageKey,
    pub(super) size_bytes: u64,
    pub(super) bytes: Bytes,
    /// Dropped with the offer, once the page is on the disk or refused.
    pub(super) _tried: Option<oneshot::Sender<()>>,
}

/// Runs until the tier is gone.
pub(super) async fn run(tier: Weak<NvmeTier>, mut queue: mpsc::Receiver<Offer>) {
    let mut verifications = JoinSet::new();
    while let Some(offer) = queue.recv().await {
        let Some(tier) = tier.upgrade() else { return };
        let writer = Arc::clone(&tier);
        let Ok(written) = spawn_blocking(move || writer.write(&offer)).await else {
            // A panic costs the page it happened in; its message is in the log.
            tier.counters.refused_disk.inc();
            continue;
        };
        let Some(complete) = written else { continue };
        if verifications.len() >= VERIFICATIONS {
            verifications.join_next().await;
        }
        verifications.spawn_blocking(move || tier.verify(&complete));
    }
}
