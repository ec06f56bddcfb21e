//! Which names the database may be wrong about after a kill: those of commits that are not in it durably.
//!
//! Invariants:
//! - A commit is in the journal before its store is told. It is written, not synced: the kernel keeps it when the
//!   process is killed, and after a restart of the machine nothing of the database is trusted.
//! - A file of the journal goes when a durable transaction has all its commits; those still under way are in the next.
//! - The mark says what is to be believed: `closed`, or the boot of the machine that the journal belongs to.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_core::Result;

use super::codec::{Reader, put_number, put_text};
use crate::staging::replace;

const MARK: &str = "state";
const CLOSED: &str = "closed";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A commit as the journal names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) mount: u64,
    /// Names as (directory, name), and directories that are concerned with all below them.
    pub(super) names: Vec<(String, String)>,
    pub(super) trees: Vec<String>,
}

/// What an earlier run left of its database.
pub(super) enum Left {
    /// All of it is true.
    Whole,
    /// All but this is.
    But(Vec<Record>),
    /// None of it can be trusted.
    Nothing,
}

/// The journal of one directory.
pub(super) struct Journal {
    directory: PathBuf,
    /// Held for one write to the kernel's memory.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` once nothing need be written.
    file: Option<File>,
    generation: u64,
    under_way: HashMap<u64, Vec<u8>>,
    next: u64,
}

impl Journal {
    /// Reads what is there and begins anew; the caller removes from the database what it must before the first commit.
    pub(super) fn open(directory: &Path) -> Result<(Self, Left)> {
        let mark = fs::read_to_string(directory.join(MARK)).unwrap_or_default();
        let boot = fs::read_to_string(BOOT)?;
        let files = files(directory)?;
        let left = if mark == CLOSED {
            Left::Whole
        } else if mark == boot {
            read_all(&files).map_or(Left::Nothing, Left::But)
        } else {
            Left::Nothing
        };
        let generation = files.last().map_or(0, |(generation, _)| generation + 1);
        let state = State { file: Some(create(directory, generation)?), generation, ..State::default() };
        Ok((Self { directory: directory.to_owned(), state: Mutex::new(state) }, left))
    }

    /// The database is what the earlier run left, corrected, and durable: from now on commits may come.
    pub(super) fn begin(&self) -> Result<()> {
        self.remove_before(self.state().generation)?;
        replace(&self.directory.join(MARK), fs::read_to_string(BOOT)?.as_bytes())
    }

    /// Writes down a commit that is about to begin; a number to end it by. Where it cannot be written, the database is
    /// not trusted at the next start.
    pub(super) fn announce(&self, record: &Record) -> u64 {
        let bytes = record.encode();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let written = state.file.as_mut().map_or(Ok(()), |file| file.write_all(&bytes));
        state.under_way.insert(number, bytes);
        drop(state);
        if let Err(error) = written {
            let distrusted = self.distrust();
            tracing::error!(%error, ?distrusted, "what is known of listings is asked for again at the next start");
        }
        number
    }

    /// What became of a commit is in the database, not yet durably.
    pub(super) fn end(&self, number: u64) {
        self.state().under_way.remove(&number);
    }

    /// Whether commits are under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.state().under_way.is_empty()
    }

    /// Begins a new file, before a durable transaction; [`Journal::rotated`] after it.
    pub(super) fn rotate(&self) -> io::Result<u64> {
        let mut state = self.state();
        let generation = state.generation + 1;
        let mut file = create(&self.directory, generation)?;
        for bytes in state.under_way.values() {
            file.write_all(bytes)?;
        }
        (state.file, state.generation) = (Some(file), generation);
        Ok(generation)
    }

    /// All commits that ended before the file `generation` was begun are in the database durably.
    pub(super) fn rotated(&self, generation: u64) -> Result<()> {
        self.remove_before(generation)
    }

    /// The database is durable and closed, and has all commits.
    pub(super) fn close(&self) -> Result<()> {
        replace(&self.directory.join(MARK), CLOSED.as_bytes())
    }

    /// The database cannot be trusted at the next start, so nothing need be written down any more.
    pub(super) fn distrust(&self) -> io::Result<()> {
        self.state().file = None;
        match fs::remove_file(self.directory.join(MARK)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn remove_before(&self, generation: u64) -> Result<()> {
        for (_, path) in files(&self.directory)?.into_iter().filter(|(number, _)| *number < generation) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create(directory: &Path, generation: u64) -> io::Result<File> {
    File::create(directory.join(format!("commits.{generation}")))
}

/// The files of the journal, oldest first.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("commits.")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// All records; `None` where a file is not whole.
fn read_all(files: &[(u64, PathBuf)]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    for (_, path) in files {
        let bytes = fs::read(path).ok()?;
        let mut reader = Reader(&bytes);
        while !reader.0.is_empty() {
            records.push(Record::decode(&mut reader)?);
        }
    }
    Some(records)
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.mount.to_le_bytes().to_vec();
        put_number(&mut out, self.names.len() as u64);
        for (directory, name) in &self.names {
            put_text(&mut out, directory);
            put_text(&mut out, name);
        }
        put_number(&mut out, self.trees.len() as u64);
        for tree in &self.trees {
            put_text(&mut out, tree);
        }
        out
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mount = u64::from_le_bytes(reader.bytes(8)?.try_into().ok()?);
        let (mut names, mut trees) = (Vec::new(), Vec::new());
        for _ in 0..reader.number()? {
            names.push((reader.text()?.to_owned(), reader.text()?.to_owned()));
        }
        for _ in 0..reader.number()? {
            trees.push(reader.text()?.to_owned());
        }
        Some(Self { mount, names, trees })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record { mount: 7, names: vec![("d/".into(), name.into())], trees: vec!["t/".into()] }
    }

    fn left(directory: &Path) -> Option<Vec<Record>> {
        match Journal::open(directory).expect("opens").1 {
            Left::Whole => Some(Vec::new()),
            Left::But(records) => Some(records),
            Left::Nothing => None,
        }
    }

    #[test]
    fn commits_are_found_after_a_kill_until_a_durable_transaction_has_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, before) = Journal::open(directory.path()).expect("opens");
        assert!(matches!(before, Left::Nothing));
        journal.begin().expect("begins");
        let ended = journal.announce(&record("ended"));
        journal.end(ended);
        let under_way = journal.announce(&record("under way"));
        assert_eq!(left(directory.path()), Some(vec![record("ended"), record("under way")]));
        let generation = journal.rotate().expect("begins a file");
        journal.rotated(generation).expect("removes");
        assert_eq!(left(directory.path()), Some(vec![record("under way")]));
        journal.end(under_way);
        assert!(!journal.is_busy());
        journal.close().expect("closes");
        assert_eq!(left(directory.path()), Some(Vec::new()));
    }

    #[test]
    fn damage_another_boot_and_distrust_leave_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, _) = Journal::open(directory.path()).expect("opens");
        journal.begin().expect("begins");
        journal.announce(&record("a"));
        let path = directory.path().join("commits.0");
        let whole = fs::read(&path).expect("reads");
        fs::write(&path, &whole[..whole.len() - 1]).expect("writes");
        assert_eq!(left(directory.path()), None);
        fs::write(&path, &whole).expect("writes");
        assert_eq!(left(directory.path()), Some(vec![record("a")]));
        let mark = fs::read(directory.path().join(MARK)).expect("reads");
        fs::write(directory.path().join(MARK), "another boot").expect("writes");
        assert_eq!(left(directory.path()), None);
        fs::write(directory.path().join(MARK), mark).expect("writes");
        journal.distrust().expect("removes");
        assert_eq!(left(directory.path()), None);
    }
}
