//! The disk tier as the rest of the cache sees it: the cache directories, and which of them a content belongs to.
//!
//! Invariants:
//! - A content lies in one directory, its home, for as long as the configuration stays, see `placement.rs`. One that is
//!   down keeps its contents' place: they are served from the store until it is back.
//! - Directories share nothing but the memory budget: each has its own cap, files, policy, log, evictor and health.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_core::{Error, ErrorKind, METRICS, Result};

use super::evictor::NvmeEvictor;
use super::memory::MemoryTier;
use super::nvme::{CreateFile, IndexLogger, NvmeTier, Taking};
use super::page::{ContentKey, PageKey};
use super::placement::Placement;
use super::tasks::Tasks;
use crate::config::{CacheConfig, CacheDirectory, NvmeConfig};
use crate::supervisor::Supervisor;

/// How long a start waits for its cache disks.
const PATIENCE: Duration = Duration::from_secs(3);

/// All cache directories; none when the disk tier is off.
pub(super) struct Disks {
    directories: Box<[Arc<NvmeTier>]>,
    placement: Arc<Placement>,
}

/// One of the directories.
#[derive(Clone, Copy)]
pub(super) struct Home(usize);

impl Disks {
    /// Opens all directories. One that cannot be opened is down until it can, as long as there are others, and one whose
    /// disk does not answer even without. Waits for the disks, not longer than [`PATIENCE`].
    ///
    /// # Errors
    /// `Busy` when another gateway owns one of them; the first directory's error when none can be opened.
    pub(super) fn open(
        config: &CacheConfig,
        memory: &Arc<MemoryTier>,
        tasks: &Arc<Tasks>,
        create: CreateFile,
    ) -> Result<Self> {
        let Some(nvme) = &config.nvme else { return Ok(Self::none()) };
        let placement = Arc::new(Placement::new(&nvme.directories));
        show_tier(nvme);
        let begin = |place: &CacheDirectory| Taking::begin(&place.path, tasks.runtime());
        let takings: Vec<_> = nvme.directories.iter().map(begin).collect();
        let deadline = Instant::now() + PATIENCE;
        let mut failed = Vec::new();
        let open = |(number, taking): (usize, Taking)| {
            let (place, (directory, taken)) = ((Arc::clone(&placement), number), taking.wait(deadline));
            let taken = taken.map_err(|error| failed.push(error)).ok();
            NvmeTier::open(config, place, (directory, taken), (Arc::clone(memory), tasks), create)
        };
        let directories: Vec<_> = takings.into_iter().enumerate().map(open).collect();
        let is_hung = |error: &Error| error.kind() == ErrorKind::Timeout;
        let is_useless = failed.len() == directories.len() && !failed.iter().any(is_hung);
        let is_fatal = |error: &Error| is_useless || error.kind() == ErrorKind::Busy;
        if let Some(fatal) = failed.iter().position(is_fatal) {
            return Err(failed.swap_remove(fatal));
        }
        for error in failed {
            tracing::warn!(%error, "a cache directory is down: what belongs there comes from the store until it is back");
        }
        Ok(Self { directories: directories.into(), placement })
    }

    fn none() -> Self {
        Self { directories: Box::default(), placement: Arc::new(Placement::new(&[])) }
    }

    /// Whether there is no disk tier.
    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Where a content belongs: worth remembering, because it is drawn for.
    pub(super) fn home_of(&self, content: ContentKey) -> Home {
        Home(self.placement.home(content))
    }

    /// The directory; `None` when there is no disk tier.
    pub(super) fn at(&self, home: Home) -> Option<&Arc<NvmeTier>> {
        self.directories.get(home.0)
    }

    /// The directory that a content belongs to; `None` when there is no disk tier.
    pub(super) fn of(&self, content: ContentKey) -> Option<&Arc<NvmeTier>> {
        self.at(self.home_of(content))
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.of(key.content).is_some_and(|directory| directory.contains(key))
    }

    pub(super) fn forget(&self, content: ContentKey) {
        if let Some(directory) = self.of(content) {
            directory.forget(content);
        }
    }

    /// Waits until what an earlier run left is back, where the disk answers.
    pub(super) async fn restored(&self) {
        for directory in &self.directories {
            directory.restored().await;
        }
    }

    /// Starts an evictor and a logger for each directory; they carry its path where there are several.
    ///
    /// # Errors
    /// As [`Supervisor::child`].
    pub(super) async fn start_actors(&self, supervisor: &Supervisor) -> Result<()> {
        for directory in &self.directories {
            let named = |actor: &str| match self.directories.len() {
                1 => actor.to_owned(),
                _ => format!("{actor}:{}", directory.root().display()),
            };
            let (evicted, logged) = (Arc::clone(directory), Arc::clone(directory));
            supervisor.child(&named("NvmeEvictor"), move || (NvmeEvictor, Arc::clone(&evicted))).await?;
            supervisor.child(&named("IndexLogger"), move || (IndexLogger, Arc::clone(&logged))).await?;
        }
        Ok(())
    }

    /// The directories, for tests of what lies in them.
    #[cfg(test)]
    pub(super) fn directories(&self) -> &[Arc<NvmeTier>] {
        &self.directories
    }
}

/// Brings the series of the whole tier to their start.
fn show_tier(nvme: &NvmeConfig) {
    METRICS.cache_capacity_bytes.with_label_values(&["nvme"]).set(nvme.size_bytes() as i64);
    METRICS.cache_lent_files.with_label_values(&["nvme"]).set(0);
    METRICS.cache_lent_bytes.with_label_values(&["nvme"]);
    METRICS.cache_restore_seconds.with_label_values(&["nvme"]);
}
