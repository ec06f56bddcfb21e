//! Reads typed values out of sections and collects everything that is wrong.
//!
//! A section remembers which keys were asked for; what is left over at its end is unknown, and the nearest known
//! key is named. A value that came from `${env:…}` or `${file:…}` is never quoted in a message.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use forebay_core::Secret;

use super::problem::Problem;
use super::yaml::{Node, Value};

/// Where values come from and problems go to.
pub(crate) struct Reader {
    file: PathBuf,
    problems: RefCell<Vec<Problem>>,
    secret_files: RefCell<BTreeSet<PathBuf>>,
}

/// Text after substitution.
struct Text {
    text: String,
    is_substituted: bool,
}

impl Reader {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), problems: RefCell::default(), secret_files: RefCell::default() }
    }

    pub(crate) fn problem(&self, node: &Node, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem::new(&self.file, node.line, node.column, message));
    }

    /// The files that values were taken from.
    pub(crate) fn secret_files(&self) -> BTreeSet<PathBuf> {
        self.secret_files.borrow().clone()
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }

    /// The section at `node`; `name` is for messages.
    pub(crate) fn section<'a>(&'a self, node: &'a Node, name: &str) -> Section<'a> {
        let entries: &[_] = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Scalar { .. } | Value::Sequence(_) => {
                if !node.is_null() {
                    self.problem(
                        node,
                        format!("`{name}` must be a section of `key: value` lines, not {}", node.noun()),
                    );
                }
                &[]
            }
        };
        for (i, (key, at, _)) in entries.iter().enumerate() {
            if let Some((_, first, _)) = entries[..i].iter().find(|(other, ..)| other == key) {
                self.problem(
                    at,
                    format!("`{key}` is already set on line {}; keep one of the two", first.line),
                );
            }
        }
        Section { reader: self, node, name: name.to_owned(), entries, known: RefCell::default() }
    }

    /// The items of a list; a single value counts as a list of one.
    pub(crate) fn items(node: &Node) -> &[Node] {
        match &node.value {
            Value::Sequence(items) => items,
            Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(node),
        }
    }

    /// A value of any type that has a [`Parse`].
    pub(crate) fn value<T: Parse>(&self, node: &Node, name: &str) -> Option<T> {
        let Value::Scalar { text, .. } = &node.value else {
            self.problem(node, format!("`{name}` must be {}, not {}", T::EXPECTED, node.noun()));
            return None;
        };
        if node.is_null() {
            self.problem(node, format!("`{name}` has no value; write {}", T::EXPECTED));
            return None;
        }
        let text = self.substitute(node, text)?;
        let parsed = T::parse(&text.text);
        if parsed.is_none() {
            let shown = if text.is_substituted || T::IS_SECRET {
                "its value".to_owned()
            } else {
                format!("`{}`", text.text)
            };
            self.problem(node, format!("`{name}` must be {}; {shown} is not", T::EXPECTED));
        }
        parsed
    }

    fn substitute(&self, node: &Node, text: &str) -> Option<Text> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let inner = &rest[start + 2..];
            let Some(end) = inner.find('}') else {
                self.problem(node, "`${` without `}`; write `${env:NAME}` or `${file:/path}`");
                return None;
            };
            if let Some(file) = inner[..end].strip_prefix("file:") {
                self.secret_files.borrow_mut().insert(PathBuf::from(file));
            }
            match lookup(&inner[..end]) {
                Ok(value) => out.push_str(&value),
                Err(message) => {
                    self.problem(node, message);
                    return None;
                }
            }
            rest = &inner[end + 1..];
        }
        out.push_str(rest);
        Some(Text { is_substituted: rest.len() != text.len(), text: out })
    }
}

fn lookup(reference: &str) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name)
            .map_err(|_| format!("the environment variable {name} is not set; set it or write the value")),
        Some(("file", path)) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
            .map_err(|e| format!("cannot read {path}: {e}")),
        _ => Err(format!("`${{{reference}}}` is unknown; write `${{env:NAME}}` or `${{file:/path}}`")),
    }
}

/// One section being read.
pub(crate) struct Section<'a> {
    pub(crate) reader: &'a Reader,
    pub(crate) node: &'a Node,
    name: String,
    entries: &'a [(String, Node, Node)],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The node of a key, if it is there and not null.
    pub(crate) fn node(&self, key: &'static str) -> Option<&'a Node> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.entries
            .iter()
            .find(|(name, ..)| name == key)
            .map(|(_, _, node)| node)
            .filter(|node| !node.is_null())
    }

    /// The section of a key; an absent one reads as empty.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        self.node(key).map(|node| self.reader.section(node, &self.path(key)))
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional<T: Parse>(&self, key: &'static str) -> Option<T> {
        self.node(key).and_then(|node| self.reader.value(node, &self.path(key)))
    }

    /// The value of a key, or its default.
    pub(crate) fn value<T: Parse>(&self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T: Parse>(&self, key: &'static str) -> Option<T> {
        self.required_such_as(key, T::EXAMPLE)
    }

    /// The same, with the value to show where it is missing.
    pub(crate) fn required_such_as<T: Parse>(&self, key: &'static str, example: &str) -> Option<T> {
        if self.node(key).is_none() {
            let message = format!("`{}` is missing; write `{key}: {example}`", self.path(key));
            self.reader.problem(self.node, message);
            return None;
        }
        self.optional(key)
    }

    /// Reports a problem with the value of `key`.
    pub(crate) fn problem(&self, key: &'static str, message: impl Into<String>) {
        self.reader.problem(self.node(key).unwrap_or(self.node), message);
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for (key, at, _) in self.entries.iter().filter(|(key, ..)| !known.contains(&key.as_str())) {
            let path = self.path(key);
            let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, key));
            let message = match nearest {
                Some(nearest) if strsim::damerau_levenshtein(nearest, key) <= 1 + key.len() / 3 => {
                    format!("unknown key `{path}`; did you mean `{nearest}`?")
                }
                _ => format!("unknown key `{path}`; known here: {}", known.join(", ")),
            };
            self.reader.problem(at, message);
        }
    }
}

/// A type that is written as one value.
pub(crate) trait Parse: Sized {
    /// What to write, for messages.
    const EXPECTED: &'static str;
    /// A value to show.
    const EXAMPLE: &'static str;
    /// Whether the value must not appear in messages.
    const IS_SECRET: bool = false;
    /// The value, if `text` is one.
    fn parse(text: &str) -> Option<Self>;
}

impl Parse for String {
    const EXPECTED: &'static str = "text";
    const EXAMPLE: &'static str = "TEXT";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Parse for Secret {
    const EXPECTED: &'static str = "a secret of at least one character, best as `${env:NAME}`";
    const EXAMPLE: &'static str = "${env:NAME}";
    const IS_SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::new(text))
    }
}

impl Parse for PathBuf {
    const EXPECTED: &'static str = "a file system path";
    const EXAMPLE: &'static str = "/path";
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| Self::from(text))
    }
}

impl Parse for bool {
    const EXPECTED: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Parse for u64 {
    const EXPECTED: &'static str = "a whole number";
    const EXAMPLE: &'static str = "64";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Parse for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port, as in 127.0.0.1:PORT";
    const EXAMPLE: &'static str = "127.0.0.1:PORT";
    fn parse(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }
}

impl Parse for Duration {
    const EXPECTED: &'static str = "a duration such as 30s or 500ms";
    const EXAMPLE: &'static str = "30s";
    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }
}

/// A number of bytes, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl Bytes {
    /// The same as an argument of a command.
    pub(crate) fn argument(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("expected {}", Self::EXPECTED))
    }
}

impl Parse for Bytes {
    const EXPECTED: &'static str = "a size such as 512MiB, 4GiB or 1GB";
    const EXAMPLE: &'static str = "1GiB";
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok()?;
        let unit: u64 = match text[digits..].trim() {
            "" | "B" => 1,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(unit).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_known_unit() {
        assert_eq!(Bytes::parse("4GiB"), Some(Bytes(4 << 30)));
        assert_eq!(Bytes::parse("10"), Some(Bytes(10)));
        for bad in ["", "GiB", "4 gb", "-1", "4.5GiB", "99999999999TiB"] {
            assert_eq!(Bytes::parse(bad), None, "{bad}");
        }
    }
}
