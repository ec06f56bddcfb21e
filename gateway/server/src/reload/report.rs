//! What a reload came to, for people and scripts, and what a new mount is made of.

use std::fmt;
use std::sync::Arc;

use forebay_actors::mounts::Refusal;
use forebay_core::{Dirty, Error, ErrorKind, NsPath, calendar};

use super::edit::Entry;
use crate::admin::api::{NewMount, ReloadView};
use crate::config::{self, Location, Source};

/// Mounts that one line of the log names.
const NAMED_MAX: usize = 10;

/// Why an order was not carried out.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// What is wrong with the file, a line each.
    Problems(Vec<String>),
    /// Mounts that cannot be opened as they are written, a line each.
    Mounts(Vec<String>),
    /// What was asked for cannot be done.
    Order(Arc<Error>),
}

impl Refused {
    pub(super) fn problems(problems: Vec<String>) -> Self {
        Self::Problems(problems)
    }

    pub(super) fn mounts(refusals: &[Refusal], source: &Source) -> Self {
        Self::Mounts(refusals.iter().map(|refusal| placed(refusal, source)).collect())
    }

    /// The label of `config_reloads`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Problems(_) => "refused",
            Self::Mounts(_) | Self::Order(_) => "failed",
        }
    }

    pub(super) fn log(&self) {
        match self {
            Self::Problems(lines) | Self::Mounts(lines) => {
                tracing::error!(problems = lines.len(), "the configuration is refused; what runs goes on");
                for line in lines {
                    tracing::error!("{line}");
                }
            }
            Self::Order(error) => tracing::error!(error = %error, "the configuration was not reloaded"),
        }
    }

    /// What the caller can do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Problems(_) | Self::Mounts(_) => ErrorKind::InvalidArgument,
            Self::Order(error) => error.kind(),
        }
    }

    /// Everything that is wrong, a line each.
    pub(crate) fn lines(&self) -> &[String] {
        match self {
            Self::Problems(lines) | Self::Mounts(lines) => lines,
            Self::Order(_) => &[],
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Order(Arc::new(error))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(lines) | Self::Mounts(lines) => {
                f.write_str("the configuration is refused, and what runs goes on:")?;
                lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            Self::Order(error) => error.fmt(f),
        }
    }
}

/// A refusal with the place of its mount in the file.
pub(super) fn placed(refusal: &Refusal, source: &Source) -> String {
    format!("{}: {refusal}", source.place(refusal.path.as_str()))
}

pub(super) fn log(view: &ReloadView) {
    tracing::info!(
        added = named(&view.added),
        changed = named(&view.changed),
        replaced = named(&view.replaced),
        removed = named(&view.removed),
        draining = view.draining.len(),
        unchanged = view.unchanged,
        "the configuration is applied"
    );
    for draining in &view.draining {
        tracing::warn!(mount = draining.path, holds = draining.holds, "a removed mount drains");
    }
    for failed in &view.failed {
        tracing::error!("{failed}");
    }
    for warning in &view.warnings {
        tracing::warn!("{warning}");
    }
}

/// The mounts by name, as many as a line of the log takes.
fn named(paths: &[String]) -> String {
    match paths.split_at_checked(NAMED_MAX) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(" "), rest.len()),
        _ => paths.join(" "),
    }
}

/// `, since …` when the oldest part of `dirty` began.
pub(crate) fn since(dirty: &Dirty) -> String {
    let text = |since| format!(", since {}", humantime::format_rfc3339_seconds(calendar(since)));
    dirty.since.map(text).unwrap_or_default()
}

/// What is written into the file for a mount; options that are given win over those of the URL.
pub(super) fn entry(mount: NewMount) -> forebay_core::Result<Entry> {
    let invalid = |message: String| Error::new(ErrorKind::InvalidArgument, message);
    let path = NsPath::parse(&mount.path).map_err(|e| e.at("parse", format!("`{}`", mount.path)))?;
    let Location { store, options: located } = config::locate(&mount.url).map_err(invalid)?;
    let mut options: Vec<(String, String)> = located
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .filter(|(key, _)| !mount.options.contains_key(key))
        .collect();
    options.extend(mount.options);
    Ok(Entry { path: path.to_string(), store, read_only: mount.read_only, options })
}
