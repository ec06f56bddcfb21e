//! What went wrong with a request, and the one table from error kinds to errnos.

use forebay_core::{Error, ErrorKind};
use fuser::Errno;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The namespace refused or failed.
    #[error(transparent)]
    Namespace(#[from] Error),
    /// This frontend refused, with the reason.
    #[error("{1}")]
    Refused(Errno, &'static str),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Namespace(error.into())
    }
}

impl Failure {
    /// The open inode cannot take this open: the kernel repeats lookup and open once, on a new inode.
    pub(crate) fn stale() -> Self {
        Self::Refused(Errno::ESTALE, "the file was replaced: look it up again")
    }

    /// What the application sees.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Namespace(error) => errno(error.kind()),
            Self::Refused(errno, _) => *errno,
        }
    }

    /// Whether we or a store failed, rather than the caller.
    pub(crate) fn is_fault(&self) -> bool {
        self.errno() == Errno::EIO
    }
}

/// The errno of a kind of error.
fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoSuchUpload => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::IsDirectory => Errno::EISDIR,
        ErrorKind::NotDirectory => Errno::ENOTDIR,
        ErrorKind::NotEmpty => Errno::ENOTEMPTY,
        // Not EPERM: no privilege of the calling process would help, a grant would.
        ErrorKind::AccessDenied => Errno::EACCES,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::InvalidName
        | ErrorKind::InvalidArgument
        | ErrorKind::RangeNotSatisfiable
        | ErrorKind::InvalidPart => Errno::EINVAL,
        // The content is no longer the one that was opened: opening again helps, repeating the read does not.
        ErrorKind::PreconditionFailed | ErrorKind::Stale => Errno::ESTALE,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        // `mv` answers this with copy and delete.
        ErrorKind::CrossMount => Errno::EXDEV,
        ErrorKind::NoSpace => Errno::ENOSPC,
        // EAGAIN would mean "not now" to a non-blocking caller only; the mount has already retried.
        ErrorKind::Busy
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::BadChecksum
        | ErrorKind::Incomplete
        | ErrorKind::Internal => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_become_eio() {
        let client = [ErrorKind::NotFound, ErrorKind::CrossMount, ErrorKind::Stale, ErrorKind::NoSpace];
        for kind in client {
            assert!(!Failure::from(Error::new(kind, "x")).is_fault(), "{kind:?}");
        }
        let faults = [ErrorKind::Internal, ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::Busy];
        for kind in faults {
            assert_eq!(Failure::from(Error::new(kind, "x")).errno(), Errno::EIO, "{kind:?}");
        }
    }

    #[test]
    fn a_rename_across_mounts_tells_mv_to_copy() {
        assert_eq!(errno(ErrorKind::CrossMount), Errno::EXDEV);
    }
}
