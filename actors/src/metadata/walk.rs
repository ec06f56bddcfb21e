//! Pages of listings out of chunks: what a page costs does not depend on its position.

use std::vec;

use forebay_core::{ListQuery, Result};

use super::chunk::Chunk;
use super::proof::{Cursor, descend, split};
use super::store::{Place, View, successor};
use crate::backend::{Object, ObjectPage};

/// Whether a chunk of a directory may be shown from a name on.
pub(crate) type Trust<'a> = &'a dyn Fn(&str, &str, &Chunk) -> bool;

/// A directory that is being read.
struct Level {
    directory: String,
    /// What the names must start with.
    filter: String,
    /// The next name, or where it would be.
    at: String,
    /// Where to go on inside the directory `at`.
    inside: Option<String>,
    /// The rest of the chunk that covers `at`, and where it ends.
    chunk: Option<(vec::IntoIter<Object>, Option<String>)>,
}

enum Step {
    Name(Object),
    Down(Level),
    Up,
    Unknown,
}

/// The answer to `query`; `None` where not all of it is known and trusted.
pub(crate) fn page(
    view: &dyn View,
    mount: u64,
    query: &ListQuery,
    trust: Trust<'_>,
) -> Result<Option<ObjectPage>> {
    let (directory, filter) = split(&query.prefix);
    let mut base = Level::new(directory.to_owned(), filter);
    match Cursor::of(query) {
        Cursor::Past => return Ok(Some(ObjectPage::default())),
        Cursor::Start => {}
        Cursor::After(after) => base.start_after(after, query.shallow),
    }
    let mut objects = Vec::new();
    let mut stack = vec![base];
    while let Some(level) = stack.last_mut() {
        match level.step((view, mount), query.shallow, trust)? {
            Step::Name(object) => objects.push(object),
            Step::Down(level) => stack.push(level),
            Step::Up => drop(stack.pop()),
            Step::Unknown if objects.len() < query.limit => return Ok(None),
            Step::Unknown => return Ok(Some(ObjectPage { objects, is_truncated: true })),
        }
        if objects.len() > query.limit {
            objects.truncate(query.limit);
            return Ok(Some(ObjectPage { objects, is_truncated: true }));
        }
    }
    Ok(Some(ObjectPage { objects, is_truncated: false }))
}

impl Level {
    fn new(directory: String, filter: &str) -> Self {
        Self { directory, filter: filter.to_owned(), at: filter.to_owned(), inside: None, chunk: None }
    }

    fn start_after(&mut self, after: &str, is_shallow: bool) {
        match descend(after) {
            Some((group, _)) if is_shallow => self.at = successor(group),
            Some((group, rest)) => {
                group.clone_into(&mut self.at);
                self.inside = Some(rest.to_owned());
            }
            None => self.at = successor(after),
        }
    }

    fn step(&mut self, (view, mount): (&dyn View, u64), is_shallow: bool, trust: Trust<'_>) -> Result<Step> {
        loop {
            let Some((names, end)) = &mut self.chunk else {
                let place = Place { mount, directory: &self.directory };
                let found = view.floor(place, &self.at)?.filter(|chunk| chunk.covers(&self.at));
                let Some(mut chunk) = found.filter(|chunk| trust(&self.directory, &self.at, chunk)) else {
                    return Ok(Step::Unknown);
                };
                let passed = chunk.names.partition_point(|object| object.key < self.at);
                drop(chunk.names.drain(..passed));
                self.chunk = Some((chunk.names.into_iter(), chunk.end));
                continue;
            };
            let Some(object) = names.next() else {
                match end.take().filter(|end| end.starts_with(&self.filter) || *end < self.filter) {
                    Some(end) => {
                        self.at = end;
                        self.chunk = None;
                        continue;
                    }
                    None => return Ok(Step::Up),
                }
            };
            if !object.key.starts_with(&self.filter) {
                return Ok(Step::Up);
            }
            return Ok(self.show(object, is_shallow));
        }
    }

    fn show(&mut self, object: Object, is_shallow: bool) -> Step {
        let full = format!("{}{}", self.directory, object.key);
        let inside = self.inside.take().filter(|_| self.at == object.key);
        if is_shallow || !object.key.ends_with('/') {
            return Step::Name(Object { key: full, ..object });
        }
        let mut level = Self::new(full, "");
        if let Some(inside) = inside {
            level.start_after(&inside, false);
        }
        Step::Down(level)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use forebay_core::{Clock, Headers, Precondition};

    use super::*;
    use crate::backend::{Backend, Memory, Source};
    use crate::metadata::proof::ranges;
    use crate::metadata::ranges::learn;
    use crate::metadata::store::{Edit, Model, Store};

    async fn a_store(random: &mut fastrand::Rng) -> Memory {
        let store = Memory::new(1 << 20, Clock::system());
        for _ in 0..random.usize(1..120) {
            let depth = random.usize(1..4);
            let mut key: String = (0..depth)
                .map(|_| ["a", "a!", "ab", "b", "c"][random.usize(..5)])
                .collect::<Vec<_>>()
                .join("/");
            if random.u8(..5) == 0 {
                key.push('/');
            }
            let source = Source::new(Vec::new());
            store.put(&key, &source, &Headers::default(), &Precondition::None).await.expect("fits");
        }
        store
    }

    fn names(page: &ObjectPage) -> Vec<(String, bool)> {
        page.objects.iter().map(|object| (object.key.clone(), object.is_prefix)).collect()
    }

    /// Every page that chunks answer is the store's, whatever pages they were learned from.
    #[tokio::test]
    async fn pages_out_of_chunks_are_those_of_the_store() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut answered = 0;
        for _ in 0..60 {
            let (store, known) = (a_store(&mut random).await, Model::default());
            for _ in 0..60 {
                let prefix = ["", "", "a", "a/", "ab/", "a/b", "a/a/", "b/"][random.usize(..8)].to_owned();
                let start_after =
                    [None, Some("a"), Some("a/"), Some("a/a/b"), Some("a/b"), Some("b/c/c"), Some("c")]
                        [random.usize(..7)]
                    .map(ToOwned::to_owned);
                let (shallow, limit) = (random.bool(), random.usize(1..40));
                let query = ListQuery { prefix, shallow, start_after, limit };
                let expected = store.list(&query).await.expect("lists");
                let view = known.view().expect("opens");
                if let Some(page) = page(&*view, 1, &query, &|_, _, _| true).expect("reads") {
                    answered += 1;
                    assert_eq!(names(&page), names(&expected), "{query:?}");
                    assert!(page.is_truncated || !expected.is_truncated, "{query:?}");
                }
                let mut work = |edit: &mut dyn Edit| {
                    ranges(&query, &expected)
                        .into_iter()
                        .try_for_each(|range| learn(edit, 1, range, SystemTime::UNIX_EPOCH).map(drop))
                };
                known.edit(false, &mut work).expect("is made");
            }
        }
        assert!(answered > 500, "{answered}");
    }
}
