//! The port to the embedded database: chunks by mount, directory and first name. Blocks on the disk.

use forebay_core::Result;

use super::chunk::{Chunk, Said};

mod disk;
#[cfg(test)]
mod model;
mod recent;

pub(crate) use disk::Disk;
#[cfg(test)]
pub(crate) use model::Model;

/// A directory of one mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Whose; see [`super::listings::Listings`].
    pub(crate) mount: u64,
    /// Empty, or ends in `/`.
    pub(crate) directory: &'a str,
}

/// The chunks as they were at one moment.
pub(crate) trait View {
    /// The last chunk that begins at or before `name`.
    fn floor(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>>;

    /// What the last chunk that begins at or before `name` says of it.
    fn find(&self, place: Place<'_>, name: &str) -> Result<Said> {
        Ok(self.floor(place, name)?.map_or(Said::Nothing, |chunk| chunk.say(name)))
    }

    /// The first chunk that begins after `name`.
    fn after(&self, place: Place<'_>, name: &str) -> Result<Option<Chunk>>;

    /// The first directory at or after `directory` of which there is a chunk.
    fn directory_from(&self, mount: u64, directory: &str) -> Result<Option<String>>;

    /// The first mount, by number, from `mount` on of which there is a chunk.
    fn mount_from(&self, mount: u64) -> Result<Option<u64>>;
}

/// A change under way, which sees itself.
pub(crate) trait Edit: View {
    /// Adds a chunk, or replaces the one that begins where it does.
    fn put(&mut self, place: Place<'_>, chunk: &Chunk) -> Result<()>;

    /// Removes the chunk that begins at `first`.
    fn remove(&mut self, place: Place<'_>, first: &str) -> Result<()>;

    /// Removes chunks of a directory and of all below it, at most so many; how many those were.
    fn remove_tree(&mut self, place: Place<'_>, most: usize) -> Result<usize>;
}

/// A database.
pub(crate) trait Store: Send + Sync {
    /// What was committed last.
    fn view(&self) -> Result<Box<dyn View>>;

    /// [`View::find`] of what was committed last, where no disk need be waited for.
    fn at_hand(&self, place: Place<'_>, name: &str) -> Option<Said>;

    /// Makes a change, all or nothing. Unless it is durable, it may be gone after a crash, with all others since the
    /// last durable one.
    fn edit(&self, is_durable: bool, work: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()>;
}

/// The shortest text after `text`.
pub(super) fn successor(text: &str) -> String {
    format!("{text}\0")
}

/// The first text after all that start with `prefix`; `None` where there is none.
pub(super) fn past_all(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            char::MAX => continue,
            '\u{d7ff}' => '\u{e000}',
            last => char::from_u32(u32::from(last) + 1).expect("no surrogate"),
        };
        chars.push(next);
        return Some(chars.into_iter().collect());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::backend::Object;

    fn chunk(first: &str, end: Option<&str>, names: &[&str]) -> Chunk {
        let names = names.iter().map(|name| Object::prefix(name)).collect();
        Chunk { first: first.into(), end: end.map(Into::into), since: SystemTime::UNIX_EPOCH, names }
    }

    fn put(store: &dyn Store, is_durable: bool, directory: &str, chunks: &[Chunk]) {
        let place = Place { mount: 1, directory };
        let mut work = |edit: &mut dyn Edit| chunks.iter().try_for_each(|chunk| edit.put(place, chunk));
        store.edit(is_durable, &mut work).expect("is made");
    }

    fn check(store: &dyn Store) {
        put(store, false, "d/", &[chunk("", Some("m"), &["a/"]), chunk("m", None, &["z/"])]);
        put(store, true, "d/e/", &[chunk("", None, &[])]);
        put(store, true, "e/", &[chunk("b", None, &[])]);
        let view = store.view().expect("opens");
        let place = Place { mount: 1, directory: "d/" };
        let first = |chunk: Result<Option<Chunk>>| chunk.expect("reads").map(|chunk| chunk.first);
        assert_eq!(first(view.floor(place, "")).as_deref(), Some(""));
        assert_eq!(first(view.floor(place, "lzz")).as_deref(), Some(""));
        assert_eq!(first(view.floor(place, "m")).as_deref(), Some("m"));
        assert_eq!(first(view.after(place, "")).as_deref(), Some("m"));
        assert_eq!(first(view.after(place, "m")), None);
        assert_eq!(first(view.floor(Place { directory: "e/", ..place }, "a")), None);
        assert_eq!(first(view.floor(Place { mount: 2, ..place }, "z")), None);
        assert_eq!([0, 1, 2].map(|mount| view.mount_from(mount).expect("reads")), [Some(1), Some(1), None]);
        let from =
            ["", "d/", "d/\u{1}", "d/e/\u{1}", "f"].map(|from| view.directory_from(1, from).expect("reads"));
        assert_eq!(from.map(Option::unwrap_or_default), ["d/", "d/", "d/e/", "e/", ""]);
        assert_eq!(view.directory_from(0, "").expect("reads"), None);
        let mut removed = Vec::new();
        let mut work = |edit: &mut dyn Edit| {
            for most in [1, usize::MAX, usize::MAX] {
                removed.push(edit.remove_tree(place, most)?);
            }
            Ok(())
        };
        store.edit(false, &mut work).expect("is made");
        assert_eq!(removed, [1, 2, 0]);
        let left = store.view().expect("opens");
        let places = ["d/", "d/e/", "e/"].map(|directory| Place { mount: 1, directory });
        assert_eq!(places.map(|place| first(left.floor(place, "z")).is_some()), [false, false, true]);
        assert!(first(view.floor(place, "")).is_some(), "a view does not change");
        let mut work = |edit: &mut dyn Edit| {
            edit.remove(places[2], "b")?;
            Err(forebay_core::Error::new(forebay_core::ErrorKind::Internal, "no"))
        };
        store.edit(false, &mut work).expect_err("fails");
        assert!(first(store.view().expect("opens").floor(places[2], "z")).is_some(), "all or nothing");
    }

    #[test]
    fn every_store_keeps_the_promises_of_the_port() {
        let directory = tempfile::tempdir().expect("a directory");
        check(&Disk::open(&directory.path().join("db")).expect("opens"));
        check(&Model::default());
    }

    #[test]
    fn what_was_committed_durably_is_there_after_a_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db");
        put(&Disk::open(&path).expect("opens"), true, "d/", &[chunk("", None, &["a/"])]);
        let disk = Disk::open(&path).expect("opens again");
        let chunk =
            disk.view().expect("opens").floor(Place { mount: 1, directory: "d/" }, "x").expect("reads");
        assert_eq!(chunk.expect("there").names[0].key, "a/");
    }

    #[test]
    fn past_all_is_the_least_text_that_is() {
        assert_eq!(past_all("ab").as_deref(), Some("ac"));
        assert_eq!(past_all("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(past_all("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(past_all(""), None);
    }
}
