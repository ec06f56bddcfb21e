//! Write-back: a content is acknowledged when it is kept on the staging disk, and brought to the store later.
//!
//! Invariants:
//! - Who looks at a name sees what is pending before what the store has; the tag of a content is the same before and
//!   after its upload, whatever the store calls it.
//! - The contents of a name come to the store in their order; one that was overtaken while it waited is left out.
//! - An upload carries the condition that its write began with. Where that does not hold any more, because somebody
//!   else changed the file at the store, both contents are kept: ours as `NAME.conflict-…`.
//! - In a store with directories of its own, what turns out to lie in the place of one, or below a file, is kept beside
//!   that, too.
//! - Whatever else changes a name (a conditional write, a deletion, a rename, a copy, the end of a multipart upload)
//!   waits until nothing of it is pending, and goes to the store itself.
//!
//! What is uploaded when is decided in [`super::uploader`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_core::{
    ByteRange, Conflict, ETag, Error, ErrorKind, Headers, Key, ListQuery, LostWrite, METRICS, Precondition,
    Result,
};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::Core;
use super::request::Condition;
use crate::backend::{Object, ObjectPage, Source};
use crate::cache::{ContentId, PAGE_BYTES};
use crate::config::{Ack, WriteMode};
use crate::staging::{Base, Content, Inline, Put, Sharing, Shown, StagingFile};

/// Longest wait for what is pending before a request that must follow it is refused.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a content is compared with the store's at once.
const COMPARE_STEP_BYTES: u64 = 4 << 20;
/// Digits of the tag in the name of the loser of a conflict.
const CONFLICT_DIGITS: usize = 12;

/// A content that is to be kept.
pub(super) struct Kept {
    pub(super) key: Key,
    pub(super) file: Arc<StagingFile>,
    pub(super) size_bytes: u64,
    pub(super) headers: Arc<Headers>,
    /// What its write begins with; `None` where the caller's own condition has to hold at the store.
    pub(super) base: Option<Base>,
    pub(super) sharing: Sharing,
}

impl Condition {
    /// What a write under this condition begins with, if it may be acknowledged before the store has it.
    pub(super) fn base(&self) -> Option<Base> {
        match self {
            Self::Asked(_) => None,
            Self::Own(Precondition::None) => Some(Base::Any),
            Self::Own(Precondition::Absent) => Some(Base::Absent),
            Self::Own(Precondition::Matches(etag)) => Some(Base::Tag(etag.as_str().to_owned())),
        }
    }
}

impl Core {
    pub(super) fn write_mode(&self) -> WriteMode {
        **self.write.load()
    }

    /// Keeps a content and acknowledges it; `None` where it must go to the store at once. Goes on if nobody waits.
    pub(super) async fn write_back(self: &Arc<Self>, kept: Kept) -> Result<Option<Object>> {
        let WriteMode::Back(ack) = self.write_mode() else { return Ok(None) };
        let Some(base) = kept.base.clone() else { return Ok(None) };
        let core = Arc::clone(self);
        self.work.finish(async move { core.keep(kept, base, ack).await }).await
    }

    async fn keep(&self, kept: Kept, base: Base, ack: Ack) -> Result<Option<Object>> {
        self.check_place(&kept.key)?;
        let name = kept.key.as_str();
        let put = Put {
            seq: 0,
            key: name.to_owned(),
            base,
            headers: Headers::clone(&kept.headers),
            size_bytes: kept.size_bytes,
            md5: kept.file.run(StagingFile::md5).await?,
            modified: self.clock.now(),
            file: None,
            inline: Inline::default(),
        };
        let object = pending_object(&put);
        let is_durable = ack != Ack::Nvme;
        let keeping = (ack != Ack::Uploaded).then(|| self.demand.keeping.enter());
        let outcome = self.staging.keep(&kept.file, put, (kept.sharing, is_durable)).await;
        drop(keeping);
        match outcome {
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => return Err(error),
            Err(error) => {
                self.note_waiting(name, &error);
                return Ok(None);
            }
            Ok(()) => self.note_room(),
        }
        if ack == Ack::Uploaded {
            self.settled(name).await?;
        }
        Ok(Some(object))
    }

    /// Says once that writes wait for the store.
    fn note_waiting(&self, name: &str, error: &Error) {
        if !self.is_waiting.swap(true, Ordering::Relaxed) {
            let mount = &*self.label;
            tracing::warn!(mount, key = name, %error, "writes wait for the store before they are acknowledged");
        }
    }

    /// Says once that they do no more.
    fn note_room(&self) {
        if self.is_waiting.load(Ordering::Relaxed)
            && self.staging.has_room()
            && self.is_waiting.swap(false, Ordering::Relaxed)
        {
            tracing::info!(mount = &*self.label, "writes are acknowledged before the store has them again");
        }
    }

    /// Waits until nothing of a name is pending.
    ///
    /// # Errors
    /// `Busy` when that takes too long.
    pub(super) async fn settled(&self, name: &str) -> Result<()> {
        let pending = self.staging.pending();
        if !pending.is_used() {
            return Ok(());
        }
        let _awaited = self.demand.awaited.enter();
        let mut applied = pending.watch();
        let settled = async {
            while pending.latest(name).is_some() {
                // The table outlives this, so its sender does.
                applied.changed().await.unwrap_or_default();
            }
        };
        timeout(SETTLE_DEADLINE, settled).await.map_err(unsettled)?;
        self.staging.settle().await
    }

    /// As [`Core::settled`] for a key and all below it, as far as that is pending now.
    pub(super) async fn settled_tree(&self, key: &Key) -> Result<()> {
        if !self.staging.pending().is_used() {
            return Ok(());
        }
        timeout(SETTLE_DEADLINE, self.flush(key)).await.map_err(unsettled)??;
        self.staging.settle().await
    }

    /// Waits until nothing at or below `key` is pending that was when this was called.
    pub(super) async fn flush(&self, key: &Key) -> Result<()> {
        let pending = self.staging.pending();
        let _awaited = self.demand.awaited.enter();
        let mut applied = pending.watch();
        let (last, below) = (pending.last_seq(), key.directory_prefix());
        let is_open = || {
            let of_file = pending.first_seq(key.as_str()).is_some_and(|seq| seq <= last);
            of_file || pending.first_below(&below).is_some_and(|seq| seq <= last)
        };
        while is_open() {
            // The table outlives this, so its sender does.
            applied.changed().await.unwrap_or_default();
        }
        Ok(())
    }

    /// What is pending of a name, as the store would show it.
    pub(super) fn pending(&self, name: &str) -> Option<Object> {
        self.staging.pending().latest(name).map(|put| pending_object(&put))
    }

    /// An object of the store as clients know it.
    pub(super) fn as_known(&self, mut object: Object) -> Object {
        if let Some(shown) = self.staging.pending().shown(&object.key)
            && shown.store_tag == object.etag.as_str()
        {
            object.etag = ETag::new(&shown.tag);
            object.modified = shown.modified;
            object.is_weak = false;
        }
        object
    }

    /// The tag that the store has for the content that clients know by `etag`.
    pub(super) fn store_tag(&self, name: &str, etag: &ETag) -> ETag {
        match self.staging.pending().shown(name) {
            Some(shown) if shown.tag == etag.as_str() => ETag::new(&shown.store_tag),
            Some(_) | None => etag.clone(),
        }
    }

    /// A condition as the store understands it.
    pub(super) fn store_condition(&self, name: &str, condition: &Precondition) -> Precondition {
        match condition {
            Precondition::Matches(etag) => Precondition::Matches(self.store_tag(name, etag)),
            Precondition::None | Precondition::Absent => condition.clone(),
        }
    }

    /// A part of a pending content; `None` where the store has it.
    pub(super) async fn read_pending(
        &self,
        name: &str,
        range: ByteRange,
        etag: &ETag,
    ) -> Result<Option<bytes::Bytes>> {
        match self.staging.pending().tagged(name, etag.as_str()) {
            Some(put) => self.staging.read(&put, range).await,
            None => Ok(None),
        }
    }

    /// What a listing has to show of pending contents. Taken before the store is asked: what is uploaded meanwhile is
    /// in one of the two.
    pub(super) fn pending_names(&self, query: &ListQuery) -> Vec<Arc<Put>> {
        self.staging.pending().listed(&query.prefix, query.start_after.as_deref())
    }

    /// The store's page with pending contents in their places.
    pub(super) fn merge(&self, query: &ListQuery, pending: &[Arc<Put>], page: ObjectPage) -> ObjectPage {
        let ObjectPage { objects, is_truncated } = page;
        let mut objects: Vec<Object> = objects.into_iter().map(|object| self.as_known(object)).collect();
        let end = objects.last().filter(|_| is_truncated).map(|object| object.key.clone());
        let after = query.start_after.as_deref().filter(|after| query.shallow && after.ends_with('/'));
        for put in pending {
            let rest = &put.key[query.prefix.len()..];
            let object = match rest.find('/').filter(|_| query.shallow) {
                Some(at) => Object::prefix(&put.key[..=query.prefix.len() + at]),
                None => pending_object(put),
            };
            let is_past = after.is_some_and(|after| put.key.starts_with(after));
            if is_past || end.as_ref().is_some_and(|end| object.key > *end) {
                continue;
            }
            match objects.binary_search_by(|present| present.key.cmp(&object.key)) {
                Ok(at) if object.is_prefix => objects[at].is_prefix = true,
                Ok(at) => objects[at] = object,
                Err(at) => objects.insert(at, object),
            }
        }
        let is_truncated = is_truncated || objects.len() > query.limit;
        objects.truncate(query.limit);
        ObjectPage { objects, is_truncated }
    }

    /// Brings the last pending content of a name to the store; how that ended, for the metric.
    pub(super) async fn upload(&self, name: &str) -> Result<&'static str> {
        let puts = self.staging.pending().of(name);
        let Some(newest) = puts.last() else { return Ok("ok") };
        let Some((sent, source)) = self.last_whole(&puts).await? else {
            let _change = self.change(name);
            self.staging.done((newest, newest.seq), None, async |_: &Path| false).await?;
            self.ledger.release(name);
            return Ok("lost");
        };
        // What readers were told of a content that is lost is forgotten when this is over.
        let _change = (sent < puts.len() - 1).then(|| self.change(name));
        let (puts, newest) = (&puts[..=sent], newest.seq);
        let last = &puts[sent];
        match self.send_pending(puts, newest, &source).await {
            Err(e) if matches!(e.kind(), ErrorKind::IsDirectory | ErrorKind::NotDirectory) => {
                self.keep_both((last, newest), &source).await.map(|()| "conflict")
            }
            answer => answer,
        }
    }

    /// Sends the last one of the contents of a name, of which number `newest` is the last that is pending.
    async fn send_pending(&self, puts: &[Arc<Put>], newest: u64, source: &Source) -> Result<&'static str> {
        let (Some(first), Some(last)) = (puts.first(), puts.last()) else { return Ok("ok") };
        let name = last.key.as_str();
        let mut condition = match &first.base {
            Base::Any => self.as_it_stands(name).await?,
            Base::Absent => Precondition::Absent,
            Base::Tag(tag) => Precondition::Matches(self.store_tag(name, &ETag::new(tag))),
        };
        // A lost answer makes our own earlier content the one that must be there: once for each content.
        for _ in 0..=puts.len() {
            let wanted = Condition::Own(condition.clone());
            match self.send_put(name, source, &last.headers, &wanted).await {
                Ok(object) => return self.uploaded((last, newest), object).await.map(|()| "ok"),
                Err(e) if e.kind() == ErrorKind::PreconditionFailed => {}
                Err(e) => return Err(e),
            }
            let there = self.look_at_store(name).await?;
            let own = match &there {
                Some(there) => self.own_content(puts, there).await?,
                None => None,
            };
            condition = match (there, own) {
                (Some(there), Some(own)) if own.seq == last.seq => {
                    return self.uploaded((last, newest), there).await.map(|()| "ok");
                }
                (Some(there), Some(_)) => Precondition::Matches(there.etag),
                (_, None) if first.base == Base::Any => self.as_it_stands(name).await?,
                (_, None) | (None, _) => {
                    return self.keep_both((last, newest), source).await.map(|()| "conflict");
                }
            };
        }
        if first.base == Base::Any {
            return Err(Error::new(ErrorKind::Busy, "the file changes at the store again and again"));
        }
        self.keep_both((last, newest), source).await.map(|()| "conflict")
    }

    /// Which of the contents of a name is the last one that this disk still has.
    async fn last_whole(&self, puts: &[Arc<Put>]) -> Result<Option<(usize, Source)>> {
        for (at, put) in puts.iter().enumerate().rev() {
            match self.staging.content(put).await? {
                Content::Whole(source) => return Ok(Some((at, source))),
                Content::Lost(cause) => self.note_lost(put, &cause),
            }
        }
        Ok(None)
    }

    fn note_lost(&self, put: &Put, cause: &str) {
        let (key, since) = (put.key.clone(), put.modified);
        let (mount, size_bytes) = (&*self.label, put.size_bytes);
        let lost = LostWrite { key, size_bytes, since, cause: cause.to_owned() };
        if self.lost.note(lost, |other| other.key == put.key && other.since == since) {
            METRICS.writeback_lost.with_label_values(&[mount]).inc();
            tracing::error!(mount, key = put.key, size_bytes, cause, "an acknowledged write is lost");
        }
    }

    /// The condition that nothing changes until it is sent. A content that may replace anything is sent with it, too:
    /// an earlier request that the store still has (its answer was lost, or its sender killed) never lands after it.
    async fn as_it_stands(&self, name: &str) -> Result<Precondition> {
        let there = self.look_at_store(name).await?;
        Ok(there.map_or(Precondition::Absent, |there| Precondition::Matches(there.etag)))
    }

    /// Which of our contents the store has, if it is one of them.
    async fn own_content<'a>(&self, puts: &'a [Arc<Put>], there: &Object) -> Result<Option<&'a Arc<Put>>> {
        for put in puts.iter().rev().filter(|put| put.size_bytes == there.size_bytes) {
            if put.md5 == there.etag.as_str() || self.is_equal(put, there).await? {
                return Ok(Some(put));
            }
        }
        Ok(None)
    }

    async fn is_equal(&self, put: &Arc<Put>, there: &Object) -> Result<bool> {
        let mut done = 0;
        while done < put.size_bytes {
            let step = ByteRange::new(done, (put.size_bytes - done).min(COMPARE_STEP_BYTES));
            let theirs = self.fetch_stored(&there.key, step, &there.etag).await?;
            if self.staging.read(put, step).await? != Some(theirs) {
                return Ok(false);
            }
            done += step.len;
        }
        Ok(true)
    }

    /// The store has a content: it is no longer pending, and its file becomes the cached one.
    async fn uploaded(&self, (put, newest): (&Put, u64), object: Object) -> Result<()> {
        let shown = (object.etag.as_str() != put.md5).then(|| Shown {
            key: put.key.clone(),
            tag: put.md5.clone(),
            store_tag: object.etag.as_str().to_owned(),
            modified: put.modified,
        });
        let key = Key::parse(&put.key)?;
        let entry = self.file_entry(&pending_object(put));
        if object.inode.is_some() {
            // Its own would be another one.
            self.ledger.keep(&put.key, &put.etag(), entry.file_id);
        }
        let content = ContentId { file_id: entry.file_id, version: entry.version };
        let class = self.class_of(&key);
        let take = async |path: &Path| {
            if put.size_bytes < PAGE_BYTES {
                return false;
            }
            match self.cache.adopt((&content, &class), path, put.size_bytes).await {
                Ok(is_taken) => is_taken,
                Err(error) => {
                    tracing::warn!(%error, "an uploaded file is not cached");
                    false
                }
            }
        };
        self.staging.done((put, newest), shown, take).await
    }

    /// Somebody else changed the file at the store: their content stays, ours is stored beside it.
    async fn keep_both(&self, (put, newest): (&Put, u64), source: &Source) -> Result<()> {
        let digits = &put.md5[..CONFLICT_DIGITS.min(put.md5.len())];
        let mut name = put.key.as_str();
        // Of its name nothing is remembered when this is over.
        let _change = self.change(&put.key);
        let beside = loop {
            let beside = format!("{name}.conflict-{digits}");
            let _change = self.change(&beside);
            match (
                self.send_put(&beside, source, &put.headers, &Condition::NONE).await,
                name.rsplit_once('/'),
            ) {
                (Err(e), Some((above, _))) if e.kind() == ErrorKind::NotDirectory => name = above,
                (answer, _) => break answer.map(|_| beside.clone())?,
            }
        };
        tracing::error!(
            mount = &*self.label,
            key = put.key,
            beside,
            "the file was changed at the store since this write began; both contents are kept"
        );
        // Before it is not pending any more: whoever sees that sees this.
        let conflict = Conflict { key: put.key.clone(), beside: beside.clone(), at: self.clock.now() };
        self.conflicts.note(conflict, |other| (&other.key, &other.beside) == (&put.key, &beside));
        self.staging.done((put, newest), None, async |_: &Path| false).await?;
        self.ledger.release(&put.key);
        Ok(())
    }
}

fn unsettled(elapsed: Elapsed) -> Error {
    let message = "earlier writes of this file are not at the store yet; try again";
    Error::new(ErrorKind::Busy, message).because(elapsed)
}

fn pending_object(put: &Put) -> Object {
    Object {
        key: put.key.clone(),
        is_prefix: false,
        size_bytes: put.size_bytes,
        etag: put.etag(),
        is_weak: false,
        modified: put.modified,
        headers: Some(Arc::new(put.headers.clone())),
        inode: None,
    }
}
