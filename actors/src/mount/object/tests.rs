//! Behaviour of an object mount over the memory store, with requests counted, held and failed on their way.

mod ahead;
mod back;
mod faulty;
mod hierarchy;
mod links;
mod listings;
mod reading;
mod release;
mod sync;
mod trees;
mod writing;

use std::time::Duration;

use bytes::Bytes;
use forebay_core::{Attributes, Capability, ETag, EntryKind, FileId, ManualClock, Publish, Version};
use tempfile::TempDir;

use self::faulty::Faulty;
use super::*;
use crate::config::{CacheConfig, MountLimits, NvmeConfig};

/// A mount over a faulty memory store.
struct Fixture {
    store: Arc<Faulty>,
    mount: Arc<ObjectMount>,
    clock: ManualClock,
    directory: TempDir,
}

const MEMORY_ONLY: CacheConfig =
    CacheConfig { memory_bytes: 32 << 20, nvme: None, high_percent: 95, low_percent: 90 };

const TRUSTED: Revalidate = Revalidate::After(Duration::from_mins(1));

fn fixture(revalidate: Revalidate) -> Fixture {
    let clock = ManualClock::default();
    let store = Arc::new(Faulty::new(Clock::manual(&clock)));
    let directory = TempDir::new().expect("a temporary directory");
    let mount = mount_over(&store, &clock, &directory, (revalidate, &MEMORY_ONLY));
    Fixture { store, mount, clock, directory }
}

fn mount_over(
    store: &Arc<Faulty>,
    clock: &ManualClock,
    directory: &TempDir,
    (revalidate, cache): (Revalidate, &CacheConfig),
) -> Arc<ObjectMount> {
    mount_with(store, clock, directory, (revalidate, cache, WriteMode::Through, None))
}

fn mount_in_mode(
    store: &Arc<Faulty>,
    clock: &ManualClock,
    directory: &TempDir,
    (revalidate, cache, write): (Revalidate, &CacheConfig, WriteMode),
) -> Arc<ObjectMount> {
    mount_with(store, clock, directory, (revalidate, cache, write, None))
}

fn mount_with<B: Backend + 'static>(
    store: &Arc<B>,
    clock: &ManualClock,
    directory: &TempDir,
    (revalidate, cache, write, listings): (Revalidate, &CacheConfig, WriteMode, Option<Arc<Listings>>),
) -> Arc<ObjectMount> {
    let limits = MountLimits { attempts: 1, staging_bytes: 1 << 20, ..MountLimits::default() };
    let capability: Capability = store.capability();
    let uploader = Uploader::default();
    let running = uploader.clone();
    tokio::spawn(async move { running.run().await });
    ObjectMount::open(Parts {
        info: MountInfo {
            name: "/object".to_owned(),
            store: "memory",
            read_only: false,
            mounted: Clock::manual(clock).now(),
            capability,
        },
        revalidate,
        listings,
        ledger: Ledger::in_memory(),
        write,
        backend: Arc::clone(store) as Arc<dyn Backend>,
        cache: Cache::open(cache).expect("opens"),
        rules: crate::cache::Rules::in_memory(),
        staging: Staging::open(directory.path(), limits.staging_bytes, "/object").expect("opens"),
        uploader,
        vitals: Vitals::new("/object", &limits),
        clock: Clock::manual(clock),
        usage: Box::new(|| Usage { capacity_bytes: 1, free_bytes: 1, files: 1, free_files: 1 }),
    })
}

fn key(text: &str) -> Key {
    Key::parse(text).expect("valid key")
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// A file of some length that lies nowhere.
pub(super) fn an_entry(size_bytes: u64) -> Entry {
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    Entry {
        file_id: FileId::of(&[b"nowhere"]),
        kind: EntryKind::File,
        size_bytes,
        version: Version::Strong("1".into()),
        etag: ETag::new("1"),
        modified: epoch,
        attributes: Attributes { mode: 0o644, uid: 0, gid: 0, accessed: epoch, changed: epoch },
        headers: None,
    }
}

impl Fixture {
    /// Writes a whole file through the mount.
    async fn put(&self, name: &str, content: &'static [u8]) -> Entry {
        self.try_put(name, content, Precondition::None).await.expect("publishes")
    }

    async fn try_put(&self, name: &str, content: &'static [u8], condition: Precondition) -> Result<Entry> {
        let staged = self.mount.stage(Target::Replace(key(name))).await?;
        staged.write_at(0, Bytes::from_static(content)).await?;
        staged.publish(Publish { condition, ..Publish::default() }).await
    }

    async fn read(&self, name: &str) -> Vec<u8> {
        let file = self.mount.open(&key(name), Want::Any).await.expect("opens");
        let size_bytes = file.entry().size_bytes;
        if size_bytes == 0 {
            return Vec::new();
        }
        let range = forebay_core::ByteRange::new(0, size_bytes);
        file.read(range).await.expect("reads").read().expect("in memory").concat()
    }

    async fn stat(&self, name: &str) -> Result<Entry> {
        self.mount.stat(&key(name), Want::Any).await
    }

    async fn id(&self, name: &str) -> FileId {
        self.stat(name).await.expect("is there").file_id
    }

    /// All names in the store, in byte order.
    async fn names(&self) -> Vec<String> {
        let query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: 10_000 };
        let page = self.store.list(&query).await.expect("lists");
        page.objects.into_iter().map(|object| object.key).collect()
    }
}
