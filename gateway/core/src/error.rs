//! The one error of the namespace port. Its kind says what a caller can do; each edge has one exhaustive table
//! from kinds to S3 codes, Hadoop exceptions, errnos or exit codes.

use std::fmt;

/// Result of the namespace port.
pub type Result<T> = std::result::Result<T, Error>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such file, directory or mount.
    NotFound,
    /// The target exists and may not be replaced.
    AlreadyExists,
    /// A file was needed and a directory is there.
    IsDirectory,
    /// A directory was needed (perhaps as an ancestor) and a file is there.
    NotDirectory,
    /// A directory has children.
    NotEmpty,
    /// The principal has no grant for this.
    AccessDenied,
    /// The mount or this part of the namespace takes no writes.
    ReadOnly,
    /// No store could hold this name.
    InvalidName,
    /// The name is longer than the store allows.
    NameTooLong,
    /// The request makes no sense in itself.
    InvalidArgument,
    /// A read starts past the end.
    RangeNotSatisfiable,
    /// A precondition of the caller does not hold.
    PreconditionFailed,
    /// The content changed under an open file: look it up again.
    Stale,
    /// Bytes do not match the checksum sent or kept with them.
    BadChecksum,
    /// The body ended before its announced length.
    Incomplete,
    /// No such multipart upload.
    NoSuchUpload,
    /// A part is missing, out of order or not the one named.
    InvalidPart,
    /// The store cannot do this at all.
    Unsupported,
    /// Source and destination lie on different mounts.
    CrossMount,
    /// A quota or disk is full: free space and repeat.
    NoSpace,
    /// Too many requests in flight: slow down and repeat.
    Busy,
    /// The store cannot be reached or its breaker is open: repeat later.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// A fault of this program or of a store that breaks its contract.
    Internal,
}

impl ErrorKind {
    /// The kind as a label in metrics and structured logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::IsDirectory => "is_directory",
            Self::NotDirectory => "not_directory",
            Self::NotEmpty => "not_empty",
            Self::AccessDenied => "access_denied",
            Self::ReadOnly => "read_only",
            Self::InvalidName => "invalid_name",
            Self::NameTooLong => "name_too_long",
            Self::InvalidArgument => "invalid_argument",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::PreconditionFailed => "precondition_failed",
            Self::Stale => "stale",
            Self::BadChecksum => "bad_checksum",
            Self::Incomplete => "incomplete",
            Self::NoSuchUpload => "no_such_upload",
            Self::InvalidPart => "invalid_part",
            Self::Unsupported => "unsupported",
            Self::CrossMount => "cross_mount",
            Self::NoSpace => "no_space",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// What went wrong, where, and during what.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    place: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a full stop, and says what to do where that helps.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: None, source: None }
    }

    /// Adds where it happened: an operation and a path, for example `read /bucket/key`. The first place stays.
    #[must_use]
    pub fn at(mut self, operation: &str, place: impl fmt::Display) -> Self {
        self.place.get_or_insert_with(|| format!("{operation} {place}"));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same request may succeed later, unchanged.
    pub fn is_temporary(&self) -> bool {
        matches!(self.kind, ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// The kind of a local file system's error.
impl From<&std::io::Error> for ErrorKind {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => Self::NotFound,
            Io::AlreadyExists => Self::AlreadyExists,
            Io::IsADirectory => Self::IsDirectory,
            Io::NotADirectory => Self::NotDirectory,
            Io::DirectoryNotEmpty => Self::NotEmpty,
            Io::PermissionDenied => Self::AccessDenied,
            Io::ReadOnlyFilesystem => Self::ReadOnly,
            Io::InvalidFilename => Self::NameTooLong,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::NoSpace,
            Io::CrossesDevices => Self::CrossMount,
            Io::Unsupported => Self::Unsupported,
            Io::TimedOut => Self::Timeout,
            Io::UnexpectedEof | Io::StaleNetworkFileHandle => Self::Stale,
            Io::InvalidInput => Self::InvalidArgument,
            _ => Self::Internal,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = ErrorKind::from(&error);
        Self::new(kind, error.to_string())
    }
}

/// Clones what can be shared between the waiters of one fetch: the cause becomes text.
impl Clone for Error {
    fn clone(&self) -> Self {
        let message = match &self.source {
            Some(source) => format!("{}: {source}", self.message),
            None => self.message.clone(),
        };
        Self { kind: self.kind, message, place: self.place.clone(), source: None }
    }
}
