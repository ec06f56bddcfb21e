//! In what the kinds of store differ, as data: one [`Dialect`] for each mount.

use std::time::{Duration, SystemTime};

use forebay_core::{ETag, Error, ErrorKind, Precondition, Result};
use opendal::Metadata;
use opendal::options::{ReadOptions, WriteOptions};
use opendal::raw::{Servicer, Timestamp};

use super::index::Index;

/// What one store has of its own.
pub(super) struct Dialect {
    /// Kind of store in logs and answers.
    pub(super) kind: &'static str,
    /// What speaks its protocol.
    pub(super) service: Servicer,
    /// Names the store, so that content cached from another one is never served for it.
    pub(super) fingerprint: String,
    /// Put before each key; empty or ending in `/`.
    pub(super) prefix: String,
    /// Longest key, prefix included.
    pub(super) key_bytes_max: usize,
    /// What tells two contents of a key apart.
    pub(super) revision: Revision,
    /// How a listing is continued.
    pub(super) listing: Listing,
    /// Which names user metadata may have.
    pub(super) metadata_names: MetadataNames,
    /// Largest object that the store copies by itself; 0 where it cannot.
    pub(super) copy_bytes_max: u64,
    /// Characters that the store takes for others.
    pub(super) forbidden: &'static [char],
    /// Where directories are read, for [`Listing::Index`].
    pub(super) index: Option<Index>,
}

/// What tells two contents of a key apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    /// The store's `ETag`.
    ETag,
    /// Google's generation: an `ETag` there also changes with the metadata.
    Generation,
    /// An HTTP server's strong `ETag`, else length and time of change, which is weak.
    Validators,
}

/// How the next page of a listing is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    /// The store starts after any name.
    StartAfter,
    /// The store goes on where it stopped, and otherwise begins at the start.
    Continuation,
    /// Links in the pages that an HTTP server makes of its directories.
    Index,
}

/// Which names user metadata may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetadataNames {
    /// Those of HTTP headers.
    Tokens,
    /// Letters, digits and `_`, as in C#.
    Identifiers,
}

/// Starts a tag made of time and length.
const WEAK: &str = "weak-";

impl Revision {
    /// The tag of a content, and whether it is weak.
    pub(super) fn of(self, metadata: &Metadata) -> (ETag, bool) {
        let etag = metadata.etag().unwrap_or_default();
        match self {
            Self::ETag => (ETag::new(etag), false),
            Self::Generation => (ETag::new(metadata.version().unwrap_or_default()), false),
            Self::Validators if !etag.is_empty() && !etag.starts_with("W/") => (ETag::new(etag), false),
            Self::Validators => {
                let seconds = metadata.last_modified().map_or(0, seconds);
                (ETag::new(&format!("{WEAK}{seconds}-{}", metadata.content_length())), true)
            }
        }
    }

    /// Whether a tag says no more than length and time.
    pub(super) fn is_weak(self, etag: &ETag) -> bool {
        self == Self::Validators && etag.as_str().starts_with(WEAK)
    }

    /// What makes a read fail when the content is no longer the one tagged `etag`.
    pub(super) fn read_options(self, etag: &ETag) -> ReadOptions {
        let weak = etag.as_str().strip_prefix(WEAK).and_then(|rest| rest.split_once('-'));
        match (self, weak) {
            (Self::Generation, _) => {
                ReadOptions { if_version_match: Some(etag.as_str().to_owned()), ..ReadOptions::default() }
            }
            (Self::Validators, Some((seconds, _))) => {
                let at = seconds.parse().ok().and_then(|at| Timestamp::from_second(at).ok());
                ReadOptions { if_unmodified_since: at, ..ReadOptions::default() }
            }
            (Self::ETag | Self::Validators, _) => {
                ReadOptions { if_match: Some(etag.quoted()), ..ReadOptions::default() }
            }
        }
    }

    /// Whether an answer to such a read shows another content. An answer that does not say is believed: it came
    /// under a condition.
    pub(super) fn is_other(self, answer: &Metadata, etag: &ETag) -> bool {
        match self {
            Self::ETag => answer.etag().is_some_and(|seen| ETag::new(seen) != *etag),
            Self::Generation => answer.version().is_some_and(|seen| seen != etag.as_str()),
            // The length of an answer is that of its range, so of a weak tag only the time can be compared.
            Self::Validators => {
                match etag.as_str().strip_prefix(WEAK).and_then(|rest| rest.split_once('-')) {
                    Some((at, _)) => {
                        answer.last_modified().is_none_or(|seen| seconds(seen).to_string() != at)
                    }
                    None => answer.etag().is_some_and(|seen| ETag::new(seen) != *etag),
                }
            }
        }
    }

    /// Puts a condition on a write.
    ///
    /// # Errors
    /// `Unsupported` where the service cannot send it.
    pub(super) fn require(
        self,
        condition: &Precondition,
        options: &mut WriteOptions,
        service: &Servicer,
    ) -> Result<()> {
        if !self.can_require(condition, service) {
            let text = "this kind of store cannot check such a condition; write without one";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        match condition {
            Precondition::None => {}
            Precondition::Absent => options.if_not_exists = true,
            Precondition::Matches(etag) => match self {
                // Google answers a bad request to what is no number.
                Self::Generation if etag.as_str().parse::<u64>().is_err() => {
                    let text = "the object has another tag";
                    return Err(Error::new(ErrorKind::PreconditionFailed, text));
                }
                Self::Generation => options.if_version_match = Some(etag.as_str().to_owned()),
                Self::ETag | Self::Validators => options.if_match = Some(etag.quoted()),
            },
        }
        Ok(())
    }

    /// Whether the service can send a condition at all; whether the server heeds it is another question.
    pub(super) fn can_require(self, condition: &Precondition, service: &Servicer) -> bool {
        let can = service.capability_dyn();
        match (condition, self) {
            (Precondition::None, _) => true,
            (Precondition::Absent, _) => can.write_with_if_not_exists,
            (Precondition::Matches(_), Self::Generation) => can.write_with_if_version_match,
            (Precondition::Matches(_), Self::ETag | Self::Validators) => can.write_with_if_match,
        }
    }
}

fn seconds(at: Timestamp) -> u64 {
    SystemTime::from(at).duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use opendal::MetadataBuilder;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn served(etag: Option<&str>, changed: i64, size_bytes: u64) -> Metadata {
        let mut metadata = MetadataBuilder::file(size_bytes);
        metadata.last_modified(at(changed));
        if let Some(etag) = etag {
            metadata.etag(etag);
        }
        metadata.build()
    }

    #[test]
    fn servers_without_strong_tags_are_told_apart_by_time_and_length() {
        let revision = Revision::Validators;
        for weak in [None, Some("W/\"x\"")] {
            let (etag, is_weak) = revision.of(&served(weak, 1000, 7));
            assert!(is_weak && revision.is_weak(&etag));
            assert_ne!(etag, revision.of(&served(weak, 1001, 7)).0);
            assert_ne!(etag, revision.of(&served(weak, 1000, 8)).0);
            assert_eq!(revision.read_options(&etag).if_unmodified_since, Some(at(1000)));
            // The length of an answer is its range's.
            assert!(!revision.is_other(&served(weak, 1000, 3), &etag));
            assert!(revision.is_other(&served(weak, 1001, 3), &etag));
        }
        let (etag, is_weak) = revision.of(&served(Some("\"x\""), 1000, 7));
        assert!(!is_weak && etag == ETag::new("x"));
        assert_eq!(revision.read_options(&etag).if_match.as_deref(), Some("\"x\""));
    }

    #[test]
    fn generations_name_contents_at_google() {
        let mut metadata = MetadataBuilder::file(1);
        metadata.version("17").etag("\"changes with the metadata\"");
        let (etag, is_weak) = Revision::Generation.of(&metadata.build());
        assert_eq!((etag.as_str(), is_weak), ("17", false));
        assert_eq!(Revision::Generation.read_options(&etag).if_version_match.as_deref(), Some("17"));
    }
}
