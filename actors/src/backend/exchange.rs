//! A store behind which the way to it can be exchanged while it is in use: rotated credentials, another deadline.
//!
//! Invariants:
//! - What stands behind it is always one and the same store, by its fingerprint: whatever was learned from the one
//!   holds for the other.
//! - A request ends with whom it began.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{ByteRange, Capability, ETag, Headers, ListQuery, Precondition, RenameMode, Result};

use super::{Backend, Object, ObjectPage, Pending, Pieces, Source};

/// A store and the present way to it.
pub struct Exchange {
    kind: &'static str,
    fingerprint: String,
    present: ArcSwap<Arc<dyn Backend>>,
}

impl Exchange {
    /// Begins with `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            kind: backend.kind(),
            fingerprint: backend.fingerprint().to_owned(),
            present: ArcSwap::from_pointee(backend),
        }
    }

    /// Goes on with `backend`; `false` and no change when it is another store.
    pub fn exchange(&self, backend: Arc<dyn Backend>) -> bool {
        let is_same = backend.fingerprint() == self.fingerprint;
        if is_same {
            self.present.store(Arc::new(backend));
        }
        is_same
    }

    fn present(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.present.load())
    }
}

#[async_trait]
impl Backend for Exchange {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn capability(&self) -> Capability {
        self.present().capability()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn request_bytes(&self) -> u64 {
        self.present().request_bytes()
    }

    fn starts_anywhere(&self) -> bool {
        self.present().starts_anywhere()
    }

    async fn probe(&self, may_write: bool) -> Result<()> {
        self.present().probe(may_write).await
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        self.present().stat(key).await
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        self.present().read(key, range, etag).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        self.present().list(query).await
    }

    async fn put(
        &self,
        key: &str,
        source: &Source,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Object> {
        self.present().put(key, source, headers, condition).await
    }

    fn ahead(&self) -> Option<Pieces> {
        self.present().ahead()
    }

    async fn begin(
        self: Arc<Self>,
        key: &str,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Box<dyn Pending>> {
        self.present().begin(key, headers, condition).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.present().delete(key).await
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object> {
        self.present().copy(from, to, headers, condition).await
    }

    fn check_name(&self, name: &str) -> Result<()> {
        self.present().check_name(name)
    }

    async fn find(&self, name: &str) -> Result<Object> {
        self.present().find(name).await
    }

    async fn delete_tree(&self, key: &str) -> Result<()> {
        self.present().delete_tree(key).await
    }

    async fn rename(&self, from: &Object, to: &str, mode: RenameMode) -> Result<()> {
        self.present().rename(from, to, mode).await
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::Clock;

    use super::*;
    use crate::backend::{Memory, conformance};

    #[tokio::test]
    async fn exchange_keeps_the_promises_of_the_port() {
        conformance::check(&Exchange::new(Arc::new(Memory::new(1 << 30, Clock::system())))).await;
    }

    #[test]
    fn another_store_is_not_taken() {
        let memory = |size| Arc::new(Memory::new(size, Clock::system()));
        let exchange = Exchange::new(memory(1));
        let before = exchange.fingerprint().to_owned();
        assert!(!exchange.exchange(memory(2)));
        assert_eq!(exchange.present().fingerprint(), before);
    }
}
