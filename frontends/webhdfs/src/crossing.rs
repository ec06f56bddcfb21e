//! From actix's worker to the main runtime and back: at most one crossing for an answer (14 to 16 µs each).
//!
//! Every task is owned here and joined when the server drains. A task that panics loses its answer and nothing else.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument;

/// The way to the main runtime.
pub(crate) struct Crossing {
    handle: Handle,
    /// Held only to add or reap tasks, never across an await.
    tasks: Mutex<JoinSet<()>>,
}

/// The task panicked or the runtime went away.
#[derive(Debug)]
pub(crate) struct Lost;

/// An answer on its way back.
pub(crate) struct Pending<T>(oneshot::Receiver<T>);

impl<T> Future for Pending<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(cx)).map_err(|_| Lost))
    }
}

impl Crossing {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, tasks: Mutex::default() }
    }

    /// Starts `work`, and drops it when nobody waits for its answer any more.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (mut answer, pending) = oneshot::channel();
        self.spawn(async move {
            tokio::select! {
                result = work => drop(answer.send(result)),
                () = answer.closed() => {}
            }
        });
        Pending(pending)
    }

    /// Starts `work`, which runs to its end even when the client leaves: a change is told to everybody or not made.
    pub(crate) fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (answer, pending) = oneshot::channel();
        self.spawn(async move { drop(answer.send(work.await)) });
        Pending(pending)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task.in_current_span(), &self.handle);
    }

    /// Waits for every task.
    pub(crate) async fn finish(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks());
        while tasks.join_next().await.is_some() {}
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_loses_only_its_own_answer() {
        let crossing = Crossing::new(Handle::current());
        assert!(crossing.read(async { panic!("on purpose") }).await.is_err());
        assert_eq!(crossing.read(async { 1 }).await.expect("served"), 1);
    }

    #[tokio::test]
    async fn reads_end_with_their_client_and_changes_do_not() {
        let crossing = Crossing::new(Handle::current());
        let (dropped, read_gone) = oneshot::channel::<()>();
        drop(crossing.read(async move {
            std::future::pending::<()>().await;
            drop(dropped);
        }));
        assert!(read_gone.await.is_err());
        let (done, change_done) = oneshot::channel();
        drop(crossing.change(async move { done.send(7) }));
        assert_eq!(change_done.await.expect("finished"), 7);
        crossing.finish().await;
    }
}
