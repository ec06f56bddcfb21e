//! What a page of a listing proves: of each directory that it touches, all names in one range.

use forebay_core::ListQuery;

use super::ranges::Range;
use super::store::{past_all, successor};
use crate::backend::{Object, ObjectPage};

/// Where a listing begins in the directory that its prefix names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cursor<'a> {
    /// At the first name that is meant.
    Start,
    /// After this, which may lie in a directory further down.
    After(&'a str),
    /// Past all of it.
    Past,
}

impl<'a> Cursor<'a> {
    pub(crate) fn of(query: &'a ListQuery) -> Self {
        let (directory, filter) = split(&query.prefix);
        match query.start_after.as_deref() {
            None => Self::Start,
            Some(after) if *after < *query.prefix => Self::Start,
            Some(after) => match after.strip_prefix(directory) {
                Some(rest) if rest.starts_with(filter) => Self::After(rest),
                Some(_) | None => Self::Past,
            },
        }
    }
}

/// The directory that a prefix names, and what the names in it must start with.
pub(crate) fn split(prefix: &str) -> (&str, &str) {
    prefix.split_at(prefix.rfind('/').map_or(0, |slash| slash + 1))
}

/// The first segment of a name with its slash, and the rest; `None` where there is only one.
pub(crate) fn descend(name: &str) -> Option<(&str, &str)> {
    name.find('/').map(|slash| name.split_at(slash + 1))
}

/// A name after all that lie in `group`, which ends in `/`, and before all others.
pub(crate) fn past_group(group: &str) -> String {
    format!("{group}{}", char::MAX)
}

/// What `page`, the answer to `query`, says of directories.
pub(crate) fn ranges(query: &ListQuery, page: &ObjectPage) -> Vec<Range> {
    ranges_until(query, page, None)
}

/// The same of a flat page that is the end of what lies up to `until`, which is [`past_group`] of a group that is there.
pub(super) fn ranges_until(query: &ListQuery, page: &ObjectPage, until: Option<&str>) -> Vec<Range> {
    let has_nul = |text: &str| text.contains('\0');
    let cursor = Cursor::of(query);
    if cursor == Cursor::Past
        || has_nul(&query.prefix)
        || query.start_after.as_deref().is_some_and(has_nul)
        || page.objects.iter().any(|object| has_nul(&object.key) || !object.key.starts_with(&query.prefix))
    {
        return Vec::new();
    }
    let (directory, filter) = split(&query.prefix);
    let mut proof = Proof { open: Vec::new(), closed: Vec::new() };
    let to = past_all(filter);
    proof.open.push(Range {
        directory: directory.to_owned(),
        from: filter.to_owned(),
        to,
        names: Vec::new(),
    });
    if let Cursor::After(after) = cursor {
        proof.begin(after, query.shallow);
    }
    for object in &page.objects {
        proof.add(object, query.shallow);
    }
    if page.is_truncated {
        proof.cut();
    } else if let Some((group, _)) = until.and_then(|until| until.rsplit_once('/')) {
        proof.cut_after(&format!("{group}/"));
    }
    let all = proof.closed.into_iter().chain(proof.open);
    all.filter(|range| range.to.as_ref().is_none_or(|to| *to > range.from)).collect()
}

/// Ranges of directories, from the listed one down to the one that the last name lies in, and those that were left.
struct Proof {
    open: Vec<Range>,
    closed: Vec<Range>,
}

impl Proof {
    fn last(&mut self) -> &mut Range {
        self.open.last_mut().expect("the listed directory is never left")
    }

    fn enter(&mut self, group: &str) {
        let directory = format!("{}{group}", self.last().directory);
        self.open.push(Range { directory, from: String::new(), to: None, names: Vec::new() });
    }

    /// Whether there is a directory that the cursor lies in is not said by what follows it.
    fn begin(&mut self, mut after: &str, is_shallow: bool) {
        while let Some((group, rest)) = descend(after) {
            self.last().from = successor(group);
            if is_shallow {
                return;
            }
            self.enter(group);
            after = rest;
        }
        self.last().from = successor(after);
    }

    /// Leaves the directories that `name` does not lie in.
    fn leave(&mut self, name: &str) {
        while !name.starts_with(&self.last().directory) {
            let left = self.open.pop().expect("the listed directory is never left");
            self.closed.push(left);
        }
    }

    fn add(&mut self, object: &Object, is_shallow: bool) {
        self.leave(&object.key);
        let mut name = &object.key[self.last().directory.len()..];
        while let (false, Some((group, rest))) = (is_shallow, descend(name)) {
            self.last().names.push(Object::prefix(group));
            self.enter(group);
            name = rest;
        }
        let object = Object { key: name.to_owned(), headers: None, ..object.clone() };
        self.last().names.push(object);
    }

    /// Nothing is said of what follows the group, which is there with all directories above it.
    fn cut_after(&mut self, group: &str) {
        let (parent, _) = split(&group[..group.len() - 1]);
        // Inside the group and before it all is said.
        while self.last().directory.len() > parent.len() {
            let left = self.open.pop().expect("the listed directory is never left");
            self.closed.push(left);
        }
        self.leave(group);
        while let Some((next, _)) = descend(&group[self.last().directory.len()..])
            && self.last().directory.len() < parent.len()
        {
            self.enter(next);
        }
        for range in &mut self.open {
            let (next, _) = descend(&group[range.directory.len()..]).expect("the group lies in it");
            let is_met = range.directory == parent || range.names.last().is_some_and(|last| last.key == next);
            range.to = Some(if is_met { successor(next) } else { next.to_owned() });
        }
    }

    /// Nothing is said of what follows the last name.
    fn cut(&mut self) {
        let mut below: Option<String> = None;
        for range in self.open.iter_mut().rev() {
            let last = match &below {
                Some(below) => Some(&below[range.directory.len()..]),
                None => range.names.last().map(|object| object.key.as_str()),
            };
            if let Some(last) = last {
                range.to = Some(successor(last));
            }
            below = Some(range.directory.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range as `directory [from,to) names`.
    fn show(range: &Range) -> String {
        let names: Vec<_> = range.names.iter().map(|object| object.key.as_str()).collect();
        let to = range.to.as_deref().unwrap_or("*");
        format!("{} [{},{}) {}", range.directory, range.from, to, names.join(" ")).replace('\0', "+")
    }

    fn proven(
        prefix: &str,
        shallow: bool,
        after: Option<&str>,
        keys: &[&str],
        is_truncated: bool,
    ) -> Vec<String> {
        let query =
            ListQuery { prefix: prefix.into(), shallow, start_after: after.map(Into::into), limit: 9 };
        let objects = keys.iter().map(|key| Object::prefix(key)).collect();
        let mut shown: Vec<_> =
            ranges(&query, &ObjectPage { objects, is_truncated }).iter().map(show).collect();
        shown.sort();
        shown
    }

    #[test]
    fn shallow_page_says_what_is_between_its_cursor_and_its_last_name() {
        assert_eq!(proven("d/", true, None, &["d/", "d/a", "d/b/"], false), ["d/ [,*)  a b/"]);
        assert_eq!(proven("d/x", true, Some("d/xa/q"), &["d/xb"], false), ["d/ [xa/+,y) xb"]);
        assert_eq!(proven("d/", true, Some("d/a"), &["d/b/"], true), ["d/ [a+,b/+) b/"]);
        assert_eq!(proven("", true, None, &[], false), [" [,*) "]);
        assert_eq!(proven("d/", true, Some("e"), &[], false), [""; 0]);
    }

    #[test]
    fn flat_page_that_ends_with_a_group_says_nothing_of_what_follows_that() {
        let proven = |after: Option<&str>, keys: &[&str], group: &str| {
            let query = ListQuery {
                prefix: String::new(),
                shallow: false,
                start_after: after.map(Into::into),
                limit: 9,
            };
            let page = ObjectPage {
                objects: keys.iter().map(|key| Object::prefix(key)).collect(),
                is_truncated: false,
            };
            let until = past_group(group);
            let mut shown: Vec<_> = ranges_until(&query, &page, Some(&until)).iter().map(show).collect();
            shown.sort();
            shown
        };
        assert_eq!(proven(None, &["a", "b/c/d"], "b/c/"), [" [,b/+) a b/", "b/ [,c/+) c/", "b/c/ [,*) d"]);
        assert_eq!(proven(None, &["a"], "b/c/"), [" [,b/) a", "b/ [,c/+) "]);
        assert_eq!(proven(Some("b/a/x"), &["b/a/y"], "b/c/"), ["b/ [a/+,c/+) ", "b/a/ [x+,*) y"]);
        assert_eq!(proven(None, &["a/b"], "b/"), [" [,b/+) a/", "a/ [,*) b"]);
    }

    #[test]
    fn flat_page_says_it_of_each_directory_that_it_touches() {
        assert_eq!(
            proven("", false, Some("a/b/c"), &["a/b/d", "a/e", "f/", "f/g/h", "i"], false),
            [" [a/+,*) f/ i", "a/ [b/+,*) e", "a/b/ [c+,*) d", "f/ [,*)  g/", "f/g/ [,*) h"]
        );
        assert_eq!(
            proven("", false, None, &["a", "b/c/d"], true),
            [" [,b/+) a b/", "b/ [,c/+) c/", "b/c/ [,d+) d"]
        );
        assert_eq!(proven("a/", false, Some("a/b/c"), &[], false), ["a/ [b/+,*) ", "a/b/ [c+,*) "]);
    }
}
