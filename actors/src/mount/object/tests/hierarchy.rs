//! Write-back to a store with directories of its own.

use std::sync::atomic::Ordering;

use super::faulty::source;
use super::*;
use crate::backend::Hdfs;
use crate::backend::hdfs_tests::{StandIn, client};
use crate::config::Ack;

/// A write-back mount over an HDFS that others write to as well.
struct Lake {
    standin: Arc<StandIn>,
    store: Arc<Hdfs>,
    outside: Hdfs,
    mount: Arc<ObjectMount>,
    directory: TempDir,
}

async fn lake() -> Lake {
    let standin = StandIn::start().await;
    let store = Arc::new(client(&[&standin], "/root"));
    let outside = client(&[&standin.twin().await], "/root");
    let directory = TempDir::new().expect("a temporary directory");
    let mount = mounted(&store, &directory);
    Lake { standin, store, outside, mount, directory }
}

fn mounted(store: &Arc<Hdfs>, directory: &TempDir) -> Arc<ObjectMount> {
    let clock = ManualClock::default();
    let back = WriteMode::Back(Ack::NvmeFsync);
    mount_with(store, &clock, directory, (Revalidate::Always, &MEMORY_ONLY, back, None))
}

impl Lake {
    /// Whether the mount, and nobody else, finds no NameNode.
    fn unplug(&self, is_unplugged: bool) {
        self.standin.is_standby.store(is_unplugged, Ordering::Relaxed);
    }

    async fn put(&self, name: &str, content: &'static [u8]) -> Result<Entry> {
        let staged = self.mount.stage(Target::Replace(key(name))).await?;
        staged.write_at(0, Bytes::from_static(content)).await?;
        staged.publish(Publish::default()).await
    }

    async fn put_outside(&self, name: &str, content: &[u8]) {
        let (source, headers) = (source(content), Headers::default());
        self.outside.put(name, &source, &headers, &Precondition::None).await.expect("stores");
    }

    async fn stored(&self, name: &str) -> Vec<u8> {
        let object = self.outside.stat(name).await.expect("is there");
        let range = forebay_core::ByteRange::new(0, object.size_bytes);
        self.outside.read(name, range, &object.etag).await.expect("reads").to_vec()
    }

    async fn stat(&self, name: &str) -> Result<Entry> {
        self.mount.stat(&key(name), Want::Any).await
    }

    async fn read(&self, name: &str) -> Vec<u8> {
        let file = self.mount.open(&key(name), Want::File).await.expect("opens");
        let range = forebay_core::ByteRange::new(0, file.entry().size_bytes);
        file.read(range).await.expect("reads").read().expect("in memory").concat()
    }

    async fn listed(&self, prefix: &str) -> Vec<String> {
        let query = ListQuery { prefix: prefix.to_owned(), shallow: true, start_after: None, limit: 10 };
        let page = self.mount.list(&query).await.expect("lists");
        page.items.into_iter().map(|item| item.name).collect()
    }

    async fn uploaded(&self) {
        let root = Key::root();
        tokio::time::timeout(Duration::from_mins(1), self.mount.flush(&root))
            .await
            .expect("in time")
            .expect("uploads");
    }

    async fn restarted(self) -> Self {
        let Self { standin, store, outside, mount, directory } = self;
        let core = Arc::downgrade(&mount.core);
        drop(mount);
        // An upload may hold it a little longer.
        while core.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        let mount = mounted(&store, &directory);
        Self { standin, store, outside, mount, directory }
    }

    fn conflicts(&self) -> Vec<(String, String)> {
        self.mount.conflicts().into_iter().map(|conflict| (conflict.key, conflict.beside)).collect()
    }
}

#[tokio::test]
async fn write_back_to_hdfs_is_seen_at_once_and_stays_what_it_was() {
    let l = lake().await;
    l.put_outside("there", b"x").await;
    l.unplug(true);
    let told = l.put("d/e/f", b"content").await.expect("needs no NameNode");
    assert_eq!(l.read("d/e/f").await, b"content");
    let l = l.restarted().await;
    assert_eq!(l.stat("d/e/f").await.expect("there").etag, told.etag);
    l.unplug(false);
    let entry = l.put("d/g", b"more").await.expect("is acknowledged");
    for directory in ["d", "d/e"] {
        assert!(l.stat(directory).await.expect("there").is_directory(), "{directory}");
    }
    assert_eq!(l.listed("").await, ["d/", "there"]);
    assert_eq!(l.listed("d/").await, ["d/e/", "d/g"]);
    l.uploaded().await;
    assert_eq!((l.stored("d/e/f").await, l.stored("d/g").await), (b"content".to_vec(), b"more".to_vec()));
    assert_eq!(l.listed("d/").await, ["d/e/", "d/g"]);
    let shown = l.stat("d/g").await.expect("there");
    assert_eq!((&shown.etag, shown.file_id), (&entry.etag, entry.file_id));
    l.mount.rename(&key("d"), &key("moved"), RenameMode::NoReplace).await.expect("renames");
    l.mount.rename(&key("moved/g"), &key("g"), RenameMode::NoReplace).await.expect("renames");
    let shown = l.stat("g").await.expect("there");
    assert_eq!((&shown.etag, shown.file_id), (&entry.etag, entry.file_id));
    let l = l.restarted().await;
    assert_eq!(l.stat("g").await.expect("there").etag, entry.etag);
    assert_eq!(l.stat("moved/e/f").await.expect("there").etag, told.etag);
    assert_eq!((l.read("g").await, l.read("moved/e/f").await), (b"more".to_vec(), b"content".to_vec()));
}

#[tokio::test]
async fn deletion_and_rename_in_hdfs_follow_what_is_pending() {
    let l = lake().await;
    for name in ["a", "d/b", "e/c", "f/d"] {
        l.put(name, b"content").await.expect("is acknowledged");
    }
    assert!(l.mount.delete(&key("a"), DeleteMode::Object).await.expect("deletes"));
    assert!(l.mount.delete(&key("d"), DeleteMode::Tree).await.expect("deletes"));
    let kept = l.mount.delete(&key("f"), DeleteMode::EmptyDirectory).await;
    assert_eq!(kind(kept), Some(ErrorKind::NotEmpty));
    l.mount.rename(&key("e"), &key("moved"), RenameMode::Replace).await.expect("renames");
    let l = l.restarted().await;
    l.uploaded().await;
    let keys = l.standin.keys().into_iter().filter(|key| !key.contains(".forebay-tmp"));
    assert_eq!(keys.collect::<Vec<_>>(), ["root/f/d", "root/moved/c"]);
}

#[tokio::test]
async fn directory_in_hdfs_is_made_after_what_is_pending_there() {
    let l = lake().await;
    for (name, directory) in [("a", "a"), ("b", "b/c")] {
        l.put(name, b"content").await.expect("is acknowledged");
        let made = l.mount.mkdir(&key(directory), MkdirMode::Parents).await;
        assert!([Some(ErrorKind::AlreadyExists), Some(ErrorKind::NotDirectory)].contains(&kind(made)));
        assert_eq!(l.stored(name).await, b"content");
    }
    assert_eq!(l.conflicts(), []);
}

#[tokio::test]
async fn conflict_in_hdfs_keeps_both_contents() {
    let l = lake().await;
    l.put_outside("a", b"base").await;
    let staged = l.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"mine")).await.expect("writes");
    l.put_outside("a", b"theirs").await;
    let entry = staged.publish(Publish::default()).await.expect("is acknowledged");
    l.uploaded().await;
    let beside = format!("a.conflict-{}", &entry.etag.as_str()[..12]);
    assert_eq!((l.stored("a").await, l.stored(&beside).await), (b"theirs".to_vec(), b"mine".to_vec()));
    assert_eq!(l.conflicts(), [("a".to_owned(), beside)]);
}

#[tokio::test]
async fn file_in_the_place_of_a_directory_is_refused_or_kept_beside_it() {
    let l = lake().await;
    l.unplug(true);
    let digits = l.put("d", b"a file").await.expect("is acknowledged").etag.as_str()[..12].to_owned();
    let below = l.put("f/g/h", b"below").await.expect("is acknowledged").etag.as_str()[..12].to_owned();
    assert_eq!(kind(l.put("d/x", b"").await), Some(ErrorKind::NotDirectory));
    assert_eq!(kind(l.put("f/g", b"").await), Some(ErrorKind::IsDirectory));
    l.put_outside("d/x", b"a directory").await;
    l.put_outside("f", b"another file").await;
    l.unplug(false);
    l.uploaded().await;
    let beside = [format!("d.conflict-{digits}"), format!("f.conflict-{below}")];
    assert_eq!(l.stored(&beside[0]).await, b"a file");
    assert_eq!(l.stored(&beside[1]).await, b"below");
    let mut conflicts = l.conflicts();
    conflicts.sort();
    let [first, second] = beside;
    assert_eq!(conflicts, [("d".to_owned(), first), ("f/g/h".to_owned(), second)]);
}
