//! What of a configuration file is needed after it was read: to find out later what changed in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::yaml::{Node, Value};

/// Settings of the gateway that take effect while it runs; the others wait for a restart.
const LIVE: [&str; 2] = ["gateway.access", "gateway.limits"];

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: PathBuf,
    /// Files named by `${file:…}`.
    pub(crate) secret_files: BTreeSet<PathBuf>,
    /// The settings that wait for a restart, as written, by their full names.
    settings: BTreeMap<String, String>,
    /// Lines of the mounts by their paths.
    lines: BTreeMap<String, usize>,
}

impl Source {
    pub(super) fn new(file: &Path, root: &Node, secret_files: BTreeSet<PathBuf>) -> Self {
        let mut source =
            Self { file: file.to_owned(), secret_files, settings: BTreeMap::new(), lines: BTreeMap::new() };
        let Value::Mapping(sections) = &root.value else { return source };
        for (name, _, section) in sections {
            match (&**name, &section.value) {
                ("gateway", _) => collect("gateway", section, &mut source.settings),
                ("mounts", Value::Mapping(mounts)) => {
                    source.lines = mounts.iter().map(|(path, at, _)| (path.clone(), at.line)).collect();
                }
                _ => {}
            }
        }
        source
    }

    /// `file:line` of the mount at `path`, for messages.
    pub(crate) fn place(&self, path: &str) -> String {
        match self.lines.get(path) {
            Some(line) => format!("{}:{line}", self.file.display()),
            None => self.file.display().to_string(),
        }
    }

    /// Whether a mount is written at `path`.
    pub(crate) fn has_mount(&self, path: &str) -> bool {
        self.lines.contains_key(path)
    }

    /// Names of the settings that differ in `other` and take effect with a restart only.
    pub(crate) fn waiting(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.settings.keys().chain(other.settings.keys()).collect();
        let differs = |name: &&String| self.settings.get(*name) != other.settings.get(*name);
        names.into_iter().filter(differs).cloned().collect()
    }
}

/// The values below `node` by their full names.
fn collect(name: &str, node: &Node, settings: &mut BTreeMap<String, String>) {
    if LIVE.contains(&name) {
        return;
    }
    match &node.value {
        Value::Scalar { text, .. } => {
            settings.insert(name.to_owned(), text.clone());
        }
        Value::Sequence(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(&format!("{name}[{i}]"), item, settings);
            }
        }
        Value::Mapping(entries) => {
            for (key, _, node) in entries {
                collect(&format!("{name}.{key}"), node, settings);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn source(text: &str) -> Source {
        let file = Path::new("m.yaml");
        Source::new(file, &yaml::parse(file, text).expect("valid"), BTreeSet::new())
    }

    #[test]
    fn settings_that_wait_for_a_restart_are_named_and_live_ones_are_not() {
        let before = source(
            "gateway:\n  cache: {memory: {size: 1GiB}}\n  access: [{name: a}]\nmounts:\n  /a: {store: memory}\n",
        );
        let after = source(
            "gateway:\n  cache: {memory: {size: 2GiB}}\n  access: [{name: b}]\n  var: ./v\nmounts: {}\n",
        );
        assert_eq!(before.waiting(&after), ["gateway.cache.memory.size", "gateway.var"]);
        assert_eq!(before.waiting(&before), Vec::<String>::new());
        assert_eq!((before.place("/a"), after.place("/a")), ("m.yaml:5".to_owned(), "m.yaml".to_owned()));
    }
}
