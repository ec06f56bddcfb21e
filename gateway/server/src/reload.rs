//! The configuration at run time: the file and the secrets it names are watched, SIGHUP and the admin API reload it,
//! and commands edit it.
//!
//! Invariants:
//! - A file with a problem is refused whole, and what runs goes on.
//! - The file is the truth: commands change it first and then reload it, so that a restart finds the same.
//! - One order at a time, by the supervised actor `Config`. An order that was begun is carried out even if the actor
//!   fails meanwhile, and what came in then is waiting when it is back: orders, signals and the work lie outside it.

mod edit;
mod report;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_actors::mounts::Mounts;
use forebay_actors::supervisor::{ServiceError, StopSignal, Supervisor};
use forebay_core::{Access, Error, ErrorKind, METRICS, NsPath};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub(crate) use self::report::{Refused, since};
use self::watch::{Stamp, Watch};
use crate::admin::api::{NewMount, ReloadView};
use crate::config::{self, Config, GatewayConfig, Source};

/// Name of the actor.
pub(crate) const ACTOR: &str = "Config";
/// Orders that wait.
const ORDERS_MAX: usize = 64;
/// How often mounts that drain are looked at.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);

type Answer = Result<ReloadView, Refused>;

/// Gives orders to the actor. Clones give them to the same one.
#[derive(Clone)]
pub(crate) struct Reloader(mpsc::Sender<Order>);

/// What may be asked for.
enum What {
    Reload,
    Add(NewMount),
    Remove { path: NsPath, is_forced: bool },
}

struct Order {
    what: What,
    answer: oneshot::Sender<Answer>,
}

/// What the actor works on; it outlives it.
struct Running {
    mounts: Arc<Mounts>,
    access: Arc<Access>,
    /// As it was at the start: what is changed of it later waits for a restart.
    gateway: GatewayConfig,
    first: Source,
    latest: Mutex<Latest>,
}

/// What was seen of the file last.
struct Latest {
    source: Source,
    stamp: Stamp,
}

/// Where work comes from; held by the actor for as long as it runs.
struct Inbox {
    orders: mpsc::Receiver<Order>,
    hangup: Signal,
    watch: Watch,
    /// What was begun; at most one.
    work: JoinSet<()>,
}

impl Reloader {
    /// Starts the actor that keeps `mounts` and access as the file that `config` came from wants them.
    ///
    /// # Errors
    /// The signal handler cannot be set, or the supervisor stops.
    pub(crate) async fn start(
        config: &Config,
        source: &Source,
        mounts: &Arc<Mounts>,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        for cause in ["refused", "restart"] {
            METRICS.config_outdated.with_label_values(&[cause]).set(0);
        }
        for outcome in ["ok", "refused", "failed"] {
            METRICS.config_reloads.with_label_values(&[outcome]).reset();
        }
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let running = Arc::new(Running {
            mounts: Arc::clone(mounts),
            access: Arc::clone(&config.access),
            gateway: config.gateway.clone(),
            first: source.clone(),
            latest: Mutex::new(Latest { source: source.clone(), stamp: Stamp::of(files(source)) }),
        });
        let mut watch = Watch::new();
        watch.set(files(source));
        let inbox =
            Inbox { orders: inbox, hangup: signal(SignalKind::hangup())?, watch, work: JoinSet::new() };
        let inbox = Arc::new(tokio::sync::Mutex::new(inbox));
        let actor = move |stop| {
            let (running, inbox) = (Arc::clone(&running), Arc::clone(&inbox));
            async move { serve(running, &mut *inbox.lock().await, stop).await }
        };
        supervisor.service(ACTOR, actor).await?;
        Ok(Self(orders))
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing is changed then.
    pub(crate) async fn reload(&self) -> Answer {
        self.order(What::Reload).await
    }

    /// Writes a mount into the file, and reloads it.
    ///
    /// # Errors
    /// As [`Reloader::reload`]; `AlreadyExists`; `Unsupported` where the file cannot be edited.
    pub(crate) async fn add(&self, mount: NewMount) -> Answer {
        self.order(What::Add(mount)).await
    }

    /// Takes a mount out of the file, and reloads it.
    ///
    /// # Errors
    /// As [`Reloader::add`]; `NotFound`; `NotEmpty` when something would be lost and it is not forced.
    pub(crate) async fn remove(&self, path: NsPath, is_forced: bool) -> Answer {
        self.order(What::Remove { path, is_forced }).await
    }

    async fn order(&self, what: What) -> Answer {
        let (answer, waiting) = oneshot::channel();
        let gone = || Refused::from(Error::new(ErrorKind::Unavailable, "the gateway is shutting down"));
        self.0.send(Order { what, answer }).await.map_err(|_| gone())?;
        waiting.await.map_err(|_| gone())?
    }
}

/// One life of the actor.
async fn serve(running: Arc<Running>, inbox: &mut Inbox, mut stop: StopSignal) -> Result<(), ServiceError> {
    let mut tick = tokio::time::interval(SETTLE_INTERVAL);
    loop {
        // What an earlier life began comes to its end first.
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = finish(&mut inbox.work) => {}
        }
        inbox.watch.set(files(&running.latest().source));
        let running = Arc::clone(&running);
        tokio::select! {
            () = stop.requested() => return Ok(()),
            Some(order) = inbox.orders.recv() => {
                inbox.work.spawn(async move {
                    let answer = running.carry_out(order.what).await;
                    // Whoever asked may be gone.
                    order.answer.send(answer).unwrap_or(());
                });
            }
            Some(()) = inbox.hangup.recv() => {
                inbox.work.spawn(async move { running.reload_unasked("SIGHUP").await });
            }
            () = inbox.watch.stirred() => {
                if running.is_outdated() {
                    inbox.work.spawn(async move { running.reload_unasked("the file changed").await });
                }
            }
            _ = tick.tick() => {
                if running.mounts.is_settling() {
                    inbox.work.spawn(async move { running.mounts.settle().await });
                }
            }
        }
    }
}

async fn finish(work: &mut JoinSet<()>) {
    while let Some(ended) = work.join_next().await {
        if let Err(e) = ended {
            tracing::error!(error = %e, "a reload died; what it had not done is done by the next one");
        }
    }
}

/// What is watched.
fn files(source: &Source) -> impl Iterator<Item = &PathBuf> {
    std::iter::once(&source.file).chain(&source.secret_files)
}

impl Running {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> &Path {
        &self.first.file
    }

    /// Whether the file or a secret is not as it was seen last.
    fn is_outdated(&self) -> bool {
        let latest = self.latest();
        Stamp::of(files(&latest.source)) != latest.stamp
    }

    async fn carry_out(&self, what: What) -> Answer {
        match what {
            What::Reload => self.reload(&[]).await,
            What::Add(mount) => self.add(mount).await,
            What::Remove { path, is_forced } => self.remove(path, is_forced).await,
        }
    }

    async fn reload_unasked(&self, cause: &str) {
        tracing::info!(cause, file = %self.file().display(), "the configuration is read again");
        // What it came to is in the log, and there is nobody else to tell.
        self.reload(&[]).await.map(drop).unwrap_or_default();
    }

    /// Reads the file and applies it.
    async fn reload(&self, forced: &[NsPath]) -> Answer {
        let answer = self.try_reload(forced).await;
        let outcome = match &answer {
            Ok(view) if view.failed.is_empty() => "ok",
            Ok(_) => "failed",
            Err(refused) => refused.outcome(),
        };
        METRICS.config_reloads.with_label_values(&[outcome]).inc();
        METRICS.config_outdated.with_label_values(&["refused"]).set(i64::from(outcome != "ok"));
        match &answer {
            Ok(view) => report::log(view),
            Err(refused) => refused.log(),
        }
        answer
    }

    async fn try_reload(&self, forced: &[NsPath]) -> Answer {
        let seen = Stamp::of(files(&self.latest().source));
        let file = self.file().to_owned();
        let loaded = tokio::task::spawn_blocking(move || config::load(&file)).await;
        let loaded =
            loaded.map_err(|e| Error::new(ErrorKind::Internal, "reading the file died").because(e))?;
        self.latest().stamp = seen;
        let config = loaded.map_err(|e| Refused::problems(config::problems_of(&e)))?;
        let Some(source) = config.source.clone() else {
            return Err(Error::new(ErrorKind::Internal, "a file that was read is no file").into());
        };
        let applied = self.mounts.apply(&config.mounts, forced).await;
        let applied = applied.map_err(|refusals| Refused::mounts(&refusals, &source))?;
        let warnings = self.exchange(&config, &source);
        let failed = applied.failed.iter().map(|refusal| report::placed(refusal, &source)).collect();
        self.note(source);
        Ok(ReloadView::new(&applied, failed, warnings))
    }

    /// Remembers what the file looks like, so that only further changes count.
    fn note(&self, source: Source) {
        let mut latest = self.latest();
        if latest.source.secret_files != source.secret_files {
            latest.stamp = Stamp::of(files(&source));
        }
        latest.source = source;
    }

    /// Exchanges what can be besides mounts, and says what cannot.
    fn exchange(&self, config: &Config, source: &Source) -> Vec<String> {
        let waiting = self.first.waiting(source);
        let mut warnings: Vec<_> =
            waiting.iter().map(|name| format!("`{name}` was changed and waits for a restart")).collect();
        match self.protection(&config.access) {
            Ok(()) => {
                let owner = self.access.fuse();
                self.access.exchange(&config.access);
                if self.gateway.fuse.is_some() && owner != config.access.fuse() {
                    warnings.push("the FUSE mount keeps its owner and grants until a restart".to_owned());
                }
            }
            Err(listener) => warnings.push(format!(
                "`gateway.access` waits for a restart: without a token the {listener} listener would be open to all"
            )),
        }
        METRICS.config_outdated.with_label_values(&["restart"]).set(i64::from(!warnings.is_empty()));
        warnings
    }

    /// Whether `access` protects the listeners that run; the reader checked it for those in the file.
    fn protection(&self, access: &Access) -> Result<(), &'static str> {
        let is_open = |listen: std::net::SocketAddr| !listen.ip().is_loopback();
        let webhdfs = self.gateway.webhdfs.as_ref().is_some_and(|options| is_open(options.http.listen));
        let admin = self.gateway.admin.as_ref().is_some_and(|options| is_open(options.listen));
        if webhdfs && !access.webhdfs_needs_token() {
            return Err("WebHDFS");
        }
        if admin && !access.has_admin_token() {
            return Err("admin");
        }
        Ok(())
    }

    async fn add(&self, mount: NewMount) -> Answer {
        let entry = report::entry(mount)?;
        let file = self.file().to_owned();
        self.edit(&[], move |text| edit::add(&file, text, &entry)).await
    }

    async fn remove(&self, path: NsPath, is_forced: bool) -> Answer {
        let dirty = self.mounts.dirty(&path).await?.filter(|dirty| !dirty.is_clean());
        if let (Some(dirty), false) = (&dirty, is_forced) {
            let message = format!(
                "{path} holds {dirty} that its store does not have{}; finish or abort that, or remove it with --force",
                report::since(dirty)
            );
            return Err(Error::new(ErrorKind::NotEmpty, message).into());
        }
        let forced = if is_forced { vec![path.clone()] } else { Vec::new() };
        let is_draining = dirty.is_some() && !self.is_configured(&path);
        if is_draining {
            // The file has forgotten it already; only what it holds kept it.
            return self.reload(&forced).await;
        }
        let file = self.file().to_owned();
        self.edit(&forced, move |text| edit::remove(&file, text, path.as_str())).await
    }

    fn is_configured(&self, path: &NsPath) -> bool {
        self.latest().source.has_mount(path.as_str())
    }

    /// Changes the file and reloads it; a change that does not work out is taken back.
    async fn edit(
        &self,
        forced: &[NsPath],
        change: impl FnOnce(&str) -> forebay_core::Result<String> + Send + 'static,
    ) -> Answer {
        let file = self.file().to_owned();
        let edited = tokio::task::spawn_blocking(move || {
            let before = edit::read(&file)?;
            let after = change(&before)?;
            config::check(&file, &after).map_err(|e| Refused::problems(config::problems_of(&e)))?;
            edit::write(&file, &after)?;
            Ok::<_, Refused>(before)
        });
        let before = edited
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "editing the file died").because(e))??;
        let answer = self.reload(forced).await;
        if answer.is_err() {
            edit::write(self.file(), &before)?;
            // The file is what runs again.
            self.latest().stamp = Stamp::of(files(&self.latest().source.clone()));
            METRICS.config_outdated.with_label_values(&["refused"]).set(0);
        }
        answer
    }
}
