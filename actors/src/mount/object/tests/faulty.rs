//! The memory store with its requests counted, held on their way back, or failed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay_core::{ByteRange, Capability, ETag, ErrorKind};
use tokio::sync::Notify;

use super::*;
use crate::backend::{Memory, Object, ObjectPage, Pending, Pieces};

/// A store that does what a test tells it.
pub(super) struct Faulty {
    memory: Memory,
    calls: Mutex<HashMap<&'static str, usize>>,
    failing: Mutex<Option<(&'static str, ErrorKind)>>,
    losing: Mutex<Option<(&'static str, ErrorKind)>>,
    held: Mutex<Option<(&'static str, Arc<Gate>)>>,
    /// Pieces of objects that are begun; 0 where none can be.
    pub(super) ahead_bytes: AtomicU64,
    pub(super) cannot_copy: AtomicBool,
    pub(super) ignores_conditions: AtomicBool,
    failing_all: Mutex<Option<ErrorKind>>,
    has_own_tags: AtomicBool,
}

/// What tags begin with where they are not the MD5.
const OWN_TAG: &str = "own-";

/// Holds one request between the store's answer and the mount.
#[derive(Default)]
pub(super) struct Gate {
    arrived: Notify,
    opened: Notify,
}

impl Gate {
    /// Waits until a request is held.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Lets it go on.
    pub(super) fn open(&self) {
        self.opened.notify_one();
    }
}

impl Faulty {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            memory: Memory::new(64 << 20, clock),
            calls: Mutex::default(),
            failing: Mutex::default(),
            losing: Mutex::default(),
            held: Mutex::default(),
            ahead_bytes: AtomicU64::new(0),
            cannot_copy: AtomicBool::new(false),
            ignores_conditions: AtomicBool::new(false),
            failing_all: Mutex::default(),
            has_own_tags: AtomicBool::new(false),
        }
    }

    /// How often `operation` was asked for since the last time this was.
    pub(super) fn calls(&self, operation: &str) -> usize {
        self.calls.lock().expect("test").remove(operation).unwrap_or(0)
    }

    /// Fails the next `operation`.
    pub(super) fn fail(&self, operation: &'static str, kind: ErrorKind) {
        *self.failing.lock().expect("test") = Some((operation, kind));
    }

    /// Fails everything from now on, or nothing.
    pub(super) fn fail_all(&self, kind: Option<ErrorKind>) {
        *self.failing_all.lock().expect("test") = kind;
    }

    /// Whether tags are others than the MD5 of the content.
    pub(super) fn own_tags(&self, has_own_tags: bool) {
        self.has_own_tags.store(has_own_tags, Ordering::Relaxed);
    }

    fn shown(&self, mut object: Object) -> Object {
        if self.has_own_tags.load(Ordering::Relaxed) {
            object.etag = ETag::new(&format!("{OWN_TAG}{}", object.etag.as_str()));
        }
        object
    }

    fn meant(&self, etag: &ETag) -> ETag {
        if self.has_own_tags.load(Ordering::Relaxed) {
            return ETag::new(etag.as_str().strip_prefix(OWN_TAG).unwrap_or("unknown"));
        }
        etag.clone()
    }

    /// Does the next `operation`, but answers that it failed.
    pub(super) fn lose(&self, operation: &'static str, kind: ErrorKind) {
        *self.losing.lock().expect("test") = Some((operation, kind));
    }

    /// Holds the answer of the next `operation`.
    pub(super) fn hold(&self, operation: &'static str) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        *self.held.lock().expect("test") = Some((operation, Arc::clone(&gate)));
        gate
    }

    /// Changes the store behind the mount's back.
    pub(super) async fn put_outside(&self, name: &str, content: &[u8]) -> ETag {
        let source = source(content);
        let headers = Headers { content_type: Some("text/outside".to_owned()), ..Headers::default() };
        self.memory.put(name, &source, &headers, &Precondition::None).await.expect("stores").etag
    }

    fn check_condition(&self, condition: &Precondition) -> Result<()> {
        if self.ignores_conditions.load(Ordering::Relaxed) && *condition != Precondition::None {
            return Err(Error::new(ErrorKind::Unsupported, "told to check no conditions"));
        }
        Ok(())
    }

    async fn pass<T>(&self, operation: &'static str, answer: impl Future<Output = Result<T>>) -> Result<T> {
        *self.calls.lock().expect("test").entry(operation).or_default() += 1;
        let failing = self.failing.lock().expect("test").take_if(|(failing, _)| *failing == operation);
        let failing_all = *self.failing_all.lock().expect("test");
        if let Some(kind) = failing.map(|(_, kind)| kind).or(failing_all) {
            return Err(Error::new(kind, "told to fail"));
        }
        let answer = answer.await;
        let held = self.held.lock().expect("test").take_if(|(held, _)| *held == operation);
        if let Some((_, gate)) = held {
            gate.arrived.notify_one();
            gate.opened.notified().await;
        }
        let losing = self.losing.lock().expect("test").take_if(|(losing, _)| *losing == operation);
        match losing {
            Some((_, kind)) => Err(Error::new(kind, "told to lose the answer")),
            None => answer,
        }
    }
}

#[async_trait]
impl Backend for Faulty {
    fn kind(&self) -> &'static str {
        self.memory.kind()
    }

    fn capability(&self) -> Capability {
        self.memory.capability()
    }

    fn fingerprint(&self) -> &str {
        self.memory.fingerprint()
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        self.pass("stat", self.memory.stat(key)).await.map(|object| self.shown(object))
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        self.pass("read", self.memory.read(key, range, &self.meant(etag))).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        let mut page = self.pass("list", self.memory.list(query)).await?;
        // As S3 does.
        page.objects.iter_mut().for_each(|object| object.headers = None);
        page.objects = page.objects.into_iter().map(|object| self.shown(object)).collect();
        Ok(page)
    }

    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        self.check_condition(condition)?;
        let condition = match condition {
            Precondition::Matches(etag) => Precondition::Matches(self.meant(etag)),
            Precondition::None | Precondition::Absent => condition.clone(),
        };
        let put = self.memory.put(key, source, headers, &condition);
        self.pass("put", put).await.map(|object| self.shown(object))
    }

    fn ahead(&self) -> Option<Pieces> {
        let piece_bytes = self.ahead_bytes.load(Ordering::Relaxed);
        (piece_bytes > 0).then_some(Pieces { piece_bytes, whole_bytes_max: 2 * piece_bytes })
    }

    async fn begin(
        self: Arc<Self>,
        key: &str,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Box<dyn Pending>> {
        self.check_condition(condition)?;
        self.pass("begin", async { Ok(()) }).await?;
        let (key, headers, condition) = (key.to_owned(), headers.clone(), condition.clone());
        Ok(Box::new(Begun { store: self, key, headers, condition, content: Vec::new() }))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.pass("delete", self.memory.delete(key)).await
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object> {
        self.check_condition(condition)?;
        if self.cannot_copy.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unsupported, "told not to copy"));
        }
        self.pass("copy", self.memory.copy(from, to, headers, condition)).await
    }
}

pub(super) fn source(content: &[u8]) -> Source {
    let file = tempfile::tempfile().expect("a temporary file");
    std::os::unix::fs::FileExt::write_all_at(&file, content, 0).expect("writes");
    Source::new(vec![(Arc::new(file), content.len() as u64)])
}

/// An object that is not there yet.
struct Begun {
    store: Arc<Faulty>,
    key: String,
    headers: Headers,
    condition: Precondition,
    content: Vec<u8>,
}

#[async_trait]
impl Pending for Begun {
    async fn feed(&mut self, bytes: Bytes) -> Result<()> {
        self.content.extend_from_slice(&bytes);
        self.store.pass("part", async { Ok(()) }).await
    }

    async fn finish(&mut self) -> Result<Object> {
        let source = source(&self.content);
        let put = self.store.memory.put(&self.key, &source, &self.headers, &self.condition);
        self.store.pass("finish", put).await
    }

    async fn abandon(&mut self) {
        self.store.pass("abandon", async { Ok(()) }).await.expect("abandons");
    }
}
