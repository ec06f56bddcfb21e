//! Telling the kernel to forget what it caches.
//!
//! A notification may wait for a lock that a request in progress holds, so it runs on a blocking thread and never in
//! a request handler. At most [`IN_FLIGHT_MAX`] wait at once: a stuck request cannot use up the runtime's threads.
//!
//! To forget a name the kernel takes the lock of its directory, which every request in that directory holds until it is
//! answered. Nothing ends that wait, not even SIGKILL, which would then keep the connection open that the request waits
//! for. While such requests are under way all names of the mount are forgotten instead (Linux 6.16), which takes no
//! lock and costs a look-up of each.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use tokio::sync::Semaphore;

/// Most notifications that wait for the kernel at once.
const IN_FLIGHT_MAX: usize = 8;

/// Counters of directories with requests under way; two that share one merely cost look-ups.
const DIRECTORY_COUNTERS: usize = 1024;
/// `FUSE_NOTIFY_INC_EPOCH`, which fuser does not know.
const FORGET_ALL_NAMES: i32 = 8;

/// What of an inode is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forget {
    /// Its attributes.
    Attributes,
    /// Its attributes and cached pages.
    Content,
}

/// The way to the kernel's caches of one session.
pub(crate) struct Kernel {
    connection: OnceLock<Connection>,
    in_flight: Arc<Semaphore>,
    under_way: UnderWay,
}

#[derive(Clone)]
struct Connection {
    notifier: Notifier,
    device: Arc<OwnedFd>,
}

/// How many requests are under way for which the kernel locked a directory.
#[derive(Clone)]
struct UnderWay(Arc<[AtomicU32]>);

/// Directories that the kernel locked for one request.
pub(crate) struct Locked {
    under_way: UnderWay,
    directories: Vec<u64>,
}

impl UnderWay {
    fn of(&self, directory: u64) -> &AtomicU32 {
        &self.0[directory as usize % DIRECTORY_COUNTERS]
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        for directory in &self.directories {
            self.under_way.of(*directory).fetch_sub(1, Ordering::Release);
        }
    }
}

impl Connection {
    /// Makes the kernel look up every name again; `false` where it cannot. Waits for nothing.
    fn forget_all_names(&self) -> bool {
        // A `fuse_out_header`: length, code and no request.
        let mut message = [0; 16];
        message[..4].copy_from_slice(&16_u32.to_ne_bytes());
        message[4..8].copy_from_slice(&FORGET_ALL_NAMES.to_ne_bytes());
        rustix::io::write(&self.device, &message).is_ok()
    }
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let counters = (0..DIRECTORY_COUNTERS).map(|_| AtomicU32::new(0)).collect();
        Self {
            connection: OnceLock::new(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            under_way: UnderWay(counters),
        }
    }

    /// Connects it to a mounted session; before that the kernel caches nothing. `device` is the session's.
    pub(crate) fn connect(&self, notifier: Notifier, device: OwnedFd) {
        if self.connection.set(Connection { notifier, device: Arc::new(device) }).is_err() {
            tracing::error!("a FUSE session was connected twice");
        }
    }

    /// Says that the kernel locked these directories for a request, until what this returns is dropped.
    pub(crate) fn lock(&self, directories: &[u64]) -> Locked {
        for directory in directories {
            self.under_way.of(*directory).fetch_add(1, Ordering::Acquire);
        }
        Locked { under_way: self.under_way.clone(), directories: directories.to_vec() }
    }

    /// Whether the kernel can be told to forget all names; it does.
    #[cfg(test)]
    pub(crate) fn forgets_all_names(&self) -> bool {
        self.connection.get().is_some_and(Connection::forget_all_names)
    }

    /// Makes the kernel look up `name` in the directory `parent` again. Returns when it will.
    pub(crate) async fn forget_entry(&self, parent: u64, name: &str) {
        let name = OsString::from(name);
        let under_way = self.under_way.clone();
        self.notify(move |connection| {
            let is_locked = under_way.of(parent).load(Ordering::Acquire) > 0;
            if is_locked && connection.forget_all_names() {
                return Ok(());
            }
            connection.notifier.inval_entry(INodeNo(parent), &name)
        })
        .await;
    }

    /// Makes the kernel ask for an inode again. Returns when it will.
    pub(crate) async fn forget_inode(&self, number: u64, what: Forget) {
        let offset = match what {
            Forget::Attributes => -1,
            Forget::Content => 0,
        };
        self.notify(move |connection| connection.notifier.inval_inode(INodeNo(number), offset, 0)).await;
    }

    async fn notify(&self, notification: impl FnOnce(&Connection) -> io::Result<()> + Send + 'static) {
        let Some(connection) = self.connection.get().cloned() else { return };
        let permit = Arc::clone(&self.in_flight).acquire_owned().await.expect("never closed");
        let told = tokio::task::spawn_blocking(move || {
            let taken = notification(&connection);
            drop(permit);
            taken
        });
        match told.await {
            Ok(Ok(())) => {}
            // After an unmount there is no cache left to be wrong.
            Ok(Err(e)) => tracing::debug!(error = %e, "the kernel took no invalidation"),
            Err(e) => tracing::error!(error = %e, "an invalidation died"),
        }
    }
}
