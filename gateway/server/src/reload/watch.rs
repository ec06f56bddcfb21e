//! Notices that files changed: in place, by a rename over them, or because a link on the way to them leads elsewhere.
//!
//! The kernel tells of changes in the directories on the way (inotify); a look every few seconds finds what it does not
//! tell of, on network file systems and in directories that were moved themselves. What counts in the end is the stamp
//! of the files, so that noise beside them costs a few `stat` calls.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Quiet that must follow an event: whoever writes a file is done with all of it then.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait for quiet.
const NOISE_MAX: Duration = Duration::from_secs(2);
/// How often is looked in any case.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Links on the way to a file, as the kernel bounds them.
const LINKS_MAX: usize = 40;

/// Tells one state of files from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i64; 7]>>);

impl Stamp {
    /// The present state of `files`; a missing one is a state, too.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let stamp = |file: &PathBuf| {
            let found = std::fs::metadata(file).ok()?;
            let (modified, changed) =
                ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
            let (device, inode, size) = (found.dev() as i64, found.ino() as i64, found.len() as i64);
            Some([device, inode, size, modified.0, modified.1, changed.0, changed.1])
        };
        Self(files.into_iter().map(stamp).collect())
    }
}

/// A watch on the directories on the way to some files.
pub(super) struct Watch {
    /// `None` where the kernel gives none: then only the regular look is left.
    events: Option<AsyncFd<OwnedFd>>,
    directories: BTreeSet<PathBuf>,
    /// Something happened, and nobody was told yet.
    is_stirred: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { events: None, directories: BTreeSet::new(), is_stirred: false }
    }

    /// Watches the way to `files`, and nothing else, from now on.
    pub(super) fn set<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) {
        let mut directories = BTreeSet::new();
        for file in files {
            follow(&absolute(file), &mut directories, LINKS_MAX);
        }
        if directories == self.directories && self.events.is_some() {
            return;
        }
        self.events = match open(&directories) {
            Ok(events) => Some(events),
            Err(e) => {
                tracing::warn!(error = %e, every = ?LOOK_INTERVAL, "changes of the configuration are not announced; it is looked at regularly");
                None
            }
        };
        self.directories = directories;
    }

    /// Waits until the files may have changed and nobody changes them right now. Cancel-safe.
    pub(super) async fn stirred(&mut self) {
        if !self.is_stirred {
            tokio::select! {
                () = event(self.events.as_ref()) => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            self.is_stirred = true;
        }
        let end = Instant::now() + NOISE_MAX;
        while Instant::now() < end {
            if tokio::time::timeout(QUIET, event(self.events.as_ref())).await.is_err() {
                break;
            }
        }
        self.is_stirred = false;
    }
}

/// Waits for an event and takes all there are.
async fn event(events: Option<&AsyncFd<OwnedFd>>) {
    let Some(events) = events else { return std::future::pending().await };
    let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(events.get_ref(), &mut buffer) {
            Ok(n) if n > 0 => {}
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    ready.clear_ready();
}

fn open(directories: &BTreeSet<PathBuf>) -> io::Result<AsyncFd<OwnedFd>> {
    let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    // Not MODIFY and CREATE: what is still being written is not yet to be read.
    let what = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    for directory in directories {
        match inotify::add_watch(&events, directory, what) {
            // One that is not there (any more) shows in the regular look when it comes.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an OwnedFd keeps its descriptor for as long as it lives"
    )]
    AsyncFd::new(events)
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// Adds the directory of `file`, and of each link on the way to it.
fn follow(file: &Path, directories: &mut BTreeSet<PathBuf>, links_max: usize) {
    let mut at = PathBuf::new();
    let mut components = file.components();
    while let Some(component) = components.next() {
        match component {
            Component::ParentDir => drop(at.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => at.push(component),
        }
        let Ok(target) = std::fs::read_link(&at) else { continue };
        let directory = at.parent().unwrap_or(Path::new("/")).to_owned();
        let rest = directory.join(target).join(components.as_path());
        directories.insert(directory);
        if links_max > 0 {
            follow(&rest, directories, links_max - 1);
        }
        return;
    }
    directories.insert(at.parent().unwrap_or(Path::new("/")).to_owned());
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_of_all_links_on_the_way_are_watched() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("there");
        fs::create_dir_all(root.join("mount/v1")).expect("made");
        fs::create_dir(root.join("etc")).expect("made");
        fs::write(root.join("mount/v1/m.yaml"), b"").expect("written");
        symlink("v1", root.join("mount/data")).expect("linked");
        symlink("data/m.yaml", root.join("mount/m.yaml")).expect("linked");
        symlink("../mount/m.yaml", root.join("etc/m.yaml")).expect("linked");
        let mut found = BTreeSet::new();
        follow(&root.join("etc/m.yaml"), &mut found, LINKS_MAX);
        assert_eq!(found, ["etc", "mount", "mount/v1"].map(|name| root.join(name)).into());
        symlink("loop", root.join("loop")).expect("linked");
        follow(&root.join("loop"), &mut found, LINKS_MAX);
    }

    #[tokio::test]
    async fn rewritten_replaced_and_relinked_files_are_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        fs::create_dir(root.join("v1")).expect("made");
        fs::create_dir(root.join("v2")).expect("made");
        let file = root.join("v/m");
        symlink("v1", root.join("v")).expect("linked");
        fs::write(&file, b"1").expect("written");
        fs::write(root.join("v2/m"), b"2").expect("written");
        let changes: [&dyn Fn(); 3] = [
            &|| fs::write(&file, b"22").expect("written"),
            &|| {
                fs::write(root.join("new"), b"333").expect("written");
                fs::rename(root.join("new"), &file).expect("renamed");
            },
            &|| {
                symlink("v2", root.join("w")).expect("linked");
                fs::rename(root.join("w"), root.join("v")).expect("renamed");
            },
        ];
        let mut watch = Watch::new();
        watch.set([&file]);
        for change in changes {
            let before = Stamp::of([&file]);
            let begun = Instant::now();
            change();
            watch.stirred().await;
            assert_ne!(Stamp::of([&file]), before);
            assert!(begun.elapsed() < LOOK_INTERVAL, "the kernel told");
        }
    }
}
