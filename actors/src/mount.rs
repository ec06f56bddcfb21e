//! Mounts: from an entry of the configuration to a handle that serves bytes and an actor that looks after it.
//!
//! Invariants:
//! - A store that cannot be reached does not keep its mount from opening: it starts degraded.
//! - The handle needs its actor for nothing but news about the store's health.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_core::{Clock, MountInfo, Result, Usage};

mod actor;
mod breaker;
pub mod local;
mod mounted;
pub mod object;
pub mod vitals;

use local::LocalMount;
use mounted::Body;
pub use mounted::{Change, Mounted, Remains};
use object::{ObjectMount, Parts, Uploader};
use vitals::Vitals;

use crate::backend::{Backend, Exchange, Hdfs, Memory, ObjectStore, UploadMemory};
use crate::cache::{Cache, Rules};
use crate::config::{MountConfig, StoreConfig};
use crate::metadata::{Ledger, Metadata};
use crate::staging::{Staging, blocking};
use crate::supervisor::Supervisor;

/// Longest file name before a hash takes its place; file systems allow 255 bytes.
const ENCODED_BYTES_MAX: usize = 200;
/// Digits of a store's hash in the name of a directory.
const STORE_DIGITS: usize = 16;
/// What `statfs` shows of a store without a known size: 1 PiB, all of it free.
const UNBOUNDED: Usage =
    Usage { capacity_bytes: 1 << 50, free_bytes: 1 << 50, files: 1 << 40, free_files: 1 << 40 };

/// What all mounts share.
#[derive(Clone)]
pub struct Environment {
    /// Where content of remote stores is cached.
    pub cache: Cache,
    /// Where what is sent to stores is held.
    pub uploads: UploadMemory,
    /// How it is treated there.
    pub rules: Arc<Rules>,
    /// Looks after the mounts' actors.
    pub supervisor: Supervisor,
    /// Brings to the stores what was acknowledged before.
    pub uploader: Uploader,
    /// What is known of stores over restarts.
    pub metadata: Option<Arc<Metadata>>,
    /// Where the gateway keeps its own state.
    pub var_directory: PathBuf,
    /// The time of day.
    pub clock: Clock,
}

/// Opens a mount, without the actor that looks after it: [`Mounted::watch`] starts that.
///
/// # Errors
/// `InvalidArgument` for options that make no sense together; `Busy` when another mount or gateway uses the directory;
/// the disk's. A store that does not answer is no error.
pub async fn open(config: &MountConfig, environment: &Environment) -> Result<Mounted> {
    // Makes an HTTP client, which is work for a processor: many mounts are opened at once.
    let store = {
        let (config, environment) = (config.clone(), environment.clone());
        blocking(move || flat_store(&config, &environment)).await?
    };
    match store {
        None => open_local(config, environment).await,
        Some(store) => open_object(config, environment, store).await,
    }
}

/// A store of flat keys, not mounted yet.
struct FlatStore {
    backend: Arc<dyn Backend>,
    usage: Box<dyn Fn() -> Usage + Send + Sync>,
    /// The store itself, where it is the gateway's own memory.
    memory: Option<Arc<Memory>>,
}

/// The store of flat keys that a mount asks for; `None` for local directories. Sends nothing.
fn flat_store(config: &MountConfig, environment: &Environment) -> Result<Option<FlatStore>> {
    Ok(Some(match &config.store {
        StoreConfig::Fs { .. } => return Ok(None),
        StoreConfig::Memory { size_bytes } => {
            let memory = Arc::new(Memory::new(*size_bytes, environment.clock.clone()));
            let usage = {
                let memory = Arc::clone(&memory);
                move || {
                    let (used_bytes, capacity_bytes) = memory.used_bytes();
                    let free_bytes = capacity_bytes.saturating_sub(used_bytes);
                    Usage { capacity_bytes, free_bytes, ..UNBOUNDED }
                }
            };
            FlatStore {
                backend: Arc::clone(&memory) as Arc<dyn Backend>,
                usage: Box::new(usage),
                memory: Some(memory),
            }
        }
        StoreConfig::Object(options) => {
            let backend =
                Arc::new(ObjectStore::new(options, (&config.limits, config.quirks), &environment.uploads)?);
            FlatStore { backend, usage: Box::new(|| UNBOUNDED), memory: None }
        }
        StoreConfig::Hdfs(options) => {
            let backend = Arc::new(Hdfs::new(
                options,
                &config.limits,
                &environment.uploads,
                environment.clock.clone(),
            )?);
            FlatStore { backend, usage: Box::new(|| UNBOUNDED), memory: None }
        }
    }))
}

async fn open_local(config: &MountConfig, environment: &Environment) -> Result<Mounted> {
    let (copy, clock) = (config.clone(), environment.clock.clone());
    let (mount, vitals) = blocking(move || {
        let vitals = Vitals::new(copy.path.as_str(), &copy.limits);
        Ok((LocalMount::open(&copy, Arc::clone(&vitals), clock)?, vitals))
    })
    .await?;
    Ok(Mounted::new(config.clone(), vitals, Body::Local(mount)))
}

async fn open_object(config: &MountConfig, environment: &Environment, store: FlatStore) -> Result<Mounted> {
    let name = config.path.to_string();
    // A memory store is another one after each start, but what was staged for it goes with the mount's name.
    let identity = if store.memory.is_some() { "memory" } else { store.backend.fingerprint() };
    let staging = {
        let directory = staging_directory(&environment.var_directory, &name, identity);
        let (name, limit_bytes) = (name.clone(), config.limits.staging_bytes);
        blocking(move || Staging::open(&directory, limit_bytes, &name)).await?
    };
    let vitals = Vitals::new(&name, &config.limits);
    let exchange = Arc::new(Exchange::new(store.backend));
    let info = MountInfo {
        name,
        store: exchange.kind(),
        read_only: config.read_only || !exchange.capability().write,
        mounted: environment.clock.now(),
        capability: exchange.capability(),
    };
    // A memory store is another one after each start, and answers as fast.
    let metadata = environment.metadata.as_ref().filter(|_| store.memory.is_none());
    let listings = metadata
        .map(|metadata| metadata.listings(&info.name, exchange.fingerprint(), info.capability.hierarchical));
    let ledger = match metadata {
        Some(metadata) => {
            let (metadata, store) = (Arc::clone(metadata), exchange.fingerprint().to_owned());
            blocking(move || metadata.ledger(&store)).await?
        }
        None => Ledger::in_memory(),
    };
    let mount = ObjectMount::open(Parts {
        info,
        revalidate: config.revalidate,
        listings,
        ledger,
        write: config.write,
        backend: Arc::clone(&exchange) as Arc<dyn Backend>,
        cache: environment.cache.clone(),
        rules: Arc::clone(&environment.rules),
        staging,
        uploader: environment.uploader.clone(),
        vitals: Arc::clone(&vitals),
        clock: environment.clock.clone(),
        usage: store.usage,
    });
    let body = Body::Object { mount, exchange, memory: store.memory };
    Ok(Mounted::new(config.clone(), vitals, body))
}

/// Where the staged writes of the mount `name` of one store lie. Different mounts never share a directory, and a
/// mount that gets another store does not find the uploads of the one before.
fn staging_directory(var_directory: &Path, name: &str, store: &str) -> PathBuf {
    let store = blake3::hash(store.as_bytes()).to_hex();
    var_directory.join("staging").join(format!("{}@{}", encoded(name), &store[..STORE_DIGITS]))
}

/// A mount's name as one file name: `/` becomes `+`, and what is not a letter, digit, `-`, `_` or `.` becomes
/// `%` and two hex digits per byte. Injective; long names become a hash.
fn encoded(name: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'/' => text.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(char::from(byte)),
            _ => write!(text, "%{byte:02x}").expect("a string takes everything"),
        }
    }
    if text.len() <= ENCODED_BYTES_MAX {
        return text;
    }
    format!("={}", blake3::hash(name.as_bytes()).to_hex())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use forebay_core::{Key, ListQuery, Mount, MountState, NsPath, Secret, Want};

    use super::*;
    use crate::config::{CacheConfig, MountLimits, ObjectStoreConfig, Quirks, Revalidate, S3StoreConfig};
    use crate::supervisor::ChildState;

    #[test]
    fn different_mounts_never_share_a_directory() {
        let long = "/".to_owned() + &"x".repeat(300);
        let names = ["/a", "/a/b", "/a+b", "/a%2fb", "/a%2bb", "/A", "/ä", "/a b", "/a.", &long];
        let directories: HashSet<_> = names.iter().map(|name| encoded(name)).collect();
        assert_eq!(directories.len(), names.len());
        assert!(directories.iter().all(|name| name.len() <= 255 && !name.contains('/') && !name.is_empty()));
    }

    static FIRST: ListQuery = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 1 };

    fn environment(directory: &Path, supervisor: Supervisor) -> Environment {
        let cache = CacheConfig { memory_bytes: 64 << 20, nvme: None, high_percent: 95, low_percent: 90 };
        Environment {
            cache: Cache::open(&cache).expect("opens"),
            uploads: UploadMemory::new(64 << 20),
            rules: crate::cache::Rules::in_memory(),
            supervisor,
            uploader: Uploader::default(),
            metadata: None,
            var_directory: directory.to_owned(),
            clock: Clock::system(),
        }
    }

    fn config(path: &str, store: StoreConfig) -> MountConfig {
        MountConfig {
            path: NsPath::parse(path).expect("a path"),
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

    async fn mounted(config: &MountConfig, environment: &Environment) -> Arc<dyn Mount> {
        let mounted = open(config, environment).await.expect("opens");
        mounted.watch(&environment.supervisor, Duration::ZERO).await.expect("is watched");
        Arc::clone(mounted.handle())
    }

    async fn settled(mount: &dyn Mount) -> MountState {
        let settled = async {
            while mount.state() == MountState::Starting {
                tokio::task::yield_now().await;
            }
            mount.state()
        };
        tokio::time::timeout(Duration::from_secs(30), settled).await.expect("probed within 30 s")
    }

    #[tokio::test]
    async fn store_that_cannot_be_reached_starts_degraded_and_the_others_are_ready() {
        let directory = tempfile::tempdir().expect("a directory");
        let supervisor = Supervisor::start("mounts").await.expect("starts");
        let environment = environment(directory.path(), supervisor.clone());
        let dead = S3StoreConfig {
            bucket: "nobody".into(),
            prefix: String::new(),
            endpoint: Some("http://127.0.0.1:1".into()),
            region: "us-east-1".into(),
            credentials: Some(("key".into(), Secret::new("hunter2"))),
            session_token: None,
            is_virtual_host_style: false,
        };
        let stores = [
            config("/dead", StoreConfig::Object(ObjectStoreConfig::S3(dead))),
            config("/memory", StoreConfig::Memory { size_bytes: 1 << 20 }),
            config("/local", StoreConfig::Fs { root: directory.path().join("local") }),
        ];
        let mut mounts = Vec::new();
        for store in &stores {
            mounts.push(mounted(store, &environment).await);
        }
        let MountState::Degraded { reason } = settled(&*mounts[0]).await else { panic!("not degraded") };
        assert!(reason.contains("refused") && !reason.contains("hunter2"), "{reason}");
        assert_eq!(settled(&*mounts[1]).await, MountState::Ready);
        assert_eq!(settled(&*mounts[2]).await, MountState::Ready);
        assert!(mounts[1].stat(&Key::root(), Want::Any).await.is_ok());
        let names: Vec<_> = supervisor.children().into_iter().map(|child| child.name).collect();
        assert_eq!(names, ["Mount:/dead", "Mount:/local", "Mount:/memory"]);
    }

    #[tokio::test]
    async fn mount_serves_while_its_actor_is_down() {
        let directory = tempfile::tempdir().expect("a directory");
        let supervisor = Supervisor::start("mounts").await.expect("starts");
        let environment = environment(directory.path(), supervisor.clone());
        let mount = mounted(&config("/m", StoreConfig::Memory { size_bytes: 1 << 20 }), &environment).await;
        for _ in 0..3 {
            assert!(supervisor.panic_child("Mount:/m").await.expect("alive"));
            while supervisor.children()[0].state == ChildState::Running {
                assert!(mount.list(&FIRST).await.is_ok());
                tokio::task::yield_now().await;
            }
            assert!(mount.list(&FIRST).await.is_ok());
            while supervisor.children()[0].state != ChildState::Running {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(supervisor.children()[0].restarts, 3);
    }
}
