//! The one table from the exceptions of Hadoop to the kinds of the port.
//!
//! Source: `ExceptionHandler` and the exceptions named in "`FileSystem` Specification", Hadoop 3.3.

use forebay_core::{Error, ErrorKind};
use reqwest::StatusCode;
use serde::Deserialize;

/// Longest text kept from a NameNode, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// What a standby NameNode throws: the request had no effect, and the other one may take it.
const STANDBY: &str = "StandbyException";

/// Exceptions by their simple class name.
const CLASSES: &[(&str, ErrorKind)] = &[
    ("FileNotFoundException", ErrorKind::NotFound),
    ("XAttrNotFoundException", ErrorKind::NotFound),
    ("FileAlreadyExistsException", ErrorKind::AlreadyExists),
    ("ParentNotDirectoryException", ErrorKind::NotDirectory),
    ("PathIsNotDirectoryException", ErrorKind::NotDirectory),
    ("PathIsNotEmptyDirectoryException", ErrorKind::NotEmpty),
    ("AccessControlException", ErrorKind::AccessDenied),
    ("AuthenticationException", ErrorKind::AccessDenied),
    ("AuthorizationException", ErrorKind::AccessDenied),
    ("SecurityException", ErrorKind::AccessDenied),
    ("InvalidToken", ErrorKind::AccessDenied),
    ("SnapshotAccessControlException", ErrorKind::ReadOnly),
    ("InvalidPathException", ErrorKind::InvalidName),
    ("PathComponentTooLongException", ErrorKind::NameTooLong),
    ("QuotaExceededException", ErrorKind::NoSpace),
    ("NSQuotaExceededException", ErrorKind::NoSpace),
    ("DSQuotaExceededException", ErrorKind::NoSpace),
    ("QuotaByStorageTypeExceededException", ErrorKind::NoSpace),
    ("MaxDirectoryItemsExceededException", ErrorKind::NoSpace),
    ("IllegalArgumentException", ErrorKind::InvalidArgument),
    ("HadoopIllegalArgumentException", ErrorKind::InvalidArgument),
    ("UnsupportedOperationException", ErrorKind::Unsupported),
    ("UnresolvedPathException", ErrorKind::Unsupported),
    // A live NameNode that asks for patience: in safe mode it still answers reads, which an open breaker would not.
    ("SafeModeException", ErrorKind::Busy),
    ("RetriableException", ErrorKind::Busy),
    ("AlreadyBeingCreatedException", ErrorKind::Busy),
    (STANDBY, ErrorKind::Unavailable),
    ("BlockMissingException", ErrorKind::Unavailable),
    ("LeaseExpiredException", ErrorKind::Unavailable),
    ("ConnectException", ErrorKind::Unavailable),
    ("NoRouteToHostException", ErrorKind::Unavailable),
    ("SocketTimeoutException", ErrorKind::Timeout),
];

/// Texts that say more than the class they come with: a plain `IOException`, or one that lost its own class on its
/// way through a DataNode.
const TEXTS: &[(&str, ErrorKind)] = &[
    ("(is not a directory)", ErrorKind::NotDirectory),
    ("Invalid path name", ErrorKind::InvalidName),
    ("out of the range [0,", ErrorKind::RangeNotSatisfiable),
    ("directory is not empty", ErrorKind::NotEmpty),
    ("encryption zone", ErrorKind::Unsupported),
    ("Support for XAttrs has been disabled", ErrorKind::Unsupported),
    ("could only be written to", ErrorKind::Unavailable),
    ("Name node is in safe mode", ErrorKind::Busy),
];

/// The body of a refusal.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "RemoteException")]
    exception: RemoteException,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RemoteException {
    exception: String,
    #[serde(default)]
    java_class_name: String,
    #[serde(default)]
    message: String,
}

/// A refusal of a NameNode or DataNode.
pub(super) struct Refusal {
    /// It came from a standby, so another NameNode is to be asked.
    pub(super) is_standby: bool,
    /// The same for callers.
    pub(super) error: Error,
}

/// Reads a refusal: its status and body.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let Ok(Envelope { exception }) = serde_json::from_slice(body) else {
        return Refusal { is_standby: false, error: not_webhdfs(status) };
    };
    let class = simple(&exception);
    // DataNodes append the stack.
    let text: String =
        exception.message.lines().next().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect();
    let error = Error::new(kind(class, &text, status), format!("HDFS answered {class}: {text}"));
    Refusal { is_standby: class == STANDBY, error }
}

/// The class without its package and outer class.
fn simple(exception: &RemoteException) -> &str {
    let name = exception.java_class_name.rsplit(['.', '$']).next().unwrap_or_default();
    if name.is_empty() { &exception.exception } else { name }
}

fn kind(class: &str, text: &str, status: StatusCode) -> ErrorKind {
    if let Some((_, kind)) = TEXTS.iter().find(|(part, _)| text.contains(part)) {
        return *kind;
    }
    if let Some((_, kind)) = CLASSES.iter().find(|(known, _)| *known == class) {
        return *kind;
    }
    if status == StatusCode::UNAUTHORIZED { ErrorKind::AccessDenied } else { ErrorKind::Internal }
}

/// Not an answer of WebHDFS: to take a proxy's 404 for a missing file would show an empty store.
fn not_webhdfs(status: StatusCode) -> Error {
    if status == StatusCode::UNAUTHORIZED {
        let text = "the NameNode asks for authentication; set `delegation_token` (Kerberos is not supported)";
        return Error::new(ErrorKind::AccessDenied, text);
    }
    let text =
        format!("the endpoint answered {status} and not as WebHDFS does; is it a NameNode's HTTP address?");
    Error::new(ErrorKind::Unavailable, text)
}

/// A request that got no answer. Without its URL, which may hold a token, it is nothing but the network's complaint.
pub(super) fn unanswered(error: reqwest::Error) -> Error {
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(class: &str, message: &str) -> Refusal {
        let name = class.rsplit(['.', '$']).next().expect("a name");
        let body = serde_json::json!({
            "RemoteException": {"exception": name, "javaClassName": class, "message": message}
        });
        refusal(StatusCode::FORBIDDEN, body.to_string().as_bytes())
    }

    #[test]
    fn classes_tell_callers_what_to_do() {
        for (class, message, expected) in [
            ("java.io.FileNotFoundException", "", ErrorKind::NotFound),
            ("org.apache.hadoop.fs.ParentNotDirectoryException", "", ErrorKind::NotDirectory),
            ("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "", ErrorKind::NoSpace),
            (
                "org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException",
                "",
                ErrorKind::NameTooLong,
            ),
            ("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "", ErrorKind::Busy),
            (
                "org.apache.hadoop.security.AccessControlException",
                "Permission denied",
                ErrorKind::AccessDenied,
            ),
            (
                "org.apache.hadoop.security.AccessControlException",
                "/f (is not a directory)",
                ErrorKind::NotDirectory,
            ),
            (
                "java.io.IOException",
                "Offset=9 out of the range [0, 5); OPEN, path=/f",
                ErrorKind::RangeNotSatisfiable,
            ),
            ("org.apache.hadoop.ipc.RemoteException", "Invalid path name /x:y", ErrorKind::InvalidName),
            ("java.io.IOException", "something new", ErrorKind::Internal),
        ] {
            assert_eq!(told(class, message).error.kind(), expected, "{class} {message}");
        }
        let standby = told("org.apache.hadoop.ipc.StandbyException", "Operation category READ");
        assert!(standby.is_standby && standby.error.is_temporary());
    }

    #[test]
    fn stacks_are_dropped_and_foreign_answers_are_no_missing_files() {
        let error = told("java.io.IOException", "it failed\n\tat org.apache.hadoop.X").error;
        assert_eq!(error.to_string(), "HDFS answered IOException: it failed");
        let foreign = refusal(StatusCode::NOT_FOUND, b"<html>").error;
        assert_eq!(foreign.kind(), ErrorKind::Unavailable);
        assert_eq!(refusal(StatusCode::UNAUTHORIZED, b"").error.kind(), ErrorKind::AccessDenied);
    }
}
