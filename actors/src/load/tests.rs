//! Jobs over a memory store: to their end, through a panic of their actor, through a restart, cancelled.

use std::time::Duration;

use bytes::Bytes;
use forebay_core::{MountTable, Publish, SyncSpan, SyncTotals};
use tempfile::TempDir;

use super::*;
use crate::cache::Cache;
use crate::config::{CacheConfig, MountConfig, MountLimits, Quirks, Revalidate, StoreConfig};
use crate::mount::Environment;
use crate::mount::object::Uploader;
use crate::mounts::Mounts;

struct Fixture {
    _mounts: Mounts,
    cache: Cache,
    namespace: Arc<Namespace>,
    supervisor: Supervisor,
    directory: TempDir,
}

fn path(text: &str) -> NsPath {
    NsPath::parse(text).expect("a path")
}

fn order(text: &str) -> Order {
    Order { path: path(text), transfers: None, bandwidth: None }
}

impl Fixture {
    async fn new() -> Self {
        Self::with_memory(64 << 20).await
    }

    async fn with_memory(memory_bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let supervisor = Supervisor::start("loads").await.expect("starts");
        let cache = CacheConfig { memory_bytes, nvme: None, high_percent: 95, low_percent: 90 };
        let cache = Cache::open(&cache).expect("opens");
        let environment = Environment {
            metadata: None,
            cache: cache.clone(),
            uploads: crate::backend::UploadMemory::new(64 << 20),
            rules: crate::cache::Rules::in_memory(),
            supervisor: supervisor.clone(),
            uploader: Uploader::default(),
            var_directory: directory.path().to_owned(),
            clock: Clock::system(),
        };
        let namespace = Arc::new(Namespace::new(MountTable::default(), Clock::system().now()));
        let mounts = Mounts::new(environment, Arc::clone(&namespace));
        let mount = MountConfig {
            path: path("/m"),
            store: StoreConfig::Memory { size_bytes: 64 << 20 },
            read_only: false,
            revalidate: Revalidate::Always,
            write: crate::config::WriteMode::default(),
            rule: crate::cache::Rule::default(),
            preload: None,
            sync_every: None,
            limits: MountLimits::default(),
            quirks: Quirks::default(),
        };
        mounts.apply(&[mount], &[]).await.expect("applies");
        Self { _mounts: mounts, cache, namespace, supervisor, directory }
    }

    async fn put(&self, at: &str, size_bytes: usize) {
        let grants = vec![Grant { prefix: NsPath::root(), permission: Permission::Write }];
        let context = Context::new(Arc::new(Principal { name: "test".into(), grants }));
        let writer = self.namespace.replace(&context, &path(at)).await.expect("begins");
        writer.write_at(0, Bytes::from(vec![7; size_bytes])).await.expect("writes");
        writer.publish(Publish::default()).await.expect("publishes");
    }

    async fn loads(&self) -> Loads {
        let directory = self.directory.path().join("loads");
        Loads::open(&self.namespace, &self.cache, &directory, Clock::system()).await.expect("opens")
    }

    async fn started(&self) -> Loads {
        let loads = self.loads().await;
        loads.start(&self.supervisor).await.expect("starts");
        loads
    }
}

async fn eventually(loads: &Loads, id: u64, holds: impl Fn(&JobStatus) -> bool) -> JobStatus {
    let found = async {
        loop {
            let status = loads.job(id).expect("known");
            if holds(&status) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), found).await;
    found.unwrap_or_else(|_| panic!("not within 30 s: {:?}", loads.job(id)))
}

async fn ended(loads: &Loads, id: u64) -> JobStatus {
    eventually(loads, id, |status| status.ended_ms.is_some()).await
}

#[tokio::test]
async fn a_load_caches_all_that_lies_below_and_says_so() {
    let fixture = Fixture::new().await;
    for (name, size_bytes) in
        [("/m/d/a", 10), ("/m/d/e/large", 5 << 19), ("/m/d/e/empty", 0), ("/m/other", 1)]
    {
        fixture.put(name, size_bytes).await;
    }
    let loads = fixture.started().await;
    let id = loads.add(order("/m/d")).await.expect("adds").id;
    let status = ended(&loads, id).await;
    let bytes = 10 + (5 << 19);
    let expected = Totals {
        found_files: 3,
        found_bytes: bytes,
        is_walked: true,
        files: 3,
        fetched_bytes: bytes,
        cached_bytes: bytes,
        evicted_bytes: 0,
        failed: 0,
    };
    assert_eq!((status.state, status.totals), (JobState::Done, expected));
    let again = loads.add(order("/m/d/e/large")).await.expect("adds").id;
    let status = ended(&loads, again).await;
    assert_eq!((status.totals.fetched_bytes, status.totals.cached_bytes), (0, 5 << 19));
    assert_eq!(loads.jobs().iter().map(|job| job.id).collect::<Vec<_>>(), [id, again]);
}

#[tokio::test]
async fn what_goes_again_before_the_job_ends_is_not_reported_as_cached() {
    let fixture = Fixture::with_memory(8 << 20).await;
    for number in 0..32 {
        fixture.put(&format!("/m/{number}"), 1 << 20).await;
    }
    let loads = fixture.started().await;
    let id = loads.add(order("/m")).await.expect("adds").id;
    let Totals { files, cached_bytes, evicted_bytes, .. } = ended(&loads, id).await.totals;
    assert_eq!(files, 32);
    assert!(cached_bytes <= 8 << 20, "{cached_bytes}");
    assert!(evicted_bytes > 0 && cached_bytes + evicted_bytes <= 32 << 20, "{evicted_bytes}");
    let lists = || {
        let entries = std::fs::read_dir(fixture.directory.path().join("loads")).expect("there");
        entries
            .filter(|entry| {
                entry.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|e| e == "contents"))
            })
            .count()
    };
    eventually(&loads, id, |_| lists() == 0).await;
}

#[tokio::test]
async fn jobs_go_on_after_a_panic_of_their_actor_and_count_each_file_once() {
    let fixture = Fixture::new().await;
    for number in 0..600 {
        fixture.put(&format!("/m/{number:03}"), 100).await;
    }
    let loads = fixture.started().await;
    let id = loads.add(order("/m")).await.expect("adds").id;
    eventually(&loads, id, |status| status.totals.files > 10).await;
    assert!(fixture.supervisor.panic_child(ACTOR).await.expect("alive"));
    let status = ended(&loads, id).await;
    assert_eq!((status.state, status.totals.files, status.totals.found_files), (JobState::Done, 600, 600));
    assert_eq!(status.totals.cached_bytes, 60_000);
}

#[tokio::test]
async fn a_restart_goes_on_after_the_last_batch_and_a_cancelled_job_stays_cancelled() {
    let fixture = Fixture::new().await;
    for number in 0..300 {
        fixture.put(&format!("/m/{number:03}"), if number < 256 { 0 } else { 1 << 20 }).await;
    }
    let loads = fixture.started().await;
    let slow = Order { bandwidth: Some(1), ..order("/m") };
    let id = loads.add(slow).await.expect("adds").id;
    eventually(&loads, id, |status| status.totals.fetched_bytes > 0).await;
    fixture.supervisor.remove(ACTOR, Duration::from_secs(5)).await.expect("ends");

    let loads = fixture.loads().await;
    let status = loads.job(id).expect("kept");
    assert_eq!((status.cursor.as_deref(), status.totals.files), (Some("255"), 256));
    loads.start(&fixture.supervisor).await.expect("starts");
    eventually(&loads, id, |status| status.totals.found_files == 300).await;
    assert_eq!(loads.cancel(id).await.expect("cancels").state, JobState::Cancelled);
    fixture.supervisor.remove(ACTOR, Duration::from_secs(5)).await.expect("ends");

    let loads = fixture.started().await;
    assert_eq!(loads.job(id).expect("kept").state, JobState::Cancelled);
    loads.cancel(id).await.expect("forgets");
    assert_eq!(loads.cancel(id).await.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    assert!(fixture.loads().await.jobs().is_empty());
}

#[tokio::test]
async fn a_sync_goes_on_after_a_restart_and_sees_each_file_once() {
    let fixture = Fixture::new().await;
    for number in 0..2_500 {
        fixture.put(&format!("/m/d/{number:04}"), 0).await;
    }
    fixture.put("/m/e", 1).await;
    let loads = fixture.loads().await;
    let id = loads.add_sync(path("/")).await.expect("adds").id;
    let job = loads.0.find(id).expect("known");
    let page =
        fixture.namespace.sync(&loads.0.context, &path("/m"), &SyncSpan::default()).await.expect("syncs");
    job.synced(0, &page);
    loads.0.store.save(&job).await.expect("saves");

    let loads = fixture.started().await;
    let sync = ended(&loads, id).await.sync.expect("a sync");
    assert_eq!(sync.totals, SyncTotals { seen: 2_501, ..SyncTotals::default() });
    let parts: Vec<_> = sync.parts.iter().map(|part| (part.path.as_str(), part.is_done)).collect();
    assert_eq!(parts, [("/m", true)]);
    let one = loads.add_sync(path("/m/d/0007")).await.expect("adds").id;
    assert_eq!(ended(&loads, one).await.sync.expect("a sync").totals.seen, 1);
}

#[tokio::test]
async fn bad_orders_are_refused() {
    let fixture = Fixture::new().await;
    let loads = fixture.loads().await;
    let refused = [
        (Order { transfers: Some(0), ..order("/m") }, ErrorKind::InvalidArgument),
        (Order { bandwidth: Some(0), ..order("/m") }, ErrorKind::InvalidArgument),
        (order("/nowhere"), ErrorKind::NotFound),
    ];
    for (order, kind) in refused {
        assert_eq!(loads.add(order).await.map_err(|e| e.kind()), Err(kind));
    }
    assert_eq!(loads.add_sync(path("/nowhere")).await.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    assert!(loads.jobs().is_empty());
}
