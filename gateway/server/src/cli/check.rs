//! `forebay check`: is the configuration right, does every store in it answer, and what can each of them do?

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use forebay_actors::backend::UploadMemory;
use forebay_actors::cache::{Cache, Rules};
use forebay_actors::config::{CacheConfig, MountConfig, Revalidate, StoreConfig, WriteMode};
use forebay_actors::conformance::{self, Depth, Outcome, Suite, explain};
use forebay_actors::mount::object::Uploader;
use forebay_actors::mount::{self, Environment};
use forebay_actors::supervisor::Supervisor;
use forebay_core::{Clock, ErrorKind, Key, ListQuery, Mount, MountState, NsPath, Want};
use futures::StreamExt as _;
use serde::Serialize;
use tempfile::TempDir;

use super::{ConfigArgument, LogArguments};
use crate::config::{self, Config};
use crate::telemetry;

/// Stores that are looked at at once.
const STORES_AT_ONCE: usize = 8;
/// How often a mount is looked at until it has been probed.
const SETTLE_STEP: Duration = Duration::from_millis(20);
/// Memory for what the checks read.
const CACHE_BYTES: u64 = 64 << 20;
/// Memory for what it writes to them.
const UPLOADS_BYTES: u64 = 96 << 20;

/// What `forebay check --help` says after the options.
pub(super) const HELP: &str = "\
Without options nothing is written: each store is reached, listed, and one of its files is read.
With --write, --thorough or --large everything is written below one new directory `.forebay-check-<random>/` at the
root of each mount that is not read-only, and that directory is removed in the end, also after a failure or ^C.
Nothing else is changed or removed; a local directory gets the gateway's own `.forebay`, as `serve` makes it, and
cannot be written to while a gateway serves it.

The exit code is 0 only if the configuration is right, every store answers and nothing is broken.

Examples:
  forebay check                          everything in ./mounts.yaml, read only
  forebay check --write /warehouse       what this one store can do
  forebay check --thorough --json        all of it, for scripts
";

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command")]
pub(super) struct CheckArguments {
    /// Mounts to check; all if none is named.
    paths: Vec<String>,
    #[command(flatten)]
    config: ConfigArgument,
    /// Try writes, too: about 2,000 small files and 200 MB for each store.
    #[arg(long)]
    write: bool,
    /// As --write, with 10,000 files.
    #[arg(long)]
    thorough: bool,
    /// As --thorough, with a file of more than 5 GiB.
    #[arg(long)]
    large: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl CheckArguments {
    fn depth(&self) -> Depth {
        match (self.large, self.thorough, self.write) {
            (true, ..) => Depth::Large,
            (false, true, _) => Depth::Thorough,
            (false, false, true) => Depth::Write,
            (false, false, false) => Depth::Look,
        }
    }
}

/// What is known of one mount.
#[derive(Serialize)]
struct Finding {
    path: String,
    store: String,
    read_only: bool,
    ok: bool,
    message: String,
    /// What helps, where the store does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    checks: Vec<conformance::Finding>,
}

pub(super) fn check(arguments: &CheckArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(&log.log, log.log_format)?;
    let mut config = config::load(&arguments.config.config)?;
    select(&mut config, &arguments.paths)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let findings = runtime.block_on(examine_all(&config, arguments.depth()))?;
    let Some(findings) = findings else {
        anyhow::bail!("interrupted; what the checks wrote is removed");
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(print);
    }
    let is_ok = findings.iter().all(|finding| finding.ok);
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Leaves the mounts that were named.
fn select(config: &mut Config, paths: &[String]) -> anyhow::Result<()> {
    let paths = paths.iter().map(|path| NsPath::parse(path).with_context(|| format!("`{path}` is no path")));
    let paths: Vec<NsPath> = paths.collect::<anyhow::Result<_>>()?;
    if let Some(unknown) = paths.iter().find(|path| config.mounts.iter().all(|mount| mount.path != **path)) {
        let known: Vec<_> = config.mounts.iter().map(|mount| mount.path.as_str()).collect();
        anyhow::bail!("nothing is mounted at {unknown}; there are {}", known.join(", "));
    }
    if !paths.is_empty() {
        config.mounts.retain(|mount| paths.contains(&mount.path));
    }
    Ok(())
}

/// One mount on its way to a finding: opened, or why not.
struct Candidate<'a> {
    config: &'a MountConfig,
    opened: forebay_core::Result<(Arc<dyn Mount>, Suite)>,
}

/// `None` when somebody interrupted it.
async fn examine_all(config: &Config, depth: Depth) -> anyhow::Result<Option<Vec<Finding>>> {
    let staging = staging(config, depth)?;
    let supervisor = Supervisor::start("check").await?;
    let memory = CacheConfig { memory_bytes: CACHE_BYTES, nvme: None, high_percent: 95, low_percent: 90 };
    let environment = &Environment {
        metadata: None,
        cache: Cache::open(&memory)?,
        uploads: UploadMemory::new(UPLOADS_BYTES),
        rules: Rules::in_memory(),
        supervisor: supervisor.clone(),
        uploader: Uploader::default(),
        var_directory: staging.path().to_owned(),
        clock: Clock::system(),
    };
    let open = |config| async move { Candidate { config, opened: open(config, environment, depth).await } };
    let candidates = futures::future::join_all(config.mounts.iter().map(open)).await;
    let examined =
        futures::stream::iter(&candidates).map(examine).buffered(STORES_AT_ONCE).collect::<Vec<_>>();
    let findings = tokio::select! {
        findings = examined => Some(findings),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot listen for ^C")?;
            for (_, suite) in candidates.iter().filter_map(|candidate| candidate.opened.as_ref().ok()) {
                suite.clean().await?;
            }
            None
        }
    };
    supervisor.stop(config.gateway.shutdown_deadline).await;
    Ok(findings)
}

/// Where writes are prepared: not where a running gateway keeps its own. A mere look prepares none.
fn staging(config: &Config, depth: Depth) -> anyhow::Result<TempDir> {
    let mut named = tempfile::Builder::new();
    named.prefix("forebay-check-");
    if depth == Depth::Look {
        return named.tempdir().context("cannot make a temporary directory");
    }
    let var = &config.gateway.var;
    std::fs::create_dir_all(var).with_context(|| format!("cannot make {}", var.display()))?;
    named.tempdir_in(var).with_context(|| format!("cannot write to {}", var.display()))
}

async fn open(
    config: &MountConfig,
    environment: &Environment,
    depth: Depth,
) -> forebay_core::Result<(Arc<dyn Mount>, Suite)> {
    let config = MountConfig {
        revalidate: Revalidate::Always,
        write: WriteMode::default(),
        // Opened for reading only, nothing is made and nothing is locked.
        read_only: config.read_only || depth == Depth::Look,
        ..config.clone()
    };
    let mounted = mount::open(&config, environment).await?;
    mounted.watch(&environment.supervisor, Duration::ZERO).await?;
    let mount = Arc::clone(mounted.handle());
    // What a store is tried out for when its mount opens decides how it is served.
    let settled = async {
        while mount.state() == MountState::Starting {
            tokio::time::sleep(SETTLE_STEP).await;
        }
    };
    tokio::time::timeout(config.limits.request_deadline, settled).await.unwrap_or(());
    Ok((Arc::clone(&mount), Suite::new(mount, depth)))
}

async fn examine(candidate: &Candidate<'_>) -> Finding {
    let config = candidate.config;
    let blank = Finding {
        path: config.path.to_string(),
        store: String::new(),
        read_only: config.read_only,
        ok: false,
        message: String::new(),
        fix: None,
        checks: Vec::new(),
    };
    let (mount, suite) = match &candidate.opened {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::NotFound && is_made_at_start(config) => {
            let message = "the directory is made when the gateway starts".to_owned();
            return Finding { store: "fs".to_owned(), ok: true, message, ..blank };
        }
        Err(e) => {
            let fix = conformance::fix(e).map(str::to_owned);
            return Finding { message: explain(e), fix, ..blank };
        }
    };
    let found = Finding { store: mount.info().store.to_owned(), ..blank };
    match probe(&**mount).await {
        Err(e) => {
            let fix = conformance::fix(&e).map(str::to_owned);
            Finding { message: explain(&e), fix, ..found }
        }
        Ok(message) => {
            let checks = suite.run().await;
            let ok = !checks.iter().any(|check| matches!(check.outcome, Outcome::Broken { .. }));
            Finding { ok, message, checks, ..found }
        }
    }
}

fn is_made_at_start(config: &MountConfig) -> bool {
    matches!(config.store, StoreConfig::Fs { .. }) && !config.read_only
}

async fn probe(mount: &dyn Mount) -> forebay_core::Result<String> {
    mount.stat(&Key::root(), Want::Directory).await?;
    let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 1 };
    let page = mount.list(&query).await?;
    let what = if page.items.is_empty() { "it is empty" } else { "it has entries" };
    Ok(format!("answers, can be listed, {what}"))
}

fn print(finding: &Finding) {
    let mark = if finding.ok { "ok    " } else { "FAILED" };
    let store = if finding.store.is_empty() { "not opened" } else { &finding.store };
    println!("{mark} {} ({store}): {}", finding.path, finding.message);
    if let Some(fix) = &finding.fix {
        println!("         → {fix}");
    }
    let mut untried: Vec<(&str, usize)> = Vec::new();
    for check in &finding.checks {
        match &check.outcome {
            Outcome::Holds => println!("  yes    {}", check.promise),
            Outcome::Lacks { instead } => println!("  no     {}\n         → {instead}", check.promise),
            Outcome::Broken { seen, fix } => {
                println!("  BROKEN {}\n         {seen}\n         → {fix}", check.promise);
            }
            Outcome::NotTried { why } => match untried.iter_mut().find(|(known, _)| known == why) {
                Some((_, count)) => *count += 1,
                None => untried.push((why, 1)),
            },
        }
    }
    for (why, count) in untried {
        println!("  ?      {count} not tried: {why}");
    }
}
