//! What an earlier run left: put back at start, behind the readers' backs.
//!
//! Nothing is written to the disk before this is done: what is there counts before what may come. Until then a page
//! that is not back yet is a miss.

use std::collections::HashMap;
use std::fs::{DirEntry, File};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use dashmap::Entry;
use forebay_core::METRICS;

use super::NvmeTier;
use super::record::{FileName, Record, Records};
use super::sparse::{self, SparseFile};
use crate::cache::class::{Class, Treatment};
use crate::cache::policy::Resident;

/// Files by their serial.
type Found = HashMap<u64, SparseFile>;

impl NvmeTier {
    /// Puts back what the log and the directory agree on, and removes everything else; newest first, as far as there
    /// is room for it. Waits for the disk.
    pub(super) fn restore(&self) {
        let begun = Instant::now();
        let mut noted = self.replay();
        let mut found = Vec::new();
        let listed = self.each_file(|name, path| {
            self.directory.skip(name.map_or(0, |name| name.serial));
            let file = name.filter(|name| noted.get(&name.serial).is_some_and(|file| file.name() == *name));
            match file.and_then(|name| Some((name.serial, bytes_on_disk(path)?))) {
                Some(file) => found.push(file),
                None => remove(path),
            }
        });
        let segments = match &self.packed {
            Some(packed) => packed.restore_segments(&self.budget),
            None => each_entry(self.directory.segments(), |entry| remove(&entry.path())),
        };
        if let Err(error) = listed.and(segments) {
            tracing::warn!(directory = %self.directory.path().display(), %error, "disk cache starts cold: not readable");
        }
        found.sort_unstable();
        let newest_first = found.into_iter().rev();
        let back = newest_first.filter_map(|(serial, bytes)| self.put_back(noted.remove(&serial)?, bytes));
        let back: Vec<_> = back.collect();
        back.iter().rev().for_each(|file| self.enqueue(file));
        let (files, took) = (self.files.len(), begun.elapsed());
        METRICS.cache_restore_seconds.with_label_values(&["nvme"]).observe(took.as_secs_f64());
        if files > 0 {
            tracing::info!(files, bytes = self.budget.used(), ?took, "disk cache is warm");
        }
        self.restored.send_replace(true);
    }

    /// After a restore that panicked: keeps nothing, so that nothing is there uncounted.
    pub(super) fn start_cold(&self) {
        let files: Vec<_> = self.files.iter().map(|file| Arc::clone(&file)).collect();
        for file in files {
            self.discard(&file);
        }
        let removed = self.each_file(|name, path| {
            self.directory.skip(name.map_or(0, |name| name.serial));
            remove(path);
        });
        let cleared = self.packed.as_ref().map_or(Ok(()), |packed| packed.clear(&self.budget));
        match removed.and(cleared) {
            Ok(()) => drop(self.restored.send_replace(true)),
            Err(error) => tracing::error!(%error, "disk cache stays off: its directory cannot be emptied"),
        }
    }

    /// The files that the log names, with their pages.
    fn replay(&self) -> Found {
        let (mut found, unclaimed) = (Found::new(), Class::new("", Treatment::default()));
        let Ok(log) = File::open(self.directory.index()) else { return found };
        let mut records = Records::new(BufReader::with_capacity(256 << 10, log));
        for record in records.by_ref() {
            match record {
                Record::Made { file, size_bytes, born_s } => {
                    self.directory.skip(file.serial);
                    // What belongs elsewhere now is removed as what nobody named.
                    if !self.is_home_of(file.content) {
                        continue;
                    }
                    if let Some(restored) = self.noted(file, (size_bytes, born_s), &unclaimed) {
                        found.insert(file.serial, restored);
                    }
                }
                Record::Page { serial, number, checksum } => {
                    if let Some(file) = found.get(&serial) {
                        file.restore_page(number, checksum);
                    }
                }
                Record::Gone { serial } => drop(found.remove(&serial)),
                Record::Packed { .. } | Record::Unpacked { .. } => self.replay_packed(record),
            }
        }
        if let Some(at) = records.damage() {
            let log = self.directory.index().display();
            tracing::warn!(%log, at, "index of the disk cache is damaged: what follows is lost");
        }
        found
    }

    fn replay_packed(&self, record: Record) {
        let Some(packed) = &self.packed else { return };
        // Without memory for all of them some stay out.
        match record {
            // What belongs elsewhere now is not noted, so its place is dead.
            Record::Packed { content, .. } if !self.is_home_of(content) => {}
            Record::Packed { content, place, born_s } => drop(packed.restore_object(content, place, born_s)),
            Record::Unpacked { content } => drop(packed.forget(content)),
            Record::Made { .. } | Record::Page { .. } | Record::Gone { .. } => {}
        }
    }

    fn noted(
        &self,
        name: FileName,
        (size_bytes, born_s): (u64, u64),
        unclaimed: &Arc<Class>,
    ) -> Option<SparseFile> {
        let index = self.memory.reserve(sparse::index_bytes(size_bytes))?;
        let space = self.budget.try_reserve(0)?;
        let born = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(born_s))?;
        let path = self.directory.at(name);
        Some(SparseFile::restored((path, &self.health), (name, size_bytes, born), (space, index), unclaimed))
    }

    fn put_back(&self, file: SparseFile, bytes: u64) -> Option<Arc<SparseFile>> {
        // File systems that write late report no blocks yet.
        let present = file.bytes_present();
        let bytes = bytes.max(present);
        let space = self.budget.try_reserve(bytes).filter(|_| self.files.len() < self.files_max);
        let Some(space) = space.filter(|_| present > 0) else {
            file.unlink();
            return None;
        };
        file.absorb(space);
        file.add_weight(bytes);
        match self.files.entry(file.content()) {
            // A newer file of the same content.
            Entry::Occupied(_) => {
                file.unlink();
                None
            }
            Entry::Vacant(place) => Some(Arc::clone(&place.insert(Arc::new(file)))),
        }
    }

    /// Makes a file of an earlier run one of the class of who asks for it first; `false` if that may not have it.
    pub(super) fn claim(&self, file: &Arc<SparseFile>, class: &Arc<Class>) -> bool {
        let mut shelves = self.shelves();
        if file.is_claimed() {
            return true;
        }
        // Otherwise it gets its shelf later, or lost it.
        let is_queued = file.mark().is_queued();
        shelves.remove(file, Weak::upgrade);
        let is_taken = file.claim(class);
        if is_queued {
            shelves.insert(Arc::downgrade(file), file, Weak::upgrade);
        }
        is_taken
    }

    fn each_file(&self, mut seen: impl FnMut(Option<FileName>, &Path)) -> io::Result<()> {
        each_entry(self.directory.path(), |entry| {
            seen(entry.file_name().to_str().and_then(FileName::parse), &entry.path());
        })
    }
}

fn each_entry(directory: &Path, mut seen: impl FnMut(&DirEntry)) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        seen(&entry?);
    }
    Ok(())
}

fn bytes_on_disk(path: &Path) -> Option<u64> {
    let found = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some(found.blocks() * 512)
}

fn remove(path: &Path) {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_directory { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "a file of the disk cache that nothing names stays");
    }
}
