//! The ledger: what only we know of the entries of one store, which cannot keep it. POSIX attributes, xattrs, what is a
//! symbolic link, and identities that were kept through renames and changes in place.
//!
//! Invariants:
//! - What was set is in the log (module `log`) before it is acknowledged, and synced within a second, or at once when
//!   somebody asks for that: a kill loses nothing of it, a power failure what nobody synced. As with local disks, whose
//!   journals commit every few seconds, a sync for each `chmod` would cost a hundred times what it is worth.
//! - All of it is in memory, bounded by names; the log says the same. The order of the log is the order of changes.
//! - It belongs to the store, not to the path it is mounted at: mounts of one store share it, and it stays when the
//!   mount goes.
//! - A rename in one request of the store is announced first. Where a start finds one whose end is not known, both names
//!   have what was set for the old one.

mod identities;
mod log;
mod posix;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forebay_core::{AttributeChange, ETag, Entry, Error, ErrorKind, FileId, Result, XattrMode};
use tokio::sync::Notify;

pub(crate) use self::identities::Changing;
use self::identities::Identities;
use self::log::Log;
use self::posix::Posix;
use self::record::Record;
use crate::staging::blocking;

/// Names of a store whose attributes are kept; what is set for more is refused.
const NAMES_MAX: usize = 1_000_000;
/// Names whose identities are kept; the oldest are forgotten first.
const IDENTITIES_MAX: usize = 100_000;
/// Longest time from a change to its sync.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What only we know of one store, by name (keys; directories end in `/`).
pub struct Ledger {
    /// `None` where it ends with the process. Taken before the others, for a look and a write to the kernel's memory.
    log: Mutex<Option<Log>>,
    /// Encoded [`Posix`].
    attributes: RwLock<BTreeMap<Box<str>, Box<[u8]>>>,
    identities: Identities,
    /// Renames of which nobody knows yet how they end.
    moving: Mutex<Vec<(Box<str>, Box<str>)>>,
    /// Whether anything was ever set; most stores are only read and written.
    is_used: AtomicBool,
    is_unsynced: AtomicBool,
    /// Held, off the runtime, while the log is synced or written anew.
    settling: Mutex<()>,
    /// Something was appended.
    wake: Arc<Notify>,
}

/// A rename that the store is about to be told. Dropped, it did not happen.
pub(crate) struct Moving<'a> {
    ledger: &'a Ledger,
    /// `None` once it is known how it ended, or where nothing is known of either name.
    names: Option<(Box<str>, Box<str>)>,
}

impl Ledger {
    /// One that ends with the process.
    pub(crate) fn in_memory() -> Arc<Self> {
        Arc::new(Self::new())
    }

    fn new() -> Self {
        Self {
            log: Mutex::new(None),
            attributes: RwLock::default(),
            identities: Identities::new(IDENTITIES_MAX),
            moving: Mutex::default(),
            is_used: AtomicBool::new(false),
            is_unsynced: AtomicBool::new(false),
            settling: Mutex::new(()),
            wake: Arc::default(),
        }
    }

    /// The ledger `name` in `directory`, made if missing. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open(directory: &Path, name: &str) -> Result<Arc<Self>> {
        let at = |e: io::Error| Error::from(e).at("open ledger", directory.join(name).display());
        let ledger = Self::new();
        let apply = &mut |record| ledger.apply_record(record);
        let (log, is_whole) = Log::open(directory, name, apply).map_err(at)?;
        let moving = std::mem::take(&mut *ledger.under_way());
        for (from, to) in &moving {
            ledger.share(from, to);
        }
        *ledger.log() = Some(log);
        if !is_whole || !moving.is_empty() {
            ledger.rewrite().map_err(at)?;
        }
        Ok(Arc::new(ledger))
    }

    fn log(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<(Box<str>, Box<str>)>> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self) -> RwLockReadGuard<'_, BTreeMap<Box<str>, Box<[u8]>>> {
        self.attributes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn posix(&self, name: &str) -> Option<Posix> {
        if !self.is_used.load(Ordering::Acquire) {
            return None;
        }
        self.attributes().get(name).and_then(|bytes| Posix::decode(bytes))
    }

    /// Whether attributes were set for any name.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Puts what was set for `name` over what the store shows; whether that is the content of a symbolic link.
    pub(crate) fn apply(&self, name: &str, entry: &mut Entry) -> bool {
        let Some(posix) = self.posix(name) else { return false };
        posix.apply(entry);
        posix.link(&entry.etag).is_some()
    }

    /// Sets attributes; a modification time holds until the content, now tagged `etag`, changes.
    ///
    /// # Errors
    /// `NoSpace` when attributes of too many names are kept; the disk's.
    pub(crate) fn change(
        &self,
        name: &str,
        change: &AttributeChange,
        etag: &ETag,
        now: SystemTime,
    ) -> Result<()> {
        self.update(name, |posix| {
            posix.change(change, etag, now);
            Ok(())
        })
    }

    /// Notes that `name`, with the content tagged `etag`, is a symbolic link to `target`; what was set before is forgotten.
    ///
    /// # Errors
    /// As [`Ledger::change`].
    pub(crate) fn make_link(
        &self,
        name: &str,
        (target, etag): (&[u8], &ETag),
        owner: (u32, u32),
        now: SystemTime,
    ) -> Result<()> {
        self.update(name, |posix| {
            *posix = Posix::of_link(Bytes::copy_from_slice(target), owner, etag, now);
            Ok(())
        })
    }

    /// The target of the symbolic link that `name` is, if it shows the content tagged `etag`.
    pub(crate) fn link(&self, name: &str, etag: &ETag) -> Option<Bytes> {
        self.posix(name)?.link(etag).cloned()
    }

    /// Notes that `name` is a file now, also if its content is that of the link it was.
    pub(crate) fn forget_link(&self, name: &str) {
        if self.posix(name).is_none_or(|posix| !posix.is_link()) {
            return;
        }
        let mut log = self.log();
        if let Some(mut posix) = self.posix(name) {
            posix.forget_link();
            self.note(&mut log, vec![set(name, &posix)]);
        }
    }

    fn has_attributes(&self, name: &str) -> bool {
        self.posix(name).is_some()
    }

    pub(crate) fn xattrs(&self, name: &str) -> Vec<(String, Bytes)> {
        self.posix(name).map(Posix::into_xattrs).unwrap_or_default()
    }

    /// Sets an xattr, or removes it where `value` is `None`.
    ///
    /// # Errors
    /// As `Mount::set_xattr` and [`Ledger::change`].
    pub(crate) fn set_xattr(
        &self,
        name: &str,
        xattr: &str,
        value: Option<Bytes>,
        mode: XattrMode,
    ) -> Result<()> {
        self.update(name, |posix| posix.set_xattr(xattr, value, mode))
    }

    fn update(&self, name: &str, work: impl FnOnce(&mut Posix) -> Result<()>) -> Result<()> {
        let mut log = self.log();
        let present = self.posix(name);
        if present.is_none() && self.attributes().len() >= NAMES_MAX {
            let message = format!("attributes of at most {NAMES_MAX} names of a store are kept");
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        let mut posix = present.unwrap_or_default();
        work(&mut posix)?;
        let record = set(name, &posix);
        self.append(&mut log, std::slice::from_ref(&record))?;
        self.apply_record(record);
        Ok(())
    }

    /// What was set for a file is set for another name, too, and nothing else; the tags are those of the content at each.
    pub(crate) fn carry(&self, (from, from_tag): (&str, &ETag), (to, to_tag): (&str, &ETag)) {
        let mut log = self.log();
        let carried = self.posix(from);
        if carried.is_some() || self.has_attributes(to) {
            let mut posix = carried.unwrap_or_default();
            posix.retag(from_tag, to_tag);
            self.note(&mut log, vec![set(to, &posix)]);
        }
    }

    /// As [`Ledger::carry`] for a directory and those below it.
    pub(crate) fn carry_directories(&self, from: &str, to: &str) {
        let mut log = self.log();
        let carry = |name: Box<str>| Some(set(&renamed(&name, from, to), &self.posix(&name)?));
        let records = self.directories(from).into_iter().filter_map(carry).collect();
        self.note(&mut log, records);
    }

    fn directories(&self, prefix: &str) -> Vec<Box<str>> {
        names_at(&self.attributes(), prefix).filter(|name| name.ends_with('/')).map(Box::from).collect()
    }

    /// Forgets what was set for a directory and those below it, which are gone.
    pub(crate) fn forget_directories(&self, prefix: &str) {
        let mut log = self.log();
        let forget = |name: Box<str>| set(&name, &Posix::default());
        let mut records: Vec<_> = self.directories(prefix).into_iter().map(forget).collect();
        if self.identities.keeps_any(prefix) {
            records.push(Record::NoIdentity { name: prefix.into() });
        }
        self.note(&mut log, records);
    }

    /// Forgets a file or marker that is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.forget_attributes(name);
        self.release(name);
    }

    /// Forgets what was set for `name`.
    pub(crate) fn forget_attributes(&self, name: &str) {
        if self.has_attributes(name) {
            self.note(&mut self.log(), vec![set(name, &Posix::default())]);
        }
    }

    /// Forgets a directory and all below it, which are gone.
    pub(crate) fn forget_tree(&self, directory: &str) {
        if self.holds(directory) {
            self.note(&mut self.log(), vec![Record::Removed { directory: directory.into() }]);
        }
    }

    /// Whether anything is known of `name`, or of anything below it where it ends in `/`.
    fn holds(&self, name: &str) -> bool {
        self.identities.holds(name) || names_at(&self.attributes(), name).next().is_some()
    }

    /// Announces that the store is about to be told to move a file, or a directory (both names end in `/`) with all
    /// below. Contents keep their tags.
    pub(crate) fn moving(&self, from: &str, to: &str) -> Moving<'_> {
        let is_known = self.holds(from) || self.holds(to);
        let names = is_known.then(|| (Box::from(from), Box::from(to)));
        if let Some((from, to)) = names.clone() {
            self.note(&mut self.log(), vec![Record::Moving { from, to }]);
        }
        Moving { ledger: self, names }
    }

    /// The identity of what `name` shows now, whose own would be `natural`.
    pub(crate) fn resolve(&self, name: &str, etag: &ETag, natural: FileId) -> FileId {
        let (id, is_made_up) = self.identities.resolve(name, etag, natural);
        if is_made_up {
            self.note(&mut self.log(), vec![Record::Identity { name: name.into(), etag: etag.clone(), id }]);
        }
        id
    }

    /// Announces that the content of `name`, now tagged `etag`, is about to change in place.
    pub(crate) fn changing(&self, name: &str, etag: &ETag, id: FileId) -> Changing<'_> {
        self.identities.changing(name, etag, id)
    }

    /// Gives `name` an identity for as long as it shows `etag`.
    pub(crate) fn keep(&self, name: &str, etag: &ETag, id: FileId) {
        if !self.identities.keeps(name, etag, id) {
            self.note(&mut self.log(), vec![Record::Identity { name: name.into(), etag: etag.clone(), id }]);
        }
    }

    /// The name that an identity moved to with the content tagged `etag`, if it did.
    pub(crate) fn whereabouts(&self, id: FileId, etag: &ETag) -> Option<Arc<str>> {
        self.identities.whereabouts(id, etag)
    }

    /// Gives up the identity that `name` kept: it is gone or a new file.
    pub(crate) fn release(&self, name: &str) {
        if self.identities.keeps_any(name) {
            self.note(&mut self.log(), vec![Record::NoIdentity { name: name.into() }]);
        }
    }

    /// Appends records that may still be refused.
    fn append(&self, log: &mut Option<Log>, records: &[Record]) -> Result<()> {
        let Some(log) = log else { return Ok(()) };
        let mut frames = Vec::new();
        for record in records {
            record.encode(&mut frames);
        }
        let appended = log.append(&frames);
        self.is_unsynced.store(true, Ordering::Release);
        self.wake.notify_one();
        appended.map_err(|e| Error::from(e).at("write", "ledger"))
    }

    /// Appends and applies what has happened at the store already.
    fn note(&self, log: &mut Option<Log>, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.append(log, &records) {
            log.iter_mut().for_each(Log::miss);
            tracing::error!(%error, "what was set for an entry is lost if the gateway ends before its ledger is written anew");
        }
        for record in records {
            self.apply_record(record);
        }
    }

    fn apply_record(&self, record: Record) {
        let mut attributes = self.attributes.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Record::Posix { name, posix } if posix.is_empty() => drop(attributes.remove(&name)),
            Record::Posix { name, posix } => {
                self.is_used.store(true, Ordering::Release);
                attributes.insert(name, posix);
            }
            Record::Identity { name, etag, id } => self.identities.keep(&name, &etag, id),
            Record::NoIdentity { name } => self.identities.release(&name),
            Record::Moving { from, to } => self.under_way().push((from, to)),
            Record::Stayed { from, to } => self.ended(&from, &to),
            Record::Moved { from, to } => {
                self.ended(&from, &to);
                drop(take_at(&mut attributes, &to));
                let moved = take_at(&mut attributes, &from);
                attributes.extend(moved.into_iter().map(|(name, posix)| (renamed(&name, &from, &to), posix)));
                self.identities.rename(&from, &to);
            }
            Record::Removed { directory } => {
                drop(take_at(&mut attributes, &directory));
                self.identities.forget_tree(&directory);
            }
            Record::Generation(_) => {}
        }
    }

    fn ended(&self, from: &str, to: &str) {
        let mut moving = self.under_way();
        if let Some(place) = moving.iter().position(|(old, new)| **old == *from && **new == *to) {
            moving.swap_remove(place);
        }
    }

    /// Gives names at and below `to` what those at and below `from` have, where they have nothing.
    fn share(&self, from: &str, to: &str) {
        let mut attributes = self.attributes.write().unwrap_or_else(PoisonError::into_inner);
        let shared: Vec<_> = names_at(&attributes, from)
            .map(|name| (renamed(name, from, to), attributes[name].clone()))
            .filter(|(name, _)| !attributes.contains_key(name))
            .collect();
        attributes.extend(shared);
    }

    /// Waits until all that was acknowledged is on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn sync(self: &Arc<Self>) -> Result<()> {
        if !self.is_unsynced.load(Ordering::Acquire) {
            return Ok(());
        }
        let ledger = Arc::clone(self);
        blocking(move || ledger.sync_now()).await
    }

    /// As [`Ledger::sync`]. Blocks on the disk.
    pub(super) fn sync_now(&self) -> Result<()> {
        let _alone = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_unsynced.store(false, Ordering::Release);
        let Some((files, bytes)) = self.log().as_ref().and_then(Log::unsynced) else { return Ok(()) };
        let outcome = files.iter().try_for_each(std::fs::File::sync_data);
        self.log().iter_mut().for_each(|log| log.synced(&files, &outcome, bytes));
        outcome.map_err(|e| Error::from(e).at("sync", "ledger"))
    }

    /// Syncs the log soon after each change, and writes it anew when that is due. Ends with the ledger.
    pub(crate) async fn tend(ledger: Weak<Self>) {
        while let Some(wake) = ledger.upgrade().map(|ledger| Arc::clone(&ledger.wake)) {
            wake.notified().await;
            tokio::time::sleep(SYNC_EVERY).await;
            let Some(ledger) = ledger.upgrade() else { return };
            if let Err(error) = blocking(move || ledger.settle()).await {
                tracing::error!(%error, "a ledger is not on the disk; it is tried again");
                wake.notify_one();
            }
        }
    }

    fn settle(&self) -> Result<()> {
        let synced = self.sync_now();
        if self.log().as_ref().is_some_and(Log::is_rewrite_due) {
            return Ok(self.rewrite()?);
        }
        synced
    }

    /// Puts a log in place that holds what is true now and nothing else. Who changes something waits for neither.
    fn rewrite(&self) -> io::Result<()> {
        let _alone = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, content) = {
            let log = self.log();
            let Some(log) = log.as_ref() else { return Ok(()) };
            (log.begin()?, self.content())
        };
        let content_bytes = new.write(&content)?;
        let is_in_place = self.log().as_mut().map_or(Ok(true), |log| log.put_in_place(new, content_bytes))?;
        if is_in_place { Ok(()) } else { Err(io::Error::other("it changed while it was written")) }
    }

    fn content(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        for (name, posix) in self.attributes().iter() {
            Record::Posix { name: name.clone(), posix: posix.clone() }.encode(&mut frames);
        }
        self.identities.for_each(|name, etag, id| {
            Record::Identity { name: name.into(), etag: etag.clone(), id }.encode(&mut frames);
        });
        for (from, to) in self.under_way().iter() {
            Record::Moving { from: from.clone(), to: to.clone() }.encode(&mut frames);
        }
        frames
    }
}

impl Moving<'_> {
    /// The store did it.
    pub(crate) fn done(mut self) {
        if let Some((from, to)) = self.names.take() {
            self.ledger.note(&mut self.ledger.log(), vec![Record::Moved { from, to }]);
        }
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        if let Some((from, to)) = self.names.take() {
            self.ledger.note(&mut self.ledger.log(), vec![Record::Stayed { from, to }]);
        }
    }
}

fn set(name: &str, posix: &Posix) -> Record {
    let posix = if *posix == Posix::default() { Box::default() } else { posix.encode() };
    Record::Posix { name: name.into(), posix }
}

/// The name itself, and all below it where it ends in `/`.
fn names_at<'a>(
    attributes: &'a BTreeMap<Box<str>, Box<[u8]>>,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    let is_at = move |found: &&str| *found == name || (name.ends_with('/') && found.starts_with(name));
    let from = attributes.range::<str, _>((Bound::Included(name), Bound::Unbounded));
    from.map(|(found, _)| &**found).take_while(is_at)
}

fn take_at(attributes: &mut BTreeMap<Box<str>, Box<[u8]>>, name: &str) -> Vec<(Box<str>, Box<[u8]>)> {
    let names: Vec<Box<str>> = names_at(attributes, name).map(Box::from).collect();
    names.into_iter().filter_map(|name| attributes.remove_entry(&name)).collect()
}

fn renamed(name: &str, from: &str, to: &str) -> Box<str> {
    format!("{to}{}", &name[from.len()..]).into()
}
