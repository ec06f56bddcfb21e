use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::{Headers, Key, Publish, UploadId};
use md5::{Digest, Md5};
use tempfile::TempDir;

use super::*;

const LIMIT_BYTES: u64 = 1 << 20;

fn open(directory: &TempDir) -> Staging {
    Staging::open(directory.path(), LIMIT_BYTES, "/staging").expect("opens")
}

fn directory() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

fn key(text: &str) -> Key {
    Key::parse(text).expect("valid key")
}

fn files_in(path: &Path) -> usize {
    fs::read_dir(path).expect("readable").count()
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

async fn stage_part(
    staging: &Staging,
    upload: &UploadId,
    number: u32,
    content: &[u8],
) -> forebay_core::Entry {
    let part = staging.stage_part(&key("k"), upload, number, None).await.expect("stages");
    part.write_at(0, Bytes::copy_from_slice(content)).await.expect("writes");
    part.publish(Publish::default()).await.expect("publishes")
}

#[tokio::test]
async fn writes_land_where_they_were_aimed_and_gaps_read_as_zeros() {
    let directory = directory();
    let file = open(&directory).file().await.expect("a file");
    file.write_at(4, Bytes::from_static(b"tail")).await.expect("writes");
    file.write_at(0, Bytes::from_static(b"he")).await.expect("writes");
    file.write_at(8, Bytes::from(vec![7; INLINE_LIMIT + 1])).await.expect("writes off the runtime");
    file.truncate(10).await.expect("cuts");
    let mut content = vec![0; 10];
    file.file().read_exact_at(&mut content, 0).expect("reads");
    assert_eq!(content, b"he\0\0tail\x07\x07");
    assert_eq!(file.size_bytes().expect("size"), 10);
}

#[tokio::test]
async fn short_content_needs_no_disk_until_it_grows_or_is_lent() {
    let directory = directory();
    let (staging, writes) = (open(&directory), directory.path().join("writes"));
    let [short, grown, cut, lent] = [0; 4].map(|_| staging.light_file());
    let [short, grown, cut, lent] =
        [short.await, grown.await, cut.await, lent.await].map(|file| file.expect("a file"));
    for file in [&short, &grown, &cut, &lent] {
        file.write_at(1, Bytes::from_static(b"ab")).await.expect("writes");
    }
    assert_eq!((files_in(&writes), staging.dirty().await.expect("counts").writes), (0, 4));
    grown.write_at(64 << 10, Bytes::from_static(b"z")).await.expect("writes");
    cut.truncate(100_000).await.expect("extends");
    let loan = lent.lend();
    loan.file().write_all_at(b"c", 3).expect("passes through");
    assert_eq!((files_in(&writes), staging.dirty().await.expect("counts").writes), (3, 4));
    let md5 = |content: &[u8]| hex::encode(Md5::digest(content));
    let padded = |end: usize| [b"\0ab".as_slice(), &vec![0; end - 3]].concat();
    assert_eq!(short.md5().expect("reads"), md5(b"\0ab"));
    assert_eq!(grown.md5().expect("reads"), md5(&[padded(64 << 10).as_slice(), b"z"].concat()));
    assert_eq!(cut.md5().expect("reads"), md5(&padded(100_000)));
    assert_eq!(fs::read(lent.path()).expect("on the disk"), b"\0abc");
    drop((short, grown, cut, lent, loan));
    assert_eq!((files_in(&writes), staging.used_bytes()), (0, 0));
    assert_eq!(staging.dirty().await.expect("counts").writes, 0);
    let mut many = Vec::new();
    for _ in 0..=LIGHT_FILES_MAX {
        many.push(staging.light_file().await.expect("a file"));
    }
    assert_eq!(files_in(&writes), 1, "no more are held in memory");
}

/// Above what is written inline.
const INLINE_LIMIT: usize = 256 << 10;

#[tokio::test]
async fn write_past_the_quota_is_refused_and_names_the_limit() {
    let directory = directory();
    let staging = open(&directory);
    let first = staging.file().await.expect("a file");
    first.write_at(0, Bytes::from(vec![1; 700_000])).await.expect("fits");
    let second = staging.file().await.expect("a file");
    let refused = second.write_at(0, Bytes::from(vec![1; 700_000])).await.expect_err("does not fit");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.to_string().contains("limits.staging_bytes = 1048576"), "{refused}");
    assert_eq!(kind(second.truncate(LIMIT_BYTES).await), Some(ErrorKind::NoSpace));
    assert_eq!(second.size_bytes().expect("size"), 0);
    drop(first);
    second.write_at(0, Bytes::from(vec![1; 700_000])).await.expect("fits now");
    second.truncate(0).await.expect("cuts");
    assert_eq!(staging.used_bytes(), 0);
}

#[tokio::test]
async fn writes_through_a_lent_file_count_when_they_are_settled() {
    let directory = directory();
    let staging = open(&directory);
    let file = staging.file().await.expect("a file");
    let clean = file.stamp().expect("stamp");
    let lent = file.lend();
    lent.file().write_all_at(&[1; 10_000], 0).expect("passes through");
    assert_ne!(file.stamp().expect("stamp"), clean);
    file.settle().expect("fits");
    assert!(staging.used_bytes() >= 10_000);
    lent.file().set_len(LIMIT_BYTES + 1).expect("passes through");
    assert_eq!(kind(file.settle()), Some(ErrorKind::NoSpace));
    drop(file);
    assert_eq!(files_in(&directory.path().join("writes")), 1, "the loan keeps the file");
    drop(lent);
    assert_eq!(files_in(&directory.path().join("writes")), 0);
    assert_eq!(staging.used_bytes(), 0);
}

#[tokio::test]
async fn moved_file_stays_and_no_longer_counts() {
    let directory = directory();
    let staging = open(&directory);
    let file = staging.file().await.expect("a file");
    file.write_at(0, Bytes::from_static(b"x")).await.expect("writes");
    let target = directory.path().join("published");
    fs::rename(file.path(), &target).expect("renames");
    file.moved();
    assert_eq!(staging.used_bytes(), 0);
    drop(file);
    assert_eq!(fs::read(&target).expect("still there"), b"x");
}

#[tokio::test]
async fn leftovers_of_a_crash_are_reaped_and_uploads_survive() {
    let directory = directory();
    let (writes, uploads) = (directory.path().join("writes"), directory.path().join("uploads"));
    let upload = {
        let staging = open(&directory);
        let upload = staging.create_upload(&key("k"), Headers::default(), SystemTime::UNIX_EPOCH).await;
        let upload = upload.expect("creates");
        stage_part(&staging, &upload, 2, b"two").await;
        stage_part(&staging, &upload, 1, b"one").await;
        upload
    };
    fs::write(writes.join("left"), b"unpublished").expect("writes");
    fs::create_dir(writes.join("aborted")).expect("makes");
    fs::write(uploads.join(&upload.0).join("00003.x.part"), b"without a record").expect("writes");
    fs::create_dir(uploads.join("0".repeat(32))).expect("makes");
    let staging = open(&directory);
    assert_eq!((files_in(&writes), files_in(&uploads)), (0, 1));
    assert_eq!(staging.used_bytes(), 6);
    let numbers: Vec<_> =
        staging.parts(&key("k"), &upload).await.expect("parts").iter().map(|part| part.number).collect();
    assert_eq!(numbers, [1, 2]);
    let parts = staging.take_parts(&key("k"), &upload, &[1, 2]).await.expect("takes");
    let mut content = [0; 3];
    parts.files[0].0.read_exact_at(&mut content, 0).expect("reads");
    assert_eq!(&content, b"one");
    staging.abort_upload(&key("k"), &upload).await.expect("aborts");
    assert_eq!((staging.used_bytes(), files_in(&writes), files_in(&uploads)), (0, 0, 0));
}

#[tokio::test]
async fn part_tag_is_its_md5_in_whatever_order_it_was_written() {
    let directory = directory();
    let staging = open(&directory);
    let upload =
        staging.create_upload(&key("k"), Headers::default(), SystemTime::UNIX_EPOCH).await.expect("new");
    let expected = hex::encode(Md5::digest(b"hello world"));
    assert_eq!(stage_part(&staging, &upload, 1, b"hello world").await.etag.as_str(), expected);
    let part = staging.stage_part(&key("k"), &upload, 2, None).await.expect("stages");
    part.write_at(6, Bytes::from_static(b"world")).await.expect("writes");
    part.write_at(0, Bytes::from_static(b"hello ")).await.expect("writes");
    assert_eq!(part.publish(Publish::default()).await.expect("publishes").etag.as_str(), expected);
    assert_eq!(part.publish(Publish::default()).await.expect("again").etag.as_str(), expected);
    let refused = part.write_at(0, Bytes::from_static(b"x")).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
}

#[tokio::test]
async fn part_staged_again_takes_the_place_of_the_first() {
    let directory = directory();
    let staging = open(&directory);
    let upload =
        staging.create_upload(&key("k"), Headers::default(), SystemTime::UNIX_EPOCH).await.expect("new");
    stage_part(&staging, &upload, 1, b"a long first try").await;
    stage_part(&staging, &upload, 1, b"second").await;
    let parts = staging.parts(&key("k"), &upload).await.expect("parts");
    assert_eq!((parts.len(), parts[0].size_bytes), (1, 6));
    assert_eq!(staging.used_bytes(), 6);
}

#[tokio::test]
async fn uploads_are_found_by_their_own_key_only() {
    let directory = directory();
    let staging = open(&directory);
    let upload =
        staging.create_upload(&key("k"), Headers::default(), SystemTime::UNIX_EPOCH).await.expect("new");
    let gone = Some(ErrorKind::NoSuchUpload);
    assert_eq!(kind(staging.parts(&key("other"), &upload).await), gone);
    let foreign = UploadId("../writes".to_owned());
    assert_eq!(kind(staging.abort_upload(&key("k"), &foreign).await), gone);
    assert_eq!(kind(staging.take_parts(&key("k"), &upload, &[1]).await), Some(ErrorKind::InvalidPart));
    assert_eq!(kind(staging.stage_part(&key("k"), &upload, 0, None).await), Some(ErrorKind::InvalidArgument));
    let late = staging.stage_part(&key("k"), &upload, 1, None).await.expect("stages");
    assert_eq!(staging.uploads("k").await.expect("lists").len(), 1);
    assert_eq!(staging.uploads("x").await.expect("lists").len(), 0);
    staging.abort_upload(&key("k"), &upload).await.expect("aborts");
    assert_eq!(kind(late.publish(Publish::default()).await), gone);
    assert_eq!(kind(staging.parts(&key("k"), &upload).await), gone);
}

#[tokio::test]
async fn directory_belongs_to_one_gateway() {
    let directory = directory();
    let first = open(&directory);
    let second = Staging::open(directory.path(), LIMIT_BYTES, "/staging");
    assert_eq!(kind(second), Some(ErrorKind::Busy));
    drop(first);
    open(&directory);
}
