//! A store in the gateway's own memory: gone at exit, exact in every promise of the port, so it is also the model
//! that tests compare others with.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    ByteRange, Capability, Clock, ETag, Error, ErrorKind, Headers, ListQuery, Precondition, Result,
};
use md5::{Digest, Md5};

use super::{Backend, Object, ObjectPage, Source, check_marker, passed_group, require};

/// Longest key, as S3's.
const KEY_BYTES_MAX: usize = 1024;

struct Stored {
    content: Bytes,
    etag: ETag,
    modified: SystemTime,
    headers: Arc<Headers>,
}

/// Objects by key. The lock is held for one look or one change, never across an await or over I/O.
pub struct Memory {
    objects: RwLock<BTreeMap<String, Stored>>,
    fingerprint: String,
    clock: Clock,
    size_bytes: AtomicU64,
    used_bytes: Arc<AtomicU64>,
}

impl Memory {
    /// An empty store that keeps at most `size_bytes` of content.
    pub fn new(size_bytes: u64, clock: Clock) -> Self {
        Self {
            objects: RwLock::default(),
            fingerprint: format!("memory:{}", uuid::Uuid::new_v4()),
            clock,
            size_bytes: AtomicU64::new(size_bytes),
            used_bytes: Arc::default(),
        }
    }

    /// Bytes of content in use and at most.
    pub fn used_bytes(&self) -> (u64, u64) {
        (self.used_bytes.load(Ordering::Relaxed), self.size_bytes.load(Ordering::Relaxed))
    }

    /// Exchanges the most it keeps. What it holds above a lower one stays.
    pub fn resize(&self, size_bytes: u64) {
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, BTreeMap<String, Stored>> {
        // Each change is one call on the map, so a poisoned one is still whole.
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Stored>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, size_bytes: u64) -> Result<Reserved> {
        let most = self.size_bytes.load(Ordering::Relaxed);
        let grown = |used: u64| used.checked_add(size_bytes).filter(|&sum| sum <= most);
        self.used_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, grown)
            .map(|_| Reserved { used: Arc::clone(&self.used_bytes), size_bytes })
            .map_err(|used| {
                let message = format!("the memory store holds {used} of {most} bytes");
                Error::new(ErrorKind::NoSpace, message)
            })
    }

    /// Checks and stores under one lock.
    fn insert(
        &self,
        key: &str,
        stored: Stored,
        reserved: Reserved,
        condition: &Precondition,
    ) -> Result<Object> {
        let mut objects = self.write_lock();
        require(condition, objects.get(key).map(|present| &present.etag))?;
        let object = describe(key, &stored);
        if let Some(before) = objects.insert(key.to_owned(), stored) {
            self.used_bytes.fetch_sub(before.content.len() as u64, Ordering::AcqRel);
        }
        reserved.keep();
        Ok(object)
    }
}

/// Space taken before content is read; given back unless the content is stored.
struct Reserved {
    used: Arc<AtomicU64>,
    size_bytes: u64,
}

impl Reserved {
    fn keep(mut self) {
        self.size_bytes = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.size_bytes, Ordering::AcqRel);
    }
}

fn describe(key: &str, stored: &Stored) -> Object {
    Object {
        key: key.to_owned(),
        is_prefix: false,
        size_bytes: stored.content.len() as u64,
        etag: stored.etag.clone(),
        is_weak: false,
        modified: stored.modified,
        headers: Some(Arc::clone(&stored.headers)),
        inode: None,
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "no such object")
}

/// The source's bytes and their MD5 in hex, as S3 tags content.
fn load(source: &Source) -> std::io::Result<(Bytes, ETag)> {
    let content = source.read(ByteRange::new(0, source.size_bytes()))?;
    let etag = ETag::new(&hex::encode(Md5::digest(&content)));
    Ok((content, etag))
}

#[async_trait]
impl Backend for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn capability(&self) -> Capability {
        Capability {
            write: true,
            conditional_create: true,
            conditional_replace: true,
            native_copy: true,
            native_rename: false,
            headers: true,
            posix: false,
            hierarchical: false,
            key_bytes_max: KEY_BYTES_MAX,
        }
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        self.read_lock().get(key).map(|stored| describe(key, stored)).ok_or_else(missing)
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        let objects = self.read_lock();
        let stored = objects.get(key).ok_or_else(missing)?;
        if stored.etag != *etag {
            return Err(Error::new(ErrorKind::Stale, "the object was replaced"));
        }
        if range.end() > stored.content.len() as u64 {
            return Err(Error::new(ErrorKind::RangeNotSatisfiable, "the range ends past the object"));
        }
        Ok(stored.content.slice(range.offset as usize..range.end() as usize))
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        let objects = self.read_lock();
        let mut found = Vec::new();
        let mut from = match passed_group(query) {
            Some(group) => Bound::Included(end_of(group)),
            None => match &query.start_after {
                Some(after) if *after >= query.prefix => Bound::Excluded(after.clone()),
                Some(_) | None => Bound::Included(query.prefix.clone()),
            },
        };
        while let Some((key, stored)) = objects.range((from, Bound::Unbounded)).next() {
            let Some(rest) = key.strip_prefix(&query.prefix) else { break };
            if found.len() == query.limit {
                return Ok(ObjectPage { objects: found, is_truncated: true });
            }
            if let (true, Some(slash)) = (query.shallow, rest.find('/')) {
                let group = &key[..=query.prefix.len() + slash];
                found.push(Object::prefix(group));
                from = Bound::Included(end_of(group));
            } else {
                found.push(describe(key, stored));
                from = Bound::Excluded(key.clone());
            }
        }
        Ok(ObjectPage { objects: found, is_truncated: false })
    }

    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::new(ErrorKind::NameTooLong, "a key has 1 to 1024 bytes"));
        }
        check_marker(key, source)?;
        let reserved = self.reserve(source.size_bytes())?;
        let source = source.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&source)).await;
        let (content, etag) = loaded
            .map_err(|e| Error::new(ErrorKind::Internal, "reading staged bytes panicked").because(e))??;
        let stored = Stored { content, etag, modified: self.clock.now(), headers: Arc::new(headers.clone()) };
        self.insert(key, stored, reserved, condition)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        if let Some(stored) = self.write_lock().remove(key) {
            self.used_bytes.fetch_sub(stored.content.len() as u64, Ordering::AcqRel);
        }
        Ok(())
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object> {
        let (content, etag, kept) = {
            let objects = self.read_lock();
            let stored = objects.get(from).ok_or_else(missing)?;
            (stored.content.clone(), stored.etag.clone(), Arc::clone(&stored.headers))
        };
        // The bytes are shared, but each copy counts: the other may go first.
        let reserved = self.reserve(content.len() as u64)?;
        let headers = headers.map_or(kept, |headers| Arc::new(headers.clone()));
        let stored = Stored { content, etag, modified: self.clock.now(), headers };
        self.insert(to, stored, reserved, condition)
    }
}

/// The first key past all that start with `group`, which ends in `/`.
fn end_of(group: &str) -> String {
    let stem = group.strip_suffix('/').expect("a group ends in a slash");
    format!("{stem}0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::conformance;

    #[tokio::test]
    async fn memory_keeps_the_promises_of_the_port() {
        conformance::check(&Memory::new(1 << 30, Clock::system())).await;
    }

    #[tokio::test]
    async fn content_over_the_cap_is_refused_and_deleted_content_makes_room() {
        let memory = Memory::new(10, Clock::system());
        let put = async |key, text| {
            memory.put(key, &conformance::source(text), &Headers::default(), &Precondition::None).await
        };
        put("a", "123456").await.expect("fits");
        assert_eq!(put("b", "123456").await.map_err(|e| e.kind()).err(), Some(ErrorKind::NoSpace));
        memory.delete("a").await.expect("deletes");
        put("b", "123456").await.expect("fits again");
        assert_eq!(memory.used_bytes(), (6, 10));
    }

    #[tokio::test]
    async fn failed_condition_takes_no_space() {
        let memory = Memory::new(10, Clock::system());
        let source = conformance::source("1234");
        let matches = Precondition::Matches(ETag::new("x"));
        memory.put("a", &source, &Headers::default(), &matches).await.expect_err("nothing there");
        assert_eq!(memory.used_bytes().0, 0);
    }

    #[tokio::test]
    async fn file_and_directory_of_one_name_are_both_listed() {
        let memory = Memory::new(10, Clock::system());
        for key in ["d", "d/x", "d!"] {
            let source = conformance::source("1");
            memory.put(key, &source, &Headers::default(), &Precondition::None).await.expect("fits");
        }
        let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 9 };
        let names: Vec<_> =
            memory.list(&query).await.expect("lists").objects.into_iter().map(|object| object.key).collect();
        assert_eq!(names, ["d", "d!", "d/"]);
    }
}
