//! Files of a directory that are opened one after the other, in the order of its listing, are fetched before they are
//! opened: the first epoch over a directory of small files need not wait for each of them.
//!
//! A directory is listed ahead once [`ROW_MIN`] names came in ascending order, and fetched from once an open shows that
//! they come as listed; so a shuffled data set costs a listing in some thousand opens, and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_core::{Entry, Key, ListQuery, Want};

use super::Core;
use super::bounded::Bounded;
use super::file::ObjectFile;
use super::lookup::Detail;
use crate::cache::PAGE_BYTES;

/// Directories that are watched.
const DIRECTORIES: usize = 1024;
/// Names in ascending order that look like a row: one in 720 by chance.
const ROW_MIN: u32 = 6;
/// Names listed ahead at once.
const LISTED: usize = 256;
/// How far from the front of the row an open may come: threads overtake each other.
const OVERTAKING: usize = 16;
/// Most files fetched ahead.
const WINDOW_MAX: usize = 32;
/// Most content fetched ahead, in bytes.
const WINDOW_BYTES: u64 = 16 << 20;

/// The rows in the directories of one mount.
pub(super) struct Siblings(Bounded<Row>);

/// Who reads a directory in order, and what comes next.
#[derive(Default)]
struct Row {
    last: String,
    /// Names in ascending order so far.
    ascending: u32,
    /// Names that came as they were listed.
    hits: usize,
    listed: VecDeque<(Key, Entry)>,
    /// How many of the first listed are asked for.
    asked: usize,
    /// Nothing to list now: it is under way, or this was the end.
    is_listed: bool,
}

/// What to do after an open.
#[derive(Default)]
struct Plan {
    fetch: Vec<(Key, Entry)>,
    list_after: Option<String>,
}

impl Row {
    fn opened(&mut self, name: &str) -> Plan {
        if name == self.last {
            return Plan::default();
        }
        match self.listed.iter().take(OVERTAKING).position(|(key, _)| key.as_str() == name) {
            Some(place) => {
                self.take(place);
                self.hits += 1;
            }
            // Not as listed: it must come as listed as often again.
            None if self.hits > 1 => self.hits /= 2,
            None if self.listed.is_empty() && name > self.last.as_str() => self.ascending += 1,
            None => *self = Self::default(),
        }
        name.clone_into(&mut self.last);
        self.plan()
    }

    /// Takes out the name at `place`, and those that were overtaken by so many that they hardly come any more.
    fn take(&mut self, place: usize) {
        self.listed.remove(place);
        let passed = place.saturating_sub(OVERTAKING / 2);
        self.listed.drain(..passed);
        self.asked = self.asked.saturating_sub(passed + usize::from(place < self.asked));
    }

    fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let window = (2 * self.hits).min(WINDOW_MAX);
        let mut ahead_bytes: u64 =
            self.listed.iter().take(self.asked).map(|(_, entry)| entry.size_bytes.min(PAGE_BYTES)).sum();
        while self.asked < window.min(self.listed.len()) {
            let next = &self.listed[self.asked];
            ahead_bytes += next.1.size_bytes.min(PAGE_BYTES);
            if ahead_bytes > WINDOW_BYTES {
                break;
            }
            plan.fetch.push(next.clone());
            self.asked += 1;
        }
        if self.ascending >= ROW_MIN && !self.is_listed && self.listed.len() < WINDOW_MAX {
            self.is_listed = true;
            let after = self.listed.back().map_or(self.last.as_str(), |(key, _)| key.as_str());
            plan.list_after = Some(after.to_owned());
        }
        plan
    }

    /// Takes what was listed after `after`; `has_more` if that was not the end of the directory.
    fn learn(&mut self, after: &str, files: Vec<(Key, Entry)>, has_more: bool) {
        let end = self.listed.back().map_or(self.last.as_str(), |(key, _)| key.as_str());
        // Opens went on meanwhile, or the row is another one.
        if end < after {
            return;
        }
        let last = end.to_owned();
        self.listed.extend(files.into_iter().filter(|(key, _)| *key.as_str() > *last));
        self.is_listed = !has_more;
    }
}

impl Siblings {
    pub(super) fn new() -> Self {
        Self(Bounded::new(DIRECTORIES))
    }
}

impl Core {
    /// A file was opened: notes how its directory is read, and fetches and lists what comes next, in tasks of the mount.
    pub(super) fn opened(self: &Arc<Self>, key: &Key, want: Want) {
        self.rules.opened(&self.label, key);
        let name = key.as_str();
        let directory = name.rfind('/').map_or("", |slash| &name[..=slash]);
        let Plan { fetch, list_after } = self.siblings.0.update(directory, |row| row.opened(name));
        for (key, entry) in fetch {
            ObjectFile::new(self, &key, entry).fetch_start();
            // Whoever opens files by their exact names wants the headers that listings do not show.
            if want == Want::File && self.info.capability.headers {
                let core = Arc::clone(self);
                // An error is met again by whoever opens the file.
                self.work.start(async move { drop(core.find_file(&key, Detail::Headers).await) });
            }
        }
        if let Some(after) = list_after {
            let (core, directory) = (Arc::clone(self), directory.to_owned());
            self.work.start(async move { core.list_siblings(&directory, after).await });
        }
    }

    async fn list_siblings(&self, directory: &str, after: String) {
        let prefix = directory.to_owned();
        let query = ListQuery { prefix, shallow: true, start_after: Some(after.clone()), limit: LISTED };
        let (files, has_more) = match self.list(&query, Want::Any).await {
            Ok(page) => {
                let files = page.items.into_iter().filter(|item| !item.entry.is_directory());
                let keyed = files.filter_map(|item| Some((Key::parse(&item.name).ok()?, item.entry)));
                (keyed.collect(), page.is_truncated)
            }
            // Whoever reads on meets the store's error.
            Err(error) => {
                tracing::debug!(mount = self.info.name, directory, %error, "no files are fetched ahead");
                (Vec::new(), false)
            }
        };
        self.siblings.0.alter(directory, |row| row.learn(&after, files, has_more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::object::tests::an_entry;

    fn name(number: usize) -> String {
        format!("d/{number:05}")
    }

    fn files(numbers: std::ops::Range<usize>) -> Vec<(Key, Entry)> {
        numbers.map(|number| (Key::parse(&name(number)).expect("a key"), an_entry(1000))).collect()
    }

    /// Opens files and lists what is asked for at once; the names fetched ahead.
    fn open(row: &mut Row, numbers: impl IntoIterator<Item = usize>, count: usize) -> (Vec<String>, usize) {
        let (mut fetched, mut listings) = (Vec::new(), 0);
        for number in numbers {
            let plan = row.opened(&name(number));
            fetched.extend(plan.fetch.into_iter().map(|(key, _)| key.as_str().to_owned()));
            if let Some(after) = plan.list_after {
                let start = after[2..].parse::<usize>().expect("a number") + 1;
                let end = (start + LISTED).min(count);
                row.learn(&after, files(start..end), end < count);
                listings += 1;
            }
        }
        (fetched, listings)
    }

    #[test]
    fn directory_read_in_order_is_fetched_once_and_listed_once_per_window() {
        let mut row = Row::default();
        let (fetched, listings) = open(&mut row, 0..1000, 1000);
        let expected: Vec<_> = (ROW_MIN as usize + 1..1000).map(name).collect();
        assert_eq!(fetched, expected);
        assert!(listings <= 1000 / (LISTED - WINDOW_MAX) + 1, "{listings}");
    }

    #[test]
    fn readers_that_overtake_each_other_are_one_row() {
        let mut row = Row::default();
        let order = (0..1000).map(|number| number ^ 3);
        let (fetched, _) = open(&mut row, (0..8).chain(order.skip(8)), 1000);
        assert!(fetched.len() > 950, "{}", fetched.len());
    }

    #[test]
    fn shuffled_directory_is_hardly_listed_and_nothing_of_it_is_fetched() {
        fastrand::seed(11);
        let mut order: Vec<_> = (0..100_000).collect();
        fastrand::shuffle(&mut order);
        let (fetched, listings) = open(&mut Row::default(), order, 100_000);
        assert!(fetched.len() < 50, "{}", fetched.len());
        assert!(listings < 100, "{listings}");
    }

    #[test]
    fn window_is_bounded_in_bytes_too() {
        let mut row = Row { ascending: ROW_MIN, hits: WINDOW_MAX, ..Row::default() };
        let large = (0..100).map(|number| (Key::parse(&name(number)).expect("a key"), an_entry(u64::MAX)));
        row.learn("", large.collect(), false);
        assert_eq!(row.opened(&name(0)).fetch.len() as u64, WINDOW_BYTES / PAGE_BYTES);
    }
}
