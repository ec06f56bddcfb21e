//! Listings out of the metadata store: what is answered without the store, and what keeps it true.

use forebay_core::{ListItem, MkdirMode};

use super::*;
use crate::cache::Trusted;
use crate::metadata::Metadata;

/// A mount whose listings outlive it.
pub(super) struct Kept {
    pub(super) f: Fixture,
    metadata: Metadata,
    state: TempDir,
}

pub(super) fn kept(revalidate: Revalidate) -> Kept {
    let clock = ManualClock::default();
    clock.advance(Duration::from_hours(1));
    let store = Arc::new(Faulty::new(Clock::manual(&clock)));
    let (directory, state) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    open(store, clock, directory, state, revalidate)
}

fn open(
    store: Arc<Faulty>,
    clock: ManualClock,
    directory: TempDir,
    state: TempDir,
    revalidate: Revalidate,
) -> Kept {
    let metadata = Metadata::open(state.path()).expect("opens");
    let listings = Some(metadata.listings("/object", store.fingerprint(), false));
    let mount = mount_with(
        &store,
        &clock,
        &directory,
        (revalidate, &MEMORY_ONLY, crate::config::WriteMode::Through, listings),
    );
    Kept { f: Fixture { store, mount, clock, directory }, metadata, state }
}

impl Kept {
    pub(super) fn restart(self, revalidate: Revalidate) -> Self {
        let Self { f: Fixture { store, mount, clock, directory }, metadata, state } = self;
        drop(mount);
        metadata.close();
        drop(metadata);
        open(store, clock, directory, state, revalidate)
    }

    async fn page(&self, prefix: &str, shallow: bool, after: Option<&str>, limit: usize) -> ListPage {
        let start_after = after.map(ToOwned::to_owned);
        let query = ListQuery { prefix: prefix.to_owned(), shallow, start_after, limit };
        self.f.mount.list(&query).await.expect("lists")
    }

    pub(super) async fn names(&self, prefix: &str, shallow: bool) -> Vec<String> {
        let page = self.page(prefix, shallow, None, 1000).await;
        page.items.into_iter().map(|item| item.name).collect()
    }

    /// Waits until all is written.
    pub(super) async fn idle(&self) {
        let idle = async {
            while !self.metadata.is_idle() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), idle).await.expect("written within 30 s");
    }
}

fn shown(item: &ListItem) -> String {
    let entry = &item.entry;
    format!("{} {} {:?} {:?} {:?}", item.name, entry.size_bytes, entry.version, entry.modified, entry.file_id)
}

#[tokio::test]
async fn listing_that_is_known_asks_the_store_for_nothing_and_shows_the_same() {
    let k = kept(Revalidate::Never);
    for name in ["a", "b/c", "b/d/e", "b/", "f", "g/h"] {
        let content = if name.ends_with('/') { "" } else { name };
        k.f.store.put_outside(name, content.as_bytes()).await;
    }
    let asked = k.page("", false, None, 1000).await;
    k.idle().await;
    assert_eq!(k.f.store.calls("list"), 1);
    let known = k.page("", false, None, 1000).await;
    assert_eq!(
        known.items.iter().map(shown).collect::<Vec<_>>(),
        asked.items.iter().map(shown).collect::<Vec<_>>()
    );
    assert_eq!(k.names("", true).await, ["a", "b/", "f", "g/"]);
    assert_eq!(k.names("b/", true).await, ["b/", "b/c", "b/d/"]);
    assert_eq!(k.page("b", false, Some("b/c"), 1).await.items[0].name, "b/d/e");
    assert_eq!(k.f.store.calls("list"), 0);
}

#[tokio::test]
async fn changes_at_the_store_are_listed_when_the_mount_says_so() {
    for (revalidate, at_once, later) in
        [(Revalidate::Always, true, true), (TRUSTED, false, true), (Revalidate::Never, false, false)]
    {
        let k = kept(revalidate);
        k.f.store.put_outside("d/a", b"one").await;
        assert_eq!(k.names("d/", true).await, ["d/a"]);
        k.idle().await;
        k.f.store.put_outside("d/b", b"two").await;
        assert_eq!(k.names("d/", true).await.len() == 2, at_once, "{revalidate:?}");
        k.f.clock.advance(Duration::from_secs(61));
        assert_eq!(k.names("d/", true).await.len() == 2, later, "{revalidate:?}");
    }
}

#[tokio::test]
async fn entries_of_known_listings_are_looked_up_without_the_store() {
    let k = kept(Revalidate::Never);
    for name in ["d/a", "d/sub/x"] {
        k.f.store.put_outside(name, name.as_bytes()).await;
    }
    k.names("", false).await;
    let k = k.restart(Revalidate::Never);
    k.f.store.calls("list");
    assert_eq!(k.f.stat("d/a").await.expect("there").size_bytes, 3);
    assert!(k.f.stat("d/sub").await.expect("there").is_directory());
    assert!(k.f.stat("d").await.expect("there").is_directory());
    assert_eq!(kind(k.f.stat("d/none").await), Some(ErrorKind::NotFound));
    assert_eq!((k.f.store.calls("stat"), k.f.store.calls("list")), (0, 0));
    k.f.clock.advance(Duration::from_secs(1));
    k.f.store.put_outside("d/none", b"x").await;
    k.f.stat("d/none").await.expect("that something is missing is trusted for a second");
    assert!(k.f.mount.stat(&key("d/a"), Want::File).await.expect("there").headers.is_some());
    k.f.put("d/a", b"changed").await;
    assert_eq!(k.f.stat("d/a").await.expect("there").size_bytes, 7);
    k.idle().await;
    let k = k.restart(Revalidate::Never);
    assert_eq!(k.f.stat("d/a").await.expect("there").size_bytes, 7);
    k.f.mount.delete(&key("d/a"), DeleteMode::File).await.expect("deletes");
    assert_eq!(kind(k.f.stat("d/a").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn listings_are_known_after_a_restart() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"one").await;
    k.names("", false).await;
    let k = k.restart(Revalidate::Never);
    k.f.put("d/b", b"two").await;
    let k = k.restart(Revalidate::Never);
    k.f.store.calls("list");
    assert_eq!(k.names("", false).await, ["d/a", "d/b"]);
    assert_eq!(k.f.store.calls("list"), 0);
}

#[tokio::test]
async fn kill_costs_what_was_being_changed_and_a_restart_of_the_machine_costs_all() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"one").await;
    k.f.store.put_outside("e/x", b"one").await;
    k.names("", false).await;
    let k = k.restart(Revalidate::Never);
    let database = k.state.path().join("listings.redb");
    let before = std::fs::read(&database).expect("reads");
    k.f.put("d/b", b"two").await;
    // As a kill leaves it, and as the machine's end does.
    let copy_to = |copy: &TempDir, mark: Option<&str>| {
        for file in std::fs::read_dir(k.state.path()).expect("lists").map(|file| file.expect("is there")) {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("copies");
        }
        std::fs::write(copy.path().join("listings.redb"), &before).expect("writes");
        if let Some(mark) = mark {
            std::fs::write(copy.path().join("state"), mark).expect("writes");
        }
    };
    let (killed, broken) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    copy_to(&killed, None);
    copy_to(&broken, Some("another boot"));
    let Kept { f: Fixture { store, mount, clock, directory }, metadata, .. } = k;
    drop((mount, metadata));
    let k = open(store, clock, directory, killed, Revalidate::Never);
    k.f.store.calls("list");
    assert_eq!(k.names("e/", true).await, ["e/x"]);
    assert_eq!(k.f.store.calls("list"), 0, "nothing was changed there");
    assert_eq!(k.names("", false).await, ["d/a", "d/b", "e/x"]);
    assert_eq!(k.f.store.calls("list"), 1);
    let Kept { f: Fixture { store, mount, clock, directory }, metadata, .. } = k;
    drop((mount, metadata));
    let k = open(store, clock, directory, broken, Revalidate::Never);
    k.f.store.calls("list");
    assert_eq!(k.names("e/", true).await, ["e/x"]);
    assert_eq!(k.f.store.calls("list"), 1);
}

#[tokio::test]
async fn damaged_database_is_made_anew() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"one").await;
    k.names("", false).await;
    let Kept { f: Fixture { store, mount, clock, directory }, metadata, state } = k;
    drop((mount, metadata));
    let path = state.path().join("listings.redb");
    std::fs::write(&path, vec![7; 10_000]).expect("writes");
    let k = open(store, clock, directory, state, Revalidate::Never);
    assert_eq!(k.names("", false).await, ["d/a"]);
    k.idle().await;
    k.f.store.calls("list");
    assert_eq!(k.names("", false).await, ["d/a"]);
    assert_eq!(k.f.store.calls("list"), 0);
}

#[tokio::test]
async fn commit_that_outlives_the_database_leaves_nothing_to_trust() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"one").await;
    k.names("", false).await;
    let gate = k.f.store.hold("put");
    let put = {
        let mount = Arc::clone(&k.f.mount);
        tokio::spawn(async move {
            let staged = mount.stage(Target::Replace(key("d/b"))).await?;
            staged.publish(Publish::default()).await
        })
    };
    gate.arrived().await;
    k.metadata.close();
    let is_closed =
        || std::fs::read_to_string(k.state.path().join("state")).is_ok_and(|mark| mark == "closed");
    assert!(!is_closed());
    gate.open();
    put.await.expect("joins").expect("publishes");
    assert!(!is_closed());
    assert_eq!(k.names("", false).await, ["d/a", "d/b"], "without a database the store is asked");
}

impl Kept {
    /// Bytes of the journal, and whether anything of the mount is in the database.
    async fn kept_state(&self) -> (u64, bool) {
        self.idle().await;
        let journal =
            std::fs::read_dir(self.state.path()).expect("lists").map(|file| file.expect("is there"));
        let journal = journal.filter(|file| file.file_name().to_string_lossy().starts_with("commits."));
        let bytes = journal.map(|file| file.metadata().expect("is there").len()).sum();
        (bytes, self.metadata.has_chunks())
    }
}

#[tokio::test]
async fn commits_of_a_mount_that_keeps_no_listings_are_not_written_down() {
    let mut k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"one").await;
    k.names("", false).await;
    k.f.put("d/b", b"two").await;
    assert!(k.kept_state().await.1);
    let changed = |k: &Kept, revalidate| k.f.mount.changed(false, (revalidate, WriteMode::Through), 1 << 20);
    k.f.mount = changed(&k, Revalidate::Always);
    assert_eq!(k.kept_state().await, (0, false), "what was kept goes with the keeping");
    k.f.put("d/c", b"three").await;
    k.f.mount.delete(&key("d/a"), DeleteMode::Tree).await.expect("deletes");
    assert_eq!(k.kept_state().await, (0, false));
    let gate = k.f.store.hold("put");
    let put = {
        let mount = Arc::clone(&k.f.mount);
        tokio::spawn(async move {
            let staged = mount.stage(Target::Replace(key("d/d"))).await?;
            staged.publish(Publish::default()).await
        })
    };
    gate.arrived().await;
    k.f.mount = changed(&k, Revalidate::Never);
    assert_eq!(k.names("", false).await, ["d/b", "d/c", "d/d"]);
    assert_eq!(k.kept_state().await, (0, false), "an answer may have missed a commit that began before");
    gate.open();
    put.await.expect("joins").expect("publishes");
    assert_eq!(k.names("", false).await, ["d/b", "d/c", "d/d"]);
    assert!(k.kept_state().await.1);
    k.f.put("d/e", b"five").await;
    k.idle().await;
    k.f.store.calls("list");
    assert_eq!(k.names("", false).await, ["d/b", "d/c", "d/d", "d/e"]);
    assert_eq!(k.f.store.calls("list"), 0);
}

#[tokio::test]
async fn what_was_kept_is_gone_when_the_mount_is_opened_without_keeping_or_not_at_all() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"one").await;
    k.names("", false).await;
    let k = k.restart(Revalidate::Always);
    assert_eq!(k.kept_state().await, (0, false));
    let mut k = k.restart(Revalidate::Never);
    k.names("", false).await;
    assert!(k.kept_state().await.1);
    k.metadata.prune();
    assert!(k.kept_state().await.1, "it is in use");
    let elsewhere = TempDir::new().expect("a directory");
    let other = mount_with(&k.f.store, &k.f.clock, &elsewhere, OTHER);
    drop(std::mem::replace(&mut k.f.mount, other));
    assert!(k.kept_state().await.1, "others may still be opened");
    k.metadata.prune();
    assert_eq!(k.kept_state().await, (0, false));
}

const OTHER: (Revalidate, &CacheConfig, WriteMode, Option<Arc<Listings>>) =
    (Revalidate::Always, &MEMORY_ONLY, WriteMode::Through, None);

#[tokio::test]
async fn listing_under_way_during_a_commit_is_not_remembered() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"old").await;
    let gate = k.f.store.hold("list");
    let listing = {
        let mount = Arc::clone(&k.f.mount);
        let query = ListQuery { prefix: "d/".into(), shallow: true, start_after: None, limit: 9 };
        tokio::spawn(async move { mount.list(&query).await })
    };
    gate.arrived().await;
    k.f.put("d/b", b"new").await;
    k.idle().await;
    gate.open();
    assert_eq!(listing.await.expect("joins").expect("lists").items.len(), 1, "it was sent before the commit");
    k.idle().await;
    assert_eq!(k.names("d/", true).await, ["d/a", "d/b"]);
}

#[tokio::test]
async fn write_that_fails_or_is_given_up_leaves_its_name_unknown() {
    let k = kept(Revalidate::Never);
    k.f.store.put_outside("d/a", b"old").await;
    assert_eq!(k.names("d/", true).await, ["d/a"]);
    k.idle().await;
    k.f.store.lose("put", ErrorKind::Unavailable);
    assert_eq!(kind(k.f.try_put("d/b", b"new", Precondition::None).await), Some(ErrorKind::Unavailable));
    assert_eq!(k.names("d/", true).await, ["d/a", "d/b"], "the store had it all the same");
}

/// What is listed is what the store has, after whatever was done through the mount.
#[tokio::test]
async fn random_changes_are_listed_at_once_and_as_the_store_has_them() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut k = kept(Revalidate::Never);
    let names = ["a", "a/b", "a/c", "a/d/e", "a!", "f/g", "f/h/i", "j"];
    let mut listings = 0;
    for round in 0..200 {
        let (one, other) = (names[random.usize(..names.len())], names[random.usize(..names.len())]);
        match random.u8(..8) {
            0..=2 => drop(k.f.put(one, b"x").await),
            3 => drop(k.f.mount.delete(&key(one), DeleteMode::Object).await),
            4 => drop(k.f.mount.delete(&key(one), DeleteMode::Tree).await),
            5 => drop(k.f.mount.rename(&key(one), &key(other), RenameMode::Replace).await),
            6 => drop(k.f.mount.mkdir(&key(one), MkdirMode::Parents).await),
            _ => drop(k.f.mount.delete(&key(one), DeleteMode::File).await),
        }
        if random.bool() {
            k.idle().await;
        }
        if random.u8(..50) == 0 {
            k = k.restart(Revalidate::Never);
        }
        let expected = k.f.names().await;
        k.f.store.calls("list");
        assert_eq!(k.names("", false).await, expected, "round {round}");
        listings += k.f.store.calls("list");
        for prefix in ["", "a", "a/", "f/"] {
            let query = ListQuery { prefix: prefix.into(), shallow: true, start_after: None, limit: 1000 };
            let expected: Vec<_> =
                k.f.store.list(&query).await.expect("lists").objects.into_iter().map(|o| o.key).collect();
            assert_eq!(k.names(prefix, true).await, expected, "round {round} {prefix}");
        }
    }
    assert!(listings < 195, "{listings}");
}

#[tokio::test]
async fn rules_say_how_long_parts_of_a_mount_are_trusted() {
    let k = kept(Revalidate::Never);
    let rules = &k.f.mount.core.rules;
    let path = |text: &str| forebay_core::NsPath::parse(text).expect("a path");
    rules.set_mounts([(path("/object"), crate::cache::Rule::default())]);
    for (at, trusted) in [("/object/d", Trusted::Always), ("/object/d/e", Trusted::AfterMs(60_000))] {
        let rule = crate::cache::Rule { revalidate: Some(trusted), ..crate::cache::Rule::default() };
        rules.change(&path(at), &rule).await.expect("changes");
    }
    let names = ["d/a", "d/e/x", "f"];
    for name in names {
        k.f.store.put_outside(name, b"old").await;
    }
    k.names("", false).await;
    k.idle().await;
    let lengths = async || {
        let mut lengths = Vec::new();
        for name in names {
            lengths.push(k.f.stat(name).await.expect("there").size_bytes);
        }
        lengths
    };
    assert_eq!(lengths().await, [3, 3, 3]);
    for name in names {
        k.f.store.put_outside(name, b"changed").await;
    }
    assert_eq!(lengths().await, [7, 3, 3]);
    k.f.store.calls("list");
    for (prefix, asked) in [("d/", 1), ("d/e/", 0), ("", 0)] {
        k.names(prefix, true).await;
        assert_eq!(k.f.store.calls("list"), asked, "{prefix}");
    }
    k.f.clock.advance(Duration::from_mins(1));
    assert_eq!(lengths().await, [7, 7, 3]);
}
