//! `forebay mount`: one store at a directory, or the mounts of a running gateway; and `forebay reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use reqwest::Method;

use super::client::{self, Connection};
use super::{LogArguments, serve};
use crate::admin::api::{NewMount, ReloadView};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct MountArguments {
    #[command(subcommand)]
    command: Option<MountCommand>,
    /// The store: `s3://`, `gs://`, `az://`, `oss://`, `cos://`, `hdfs://`, `https://`, `file:///` or `memory:`.
    #[arg(required = true)]
    url: Option<String>,
    /// Where to mount it; made if missing.
    #[arg(required = true)]
    directory: Option<PathBuf>,
    #[command(flatten)]
    options: OneMountOptions,
}

#[derive(Debug, clap::Args)]
pub(super) struct OneMountOptions {
    /// An option of the store as in the configuration file; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(super) option: Vec<(String, String)>,
    /// Refuse every change.
    #[arg(long)]
    pub(super) read_only: bool,
    /// Base URL of an S3 service other than AWS (or `AWS_ENDPOINT_URL`).
    #[arg(long)]
    pub(super) endpoint: Option<String>,
    /// Region (or `AWS_REGION`).
    #[arg(long)]
    pub(super) region: Option<String>,
    /// Where cached and staged content lies.
    #[arg(long, default_value = "~/.cache/forebay")]
    pub(super) var: PathBuf,
    /// Largest size of the cache on disk, in GiB.
    #[arg(long, default_value_t = 4)]
    pub(super) cache_gib: u64,
    /// Let other users see the mount.
    #[arg(long)]
    pub(super) allow_other: bool,
}

/// What `forebay mount URL DIR` is told.
pub(super) struct OneMountArguments {
    pub(super) url: String,
    pub(super) directory: PathBuf,
    pub(super) options: OneMountOptions,
}

#[derive(Debug, Subcommand)]
enum MountCommand {
    /// Add a mount to a running gateway and to its configuration file.
    #[command(
        after_help = "Examples:\n  forebay mount add /logs s3://logs --option region=eu-west-1\n  forebay mount add /team s3://data/team --option region=us-east-1 --option 'access_key_id=${env:KEY}' --option 'secret_access_key=${file:/etc/forebay/secret}'\n  forebay mount add /local file:///srv/data --read-only"
    )]
    Add(AddArguments),
    /// Remove a mount from a running gateway and from its configuration file.
    Remove(RemoveArguments),
    /// List the mounts of a running gateway and their states.
    List(Connection),
}

#[derive(Debug, clap::Args)]
struct AddArguments {
    /// Where in the namespace.
    path: String,
    /// The store: `s3://BUCKET/PREFIX`, `file:///DIRECTORY`, `memory:`, …
    url: String,
    /// An option of the store as in the configuration file; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    option: Vec<(String, String)>,
    /// Refuse every change.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
struct RemoveArguments {
    /// Where in the namespace.
    path: String,
    /// Remove it even if it holds what its store does not have; multipart uploads are aborted.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connection: Connection,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "write KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn mount(arguments: MountArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Some(MountCommand::Add(arguments)) => client::block_on(add(arguments)),
        Some(MountCommand::Remove(arguments)) => client::block_on(remove(arguments)),
        Some(MountCommand::List(connection)) => client::block_on(client::mounts(connection)),
        None => {
            let (Some(url), Some(directory)) = (arguments.url, arguments.directory) else {
                anyhow::bail!("write `forebay mount URL DIRECTORY`");
            };
            serve::mount(OneMountArguments { url, directory, options: arguments.options }, log)
        }
    }
}

async fn add(arguments: AddArguments) -> anyhow::Result<()> {
    let AddArguments { path, url, option, read_only, connection } = arguments;
    let mount = NewMount { path, url, options: option.into_iter().collect(), read_only };
    let request = connection.request(Method::POST, "mounts", &[])?.json(&mount);
    print(&connection, &connection.json(request).await?)
}

async fn remove(arguments: RemoveArguments) -> anyhow::Result<()> {
    let connection = arguments.connection;
    let force = if arguments.force { "true" } else { "false" };
    let query = [("path", &*arguments.path), ("force", force)];
    print(&connection, &connection.json(connection.request(Method::DELETE, "mounts", &query)?).await?)
}

/// `forebay reload`.
pub(super) async fn reload(connection: Connection) -> anyhow::Result<()> {
    print(&connection, &connection.json(connection.request(Method::POST, "reload", &[])?).await?)
}

fn print(connection: &Connection, view: &ReloadView) -> anyhow::Result<()> {
    if connection.json {
        println!("{}", serde_json::to_string_pretty(view)?);
    } else {
        print_text(view);
    }
    anyhow::ensure!(view.failed.is_empty(), view.failed.join("\n"));
    Ok(())
}

fn print_text(view: &ReloadView) {
    let lists = [
        ("added", &view.added),
        ("changed", &view.changed),
        ("replaced", &view.replaced),
        ("removed", &view.removed),
    ];
    for (what, paths) in lists {
        for path in paths {
            println!("{what:<9} {path}");
        }
    }
    for draining in &view.draining {
        println!("draining  {}: it holds {}", draining.path, draining.holds);
    }
    println!("{} unchanged", view.unchanged);
    for warning in &view.warnings {
        eprintln!("forebay: {warning}");
    }
}
