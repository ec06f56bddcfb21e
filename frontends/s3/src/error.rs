//! The one table from kinds of error to S3 codes, and what clients may read about them.

use forebay_core::{Error, ErrorKind};
use hyper::StatusCode;
use s3s::{S3Error, S3ErrorCode};

/// How a kind of error looks to a client.
struct Row {
    code: S3ErrorCode,
    /// Where S3 has no status of its own for the code.
    status: Option<StatusCode>,
    /// What is told instead of the error's own text, which may name hosts and paths of stores.
    fault: Option<&'static str>,
}

/// The S3 error of a namespace error. Faults of the gateway or a store are logged here, and only their kind is told
/// to the client.
pub(crate) fn to_s3(error: Error) -> S3Error {
    let Row { code, status, fault } = row(error.kind());
    let mut answer = S3Error::new(code);
    match fault {
        Some(message) => {
            tracing::warn!(error = %Chain(&error), kind = ?error.kind(), "a request failed");
            answer.set_message(message);
        }
        None => answer.set_message(error.to_string()),
    }
    if let Some(status) = status {
        answer.set_status_code(status);
    }
    answer.set_source(Box::new(error));
    answer
}

fn row(kind: ErrorKind) -> Row {
    let client = |code| Row { code, status: None, fault: None };
    let fault = |code, message| Row { code, status: None, fault: Some(message) };
    let conflict = |code: &str| Row {
        code: S3ErrorCode::Custom(code.into()),
        status: Some(StatusCode::CONFLICT),
        fault: None,
    };
    match kind {
        ErrorKind::NotFound => client(S3ErrorCode::NoSuchKey),
        ErrorKind::AlreadyExists => client(S3ErrorCode::BucketAlreadyOwnedByYou),
        ErrorKind::IsDirectory => conflict("ObjectExistsAsDirectory"),
        ErrorKind::NotDirectory => conflict("ParentIsObject"),
        ErrorKind::NotEmpty => client(S3ErrorCode::BucketNotEmpty),
        ErrorKind::AccessDenied | ErrorKind::ReadOnly => client(S3ErrorCode::AccessDenied),
        ErrorKind::InvalidName | ErrorKind::InvalidArgument => client(S3ErrorCode::InvalidArgument),
        ErrorKind::NameTooLong => client(S3ErrorCode::KeyTooLongError),
        ErrorKind::RangeNotSatisfiable => client(S3ErrorCode::InvalidRange),
        ErrorKind::PreconditionFailed => client(S3ErrorCode::PreconditionFailed),
        ErrorKind::BadChecksum => client(S3ErrorCode::BadDigest),
        ErrorKind::Incomplete => client(S3ErrorCode::IncompleteBody),
        ErrorKind::NoSuchUpload => client(S3ErrorCode::NoSuchUpload),
        ErrorKind::InvalidPart => client(S3ErrorCode::InvalidPart),
        ErrorKind::Unsupported | ErrorKind::CrossMount => {
            fault(S3ErrorCode::NotImplemented, "the store behind this bucket cannot do this")
        }
        ErrorKind::NoSpace => Row {
            code: S3ErrorCode::Custom("InsufficientStorage".into()),
            status: Some(StatusCode::INSUFFICIENT_STORAGE),
            fault: Some("the disk or quota of the gateway or the store is full"),
        },
        ErrorKind::Busy => fault(S3ErrorCode::SlowDown, "too many requests are in flight; reduce your rate"),
        ErrorKind::Stale => {
            fault(S3ErrorCode::ServiceUnavailable, "the object changed while it was read; repeat")
        }
        ErrorKind::Unavailable => fault(
            S3ErrorCode::ServiceUnavailable,
            "the store behind this bucket cannot be reached; repeat later",
        ),
        ErrorKind::Timeout => fault(
            S3ErrorCode::ServiceUnavailable,
            "the store behind this bucket did not answer in time; repeat",
        ),
        ErrorKind::Internal => fault(
            S3ErrorCode::InternalError,
            "an internal error; the log has the details under this request id",
        ),
    }
}

/// An error with its causes on one line.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: ErrorKind) -> (String, u16, String) {
        let error = to_s3(Error::new(kind, "secret-host:9000 said no").at("read", "/b/k"));
        let status = error.status_code().expect("every answer has a status").as_u16();
        (error.code().as_str().to_owned(), status, error.message().unwrap_or_default().to_owned())
    }

    #[test]
    fn clients_learn_why_their_request_was_wrong() {
        assert_eq!(told(ErrorKind::ReadOnly).1, 403);
        assert_eq!(told(ErrorKind::IsDirectory).1, 409);
        assert!(told(ErrorKind::InvalidName).2.contains("said no"));
    }

    #[test]
    fn faults_do_not_show_the_store() {
        for kind in [ErrorKind::Internal, ErrorKind::Unavailable, ErrorKind::NoSpace, ErrorKind::Busy] {
            let (code, status, message) = told(kind);
            assert!(status >= 500, "{code}");
            assert!(!message.contains("secret-host"), "{code}");
        }
    }
}
