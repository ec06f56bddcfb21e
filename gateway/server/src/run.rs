//! The wiring. Read from top to bottom it is the architecture: stores and caches, one namespace over them, the
//! frontends in front of it, each piece under the supervisor; and the same in reverse at the end.

mod frontends;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use forebay_actors::backend::UploadMemory;
use forebay_actors::cache::{Cache, Rules};
use forebay_actors::config::{CacheConfig, MemoryShares};
use forebay_actors::load::{self, Loads};
use forebay_actors::metadata::Metadata;
use forebay_actors::mount::Environment;
use forebay_actors::mount::object::Uploader;
use forebay_actors::mounts::{self, Mounts};
use forebay_actors::staging::make_directory;
use forebay_actors::supervisor::Supervisor;
use forebay_core::{Clock, METRICS, MountTable, Namespace};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{Operated, Readiness};
use crate::config::Config;
use crate::reload::{self, Reloader};

/// Stores, mounted, with the actors that look after them.
pub(crate) struct Stores {
    pub(crate) table: Arc<MountTable>,
    pub(crate) supervisor: Supervisor,
    namespace: Arc<Namespace>,
    cache: Cache,
    mounts: Arc<Mounts>,
    rules: Arc<Rules>,
    metadata: Arc<Metadata>,
}

/// Opens the cache and all mounts. A store that does not answer is mounted all the same and shows as degraded.
///
/// # Errors
/// The cache directory cannot be used or is in use, or a local directory cannot be opened.
pub(crate) async fn stores(config: &Config) -> anyhow::Result<Stores> {
    let var = &config.gateway.var;
    make_directory(var, 0o755).with_context(|| format!("cannot make {}", var.display()))?;
    let supervisor = Supervisor::start("gateway").await?;
    let shares = MemoryShares::of(config.gateway.cache.memory_bytes);
    let tiers = CacheConfig { memory_bytes: shares.cache_bytes, ..config.gateway.cache.clone() };
    let cache = Cache::open(&tiers)?;
    cache.start_evictors(&supervisor).await?;
    let rules = Rules::open(&var.join("rules.json")).await?;
    let metadata = {
        let directory = var.join("metadata");
        Arc::new(tokio::task::spawn_blocking(move || Metadata::open(&directory)).await??)
    };
    let uploader = Uploader::default();
    uploader.start(&supervisor).await?;
    let environment = Environment {
        cache: cache.clone(),
        uploads: UploadMemory::new(shares.uploads_bytes),
        metadata: Some(Arc::clone(&metadata)),
        rules: Arc::clone(&rules),
        supervisor: supervisor.clone(),
        uploader,
        var_directory: var.clone(),
        clock: Clock::system(),
    };
    let namespace = Arc::new(Namespace::new(MountTable::default(), Clock::system().now()));
    let mounts = Arc::new(Mounts::new(environment, Arc::clone(&namespace)));
    if let Err(refused) = mounts.apply(&config.mounts, &[]).await {
        let lines: Vec<_> = refused.iter().map(ToString::to_string).collect();
        anyhow::bail!(lines.join("\n"));
    }
    Ok(Stores { table: namespace.table(), supervisor, namespace, cache, mounts, rules, metadata })
}

/// Serves until SIGTERM or SIGINT; a second signal exits at once.
///
/// # Errors
/// Something that was configured cannot be started.
pub(crate) fn until_signal(config: Config) -> anyhow::Result<ExitCode> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(config));
    // Blocking work that is still stuck on a dead disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Cached files keep a descriptor each, and the cache sizes itself by the limit.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %e, "the limit of open files stays where it is; the disk cache will hold fewer files");
    }
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    METRICS.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let deadline = config.gateway.shutdown_deadline;
    let Stores { table, supervisor, namespace, cache, mounts, rules, metadata } = stores(&config).await?;
    // Mounts come and go from now on, and a snapshot of them would keep those that went.
    drop(table);
    let readiness = Readiness::default();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let reloader = match &config.source {
        Some(source) => Some(Reloader::start(&config, source, &mounts, &supervisor).await?),
        None => None,
    };
    let loads = Loads::open(&namespace, &cache, &config.gateway.var.join("loads"), Clock::system()).await?;
    loads.start(&supervisor).await?;
    load::start_preloads(&loads, &mounts, &supervisor).await?;
    mounts::start_reaper(&mounts, &supervisor).await?;
    let operated =
        Operated { readiness: readiness.clone(), mounts: Arc::clone(&mounts), reloader, loads, rules };
    frontends::start(&config, &namespace, &supervisor, operated).await?;
    readiness.set(true);
    tracing::info!("ready");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(deadline_s = deadline.as_secs(), "shutting down; a second signal exits at once");
    for (mount, writes) in mounts.backlog() {
        tracing::info!(%mount, writes, "acknowledged and not at the store yet; uploads that have begun are finished");
    }
    readiness.set(false);
    let stopped = async {
        if let Err(e) = supervisor.remove(reload::ACTOR, deadline / 4).await {
            tracing::error!(error = %e, "reloads could not be stopped");
        }
        frontends::stop(&supervisor, deadline).await;
        supervisor.stop(deadline / 3).await;
        if let Err(e) = tokio::task::spawn_blocking(move || metadata.close()).await {
            tracing::error!(error = %e, "the metadata store could not be closed");
        }
    };
    tokio::select! {
        outcome = tokio::time::timeout(deadline, stopped) => {
            for (mount, writes) in mounts.backlog() {
                tracing::warn!(%mount, writes, "acknowledged and not at the store; the next start brings it there");
            }
            if outcome.is_err() {
                tracing::error!("the shutdown deadline passed; exiting with work unfinished");
                return Ok(ExitCode::FAILURE);
            }
        }
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
