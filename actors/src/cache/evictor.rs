//! The evictors: actors that bring a tier from its high watermark down to its low one.
//!
//! Invariants:
//! - Everything they know lies in the tiers, so a restarted evictor goes on where the last one stopped.
//! - The signal that wakes them is a level, not a queue: at most one message waits.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::memory::MemoryTier;
use super::nvme::NvmeTier;
use super::sync::atomic::{AtomicBool, Ordering};

/// Pages evicted between two yields to the runtime.
const BATCH_PAGES: usize = 32;

/// The tier is above its high watermark.
pub(super) struct Wake;

/// Tells the evictor, if there is one, that its tier is above the high watermark.
#[derive(Default)]
pub(super) struct Pressure {
    is_raised: AtomicBool,
    evictor: ArcSwapOption<ActorRef<Wake>>,
}

impl Pressure {
    pub(super) fn raise(&self) {
        if self.is_raised.load(Ordering::Relaxed) || self.is_raised.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(evictor) = &*self.evictor.load() {
            // A dead evictor's successor looks at the level when it attaches.
            evictor.cast(Wake).unwrap_or_default();
        }
    }

    fn attach(&self, evictor: &ActorRef<Wake>) -> Result<(), ActorProcessingErr> {
        self.evictor.store(Some(Arc::new(evictor.clone())));
        Ok(evictor.cast(Wake)?)
    }

    /// Called before looking at the level, so that a rise from here on sends a new message.
    fn lower(&self) {
        self.is_raised.store(false, Ordering::Release);
    }
}

/// Evicts pages from memory.
pub(super) struct MemoryEvictor;

impl Actor for MemoryEvictor {
    type Msg = Wake;
    type State = Arc<MemoryTier>;
    type Arguments = Arc<MemoryTier>;

    async fn pre_start(
        &self,
        _: ActorRef<Wake>,
        tier: Arc<MemoryTier>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(tier)
    }

    async fn post_start(
        &self,
        myself: ActorRef<Wake>,
        tier: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        tier.budget().pressure().attach(&myself)
    }

    async fn handle(
        &self,
        _: ActorRef<Wake>,
        Wake: Wake,
        tier: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        tier.budget().pressure().lower();
        if !tier.budget().is_above_high() {
            return Ok(());
        }
        // Counted here, because a page that a slow reader holds gives its bytes back only later: evicting more in
        // its stead would empty the tier.
        let mut goal = tier.budget().excess();
        while goal > 0 {
            for _ in 0..BATCH_PAGES {
                let Some(freed) = tier.evict_one() else { return Ok(()) };
                goal = goal.saturating_sub(freed);
                if goal == 0 {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// Evicts files from the disk.
pub(super) struct NvmeEvictor;

impl Actor for NvmeEvictor {
    type Msg = Wake;
    type State = Arc<NvmeTier>;
    type Arguments = Arc<NvmeTier>;

    async fn pre_start(
        &self,
        _: ActorRef<Wake>,
        tier: Arc<NvmeTier>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(tier)
    }

    async fn post_start(
        &self,
        myself: ActorRef<Wake>,
        tier: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        tier.budget().pressure().attach(&myself)
    }

    async fn handle(
        &self,
        _: ActorRef<Wake>,
        Wake: Wake,
        tier: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        tier.budget().pressure().lower();
        if let Some(evicted) = tier.unless_silent(NvmeTier::evict_to_low).await {
            evicted?;
        }
        Ok(())
    }
}
