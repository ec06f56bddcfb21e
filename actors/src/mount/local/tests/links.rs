use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use forebay_core::{AttributeChange, EntryKind};

use super::*;

impl Fixture {
    async fn link(&self, name: &str, target: &[u8]) -> Result<Entry> {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        self.mount.symlink(&key(name), target, owner).await
    }

    async fn itself(&self, name: &str) -> Result<Entry> {
        self.mount.stat(&key(name), Want::Unfollowed).await
    }

    async fn target(&self, name: &str) -> Result<Bytes> {
        self.mount.read_link(&key(name)).await
    }
}

#[tokio::test]
async fn link_is_looked_up_listed_and_read_as_what_it_is_wherever_it_leads() {
    let fixture = Fixture::new();
    fixture.write("d/f", "text").await;
    let targets: [(&str, &[u8]); 5] = [
        ("absolute", b"/etc/passwd"),
        ("bytes", b"\xff\n "),
        ("dangling", b"no/where"),
        ("itself", b"itself"),
        ("outside", b"../../x"),
    ];
    for (name, target) in targets {
        let made = fixture.link(name, target).await.expect("made");
        let found = fixture.itself(name).await.expect("there");
        assert!(same(&made, &found), "{name}");
        assert_eq!((found.kind, found.size_bytes), (EntryKind::Link, target.len() as u64), "{name}");
        assert_eq!(fixture.target(name).await.expect("read"), target, "{name}");
        let opened = fixture.mount.open(&key(name), Want::Unfollowed).await;
        assert_eq!(kind(opened), Some(ErrorKind::Stale), "{name}");
        assert!(fixture.stat(name).await.is_err(), "{name} leads nowhere in the mount");
    }
    fixture.link("to-directory", b"d").await.expect("made");
    let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 9 };
    let page = fixture.mount.list_unfollowed(&query).await.expect("lists");
    let listed: Vec<_> = page.items.into_iter().map(|item| (item.name, item.entry.kind)).collect();
    let links = ["absolute", "bytes", "dangling", "itself", "outside", "to-directory"];
    let mut expected: Vec<_> = links.map(|name| (name.to_owned(), EntryKind::Link)).to_vec();
    expected.insert(2, ("d/".to_owned(), EntryKind::Directory));
    assert_eq!(listed, expected);
    assert_eq!(fixture.names("", true).await, ["d/", "to-directory/"], "others see what is followed");
}

#[tokio::test]
async fn link_takes_a_free_name_in_a_directory_that_is_there() {
    let fixture = Fixture::new();
    fixture.write("f", "").await;
    fixture.link("link", b"nowhere").await.expect("made");
    for name in ["f", "link"] {
        assert_eq!(kind(fixture.link(name, b"x").await), Some(ErrorKind::AlreadyExists), "{name}");
    }
    assert_eq!(kind(fixture.link("no/link", b"x").await), Some(ErrorKind::NotFound));
    assert_eq!(kind(fixture.link("f/link", b"x").await), Some(ErrorKind::NotDirectory));
    assert_eq!(kind(fixture.link(".forebay/link", b"x").await), Some(ErrorKind::InvalidName));
    assert_eq!(kind(fixture.target("f").await), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(fixture.target("x").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn rename_removal_and_replacement_act_on_the_link() {
    let fixture = Fixture::new();
    fixture.write("d/f", "kept").await;
    for (name, target) in [("a", "d"), ("b", "nowhere"), ("c", "d"), ("e", "d/f"), ("g", "d/f")] {
        symlink(target, fixture.path(name)).expect("linked");
    }
    fixture.mount.rename(&key("a"), &key("b"), RenameMode::Replace).await.expect("renamed");
    assert_eq!(fixture.target("b").await.expect("read"), "d");
    assert!(!fixture.is_there("a"));
    assert!(fixture.delete("b", DeleteMode::File).await.expect("removed"));
    assert!(fixture.delete("c", DeleteMode::Tree).await.expect("removed"));
    assert!(fixture.delete("e", DeleteMode::Object).await.expect("removed"));
    fixture.write("g", "file").await;
    assert_eq!(fixture.itself("g").await.expect("there").kind, EntryKind::File);
    assert_eq!(fixture.text("d/f").await, "kept");
    assert_eq!(fixture.names("", false).await, ["d/f", "g"]);
    symlink("nowhere", fixture.path("h")).expect("linked");
    assert_eq!(kind(fixture.delete("h", DeleteMode::EmptyDirectory).await), Some(ErrorKind::NotDirectory));
    assert!(fixture.delete("h", DeleteMode::File).await.expect("removed"));
}

#[tokio::test]
async fn attributes_of_a_link_are_its_own() {
    let fixture = Fixture::new();
    fixture.write("f", "").await;
    fixture.link("link", b"f").await.expect("made");
    let before = fixture.stat("f").await.expect("there");
    let dated = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let uid = fs::symlink_metadata(fixture.path("link")).expect("there").uid();
    let change = AttributeChange { uid: Some(uid), modified: Some(dated), ..AttributeChange::default() };
    let changed = fixture.mount.set_link_attributes(&key("link"), change).await.expect("set");
    assert_eq!((changed.kind, changed.modified), (EntryKind::Link, dated));
    assert!(same(&before, &fixture.stat("f").await.expect("there")));
}
