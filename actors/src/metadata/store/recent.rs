//! Chunks that were looked into last, as the database has them: who finds a name here waits for no disk.
//!
//! Invariants:
//! - A chunk is here only if no change of it has been committed since it was read: what a commit touched goes before
//!   anybody is told that it is made.
//! - Chunks do not overlap, and none grows or shrinks without being put or removed: so the one that covers a name is the
//!   one that the database would find.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What they may take together, keys included.
const BYTES_MAX: usize = 4 << 20;
/// What the map itself takes for each, about.
const ENTRY_BYTES: usize = 96;

/// The chunks, by their keys.
#[derive(Default)]
pub(super) struct Recent(Mutex<Chunks>);

/// Those that were used since the halves were changed, and before: what is not used for a whole turn goes.
#[derive(Default)]
struct Chunks {
    commits: u64,
    young: Half,
    old: Half,
}

#[derive(Default)]
struct Half {
    chunks: BTreeMap<Vec<u8>, Arc<[u8]>>,
    bytes: usize,
}

/// What commits there had been when a view was opened.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

/// Keys that a change touched.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) prefixes: Vec<Vec<u8>>,
}

impl Recent {
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before the view is opened.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.chunks().commits)
    }

    /// The last chunk here whose key is at most `key`, which need not be the last that there is.
    pub(super) fn floor(&self, key: &[u8]) -> Option<(Vec<u8>, Arc<[u8]>)> {
        let mut chunks = self.chunks();
        let (young, old) = (chunks.young.floor(key), chunks.old.floor(key));
        let is_young = young.as_ref().map(|(key, _)| key) >= old.as_ref().map(|(key, _)| key);
        if is_young {
            return young;
        }
        let (key, chunk) = old?;
        chunks.old.remove(&key);
        chunks.put(key.clone(), Arc::clone(&chunk));
        Some((key, chunk))
    }

    /// Takes in a chunk as a view of `moment` had it.
    pub(super) fn keep(&self, moment: Moment, key: &[u8], chunk: &[u8]) {
        let mut chunks = self.chunks();
        if chunks.commits == moment.0 {
            chunks.put(key.to_vec(), chunk.into());
        }
    }

    /// A change was committed.
    pub(super) fn changed(&self, touched: &Touched) {
        let mut chunks = self.chunks();
        chunks.commits += 1;
        let Chunks { young, old, .. } = &mut *chunks;
        for half in [young, old] {
            for key in &touched.keys {
                half.remove(key);
            }
            for prefix in &touched.prefixes {
                while let Some(key) = half.first_of(prefix) {
                    half.remove(&key);
                }
            }
        }
    }
}

impl Chunks {
    fn put(&mut self, key: Vec<u8>, chunk: Arc<[u8]>) {
        let bytes = key.len() + chunk.len() + ENTRY_BYTES;
        if self.young.bytes + bytes > BYTES_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.remove(&key);
        self.young.bytes += bytes;
        self.young.chunks.insert(key, chunk);
    }
}

impl Half {
    fn floor(&self, key: &[u8]) -> Option<(Vec<u8>, Arc<[u8]>)> {
        let range = (Bound::Unbounded, Bound::Included(key));
        let (key, chunk) = self.chunks.range::<[u8], _>(range).next_back()?;
        Some((key.clone(), Arc::clone(chunk)))
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(chunk) = self.chunks.remove(key) {
            self.bytes -= key.len() + chunk.len() + ENTRY_BYTES;
        }
    }

    fn first_of(&self, prefix: &[u8]) -> Option<Vec<u8>> {
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let (key, _) = self.chunks.range::<[u8], _>(range).next()?;
        key.starts_with(prefix).then(|| key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(recent: &Recent, key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        recent.floor(key).map(|(key, chunk)| (key, chunk.to_vec()))
    }

    #[test]
    fn the_chunk_before_a_name_is_found_until_a_commit_touches_it() {
        let recent = Recent::default();
        for key in [b"a/1", b"a/5", b"b/1"] {
            recent.keep(recent.moment(), key, key);
        }
        assert_eq!(found(&recent, b"a/4"), Some((b"a/1".to_vec(), b"a/1".to_vec())));
        let early = recent.moment();
        recent.changed(&Touched { keys: vec![b"a/5".to_vec()], prefixes: vec![b"b/".to_vec()] });
        assert_eq!(found(&recent, b"b/2"), Some((b"a/1".to_vec(), b"a/1".to_vec())));
        recent.keep(early, b"a/5", b"as it was");
        assert_eq!(found(&recent, b"a/5").expect("there").0, b"a/1", "it may have been changed since");
        assert_eq!(found(&recent, b"a/0"), None);
    }

    #[test]
    fn what_is_used_stays_and_no_more_is_held_than_may_be() {
        let recent = Recent::default();
        let chunk = vec![0; 10_000];
        recent.keep(recent.moment(), b"used", &chunk);
        for number in 0..2000_u32 {
            recent.keep(recent.moment(), &[&b"z"[..], &number.to_be_bytes()].concat(), &chunk);
            assert_eq!(found(&recent, b"used").expect("stays").0, b"used");
            let chunks = recent.chunks();
            for half in [&chunks.young, &chunks.old] {
                let counted = half.chunks.iter().map(|(key, chunk)| key.len() + chunk.len() + ENTRY_BYTES);
                assert_eq!(half.bytes, counted.sum::<usize>());
            }
            assert!(chunks.young.bytes + chunks.old.bytes <= BYTES_MAX);
        }
    }
}
