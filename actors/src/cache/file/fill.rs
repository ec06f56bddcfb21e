//! Content brought into the cache because somebody will want it, and how much of it is there.

use std::sync::Arc;

use forebay_core::{ByteRange, Cached, Result};

use super::CachedFile;
use crate::cache::nvme::Offer;
use crate::cache::page::pages;
use crate::cache::policy::Use;

impl CachedFile {
    /// How much of `range` is at hand.
    pub fn cached_bytes(&self, range: ByteRange) -> Cached {
        self.tiers.cached_bytes(self.content, self.disk(), range.clamp_to(self.size_bytes))
    }

    /// Drops what is cached of the content; how many bytes that were. Readers keep what they hold.
    pub fn free(&self) -> u64 {
        let bytes = self.cached_bytes(ByteRange::new(0, self.size_bytes)).bytes;
        self.tiers.forget(self.content, self.size_bytes);
        bytes
    }

    /// Brings the pages of `range` into the cache, one after the other and behind all who wait for the mount's store;
    /// returns when the lowest tier has kept them or cannot. The bytes that came from the store.
    ///
    /// # Errors
    /// As [`CachedFile::read`].
    pub async fn fill(&self, range: ByteRange) -> Result<u64> {
        let range = range.clamp_to(self.size_bytes);
        let mut fetched = 0;
        if range.is_empty() {
            return Ok(fetched);
        }
        for number in pages(range) {
            fetched += self.fill_page(number).await?;
        }
        Ok(fetched)
    }

    async fn fill_page(&self, number: u64) -> Result<u64> {
        let (key, oldest) = (self.content.page(number), self.class.oldest());
        let in_memory = || Some(self.tiers.memory.get(key, Use::Again, oldest)?.bytes);
        let Some(nvme) = self.disk() else {
            return Ok(if in_memory().is_some() {
                0
            } else {
                self.fill_from_store(number).await?.len() as u64
            });
        };
        if nvme.get(key, Use::Again, &self.class).is_some()
            || nvme.find_packed(key, Use::Again, &self.class).is_some()
        {
            return Ok(0);
        }
        let (bytes, fetched) = if let Some(bytes) = in_memory() {
            (bytes, 0)
        } else {
            let bytes = self.fill_from_store(number).await?;
            let fetched = bytes.len() as u64;
            (bytes, fetched)
        };
        nvme.keep(Offer { key, class: Arc::clone(&self.class), size_bytes: self.size_bytes, bytes }).await;
        Ok(fetched)
    }

    async fn fill_from_store(&self, number: u64) -> Result<bytes::Bytes> {
        let _place = self.share.filling().place().await;
        self.start(number, None).await
    }
}
