//! `forebay serve` and `forebay mount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use forebay_core::{AccessBuilder, Grant, NsPath, Permission, Principal};

use super::mount::OneMountArguments;
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

pub(super) fn serve(arguments: &ServeArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(&log.log, log.log_format)?;
    run::until_signal(config::load(&arguments.config.config)?)
}

pub(super) fn mount(arguments: OneMountArguments, log: &LogArguments) -> anyhow::Result<ExitCode> {
    telemetry::start(&log.log, log.log_format)?;
    let options = arguments.options;
    let directory = std::path::absolute(&arguments.directory)?;
    // One cache directory has one owner, so each mount point gets its own.
    let var = home(&options.var)?.join(directory.to_string_lossy().replace(['/', '%'], "%"));
    let owner = Arc::new(Principal {
        name: "owner".to_owned(),
        grants: vec![Grant { prefix: NsPath::root(), permission: Permission::Write }],
    });
    let mut access = AccessBuilder::default();
    let access = Arc::new(access.fuse(&owner).build());
    let mount = config::one_mount(OneMount {
        url: arguments.url,
        options: options.option,
        endpoint: options.endpoint,
        region: options.region,
        read_only: options.read_only,
    })?;
    let gateway =
        config::GatewayConfig::for_one_mount(&var, directory, options.cache_gib, options.allow_other);
    run::until_signal(Config { gateway, access, mounts: vec![mount], source: None })
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
