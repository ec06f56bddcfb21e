//! What a store keeps of the promises of the [`Mount`] port, tried out on the mount itself: one suite for every kind
//! of store, behind `forebay check`.
//!
//! Invariants:
//! - Writes stay below a directory of the suite's own at the mount's root ([`DIRECTORY_PREFIX`] and a random name),
//!   and [`Suite::clean`] removes all of it. Everything else is only read.
//! - A check never ends the suite: what it did not expect, its panic included, is its finding.
//! - The store is asked, not the gateway's memory, as long as the mount was opened with `Revalidate::Always` and a
//!   cache without a disk tier. A mount that a gateway serves would be judged by its caches.

mod condition;
mod large;
mod list;
mod look;
mod metadata;
mod name;
mod read;
mod site;
mod table;
mod tree;
mod write;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::{DeleteMode, Error, ErrorKind, Mount, MountState, Result, Want};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use self::site::Site;
use self::table::CHECKS;

/// How often the suite's directory is removed until nothing of it is found.
const CLEANINGS: usize = 4;

/// How often and how long one run waits for a mount to recover.
const SETTLE_STEPS_MAX: u32 = 200;
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// What the names of the suite's own directories start with.
pub const DIRECTORY_PREFIX: &str = ".forebay-check-";

/// How far the suite goes. Each depth includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Reads what is there.
    Look,
    /// Writes some hundred small files and some of 17 MiB: seconds.
    Write,
    /// Writes 10,000 files: a minute or more.
    Thorough,
    /// Writes a file of more than 5 GiB, too.
    Large,
}

/// What became of one promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Kept.
    Holds,
    /// The store cannot do this.
    Lacks {
        /// What the gateway does where it is asked for.
        instead: String,
    },
    /// Not kept, although the gateway believes that it is.
    Broken {
        /// What happened.
        seen: String,
        /// What to set or to repair.
        fix: String,
    },
    /// Nothing is known.
    NotTried {
        /// Why not.
        why: String,
    },
}

/// One promise and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its name, for scripts.
    pub name: &'static str,
    /// What should hold, in plain words.
    pub promise: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// One check of the suite.
struct Check {
    name: &'static str,
    promise: &'static str,
    /// The least depth at which it is tried.
    depth: Depth,
    /// What helps when it fails for no reason that the error itself names.
    fix: &'static str,
    /// An error is a broken promise; its text says what was seen.
    run: for<'a> fn(&'a Site) -> BoxFuture<'a, Result<Outcome>>,
}

/// The suite for one mount.
pub struct Suite {
    site: Site,
}

impl Suite {
    /// A suite that goes as far as `depth`. Sends nothing.
    ///
    /// # Panics
    /// Never: the names of the suite's directories are legal.
    pub fn new(mount: Arc<dyn Mount>, depth: Depth) -> Self {
        Self { site: Site::new(mount, depth) }
    }

    /// Tries everything and removes what it wrote. Dropped before it ends, it leaves its directory for
    /// [`Suite::clean`].
    pub async fn run(&self) -> Vec<Finding> {
        let mut findings = Vec::with_capacity(CHECKS.len() + 1);
        let mut obstacle = None;
        let mut patience = SETTLE_STEPS_MAX;
        for check in CHECKS {
            self.settle(&mut patience).await;
            let outcome = match obstacle.clone().or_else(|| self.excuse(check)) {
                Some(why) => Outcome::NotTried { why },
                None => self.attempt(check).await,
            };
            if check.name == table::FIRST_WRITE
                && !matches!(outcome, Outcome::NotTried { .. } | Outcome::Holds)
            {
                obstacle = Some("the store takes no writes".to_owned());
            }
            findings.push(Finding { name: check.name, promise: check.promise, outcome });
        }
        if self.writes() {
            self.settle(&mut patience).await;
            findings.push(self.leftovers().await);
        }
        findings
    }

    /// Waits for a mount whose breaker is open, so that one check's trouble is not the next one's finding.
    async fn settle(&self, patience: &mut u32) {
        while *patience > 0 && matches!(self.site.mount.state(), MountState::Degraded { .. }) {
            *patience -= 1;
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }

    /// Removes all that the suite wrote. May be called again.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub async fn clean(&self) -> Result<()> {
        if !self.writes() {
            return Ok(());
        }
        for _ in 0..CLEANINGS {
            match self.site.mount.delete(&self.site.root, DeleteMode::Tree).await {
                // Some stores hide what lies below the name of a file until that file is gone.
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(e) if is_nothing_to_remove(e.kind()) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn writes(&self) -> bool {
        self.site.depth >= Depth::Write && !self.site.mount.info().read_only
    }

    /// Why a check is not tried.
    fn excuse(&self, check: &Check) -> Option<String> {
        if self.site.depth >= check.depth {
            let is_refused = check.depth > Depth::Look && self.site.mount.info().read_only;
            return is_refused.then(|| "the mount is read-only".to_owned());
        }
        let why = match check.depth {
            Depth::Look => return None,
            Depth::Write => "it writes to the store: --write",
            Depth::Thorough => "it takes long: --thorough",
            Depth::Large => "it stores more than 5 GiB: --large",
        };
        Some(why.to_owned())
    }

    async fn attempt(&self, check: &Check) -> Outcome {
        match AssertUnwindSafe((check.run)(&self.site)).catch_unwind().await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                Outcome::Broken { fix: fix(&error).unwrap_or(check.fix).to_owned(), seen: explain(&error) }
            }
            Err(_) => {
                let fix = "this is a fault of Forebay: report it with the log".to_owned();
                Outcome::Broken { seen: "the check itself failed".to_owned(), fix }
            }
        }
    }

    /// Cleans up, and says whether that worked.
    async fn leftovers(&self) -> Finding {
        let cleaned = match self.clean().await {
            Ok(()) => self.site.mount.stat(&self.site.root, Want::Any).await.map(drop),
            Err(e) => Err(e),
        };
        let outcome = match cleaned {
            Err(e) if e.kind() == ErrorKind::NotFound => Outcome::Holds,
            Err(e) => self.left(&explain(&e)),
            Ok(()) => self.left("the directory is still there"),
        };
        Finding { name: "clean", promise: "what the check wrote is removed", outcome }
    }

    fn left(&self, seen: &str) -> Outcome {
        let fix = format!("remove the directory {} of this mount", self.site.root);
        Outcome::Broken { seen: seen.to_owned(), fix }
    }
}

fn is_nothing_to_remove(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ReadOnly | ErrorKind::Unsupported)
}

/// What helps against an error whatever was tried.
pub fn fix(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::AccessDenied => {
            Some("give the credentials of this mount the right to do this, or others in mounts.yaml")
        }
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            Some("check `endpoint`, `bucket` and `region` in mounts.yaml, and that the store is up")
        }
        ErrorKind::Busy => Some("the store asks to slow down: lower `limits: {operations}`, or repeat"),
        ErrorKind::NoSpace => Some("make room in the store, or raise `limits: {staging}`"),
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::IsDirectory
        | ErrorKind::NotDirectory
        | ErrorKind::NotEmpty
        | ErrorKind::ReadOnly
        | ErrorKind::InvalidName
        | ErrorKind::NameTooLong
        | ErrorKind::InvalidArgument
        | ErrorKind::RangeNotSatisfiable
        | ErrorKind::PreconditionFailed
        | ErrorKind::Stale
        | ErrorKind::BadChecksum
        | ErrorKind::Incomplete
        | ErrorKind::NoSuchUpload
        | ErrorKind::InvalidPart
        | ErrorKind::Unsupported
        | ErrorKind::CrossMount
        | ErrorKind::Internal => None,
    }
}

/// An error with its causes in one line.
pub fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
