//! The suite holds for the stores that are always at hand, finds the lies of others, and leaves nothing.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{
    ByteRange, Capability, Clock, ETag, Headers, Key, ListQuery, MountInfo, NsPath, Precondition, Publish,
    Target, Usage,
};

use super::*;
use crate::backend::{Backend, Memory, Object, ObjectPage, Source};
use crate::cache::Cache;
use crate::config::{CacheConfig, MountConfig, MountLimits, Quirks, Revalidate, StoreConfig};
use crate::mount::local::LocalMount;
use crate::mount::object::{ObjectMount, Parts, Uploader};
use crate::mount::vitals::Vitals;
use crate::staging::Staging;

const CACHE: CacheConfig =
    CacheConfig { memory_bytes: 32 << 20, nvme: None, high_percent: 95, low_percent: 90 };

fn object_mount(backend: Arc<dyn Backend>, directory: &Path) -> Arc<dyn Mount> {
    let limits = MountLimits::default();
    ObjectMount::open(Parts {
        info: MountInfo {
            name: "/checked".to_owned(),
            store: backend.kind(),
            read_only: false,
            mounted: Clock::system().now(),
            capability: backend.capability(),
        },
        revalidate: Revalidate::Always,
        listings: None,
        ledger: crate::metadata::Ledger::in_memory(),
        write: crate::config::WriteMode::default(),
        backend,
        cache: Cache::open(&CACHE).expect("opens"),
        rules: crate::cache::Rules::in_memory(),
        staging: Staging::open(directory, limits.staging_bytes, "/checked").expect("opens"),
        uploader: Uploader::default(),
        vitals: Vitals::new("/checked", &limits),
        clock: Clock::system(),
        usage: Box::new(|| Usage { capacity_bytes: 1, free_bytes: 1, files: 1, free_files: 1 }),
    })
}

fn local_mount(directory: &Path, read_only: bool) -> Arc<dyn Mount> {
    let config = MountConfig {
        path: NsPath::parse("/local").expect("a path"),
        store: StoreConfig::Fs { root: directory.to_owned() },
        read_only,
        revalidate: Revalidate::Always,
        write: crate::config::WriteMode::default(),
        rule: crate::cache::Rule::default(),
        preload: None,
        sync_every: None,
        limits: MountLimits::default(),
        quirks: Quirks::default(),
    };
    LocalMount::open(&config, Vitals::new("/local", &config.limits), Clock::system()).expect("opens")
}

fn broken(findings: &[Finding]) -> Vec<&str> {
    let is_broken = |finding: &&Finding| matches!(finding.outcome, Outcome::Broken { .. });
    findings.iter().filter(is_broken).map(|finding| finding.name).collect()
}

async fn names(mount: &dyn Mount) -> Vec<String> {
    let query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: 1_000 };
    mount.list(&query).await.expect("lists").items.into_iter().map(|item| item.name).collect()
}

async fn write(mount: &dyn Mount, name: &str) {
    let staged = mount.stage(Target::Replace(Key::parse(name).expect("a key"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"kept")).await.expect("writes");
    staged.publish(Publish::default()).await.expect("publishes");
}

#[tokio::test]
async fn memory_keeps_every_promise_and_what_was_there_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let memory = Arc::new(Memory::new(1 << 30, Clock::system()));
    let mount = object_mount(memory, directory.path());
    write(&*mount, "own").await;
    let findings = Suite::new(Arc::clone(&mount), Depth::Write).run().await;
    assert_eq!(broken(&findings), [""; 0], "{findings:#?}");
    assert_eq!(names(&*mount).await, ["own"]);
}

#[tokio::test]
async fn local_directory_keeps_every_promise() {
    let directory = tempfile::tempdir().expect("a directory");
    let mount = local_mount(directory.path(), false);
    let findings = Suite::new(Arc::clone(&mount), Depth::Write).run().await;
    assert_eq!(broken(&findings), [""; 0], "{findings:#?}");
    assert_eq!(names(&*mount).await, [""; 0]);
}

#[tokio::test]
async fn nothing_is_written_at_the_first_depth_or_on_a_read_only_mount() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("file"), b"content").expect("writes");
    let mount = local_mount(directory.path(), true);
    for depth in [Depth::Look, Depth::Write] {
        let findings = Suite::new(Arc::clone(&mount), depth).run().await;
        assert_eq!(broken(&findings), [""; 0], "{findings:#?}");
        let tried = findings.iter().filter(|finding| !matches!(finding.outcome, Outcome::NotTried { .. }));
        let tried: Vec<_> = tried.map(|finding| finding.name).collect();
        assert_eq!(tried, ["present-agreement", "present-reads"]);
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 1);
}

/// A store that forgets conditions and lists backwards, as some do.
struct Liar(Memory);

#[async_trait]
impl Backend for Liar {
    fn kind(&self) -> &'static str {
        "liar"
    }

    fn capability(&self) -> Capability {
        self.0.capability()
    }

    fn fingerprint(&self) -> &str {
        self.0.fingerprint()
    }

    async fn stat(&self, key: &str) -> Result<Object> {
        self.0.stat(key).await
    }

    async fn read(&self, key: &str, range: ByteRange, etag: &ETag) -> Result<Bytes> {
        self.0.read(key, range, etag).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ObjectPage> {
        let mut page = self.0.list(query).await?;
        page.objects.reverse();
        Ok(page)
    }

    async fn put(&self, key: &str, source: &Source, headers: &Headers, _: &Precondition) -> Result<Object> {
        self.0.put(key.trim(), source, headers, &Precondition::None).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        headers: Option<&Headers>,
        condition: &Precondition,
    ) -> Result<Object> {
        self.0.copy(from, to, headers, condition).await
    }
}

#[tokio::test]
async fn lies_are_found_and_the_advice_names_the_setting() {
    let directory = tempfile::tempdir().expect("a directory");
    let mount = object_mount(Arc::new(Liar(Memory::new(1 << 30, Clock::system()))), directory.path());
    let suite = Suite::new(mount, Depth::Write);
    let findings = suite.run().await;
    let broken = broken(&findings);
    for name in ["create-only", "create-only-chunked", "replace-if", "race-create", "order", "names"] {
        assert!(broken.contains(&name), "{name} is not among {broken:?}");
    }
    assert!(!broken.contains(&"small-writes") && !broken.contains(&"ranges"), "{broken:?}");
    let advice = findings.iter().find_map(|finding| match &finding.outcome {
        Outcome::Broken { fix, .. } if finding.name == "create-only" => Some(fix.clone()),
        Outcome::Broken { .. } | Outcome::Holds | Outcome::Lacks { .. } | Outcome::NotTried { .. } => None,
    });
    assert!(advice.is_some_and(|advice| advice.contains("conditional_write: false")));
}
