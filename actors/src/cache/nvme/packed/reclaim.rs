//! Which segment goes, what of it is carried forward, and what a restart puts back.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use forebay_core::{ByteRange, Lent};

use super::segment::{self, HEADER_BYTES, Segment, record_bytes};
use super::{Object, Packed, Place};
use crate::cache::budget::Budget;
use crate::cache::nvme::directory::reopen;
use crate::cache::nvme::log::IndexLog;
use crate::cache::page::ContentKey;
use crate::cache::trail::Cause;

/// Part of a segment that must be dead for it to go before its turn, and the most of one that is carried forward, as
/// a divisor.
const CARRIED_DIVISOR: u64 = 2;

/// Carried together.
const CARRY_BYTES: u64 = 1 << 20;

impl Packed {
    /// Removes one segment, carrying forward what deserves it as far as `budget` has room; its length, or `None` when
    /// there is none to remove. Waits for the disk.
    pub(in crate::cache::nvme) fn reclaim(&self, budget: &Arc<Budget>, log: &IndexLog) -> Option<u64> {
        let _one_at_a_time = self.reclaiming.lock().unwrap_or_else(PoisonError::into_inner);
        let (victim, is_mostly_dead) = self.victim()?;
        if let Err(error) = self.carry(&victim, is_mostly_dead, budget, log) {
            tracing::warn!(segment = %victim.path.display(), %error, "what a segment holds is not carried forward");
        }
        self.segments.remove(&victim.id);
        if victim.live_bytes() > 0 {
            self.index.retain(|place| place.segment != victim.id);
        }
        victim.unlink();
        Some(self.segment_bytes)
    }

    /// How much of `excess` bytes that must go are for segments, in whole ones: as much as they have of what is used.
    pub(in crate::cache::nvme) fn share_of(&self, excess: u64, used: u64) -> u64 {
        let share = u128::from(excess) * u128::from(self.disk_bytes()) / u128::from(used.max(1));
        let owed = self.owed_bytes.fetch_add(share as u64, Ordering::Relaxed) + share as u64;
        let whole = owed / self.segment_bytes;
        self.owed_bytes.fetch_sub(whole * self.segment_bytes, Ordering::Relaxed);
        whole
    }

    /// The deadest segment if half of it is dead, otherwise the oldest.
    fn victim(&self) -> Option<(Arc<Segment>, bool)> {
        let active = self.active().as_ref().map(|active| active.id);
        let sealed: Vec<_> = self.segments.iter().map(|segment| Arc::clone(&segment)).collect();
        let sealed = || sealed.iter().filter(|segment| Some(segment.id) != active);
        let is_dead = |segment: &&Arc<Segment>| {
            segment.dead_bytes() >= segment.end.load(Ordering::Relaxed) / CARRIED_DIVISOR
        };
        let deadest = sealed().filter(is_dead).max_by_key(|segment| segment.dead_bytes());
        let oldest = || sealed().min_by_key(|segment| segment.id);
        Some((Arc::clone(deadest.or_else(oldest)?), deadest.is_some()))
    }

    /// Writes anew what was used, or all that is alive, and forgets the rest.
    fn carry(&self, victim: &Segment, all: bool, budget: &Arc<Budget>, log: &IndexLog) -> io::Result<()> {
        let (end, limit) = (victim.end.load(Ordering::Relaxed), self.segment_bytes / CARRIED_DIVISOR);
        let (mut at, mut carried) = (0, 0);
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        while at + HEADER_BYTES as u64 <= end {
            let head = read(victim, at, HEADER_BYTES as u64)?;
            let header = segment::header(&head).ok_or(io::ErrorKind::InvalidData)?;
            let place = Place { segment: victim.id, offset: at as u32, length: header.length };
            let bytes = record_bytes(header.length);
            let uses = self.index.uses(header.content, place);
            if uses.is_some_and(|uses| all || uses > 0) && carried + bytes <= limit {
                let record = read(victim, at, bytes)?;
                if let Ok(object) = segment::verified(&record, header.content) {
                    let (content, born_s) = (header.content, header.born_s);
                    batch.push(Object { content, born_s, bytes: object, from: Some(place) });
                    (carried, batch_bytes) = (carried + bytes, batch_bytes + bytes);
                }
            } else if uses.is_some() {
                self.drop_at(header.content, place);
                self.index.trail().note(header.content, Cause::Reclaimed);
            }
            if batch_bytes >= CARRY_BYTES {
                self.append_carried(&std::mem::take(&mut batch), budget, log)?;
                batch_bytes = 0;
            }
            at += bytes;
        }
        self.append_carried(&batch, budget, log)
    }

    fn append_carried(&self, batch: &[Object], budget: &Arc<Budget>, log: &IndexLog) -> io::Result<()> {
        let bytes = batch.iter().map(|object| record_bytes(object.bytes.len() as u32)).sum();
        let spare = self.is_full(bytes).then(|| budget.try_reserve(self.segment_bytes)).flatten();
        self.append_counted(batch, spare, log, &self.counters.carried_bytes).map(|_| ())
    }

    /// An earlier run noted where an object lies; `false` without memory for it.
    pub(in crate::cache::nvme) fn restore_object(
        &self,
        content: ContentKey,
        place: Place,
        born_s: u32,
    ) -> bool {
        self.index.insert(content, place, born_s).is_ok()
    }

    /// Puts back the segments of an earlier run that hold what was noted, newest first as far as there is room, and
    /// removes the others. Waits for the disk.
    pub(in crate::cache::nvme) fn restore_segments(&self, budget: &Arc<Budget>) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| u32::from_str_radix(name, 16).ok());
            match id {
                Some(id) => found.push((id, entry.path(), entry.metadata()?)),
                None => segment::remove(&entry.path()),
            }
        }
        let mut live = std::collections::HashMap::<u32, u64>::new();
        self.index.each(|_, place, _| *live.entry(place.segment).or_default() += record_bytes(place.length));
        found.sort_unstable_by_key(|(id, ..)| *id);
        let newest = found.last().map_or(0, |(id, ..)| id + 1);
        self.next_id.fetch_max(newest.max(live.keys().max().map_or(0, |id| id + 1)), Ordering::Relaxed);
        for (id, path, metadata) in found.into_iter().rev() {
            let bytes = (metadata.blocks() * 512).max(super::super::blocks(metadata.len()));
            let is_wanted = live.contains_key(&id);
            if !(is_wanted && self.put_back(id, &path, (metadata.len(), bytes), budget)) {
                segment::remove(&path);
            }
        }
        let is_there = |place: Place| {
            let segment = self.segments.get(&place.segment);
            segment.is_some_and(|segment| {
                let end = u64::from(place.offset) + record_bytes(place.length);
                let is_inside = end <= segment.end.load(Ordering::Relaxed);
                if is_inside {
                    segment.gain(place.length);
                }
                is_inside
            })
        };
        self.index.retain(is_there);
        Ok(())
    }

    fn put_back(&self, id: u32, path: &Path, (end, bytes): (u64, u64), budget: &Arc<Budget>) -> bool {
        let Some(space) = budget.try_reserve(bytes) else { return false };
        let Ok(file) = reopen(path) else { return false };
        self.segments.insert(id, Arc::new(Segment::new(id, file, path.to_owned(), end, space)));
        true
    }

    /// Forgets and removes everything.
    pub(in crate::cache::nvme) fn clear(&self, budget: &Arc<Budget>) -> io::Result<()> {
        self.lose_all();
        self.restore_segments(budget)
    }

    /// Forgets everything. Readers keep what they hold.
    pub(in crate::cache::nvme) fn lose_all(&self) {
        self.index.retain(|_| false);
        self.segments.clear();
        *self.active() = None;
    }
}

fn read(segment: &Segment, offset: u64, bytes: u64) -> io::Result<Bytes> {
    Lent::new(Arc::clone(&segment.file), ByteRange::new(offset, bytes), Arc::new(())).read()
}
