use std::time::SystemTime;

use bytes::Bytes;
use forebay_core::Headers;
use tempfile::TempDir;

use super::*;
use crate::staging::record::{Base, Inline, Put, Shown};

fn put(key: &str, content: &'static [u8]) -> Box<Put> {
    Box::new(Put {
        seq: 0,
        key: key.to_owned(),
        base: Base::Any,
        headers: Headers::default(),
        size_bytes: content.len() as u64,
        md5: format!("tag of {key}"),
        modified: SystemTime::UNIX_EPOCH,
        file: None,
        inline: Inline::Bytes(Bytes::from_static(content)),
    })
}

fn shown(key: &str) -> Record {
    let [key, tag, store_tag] = [key, "a", "b"].map(str::to_owned);
    Record::Shown(Shown { key, tag, store_tag, modified: SystemTime::UNIX_EPOCH })
}

fn open(directory: &TempDir) -> (Journal, Arc<Table>) {
    open_as(directory, "/journal")
}

/// For a mount whose metrics nobody else counts in.
fn open_as(directory: &TempDir, mount: &str) -> (Journal, Arc<Table>) {
    let table = Arc::new(Table::new(mount));
    let journal = Journal::open(directory.path().join("journal"), Arc::clone(&table), mount);
    (journal.expect("opens"), table)
}

/// All that a table holds, contents included, in the order of a log.
fn live(table: &Table) -> Vec<Vec<u8>> {
    let written = |record: &Record| {
        let mut payload = Vec::new();
        record.fill(&mut payload).expect("can be read");
        payload
    };
    table.live().iter().map(written).collect()
}

#[tokio::test]
async fn restart_finds_what_was_answered_and_nothing_that_was_done() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open(&directory);
    for (key, content) in [("a", &b"one"[..]), ("b", b""), ("a", b"two")] {
        journal.append(Record::Put(put(key, content)), true).await.expect("appends");
    }
    journal.append(Record::Done { key: "a".into(), seq: 1 }, true).await.expect("appends");
    journal.append(shown("a"), true).await.expect("appends");
    let before = live(&table);
    assert_eq!(before.len(), 3);
    assert_eq!(table.latest("a").expect("pending").inline().expect("can be read"), &b"two"[..]);
    drop(journal);
    let (journal, table) = open(&directory);
    assert_eq!(live(&table), before);
    journal.append(Record::Put(put("c", b"three")), true).await.expect("appends");
    assert_eq!(table.latest("c").expect("pending").seq, 4, "numbers go on");
    assert_eq!(live(&open(&directory).1), live(&table));
}

/// Where a record ends in the log, and what the table holds then.
type Step = (usize, Vec<Vec<u8>>);

/// For each record the tables before and after it, and where it ends in the log.
async fn written(directory: &TempDir) -> (Vec<u8>, Vec<Step>) {
    let (journal, table) = open(directory);
    let mut steps = Vec::new();
    let done = Record::Done { key: "a".into(), seq: 1 };
    for record in [Record::Put(put("a", b"one")), Record::Put(put("b", b"")), done, shown("a")] {
        journal.append(record, false).await.expect("appends");
        let length = std::fs::metadata(directory.path().join("journal")).expect("is there").len();
        steps.push((length as usize, live(&table)));
    }
    (std::fs::read(directory.path().join("journal")).expect("readable"), steps)
}

fn expected(steps: &[Step], at: usize) -> Vec<Vec<u8>> {
    steps.iter().rev().find(|(end, _)| *end <= at).map(|(_, live)| live.clone()).unwrap_or_default()
}

#[tokio::test]
async fn journal_cut_or_changed_at_any_byte_keeps_what_lies_before() {
    let directory = TempDir::new().expect("a directory");
    let (log, steps) = written(&directory).await;
    let path = directory.path().join("journal");
    for at in 0..log.len() {
        std::fs::write(&path, &log[..at]).expect("writable");
        assert_eq!(live(&open(&directory).1), expected(&steps, at), "cut to {at} bytes");
        for flip in [1, 0x80, 0xFF] {
            let mut damaged = log.clone();
            damaged[at] ^= flip;
            std::fs::write(&path, &damaged).expect("writable");
            assert_eq!(live(&open(&directory).1), expected(&steps, at), "byte {at} xor {flip}");
        }
    }
}

#[tokio::test]
async fn what_is_appended_after_a_damaged_end_is_found() {
    let directory = TempDir::new().expect("a directory");
    let (log, _) = written(&directory).await;
    for cut in [log.len() - 1, 20, 3] {
        std::fs::write(directory.path().join("journal"), &log[..cut]).expect("writable");
        let (journal, table) = open(&directory);
        journal.append(Record::Put(put("new", b"content")), true).await.expect("appends");
        assert_eq!(live(&open(&directory).1), live(&table), "cut to {cut} bytes");
    }
}

#[tokio::test]
async fn those_who_wait_together_share_a_write() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open_as(&directory, "/journal-groups");
    let before = (journal.0.groups.get(), journal.0.records.get());
    // As if a group was being written.
    journal.0.queue().is_written = true;
    let appends: Vec<_> = (0..100)
        .map(|number| {
            let journal = journal.clone();
            tokio::spawn(
                async move { journal.append(Record::Put(put(&format!("k{number}"), b"x")), true).await },
            )
        })
        .collect();
    while journal.0.queue().waiting.len() < 100 {
        tokio::task::yield_now().await;
    }
    journal.0.write_all();
    for append in appends {
        append.await.expect("no panic").expect("appends");
    }
    let (groups, records) = (journal.0.groups.get() - before.0, journal.0.records.get() - before.1);
    assert_eq!((groups, records, table.names(1000).len()), (1, 100, 100));
}

#[tokio::test]
async fn journal_that_cannot_be_written_refuses_and_comes_back() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open(&directory);
    journal.append(Record::Put(put("a", b"one")), true).await.expect("appends");
    let aside = directory.path().join("journal.new");
    std::fs::create_dir(&aside).expect("in the way");
    *journal.0.log.lock().expect("free") = Log::Broken;
    journal.append(Record::Put(put("b", b"two")), true).await.expect_err("the disk refuses");
    assert!(table.latest("b").is_none());
    std::fs::remove_dir(&aside).expect("out of the way");
    journal.append(Record::Put(put("c", b"three")), true).await.expect("appends");
    assert_eq!(live(&open(&directory).1), live(&table));
    assert_eq!(table.names(1000), ["a", "c"]);
}

#[tokio::test]
async fn panic_of_the_writer_is_one_refusal() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open(&directory);
    journal.append(Record::Put(put("a", b"one")), true).await.expect("appends");
    // No time before 1970 can be written down.
    let modified = SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1);
    let impossible = Box::new(Put { modified, ..*put("b", b"two") });
    journal.append(Record::Put(impossible), true).await.expect_err("the writer died");
    journal.append(Record::Put(put("c", b"three")), true).await.expect("appends");
    assert_eq!(table.names(1000), ["a", "c"]);
    assert_eq!(live(&open(&directory).1), live(&table));
}

#[tokio::test]
async fn of_two_writes_with_one_base_the_second_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open(&directory);
    journal.append(Record::Put(put("a", b"one")), true).await.expect("appends");
    let on = |tag: &str, md5: &str| {
        let put = Put { base: Base::Tag(tag.to_owned()), md5: md5.to_owned(), ..*put("a", b"next") };
        Record::Put(Box::new(put))
    };
    // As if a group was being written: they are in one.
    journal.0.queue().is_written = true;
    let [first, second, third] = ["first", "second", "third"].map(|name| {
        let base = if name == "third" { "first" } else { "tag of a" };
        let (journal, record) = (journal.clone(), on(base, name));
        tokio::spawn(async move { journal.append(record, true).await })
    });
    while journal.0.queue().waiting.len() < 3 {
        tokio::task::yield_now().await;
    }
    journal.0.write_all();
    first.await.expect("no panic").expect("appends");
    let refused = second.await.expect("no panic").expect_err("the first one was before it");
    assert_eq!(refused.kind(), ErrorKind::PreconditionFailed);
    third.await.expect("no panic").expect("it follows the first one");
    journal.append(on("first", "late"), true).await.expect_err("the third one was before it");
    assert_eq!(table.latest("a").expect("pending").md5, "third");
    assert_eq!(live(&open(&directory).1), live(&table));
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_under_load_fail_nobody_else_and_lose_nothing() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open_as(&directory, "/journal-panics");
    let before = (journal.0.groups.get(), journal.0.records.get());
    let writers = (0..32).map(|writer| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                let name = format!("{writer}-{round}");
                // No time before 1970 can be written down.
                let is_poison = writer < 4 && round % 5 == 0;
                let early = std::time::Duration::from_secs(u64::from(is_poison));
                let record = Put { modified: SystemTime::UNIX_EPOCH - early, ..*put(&name, b"content") };
                let answer = journal.append(Record::Put(Box::new(record)), true).await;
                assert_eq!(answer.is_err(), is_poison, "{name}: {answer:?}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    assert_eq!(table.names(1000).len(), 32 * 20 - 4 * 4);
    assert_eq!(live(&open(&directory).1), live(&table));
    let (groups, records) = (journal.0.groups.get() - before.0, journal.0.records.get() - before.1);
    assert!(groups < records, "{groups} groups of {records} records: nobody was in a group with a panic");
}

#[tokio::test]
async fn log_is_written_anew_when_little_of_it_is_needed() {
    let directory = TempDir::new().expect("a directory");
    let (journal, table) = open(&directory);
    let content: &'static [u8] = Box::leak(vec![7; 32 << 10].into_boxed_slice());
    for seq in 1..=600 {
        journal.append(Record::Put(put("k", content)), false).await.expect("appends");
        if seq > 1 {
            journal.append(Record::Done { key: "k".into(), seq: seq - 1 }, false).await.expect("appends");
        }
    }
    let length = std::fs::metadata(directory.path().join("journal")).expect("is there").len();
    assert!(length <= REWRITE_BYTES_MIN + (64 << 10), "{length}");
    assert_eq!(live(&open(&directory).1), live(&table));
}
