//! The place of a mount: made, cleared of a dead mount, mounted, unmounted.
//!
//! As root we mount and unmount by ourselves: fuser 0.18 takes a finished unmount for a live mount and would unmount
//! once more, which can hit another file system. Without the right it falls to `fusermount3`.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::time::Instant;

use crate::filesystem::Frontend;

/// How `mount` and `df` name it.
const SOURCE: &str = "forebay";
const KIND: &str = "fuse.forebay";
const DEVICE: &str = "/dev/fuse";
/// How long a busy mount is tried again. Files that are still open then would fail at the end of the process anyway.
const BUSY_GRACE: Duration = Duration::from_secs(1);
/// How often a busy mount is tried again.
const BUSY_RETRY: Duration = Duration::from_millis(50);
/// The kernel's own offer is 128 KiB, which costs a round trip for every 128 KiB of a buffered stream.
const READAHEAD_KIB: u32 = 1024;

/// Makes the mountpoint ready and gives its absolute path.
pub(super) fn prepare(mountpoint: &Path) -> io::Result<PathBuf> {
    let at = mountpoint.display();
    match fs::metadata(mountpoint) {
        Err(e) if e.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            tracing::warn!(mountpoint = %at, "clearing the dead mount of a gateway that ended without unmounting");
            detach(mountpoint)
                .map_err(|e| explain(&e, format!("cannot clear the dead mount at {at}: {e}")))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(explain(&e, format!("cannot look at the mountpoint {at}: {e}"))),
        Ok(metadata) if !metadata.is_dir() => {
            let message = format!("the mountpoint {at} is not a directory");
            return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
        }
        Ok(_) => {}
    }
    fs::create_dir_all(mountpoint)
        .map_err(|e| explain(&e, format!("cannot make the mountpoint {at}: {e}")))?;
    let path = mountpoint.canonicalize()?;
    if find_mount(&path)?.is_some_and(|mount| mount.kind == KIND) {
        let message = format!("{at} is already mounted by a gateway: stop that one, or run `umount -f {at}`");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    if fs::read_dir(&path)?.next().is_some() {
        let message = format!("the mountpoint {at} is not empty: mounting would hide what is in it");
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, message));
    }
    Ok(path)
}

fn explain(error: &io::Error, message: String) -> io::Error {
    io::Error::new(error.kind(), message)
}

fn detach(mountpoint: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?)
}

/// A line of `/proc/self/mountinfo`.
struct MountLine {
    /// `major:minor`.
    device: String,
    kind: String,
}

/// The topmost mount at exactly `path`, without touching the mount itself (which could hang).
fn find_mount(path: &Path) -> io::Result<Option<MountLine>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().rev().find_map(|line| parse_mount(line, path)))
}

fn parse_mount(line: &str, path: &Path) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let device = left.next()?.to_owned();
    let at = left.nth(1)?;
    let kind = right.split(' ').next()?.to_owned();
    (at == escaped(path)?).then_some(MountLine { device, kind })
}

/// A path as `mountinfo` writes it.
fn escaped(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    Some(text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012"))
}

/// Opens the FUSE device.
pub(super) fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// Mounts a frontend at a prepared mountpoint.
pub(super) fn mount(
    path: PathBuf,
    frontend: Frontend,
    allow_other: bool,
    config: &Config,
) -> io::Result<(Session<Frontend>, Mounted)> {
    let device = open_device().map_err(|e| {
        let advice = "load the module with `modprobe fuse`, or give the container `--device /dev/fuse`";
        explain(&e, format!("FUSE needs {DEVICE} ({e}): {advice}"))
    })?;
    let user = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let access = if allow_other { ",allow_other,default_permissions" } else { "" };
    let options =
        format!("fd={},rootmode=40000,user_id={},group_id={}{access}", device.as_raw_fd(), user.0, user.1);
    let options = CString::new(options).expect("digits and names");
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    match rustix::mount::mount(SOURCE, &path, KIND, flags, options.as_c_str()) {
        Ok(()) => {}
        Err(Errno::PERM) => return mount_with_helper(path, frontend, config),
        Err(e) => {
            return Err(explain(&e.into(), format!("cannot mount at {}: {e}", path.display())));
        }
    }
    let id = find_mount(&path)?.map(|line| line.device);
    let mounted = Mounted { path, device: id, helper: None };
    match Session::from_fd(frontend, OwnedFd::from(device), config.acl, config.clone()) {
        Ok(session) => Ok((session, mounted)),
        Err(e) => {
            detach(&mounted.path)?;
            Err(explain(&e, format!("the kernel's FUSE did not answer: {e}")))
        }
    }
}

fn mount_with_helper(
    path: PathBuf,
    frontend: Frontend,
    config: &Config,
) -> io::Result<(Session<Frontend>, Mounted)> {
    let mut config = config.clone();
    config.mount_options =
        vec![MountOption::FSName(SOURCE.to_owned()), MountOption::Subtype("forebay".to_owned())];
    if config.acl == SessionACL::All {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    let mut session = Session::new(frontend, &path, &config).map_err(|e| {
        let advice = "run as root (CAP_SYS_ADMIN), or install fuse3 for its `fusermount3`";
        explain(&e, format!("no right to mount at {} ({e}): {advice}", path.display()))
    })?;
    let helper = Some(Mutex::new(session.unmount_callable()));
    let id = find_mount(&path)?.map(|line| line.device);
    Ok((session, Mounted { path, device: id, helper }))
}

/// A mount in the tree.
pub(super) struct Mounted {
    path: PathBuf,
    /// `major:minor`, which the kernel's control files go by.
    device: Option<String>,
    /// How to undo what `fusermount3` did.
    helper: Option<Mutex<SessionUnmounter>>,
}

impl Mounted {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the kernel read further ahead. Only root may, and nothing depends on it.
    pub(super) fn raise_readahead(&self) {
        let Some(device) = &self.device else { return };
        let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
        if let Err(e) = fs::write(&file, READAHEAD_KIB.to_string()) {
            tracing::info!(file, error = %e, "readahead stays at the kernel's default");
        }
    }

    /// Unmounts: at once if nobody uses it, when it is free, or by detaching it after a grace.
    pub(super) async fn unmount(&self, deadline: Instant) -> io::Result<()> {
        if let Some(helper) = &self.helper {
            return helper.lock().expect("no panic under this lock").unmount();
        }
        let deadline = deadline.min(Instant::now() + BUSY_GRACE);
        loop {
            match rustix::mount::unmount(&self.path, UnmountFlags::empty()) {
                // Somebody else unmounted it.
                Ok(()) | Err(Errno::INVAL) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => tokio::time::sleep(BUSY_RETRY).await,
                Err(Errno::BUSY) => {
                    tracing::warn!(mountpoint = %self.path.display(), "still in use: detaching");
                    return detach(&self.path);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Ends the connection, for a mount that was detached while in use.
    pub(super) fn abort(&self) {
        let Some(minor) = self.device.as_ref().and_then(|device| device.split(':').nth(1)) else { return };
        let file = format!("/sys/fs/fuse/connections/{minor}/abort");
        if let Err(e) = fs::write(&file, "1") {
            tracing::debug!(file, error = %e, "the FUSE connection could not be aborted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_exact_path() {
        let line = r"36 35 0:52 / /srv/my\040mnt rw,nosuid - fuse.forebay forebay rw,user_id=0";
        let found = parse_mount(line, Path::new("/srv/my mnt")).expect("the mount");
        assert_eq!((found.device.as_str(), found.kind.as_str()), ("0:52", KIND));
        assert!(parse_mount(line, Path::new("/srv/my")).is_none());
    }

    #[test]
    fn a_mountpoint_with_content_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("x"), "x").expect("a file");
        let refused = prepare(directory.path()).expect_err("not empty");
        assert_eq!(refused.kind(), io::ErrorKind::DirectoryNotEmpty);
        let file = prepare(&directory.path().join("x")).expect_err("a file");
        assert_eq!(file.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_missing_mountpoint_is_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let made = prepare(&directory.path().join("a/b")).expect("made");
        assert!(made.is_dir());
    }
}
