use std::fs;

use super::*;

#[tokio::test]
async fn an_object_takes_its_implicit_parents_along() {
    let fixture = Fixture::new();
    fixture.mkdir("kept").await;
    fixture.write("kept/a/b/f", "").await;
    fixture.write("kept/a/g", "").await;
    assert!(fixture.delete("kept/a/b/f", DeleteMode::Object).await.expect("removed"));
    assert_eq!(fixture.names("", false).await, ["kept/a/g"]);
    assert!(!fixture.is_there("kept/a/b"));
    assert!(fixture.delete("kept/a/g", DeleteMode::Object).await.expect("removed"));
    assert_eq!(fixture.names("", false).await, ["kept/"]);
    assert!(!fixture.delete("kept/a/g", DeleteMode::Object).await.expect("nothing there"));
    assert!(!fixture.delete("kept", DeleteMode::Object).await.expect("not an object"));
}

#[tokio::test]
async fn any_other_delete_leaves_the_parent_a_directory() {
    let fixture = Fixture::new();
    fixture.write("a/b/f", "").await;
    assert!(fixture.delete("a/b/f", DeleteMode::File).await.expect("removed"));
    fixture.write("a/b/g", "").await;
    assert!(fixture.delete("a/b/g", DeleteMode::Object).await.expect("removed"));
    assert_eq!(fixture.names("", false).await, ["a/b/"], "the file delete made it explicit");
    assert!(fixture.delete("a/b", DeleteMode::EmptyDirectory).await.expect("removed"));
    assert_eq!(fixture.names("", false).await, ["a/"]);
}

#[tokio::test]
async fn an_explicit_mkdir_makes_an_implicit_directory_stay() {
    let fixture = Fixture::new();
    fixture.write("a/f", "").await;
    fixture.mkdir("a").await;
    assert!(fixture.delete("a/f", DeleteMode::Object).await.expect("removed"));
    assert_eq!(fixture.names("", false).await, ["a/"]);
}

#[tokio::test]
async fn markers_come_and_go_as_on_an_object_store() {
    let fixture = Fixture::new();
    fixture.mkdir("a/b").await;
    assert_eq!(fixture.names("", false).await, ["a/b/"]);
    assert_eq!(fixture.names("a/b/", true).await, ["a/b/"]);
    fixture.write("a/b/f", "").await;
    assert!(fixture.delete("a/b", DeleteMode::Marker).await.expect("children do not hinder"));
    assert!(!fixture.delete("a/b", DeleteMode::Marker).await.expect("implicit by now"));
    assert!(fixture.delete("a/b/f", DeleteMode::Object).await.expect("removed"));
    assert!(fixture.names("", false).await.is_empty());
    fixture.mkdir("a/b").await;
    assert!(fixture.delete("a/b", DeleteMode::Marker).await.expect("removed"));
    assert!(!fixture.is_there("a"));
    fixture.write("f", "").await;
    assert!(!fixture.delete("f", DeleteMode::Marker).await.expect("a file is no marker"));
}

#[tokio::test]
async fn deletes_refuse_what_is_of_another_kind() {
    let fixture = Fixture::new();
    fixture.write("d/f", "").await;
    assert_eq!(kind(fixture.delete("d", DeleteMode::File).await), Some(ErrorKind::IsDirectory));
    assert_eq!(kind(fixture.delete("d", DeleteMode::EmptyDirectory).await), Some(ErrorKind::NotEmpty));
    assert_eq!(kind(fixture.delete("d/f", DeleteMode::EmptyDirectory).await), Some(ErrorKind::NotDirectory));
    assert_eq!(kind(fixture.delete("d/f/x", DeleteMode::File).await), Some(ErrorKind::NotDirectory));
    for mode in [DeleteMode::File, DeleteMode::EmptyDirectory, DeleteMode::Tree, DeleteMode::Marker] {
        assert!(!fixture.delete("x/y", mode).await.expect("nothing there"));
    }
}

#[tokio::test]
async fn a_tree_goes_at_once_and_links_in_it_are_not_followed() {
    let fixture = Fixture::new();
    fixture.write("other/f", "kept").await;
    for i in 0..50 {
        fixture.write(&format!("p/t/{}/{i}", i % 5), "").await;
    }
    std::os::unix::fs::symlink("../../other", fixture.path("p/t/link")).expect("linked");
    std::os::unix::fs::symlink("other", fixture.path("p2")).expect("linked");
    assert!(fixture.delete("p/t", DeleteMode::Tree).await.expect("removed"));
    assert!(fixture.delete("p2", DeleteMode::Tree).await.expect("removed"));
    assert_eq!(fixture.names("", false).await, ["other/f", "p/"]);
    assert_eq!(fs::read_dir(fixture.path(".forebay/doomed")).expect("readable").count(), 0);
}

#[tokio::test]
async fn leftovers_of_a_crash_go_at_the_next_start() {
    let fixture = Fixture::new();
    let Fixture { directory, mount } = fixture;
    drop(mount);
    for name in ["doomed/tree/x", "writes/abandoned"] {
        let path = directory.path().join(".forebay").join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("made");
        fs::write(&path, "").expect("written");
    }
    let _mount = open(directory.path(), false).expect("opens");
    for name in ["doomed", "writes"] {
        assert_eq!(fs::read_dir(directory.path().join(".forebay").join(name)).expect("readable").count(), 0);
    }
}

#[tokio::test]
async fn renames_follow_posix() {
    use RenameMode::{NoReplace, Replace};
    let fixture = Fixture::new();
    let file = fixture.write("f", "1").await;
    fixture.write("g", "2").await;
    fixture.write("d/x", "").await;
    fixture.mkdir("e").await;
    let rename =
        async |from: &str, to: &str, mode| kind(fixture.mount.rename(&key(from), &key(to), mode).await);
    assert_eq!(rename("f", "g", NoReplace).await, Some(ErrorKind::AlreadyExists));
    assert_eq!(rename("x", "y", Replace).await, Some(ErrorKind::NotFound));
    assert_eq!(rename("f", "no/y", Replace).await, Some(ErrorKind::NotFound));
    assert_eq!(rename("f", "g/y", Replace).await, Some(ErrorKind::NotDirectory));
    assert_eq!(rename("f", "d", Replace).await, Some(ErrorKind::IsDirectory));
    assert_eq!(rename("d", "f", Replace).await, Some(ErrorKind::NotDirectory));
    assert_eq!(rename("e", "d", Replace).await, Some(ErrorKind::NotEmpty));
    assert_eq!(rename("d", "d/x/y", Replace).await, Some(ErrorKind::InvalidArgument));
    assert_eq!(rename("d", "d", NoReplace).await, None);
    assert_eq!(rename("no", "no", Replace).await, Some(ErrorKind::NotFound));
    assert_eq!(rename("d", "e", Replace).await, None);
    assert_eq!(rename("f", "g", Replace).await, None);
    assert_eq!(fixture.names("", false).await, ["e/x", "g"]);
    assert_eq!(fixture.stat("g").await.expect("there").file_id, file.file_id);
}

#[tokio::test]
async fn mkdir_follows_its_mode() {
    let fixture = Fixture::new();
    fixture.write("f", "").await;
    let mkdir = async |name: &str, mode| kind(fixture.mount.mkdir(&key(name), mode).await);
    assert_eq!(mkdir("a/b", MkdirMode::New).await, Some(ErrorKind::NotFound));
    assert_eq!(mkdir("a", MkdirMode::New).await, None);
    assert_eq!(mkdir("a", MkdirMode::New).await, Some(ErrorKind::AlreadyExists));
    assert_eq!(mkdir("a/b/c", MkdirMode::Parents).await, None);
    assert_eq!(mkdir("a/b/c", MkdirMode::Parents).await, None);
    for mode in [MkdirMode::New, MkdirMode::Parents] {
        assert_eq!(mkdir("f", mode).await, Some(ErrorKind::AlreadyExists));
        assert_eq!(mkdir("f/x", mode).await, Some(ErrorKind::NotDirectory));
    }
}
