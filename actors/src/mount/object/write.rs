//! Staged writes of an object mount: a local file, uploaded when it is published.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    AttributeChange, ByteRange, ETag, Entry, Error, ErrorKind, FileId, Headers, Key, Lent, OpenFile,
    Precondition, Publish, Result, Staged,
};
use tokio::sync::Mutex;

use super::Core;
use super::ahead::{Ahead, Place, Plan, may_put_whole};
use super::back::Kept;
use super::file::ObjectFile;
use super::lookup::Detail;
use super::request::Condition;
use crate::backend::{Object, Source};
use crate::cache::{ContentId, PAGE_BYTES};
use crate::config::WriteMode;
use crate::staging::{Sharing, StagingFile, Stamp};

/// How much of the present content is copied at once when a change begins.
const COPY_STEP_BYTES: u64 = 4 << 20;

/// A write in progress.
pub(super) struct ObjectWrite {
    core: Arc<Core>,
    key: Key,
    file: Arc<StagingFile>,
    ahead: Ahead,
    /// Held while a publication is under way, so that those of one write follow each other. The lock of an
    /// asynchronous mutex: whoever waits for it does not block a worker.
    progress: Mutex<Progress>,
}

/// What the store is known to have of this write.
#[derive(Default)]
struct Progress {
    /// The content that this write began with or published last; `None` for a new file.
    base: Option<Base>,
    /// Whether the write takes the place of whatever is there when it is published first.
    replaces: bool,
    /// The staged content at the time it was equal to the base.
    clean: Option<Stamp>,
    /// The tag of a content that the store may or may not have taken: the answer was lost.
    doubt: Option<ETag>,
    /// Something was published, and the store has it.
    is_uploaded: bool,
    /// The staged file was given away with the content that was published: nothing more is written to it.
    is_given: bool,
}

struct Base {
    entry: Entry,
    headers: Arc<Headers>,
}

impl Core {
    /// Starts a whole new content.
    pub(super) async fn replace(self: &Arc<Self>, key: Key) -> Result<Arc<dyn Staged>> {
        self.check_key(&key, 0)?;
        let file = self.staging.light_file().await?;
        let progress = Mutex::new(Progress { replaces: true, ..Progress::default() });
        Ok(Arc::new(ObjectWrite { core: Arc::clone(self), key, file, ahead: Ahead::default(), progress }))
    }

    /// Starts a change of the present content; of an empty one where there is no file.
    pub(super) async fn modify(self: &Arc<Self>, key: Key) -> Result<Arc<dyn Staged>> {
        self.check_key(&key, 0)?;
        let found = self.find_file(&key, Detail::Headers).await?;
        let file = self.staging.file().await?;
        let mut progress = Progress::default();
        let ahead = Ahead::default();
        if let Some(entry) = found {
            ahead.give_up();
            let open = ObjectFile::new(self, &key, entry.clone());
            copy_into(&open, &file).await?;
            progress.clean = Some(file.stamp()?);
            let headers = entry.headers.clone().unwrap_or_default();
            progress.base = Some(Base { entry, headers });
        }
        let progress = Mutex::new(progress);
        Ok(Arc::new(ObjectWrite { core: Arc::clone(self), key, file, ahead, progress }))
    }
}

async fn copy_into(open: &ObjectFile, file: &Arc<StagingFile>) -> Result<()> {
    let size_bytes = open.entry().size_bytes;
    let mut done = 0;
    while done < size_bytes {
        let step = ByteRange::new(done, (size_bytes - done).min(COPY_STEP_BYTES));
        let before = done;
        for piece in open.read_bytes(step).await? {
            let len = piece.len() as u64;
            file.write_at(done, piece).await?;
            done += len;
        }
        if done == before {
            return Err(Error::new(ErrorKind::Internal, "a read of an open file returned nothing"));
        }
    }
    Ok(())
}

impl Progress {
    /// What the caller asks for, or that the content is still the one this write began with.
    fn condition(&self, asked: &Precondition) -> Condition {
        match (asked, &self.base) {
            (Precondition::Absent | Precondition::Matches(_), _) => Condition::Asked(asked.clone()),
            (Precondition::None, Some(base)) => {
                Condition::Own(Precondition::Matches(base.entry.etag.clone()))
            }
            (Precondition::None, None) if self.replaces => Condition::NONE,
            (Precondition::None, None) => Condition::Own(Precondition::Absent),
        }
    }
}

impl ObjectWrite {
    /// Uploads the staged content; nothing else of this write is published meanwhile.
    async fn upload(&self, progress: &mut Progress, publish: &Publish) -> Result<Entry> {
        // Taken before the upload: what is written during it counts as changed.
        let settled = |file: &StagingFile| {
            file.settle()?;
            Ok((file.stamp()?, file.size_bytes()?))
        };
        let (stamp, size_bytes) = self.file.run(settled).await?;
        self.resolve_doubt(progress).await?;
        let headers = match (&publish.headers, &progress.base) {
            (Some(headers), _) => Arc::new(headers.clone()),
            (None, Some(base)) => Arc::clone(&base.headers),
            (None, None) => Arc::default(),
        };
        let condition = progress.condition(&publish.condition);
        let identity: Option<FileId> = progress.base.as_ref().map(|base| base.entry.file_id);
        let _changing = progress
            .base
            .as_ref()
            .map(|base| self.core.ledger.changing(self.key.as_str(), &base.entry.etag, base.entry.file_id));
        let source = Source::new(vec![(self.file.file(), size_bytes)]);
        let sharing = match &publish.headers {
            // S3 publishes a write once, others go on with it.
            Some(_) if progress.replaces && !self.file.was_lent() => Sharing::Sole,
            Some(_) | None => Sharing::Shared,
        };
        let kept = Kept {
            key: self.key.clone(),
            file: Arc::clone(&self.file),
            size_bytes,
            headers: Arc::clone(&headers),
            base: condition.base(),
            sharing,
        };
        let mut is_back = false;
        let plan = Plan { headers: Arc::clone(&headers), condition: self.core.sent(&condition).0.clone() };
        let stored = async {
            if let Some(object) = self.core.write_back(kept).await? {
                is_back = true;
                return Ok(object);
            }
            self.core.settled(self.key.as_str()).await?;
            match self.finish_ahead(&plan, (stamp, size_bytes)).await {
                Some(answer) => answer,
                None => self.core.put(self.key.as_str(), &source, &headers, &condition).await,
            }
        };
        let answer = self.core.keep_file(&self.key, &headers, identity, stored).await;
        progress.is_given = is_back && sharing == Sharing::Sole && self.file.is_moved();
        if answer.as_ref().is_err_and(Error::is_temporary) && !condition.is_none() {
            progress.doubt = Some(ETag::new(&self.file.run(StagingFile::md5).await?));
        }
        let entry = answer?;
        progress.clean = Some(stamp);
        progress.base = Some(Base { entry: entry.clone(), headers });
        progress.is_uploaded = !is_back;
        Ok(entry)
    }

    /// Finds out what became of an upload whose answer was lost, so that this write does not take its own content
    /// for somebody else's. Contents whose tag is not their MD5 are not recognised.
    async fn resolve_doubt(&self, progress: &mut Progress) -> Result<()> {
        let Some(etag) = &progress.doubt else { return Ok(()) };
        let found = self.core.look(self.key.as_str()).await?;
        if let Some(object) = found.filter(|object| object.etag == *etag) {
            if let Some(base) = &progress.base {
                self.core.ledger.keep(self.key.as_str(), &object.etag, base.entry.file_id);
            }
            let headers = object.headers.clone().unwrap_or_default();
            progress.base = Some(Base { entry: self.core.file_entry(&object), headers });
        }
        progress.doubt = None;
        Ok(())
    }

    /// Publishes what was sent ahead; `None` where the content has to be put whole.
    async fn finish_ahead(&self, plan: &Plan, (stamp, size_bytes): (Stamp, u64)) -> Option<Result<Object>> {
        let sending = self.ahead.all_sent(plan, size_bytes).await?;
        if self.file.was_lent() || self.file.stamp().ok()? != stamp {
            return None;
        }
        match sending.finish().await {
            Err(error) if may_put_whole(&error, &plan.condition) => {
                tracing::info!(key = self.key.as_str(), %error, "a write sent ahead is sent again as a whole");
                None
            }
            answer => Some(answer),
        }
    }

    /// Begins to send what is still arriving, if it is worth it and possible now.
    fn go_ahead(&self, written: u64) {
        let Some(pieces) = self.core.backend.ahead() else { return };
        if !self.ahead.is_worth_it(written, pieces) {
            return;
        }
        if matches!(self.core.write_mode(), WriteMode::Back(_)) {
            return;
        }
        // Neither while it is published, nor after.
        let Ok(progress) = self.progress.try_lock() else { return };
        let Some(place) = Place::take(&self.core) else { return };
        self.ahead.begin(place, (&self.key, &self.file.file(), pieces.piece_bytes), |publish| {
            let condition = progress.condition(&publish.condition);
            let headers = Arc::new(publish.headers.clone().unwrap_or_default());
            Plan { headers, condition: self.core.sent(&condition).0.clone() }
        });
    }

    /// Gives a file what it was published with. It is stored, so what goes wrong here does not fail its publication.
    fn own_attributes(&self, publish: &Publish, entry: &Entry, is_created: bool) {
        let (ledger, name) = (&self.core.ledger, self.key.as_str());
        if is_created {
            // Of a file that vanished at the store.
            ledger.forget_attributes(name);
        }
        let shown = self.core.shown(&self.key, entry.clone()).attributes;
        let is_shown = publish.mode.is_none_or(|mode| mode == shown.mode)
            && publish.owner.is_none_or(|owner| owner == (shown.uid, shown.gid));
        if is_shown {
            return;
        }
        let (uid, gid) = publish.owner.unzip();
        let change = AttributeChange { mode: publish.mode, uid, gid, ..AttributeChange::default() };
        if let Err(error) = ledger.change(name, &change, &entry.etag, self.core.clock.now()) {
            tracing::warn!(mount = &*self.core.label, key = name, %error, "a file has not the mode and owner it was made with");
        }
    }
}

#[async_trait]
impl Staged for ObjectWrite {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.ahead.arriving(offset, bytes.len() as u64);
        self.file.write_at(offset, bytes).await.inspect_err(|_| self.ahead.give_up())?;
        if let Some(written) = self.ahead.arrived() {
            self.go_ahead(written);
        }
        Ok(())
    }

    fn expect(&self, publish: &Publish, size_bytes: Option<u64>) {
        self.ahead.expect(publish, size_bytes);
    }

    async fn truncate(&self, size_bytes: u64) -> Result<()> {
        self.ahead.give_up();
        self.file.truncate(size_bytes).await
    }

    fn size_bytes(&self) -> Result<u64> {
        self.file.size_bytes()
    }

    fn file(&self) -> Lent {
        self.ahead.give_up();
        self.file.lend()
    }

    async fn publish(&self, publish: Publish) -> Result<Entry> {
        let mut progress = self.progress.lock().await;
        let is_unchanged = progress.is_given || progress.clean == Some(self.file.stamp()?);
        let is_clean = is_unchanged && publish.condition == Precondition::None;
        let entry = match &progress.base {
            Some(base)
                if is_clean && publish.headers.as_ref().is_none_or(|headers| *headers == *base.headers) =>
            {
                base.entry.clone()
            }
            Some(_) | None => {
                let is_created = progress.base.is_none() && !progress.replaces;
                let result = self.upload(&mut progress, &publish).await;
                self.core.staging.count_publish(&result);
                let entry = result?;
                self.own_attributes(&publish, &entry, is_created);
                entry
            }
        };
        Ok(self.core.shown(&self.key, entry))
    }
}

/// A published file of some size that nobody else can write to becomes the cached one, so that it is not fetched
/// again.
impl Drop for ObjectWrite {
    fn drop(&mut self) {
        let progress = self.progress.get_mut();
        let (Some(base), Some(clean), true) = (&progress.base, progress.clean, progress.is_uploaded) else {
            return;
        };
        let is_final = !self.file.was_lent() && self.file.stamp().is_ok_and(|stamp| stamp == clean);
        let is_kept = self.core.write_mode() != WriteMode::Around && base.entry.size_bytes >= PAGE_BYTES;
        if !is_final || !is_kept {
            return;
        }
        let content = ContentId { file_id: base.entry.file_id, version: base.entry.version.clone() };
        let (cache, file, size_bytes) =
            (self.core.cache.clone(), Arc::clone(&self.file), base.entry.size_bytes);
        let class = self.core.class_of(&self.key);
        self.core.work.start(async move {
            match cache.adopt((&content, &class), file.path(), size_bytes).await {
                Ok(true) => file.moved(),
                Ok(false) => {}
                Err(e) => tracing::warn!(error = %e, "a published file is not cached"),
            }
        });
    }
}
