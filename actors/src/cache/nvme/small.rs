//! Small objects in the tier: what is packed, and who makes room for whom.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::NvmeTier;
use super::packed::{Object, Packed, PackedObject, Queue};
use super::record::Record;
use super::room::Refusal;
use super::steady;
use super::writer::Offer;
use crate::cache::class::Class;
use crate::cache::page::{ContentKey, PageKey};
use crate::cache::policy::{Claim, Use};
use crate::cache::trail::Cause;

/// Most files and segments that go for one batch.
const EVICTIONS_MAX: usize = 128;

/// Objects of one class for one queue.
struct Batch<'a> {
    class: &'a Arc<Class>,
    queue: Queue,
    objects: Vec<Object>,
}

impl NvmeTier {
    /// Where a content of some length goes if it is packed.
    pub(super) fn packs(&self, size_bytes: u64) -> Option<&Packed> {
        self.packed.as_ref().filter(|packed| packed.takes(size_bytes))
    }

    /// The content, if it is packed and not older than its class may be.
    pub(in crate::cache) fn find_packed(
        &self,
        key: PageKey,
        used: Use,
        class: &Arc<Class>,
    ) -> Option<PackedObject> {
        let packed = self.packed.as_ref().filter(|_| !self.health.is_silent())?;
        let (object, born_s) = packed.find(key.content, used, class)?;
        if is_expired(class, born_s) {
            class.tally().nvme.expired.inc();
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
        packed.keep_headroom(&self.budget);
        let (born_s, newcomers) = (seconds(steady::now()), packed.newcomers());
        let mut batches: Vec<Batch<'_>> = Vec::new();
        for Offer { key, class, bytes, .. } in offers.filter(|offer| !packed.contains(offer.key.content)) {
            let content = key.content;
            let queue = if packed.is_back(content) { Queue::Main } else { newcomers };
            let is_its = |batch: &Batch<'_>| batch.queue == queue && Arc::ptr_eq(batch.class, class);
            let at = batches.iter().position(is_its).unwrap_or_else(|| {
                batches.push(Batch { class, queue, objects: Vec::new() });
                batches.len() - 1
            });
            batches[at].objects.push(Object { content, born_s, bytes: bytes.clone(), from: None });
        }
        for batch in &batches {
            self.write_batch(packed, batch);
        }
    }

    fn write_batch(&self, packed: &Packed, batch: &Batch<'_>) {
        let (mut rest, mut count_max) = (&batch.objects[..], usize::MAX);
        let tally = batch.class.tally();
        while !rest.is_empty() {
            if !self.health.is_writable(self.directory.path()) {
                tally.nvme.refused_disk.inc_by(rest.len() as u64);
                return self.note_all(rest, Cause::Disk);
            }
            let (count, bytes) = packed.batch(&rest[..rest.len().min(count_max)]);
            let appended = self.reserve(bytes, batch.class, None, EVICTIONS_MAX).and_then(|mut reserved| {
                let to = (batch.class, batch.queue);
                packed.append(to, &rest[..count], &mut reserved, &self.log).map_err(Refusal::Disk)
            });
            match appended {
                Ok(done) => {
                    tally.nvme.refused_full.inc_by(done.refused as u64);
                    rest = &rest[done.objects..];
                }
                // Some may fit where all do not.
                Err(Refusal::Full | Refusal::Epoch | Refusal::Quota) if count > 1 => count_max = count / 2,
                Err(Refusal::Disk(error)) => {
                    self.note_all(rest, Cause::Disk);
                    // One failure, however many there are.
                    tally.nvme.refused_disk.inc_by(rest.len() as u64 - 1);
                    return self.refuse((rest[0].content, batch.class), &Refusal::Disk(error));
                }
                Err(refusal) => {
                    return rest
                        .iter()
                        .for_each(|object| self.refuse((object.content, batch.class), &refusal));
                }
            }
        }
    }

    fn note_all(&self, objects: &[Object], cause: Cause) {
        for object in objects {
            self.note(object.content, cause);
        }
    }

    /// Removes one segment for `claim`; whether there was one.
    pub(super) fn reclaim(&self, claim: Claim<'_>) -> bool {
        let Some(packed) = &self.packed else { return false };
        packed.reclaim(claim, &self.budget, &self.log)
    }

    /// Removes the segments' part of `excess` bytes; what it freed.
    pub(super) fn reclaim_share(&self, excess: u64) -> u64 {
        let Some(packed) = &self.packed else { return 0 };
        let before = self.budget.used();
        for _ in 0..packed.share_of(excess, before) {
            if !self.reclaim(Claim::Watermark) {
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
