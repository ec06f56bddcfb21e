use forebay_core::ByteRange;

use super::*;

#[tokio::test]
async fn missing_key_is_remembered_until_it_is_created() {
    let f = fixture(TRUSTED);
    assert_eq!(kind(f.stat("a/b").await), Some(ErrorKind::NotFound));
    assert_eq!((f.store.calls("stat"), f.store.calls("list")), (1, 1));
    assert_eq!(kind(f.stat("a/b").await), Some(ErrorKind::NotFound));
    assert_eq!((f.store.calls("stat"), f.store.calls("list")), (0, 0));
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound));
    f.put("a/b", b"x").await;
    assert_eq!(f.stat("a/b").await.expect("created").size_bytes, 1);
    assert!(f.stat("a").await.expect("made by its child").is_directory());
}

#[tokio::test]
async fn missing_key_is_remembered_for_a_second_at_most() {
    let f = fixture(Revalidate::Never);
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound));
    f.store.put_outside("a", b"x").await;
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound));
    f.clock.advance(Duration::from_secs(1));
    f.stat("a").await.expect("asked again");
}

#[tokio::test]
async fn changes_at_the_store_are_seen_when_the_mount_says_so() {
    for (revalidate, at_once, later) in
        [(Revalidate::Always, true, true), (TRUSTED, false, true), (Revalidate::Never, false, false)]
    {
        let f = fixture(revalidate);
        f.store.put_outside("a", b"one").await;
        assert_eq!(f.stat("a").await.expect("there").size_bytes, 3);
        f.store.put_outside("a", b"three").await;
        assert_eq!(f.stat("a").await.expect("there").size_bytes == 5, at_once, "{revalidate:?}");
        f.clock.advance(Duration::from_secs(61));
        assert_eq!(f.stat("a").await.expect("there").size_bytes == 5, later, "{revalidate:?}");
        assert_eq!(f.mount.try_stat(&key("a"), Want::File).is_some(), revalidate != Revalidate::Always);
    }
}

#[tokio::test]
async fn stat_under_way_during_a_commit_is_not_remembered() {
    let f = fixture(Revalidate::Never);
    f.store.put_outside("a", b"old").await;
    let gate = f.store.hold("stat");
    let stat = {
        let mount = Arc::clone(&f.mount);
        tokio::spawn(async move { mount.stat(&key("a"), Want::File).await })
    };
    gate.arrived().await;
    f.put("a", b"newer").await;
    gate.open();
    assert_eq!(stat.await.expect("joins").expect("there").size_bytes, 3, "it was sent before the commit");
    assert_eq!(f.mount.stat(&key("a"), Want::File).await.expect("there").size_bytes, 5);
}

#[tokio::test]
async fn overlapping_commits_leave_the_store_to_decide() {
    let f = fixture(Revalidate::Never);
    let gate = f.store.hold("put");
    let first = {
        let staged = f.mount.stage(Target::Replace(key("a"))).await.expect("stages");
        tokio::spawn(async move { staged.publish(Publish::default()).await })
    };
    gate.arrived().await;
    f.put("a", b"second").await;
    gate.open();
    first.await.expect("joins").expect("publishes");
    assert!(f.mount.try_stat(&key("a"), Want::File).is_none());
    assert_eq!(f.stat("a").await.expect("there").size_bytes, 6);
}

#[tokio::test]
async fn failures_are_not_remembered() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"x").await;
    f.store.fail("stat", ErrorKind::Unavailable);
    assert_eq!(kind(f.mount.stat(&key("a"), Want::File).await), Some(ErrorKind::Unavailable));
    f.mount.stat(&key("a"), Want::File).await.expect("asked again");
    let before = f.stat("a").await.expect("there");
    f.store.fail("put", ErrorKind::Timeout);
    assert_eq!(kind(f.try_put("a", b"longer", Precondition::None).await), Some(ErrorKind::Timeout));
    f.store.calls("stat");
    assert_eq!(f.stat("a").await.expect("there").etag, before.etag);
    assert_eq!(f.store.calls("stat"), 1, "nobody knows what a failed write did");
}

#[tokio::test]
async fn directories_exist_by_marker_or_child_and_shadow_files() {
    let f = fixture(TRUSTED);
    for name in ["marked/", "implied/child", "both", "both/child"] {
        f.store.put_outside(name, b"").await;
    }
    for name in ["marked", "implied", "both", ""] {
        assert!(f.stat(name).await.expect("exists").is_directory(), "{name}");
    }
    assert!(!f.mount.stat(&key("both"), Want::File).await.expect("also a file").is_directory());
    assert_eq!(kind(f.mount.stat(&key("implied"), Want::File).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(f.mount.stat(&Key::root(), Want::File).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(f.mount.open(&key("both"), Want::Any).await), Some(ErrorKind::IsDirectory));
    f.mount.open(&key("both"), Want::File).await.expect("the file");
}

#[tokio::test]
async fn small_file_costs_one_look_and_one_read_and_then_nothing() {
    let f = fixture(TRUSTED);
    f.store.put_outside("d/a", b"content").await;
    for name in ["first", "second"] {
        let file = f.mount.open(&key("d/a"), Want::File).await.expect("opens");
        let content = file.read(ByteRange::new(0, 7)).await.expect("reads").read().expect("in memory");
        assert_eq!(content.concat(), b"content", "{name}");
    }
    assert_eq!((f.store.calls("stat"), f.store.calls("read"), f.store.calls("list")), (1, 1, 0));
    f.store.put_outside("empty", b"").await;
    assert_eq!(f.read("empty").await, b"");
    assert_eq!(f.store.calls("read"), 0);
}

#[tokio::test]
async fn open_file_never_mixes_versions_and_the_next_open_is_right() {
    let f = fixture(Revalidate::Never);
    f.store.put_outside("a", b"one").await;
    let file = f.mount.open(&key("a"), Want::File).await.expect("opens");
    f.store.put_outside("a", b"two").await;
    assert_eq!(kind(file.read(ByteRange::new(0, 3)).await.map(|_| ())), Some(ErrorKind::Stale));
    assert_eq!(f.read("a").await, b"two");
}

#[tokio::test]
async fn listing_is_remembered_without_hiding_headers() {
    let f = fixture(TRUSTED);
    for name in ["d/a", "d/e/f", "d/m/"] {
        f.store.put_outside(name, b"").await;
    }
    let query = ListQuery { prefix: "d/".to_owned(), shallow: true, start_after: None, limit: 10 };
    let page = f.mount.list(&query).await.expect("lists");
    let names: Vec<_> = page.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["d/a", "d/e/", "d/m/"]);
    assert!(f.mount.try_stat(&key("d/e"), Want::Directory).is_some());
    f.store.calls("stat");
    let entry = f.mount.stat(&key("d/a"), Want::File).await.expect("there");
    assert_eq!(entry.headers.expect("asked for").content_type.as_deref(), Some("text/outside"));
    assert_eq!(f.store.calls("stat"), 1);
    f.mount.list(&query).await.expect("lists");
    f.mount.stat(&key("d/a"), Want::File).await.expect("there");
    assert_eq!(f.store.calls("stat"), 0, "a listing does not take headers away");
    assert_eq!(page.items[0].entry.file_id, entry.file_id);
    assert_eq!(page.items[0].entry.etag, entry.etag);
}

#[tokio::test]
async fn names_that_the_namespace_refuses_are_left_out_of_listings() {
    let f = fixture(TRUSTED);
    for name in ["a//b", "a/../c", "d"] {
        f.store.put_outside(name, b"").await;
    }
    let query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: 1 };
    let page = f.mount.list(&query).await.expect("lists");
    assert_eq!(page.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["d"]);
}

#[tokio::test]
async fn file_is_trusted_not_to_be_a_directory_for_as_long_as_it_is_trusted() {
    let f = fixture(TRUSTED);
    f.store.put_outside("d/a", b"x").await;
    f.stat("d/a").await.expect("there");
    f.clock.advance(Duration::from_secs(59));
    assert!(f.mount.try_stat(&key("d/a"), Want::Any).is_some());
    f.put("d/a/child", b"x").await;
    assert!(f.stat("d/a").await.expect("there").is_directory());
}

#[tokio::test]
async fn files_of_a_listing_need_no_further_look() {
    let f = fixture(TRUSTED);
    for name in ["d/a", "d/a-", "d/a/child", "d/b", "d/c"] {
        f.store.put_outside(name, b"").await;
    }
    let mut query = ListQuery { prefix: "d/".to_owned(), shallow: true, start_after: None, limit: 2 };
    f.mount.list(&query).await.expect("lists");
    assert!(f.mount.try_stat(&key("d/a"), Want::Any).is_none(), "the page ends before the directory");
    query.limit = 10;
    f.mount.list(&query).await.expect("lists");
    for (name, is_directory) in [("d/a", true), ("d/a-", false), ("d/b", false), ("d/c", false)] {
        let known = f.mount.try_stat(&key(name), Want::Any).expect("known").expect("there");
        assert_eq!(known.is_directory(), is_directory, "{name}");
    }
}

#[tokio::test]
async fn open_file_is_read_on_after_a_rename() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"content").await;
    let file = f.mount.open(&key("a"), Want::Any).await.expect("opens");
    f.mount.rename(&key("a"), &key("b"), RenameMode::Replace).await.expect("renames");
    let content = file.read(ByteRange::new(0, 7)).await.expect("reads").read().expect("in memory");
    assert_eq!(content.concat(), b"content");
    let file = f.mount.open(&key("b"), Want::Any).await.expect("opens");
    f.put("b", b"another").await;
    f.mount.delete(&key("b"), DeleteMode::File).await.expect("deletes");
    file.read(ByteRange::new(0, 7)).await.expect("it is cached");
}

#[tokio::test]
async fn files_read_in_the_order_of_their_directory_are_there_before_they_are_opened() {
    let fixture = fixture(TRUSTED);
    for number in 0..64 {
        fixture.store.put_outside(&format!("d/{number:02}"), b"some content").await;
    }
    let mut hits = 0;
    for number in 0..64 {
        let name = format!("d/{number:02}");
        let file = fixture.mount.open(&key(&name), Want::Any).await.expect("opens");
        let range = forebay_core::ByteRange::new(0, 12);
        // As long as a client takes for what it has read.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        hits += usize::from(file.try_read(range).is_some());
        file.read(range).await.expect("reads");
    }
    assert_eq!(fixture.store.calls("read"), 64, "each once");
    assert!(hits >= 48, "{hits}");
    let looks = fixture.store.calls("stat");
    assert!(looks <= 16, "{looks}: what was listed is known");
}
