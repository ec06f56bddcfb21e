use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::{
    AttributeChange, Attributes, Capability, ChangeKind, DeleteMode, ETag, EntryKind, FileId, Grant, Headers,
    ListItem, ListPage, ListQuery, MkdirMode, Origin, Precondition, Principal, RenameMode, Staged, SyncPage,
    SyncSpan, Target, UploadId, UploadInfo, Version, XattrMode,
};

#[cfg(feature = "shuttle")]
use shuttle::future::yield_now as pause;

/// Where others may go on: a step of the model tests, and nothing elsewhere.
#[cfg(not(feature = "shuttle"))]
fn pause() -> std::future::Ready<()> {
    std::future::ready(())
}

/// A mount of names only; whatever these tests do not need answers `Unsupported`.
struct Names {
    info: MountInfo,
    names: Vec<String>,
}

fn entry(kind: EntryKind, name: &str) -> Entry {
    let since = SystemTime::UNIX_EPOCH;
    Entry {
        file_id: FileId::of(&[name.as_bytes()]),
        kind,
        size_bytes: 0,
        version: Version::Strong(Arc::from("v")),
        etag: ETag::new("e"),
        modified: since,
        attributes: Attributes { mode: 0o644, uid: 0, gid: 0, accessed: since, changed: since },
        headers: None,
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "not part of this test"))
}

#[async_trait]
impl Mount for Names {
    fn info(&self) -> &MountInfo {
        &self.info
    }
    fn state(&self) -> MountState {
        MountState::Ready
    }
    fn try_stat(&self, _: &Key, _: Want) -> Option<Result<Entry>> {
        None
    }
    async fn stat(&self, key: &Key, want: Want) -> Result<Entry> {
        pause().await;
        let is_file = self.names.iter().any(|name| name == key.as_str());
        let prefix = key.directory_prefix();
        let is_directory = key.is_root() || self.names.iter().any(|name| name.starts_with(&prefix));
        match want {
            Want::Directory | Want::Any | Want::Unfollowed if is_directory => {
                Ok(entry(EntryKind::Directory, key.as_str()))
            }
            Want::File | Want::Any | Want::Unfollowed if is_file => Ok(entry(EntryKind::File, key.as_str())),
            Want::File | Want::Directory | Want::Any | Want::Unfollowed => {
                Err(Error::new(ErrorKind::NotFound, "nothing there"))
            }
        }
    }
    async fn open(&self, _: &Key, _: Want) -> Result<Arc<dyn OpenFile>> {
        unsupported()
    }
    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        pause().await;
        Ok(reference(&self.names, query))
    }
    async fn stage(&self, _: Target) -> Result<Arc<dyn Staged>> {
        unsupported()
    }
    async fn mkdir(&self, key: &Key, _: MkdirMode) -> Result<Entry> {
        Ok(entry(EntryKind::Directory, key.as_str()))
    }
    async fn delete(&self, key: &Key, _: DeleteMode) -> Result<bool> {
        Ok(self.names.iter().any(|name| name == key.as_str()))
    }
    async fn rename(&self, _: &Key, _: &Key, _: RenameMode) -> Result<()> {
        pause().await;
        Ok(())
    }
    async fn copy(&self, _: &Key, _: &Key, _: Option<Headers>, _: Precondition) -> Result<Entry> {
        unsupported()
    }
    async fn set_attributes(&self, _: &Key, _: AttributeChange) -> Result<Entry> {
        unsupported()
    }
    async fn xattrs(&self, _: &Key) -> Result<Vec<(String, Bytes)>> {
        unsupported()
    }
    async fn set_xattr(&self, _: &Key, _: &str, _: Option<Bytes>, _: XattrMode) -> Result<()> {
        unsupported()
    }
    async fn usage(&self) -> Result<Usage> {
        unsupported()
    }
    fn remembers(&self) -> bool {
        !self.info.read_only
    }
    async fn sync(&self, key: &Key, _: &SyncSpan) -> Result<SyncPage> {
        let found = [("alone", true), ("data/in/k1", true), ("gone", false), ("mid/z", false)];
        let changes = found.map(|(name, is_there)| (Key::parse(name).expect("a key"), is_there));
        Ok(SyncPage {
            changes: if key.is_root() { changes.to_vec() } else { Vec::new() },
            ..SyncPage::default()
        })
    }
    async fn create_upload(&self, _: &Key, _: Headers) -> Result<UploadId> {
        unsupported()
    }
    async fn uploads(&self, _: &str) -> Result<Vec<UploadInfo>> {
        unsupported()
    }
    async fn parts(&self, _: &Key, _: &UploadId) -> Result<Vec<PartInfo>> {
        unsupported()
    }
    async fn complete_upload(&self, _: &Key, _: &UploadId, _: &[u32], _: Precondition) -> Result<Entry> {
        unsupported()
    }
    async fn abort_upload(&self, _: &Key, _: &UploadId) -> Result<()> {
        unsupported()
    }
}

/// The listing of a flat set of names, in the plainest way.
fn reference(names: &[String], query: &ListQuery) -> ListPage {
    let mut items = BTreeMap::new();
    for name in names.iter().filter(|name| name.starts_with(&query.prefix)) {
        let rest = &name[query.prefix.len()..];
        let cut = rest.find('/').filter(|_| query.shallow);
        let shown = cut.map_or(name.clone(), |cut| format!("{}{}/", query.prefix, &rest[..cut]));
        let kind = if cut.is_some() { EntryKind::Directory } else { EntryKind::File };
        items.insert(
            shown.clone(),
            ListItem { entry: entry(kind, &shown), is_prefix: cut.is_some(), name: shown },
        );
    }
    let after = |name: &String| query.start_after.as_ref().is_none_or(|after| name > after);
    let mut rest = items.into_iter().filter(|(name, _)| after(name)).map(|(_, item)| item);
    let page: Vec<_> = rest.by_ref().take(query.limit).collect();
    ListPage { is_truncated: rest.next().is_some() && !page.is_empty(), items: page }
}

pub(super) fn path(text: &str) -> NsPath {
    NsPath::parse(text).expect("valid path")
}

pub(super) fn mount(at: &str, names: &[&str], read_only: bool) -> (NsPath, Arc<dyn Mount>) {
    let capability = Capability {
        write: true,
        conditional_create: true,
        conditional_replace: true,
        native_copy: true,
        native_rename: true,
        headers: true,
        posix: false,
        hierarchical: false,
        key_bytes_max: 1024,
    };
    let info = MountInfo {
        name: at.to_owned(),
        store: "memory",
        read_only,
        mounted: SystemTime::UNIX_EPOCH,
        capability,
    };
    let names = names.iter().map(ToString::to_string).collect();
    (path(at), Arc::new(Names { info, names }))
}

fn namespace() -> Namespace {
    let table = MountTable::new([
        mount("/", &["alone", "data-old", "data/in/shadow", "data/x", "mid/a/1", "mid/z"], false),
        mount("/data/in", &["k1", "k2/deep", "k3"], false),
        mount("/mid/b", &["only"], false),
        mount("/ro", &["r"], true),
        mount("/under/two", &["f"], false),
    ]);
    Namespace::new(table.expect("distinct paths"), SystemTime::UNIX_EPOCH)
}

pub(super) fn context(prefix: &str, permission: Permission) -> Context {
    let grants = vec![Grant { prefix: path(prefix), permission }];
    Context { principal: Arc::new(Principal { name: "p".to_owned(), grants }), origin: Some(Origin(7)) }
}

pub(super) async fn names(
    namespace: &Namespace,
    base: &str,
    prefix: &str,
    shallow: bool,
    limit: usize,
) -> Vec<String> {
    let mut query = ListQuery { prefix: prefix.to_owned(), shallow, start_after: None, limit };
    let mut all = Vec::new();
    loop {
        let page =
            namespace.list(&context("/", Permission::Read), &path(base), &query).await.expect("listing");
        assert!(page.items.len() <= limit);
        all.extend(page.items.iter().map(|item| item.name.clone()));
        if !page.is_truncated {
            return all;
        }
        query.start_after = all.last().cloned();
    }
}

#[tokio::test]
async fn listings_merge_nested_mounts_in_byte_order_whatever_the_page_size() {
    let namespace = namespace();
    // What the root mount keeps below a nested mount is shadowed.
    let deep = [
        "alone",
        "data-old",
        "data/in/k1",
        "data/in/k2/deep",
        "data/in/k3",
        "data/x",
        "mid/a/1",
        "mid/b/only",
        "mid/z",
        "ro/r",
        "under/two/f",
    ];
    for limit in 1..=12 {
        assert_eq!(names(&namespace, "/", "", false, limit).await, deep, "limit {limit}");
        let shallow = ["alone", "data-old", "data/", "mid/", "ro/", "under/"];
        assert_eq!(names(&namespace, "/", "", true, limit).await, shallow, "limit {limit}");
        assert_eq!(names(&namespace, "/mid", "", true, limit).await, ["a/", "b/", "z"], "limit {limit}");
        assert_eq!(names(&namespace, "/data", "in/", true, limit).await, ["in/k1", "in/k2/", "in/k3"]);
        assert_eq!(names(&namespace, "/data", "in/k2", false, limit).await, ["in/k2/deep"]);
        assert_eq!(names(&namespace, "/under", "", true, limit).await, ["two/"]);
        assert_eq!(names(&namespace, "/", "da", true, limit).await, ["data-old", "data/"]);
    }
}

#[tokio::test]
async fn marker_of_the_listed_directory_is_not_listed_in_it() {
    let table = MountTable::new([mount("/m", &["d/", "d/a", "d/sub/", "e/"], false)]);
    let namespace = Namespace::new(table.expect("distinct paths"), SystemTime::UNIX_EPOCH);
    for limit in 1..=3 {
        assert_eq!(names(&namespace, "/m/d", "", true, limit).await, ["a", "sub/"], "limit {limit}");
        assert_eq!(names(&namespace, "/m", "d/", false, limit).await, ["d/", "d/a", "d/sub/"]);
        assert!(names(&namespace, "/m/e", "", false, limit).await.is_empty());
    }
}

#[tokio::test]
async fn paths_above_mounts_are_directories_and_nothing_else_is_made_up() {
    let namespace = namespace();
    let context = context("/", Permission::Read);
    assert!(namespace.stat(&context, &path("/under"), Want::Any).await.expect("virtual").is_directory());
    let missing = namespace.stat(&context, &path("/under/three"), Want::Any).await;
    assert_eq!(missing.map_err(|e| e.kind()).expect_err("missing"), ErrorKind::NotFound);
    assert!(namespace.stat(&context, &path("/data/in/k1"), Want::Any).await.is_ok());
    let shadowed = namespace.stat(&context, &path("/data/in/shadow"), Want::Any).await;
    assert_eq!(shadowed.map_err(|e| e.kind()).expect_err("shadowed"), ErrorKind::NotFound);
}

#[tokio::test]
async fn grants_and_read_only_mounts_are_enforced() {
    let namespace = namespace();
    let kind = |outcome: Result<bool>| outcome.map_err(|e| e.kind());
    let reader = context("/data", Permission::Read);
    let delete = |context: Context, at: &'static str| {
        let namespace = &namespace;
        async move { namespace.delete(&context, &path(at), DeleteMode::File).await }
    };
    assert_eq!(kind(delete(reader.clone(), "/data/x").await), Err(ErrorKind::AccessDenied));
    let writer = context("/", Permission::Write);
    assert_eq!(kind(delete(writer.clone(), "/ro/r").await), Err(ErrorKind::ReadOnly));
    assert_eq!(kind(delete(writer.clone(), "/data/in").await), Err(ErrorKind::ReadOnly), "a mount point");
    assert_eq!(kind(delete(writer.clone(), "/data").await), Err(ErrorKind::ReadOnly), "holds a mount point");
    assert_eq!(kind(delete(writer, "/data/x").await), Ok(true));
    let denied = namespace.stat(&reader, &path("/mid/z"), Want::Any).await;
    assert_eq!(denied.map_err(|e| e.kind()).expect_err("no grant"), ErrorKind::AccessDenied);
    let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 100 };
    let page = namespace.list(&reader, &NsPath::root(), &query).await.expect("may traverse");
    assert_eq!(page.items.iter().map(|item| &*item.name).collect::<Vec<_>>(), ["data/"]);
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Change>>);

#[async_trait]
impl CommitObserver for Recorder {
    async fn committed(&self, change: &Change) {
        self.0.lock().expect("no panic under this lock").push(change.clone());
    }
}

#[tokio::test]
async fn observers_hear_of_each_commit_before_it_is_acknowledged() {
    let namespace = namespace();
    let recorder = Arc::new(Recorder::default());
    namespace.observe("recorder", Arc::clone(&recorder) as Arc<dyn CommitObserver>);
    let writer = context("/", Permission::Write);
    let heard = || std::mem::take(&mut *recorder.0.lock().expect("no panic under this lock"));

    assert!(namespace.delete(&writer, &path("/data/x"), DeleteMode::File).await.expect("deleted"));
    let changes = heard();
    assert_eq!(
        (changes.len(), &changes[0].kind, changes[0].origin),
        (1, &ChangeKind::Removed, Some(Origin(7)))
    );

    assert!(!namespace.delete(&writer, &path("/nothing"), DeleteMode::File).await.expect("missing is fine"));
    assert!(heard().is_empty(), "nothing changed");

    let to = path("/mid/y");
    namespace.rename(&writer, &path("/mid/z"), &to, RenameMode::Replace).await.expect("renamed");
    assert_eq!(heard()[0].kind, ChangeKind::Renamed { to });
    let across = namespace.rename(&writer, &path("/mid/z"), &path("/data/in/z"), RenameMode::Replace).await;
    assert_eq!(across.map_err(|e| e.kind()), Err(ErrorKind::CrossMount));
}

#[tokio::test]
async fn observers_hear_of_what_a_sync_found_as_it_is_by_then() {
    let namespace = namespace();
    let recorder = Arc::new(Recorder::default());
    namespace.observe("recorder", Arc::clone(&recorder) as Arc<dyn CommitObserver>);
    namespace.sync(&context("/", Permission::Read), &path("/"), &SyncSpan::default()).await.expect("syncs");
    let heard = recorder.0.lock().expect("no panic under this lock");
    let heard: Vec<_> = heard.iter().map(|change| (change.path.as_str(), &change.kind)).collect();
    // What lies under a nested mount is not shown, and what is there again is not gone.
    let expected =
        [("/alone", &ChangeKind::Written), ("/gone", &ChangeKind::Removed), ("/mid/z", &ChangeKind::Written)];
    assert_eq!(heard, expected);
}

#[test]
fn a_sync_looks_at_the_mounts_at_and_below_its_path_that_remember() {
    let namespace = namespace();
    let paths = |at: &str| {
        let found = namespace.synced_paths(&path(at)).map_err(|e| e.kind())?;
        Ok(found.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let all = ["/", "/data/in", "/mid/b", "/under/two"].map(ToOwned::to_owned).to_vec();
    assert_eq!(paths("/"), Ok(all));
    assert_eq!(paths("/mid/a"), Ok(vec!["/mid/a".to_owned()]));
    assert_eq!(paths("/ro"), Err(ErrorKind::InvalidArgument));
    let table = MountTable::new([mount("/m", &[], false)]).expect("distinct paths");
    let namespace = Namespace::new(table, SystemTime::UNIX_EPOCH);
    let none = namespace.synced_paths(&path("/n"));
    assert_eq!(none.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
}
