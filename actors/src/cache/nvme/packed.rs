//! Small objects, packed into segments: appended, read with one `pread`, reclaimed a segment at a time.
//!
//! Invariants:
//! - A segment's bytes are reserved before it is made. It is appended to until it is full, never written again, and
//!   its space is free when the last reader lets go of it.
//! - An object is in the index once its bytes are written; what was evicted or moved is dead until its segment goes.
//! - No object is served that does not match its checksum and its content: of whichever run, read whole each time.
//! - A segment that is reclaimed gives at least half of itself: what is carried forward is bounded, so that no more is
//!   written than twice what is new.
//!
//! Which objects stay is by segments, in the order they were written, with a second chance for objects that were
//! used: a queue entry and ghosts for each object would double the index.

mod index;
mod reclaim;
mod segment;

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;
use forebay_core::METRICS;
use prometheus::IntCounter;

use self::index::Index;
pub(super) use self::index::Place;
use self::segment::Segment;
pub(super) use self::segment::record_bytes;
use super::health::{Failure, Health};
use super::log::IndexLog;
use super::record::Record;
use super::{CreateFile, is_damage};
use crate::cache::budget::Reservation;
use crate::cache::memory::MemoryTier;
use crate::cache::page::ContentKey;
use crate::cache::policy::Use;
use crate::cache::trail::Cause;

/// Length of a segment, where the tier has eight of them.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const SEGMENTS_MIN: u64 = 8;

/// A shorter segment would hold too few objects.
const OBJECTS_PER_SEGMENT_MIN: u64 = 4;

/// Two slices each, and the kernel takes 1024 in one write.
const OBJECTS_PER_WRITE_MAX: usize = 512;

/// The packed objects of one directory.
pub(super) struct Packed {
    directory: PathBuf,
    object_bytes_max: u64,
    segment_bytes: u64,
    index: Index,
    segments: DashMap<u32, Arc<Segment>>,
    /// What is appended to; its mutex is held over a write, by the writer and by who reclaims.
    active: Mutex<Option<Arc<Segment>>>,
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
    /// Where it lay before, if it is carried forward.
    pub(super) from: Option<Place>,
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
        let segment_bytes = (capacity / SEGMENTS_MIN).min(SEGMENT_BYTES_MAX);
        let object = u32::try_from(object_bytes_max).ok().filter(|bytes| *bytes > 0)?;
        let written = |kind| METRICS.cache_packed_bytes.with_label_values(&[kind]);
        (record_bytes(object) * OBJECTS_PER_SEGMENT_MIN <= segment_bytes).then(|| Self {
            directory: directory.to_owned(),
            object_bytes_max,
            segment_bytes,
            index: Index::new(memory),
            segments: DashMap::new(),
            active: Mutex::default(),
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

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Bytes that hold nothing any more.
    pub(super) fn dead_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.dead_bytes()).sum()
    }

    /// Bytes of disk that segments take, or will.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments.len() as u64 * self.segment_bytes
    }

    /// How many objects there are.
    pub(super) fn objects(&self) -> usize {
        self.index.len()
    }

    pub(super) fn contains(&self, content: ContentKey) -> bool {
        self.index.contains(content)
    }

    /// The object and when it was fetched, in seconds after 1970.
    pub(super) fn find(&self, content: ContentKey, used: Use) -> Option<(PackedObject, u32)> {
        let (place, born_s) = self.index.find(content, used)?;
        let Some(segment) = self.segments.get(&place.segment).map(|segment| Arc::clone(&segment)) else {
            // It was reclaimed before the object was placed.
            self.index.remove(content, Some(place));
            return None;
        };
        Some((PackedObject { content, place, segment }, born_s))
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

    /// Whether the next object may need a new segment.
    pub(super) fn is_full(&self, bytes: u64) -> bool {
        let end = |segment: &Arc<Segment>| segment.end.load(Ordering::Relaxed);
        self.active().as_ref().is_none_or(|active| end(active) + bytes > self.segment_bytes)
    }

    /// Writes as many objects as there is room for, with one write for each segment; a new one is made from `spare`.
    /// Waits for the disk.
    pub(super) fn append(
        &self,
        objects: &[Object],
        spare: Option<Reservation>,
        log: &IndexLog,
    ) -> io::Result<Appended> {
        self.append_counted(objects, spare, log, &self.counters.new_bytes)
    }

    fn append_counted(
        &self,
        objects: &[Object],
        spare: Option<Reservation>,
        log: &IndexLog,
        counter: &IntCounter,
    ) -> io::Result<Appended> {
        let (mut spare, mut done) = (spare, Appended { objects: 0, refused: 0 });
        while done.objects < objects.len() {
            let mut active = self.active();
            let first = record_bytes(objects[done.objects].bytes.len() as u32);
            let Some(segment) = self.with_room(&mut active, first, &mut spare)? else { break };
            let start = segment.end.load(Ordering::Relaxed);
            let (mut placed, mut heads, mut end) = (Vec::new(), Vec::new(), start);
            for object in objects[done.objects..].iter().take(OBJECTS_PER_WRITE_MAX) {
                let length = object.bytes.len() as u32;
                if end + record_bytes(length) > self.segment_bytes {
                    break;
                }
                placed.push(Place { segment: segment.id, offset: end as u32, length });
                heads.push(segment::head(object.content, object.born_s, &object.bytes));
                end += record_bytes(length);
            }
            let records = heads.iter().zip(&objects[done.objects..]);
            let mut slices: Vec<_> = records
                .flat_map(|(head, object)| [IoSlice::new(head), IoSlice::new(&object.bytes)])
                .collect();
            let written = segment::write_all(&segment.file, &mut slices, start);
            // After a failed write nothing more is put behind what may be torn.
            written.inspect_err(|_| *active = None)?;
            segment.end.store(end, Ordering::Relaxed);
            drop(active);
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
            Some(from) => self.index.replace(content, from, place).then_some(Some(from)),
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

    /// The segment to append to, which has room for `bytes`; `None` without.
    fn with_room(
        &self,
        active: &mut Option<Arc<Segment>>,
        bytes: u64,
        spare: &mut Option<Reservation>,
    ) -> io::Result<Option<Arc<Segment>>> {
        let has_room =
            |segment: &&Arc<Segment>| segment.end.load(Ordering::Relaxed) + bytes <= self.segment_bytes;
        if let Some(segment) = active.as_ref().filter(has_room) {
            return Ok(Some(Arc::clone(segment)));
        }
        let Some(reserved) = spare.take() else { return Ok(None) };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{id:x}"));
        let file: File = (self.create)(&path)?;
        let segment = Arc::new(Segment::new(id, file, path, 0, reserved));
        self.segments.insert(id, Arc::clone(&segment));
        *active = Some(Arc::clone(&segment));
        Ok(Some(segment))
    }

    /// Notes all that is there.
    pub(super) fn records(&self, note: &mut dyn FnMut(Record)) {
        self.index.each(|content, place, born_s| note(Record::Packed { content, place, born_s }));
    }

    fn active(&self) -> MutexGuard<'_, Option<Arc<Segment>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
