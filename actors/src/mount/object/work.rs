//! Work that goes on when whoever asked for it goes away: a rename or the deletion of a tree is not cut off in the
//! middle because a client hung up.

use std::sync::Mutex;

use forebay_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The tasks of one mount. They end with it.
pub(super) struct Work {
    /// Taken to start a task and to collect those that ended.
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
}

impl Work {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { tasks: Mutex::default(), runtime }
    }

    /// Starts `task`.
    pub(super) fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().expect("no panic under this lock");
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// Carries `task` out, to its end even if the caller stops waiting.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (answer, waiting) = oneshot::channel();
        self.start(async move {
            // Nobody may be waiting any more.
            answer.send(task.await).ok();
        });
        waiting.await.map_err(|e| Error::new(ErrorKind::Internal, "a task of the mount died").because(e))?
    }
}
