use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::{
    Clock, Context, Grant, Headers, ManualClock, Permission, Principal, Publish, Secret, Staged, Target,
    Want, Writer,
};
use prometheus::proto::{Metric, MetricFamily};
use tempfile::TempDir;

use super::*;
use crate::cache::Cache;
use crate::config::{
    CacheConfig, MountLimits, ObjectStoreConfig, Quirks, Revalidate, S3StoreConfig, StoreConfig,
};
use crate::mount::object::Uploader;
use crate::supervisor::Supervisor;

struct Fixture {
    mounts: Mounts,
    namespace: Arc<Namespace>,
    supervisor: Supervisor,
    context: Context,
    clock: ManualClock,
    directory: TempDir,
}

const MEMORY: StoreConfig = StoreConfig::Memory { size_bytes: 1 << 20 };

fn path(text: &str) -> NsPath {
    NsPath::parse(text).expect("a path")
}

fn config(at: &str, store: StoreConfig) -> MountConfig {
    MountConfig {
        path: path(at),
        store,
        read_only: false,
        revalidate: Revalidate::Always,
        write: crate::config::WriteMode::default(),
        rule: crate::cache::Rule::default(),
        preload: None,
        sync_every: None,
        limits: MountLimits::default(),
        quirks: Quirks::default(),
    }
}

fn s3(bucket: &str, secret: &str) -> StoreConfig {
    StoreConfig::Object(ObjectStoreConfig::S3(S3StoreConfig {
        bucket: bucket.into(),
        prefix: String::new(),
        endpoint: Some("http://127.0.0.1:1".into()),
        region: "us-east-1".into(),
        credentials: Some(("key".into(), Secret::new(secret))),
        session_token: None,
        is_virtual_host_style: false,
    }))
}

fn environment(directory: &Path, supervisor: Supervisor, clock: Clock) -> Environment {
    let cache = CacheConfig { memory_bytes: 64 << 20, nvme: None, high_percent: 95, low_percent: 90 };
    Environment {
        metadata: None,
        cache: Cache::open(&cache).expect("opens"),
        uploads: crate::backend::UploadMemory::new(64 << 20),
        rules: crate::cache::Rules::in_memory(),
        supervisor,
        uploader: Uploader::default(),
        var_directory: directory.to_owned(),
        clock,
    }
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let supervisor = Supervisor::start("mounts").await.expect("starts");
        let clock = ManualClock::default();
        let environment = environment(directory.path(), supervisor.clone(), Clock::manual(&clock));
        let namespace = Arc::new(Namespace::new(MountTable::default(), Clock::system().now()));
        let mounts = Mounts::new(environment, Arc::clone(&namespace));
        let grants = vec![Grant { prefix: NsPath::root(), permission: Permission::Write }];
        let context = Context::new(Arc::new(Principal { name: "test".into(), grants }));
        Self { mounts, namespace, supervisor, context, clock, directory }
    }

    fn local(&self, name: &str) -> StoreConfig {
        StoreConfig::Fs { root: self.directory.path().join(name) }
    }

    async fn apply(&self, wanted: &[MountConfig]) -> Applied {
        self.mounts.apply(wanted, &[]).await.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    async fn begin(&self, at: &str) -> Writer {
        let writer = self.namespace.replace(&self.context, &path(at)).await.expect("begins");
        writer.write_at(0, Bytes::from_static(b"staged")).await.expect("writes");
        writer
    }

    async fn put(&self, at: &str) {
        self.begin(at).await.publish(Publish::default()).await.expect("publishes");
    }

    async fn is_there(&self, at: &str) -> bool {
        self.namespace.stat(&self.context, &path(at), Want::File).await.is_ok()
    }

    fn handle(&self, at: &str) -> Arc<dyn Mount> {
        Arc::clone(self.namespace.table().at(&path(at)).expect("mounted"))
    }

    fn state(&self, at: &str) -> Vec<MountState> {
        let found = self.mounts.statuses().into_iter().filter(|status| status.path == path(at));
        found.map(|status| status.state).collect()
    }

    fn actors(&self) -> Vec<String> {
        self.supervisor.children().into_iter().map(|child| child.name).collect()
    }
}

fn series(mount: &str) -> usize {
    let families = METRICS.registry().gather();
    let labels = families.iter().flat_map(MetricFamily::get_metric).flat_map(Metric::get_label);
    labels.filter(|pair| pair.name() == "mount" && pair.value() == mount).count()
}

#[tokio::test]
async fn mount_that_is_not_changed_is_left_alone() {
    let f = Fixture::new().await;
    f.apply(&[config("/kept", MEMORY), config("/went", MEMORY)]).await;
    f.put("/kept/f").await;
    let before = f.handle("/kept");
    let applied = f.apply(&[config("/kept", MEMORY), config("/came", MEMORY)]).await;
    assert_eq!(
        (applied.unchanged, applied.added, applied.removed),
        (1, vec![path("/came")], vec![path("/went")])
    );
    assert!(Arc::ptr_eq(&before, &f.handle("/kept")) && f.is_there("/kept/f").await);
    assert_eq!(f.actors(), ["Mount:/came", "Mount:/kept"]);
}

#[tokio::test]
async fn other_credentials_limits_and_access_change_a_mount_in_place() {
    let f = Fixture::new().await;
    f.apply(&[config("/s", s3("one", "wrong")), config("/m", MEMORY), config("/l", f.local("d"))]).await;
    f.put("/m/f").await;
    let writer = f.begin("/m/open").await;
    let limits = MountLimits { operations: 1, ..MountLimits::default() };
    let wanted = [
        config("/s", s3("one", "right")),
        MountConfig { read_only: true, limits: limits.clone(), ..config("/m", MEMORY) },
        MountConfig { read_only: true, limits, ..config("/l", f.local("d")) },
    ];
    let applied = f.apply(&wanted).await;
    assert_eq!((applied.changed.len(), applied.unchanged), (3, 0), "{applied:?}");
    assert!(f.handle("/m").info().read_only && f.is_there("/m/f").await);
    assert!(
        f.namespace.replace(&f.context, &path("/m/g")).await.is_err_and(|e| e.kind() == ErrorKind::ReadOnly)
    );
    writer.publish(Publish::default()).await.expect("what was begun is finished");
    assert_eq!(f.actors().len(), 3);
}

#[tokio::test]
async fn another_store_takes_the_place_at_once_and_the_old_one_finishes() {
    let f = Fixture::new().await;
    f.apply(&[config("/p", MEMORY)]).await;
    f.put("/p/old").await;
    let writer = f.begin("/p/late").await;
    let applied = f.apply(&[config("/p", f.local("new"))]).await;
    assert_eq!(applied.replaced, [path("/p")]);
    assert!(!f.is_there("/p/old").await);
    f.mounts.settle().await;
    assert!(f.state("/p").contains(&MountState::Draining) && f.mounts.is_settling());
    writer.publish(Publish::default()).await.expect("what was begun is finished");
    drop(writer);
    f.mounts.settle().await;
    assert_eq!((f.state("/p").len(), f.mounts.is_settling()), (1, false));
    assert!(series("/p") > 0, "the new mount shows");
}

#[tokio::test]
async fn removed_mount_with_an_upload_drains_until_it_is_done() {
    let f = Fixture::new().await;
    f.apply(&[config("/drain", MEMORY), config("/other", MEMORY)]).await;
    let key = path("/drain/f");
    let upload = f.namespace.create_upload(&f.context, &key, Headers::default()).await.expect("begins");
    let applied = f.apply(&[config("/other", MEMORY)]).await;
    assert_eq!(applied.draining.len(), 1);
    let status = f.mounts.statuses().remove(0);
    assert!(status.reason.expect("says why").contains("1 multipart upload"));
    let refused = f.namespace.replace(&f.context, &path("/drain/g")).await;
    assert!(refused.is_err_and(|e| e.kind() == ErrorKind::ReadOnly), "it takes nothing new");
    let part = f.namespace.stage_part(&f.context, &key, (&upload, 1), None).await.expect("goes on");
    part.publish(Publish::default()).await.expect("goes on");
    drop(part);
    f.namespace
        .complete_upload(&f.context, &key, (&upload, &[1]), forebay_core::Precondition::None)
        .await
        .expect("finishes");
    f.mounts.settle().await;
    assert_eq!((f.state("/drain").len(), f.actors()), (0, vec!["Mount:/other".to_owned()]));
    f.mounts.settle().await;
    assert_eq!(series("/drain"), 0);
}

#[tokio::test]
async fn forced_removal_waits_for_nobody_and_open_writes_end_with_their_handles() {
    let f = Fixture::new().await;
    let wanted = [config("/forced", MEMORY)];
    f.apply(&wanted).await;
    f.put("/forced/f").await;
    let writer = f.begin("/forced/open").await;
    let applied = f.mounts.apply(&[], &[path("/forced")]).await.expect("applies");
    assert_eq!((applied.removed, f.actors().len()), (vec![path("/forced")], 0));
    assert!(!f.is_there("/forced/f").await && f.mounts.is_settling());
    // Added again while a file is open, it goes on where it was.
    f.apply(&wanted).await;
    assert!(f.is_there("/forced/f").await && f.actors() == ["Mount:/forced"]);
    writer.publish(Publish::default()).await.expect("still the same mount");
    drop(writer);
    f.mounts.settle().await;
    assert!(!f.mounts.is_settling() && series("/forced") > 0);
}

#[tokio::test]
async fn mount_that_cannot_be_opened_refuses_the_whole_change() {
    let f = Fixture::new().await;
    f.apply(&[config("/a", MEMORY), config("/b", MEMORY)]).await;
    std::fs::write(f.directory.path().join("file"), b"").expect("writes");
    let wanted = [config("/a", f.local("fine")), config("/c", f.local("file"))];
    let refused = f.mounts.apply(&wanted, &[]).await.expect_err("refused");
    assert_eq!(refused[0].path, path("/c"));
    assert_eq!(f.handle("/a").info().store, "memory");
    assert_eq!(f.actors(), ["Mount:/a", "Mount:/b"]);
    assert_eq!(series("/c"), 0);
}

#[tokio::test]
async fn local_directory_moves_and_changes_its_access() {
    let f = Fixture::new().await;
    let read_only = |at: &str| MountConfig { read_only: true, ..config(at, f.local("d")) };
    f.apply(&[config("/old", f.local("d"))]).await;
    f.put("/old/f").await;
    let applied = f.apply(&[config("/new", f.local("d"))]).await;
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert!(f.is_there("/new/f").await);
    f.apply(&[read_only("/new")]).await;
    let applied = f.apply(&[config("/new", f.local("d"))]).await;
    assert_eq!(applied.changed, [path("/new")]);
    f.put("/new/g").await;
}

#[tokio::test]
async fn draining_mount_that_is_wanted_again_is_back_in_service() {
    let f = Fixture::new().await;
    let wanted = [config("/back", MEMORY)];
    f.apply(&wanted).await;
    let staged: Arc<dyn Staged> = {
        let key = forebay_core::Key::parse("f").expect("a key");
        f.handle("/back").stage(Target::Replace(key)).await.expect("begins")
    };
    f.apply(&[]).await;
    assert_eq!(f.state("/back"), [MountState::Draining]);
    let applied = f.apply(&wanted).await;
    assert_eq!(applied.changed, [path("/back")]);
    drop(staged);
    f.put("/back/g").await;
    tokio::time::timeout(Duration::from_secs(30), async {
        while f.state("/back") != [MountState::Ready] {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("probed again");
}

#[tokio::test]
async fn uploads_that_nobody_added_to_for_long_are_given_up() {
    const DAY: Duration = Duration::from_hours(24);
    let f = Fixture::new().await;
    f.apply(&[config("/m", MEMORY)]).await;
    let mount = f.handle("/m");
    let key = forebay_core::Key::parse("f").expect("a key");
    for _ in 0..2 {
        mount.create_upload(&key, Headers::default()).await.expect("starts");
    }
    let upload = mount.uploads("").await.expect("lists")[0].upload.clone();
    let target = Target::Part { key: key.clone(), upload: upload.clone(), number: 1, checksum: None };
    let part = mount.stage(target).await.expect("begins");
    part.write_at(0, Bytes::from_static(b"part")).await.expect("writes");
    part.publish(Publish::default()).await.expect("publishes");
    f.clock.advance(DAY * 6);
    f.mounts.reap().await;
    assert_eq!(mount.uploads("").await.expect("lists").len(), 2);
    // The part is as old as the machine's clock says, half a century younger than the uploads.
    f.clock.advance(DAY * 2);
    f.mounts.reap().await;
    let left: Vec<_> = mount.uploads("").await.expect("lists").into_iter().map(|left| left.upload).collect();
    assert_eq!(left, [upload]);
    f.clock.advance(DAY * 365 * 200);
    f.mounts.reap().await;
    assert!(mount.uploads("").await.expect("lists").is_empty());
}
