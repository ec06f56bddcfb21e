//! The writer: takes pages off the queue and puts them on the disk, one after the other, on blocking threads, once what
//! an earlier run left is back.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use forebay_core::METRICS;
use prometheus::IntGauge;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

use super::{NvmeTier, SparseFile};
use crate::cache::class::Class;
use crate::cache::page::PageKey;

/// Complete files read back at once.
const VERIFICATIONS: usize = 2;

/// Small objects written together.
const BATCH_OBJECTS: usize = 256;

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
    gauges: WaitingGauges,
}

/// What waits for the disk.
#[derive(Clone)]
pub(super) struct WaitingGauges {
    pages: IntGauge,
    bytes: IntGauge,
}

impl WaitingGauges {
    pub(super) fn new() -> Self {
        Self {
            pages: METRICS.cache_write_queue.with_label_values(&["nvme"]),
            bytes: METRICS.cache_write_queue_bytes.with_label_values(&["nvme"]),
        }
    }
}

impl Waiting {
    pub(super) fn new(offer: Offer, gauges: &WaitingGauges) -> Self {
        gauges.pages.inc();
        gauges.bytes.add(offer.bytes.len() as i64);
        Self { offer, tried: None, gauges: gauges.clone() }
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
        self.gauges.pages.dec();
        self.gauges.bytes.sub(self.offer.bytes.len() as i64);
    }
}

/// Runs until the tier is gone.
pub(super) async fn run(tier: Weak<NvmeTier>, mut queue: mpsc::Receiver<Waiting>) {
    if !is_restored(&tier).await {
        return;
    }
    let mut verifications = JoinSet::new();
    while let Some(waiting) = queue.recv().await {
        let Some(tier) = tier.upgrade() else { return };
        let class = Arc::clone(&waiting.offer.class);
        let Ok(written) = tier.in_background(move |tier| tier.write(&waiting.offer)).await else {
            // A panic costs the page it happened in; its message is in the log.
            class.tally().nvme.refused_disk.inc();
            continue;
        };
        let Some(complete) = written else { continue };
        if verifications.len() >= VERIFICATIONS {
            verifications.join_next().await;
        }
        verifications.spawn_blocking(move || tier.verify(&complete));
    }
}

/// Packs small objects, as many at a time as wait. Runs until the tier is gone.
pub(super) async fn pack(tier: Weak<NvmeTier>, mut queue: mpsc::Receiver<Waiting>) {
    if !is_restored(&tier).await {
        return;
    }
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_OBJECTS).await > 0 {
        let Some(tier) = tier.upgrade() else { return };
        let waiting = std::mem::take(&mut batch);
        // A panic costs the batch it happened in; its message is in the log.
        let write = move |tier: &NvmeTier| tier.write_packed(waiting.iter().map(|waiting| &waiting.offer));
        tier.in_background(write).await.unwrap_or_default();
    }
}

/// Waits until what an earlier run left is back; `false` when the tier is gone.
async fn is_restored(tier: &Weak<NvmeTier>) -> bool {
    let Some(mut restored) = tier.upgrade().map(|tier| tier.restored.subscribe()) else { return false };
    restored.wait_for(|is_restored| *is_restored).await.is_ok()
}

/// Reads complete files of earlier runs back, so that they can be lent whole. Runs until the tier is gone.
pub(super) async fn examine(tier: Weak<NvmeTier>, mut queue: mpsc::Receiver<Arc<SparseFile>>) {
    while let Some(file) = queue.recv().await {
        let Some(tier) = tier.upgrade() else { return };
        // A panic costs the loan of this file.
        spawn_blocking(move || tier.verify(&file)).await.unwrap_or_default();
    }
}

/// Unlinks files that were dropped where nobody may wait for the disk. Runs until the tier is gone.
pub(super) async fn remove(tier: Weak<NvmeTier>, mut queue: mpsc::UnboundedReceiver<Arc<SparseFile>>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_OBJECTS).await > 0 {
        let Some(tier) = tier.upgrade() else { return };
        let files = std::mem::take(&mut batch);
        // A panic leaves names that no restart knows, and that it removes.
        let unlink = move |_: &NvmeTier| files.iter().for_each(|file| file.unlink());
        tier.in_background(unlink).await.unwrap_or_default();
    }
}
