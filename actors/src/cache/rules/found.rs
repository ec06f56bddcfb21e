//! Data sets that nobody named: directories that are read in passes, see `passes.rs`.
//!
//! Each directory above a file that is opened is watched, as far as it belongs to the rule of that file: a data set may
//! lie in many directories. One that may be a data set, because many files of it were read, becomes a part of its class:
//! what is cached of it meanwhile is the data set's when it is found to be one. Of directories in each other the inner ones
//! are taken, or where they are many, the outer one; those of one data set are in use together.
//!
//! Invariants:
//! - Nothing is watched where a rule says what is a data set.
//! - At most [`WATCHED_MAX`] directories are watched, and each remembers some 16 KiB at most.
//! - A file that is opened looks its class up in a table that is replaced whole; the lock is for one look at the names
//!   above it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::ancestors;
use crate::cache::class::Class;
use crate::cache::passes::{Passes, Reading};

/// Directories that are watched at once: 2 MiB.
const WATCHED_MAX: usize = 128;

/// Directories above a file that are watched, the nearest ones.
const DEPTH_MAX: usize = 8;

/// For how many more opens that are of others one is watched that may be a data set.
const PATIENCE: u64 = 100_000;

/// A directory in another belongs to that if that has so many times its files.
const MANY: u64 = 8;

/// A directory is none by itself if those in it that are have more than this part of its files.
const MOST: (u64, u64) = (2, 3);

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    /// The parts that files belong to, by directory.
    table: ArcSwap<HashMap<Box<str>, Arc<Class>>>,
    /// Held for a look, never across an await.
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    opens: u64,
    directories: HashMap<Box<str>, Directory>,
    /// Data sets that are read together, by the directory that all lie in: when one is used, none is idle.
    families: HashMap<Box<str>, Vec<Arc<Class>>>,
}

struct Directory {
    class: Arc<Class>,
    passes: Passes,
    /// While it may be a data set, or is one.
    part: Option<Arc<Class>>,
    /// The number of its last open.
    used: u64,
}

impl Directory {
    fn new(class: &Arc<Class>) -> Self {
        Self { class: Arc::clone(class), passes: Passes::default(), part: None, used: 0 }
    }

    /// Notes an open; whether it is to be treated differently now, or has more files by far.
    fn opened(&mut self, name: &str, file: u32) -> bool {
        let (before, files) = (self.passes.reading(), self.passes.files());
        self.passes.opened(file);
        let now = self.passes.reading();
        if before == now {
            return now != Reading::Few && self.passes.files().ilog2() != files.ilog2();
        }
        if now == Reading::Few {
            self.leave(name);
        } else {
            let part = self.part.get_or_insert_with(|| self.class.part_below(name));
            part.set_read_as_data_set(now == Reading::Passes);
        }
        if now == Reading::Passes {
            tracing::info!(directory = name, "is read in passes, and cached as a data set");
        }
        true
    }

    fn is_found(&self) -> bool {
        self.passes.reading() == Reading::Passes
    }

    /// What is cached of it is treated as anything else.
    fn leave(&mut self, name: &str) {
        let Some(part) = self.part.take() else { return };
        if part.treatment().epoch {
            tracing::info!(directory = name, "is cached as a data set no more");
        }
        part.set_read_as_data_set(false);
    }

    /// Who was used last, or is worth to be watched longer, stays.
    fn worth(&self) -> u64 {
        self.used + if self.part.is_some() { PATIENCE } else { 0 }
    }
}

impl Found {
    /// The part of a class that a file belongs to, if it lies in a directory that may be a data set.
    pub(super) fn part_of(&self, class: &Arc<Class>, file: &str) -> Option<Arc<Class>> {
        let table = self.table.load();
        if table.is_empty() {
            return None;
        }
        let part = |directory| table.get(directory).filter(|part| part.is_part_of(class));
        directories(class, file).find_map(part).map(Arc::clone)
    }

    /// A file of a class is opened.
    pub(super) fn opened(&self, class: &Arc<Class>, file: &str) {
        if class.treatment().is_epoch_decided() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        file.hash(&mut hasher);
        let hash = hasher.finish() as u32;
        let mut watched = self.watched();
        watched.opens += 1;
        let mut is_changed = false;
        for directory in directories(class, file) {
            is_changed |= watched.opened(directory, class, hash);
        }
        if is_changed {
            watched.families = watched.families();
            self.table.store(Arc::new(watched.parts()));
        }
        let outermost = watched.outermost_found(class, file);
        if let Some(family) = outermost.and_then(|outermost| watched.families.get(outermost)) {
            for part in family {
                part.touch();
            }
        }
    }

    /// All that are treated as data sets.
    pub(super) fn list(&self) -> Vec<Arc<Class>> {
        self.table.load().values().filter(|part| part.treatment().epoch).map(Arc::clone).collect()
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        // What is half noted of an open is one open less.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn opened(&mut self, name: &str, class: &Arc<Class>, file: u32) -> bool {
        let mut is_changed = false;
        if !self.directories.contains_key(name) {
            is_changed = self.directories.len() >= WATCHED_MAX && self.forget_one();
            self.directories.insert(Box::from(name), Directory::new(class));
        }
        let Some(directory) = self.directories.get_mut(name) else { return is_changed };
        // A rule was made for it, or taken back.
        if !Arc::ptr_eq(&directory.class, class) {
            is_changed |= directory.part.is_some();
            directory.leave(name);
            *directory = Directory::new(class);
        }
        directory.used = self.opens;
        directory.opened(name, file) || is_changed
    }

    /// Whether it was one with a part.
    fn forget_one(&mut self) -> bool {
        let least = self.directories.iter().min_by_key(|(_, directory)| directory.worth());
        let Some((name, mut directory)) =
            least.map(|(name, _)| name.clone()).and_then(|name| self.directories.remove_entry(&name))
        else {
            return false;
        };
        let is_part = directory.part.is_some();
        directory.leave(&name);
        is_part
    }

    /// Parts by the directories whose files belong to them.
    fn parts(&self) -> HashMap<Box<str>, Arc<Class>> {
        let taken = self.directories.iter().filter(|(name, directory)| self.is_taken(name, directory));
        let taken: Vec<_> = taken.collect();
        let mut files_within: HashMap<&str, u64> = HashMap::new();
        for (name, directory) in &taken {
            for outer in directories(&directory.class, name) {
                *files_within.entry(outer).or_default() += directory.passes.files();
            }
        }
        let parts = taken.into_iter().filter_map(|(name, directory)| {
            let files_within = files_within.get(&**name).copied().unwrap_or_default();
            let is_its_own = files_within * MOST.1 <= directory.passes.files() * MOST.0;
            let part = directory.part.as_ref().filter(|_| is_its_own)?;
            Some((name.clone(), Arc::clone(part)))
        });
        parts.collect()
    }

    /// Whether a directory has a part, and does not belong to that of another one above it.
    fn is_taken(&self, name: &str, directory: &Directory) -> bool {
        let mut outer = directories(&directory.class, name).filter_map(|outer| self.directories.get(outer));
        let belongs_to = |outer: &Directory| {
            outer.part.is_some()
                && (outer.is_found() || !directory.is_found())
                && outer.passes.files() >= directory.passes.files() * MANY
        };
        directory.part.is_some() && !outer.any(belongs_to)
    }

    /// Parts that are read as data sets, by the outermost directory that is.
    fn families(&self) -> HashMap<Box<str>, Vec<Arc<Class>>> {
        let mut families: HashMap<Box<str>, Vec<Arc<Class>>> = HashMap::new();
        for (name, directory) in self.directories.iter().filter(|(_, directory)| directory.is_found()) {
            let outermost = self.outermost_found(&directory.class, name).unwrap_or(name);
            families.entry(Box::from(outermost)).or_default().extend(directory.part.clone());
        }
        families
    }

    fn outermost_found<'a>(&self, class: &'a Class, name: &'a str) -> Option<&'a str> {
        let is_found = |outer: &&str| self.directories.get(*outer).is_some_and(Directory::is_found);
        directories(class, name).filter(is_found).last()
    }
}

/// The directories above a file that belong to its class, the nearest first.
fn directories<'a>(class: &'a Class, file: &'a str) -> impl Iterator<Item = &'a str> {
    let above = ancestors(file).skip(1).take(DEPTH_MAX);
    above.take_while(|directory| directory.len() >= class.name().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::class::{DecidedBy, Treatment};

    const FILES: usize = 300;

    fn class() -> Arc<Class> {
        Class::new("/m", Treatment::default())
    }

    fn shuffled(names: impl Iterator<Item = String>) -> Vec<String> {
        let mut names: Vec<_> = names.collect();
        fastrand::shuffle(&mut names);
        names
    }

    fn members(directory: &str) -> impl Iterator<Item = String> {
        (0..FILES).map(move |number| format!("{directory}/{number}"))
    }

    fn open_all(found: &Found, class: &Arc<Class>, files: impl IntoIterator<Item = String>) {
        for file in files {
            found.opened(class, &file);
        }
    }

    fn names(found: &Found) -> Vec<String> {
        let mut names: Vec<_> = found.list().iter().map(|part| part.name().to_string()).collect();
        names.sort();
        names
    }

    fn of(found: &Found, class: &Arc<Class>, file: &str) -> Option<String> {
        found.part_of(class, file).map(|part| part.name().to_string())
    }

    #[test]
    fn directory_that_is_read_in_passes_is_a_data_set_with_what_was_cached_of_it_before() {
        fastrand::seed(1);
        let (found, class) = (Found::default(), class());
        open_all(&found, &class, shuffled(members("/m/set")));
        let part = found.part_of(&class, "/m/set/1").expect("may be a data set");
        assert!(part.is_part_of(&class) && !part.treatment().epoch && names(&found).is_empty());
        open_all(&found, &class, shuffled(members("/m/set")));
        assert_eq!((part.treatment().epoch, part.treatment().epoch_by), (true, DecidedBy::Reads));
        assert_eq!(of(&found, &class, "/m/set/1").as_deref(), Some("/m/set"));
        assert_eq!((of(&found, &class, "/m/settee/1"), names(&found)), (None, vec!["/m/set".to_owned()]));
        // What is said of the whole later holds for its parts.
        class.set_treatment(Treatment { pin: true, ..Treatment::default() });
        assert!(part.treatment().pin && part.treatment().epoch);
        class.set_treatment(Treatment { epoch_by: DecidedBy::Rule, ..Treatment::default() });
        assert!(!part.treatment().epoch, "somebody said that it is none");
    }

    #[test]
    fn data_set_in_many_directories_is_one() {
        fastrand::seed(2);
        let (found, class) = (Found::default(), class());
        // More directories than are watched, and too few files in each.
        let labelled =
            || (0..200).flat_map(|label| (0..10).map(move |file| format!("/m/set/{label}/{file}")));
        (0..2).for_each(|_| open_all(&found, &class, shuffled(labelled())));
        assert_eq!(of(&found, &class, "/m/set/7/1").as_deref(), Some("/m/set"));
        assert!(found.watched().directories.len() <= WATCHED_MAX);
        let larger =
            |labels| (0..labels).flat_map(|label| members(&format!("/m/more/{label}")).collect::<Vec<_>>());
        (0..2).for_each(|_| open_all(&found, &class, shuffled(larger(10))));
        assert_eq!(of(&found, &class, "/m/more/3/1").as_deref(), Some("/m/more"));
        // A few directories are data sets each, and none of them is idle while others are read.
        let (few, class) = (Found::default(), self::class());
        (0..2).for_each(|_| open_all(&few, &class, shuffled(larger(3))));
        assert_eq!(names(&few), ["/m/more/0", "/m/more/1", "/m/more/2"]);
        let part = few.part_of(&class, "/m/more/0/1").expect("found");
        part.pass_over(1 << 30);
        assert!(part.is_passed_over());
        few.opened(&class, "/m/more/2/1");
        assert!(!part.is_passed_over());
    }

    #[test]
    fn two_jobs_have_a_data_set_each_and_other_traffic_beside_them_is_none() {
        fastrand::seed(3);
        let (found, class) = (Found::default(), class());
        let epochs = |name: &'static str, count| (0..count).flat_map(move |_| shuffled(members(name)));
        let hot = || format!("/m/hot/{}", (fastrand::f64().powi(4) * 1e3) as u32);
        let (mut first, mut second) = (epochs("/m/first", 10), epochs("/m/second", 10).skip(FILES / 2));
        for _ in 0..3 * FILES {
            let files = [first.next(), second.next(), Some(hot())];
            open_all(&found, &class, files.into_iter().flatten());
        }
        assert_eq!(names(&found), ["/m/first", "/m/second"]);
        assert!(!found.part_of(&class, "/m/hot/1").is_some_and(|part| part.treatment().epoch));
        // One that is read otherwise is none any more; the other one stays.
        open_all(&found, &class, (0..5 * FILES).map(|_| format!("/m/first/{}", fastrand::usize(0..FILES))));
        assert_eq!(names(&found), ["/m/second"]);
    }

    #[test]
    fn nothing_is_watched_where_somebody_said_what_is_a_data_set() {
        let found = Found::default();
        let said = Class::new("/m", Treatment { epoch_by: DecidedBy::Rule, ..Treatment::default() });
        (0..3).for_each(|_| open_all(&found, &said, members("/m/set")));
        assert!(found.watched().directories.is_empty());
        // A rule that is made for it is its own beginning.
        let (class, own) = (class(), Class::new("/m/set", Treatment::default()));
        (0..2).for_each(|_| open_all(&found, &class, members("/m/set")));
        let part = found.part_of(&class, "/m/set/1").expect("found");
        assert_eq!(of(&found, &own, "/m/set/1"), None);
        open_all(&found, &own, members("/m/set"));
        assert!(!part.treatment().epoch);
        assert_eq!(of(&found, &own, "/m/set/1").as_deref(), Some("/m/set"));
    }
}
