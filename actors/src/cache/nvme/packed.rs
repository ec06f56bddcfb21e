//! Small objects, packed into segments: appended, read with one `pread`, reclaimed a segment at a time.
//!
//! Invariants:
//! - Blocks are reserved before a segment is appended to. It is appended to until it is full, never written again, and
//!   its space is free when the last reader lets go of it.
//! - An object is in the index once its bytes are written; what was evicted or moved is dead until its segment goes.
//! - No object is served that does not match its checksum and its content: of whichever run, read whole each time.
//! - A segment that is reclaimed gives at least half of itself: what is carried forward is bounded, so that no more is
//!   written than twice what is new. The space for that is always set aside.
//!
//! Which objects stay is decided by S3-FIFO with segments for entries of its queues, see `queues.rs`: an object has a
//! counter of its own and no place in a queue, which would double the index.
//!
//! Newcomers are written at once: their small queue is on the disk. Asking for a second touch above the low watermark, as
//! files are, wrote a tenth as much (cloudPhysics, 5000 objects) and hit less: .239 instead of .254, and on twitter52 .776
//! instead of .807.
//!
//! Locks are taken in this order: `reclaiming`, `writing`, then one of the others, which nobody waits under.

mod ghosts;
mod index;
mod queues;
mod reclaim;
mod restore;
mod segment;
mod table;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;
use forebay_core::METRICS;
use prometheus::IntCounter;

use self::ghosts::Ghosts;
use self::index::Index;
pub(super) use self::index::Place;
pub(super) use self::queues::Queue;
use self::queues::Queues;
use self::segment::Segment;
pub(super) use self::segment::record_bytes;
use super::health::{Failure, Health};
use super::log::IndexLog;
use super::record::Record;
use super::{CreateFile, blocks, is_damage};
use crate::cache::budget::{Budget, Reservation};
use crate::cache::class::Class;
use crate::cache::memory::MemoryTier;
use crate::cache::page::ContentKey;
use crate::cache::policy::{Claim, Turn, Use};
use crate::cache::trail::Cause;

/// Lengths of a segment: queues of a tenth want many segments, and a segment many objects.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=64 << 20;

/// Segments that a tier has, if they are neither too long nor too short then.
const SEGMENTS: u64 = 128;

/// Fewer are no queues.
const SEGMENTS_MIN: u64 = 8;

/// A shorter segment would hold too few objects.
const OBJECTS_PER_SEGMENT_MIN: u64 = 4;

/// Two slices each, and the kernel takes 1024 in one write.
const OBJECTS_PER_WRITE_MAX: usize = 512;

/// Most bytes of a batch: its space is reserved before it is written.
const BATCH_BYTES: u64 = 1 << 20;

/// The packed objects of one directory.
pub(super) struct Packed {
    directory: PathBuf,
    object_bytes_max: u64,
    segment_bytes: u64,
    index: Index,
    ghosts: Ghosts,
    /// By their numbers.
    segments: DashMap<u32, Arc<Segment>>,
    /// The same, by who goes first.
    queues: Mutex<Queues>,
    /// Held over a write, by the writer and by who reclaims.
    writing: Mutex<()>,
    /// Space for what is carried forward out of the next segment that goes.
    headroom: Mutex<Option<Reservation>>,
    /// Held while a segment is reclaimed.
    reclaiming: Mutex<()>,
    next_id: AtomicU32,
    health: Arc<Health>,
    create: CreateFile,
    /// Bytes that the evictor owes to the sparse files, see [`Packed::share_of`].
    owed_bytes: AtomicU64,
    counters: Counters,
}

struct Counters {
    new_bytes: IntCounter,
    carried_bytes: IntCounter,
    damaged: IntCounter,
}

/// An object for a segment.
pub(super) struct Object {
    pub(super) content: ContentKey,
    pub(super) born_s: u32,
    pub(super) bytes: Bytes,
    /// Where it lay before, and the uses that it keeps, if it is carried forward.
    pub(super) from: Option<(Place, u8)>,
}

impl Object {
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.bytes.len() as u32)
    }
}

/// An object that the index knows, with the segment that it lies in.
#[derive(Clone)]
pub(in crate::cache) struct PackedObject {
    content: ContentKey,
    place: Place,
    segment: Arc<Segment>,
}

/// What became of a batch.
pub(super) struct Appended {
    /// How many of it were written.
    pub(super) objects: usize,
    /// How many of these there was no memory for, so that they are dead already.
    pub(super) refused: usize,
}

impl Packed {
    /// For objects up to `object_bytes_max` in a tier of `capacity`; `None` if that is too small for segments.
    pub(super) fn new(
        directory: &Path,
        (object_bytes_max, capacity): (u64, u64),
        memory: Arc<MemoryTier>,
        (health, create): (&Arc<Health>, CreateFile),
    ) -> Option<Self> {
        let object = u32::try_from(object_bytes_max).ok().filter(|bytes| *bytes > 0)?;
        let length = (capacity / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let segment_bytes = blocks(length.max(record_bytes(object) * OBJECTS_PER_SEGMENT_MIN));
        let written = |kind| METRICS.cache_packed_bytes.with_label_values(&[kind]);
        (segment_bytes * SEGMENTS_MIN <= capacity).then(|| Self {
            directory: directory.to_owned(),
            object_bytes_max,
            segment_bytes,
            index: Index::new(Arc::clone(&memory)),
            ghosts: Ghosts::new(memory, capacity),
            segments: DashMap::new(),
            queues: Mutex::new(Queues::new(capacity)),
            writing: Mutex::default(),
            headroom: Mutex::default(),
            reclaiming: Mutex::default(),
            next_id: AtomicU32::new(0),
            health: Arc::clone(health),
            create,
            owed_bytes: AtomicU64::new(0),
            counters: Counters {
                new_bytes: written("new"),
                carried_bytes: written("carried"),
                damaged: METRICS.cache_damaged_pages.with_label_values(&["nvme"]),
            },
        })
    }

    pub(super) fn takes(&self, size_bytes: u64) -> bool {
        (1..=self.object_bytes_max).contains(&size_bytes)
    }

    /// Bytes that hold nothing any more.
    pub(super) fn dead_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.dead_bytes()).sum()
    }

    /// Bytes of disk that segments take.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.disk_bytes()).sum()
    }

    /// When the first segment that makes room for `claim` has its turn; `None` when none does.
    pub(super) fn first(&self, claim: Claim<'_>) -> Option<Turn> {
        self.queues().first(claim)
    }

    /// Whether any segment makes room for `claim`.
    pub(super) fn yields(&self, claim: Claim<'_>) -> bool {
        self.queues().yields(claim)
    }

    /// How many objects there are.
    pub(super) fn objects(&self) -> usize {
        self.index.len()
    }

    pub(super) fn contains(&self, content: ContentKey) -> bool {
        self.index.contains(content)
    }

    /// Notes that a newcomer of a class found no room.
    pub(super) fn pass_over(&self, class: &Arc<Class>, bytes: u64) {
        self.queues().pass_over(class, bytes);
    }

    /// The object and when it was fetched, in seconds after 1970; its segment is one of `class` if it was nobody's yet.
    pub(super) fn find(
        &self,
        content: ContentKey,
        used: Use,
        class: &Arc<Class>,
    ) -> Option<(PackedObject, u32)> {
        let (place, born_s) = self.index.find(content, used)?;
        let found = self.segments.get(&place.segment).map(|segment| Arc::clone(&segment));
        let Some(segment) = found.filter(|segment| segment.class().is_some() || self.claim(segment, class))
        else {
            // It was reclaimed before the object was placed, or the class may not have it.
            self.drop_at(content, place);
            return None;
        };
        Some((PackedObject { content, place, segment }, born_s))
    }

    fn claim(&self, segment: &Arc<Segment>, class: &Arc<Class>) -> bool {
        let mut queues = self.queues();
        // Otherwise it is not queued yet, or not any more.
        let is_queued = queues.leave(segment);
        let is_taken = segment.claim(class);
        if is_queued {
            queues.enter(segment);
        }
        is_taken
    }

    /// Reads an object without waiting for the disk; `None` when that would be needed, or it is damaged and dropped.
    pub(super) fn try_read(&self, object: &PackedObject) -> Option<Bytes> {
        let record = object.segment.record(object.place).try_read().transpose()?;
        self.verified(object, record)
    }

    /// Reads an object; `None` when it is damaged, and dropped.
    pub(super) fn read(&self, object: &PackedObject) -> Option<Bytes> {
        self.verified(object, object.segment.record(object.place).read())
    }

    fn verified(&self, object: &PackedObject, record: io::Result<Bytes>) -> Option<Bytes> {
        match record.and_then(|record| segment::verified(&record, object.content)) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                if !is_damage(&error) {
                    self.health.fail(Failure::Read);
                }
                tracing::warn!(segment = %object.segment.path.display(), ?object.place, %error, "packed object dropped");
                self.counters.damaged.inc();
                self.index.trail().note(object.content, Cause::Damaged);
                self.drop_at(object.content, object.place);
                None
            }
        }
    }

    /// Whose an object is, if it is there and somebody's.
    pub(super) fn class_of(&self, content: ContentKey) -> Option<Arc<Class>> {
        let (place, _) = self.index.find(content, Use::Again)?;
        self.segments.get(&place.segment)?.class().map(Arc::clone)
    }

    /// Forgets an object; whether it was there.
    pub(super) fn forget(&self, content: ContentKey) -> bool {
        let place = self.index.remove(content, None);
        place.inspect(|place| self.lose(*place)).is_some()
    }

    fn drop_at(&self, content: ContentKey, place: Place) {
        if self.index.remove(content, Some(place)).is_some() {
            self.lose(place);
        }
    }

    fn lose(&self, place: Place) {
        if let Some(segment) = self.segments.get(&place.segment) {
            segment.lose(place.length);
        }
    }

    /// Where newcomers that nothing is known of go.
    pub(super) fn newcomers(&self) -> Queue {
        if self.queues().is_filling_main() { Queue::Main } else { Queue::Small }
    }

    /// Whether it went of late; that is forgotten.
    pub(super) fn is_back(&self, content: ContentKey) -> bool {
        self.ghosts.remove(content)
    }

    /// Sets space aside for what is carried forward, as far as there is some.
    pub(super) fn keep_headroom(&self, budget: &Arc<Budget>) {
        let mut headroom = self.headroom();
        // In two segments at most, each of which has whole blocks.
        let wanted = self.carried_max() + 2 * blocks(1);
        let missing = wanted - headroom.as_ref().map_or(0, Reservation::bytes);
        let Some(more) = (missing > 0).then(|| budget.try_reserve(missing)).flatten() else { return };
        match &mut *headroom {
            Some(headroom) => headroom.absorb(more),
            none => *none = Some(more),
        }
    }

    /// How many of `objects` are a batch, and how many bytes must be reserved for it.
    pub(super) fn batch(&self, objects: &[Object]) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        for object in objects.iter().take(OBJECTS_PER_WRITE_MAX) {
            if count > 0 && bytes + object.record_bytes() > BATCH_BYTES.min(self.segment_bytes) {
                break;
            }
            (count, bytes) = (count + 1, bytes + object.record_bytes());
        }
        // In two segments at most, each of which has whole blocks.
        (count, blocks(bytes) + blocks(1))
    }

    /// Writes a batch for a class into a queue, with one write for each segment, in space from `reserved`. Waits for
    /// the disk.
    pub(super) fn append(
        &self,
        to: (&Arc<Class>, Queue),
        objects: &[Object],
        reserved: &mut Reservation,
        log: &IndexLog,
    ) -> io::Result<Appended> {
        self.append_counted(to, objects, reserved, (log, &self.counters.new_bytes))
    }

    fn append_counted(
        &self,
        to: (&Arc<Class>, Queue),
        objects: &[Object],
        reserved: &mut Reservation,
        (log, counter): (&IndexLog, &IntCounter),
    ) -> io::Result<Appended> {
        let _writing = self.writing();
        let mut done = Appended { objects: 0, refused: 0 };
        while let Some(first) = objects.get(done.objects) {
            let segment = self.with_room(to, first.record_bytes(), reserved)?;
            let start = segment.written_bytes();
            let (mut placed, mut heads, mut end) = (Vec::new(), Vec::new(), start);
            for object in &objects[done.objects..] {
                let length = object.bytes.len() as u32;
                if end + record_bytes(length) > self.segment_bytes {
                    break;
                }
                placed.push(Place { segment: segment.id, offset: end as u32, length });
                heads.push(segment::head(object.content, object.born_s, &object.bytes));
                end += record_bytes(length);
            }
            if !segment.grow(end - start, reserved) {
                break;
            }
            let records = heads.iter().zip(&objects[done.objects..]);
            let mut slices: Vec<_> = records
                .flat_map(|(head, object)| [IoSlice::new(head), IoSlice::new(&object.bytes)])
                .collect();
            let written = segment::write_all(&segment.file, &mut slices, start);
            // After a failed write nothing more is put behind what may be torn.
            written.inspect_err(|_| segment.seal())?;
            segment.end.store(end, Ordering::Relaxed);
            counter.inc_by(end - start);
            for (object, place) in objects[done.objects..].iter().zip(&placed) {
                done.refused += usize::from(!self.place(object, *place, log));
            }
            done.objects += placed.len();
        }
        Ok(done)
    }

    /// Puts an object that was written into the index; `false` without memory for it.
    fn place(&self, object: &Object, place: Place, log: &IndexLog) -> bool {
        let (content, born_s) = (object.content, object.born_s);
        let Some(segment) = self.segments.get(&place.segment).map(|segment| Arc::clone(&segment)) else {
            return false;
        };
        segment.gain(place.length);
        let placed = match object.from {
            // It may be forgotten by now.
            Some((from, uses)) => self.index.replace(content, from, (place, uses)).then_some(Some(from)),
            None => self.index.insert(content, place, born_s).ok(),
        };
        let Some(before) = placed else {
            segment.lose(place.length);
            return false;
        };
        if let Some(before) = before {
            self.lose(before);
        }
        log.note(Record::Packed { content, place, born_s });
        true
    }

    /// The segment to append to, which has room for `bytes`.
    fn with_room(
        &self,
        (class, queue): (&Arc<Class>, Queue),
        bytes: u64,
        reserved: &mut Reservation,
    ) -> io::Result<Arc<Segment>> {
        let newest = self.queues().newest(class, queue).map(Arc::clone);
        if let Some(segment) = newest.filter(|segment| segment.has_room(bytes, self.segment_bytes)) {
            return Ok(segment);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{id:x}"));
        let file = (self.create)(&path)?;
        let space = reserved.split(0).ok_or(io::ErrorKind::StorageFull)?;
        let segment = Arc::new(Segment::new((id, queue), (file, path), Some(class), (0, space)));
        self.segments.insert(id, Arc::clone(&segment));
        self.queues().enter(&segment);
        Ok(segment)
    }

    /// Most bytes that are carried forward out of one segment.
    fn carried_max(&self) -> u64 {
        self.segment_bytes / segment::DEAD_DIVISOR
    }

    /// Notes all that is there.
    pub(super) fn records(&self, note: &mut dyn FnMut(Record)) {
        self.index.each(|content, place, born_s| note(Record::Packed { content, place, born_s }));
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn headroom(&self) -> MutexGuard<'_, Option<Reservation>> {
        self.headroom.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
