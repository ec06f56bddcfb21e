use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[tokio::test]
async fn names_hold_any_byte_that_text_can() {
    let fixture = Fixture::new();
    let names: Vec<String> = (1u8..128)
        .filter(|byte| !b"/".contains(byte))
        .map(|byte| format!("n{}", char::from(byte)))
        .chain(["\u{80}", "é", "e\u{301}", "\u{10ffff}", "%2F", "a\\b", "..."].map(str::to_owned))
        .collect();
    for name in &names {
        fixture.write(name, name).await;
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(fixture.names("", true).await, sorted);
    for name in &names {
        assert_eq!(fixture.text(name).await, *name);
        assert!(fixture.delete(name, DeleteMode::Object).await.expect("removed"));
    }
    assert!(fixture.names("", false).await.is_empty());
}

#[tokio::test]
async fn names_that_are_not_text_are_left_out() {
    let fixture = Fixture::new();
    fixture.write("d/ok", "").await;
    fs::write(fixture.path("d").join(OsStr::from_bytes(b"bad\xff")), "").expect("written");
    assert_eq!(fixture.names("", false).await, ["d/ok"]);
    let answer = fixture.delete("d/ok", DeleteMode::Object).await;
    assert!(answer.expect("removed") && fixture.is_there("d"), "what is not shown is not pruned either");
}

#[tokio::test]
async fn the_own_directory_is_refused_as_a_name() {
    let fixture = Fixture::new();
    for name in [".forebay", ".forebay/writes", ".forebay/lock"] {
        let refused = Some(ErrorKind::InvalidName);
        assert_eq!(kind(fixture.stat(name).await), refused);
        assert_eq!(kind(fixture.mount.open(&key(name), Want::Any).await), refused);
        assert_eq!(kind(fixture.mount.stage(Target::Replace(key(name))).await), refused);
        assert_eq!(kind(fixture.mount.stage(Target::Modify(key(name))).await), refused);
        assert_eq!(kind(fixture.delete(name, DeleteMode::Tree).await), refused);
        assert_eq!(kind(fixture.mount.mkdir(&key(name), MkdirMode::Parents).await), refused);
        assert_eq!(kind(fixture.mount.rename(&key(name), &key("x"), RenameMode::Replace).await), refused);
        assert_eq!(kind(fixture.mount.rename(&key("x"), &key(name), RenameMode::Replace).await), refused);
        assert_eq!(kind(fixture.mount.create_upload(&key(name), Headers::default()).await), refused);
    }
    fixture.write(".forebay2", "").await;
    fixture.write("d/.forebay/f", "").await;
    assert_eq!(fixture.names("", false).await, [".forebay2", "d/.forebay/f"]);
}

#[tokio::test]
async fn overlong_names_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let name = format!("a/b/{}", "x".repeat(256));
    assert_eq!(kind(fixture.put(&name, "", Publish::default()).await), Some(ErrorKind::NameTooLong));
    assert_eq!(kind(fixture.stat(&name).await), Some(ErrorKind::NameTooLong));
    assert!(!fixture.is_there("a"));
    let deep = vec!["d"; 2000].join("/");
    fixture.write(&deep, "deep").await;
    assert_eq!(fixture.names("", false).await, [deep.as_str()]);
    assert!(fixture.delete(&deep, DeleteMode::Object).await.expect("removed"));
    assert!(!fixture.is_there("d"));
}
