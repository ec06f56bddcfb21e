//! Contents that are acknowledged before the store has them: kept on this disk, named in the journal, given up when
//! they are at the store.
//!
//! Invariants:
//! - A content is on the disk before its record is; so a record that can be read names a content that is there.
//! - A file in `pending/` never changes and belongs to one record. One that no record names is a write that was not
//!   acknowledged, or one that was done: it goes at the next start.
//! - That a content is at the store is on the disk before its file goes, and before anything else changes its name
//!   there: a restart never sends again what was followed by something that is not in the journal.
//! - A content that is not what was acknowledged is never sent; its file goes to `damaged/`, where it counts against the
//!   quota until somebody removes it.
//! - At most half of the staging quota is pending, so that there is room to write through.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, Result};
use uuid::Uuid;

use super::journal::Journal;
use super::record::{INLINE_BYTES_MAX, Put, Record, Shown};
use super::table::Table;
use super::{PRIVATE, Shared, Staging, StagingFile, blocking, make_directory};
use crate::backend::Source;

/// The part of the staging quota that may be pending, as a divisor.
const QUOTA_DIVISOR: u64 = 2;

/// Small pending contents are in memory until they are at the store; above this, in files.
const INLINE_TOTAL_BYTES_MAX: u64 = 64 << 20;

/// Whether a staged file is still written to after its content was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// It is not: the file itself is kept.
    Sole,
    /// It may be: a copy is kept.
    Shared,
}

/// A pending content on its way to the store.
pub(crate) enum Content {
    /// What was acknowledged.
    Whole(Arc<File>),
    /// It is no more; why.
    Lost(String),
}

/// The pending contents of one mount.
pub(crate) struct Back {
    directory: PathBuf,
    damaged: PathBuf,
    table: Arc<Table>,
    journal: Journal,
}

impl Back {
    /// Reads the journal in `directory`; also how many bytes count against the quota. Blocks on the disk.
    pub(super) fn open(directory: &Path, mount: &str) -> io::Result<(Self, u64)> {
        let table = Arc::new(Table::new(mount));
        let journal = Journal::open(directory.join("journal"), Arc::clone(&table), mount)?;
        let [pending, damaged] = ["pending", "damaged"].map(|name| directory.join(name));
        make_directory(&pending, PRIVATE)?;
        make_directory(&damaged, PRIVATE)?;
        let named = table.files();
        // Also of those that are lost: each is given back when it is no longer pending.
        let mut bytes = named.values().sum();
        for entry in fs::read_dir(&pending)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !named.contains_key(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(&damaged)? {
            bytes += entry?.metadata()?.len();
        }
        Ok((Self { directory: pending, damaged, table, journal }, bytes))
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    fn path(&self, put: &Put) -> Option<PathBuf> {
        put.file.as_ref().map(|name| self.directory.join(name))
    }
}

impl Staging {
    /// Keeps the content of `file`, described by `put`, until [`Staging::done`]. When this answers, a restart finds it;
    /// with `is_durable` a restart of the machine, too. Not cancel-safe: run it to its end.
    ///
    /// # Errors
    /// `NoSpace` when enough is pending; `PreconditionFailed` when its base is not what is pending of the name; the
    /// disk's. The content is staged as before then.
    pub(crate) async fn keep(
        &self,
        file: &Arc<StagingFile>,
        mut put: Put,
        (sharing, is_durable): (Sharing, bool),
    ) -> Result<()> {
        let size_bytes = put.size_bytes;
        let backlog = self.0.back.table.backlog();
        if backlog.bytes + size_bytes > self.0.space.limit_bytes() / QUOTA_DIVISOR {
            let message = "as much is pending as may be";
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        if size_bytes <= INLINE_BYTES_MAX && backlog.inline_bytes + size_bytes <= INLINE_TOTAL_BYTES_MAX {
            let file = Arc::clone(file.file());
            put.inline = blocking(move || Ok(read(&file, ByteRange::new(0, size_bytes))?)).await?;
            return self.0.back.journal.append(Record::Put(Box::new(put)), is_durable).await;
        }
        let name = Uuid::new_v4().simple().to_string();
        let path = self.0.back.directory.join(&name);
        put.file = Some(name);
        let (shared, staged, kept) = (Arc::clone(&self.0), Arc::clone(file), path.clone());
        blocking(move || shared.place(&staged, &kept, (sharing, is_durable))).await?;
        let answer = self.0.back.journal.append(Record::Put(Box::new(put)), is_durable).await;
        match (&answer, sharing) {
            (Ok(()), Sharing::Sole) => {
                file.moved();
                self.0.space.take(size_bytes);
            }
            (Ok(()), Sharing::Shared) => self.0.space.take(size_bytes),
            (Err(_), Sharing::Sole) => {
                let staged = Arc::clone(file);
                blocking(move || Ok(fs::rename(&path, staged.path())?)).await?;
            }
            (Err(_), Sharing::Shared) => blocking(move || Ok(fs::remove_file(&path)?)).await?,
        }
        answer
    }

    /// Whether much more may be pending.
    pub(crate) fn has_room(&self) -> bool {
        self.0.back.table.backlog().bytes <= self.0.space.limit_bytes() / QUOTA_DIVISOR / 2
    }

    /// Says that the writes of a name up to number `seq` are no longer pending, `put` having been the last to be sent.
    /// `take` may rename the file of `put`, which is removed otherwise.
    ///
    /// # Errors
    /// The disk's: the content is then sent to the store again at the next start.
    pub(crate) async fn done(
        &self,
        (put, seq): (&Put, u64),
        shown: Option<Shown>,
        take: impl AsyncFnOnce(&Path) -> bool,
    ) -> Result<()> {
        let back = &self.0.back;
        let over: Vec<_> = back.table.of(&put.key).into_iter().filter(|other| other.seq <= seq).collect();
        if let Some(shown) = shown {
            back.journal.append(Record::Shown(shown), false).await?;
        }
        // A file goes when no restart looks for it any more.
        let has_files = over.iter().any(|put| put.file.is_some());
        back.journal.append(Record::Done { key: put.key.clone(), seq }, has_files).await?;
        let is_taken = match back.path(put) {
            Some(path) => take(&path).await,
            None => false,
        };
        if is_taken {
            self.0.space.release(put.size_bytes);
        }
        let (shared, taken) = (Arc::clone(&self.0), is_taken.then_some(put.seq));
        blocking(move || {
            for other in over.iter().filter(|other| Some(other.seq) != taken) {
                let Some(path) = shared.back.path(other) else { continue };
                match fs::remove_file(&path) {
                    // Lost, or a disk that hung took it after all.
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), error = %e, "stays until the next start");
                    }
                    Ok(()) | Err(_) => shared.space.release(other.size_bytes),
                }
            }
            Ok(())
        })
        .await
    }

    /// What clients know the contents of `from` as, they know them as at `to`, too; both end in `/` where they stand for
    /// all below them.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn carry_shown(&self, from: &str, to: &str) -> Result<()> {
        let renamed = self.0.back.table.shown_at(from).into_iter().map(|shown| {
            let key = format!("{to}{}", &shown.key[from.len()..]);
            self.0.back.journal.append(Record::Shown(Shown { key, ..Shown::clone(&shown) }), false)
        });
        futures::future::try_join_all(renamed).await.map(drop)
    }

    /// Waits until no restart brings back what is done.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.0.back.journal.sync().await
    }

    /// A part of a pending content; `None` when it is pending no more.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn read(&self, put: &Put, range: ByteRange) -> Result<Option<Bytes>> {
        let Some(path) = self.0.back.path(put) else {
            let (start, end) = (range.offset as usize, range.end() as usize);
            return Ok(Some(put.inline.slice(start..end)));
        };
        blocking(move || match File::open(path) {
            Ok(file) => Ok(Some(read(&file, range)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        })
        .await
    }

    /// The content of a pending write as a file to be uploaded.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn content(&self, put: &Arc<Put>) -> Result<Content> {
        let (shared, put) = (Arc::clone(&self.0), Arc::clone(put));
        blocking(move || {
            let Some(path) = shared.back.path(&put) else {
                let file = tempfile::tempfile_in(&shared.writes)?;
                file.write_all_at(&put.inline, 0)?;
                return Ok(Content::Whole(Arc::new(file)));
            };
            let file = match File::open(&path) {
                Ok(file) => Arc::new(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound && shared.back.directory.is_dir() => {
                    return Ok(Content::Lost(format!("{} is gone", path.display())));
                }
                Err(e) => return Err(e.into()),
            };
            let source = Source { files: vec![(Arc::clone(&file), put.size_bytes)] };
            match source.md5() {
                Ok(md5) if hex::encode(md5) == put.md5 => return Ok(Content::Whole(file)),
                // It is shorter than it was.
                Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e.into()),
                Ok(_) | Err(_) => {}
            }
            let aside = shared.back.damaged.join(path.file_name().unwrap_or_default());
            fs::rename(&path, &aside)?;
            shared.space.take(file.metadata()?.len());
            Ok(Content::Lost(format!("{} is not what was acknowledged", aside.display())))
        })
        .await
    }
}

#[cfg(test)]
impl Staging {
    /// The journal panics while it writes the next group.
    pub(crate) fn sabotage_journal(&self) {
        self.0.back.journal.sabotage();
    }
}

impl Shared {
    /// Puts a staged content where pending ones lie.
    fn place(&self, file: &StagingFile, path: &Path, (sharing, is_durable): (Sharing, bool)) -> Result<()> {
        match sharing {
            Sharing::Sole => {
                if is_durable {
                    file.file().sync_data()?;
                }
                fs::rename(file.path(), path)?;
            }
            Sharing::Shared => {
                fs::copy(file.path(), path)?;
                if is_durable {
                    File::open(path)?.sync_all()?;
                }
            }
        }
        if is_durable {
            File::open(&self.back.directory)?.sync_all()?;
        }
        Ok(())
    }
}

fn read(file: &File, range: ByteRange) -> io::Result<Bytes> {
    let mut content = vec![0; usize::try_from(range.len).map_err(io::Error::other)?];
    file.read_exact_at(&mut content, range.offset)?;
    Ok(content.into())
}
