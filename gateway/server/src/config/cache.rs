//! The `cache` section: the two tiers, and which directories the disk tier lies in.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use forebay_actors::cache::PAGE_BYTES;
use forebay_actors::config::{CacheConfig, CacheDirectory, NvmeConfig};

use super::reader::{Bytes, Reader, Section};
use super::rooted;

/// How long it is waited for to find out where the cache directories lead.
const PATIENCE: Duration = Duration::from_secs(1);

/// Questions that wait for it.
const QUESTIONS: usize = 16;

/// Paths, and who wants to know where they lead.
type Question = (Vec<PathBuf>, mpsc::Sender<Vec<PathBuf>>);

/// The one thread that finds it out: where a disk hangs, no more than this one waits for it, however often a
/// configuration is read.
static RESOLVER: LazyLock<mpsc::SyncSender<Question>> = LazyLock::new(|| {
    let (questions, asked) = mpsc::sync_channel::<Question>(QUESTIONS);
    std::thread::spawn(move || {
        for (paths, answer) in asked {
            // Whoever asked may have waited long enough.
            answer.send(paths.iter().map(|path| lead(path)).collect()).unwrap_or_default();
        }
    });
    questions
});

pub(super) fn read(config: &mut CacheConfig, section: Option<Section<'_>>, base: &Path) {
    let Some(section) = section else { return };
    if let Some(memory) = section.section("memory") {
        config.memory_bytes = memory.value("size", Bytes(config.memory_bytes)).0;
        memory.finish();
    }
    if let (Some(section), Some(nvme)) = (section.section("nvme"), &mut config.nvme) {
        let is_enabled = section.value("enabled", true);
        read_directories(nvme, &section, base);
        nvme.packed_bytes = section.value("packed", Bytes(nvme.packed_bytes)).0;
        if nvme.packed_bytes > PAGE_BYTES {
            section.problem("packed", "at most 1MiB");
        }
        section.finish();
        if !is_enabled {
            config.nvme = None;
        }
    }
    let (high, low) = (section.value("high_percent", 95_u64), section.value("low_percent", 90_u64));
    if low < high && high <= 99 {
        (config.high_percent, config.low_percent) = (high as u8, low as u8);
    } else {
        section.problem("high_percent", "watermarks must satisfy low_percent < high_percent <= 99");
    }
    section.finish();
}

/// `directory` and `size` of the one directory there is by default, or a list of `directories`.
fn read_directories(nvme: &mut NvmeConfig, section: &Section<'_>, base: &Path) {
    let (size, directory) = (section.optional::<Bytes>("size"), section.optional::<PathBuf>("directory"));
    let Some(list) = section.node("directories") else {
        for place in &mut nvme.directories {
            place.size_bytes = size.map_or(place.size_bytes, |Bytes(bytes)| bytes);
            if let Some(directory) = &directory {
                place.path = rooted(base, directory.clone());
            }
        }
        return;
    };
    for key in ["directory", "size"] {
        if section.node(key).is_some() {
            section.problem(
                key,
                format!("`directories` says it all: move `{key}` into one of them, or remove it"),
            );
        }
    }
    nvme.directories.clear();
    let mut items = Vec::new();
    for node in Reader::items(list) {
        let item = section.reader.section(node, "gateway.cache.nvme.directories");
        let (path, size) = (item.required::<PathBuf>("path"), item.required::<Bytes>("size"));
        if let (Some(path), Some(Bytes(size_bytes))) = (path, size) {
            if size_bytes == 0 {
                item.problem("size", "`size` must be more than nothing");
            }
            nvme.directories.push(CacheDirectory { path: rooted(base, path), size_bytes });
            items.push(item);
        } else {
            item.finish();
        }
    }
    refuse_overlaps(&nvme.directories, &items);
    items.into_iter().for_each(Section::finish);
    if Reader::items(list).is_empty() {
        section.problem(
            "directories",
            "`directories` is empty; name one, as in `[{path: /cache, size: 1TiB}]`, or write `enabled: false`",
        );
    }
}

fn refuse_overlaps(directories: &[CacheDirectory], items: &[Section<'_>]) {
    let resolved = resolved(directories.iter().map(|directory| directory.path.clone()).collect());
    for (number, item) in items.iter().enumerate() {
        let overlaps = |other: &usize| {
            resolved[number].starts_with(&resolved[*other]) || resolved[*other].starts_with(&resolved[number])
        };
        if let Some(other) = (0..number).find(overlaps) {
            let (path, other) = (directories[number].path.display(), directories[other].path.display());
            let message = format!("{path} and {other} overlap; give each cache directory a place of its own");
            item.problem("path", message);
        }
    }
}

/// Where paths lead, as far as they exist: two names of one directory are one directory. As they are written where a
/// disk hangs.
fn resolved(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    if paths.len() < 2 {
        return paths;
    }
    let (answer, answered) = mpsc::channel();
    // A question that finds no place is dropped, and that is the answer.
    RESOLVER.try_send((paths.clone(), answer)).unwrap_or_default();
    answered.recv_timeout(PATIENCE).unwrap_or(paths)
}

fn lead(path: &Path) -> PathBuf {
    let real = |start: &Path| {
        let rest = path.strip_prefix(start).ok()?;
        let start = start.canonicalize().ok()?;
        Some(if rest.as_os_str().is_empty() { start } else { start.join(rest) })
    };
    path.ancestors().find_map(real).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::parse;

    fn tier(text: &str) -> Result<NvmeConfig, String> {
        let text = format!("gateway:\n  cache:\n    nvme: {text}\nmounts:\n  /abc: {{store: memory}}\n");
        match parse(Path::new("m.yaml"), &text, Path::new("/base")) {
            Ok(config) => Ok(config.gateway.cache.nvme.expect("on")),
            Err(problems) => Err(problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    #[test]
    fn one_directory_or_several_with_a_size_each() {
        let one = tier("{size: 1GiB, directory: ./c, packed: 0}").expect("valid");
        assert_eq!(one.directories, [CacheDirectory { path: "/base/c".into(), size_bytes: 1 << 30 }]);
        let two = tier("{directories: [{path: c, size: 1GiB}, {path: /d, size: 2GiB}]}").expect("valid");
        let expected = [("/base/c", 1 << 30), ("/d", 2 << 30)];
        let expected = expected.map(|(path, size_bytes)| CacheDirectory { path: path.into(), size_bytes });
        assert_eq!(two.directories, expected);
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_what_to_write() {
        for (text, expected) in [
            (
                "{size: 1GiB, directories: [{path: /c, size: 1GiB}]}",
                "m.yaml:3:18: `directories` says it all: move `size`",
            ),
            ("{directory: /d, directories: [{path: /c, size: 1GiB}]}", "move `directory` into one of them"),
            ("{directories: []}", "`directories` is empty; name one"),
            (
                "{directories: [{path: /c}]}",
                "`gateway.cache.nvme.directories.size` is missing; write `size: 1GiB`",
            ),
            ("{directories: [/c]}", "must be a section of `key: value` lines"),
            ("{directories: [{path: /c, size: 0}]}", "must be more than nothing"),
            ("{directories: [{path: /c, size: 1GiB, sise: 1}]}", "did you mean `size`?"),
            (
                "{directories: [{path: /c, size: 1GiB}, {path: /c/, size: 1GiB}]}",
                "/c/ and /c overlap; give each cache directory a place of its own",
            ),
            (
                "{directories: [{path: /c/d/e, size: 1GiB}, {path: /c/d, size: 1GiB}]}",
                "/c/d and /c/d/e overlap",
            ),
            ("{directories: [{path: /c, size: 1GiB}, {path: /c/../c/d, size: 1GiB}]}", "overlap"),
        ] {
            let problem = tier(text).expect_err(text);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        assert!(tier("{directories: [{path: /c, size: 1GiB}, {path: /cc, size: 1GiB}]}").is_ok());
    }

    #[test]
    fn two_names_of_one_directory_are_one_directory() {
        let root = tempfile::tempdir().expect("temporary directory");
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        std::fs::create_dir(&real).and_then(|()| symlink(&real, &link)).expect("made");
        let (real, link) = (real.display(), link.display());
        let text =
            format!("{{directories: [{{path: {real}/a, size: 1GiB}}, {{path: {link}/a, size: 1GiB}}]}}");
        assert!(tier(&text).expect_err("one directory").contains("overlap"));
    }
}
