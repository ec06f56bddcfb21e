//! All mounts of a gateway, and how they change at run time: the wanted ones are compared with the present ones, and
//! each mount is kept, changed in place, replaced, added or removed.
//!
//! Invariants:
//! - A change that cannot be made as a whole is not begun: everything new is opened first, and only then is anything
//!   that serves touched. (One exception, see [`Mounts::apply`]: a local directory that moves to another path.)
//! - A mount that is not changed keeps everything: handle, cache, breaker, open files, actor.
//! - A removed mount that holds what its store does not have drains: it stays in the table, finishes what was begun and
//!   takes nothing new, until nothing is left or it is forced. A replaced one leaves the table at once, and drains
//!   until its writes in progress are done; its multipart uploads stay staged, in case the store comes back.
//! - Open files keep what they need of a mount that is gone. Its actor ends at once, its series in the metrics with the
//!   last open file. A mount that comes back meanwhile goes on where it was.
//! - One change at a time. A change that is cut off anywhere leaves what the next one can start from.

mod pending;
mod plan;
mod reaper;
mod scheduled;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_core::{
    Dirty, Error, ErrorKind, METRICS, Mount, MountInfo, MountState, MountTable, Namespace, NsPath, Result,
};
use futures::future::{join_all, try_join_all};
use tokio::task::JoinSet;

use self::plan::Plan;
pub use self::reaper::start_reaper;
pub use self::scheduled::{Scheduled, Wanted};
use crate::cache::Rule;
use crate::config::MountConfig;
use crate::mount::{self, Change, Environment, Mounted, Remains};

/// How long the actor of a removed mount may take to end. It holds nothing, and may be waiting for a dead store.
const ACTOR_DEADLINE: Duration = Duration::from_secs(1);
/// How the first probes of mounts that start together are spread, for each of them.
const PROBE_SPREAD: Duration = Duration::from_millis(1);
/// How often a directory that another mount just let go of is tried, and how long apart.
const LATE_ATTEMPTS: usize = 20;
const LATE_PAUSE: Duration = Duration::from_millis(50);

/// The mounts of one gateway.
pub struct Mounts {
    environment: Environment,
    namespace: Arc<Namespace>,
    /// Held for the whole of a change, by one at a time.
    changing: tokio::sync::Mutex<()>,
    /// Held for a look or for one step of a change, never across an await.
    state: Mutex<State>,
    /// Ends of actors and single probes; nobody waits for them, and they end with this.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    present: BTreeMap<NsPath, Present>,
    leaving: Vec<Leaving>,
    remains: Vec<Remains>,
}

/// A mount in the table.
struct Present {
    mounted: Mounted,
    /// What keeps it, once it is removed from the configuration.
    draining: Option<Dirty>,
}

/// A mount that was replaced while writes were in progress.
struct Leaving {
    path: NsPath,
    mounted: Mounted,
    dirty: Dirty,
}

/// A mount, where it stands and why, in plain words.
#[derive(Clone, Debug)]
pub struct MountStatus {
    /// Where it is, or was.
    pub path: NsPath,
    /// What it is.
    pub info: MountInfo,
    /// Where it stands.
    pub state: MountState,
    /// Why; `None` when it is ready.
    pub reason: Option<String>,
    /// What it holds that its store does not have, while it drains.
    pub dirty: Option<Dirty>,
}

/// What a change came to.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Mounts that are new.
    pub added: Vec<NsPath>,
    /// Mounts that stay what they are, with other options.
    pub changed: Vec<NsPath>,
    /// Paths where another store is now.
    pub replaced: Vec<NsPath>,
    /// Mounts that are gone.
    pub removed: Vec<NsPath>,
    /// Mounts that are removed and still hold something.
    pub draining: Vec<(NsPath, Dirty)>,
    /// How many were left alone.
    pub unchanged: usize,
    /// Directories that moved here and could not be opened again.
    pub failed: Vec<Refusal>,
}

/// A mount that cannot be opened as it is written.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which.
    pub path: NsPath,
    /// Why.
    pub error: Arc<Error>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mount {} cannot be opened: {}", self.path, self.error)?;
        match std::error::Error::source(&*self.error) {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Mounts {
    /// No mounts yet; what is applied is published to `namespace`.
    pub fn new(environment: Environment, namespace: Arc<Namespace>) -> Self {
        Self {
            environment,
            namespace,
            changing: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// All mounts and where they stand, in order of their paths; those that only finish what was begun come last.
    pub fn statuses(&self) -> Vec<MountStatus> {
        let state = self.state();
        let present = state.present.iter().map(|(path, present)| {
            let why = "it is removed from the configuration and waits for";
            status(path, &present.mounted, present.draining.as_ref().map(|dirty| (why, dirty)))
        });
        let leaving = state.leaving.iter().map(|leaving| {
            let why = "another store took its place; it waits for";
            status(&leaving.path, &leaving.mounted, Some((why, &leaving.dirty)))
        });
        present.chain(leaving).collect()
    }

    /// What the mount at `path` holds that its store does not have; `None` when nothing is mounted there.
    ///
    /// # Errors
    /// As [`Mount::dirty`].
    pub async fn dirty(&self, path: &NsPath) -> Result<Option<Dirty>> {
        let handle = self.state().present.get(path).map(|present| Arc::clone(present.mounted.handle()));
        match handle {
            Some(handle) => handle.dirty().await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes the mounts those of `wanted`. Of what is removed, only `forced` paths go although something would be lost:
    /// their multipart uploads are aborted.
    ///
    /// A local directory that moves from one path to another has one owner at a time, so it is opened after the old
    /// mount let go of it; if that fails it shows in [`Applied::failed`], and applying again tries again.
    ///
    /// # Errors
    /// Every mount that cannot be opened; nothing is changed then.
    pub async fn apply(
        &self,
        wanted: &[MountConfig],
        forced: &[NsPath],
    ) -> std::result::Result<Applied, Vec<Refusal>> {
        let _alone = self.changing.lock().await;
        let mut plan = self.plan(wanted)?;
        let opened = self.open(&plan).await?;
        let dirty = self.look_at(&plan.removed, forced).await;
        let late = std::mem::take(&mut plan.late);
        let mut applied = self.commit(plan, opened, &dirty).await;
        if !late.is_empty() {
            self.open_late(&late, &mut applied).await;
        }
        if let Some(metadata) = &self.environment.metadata {
            metadata.prune();
        }
        Ok(applied)
    }

    /// Whether something drains, or lives on because files of it are open: then [`Mounts::settle`] has work.
    pub fn is_settling(&self) -> bool {
        let state = self.state();
        let drains = |present: &Present| present.draining.is_some();
        !state.leaving.is_empty() || !state.remains.is_empty() || state.present.values().any(drains)
    }

    /// Lets go of mounts that have drained, and of what is left of those whose last file was closed.
    pub async fn settle(&self) {
        let _alone = self.changing.lock().await;
        let (draining, leaving) = {
            let state = self.state();
            let handle = |mounted: &Mounted| Arc::clone(mounted.handle());
            let draining: Vec<_> = state
                .present
                .iter()
                .filter(|(_, present)| present.draining.is_some())
                .map(|(path, present)| (path.clone(), handle(&present.mounted)))
                .collect();
            let leaving: Vec<_> = state.leaving.iter().map(|leaving| handle(&leaving.mounted)).collect();
            (draining, leaving)
        };
        let drained = join_all(draining.iter().map(|(_, handle)| dirty_of(handle))).await;
        let left = join_all(leaving.iter().map(dirty_of)).await;
        // Nothing here may count as if it were an open file.
        drop(leaving);
        let done = {
            let mut state = self.state();
            state.note_leaving(left);
            let paths = draining.into_iter().map(|(path, _)| path).zip(drained);
            state.note_draining(paths.collect())
        };
        let plan = Plan { removed: done, ..Plan::default() };
        if !plan.removed.is_empty() {
            self.commit(plan, Vec::new(), &BTreeMap::new()).await;
        }
        self.state().bury();
    }

    fn plan(&self, wanted: &[MountConfig]) -> std::result::Result<Plan, Vec<Refusal>> {
        plan::plan(&self.state().present, wanted, &self.environment)
    }

    /// Opens what is new. On failure everything opened is closed again.
    async fn open(&self, plan: &Plan) -> std::result::Result<Vec<Mounted>, Vec<Refusal>> {
        for path in &plan.replaced {
            if let Some(present) = self.state().present.get(path) {
                present.mounted.vitals().withdraw();
            }
        }
        let outcomes = join_all(plan.opens.iter().map(|config| self.open_or_recall(config))).await;
        let (mut opened, mut refused) = (Vec::new(), Vec::new());
        for (config, outcome) in plan.opens.iter().zip(outcomes) {
            match outcome {
                Ok(mounted) => opened.push(mounted),
                Err(e) => refused.push(Refusal { path: config.path.clone(), error: Arc::new(e) }),
            }
        }
        if refused.is_empty() {
            return Ok(opened);
        }
        drop(opened);
        let state = self.state();
        let is_present = |config: &&MountConfig| state.present.contains_key(&config.path);
        let names: HashSet<&str> = plan
            .opens
            .iter()
            .filter(|config| !is_present(config))
            .map(|config| config.path.as_str())
            .collect();
        METRICS.forget_mounts(&names);
        for path in &plan.replaced {
            state.present.get(path).iter().for_each(|present| present.mounted.vitals().appear());
        }
        Err(refused)
    }

    /// Opens a mount, or takes up what is left of the one that was there: its open files hold what a new one needs.
    async fn open_or_recall(&self, config: &MountConfig) -> Result<Mounted> {
        let recalled = {
            let state = self.state();
            let named = |remains: &&Remains| remains.name() == config.path.as_str();
            state.remains.iter().rev().filter(named).find_map(Remains::recall)
        };
        if let Some(mounted) = recalled
            && let Some(change) = mounted.prepare(config, &self.environment)?
        {
            return Ok(mounted.change(change));
        }
        mount::open(config, &self.environment).await
    }

    /// What removed mounts hold. Those that are forced hold nothing any more when this returns.
    async fn look_at(&self, removed: &[NsPath], forced: &[NsPath]) -> BTreeMap<NsPath, Dirty> {
        let handles: Vec<_> = {
            let state = self.state();
            let handle = |path: &NsPath| Some(Arc::clone(state.present.get(path)?.mounted.handle()));
            removed.iter().filter_map(|path| Some((path.clone(), handle(path)?))).collect()
        };
        let looks = handles.into_iter().map(|(path, handle)| async move {
            let dirty = dirty_of(&handle).await;
            if forced.contains(&path) {
                abandon(&*handle).await;
                return None;
            }
            Some((path, dirty)).filter(|(_, dirty)| !dirty.is_clean())
        });
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// Carries a plan out. `dirty` says which of the removed ones must drain.
    async fn commit(&self, plan: Plan, opened: Vec<Mounted>, dirty: &BTreeMap<NsPath, Dirty>) -> Applied {
        let (applied, (table, rules), actors) = {
            let mut state = self.state();
            let mut applied = Applied { unchanged: plan.unchanged, ..Applied::default() };
            let changed = state.change(plan.changes, &mut applied);
            let mut gone = state.remove(&plan.removed, dirty, &mut applied);
            let new: Vec<NsPath> = opened.iter().map(|mounted| mounted.config().path.clone()).collect();
            gone.extend(state.add(opened, &mut applied));
            (applied, (state.table(), state.rules()), Actors { changed, gone, new })
        };
        self.environment.rules.set_mounts(rules);
        self.namespace.publish_table(table, &applied.replaced).await;
        self.attend(actors).await;
        applied
    }

    /// Opens directories that other mounts have let go of.
    async fn open_late(&self, late: &[MountConfig], applied: &mut Applied) {
        for config in late {
            let path = config.path.clone();
            let refuse = |error| Refusal { path: path.clone(), error: Arc::new(error) };
            if self.state().present.contains_key(&path) {
                let message = "the store that was here still drains; reload once it is gone";
                applied.failed.push(refuse(Error::new(ErrorKind::Busy, message)));
                continue;
            }
            match self.open_patiently(config).await {
                Ok(mounted) => {
                    let late = self.commit(Plan::default(), vec![mounted], &BTreeMap::new()).await;
                    applied.added.extend(late.added);
                }
                Err(e) => applied.failed.push(refuse(e)),
            }
        }
    }

    async fn open_patiently(&self, config: &MountConfig) -> Result<Mounted> {
        for _ in 1..LATE_ATTEMPTS {
            match self.open_or_recall(config).await {
                Err(e) if e.kind() == ErrorKind::Busy => tokio::time::sleep(LATE_PAUSE).await,
                answer => return answer,
            }
        }
        self.open_or_recall(config).await
    }

    /// Ends the actors of mounts that are gone, starts those of new ones, and probes changed ones at once.
    async fn attend(&self, actors: Actors) {
        let supervisor = &self.environment.supervisor;
        for name in actors.gone {
            match supervisor.release(&name, ACTOR_DEADLINE).await {
                Ok(end) => self.start(end),
                Err(e) => tracing::debug!(actor = name, error = %e, "not ended: the supervisor stops"),
            }
        }
        let spread = PROBE_SPREAD.saturating_mul(u32::try_from(actors.new.len()).unwrap_or(u32::MAX));
        for path in &actors.new {
            let wait = spread.mul_f64(fastrand::f64());
            let Some((actor, watched)) = self.state().watch(path, supervisor, wait) else { continue };
            if let Err(e) = watched.await {
                tracing::error!(actor, error = %e, "a mount has no actor: its store is not probed");
            }
        }
        for path in &actors.changed {
            let probe = self.state().present.get(path).map(|present| present.mounted.probe());
            if let Some(probe) = probe {
                self.start(probe);
            }
        }
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each step takes a mount out of one list and puts it into another; after a panic in between the next change
        // opens what is missing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose actors start, end, or have something to look at.
struct Actors {
    changed: Vec<NsPath>,
    gone: Vec<String>,
    new: Vec<NsPath>,
}

impl State {
    fn change(&mut self, changes: Vec<(NsPath, Change)>, applied: &mut Applied) -> Vec<NsPath> {
        for (path, change) in changes {
            let Some(present) = self.present.remove(&path) else { continue };
            let mounted = present.mounted.change(change);
            self.present.insert(path.clone(), Present { mounted, draining: None });
            applied.changed.push(path);
        }
        applied.changed.clone()
    }

    /// Returns the names of the actors that have nobody left.
    fn remove(
        &mut self,
        removed: &[NsPath],
        dirty: &BTreeMap<NsPath, Dirty>,
        applied: &mut Applied,
    ) -> Vec<String> {
        let mut actors = Vec::new();
        for path in removed {
            let Some(mut present) = self.present.remove(path) else { continue };
            if let Some(dirty) = dirty.get(path) {
                present.mounted.vitals().set_state(MountState::Draining);
                present.draining = Some(dirty.clone());
                self.present.insert(path.clone(), present);
                applied.draining.push((path.clone(), dirty.clone()));
            } else {
                actors.push(present.mounted.actor());
                self.remains.push(present.mounted.leave());
                applied.removed.push(path.clone());
            }
        }
        actors
    }

    /// Returns the names of the actors whose mounts were replaced.
    fn add(&mut self, opened: Vec<Mounted>, applied: &mut Applied) -> Vec<String> {
        let mut actors = Vec::new();
        for mounted in opened {
            let path = mounted.config().path.clone();
            self.remains.retain(|remains| !remains.is(&mounted));
            let before = self.present.insert(path.clone(), Present { mounted, draining: None });
            let Some(Present { mounted: before, draining }) = before else {
                applied.added.push(path);
                continue;
            };
            actors.push(before.actor());
            before.vitals().set_state(MountState::Draining);
            let dirty = draining.unwrap_or_default();
            self.leaving.push(Leaving { path: path.clone(), mounted: before, dirty });
            applied.replaced.push(path);
        }
        actors
    }

    fn table(&self) -> MountTable {
        let mounts = self.present.iter();
        MountTable::new(mounts.map(|(path, present)| (path.clone(), Arc::clone(present.mounted.handle()))))
            .expect("the keys of a map differ")
    }

    fn rules(&self) -> Vec<(NsPath, Rule)> {
        let rule =
            |(path, present): (&NsPath, &Present)| (path.clone(), present.mounted.config().rule.clone());
        self.present.iter().map(rule).collect()
    }

    fn watch(
        &self,
        path: &NsPath,
        supervisor: &crate::supervisor::Supervisor,
        wait: Duration,
    ) -> Option<(String, impl Future<Output = Result<()>> + use<>)> {
        let mounted = &self.present.get(path)?.mounted;
        Some((mounted.actor(), mounted.watch(supervisor, wait)))
    }

    /// Lets go of replaced mounts whose writes are done; `left` says of each what it holds.
    fn note_leaving(&mut self, left: Vec<Dirty>) {
        let leaving = std::mem::take(&mut self.leaving);
        for (mut leaving, dirty) in leaving.into_iter().zip(left) {
            if dirty.writes == 0 {
                if dirty.uploads > 0 {
                    tracing::warn!(mount = %leaving.path, uploads = dirty.uploads, "uploads to the store that was replaced stay staged until it is back");
                }
                self.remains.push(leaving.mounted.leave());
            } else {
                leaving.dirty = dirty;
                self.leaving.push(leaving);
            }
        }
    }

    /// Notes what draining mounts hold now; returns those that hold nothing any more.
    fn note_draining(&mut self, drained: Vec<(NsPath, Dirty)>) -> Vec<NsPath> {
        let mut done = Vec::new();
        for (path, dirty) in drained {
            let Some(present) = self.present.get_mut(&path) else { continue };
            if dirty.is_clean() {
                done.push(path);
            } else {
                present.draining = Some(dirty);
            }
        }
        done
    }

    /// Forgets mounts of which nothing is open any more, and their series unless another mount has the name.
    fn bury(&mut self) {
        let (alive, dead): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.remains).into_iter().partition(|remains| remains.recall().is_some());
        let is_used = |name: &str| {
            self.present.keys().any(|path| path.as_str() == name)
                || self.leaving.iter().any(|leaving| leaving.path.as_str() == name)
                || alive.iter().any(|remains| remains.name() == name)
        };
        let names: HashSet<&str> = dead.iter().map(Remains::name).filter(|name| !is_used(name)).collect();
        if !names.is_empty() {
            METRICS.forget_mounts(&names);
        }
        self.remains = alive;
    }
}

fn status(path: &NsPath, mounted: &Mounted, draining: Option<(&str, &Dirty)>) -> MountStatus {
    let handle = mounted.handle();
    let state = handle.state();
    let reason = match (&state, draining) {
        (MountState::Starting, _) => Some("its store has not answered yet".to_owned()),
        (MountState::Ready | MountState::Gone, _) => None,
        (MountState::Degraded { reason }, _) => Some(reason.clone()),
        (MountState::Draining, Some((why, dirty))) => Some(format!("{why} {dirty}")),
        (MountState::Draining, None) => Some("it finishes what was begun".to_owned()),
    };
    let dirty = draining.map(|(_, dirty)| dirty.clone());
    MountStatus { path: path.clone(), info: handle.info().clone(), state, reason, dirty }
}

/// What a mount holds. One that cannot tell counts as if it held a write, so that it is not given up unasked.
async fn dirty_of(handle: &Arc<dyn Mount>) -> Dirty {
    handle.dirty().await.unwrap_or_else(|e| {
        tracing::warn!(mount = handle.info().name, error = %e, "it is not known what the mount still holds");
        Dirty { writes: 1, ..Dirty::default() }
    })
}

/// Aborts the multipart uploads of a mount that is given up.
async fn abandon(mount: &dyn Mount) {
    let aborted = async {
        let uploads = mount.uploads("").await?;
        let count = uploads.len();
        try_join_all(uploads.iter().map(|upload| mount.abort_upload(&upload.key, &upload.upload))).await?;
        Ok::<_, Error>(count)
    };
    let name = &mount.info().name;
    match aborted.await {
        Ok(0) => {}
        Ok(count) => tracing::warn!(mount = name, count, "multipart uploads were aborted with their mount"),
        Err(e) => {
            tracing::warn!(mount = name, error = %e, "staged uploads of a removed mount stay on the disk");
        }
    }
}
