use forebay_core::Attributes;

use super::RenameMode::{NoReplace, Replace};
use super::*;

const OWNER: (u32, u32) = (1000, 1001);

impl Fixture {
    async fn link(&self, name: &str, target: &[u8]) -> Result<Entry> {
        self.mount.symlink(&key(name), target, OWNER).await
    }

    async fn itself(&self, name: &str) -> Entry {
        self.mount.stat(&key(name), Want::Unfollowed).await.expect("there")
    }

    /// The target; `None` where no link is.
    async fn target(&self, name: &str) -> Option<Bytes> {
        let target = self.mount.read_link(&key(name)).await.ok();
        assert_eq!(target.is_some(), self.itself(name).await.kind == EntryKind::Link, "{name}");
        target
    }
}

#[tokio::test]
async fn link_is_shown_as_one_to_those_who_do_not_follow_and_as_a_file_with_its_target_to_others() {
    let f = fixture(TRUSTED);
    f.mount.mkdir(&key("d"), MkdirMode::New).await.expect("makes");
    let target = b"../\xff\n no/where";
    let made = f.link("d/link", target).await.expect("made");
    let found = f.itself("d/link").await;
    assert_eq!((made.file_id, made.kind), (found.file_id, EntryKind::Link));
    let Attributes { mode, uid, gid, .. } = found.attributes;
    assert_eq!((mode, (uid, gid), found.size_bytes), (0o777, OWNER, target.len() as u64));
    assert_eq!(f.target("d/link").await.as_deref(), Some(&target[..]));
    let file = f.stat("d/link").await.expect("there");
    assert_eq!((file.kind, file.attributes.mode), (EntryKind::File, 0o644));
    assert_ne!(file.file_id, found.file_id);
    assert_eq!(f.read("d/link").await, target);
    let query = ListQuery { prefix: "d/".into(), shallow: true, start_after: None, limit: 9 };
    let kind_of = |page: ListPage| page.items.last().map(|item| (item.entry.kind, item.entry.size_bytes));
    let followed = kind_of(f.mount.list(&query).await.expect("lists"));
    assert_eq!(followed, Some((EntryKind::File, target.len() as u64)));
    let unfollowed = kind_of(f.mount.list_unfollowed(&query).await.expect("lists"));
    assert_eq!(unfollowed, Some((EntryKind::Link, target.len() as u64)));
    let opened = f.mount.open(&key("d/link"), Want::Unfollowed).await;
    assert_eq!(kind(opened.map(drop)), Some(ErrorKind::Stale));
}

#[tokio::test]
async fn link_takes_a_free_name_in_a_directory_that_is_there() {
    let f = fixture(TRUSTED);
    f.put("file", b"x").await;
    f.put("d/x", b"x").await;
    f.link("link", b"x").await.expect("made");
    for name in ["file", "d", "link", ""] {
        assert_eq!(kind(f.link(name, b"y").await), Some(ErrorKind::AlreadyExists), "{name}");
    }
    assert_eq!(kind(f.link("no/link", b"x").await), Some(ErrorKind::NotFound));
    assert_eq!(kind(f.link("file/link", b"x").await), Some(ErrorKind::NotDirectory));
    assert_eq!(kind(f.link("long", &[b'x'; 4096]).await), Some(ErrorKind::NameTooLong));
    assert_eq!((f.target("link").await.as_deref(), f.target("file").await), (Some(&b"x"[..]), None));
}

#[tokio::test]
async fn whatever_replaces_the_object_is_a_file_also_with_the_same_content() {
    let f = fixture(Revalidate::Always);
    for (name, content) in [("same", &b"target"[..]), ("other", b"content")] {
        let made = f.link(name, b"target").await.expect("made");
        f.put(name, content).await;
        assert_eq!(f.target(name).await, None, "{name}");
        assert_ne!(f.itself(name).await.file_id, made.file_id, "{name}");
        assert_eq!(f.read(name).await, content);
    }
    f.put("source", b"target").await;
    f.link("copied", b"target").await.expect("made");
    f.mount.copy(&key("source"), &key("copied"), None, Precondition::None).await.expect("copies");
    assert_eq!(f.target("copied").await, None);
    f.link("outside", b"target").await.expect("made");
    f.store.put_outside("outside", b"content").await;
    assert_eq!(f.target("outside").await, None);
    assert!(f.mount.rename(&key("outside"), &key("moved"), Replace).await.is_ok());
    assert_eq!(f.target("moved").await, None, "a rename makes no link of it again");
    f.link("removed", b"target").await.expect("made");
    assert!(f.mount.delete(&key("removed"), DeleteMode::File).await.expect("removes"));
    f.put("removed", b"target").await;
    assert_eq!(f.target("removed").await, None);
}

#[tokio::test]
async fn link_is_renamed_alone_and_with_its_directory() {
    let f = fixture(TRUSTED);
    f.mount.mkdir(&key("d"), MkdirMode::New).await.expect("makes");
    f.put("file", b"x").await;
    let made = f.link("d/link", b"x").await.expect("made");
    f.mount.rename(&key("d/link"), &key("file"), Replace).await.expect("renamed");
    assert_eq!(
        (f.target("file").await.as_deref(), f.itself("file").await.file_id),
        (Some(&b"x"[..]), made.file_id)
    );
    f.put("new", b"new").await;
    f.mount.rename(&key("file"), &key("d/link"), NoReplace).await.expect("renamed");
    f.mount.rename(&key("d"), &key("e"), NoReplace).await.expect("renamed");
    assert_eq!(f.target("e/link").await.as_deref(), Some(&b"x"[..]));
    f.mount.rename(&key("new"), &key("e/link"), Replace).await.expect("renamed");
    assert_eq!((f.target("e/link").await, f.read("e/link").await), (None, b"new".to_vec()));
}

#[tokio::test]
async fn attributes_of_a_link_are_its_own() {
    let f = fixture(TRUSTED);
    f.link("link", b"x").await.expect("made");
    let dated = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let change = AttributeChange { uid: Some(7), modified: Some(dated), ..AttributeChange::default() };
    let changed = f.mount.set_link_attributes(&key("link"), change).await.expect("sets");
    assert_eq!((changed.kind, changed.attributes.uid, changed.modified), (EntryKind::Link, 7, dated));
    assert_eq!(f.target("link").await.as_deref(), Some(&b"x"[..]));
}
