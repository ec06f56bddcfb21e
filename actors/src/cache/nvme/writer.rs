//! The writer: takes pages off the queue and puts them on the disk, one after the other, on blocking threads.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

use super::NvmeTier;
use crate::cache::class::Class;
use crate::cache::page::PageKey;

/// Complete files read back at once.
const VERIFICATIONS: usize = 2;

/// A page for the disk. Its bytes hold their reservation in memory until it is written.
pub(in crate::cache) struct Offer {
    pub(in crate::cache) key: PageKey,
    pub(in crate::cache) class: Arc<Class>,
    pub(in crate::cache) size_bytes: u64,
    pub(in crate::cache) bytes: Bytes,
}

/// An offer on its way.
pub(super) struct Waiting {
    pub(super) offer: Offer,
    /// Dropped with the offer, once the page is on the disk or refused.
    tried: Option<oneshot::Sender<()>>,
    gauge: IntGauge,
}

impl Waiting {
    pub(super) fn new(offer: Offer, gauge: &IntGauge) -> Self {
        gauge.inc();
        Self { offer, tried: None, gauge: gauge.clone() }
    }

    /// The same, and how to wait until it was tried.
    pub(super) fn followed(mut self) -> (Self, oneshot::Receiver<()>) {
        let (tried, done) = oneshot::channel();
        self.tried = Some(tried);
        (self, done)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Runs until the tier is gone.
pub(super) async fn run(tier: Weak<NvmeTier>, mut queue: mpsc::Receiver<Waiting>) {
    let mut verifications = JoinSet::new();
    while let Some(waiting) = queue.recv().await {
        let Some(tier) = tier.upgrade() else { return };
        let writer = Arc::clone(&tier);
        let Ok(written) = spawn_blocking(move || writer.write(&waiting.offer)).await else {
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
