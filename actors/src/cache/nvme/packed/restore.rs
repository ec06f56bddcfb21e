//! What a restart puts back.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segment::{self, Segment, record_bytes};
use super::{Packed, Place, Queue};
use crate::cache::budget::Budget;
use crate::cache::nvme::blocks;
use crate::cache::nvme::directory::reopen;
use crate::cache::page::ContentKey;

impl Packed {
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
    /// removes the others. Whose they are is known when somebody reads from them. Waits for the disk.
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
            let bytes = (metadata.blocks() * 512).max(blocks(metadata.len()));
            let is_wanted = live.contains_key(&id);
            if !(is_wanted && self.put_back(id, &path, (metadata.len(), bytes), budget)) {
                segment::remove(&path);
            }
        }
        let is_there = |place: Place| {
            let segment = self.segments.get(&place.segment);
            segment.is_some_and(|segment| {
                let end = u64::from(place.offset) + record_bytes(place.length);
                let is_inside = end <= segment.written_bytes();
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
        let (place, file) = ((id, Queue::Main), (file, path.to_owned()));
        let segment = Arc::new(Segment::new(place, file, None, (end, space)));
        // Its end may be torn.
        segment.seal();
        self.segments.insert(id, Arc::clone(&segment));
        self.queues().enter(&segment);
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
        self.queues().clear();
        *self.headroom() = None;
    }
}
