//! Reading from the disk, by who waits for it.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::ByteRange;

use super::health::Failure;
use super::{NvmeTier, SparseFile, is_damage};
use crate::cache::page::page_range;
use crate::cache::trail::Cause;

impl NvmeTier {
    /// Reads `range`, which lies in page `number`; `None` when that fails, and the file is dropped, or when the disk
    /// does not answer in time.
    pub(in crate::cache) async fn read(
        self: &Arc<Self>,
        file: Arc<SparseFile>,
        number: u64,
        range: ByteRange,
    ) -> Option<Bytes> {
        let tier = Arc::clone(self);
        self.health.in_turn(move || tier.read_now(&file, number, range)).await?
    }

    /// The same for who may block; a whole page is checked.
    fn read_now(&self, file: &Arc<SparseFile>, number: u64, range: ByteRange) -> Option<Bytes> {
        match file.read(number, range) {
            Ok(bytes) => Some(bytes),
            Err(error) if file.is_suspect(number) && is_damage(&error) => {
                tracing::warn!(file = %file.path().display(), page = number, %error, "page of an earlier run dropped");
                self.counters.damaged.inc();
                self.note(file.content(), Cause::Damaged);
                file.drop_page(number);
                None
            }
            Err(error) => {
                tracing::warn!(file = %file.path().display(), page = number, %error, "cached file dropped: read failed");
                self.note(file.content(), Cause::Damaged);
                if !is_damage(&error) {
                    self.health.fail(Failure::Read);
                }
                self.discard(file);
                None
            }
        }
    }

    /// Reads a complete file back, and lets it be lent or drops it.
    pub(super) fn verify(&self, file: &Arc<SparseFile>) {
        for number in 0..file.page_count() {
            if self.read_now(file, number, page_range(number, file.size_bytes())).is_none() {
                return;
            }
        }
        file.set_verified();
    }
}
