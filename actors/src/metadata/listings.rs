//! What one mount knows of its directories, and how commits keep it true.
//!
//! Invariants:
//! - From when a commit is announced, before the store is told, until what became of it is in the database, the names
//!   it concerns are not answered from here.
//! - An answer of the store to a request that was sent before that moment says nothing of these names: requests take a
//!   [`Token`] first.
//! - Whoever reads takes one, too, before the database is opened: what was committed since then is not in it.
//! - While nothing is kept and nothing is there (module `sweep`), a commit is merely counted: what was asked for before it
//!   came to its end says nothing of any name.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use forebay_core::{ListQuery, Result};
use tokio::sync::oneshot;

use super::chunk::Said;
use super::compare::{Compared, Part, compare};
use super::proof::{descend, ranges, split};
use super::ranges::{Fact, Range};
use super::store::Place;
use super::walk::{Trust, page};
use super::{Job, Learn, Record, Shared};
use crate::backend::{Object, ObjectPage};
use crate::staging::blocking;

/// Commits that are remembered for answers that are under way.
const RECENT_MAX: usize = 4096;

/// A moment in the order of commits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(u64);

/// What is known of the directories of one mount.
pub struct Listings {
    mount: u64,
    shared: Arc<Shared>,
    /// Directories are the store's own: they show numbers, and neither come nor go with what is below them.
    is_hierarchical: bool,
    /// Held for look-ups in memory only, and inside the writer's changes.
    commits: Mutex<Commits>,
}

/// What a store said of one name.
pub(crate) struct Known {
    /// `None` where nothing is there.
    pub(crate) object: Option<Object>,
    /// When it was asked.
    pub(crate) since: SystemTime,
}

#[derive(Default)]
struct Commits {
    /// Whether the store is trusted for so long that what it lists is kept.
    is_kept: bool,
    /// Nothing is kept, and nothing in the database: commits are not written down.
    is_silent: bool,
    /// Commits under way that were not written down.
    silent: usize,
    now: u64,
    /// Names by directory that nobody can tell of now, and by how many commits.
    open: HashMap<String, HashMap<String, usize>>,
    /// Directories of which nobody can tell anything now.
    trees: Vec<String>,
    recent: VecDeque<Recent>,
    /// Commits up to this one are no longer in `recent`.
    lost: u64,
}

struct Recent {
    stamp: u64,
    directory: String,
    /// `None` stands for all names in and below the directory.
    name: Option<String>,
}

/// A commit under way. However it ends, [`Announced::settle`] or a drop must say so.
pub(crate) struct Announced {
    listings: Arc<Listings>,
    /// In the journal; `None` for one that is merely counted.
    number: Option<u64>,
    /// The name that is changed first, then those that may come or go with it.
    names: Vec<(String, String)>,
    trees: Vec<String>,
    token: Token,
    outcome: Outcome,
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Failed, or cut off.
    Unknown,
    /// The file is this one.
    Wrote(Object),
    /// The marker is there.
    Marked,
    /// The file or marker is gone.
    Removed,
}

impl Listings {
    pub(super) fn new(shared: Arc<Shared>, mount: u64, is_hierarchical: bool) -> Arc<Self> {
        Arc::new(Self { mount, shared, is_hierarchical, commits: Mutex::default() })
    }

    pub(super) fn mount(&self) -> u64 {
        self.mount
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what the store lists is kept from now on. What is known when that ends is removed by and by.
    pub(crate) fn keep(&self, is_kept: bool) {
        let mut commits = self.commits();
        commits.is_kept = is_kept;
        if is_kept {
            commits.is_silent = false;
        } else if !commits.is_silent {
            drop(commits);
            self.shared.sweep_soon();
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.commits().is_kept
    }

    /// Nothing of a mount that keeps nothing is in the database.
    pub(super) fn silence(&self) {
        let mut commits = self.commits();
        commits.is_silent = !commits.is_kept;
    }

    /// To be taken before the store is asked.
    pub(crate) fn token(&self) -> Token {
        Token(self.commits().now)
    }

    /// The answer to `query`, if all of it is known from requests that `is_fresh` says may be trusted of the directories
    /// that it touches.
    pub(crate) async fn page(
        self: &Arc<Self>,
        query: &ListQuery,
        is_fresh: impl Fn(&str, SystemTime) -> bool + Send + 'static,
    ) -> Option<ObjectPage> {
        if !self.tells(query) {
            return None;
        }
        let (own, query) = (Arc::clone(self), query.clone());
        // Off the runtime: what the kernel does not have in memory is read from a disk.
        let found = blocking(move || own.find(&query, &is_fresh)).await;
        found.unwrap_or_else(|error| {
            self.shared.fail(&error);
            None
        })
    }

    fn find(
        &self,
        query: &ListQuery,
        is_fresh: &dyn Fn(&str, SystemTime) -> bool,
    ) -> Result<Option<ObjectPage>> {
        let token = self.token();
        if !self.shared.is_usable() {
            return Ok(None);
        }
        let view = self.shared.store.view()?;
        let trust: Trust<'_> = &|directory, at, chunk| {
            is_fresh(directory, chunk.since)
                && !self.commits().concern(directory, token, |name| name >= at && chunk.covers(name))
        };
        page(&*view, self.mount, query, trust)
    }

    /// What is known of the file and of the directory `name`, a key, and from when that is.
    pub(crate) async fn look(
        self: &Arc<Self>,
        name: &str,
        is_fresh: impl Fn(SystemTime) -> bool + Send + 'static,
    ) -> Option<[Option<Known>; 2]> {
        let token = self.token();
        if !self.shared.is_usable() {
            return None;
        }
        let at_hand =
            self.known(name, token, &is_fresh, |place, name| Ok(self.shared.store.at_hand(place, name)));
        if let Ok(Some(known)) = at_hand {
            return Some(known);
        }
        let (own, name) = (Arc::clone(self), name.to_owned());
        let found = blocking(move || {
            let view = own.shared.store.view()?;
            own.known(&name, token, &is_fresh, |place, name| view.find(place, name).map(Some))
        });
        found.await.unwrap_or_else(|error| {
            self.shared.fail(&error);
            None
        })
    }

    /// What `find` says of the file and the directory `key`, if it can tell, but for names that were changed since
    /// `token` was taken.
    fn known(
        &self,
        key: &str,
        token: Token,
        is_fresh: &dyn Fn(SystemTime) -> bool,
        find: impl Fn(Place<'_>, &str) -> Result<Option<Said>>,
    ) -> Result<Option<[Option<Known>; 2]>> {
        let (mut answers, (directory, file)) = ([None, None], split(key));
        let place = Place { mount: self.mount, directory };
        for (answer, name) in answers.iter_mut().zip([file.to_owned(), format!("{file}/")]) {
            let (object, since) = match find(place, &name)? {
                None => return Ok(None),
                Some(Said::Nothing) => continue,
                Some(Said::Missing(since)) => (None, since),
                Some(Said::There(object, since)) => (Some(object), since),
            };
            if is_fresh(since) && !self.commits().concern(directory, token, |concerned| concerned == name) {
                let object = object.map(|object| Object { key: format!("{directory}{name}"), ..object });
                *answer = Some(Known { object, since });
            }
        }
        Ok(Some(answers))
    }

    /// Whether listings like this are kept: a flat one of a hierarchical store does not show its directories.
    fn tells(&self, query: &ListQuery) -> bool {
        (query.shallow || !self.is_hierarchical) && self.shared.is_usable()
    }

    /// Takes in what the store said to a request that was sent at `since`, after `token` was taken.
    pub(crate) fn learn(
        self: &Arc<Self>,
        query: &ListQuery,
        page: &ObjectPage,
        (token, since): (Token, SystemTime),
    ) {
        if self.tells(query) && self.shared.has_room() {
            let ranges = ranges(query, page);
            self.shared.push(Job::Learn(self.learning((token, since), ranges)));
        }
    }

    fn learning(self: &Arc<Self>, (token, since): (Token, SystemTime), ranges: Vec<Range>) -> Learn {
        let listings = Arc::clone(self);
        let (over, unknown) = (Vec::new(), Vec::new());
        Learn { listings, token, since, ranges, over, unknown, done: None, is_durable: false }
    }

    /// What the store says differently of a part than what is known; what a commit changed since `token` was taken is left
    /// out.
    pub(crate) async fn compare(
        self: &Arc<Self>,
        (query, page, until): (&ListQuery, &Arc<ObjectPage>, Option<&str>),
        token: Token,
    ) -> Compared {
        if !self.shared.is_usable() {
            return Compared::default();
        }
        let (own, query, page) = (Arc::clone(self), query.clone(), Arc::clone(page));
        let until = until.map(ToOwned::to_owned);
        let compared = blocking(move || {
            let part = Part { query: &query, page: &page, until: until.as_deref() };
            let mut compared = compare(&*own.shared.store.view()?, own.mount, part)?;
            let commits = own.commits();
            compared.differences.retain(|difference| {
                let (directory, name) = parent(&difference.name);
                !commits.concern(directory, token, |concerned| concerned == name)
            });
            drop(commits);
            Ok(compared)
        });
        compared.await.unwrap_or_else(|error| {
            self.shared.fail(&error);
            Compared::default()
        })
    }

    /// As [`Listings::learn`], with what was found by comparing; it is known when this returns. Where flat listings do not
    /// tell, what differs is forgotten.
    pub(crate) async fn learn_compared(
        self: &Arc<Self>,
        part: Part<'_>,
        asked: (Token, SystemTime),
        compared: &Compared,
    ) {
        let is_told = self.tells(part.query);
        let ranges = if is_told && !compared.is_cut { part.ranges() } else { Vec::new() };
        let names = compared.differences.iter().filter(|_| !is_told);
        let owned = |(directory, name): (&str, &str)| (directory.to_owned(), name.to_owned());
        let (done, is_done) = oneshot::channel();
        self.shared.push(Job::Learn(Learn {
            over: compared.over.clone(),
            unknown: names.map(|difference| owned(parent(&difference.name))).collect(),
            done: Some(done),
            is_durable: !compared.differences.is_empty() || compared.is_cut,
            ..self.learning(asked, ranges)
        }));
        // The writer ends every job, unless it is gone: then nothing is known any more.
        is_done.await.unwrap_or_default();
    }

    /// What of `range` no commit contradicts that the answer may have missed.
    pub(super) fn uncontested(&self, range: Range, token: Token) -> Vec<Range> {
        let commits = self.commits();
        if !commits.is_kept || commits.silent > 0 || token.0 < commits.lost {
            return Vec::new();
        }
        let mut names = Vec::new();
        for recent in commits.recent.iter().rev().take_while(|recent| recent.stamp > token.0) {
            match &recent.name {
                Some(name) if recent.directory == range.directory => names.push(name.clone()),
                None if range.directory.starts_with(&recent.directory) => return Vec::new(),
                Some(_) | None => {}
            }
        }
        if commits.trees.iter().any(|tree| range.directory.starts_with(tree)) {
            return Vec::new();
        }
        names.extend(commits.open.get(&range.directory).into_iter().flat_map(|open| open.keys().cloned()));
        drop(commits);
        let mut left = vec![range];
        for name in names {
            left = left.into_iter().flat_map(|range| range.without(&name)).collect();
        }
        left
    }

    /// Announces a commit of `name` (a key, or a marker that ends in `/`), before the store is told.
    pub(crate) fn announce(self: &Arc<Self>, name: &str) -> Announced {
        self.count().unwrap_or_else(|| self.announce_all(self.concerned(name), Vec::new()))
    }

    /// A commit that need not be written down.
    fn count(self: &Arc<Self>) -> Option<Announced> {
        let mut commits = self.commits();
        if !commits.is_silent {
            return None;
        }
        commits.silent += 1;
        let (names, trees, token) = (Vec::new(), Vec::new(), Token(commits.now));
        drop(commits);
        Some(Announced {
            listings: Arc::clone(self),
            number: None,
            names,
            trees,
            token,
            outcome: Outcome::Unknown,
        })
    }

    fn counted(&self) {
        let mut commits = self.commits();
        commits.silent -= 1;
        commits.now += 1;
        commits.lost = commits.now;
    }

    fn announce_all(self: &Arc<Self>, names: Vec<(String, String)>, trees: Vec<String>) -> Announced {
        let record = Record { mount: self.mount, names, trees };
        let number = self.shared.begin(&record);
        let Record { names, trees, .. } = record;
        let mut commits = self.commits();
        commits.open(&names);
        commits.trees.extend(trees.iter().cloned());
        let token = Token(commits.now);
        drop(commits);
        let number = Some(number);
        Announced { listings: Arc::clone(self), number, names, trees, token, outcome: Outcome::Unknown }
    }

    /// Announces a commit of all that lies at and below the keys.
    pub(crate) fn announce_trees(self: &Arc<Self>, keys: &[&str]) -> Announced {
        if let Some(counted) = self.count() {
            return counted;
        }
        let trees: Vec<_> = keys.iter().map(|key| format!("{key}/")).collect();
        let names: Vec<_> = keys
            .iter()
            .flat_map(|key| [self.concerned(key), self.concerned(&format!("{key}/"))].concat())
            .collect();
        self.announce_all(names, trees)
    }

    /// The name itself as (directory, name), and what may come or go with it.
    fn concerned(&self, name: &str) -> Vec<(String, String)> {
        let (mut directory, mut rest, mut names) = (String::new(), name, Vec::new());
        loop {
            let child = descend(rest);
            let own = child.map_or(rest, |(group, _)| group);
            names.push((directory.clone(), own.to_owned()));
            if self.is_hierarchical && !directory.is_empty() && !rest.is_empty() {
                // A directory shows itself only while it is empty.
                names.push((directory.clone(), String::new()));
            }
            let Some((group, below)) = child else { break };
            directory.push_str(group);
            rest = below;
        }
        names.reverse();
        if self.is_hierarchical && !rest.is_empty() && names.len() > 1 {
            names.swap(0, 1);
        }
        names
    }

    /// What a commit says of the names that it concerned is in the database, or never will be.
    pub(super) fn applied(&self, facts: &[(String, String, Fact)], trees: &[String]) {
        let mut commits = self.commits();
        commits.now += 1;
        let stamp = commits.now;
        for (directory, name, _) in facts {
            commits.close(directory, name);
            let (directory, name) = (directory.clone(), Some(name.clone()));
            commits.recent.push_back(Recent { stamp, directory, name });
        }
        for tree in trees {
            if let Some(place) = commits.trees.iter().position(|open| open == tree) {
                commits.trees.swap_remove(place);
            }
            commits.recent.push_back(Recent { stamp, directory: tree.clone(), name: None });
        }
        while commits.recent.len() > RECENT_MAX
            && let Some(lost) = commits.recent.pop_front()
        {
            commits.lost = lost.stamp;
        }
    }
}

/// The directory that a name lies in, and what it is called there; a directory's name ends in `/`.
fn parent(name: &str) -> (&str, &str) {
    let (directory, own) = split(name.strip_suffix('/').unwrap_or(name));
    (directory, &name[name.len() - own.len() - usize::from(name.ends_with('/'))..])
}

impl Commits {
    fn open(&mut self, names: &[(String, String)]) {
        for (directory, name) in names {
            let open = self.open.entry(directory.clone()).or_default();
            *open.entry(name.clone()).or_default() += 1;
        }
    }

    fn close(&mut self, directory: &str, name: &str) {
        let Some(open) = self.open.get_mut(directory) else { return };
        if let Some(count) = open.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                open.remove(name);
            }
        }
        if open.is_empty() {
            self.open.remove(directory);
        }
    }

    /// Whether a commit that is under way, or came to its end after `token` was taken, concerns such a name.
    fn concern(&self, directory: &str, token: Token, is_meant: impl Fn(&str) -> bool) -> bool {
        let is_open = self.open.get(directory).is_some_and(|open| open.keys().any(|name| is_meant(name)))
            || self.trees.iter().any(|tree| directory.starts_with(tree));
        is_open || self.has_ended(directory, token, is_meant)
    }

    /// Whether a commit that came to its end after `token` was taken concerned such a name, or may have.
    fn has_ended(&self, directory: &str, token: Token, is_meant: impl Fn(&str) -> bool) -> bool {
        token.0 < self.lost
            || self.recent.iter().rev().take_while(|recent| recent.stamp > token.0).any(
                |recent| match &recent.name {
                    Some(name) => recent.directory == directory && is_meant(name),
                    None => directory.starts_with(&recent.directory),
                },
            )
    }
}

impl Announced {
    /// Says how the commit ended.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// What is true of the names now. Of commits that overlap nobody knows which came last.
    fn facts(&mut self) -> Vec<(String, String, Fact)> {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Unknown);
        let is_hierarchical = self.listings.is_hierarchical;
        let names = std::mem::take(&mut self.names);
        let is_alone = names.first().is_some_and(|(directory, name)| {
            let commits = self.listings.commits();
            commits.open.get(directory).and_then(|open| open.get(name)) == Some(&1)
                && !commits.has_ended(directory, self.token, |ended| ended == name)
        });
        let mut facts = Vec::with_capacity(names.len());
        for (directory, name) in names {
            let fact = match &outcome {
                Outcome::Wrote(_) | Outcome::Removed | Outcome::Marked
                    if is_hierarchical && !facts.is_empty() =>
                {
                    Fact::Unknown
                }
                Outcome::Wrote(object) if facts.is_empty() && is_alone => {
                    Fact::There(Object { key: name.clone(), headers: None, ..object.clone() })
                }
                Outcome::Wrote(_) | Outcome::Marked if !facts.is_empty() => Fact::Implied,
                Outcome::Removed if facts.is_empty() && is_alone => Fact::Gone,
                Outcome::Unknown | Outcome::Wrote(_) | Outcome::Marked | Outcome::Removed => Fact::Unknown,
            };
            facts.push((directory, name, fact));
        }
        facts
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let Some(number) = self.number else { return self.listings.counted() };
        let facts = self.facts();
        let (listings, trees) = (Arc::clone(&self.listings), std::mem::take(&mut self.trees));
        listings.shared.push(Job::Settle { listings: Arc::clone(&listings), number, facts, trees });
    }
}
