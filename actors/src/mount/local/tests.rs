//! The mount over real temporary directories.

mod links;
mod list;
mod names;
mod publish;
mod remove;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forebay_core::{
    ByteRange, Clock, DeleteMode, Entry, ErrorKind, Headers, Key, ListQuery, METRICS, MkdirMode, Mount,
    NsPath, OpenFile, Precondition, Publish, RenameMode, Result, Target, Want,
};
use tempfile::TempDir;

use super::LocalMount;
use super::disk::Disk;
use crate::config::{MountConfig, MountLimits, Quirks, Revalidate, StoreConfig};
use crate::mount::vitals::Vitals;

struct Fixture {
    directory: TempDir,
    mount: Arc<LocalMount>,
}

fn config(root: PathBuf, read_only: bool) -> MountConfig {
    MountConfig {
        path: NsPath::parse("/data").expect("valid"),
        store: StoreConfig::Fs { root },
        read_only,
        revalidate: Revalidate::Always,
        write: crate::config::WriteMode::default(),
        quirks: Quirks::default(),
        rule: crate::cache::Rule::default(),
        preload: None,
        sync_every: None,
        limits: MountLimits::default(),
    }
}

fn open(root: &Path, read_only: bool) -> Result<Arc<LocalMount>> {
    let config = config(root.to_owned(), read_only);
    let vitals = Vitals::new("/data", &config.limits);
    LocalMount::open(&config, vitals, Clock::system())
}

/// A time at which any directory has been left alone for long.
const LATER: Duration = Duration::from_secs(1 << 40);

impl Fixture {
    fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    fn with_clock(clock: Clock) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = config(directory.path().to_owned(), false);
        let mount = LocalMount::open(&config, Vitals::new("/data", &config.limits), clock).expect("opens");
        Self { directory, mount }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn is_there(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Replaces the content of `name`.
    async fn put(&self, name: &str, text: &str, publish: Publish) -> Result<Entry> {
        let staged = self.mount.stage(Target::Replace(key(name))).await?;
        staged.write_at(0, Bytes::copy_from_slice(text.as_bytes())).await?;
        staged.publish(publish).await
    }

    async fn write(&self, name: &str, text: &str) -> Entry {
        self.put(name, text, Publish::default()).await.expect("published")
    }

    async fn stat(&self, name: &str) -> Result<Entry> {
        self.mount.stat(&key(name), Want::Any).await
    }

    async fn text(&self, name: &str) -> String {
        text(&*self.mount.open(&key(name), Want::File).await.expect("opens")).await
    }

    async fn delete(&self, name: &str, mode: DeleteMode) -> Result<bool> {
        self.mount.delete(&key(name), mode).await
    }

    async fn mkdir(&self, name: &str) {
        self.mount.mkdir(&key(name), MkdirMode::Parents).await.expect("made");
    }

    async fn names(&self, prefix: &str, shallow: bool) -> Vec<String> {
        let query = ListQuery { prefix: prefix.to_owned(), shallow, start_after: None, limit: 1000 };
        let page = self.mount.list(&query).await.expect("lists");
        page.items.into_iter().map(|item| item.name).collect()
    }
}

fn key(text: &str) -> Key {
    Key::parse(text).expect("valid key")
}

async fn text(file: &dyn OpenFile) -> String {
    let mut bytes = Vec::new();
    let size_bytes = file.entry().size_bytes;
    if size_bytes > 0 {
        let content = file.read(ByteRange::new(0, size_bytes)).await.expect("readable");
        bytes = content.read().expect("readable").concat();
    }
    String::from_utf8(bytes).expect("text")
}

fn kind<T>(answer: Result<T>) -> Option<ErrorKind> {
    answer.err().map(|e| e.kind())
}

fn same(a: &Entry, b: &Entry) -> bool {
    (a.file_id, &a.version, &a.etag, a.size_bytes) == (b.file_id, &b.version, &b.etag, b.size_bytes)
}

#[tokio::test]
async fn publish_stat_open_and_list_agree() {
    let fixture = Fixture::new();
    let published = fixture.write("a/f", "text").await;
    assert!(same(&published, &fixture.stat("a/f").await.expect("there")));
    let opened = fixture.mount.open(&key("a/f"), Want::Any).await.expect("opens");
    assert!(same(&published, opened.entry()));
    let query = ListQuery { prefix: "a/".into(), shallow: true, start_after: None, limit: 10 };
    let page = fixture.mount.list(&query).await.expect("lists");
    assert!(same(&published, &page.items[0].entry));
    assert_eq!(text(&*opened).await, "text");
}

#[tokio::test]
async fn files_are_lent_and_read_without_waiting() {
    let fixture = Fixture::new();
    fixture.write("f", "0123456789").await;
    let file = fixture.mount.open(&key("f"), Want::File).await.expect("opens");
    let content = file.try_read(ByteRange::new(2, 3)).expect("at hand");
    assert_eq!(content.read().expect("readable").concat(), b"234");
    let lent = file.lend().expect("a local file");
    assert_eq!(lent.range(), ByteRange::new(0, 10));
    assert_eq!(lent.read().expect("readable"), "0123456789");
}

#[tokio::test]
async fn an_open_file_outlives_replacement_rename_and_removal() {
    let fixture = Fixture::new();
    let before = fixture.write("f", "old").await;
    let opened = fixture.mount.open(&key("f"), Want::File).await.expect("opens");
    let after = fixture.write("f", "new").await;
    assert_ne!(before.file_id, after.file_id);
    assert_eq!((text(&*opened).await, fixture.text("f").await), ("old".into(), "new".into()));
    let renamed = fixture.mount.open(&key("f"), Want::File).await.expect("opens");
    fixture.mount.rename(&key("f"), &key("g"), RenameMode::NoReplace).await.expect("renamed");
    assert!(fixture.delete("g", DeleteMode::File).await.expect("removed"));
    assert_eq!(text(&*renamed).await, "new");
}

#[tokio::test]
async fn a_change_in_place_makes_open_files_stale_and_keeps_the_identity() {
    let fixture = Fixture::new();
    let before = fixture.write("f", "old").await;
    let opened = fixture.mount.open(&key("f"), Want::File).await.expect("opens");
    let staged = fixture.mount.stage(Target::Modify(key("f"))).await.expect("staged");
    staged.write_at(1, Bytes::from_static(b"XY")).await.expect("written");
    assert_eq!(kind(opened.read(ByteRange::new(0, 3)).await), Some(ErrorKind::Stale));
    assert!(opened.try_read(ByteRange::new(0, 3)).is_none());
    let after = staged.publish(Publish::default()).await.expect("published");
    assert_eq!(before.file_id, after.file_id);
    assert_ne!(before.version, after.version);
    assert_ne!(before.etag, after.etag);
    assert_eq!(fixture.text("f").await, "oXY");
}

#[tokio::test]
async fn what_is_asked_for_decides_between_files_and_directories() {
    let fixture = Fixture::new();
    fixture.write("d/f", "").await;
    let stat = async |name: &str, want| kind(fixture.mount.stat(&key(name), want).await);
    assert_eq!(stat("d", Want::Directory).await, None);
    assert_eq!(stat("", Want::Any).await, None);
    assert_eq!(stat("d", Want::File).await, Some(ErrorKind::NotFound));
    assert_eq!(stat("d/f", Want::Directory).await, Some(ErrorKind::NotFound));
    assert_eq!(stat("d/f/x", Want::Any).await, Some(ErrorKind::NotDirectory));
    let open = async |name: &str, want| kind(fixture.mount.open(&key(name), want).await);
    assert_eq!(open("d", Want::Any).await, Some(ErrorKind::IsDirectory));
    assert_eq!(open("d", Want::File).await, Some(ErrorKind::NotFound));
    assert_eq!(open("x", Want::File).await, Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn headers_are_kept_and_hidden_from_xattrs() {
    let fixture = Fixture::new();
    let mut headers = Headers { content_type: Some("text/x".into()), ..Headers::default() };
    headers.user.insert("who".into(), "é".repeat(600));
    let publish = Publish { headers: Some(headers.clone()), ..Publish::default() };
    let entry = fixture.put("f", "1", publish).await.expect("published");
    assert_eq!(entry.headers.as_deref(), Some(&headers));
    let looked_at = fixture.mount.stat(&key("f"), Want::File).await.expect("there");
    let opened = fixture.mount.open(&key("f"), Want::File).await.expect("opens");
    assert_eq!((looked_at.headers, opened.entry().headers.clone()), (entry.headers.clone(), entry.headers));
    let staged = fixture.mount.stage(Target::Modify(key("f"))).await.expect("staged");
    let entry = staged.publish(Publish::default()).await.expect("published");
    assert_eq!(entry.headers.as_deref(), Some(&headers), "a change in place keeps them");
    assert!(fixture.mount.xattrs(&key("f")).await.expect("listed").is_empty());
    let copied = fixture.mount.copy(&key("f"), &key("g"), None, Precondition::None).await.expect("copied");
    assert_eq!(copied.headers.as_deref(), Some(&headers));
    let replaced = Headers { content_type: Some("text/y".into()), ..Headers::default() };
    let copy = fixture.mount.copy(&key("f"), &key("f"), Some(replaced.clone()), Precondition::None).await;
    assert_eq!(copy.expect("copied").headers.as_deref(), Some(&replaced));
    assert_eq!(fixture.text("f").await, "1");
}

#[tokio::test]
async fn xattrs_of_clients_are_kept_and_ours_are_refused() {
    use forebay_core::XattrMode::{Any, Create, Replace};
    let fixture = Fixture::new();
    fixture.write("f", "").await;
    let set = async |name: &str, value: Option<&'static [u8]>, mode| {
        kind(fixture.mount.set_xattr(&key("f"), name, value.map(Bytes::from_static), mode).await)
    };
    assert_eq!(set("user.b", Some(b"2"), Create).await, None);
    assert_eq!(set("user.b", Some(b"2"), Create).await, Some(ErrorKind::AlreadyExists));
    assert_eq!(set("user.a", Some(b"1"), Replace).await, Some(ErrorKind::NotFound));
    assert_eq!(set("user.a", Some(b"1"), Any).await, None);
    assert_eq!(set("user.forebay.headers", Some(b"{}"), Any).await, Some(ErrorKind::AccessDenied));
    assert_eq!(set("trusted.x", Some(b""), Any).await, Some(ErrorKind::Unsupported));
    let all = fixture.mount.xattrs(&key("f")).await.expect("listed");
    assert_eq!(all, [("user.a".into(), Bytes::from_static(b"1")), ("user.b".into(), "2".into())]);
    assert_eq!(set("user.a", None, Any).await, None);
    assert_eq!(set("user.a", None, Any).await, Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn attributes_are_those_of_the_file() {
    let fixture = Fixture::new();
    fixture.write("f", "").await;
    let before_epoch = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
    let change = forebay_core::AttributeChange {
        mode: Some(0o100_600),
        modified: Some(before_epoch),
        ..Default::default()
    };
    let entry = fixture.mount.set_attributes(&key("f"), change).await.expect("set");
    assert_eq!((entry.attributes.mode, entry.modified), (0o600, before_epoch));
    assert_ne!(entry.attributes.accessed, before_epoch);
    assert!(same(&entry, &fixture.stat("f").await.expect("there")));
}

#[tokio::test]
async fn a_read_only_mount_leaves_the_directory_untouched() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("f"), "text").expect("written");
    let mount = open(directory.path(), true).expect("opens");
    assert_eq!(kind(mount.stage(Target::Replace(key("g"))).await), Some(ErrorKind::ReadOnly));
    assert_eq!(kind(mount.stage(Target::Modify(key("f"))).await), Some(ErrorKind::ReadOnly));
    assert!(mount.uploads("").await.expect("none").is_empty());
    assert_eq!(text(&*mount.open(&key("f"), Want::File).await.expect("opens")).await, "text");
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 1);
}

#[tokio::test]
async fn a_second_gateway_on_one_directory_is_refused() {
    let fixture = Fixture::new();
    assert_eq!(kind(open(fixture.directory.path(), false)), Some(ErrorKind::Busy));
}

#[tokio::test]
async fn usage_is_that_of_the_disk() {
    let usage = Fixture::new().mount.usage().await.expect("answered");
    assert!(usage.capacity_bytes > 0 && usage.free_bytes <= usage.capacity_bytes);
}

#[tokio::test]
async fn behind_a_network_nothing_is_answered_inline() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("f"), "text").expect("written");
    let mut disk = Disk::open(directory.path(), None, Clock::system()).expect("opens");
    assert!(!disk.is_remote);
    disk.is_remote = true;
    let info = open(directory.path(), true).expect("opens").info.clone();
    let vitals = Vitals::new("/data", &MountLimits::default());
    let served_bytes = METRICS.cache_served_bytes.with_label_values(&[&info.name, "local"]);
    let mount = LocalMount { info, vitals, disk: Arc::new(disk), served_bytes };
    assert!(mount.try_stat(&key("f"), Want::Any).is_none());
    assert_eq!(mount.stat(&key("f"), Want::Any).await.expect("there").size_bytes, 4);
    assert_eq!(kind(mount.stat(&key("x"), Want::Any).await), Some(ErrorKind::NotFound));
    let file = mount.open(&key("f"), Want::File).await.expect("opens");
    assert!(file.try_read(ByteRange::new(0, 4)).is_none());
    assert_eq!(text(&*file).await, "text");
}
