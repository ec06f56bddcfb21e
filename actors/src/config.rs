//! What the configuration says about stores and caches, already checked: defaults and limits live here, parsing
//! in the binary.

use std::path::PathBuf;
use std::time::Duration;

use forebay_core::{NsPath, Secret};

mod hdfs;

pub use hdfs::HdfsStoreConfig;

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

/// The disk tier.
#[derive(Clone, Debug)]
pub struct NvmeConfig {
    /// Where the files lie; owned by one gateway at a time.
    pub directory: PathBuf,
    /// Hard cap in bytes of disk blocks.
    pub size_bytes: u64,
}

/// One entry of `mounts`.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// Where it is mounted.
    pub path: NsPath,
    /// Which store.
    pub store: StoreConfig,
    /// Refuses every change.
    pub read_only: bool,
    /// How long attributes may be trusted.
    pub revalidate: Revalidate,
    /// What it may use at once.
    pub limits: MountLimits,
}

/// Which store, with its typed options.
#[derive(Clone, Debug)]
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
    /// Amazon S3 or anything that speaks it.
    S3(S3StoreConfig),
    /// A directory of HDFS.
    Hdfs(HdfsStoreConfig),
}

/// Options of an S3 store.
#[derive(Clone, Debug)]
pub struct S3StoreConfig {
    /// The bucket.
    pub bucket: String,
    /// Keys below this prefix only; empty or ending in `/`.
    pub prefix: String,
    /// Base URL; `None` for AWS.
    pub endpoint: Option<String>,
    /// Region name.
    pub region: String,
    /// Key pair; `None` sends unsigned requests.
    pub credentials: Option<(String, Secret)>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// `bucket.host` instead of `host/bucket`.
    pub is_virtual_host_style: bool,
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
#[derive(Clone, Debug)]
pub struct MountLimits {
    /// Store requests in flight.
    pub operations: usize,
    /// Longest wait for a place among them before `Busy`.
    pub queue_deadline: Duration,
    /// Deadline of one store request, retries excluded.
    pub request_deadline: Duration,
    /// Attempts for requests that may be repeated.
    pub attempts: usize,
    /// Staged bytes, parts and writes in progress together.
    pub staging_bytes: u64,
}

impl Default for MountLimits {
    fn default() -> Self {
        Self {
            operations: 64,
            queue_deadline: Duration::from_secs(10),
            request_deadline: Duration::from_secs(30),
            attempts: 3,
            staging_bytes: 16 << 30,
        }
    }
}
