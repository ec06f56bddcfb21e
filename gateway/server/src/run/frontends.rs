//! Starts the frontends and supervises them: each is bound once at start, so that a taken port stops the gateway
//! with a clear error, and again after a failure.

use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use forebay_actors::supervisor::{ServiceError, StopSignal, Supervisor};
use forebay_core::{Context, Grant, Namespace, NsPath, Permission, Principal};
use forebay_fuse::{FuseConfig, FuseSession};
use forebay_s3::{S3Config, S3Server};
use forebay_webhdfs::{WebHdfsConfig, WebHdfsServer};
use tokio::runtime::Handle;

use crate::admin::{AdminServer, AdminState, Operated};
use crate::config::{Config, FuseOptions};

/// Starts what is configured. A FUSE mount that this machine does not allow is one warning; all else is an error.
///
/// # Errors
/// A listener cannot be bound.
pub(super) async fn start(
    config: &Config,
    namespace: &Arc<Namespace>,
    supervisor: &Supervisor,
    operated: Operated,
) -> anyhow::Result<()> {
    start_admin(config, namespace, supervisor, operated).await?;
    start_s3(config, namespace, supervisor).await?;
    start_webhdfs(config, namespace, supervisor).await?;
    if let Some(options) = &config.gateway.fuse {
        start_fuse(config, options, namespace, supervisor).await?;
    }
    Ok(())
}

/// Stops them, the admin listener last so that it can say "not ready" meanwhile.
pub(super) async fn stop(supervisor: &Supervisor, deadline: Duration) {
    let remove = async |name: &str| {
        if let Err(e) = supervisor.remove(name, deadline).await {
            tracing::error!(frontend = name, error = %e, "could not be stopped");
        }
    };
    tokio::join!(remove("s3"), remove("webhdfs"));
    remove("fuse").await;
    remove("admin").await;
}

async fn start_s3(
    config: &Config,
    namespace: &Arc<Namespace>,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let Some(options) = &config.gateway.s3 else { return Ok(()) };
    let s3 = S3Config {
        listen: options.http.listen,
        tls: options.http.tls.clone(),
        region: options.region.clone(),
        domain: options.domain.clone(),
        drain: config.gateway.shutdown_deadline / 4,
    };
    let (namespace, access) = (Arc::clone(namespace), Arc::clone(&config.access));
    let bind = move || S3Server::bind(s3.clone(), Arc::clone(&namespace), Arc::clone(&access));
    let server = bound("s3", options.http.listen, bind().await)?;
    tracing::info!(frontend = "s3", address = %server.local_addr()?, "listening");
    supervise(supervisor, "s3", server, bind, |server, mut stop| async move {
        server.run(async move { stop.requested().await }).await
    })
    .await
}

async fn start_webhdfs(
    config: &Config,
    namespace: &Arc<Namespace>,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let Some(options) = &config.gateway.webhdfs else { return Ok(()) };
    let webhdfs = WebHdfsConfig {
        listen: options.http.listen,
        tls: options.http.tls.as_deref().cloned(),
        advertised: options.advertised.clone(),
        colon: options.colon,
        drain: config.gateway.shutdown_deadline / 4,
    };
    let (namespace, access) = (Arc::clone(namespace), Arc::clone(&config.access));
    let bind = move || {
        let bound = WebHdfsServer::bind(
            webhdfs.clone(),
            Arc::clone(&namespace),
            Arc::clone(&access),
            Handle::current(),
        );
        std::future::ready(bound)
    };
    let server = bound("webhdfs", options.http.listen, bind().await)?;
    tracing::info!(frontend = "webhdfs", address = %server.local_addr(), "listening");
    supervise(supervisor, "webhdfs", server, bind, |server, mut stop| async move {
        server.run(async move { stop.requested().await }).await
    })
    .await
}

async fn start_admin(
    config: &Config,
    namespace: &Arc<Namespace>,
    supervisor: &Supervisor,
    operated: Operated,
) -> anyhow::Result<()> {
    let Some(options) = config.gateway.admin.clone() else { return Ok(()) };
    let everything = vec![Grant { prefix: NsPath::root(), permission: Permission::Write }];
    let state = AdminState {
        namespace: Arc::clone(namespace),
        access: Arc::clone(&config.access),
        supervisor: supervisor.clone(),
        operated,
        runtime: Handle::current(),
        context: Context::new(Arc::new(Principal { name: "admin".to_owned(), grants: everything })),
    };
    let listen = options.listen;
    let bind = move || std::future::ready(AdminServer::bind(&options, state.clone()));
    let server = bound("admin", listen, bind().await)?;
    tracing::info!(frontend = "admin", address = %server.local_addr()?, "listening");
    supervise(supervisor, "admin", server, bind, |server, mut stop| async move {
        server.run(async move { stop.requested().await }).await
    })
    .await
}

async fn start_fuse(
    config: &Config,
    options: &FuseOptions,
    namespace: &Arc<Namespace>,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let fuse = FuseConfig {
        mountpoint: options.mountpoint.clone(),
        allow_other: options.allow_other,
        attr_ttl: options.attr_ttl,
        passthrough: options.passthrough,
        ..FuseConfig::default()
    };
    let (namespace, access) = (Arc::clone(namespace), Arc::clone(&config.access));
    let mount = move || {
        let mounted = FuseSession::mount(&fuse, Arc::clone(&namespace), &access, Handle::current());
        std::future::ready(mounted)
    };
    let session = match mount().await {
        Ok(session) => session,
        Err(e) => {
            tracing::warn!(mountpoint = %options.mountpoint.display(), error = %e, "not mounted; everything else is served");
            return Ok(());
        }
    };
    tracing::info!(frontend = "fuse", mountpoint = %options.mountpoint.display(), "mounted");
    let drain = config.gateway.shutdown_deadline / 2;
    // The session outlives its actor: whoever has files open there does not notice a restart.
    let session = Arc::new(tokio::sync::Mutex::new(Some(session)));
    let service = move |mut stop: StopSignal| {
        let (session, mount) = (Arc::clone(&session), mount.clone());
        async move {
            let mut held = session.lock().await;
            let session = match held.take() {
                Some(session) => session,
                None => mount().await?,
            };
            let session = held.insert(session);
            tokio::select! {
                ended = session.ended() => {
                    *held = None;
                    ended.and(Err(std::io::Error::other("the mount was removed from outside")))?;
                }
                () = stop.requested() => {
                    if let Some(session) = held.take() {
                        session.unmount(drain).await?;
                    }
                }
            }
            Ok(())
        }
    };
    Ok(supervisor.service("fuse", service).await?)
}

fn bound<T>(name: &str, listen: SocketAddr, outcome: std::io::Result<T>) -> anyhow::Result<T> {
    outcome.with_context(|| {
        format!("the {name} listener cannot use {listen}; change `listen` or end what uses it")
    })
}

/// Runs `first`, and after a failure whatever `bind` makes anew.
async fn supervise<S, B, BF, R, RF, E>(
    supervisor: &Supervisor,
    name: &str,
    first: S,
    bind: B,
    run: R,
) -> anyhow::Result<()>
where
    S: Send + 'static,
    B: Fn() -> BF + Send + Sync + 'static,
    BF: Future<Output = std::io::Result<S>> + Send,
    R: Fn(S, StopSignal) -> RF + Send + Sync + 'static,
    RF: Future<Output = Result<(), E>> + Send,
    E: Display,
{
    let first = Mutex::new(Some(first));
    let (bind, run) = (Arc::new(bind), Arc::new(run));
    let service = move |stop: StopSignal| {
        let server = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (bind, run) = (Arc::clone(&bind), Arc::clone(&run));
        async move {
            let server = match server {
                Some(server) => server,
                None => bind().await?,
            };
            run(server, stop).await.map_err(|e| ServiceError::from(e.to_string()))
        }
    };
    Ok(supervisor.service(name, service).await?)
}
