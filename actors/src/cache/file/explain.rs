//! Where the pages of a content lie, and why some are not there.

use forebay_core::{ByteRange, Explained, Place, Placed};

use super::CachedFile;
use crate::cache::Named;
use crate::cache::page::{PageKey, page_count, page_range};
use crate::cache::trail::Known;

/// Most parts that are named.
const PARTS_MAX: usize = 64;

impl CachedFile {
    /// What is known of the content, which `named` stands for. Counts as no use.
    pub fn explain(&self, named: Named) -> Explained {
        let parts = self.parts();
        let is_missing = parts.iter().any(|part| part.place == Place::Store);
        let (fetched, known) = match self.tiers.fetches.find(named) {
            Known::This(fetched) => ((fetched.requests, fetched.bytes), None),
            Known::OtherContent => ((0, 0), Some("what was read last under this name was another content")),
            Known::Nothing => ((0, 0), None),
        };
        let disk = self.disk();
        Explained {
            is_lent_whole: disk.is_some_and(|disk| disk.is_whole(self.content)),
            fetched_requests: fetched.0,
            fetched_bytes: fetched.1,
            reasons: if is_missing { self.reasons(known, fetched.0 > 0) } else { Vec::new() },
            parts,
        }
    }

    fn reasons(&self, known: Option<&str>, is_fetched: bool) -> Vec<String> {
        let memory = self.tiers.memory.trail().find(self.content);
        let disk = self.disk().and_then(|_| self.tiers.memory.disk_trail().find(self.content));
        let told = [("memory", memory), ("disk", disk)];
        let mut reasons: Vec<String> = known.map(str::to_owned).into_iter().collect();
        reasons.extend(told.iter().filter_map(|(tier, cause)| Some(format!("{tier}: {}", (*cause)?))));
        if reasons.is_empty() {
            let unread = if is_fetched { "the rest was not read yet" } else { "nobody read it of late" };
            reasons.push(unread.to_owned());
        }
        reasons
    }

    /// Parts of the content that lie in one place each, the first [`PARTS_MAX`] of them.
    fn parts(&self) -> Vec<Placed> {
        let mut parts: Vec<Placed> = Vec::new();
        for number in 0..page_count(self.size_bytes) {
            let range = page_range(number, self.size_bytes);
            let place = self.place(self.content.page(number));
            let count = parts.len();
            match parts.last_mut().filter(|last| last.place == place) {
                Some(last) => last.range = ByteRange::new(last.range.offset, range.end() - last.range.offset),
                None if count == PARTS_MAX => break,
                None => parts.push(Placed { range, place }),
            }
        }
        parts
    }

    fn place(&self, key: PageKey) -> Place {
        let is_packed = || self.disk().is_some_and(|disk| disk.contains_packed(key.content));
        let is_on_disk = self.disk().is_some_and(|disk| disk.contains(key));
        match (self.tiers.memory.contains(key), is_on_disk) {
            (true, true) => Place::MemoryAndDisk,
            (true, false) => Place::Memory,
            (false, true) if is_packed() => Place::Segment,
            (false, true) => Place::Disk,
            (false, false) if self.tiers.flights.contains(key) => Place::OnItsWay,
            (false, false) => Place::Store,
        }
    }
}
