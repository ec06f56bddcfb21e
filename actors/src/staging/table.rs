//! What a mount acknowledged and its store does not have yet: the sum of the journal's records.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use forebay_core::METRICS;
use prometheus::IntGauge;
use tokio::sync::watch;

use super::record::{Put, Record, Shown};

/// Contents whose tag at the store is another than the one that clients know. The one written longest ago is
/// forgotten first: it changes its tag once.
const SHOWN_MAX: usize = 100_000;

/// Pending writes by name, and what clients know of those that are at the store.
pub(crate) struct Table {
    /// Taken for a look or a change of some entries, never across an await.
    state: Mutex<State>,
    /// Whether there ever was anything: most mounts write through.
    is_used: AtomicBool,
    /// Counts what was applied.
    applied: watch::Sender<u64>,
    objects: IntGauge,
    bytes: IntGauge,
}

#[derive(Default)]
struct State {
    /// The writes of each name in their order; no name without any.
    pending: BTreeMap<String, VecDeque<Arc<Put>>>,
    /// These names by the number of their first write.
    oldest: BTreeMap<u64, String>,
    pending_bytes: u64,
    /// Bytes of them in the journal.
    inline_bytes: u64,
    shown: HashMap<String, Arc<Shown>>,
    /// Names in the order in which they came to `shown`; some of them twice, or gone from it.
    order: VecDeque<String>,
    last_seq: u64,
}

/// How much is pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    /// Those of them that are in the journal.
    pub(crate) inline_bytes: u64,
    /// When the first of them was written.
    pub(crate) since: Option<SystemTime>,
}

impl Table {
    pub(super) fn new(mount: &str) -> Self {
        let objects = METRICS.writeback_pending_objects.with_label_values(&[mount]);
        let bytes = METRICS.writeback_pending_bytes.with_label_values(&[mount]);
        objects.set(0);
        bytes.set(0);
        // There from the start, so that its growth is seen.
        METRICS.writeback_lost.with_label_values(&[mount]);
        let is_used = AtomicBool::new(false);
        Self { state: Mutex::default(), is_used, applied: watch::Sender::new(0), objects, bytes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record into account.
    pub(super) fn apply(&self, record: Record) {
        self.is_used.store(true, Ordering::Release);
        let mut state = self.state();
        match record {
            Record::Put(put) => state.put(*put),
            Record::Done { key, seq } => state.done(&key, seq),
            Record::Shown(shown) => state.show(shown),
        }
        self.objects.set(state.pending.len() as i64);
        self.bytes.set(state.pending_bytes as i64);
        drop(state);
        self.applied.send_modify(|count| *count += 1);
    }

    /// Everything that a journal has to hold.
    pub(super) fn live(&self) -> Vec<Record> {
        let state = self.state();
        let shown = state.shown.values().map(|shown| Record::Shown(Shown::clone(shown)));
        let mut pending: Vec<_> = state.pending.values().flatten().collect();
        pending.sort_by_key(|put| put.seq);
        shown.chain(pending.into_iter().map(|put| Record::Put(Box::new(Put::clone(put))))).collect()
    }

    /// Takes note of where the contents of `records` are now, which were live before.
    pub(super) fn relocate(&self, records: Vec<Record>) {
        let mut state = self.state();
        for record in records {
            if let Record::Put(moved) = record
                && let Some(puts) = state.pending.get_mut(&moved.key)
                && let Some(put) = puts.iter_mut().find(|put| put.seq == moved.seq)
            {
                *put = Arc::from(moved);
            }
        }
    }

    /// Whether there may be anything.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Changes whenever a record was applied.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The highest number of a write so far.
    pub(crate) fn last_seq(&self) -> u64 {
        self.state().last_seq
    }

    /// What readers of `name` see, if that is not at the store yet.
    pub(crate) fn latest(&self, name: &str) -> Option<Arc<Put>> {
        if !self.is_used() {
            return None;
        }
        self.state().pending.get(name).and_then(|puts| puts.back()).cloned()
    }

    /// The pending content of `name` with a tag.
    pub(crate) fn tagged(&self, name: &str, tag: &str) -> Option<Arc<Put>> {
        if !self.is_used() {
            return None;
        }
        self.state().pending.get(name)?.iter().rev().find(|put| put.md5 == tag).cloned()
    }

    /// All writes of a name, in their order.
    pub(crate) fn of(&self, name: &str) -> Vec<Arc<Put>> {
        self.state().pending.get(name).map(|puts| puts.iter().cloned().collect()).unwrap_or_default()
    }

    /// What clients know the present content of `name` as, if the store calls it otherwise.
    pub(crate) fn shown(&self, name: &str) -> Option<Arc<Shown>> {
        if !self.is_used() {
            return None;
        }
        self.state().shown.get(name).cloned()
    }

    /// Names that start with `prefix` and come after `after`, in order, with what readers see of them.
    pub(crate) fn listed(&self, prefix: &str, after: Option<&str>) -> Vec<Arc<Put>> {
        if !self.is_used() {
            return Vec::new();
        }
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let state = self.state();
        let names = state.pending.range::<str, _>((start, Bound::Unbounded));
        let below = names.take_while(|(name, _)| name.starts_with(prefix));
        below.filter_map(|(_, puts)| puts.back().cloned()).collect()
    }

    /// At most `limit` names with pending writes, those written longest ago first.
    pub(crate) fn names(&self, limit: usize) -> Vec<String> {
        self.state().oldest.values().take(limit).cloned().collect()
    }

    /// Whether names that start with `prefix` have pending writes.
    pub(crate) fn is_any_below(&self, prefix: &str) -> bool {
        if !self.is_used() {
            return false;
        }
        let state = self.state();
        let mut names = state.pending.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        names.next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// What clients know the contents of `name` as, and of all below it where it ends in `/`, whose tags are others at
    /// the store.
    pub(super) fn shown_at(&self, name: &str) -> Vec<Arc<Shown>> {
        if !name.ends_with('/') {
            return self.shown(name).into_iter().collect();
        }
        self.state().shown.values().filter(|shown| shown.key.starts_with(name)).cloned().collect()
    }

    /// The number of the first pending write of a name.
    pub(crate) fn first_seq(&self, name: &str) -> Option<u64> {
        self.state().pending.get(name).and_then(|puts| puts.front()).map(|put| put.seq)
    }

    /// The number of the first pending write of those whose names start with `prefix`.
    pub(crate) fn first_below(&self, prefix: &str) -> Option<u64> {
        let state = self.state();
        state.oldest.iter().find(|(_, name)| name.starts_with(prefix)).map(|(seq, _)| *seq)
    }

    pub(crate) fn backlog(&self) -> Backlog {
        let state = self.state();
        let oldest = state.oldest.values().next().and_then(|name| state.pending.get(name)?.front());
        let since = oldest.map(|put| put.modified);
        Backlog {
            objects: state.pending.len() as u64,
            bytes: state.pending_bytes,
            inline_bytes: state.inline_bytes,
            since,
        }
    }

    /// The files that pending writes lie in, with their lengths in bytes.
    pub(super) fn files(&self) -> HashMap<String, u64> {
        let state = self.state();
        let puts = state.pending.values().flatten();
        puts.filter_map(|put| Some((put.file.clone()?, put.size_bytes))).collect()
    }
}

impl State {
    fn put(&mut self, put: Put) {
        self.last_seq = self.last_seq.max(put.seq);
        self.pending_bytes += put.size_bytes;
        self.inline_bytes += put.inline_bytes();
        let puts = self.pending.entry(put.key.clone()).or_default();
        if puts.is_empty() {
            self.oldest.insert(put.seq, put.key.clone());
        }
        puts.push_back(Arc::new(put));
    }

    fn done(&mut self, key: &str, seq: u64) {
        self.last_seq = self.last_seq.max(seq);
        let Some(puts) = self.pending.get_mut(key) else { return };
        if let Some(first) = puts.front() {
            self.oldest.remove(&first.seq);
        }
        while let Some(put) = puts.pop_front_if(|put| put.seq <= seq) {
            self.pending_bytes -= put.size_bytes;
            self.inline_bytes -= put.inline_bytes();
        }
        match puts.front() {
            Some(first) => drop(self.oldest.insert(first.seq, key.to_owned())),
            None => drop(self.pending.remove(key)),
        }
    }

    fn show(&mut self, shown: Shown) {
        if self.order.len() >= 2 * SHOWN_MAX {
            let shown = &self.shown;
            self.order.retain(|name| shown.contains_key(name));
        }
        self.order.push_back(shown.key.clone());
        self.shown.insert(shown.key.clone(), Arc::new(shown));
        while self.shown.len() > SHOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.shown.remove(&oldest);
        }
    }
}
