//! What one mounted session consists of, and how a request is carried out.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use forebay_core::{Clock, Context, MountInfo, Namespace, NsPath};
use fuser::Errno;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::attr::Owner;
use crate::counters::{Counters, Operation, Outcome};
use crate::error::Failure;
use crate::handle::{DirectoryHandle, FileHandle, Slab};
use crate::held::Room;
use crate::inode::{Inode, InodeTable};
use crate::kernel::Kernel;
use crate::ops::open::{Passthrough, Repeats};

/// Most requests that wait for a store at once; the kernel itself allows one for each waiting system call.
const TASKS_MAX: u32 = 4096;

/// What the configuration decides for each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long the kernel may trust names and attributes.
    pub(crate) attr_ttl: Duration,
    /// Owner shown for everything.
    pub(crate) owner: Owner,
}

/// One session.
pub(crate) struct Server {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) context: Context,
    pub(crate) settings: Settings,
    pub(crate) table: InodeTable,
    pub(crate) files: Slab<FileHandle>,
    pub(crate) directories: Slab<DirectoryHandle>,
    pub(crate) passthrough: Passthrough,
    pub(crate) repeats: Repeats,
    pub(crate) room: Room,
    pub(crate) kernel: Kernel,
    pub(crate) counters: Counters,
    pub(crate) clock: Clock,
    runtime: Handle,
    tasks: Arc<Semaphore>,
    next_request: AtomicU64,
}

impl Server {
    pub(crate) fn new(
        (namespace, context): (Arc<Namespace>, Context),
        settings: Settings,
        passthrough: Passthrough,
        counters: Counters,
        runtime: Handle,
    ) -> Self {
        Self {
            namespace,
            context,
            settings,
            table: InodeTable::new(counters.inodes.clone()),
            files: Slab::new(),
            directories: Slab::new(),
            passthrough,
            repeats: Repeats::new(),
            room: Room::new(),
            kernel: Kernel::new(),
            counters,
            clock: Clock::system(),
            runtime,
            tasks: Arc::new(Semaphore::new(TASKS_MAX as usize)),
            next_request: AtomicU64::new(1),
        }
    }

    /// Carries out one request: polled once here, so that what is at hand is answered on this thread, and moved
    /// into a task if it has to wait. A panic costs this request only: its dropped reply answers EIO.
    pub(crate) fn serve<T: Send + 'static>(
        self: &Arc<Self>,
        operation: Operation,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let begun = Instant::now();
        let server = Arc::clone(self);
        let mut request = Box::pin(async move {
            let result = work.await;
            answer(server.outcome(operation, begun, result));
        });
        let _runtime = self.runtime.enter();
        let mut here = TaskContext::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut here))) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => self.wait(operation, request),
            Err(_) => tracing::error!(operation = operation.label(), "a FUSE request panicked"),
        }
    }

    /// [`Self::serve`] for a request that the kernel locked directories for until it is answered.
    pub(crate) fn serve_in<T: Send + 'static>(
        self: &Arc<Self>,
        directories: &[u64],
        operation: Operation,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let locked = self.kernel.lock(directories);
        self.serve(operation, work, move |result| {
            answer(result);
            drop(locked);
        });
    }

    /// Lets a request wait in a task. The tasks' permits tell when all are done.
    fn wait(&self, operation: Operation, request: impl Future<Output = ()> + Send + 'static) {
        let Ok(permit) = Arc::clone(&self.tasks).try_acquire_owned() else {
            tracing::warn!(operation = operation.label(), "too many FUSE requests wait: one fails with EIO");
            return;
        };
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("request", id, frontend = "fuse", operation = operation.label());
        let task = async move {
            request.await;
            drop(permit);
        };
        self.runtime.spawn(task.instrument(span));
    }

    /// Waits until no request waits for a store any more.
    pub(crate) async fn idle(&self) {
        // An error would mean that the semaphore was closed, and nothing closes it.
        drop(self.tasks.acquire_many(TASKS_MAX).await);
    }

    fn outcome<T>(
        &self,
        operation: Operation,
        begun: Instant,
        result: Result<T, Failure>,
    ) -> Result<T, Errno> {
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(failure) if failure.is_fault() => {
                let cause = failure as &dyn std::error::Error;
                tracing::warn!(
                    operation = operation.label(),
                    error = cause,
                    source = cause.source(),
                    "a FUSE request failed"
                );
                Outcome::ServerError
            }
            Err(failure) => {
                tracing::debug!(operation = operation.label(), error = %failure, "a FUSE request was refused");
                Outcome::ClientError
            }
        };
        self.counters.answered(operation, outcome, begun.elapsed());
        result.map_err(|failure| failure.errno())
    }

    /// The inode of a number the kernel uses.
    pub(crate) fn inode(&self, number: u64) -> Result<Arc<Inode>, Failure> {
        self.table.by_number(number).ok_or_else(Failure::stale)
    }

    /// The path of an inode that is still in the tree.
    pub(crate) fn path(&self, number: u64) -> Result<NsPath, Failure> {
        self.inode(number)?.path().ok_or_else(Failure::stale)
    }

    /// Whether files at `path` are changed in place: their store has real files, and one file takes all writes.
    pub(crate) fn is_in_place(&self, path: &NsPath) -> bool {
        self.mount(path).is_some_and(|mount| mount.capability.hierarchical && mount.capability.posix)
    }

    /// The mount that serves `path`.
    pub(crate) fn mount(&self, path: &NsPath) -> Option<MountInfo> {
        self.namespace.mount_info(path)
    }
}

/// Runs what may wait for a disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Failure::Refused(Errno::EIO, "a disk operation died")))
}
