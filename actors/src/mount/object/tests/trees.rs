use std::sync::atomic::Ordering;

use super::RenameMode::{NoReplace, Replace};
use super::*;

async fn rename(f: &Fixture, from: &str, to: &str, mode: RenameMode) -> Option<ErrorKind> {
    kind(f.mount.rename(&key(from), &key(to), mode).await)
}

#[tokio::test]
async fn mkdir_needs_a_parent_and_a_free_name() {
    let f = fixture(TRUSTED);
    f.put("file", b"x").await;
    let mkdir = async |name: &str, mode| kind(f.mount.mkdir(&key(name), mode).await);
    for (name, mode, expected) in [
        ("d", MkdirMode::New, None),
        ("d", MkdirMode::New, Some(ErrorKind::AlreadyExists)),
        ("d", MkdirMode::Parents, None),
        ("file", MkdirMode::New, Some(ErrorKind::AlreadyExists)),
        ("file", MkdirMode::Parents, Some(ErrorKind::AlreadyExists)),
        ("file/d", MkdirMode::New, Some(ErrorKind::NotDirectory)),
        ("file/d/e", MkdirMode::Parents, Some(ErrorKind::NotDirectory)),
        ("x/y", MkdirMode::New, Some(ErrorKind::NotFound)),
        ("x/y", MkdirMode::Parents, None),
        ("", MkdirMode::New, Some(ErrorKind::AlreadyExists)),
        ("", MkdirMode::Parents, None),
    ] {
        assert_eq!(mkdir(name, mode).await, expected, "{name} {mode:?}");
    }
    assert_eq!(f.names().await, ["d/", "file", "x/y/"]);
    let entry = f.stat("d").await.expect("there");
    assert_eq!((entry.attributes.mode, entry.size_bytes), (0o755, 0));
}

#[tokio::test]
async fn marker_is_written_for_a_directory_that_its_children_imply() {
    let f = fixture(TRUSTED);
    f.put("d/a", b"x").await;
    f.mount.mkdir(&key("d"), MkdirMode::Parents).await.expect("exists");
    assert_eq!(f.names().await, ["d/", "d/a"]);
    f.store.calls("put");
    f.mount.mkdir(&key("d"), MkdirMode::Parents).await.expect("exists");
    assert_eq!(f.store.calls("put"), 0);
}

#[tokio::test]
async fn deletion_keeps_the_parent_except_for_objects() {
    for (mode, left) in [
        (DeleteMode::Object, vec![]),
        (DeleteMode::File, vec!["p/".to_owned()]),
        (DeleteMode::Tree, vec!["p/".to_owned()]),
    ] {
        let f = fixture(TRUSTED);
        f.put("p/a", b"x").await;
        assert!(f.mount.delete(&key("p/a"), mode).await.expect("deletes"));
        assert_eq!(f.names().await, left, "{mode:?}");
        assert_eq!(f.stat("p").await.is_ok(), !left.is_empty(), "{mode:?}");
        assert!(!f.mount.delete(&key("p/a"), mode).await.expect("nothing to delete"), "{mode:?}");
    }
}

#[tokio::test]
async fn deletion_removes_only_what_its_mode_names() {
    let f = fixture(TRUSTED);
    f.put("d/full/a", b"x").await;
    f.put("file", b"x").await;
    f.mount.mkdir(&key("d/empty"), MkdirMode::New).await.expect("makes");
    let delete = async |name: &str, mode| f.mount.delete(&key(name), mode).await.map_err(|e| e.kind());
    assert_eq!(delete("d/full", DeleteMode::EmptyDirectory).await, Err(ErrorKind::NotEmpty));
    assert_eq!(delete("d/full", DeleteMode::File).await, Err(ErrorKind::IsDirectory));
    assert_eq!(delete("file", DeleteMode::EmptyDirectory).await, Err(ErrorKind::NotDirectory));
    assert_eq!(delete("none", DeleteMode::EmptyDirectory).await, Ok(false));
    assert_eq!(delete("d/full", DeleteMode::Object).await, Ok(false));
    assert_eq!(delete("d/empty", DeleteMode::EmptyDirectory).await, Ok(true));
    assert_eq!(delete("", DeleteMode::Tree).await, Err(ErrorKind::InvalidArgument));
    assert_eq!(f.names().await, ["d/full/a", "file"]);
    f.mount.mkdir(&key("d/full"), MkdirMode::Parents).await.expect("exists");
    assert_eq!(delete("d/full", DeleteMode::Marker).await, Ok(true));
    assert_eq!(f.names().await, ["d/full/a", "file"]);
}

#[tokio::test]
async fn tree_larger_than_a_page_goes_as_a_whole_and_nothing_beside_it() {
    let f = fixture(TRUSTED);
    for number in 0..2500 {
        f.store.put_outside(&format!("p/t/{:02}/{number}", number % 50), b"").await;
    }
    for name in ["p/t/", "p/t/00/", "p/t0", "p/t-"] {
        f.store.put_outside(name, b"").await;
    }
    assert!(f.stat("p/t/00").await.expect("there").is_directory());
    assert!(f.mount.delete(&key("p/t"), DeleteMode::Tree).await.expect("deletes"));
    assert_eq!(f.names().await, ["p/t-", "p/t0"]);
    assert_eq!(kind(f.stat("p/t/00").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn rename_follows_the_rules_of_posix() {
    let f = fixture(TRUSTED);
    for name in ["a", "b", "dir/x", "full/x"] {
        f.put(name, b"content").await;
    }
    f.mount.mkdir(&key("empty"), MkdirMode::New).await.expect("makes");
    for (from, to, mode, expected) in [
        ("none", "c", Replace, ErrorKind::NotFound),
        ("a", "none/c", Replace, ErrorKind::NotFound),
        ("a", "b/c", Replace, ErrorKind::NotDirectory),
        ("a", "b", NoReplace, ErrorKind::AlreadyExists),
        ("a", "dir", Replace, ErrorKind::IsDirectory),
        ("dir", "a", Replace, ErrorKind::NotDirectory),
        ("dir", "full", Replace, ErrorKind::NotEmpty),
        ("dir", "empty", NoReplace, ErrorKind::AlreadyExists),
        ("dir", "dir/sub", Replace, ErrorKind::InvalidArgument),
        ("", "c", Replace, ErrorKind::InvalidArgument),
    ] {
        assert_eq!(rename(&f, from, to, mode).await, Some(expected), "{from} to {to} {mode:?}");
    }
    assert_eq!(f.names().await, ["a", "b", "dir/x", "empty/", "full/x"]);
    for (from, to, mode) in [("a", "a", NoReplace), ("a", "b", Replace), ("dir", "empty", Replace)] {
        assert_eq!(rename(&f, from, to, mode).await, None, "{from} to {to} {mode:?}");
    }
    assert_eq!(f.names().await, ["b", "empty/", "empty/x", "full/x"]);
    assert_eq!(kind(f.stat("dir").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn renamed_file_is_the_same_file_and_its_successor_is_not() {
    let f = fixture(TRUSTED);
    f.put("p/log", b"").await;
    let id = f.id("p/log").await;
    assert_eq!(rename(&f, "p/log", "p/log.1", NoReplace).await, None);
    assert_eq!(f.id("p/log.1").await, id);
    f.clock.advance(Duration::from_secs(61));
    assert_eq!(f.id("p/log.1").await, id);
    f.put("p/log", b"").await;
    assert_ne!(f.id("p/log").await, id, "two files never share an identity");
    assert_eq!(rename(&f, "p/log.1", "q", Replace).await, None);
    assert_eq!(f.id("q").await, id);
}

#[tokio::test]
async fn renamed_directory_takes_everything_with_it() {
    let f = fixture(TRUSTED);
    for number in 0..1200 {
        f.store.put_outside(&format!("p/old/{number}"), b"x").await;
    }
    f.store.put_outside("p/old/sub/", b"").await;
    f.store.put_outside("p/older", b"").await;
    let (directory, file) = (f.id("p/old").await, f.id("p/old/7").await);
    let change = AttributeChange { mode: Some(0o700), ..AttributeChange::default() };
    for name in ["p/old", "p/old/sub", "p/old/7"] {
        f.mount.set_attributes(&key(name), change).await.expect("sets");
    }
    assert_eq!(rename(&f, "p/old", "new", NoReplace).await, None);
    assert_eq!((f.id("new").await, f.id("new/7").await), (directory, file));
    for name in ["new", "new/sub", "new/7"] {
        assert_eq!(f.stat(name).await.expect("there").attributes.mode, 0o700, "{name}");
    }
    assert_eq!(kind(f.stat("p/old").await), Some(ErrorKind::NotFound));
    assert!(f.stat("new/sub").await.expect("there").is_directory());
    assert_eq!(f.names().await.len(), 1202);
    f.store.put_outside("p/old/sub/x", b"").await;
    f.clock.advance(Duration::from_mins(2));
    assert_eq!(f.stat("p/old/sub").await.expect("there").attributes.mode, 0o755);
}

#[tokio::test]
async fn rename_that_fails_halfway_loses_nothing() {
    let f = fixture(TRUSTED);
    f.put("d/a", b"a").await;
    f.put("d/b", b"b").await;
    f.store.fail("copy", ErrorKind::Unavailable);
    assert_eq!(rename(&f, "d", "e", NoReplace).await, Some(ErrorKind::Unavailable));
    let names = f.names().await;
    assert!(names.contains(&"d/a".to_owned()) && names.contains(&"d/b".to_owned()), "{names:?}");
    f.store.fail("delete", ErrorKind::Unavailable);
    assert_eq!(rename(&f, "d/a", "c", NoReplace).await, Some(ErrorKind::Unavailable));
    assert_eq!((f.read("d/a").await, f.read("c").await), (b"a".to_vec(), b"a".to_vec()));
}

#[tokio::test]
async fn rename_streams_where_the_store_cannot_copy() {
    let f = fixture(TRUSTED);
    f.store.put_outside("d/a", b"content").await;
    f.store.put_outside("d/sub/", b"").await;
    f.store.cannot_copy.store(true, Ordering::Relaxed);
    let id = f.id("d/a").await;
    assert_eq!(rename(&f, "d", "e", NoReplace).await, None);
    assert_eq!((f.read("e/a").await, f.id("e/a").await), (b"content".to_vec(), id));
    assert_eq!(f.names().await, ["e/a", "e/sub/"]);
    let seen = f.mount.stat(&key("e/a"), Want::File).await.expect("there");
    assert_eq!(seen.headers.expect("kept").content_type.as_deref(), Some("text/outside"));
    let refused = f.mount.copy(&key("e/a"), &key("x"), None, Precondition::None).await;
    assert_eq!(kind(refused), Some(ErrorKind::Unsupported));
}

#[tokio::test]
async fn rename_keeps_what_was_written_to_the_old_name_meanwhile() {
    for (from, to) in [("d/a", "d/b"), ("d", "e")] {
        let f = fixture(TRUSTED);
        f.put("d/a", b"old").await;
        let gate = f.store.hold("copy");
        let write = async {
            gate.arrived().await;
            f.put("d/a", b"newer").await;
            gate.open();
        };
        let (refused, ()) = futures::future::join(rename(&f, from, to, Replace), write).await;
        assert_eq!(refused, None);
        assert_eq!(f.read("d/a").await, b"newer", "{from}");
    }
}
