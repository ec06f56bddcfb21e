//! The mount's directory, and the only way to what lies beneath it: `openat2` with `RESOLVE_BENEATH`.
//!
//! Invariants:
//! - No path resolves to something outside the root, whatever links and renames happen meanwhile. A link that leaves
//!   the root (absolute links do, too) is as good as dangling.
//! - Whoever does not follow links follows none as the last segment; a link that is looked at itself may lead anywhere.
//! - An entry is looked at through a descriptor without access rights (`O_PATH`), so that special files are never
//!   opened.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use forebay_core::{Error, ErrorKind, Key, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// Our own directory at the root: staged writes and doomed trees, on the same file system.
pub(super) const OWN_DIRECTORY: &str = ".forebay";

/// Longest name of a file on Linux, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Longest path the kernel takes, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 4095;

/// How often a lookup is repeated when a rename disturbs the kernel's check for escapes.
const LOOKUP_ATTEMPTS: usize = 16;

/// What an entry is made of.
pub(super) const STAT_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// A local directory.
pub(super) struct Root(OwnedFd);

impl Root {
    /// Opens a directory once; later renames of it or its ancestors do not matter.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty()).map_err(error)?))
    }

    /// Opens what `key` names, links beneath the root included. Never waits for the other end of a FIFO.
    pub(super) fn at(&self, key: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = if key.is_empty() { "." } else { key };
        let is_opened = !flags.contains(OFlags::PATH);
        let patience = if is_opened { OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::empty() };
        let flags = flags | patience | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..LOOKUP_ATTEMPTS {
            match rustix::fs::openat2(&self.0, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::XDEV) => {
                    return Err(Error::new(ErrorKind::NotFound, "a symbolic link leaves the mount"));
                }
                answer => return answer.map_err(error),
            }
        }
        Err(error(Errno::AGAIN))
    }

    /// Looks at what `key` names.
    pub(super) fn look(&self, key: &str) -> Result<(OwnedFd, Statx)> {
        let fd = self.at(key, OFlags::PATH, Mode::empty())?;
        let stat = stat(&fd)?;
        Ok((fd, stat))
    }

    /// As [`Root::look`], with a link shown as what it is.
    pub(super) fn look_unfollowed(&self, key: &str) -> Result<(OwnedFd, Statx)> {
        let fd = self.at(key, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = stat(&fd)?;
        Ok((fd, stat))
    }

    /// Opens a directory for listing, syncing and as a base.
    pub(super) fn directory(&self, key: &str) -> Result<OwnedFd> {
        self.at(key, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// The directory that holds `key`, which is not the root.
    pub(super) fn parent(&self, key: &Key) -> Result<OwnedFd> {
        self.directory(key.as_str().rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    /// The root's own descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// The key as a path below the root, unless it names what is ours or what no Linux file system could hold.
pub(super) fn checked(key: &Key) -> Result<&str> {
    let text = key.as_str();
    if text.strip_prefix(OWN_DIRECTORY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        let message = format!("{OWN_DIRECTORY} at the root of a mount belongs to the gateway");
        return Err(Error::new(ErrorKind::InvalidName, message));
    }
    if text.len() > KEY_BYTES_MAX || text.split('/').any(|name| name.len() > NAME_BYTES_MAX) {
        let message = format!("a name has at most {NAME_BYTES_MAX} bytes and a key {KEY_BYTES_MAX}");
        return Err(Error::new(ErrorKind::NameTooLong, message));
    }
    Ok(text)
}

/// What a descriptor stands for.
pub(super) fn stat(fd: impl AsFd) -> Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, STAT_MASK).map_err(error)
}

/// What a name in a directory stands for, links not followed.
pub(super) fn stat_name(directory: impl AsFd, name: &CStr) -> rustix::io::Result<Statx> {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, STAT_MASK)
}

/// A path to the very file of a descriptor, for the calls that take no `O_PATH` descriptor.
pub(super) fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Makes a directory at mount time, with its parents.
pub(super) fn make_root(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::from(e).at("make", path.display()))
}

/// The error of a call to the local file system. Adds to the table in the core what std has no names for.
pub(super) fn error(errno: Errno) -> Error {
    let kind = match errno {
        Errno::LOOP | Errno::ILSEQ => ErrorKind::InvalidName,
        Errno::NXIO | Errno::NODATA => ErrorKind::NotFound,
        Errno::DQUOT | Errno::TOOBIG | Errno::MLINK => ErrorKind::NoSpace,
        Errno::AGAIN | Errno::BUSY | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::TXTBSY => {
            ErrorKind::Busy
        }
        Errno::IO => ErrorKind::Unavailable,
        _ => return Error::from(std::io::Error::from(errno)),
    };
    Error::new(kind, std::io::Error::from(errno).to_string())
}
