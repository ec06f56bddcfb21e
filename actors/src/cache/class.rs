//! What operators want of the cache for a part of the namespace, and what that part takes of it.
//!
//! Every cached page and file belongs to one class: that of the longest prefix with a rule of its own, else its mount's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

/// How one class is treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Admitted at once, and not evicted while there is room for anything else.
    pub pin: bool,
    /// A data set that is read whole again and again: admitted until the quota is full, evicts none of its own.
    pub epoch: bool,
    /// Cached content is not served when it is older than this.
    pub ttl: Option<Duration>,
    /// Most bytes of the disk tier.
    pub quota_bytes: Option<u64>,
    /// Who goes first.
    pub priority: Priority,
}

/// Who goes first when something must go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    Low,
    /// As the policy says.
    #[default]
    Normal,
    /// After all others.
    High,
}

/// A part of the namespace that is treated alike.
pub struct Class {
    name: Arc<str>,
    treatment: ArcSwap<Treatment>,
    disk_bytes: AtomicU64,
}

impl Class {
    /// A class with nothing cached; `name` is its prefix, or its mount's path.
    pub fn new(name: &str, treatment: Treatment) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::from(name),
            treatment: ArcSwap::from_pointee(treatment),
            disk_bytes: AtomicU64::new(0),
        })
    }

    /// The prefix or mount.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How it is treated now.
    pub fn treatment(&self) -> Arc<Treatment> {
        self.treatment.load_full()
    }

    /// Treats it differently from now on, what is cached already included.
    pub fn set_treatment(&self, treatment: Treatment) {
        self.treatment.store(Arc::new(treatment));
    }

    /// What it takes of the disk tier, in bytes of blocks.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }
}
