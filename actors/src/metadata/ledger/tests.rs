//! What a ledger has after a restart, a kill, and damage.

use std::fs;

use forebay_core::{Attributes, EntryKind, Version};
use tempfile::TempDir;

use super::record::FORMAT;
use super::*;
use crate::frame::Frames;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn open(directory: &TempDir) -> Arc<Ledger> {
    Ledger::open(directory.path(), "a").expect("opens")
}

fn tag() -> ETag {
    ETag::new("tag")
}

fn id(text: &str) -> FileId {
    FileId::of(&[text.as_bytes()])
}

fn set_mode(ledger: &Ledger, name: &str, mode: u32) {
    let change = AttributeChange { mode: Some(mode), ..AttributeChange::default() };
    ledger.change(name, &change, &tag(), NOW).expect("is kept");
}

fn mode(ledger: &Ledger, name: &str) -> u32 {
    let mut entry = Entry {
        file_id: id(name),
        kind: EntryKind::File,
        size_bytes: 0,
        version: Version::Strong("tag".into()),
        etag: tag(),
        modified: NOW,
        attributes: Attributes { mode: 0o644, uid: 0, gid: 0, accessed: NOW, changed: NOW },
        headers: None,
    };
    ledger.apply(name, &mut entry);
    entry.attributes.mode
}

/// All that is known, whatever log it came from.
fn state(ledger: &Ledger) -> Vec<String> {
    let log = [&FORMAT.header()[..], &ledger.content()].concat();
    let mut frames = Frames::new(&log[..], FORMAT);
    let mut records = Vec::new();
    while let Some(record) = frames.next_as(Record::decode) {
        records.push(format!("{record:?}"));
    }
    records.sort();
    records
}

#[test]
fn whatever_was_done_is_there_after_a_kill() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = TempDir::new().expect("a directory");
    let mut ledger = open(&directory);
    let mut names = [String::new(), String::new()];
    for step in 0..3000 {
        for name in &mut names {
            *name = ["a", "b", "d/", "d/a", "d/e/", "d/e/f", "e/", "e/x"][random.usize(..8)].into();
        }
        let (one, other) = (&names[0], &names[1]);
        match random.u8(..14) {
            0..3 => set_mode(&ledger, one, random.u32(..0o1000)),
            3 => {
                let value = Some(Bytes::from(step.to_string()));
                ledger.set_xattr(one, "user.x", value, XattrMode::Any).expect("is kept");
            }
            4 => drop(ledger.set_xattr(one, "user.x", None, XattrMode::Any)),
            5 => ledger.keep(one, &tag(), id(&step.to_string())),
            6 => ledger.forget(one),
            7 => ledger.carry((one, &tag()), (other, &ETag::new("other"))),
            8 => drop(ledger.resolve(one, &tag(), id(other))),
            9 if one.ends_with('/') && other.ends_with('/') && !other.starts_with(one.as_str()) => {
                ledger.carry_directories(one, other);
                ledger.forget_directories(one);
            }
            9 => ledger.forget_tree("d/e/"),
            10 if one.ends_with('/') == other.ends_with('/') && !other.starts_with(one.as_str()) => {
                let moving = ledger.moving(one, other);
                if random.bool() {
                    moving.done();
                }
            }
            10 => ledger.rewrite().expect("is written"),
            11 => ledger.make_link(one, (other.as_bytes(), &tag()), (1, 2), NOW).expect("is kept"),
            12 => ledger.forget_link(one),
            _ if random.u8(..20) == 0 => {
                let before = state(&ledger);
                drop(ledger);
                ledger = open(&directory);
                assert_eq!(state(&ledger), before);
            }
            _ => {}
        }
    }
    let before = state(&ledger);
    drop(ledger);
    assert_eq!(state(&open(&directory)), before);
}

/// The records that a start reads.
fn records(directory: &Path) -> (Vec<Record>, bool) {
    let mut records = Vec::new();
    let (_, is_whole) = Log::open(directory, "a", &mut |record| records.push(record)).expect("opens");
    (records, is_whole)
}

#[test]
fn damage_of_any_byte_of_either_copy_is_found_and_loses_nothing() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(&directory);
    set_mode(&ledger, "a", 0o600);
    ledger.set_xattr("b", "user.x", Some(Bytes::from_static(b"value")), XattrMode::Create).expect("is kept");
    ledger.keep("c", &tag(), id("c"));
    let (whole, is_whole) = records(directory.path());
    assert!(is_whole && whole.len() >= 4, "{whole:?}");
    let paths = ["a.log", "a.copy"].map(|name| directory.path().join(name));
    let contents = [fs::read(&paths[0]).expect("reads"), fs::read(&paths[1]).expect("reads")];
    let middle = contents[1].len() / 2;
    let mut other = contents[1].clone();
    other[middle] ^= 1;
    for (path, content) in paths.iter().zip(&contents) {
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            fs::write(path, &damaged).expect("writes");
            assert_eq!(records(directory.path()), (whole.clone(), false), "{} {at}", path.display());
            fs::write(path, &content[..at]).expect("writes");
            assert_eq!(records(directory.path()), (whole.clone(), false), "{} cut at {at}", path.display());
        }
        fs::write(path, content).expect("writes");
    }
    // Damage of both, at different records.
    let mut first = contents[0].clone();
    *first.last_mut().expect("not empty") ^= 1;
    fs::write(&paths[0], &first).expect("writes");
    fs::write(&paths[1], &other).expect("writes");
    assert_eq!(records(directory.path()), (whole, false));
    let before = state(&ledger);
    drop(ledger);
    let mended = open(&directory);
    assert_eq!(state(&mended), before);
    assert!(records(directory.path()).1, "both copies are whole again");
}

#[test]
fn append_that_was_cut_off_takes_nothing_before_it_along() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(&directory);
    set_mode(&ledger, "a", 0o600);
    let (before, _) = records(directory.path());
    let path = directory.path().join("a.log");
    let good_bytes = fs::metadata(&path).expect("is there").len() as usize;
    set_mode(&ledger, "b", 0o600);
    let (after, _) = records(directory.path());
    let content = fs::read(&path).expect("reads");
    for cut in good_bytes..content.len() {
        for (one, other) in [("a.log", "a.copy"), ("a.copy", "a.log")] {
            fs::write(directory.path().join(one), &content[..cut]).expect("writes");
            fs::write(directory.path().join(other), &content[..good_bytes]).expect("writes");
            assert_eq!(records(directory.path()), (before.clone(), cut == good_bytes), "{cut}");
        }
    }
    fs::write(&path, &content).expect("writes");
    assert_eq!(records(directory.path()), (after, false), "what one copy has counts");
}

#[test]
fn start_between_the_two_halves_of_a_replacement_finds_everything() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(&directory);
    set_mode(&ledger, "a", 0o600);
    let copy = directory.path().join("a.copy");
    let old = fs::read(&copy).expect("reads");
    ledger.rewrite().expect("is written");
    fs::write(&copy, old).expect("writes");
    let before = state(&ledger);
    drop(ledger);
    assert_eq!(state(&open(&directory)), before);
}

#[test]
fn rename_whose_end_is_not_known_leaves_both_names_with_what_was_set() {
    for is_rewritten in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let ledger = open(&directory);
        set_mode(&ledger, "d/", 0o700);
        set_mode(&ledger, "d/a", 0o600);
        set_mode(&ledger, "e/a", 0o640);
        let moving = ledger.moving("d/", "e/");
        if is_rewritten {
            ledger.rewrite().expect("is written");
        }
        let found = open(&directory);
        let modes = ["d/", "d/a", "e/", "e/a"].map(|name| mode(&found, name));
        assert_eq!(modes, [0o700, 0o600, 0o700, 0o640]);
        drop(moving);
    }
}

#[test]
fn what_could_not_be_written_is_refused_or_written_with_the_next_log() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(&directory);
    set_mode(&ledger, "a", 0o600);
    ledger.log().as_mut().expect("has one").miss();
    let change = AttributeChange { mode: Some(0o640), ..AttributeChange::default() };
    ledger.change("a", &change, &tag(), NOW).expect_err("is not acknowledged");
    assert_eq!(mode(&ledger, "a"), 0o600);
    // The store has copied it already.
    ledger.carry(("a", &tag()), ("b", &tag()));
    ledger.settle().expect("is written anew");
    ledger.change("a", &change, &tag(), NOW).expect("is kept");
    drop(ledger);
    let found = open(&directory);
    assert_eq!([mode(&found, "a"), mode(&found, "b")], [0o640, 0o600]);
}

#[test]
fn log_of_many_changes_of_few_names_stays_short() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(&directory);
    let value = Bytes::from(vec![7; 4000]);
    for round in 0..2500 {
        ledger.set_xattr("a", "user.x", Some(value.clone()), XattrMode::Any).expect("is kept");
        set_mode(&ledger, "a", round % 0o1000);
        if ledger.log().as_ref().expect("has one").is_rewrite_due() {
            ledger.settle().expect("is written anew");
        }
    }
    let bytes = fs::metadata(directory.path().join("a.log")).expect("is there").len();
    assert!(bytes < 9 << 20, "{bytes}");
    let before = state(&ledger);
    drop(ledger);
    assert_eq!(state(&open(&directory)), before);
}
