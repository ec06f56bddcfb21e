//! `forebay serve` and `forebay mount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use forebay_core::{AccessBuilder, Grant, NsPath, Permission, Principal};

use super::{ConfigArgument, LogArguments};
use crate::config::{self, Config, OneMount};
use crate::{run, telemetry};

#[derive(Debug, clap::Args)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Default for ServeArguments {
    fn default() -> Self {
        Self { config: ConfigArgument { config: PathBuf::from("mounts.yaml") } }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct MountArguments {
    /// `s3://BUCKET/PREFIX` or `file:///DIRECTORY`.
    url: String,
    /// Where to mount it; made if missing.
    directory: PathBuf,
    /// Refuse every change.
    #[arg(long)]
    read_only: bool,
    /// Base URL of an S3 service other than AWS (or `AWS_ENDPOINT_URL`).
    #[arg(long)]
    endpoint: Option<String>,
    /// Region (or `AWS_REGION`).
    #[arg(long)]
    region: Option<String>,
    /// Where cached and staged content lies.
    #[arg(long, default_value = "~/.cache/forebay")]
    var: PathBuf,
    /// Largest size of the cache on disk, in GiB.
    #[arg(long, default_value_t = 4)]
    cache_gib: u64,
    /// Let other users see the mount.
    #[arg(long)]
    allow_other: bool,
}

pub(super) fn serve(arguments: &ServeArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(&log.log, log.log_format)?;
    run::until_signal(config::load(&arguments.config.config)?)
}

pub(super) fn mount(arguments: MountArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(&log.log, log.log_format)?;
    let directory = std::path::absolute(&arguments.directory)?;
    // One cache directory has one owner, so each mount point gets its own.
    let var = home(&arguments.var)?.join(directory.to_string_lossy().replace(['/', '%'], "%"));
    let owner = Arc::new(Principal {
        name: "owner".to_owned(),
        grants: vec![Grant { prefix: NsPath::root(), permission: Permission::Write }],
    });
    let mut access = AccessBuilder::default();
    let access = Arc::new(access.fuse(&owner).build());
    let mount = config::one_mount(OneMount {
        url: arguments.url,
        endpoint: arguments.endpoint,
        region: arguments.region,
        read_only: arguments.read_only,
    })?;
    let gateway =
        config::GatewayConfig::for_one_mount(&var, directory, arguments.cache_gib, arguments.allow_other);
    run::until_signal(Config { gateway, access, mounts: vec![mount] })
}

/// `path` with a leading `~` resolved.
fn home(path: &Path) -> anyhow::Result<PathBuf> {
    match path.strip_prefix("~") {
        Ok(rest) => {
            let home = config::environment("HOME").context("HOME is not set; pass --var DIR")?;
            Ok(Path::new(&home).join(rest))
        }
        Err(_) => Ok(path.to_owned()),
    }
}
