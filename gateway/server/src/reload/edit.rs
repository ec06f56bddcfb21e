//! Adds mounts to the text of a configuration and removes them from it, and leaves every other line as it is.
//!
//! Invariants:
//! - The result is read again and compared: it means what the text meant before, with one mount more or less, or it is
//!   refused. So a form of YAML that is not foreseen here costs a refusal, never a damaged file.
//! - Comments belong to what follows them at their indentation, and to the mount above them when they stand deeper.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use forebay_core::{Error, ErrorKind, Result};

use crate::config::yaml::{self, Node, Value};

/// The bits of a mode that let somebody write.
const WRITABLE: u32 = 0o222;

/// A mount to be written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) store: String,
    pub(super) read_only: bool,
    pub(super) options: Vec<(String, String)>,
}

/// `text` with one mount more.
///
/// # Errors
/// `AlreadyExists`; `Unsupported` for a text that has to be edited by hand.
pub(super) fn add(file: &Path, text: &str, entry: &Entry) -> Result<String> {
    let root = parse(file, text)?;
    let mounts = Mounts::find(file, text, &root)?;
    if let Some(there) = mounts.entries.iter().find(|there| there.path == entry.path) {
        let message = format!("{} is mounted already ({}:{})", entry.path, file.display(), there.line);
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    let mut lines: Vec<&str> = text.lines().collect();
    let written = entry.lines(mounts.indent);
    let at = mounts.end(&lines, mounts.boundary, Deeper::OrEqual);
    lines.splice(at..at, written.iter().map(String::as_str));
    let edited = joined(&lines, text);
    let mut expected = shape(&root);
    expected.mounts.push((entry.path.clone(), entry.shape()));
    verified(file, edited, &expected)
}

/// `text` with one mount less.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for the last mount; `Unsupported` for a text that has to be edited by hand.
pub(super) fn remove(file: &Path, text: &str, path: &str) -> Result<String> {
    let root = parse(file, text)?;
    let mounts = Mounts::find(file, text, &root)?;
    let Some(at) = mounts.entries.iter().position(|entry| entry.path == path) else {
        let message = format!("{path} is not among the mounts of {}", file.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    if mounts.entries.len() == 1 {
        let message = format!("{path} is the last mount of {}, which needs one", file.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let mut lines: Vec<&str> = text.lines().collect();
    let start = mounts.entries[at].line - 1;
    let boundary = mounts.entries.get(at + 1).map_or(mounts.boundary, |next| next.line - 1);
    let end = mounts.end(&lines, boundary, Deeper::Only);
    lines.drain(start..end);
    let edited = joined(&lines, text);
    let mut expected = shape(&root);
    expected.mounts.retain(|(other, _)| other != path);
    verified(file, edited, &expected)
}

/// The text of the file.
///
/// # Errors
/// The disk's; `InvalidArgument` when it is no UTF-8.
pub(super) fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| Error::from(e).at("read", file.display()))
}

/// Puts `text` in the place of the file, whole and durable, with its owner and mode. Where the path leads through
/// links, what they lead to is replaced.
///
/// # Errors
/// `ReadOnly` when nobody may write to it, and the disk's.
pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    let at = |e: io::Error| Error::from(e).at("edit", file.display());
    let file = file.canonicalize().map_err(at)?;
    let before = file.metadata().map_err(at)?;
    if before.mode() & WRITABLE == 0 {
        let message = "the file is read-only; edit it where it comes from, or make it writable";
        return Err(Error::new(ErrorKind::ReadOnly, message).at("edit", file.display()));
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new().prefix(".mounts-").tempfile_in(directory).map_err(at)?;
    new.write_all(text.as_bytes()).map_err(at)?;
    new.as_file().set_permissions(before.permissions()).map_err(at)?;
    std::os::unix::fs::fchown(new.as_file(), Some(before.uid()), Some(before.gid())).map_err(at)?;
    new.as_file().sync_all().map_err(at)?;
    new.persist(&file).map_err(|e| at(e.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at)
}

/// Where the mounts stand in a text.
struct Mounts<'a> {
    entries: Vec<Place<'a>>,
    /// Spaces before each of them.
    indent: usize,
    /// Index of the first line after all of them that belongs to something else.
    boundary: usize,
}

struct Place<'a> {
    path: &'a str,
    /// Counted from 1.
    line: usize,
}

/// Which comments at the end of a mount are taken for its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deeper {
    /// Those indented more than mounts are.
    Only,
    /// Those that stand where mounts do, too.
    OrEqual,
}

impl<'a> Mounts<'a> {
    fn find(file: &Path, text: &str, root: &'a Node) -> Result<Self> {
        let by_hand = |why: &str| {
            let message = format!("{}: {why}; edit the file by hand and reload", file.display());
            Err(Error::new(ErrorKind::Unsupported, message))
        };
        let Value::Mapping(sections) = &root.value else { return by_hand("it is no section") };
        let Some((_, key, node)) = sections.iter().find(|(name, ..)| name == "mounts") else {
            return by_hand("it has no `mounts`");
        };
        let Value::Mapping(entries) = &node.value else { return by_hand("`mounts` holds nothing") };
        let places: Vec<_> = entries.iter().map(|(path, at, _)| Place { path, line: at.line }).collect();
        let Some((_, first, _)) = entries.first() else { return by_hand("`mounts` holds nothing") };
        let is_flow = text
            .lines()
            .nth(node.line - 1)
            .is_some_and(|line| line.chars().nth(node.column - 1) == Some('{'));
        let is_ragged = entries.iter().any(|(_, at, _)| at.column != first.column || at.line == key.line);
        if is_flow || is_ragged {
            return by_hand("`mounts` is written in braces, not as lines");
        }
        let next = sections.iter().map(|(_, at, _)| at.line).filter(|line| *line > key.line).min();
        let boundary = next.map_or_else(|| text.lines().count(), |line| line - 1);
        Ok(Self { entries: places, indent: first.column - 1, boundary })
    }

    /// The end of what stands before `boundary`, without blank lines and comments that belong to what follows.
    fn end(&self, lines: &[&str], boundary: usize, deeper: Deeper) -> usize {
        let is_foreign = |line: &&str| {
            let content = line.trim_start();
            let indent = line.len() - content.len();
            let is_own = indent > self.indent || (indent == self.indent && deeper == Deeper::OrEqual);
            content.is_empty() || (content.starts_with('#') && !is_own)
        };
        boundary - lines[..boundary].iter().rev().take_while(|line| is_foreign(line)).count()
    }
}

impl Entry {
    fn lines(&self, indent: usize) -> Vec<String> {
        let (outer, inner, value) = (" ".repeat(indent), " ".repeat(indent + 2), " ".repeat(indent + 4));
        let mut lines =
            vec![format!("{outer}{}:", scalar(&self.path)), format!("{inner}store: {}", scalar(&self.store))];
        if self.read_only {
            lines.push(format!("{inner}read_only: true"));
        }
        if !self.options.is_empty() {
            lines.push(format!("{inner}options:"));
            lines.extend(self.options.iter().map(|(k, v)| format!("{value}{}: {}", scalar(k), scalar(v))));
        }
        lines
    }

    fn shape(&self) -> String {
        let read_only = if self.read_only { "read_only:true," } else { "" };
        let options: Vec<_> = self.options.iter().map(|(key, value)| format!("{key}:{value},")).collect();
        let options = match options.concat() {
            none if none.is_empty() => none,
            some => format!("options:{{{some}}},"),
        };
        format!("{{store:{},{read_only}{options}}}", self.store)
    }
}

/// A text as YAML writes it, in quotes where it needs them.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && text != "null";
    if is_plain {
        return text.to_owned();
    }
    // JSON's strings are YAML's, but for the escape of a character that YAML cannot hold as it is.
    serde_json::to_string(text).expect("a text is JSON").replace('\u{7f}', "\\u007f")
}

fn parse(file: &Path, text: &str) -> Result<Node> {
    yaml::parse(file, text).map_err(|problem| Error::new(ErrorKind::InvalidArgument, problem.to_string()))
}

/// The lines again as a text that ends its lines as `before` did.
fn joined(lines: &[&str], before: &str) -> String {
    let end = if before.contains("\r\n") { "\r\n" } else { "\n" };
    lines.iter().flat_map(|line| [*line, end]).collect()
}

/// What a text means, whatever it looks like.
#[derive(PartialEq, Eq)]
struct Shape {
    rest: Vec<(String, String)>,
    mounts: Vec<(String, String)>,
}

fn shape(root: &Node) -> Shape {
    let mut shape = Shape { rest: Vec::new(), mounts: Vec::new() };
    let Value::Mapping(sections) = &root.value else { return shape };
    for (name, _, node) in sections {
        match (&**name, &node.value) {
            ("mounts", Value::Mapping(mounts)) => {
                shape.mounts.extend(mounts.iter().map(|(path, _, node)| (path.clone(), meaning(node))));
            }
            _ => shape.rest.push((name.clone(), meaning(node))),
        }
    }
    shape
}

fn meaning(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::Sequence(items) => {
            format!("[{}]", items.iter().map(|item| meaning(item) + ",").collect::<String>())
        }
        Value::Mapping(entries) => {
            let entries = entries.iter().map(|(key, _, node)| format!("{key}:{},", meaning(node)));
            format!("{{{}}}", entries.collect::<Vec<_>>().concat())
        }
    }
}

fn verified(file: &Path, edited: String, expected: &Shape) -> Result<String> {
    if yaml::parse(file, &edited).is_ok_and(|root| shape(&root) == *expected) {
        return Ok(edited);
    }
    let message =
        format!("{} is written in a way that only its owner can edit; do so and reload", file.display());
    Err(Error::new(ErrorKind::Unsupported, message))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FILE: &str = "m.yaml";
    const SAMPLE: &str = include_str!("../../../../mounts.yaml");

    fn entry(path: &str, options: &[(&str, &str)]) -> Entry {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Entry { path: path.to_owned(), store: "s3".to_owned(), read_only: false, options: options.collect() }
    }

    fn added(text: &str, entry: &Entry) -> Result<String> {
        add(Path::new(FILE), text, entry)
    }

    fn removed(text: &str, path: &str) -> Result<String> {
        remove(Path::new(FILE), text, path)
    }

    #[test]
    fn sample_comes_back_byte_for_byte_when_what_was_added_is_removed() {
        let more = added(SAMPLE, &entry("/more", &[("bucket", "b")])).expect("can be edited");
        assert!(
            more.starts_with(SAMPLE)
                && more.ends_with("  /more:\n    store: s3\n    options:\n      bucket: b\n")
        );
        assert_eq!(removed(&more, "/more").expect("can be edited"), SAMPLE);
    }

    #[test]
    fn removed_mount_takes_its_own_comments_along_and_leaves_the_others() {
        let text = "# head\nmounts:\n  # about a\n  /a:\n    store: memory # why\n    # more\n\n  # about b\n  /b: {store: memory}\n# tail\ngateway:\n  var: v\n";
        let left = "# head\nmounts:\n  # about a\n\n  # about b\n  /b: {store: memory}\n# tail\ngateway:\n  var: v\n";
        assert_eq!(removed(text, "/a").expect("can be edited"), left);
        let left = removed(text, "/b").expect("can be edited");
        assert!(left.contains("# about b\n# tail\ngateway:"), "{left}");
    }

    #[test]
    fn new_mount_stands_before_the_next_section() {
        let text = "mounts:\n    /a:\n        store: memory\n\n# next\ngateway: {}\n";
        let more = added(text, &entry("/b", &[])).expect("can be edited");
        assert_eq!(
            more,
            "mounts:\n    /a:\n        store: memory\n    /b:\n      store: s3\n\n# next\ngateway: {}\n"
        );
    }

    #[test]
    fn values_with_signs_are_quoted_and_mean_what_they_say() {
        let odd =
            [("a", "${env:X}"), ("b", "x: #y"), ("c", "null"), ("d", ""), ("e", "ü\"\\\n\t"), ("f", "- z")];
        let more = added("mounts:\n  /a: {store: memory}", &entry("/b/ö: x", &odd)).expect("can be edited");
        let root = yaml::parse(Path::new(FILE), &more).expect("valid");
        let shape = shape(&root);
        assert_eq!(shape.mounts[1], ("/b/ö: x".to_owned(), entry("", &odd).shape()));
    }

    #[test]
    fn file_is_replaced_behind_its_link_and_keeps_its_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let (link, file) = (directory.path().join("link"), directory.path().join("file"));
        std::fs::write(&file, "before").expect("written");
        std::os::unix::fs::symlink("file", &link).expect("linked");
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(&file, mode(0o640)).expect("set");
        write(&link, "after").expect("written");
        assert_eq!((read(&file).expect("read"), link.is_symlink()), ("after".to_owned(), true));
        assert_eq!(file.metadata().expect("there").mode() & 0o777, 0o640);
        std::fs::set_permissions(&file, mode(0o444)).expect("set");
        assert_eq!(write(&link, "never").map_err(|e| e.kind()), Err(ErrorKind::ReadOnly));
        assert_eq!(read(&file).expect("read"), "after");
    }

    #[test]
    fn line_ends_stay_as_they_are() {
        let text = "mounts:\r\n  /a: {store: memory}\r\n";
        let more = added(text, &entry("/b", &[])).expect("can be edited");
        assert_eq!(more.matches('\n').count(), more.matches("\r\n").count());
        assert_eq!(removed(&more, "/b").expect("can be edited"), text);
    }

    #[test]
    fn what_cannot_be_edited_line_by_line_is_refused() {
        let kind = |result: Result<String>| result.map_err(|e| e.kind()).expect_err("refused");
        let new = entry("/b", &[]);
        assert_eq!(kind(added("mounts: {/a: {store: memory}}\n", &new)), ErrorKind::Unsupported);
        assert_eq!(kind(added("mounts:\n  {/a: {store: memory}}\n", &new)), ErrorKind::Unsupported);
        assert_eq!(kind(added("mounts:\n", &new)), ErrorKind::Unsupported);
        assert_eq!(kind(added("{}\n", &new)), ErrorKind::Unsupported);
        assert_eq!(kind(added("mounts:\n  /b: {store: fs}\n", &new)), ErrorKind::AlreadyExists);
        assert_eq!(kind(removed("mounts:\n  /b: {store: fs}\n", "/b")), ErrorKind::InvalidArgument);
        assert_eq!(kind(removed("mounts:\n  /b: {store: fs}\n", "/c")), ErrorKind::NotFound);
        let ended = "mounts:\n  /b: {store: fs}\n...\n";
        assert_eq!(kind(added(ended, &entry("/c", &[]))), ErrorKind::Unsupported);
    }
}
