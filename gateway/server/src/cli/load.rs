//! `forebay load`, `sync` and `jobs`.

use std::time::Duration;

use forebay_actors::load::{JobState, JobStatus, SyncStatus};
use forebay_core::SyncTotals;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;

use super::client::Connection;
use crate::config::Bytes;

/// Time between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct LoadArguments {
    /// A file or directory.
    path: String,
    /// Wait for its end, with a progress bar; ^C ends the waiting and not the load.
    #[arg(long, short)]
    wait: bool,
    /// How many files at once.
    #[arg(long)]
    transfers: Option<usize>,
    /// Most bytes a second from the store, such as `100MiB`.
    #[arg(long, value_parser = Bytes::argument)]
    bandwidth: Option<Bytes>,
    /// Show no progress bar.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(super) struct SyncArguments {
    /// A file or directory.
    path: String,
    /// Wait for its end, with its counts; ^C ends the waiting and not the sync.
    #[arg(long, short)]
    wait: bool,
    /// Show no counts while it runs.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct JobsArguments {
    #[command(subcommand)]
    command: Option<JobsCommand>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum JobsCommand {
    /// End a job; what it did stays. One that has ended is forgotten.
    Cancel {
        /// Its number.
        id: u64,
        #[command(flatten)]
        connection: Connection,
    },
}

pub(super) async fn load(arguments: LoadArguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    let (transfers, bandwidth) =
        (arguments.transfers.map(|n| n.to_string()), arguments.bandwidth.map(|bytes| bytes.0.to_string()));
    let mut query = vec![("path", &*arguments.path)];
    query.extend(transfers.as_deref().map(|transfers| ("transfers", transfers)));
    query.extend(bandwidth.as_deref().map(|bandwidth| ("bandwidth", bandwidth)));
    let job = connection.json(connection.request(Method::POST, "loads", &query)?).await?;
    ordered(connection, job, (arguments.wait, arguments.quiet)).await
}

pub(super) async fn sync(arguments: SyncArguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    let request = connection.request(Method::POST, "syncs", &[("path", &*arguments.path)])?;
    let job = connection.json(request).await?;
    ordered(connection, job, (arguments.wait, arguments.quiet)).await
}

/// Shows a job that was just ordered, at its end if that is waited for.
async fn ordered(
    connection: &Connection,
    mut job: JobStatus,
    (is_awaited, is_quiet): (bool, bool),
) -> anyhow::Result<()> {
    if is_awaited {
        job = wait(connection, job, is_quiet || connection.json).await?;
    }
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&job)?);
    } else if !is_quiet {
        println!("{}", line(&job));
    }
    if is_awaited { outcome(&job, connection.json) } else { Ok(()) }
}

/// Looks at a job until it has ended.
async fn wait(connection: &Connection, mut job: JobStatus, is_hidden: bool) -> anyhow::Result<JobStatus> {
    let bar = if is_hidden { ProgressBar::hidden() } else { progress_bar(&job) };
    while matches!(job.state, JobState::Queued | JobState::Running) {
        tokio::time::sleep(LOOK).await;
        job = connection.json(connection.request(Method::GET, &format!("jobs/{}", job.id), &[])?).await?;
        bar.set_length(job.totals.found_bytes);
        bar.set_position(job.totals.cached_bytes.max(job.totals.fetched_bytes).min(job.totals.found_bytes));
        bar.set_message(job.sync.as_ref().map_or_else(|| files(&job), compared));
    }
    bar.finish_and_clear();
    Ok(job)
}

fn progress_bar(job: &JobStatus) -> ProgressBar {
    let template = match job.sync {
        Some(_) => "{spinner} {msg}",
        None => "{bar:30} {bytes:>10} / {total_bytes}  {bytes_per_sec}  {msg}",
    };
    ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("a fixed template"))
}

fn files(job: &JobStatus) -> String {
    let more = if job.totals.is_walked { "" } else { "+" };
    let failed =
        if job.totals.failed > 0 { format!(", {} failed", job.totals.failed) } else { String::new() };
    format!("{} of {}{more} files{failed}", job.totals.files, job.totals.found_files)
}

fn compared(sync: &SyncStatus) -> String {
    let SyncTotals { seen, added, changed, removed } = sync.totals;
    format!("{seen} files seen: {added} added, {changed} changed, {removed} removed")
}

/// An error unless everything was compared, or the cache holds all that was loaded.
fn outcome(job: &JobStatus, is_json: bool) -> anyhow::Result<()> {
    if !is_json {
        for failure in &job.failures {
            eprintln!("failed: {}: {}", failure.path, failure.error);
        }
    }
    let totals = &job.totals;
    match job.state {
        JobState::Done if totals.failed > 0 => anyhow::bail!("{} files failed", totals.failed),
        JobState::Done if totals.cached_bytes < totals.found_bytes => anyhow::bail!(
            "{} of {} bytes are not cached: the cache has no room for them, or they changed meanwhile; {} were evicted \
             again",
            totals.found_bytes - totals.cached_bytes,
            totals.found_bytes,
            totals.evicted_bytes
        ),
        JobState::Done | JobState::Queued | JobState::Running => Ok(()),
        JobState::Cancelled => anyhow::bail!("the job was cancelled"),
        JobState::Failed => {
            anyhow::bail!("the job failed: {}", job.error.as_deref().unwrap_or("for no known reason"))
        }
    }
}

fn line(job: &JobStatus) -> String {
    let state = match job.state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Failed => "failed",
    };
    let (cached, found) = (job.totals.cached_bytes, job.totals.found_bytes);
    let evicted = match job.totals.evicted_bytes {
        0 => String::new(),
        bytes => format!(", {bytes} evicted again"),
    };
    let (kind, done) = match &job.sync {
        Some(sync) => ("sync", compared(sync)),
        None => ("load", format!("{}, {cached} of {found} bytes cached{evicted}", files(job))),
    };
    format!("{:>5}  {kind}  {state:<9}  {}  {done}", job.id, job.path)
}

pub(super) async fn jobs(arguments: JobsArguments) -> anyhow::Result<()> {
    match arguments.command {
        Some(JobsCommand::Cancel { id, connection }) => cancel(id, &connection).await,
        None => list(&arguments.connection).await,
    }
}

async fn list(connection: &Connection) -> anyhow::Result<()> {
    let jobs: Vec<JobStatus> = connection.json(connection.request(Method::GET, "jobs", &[])?).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&jobs)?);
    } else {
        for job in &jobs {
            println!("{}", line(job));
        }
    }
    Ok(())
}

async fn cancel(id: u64, connection: &Connection) -> anyhow::Result<()> {
    let request = connection.request(Method::DELETE, &format!("jobs/{id}"), &[])?;
    let job: JobStatus = connection.json(request).await?;
    if connection.json {
        println!("{}", serde_json::to_string_pretty(&job)?);
    } else {
        println!("{}", line(&job));
    }
    Ok(())
}
