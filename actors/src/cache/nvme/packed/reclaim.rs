//! Which segment goes, and what of it is carried forward.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use forebay_core::{ByteRange, Lent};

use super::index::USES_MAX;
use super::segment::{self, HEADER_BYTES, Header, Segment, record_bytes};
use super::{BATCH_BYTES, OBJECTS_PER_WRITE_MAX, Object, Packed, Place, Queue};
use crate::cache::budget::{Budget, Reservation};
use crate::cache::class::Class;
use crate::cache::nvme::blocks;
use crate::cache::nvme::log::IndexLog;
use crate::cache::page::ContentKey;
use crate::cache::policy::Claim;
use crate::cache::tally::Tally;
use crate::cache::trail::Cause;

/// An object that is worth to be carried forward, as short as can be: there may be many.
struct Resident {
    offset: u32,
    length: u32,
    uses: u8,
}

/// Which of them find room: those with more uses than `uses`, and of those with as many as have it in `bytes`.
struct Cut {
    uses: u8,
    bytes: u64,
}

impl Cut {
    fn of(residents: &[Resident], bytes_max: u64) -> Self {
        let mut left = bytes_max;
        for uses in (0..=USES_MAX).rev() {
            let of_these = residents.iter().filter(|resident| resident.uses == uses);
            let bytes: u64 = of_these.map(|resident| record_bytes(resident.length)).sum();
            if bytes > left {
                return Self { uses, bytes: left };
            }
            left -= bytes;
        }
        Self { uses: 0, bytes: bytes_max }
    }

    /// Whether a resident has room; takes it.
    fn takes(&mut self, resident: &Resident) -> bool {
        if resident.uses != self.uses {
            return resident.uses > self.uses;
        }
        let left = self.bytes.checked_sub(record_bytes(resident.length));
        self.bytes = left.unwrap_or(self.bytes);
        left.is_some()
    }
}

impl Packed {
    /// Removes the segment whose turn it is for `claim`, carrying forward what deserves it; `false` when there is none.
    /// Waits for the disk.
    pub(in crate::cache::nvme) fn reclaim(
        &self,
        claim: Claim<'_>,
        budget: &Arc<Budget>,
        log: &IndexLog,
    ) -> bool {
        let _one_at_a_time = self.reclaiming.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(victim) = self.sealed_victim(claim) else { return false };
        // Whose it is decides where something of it goes.
        let carried = victim.class().map_or(Ok(()), |class| self.carry(&victim, class, log));
        if let Err(error) = carried {
            tracing::warn!(segment = %victim.path.display(), %error, "what a segment holds is not carried forward");
        }
        self.queues().leave(&victim);
        self.segments.remove(&victim.id);
        if victim.live_bytes() > 0 {
            self.index.retain(|place| place.segment != victim.id);
        }
        victim.unlink();
        victim.class().map_or_else(Tally::unclaimed, |class| class.tally()).nvme.evicted_segments.inc();
        drop(victim);
        self.keep_headroom(budget);
        true
    }

    /// How much of `excess` bytes that must go are for segments, in whole ones: as much as they have of what is used.
    pub(in crate::cache::nvme) fn share_of(&self, excess: u64, used: u64) -> u64 {
        let share = u128::from(excess) * u128::from(self.disk_bytes()) / u128::from(used.max(1));
        let owed = self.owed_bytes.fetch_add(share as u64, Ordering::Relaxed) + share as u64;
        let whole = owed / self.segment_bytes;
        self.owed_bytes.fetch_sub(whole * self.segment_bytes, Ordering::Relaxed);
        whole
    }

    /// What goes next, with nobody writing to it.
    fn sealed_victim(&self, claim: Claim<'_>) -> Option<Arc<Segment>> {
        let _writing = self.writing();
        let victim = self.queues().victim(claim)?;
        victim.seal();
        Some(victim)
    }

    /// Writes anew what was used, or all that is alive where that is little, and forgets the rest.
    fn carry(&self, victim: &Segment, class: &Arc<Class>, log: &IndexLog) -> io::Result<()> {
        let is_dead = victim.is_mostly_dead();
        let residents = self.residents(victim, is_dead)?;
        let Some(reserved) = self.reserved_for(victim) else { return Ok(()) };
        let room = reserved.bytes().saturating_sub(2 * blocks(1));
        let mut cut = Cut::of(&residents, self.carried_max().min(room));
        let mut load = Load { packed: self, to: (class, Queue::Main), reserved, batch: Vec::new(), bytes: 0 };
        for resident in residents {
            let Resident { offset, length, uses } = resident;
            let place = Place { segment: victim.id, offset, length };
            if !cut.takes(&resident) {
                self.let_go(victim.queue, header(victim, offset)?.content, place);
                continue;
            }
            let record = read(victim, offset, record_bytes(length))?;
            let Header { content, born_s, .. } =
                segment::header(&record).ok_or(io::ErrorKind::InvalidData)?;
            // What stays for its use has used it up; what is only moved has not.
            let kept = match victim.queue {
                _ if is_dead => uses,
                Queue::Small => 0,
                Queue::Main => uses - 1,
            };
            if let Ok(bytes) = segment::verified(&record, content) {
                load.push(Object { content, born_s, bytes, from: Some((place, kept)) }, log)?;
            }
        }
        load.write(log)
    }

    /// The objects of a segment that are worth to be carried forward. Others go.
    fn residents(&self, victim: &Segment, is_dead: bool) -> io::Result<Vec<Resident>> {
        let uses_min = match victim.queue {
            _ if is_dead => 0,
            Queue::Small | Queue::Main => 1,
        };
        let (mut at, mut residents) = (0, Vec::new());
        while at + HEADER_BYTES as u64 <= victim.written_bytes() {
            let offset = at as u32;
            let Header { length, content, .. } = header(victim, offset)?;
            let place = Place { segment: victim.id, offset, length };
            match self.index.uses(content, place) {
                Some(uses) if uses >= uses_min => residents.push(Resident { offset, length, uses }),
                Some(_) => self.let_go(victim.queue, content, place),
                None => {}
            }
            at += record_bytes(length);
        }
        Ok(residents)
    }

    /// Space set aside, counted for the class of `victim` in its stead; `None` without.
    fn reserved_for(&self, victim: &Segment) -> Option<Reservation> {
        let mut headroom = self.headroom();
        let headroom = headroom.as_mut()?;
        victim.exchange(headroom.bytes(), headroom)
    }

    /// Evicts an object that was in a queue.
    fn let_go(&self, queue: Queue, content: ContentKey, place: Place) {
        self.drop_at(content, place);
        self.index.trail().note(content, Cause::Reclaimed);
        if queue == Queue::Small {
            self.ghosts.remember(content, record_bytes(place.length), self.index.len());
        }
    }
}

/// Objects on their way from one segment to another.
struct Load<'a> {
    packed: &'a Packed,
    to: (&'a Arc<Class>, Queue),
    reserved: Reservation,
    batch: Vec<Object>,
    bytes: u64,
}

impl Load<'_> {
    fn push(&mut self, object: Object, log: &IndexLog) -> io::Result<()> {
        self.bytes += object.record_bytes();
        self.batch.push(object);
        if self.bytes >= BATCH_BYTES || self.batch.len() >= OBJECTS_PER_WRITE_MAX {
            self.write(log)
        } else {
            Ok(())
        }
    }

    fn write(&mut self, log: &IndexLog) -> io::Result<()> {
        self.bytes = 0;
        let (batch, counter) = (std::mem::take(&mut self.batch), &self.packed.counters.carried_bytes);
        self.packed.append_counted(self.to, &batch, &mut self.reserved, (log, counter)).map(drop)
    }
}

fn header(segment: &Segment, offset: u32) -> io::Result<Header> {
    let head = read(segment, offset, HEADER_BYTES as u64)?;
    segment::header(&head).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn read(segment: &Segment, offset: u32, bytes: u64) -> io::Result<Bytes> {
    let range = ByteRange::new(u64::from(offset), bytes);
    Lent::new(Arc::clone(&segment.file), range, Arc::new(())).read()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_with_most_uses_find_room_first_and_no_more_than_there_is() {
        let resident = |(offset, uses)| Resident { offset, length: 68, uses };
        let residents: Vec<_> =
            [0, 1, 3, 1, 2, 1].into_iter().zip(0..).map(|(uses, at)| (at, uses)).map(resident).collect();
        let carried = |bytes_max| -> Vec<u32> {
            let mut cut = Cut::of(&residents, bytes_max);
            residents.iter().filter(|resident| cut.takes(resident)).map(|resident| resident.offset).collect()
        };
        assert_eq!(carried(0), [0; 0]);
        assert_eq!(carried(100), [2]);
        assert_eq!(carried(499), [1, 2, 3, 4]);
        assert_eq!(carried(599), [1, 2, 3, 4, 5]);
        assert_eq!(carried(600), [0, 1, 2, 3, 4, 5]);
    }
}
