//! One job: what it is to do, how far it is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use forebay_core::{NsPath, SyncPage, SyncSpan, SyncTotals, calendar};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Order;

/// Failures that are named; all are counted.
const FAILURES_NAMED: usize = 100;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for its turn.
    Queued,
    /// At work.
    Running,
    /// Everything was tried.
    Done,
    /// Ended by somebody; what it did stays.
    Cancelled,
    /// Its path cannot be listed.
    Failed,
}

/// Files and bytes of a job so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Found so far.
    pub found_files: u64,
    /// Their bytes.
    pub found_bytes: u64,
    /// Whether the path was walked to its end.
    pub is_walked: bool,
    /// Files that were tried and did not fail.
    pub files: u64,
    /// Bytes that came from the stores.
    pub fetched_bytes: u64,
    /// Bytes that the cache's lowest tier held when their file was done, less `evicted_bytes`.
    pub cached_bytes: u64,
    /// Those of them that it did not hold any more when the job ended.
    #[serde(default)]
    pub evicted_bytes: u64,
    /// Files that failed.
    pub failed: u64,
}

/// How far a sync is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// What it met so far.
    #[serde(flatten)]
    pub totals: SyncTotals,
    /// Where it looks.
    pub parts: Vec<SyncPart>,
}

/// What one mount has of the path of a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPart {
    /// Everything at and below it.
    pub path: String,
    /// What of that is still to be compared.
    #[serde(flatten)]
    pub span: SyncSpan,
    /// Nothing is.
    pub is_done: bool,
}

/// A file that was not loaded, and why; of a sync, a part that cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub path: String,
    /// Why.
    pub error: String,
}

/// A job as it is shown and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its number.
    pub id: u64,
    /// What is loaded or compared: everything at and below it.
    pub path: String,
    /// Where it stands.
    pub state: JobState,
    /// How far it is.
    #[serde(flatten)]
    pub totals: Totals,
    /// The first files that failed.
    pub failures: Vec<Failure>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// Files at once.
    pub transfers: usize,
    /// Most bytes a second from the stores.
    pub bandwidth: Option<u64>,
    /// When it was ordered and when it ended, in milliseconds since 1970.
    pub ordered_ms: u64,
    /// See `ordered_ms`.
    pub ended_ms: Option<u64>,
    /// Every name up to this one was tried.
    pub cursor: Option<String>,
    /// Contents on the list of what it loaded.
    #[serde(default)]
    pub listed: u64,
    /// How far it is, if it is a sync; it is a load else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncStatus>,
}

impl JobStatus {
    pub(super) fn new(id: u64, order: &Order, transfers: usize, now: SystemTime) -> Self {
        Self {
            id,
            path: order.path.to_string(),
            state: JobState::Queued,
            totals: Totals::default(),
            failures: Vec::new(),
            error: None,
            transfers,
            bandwidth: order.bandwidth,
            ordered_ms: since_epoch_ms(now),
            ended_ms: None,
            cursor: None,
            sync: None,
            listed: 0,
        }
    }

    /// A sync that looks at `parts`, not numbered yet.
    pub(super) fn sync(path: &NsPath, parts: &[NsPath], now: SystemTime) -> Self {
        let order = Order { path: path.clone(), transfers: None, bandwidth: None };
        let part =
            |path: &NsPath| SyncPart { path: path.to_string(), span: SyncSpan::default(), is_done: false };
        let parts = parts.iter().map(part).collect();
        let sync = Some(SyncStatus { totals: SyncTotals::default(), parts });
        Self { sync, ..Self::new(0, &order, super::sync::PARTS, now) }
    }
}

fn since_epoch_ms(now: SystemTime) -> u64 {
    calendar(now).duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// A job while it is remembered.
pub(super) struct Job {
    /// Held for a look or one change.
    progress: Mutex<Progress>,
    has_ended: watch::Sender<bool>,
}

struct Progress {
    now: JobStatus,
    /// As of the last finished batch or its end: what a restart goes on from.
    kept: JobStatus,
}

impl Job {
    /// A job as it was kept.
    pub(super) fn new(status: JobStatus) -> Self {
        let has_ended = watch::Sender::new(is_ended(status.state));
        Self { progress: Mutex::new(Progress { kept: status.clone(), now: status }), has_ended }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Each change is a few assignments of which none can panic.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> JobStatus {
        self.progress().now.clone()
    }

    pub(super) fn path(&self) -> forebay_core::Result<NsPath> {
        NsPath::parse(&self.progress().now.path)
    }

    pub(super) fn is_ended(&self) -> bool {
        is_ended(self.progress().now.state)
    }

    pub(super) fn is_queued(&self) -> bool {
        self.progress().now.state == JobState::Queued
    }

    /// Goes from waiting to running; `false` when it was cancelled meanwhile.
    pub(super) fn begin(&self) -> bool {
        let mut progress = self.progress();
        let may_begin = progress.now.state == JobState::Queued;
        if may_begin {
            progress.now.state = JobState::Running;
        }
        may_begin
    }

    /// Back to what the last finished batch left, waiting for its turn.
    pub(super) fn rewind(&self) {
        let mut progress = self.progress();
        progress.now = JobStatus { state: JobState::Queued, ..progress.kept.clone() };
    }

    /// Ends it, unless it has ended.
    pub(super) fn end(&self, state: JobState, now: SystemTime) {
        let mut progress = self.progress();
        if !is_ended(progress.now.state) {
            progress.now.state = state;
            progress.now.ended_ms = Some(since_epoch_ms(now));
            progress.kept = progress.now.clone();
            self.has_ended.send_replace(true);
        }
    }

    /// As [`Job::end`], because of an error.
    pub(super) fn fail(&self, error: String, now: SystemTime) {
        self.progress().now.error = Some(error);
        self.end(JobState::Failed, now);
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) {
        // An error cannot come: this holds the sender.
        self.has_ended.subscribe().wait_for(|has_ended| *has_ended).await.map(drop).unwrap_or_default();
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.progress().now.totals);
    }

    pub(super) fn count_failure(&self, path: &NsPath, error: String) {
        let mut progress = self.progress();
        progress.now.totals.failed += 1;
        if progress.now.failures.len() < FAILURES_NAMED {
            progress.now.failures.push(Failure { path: path.to_string(), error });
        }
    }

    /// Everything up to `cursor` was tried, and so many more contents are on the list.
    pub(super) fn finish_batch(&self, cursor: Option<String>, listed: usize) {
        let mut progress = self.progress();
        progress.now.listed += listed as u64;
        progress.now.cursor = cursor.or(progress.now.cursor.take());
        progress.kept = progress.now.clone();
    }

    /// A piece of a part of a sync is done.
    pub(super) fn synced(&self, part: usize, page: &SyncPage) {
        let mut progress = self.progress();
        let Some(sync) = &mut progress.now.sync else { return };
        sync.totals.add(page.totals);
        if let Some(part) = sync.parts.get_mut(part) {
            part.span.after.clone_from(&page.after);
            part.is_done = page.is_last;
        }
        progress.kept = progress.now.clone();
    }

    /// Parts the rest of a part of a sync after the names `at`; all it is parted into, with their numbers.
    pub(super) fn split(&self, number: usize, at: &[String]) -> Vec<(usize, SyncSpan)> {
        let mut progress = self.progress();
        let Some(sync) = &mut progress.now.sync else { return Vec::new() };
        let Some(own) = sync.parts.get_mut(number) else { return Vec::new() };
        let path = own.path.clone();
        let mut until = own.span.until.take();
        own.span.until = at.first().cloned().or_else(|| until.take());
        let mut split = vec![(number, own.span.clone())];
        for after in at.iter().rev() {
            let span = SyncSpan { after: Some(after.clone()), until: until.replace(after.clone()) };
            split.push((sync.parts.len(), span.clone()));
            sync.parts.push(SyncPart { path: path.clone(), span, is_done: false });
        }
        progress.kept = progress.now.clone();
        split
    }

    /// What is to survive a restart.
    pub(super) fn kept(&self) -> JobStatus {
        self.progress().kept.clone()
    }
}

pub(super) fn is_ended(state: JobState) -> bool {
    match state {
        JobState::Queued | JobState::Running => false,
        JobState::Done | JobState::Cancelled | JobState::Failed => true,
    }
}
