//! A mounted session: from the mountpoint to its orderly end.

mod mountpoint;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_core::{Access, Context, Namespace, Origin};
use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::mountpoint::Mounted;
use crate::attr::Owner;
use crate::counters::Counters;
use crate::filesystem::Frontend;
use crate::observer::Observer;
use crate::ops::open::Passthrough;
use crate::server::{Server, Settings};

/// Longest wait for the event threads once the kernel has let go; less where the whole unmount has less.
const JOIN_DEADLINE: Duration = Duration::from_secs(2);

/// How to mount the namespace.
#[derive(Clone, Debug)]
pub struct FuseConfig {
    /// Where; made if it does not exist.
    pub mountpoint: PathBuf,
    /// Whether other users than the one who runs the gateway may use it; mode bits are enforced then.
    pub allow_other: bool,
    /// Owner shown for everything; `None` shows what the store has.
    pub uid: Option<u32>,
    /// Group shown for everything; `None` shows what the store has.
    pub gid: Option<u32>,
    /// How long the kernel may trust names and attributes: how late a change made behind the gateway's back shows.
    pub attr_ttl: Duration,
    /// Whether the kernel may read and write local files by itself (root only).
    pub passthrough: bool,
    /// Threads that take requests from the kernel. More than two help nothing but direct I/O.
    pub threads: usize,
    /// Most readahead and asynchronous requests in flight.
    pub max_background: u16,
}

impl Default for FuseConfig {
    fn default() -> Self {
        Self {
            mountpoint: PathBuf::from("mnt"),
            allow_other: false,
            uid: None,
            gid: None,
            attr_ttl: Duration::from_secs(1),
            passthrough: true,
            threads: 2,
            max_background: 64,
        }
    }
}

type Ended = Option<Result<(), Arc<io::Error>>>;

/// A mounted namespace. Dropping it without [`FuseSession::unmount`] leaves the mount to the end of the process.
pub struct FuseSession {
    pub(crate) server: Arc<Server>,
    mounted: Mounted,
    thread: JoinHandle<()>,
    ended: watch::Receiver<Ended>,
}

impl FuseSession {
    /// Mounts the namespace on behalf of the FUSE owner of `access`. A dead mount at the mountpoint is cleared first.
    ///
    /// # Errors
    /// Says in its text what to do: no `/dev/fuse`, no right to mount, a mountpoint in use, no FUSE owner.
    pub fn mount(
        config: &FuseConfig,
        namespace: Arc<Namespace>,
        access: &Access,
        runtime: Handle,
    ) -> io::Result<Self> {
        static NEXT_ORIGIN: AtomicU64 = AtomicU64::new(1);
        let Some(principal) = access.fuse() else {
            let message = "the access section names no FUSE owner: give one principal `fuse: true`";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let origin = Some(Origin(NEXT_ORIGIN.fetch_add(1, Ordering::Relaxed)));
        let context = Context { principal, origin };
        let mountpoint = mountpoint::prepare(&config.mountpoint)?;
        let counters = Counters::new(&mountpoint.display().to_string());
        let settings =
            Settings { attr_ttl: config.attr_ttl, owner: Owner { uid: config.uid, gid: config.gid } };
        let parts = (namespace, context);
        let server = Arc::new(Server::new(parts, settings, Passthrough::new(), counters, runtime));
        let frontend = Frontend {
            server: Arc::clone(&server),
            wants_passthrough: config.passthrough,
            max_background: config.max_background,
        };
        let (session, mounted) =
            mountpoint::mount(mountpoint, frontend, config.allow_other, &event_threads(config))?;
        server.kernel.connect(session.notifier(), session.as_fd().try_clone_to_owned()?);
        let observer = Observer(Arc::downgrade(&server));
        server.namespace.observe(&format!("fuse {}", mounted.path().display()), Arc::new(observer));
        let (tell, ended) = watch::channel(None);
        let thread = std::thread::Builder::new().name("fuse".into()).spawn(move || run(session, &tell))?;
        mounted.raise_readahead();
        tracing::info!(mountpoint = %mounted.path().display(), "FUSE is mounted");
        Ok(Self { server, mounted, thread, ended })
    }

    /// Resolves when the session ends by itself: somebody unmounted it, or it failed.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn ended(&self) -> io::Result<()> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(e))) => Err(io::Error::new(e.kind(), Arc::clone(e))),
            Ok(Some(Ok(())) | None) => Ok(()),
            Err(_) => Err(io::Error::other("the FUSE thread died")),
        }
    }

    /// Publishes what is being written, unmounts, and waits for the end of the session. A mount that is still in use
    /// at the deadline is detached: it vanishes from the tree, and open files fail from then on.
    ///
    /// # Errors
    /// The unmount's.
    pub async fn unmount(self, deadline: Duration) -> io::Result<()> {
        let join = JOIN_DEADLINE.min(deadline / 4);
        let deadline = Instant::now() + deadline;
        if timeout_at(deadline, self.server.publish_all()).await.is_err() {
            tracing::error!("what was written could not be published before the deadline");
        }
        self.mounted.unmount(deadline).await?;
        // Requests that were taken before are still answered.
        if timeout_at(deadline.max(Instant::now() + join), self.server.idle()).await.is_err() {
            tracing::warn!("FUSE requests still waited for a store at the deadline");
        }
        let mut ended = self.ended.clone();
        let wait = ended.wait_for(Option::is_some);
        if tokio::time::timeout(join, wait).await.is_err() {
            self.mounted.abort();
        }
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(join, joined).await.is_err() {
            tracing::warn!("the FUSE thread did not end");
        }
        Ok(())
    }
}

fn event_threads(config: &FuseConfig) -> Config {
    let mut fuser = Config::default();
    fuser.acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
    fuser.n_threads = Some(config.threads.max(1));
    // Opening the device again fails in some unprivileged containers; then the threads share one descriptor.
    fuser.clone_fd = config.threads > 1 && mountpoint::open_device().is_ok();
    fuser
}

fn run(session: Session<Frontend>, tell: &watch::Sender<Ended>) {
    let result = session.run();
    if let Err(e) = &result {
        tracing::error!(error = %e, "the FUSE session failed");
    }
    tell.send_replace(Some(result.map_err(Arc::new)));
}
