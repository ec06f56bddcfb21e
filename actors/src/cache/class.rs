//! What operators want of the cache for a part of the namespace, and what that part takes of it.
//!
//! Every cached page and file belongs to one class: that of the longest prefix with a rule of its own, else its mount's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::tally::Tally;

/// A data set makes room once others were refused so large a part of what it holds, and nobody read it meanwhile.
const PASSED_OVER_DIVISOR: u64 = 2;

/// No time to live.
const FOREVER: u64 = u64::MAX;

/// How one class is treated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Treatment {
    /// Admitted at once, and not evicted while there is room for anything else.
    pub pin: bool,
    /// A data set that is read whole again and again: admitted until the quota is full, evicts none of its own.
    pub epoch: bool,
    /// Who decided on `epoch`.
    #[serde(default)]
    pub epoch_by: DecidedBy,
    /// Cached content is not served when it is older than this.
    pub ttl: Option<Duration>,
    /// Most bytes of the disk tier.
    pub quota_bytes: Option<u64>,
    /// Who goes first.
    pub priority: Priority,
}

impl Treatment {
    /// Whether a class treated so competes with all others by use alone.
    pub(super) fn is_plain(&self) -> bool {
        !self.pin && !self.epoch && self.quota_bytes.is_none() && self.priority == Priority::Normal
    }

    /// Whether what is wanted of it is put on the disk at once.
    pub(super) fn is_admitted_at_once(&self) -> bool {
        self.pin || self.epoch
    }

    /// Whether a rule or a reader says if it is a data set.
    pub(super) fn is_epoch_decided(&self) -> bool {
        self.epoch_by == DecidedBy::Rule
    }

    fn ttl_ms(&self) -> u64 {
        self.ttl.map_or(FOREVER, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(FOREVER))
    }
}

/// Who decides whether something is a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// Nobody: it is none, until its reads look like those of one.
    #[default]
    Nobody,
    /// A rule, or the request that reads it.
    Rule,
    /// The way it is read.
    Reads,
}

/// Who goes first when something must go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// That of its mount.
    tally: ArcSwap<Tally>,
    /// That of `treatment`, where each hit finds it for one load.
    ttl_ms: AtomicU64,
    /// `epoch` of `treatment`: only of a data set it matters when it was read, and the clock costs as much as a hit.
    is_epoch: AtomicBool,
    disk_bytes: AtomicU64,
    born: Instant,
    /// When it was read last as a data set, in seconds after `born`: stored once a second, loaded otherwise.
    used_s: AtomicU64,
    /// Bytes that other data sets were refused since.
    passed_over_bytes: AtomicU64,
    /// The class that this is a part of, and whose quota it takes from.
    whole: Option<(Arc<Self>, Part)>,
    /// Its parts, while there are any. Taken for a look, or to treat them differently; that of the whole first.
    parts: Mutex<Vec<Weak<Self>>>,
}

/// Why a part of a class is one.
enum Part {
    /// Single readers want it treated as a data set.
    Asked,
    /// It may be read like a data set, and is treated as one while it is.
    Read { is_data_set: AtomicBool },
}

impl Part {
    /// How such a part of what is treated so is treated.
    fn of(&self, whole: &Treatment) -> Treatment {
        match self {
            Self::Asked => {
                Treatment { epoch: true, epoch_by: DecidedBy::Rule, quota_bytes: None, ..whole.clone() }
            }
            Self::Read { is_data_set }
                if is_data_set.load(Ordering::Relaxed) && !whole.is_epoch_decided() =>
            {
                Treatment { epoch: true, epoch_by: DecidedBy::Reads, ..whole.clone() }
            }
            // With the quota, which is that of the whole: its members make room within that.
            Self::Read { .. } => whole.clone(),
        }
    }
}

impl Class {
    /// A class with nothing cached; `name` is its prefix, or its mount's path.
    pub fn new(name: &str, treatment: Treatment) -> Arc<Self> {
        Arc::new(Self::of(None, name, treatment))
    }

    fn of(whole: Option<(Arc<Self>, Part)>, name: &str, treatment: Treatment) -> Self {
        let tally = whole.as_ref().map_or_else(Tally::unclaimed, |(whole, _)| whole.tally());
        Self {
            name: Arc::from(name),
            ttl_ms: AtomicU64::new(treatment.ttl_ms()),
            is_epoch: AtomicBool::new(treatment.epoch),
            treatment: ArcSwap::from_pointee(treatment),
            tally: ArcSwap::new(tally),
            disk_bytes: AtomicU64::new(0),
            born: Instant::now(),
            used_s: AtomicU64::new(0),
            passed_over_bytes: AtomicU64::new(0),
            whole,
            parts: Mutex::default(),
        }
    }

    /// This class, if it is a data set, or else the part of it that is treated as one.
    pub(super) fn as_data_set(self: &Arc<Self>) -> Arc<Self> {
        if self.treatment().epoch {
            return Arc::clone(self);
        }
        let is_it = |part: &Self| matches!(part.whole, Some((_, Part::Asked)));
        self.part(&self.name, is_it, Part::Asked)
    }

    /// The part of it that lies below `name`, and may be read like a data set.
    pub(super) fn part_below(self: &Arc<Self>, name: &str) -> Arc<Self> {
        let is_it = |part: &Self| *part.name == *name && matches!(part.whole, Some((_, Part::Read { .. })));
        self.part(name, is_it, Part::Read { is_data_set: AtomicBool::new(false) })
    }

    fn part(self: &Arc<Self>, name: &str, is_it: impl Fn(&Self) -> bool, kind: Part) -> Arc<Self> {
        let mut parts = self.parts();
        if let Some(part) = parts.iter().filter_map(Weak::upgrade).find(|part| is_it(part)) {
            return part;
        }
        let treatment = kind.of(&self.treatment());
        let part = Arc::new(Self::of(Some((Arc::clone(self), kind)), name, treatment));
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        part
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Weak<Self>>> {
        // A push, or nothing, was under way if it is poisoned.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Treats a part as a data set, or not any more, because of how it is read.
    pub(super) fn set_read_as_data_set(&self, is_so: bool) {
        let Some((whole, Part::Read { is_data_set })) = &self.whole else { return };
        let _alone = whole.parts();
        is_data_set.store(is_so, Ordering::Relaxed);
        self.follow();
    }

    /// Treats a part as it is to be treated now; under the lock of the whole's parts.
    fn follow(&self) {
        let Some((whole, kind)) = &self.whole else { return };
        self.set_treatment(kind.of(&whole.treatment()));
    }

    /// Whether it is a part of a class.
    pub(super) fn is_part_of(&self, whole: &Arc<Self>) -> bool {
        self.whole.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, whole))
    }

    /// Whether both take from one quota.
    pub(super) fn is_kin(&self, other: &Self) -> bool {
        std::ptr::eq(self.outermost(), other.outermost())
    }

    fn outermost(&self) -> &Self {
        self.whole.as_ref().map_or(self, |(whole, _)| whole.outermost())
    }

    /// The prefix or mount.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is counted what is evicted and refused of it.
    pub(super) fn tally(&self) -> Arc<Tally> {
        self.tally.load_full()
    }

    /// Counts for a mount from now on.
    pub(super) fn set_tally(&self, tally: &Arc<Tally>) {
        self.tally.store(Arc::clone(tally));
        self.parts().iter().filter_map(Weak::upgrade).for_each(|part| part.set_tally(tally));
    }

    /// How it is treated now.
    pub fn treatment(&self) -> Arc<Treatment> {
        self.treatment.load_full()
    }

    /// Treats it differently from now on, what is cached already included.
    pub fn set_treatment(&self, treatment: Treatment) {
        self.ttl_ms.store(treatment.ttl_ms(), Ordering::Relaxed);
        self.is_epoch.store(treatment.epoch, Ordering::Relaxed);
        // What becomes a data set was not idle so far.
        self.touch();
        self.treatment.store(Arc::new(treatment));
        // A part that is made from now on has it already.
        self.parts().iter().filter_map(Weak::upgrade).for_each(|part| part.follow());
    }

    /// What it takes of the disk tier, in bytes of blocks.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Somebody reads what belongs to it: told for each open file and each page, and not for each read of one page.
    pub(super) fn touch(&self) {
        if !self.is_epoch.load(Ordering::Relaxed) {
            return;
        }
        let now = self.born.elapsed().as_secs();
        if self.used_s.load(Ordering::Relaxed) != now {
            self.used_s.store(now, Ordering::Relaxed);
        }
        if self.passed_over_bytes.load(Ordering::Relaxed) != 0 {
            self.passed_over_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Another data set was refused `bytes` for its sake.
    pub(super) fn pass_over(&self, bytes: u64) {
        self.passed_over_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether others were refused so much since it was read that what it holds is of more use to them.
    pub(super) fn is_passed_over(&self) -> bool {
        let passed_over = self.passed_over_bytes.load(Ordering::Relaxed);
        passed_over > 0 && passed_over >= self.disk_bytes() / PASSED_OVER_DIVISOR
    }

    /// How long nobody has read it.
    pub(super) fn idle(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_secs(self.used_s.load(Ordering::Relaxed)))
    }

    /// What is older than this is not served.
    pub(super) fn oldest(&self) -> Option<Instant> {
        match self.ttl_ms.load(Ordering::Relaxed) {
            FOREVER => None,
            ttl_ms => Instant::now().checked_sub(Duration::from_millis(ttl_ms)),
        }
    }

    /// Whether its quota has room for `bytes`.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.disk_bytes().saturating_add(bytes) <= self.quota_bytes()
            && self.whole.as_ref().is_none_or(|(whole, _)| whole.has_room(bytes))
    }

    /// Counts `bytes` for it, if its quota allows.
    pub(super) fn try_take(&self, bytes: u64) -> bool {
        if self.whole.as_ref().is_some_and(|(whole, _)| !whole.try_take(bytes)) {
            return false;
        }
        let quota = self.quota_bytes();
        let add = |taken: u64| taken.checked_add(bytes).filter(|sum| bytes == 0 || *sum <= quota);
        let is_taken = self.disk_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if let Some((whole, _)) = self.whole.as_ref().filter(|_| !is_taken) {
            whole.give_back(bytes);
        }
        is_taken
    }

    fn quota_bytes(&self) -> u64 {
        self.treatment.load().quota_bytes.unwrap_or(u64::MAX)
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, bytes: u64) {
        self.disk_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some((whole, _)) = &self.whole {
            whole.give_back(bytes);
        }
    }
}
