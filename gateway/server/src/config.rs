//! `mounts.yaml`: read whole, checked whole, refused whole.
//!
//! The only place that reads environment variables. Each component owns the type of its own options; this module
//! composes them. Relative paths count from the directory of the file.

mod access;
mod cache;
mod gateway;
mod hdfs;
mod mounts;
mod problem;
mod reader;
mod source;
mod store;
mod url;
pub(crate) mod yaml;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_actors::config::MountConfig;
use forebay_core::Access;

pub(crate) use self::gateway::{FuseOptions, GatewayConfig, HttpListener};
pub(crate) use self::mounts::{OneMount, one_mount};
use self::problem::Problems;
pub(crate) use self::reader::Bytes;
use self::reader::Reader;
pub(crate) use self::source::Source;
pub(crate) use self::url::{Location, locate};

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) gateway: GatewayConfig,
    pub(crate) access: Arc<Access>,
    pub(crate) mounts: Vec<MountConfig>,
    /// Where it comes from; `None` when it was made from a command line.
    pub(crate) source: Option<Source>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// The file cannot be read, or everything that is wrong with it.
pub(crate) fn load(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| anyhow::anyhow!("cannot read the configuration {}: {e}", file.display()))?;
    let base = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(parse(file, &text, base)?)
}

/// Checks `text` as the content of a configuration file.
///
/// # Errors
/// As [`load`].
pub(crate) fn check(file: &Path, text: &str) -> anyhow::Result<()> {
    let base = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(parse(file, text, base).map(drop)?)
}

/// What is wrong, a line for each problem.
pub(crate) fn problems_of(error: &anyhow::Error) -> Vec<String> {
    match error.downcast_ref::<Problems>() {
        Some(Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
        None => vec![format!("{error:#}")],
    }
}

fn parse(file: &Path, text: &str, base: &Path) -> Result<Config, Problems> {
    let root = yaml::parse(file, text).map_err(|problem| Problems(vec![problem]))?;
    let reader = Reader::new(file);
    let section = reader.section(&root, "");
    let (gateway, access) = gateway::read(section.section("gateway"), base);
    let mounts = mounts::read(&section, base, &gateway.limits);
    let needs_owner = gateway.fuse.is_some() && access.fuse().is_none();
    if needs_owner {
        section.problem(
            "gateway",
            "`gateway.listeners.fuse` needs an owner; add `fuse: true` to one `access` entry",
        );
    }
    section.finish();
    let source = Source::new(file, &root, reader.secret_files());
    let problems = reader.into_problems();
    if problems.is_empty() {
        Ok(Config { gateway, access: Arc::new(access), mounts, source: Some(source) })
    } else {
        Err(Problems(problems))
    }
}

/// `path` as seen from the configuration's directory.
fn rooted(base: &Path, path: PathBuf) -> PathBuf {
    if path.is_absolute() { path } else { base.join(path.strip_prefix(".").unwrap_or(&path)) }
}

/// The environment variable `name`, for options that have one.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
