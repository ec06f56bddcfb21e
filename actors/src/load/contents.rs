//! What a job brought into the cache, as a list on the disk: at its end the cache is asked for all of it once more,
//! without the store and without memory that grows with the tree.
//!
//! The list is not synced: where the machine stops, what is missing of it is not asked for again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use forebay_core::Entry;

use crate::cache::{Cache, ContentId, ContentKey};

/// Length of an entry of the list.
const RECORD_BYTES: usize = 32;

/// One content, and how much of it the cache's lowest tier held when its file was done.
#[derive(Clone, Copy)]
pub(super) struct Loaded {
    key: ContentKey,
    size_bytes: u64,
    kept_bytes: u64,
}

impl Loaded {
    /// The content of a file; `None` when the cache holds nothing of it, as of what lies on a local disk anyway.
    pub(super) fn of(cache: &Cache, entry: &Entry) -> Option<Self> {
        let id = ContentId { file_id: entry.file_id, version: entry.version.clone() };
        let (key, size_bytes) = (ContentKey::of(&id), entry.size_bytes);
        let kept_bytes = cache.kept_bytes(key, size_bytes);
        (kept_bytes > 0).then_some(Self { key, size_bytes, kept_bytes })
    }

    fn encode(self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..16].copy_from_slice(&self.key.bits().to_le_bytes());
        record[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        record[24..].copy_from_slice(&self.kept_bytes.to_le_bytes());
        record
    }

    fn decode(record: [u8; RECORD_BYTES]) -> Self {
        let number = |at: usize| u128::from_le_bytes(std::array::from_fn(|byte| record[at + byte]));
        let lengths = number(16);
        let key = ContentKey::from_bits(number(0));
        Self { key, size_bytes: lengths as u64, kept_bytes: (lengths >> 64) as u64 }
    }
}

/// Writes `loaded` into the list at `path` after its first `count` entries, in the place of what lies there. Waits for
/// the disk.
pub(super) fn append(path: &Path, count: u64, loaded: &[Loaded]) -> io::Result<()> {
    let mut list = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    list.set_len(count * RECORD_BYTES as u64)?;
    list.seek(SeekFrom::End(0))?;
    let records: Vec<u8> = loaded.iter().flat_map(|loaded| loaded.encode()).collect();
    list.write_all(&records)
}

/// How many bytes of those in the list at `path` the lowest tier does not hold any more. Waits for the disk.
pub(super) fn lost_bytes(path: &Path, cache: &Cache) -> io::Result<u64> {
    let mut entries = match File::open(path) {
        Ok(file) => BufReader::new(file),
        // Nothing was loaded that the cache holds.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let (mut lost, mut record) = (0, [0; RECORD_BYTES]);
    loop {
        match entries.read_exact(&mut record) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(lost),
            Err(e) => return Err(e),
        }
        let Loaded { key, size_bytes, kept_bytes } = Loaded::decode(record);
        lost += kept_bytes.saturating_sub(cache.kept_bytes(key, size_bytes));
    }
}
