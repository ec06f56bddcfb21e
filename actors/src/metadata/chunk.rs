//! A part of a directory as bytes: what its store said of all names in one range.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use forebay_core::ETag;

use super::codec::{Reader, put_number, put_text};
use crate::backend::Object;

/// Most names of one chunk.
pub(crate) const NAMES_MAX: usize = 256;

const FORMAT: u8 = 1;

const IS_PREFIX: u8 = 1;
const IS_WEAK: u8 = 1 << 1;
const HAS_INODE: u8 = 1 << 2;
/// The time has a part below the millisecond.
const HAS_NANOS: u8 = 1 << 3;
/// How the tag is written, in the two highest bits.
const TAG_SHIFT: u32 = 6;

/// All names of a directory from `first` up to but without `end`, as they were at some time after `since`.
///
/// Names are relative to the directory; those of directories end in `/`, and the empty one is the directory's own
/// marker. Objects have no headers.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// Where the range begins; not itself a name, as a rule.
    pub(crate) first: String,
    /// Where it ends; `None` covers all that follows.
    pub(crate) end: Option<String>,
    /// When the store was asked.
    pub(crate) since: SystemTime,
    /// In byte order.
    pub(crate) names: Vec<Object>,
}

impl Chunk {
    /// Whether `name` lies in the range.
    pub(crate) fn covers(&self, name: &str) -> bool {
        *name >= *self.first && self.end.as_deref().is_none_or(|end| name < end)
    }

    /// Where `name` is or would be.
    pub(crate) fn place(&self, name: &str) -> Result<usize, usize> {
        self.names.binary_search_by(|object| object.key.as_str().cmp(name))
    }

    /// All but `first`, which is the chunk's key.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.names.len() * 48);
        out.push(FORMAT);
        put_number(&mut out, millis(self.since));
        match &self.end {
            None => out.push(0),
            Some(end) => {
                out.push(1);
                put_text(&mut out, end);
            }
        }
        put_number(&mut out, self.names.len() as u64);
        let (mut last, mut base) = ("", 0);
        for object in &self.names {
            put_object(&mut out, object, last, &mut base);
            last = &object.key;
        }
        out
    }

    /// The chunk that begins at `first`; `None` if these bytes are none.
    pub(crate) fn decode(first: &str, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let Head { since, end, count } = head(&mut reader)?;
        let mut names: Vec<Object> = Vec::with_capacity(count.min(NAMES_MAX));
        let (mut key, mut base) = (Vec::new(), 0);
        for _ in 0..count {
            names.push(raw(&mut reader, &mut key, &mut base)?.object(&key)?);
        }
        let end = end.map(ToOwned::to_owned);
        reader.0.is_empty().then_some(Self { first: first.to_owned(), end, since, names })
    }

    /// What the chunk says of `name`, which it does not begin after.
    pub(crate) fn say(mut self, name: &str) -> Said {
        match self.place(name) {
            _ if !self.covers(name) => Said::Nothing,
            Ok(at) => Said::There(self.names.swap_remove(at), self.since),
            Err(_) => Said::Missing(self.since),
        }
    }

    /// [`Chunk::say`] of the chunk in these bytes, whose other names are passed over; `None` if they are no chunk.
    pub(crate) fn find(name: &str, bytes: &[u8]) -> Option<Said> {
        let mut reader = Reader(bytes);
        let Head { since, end, count } = head(&mut reader)?;
        if end.is_some_and(|end| name >= end) {
            return Some(Said::Nothing);
        }
        let (mut key, mut base) = (Vec::new(), 0);
        for _ in 0..count {
            let raw = raw(&mut reader, &mut key, &mut base)?;
            match key.as_slice().cmp(name.as_bytes()) {
                Ordering::Less => {}
                Ordering::Equal => return Some(Said::There(raw.object(&key)?, since)),
                Ordering::Greater => break,
            }
        }
        Some(Said::Missing(since))
    }
}

/// What a chunk says of one name, and when its store was asked.
#[derive(Debug)]
pub(crate) enum Said {
    /// The name is outside of its range.
    Nothing,
    Missing(SystemTime),
    There(Object, SystemTime),
}

struct Head<'a> {
    since: SystemTime,
    end: Option<&'a str>,
    count: usize,
}

fn head<'a>(reader: &mut Reader<'a>) -> Option<Head<'a>> {
    if reader.byte()? != FORMAT {
        return None;
    }
    let since = time(reader.number()?, 0)?;
    let end = match reader.byte()? {
        0 => None,
        _ => Some(reader.text()?),
    };
    Some(Head { since, end, count: usize::try_from(reader.number()?).ok()? })
}

fn put_object(out: &mut Vec<u8>, object: &Object, last: &str, base: &mut u64) {
    let age = object.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (modified, nanos) = (millis(object.modified), age.subsec_nanos() % 1_000_000);
    let (tag, form) = Tag::of(object.etag.as_str());
    let mut flags = form << TAG_SHIFT;
    for (flag, is_set) in [
        (IS_PREFIX, object.is_prefix),
        (IS_WEAK, object.is_weak),
        (HAS_INODE, object.inode.is_some()),
        (HAS_NANOS, nanos > 0),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    out.push(flags);
    let shared = shared_bytes(last, &object.key);
    put_number(out, shared as u64);
    put_text(out, &object.key[shared..]);
    if !object.is_prefix {
        put_number(out, object.size_bytes);
    }
    put_number(out, zigzag(modified.wrapping_sub(*base) as i64));
    *base = modified;
    if nanos > 0 {
        put_number(out, u64::from(nanos));
    }
    if let Some(inode) = object.inode {
        put_number(out, inode);
    }
    match tag {
        Tag::None => {}
        Tag::Digest(digest) => out.extend_from_slice(&digest),
        Tag::Parts(digest, parts) => {
            out.extend_from_slice(&digest);
            put_number(out, parts);
        }
        Tag::Text(text) => put_text(out, text),
    }
}

/// All of an object but its key.
struct Raw<'a> {
    flags: u8,
    size_bytes: u64,
    modified: (u64, u32),
    inode: Option<u64>,
    tag: Tag<'a>,
}

/// Reads the object that follows the one of `key`, and leaves its key there.
fn raw<'a>(reader: &mut Reader<'a>, key: &mut Vec<u8>, base: &mut u64) -> Option<Raw<'a>> {
    let flags = reader.byte()?;
    let shared = usize::try_from(reader.number()?).ok()?;
    key.get(..shared)?;
    key.truncate(shared);
    key.extend_from_slice(reader.piece()?);
    let size_bytes = if flags & IS_PREFIX != 0 { 0 } else { reader.number()? };
    *base = base.wrapping_add(unzigzag(reader.number()?) as u64);
    let nanos = if flags & HAS_NANOS != 0 { u32::try_from(reader.number()?).ok()? } else { 0 };
    let inode = if flags & HAS_INODE != 0 { Some(reader.number()?) } else { None };
    let tag = match flags >> TAG_SHIFT {
        0 => Tag::None,
        1 => Tag::Digest(reader.bytes(16)?.try_into().ok()?),
        2 => Tag::Parts(reader.bytes(16)?.try_into().ok()?, reader.number()?),
        _ => Tag::Text(reader.text()?),
    };
    Some(Raw { flags, size_bytes, modified: (*base, nanos), inode, tag })
}

impl Raw<'_> {
    /// `None` if the key is no text.
    fn object(&self, key: &[u8]) -> Option<Object> {
        let etag = match self.tag {
            Tag::None => ETag::new(""),
            Tag::Digest(digest) => ETag::new(&hex::encode(digest)),
            Tag::Parts(digest, parts) => ETag::new(&format!("{}-{parts}", hex::encode(digest))),
            Tag::Text(text) => ETag::new(text),
        };
        Some(Object {
            key: str::from_utf8(key).ok()?.to_owned(),
            is_prefix: self.flags & IS_PREFIX != 0,
            size_bytes: self.size_bytes,
            etag,
            is_weak: self.flags & IS_WEAK != 0,
            modified: time(self.modified.0, self.modified.1)?,
            headers: None,
            inode: self.inode,
        })
    }
}

/// A tag in its shortest form.
enum Tag<'a> {
    None,
    /// 32 lower-case hex digits.
    Digest([u8; 16]),
    /// The same, and `-` and a number.
    Parts([u8; 16], u64),
    Text(&'a str),
}

impl<'a> Tag<'a> {
    fn of(text: &'a str) -> (Self, u8) {
        let digest = |text: &str| {
            let mut digest = [0; 16];
            let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
            (is_lower && hex::decode_to_slice(text, &mut digest).is_ok()).then_some(digest)
        };
        if text.is_empty() {
            return (Self::None, 0);
        }
        if let Some(digest) = digest(text) {
            return (Self::Digest(digest), 1);
        }
        if let Some((head, tail)) = text.split_once('-')
            && let (Some(digest), Ok(parts)) = (digest(head), tail.parse::<u64>())
            && parts.to_string() == tail
        {
            return (Self::Parts(digest, parts), 2);
        }
        (Self::Text(text), 3)
    }
}

/// How many bytes two names share, not cutting a character.
fn shared_bytes(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=same).rev().find(|&at| b.is_char_boundary(at) && a.is_char_boundary(at)).unwrap_or_default()
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn time(millis: u64, nanos: u32) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))?
        .checked_add(Duration::from_nanos(u64::from(nanos)))
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(key: &str, etag: &str, nanos: u64) -> Object {
        Object {
            size_bytes: key.len() as u64 * 1000,
            etag: ETag::new(etag),
            modified: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
            is_prefix: false,
            ..Object::prefix(key)
        }
    }

    #[test]
    fn chunks_are_read_as_they_were_written() {
        let digest = "d41d8cd98f00b204e9800998ecf8427e";
        let names = vec![
            file("", digest, 0),
            Object {
                is_weak: true,
                inode: Some(7),
                ..file("a", &format!("{digest}-12"), 1_700_000_000_123_456_789)
            },
            file("ä", "D41D8CD98F00B204E9800998ECF8427E", 5_000_000),
            file("äö.txt", &format!("{digest}-01"), 4_000_000),
            Object { inode: Some(u64::MAX), ..Object::prefix("äü/") },
            file("ö", "", u64::MAX),
        ];
        let chunk = Chunk { first: "a".into(), end: Some("z\0".into()), since: SystemTime::now(), names };
        let read = Chunk::decode("a", &chunk.encode()).expect("a chunk");
        assert_eq!(format!("{:?}", read.names), format!("{:?}", chunk.names));
        assert_eq!((read.end, millis(read.since)), (chunk.end, millis(chunk.since)));
    }

    #[test]
    fn chunk_that_is_cut_off_anywhere_is_none() {
        let names = vec![file("a", "tag", 1), file("b", "d41d8cd98f00b204e9800998ecf8427e", 2)];
        let bytes = Chunk { first: String::new(), end: None, since: SystemTime::now(), names }.encode();
        for len in 0..bytes.len() {
            assert!(Chunk::decode("", &bytes[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn a_name_is_found_in_the_bytes_as_in_the_chunk() {
        let digest = "d41d8cd98f00b204e9800998ecf8427e";
        let names =
            vec![file("a", digest, 1_500_000), file("ab/", "x", 0), file("b", &format!("{digest}-2"), 7)];
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(3);
        for end in [None, Some("c".to_owned()), Some("b0".to_owned())] {
            let chunk = Chunk { first: "a".into(), end, since, names: names.clone() };
            let bytes = chunk.encode();
            for name in ["a", "aa", "ab/", "ab0", "b", "b0", "bb", "c", "d"] {
                let found = Chunk::find(name, &bytes).expect("a chunk");
                assert_eq!(format!("{found:?}"), format!("{:?}", chunk.clone().say(name)), "{name}");
            }
        }
        assert!(Chunk::find("a", &[FORMAT + 1]).is_none());
    }

    #[test]
    fn an_entry_of_a_usual_directory_takes_less_than_60_bytes() {
        let names: Vec<_> = (0..NAMES_MAX)
            .map(|i| {
                file(&format!("image-{i:08}.jpg"), &hex::encode([i as u8; 16]), i as u64 * 7_000_000_000)
            })
            .collect();
        let bytes = Chunk { first: String::new(), end: None, since: SystemTime::now(), names }.encode();
        assert!(bytes.len() < 60 * NAMES_MAX, "{}", bytes.len() / NAMES_MAX);
    }
}
