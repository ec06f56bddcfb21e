//! Small objects in the tier: what is packed, and who makes room for whom.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::NvmeTier;
use super::packed::{Object, Packed, PackedObject};
use super::record::Record;
use super::room::Refusal;
use super::steady;
use super::writer::Offer;
use crate::cache::budget::Reservation;
use crate::cache::class::Class;
use crate::cache::page::{ContentKey, PageKey};
use crate::cache::policy::{Claim, Use};
use crate::cache::trail::Cause;

/// Most files and segments that go for one new segment.
const EVICTIONS_MAX: usize = 128;

impl NvmeTier {
    /// Where what is offered goes; a class with a wish of its own is kept by the file, because segments do not know
    /// classes.
    pub(super) fn packs(&self, offer: &Offer) -> Option<&Packed> {
        let packed = self.packed.as_ref().filter(|packed| packed.takes(offer.size_bytes))?;
        offer.class.treatment().is_plain().then_some(packed)
    }

    /// The content, if it is packed and not older than its class may be.
    pub(in crate::cache) fn find_packed(
        &self,
        key: PageKey,
        used: Use,
        class: &Arc<Class>,
    ) -> Option<PackedObject> {
        let packed = self.packed.as_ref().filter(|_| !self.health.is_silent())?;
        let (object, born_s) = packed.find(key.content, used)?;
        if is_expired(class, born_s) {
            self.counters.expired.inc();
            self.forget_packed(key.content);
            self.note(key.content, Cause::Expired);
            return None;
        }
        Some(object)
    }

    /// The content without waiting for the disk.
    pub(in crate::cache) fn try_read_packed(&self, object: &PackedObject) -> Option<Bytes> {
        self.packed.as_ref()?.try_read(object)
    }

    /// The content; `None` when it fails or the disk does not answer in time.
    pub(in crate::cache) async fn read_packed(self: &Arc<Self>, object: PackedObject) -> Option<Bytes> {
        let tier = Arc::clone(self);
        self.health.in_turn(move || tier.packed.as_ref()?.read(&object)).await?
    }

    pub(in crate::cache) fn contains_packed(&self, content: ContentKey) -> bool {
        self.packed.as_ref().is_some_and(|packed| packed.contains(content))
    }

    /// Drops a content; whether it was packed.
    pub(super) fn forget_packed(&self, content: ContentKey) -> bool {
        let was_there = self.packed.as_ref().is_some_and(|packed| packed.forget(content));
        if was_there {
            self.log.note(Record::Unpacked { content });
        }
        was_there
    }

    /// Writes small objects. Waits for the disk.
    pub(super) fn write_packed<'a>(&self, offers: impl Iterator<Item = &'a Offer>) {
        let Some(packed) = &self.packed else { return };
        let born_s = seconds(steady::now());
        let new = offers.filter(|offer| !packed.contains(offer.key.content));
        let objects: Vec<_> = new
            .map(|offer| Object {
                content: offer.key.content,
                born_s,
                bytes: offer.bytes.clone(),
                from: None,
            })
            .collect();
        if !self.health.is_writable(self.directory.path()) {
            self.counters.refused_disk.inc_by(objects.len() as u64);
            self.note_all(&objects, Cause::Disk);
            return;
        }
        let mut rest = &objects[..];
        while let Some(next) = rest.first() {
            let is_full = packed.is_full(super::packed::record_bytes(next.bytes.len() as u32));
            let spare = if is_full { self.room_for_segment(packed) } else { None };
            match packed.append(rest, spare, &self.log) {
                Ok(done) => {
                    self.counters.refused_full.inc_by(done.refused as u64);
                    if done.objects == 0 {
                        self.counters.refused_full.inc_by(rest.len() as u64);
                        self.note_all(rest, Cause::Full);
                        return;
                    }
                    rest = &rest[done.objects..];
                }
                Err(error) => {
                    self.note_all(rest, Cause::Disk);
                    self.refuse(next.content, &Refusal::Disk(error));
                    return;
                }
            }
        }
    }

    fn note_all(&self, objects: &[Object], cause: Cause) {
        for object in objects {
            self.note(object.content, cause);
        }
    }

    /// Room for one more segment: of the form that has more of the tier.
    fn room_for_segment(&self, packed: &Packed) -> Option<Reservation> {
        let plain = Class::new("", crate::cache::class::Treatment::default());
        for _ in 0..EVICTIONS_MAX {
            if let Some(space) = self.budget.try_reserve(packed.segment_bytes()) {
                return Some(space);
            }
            let is_larger = packed.disk_bytes() * 2 >= self.budget.used();
            let of_files = || self.evict_inline(Claim::Of(&plain), None).is_some();
            let has_gone = is_larger && self.reclaim() || of_files() || self.reclaim();
            if !has_gone {
                return None;
            }
        }
        None
    }

    /// Removes one segment; whether there was one.
    pub(super) fn reclaim(&self) -> bool {
        let Some(packed) = &self.packed else { return false };
        let has_gone = packed.reclaim(&self.budget, &self.log).is_some();
        if has_gone {
            self.counters.evicted_segments.inc();
        }
        has_gone
    }

    /// Removes the segments' part of `excess` bytes; what it freed.
    pub(super) fn reclaim_share(&self, excess: u64) -> u64 {
        let Some(packed) = &self.packed else { return 0 };
        let before = self.budget.used();
        for _ in 0..packed.share_of(excess, before) {
            if !self.reclaim() {
                break;
            }
        }
        before.saturating_sub(self.budget.used())
    }
}

fn is_expired(class: &Class, born_s: u32) -> bool {
    class.oldest().is_some_and(|oldest| {
        let born = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(born_s));
        // What a clock that was put back makes younger than nothing is as old as can be.
        steady::now().duration_since(born).map_or(true, |age| age > oldest.elapsed())
    })
}

fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
