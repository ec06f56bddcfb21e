//! What a store is tried out for before it is relied on: whether it refuses writes whose condition does not hold,
//! and whether its listings come in byte order and start where they are told to.
//!
//! The trial writes four small objects under a name of its own, which listings do not show, and removes them. A
//! store that lets nobody write is not tried: nothing will rely on it.

use std::time::Duration;

use forebay_core::{Clock, ETag, Error, ErrorKind, Headers, ListQuery, Precondition, Result};
use futures::future::join_all;
use opendal::options::WriteOptions;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::dialect::{Listing, Revision};
use super::{Object, ObjectStore, Source};
use crate::backend::Backend;
use crate::config::Quirks;

/// What the names of trial objects start with.
pub(super) const TRIAL_PREFIX: &str = ".forebay-probe-";
/// After this time objects of a trial are leftovers of a gateway that died.
const LEFTOVER_AGE: Duration = Duration::from_hours(1);

/// Conditions that the server heeds.
#[derive(Clone, Copy)]
pub(super) struct Heeded {
    pub(super) create: bool,
    pub(super) replace: bool,
}

/// What is known of one store; unknown until it was tried out.
pub(super) struct Trial {
    heeded: OnceCell<Heeded>,
    is_ordered: OnceCell<bool>,
    /// Tags are the MD5 of what one request stored.
    has_md5_tags: OnceCell<bool>,
}

/// The MD5 of nothing.
const MD5_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

impl Trial {
    pub(super) fn new(quirks: Quirks) -> Self {
        let heeded = quirks.conditional_write.map(|does| Heeded { create: does, replace: does });
        Self {
            heeded: OnceCell::new_with(heeded),
            is_ordered: OnceCell::new_with(quirks.ordered_list),
            has_md5_tags: OnceCell::new(),
        }
    }

    /// What is heeded, as far as it is known; what is not known is asked before it is relied on.
    pub(super) fn heeded(&self) -> Heeded {
        self.heeded.get().copied().unwrap_or(Heeded { create: true, replace: true })
    }

    /// Whether tags are known to be digests that can be compared.
    pub(super) fn has_md5_tags(&self) -> bool {
        self.has_md5_tags.get() == Some(&true)
    }

    /// Whether listings are known to come in another order than that of their bytes.
    pub(super) fn is_unordered(&self) -> bool {
        self.is_ordered.get() == Some(&false)
    }
}

impl ObjectStore {
    /// Tries out what is not known yet.
    pub(super) async fn try_out(&self) -> Result<()> {
        if self.trial.heeded.initialized() && self.trial.is_ordered.initialized() {
            return Ok(());
        }
        let outcome = async {
            self.trial.heeded.get_or_try_init(|| self.try_conditions()).await?;
            self.trial.is_ordered.get_or_try_init(|| self.try_order()).await?;
            self.remove_leftovers().await
        };
        match outcome.await {
            // Whoever may not write needs none of this.
            Err(error) if matches!(error.kind(), ErrorKind::AccessDenied | ErrorKind::Unsupported) => Ok(()),
            answer => answer,
        }
    }

    /// Refuses a condition that the server would ignore.
    pub(super) async fn require_heeded(&self, condition: &Precondition) -> Result<()> {
        let heeded = self.trial.heeded.get_or_try_init(|| self.try_conditions()).await?;
        let is_heeded = match condition {
            Precondition::None => true,
            Precondition::Absent => heeded.create,
            Precondition::Matches(_) => heeded.replace,
        };
        if is_heeded {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "this store ignores conditions of writes; write without one"))
    }

    async fn try_conditions(&self) -> Result<Heeded> {
        let key = format!("{TRIAL_PREFIX}{}", Uuid::new_v4());
        let answer = async {
            let other = Precondition::Matches(ETag::new(self.never_a_tag()));
            self.write_trial(&key, &Precondition::None).await?;
            let create = self.is_refused(&key, &Precondition::Absent).await?;
            let replace = self.is_refused(&key, &other).await?;
            Ok(Heeded { create, replace })
        };
        let answer: Result<Heeded> = answer.await;
        let removed = self.delete(&key).await;
        let heeded = answer?;
        removed?;
        if !(heeded.create && heeded.replace) {
            tracing::info!(
                store = self.fingerprint(),
                create = heeded.create,
                replace = heeded.replace,
                "the store does not check all conditions of writes"
            );
        }
        Ok(heeded)
    }

    /// A tag in the store's form that no content has.
    fn never_a_tag(&self) -> &'static str {
        match self.dialect.revision {
            Revision::Generation => "1",
            Revision::ETag | Revision::Validators => "00000000000000000000000000000000",
        }
    }

    async fn write_trial(&self, key: &str, condition: &Precondition) -> Result<()> {
        let mut options = WriteOptions::default();
        self.dialect.revision.require(condition, &mut options, &self.dialect.service)?;
        self.send(&self.full(key)?, &Source::new(Vec::new()), options).await.map(drop)
    }

    async fn is_refused(&self, key: &str, condition: &Precondition) -> Result<bool> {
        match self.write_trial(key, condition).await {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => Ok(true),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn try_order(&self) -> Result<bool> {
        let base = format!("{TRIAL_PREFIX}{}/", Uuid::new_v4());
        let names = ["a!", "a/x", "b"].map(|name| format!("{base}{name}"));
        let (nothing, headers) = (Source::new(Vec::new()), Headers::default());
        let written =
            join_all(names.iter().map(|name| self.put(name, &nothing, &headers, &Precondition::None)));
        // All of them, so that none is still on its way when they are removed.
        let written: Result<Vec<Object>> = written.await.into_iter().collect();
        let answer = async {
            let is_digest = written?.iter().all(|object| object.etag.as_str() == MD5_OF_NOTHING);
            self.trial.has_md5_tags.get_or_init(async || is_digest).await;
            let query =
                |after| ListQuery { prefix: base.clone(), shallow: false, start_after: after, limit: 10 };
            let all = self.stored_names(&query(None)).await?;
            let rest = match self.dialect.listing {
                Listing::StartAfter => self.stored_names(&query(Some(names[0].clone()))).await?,
                Listing::Continuation | Listing::Index => names[1..].to_vec(),
            };
            Ok(all == names && rest == names[1..])
        };
        let answer: Result<bool> = answer.await;
        for removed in join_all(names.iter().map(|name| self.delete(name))).await {
            removed?;
        }
        let is_ordered = answer?;
        if !is_ordered {
            tracing::warn!(
                store = self.fingerprint(),
                "listings are not in byte order: each one reads all names below its prefix"
            );
        }
        Ok(is_ordered)
    }

    async fn remove_leftovers(&self) -> Result<()> {
        let query =
            ListQuery { prefix: TRIAL_PREFIX.to_owned(), shallow: false, start_after: None, limit: 100 };
        let now = Clock::system().now();
        for object in self.list_stored(&query).await?.objects {
            if now.duration_since(object.modified).is_ok_and(|age| age > LEFTOVER_AGE) {
                self.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}
