//! The client against a stand-in: the port's promises, and what it does when a NameNode does not answer as it should.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;

use super::*;
use crate::backend::UploadMemory;
use crate::backend::conformance::{self, source};

mod standin;

use standin::Fault;
pub(crate) use standin::StandIn;

pub(crate) fn client(endpoints: &[&Arc<StandIn>], root: &str) -> Hdfs {
    let config = HdfsStoreConfig {
        endpoints: endpoints.iter().map(|standin| standin.endpoint.clone()).collect(),
        root: root.to_owned(),
        user: Some("me".to_owned()),
        doas: None,
        delegation_token: None,
    };
    Hdfs::new(&config, &MountLimits::default(), &UploadMemory::new(64 << 20), Clock::system()).expect("opens")
}

async fn put(hdfs: &Hdfs, key: &str, text: &str, condition: Precondition) -> Result<Object> {
    hdfs.put(key, &source(text), &Headers::default(), &condition).await
}

async fn text(hdfs: &Hdfs, object: &Object) -> Result<Vec<u8>> {
    hdfs.read(&object.key, ByteRange::new(0, object.size_bytes), &object.etag)
        .await
        .map(|bytes| bytes.to_vec())
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

#[tokio::test]
async fn hdfs_keeps_the_promises_of_the_port() {
    let standin = StandIn::start().await;
    conformance::check(&client(&[&standin], "/")).await;
    conformance::check(&client(&[&standin], "/a b/root")).await;
}

#[tokio::test]
async fn standby_hands_over_to_the_active_namenode() {
    let first = StandIn::start().await;
    let second = first.twin().await;
    let hdfs = client(&[&first, &second], "/");
    first.is_standby.store(true, Ordering::Relaxed);
    put(&hdfs, "a", "1", Precondition::None).await.expect("fails over");
    assert!(!first.seen().is_empty());
    hdfs.stat("a").await.expect("is there");
    assert!(first.seen().is_empty(), "the active one is remembered");
    first.is_standby.store(false, Ordering::Relaxed);
    second.is_standby.store(true, Ordering::Relaxed);
    put(&hdfs, "b", "1", Precondition::Absent).await.expect("fails back");
    first.is_standby.store(true, Ordering::Relaxed);
    let error = hdfs.stat("a").await.expect_err("both stand by");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no NameNode is active"), "{error}");
}

#[tokio::test]
async fn namenode_that_is_down_is_passed_over_and_one_that_hangs_up_is_asked_last() {
    let alive = StandIn::start().await;
    let config = HdfsStoreConfig {
        endpoints: vec!["http://127.0.0.1:1".to_owned(), alive.endpoint.clone()],
        root: "/".to_owned(),
        user: None,
        doas: None,
        delegation_token: Some(forebay_core::Secret::new("hunter2")),
    };
    let hdfs = Hdfs::new(&config, &MountLimits::default(), &UploadMemory::new(64 << 20), Clock::system())
        .expect("opens");
    put(&hdfs, "a", "1", Precondition::None).await.expect("fails over");
    let twin = alive.twin().await;
    let hdfs = client(&[&alive, &twin], "/");
    alive.spoil("GETFILESTATUS", Fault::Dropped);
    let error = hdfs.stat("a").await.expect_err("hung up");
    assert!(error.is_temporary() && !format!("{error:?}").contains("hunter2"), "{error:?}");
    alive.seen();
    hdfs.stat("a").await.expect("asks the other one");
    assert!(alive.seen().is_empty());
}

#[tokio::test]
async fn lost_answer_to_a_rename_is_looked_up() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    for condition in [Precondition::None, Precondition::Absent] {
        standin.spoil("RENAME", Fault::Lost);
        let stored = put(&hdfs, "a", "1", condition).await.expect("was done");
        assert_eq!(text(&hdfs, &stored).await.expect("reads"), b"1");
        hdfs.delete("a").await.expect("deletes");
    }
    standin.spoil("RENAME", Fault::Dropped);
    assert_eq!(kind(put(&hdfs, "a", "1", Precondition::Absent).await), Some(ErrorKind::Unavailable));
    put(&hdfs, "a", "2", Precondition::Absent).await.expect("nothing was done before");
    let object = hdfs.find("a").await.expect("is there");
    standin.spoil("RENAME", Fault::Lost);
    hdfs.rename(&object, "b", RenameMode::NoReplace).await.expect("was done");
    assert_eq!(hdfs.find("b").await.expect("moved").inode, object.inode);
}

#[tokio::test]
async fn failed_write_shows_nothing_and_leaves_nothing() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    standin.spoil("RENAME", Fault::Thrown("DSQuotaExceededException"));
    assert_eq!(kind(put(&hdfs, "a", "1", Precondition::None).await), Some(ErrorKind::NoSpace));
    standin.spoil("GETFILESTATUS", Fault::Thrown("SafeModeException"));
    assert_eq!(kind(put(&hdfs, "a", "1", Precondition::None).await), Some(ErrorKind::Busy));
    let cleaned = async {
        while standin.paths() != ["/", "/.forebay-tmp"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cleaned).await.expect("removed within 30 s");
}

async fn begun(hdfs: &Arc<Hdfs>, condition: &Precondition) -> Result<Box<dyn Pending>> {
    let headers = Headers { content_type: Some("text/x-test".into()), ..Headers::default() };
    let mut begun = Arc::clone(hdfs).begin("d/a", &headers, condition).await?;
    for piece in ["one ", "two ", "three"] {
        begun.feed(Bytes::from_static(piece.as_bytes())).await?;
    }
    Ok(begun)
}

#[tokio::test]
async fn file_sent_while_it_arrives_is_visible_in_the_end_and_only_where_its_condition_holds() {
    let standin = StandIn::start().await;
    let hdfs = Arc::new(client(&[&standin], "/"));
    let mut first = begun(&hdfs, &Precondition::Absent).await.expect("there is none yet");
    let mut second = begun(&hdfs, &Precondition::Absent).await.expect("there is none yet");
    let mut abandoned = begun(&hdfs, &Precondition::None).await.expect("begins");
    assert_eq!(kind(hdfs.stat("d/a").await), Some(ErrorKind::NotFound));
    let object = first.finish().await.expect("is the first");
    assert_eq!(text(&hdfs, &object).await.expect("reads"), b"one two three");
    let headers = hdfs.stat("d/a").await.expect("is there").headers.expect("kept");
    assert_eq!(headers.content_type.as_deref(), Some("text/x-test"));
    assert_eq!(kind(second.finish().await), Some(ErrorKind::PreconditionFailed));
    assert_eq!(kind(begun(&hdfs, &Precondition::Absent).await), Some(ErrorKind::PreconditionFailed), "early");
    second.abandon().await;
    abandoned.abandon().await;
    assert_eq!(standin.paths(), ["/", "/.forebay-tmp", "/d", "/d/a"]);
}

#[tokio::test]
async fn file_whose_datanode_gives_up_is_an_error_and_not_a_hang() {
    let standin = StandIn::start().await;
    let hdfs = Arc::new(client(&[&standin], "/"));
    standin.spoil("CREATE", Fault::Thrown("AccessControlException"));
    assert_eq!(kind(begun(&hdfs, &Precondition::None).await), Some(ErrorKind::AccessDenied));
    let mut cut = begun(&hdfs, &Precondition::None).await.expect("begins");
    standin.spoil("CREATE", Fault::Lost);
    assert_eq!(kind(cut.finish().await), Some(ErrorKind::Unavailable));
    assert!(cut.feed(Bytes::from_static(b"x")).await.is_err(), "it is over");
    cut.abandon().await;
    assert_eq!(standin.paths(), ["/", "/.forebay-tmp"]);
}

#[tokio::test]
async fn cluster_without_xattrs_refuses_headers_and_serves_the_rest() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    let headers = Headers { content_type: Some("text/x-test".into()), ..Headers::default() };
    standin.spoil("SETXATTR", Fault::Thrown("UnsupportedOperationException"));
    let refused = hdfs.put("a", &source("1"), &headers, &Precondition::None).await;
    assert_eq!(kind(refused), Some(ErrorKind::Unsupported));
    put(&hdfs, "a", "1", Precondition::None).await.expect("has no headers");
    standin.spoil("GETXATTRS", Fault::Thrown("UnsupportedOperationException"));
    assert_eq!(hdfs.stat("a").await.expect("is there").headers.as_deref(), Some(&Headers::default()));
}

#[tokio::test]
async fn one_of_many_makers_wins() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    for key in ["file", "directory/"] {
        let all = (0..16).map(|number| {
            let text = if key.ends_with('/') { String::new() } else { number.to_string() };
            let hdfs = &hdfs;
            async move { put(hdfs, key, &text, Precondition::Absent).await }
        });
        let results = futures::future::join_all(all).await;
        let refused = results.iter().filter_map(|result| result.as_ref().err().map(Error::kind));
        assert_eq!(refused.collect::<Vec<_>>(), [ErrorKind::PreconditionFailed; 15], "{key}");
    }
}

#[tokio::test]
async fn open_file_is_read_on_after_its_rename_and_never_after_a_change() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    let file = put(&hdfs, "d/a", "before", Precondition::None).await.expect("stores");
    let directory = hdfs.find("d").await.expect("is there");
    hdfs.rename(&directory, "e/", RenameMode::NoReplace).await.expect("moves");
    assert_eq!(hdfs.find("e/a").await.expect("moved").etag, file.etag);
    assert_eq!(text(&hdfs, &file).await.expect("reads by number"), b"before");
    standin.truncate("/e/a", 3);
    assert_eq!(kind(hdfs.read("e/a", ByteRange::new(0, 2), &file.etag).await), Some(ErrorKind::Stale));
    assert_eq!(kind(hdfs.read("e/a", ByteRange::new(4, 2), &file.etag).await), Some(ErrorKind::Stale));
    assert_eq!(
        kind(hdfs.read("e/a", ByteRange::new(0, 2), &ETag::new("other")).await),
        Some(ErrorKind::Stale)
    );
}

#[tokio::test]
async fn renames_and_trees_are_one_step_and_refusals_have_their_kind() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    for key in ["f", "d/x", "full/x"] {
        put(&hdfs, key, "1", Precondition::None).await.expect("stores");
    }
    put(&hdfs, "empty/", "", Precondition::None).await.expect("makes");
    let (file, directory) = (hdfs.find("f").await.expect("there"), hdfs.find("d").await.expect("there"));
    for (from, to, mode, expected) in [
        (&file, "d", RenameMode::Replace, ErrorKind::IsDirectory),
        (&directory, "f/", RenameMode::Replace, ErrorKind::NotDirectory),
        (&directory, "full/", RenameMode::Replace, ErrorKind::NotEmpty),
        (&directory, "empty/", RenameMode::NoReplace, ErrorKind::AlreadyExists),
        (&file, "none/f", RenameMode::Replace, ErrorKind::NotFound),
        (&file, "full/x/f", RenameMode::Replace, ErrorKind::NotDirectory),
        (&file, "12:00", RenameMode::Replace, ErrorKind::InvalidName),
    ] {
        assert_eq!(kind(hdfs.rename(from, to, mode).await), Some(expected), "{} to {to}", from.key);
    }
    assert_eq!(kind(hdfs.delete("full/").await), Some(ErrorKind::NotEmpty));
    standin.seen();
    hdfs.rename(&directory, "empty/", RenameMode::Replace).await.expect("an empty one is replaced");
    assert_eq!(standin.seen(), ["RENAME"]);
    hdfs.delete_tree("empty/").await.expect("removes");
    hdfs.delete_tree("f/").await.expect("a file is no directory");
    assert_eq!(standin.seen().iter().filter(|operation| *operation == "DELETE").count(), 1);
    assert_eq!(standin.paths(), ["/", "/.forebay-tmp", "/f", "/full", "/full/x"]);
}

#[tokio::test]
async fn own_directory_is_neither_shown_nor_written_to() {
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    put(&hdfs, "a", "1", Precondition::None).await.expect("stores");
    let query = ListQuery { prefix: String::new(), shallow: true, start_after: None, limit: 9 };
    assert_eq!(hdfs.list(&query).await.expect("lists").objects.len(), 1);
    assert_eq!(kind(hdfs.find(".forebay-tmp").await), Some(ErrorKind::NotFound));
    assert_eq!(
        kind(put(&hdfs, ".forebay-tmp/x", "1", Precondition::None).await),
        Some(ErrorKind::InvalidName)
    );
    let below = ListQuery { prefix: ".forebay-tmp/".into(), ..query };
    assert!(hdfs.list(&below).await.expect("lists").objects.is_empty());
}

/// Names such that one is often the beginning of another, with characters on both sides of `/` and beyond ASCII.
fn random_key(rng: &mut Rng) -> String {
    let pieces = ["a", "b", "-", "!", "0", "~", "é", "日", " "];
    let mut name = || (0..rng.usize(1..4)).map(|_| pieces[rng.usize(0..pieces.len())]).collect::<String>();
    let (first, second) = (name(), name());
    match rng.u8(0..6) {
        0 => format!("{first}/"),
        1 => format!("{first}/{second}"),
        _ => first,
    }
}

/// What a listing shows of these keys.
fn expected(keys: &BTreeSet<String>, query: &ListQuery) -> Vec<String> {
    let shown: BTreeSet<String> = keys
        .iter()
        .filter_map(|key| {
            let rest = key.strip_prefix(&query.prefix)?;
            let slash = rest.find('/').filter(|_| query.shallow);
            Some(slash.map_or(key.clone(), |slash| format!("{}{}", query.prefix, &rest[..=slash])))
        })
        .filter(|name| query.start_after.as_ref().is_none_or(|cursor| name > cursor))
        .collect();
    shown.into_iter().collect()
}

#[tokio::test]
async fn listings_equal_a_sorted_walk_from_every_cursor() {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let standin = StandIn::start().await;
    let hdfs = client(&[&standin], "/");
    for _ in 0..70 {
        let key = random_key(&mut rng);
        let text = if key.ends_with('/') { "" } else { "1" };
        // Where the other kind has the name already, there is one key less.
        drop(put(&hdfs, &key, text, Precondition::Absent).await);
    }
    let everything = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: 1000 };
    let all = hdfs.list(&everything).await.expect("lists").objects;
    let keys: BTreeSet<String> = all.into_iter().map(|object| object.key).collect();
    assert_eq!(keys, standin.keys(), "seed {seed}");
    let cut = |rng: &mut Rng| {
        let key = keys.iter().nth(rng.usize(0..keys.len())).expect("in range");
        key.chars().take(rng.usize(0..=key.chars().count())).collect::<String>()
    };
    for round in 0..400 {
        standin.seems_large.store(round % 2 == 0, Ordering::Relaxed);
        let query = ListQuery {
            prefix: if rng.bool() { String::new() } else { cut(&mut rng) },
            shallow: rng.bool(),
            start_after: (rng.u8(0..4) > 0).then(|| cut(&mut rng)),
            limit: rng.usize(1..100),
        };
        let page = hdfs.list(&query).await.expect("lists");
        let names: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
        let mut expected = expected(&keys, &query);
        assert_eq!(page.is_truncated, expected.len() > query.limit, "seed {seed}, {query:?}");
        expected.truncate(query.limit);
        assert_eq!(names, expected, "seed {seed}, {query:?}");
    }
}
