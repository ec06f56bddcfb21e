use std::fs;
use std::os::unix::fs::MetadataExt;

use forebay_core::ETag;

use super::*;

fn when(condition: Precondition) -> Publish {
    Publish { condition, ..Publish::default() }
}

#[tokio::test]
async fn nothing_is_visible_before_publication_and_dropping_discards() {
    let fixture = Fixture::new();
    let staged = fixture.mount.stage(Target::Replace(key("a/f"))).await.expect("staged");
    staged.write_at(0, Bytes::from_static(b"x")).await.expect("written");
    assert!(fixture.names("", true).await.is_empty());
    drop(staged);
    assert!(fixture.names("", true).await.is_empty());
    assert_eq!(fs::read_dir(fixture.path(".forebay/writes")).expect("readable").count(), 0);
    assert_eq!(fixture.mount.staging().expect("writable").used_bytes(), 0);
}

#[tokio::test]
async fn a_durable_publication_makes_parents_and_keeps_mode_and_owner() {
    let fixture = Fixture::new();
    let publish =
        Publish { mode: Some(0o640), owner: Some((12, 34)), is_durable: true, ..Publish::default() };
    let entry = fixture.put("a/b/f", "x", publish).await.expect("published");
    let metadata = fs::metadata(fixture.path("a/b/f")).expect("there");
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 12, 34));
    assert_eq!((entry.attributes.mode, entry.attributes.uid), (0o640, 12));
    assert_eq!(fixture.write("g", "").await.attributes.mode, 0o644);
    assert_eq!(fixture.mount.staging().expect("writable").used_bytes(), 0);
}

#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let fixture = Fixture::new();
    fixture.write("d/f", "").await;
    for condition in [Precondition::None, Precondition::Absent, Precondition::Matches(ETag::new("x"))] {
        assert_eq!(kind(fixture.put("d", "", when(condition.clone())).await), Some(ErrorKind::IsDirectory));
        assert_eq!(kind(fixture.put("d/f/g", "", when(condition)).await), Some(ErrorKind::NotDirectory));
    }
    assert_eq!(kind(fixture.mount.stage(Target::Modify(key("d"))).await), Some(ErrorKind::IsDirectory));
    assert_eq!(kind(fixture.mount.stage(Target::Modify(key("d/f/g"))).await), Some(ErrorKind::NotDirectory));
}

#[tokio::test]
async fn conditions_hold_or_nothing_changes() {
    let fixture = Fixture::new();
    let failed = Some(ErrorKind::PreconditionFailed);
    let other = Precondition::Matches(ETag::new("other"));
    assert_eq!(kind(fixture.put("a/f", "1", when(other.clone())).await), failed);
    assert!(!fixture.is_there("a"), "a refused write leaves no parents");
    let first = fixture.put("a/f", "1", when(Precondition::Absent)).await.expect("published");
    assert_eq!(kind(fixture.put("a/f", "2", when(Precondition::Absent)).await), failed);
    assert_eq!(kind(fixture.put("a/f", "2", when(other)).await), failed);
    assert_eq!(fixture.text("a/f").await, "1");
    let matching = when(Precondition::Matches(first.etag));
    fixture.put("a/f", "2", matching.clone()).await.expect("published");
    assert_eq!(kind(fixture.put("a/f", "3", matching).await), failed);
    assert_eq!(fixture.text("a/f").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_conditional_writers_wins() {
    let fixture = Arc::new(Fixture::new());
    let base = fixture.write("g", "base").await;
    for (name, condition) in [("new/f", Precondition::Absent), ("g", Precondition::Matches(base.etag))] {
        let writers: Vec<_> = (0..16)
            .map(|i| {
                let (fixture, publish) = (Arc::clone(&fixture), when(condition.clone()));
                tokio::spawn(async move { fixture.put(name, &format!("{i}"), publish).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (i, writer) in writers.into_iter().enumerate() {
            match writer.await.expect("no panic") {
                Ok(_) => winners.push(i),
                Err(e) => assert_eq!(e.kind(), ErrorKind::PreconditionFailed),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(fixture.text(name).await, format!("{}", winners[0]));
    }
}

#[tokio::test]
async fn a_published_replacement_goes_on_in_place() {
    let fixture = Fixture::new();
    let staged = fixture.mount.stage(Target::Replace(key("f"))).await.expect("staged");
    staged.write_at(0, Bytes::from_static(b"12345")).await.expect("written");
    let first = staged.publish(when(Precondition::Absent)).await.expect("published");
    assert!(same(&first, &staged.publish(Publish::default()).await.expect("published")));
    staged.write_at(5, Bytes::from(vec![b'6'; 300 << 10])).await.expect("written");
    staged.truncate(6).await.expect("cut");
    let second = staged.publish(Publish { is_durable: true, ..Publish::default() }).await.expect("published");
    assert_eq!((second.file_id, second.size_bytes), (first.file_id, 6));
    assert_eq!(fixture.text("f").await, "123456");
    drop(staged);
    assert_eq!(fixture.mount.staging().expect("writable").used_bytes(), 0);
}

#[tokio::test]
async fn a_modification_is_the_file_itself() {
    let fixture = Fixture::new();
    let staged = fixture.mount.stage(Target::Modify(key("a/f"))).await.expect("staged");
    assert_eq!(fixture.stat("a/f").await.expect("made").size_bytes, 0);
    staged.write_at(3, Bytes::from_static(b"x")).await.expect("written");
    assert_eq!(fixture.text("a/f").await, "\0\0\0x");
    std::os::unix::fs::FileExt::write_at(&**staged.file().file(), b"abc", 0).expect("lent for writing");
    let publish = Publish { mode: Some(0o600), condition: Precondition::Absent, ..Publish::default() };
    let entry = staged.publish(publish).await.expect("published");
    assert_eq!((entry.attributes.mode, staged.size_bytes().expect("known")), (0o600, 4));
    assert_eq!(fixture.text("a/f").await, "abcx");
    let staged = fixture.mount.stage(Target::Modify(key("a/f"))).await.expect("staged");
    let absent = staged.publish(when(Precondition::Absent)).await;
    assert_eq!(kind(absent), Some(ErrorKind::PreconditionFailed));
    let publish = Publish { mode: Some(0o777), ..when(Precondition::Matches(entry.etag)) };
    let kept = staged.publish(publish).await.expect("published");
    assert_eq!((kept.file_id, kept.attributes.mode), (entry.file_id, 0o600), "mode is for new files");
}

#[tokio::test]
async fn uploads_survive_a_restart_and_answer_the_tag_of_stat() {
    let fixture = Fixture::new();
    let headers = Headers { content_type: Some("text/x".into()), ..Headers::default() };
    let upload = fixture.mount.create_upload(&key("a/f"), headers.clone()).await.expect("started");
    for (number, text) in [(2, "world"), (1, "hello "), (3, "unused")] {
        let target = Target::Part { key: key("a/f"), upload: upload.clone(), number, checksum: None };
        let part = fixture.mount.stage(target).await.expect("staged");
        part.write_at(0, Bytes::from_static(text.as_bytes())).await.expect("written");
        part.publish(Publish::default()).await.expect("published");
    }
    let Fixture { directory, mount } = fixture;
    drop(mount);
    let fixture = Fixture { mount: open(directory.path(), false).expect("opens"), directory };
    assert!(fixture.names("", false).await.is_empty());
    let uploads = fixture.mount.uploads("a/").await.expect("listed");
    assert_eq!((uploads.len(), &uploads[0].upload), (1, &upload));
    assert_eq!(fixture.mount.parts(&key("a/f"), &upload).await.expect("listed").len(), 3);
    let complete = async |parts: &[u32], condition| {
        fixture.mount.complete_upload(&key("a/f"), &upload, parts, condition).await
    };
    assert_eq!(kind(complete(&[1, 4], Precondition::None).await), Some(ErrorKind::InvalidPart));
    let refused = complete(&[1, 2], Precondition::Matches(ETag::new("x"))).await;
    assert_eq!(kind(refused), Some(ErrorKind::PreconditionFailed));
    let entry = complete(&[1, 2], Precondition::Absent).await.expect("completed");
    assert_eq!(fixture.text("a/f").await, "hello world");
    assert_eq!(entry.headers.as_deref(), Some(&headers));
    assert!(same(&entry, &fixture.stat("a/f").await.expect("there")));
    assert_eq!(kind(complete(&[1], Precondition::None).await), Some(ErrorKind::NoSuchUpload));
    assert_eq!(fixture.mount.staging().expect("writable").used_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_deleters_of_one_directory_never_lose_a_write() {
    let fixture = Arc::new(Fixture::new());
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                let name = format!("a/b/c/{i}");
                for _ in 0..50 {
                    fixture.write(&name, "x").await;
                    assert_eq!(fixture.text(&name).await, "x");
                    assert!(fixture.delete(&name, DeleteMode::Object).await.expect("removed"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert!(fixture.names("", false).await.is_empty());
}
