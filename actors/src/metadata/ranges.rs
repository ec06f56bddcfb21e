//! Changes of what is known of a directory, chunk by chunk.
//!
//! Invariant: the chunks of a directory do not overlap. What no chunk covers is not known.

use std::time::{Duration, SystemTime};

use forebay_core::Result;

use super::chunk::{Chunk, NAMES_MAX};
use super::store::{Edit, Place, View, successor};
use crate::backend::Object;

/// Neighbours that were asked for this close together become one chunk when they are small.
const MERGED_AGE: Duration = Duration::from_secs(1);

/// All names of a directory from `from` up to but without `to`.
#[derive(Debug)]
pub(crate) struct Range {
    /// Empty, or ends in `/`.
    pub(crate) directory: String,
    pub(crate) from: String,
    /// `None` for the end of the directory.
    pub(crate) to: Option<String>,
    /// In byte order.
    pub(crate) names: Vec<Object>,
}

/// What became of one name.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// Nobody knows.
    Unknown,
    /// It is there, and like this.
    There(Object),
    /// A directory is there, however it looked before.
    Implied,
    /// Nothing is there.
    Gone,
}

impl Range {
    pub(super) fn has(&self, name: &str) -> bool {
        *name >= *self.from && self.to.as_deref().is_none_or(|to| name < to)
    }

    /// The range in two, without `name`.
    pub(crate) fn without(mut self, name: &str) -> Vec<Self> {
        if !self.has(name) {
            return vec![self];
        }
        let at = self.names.partition_point(|object| *object.key < *name);
        let mut names = self.names.split_off(at);
        if names.first().is_some_and(|object| object.key == name) {
            names.remove(0);
        }
        let (to, from) = (self.to.replace(name.to_owned()), successor(name));
        let rest = Self { directory: self.directory.clone(), from, to, names };
        [self, rest].into_iter().filter(|range| range.to.as_ref().is_none_or(|to| *to > range.from)).collect()
    }
}

/// Makes `range` what is known of these names; `false` where something newer is known of one of them.
pub(crate) fn learn(edit: &mut dyn Edit, mount: u64, range: Range, since: SystemTime) -> Result<bool> {
    let place = Place { mount, directory: &range.directory };
    let overlapping = overlapping(edit, place, &range)?;
    if overlapping.iter().any(|chunk| chunk.since > since) {
        return Ok(false);
    }
    for chunk in overlapping {
        edit.remove(place, &chunk.first)?;
        let Chunk { first, end, since, mut names } = chunk;
        if let Some(to) = &range.to
            && end.as_ref().is_none_or(|end| end > to)
        {
            let at = names.partition_point(|object| object.key < *to);
            let names = names.split_off(at);
            edit.put(place, &Chunk { first: to.clone(), end, since, names })?;
        }
        if first < range.from {
            names.truncate(names.partition_point(|object| object.key < range.from));
            edit.put(place, &Chunk { first, end: Some(range.from.clone()), since, names })?;
        }
    }
    let mut whole = Chunk { first: range.from, end: range.to, since, names: range.names };
    if let Some(left) = left_neighbour(edit, place, &whole)? {
        whole.names.splice(..0, left.names);
        whole.first = left.first;
        whole.since = since.min(left.since);
    }
    put_split(edit, place, whole)?;
    Ok(true)
}

/// Changes what is known of one name. What is not known stays so.
pub(crate) fn change(edit: &mut dyn Edit, place: Place<'_>, name: &str, fact: Fact) -> Result<()> {
    let Some(mut chunk) = edit.floor(place, name)?.filter(|chunk| chunk.covers(name)) else {
        return Ok(());
    };
    match (chunk.place(name), fact) {
        (_, Fact::Unknown) => return forget(edit, place, chunk, name),
        (Ok(at), Fact::There(object)) => chunk.names[at] = object,
        (Err(at), Fact::There(object)) => chunk.names.insert(at, object),
        (Ok(_), Fact::Implied) | (Err(_), Fact::Gone) => return Ok(()),
        (Err(at), Fact::Implied) => chunk.names.insert(at, Object::prefix(name)),
        (Ok(at), Fact::Gone) => drop(chunk.names.remove(at)),
    }
    put_split(edit, place, chunk)
}

fn forget(edit: &mut dyn Edit, place: Place<'_>, chunk: Chunk, name: &str) -> Result<()> {
    edit.remove(place, &chunk.first)?;
    let Chunk { first, end, since, names } = chunk;
    let whole = Range { directory: String::new(), from: first, to: end, names };
    for Range { from, to, names, .. } in whole.without(name) {
        edit.put(place, &Chunk { first: from, end: to, since, names })?;
    }
    Ok(())
}

fn overlapping(edit: &dyn Edit, place: Place<'_>, range: &Range) -> Result<Vec<Chunk>> {
    let mut found = Vec::new();
    each_overlapping(edit, place, range, &mut |chunk| {
        found.push(chunk);
        Ok(true)
    })?;
    Ok(found)
}

/// Shows the chunks that have names of `range`, in order, for as long as `look` wants more.
pub(super) fn each_overlapping(
    view: &dyn View,
    place: Place<'_>,
    range: &Range,
    look: &mut dyn FnMut(Chunk) -> Result<bool>,
) -> Result<()> {
    let mut next = match view.floor(place, &range.from)?.filter(|chunk| chunk.covers(&range.from)) {
        Some(chunk) => Some(chunk),
        None => view.after(place, &range.from)?,
    };
    while let Some(chunk) = next.filter(|chunk| range.to.as_ref().is_none_or(|to| chunk.first < *to)) {
        next = view.after(place, &chunk.first)?;
        if !look(chunk)? {
            break;
        }
    }
    Ok(())
}

/// The chunk right before `chunk`, if the two are better one.
fn left_neighbour(edit: &dyn Edit, place: Place<'_>, chunk: &Chunk) -> Result<Option<Chunk>> {
    let Some(left) = edit.floor(place, &chunk.first)? else { return Ok(None) };
    let apart = chunk.since.duration_since(left.since).unwrap_or_default();
    let fits = left.end.as_deref() == Some(&*chunk.first)
        && left.names.len() + chunk.names.len() <= NAMES_MAX
        && apart <= MERGED_AGE;
    Ok(fits.then_some(left))
}

/// Puts a chunk that may have too many names, as several of equal length.
fn put_split(edit: &mut dyn Edit, place: Place<'_>, mut chunk: Chunk) -> Result<()> {
    let parts = chunk.names.len().div_ceil(NAMES_MAX).max(1);
    for left in (1..parts).rev() {
        let at = chunk.names.len() * left / (left + 1);
        let names = chunk.names.split_off(at);
        let first = names[0].key.clone();
        let end = chunk.end.replace(first.clone());
        edit.put(place, &Chunk { first, end, since: chunk.since, names })?;
    }
    edit.put(place, &chunk)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metadata::store::{Model, Store};

    const PLACE: Place<'_> = Place { mount: 1, directory: "d/" };

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn edit<R>(store: &Model, mut work: impl FnMut(&mut dyn Edit) -> Result<R>) -> R {
        let mut answer = None;
        store
            .edit(false, &mut |edit| {
                answer = Some(work(edit)?);
                Ok(())
            })
            .expect("is made");
        answer.expect("ran")
    }

    /// The names that are known to be there, and of all names asked those that are known at all.
    fn known(store: &Model, all: &[String]) -> BTreeMap<String, bool> {
        let view = store.view().expect("opens");
        let look = |name: &String| {
            let chunk = view.floor(PLACE, name).expect("reads").filter(|chunk| chunk.covers(name))?;
            assert!(chunk.names.is_sorted_by(|a, b| a.key < b.key) && chunk.names.len() <= NAMES_MAX);
            assert!(chunk.names.iter().all(|object| chunk.covers(&object.key)));
            Some((name.clone(), chunk.place(name).is_ok()))
        };
        all.iter().filter_map(look).collect()
    }

    fn range(from: usize, to: usize, names: impl Iterator<Item = usize>) -> Range {
        let names = names.map(|name| Object::prefix(&text(name))).collect();
        Range { directory: "d/".into(), from: text(from), to: Some(text(to)), names }
    }

    fn text(number: usize) -> String {
        format!("{number:04}")
    }

    #[test]
    fn random_changes_leave_what_a_table_of_single_names_has() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (store, mut model) = (Model::default(), BTreeMap::new());
        let all: Vec<_> = (0..2000).map(text).collect();
        for second in 0..300 {
            if random.u8(..) < 60 {
                let (from, len) = (random.usize(..1999), random.usize(1..700));
                let to = (from + len).min(1999);
                let is_there = |name: &usize| !(name * 7919 + second as usize).is_multiple_of(3);
                let learned = range(from, to, (from..to).filter(is_there));
                assert!(edit(&store, |edit| {
                    let names = learned.names.clone();
                    let range = Range { names, directory: "d/".into(), from: text(from), to: Some(text(to)) };
                    learn(edit, 1, range, at(second))
                }));
                model.extend((from..to).map(|name| (text(name), is_there(&name))));
            } else {
                let name = text(random.usize(..2000));
                let fact = match random.u8(..4) {
                    0 => Fact::Unknown,
                    1 => Fact::There(Object::prefix(&name)),
                    2 => Fact::Implied,
                    _ => Fact::Gone,
                };
                edit(&store, |edit| change(edit, PLACE, &name, fact.clone()));
                if let (Fact::Unknown, true) = (&fact, model.contains_key(&name)) {
                    model.remove(&name);
                } else if let Some(is_there) = model.get_mut(&name) {
                    *is_there = !matches!(fact, Fact::Gone);
                }
            }
            assert_eq!(known(&store, &all), model, "after {second}");
        }
    }

    #[test]
    fn answers_that_are_older_than_what_is_known_are_not_learned() {
        let store = Model::default();
        assert!(edit(&store, |edit| learn(edit, 1, range(0, 10, 0..5), at(2))));
        assert!(!edit(&store, |edit| learn(edit, 1, range(5, 15, 5..15), at(1))));
        assert_eq!(known(&store, &[text(7)]), BTreeMap::from([(text(7), false)]));
    }

    #[test]
    fn small_pages_that_follow_each_other_become_one_chunk() {
        let store = Model::default();
        for page in 0..20 {
            let from = page * 10;
            assert!(edit(&store, |edit| learn(edit, 1, range(from, from + 10, from..from + 10), at(1))));
        }
        let view = store.view().expect("opens");
        assert_eq!(view.floor(PLACE, &text(199)).expect("reads").expect("there").names.len(), 200);
    }
}
