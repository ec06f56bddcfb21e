//! What a name showed before it was replaced leaves the cache.

use forebay_core::ByteRange;

use super::*;
use crate::mount::object::file::ObjectFile;

pub(super) const OLD: &[u8] = b"old content";

impl Fixture {
    /// How much of a content that a name showed once is cached.
    pub(super) fn cached_bytes(&self, name: &str, entry: &Entry) -> u64 {
        let file = ObjectFile::new(&self.mount.core, &key(name), entry.clone());
        forebay_core::OpenFile::cached(&file, ByteRange::new(0, entry.size_bytes)).bytes
    }

    /// A file that was read, so that it is cached.
    pub(super) async fn cached(&self, name: &str) -> Entry {
        self.store.put_outside(name, OLD).await;
        assert_eq!(self.read(name).await, OLD);
        let entry = self.stat(name).await.expect("there");
        assert_eq!(self.cached_bytes(name, &entry), OLD.len() as u64);
        entry
    }
}

#[tokio::test]
async fn replaced_content_leaves_the_cache_whoever_replaced_it() {
    for revalidate in [Revalidate::Always, TRUSTED, Revalidate::Never] {
        let f = fixture(revalidate);
        let old = f.cached("put").await;
        f.put("put", b"new").await;
        assert_eq!(f.cached_bytes("put", &old), 0, "a PUT, {revalidate:?}");

        let old = f.cached("changed").await;
        let staged = f.mount.stage(Target::Modify(key("changed"))).await.expect("stages");
        staged.write_at(0, Bytes::from_static(b"OLD")).await.expect("writes");
        staged.publish(Publish::default()).await.expect("publishes");
        assert_eq!(f.cached_bytes("changed", &old), 0, "a change in place, {revalidate:?}");

        let old = f.cached("deleted").await;
        f.mount.delete(&key("deleted"), DeleteMode::File).await.expect("deletes");
        assert_eq!(f.cached_bytes("deleted", &old), 0, "a deletion, {revalidate:?}");
    }
}

#[tokio::test]
async fn content_that_changed_at_the_store_leaves_the_cache_when_that_is_seen() {
    for revalidate in [Revalidate::Always, TRUSTED] {
        let f = fixture(revalidate);
        let (old, gone) = (f.cached("d/a").await, f.cached("gone").await);
        f.store.put_outside("d/a", b"another").await;
        f.store.delete("gone").await.expect("deletes");
        f.clock.advance(Duration::from_secs(61));
        f.stat("d/a").await.expect("there");
        assert_eq!(kind(f.stat("gone").await), Some(ErrorKind::NotFound));
        assert_eq!((f.cached_bytes("d/a", &old), f.cached_bytes("gone", &gone)), (0, 0));
    }
}

#[tokio::test]
async fn content_that_was_written_again_or_moved_stays_cached() {
    let f = fixture(TRUSTED);
    let old = f.cached("a").await;
    f.put("a", OLD).await;
    assert_eq!(f.cached_bytes("a", &old), OLD.len() as u64, "the same bytes");
    let failed = f.try_put("a", b"new", Precondition::Absent).await;
    assert_eq!(kind(failed), Some(ErrorKind::PreconditionFailed));
    assert_eq!(f.cached_bytes("a", &old), OLD.len() as u64, "a write that was refused");
    f.mount.rename(&key("a"), &key("b"), RenameMode::Replace).await.expect("renames");
    let moved = f.stat("b").await.expect("there");
    assert_eq!((moved.file_id, &moved.version), (old.file_id, &old.version));
    assert_eq!(f.cached_bytes("b", &moved), OLD.len() as u64);
}

#[tokio::test]
async fn reader_of_replaced_content_keeps_what_was_cached_until_it_is_done() {
    let f = fixture(TRUSTED);
    let old = f.cached("a").await;
    let all = ByteRange::new(0, old.size_bytes);
    let reader = f.mount.open(&key("a"), Want::File).await.expect("opens");
    f.put("a", b"new").await;
    assert!(reader.try_read(all).is_some());
    drop(reader);
    assert_eq!(f.cached_bytes("a", &old), 0);
}
