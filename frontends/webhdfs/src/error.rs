//! Hadoop's exceptions: which class and status each failure has. The client rebuilds the exception from its class.

use actix_web::http::StatusCode;
use forebay_core::{Error, ErrorKind};
use serde::Serialize;

pub(crate) type Result<T> = std::result::Result<T, RemoteException>;

/// The Java classes that this frontend names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exception {
    FileNotFound,
    FileAlreadyExists,
    ParentNotDirectory,
    PathIsNotEmptyDirectory,
    AccessControl,
    /// The same class for a caller that is not known: 401.
    Unauthenticated,
    Authorization,
    AlreadyBeingCreated,
    QuotaExceeded,
    Io,
    Retriable,
    IllegalArgument,
    InvalidPath,
    UnsupportedOperation,
    Runtime,
}

impl Exception {
    fn class(self) -> &'static str {
        match self {
            Self::FileNotFound => "java.io.FileNotFoundException",
            Self::FileAlreadyExists => "org.apache.hadoop.fs.FileAlreadyExistsException",
            Self::ParentNotDirectory => "org.apache.hadoop.fs.ParentNotDirectoryException",
            Self::PathIsNotEmptyDirectory => "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException",
            Self::AccessControl | Self::Unauthenticated => {
                "org.apache.hadoop.security.AccessControlException"
            }
            Self::Authorization => "org.apache.hadoop.security.authorize.AuthorizationException",
            Self::AlreadyBeingCreated => "org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException",
            Self::QuotaExceeded => "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException",
            Self::Io => "java.io.IOException",
            Self::Retriable => "org.apache.hadoop.ipc.RetriableException",
            Self::IllegalArgument => "java.lang.IllegalArgumentException",
            Self::InvalidPath => "org.apache.hadoop.fs.InvalidPathException",
            Self::UnsupportedOperation => "java.lang.UnsupportedOperationException",
            Self::Runtime => "java.lang.RuntimeException",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::FileNotFound => StatusCode::NOT_FOUND,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::FileAlreadyExists
            | Self::ParentNotDirectory
            | Self::PathIsNotEmptyDirectory
            | Self::AccessControl
            | Self::Authorization
            | Self::AlreadyBeingCreated
            | Self::QuotaExceeded
            | Self::Io => StatusCode::FORBIDDEN,
            Self::Retriable => StatusCode::SERVICE_UNAVAILABLE,
            Self::IllegalArgument | Self::InvalidPath | Self::UnsupportedOperation => StatusCode::BAD_REQUEST,
            Self::Runtime => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A failure as the client reads it.
#[derive(Clone, Debug)]
pub(crate) struct RemoteException {
    pub(crate) exception: Exception,
    pub(crate) message: String,
}

#[derive(Serialize)]
struct Wire<'a> {
    exception: &'a str,
    #[serde(rename = "javaClassName")]
    java_class_name: &'a str,
    message: &'a str,
}

impl RemoteException {
    pub(crate) fn new(exception: Exception, message: impl Into<String>) -> Self {
        Self { exception, message: message.into() }
    }

    /// A parameter that cannot be read, in Hadoop's words: clients match the start of this text.
    pub(crate) fn parameter(name: &str, problem: &str) -> Self {
        let message = format!("Invalid value for webhdfs parameter \"{name}\": {problem}");
        Self::new(Exception::IllegalArgument, message)
    }

    /// A handler that died: the server lives on.
    pub(crate) fn panicked() -> Self {
        Self::new(Exception::Runtime, "the gateway failed to answer; its log says why")
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.exception.status()
    }

    pub(crate) fn to_json(&self) -> String {
        let class = self.exception.class();
        let exception = class.rsplit(['.', '$']).next().expect("rsplit yields at least one part");
        let wire = Wire { exception, java_class_name: class, message: &self.message };
        serde_json::json!({ "RemoteException": wire }).to_string()
    }
}

/// The table from the namespace's errors to Hadoop's.
impl From<Error> for RemoteException {
    fn from(error: Error) -> Self {
        let exception = match error.kind() {
            ErrorKind::NotFound | ErrorKind::IsDirectory => Exception::FileNotFound,
            ErrorKind::AlreadyExists | ErrorKind::PreconditionFailed => Exception::FileAlreadyExists,
            ErrorKind::NotDirectory => Exception::ParentNotDirectory,
            ErrorKind::NotEmpty => Exception::PathIsNotEmptyDirectory,
            ErrorKind::AccessDenied | ErrorKind::ReadOnly => Exception::AccessControl,
            ErrorKind::InvalidName | ErrorKind::NameTooLong => Exception::InvalidPath,
            ErrorKind::InvalidArgument | ErrorKind::NoSuchUpload | ErrorKind::InvalidPart => {
                Exception::IllegalArgument
            }
            ErrorKind::RangeNotSatisfiable
            | ErrorKind::Stale
            | ErrorKind::BadChecksum
            | ErrorKind::Incomplete
            | ErrorKind::CrossMount => Exception::Io,
            ErrorKind::Unsupported => Exception::UnsupportedOperation,
            ErrorKind::NoSpace => Exception::QuotaExceeded,
            ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Timeout => Exception::Retriable,
            ErrorKind::Internal => Exception::Runtime,
        };
        if exception == Exception::Runtime {
            tracing::error!(error = %error, cause = std::error::Error::source(&error), "internal error");
        }
        Self::new(exception, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_class_twice() {
        let error = RemoteException::new(Exception::AlreadyBeingCreated, "m \"q\"");
        assert_eq!(
            error.to_json(),
            r#"{"RemoteException":{"exception":"AlreadyBeingCreatedException","javaClassName":"org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException","message":"m \"q\""}}"#
        );
    }

    #[test]
    fn only_a_missing_file_is_404_and_only_temporary_trouble_is_503() {
        let status = |kind| RemoteException::from(Error::new(kind, "x")).status().as_u16();
        assert_eq!(status(ErrorKind::NotFound), 404);
        for kind in
            [ErrorKind::AlreadyExists, ErrorKind::NotDirectory, ErrorKind::AccessDenied, ErrorKind::Stale]
        {
            assert_eq!(status(kind), 403, "{kind:?}");
        }
        for kind in [ErrorKind::Busy, ErrorKind::Unavailable, ErrorKind::Timeout] {
            assert_eq!(status(kind), 503, "{kind:?}");
        }
        assert_eq!(status(ErrorKind::InvalidName), 400);
        assert_eq!(status(ErrorKind::Internal), 500);
    }
}
