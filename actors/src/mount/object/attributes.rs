//! What a mount remembers of its entries, and how commits keep it true.
//!
//! An answer of the store is only remembered if nothing that could contradict it was committed since the request
//! was sent: requests take a [`Token`] first, commits raise the stamps of their key and its ancestors. Two commits
//! of one key that overlap leave nothing remembered, because their order at the store is not known. A commit that moves
//! or removes a whole tree at once counts as one of every key, and what a sync finds as one of its key.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use forebay_core::Entry;

use super::bounded::Bounded;
use crate::cache::{Rules, Trust};
use crate::config::Revalidate;

/// How long it is remembered that something is missing.
const MISSING_TTL: Duration = Duration::from_secs(1);

/// The shortest trust for which listings are written to the metadata store: below it they cost more than they save.
const LISTING_TTL_MIN: Duration = Duration::from_secs(5);

/// Stamps per kind of commit; keys that share one merely cost a second look at the store.
const STAMPS: usize = 4096;

/// A moment in the order of commits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token(u64);

/// How a directory exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existence {
    /// By a key below it.
    Implied,
    /// By its marker, and perhaps by keys below it.
    Marked,
    /// As a directory of its store, which gave it this number for good.
    Real(u64),
}

impl Existence {
    /// Whether it stays when the last key below it goes.
    pub(super) fn is_own(self) -> bool {
        match self {
            Self::Implied => false,
            Self::Marked | Self::Real(_) => true,
        }
    }
}

/// What a name shows to those who do not say which they mean.
pub(super) enum Found {
    /// A directory, which hides a file of the same name.
    Directory(Existence),
    /// A file.
    File(Entry),
}

/// A remembered answer of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// Nothing is there.
    Missing,
    /// This is there.
    There(T),
}

impl<T> Answer<T> {
    pub(super) fn found(self) -> Option<T> {
        match self {
            Self::Missing => None,
            Self::There(value) => Some(value),
        }
    }

    pub(super) fn of(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Self::There)
    }
}

/// How long something may be trusted.
#[derive(Clone, Copy)]
enum Ttl {
    For(Duration),
    Ever,
}

impl Ttl {
    fn of(revalidate: Revalidate) -> Self {
        match revalidate {
            Revalidate::Always => Self::For(Duration::ZERO),
            Revalidate::After(ttl) => Self::For(ttl),
            Revalidate::Never => Self::Ever,
        }
    }

    /// Whether what was said at `since` is trusted at `now`.
    fn covers(self, since: SystemTime, now: SystemTime) -> bool {
        match self {
            Self::For(ttl) => now.duration_since(since).is_ok_and(|age| age < ttl),
            Self::Ever => true,
        }
    }
}

/// How long what is said of the keys of a mount may be trusted, as it is now.
pub(super) struct Trusting {
    ttl: Ttl,
    told: Option<Arc<Trust>>,
    now: SystemTime,
}

impl Trusting {
    /// Whether what was said of `key`, or of what lies in that directory, at `since` is trusted.
    pub(super) fn covers(&self, key: &str, since: SystemTime) -> bool {
        let told = self.told.as_ref().and_then(|told| told.of(key.trim_end_matches('/')));
        told.map_or(self.ttl, Ttl::of).covers(since, self.now)
    }
}

/// One remembered answer; `None` says that nothing is there.
struct Known<T> {
    value: Option<T>,
    /// `None` once that is in doubt.
    since: Option<SystemTime>,
}

impl<T> Known<T> {
    fn new(value: Option<T>, since: SystemTime) -> Self {
        Self { value, since: Some(since) }
    }

    fn is_trusted(&self, ttl: Ttl, now: SystemTime) -> bool {
        self.since.is_some_and(|since| ttl.covers(since, now))
    }
}

/// What is remembered of one key.
#[derive(Default)]
pub(super) struct Slot {
    file: Option<Known<Entry>>,
    directory: Option<Known<Existence>>,
}

impl Slot {
    /// The file as it was known last, unless that is in doubt.
    pub(super) fn file(&self) -> Option<Answer<&Entry>> {
        self.file.as_ref().filter(|known| known.since.is_some()).map(|known| Answer::of(known.value.as_ref()))
    }

    /// Whether there was a directory as far as was known last.
    pub(super) fn is_directory(&self) -> Option<bool> {
        self.directory.as_ref().map(|known| known.value.is_some())
    }

    fn doubt_file(&mut self) {
        if let Some(known) = &mut self.file {
            known.since = None;
        }
    }
}

/// The attribute cache of one mount.
pub(super) struct AttributeCache {
    revalidate: ArcSwap<Revalidate>,
    /// What may say otherwise for parts of the mount, and what they call it.
    rules: (Arc<Rules>, Arc<str>),
    /// Directories are the store's own: keys below them neither make nor end them.
    is_hierarchical: bool,
    slots: Bounded<Slot>,
    now: AtomicU64,
    hasher: RandomState,
    written: Box<[AtomicU64]>,
    removed: Box<[AtomicU64]>,
    /// The last commit of a whole tree.
    trees: AtomicU64,
}

impl AttributeCache {
    pub(super) fn new(
        revalidate: Revalidate,
        rules: (Arc<Rules>, Arc<str>),
        limit: usize,
        is_hierarchical: bool,
    ) -> Self {
        let stamps = || (0..STAMPS).map(|_| AtomicU64::new(0)).collect();
        Self {
            revalidate: ArcSwap::from_pointee(revalidate),
            rules,
            is_hierarchical,
            slots: Bounded::new(limit),
            now: AtomicU64::new(0),
            hasher: RandomState::new(),
            written: stamps(),
            removed: stamps(),
            trees: AtomicU64::new(0),
        }
    }

    /// Exchanges how long answers may be trusted, those remembered already included.
    pub(super) fn set_revalidate(&self, revalidate: Revalidate) {
        self.revalidate.store(Arc::new(revalidate));
    }

    /// Whether answers are trusted for so long that whole listings are worth keeping. Rules have no say: they may trust a
    /// part of what is kept for less or longer.
    pub(super) fn keeps_listings(&self) -> bool {
        match Ttl::of(**self.revalidate.load()) {
            Ttl::For(ttl) => ttl >= LISTING_TTL_MIN,
            Ttl::Ever => true,
        }
    }

    /// To be taken before the store is asked.
    pub(super) fn token(&self) -> Token {
        Token(self.now.load(Ordering::Acquire))
    }

    /// The file of this key; `None` where nothing is remembered.
    pub(super) fn file(&self, key: &str, now: SystemTime) -> Option<Answer<Entry>> {
        let ttl = self.ttl(key);
        self.slots.read(key, |slot| fresh(slot.file.as_ref()?, ttl, now).cloned().map(Answer::of))?
    }

    /// The directory of this key; `None` where nothing is remembered.
    pub(super) fn directory(&self, key: &str, now: SystemTime) -> Option<Answer<Existence>> {
        let ttl = self.ttl(key);
        self.slots.read(key, |slot| fresh(slot.directory.as_ref()?, ttl, now).copied().map(Answer::of))?
    }

    /// The directory of this key, else its file; `None` where not enough is remembered.
    ///
    /// That there is no directory beside a file is trusted as long as the file is: only names that show nothing at
    /// all are looked at again each second.
    pub(super) fn any(&self, key: &str, now: SystemTime) -> Option<Answer<Found>> {
        let ttl = self.ttl(key);
        self.slots.read(key, |slot| {
            let directory = slot.directory.as_ref()?;
            if let Some(Some(existence)) = fresh(directory, ttl, now) {
                return Some(Answer::There(Found::Directory(*existence)));
            }
            let file = fresh(slot.file.as_ref()?, ttl, now)?;
            let is_missing = directory.value.is_none();
            match file {
                Some(entry) if is_missing && directory.is_trusted(ttl, now) => {
                    Some(Answer::There(Found::File(entry.clone())))
                }
                None if is_missing && fresh(directory, ttl, now).is_some() => Some(Answer::Missing),
                Some(_) | None => None,
            }
        })?
    }

    /// How long what is there may be trusted.
    fn ttl(&self, key: &str) -> Ttl {
        let (rules, mount) = &self.rules;
        Ttl::of(rules.trusted(mount, key).unwrap_or_else(|| **self.revalidate.load()))
    }

    /// The same for all keys.
    pub(super) fn trusting(&self, now: SystemTime) -> Trusting {
        let (rules, mount) = &self.rules;
        Trusting { ttl: Ttl::of(**self.revalidate.load()), told: rules.trust(mount), now }
    }

    /// The file that this key showed last, however long ago.
    pub(super) fn last_file(&self, key: &str) -> Option<Entry> {
        self.slots.read(key, |slot| slot.file.as_ref()?.value.clone())?
    }

    /// Remembers what the store said of a file to a request sent after `token` was taken; the file that was known
    /// before, if that is over now.
    pub(super) fn learn_file(
        &self,
        key: &str,
        value: Option<Entry>,
        token: Token,
        since: SystemTime,
    ) -> Option<Entry> {
        self.slots.update(key, |slot| {
            if self.stamp(&self.written, key) > token || self.stamp(&self.removed, key) > token {
                return None;
            }
            slot.file.replace(Known::new(value, since))?.value
        })
    }

    /// Remembers what the store said of a directory to a request sent after `token` was taken.
    pub(super) fn learn_directory(
        &self,
        key: &str,
        value: Option<Existence>,
        token: Token,
        since: SystemTime,
    ) {
        if key.is_empty() {
            return;
        }
        let stamps = if value.is_some() { &self.removed } else { &self.written };
        let ttl = self.ttl(key);
        self.slots.update(key, |slot| {
            let present = slot.directory.as_ref().and_then(|known| fresh(known, ttl, since).copied());
            let says_less = value == Some(Existence::Implied) && present == Some(Some(Existence::Marked));
            if self.stamp(stamps, key) <= token && !says_less {
                slot.directory = Some(Known::new(value, since));
            }
        });
    }

    /// Looks at what is remembered of one key, however old.
    pub(super) fn peek<R>(&self, key: &str, look: impl FnOnce(&Slot) -> R) -> Option<R> {
        self.slots.read(key, look)
    }

    /// Looks at all that is remembered, however old.
    pub(super) fn each(&self, look: impl FnMut(&str, &Slot)) {
        self.slots.each(look);
    }

    /// Whether nothing was committed to `key` since `token` was taken.
    pub(super) fn is_untouched(&self, key: &str, token: Token) -> bool {
        self.stamp(&self.written, key) <= token && self.stamp(&self.removed, key) <= token
    }

    /// The store has something else under `key` than was known: nothing is remembered of it, nor of answers under way.
    pub(super) fn forget(&self, key: &str) {
        let stamp = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.raise(&self.written, key, stamp);
        self.raise(&self.removed, key, stamp);
        self.slots.alter(key, |slot| *slot = Slot::default());
    }

    /// Trusts no more what is remembered of a file that turned out to be another one by now.
    pub(super) fn doubt_file(&self, key: &str) {
        self.slots.alter(key, Slot::doubt_file);
    }

    /// Announces a commit of `name` (a key, or a marker that ends in `/`), before the store is told.
    pub(super) fn change<'a>(&'a self, name: &'a str, now: SystemTime) -> Pending<'a> {
        let (key, is_marker) = match name.strip_suffix('/') {
            Some(key) => (key, true),
            None => (name, false),
        };
        Pending { cache: self, key, is_marker, token: self.token(), now, outcome: Outcome::Unknown }
    }

    /// Announces a commit of all that lies at and below the keys, before the store is told.
    pub(super) fn change_trees<'a>(&'a self, keys: &'a [&'a str]) -> PendingTrees<'a> {
        PendingTrees { cache: self, keys }
    }

    /// The last commit of this kind that concerned `key`.
    fn stamp(&self, stamps: &[AtomicU64], key: &str) -> Token {
        let own = stamps[self.index(key)].load(Ordering::Acquire);
        Token(own.max(self.trees.load(Ordering::Acquire)))
    }

    fn raise(&self, stamps: &[AtomicU64], key: &str, to: u64) {
        stamps[self.index(key)].fetch_max(to, Ordering::AcqRel);
    }

    fn index(&self, key: &str) -> usize {
        self.hasher.hash_one(key) as usize % STAMPS
    }
}

/// What is known, while it may be trusted.
fn fresh<T>(known: &Known<T>, ttl: Ttl, now: SystemTime) -> Option<&Option<T>> {
    let ttl = match (ttl, &known.value) {
        (ttl, Some(_)) => ttl,
        (Ttl::For(ttl), None) => Ttl::For(ttl.min(MISSING_TTL)),
        (Ttl::Ever, None) => Ttl::For(MISSING_TTL),
    };
    known.is_trusted(ttl, now).then_some(&known.value)
}

/// A commit under way. Dropped without an outcome (failed, cancelled), it leaves nothing remembered of its key.
pub(super) struct Pending<'a> {
    cache: &'a AttributeCache,
    key: &'a str,
    is_marker: bool,
    token: Token,
    now: SystemTime,
    outcome: Outcome,
}

enum Outcome {
    Unknown,
    WroteFile(Box<Entry>),
    WroteDirectory(Existence),
    Removed,
}

impl Pending<'_> {
    /// The file is this one now.
    pub(super) fn wrote_file(mut self, entry: &Entry) {
        self.outcome = Outcome::WroteFile(Box::new(entry.clone()));
    }

    /// The marker or directory is there now.
    pub(super) fn wrote_directory(mut self, existence: Existence) {
        self.outcome = Outcome::WroteDirectory(existence);
    }

    /// The file or marker is gone now.
    pub(super) fn removed(mut self) {
        self.outcome = Outcome::Removed;
    }

    /// Nothing else was committed to this key since the change was announced.
    fn is_alone(&self) -> bool {
        self.cache.is_untouched(self.key, self.token)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let cache = self.cache;
        let stamp = cache.now.fetch_add(1, Ordering::AcqRel) + 1;
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Unknown);
        let (has_written, has_removed) = match outcome {
            Outcome::Unknown => (true, true),
            Outcome::WroteFile(_) | Outcome::WroteDirectory(_) => (true, false),
            Outcome::Removed => (false, true),
        };
        let raise = |key: &str| {
            if has_written {
                cache.raise(&cache.written, key, stamp);
            }
            if has_removed {
                cache.raise(&cache.removed, key, stamp);
            }
        };
        let since = self.now;
        cache.slots.update(self.key, |slot| {
            let is_alone = self.is_alone();
            raise(self.key);
            if self.is_marker {
                let existence = match outcome {
                    Outcome::WroteDirectory(existence) => Some(existence),
                    Outcome::Unknown | Outcome::WroteFile(_) | Outcome::Removed => None,
                };
                slot.directory = existence.filter(|_| is_alone).map(|value| Known::new(Some(value), since));
                return;
            }
            let value = match outcome {
                Outcome::WroteFile(entry) => Some(Some(*entry)),
                Outcome::Removed => Some(None),
                Outcome::Unknown | Outcome::WroteDirectory(_) => None,
            };
            match value.filter(|_| is_alone) {
                Some(value) => slot.file = Some(Known::new(value, since)),
                None => slot.doubt_file(),
            }
        });
        for key in ancestors(self.key) {
            raise(key);
            if has_removed || cache.is_hierarchical {
                cache.slots.alter(key, |slot| {
                    slot.directory.take_if(|known| !known.value.is_some_and(Existence::is_own));
                });
            } else {
                cache.learn_directory(key, Some(Existence::Implied), self.token, since);
            }
        }
    }
}

/// A commit of whole trees under way. However it ends, it leaves nothing remembered of them.
pub(super) struct PendingTrees<'a> {
    cache: &'a AttributeCache,
    keys: &'a [&'a str],
}

impl Drop for PendingTrees<'_> {
    fn drop(&mut self) {
        let cache = self.cache;
        let stamp = cache.now.fetch_add(1, Ordering::AcqRel) + 1;
        cache.trees.fetch_max(stamp, Ordering::AcqRel);
        cache.slots.retain(|name| {
            !self.keys.iter().any(|key| {
                name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        });
        for key in self.keys.iter().flat_map(|key| ancestors(key)) {
            cache.slots.alter(key, |slot| {
                slot.directory.take_if(|known| !known.value.is_some_and(Existence::is_own));
            });
        }
    }
}

/// The directories above a key, without the root.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(cut, _)| &key[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn cache() -> AttributeCache {
        AttributeCache::new(Revalidate::Never, (Rules::in_memory(), "/m".into()), 100, true)
    }

    fn learn(cache: &AttributeCache, key: &str, inode: u64, token: Token) {
        cache.learn_directory(key, Some(Existence::Real(inode)), token, NOW);
    }

    #[test]
    fn moved_tree_leaves_nothing_remembered_at_or_below_both_names() {
        let cache = cache();
        for (inode, key) in (1..).zip(["from", "from/a/b", "fromage", "to", "to/x", "other"]) {
            learn(&cache, key, inode, cache.token());
        }
        drop(cache.change_trees(&["from", "to"]));
        let is_known = |key: &&str| cache.directory(key, NOW).is_some();
        let known: Vec<_> =
            ["from", "from/a/b", "fromage", "to", "to/x", "other"].into_iter().filter(is_known).collect();
        assert_eq!(known, ["fromage", "other"]);
    }

    #[test]
    fn answers_and_commits_that_a_moved_tree_overtook_are_not_remembered() {
        let cache = cache();
        let (token, commit) = (cache.token(), cache.change("from/d/", NOW));
        drop(cache.change_trees(&["from", "to"]));
        learn(&cache, "from/a", 1, token);
        commit.wrote_directory(Existence::Real(2));
        assert_eq!(cache.directory("from/a", NOW), None);
        assert_eq!(cache.directory("from/d", NOW), None);
        learn(&cache, "to/a", 1, cache.token());
        assert_eq!(cache.directory("to/a", NOW), Some(Answer::There(Existence::Real(1))));
    }

    #[test]
    fn directories_of_a_hierarchical_store_outlive_their_children_and_are_not_made_up() {
        let cache = cache();
        learn(&cache, "d", 7, cache.token());
        cache.learn_directory("e", None, cache.token(), NOW);
        cache.change("d/a", NOW).removed();
        assert_eq!(cache.directory("d", NOW), Some(Answer::There(Existence::Real(7))));
        cache.change("e/x/", NOW).wrote_directory(Existence::Real(8));
        assert_eq!(
            cache.directory("e", NOW),
            None,
            "it was made with its child, and its number is not known"
        );
    }
}
