//! Listings in byte order, one page at a time, walking the tree from the cursor.
//!
//! Invariants:
//! - Names are ordered as bytes with directories as `name/`, so the order of a directory's names is the order of the
//!   whole tree.
//! - Memory holds at most two pages of names for each depth, however large the directories are, beside the snapshots
//!   that later pages of large directories are read from ([`super::snapshot`]).
//! - Only items of the page are looked at one by one; links (and entries whose kind the directory does not tell) are
//!   looked at earlier, because their place in the order depends on what they lead to.
//! - A listing shows what a lookup shows: links as what they lead to, and neither what leads nowhere or out of the
//!   root nor special files. Names that are not UTF-8 and directories that are entered a second time through a link
//!   to an ancestor are left out. Where links are not followed, each is listed as what it is, and none is entered.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use forebay_core::{EntryKind, Error, ErrorKind, Key, ListItem, ListPage, ListQuery, Result};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::disk::Disk;
use super::entry::{entry, kind};
use super::root::{KEY_BYTES_MAX, OWN_DIRECTORY, checked, error, stat, stat_name};
use super::snapshot::{Snapshot, Stamp, identity};

impl Disk {
    /// One page of names; a prefix under which nothing can be is an empty page.
    pub(super) fn list(&self, query: &ListQuery) -> Result<ListPage> {
        self.walk(query, true)
    }

    /// As [`Disk::list`], with links shown as what they are.
    pub(super) fn list_unfollowed(&self, query: &ListQuery) -> Result<ListPage> {
        self.walk(query, false)
    }

    fn walk(&self, query: &ListQuery, follows: bool) -> Result<ListPage> {
        let (directory, filter) = query.prefix.rsplit_once('/').unwrap_or(("", &query.prefix));
        let base = match Key::parse(directory).and_then(|key| checked(&key).map(|_| ())) {
            Ok(()) if directory.is_empty() && query.prefix.starts_with('/') => return Ok(ListPage::default()),
            Ok(()) => directory,
            Err(_) => return Ok(ListPage::default()),
        };
        let fd = match self.root.directory(base) {
            Err(e) if is_nothing(&e) => return Ok(ListPage::default()),
            answer => answer?,
        };
        let prefix = if base.is_empty() { String::new() } else { format!("{base}/") };
        let mut walk = Walk { disk: self, query, follows, stack: Vec::new(), left_out: 0 };
        let own = walk.enter(fd, prefix, filter)?;
        let mut items = Vec::new();
        items.extend(own);
        while items.len() <= query.limit {
            let Some(item) = walk.next()? else { break };
            items.push(item);
        }
        if walk.left_out > 0 {
            tracing::debug!(
                prefix = query.prefix,
                names = walk.left_out,
                "names that are not UTF-8 are not listed"
            );
        }
        let is_truncated = items.len() > query.limit;
        items.truncate(query.limit);
        Ok(ListPage { items, is_truncated })
    }
}

/// A walk over the tree, in order.
struct Walk<'a> {
    disk: &'a Disk,
    query: &'a ListQuery,
    /// Whether links are followed.
    follows: bool,
    /// The directories from the listed one down to the one being read.
    stack: Vec<Level>,
    /// Names that are not UTF-8.
    left_out: usize,
}

/// A directory being walked.
struct Level {
    fd: OwnedFd,
    /// Device and inode, to tell links to ancestors.
    identity: (u32, u32, u64),
    /// What the names of its children start with.
    prefix: String,
    /// What the children's own names start with.
    filter: String,
    /// The next names in order, reversed.
    names: Vec<Name>,
    /// Where to read on when `names` did not take all.
    resume: Option<String>,
}

/// A child's name; the derived order is the order of listings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// Ends in `/` for directories.
    text: String,
    is_link: bool,
}

impl Name {
    fn is_directory(&self) -> bool {
        self.text.ends_with('/')
    }

    fn bare(&self) -> &str {
        self.text.strip_suffix('/').unwrap_or(&self.text)
    }
}

/// What one reading of a directory found.
struct Reading {
    /// In order, after the cursor, at most a page.
    names: Vec<Name>,
    /// There are more after `names`.
    is_cut: bool,
    /// The directory shows no name at all, wherever the cursor is.
    is_empty: bool,
}

impl Walk<'_> {
    /// Starts to walk a directory; returns its own item if it is empty.
    fn enter(&mut self, fd: OwnedFd, prefix: String, filter: &str) -> Result<Option<ListItem>> {
        let stat = stat(&fd)?;
        let cursor = self.query.start_after.as_deref();
        let reading = self.read(&fd, (&prefix, filter), cursor_below(cursor, &prefix))?;
        if reading.is_empty && filter.is_empty() && !prefix.is_empty() {
            let is_after = cursor.is_none_or(|cursor| *prefix > *cursor);
            let item = ListItem { name: prefix, is_prefix: false, entry: entry(&stat, None)? };
            return Ok(is_after.then_some(item));
        }
        let identity = identity(&stat);
        let mut level =
            Level { fd, identity, prefix, filter: filter.to_owned(), names: Vec::new(), resume: None };
        level.take(reading);
        self.stack.push(level);
        Ok(None)
    }

    /// The next item.
    fn next(&mut self) -> Result<Option<ListItem>> {
        while let Some(level) = self.stack.last_mut() {
            let Some(name) = level.names.pop() else {
                let level = self.stack.pop().expect("looked at above");
                self.read_on(level)?;
                continue;
            };
            let full = format!("{}{}", level.prefix, name.text);
            if full.len() > KEY_BYTES_MAX {
                continue;
            }
            let item = if name.is_directory() && !self.query.shallow {
                self.descend(&name, full)?
            } else {
                self.item(&name, full)?
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// Reads a directory again from where its last reading was cut, if it was.
    fn read_on(&mut self, mut level: Level) -> Result<()> {
        let Some(resume) = level.resume.take() else { return Ok(()) };
        let reading = self.read(&level.fd, (&level.prefix, &level.filter), Below::After(&resume))?;
        level.take(reading);
        self.stack.push(level);
        Ok(())
    }

    fn descend(&mut self, name: &Name, full: String) -> Result<Option<ListItem>> {
        let level = self.stack.last().expect("the level that has the name");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if name.is_link {
            self.disk.root.directory(full.trim_end_matches('/'))
        } else {
            rustix::fs::openat(&level.fd, name.bare(), flags, Mode::empty()).map_err(error)
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(e) => return skipped(&full, e),
        };
        if name.is_link {
            let target = identity(&stat(&fd)?);
            if self.stack.iter().any(|level| level.identity == target) {
                return Ok(None);
            }
        }
        self.enter(fd, full, "")
    }

    fn item(&self, name: &Name, full: String) -> Result<Option<ListItem>> {
        let level = self.stack.last().expect("the level that has the name");
        let found = if name.is_link && self.follows {
            self.disk.root.look(name_key(&full)).and_then(|(_, stat)| entry(&stat, None))
        } else {
            let c_name = CString::new(name.bare()).expect("a name from a directory has no NUL");
            stat_name(&level.fd, &c_name).map_err(error).and_then(|stat| entry(&stat, None))
        };
        match found {
            Ok(entry)
                if entry.is_directory() == name.is_directory()
                    && !(self.follows && entry.kind == EntryKind::Link) =>
            {
                Ok(Some(ListItem { is_prefix: entry.is_directory(), name: full, entry }))
            }
            // Replaced by another kind since the directory was read: its place in the order is elsewhere.
            Ok(_) => Ok(None),
            Err(e) => skipped(&full, e),
        }
    }

    /// The names of a directory that come next: out of its snapshot, else by reading it.
    fn read(&mut self, fd: &OwnedFd, (prefix, filter): (&str, &str), below: Below<'_>) -> Result<Reading> {
        if below == Below::Nothing {
            return Ok(Reading { names: Vec::new(), is_cut: false, is_empty: false });
        }
        let stamp = Stamp::of(&stat(fd)?);
        if let Some(snapshot) = self.disk.snapshots.find(stamp) {
            return Ok(self.recall(&snapshot, filter, below));
        }
        // A first page may be the only one that is asked for.
        let is_worthwhile = below != Below::Start && stamp.is_settled(self.disk.clock.now());
        let mut snapshot = is_worthwhile.then(Snapshot::default);
        let reading = self.scan(fd, (prefix, filter), below, &mut snapshot)?;
        if let (Some(snapshot), true) = (snapshot, reading.is_cut)
            && stamp == Stamp::of(&stat(fd)?)
        {
            self.disk.snapshots.keep(stamp, snapshot.finish());
        }
        Ok(reading)
    }

    fn recall(&self, snapshot: &Snapshot, filter: &str, below: Below<'_>) -> Reading {
        let shallow = self.query.shallow;
        let mut names = snapshot
            .from(|name| name >= filter && below.lets(name, shallow))
            .take_while(|name| name.starts_with(filter))
            .map(|name| Name { text: name.to_owned(), is_link: false });
        let page = names.by_ref().take(self.page()).collect();
        Reading { names: page, is_cut: names.next().is_some(), is_empty: false }
    }

    fn scan(
        &mut self,
        fd: &OwnedFd,
        (prefix, filter): (&str, &str),
        below: Below<'_>,
        snapshot: &mut Option<Snapshot>,
    ) -> Result<Reading> {
        let page = self.page();
        let mut reading = Reading { names: Vec::new(), is_cut: false, is_empty: true };
        let mut directory = Dir::read_from(fd).map_err(error)?;
        while let Some(child) = directory.read() {
            let child = child.map_err(error)?;
            let bare = child.file_name();
            let is_own = prefix.is_empty() && bare.to_bytes() == OWN_DIRECTORY.as_bytes();
            if bare == c"." || bare == c".." || is_own {
                continue;
            }
            let Ok(text) = bare.to_str() else {
                self.left_out += 1;
                continue;
            };
            if snapshot.is_none() && !text.starts_with(filter) {
                continue;
            }
            let Some(name) = self.name(fd, bare, child.file_type(), &format!("{prefix}{text}"))? else {
                continue;
            };
            reading.is_empty = false;
            if name.is_link || !snapshot.as_mut().is_some_and(|snapshot| snapshot.add(&name.text)) {
                *snapshot = None;
            }
            if text.starts_with(filter) && below.lets(&name.text, self.query.shallow) {
                reading.names.push(name);
            }
            if reading.names.len() >= page.saturating_mul(2) {
                reading.cut(page);
            }
        }
        if reading.names.len() > page {
            reading.cut(page);
        }
        reading.names.sort_unstable();
        Ok(reading)
    }

    /// Names that a page may need of one directory: one more than it has, to tell whether it is the last.
    fn page(&self) -> usize {
        self.query.limit.saturating_add(1)
    }

    /// A child as listings order it; `None` for what listings do not show.
    fn name(&self, fd: &OwnedFd, bare: &CStr, kind_told: FileType, full: &str) -> Result<Option<Name>> {
        let text = bare.to_string_lossy().into_owned();
        let (is_directory, is_link) = match kind_told {
            FileType::RegularFile => (false, false),
            FileType::Directory => (true, false),
            FileType::Symlink if !self.follows => (false, true),
            FileType::Symlink => match self.target(full)? {
                Some(target) => (target == EntryKind::Directory, true),
                None => return Ok(None),
            },
            FileType::Unknown => match stat_name(fd, bare) {
                Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Symlink => {
                    return self.name(fd, bare, FileType::Symlink, full);
                }
                Ok(stat) => match kind(&stat) {
                    Some(kind) => (kind == EntryKind::Directory, false),
                    None => return Ok(None),
                },
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(error(e)),
            },
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                return Ok(None);
            }
        };
        Ok(Some(Name { text: if is_directory { text + "/" } else { text }, is_link }))
    }

    /// What a link leads to.
    fn target(&self, full: &str) -> Result<Option<EntryKind>> {
        match self.disk.root.look(full) {
            Ok((_, stat)) => Ok(kind(&stat)),
            Err(e) => skipped(full, e),
        }
    }
}

impl Level {
    fn take(&mut self, reading: Reading) {
        self.names = reading.names;
        self.resume = self.names.last().filter(|_| reading.is_cut).map(|name| name.text.clone());
        self.names.reverse();
    }
}

impl Reading {
    /// Keeps the first `count` names.
    fn cut(&mut self, count: usize) {
        self.names.select_nth_unstable(count);
        self.names.truncate(count);
        self.is_cut = true;
    }
}

/// Where a listing's cursor stands, as seen from one directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below<'a> {
    /// Before all its names.
    Start,
    /// Somewhere among its names: at or below this one.
    At(&'a str),
    /// Past this name and all below it.
    After(&'a str),
    /// Past all its names.
    Nothing,
}

impl Below<'_> {
    /// Whether a name comes after the cursor; if it does, so do all names after it.
    fn lets(self, name: &str, shallow: bool) -> bool {
        match self {
            Self::Start => true,
            Self::At(cursor) => {
                name > cursor || (!shallow && name.ends_with('/') && cursor.starts_with(name))
            }
            Self::After(last) => name > last,
            Self::Nothing => false,
        }
    }
}

fn cursor_below<'a>(cursor: Option<&'a str>, prefix: &str) -> Below<'a> {
    let Some(cursor) = cursor else { return Below::Start };
    match cursor.strip_prefix(prefix) {
        Some("") => Below::Start,
        Some(rest) => Below::At(rest),
        None if *cursor < *prefix => Below::Start,
        None => Below::Nothing,
    }
}

fn name_key(full: &str) -> &str {
    full.strip_suffix('/').unwrap_or(full)
}

/// What became of a name that cannot be shown: gone is normal, unreadable is told to the operator.
fn skipped<T>(full: &str, error: Error) -> Result<Option<T>> {
    if error.kind() == ErrorKind::AccessDenied {
        tracing::warn!(name = full, error = %error, "a listing leaves out what may not be looked at");
        return Ok(None);
    }
    if is_nothing(&error) { Ok(None) } else { Err(error) }
}

/// Whether a lookup found nothing to list: no such name, a file in the way, or links that go round in circles.
fn is_nothing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory | ErrorKind::InvalidName)
}
