use std::sync::atomic::Ordering;

use super::*;
use crate::config::Ack;

const BACK: WriteMode = WriteMode::Back(Ack::NvmeFsync);

/// Larger than what lies in the journal.
const LARGE: &[u8] = &[7; 100_000];

fn fixture_back() -> Fixture {
    let clock = ManualClock::default();
    let store = Arc::new(Faulty::new(Clock::manual(&clock)));
    let directory = TempDir::new().expect("a temporary directory");
    let mount = mount_in_mode(&store, &clock, &directory, (Revalidate::Always, &MEMORY_ONLY, BACK));
    Fixture { store, mount, clock, directory }
}

impl Fixture {
    /// The same directory and store under another process.
    async fn restarted(self) -> Self {
        let Self { store, mount, clock, directory } = self;
        let core = Arc::downgrade(&mount.core);
        drop(mount);
        // An upload may hold it a little longer.
        while core.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        let mount = mount_in_mode(&store, &clock, &directory, (Revalidate::Always, &MEMORY_ONLY, BACK));
        Self { store, mount, clock, directory }
    }

    async fn uploaded(&self) {
        let pending = self.mount.core.staging.pending();
        let mut applied = pending.watch();
        let empty = async {
            while !pending.names(1).is_empty() {
                applied.changed().await.expect("the mount lives");
            }
        };
        tokio::time::timeout(Duration::from_hours(2), empty).await.expect("uploaded");
    }

    async fn put_with_headers(&self, name: &str, content: &'static [u8]) -> Entry {
        let staged = self.mount.stage(Target::Replace(key(name))).await.expect("stages");
        staged.write_at(0, Bytes::from_static(content)).await.expect("writes");
        let headers = Some(Headers { content_type: Some("a/b".to_owned()), ..Headers::default() });
        staged.publish(Publish { headers, ..Publish::default() }).await.expect("publishes")
    }

    async fn stored(&self, name: &str) -> Vec<u8> {
        let object = self.store.stat(name).await.expect("is there");
        let range = forebay_core::ByteRange::new(0, object.size_bytes);
        self.store.read(name, range, &object.etag).await.expect("reads").to_vec()
    }

    async fn listed(&self, prefix: &str, limit: usize) -> Vec<String> {
        let mut query = ListQuery { prefix: prefix.to_owned(), shallow: true, start_after: None, limit };
        let mut names = Vec::new();
        loop {
            let page = self.mount.list(&query).await.expect("lists");
            names.extend(page.items.into_iter().map(|item| item.name));
            if !page.is_truncated {
                return names;
            }
            query.start_after = names.last().cloned();
        }
    }
}

#[tokio::test]
async fn write_is_acknowledged_and_seen_before_the_store_has_it() {
    let f = fixture_back();
    let gate = f.store.hold("put");
    for (name, content) in [("d/small", &b"one"[..]), ("d/large", LARGE)] {
        let entry = f.put_with_headers(name, content).await;
        let seen = f.stat(name).await.expect("there");
        assert_eq!((&seen.etag, seen.size_bytes), (&entry.etag, content.len() as u64));
        assert_eq!(f.read(name).await, content);
    }
    gate.arrived().await;
    assert_eq!(f.listed("", 10).await, ["d/"]);
    assert_eq!(f.listed("d/", 1).await, ["d/large", "d/small"]);
    let pending = f.mount.core.staging.pending();
    let mut applied = pending.watch();
    let only_the_held = async {
        while pending.names(2).len() > 1 {
            applied.changed().await.expect("the mount lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), only_the_held).await.expect("the other is not held up");
    assert_eq!(f.mount.dirty().await.expect("known").writes, 1);
    gate.open();
    f.uploaded().await;
    assert_eq!((f.stored("d/small").await, f.stored("d/large").await), (b"one".to_vec(), LARGE.to_vec()));
    assert!(f.mount.dirty().await.expect("known").is_clean());
    // The file goes after the record of it.
    let given_back = async {
        while f.mount.core.staging.used_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), given_back).await.expect("the space is given back");
    assert_eq!(std::fs::read_dir(f.directory.path().join("pending")).expect("readable").count(), 0);
}

/// Longest rest of a name whose upload failed.
const REST_MAX_S: u64 = 15;

#[tokio::test(start_paused = true)]
async fn store_that_is_down_for_an_hour_gets_everything_after_it() {
    let f = fixture_back();
    f.store.fail_all(Some(ErrorKind::Unavailable));
    let mut names = ["again", "bulk"].map(str::to_owned).to_vec();
    f.put("bulk", LARGE).await;
    let content =
        |minute: u32| -> &'static [u8] { Box::leak(format!("minute {minute}").into_bytes().into()) };
    for minute in 0..60 {
        let name = format!("k{minute:02}");
        f.put(&name, content(minute)).await;
        f.put("again", content(minute)).await;
        assert_eq!(f.read("again").await, content(minute));
        tokio::time::sleep(Duration::from_mins(1)).await;
        names.push(name);
    }
    assert_eq!(f.mount.dirty().await.expect("known").writes, 62);
    // Each name is tried all the time, and not too often.
    let attempts: Vec<_> = f.mount.pending().iter().map(|write| u64::from(write.attempts)).collect();
    let most = 3600 / REST_MAX_S;
    assert!((most / 2..=most + 10).contains(&attempts[0]), "{attempts:?}");
    let (sum, calls) = (attempts.iter().sum::<u64>(), f.store.calls("stat") + f.store.calls("put"));
    assert!(calls as u64 <= sum + 2 * 60, "{calls} requests in {sum} attempts");
    // Where no more may be pending, a write is told what is wrong with the store.
    f.mount.core.staging.set_limit(200_000);
    let refused = f.try_put("late", b"content", Precondition::None).await.expect_err("the store is down");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("the store fails"), "{refused}");
    let back = tokio::time::Instant::now();
    f.store.fail_all(None);
    f.uploaded().await;
    assert!(back.elapsed().as_secs() <= REST_MAX_S + 1, "{:?}", back.elapsed());
    assert_eq!(f.names().await, names);
    for (minute, name) in names.iter().skip(2).enumerate() {
        assert_eq!(f.stored(name).await, content(minute as u32));
    }
    assert_eq!(f.stored("again").await, content(59));
}

#[tokio::test]
async fn restart_brings_what_was_acknowledged_to_the_store() {
    let f = fixture_back();
    f.store.fail_all(Some(ErrorKind::Unavailable));
    let tags = [f.put("a", b"first").await.etag, f.put("a", b"second").await.etag];
    f.put_with_headers("b", LARGE).await;
    let f = f.restarted().await;
    assert_eq!(f.stat("a").await.expect("there").etag, tags[1]);
    assert_eq!(f.read("b").await, LARGE);
    f.store.fail_all(None);
    let f = f.restarted().await;
    f.uploaded().await;
    assert_eq!((f.stored("a").await, f.stored("b").await), (b"second".to_vec(), LARGE.to_vec()));
    let headers = f.store.stat("b").await.expect("there").headers.expect("kept");
    assert_eq!(headers.content_type.as_deref(), Some("a/b"));
    let f = f.restarted().await;
    assert!(f.mount.dirty().await.expect("known").is_clean());
    assert_eq!(f.stat("a").await.expect("there").etag, tags[1]);
}

#[tokio::test]
async fn tag_stays_where_the_store_gives_another() {
    let f = fixture_back();
    f.store.own_tags(true);
    let told = f.put("a", b"content").await.etag;
    f.uploaded().await;
    let f = f.restarted().await;
    assert_eq!(f.stat("a").await.expect("there").etag, told);
    assert_eq!(f.read("a").await, b"content");
    let query = ListQuery { prefix: "a".into(), shallow: true, start_after: None, limit: 9 };
    assert_eq!(f.mount.list(&query).await.expect("lists").items[0].entry.etag, told);
    f.try_put("a", b"more", Precondition::Matches(told.clone())).await.expect("it matches");
    let refused = f.try_put("a", b"other", Precondition::Matches(told)).await;
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed));
}

#[tokio::test]
async fn conflict_keeps_both_contents() {
    let f = fixture_back();
    f.store.put_outside("a", b"base").await;
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"mine")).await.expect("writes");
    f.store.put_outside("a", b"theirs").await;
    let entry = staged.publish(Publish::default()).await.expect("is acknowledged");
    f.uploaded().await;
    let beside = format!("a.conflict-{}", &entry.etag.as_str()[..12]);
    assert_eq!(f.names().await, ["a".to_owned(), beside.clone()]);
    assert_eq!((f.read("a").await, f.read(&beside).await), (b"theirs".to_vec(), b"mine".to_vec()));
    let conflicts: Vec<_> =
        f.mount.conflicts().into_iter().map(|conflict| (conflict.key, conflict.beside)).collect();
    assert_eq!(conflicts, [("a".to_owned(), beside)]);
}

#[tokio::test]
async fn of_two_who_change_a_file_in_place_at_once_the_second_is_refused() {
    let f = fixture_back();
    f.put("a", b"base").await;
    f.uploaded().await;
    let gate = f.store.hold("put");
    let mut writes = Vec::new();
    for content in [&b"mine"[..], b"your"] {
        let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
        staged.write_at(0, Bytes::from_static(content)).await.expect("writes");
        writes.push(staged);
    }
    let publish = || Publish::default();
    let (mine, yours) = tokio::join!(writes[0].publish(publish()), writes[1].publish(publish()));
    let (winner, refused) = if mine.is_ok() { (b"mine", yours) } else { (b"your", mine) };
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed));
    assert_eq!(f.read("a").await, winner);
    gate.open();
    f.uploaded().await;
    assert_eq!((f.names().await, f.stored("a").await), (vec!["a".to_owned()], winner.to_vec()));
}

#[tokio::test]
async fn conflict_is_listed_as_it_ended_where_listings_are_kept() {
    let (clock, state) = (ManualClock::default(), TempDir::new().expect("a directory"));
    let store = Arc::new(Faulty::new(Clock::manual(&clock)));
    let directory = TempDir::new().expect("a temporary directory");
    let metadata = crate::metadata::Metadata::open(state.path()).expect("opens");
    let listings = Some(metadata.listings("/object", store.fingerprint(), false));
    let mount = mount_with(&store, &clock, &directory, (Revalidate::Never, &MEMORY_ONLY, BACK, listings));
    let f = Fixture { store, mount, clock, directory };
    let written = async || {
        let idle = async {
            while !metadata.is_idle() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), idle).await.expect("what was said is known");
    };
    let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 10 };
    f.store.put_outside("a", b"base").await;
    f.mount.list(&query).await.expect("lists");
    written().await;
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"mine")).await.expect("writes");
    f.store.put_outside("a", b"theirs").await;
    let gate = f.store.hold("put");
    let entry = staged.publish(Publish::default()).await.expect("is acknowledged");
    gate.arrived().await;
    written().await;
    gate.open();
    f.uploaded().await;
    let listed = f.mount.list(&query).await.expect("lists").items;
    let sizes: Vec<_> = listed.iter().map(|item| (item.name.as_str(), item.entry.size_bytes)).collect();
    let beside = format!("a.conflict-{}", &entry.etag.as_str()[..12]);
    assert_eq!(sizes, [("a", 6), (beside.as_str(), 4)]);
}

#[tokio::test(start_paused = true)]
async fn lost_answer_is_no_conflict() {
    for has_own_tags in [false, true] {
        let f = fixture_back();
        f.store.own_tags(has_own_tags);
        f.store.lose("put", ErrorKind::Timeout);
        let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("begins empty");
        for content in [&b"one"[..], b"two!"] {
            staged.write_at(0, Bytes::from_static(content)).await.expect("writes");
            staged.publish(Publish::default()).await.expect("is acknowledged");
        }
        f.uploaded().await;
        assert_eq!((f.names().await, f.stored("a").await), (vec!["a".to_owned()], b"two!".to_vec()));
    }
}

#[tokio::test]
async fn what_must_be_exact_at_the_store_follows_what_is_pending() {
    let f = fixture_back();
    let first = f.put("a", b"one").await;
    f.try_put("a", b"two", Precondition::Matches(first.etag)).await.expect("it matches");
    assert_eq!(f.stored("a").await, b"two");
    f.put("b", b"three").await;
    f.mount.rename(&key("b"), &key("c"), RenameMode::Replace).await.expect("renames");
    assert_eq!((f.names().await, f.stored("c").await), (vec!["a".into(), "c".into()], b"three".to_vec()));
    f.put("c", b"four").await;
    assert!(f.mount.delete(&key("c"), DeleteMode::Object).await.expect("deletes"));
    assert_eq!(f.names().await, ["a"]);
    assert_eq!(kind(f.stat("c").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn file_that_is_written_on_is_uploaded_as_it_was_acknowledged() {
    let f = fixture_back();
    let staged = f.mount.stage(Target::Modify(key("log"))).await.expect("begins empty");
    staged.write_at(0, Bytes::from_static(LARGE)).await.expect("writes");
    let gate = f.store.hold("put");
    staged.publish(Publish::default()).await.expect("is acknowledged");
    gate.arrived().await;
    staged.write_at(0, Bytes::from_static(b"more")).await.expect("writes");
    gate.open();
    f.uploaded().await;
    assert_eq!(f.stored("log").await, LARGE);
    staged.publish(Publish::default()).await.expect("is acknowledged");
    f.uploaded().await;
    assert_eq!(f.stored("log").await[..5], *b"more\x07");
}

/// Another one, as large.
const LARGER: &[u8] = &[8; 100_001];

impl Fixture {
    /// Where the last pending content of a name lies.
    fn kept_file(&self, name: &str) -> std::path::PathBuf {
        let put = self.mount.core.staging.pending().latest(name).expect("pending");
        self.directory.path().join("pending").join(put.file.as_ref().expect("in a file"))
    }

    /// What was lost, by name and cause.
    fn lost(&self) -> Vec<(String, String)> {
        let mut lost: Vec<_> = self.mount.lost().into_iter().map(|lost| (lost.key, lost.cause)).collect();
        lost.sort();
        lost
    }

    async fn all_space_but(&self, bytes: u64) {
        let given_back = async {
            while self.mount.core.staging.used_bytes() != bytes {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given_back).await.expect("the space is given back");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_content_is_reported_once_and_holds_up_nothing() {
    let f = fixture_back();
    f.store.put_outside("a", b"stored").await;
    f.store.fail_all(Some(ErrorKind::Unavailable));
    for name in ["a", "b", "c"] {
        f.put(name, LARGE).await;
    }
    f.put("c", LARGER).await;
    let gone = ["a", "c"].map(|name| {
        let path = f.kept_file(name);
        std::fs::remove_file(&path).expect("removes");
        (name.to_owned(), format!("{} is gone", path.display()))
    });
    let f = f.restarted().await;
    f.store.fail_all(None);
    f.uploaded().await;
    assert_eq!(f.lost(), gone);
    assert_eq!((f.stored("a").await, f.stored("b").await), (b"stored".to_vec(), LARGE.to_vec()));
    assert_eq!(f.read("a").await, b"stored");
    assert_eq!(f.read("c").await, LARGE, "the content before the lost one");
    f.all_space_but(0).await;
    f.put("a", LARGER).await;
    f.uploaded().await;
    assert_eq!(f.stored("a").await, LARGER);
    let f = f.restarted().await;
    assert_eq!((f.lost(), f.names().await.len()), (vec![], 3));
}

#[tokio::test]
async fn damaged_content_is_kept_aside_and_never_sent() {
    let f = fixture_back();
    f.store.fail_all(Some(ErrorKind::Unavailable));
    f.put("a", LARGE).await;
    f.put("b", LARGE).await;
    let [flipped, cut] = ["a", "b"].map(|name| f.kept_file(name));
    std::fs::write(&flipped, LARGER[..LARGE.len()].as_ref()).expect("writes");
    std::fs::write(&cut, &LARGE[1..]).expect("writes");
    f.store.fail_all(None);
    f.uploaded().await;
    let damaged = f.directory.path().join("damaged");
    let aside = |path: std::path::PathBuf| damaged.join(path.file_name().expect("a name"));
    let [flipped, cut] = [flipped, cut].map(aside);
    let cause = |path: &std::path::Path| format!("{} is not what was acknowledged", path.display());
    assert_eq!(f.lost(), [("a".to_owned(), cause(&flipped)), ("b".to_owned(), cause(&cut))]);
    assert_eq!(f.names().await, Vec::<String>::new());
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound));
    f.all_space_but(199_999).await;
    let f = f.restarted().await;
    assert_eq!(f.mount.core.staging.used_bytes(), 199_999);
    std::fs::remove_file(flipped).expect("was kept");
    std::fs::remove_file(cut).expect("was kept");
    assert_eq!(f.restarted().await.mount.core.staging.used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn deletion_or_rename_of_what_is_pending_waits_for_the_store_and_nothing_comes_back() {
    let f = fixture_back();
    f.store.fail_all(Some(ErrorKind::Unavailable));
    for name in ["gone", "d/gone", "old"] {
        f.put(name, b"content").await;
    }
    let change = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
    f.mount.set_attributes(&key("gone"), change).await.expect("needs no store");
    let (file, tree) = (DeleteMode::Object, DeleteMode::Tree);
    let delete = async |name: &str, mode| kind(f.mount.delete(&key(name), mode).await);
    let rename =
        async |from: &str, to: &str| kind(f.mount.rename(&key(from), &key(to), RenameMode::Replace).await);
    let busy_or_down = [Some(ErrorKind::Busy), Some(ErrorKind::Unavailable)];
    assert_eq!(delete("gone", file).await, Some(ErrorKind::Busy));
    assert!(busy_or_down.contains(&delete("d", tree).await));
    assert!(busy_or_down.contains(&rename("old", "new").await));
    let f = f.restarted().await;
    for name in ["gone", "d/gone", "old"] {
        assert_eq!(f.read(name).await, b"content", "what was refused did not happen");
    }
    f.store.fail_all(None);
    assert!(f.mount.delete(&key("gone"), file).await.expect("deletes"));
    assert!(f.mount.delete(&key("d"), tree).await.expect("deletes"));
    f.mount.rename(&key("old"), &key("new"), RenameMode::Replace).await.expect("renames");
    assert_eq!(f.names().await, ["new"]);
    let f = f.restarted().await;
    f.uploaded().await;
    assert_eq!((f.names().await, f.stored("new").await), (vec!["new".to_owned()], b"content".to_vec()));
    for name in ["gone", "d/gone", "old"] {
        assert_eq!(kind(f.stat(name).await), Some(ErrorKind::NotFound), "{name}");
    }
}

#[tokio::test]
async fn write_that_finds_no_room_waits_for_the_store() {
    let f = fixture_back();
    f.mount.core.staging.set_limit(250_000);
    let gate = f.store.hold("put");
    f.put("a", LARGE).await;
    gate.arrived().await;
    f.put("b", LARGE).await;
    assert_eq!(f.stored("b").await, LARGE, "the store had it when it was acknowledged");
    gate.open();
    f.uploaded().await;
}

#[tokio::test]
async fn write_around_leaves_the_cache_alone_and_through_does_not() {
    static MEBIBYTES: [u8; 1 << 20] = [3; 1 << 20];
    for (write, cached) in [(WriteMode::Around, 0), (WriteMode::Through, 1 << 20), (BACK, 1 << 20)] {
        let clock = ManualClock::default();
        let store = Arc::new(Faulty::new(Clock::manual(&clock)));
        let directory = TempDir::new().expect("a temporary directory");
        let nvme = crate::config::NvmeConfig::in_one(directory.path().join("nvme"), 64 << 20, 0);
        let cache = CacheConfig { nvme: Some(nvme), ..MEMORY_ONLY };
        let mount = mount_in_mode(&store, &clock, &directory, (TRUSTED, &cache, write));
        mount.core.staging.set_limit(8 << 20);
        let f = Fixture { store, mount, clock, directory };
        f.put_with_headers("a", &MEBIBYTES).await;
        f.uploaded().await;
        let file = f.mount.open(&key("a"), Want::File).await.expect("opens");
        let range = forebay_core::ByteRange::new(0, 1 << 20);
        let adopted = async {
            while file.cached(range).disk_bytes < cached {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), adopted).await.expect("adopted");
        assert_eq!(file.cached(range).disk_bytes, cached, "{write:?}");
        assert_eq!(f.read("a").await, MEBIBYTES);
        assert_eq!(f.store.calls("read"), usize::from(cached == 0), "{write:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_of_the_journal_fail_no_write_and_lose_none() {
    const WRITERS: usize = 16;
    let f = fixture_back();
    f.mount.core.staging.set_limit(64 << 20);
    // Whoever went to it would fail.
    f.store.fail_all(Some(ErrorKind::Unavailable));
    let acknowledged = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (mount, acknowledged) = (Arc::clone(&f.mount), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            for round in 0..40 {
                let staged = mount.stage(Target::Replace(key(&format!("k{writer}")))).await.expect("stages");
                let content =
                    format!("{writer} {round} {}", "x".repeat(if round % 8 == 0 { 40_000 } else { 0 }));
                staged.write_at(0, content.into()).await.expect("writes");
                staged.publish(Publish::default()).await.expect("is acknowledged");
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let writers = futures::future::try_join_all(writers.collect::<Vec<_>>());
    let panics = async {
        loop {
            f.mount.core.staging.sabotage_journal();
            // So many that those who were in the group that panicked have their answers.
            let next = acknowledged.load(Ordering::Relaxed) + 3 * WRITERS;
            while acknowledged.load(Ordering::Relaxed) < next {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        outcome = writers => drop(outcome.expect("no write fails")),
        () = panics => {}
    }
    let f = f.restarted().await;
    f.store.fail_all(None);
    f.uploaded().await;
    for writer in 0..WRITERS {
        assert_eq!(f.stored(&format!("k{writer}")).await, format!("{writer} 39 ").into_bytes());
    }
}
