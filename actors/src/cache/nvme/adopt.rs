//! Files that somebody else wrote and that become cached ones by rename.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_core::{Error, ErrorKind, Result};

use super::record::Record;
use super::{NvmeTier, Opened, SparseFile, blocks};
use crate::cache::class::Class;
use crate::cache::page::ContentKey;

impl NvmeTier {
    /// Makes `source` the file of a content; see [`crate::cache::Cache::adopt`].
    pub(in crate::cache) async fn adopt(
        self: &Arc<Self>,
        (content, class): (ContentKey, Arc<Class>),
        source: PathBuf,
        size_bytes: u64,
    ) -> Result<bool> {
        if self.is_down() {
            return Ok(false);
        }
        let place = tokio::select! {
            place = Arc::clone(&self.adopting).acquire_owned() => place,
            () = self.health.silence() => return Ok(false),
        };
        let adopted = self.unless_silent(move |tier| {
            let _place = place;
            tier.adopt_now((content, &class), &source, size_bytes)
        });
        let lost = |e| Error::new(ErrorKind::Internal, "adopting a file ended without an answer").because(e);
        adopted.await.map_or(Ok(false), |adopted| adopted.map_err(lost)?)
    }

    fn adopt_now(
        &self,
        (content, class): (ContentKey, &Arc<Class>),
        source: &Path,
        size_bytes: u64,
    ) -> Result<bool> {
        let found = std::fs::symlink_metadata(source)?;
        if found.len() != size_bytes {
            let message = format!("file to adopt has {} bytes, its content {size_bytes}", found.len());
            return Err(Error::new(ErrorKind::Incomplete, message));
        }
        let takes_files = self.is_restored() && !self.is_down();
        if size_bytes == 0 || !takes_files || !self.directory.is_on(found.dev()) {
            return Ok(false);
        }
        let bytes = blocks(size_bytes).max(found.blocks() * 512);
        if bytes > self.budget.capacity() {
            class.tally().nvme.refused_full.inc();
            return Ok(false);
        }
        let Some(index) = self.index(size_bytes, class) else { return Ok(false) };
        let space = match self.reserve(bytes, class, None, usize::MAX) {
            Ok(space) => space,
            Err(refusal) => {
                self.refuse((content, class), &refusal);
                return Ok(false);
            }
        };
        let name = self.directory.name(content);
        let opened = Opened::new(File::open(source)?)?;
        let place = (self.directory.at(name), &self.health);
        let file = Arc::new(SparseFile::new(opened, place, (name, size_bytes), (space, index), class));
        file.fill_checksums()?;
        std::fs::rename(source, file.path())?;
        file.set_verified();
        if let Some(old) = self.files.insert(content, Arc::clone(&file)) {
            self.log.note(Record::Gone { serial: old.name().serial });
            self.dequeue(&old);
            old.unlink();
        }
        file.records(&mut |record| self.log.note(record));
        self.enqueue(&file);
        Ok(true)
    }
}
