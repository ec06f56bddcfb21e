use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn publish_answers_what_stat_and_listings_show() {
    let f = fixture(Revalidate::Always);
    let entry = f.put("a", b"content").await;
    let seen = f.stat("a").await.expect("there");
    assert_eq!((seen.file_id, seen.etag, seen.modified), (entry.file_id, entry.etag, entry.modified));
    assert_eq!(f.read("a").await, b"content");
}

#[tokio::test]
async fn conditions_of_the_caller_decide() {
    let f = fixture(TRUSTED);
    let first = f.try_put("a", b"one", Precondition::Absent).await.expect("there is none yet");
    let refused = f.try_put("a", b"two", Precondition::Absent).await;
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed));
    let refused = f.try_put("a", b"two", Precondition::Matches(ETag::new("other"))).await;
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed));
    assert_eq!(f.read("a").await, b"one");
    f.try_put("a", b"three", Precondition::Matches(first.etag)).await.expect("it matches");
    assert_eq!(f.read("a").await, b"three");
}

#[tokio::test]
async fn change_in_place_keeps_identity_and_headers() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"hello world").await;
    let before = f.stat("a").await.expect("there");
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(6, Bytes::from_static(b"there")).await.expect("writes");
    let after = staged.publish(Publish::default()).await.expect("publishes");
    assert_eq!(after.file_id, before.file_id);
    assert_ne!(after.version, before.version);
    f.clock.advance(Duration::from_secs(61));
    let seen = f.mount.stat(&key("a"), Want::File).await.expect("there");
    assert_eq!(seen.file_id, before.file_id);
    assert_eq!(seen.headers.expect("kept").content_type.as_deref(), Some("text/outside"));
    assert_eq!(f.read("a").await, b"hello there");
    assert_ne!(f.put("a", b"whole").await.file_id, before.file_id, "a whole replacement is another file");
}

#[tokio::test]
async fn only_changed_content_is_uploaded() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"hello").await;
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    let unchanged = staged.publish(Publish::default()).await.expect("nothing to do");
    assert_eq!((f.store.calls("put"), unchanged.size_bytes), (0, 5));
    staged.write_at(0, Bytes::from_static(b"J")).await.expect("writes");
    for _ in 0..3 {
        staged.publish(Publish::default()).await.expect("publishes");
    }
    assert_eq!(f.store.calls("put"), 1);
    staged.file().file().write_all_at(b"Y", 0).expect("passes through");
    let last = staged.publish(Publish::default()).await.expect("publishes");
    assert_eq!((f.store.calls("put"), last.file_id), (1, unchanged.file_id));
    assert_eq!(f.read("a").await, b"Yello");
}

#[tokio::test]
async fn new_file_can_be_published_again_and_again() {
    let f = fixture(TRUSTED);
    let staged = f.mount.stage(Target::Modify(key("new"))).await.expect("begins empty");
    let empty = staged.publish(Publish { mode: Some(0o600), ..Publish::default() }).await.expect("creates");
    assert_eq!((empty.size_bytes, empty.attributes.mode), (0, 0o600));
    staged.write_at(0, Bytes::from_static(b"log")).await.expect("writes");
    let grown = staged.publish(Publish::default()).await.expect("publishes");
    assert_eq!((grown.size_bytes, grown.file_id, grown.attributes.mode), (3, empty.file_id, 0o600));
}

#[tokio::test]
async fn change_that_lost_a_race_is_refused_and_the_other_stays() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"base").await;
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"mine")).await.expect("writes");
    f.store.put_outside("a", b"theirs").await;
    assert_eq!(kind(staged.publish(Publish::default()).await), Some(ErrorKind::PreconditionFailed));
    assert_eq!(f.read("a").await, b"theirs");
    let created = f.mount.stage(Target::Modify(key("new"))).await.expect("stages");
    f.store.put_outside("new", b"theirs").await;
    assert_eq!(kind(created.publish(Publish::default()).await), Some(ErrorKind::PreconditionFailed));
}

#[tokio::test]
async fn unpublished_write_leaves_nothing() {
    let f = fixture(TRUSTED);
    let staged = f.mount.stage(Target::Replace(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"x")).await.expect("writes");
    let refused = staged.write_at(0, Bytes::from(vec![0; 2 << 20])).await;
    assert_eq!(kind(refused), Some(ErrorKind::NoSpace));
    drop(staged);
    assert_eq!(kind(f.stat("a").await), Some(ErrorKind::NotFound));
    let left = std::fs::read_dir(f.directory.path().join("writes")).expect("readable").count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn upload_survives_a_restart_and_becomes_its_parts_in_order() {
    let Fixture { store, mount, clock, directory } = fixture(TRUSTED);
    let headers = Headers { content_type: Some("a/b".to_owned()), ..Headers::default() };
    let upload = mount.create_upload(&key("big"), headers.clone()).await.expect("creates");
    for (number, content) in [(2, "world"), (1, "hello ")] {
        let checksum = Some(("CRC32".to_owned(), "x".to_owned()));
        let target = Target::Part { key: key("big"), upload: upload.clone(), number, checksum };
        let part = mount.stage(target).await.expect("stages");
        part.write_at(0, Bytes::from(content)).await.expect("writes");
        part.publish(Publish::default()).await.expect("publishes");
    }
    drop(mount);
    let mount = mount_over(&store, &clock, &directory, (TRUSTED, &MEMORY_ONLY));
    let f = Fixture { store, mount, clock, directory };
    let found = f.mount.uploads("b").await.expect("lists");
    assert_eq!((found.len(), &found[0].upload, &found[0].headers), (1, &upload, &headers));
    assert!(f.mount.parts(&key("big"), &upload).await.expect("parts")[0].checksum.is_some());
    let missing = f.mount.complete_upload(&key("big"), &upload, &[1, 3], Precondition::None).await;
    assert_eq!(kind(missing), Some(ErrorKind::InvalidPart));
    f.store.put_outside("big", b"other").await;
    let refused = f.mount.complete_upload(&key("big"), &upload, &[1, 2], Precondition::Absent).await;
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed), "and the upload stays");
    let entry = f.mount.complete_upload(&key("big"), &upload, &[1, 2], Precondition::None).await;
    let entry = entry.expect("completes");
    assert_eq!(f.read("big").await, b"hello world");
    let seen = f.mount.stat(&key("big"), Want::File).await.expect("there");
    assert_eq!((seen.etag, seen.headers.as_deref()), (entry.etag, Some(&headers)));
    let gone = f.mount.parts(&key("big"), &upload).await;
    assert_eq!(kind(gone), Some(ErrorKind::NoSuchUpload));
}

#[tokio::test]
async fn copy_takes_or_replaces_headers() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"x").await;
    let plain = f.mount.copy(&key("a"), &key("b"), None, Precondition::None).await.expect("copies");
    assert_eq!(plain.headers.expect("copied").content_type.as_deref(), Some("text/outside"));
    let other = Headers { content_type: Some("other/type".to_owned()), ..Headers::default() };
    let replaced = f.mount.copy(&key("a"), &key("a"), Some(other), Precondition::None).await.expect("copies");
    assert_eq!(replaced.headers.expect("given").content_type.as_deref(), Some("other/type"));
    assert_eq!(
        kind(f.mount.copy(&key("x"), &key("y"), None, Precondition::None).await),
        Some(ErrorKind::NotFound)
    );
    let refused = f.mount.copy(&key("a"), &key("b"), None, Precondition::Absent).await;
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed));
}

#[tokio::test]
async fn attributes_and_xattrs_follow_their_file() {
    let f = fixture(TRUSTED);
    f.put("a", b"x").await;
    assert_eq!(f.stat("a").await.expect("there").attributes.mode, 0o644);
    let modified = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let change =
        AttributeChange { mode: Some(0o755), modified: Some(modified), ..AttributeChange::default() };
    f.mount.set_attributes(&key("a"), change).await.expect("sets");
    let set = |value: &'static [u8], mode| {
        f.mount.set_xattr(&KEY_B, "user.x", Some(Bytes::from_static(value)), mode)
    };
    f.mount.rename(&key("a"), &KEY_B, RenameMode::Replace).await.expect("renames");
    let seen = f.stat("b").await.expect("there");
    assert_eq!((seen.attributes.mode, seen.modified), (0o755, modified));
    assert_eq!(kind(set(b"1", XattrMode::Replace).await), Some(ErrorKind::NotFound));
    set(b"1", XattrMode::Create).await.expect("sets");
    assert_eq!(kind(set(b"2", XattrMode::Create).await), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(set(&[0; 5000], XattrMode::Any).await), Some(ErrorKind::NoSpace));
    assert_eq!(
        f.mount.xattrs(&KEY_B).await.expect("there"),
        [("user.x".to_owned(), Bytes::from_static(b"1"))]
    );
    f.mount.delete(&KEY_B, DeleteMode::File).await.expect("deletes");
    assert_eq!(kind(f.mount.set_attributes(&KEY_B, change).await), Some(ErrorKind::NotFound));
    f.put("b", b"x").await;
    assert_eq!(f.stat("b").await.expect("there").attributes.mode, 0o644);
}

static KEY_B: std::sync::LazyLock<Key> = std::sync::LazyLock::new(|| key("b"));

#[tokio::test]
async fn write_whose_answer_was_lost_does_not_conflict_with_itself() {
    let f = fixture(TRUSTED);
    f.store.put_outside("a", b"base").await;
    let id = f.id("a").await;
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"once")).await.expect("writes");
    f.store.lose("put", ErrorKind::Timeout);
    assert_eq!(kind(staged.publish(Publish::default()).await), Some(ErrorKind::Timeout));
    staged.write_at(4, Bytes::from_static(b" more")).await.expect("writes");
    let entry = staged.publish(Publish::default()).await.expect("it was our own");
    assert_eq!((f.read("a").await, entry.file_id), (b"once more".to_vec(), id));
    staged.write_at(0, Bytes::from_static(b"O")).await.expect("writes");
    f.store.lose("put", ErrorKind::Timeout);
    assert_eq!(kind(staged.publish(Publish::default()).await), Some(ErrorKind::Timeout));
    f.store.put_outside("a", b"theirs").await;
    assert_eq!(kind(staged.publish(Publish::default()).await), Some(ErrorKind::PreconditionFailed));
}

#[tokio::test]
async fn rename_goes_on_when_its_caller_goes_away() {
    let f = fixture(TRUSTED);
    f.put("a", b"x").await;
    let gate = f.store.hold("copy");
    let caller = {
        let mount = Arc::clone(&f.mount);
        tokio::spawn(async move { mount.rename(&key("a"), &key("b"), RenameMode::Replace).await })
    };
    gate.arrived().await;
    caller.abort();
    assert!(caller.await.expect_err("aborted").is_cancelled());
    let done = f.store.hold("delete");
    gate.open();
    done.arrived().await;
    assert_eq!(f.names().await, ["b"]);
    done.open();
}

#[tokio::test]
async fn published_file_of_some_size_is_cached_without_a_fetch() {
    let f = fixture(TRUSTED);
    let cache_directory = TempDir::new().expect("a temporary directory");
    let nvme = NvmeConfig::in_one(cache_directory.path().to_owned(), 64 << 20, 0);
    let cache = CacheConfig { memory_bytes: 32 << 20, nvme: Some(nvme), high_percent: 95, low_percent: 90 };
    drop(f.mount);
    let mount = mount_over(&f.store, &f.clock, &f.directory, (TRUSTED, &cache));
    let staged = mount.stage(Target::Replace(key("big"))).await.expect("stages");
    staged.truncate(1 << 20).await.expect("extends");
    staged.publish(Publish::default()).await.expect("publishes");
    drop(staged);
    let file = mount.open(&key("big"), Want::File).await.expect("opens");
    let lent = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Some(lent) = file.lend() {
                return lent;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(lent.await.expect("adopted in time").range().len, 1 << 20);
    assert_eq!(f.store.calls("read"), 0);
    assert_eq!(std::fs::read_dir(f.directory.path().join("writes")).expect("readable").count(), 0);
}

#[tokio::test]
async fn store_that_checks_no_conditions_is_written_without_our_own() {
    let f = fixture(TRUSTED);
    f.store.ignores_conditions.store(true, Ordering::Relaxed);
    f.put("a", b"one").await;
    let staged = f.mount.stage(Target::Modify(key("a"))).await.expect("stages");
    staged.write_at(0, Bytes::from_static(b"two")).await.expect("writes");
    staged.publish(Publish::default()).await.expect("publishes");
    f.mount.mkdir(&key("d"), MkdirMode::New).await.expect("makes");
    f.mount.rename(&key("a"), &key("d/a"), RenameMode::NoReplace).await.expect("renames");
    assert_eq!(f.read("d/a").await, b"two");
    let asked = f.try_put("d/a", b"three", Precondition::Absent).await;
    assert_eq!(kind(asked), Some(ErrorKind::Unsupported), "what a caller asked for is never left out");
}
