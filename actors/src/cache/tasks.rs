//! The tasks that belong to the cache: aborted with it, on the runtime it was opened on, whoever starts them.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Owner of the cache's tasks.
pub(super) struct Tasks {
    runtime: Handle,
    running: Mutex<JoinSet<()>>,
}

impl Tasks {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, running: Mutex::new(JoinSet::new()) }
    }

    /// Runs `task` where the model tests choose its order.
    #[cfg(all(test, feature = "shuttle"))]
    #[expect(clippy::unused_self, reason = "as the other one")]
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(shuttle::future::spawn(task));
    }

    /// Runs `task` in the caller's span.
    #[cfg(not(all(test, feature = "shuttle")))]
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        running.spawn_on(tracing::Instrument::in_current_span(task), &self.runtime);
    }

    /// Runs `work`, which may wait for the disk.
    pub(super) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        running.spawn_blocking_on(work, &self.runtime);
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}
