//! Conditional requests (RFC 9110, section 13) and entity tags as S3 shows them.

use std::time::{SystemTime, UNIX_EPOCH};

use forebay_core::{ETag, Entry, Precondition, calendar};
use s3s::dto::{ETag as S3Tag, ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

/// The conditions of a read, or of the source of a copy.
#[derive(Default)]
pub(crate) struct Conditions {
    pub(crate) matches: Option<ETagCondition>,
    pub(crate) none_match: Option<ETagCondition>,
    pub(crate) modified_since: Option<Timestamp>,
    pub(crate) unmodified_since: Option<Timestamp>,
}

/// What the conditions of a read say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proceed,
    NotModified,
    Failed,
}

impl Conditions {
    /// Evaluates in the order of RFC 9110, section 13.2.2: a tag condition silences the date condition of its kind.
    pub(crate) fn evaluate(&self, entry: &Entry) -> Verdict {
        match (&self.matches, &self.unmodified_since) {
            (Some(condition), _) if !is_met(condition, &entry.etag) => return Verdict::Failed,
            (None, Some(date)) if seconds(entry.modified) > timestamp_seconds(date) => {
                return Verdict::Failed;
            }
            (Some(_) | None, _) => {}
        }
        match (&self.none_match, &self.modified_since) {
            (Some(condition), _) if is_met(condition, &entry.etag) => Verdict::NotModified,
            (None, Some(date)) if seconds(entry.modified) <= timestamp_seconds(date) => Verdict::NotModified,
            (Some(_) | None, _) => Verdict::Proceed,
        }
    }
}

fn is_met(condition: &ETagCondition, etag: &ETag) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == etag.as_str(),
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn timestamp_seconds(timestamp: &Timestamp) -> i64 {
    time::OffsetDateTime::from(timestamp.clone()).unix_timestamp()
}

/// What must hold for a write to appear.
///
/// # Errors
/// `NotImplemented` for the forms that S3 does not have either.
pub(crate) fn precondition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (Some(ETagCondition::ETag(tag)), None) => Ok(Precondition::Matches(ETag::new(tag.value()))),
        (Some(_), Some(_)) | (None, Some(ETagCondition::ETag(_))) | (Some(ETagCondition::Any), None) => {
            Err(s3_error!(NotImplemented, "writes take `If-None-Match: *` or `If-Match: <tag>`, not both"))
        }
    }
}

/// The time as S3 shows it.
pub(crate) fn s3_time(time: SystemTime) -> Timestamp {
    Timestamp::from(calendar(time))
}

/// The tag as S3 shows it.
pub(crate) fn s3_tag(etag: &ETag) -> S3Tag {
    S3Tag::Strong(etag.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing;

    fn date(seconds: u64) -> Timestamp {
        Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn tag(text: &str) -> ETagCondition {
        ETagCondition::ETag(S3Tag::Strong(text.into()))
    }

    #[test]
    fn tags_take_precedence_over_dates() {
        let entry = testing::entry("tag", 100);
        let is = |conditions: Conditions| conditions.evaluate(&entry);
        let matching = Conditions {
            matches: Some(tag("tag")),
            unmodified_since: Some(date(50)),
            ..Conditions::default()
        };
        assert_eq!(is(matching), Verdict::Proceed);
        let other =
            Conditions { none_match: Some(tag("x")), modified_since: Some(date(200)), ..Default::default() };
        assert_eq!(is(other), Verdict::Proceed);
        assert_eq!(is(Conditions { matches: Some(tag("x")), ..Default::default() }), Verdict::Failed);
        let any = Conditions { none_match: Some(ETagCondition::Any), ..Default::default() };
        assert_eq!(is(any), Verdict::NotModified);
    }

    #[test]
    fn dates_count_whole_seconds() {
        let mut entry = testing::entry("tag", 100);
        entry.modified += Duration::from_millis(700);
        let since = Conditions { modified_since: Some(date(100)), ..Default::default() };
        assert_eq!(since.evaluate(&entry), Verdict::NotModified);
        let unmodified = Conditions { unmodified_since: Some(date(99)), ..Default::default() };
        assert_eq!(unmodified.evaluate(&entry), Verdict::Failed);
    }

    #[test]
    fn writes_take_the_two_forms_of_s3() {
        assert_eq!(precondition(None, Some(&ETagCondition::Any)).expect("valid"), Precondition::Absent);
        let expected = Precondition::Matches(ETag::new("t"));
        assert_eq!(precondition(Some(&tag("t")), None).expect("valid"), expected);
        assert!(precondition(None, Some(&tag("t"))).is_err());
    }
}
