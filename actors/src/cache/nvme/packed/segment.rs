//! A file of small objects, one behind the other, each with a header of its own.
//!
//! A header is length, CRC-32C over the rest of it and the object, content key and time of birth, little-endian. So
//! one read brings an object with all that it takes to believe it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use forebay_core::{ByteRange, Lent};

use super::index::Place;
use super::queues::Queue;
use crate::cache::budget::Reservation;
use crate::cache::class::Class;
use crate::cache::nvme::blocks;
use crate::cache::nvme::record::{checksum, checksum_of};
use crate::cache::page::ContentKey;

/// Length of an object's header.
pub(super) const HEADER_BYTES: usize = 32;

/// Where the checksum lies in it, and where what it covers begins.
const SUM_AT: usize = 4;
const COVERED_AT: usize = 8;

/// A part of a segment that is dead for it to be mostly so, as a divisor.
pub(super) const DEAD_DIVISOR: u64 = 2;

/// One file of objects, all of one class.
pub(in crate::cache::nvme) struct Segment {
    pub(super) id: u32,
    pub(super) queue: Queue,
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    /// Of a segment of an earlier run it is known when somebody reads from it.
    class: OnceLock<Arc<Class>>,
    /// Bytes of objects that the index names, with their headers.
    live_bytes: AtomicU64,
    /// Bytes that were written.
    pub(super) end: AtomicU64,
    is_sealed: AtomicBool,
    /// After the file: its blocks are free once it is closed.
    space: Mutex<Space>,
}

/// What is reserved for a segment's blocks.
struct Space {
    /// Counted for its class.
    own: Reservation,
    /// Counted for none: the class has these bytes in the segment that they were carried to.
    carried: Option<Reservation>,
}

/// What an object's header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) content: ContentKey,
    pub(super) born_s: u32,
}

impl Segment {
    /// A segment in which `end` bytes are written, with what is reserved for them; the class of one that an earlier run
    /// left is not known.
    pub(super) fn new(
        (id, queue): (u32, Queue),
        (file, path): (File, PathBuf),
        class: Option<&Arc<Class>>,
        (end, own): (u64, Reservation),
    ) -> Self {
        Self {
            id,
            queue,
            file: Arc::new(file),
            path,
            class: class.map_or_else(OnceLock::new, |class| OnceLock::from(Arc::clone(class))),
            live_bytes: AtomicU64::new(0),
            end: AtomicU64::new(end),
            is_sealed: AtomicBool::new(false),
            space: Mutex::new(Space { own, carried: None }),
        }
    }

    pub(super) fn class(&self) -> Option<&Arc<Class>> {
        self.class.get()
    }

    /// Counts it for a class from now on, if it has none; `false` if that may not have so much.
    pub(super) fn claim(&self, class: &Arc<Class>) -> bool {
        let mut space = self.space();
        self.class.get().is_some() || space.own.recharge(class) && self.class.set(Arc::clone(class)).is_ok()
    }

    /// Lets nothing more be appended.
    pub(super) fn seal(&self) {
        self.is_sealed.store(true, Ordering::Relaxed);
    }

    /// Whether `bytes` may be appended, where a segment has `length`.
    pub(super) fn has_room(&self, bytes: u64, length: u64) -> bool {
        !self.is_sealed.load(Ordering::Relaxed) && self.written_bytes() + bytes <= length
    }

    /// Takes blocks for `bytes` more from a reservation of the same class; `false`, and nothing, if that has too few.
    pub(super) fn grow(&self, bytes: u64, from: &mut Reservation) -> bool {
        let mut space = self.space();
        let missing = blocks(self.written_bytes() + bytes).saturating_sub(space.own.bytes());
        from.split(missing).map(|more| space.own.absorb(more)).is_some()
    }

    /// Exchanges `bytes` of what is reserved here for as many that count for no class.
    pub(super) fn exchange(&self, bytes: u64, from: &mut Reservation) -> Option<Reservation> {
        let mut space = self.space();
        let bytes = bytes.min(space.own.bytes());
        let uncounted = from.split(bytes)?;
        match &mut space.carried {
            Some(carried) => carried.absorb(uncounted),
            none => *none = Some(uncounted),
        }
        space.own.split(bytes)
    }

    /// Bytes of disk that it takes.
    pub(super) fn disk_bytes(&self) -> u64 {
        let space = self.space();
        space.own.bytes() + space.carried.as_ref().map_or(0, Reservation::bytes)
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record at a place: header and object.
    pub(super) fn record(&self, place: Place) -> Lent {
        let range = ByteRange::new(u64::from(place.offset), record_bytes(place.length));
        Lent::new(Arc::clone(&self.file), range, Arc::new(()))
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    pub(super) fn dead_bytes(&self) -> u64 {
        self.written_bytes().saturating_sub(self.live_bytes())
    }

    /// Whether it gives much and costs little: half of it holds nothing, or all of it where nobody knows whose it is.
    pub(super) fn is_mostly_dead(&self) -> bool {
        let (dead, written) = (self.dead_bytes(), self.written_bytes());
        written > 0 && if self.class().is_some() { dead >= written / DEAD_DIVISOR } else { dead == written }
    }

    /// An object was placed here.
    pub(super) fn gain(&self, length: u32) {
        self.live_bytes.fetch_add(record_bytes(length), Ordering::Relaxed);
    }

    /// An object that was here is not any more.
    pub(super) fn lose(&self, length: u32) {
        self.live_bytes.fetch_sub(record_bytes(length), Ordering::Relaxed);
    }

    pub(super) fn unlink(&self) {
        remove(&self.path);
    }
}

pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a segment of the disk cache cannot be removed");
    }
}

/// What an object takes in a segment.
pub(in crate::cache::nvme) fn record_bytes(length: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(length)
}

/// The header of an object.
pub(super) fn head(content: ContentKey, born_s: u32, object: &[u8]) -> [u8; HEADER_BYTES] {
    let length = (object.len() as u32).to_le_bytes();
    let mut head = [0; HEADER_BYTES];
    head[..SUM_AT].copy_from_slice(&length);
    head[COVERED_AT..24].copy_from_slice(&content.bits().to_le_bytes());
    head[24..28].copy_from_slice(&born_s.to_le_bytes());
    head[28..].copy_from_slice(&length);
    let sum = checksum_of(&[&head[COVERED_AT..], object]);
    head[SUM_AT..COVERED_AT].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Writes all of `slices` one behind the other: the objects are not copied for it.
pub(super) fn write_all(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The header at the start of `bytes`; `None` if there is none.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (_sum, rest) = rest.split_first_chunk::<4>()?;
    let (content, rest) = rest.split_first_chunk()?;
    let (born_s, rest) = rest.split_first_chunk()?;
    let (again, _object) = rest.split_first_chunk::<4>()?;
    let content = ContentKey::from_bits(u128::from_le_bytes(*content));
    let (length, born_s) = (u32::from_le_bytes(*length), u32::from_le_bytes(*born_s));
    (again == &length.to_le_bytes()).then_some(Header { length, content, born_s })
}

/// The object of a record, if all of it is what was written for this content.
pub(super) fn verified(record: &Bytes, content: ContentKey) -> io::Result<Bytes> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "checksum of a packed object does not match");
    let found = header(record).ok_or_else(damaged)?;
    let sum = checksum(&record[COVERED_AT..]).to_le_bytes();
    let is_whole = record.len() as u64 == record_bytes(found.length);
    if !is_whole || found.content != content || record[SUM_AT..COVERED_AT] != sum {
        return Err(damaged());
    }
    Ok(record.slice(HEADER_BYTES..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_of_a_record_may_be_cut_off_or_changed() {
        let content = ContentKey::from_bits(3 << 90);
        let record = [&head(content, 17, b"some bytes"), &b"some bytes"[..]].concat();
        assert_eq!(header(&record), Some(Header { length: 10, content, born_s: 17 }));
        let whole = Bytes::from(record);
        assert_eq!(verified(&whole, content).expect("whole"), "some bytes");
        assert!(verified(&whole, ContentKey::from_bits(4)).is_err(), "another content");
        for at in 0..whole.len() {
            assert!(verified(&whole.slice(..at), content).is_err(), "cut to {at}");
            for flip in [1, 0x80, 0xFF] {
                let mut damaged = whole.to_vec();
                damaged[at] ^= flip;
                assert!(verified(&damaged.into(), content).is_err(), "byte {at} xor {flip}");
            }
        }
    }
}
