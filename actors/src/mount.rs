//! Mounts: from an entry of the configuration to a handle that serves bytes and an actor that looks after it.
//!
//! Invariants:
//! - A store that cannot be reached does not keep its mount from opening: it starts degraded.
//! - The handle needs its actor for nothing but news about the store's health.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_core::{Clock, Key, ListQuery, Mount, MountInfo, Result, Usage, Want};
use futures::FutureExt;

mod actor;
mod breaker;
pub mod local;
pub mod object;
pub mod vitals;

use actor::{MountActor, Patient, Probe};
use local::LocalMount;
use object::{ObjectMount, Parts};
use vitals::Vitals;

use crate::backend::{Backend, Hdfs, Memory, S3};
use crate::cache::Cache;
use crate::config::{MountConfig, StoreConfig};
use crate::staging::{Staging, blocking};
use crate::supervisor::Supervisor;

/// Longest file name before a hash takes its place; file systems allow 255 bytes.
const ENCODED_BYTES_MAX: usize = 200;
/// The smallest question that only a healthy store can answer.
static PROBE: ListQuery = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 1 };
/// What `statfs` shows of a store without a known size: 1 PiB, all of it free.
const UNBOUNDED: Usage =
    Usage { capacity_bytes: 1 << 50, free_bytes: 1 << 50, files: 1 << 40, free_files: 1 << 40 };

/// What all mounts share.
#[derive(Clone)]
pub struct Environment {
    /// Where content of remote stores is cached.
    pub cache: Cache,
    /// Looks after the mounts' actors.
    pub supervisor: Supervisor,
    /// Where the gateway keeps its own state.
    pub var_directory: PathBuf,
    /// The time of day.
    pub clock: Clock,
}

/// Opens a mount: the handle that serves bytes, and a supervised actor that probes its store from now on.
///
/// # Errors
/// `AlreadyExists` when a mount of this path is open; `InvalidArgument` for options that make no sense together;
/// `Busy` when another gateway uses the directory; the disk's. A store that does not answer is no error.
pub async fn open(config: &MountConfig, environment: &Environment) -> Result<Arc<dyn Mount>> {
    let vitals = Vitals::new(config.path.as_str(), &config.limits);
    match &config.store {
        StoreConfig::Fs { .. } => open_local(config, environment, vitals).await,
        StoreConfig::Memory { size_bytes } => {
            let memory = Arc::new(Memory::new(*size_bytes, environment.clock.clone()));
            let usage = {
                let memory = Arc::clone(&memory);
                move || {
                    let (used_bytes, capacity_bytes) = memory.used_bytes();
                    Usage { capacity_bytes, free_bytes: capacity_bytes - used_bytes, ..UNBOUNDED }
                }
            };
            open_object(config, environment, vitals, (memory, Box::new(usage))).await
        }
        StoreConfig::S3(options) => {
            let s3 = Arc::new(S3::new(options, &config.limits)?);
            open_object(config, environment, vitals, (s3, Box::new(|| UNBOUNDED))).await
        }
        StoreConfig::Hdfs(options) => {
            let hdfs = Arc::new(Hdfs::new(options, &config.limits, environment.clock.clone())?);
            open_object(config, environment, vitals, (hdfs, Box::new(|| UNBOUNDED))).await
        }
    }
}

async fn open_local(
    config: &MountConfig,
    environment: &Environment,
    vitals: Arc<Vitals>,
) -> Result<Arc<dyn Mount>> {
    let mount = {
        let (config, vitals, clock) = (config.clone(), Arc::clone(&vitals), environment.clock.clone());
        blocking(move || LocalMount::open(&config, vitals, clock)).await?
    };
    let probed = Arc::clone(&mount);
    let probe: Probe = Arc::new(move || {
        let probed = Arc::clone(&probed);
        async move { probed.stat(&Key::root(), Want::Directory).await.map(drop) }.boxed()
    });
    watch(environment, vitals, probe).await?;
    Ok(mount)
}

type Store = (Arc<dyn Backend>, Box<dyn Fn() -> Usage + Send + Sync>);

async fn open_object(
    config: &MountConfig,
    environment: &Environment,
    vitals: Arc<Vitals>,
    (backend, usage): Store,
) -> Result<Arc<dyn Mount>> {
    let name = config.path.to_string();
    let staging = {
        let directory = staging_directory(&environment.var_directory, &name);
        let (name, limit_bytes) = (name.clone(), config.limits.staging_bytes);
        blocking(move || Staging::open(&directory, limit_bytes, &name)).await?
    };
    let info = MountInfo {
        name,
        store: backend.kind(),
        read_only: config.read_only,
        mounted: environment.clock.now(),
        capability: backend.capability(),
    };
    let mount = ObjectMount::open(Parts {
        info,
        revalidate: config.revalidate,
        backend: Arc::clone(&backend),
        cache: environment.cache.clone(),
        staging,
        vitals: Arc::clone(&vitals),
        clock: environment.clock.clone(),
        usage,
    });
    let probe: Probe = Arc::new(move || {
        let backend = Arc::clone(&backend);
        async move { backend.list(&PROBE).await.map(drop) }.boxed()
    });
    watch(environment, vitals, probe).await?;
    Ok(mount)
}

async fn watch(environment: &Environment, vitals: Arc<Vitals>, probe: Probe) -> Result<()> {
    let name = format!("Mount:{}", vitals.name());
    let patient = Patient { vitals, probe };
    environment.supervisor.child(name, move || (MountActor, patient.clone())).await
}

/// Where the staged writes of the mount `name` lie. Different mounts never share a directory.
fn staging_directory(var_directory: &Path, name: &str) -> PathBuf {
    var_directory.join("staging").join(encoded(name))
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

    use forebay_core::{Key, MountState, NsPath, Secret, Want};

    use super::*;
    use crate::config::{CacheConfig, MountLimits, Revalidate, S3StoreConfig};
    use crate::supervisor::ChildState;

    #[test]
    fn different_mounts_never_share_a_directory() {
        let long = "/".to_owned() + &"x".repeat(300);
        let names = ["/a", "/a/b", "/a+b", "/a%2fb", "/a%2bb", "/A", "/ä", "/a b", "/a.", &long];
        let directories: HashSet<_> = names.iter().map(|name| encoded(name)).collect();
        assert_eq!(directories.len(), names.len());
        assert!(directories.iter().all(|name| name.len() <= 255 && !name.contains('/') && !name.is_empty()));
    }

    fn environment(directory: &Path, supervisor: Supervisor) -> Environment {
        let cache = CacheConfig { memory_bytes: 64 << 20, nvme: None, high_percent: 95, low_percent: 90 };
        Environment {
            cache: Cache::open(&cache).expect("opens"),
            supervisor,
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
            limits: MountLimits::default(),
        }
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
            config("/dead", StoreConfig::S3(dead)),
            config("/memory", StoreConfig::Memory { size_bytes: 1 << 20 }),
            config("/local", StoreConfig::Fs { root: directory.path().join("local") }),
        ];
        let mut mounts = Vec::new();
        for store in &stores {
            mounts.push(open(store, &environment).await.expect("opens"));
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
        let mount = open(&config("/m", StoreConfig::Memory { size_bytes: 1 << 20 }), &environment).await;
        let mount = mount.expect("opens");
        for _ in 0..3 {
            assert!(supervisor.panic_child("Mount:/m").await.expect("alive"));
            while supervisor.children()[0].state == ChildState::Running {
                assert!(mount.list(&PROBE).await.is_ok());
                tokio::task::yield_now().await;
            }
            assert!(mount.list(&PROBE).await.is_ok());
            while supervisor.children()[0].state != ChildState::Running {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(supervisor.children()[0].restarts, 3);
    }
}
