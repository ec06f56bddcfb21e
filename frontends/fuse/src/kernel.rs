//! Telling the kernel to forget what it caches.
//!
//! A notification may wait for a lock that a request in progress holds, so it runs on a blocking thread and never in
//! a request handler. At most [`IN_FLIGHT_MAX`] wait at once: a stuck request cannot use up the runtime's threads.

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use tokio::sync::Semaphore;

/// Most notifications that wait for the kernel at once.
const IN_FLIGHT_MAX: usize = 8;

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
    notifier: OnceLock<Notifier>,
    in_flight: Arc<Semaphore>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self { notifier: OnceLock::new(), in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Connects it to a mounted session; before that the kernel caches nothing.
    pub(crate) fn connect(&self, notifier: Notifier) {
        if self.notifier.set(notifier).is_err() {
            tracing::error!("a FUSE session was connected twice");
        }
    }

    /// Makes the kernel look up `name` in the directory `parent` again. Returns when it will.
    pub(crate) async fn forget_entry(&self, parent: u64, name: &str) {
        let name = OsString::from(name);
        self.notify(move |notifier| notifier.inval_entry(INodeNo(parent), &name)).await;
    }

    /// Makes the kernel ask for an inode again. Returns when it will.
    pub(crate) async fn forget_inode(&self, number: u64, what: Forget) {
        let offset = match what {
            Forget::Attributes => -1,
            Forget::Content => 0,
        };
        self.notify(move |notifier| notifier.inval_inode(INodeNo(number), offset, 0)).await;
    }

    async fn notify(&self, notification: impl FnOnce(&Notifier) -> io::Result<()> + Send + 'static) {
        let Some(notifier) = self.notifier.get().cloned() else { return };
        let permit = Arc::clone(&self.in_flight).acquire_owned().await.expect("never closed");
        let told = tokio::task::spawn_blocking(move || {
            let taken = notification(&notifier);
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
