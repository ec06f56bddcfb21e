//! What a page of a flat listing says differently than what is known, whatever the age of that.
//!
//! Directories of which nothing is listed any more are found by their chunks: the order of directories in the database is
//! that of their names in a flat listing, so each is looked at on the one page where it would be.

use std::iter::Peekable;
use std::slice;

use forebay_core::{ListQuery, Result};

use super::chunk::Chunk;
use super::proof::ranges_until;
use super::ranges::{Range, each_overlapping};
use super::store::{Place, View};
use crate::backend::{Object, ObjectPage};

/// Most chunks that are found to be over in one step.
const OVER_MAX: usize = 64;

/// A part of a flat listing.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) query: &'a ListQuery,
    /// The store's answer.
    pub(crate) page: &'a ObjectPage,
    /// Where it ends, if not with the page: after all of a group, which is there.
    pub(crate) until: Option<&'a str>,
}

impl Part<'_> {
    /// The last name that it says something of; `None` where that is all that follow.
    pub(crate) fn end(&self) -> Option<&str> {
        let last = self.page.objects.last().filter(|_| self.page.is_truncated);
        last.map(|last| last.key.as_str()).or(self.until)
    }

    /// Whether something is at or below `directory`, which ends in `/`.
    pub(crate) fn has(&self, directory: &str) -> bool {
        let at = self.page.objects.partition_point(|object| *object.key < *directory);
        let is_listed = self.page.objects.get(at).is_some_and(|object| object.key.starts_with(directory));
        is_listed || self.until.is_some_and(|until| until.starts_with(directory))
    }

    pub(super) fn ranges(&self) -> Vec<Range> {
        ranges_until(self.query, self.page, self.until)
    }
}

/// A name that shows something else than was known: a key, or that of a directory, which ends in `/`.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) name: String,
    /// What was known to be there.
    pub(crate) before: Option<Object>,
    /// What is there.
    pub(crate) after: Option<Object>,
}

/// What a page says differently.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// A directory may be named twice.
    pub(crate) differences: Vec<Difference>,
    /// Chunks of which nothing is left, as (directory, first name).
    pub(super) over: Vec<(String, String)>,
    /// There was more than one step may find; the page is to be compared again once these chunks are removed.
    pub(crate) is_cut: bool,
}

/// A comparison under way.
struct Comparison<'a> {
    view: &'a dyn View,
    mount: u64,
    part: Part<'a>,
    over: Vec<(String, String)>,
    /// What was in chunks that are over.
    gone: Vec<Difference>,
    other: Vec<Difference>,
}

/// Compares what the store said of a part of `mount` with what is known of it.
pub(super) fn compare(view: &dyn View, mount: u64, part: Part<'_>) -> Result<Compared> {
    let (over, gone, other) = (Vec::new(), Vec::new(), Vec::new());
    let mut comparison = Comparison { view, mount, part, over, gone, other };
    for range in part.ranges() {
        if comparison.is_full() {
            break;
        }
        comparison.range(&range)?;
    }
    comparison.vanished()?;
    let is_cut = comparison.is_full();
    let Comparison { over, gone: mut differences, other, .. } = comparison;
    if !is_cut {
        differences.extend(other);
    }
    Ok(Compared { differences, over, is_cut })
}

impl Comparison<'_> {
    fn is_full(&self) -> bool {
        self.over.len() >= OVER_MAX
    }

    /// Compares what a range of a directory had with what it has.
    fn range(&mut self, range: &Range) -> Result<()> {
        let (view, place) = (self.view, Place { mount: self.mount, directory: &range.directory });
        let mut listed = range.names.iter().peekable();
        each_overlapping(view, place, range, &mut |chunk| {
            self.chunk(range, chunk, &mut listed);
            Ok(!self.is_full())
        })?;
        self.other.extend(listed.map(|object| added(range, object)));
        Ok(())
    }

    fn chunk(&mut self, range: &Range, chunk: Chunk, listed: &mut Peekable<slice::Iter<'_, Object>>) {
        let is_inside = chunk.first >= range.from
            && range.to.as_ref().is_none_or(|to| chunk.end.as_ref().is_some_and(|end| end <= to));
        let mut is_over = is_inside && !chunk.names.is_empty();
        let (directory, first) = (&range.directory, chunk.first);
        let mut gone = Vec::new();
        for object in chunk.names.into_iter().filter(|object| range.has(&object.key)) {
            while let Some(new) = listed.next_if(|new| new.key < object.key) {
                self.other.push(added(range, new));
            }
            match listed.next_if(|new| new.key == object.key) {
                Some(new) => {
                    is_over = false;
                    if is_other(&object, new) {
                        self.other.push(difference(directory, Some(object), Some(new.clone())));
                    }
                }
                None => gone.push(difference(directory, Some(object), None)),
            }
        }
        if is_over {
            self.over.push((directory.clone(), first));
            self.gone.extend(gone);
        } else {
            self.other.extend(gone);
        }
    }

    /// Finds directories of which nothing is listed, with all that was known below them.
    fn vanished(&mut self) -> Result<()> {
        let (mount, part, prefix) = (self.mount, self.part, self.part.query.prefix.as_str());
        let after = part.query.start_after.as_deref().filter(|after| *after > prefix).unwrap_or(prefix);
        let mut from = past(after);
        let mut top: Option<String> = None;
        while !self.is_full()
            && let Some(directory) = self.view.directory_from(mount, &from)?
            && directory.starts_with(prefix)
            && part.end().is_none_or(|end| *directory <= *end)
        {
            from = past(&directory);
            if part.has(&directory) {
                continue;
            }
            let is_top = top.as_ref().is_none_or(|top| !directory.starts_with(top));
            let mut had_names = false;
            let range = Range { directory, from: String::new(), to: None, names: Vec::new() };
            let place = Place { mount, directory: &range.directory };
            each_overlapping(self.view, place, &range, &mut |chunk| {
                had_names |= !chunk.names.is_empty();
                let files = chunk.names.into_iter().filter(|object| !object.key.ends_with('/'));
                let files = files.filter(|object| !object.key.is_empty());
                self.gone.extend(files.map(|object| difference(&range.directory, Some(object), None)));
                self.over.push((range.directory.clone(), chunk.first));
                Ok(!self.is_full())
            })?;
            // That nothing is there may have been known.
            if is_top && had_names {
                self.gone.push(difference("", Some(Object::prefix(&range.directory)), None));
                top = Some(range.directory);
            }
        }
        Ok(())
    }
}

/// Before all directories that come after the name.
fn past(name: &str) -> String {
    format!("{name}\u{1}")
}

/// Whether two things of one name are not the same. A directory is, however it exists.
fn is_other(before: &Object, after: &Object) -> bool {
    let is_file = !before.key.is_empty() && !before.key.ends_with('/');
    is_file && (before.etag != after.etag || before.size_bytes != after.size_bytes)
}

fn added(range: &Range, object: &Object) -> Difference {
    difference(&range.directory, None, Some(object.clone()))
}

fn difference(directory: &str, before: Option<Object>, after: Option<Object>) -> Difference {
    let full = |object: Object| Object { key: format!("{directory}{}", object.key), ..object };
    let (before, after) = (before.map(full), after.map(full));
    let name = before.as_ref().or(after.as_ref()).map(|object| object.key.clone()).unwrap_or_default();
    Difference { name, before, after }
}
