//! The one table from `OpenDAL`'s errors to ours.
//!
//! Only the store's own message is kept, shortened: the rest of an `OpenDAL` error carries response headers, and a
//! transport error carries URLs. Nothing here sees credentials.

use forebay_core::{Error, ErrorKind};
use opendal::ErrorKind as Dal;

/// Longest text kept from a store, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// Starts the message of an error of the network, which is no word of the store's.
pub(super) const NO_ANSWER: &str = "no answer from the store: ";

/// Codes inside S3 error bodies that say more than `OpenDAL`'s kind.
const CODES: &[(&str, ErrorKind)] = &[
    ("KeyTooLongError", ErrorKind::NameTooLong),
    ("XMinioInvalidObjectName", ErrorKind::InvalidName),
    ("EntityTooLarge", ErrorKind::InvalidArgument),
    ("MetadataTooLarge", ErrorKind::InvalidArgument),
    ("NotImplemented", ErrorKind::Unsupported),
    ("QuotaExceeded", ErrorKind::NoSpace),
    ("XMinioStorageFull", ErrorKind::NoSpace),
    ("BadDigest", ErrorKind::BadChecksum),
    ("ObjectParentIsFile", ErrorKind::NotDirectory),
    ("ExistingObjectIsDirectory", ErrorKind::IsDirectory),
];

/// An error of `OpenDAL` as one of the port.
pub(super) fn from_opendal(error: &opendal::Error) -> Error {
    let text = match error.kind() {
        // The answer to a HEAD has no body that says so.
        Dal::NotFound if error.message().is_empty() => "no such object".to_owned(),
        _ => readable(error.message()),
    };
    // What an answer could not be read for; a cause from the network is in the message already.
    let text =
        match std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<serde_json::Error>()) {
            Some(cause) => format!("{text}: {cause}"),
            None => text,
        };
    let kind = match error.kind() {
        Dal::NotFound => ErrorKind::NotFound,
        Dal::PermissionDenied => ErrorKind::AccessDenied,
        Dal::ConditionNotMatch => ErrorKind::PreconditionFailed,
        Dal::RangeNotSatisfied => ErrorKind::RangeNotSatisfiable,
        // Too many requests, or another writer is at this object: repeat.
        Dal::RateLimited | Dal::Conflict => ErrorKind::Busy,
        Dal::AlreadyExists => ErrorKind::AlreadyExists,
        Dal::IsADirectory => ErrorKind::IsDirectory,
        Dal::NotADirectory => ErrorKind::NotDirectory,
        Dal::Unsupported => ErrorKind::Unsupported,
        Dal::IsSameFile => ErrorKind::InvalidArgument,
        // A missing bucket or a wrong option: the operator must act, and until then the store is not there.
        Dal::ConfigInvalid => ErrorKind::Unavailable,
        Dal::Unexpected => unexpected(error, &text),
        // `OpenDAL` may add kinds; until this table knows them, the store breaks its contract.
        _ => ErrorKind::Internal,
    };
    Error::new(kind, text)
}

/// What the store said: code and message of an S3 error body, or the text as it is.
fn readable(message: &str) -> String {
    let quoted = |field: &str| {
        let (_, rest) = message.split_once(&format!("{field}: \""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    let text = match (quoted("code"), quoted("message")) {
        (Some(code), Some(message)) => format!("the store answered {code}: {message}"),
        _ if message.starts_with(NO_ANSWER) => message.to_owned(),
        (None, Some(message)) => format!("the store answered: {message}"),
        _ if message.is_empty() => "the store refused without a reason".to_owned(),
        _ => format!("the store answered: {message}"),
    };
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

fn unexpected(error: &opendal::Error, text: &str) -> ErrorKind {
    if let Some((_, kind)) = CODES.iter().find(|(code, _)| text.contains(code)) {
        return *kind;
    }
    if error.is_temporary() { ErrorKind::Unavailable } else { ErrorKind::Internal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_tell_callers_what_to_do() {
        let kind = |error: opendal::Error| from_opendal(&error).kind();
        assert_eq!(kind(opendal::Error::new(Dal::NotFound, "x")), ErrorKind::NotFound);
        assert_eq!(kind(opendal::Error::new(Dal::RateLimited, "x").set_temporary()), ErrorKind::Busy);
        assert_eq!(kind(opendal::Error::new(Dal::Unexpected, "x").set_temporary()), ErrorKind::Unavailable);
        assert_eq!(kind(opendal::Error::new(Dal::Unexpected, "x")), ErrorKind::Internal);
        let full = r#"S3Error { code: "XMinioStorageFull" }"#;
        assert_eq!(kind(opendal::Error::new(Dal::Unexpected, full).set_temporary()), ErrorKind::NoSpace);
    }

    #[test]
    fn only_the_message_is_kept() {
        let error = opendal::Error::new(Dal::Unexpected, "m".repeat(1000)).with_context("header", "secret");
        let text = from_opendal(&error).to_string();
        assert!(text.len() <= MESSAGE_CHARS_MAX && !text.contains("secret"));
        let body =
            r#"S3Error { code: "SlowDown", message: "Please wait.", resource: "/b/k", request_id: "1" }"#;
        assert_eq!(readable(body), "the store answered SlowDown: Please wait.");
        let google = r#"GcsErrorResponse { error: GcsError { code: 412, message: "Precondition failed", errors: [] } }"#;
        assert_eq!(readable(google), "the store answered: Precondition failed");
    }
}
