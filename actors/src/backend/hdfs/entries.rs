//! The entries of one directory in the order of the port, whatever its size.
//!
//! The port orders names as bytes, directories as `name/`. HDFS orders bare names as *signed* bytes: what is not
//! ASCII comes before what is, at each position, and a directory `a` before `a!`. A directory of moderate size is
//! read whole and sorted. A larger one is read from the cursor on:
//!
//! - An entry is held back while a name that is yet to be listed may come before it.
//! - Where a batch ends among names that go on, after a prefix, with other than ASCII, they are dropped, the listing
//!   jumps to the ASCII ones of that prefix, and comes back for the *branch* when those are done. So no more than a
//!   batch is held for each prefix of a name.
//! - What the cursor has jumped over and comes after it is visited the same way: the branch of each of its prefixes,
//!   and directories whose bare names are prefixes of it.

use std::collections::{BTreeMap, VecDeque};

use forebay_core::Result;
use futures::{StreamExt, TryStreamExt, stream};

use super::client::Client;
use super::path::Path;
use super::status::{Kind, Status};

/// Entries of a directory that is read whole; what a NameNode lists at once by default.
const WHOLE_ENTRIES_MAX: u64 = 1000;
/// Requests of one listing in flight.
const REQUESTS: usize = 8;
/// The first byte of a character that is not ASCII is at least this; those that follow it are below.
const LEAD_MIN: u8 = 0xc0;
/// What HDFS lists last of what goes on after a prefix.
const LAST_ASCII: char = '\u{7f}';
/// Sorts before all names that go on with other than ASCII.
const BRANCH: char = '\u{80}';

/// Which entries are meant.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Their names start with this.
    pub(super) filter: &'a str,
    /// They are, or lead to, something that comes after this name of the same directory.
    pub(super) from: Option<&'a str>,
    /// None has this name.
    pub(super) hidden: &'a str,
}

/// The entries, as they are asked for.
pub(super) struct Entries {
    path: Path,
    filter: String,
    hidden: String,
    order: Order,
}

enum Order {
    Whole(VecDeque<(String, Status)>),
    /// The last one is read; it was branched off the one before.
    Streams(Vec<Stream>),
}

/// A stretch of the directory, in the order of HDFS.
struct Stream {
    /// What all names start with; those of a branch go on with other than ASCII.
    bound: String,
    is_branch: bool,
    /// Where the listing began: only what comes after it is wanted.
    seed: String,
    /// Entries by their names in the order of the port, until nothing can come before them.
    held: BTreeMap<String, Status>,
    listed: VecDeque<Status>,
    /// The name to list on from; `None` when all is listed.
    resume: Option<String>,
    /// Prefixes whose branches are still to be visited, by where these stand in the order of the port.
    branches: BTreeMap<String, String>,
}

enum Step {
    Entry(String, Status),
    Branch(String),
    End,
}

impl Entries {
    /// Begins to read a directory of `children` entries.
    pub(super) async fn open(
        client: &Client,
        path: Path,
        children: Option<u64>,
        wanted: Wanted<'_>,
    ) -> Result<Self> {
        let order = match (children, wanted.from) {
            (Some(children), _) if children <= WHOLE_ENTRIES_MAX => {
                Order::Whole(whole(client, &path, wanted.filter).await?)
            }
            (_, from) => Order::Streams(vec![Stream::main(client, &path, (wanted.filter, from)).await?]),
        };
        Ok(Self { path, filter: wanted.filter.to_owned(), hidden: wanted.hidden.to_owned(), order })
    }

    /// The next entry and its name as listings order it: directories end in `/`.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<(String, Status)>> {
        loop {
            let next = match &mut self.order {
                Order::Whole(entries) => entries.pop_front(),
                Order::Streams(streams) => {
                    let Some(stream) = streams.last_mut() else { return Ok(None) };
                    match stream.step(client, &self.path).await? {
                        Step::Entry(name, status) => Some((name, status)),
                        Step::Branch(prefix) => {
                            streams.push(Stream::branch(prefix));
                            continue;
                        }
                        Step::End => {
                            streams.pop();
                            continue;
                        }
                    }
                }
            };
            match next {
                Some((_, status)) if status.path_suffix == self.hidden || status.kind == Kind::Symlink => {}
                next => return Ok(next.filter(|(name, _)| name.starts_with(&self.filter))),
            }
        }
    }
}

/// All entries of a directory, in order.
async fn whole(client: &Client, path: &Path, filter: &str) -> Result<VecDeque<(String, Status)>> {
    let mut entries = Vec::new();
    let mut after = String::new();
    loop {
        let batch = client.list(path, &after).await?;
        if let Some(last) = batch.statuses.last() {
            after.clone_from(&last.path_suffix);
        }
        let meant = batch.statuses.into_iter().filter(|status| status.path_suffix.starts_with(filter));
        entries.extend(meant.map(|status| (ordered(&status), status)));
        if !batch.is_cut {
            break;
        }
    }
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries.into())
}

/// The name as listings order it.
fn ordered(status: &Status) -> String {
    match status.kind {
        Kind::Directory => format!("{}/", status.path_suffix),
        Kind::File | Kind::Symlink => status.path_suffix.clone(),
    }
}

fn common(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
}

/// Whether HDFS lists `next` after all names that start with `prefix`.
fn is_past(next: &str, prefix: &str) -> bool {
    let at = common(next, prefix);
    match (next.as_bytes().get(at), prefix.as_bytes().get(at)) {
        (Some(next), Some(prefix)) => next.cast_signed() > prefix.cast_signed(),
        (_, None) | (None, _) => false,
    }
}

impl Stream {
    /// All that starts with `filter`, from a name on.
    async fn main(client: &Client, path: &Path, (filter, from): (&str, Option<&str>)) -> Result<Self> {
        let seed = from.unwrap_or(filter);
        let mut stream = Self::new(filter, seed);
        for (at, c) in seed.char_indices() {
            if at >= filter.len() && c.is_ascii() {
                stream.leave(&seed[..at]);
            }
        }
        if !seed.is_empty() {
            stream.seek(client, path).await?;
        }
        Ok(stream)
    }

    /// All that goes on after `prefix` with other than ASCII.
    fn branch(prefix: String) -> Self {
        let stream = Self::new(&prefix, "");
        Self { is_branch: true, resume: Some(prefix), ..stream }
    }

    fn new(bound: &str, seed: &str) -> Self {
        Self {
            bound: bound.to_owned(),
            is_branch: false,
            seed: seed.to_owned(),
            held: BTreeMap::new(),
            listed: VecDeque::new(),
            resume: Some(seed.to_owned()),
            branches: BTreeMap::new(),
        }
    }

    async fn step(&mut self, client: &Client, path: &Path) -> Result<Step> {
        loop {
            if self.listed.is_empty()
                && let Some(resume) = self.resume.take()
            {
                self.list_on(client, path, &resume).await?;
                continue;
            }
            let next = self.listed.front().map(|status| status.path_suffix.as_str());
            let is_due = |prefix: &str| next.is_none_or(|next| is_past(next, prefix));
            let branch = self.branches.iter().find(|(_, prefix)| is_due(prefix)).map(|(place, _)| place);
            if let Some((name, _)) = self.held.first_key_value()
                && next.is_none_or(|next| !self.may_follow(next, name))
                && branch.is_none_or(|place| name < place)
            {
                let (name, status) = self.held.pop_first().expect("looked at above");
                return Ok(Step::Entry(name, status));
            }
            if let Some(place) = branch.cloned() {
                return Ok(self.branches.remove(&place).map_or(Step::End, Step::Branch));
            }
            let Some(status) = self.listed.pop_front() else { return Ok(Step::End) };
            self.held.insert(ordered(&status), status);
        }
    }

    /// Whether `next`, or a name that HDFS lists after it, may come before `name` in the order of the port.
    fn may_follow(&self, next: &str, name: &str) -> bool {
        let (at, fixed) = (common(next, name), self.fixed(name));
        let (next, name) = (next.as_bytes(), name.as_bytes());
        // Where both go on alike with other than ASCII, ASCII is still to come.
        if name[fixed.min(at)..at].iter().any(|byte| *byte >= LEAD_MIN) {
            return true;
        }
        match (next.get(at), name.get(at)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(next), Some(name)) => next < name || (*next >= LEAD_MIN && at >= fixed),
        }
    }

    /// How many bytes of `name` all names that are yet to be listed and wanted share, or exceed.
    fn fixed(&self, name: &str) -> usize {
        let bound = self.bound.len() + usize::from(self.is_branch);
        let at = common(name, &self.seed);
        // Where the seed goes on with other than ASCII, ASCII comes before it and is not wanted.
        let is_beyond = self.seed.as_bytes().get(at).is_some_and(|byte| *byte >= LEAD_MIN);
        bound.max(at + usize::from(is_beyond))
    }

    async fn list_on(&mut self, client: &Client, path: &Path, after: &str) -> Result<()> {
        let batch = client.list(path, after).await?;
        let count = batch.statuses.len();
        let is_bound = |status: &Status| {
            let rest = status.path_suffix.strip_prefix(&self.bound);
            rest.is_some_and(|rest| {
                !self.is_branch || rest.as_bytes().first().is_some_and(|b| *b >= LEAD_MIN)
            })
        };
        let meant: Vec<Status> = batch.statuses.into_iter().take_while(is_bound).collect();
        let is_over = meant.len() < count || !batch.is_cut;
        let last = meant.last().map(|status| status.path_suffix.clone());
        let is_wanted = |status: &Status| status.path_suffix > self.seed || self.seed.is_empty();
        self.listed.extend(meant.into_iter().filter(is_wanted));
        if let Some(last) = last.filter(|_| !is_over) {
            self.resume = Some(self.skip(&last).or_else(|| self.jump(&last)).unwrap_or(last));
        }
        Ok(())
    }

    /// Leaves names behind that are not wanted, if a batch ended in them; where to list on instead.
    fn skip(&self, last: &str) -> Option<String> {
        let shared = self.seed.get(..common(last, &self.seed)).filter(|_| *last < *self.seed)?;
        Some(format!("{shared}{LAST_ASCII}")).filter(|resume| !is_past(last, resume))
    }

    /// Leaves the branch that a batch ended in, if it did, for later; where to list on instead.
    fn jump(&mut self, last: &str) -> Option<String> {
        let fixed = self.fixed(last);
        let at = last.bytes().enumerate().position(|(at, byte)| at >= fixed && byte >= LEAD_MIN)?;
        let prefix = &last[..at];
        let is_in_branch = |name: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.as_bytes().first().is_some_and(|b| *b >= LEAD_MIN))
        };
        self.listed.retain(|status| !is_in_branch(&status.path_suffix));
        self.held.retain(|name, _| !is_in_branch(name));
        self.leave(prefix);
        Some(format!("{prefix}\0"))
    }

    /// Leaves the branch after `prefix` for later.
    fn leave(&mut self, prefix: &str) {
        self.branches.insert(format!("{prefix}{BRANCH}"), prefix.to_owned());
    }

    /// Looks for what has the name of the seed, and for directories whose bare names come before it although, as
    /// `name/`, they come after: its prefixes that a character before `/` follows.
    async fn seek(&mut self, client: &Client, path: &Path) -> Result<()> {
        let mut names = vec![self.seed.clone()];
        for (at, c) in self.seed.char_indices() {
            if at > 0 && c < '/' {
                names.push(self.seed[..at].to_owned());
            }
        }
        names.retain(|name| name.starts_with(&self.bound));
        let mut looks = Vec::new();
        for name in names {
            let path = path.join(&name);
            looks.push(async move { client.look(&path).await.map(|found| (name, found)) });
        }
        let found: Vec<_> = stream::iter(looks).buffered(REQUESTS).try_collect().await?;
        for (name, status) in found {
            let Some(status) = status else { continue };
            if status.is_directory() || name == self.seed {
                let status = Status { path_suffix: name, ..status };
                self.held.insert(ordered(&status), status);
            }
        }
        Ok(())
    }
}
