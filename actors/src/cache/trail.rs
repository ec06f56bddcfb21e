//! Why content is not cached, and what was fetched of it, for those who ask about one file.
//!
//! Invariants:
//! - What is kept is bounded: each content has one place among many and shares it, so that what happened last to one of
//!   them is remembered, and of the others nothing. An answer is never one of another content.
//! - Nothing is noted on a hit. A refusal or an eviction costs one store, a fetch from a store one look under a mutex.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_core::{FileId, Key};

use super::page::ContentKey;

/// Contents of which each tier remembers what became of them: 64 KiB.
const CONTENTS: usize = 8192;

/// Names of which it is remembered what was fetched: 128 KiB.
const NAMES: usize = 4096;

/// Bits of a place that hold the cause; the place's number has the bits of the fingerprint that are missing.
const CAUSE_BITS: u64 = 0xff;

/// Why a tier does not have a content, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cause {
    Evicted = 1,
    Reclaimed,
    Expired,
    Dropped,
    Damaged,
    Admission,
    Full,
    Quota,
    Epoch,
    Queue,
    Disk,
}

impl Cause {
    const ALL: [Self; 11] = [
        Self::Evicted,
        Self::Reclaimed,
        Self::Expired,
        Self::Dropped,
        Self::Damaged,
        Self::Admission,
        Self::Full,
        Self::Quota,
        Self::Epoch,
        Self::Queue,
        Self::Disk,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Evicted => "evicted to make room",
            Self::Reclaimed => "its segment was reclaimed to make room",
            Self::Expired => "it became older than its ttl",
            Self::Dropped => "freed, or replaced",
            Self::Damaged => "what was there could not be read back as written",
            Self::Admission => "not admitted: wanted once only, while the tier is above its low watermark",
            Self::Full => "refused: nothing makes room for it",
            Self::Quota => "refused: its rule's quota is full",
            Self::Epoch => "refused: its data set has all the room it may have",
            Self::Queue => "refused: too much waited for the disk",
            Self::Disk => "refused: the disk failed, or has no room beside the cache",
        })
    }
}

/// What became last of the contents of one tier.
pub(super) struct Trail(Box<[AtomicU64]>);

impl Trail {
    pub(super) fn new() -> Self {
        Self((0..CONTENTS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn note(&self, content: ContentKey, cause: Cause) {
        let fingerprint = content.fingerprint();
        self.place(fingerprint).store(fingerprint & !CAUSE_BITS | cause as u64, Ordering::Relaxed);
    }

    /// What became of a content, if that is still known.
    pub(super) fn find(&self, content: ContentKey) -> Option<Cause> {
        let fingerprint = content.fingerprint();
        let noted = self.place(fingerprint).load(Ordering::Relaxed);
        let is_it = noted & !CAUSE_BITS == fingerprint & !CAUSE_BITS;
        Cause::ALL.into_iter().find(|cause| is_it && noted & CAUSE_BITS == *cause as u64)
    }

    fn place(&self, fingerprint: u64) -> &AtomicU64 {
        &self.0[fingerprint as usize % CONTENTS]
    }
}

/// What was fetched last under each name.
pub(super) struct Fetches(Mutex<Box<[Fetched]>>);

/// What was fetched of one content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fetched {
    name: u64,
    content: u64,
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

/// A file's name, with the content that it stands for now.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    name: u64,
    content: u64,
}

/// What is known of what was fetched under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    OtherContent,
    This(Fetched),
}

impl Named {
    pub(super) fn new(mount: &str, key: &Key, content: ContentKey) -> Self {
        let name = FileId::of(&[mount.as_bytes(), key.as_str().as_bytes()]).as_u128() as u64;
        Self { name, content: content.fingerprint() }
    }
}

impl Fetches {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![Fetched::default(); NAMES].into_boxed_slice()))
    }

    /// A request for `bytes` went to the store.
    pub(super) fn note(&self, named: Named, bytes: u64) {
        let mut places = self.places();
        let place = &mut places[named.name as usize % NAMES];
        if (place.name, place.content) != (named.name, named.content) {
            *place = Fetched { name: named.name, content: named.content, requests: 0, bytes: 0 };
        }
        place.requests += 1;
        place.bytes += bytes;
    }

    pub(super) fn find(&self, named: Named) -> Known {
        let place = self.places()[named.name as usize % NAMES];
        match (place.name == named.name, place.content == named.content) {
            (true, true) => Known::This(place),
            (true, false) => Known::OtherContent,
            (false, _) => Known::Nothing,
        }
    }

    fn places(&self) -> MutexGuard<'_, Box<[Fetched]>> {
        // Each change is a few assignments of which none can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_cause_is_found_and_never_that_of_another_content() {
        let trail = Trail::new();
        let content = |number: u128| ContentKey::from_bits(number);
        for cause in Cause::ALL {
            trail.note(content(5), cause);
            assert_eq!(trail.find(content(5)), Some(cause));
        }
        assert_eq!(trail.find(content(6)), None);
        let same_place = content(5 + 3 * CONTENTS as u128);
        assert_eq!(trail.find(same_place), None);
        trail.note(same_place, Cause::Full);
        assert_eq!((trail.find(same_place), trail.find(content(5))), (Some(Cause::Full), None));
    }

    #[test]
    fn fetches_are_counted_for_one_content_of_a_name() {
        let (fetches, key) = (Fetches::new(), Key::parse("a/b").expect("a key"));
        let named = |bits| Named::new("/m", &key, ContentKey::from_bits(bits));
        assert_eq!(fetches.find(named(1)), Known::Nothing);
        fetches.note(named(1), 10);
        fetches.note(named(1), 5);
        assert!(matches!(fetches.find(named(1)), Known::This(Fetched { requests: 2, bytes: 15, .. })));
        assert_eq!(fetches.find(named(2)), Known::OtherContent);
        fetches.note(named(2), 1);
        assert!(matches!(fetches.find(named(2)), Known::This(Fetched { requests: 1, bytes: 1, .. })));
    }
}
