//! What the configuration says about stores and caches, already checked: defaults and limits live here, parsing
//! in the binary.

use std::path::PathBuf;
use std::time::Duration;

use forebay_core::NsPath;

use crate::cache::Rule;

mod cloud;
mod hdfs;

pub use cloud::{
    AzblobCredential, AzblobStoreConfig, CosStoreConfig, GcsCredential, GcsStoreConfig, HttpCredential,
    HttpStoreConfig, ObjectStoreConfig, OssStoreConfig, Quirks, S3StoreConfig,
};
pub use hdfs::HdfsStoreConfig;

/// Least memory for uploads: one at a time of each mount, in the smallest parts.
const UPLOADS_BYTES_MIN: u64 = 32 << 20;
/// Most memory for uploads.
const UPLOADS_BYTES_MAX: u64 = 384 << 20;
/// Most memory for connections and requests.
const REQUESTS_BYTES_MAX: u64 = 512 << 20;

/// The two cache tiers.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Hard cap of the memory tier, in bytes; pages in flight count.
    pub memory_bytes: u64,
    /// The disk tier; `None` caches in memory only.
    pub nvme: Option<NvmeConfig>,
    /// Evictors start above this share of the cap, in percent.
    pub high_percent: u8,
    /// Evictors stop below this share of the cap, in percent.
    pub low_percent: u8,
}

/// How the one memory budget that an operator sets is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// The memory tier: pages, fetches in flight, indexes and ghosts.
    pub cache_bytes: u64,
    /// Content on its way to stores.
    pub uploads_bytes: u64,
}

impl MemoryShares {
    /// A quarter is for uploads, as far as these can use it, and an eighth for what connections and requests hold.
    pub fn of(budget_bytes: u64) -> Self {
        let uploads_bytes = (budget_bytes / 4).clamp(UPLOADS_BYTES_MIN, UPLOADS_BYTES_MAX);
        let beside = uploads_bytes + (budget_bytes / 8).min(REQUESTS_BYTES_MAX);
        let cache_bytes = budget_bytes.saturating_sub(beside).max(budget_bytes / 2);
        Self { cache_bytes, uploads_bytes }
    }
}

/// The disk tier.
#[derive(Clone, Debug)]
pub struct NvmeConfig {
    /// Where the files lie: at least one directory, none of them in another.
    pub directories: Vec<CacheDirectory>,
    /// Contents up to this length are packed together; 0 gives each a file of its own.
    pub packed_bytes: u64,
}

impl NvmeConfig {
    /// A tier in one directory.
    pub fn in_one(path: PathBuf, size_bytes: u64, packed_bytes: u64) -> Self {
        Self { directories: vec![CacheDirectory { path, size_bytes }], packed_bytes }
    }

    /// Hard caps of all directories together.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.directories.iter().map(|directory| directory.size_bytes).sum()
    }
}

/// One directory of the disk tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDirectory {
    /// Where it is; owned by one gateway at a time. What it is called decides what lies in it.
    pub path: PathBuf,
    /// Hard cap in bytes of disk blocks; its share of the contents is as large as its share of all sizes.
    pub size_bytes: u64,
}

/// One entry of `mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountConfig {
    /// Where it is mounted.
    pub path: NsPath,
    /// Which store.
    pub store: StoreConfig,
    /// Refuses every change.
    pub read_only: bool,
    /// How long attributes may be trusted.
    pub revalidate: Revalidate,
    /// When a write is acknowledged, and what stays of it in the cache.
    pub write: WriteMode,
    /// How its content is treated in the cache.
    pub rule: Rule,
    /// Whether all of it is loaded into the cache.
    pub preload: Option<Preload>,
    /// How often what is known of it is compared with its store.
    pub sync_every: Option<Duration>,
    /// What it may use at once.
    pub limits: MountLimits,
    /// What the operator knows better than the probes of the store.
    pub quirks: Quirks,
}

/// When a write is acknowledged, and what stays of it in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// When the store has it; the content is cached.
    #[default]
    Through,
    /// When the store has it; the content is not cached.
    Around,
    /// When a local disk has it; it is brought to the store later and the content is cached.
    Back(Ack),
}

/// What a write-back mount waits for before it acknowledges a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// The store has it.
    Uploaded,
    /// The disk has it: it survives a power cut.
    #[default]
    NvmeFsync,
    /// It is written to the disk: it survives the end of the process, not one of the machine.
    Nvme,
}

/// When a mount is loaded into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preload {
    /// Once it is ready.
    Once,
    /// Once it is ready, and again and again after this long.
    Every(Duration),
    /// Each day so long after midnight, UTC; not when it becomes ready.
    Daily(Duration),
}

/// Which store, with its typed options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A local directory.
    Fs {
        /// The directory; made if missing.
        root: PathBuf,
    },
    /// The gateway's own memory; gone at exit.
    Memory {
        /// Most content bytes.
        size_bytes: u64,
    },
    /// An object store of a cloud, what speaks like one, or an HTTP server.
    Object(ObjectStoreConfig),
    /// A directory of HDFS.
    Hdfs(HdfsStoreConfig),
}

/// How long a mount's attributes may be trusted. Changes made through this gateway are seen at once in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revalidate {
    /// Ask the store on each lookup.
    Always,
    /// Trust an answer for this long.
    After(Duration),
    /// Trust an answer until this gateway changes the entry.
    Never,
}

/// Bounds of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLimits {
    /// Store requests in flight.
    pub operations: usize,
    /// Content of the requests in flight, in bytes; a larger request goes alone. Of an upload 16 MiB count at most.
    pub bytes_in_flight: u64,
    /// Content from the store, in bytes per second.
    pub read_bandwidth: Option<u64>,
    /// Content to the store, in bytes per second.
    pub write_bandwidth: Option<u64>,
    /// Longest wait for all of these before `Busy`.
    pub queue_deadline: Duration,
    /// Deadline of one store request, retries excluded.
    pub request_deadline: Duration,
    /// Time in which a body that is being read must move `stall_bytes`, or is given up.
    pub stall_window: Duration,
    /// What a body that is being read must move in each `stall_window`.
    pub stall_bytes: u64,
    /// Attempts for requests that may be repeated.
    pub attempts: usize,
    /// Repetitions, in percent of the requests sent lately; a few are always allowed.
    pub retry_percent: u8,
    /// Sends a read again that takes longer than 99 of 100, and takes the first answer.
    pub hedge: bool,
    /// Staged bytes, parts and writes in progress together.
    pub staging_bytes: u64,
    /// Age at which a multipart upload that nobody added to is given up.
    pub upload_age: Duration,
}

impl Default for MountLimits {
    fn default() -> Self {
        Self {
            operations: 64,
            bytes_in_flight: 512 << 20,
            read_bandwidth: None,
            write_bandwidth: None,
            queue_deadline: Duration::from_secs(10),
            request_deadline: Duration::from_secs(30),
            stall_window: Duration::from_secs(5),
            stall_bytes: 64 << 10,
            attempts: 3,
            retry_percent: 10,
            hedge: false,
            staging_bytes: 16 << 30,
            upload_age: Duration::from_hours(7 * 24),
        }
    }
}
