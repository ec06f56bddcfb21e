//! The log of a ledger, twice.
//!
//! Invariants:
//! - Both copies hold the same frames at the same places: what is damaged in one is read from the other, and what an
//!   append that was cut off left in one alone counts.
//! - A log is put in place of another copy by copy, whole and on the disk. Where a start finds two generations, the
//!   newer one has everything.
//! - After a write that failed nothing is appended until the log was written anew, because what follows a torn frame is
//!   not read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{FORMAT, Record};
use crate::frame::{Frames, HEADER_BYTES};

/// A log is written anew when it is longer than this and than [`REWRITE_FACTOR`] times what was needed of it last.
const REWRITE_BYTES_MIN: u64 = 8 << 20;
const REWRITE_FACTOR: u64 = 4;

type Copies = Arc<[File; 2]>;

/// The files of one log, open for appending.
pub(super) struct Log {
    paths: [PathBuf; 2],
    generation: u64,
    /// `None` after a failed write.
    files: Option<Copies>,
    bytes: u64,
    synced_bytes: u64,
    rewrite_bytes: u64,
    /// Records that could not be appended.
    missed: u64,
}

/// What was read of a log.
pub(super) struct Found {
    generation: u64,
    bytes: u64,
    /// Both copies are undamaged and the same.
    pub(super) is_whole: bool,
}

/// A log that is being written beside the one in place.
pub(super) struct Aside {
    generation: u64,
    files: [File; 2],
    /// What the log in place had when its content was taken.
    since_bytes: u64,
    missed: u64,
}

impl Log {
    /// The log `name` in `directory`, with each of its records handed to `apply`. To be written anew before anything is
    /// appended, unless it is whole.
    pub(super) fn open(
        directory: &Path,
        name: &str,
        apply: &mut dyn FnMut(Record),
    ) -> io::Result<(Self, bool)> {
        fs::create_dir_all(directory)?;
        let paths = ["log", "copy"].map(|kind| directory.join(format!("{name}.{kind}")));
        let Found { generation, bytes, is_whole } = read(&paths, apply)?;
        let files =
            if is_whole { Some(Arc::new([append_to(&paths[0])?, append_to(&paths[1])?])) } else { None };
        let rewrite_bytes = bytes.max(REWRITE_BYTES_MIN);
        let log = Self { paths, generation, files, bytes, synced_bytes: bytes, rewrite_bytes, missed: 0 };
        Ok((log, is_whole))
    }

    /// Hands frames to the kernel: a kill does not lose them, a power failure may until they are synced.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        let Some(files) = self.files.clone() else {
            return Err(io::Error::other("an earlier write to the ledger failed"));
        };
        for mut file in files.iter() {
            if let Err(e) = file.write_all(frames) {
                self.files = None;
                return Err(e);
            }
        }
        self.bytes += frames.len() as u64;
        Ok(())
    }

    /// Something is true that could not be appended.
    pub(super) fn miss(&mut self) {
        self.files = None;
        self.missed += 1;
    }

    pub(super) fn is_rewrite_due(&self) -> bool {
        self.files.is_none() || self.bytes >= self.rewrite_bytes
    }

    /// What has to be synced, and up to where; `None` when all is.
    pub(super) fn unsynced(&self) -> Option<(Copies, u64)> {
        let files = self.files.clone().filter(|_| self.bytes > self.synced_bytes)?;
        Some((files, self.bytes))
    }

    /// The files were synced up to `bytes`, or failed to be.
    pub(super) fn synced(&mut self, files: &Copies, outcome: &io::Result<()>, bytes: u64) {
        if self.files.as_ref().is_some_and(|present| Arc::ptr_eq(present, files)) {
            match outcome {
                Ok(()) => self.synced_bytes = self.synced_bytes.max(bytes),
                Err(_) => self.files = None,
            }
        }
    }

    /// Begins a log beside this one; [`Aside::write`] and [`Log::put_in_place`] follow.
    pub(super) fn begin(&self) -> io::Result<Aside> {
        let generation = self.generation + 1;
        let create = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(aside(path))?;
            file.set_len(0).map(|()| file)
        };
        let files = [create(&self.paths[0])?, create(&self.paths[1])?];
        Ok(Aside { generation, files, since_bytes: self.bytes, missed: self.missed })
    }

    /// Replaces this log by one that has all of it up to when it was begun; `false` where it lacks something since.
    pub(super) fn put_in_place(&mut self, new: Aside, content_bytes: u64) -> io::Result<bool> {
        if new.missed != self.missed {
            return Ok(false);
        }
        let mut tail = vec![0; (self.bytes - new.since_bytes) as usize];
        if !tail.is_empty() {
            File::open(&self.paths[0])?.read_exact_at(&mut tail, new.since_bytes)?;
        }
        for (mut file, path) in new.files.iter().zip(&self.paths) {
            file.write_all(&tail)?;
            file.sync_data()?;
            // Here and not after both: with one of them in place a start finds everything.
            fs::rename(aside(path), path)?;
        }
        self.paths[0].parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
        self.files = Some(Arc::new(new.files));
        self.generation = new.generation;
        self.bytes = content_bytes + tail.len() as u64;
        self.synced_bytes = self.bytes;
        self.rewrite_bytes = (content_bytes * REWRITE_FACTOR).max(REWRITE_BYTES_MIN);
        Ok(true)
    }
}

impl Aside {
    /// Writes the content, on which frames since then may follow; its length with the header.
    pub(super) fn write(&self, frames: &[u8]) -> io::Result<u64> {
        let mut content = FORMAT.header().to_vec();
        Record::Generation(self.generation).encode(&mut content);
        content.extend_from_slice(frames);
        for mut file in &self.files {
            file.write_all(&content)?;
            file.sync_data()?;
        }
        Ok(content.len() as u64)
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Reads the newest generation, each frame from a copy in which it is good.
fn read(paths: &[PathBuf; 2], apply: &mut dyn FnMut(Record)) -> io::Result<Found> {
    let heads = [scan(&paths[0])?, scan(&paths[1])?];
    let Some(generation) = heads.iter().flatten().filter_map(|head| head.generation).max() else {
        set_aside(paths)?;
        return Ok(Found { generation: 0, bytes: 0, is_whole: false });
    };
    let is_newest = |head: &Option<Scanned>| head.as_ref().is_some_and(|h| h.generation == Some(generation));
    let newest: Vec<_> =
        paths.iter().zip(&heads).filter(|(_, head)| is_newest(head)).map(|(path, _)| path).collect();
    let (mut bytes, mut turn, mut stuck) = (HEADER_BYTES as u64, 0, 0);
    while stuck < newest.len() {
        let mut file = File::open(newest[turn % newest.len()])?;
        file.seek(SeekFrom::Start(bytes))?;
        let mut frames = Frames::resume(BufReader::new(file), FORMAT, bytes);
        while let Some(record) = frames.next_as(Record::decode) {
            apply(record);
        }
        stuck = if frames.good_bytes() > bytes { 0 } else { stuck + 1 };
        bytes = frames.good_bytes();
        turn += 1;
    }
    let lengths = heads.iter().flatten().map(|head| head.length);
    let is_whole = newest.len() == 2
        && heads.iter().flatten().all(|head| head.good_bytes == bytes && head.length == bytes);
    if !is_whole {
        let (path, longest) = (paths[0].display(), lengths.max().unwrap_or_default());
        tracing::warn!(%path, bytes, longest, "a copy of a ledger was not whole; both are written anew from what is good");
    }
    Ok(Found { generation, bytes, is_whole })
}

/// What one copy is like.
struct Scanned {
    /// `None` where not even its begin can be read.
    generation: Option<u64>,
    good_bytes: u64,
    length: u64,
}

/// Looks through a whole copy; `None` where there is none.
fn scan(path: &Path) -> io::Result<Option<Scanned>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    let mut frames = Frames::new(BufReader::new(file), FORMAT);
    let generation = frames.next_as(|payload| match Record::decode(payload) {
        Some(Record::Generation(number)) => Some(number),
        Some(_) | None => None,
    });
    while frames.next_as(|payload| Record::decode(payload).map(drop)).is_some() {}
    Ok(Some(Scanned { generation, good_bytes: frames.good_bytes(), length }))
}

/// Keeps what cannot be read at all for whoever can.
fn set_aside(paths: &[PathBuf; 2]) -> io::Result<()> {
    for path in paths.iter().filter(|path| path.exists()) {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".damaged");
        tracing::error!(path = %path.display(), "a ledger cannot be read at all; it is kept beside a new one");
        fs::rename(path, kept)?;
    }
    Ok(())
}
