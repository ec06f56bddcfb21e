use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fastrand::Rng;
use forebay_core::ManualClock;

use super::*;

/// All names of a tree as a deep listing shows them.
fn deep_names(root: &Path) -> BTreeSet<String> {
    fn walk(directory: &Path, prefix: &str, names: &mut BTreeSet<String>) {
        for child in fs::read_dir(directory).expect("readable") {
            let child = child.expect("readable");
            let name = format!("{prefix}{}", child.file_name().into_string().expect("text"));
            if name == ".forebay" {
                continue;
            }
            if child.path().is_file() {
                names.insert(name);
            } else if fs::read_dir(child.path()).expect("readable").next().is_none() {
                names.insert(name + "/");
            } else {
                walk(&child.path(), &format!("{name}/"), names);
            }
        }
    }
    let mut names = BTreeSet::new();
    walk(root, "", &mut names);
    names
}

/// What a listing must show: names and whether they stand for others.
fn expected(names: &BTreeSet<String>, query: &ListQuery) -> (Vec<(String, bool)>, bool) {
    let below = names.iter().filter_map(|name| name.strip_prefix(&query.prefix).map(|rest| (name, rest)));
    let shown: BTreeSet<(String, bool)> = below
        .map(|(name, rest)| match rest.find('/').filter(|_| query.shallow) {
            Some(slash) => (format!("{}{}", query.prefix, &rest[..=slash]), true),
            None => (name.clone(), false),
        })
        .filter(|(name, _)| query.start_after.as_ref().is_none_or(|after| name > after))
        .collect();
    let is_truncated = shown.len() > query.limit;
    (shown.into_iter().take(query.limit).collect(), is_truncated)
}

fn name(rng: &mut Rng) -> String {
    let pieces = ["a", "b", "-", "!", "0", "~", "é", " "];
    (0..rng.usize(1..3)).map(|_| pieces[rng.usize(0..pieces.len())]).collect()
}

fn plant(rng: &mut Rng, root: &Path) {
    for _ in 0..rng.usize(0..60) {
        let path = (0..rng.usize(1..5)).map(|_| name(rng)).collect::<Vec<_>>().join("/");
        let path = root.join(path);
        // Where a file is in the way, there is one name less.
        if fs::create_dir_all(path.parent().expect("below the root")).is_ok() {
            let made = if rng.u8(0..4) == 0 { fs::create_dir(&path) } else { fs::write(&path, "") };
            drop(made);
        }
    }
}

fn query(rng: &mut Rng, names: &[String]) -> ListQuery {
    let some = |rng: &mut Rng| {
        let base = if names.is_empty() { name(rng) } else { names[rng.usize(0..names.len())].clone() };
        let ends: Vec<usize> = base.char_indices().map(|(i, _)| i).chain([base.len()]).collect();
        let mut text = base[..ends[rng.usize(0..ends.len())]].to_owned();
        if rng.u8(0..4) == 0 {
            text.push_str(["/", "~", "!", "a/"][rng.usize(0..4)]);
        }
        text
    };
    ListQuery {
        prefix: if rng.bool() { some(rng) } else { String::new() },
        shallow: rng.bool(),
        start_after: rng.bool().then(|| some(rng)),
        limit: [1, 2, 3, 7, 1000][rng.usize(0..5)],
    }
}

#[test]
fn random_listings_agree_with_the_sorted_tree() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    for round in 0..40 {
        let later = ManualClock::default();
        later.advance(LATER);
        // Every other tree is listed with snapshots.
        let clock = if round % 2 == 0 { Clock::system() } else { Clock::manual(&later) };
        let fixture = Fixture::with_clock(clock);
        plant(&mut rng, fixture.directory.path());
        let set = deep_names(fixture.directory.path());
        let names: Vec<String> = set.iter().cloned().collect();
        for _ in 0..80 {
            let query = query(&mut rng, &names);
            let page = fixture.mount.disk.list(&query).expect("lists");
            let shown: Vec<_> = page.items.iter().map(|item| (item.name.clone(), item.is_prefix)).collect();
            assert_eq!((shown, page.is_truncated), expected(&set, &query), "{query:?} in {names:?}");
            assert!(page.items.iter().all(|item| item.entry.is_directory() == item.name.ends_with('/')));
        }
    }
}

#[test]
fn pages_of_a_large_directory_join_without_gap_or_overlap() {
    let fixture = Fixture::new();
    for i in 0..500 {
        fs::write(fixture.path(&format!("f{i}")), "").expect("written");
        fs::create_dir_all(fixture.path(&format!("d{i}/e"))).expect("made");
    }
    let all = deep_names(fixture.directory.path());
    for (shallow, limit) in [(false, 7), (true, 64), (true, 1)] {
        let whole = ListQuery { prefix: String::new(), shallow, start_after: None, limit: usize::MAX };
        let mut query = ListQuery { limit, ..whole.clone() };
        let mut seen = Vec::new();
        loop {
            let page = fixture.mount.disk.list(&query).expect("lists");
            seen.extend(page.items.into_iter().map(|item| (item.name, item.is_prefix)));
            if !page.is_truncated {
                break;
            }
            query.start_after = seen.last().map(|(name, _)| name.clone());
        }
        assert_eq!(seen, expected(&all, &whole).0);
    }
}

#[test]
fn snapshots_serve_later_pages_until_the_directory_changes() {
    let manual = ManualClock::default();
    let fixture = Fixture::with_clock(Clock::manual(&manual));
    for i in 0..20 {
        fs::write(fixture.path(&format!("f{i:02}")), "").expect("written");
    }
    let is_kept = || {
        let root = super::super::root::stat(fixture.mount.disk.root.fd()).expect("there");
        fixture.mount.disk.snapshots.find(super::super::snapshot::Stamp::of(&root)).is_some()
    };
    let page = |after: &str| {
        let start_after = Some(after.to_owned()).filter(|after| !after.is_empty());
        let query = ListQuery { prefix: "f".into(), shallow: true, start_after, limit: 3 };
        let page = fixture.mount.disk.list(&query).expect("lists");
        page.items.into_iter().map(|item| item.name).collect::<Vec<_>>()
    };
    page("f05");
    assert!(!is_kept(), "changed just now, as far as the clock tells");
    manual.advance(LATER);
    page("");
    assert!(!is_kept(), "a first page may be the last");
    assert_eq!(page("f05"), ["f06", "f07", "f08"]);
    assert!(is_kept());
    assert_eq!(page("f08"), ["f09", "f10", "f11"]);
    fs::write(fixture.path("f095"), "").expect("written");
    assert!(!is_kept());
    assert_eq!(page("f08"), ["f09", "f095", "f10"]);
    std::os::unix::fs::symlink("f00", fixture.path("link")).expect("linked");
    page("f08");
    assert!(!is_kept(), "what links lead to changes elsewhere");
}

#[tokio::test]
async fn links_show_what_they_lead_to_and_nothing_outside() {
    let outside = tempfile::tempdir().expect("a temporary directory");
    fs::write(outside.path().join("secret"), "").expect("written");
    let fixture = Fixture::new();
    fixture.write("d/f", "text").await;
    for (target, link) in [
        ("d/f", "to-file"),
        ("d", "to-directory"),
        ("nowhere", "dangling"),
        ("../../../../../../etc", "escaping"),
        (".", "loop"),
        ("self", "self"),
    ] {
        symlink(target, fixture.path(link)).expect("linked");
    }
    symlink(outside.path(), fixture.path("absolute")).expect("linked");
    assert_eq!(fixture.names("", true).await, ["d/", "loop/", "to-directory/", "to-file"]);
    assert_eq!(fixture.names("", false).await, ["d/f", "to-directory/f", "to-file"]);
    assert_eq!(fixture.names("to-directory/", true).await, ["to-directory/f"]);
    assert!(same(&fixture.stat("d/f").await.expect("there"), &fixture.stat("to-file").await.expect("there")));
    assert_eq!(fixture.text("to-directory/f").await, "text");
    for name in ["dangling", "escaping", "absolute", "absolute/secret", "escaping/passwd"] {
        assert_eq!(kind(fixture.stat(name).await), Some(ErrorKind::NotFound), "{name}");
        assert_eq!(
            kind(fixture.mount.open(&key(name), Want::Any).await),
            Some(ErrorKind::NotFound),
            "{name}"
        );
    }
    assert_eq!(kind(fixture.stat("self").await), Some(ErrorKind::InvalidName));
    for name in ["to-directory", "dangling"] {
        assert!(!fixture.delete(name, DeleteMode::Object).await.expect("no object"), "{name}");
        assert!(fixture.is_there(name));
    }
    assert!(fixture.delete("to-file", DeleteMode::Object).await.expect("removed") && fixture.is_there("d/f"));
    assert!(kind(fixture.put("absolute/new", "", Publish::default()).await).is_some());
    assert_eq!(fs::read_dir(outside.path()).expect("readable").count(), 1);
}

#[tokio::test]
async fn special_files_and_the_own_directory_are_not_shown() {
    let fixture = Fixture::new();
    rustix::fs::mknodat(rustix::fs::CWD, fixture.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(fixture.path("socket")).expect("bound");
    assert!(fixture.names("", true).await.is_empty());
    for name in ["fifo", "socket"] {
        assert_eq!(kind(fixture.stat(name).await), Some(ErrorKind::NotFound));
        assert_eq!(kind(fixture.mount.open(&key(name), Want::Any).await), Some(ErrorKind::NotFound));
    }
    assert!(fixture.names(".forebay/", false).await.is_empty());
    assert!(fixture.is_there(".forebay"));
}

#[tokio::test]
async fn a_prefix_that_nothing_can_have_is_an_empty_page() {
    let fixture = Fixture::new();
    fixture.write("f", "").await;
    symlink("self", fixture.path("self")).expect("linked");
    for prefix in [
        "x/",
        "f/",
        "a//b",
        "/",
        "/f",
        "../",
        "./",
        "self/",
        &"x".repeat(5000),
        &format!("{}/", "x".repeat(300)),
    ] {
        assert!(fixture.names(prefix, true).await.is_empty(), "{prefix}");
    }
}
