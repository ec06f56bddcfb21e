//! Copies and moves of whole trees: one request, one stream of progress, done by the gateway itself.
//!
//! Invariants:
//! - The walk holds one page of names of each side, however many files there are.
//! - A store in trouble is waited for, as long as it is not away for long; a file that fails all the same costs nobody
//!   else anything: it is named in the stream and counted at the end.
//! - A source is removed (moves) only after its copy was compared with it, and only if it still is what was copied.
//! - At most `transfers` files are being read from the source, and as many written to the target: the next ones are
//!   read while the last ones are written, so that neither end waits for the other.
//! - Closing the connection ends the copy. What was copied stays; asked for again, it is recognised and skipped.
//!
//! Deliberately absent: a list of jobs that outlive their connection. Running it again is what a job would do.

mod compare;
mod event;
mod transfer;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use forebay_actors::patience::Patience;
use forebay_core::{
    Context, DeleteMode, Error, ErrorKind, ListQuery, MountInfo, Namespace, NsPath, RenameMode, Result, Want,
};
use futures::StreamExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::event::Progress;
pub(crate) use self::event::{CopyEvent, Totals};
use self::walk::Task;
use super::{AdminState, Admitted, ApiError};

/// Lines between the two runtimes.
const EVENTS_IN_FLIGHT: usize = 64;
/// Files found ahead of their copies.
const TASKS_IN_FLIGHT: usize = 1_000;
/// Time between two lines of progress; a closed connection is noticed within about two of them.
const TICK: Duration = Duration::from_millis(250);
/// Files that are on their way, for each that may be at one of the two ends.
const ENDS: usize = 2;
/// Copies at once.
const TRANSFERS: usize = 16;
const TRANSFERS_MAX: usize = 256;
/// Names on a page of the walks.
const PAGE: usize = 1_000;

type State = web::Data<AdminState>;

#[derive(serde::Deserialize)]
pub(super) struct CopiesQuery {
    from: String,
    to: String,
    transfers: Option<usize>,
    /// Read back what the target's tag does not prove.
    #[serde(default)]
    verify: bool,
    /// Compare contents, not tags, to find what is there already.
    #[serde(default)]
    checksum: bool,
    /// Remove each source after its copy.
    #[serde(default)]
    r#move: bool,
}

/// What happens to a source whose copy is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Keep,
    Remove,
}

/// A copy of everything at and below one path to another.
struct Job {
    namespace: Arc<Namespace>,
    context: Context,
    from: NsPath,
    to: NsPath,
    /// The mounts at both ends; nested ones may serve what lies below.
    source: Option<MountInfo>,
    target: MountInfo,
    transfers: usize,
    /// Places of those who read the source, and of those who write to the target.
    reads: Semaphore,
    writes: Semaphore,
    verify: bool,
    checksum: bool,
    ending: Ending,
    patience: Patience,
    progress: Progress,
}

pub(super) async fn start(
    _: Admitted,
    state: State,
    query: web::Query<CopiesQuery>,
) -> std::result::Result<HttpResponse, ApiError> {
    let job = Arc::new(Job::new(&state, &query)?);
    let looked = Arc::clone(&job);
    state.run(async move { looked.namespace.stat(&looked.context, &looked.from, Want::Any).await }).await?;
    let (sender, receiver) = mpsc::channel(EVENTS_IN_FLIGHT);
    // Owned by the channel: it ends when the receiver is dropped with the response.
    state.runtime.spawn(run(job, sender));
    let events =
        futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(events.map(|event| line(&event))))
}

fn line(event: &CopyEvent) -> std::result::Result<web::Bytes, ApiError> {
    let mut line = serde_json::to_vec(event)
        .map_err(|e| Error::new(ErrorKind::Internal, "a line of progress cannot be written").because(e))?;
    line.push(b'\n');
    Ok(line.into())
}

impl Job {
    fn new(state: &AdminState, query: &CopiesQuery) -> Result<Self> {
        let (from, to) = (NsPath::parse(&query.from)?, NsPath::parse(&query.to)?);
        if from.starts_with(&to) || to.starts_with(&from) {
            let message = format!("{from} and {to} lie in each other; a copy would never end");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let transfers = query.transfers.unwrap_or(TRANSFERS);
        if !(1..=TRANSFERS_MAX).contains(&transfers) {
            let message = format!("transfers must be between 1 and {TRANSFERS_MAX}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let Some(target) = state.namespace.mount_info(&to) else {
            return Err(Error::new(ErrorKind::NotFound, "no mount serves this path").at("copy to", &to));
        };
        let source = state.namespace.mount_info(&from);
        let ending = if query.r#move { Ending::Remove } else { Ending::Keep };
        let written = [(&target, true), (source.as_ref().unwrap_or(&target), query.r#move)];
        if let Some((mount, _)) =
            written.into_iter().find(|(mount, is_written)| *is_written && mount.read_only)
        {
            let message = format!("the mount {} is read-only", mount.name);
            return Err(Error::new(ErrorKind::ReadOnly, message));
        }
        Ok(Self {
            namespace: Arc::clone(&state.namespace),
            context: state.context.clone(),
            from,
            to,
            source,
            target,
            transfers,
            reads: Semaphore::new(transfers),
            writes: Semaphore::new(transfers),
            verify: query.verify || query.r#move,
            checksum: query.checksum || query.r#move,
            ending,
            patience: Patience::new(),
            progress: Progress::default(),
        })
    }

    fn is_within_one_mount(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.name == self.target.name)
    }
}

/// Does the job, unless nobody listens any more.
async fn run(job: Arc<Job>, events: mpsc::Sender<CopyEvent>) {
    tokio::select! {
        () = work(&job, &events) => {}
        () = events.closed() => {
            tracing::info!(from = %job.from, to = %job.to, "a copy was cancelled by its client");
        }
    }
}

async fn work(job: &Arc<Job>, events: &mpsc::Sender<CopyEvent>) {
    let began = Instant::now();
    let finished = async {
        match job.ending {
            // One call of the store, where it can.
            Ending::Remove if job.is_within_one_mount() => rename(job).await,
            Ending::Remove | Ending::Keep => copy(job, events).await,
        }
    };
    let answer = tokio::select! {
        answer = finished => answer,
        () = tick(&job.progress, events) => Ok(()),
    };
    if let Err(e) = answer {
        fail(job, events, job.from.as_str(), &e).await;
    }
    let totals = job.progress.totals();
    // The receiver is gone only when the client is.
    events.send(CopyEvent::Done { totals, seconds: began.elapsed().as_secs_f64() }).await.unwrap_or(());
}

/// Tells how far the copy is, for ever.
async fn tick(progress: &Progress, events: &mpsc::Sender<CopyEvent>) {
    loop {
        tokio::time::sleep(TICK).await;
        if events.send(CopyEvent::Progress { totals: progress.totals() }).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn fail(job: &Job, events: &mpsc::Sender<CopyEvent>, path: &str, error: &Error) {
    job.progress.count_failed();
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    events.send(CopyEvent::Failed { path: path.to_owned(), error: text }).await.unwrap_or(());
}

async fn rename(job: &Job) -> Result<()> {
    job.namespace.rename(&job.context, &job.from, &job.to, RenameMode::NoReplace).await?;
    job.progress.count_renamed();
    Ok(())
}

async fn copy(job: &Arc<Job>, events: &mpsc::Sender<CopyEvent>) -> Result<()> {
    let (tasks, queue) = mpsc::channel(TASKS_IN_FLIGHT);
    let (walked, ()) = tokio::join!(walk::walk(job, tasks), transfer_all(job, queue, events));
    walked?;
    if job.ending == Ending::Remove { prune(job).await } else { Ok(()) }
}

async fn transfer_all(job: &Arc<Job>, mut queue: mpsc::Receiver<Task>, events: &mpsc::Sender<CopyEvent>) {
    let mut running = JoinSet::new();
    while let Some(task) = queue.recv().await {
        if running.len() >= job.transfers * ENDS
            && let Some(ended) = running.join_next().await
        {
            reap(job, events, ended).await;
        }
        let (job, events) = (Arc::clone(job), events.clone());
        running.spawn(async move {
            if let Err(e) = transfer::transfer(&job, &task).await {
                fail(&job, &events, task.from.as_str(), &e).await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        reap(job, events, ended).await;
    }
}

async fn reap(
    job: &Job,
    events: &mpsc::Sender<CopyEvent>,
    ended: std::result::Result<(), tokio::task::JoinError>,
) {
    if let Err(e) = ended {
        let error = Error::new(ErrorKind::Internal, "a copy failed inside").because(e);
        fail(job, events, job.from.as_str(), &error).await;
    }
}

/// Removes the directories that a move left empty, from the deepest up.
async fn prune(job: &Job) -> Result<()> {
    let query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: PAGE };
    loop {
        let page = job.namespace.list(&job.context, &job.from, &query).await?;
        let mut is_changed = false;
        for item in page.items.iter().rev().filter(|item| item.entry.is_directory()) {
            let path = job.from.join(item.name.trim_end_matches('/'))?;
            is_changed |= remove_empty(job, &path).await?;
        }
        if !is_changed {
            return remove_empty(job, &job.from).await.map(drop);
        }
    }
}

async fn remove_empty(job: &Job, path: &NsPath) -> Result<bool> {
    match job.namespace.delete(&job.context, path, DeleteMode::EmptyDirectory).await {
        // Somebody wrote into it, a file of it failed, or a mount point is not for us to remove.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::NotEmpty | ErrorKind::NotFound | ErrorKind::NotDirectory | ErrorKind::ReadOnly
            ) =>
        {
            Ok(false)
        }
        answer => answer,
    }
}
