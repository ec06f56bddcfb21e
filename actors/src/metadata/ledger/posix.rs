//! POSIX attributes, xattrs and the target of a symbolic link of one name, as bytes: a million of them lie in memory.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forebay_core::{AttributeChange, ETag, Entry, Error, ErrorKind, Result, XattrMode};

use crate::metadata::codec::{Reader, put_number, put_text};

/// Most bytes of names and values of xattrs per entry; what ext4 gives with one block.
const XATTR_BYTES_MAX: usize = 4096;

const HAS_MODE: u8 = 1;
const HAS_UID: u8 = 1 << 1;
const HAS_GID: u8 = 1 << 2;
const HAS_ACCESSED: u8 = 1 << 3;
const HAS_MODIFIED: u8 = 1 << 4;
const HAS_CHANGED: u8 = 1 << 5;
const HAS_LINK: u8 = 1 << 6;

/// What was set for a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Posix {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    accessed: Option<SystemTime>,
    /// Holds for the content with this tag only.
    modified: Option<(ETag, SystemTime)>,
    changed: Option<SystemTime>,
    /// The target of a symbolic link; holds for the content with this tag only.
    link: Option<(ETag, Bytes)>,
    xattrs: BTreeMap<String, Bytes>,
}

impl Posix {
    /// Puts what was set over what the store shows.
    pub(super) fn apply(&self, entry: &mut Entry) {
        let attributes = &mut entry.attributes;
        attributes.mode = self.mode.unwrap_or(attributes.mode);
        attributes.uid = self.uid.unwrap_or(attributes.uid);
        attributes.gid = self.gid.unwrap_or(attributes.gid);
        attributes.accessed = self.accessed.unwrap_or(attributes.accessed);
        attributes.changed =
            self.changed.map_or(attributes.changed, |changed| changed.max(attributes.changed));
        if let Some((etag, modified)) = &self.modified
            && *etag == entry.etag
        {
            entry.modified = *modified;
        }
    }

    /// Sets attributes; a modification time holds until the content, now tagged `etag`, changes.
    pub(super) fn change(&mut self, change: &AttributeChange, etag: &ETag, now: SystemTime) {
        self.mode = change.mode.or(self.mode);
        self.uid = change.uid.or(self.uid);
        self.gid = change.gid.or(self.gid);
        self.accessed = change.accessed.or(self.accessed);
        if let Some(modified) = change.modified {
            self.modified = Some((etag.clone(), modified));
        }
        self.changed = Some(now);
    }

    /// A symbolic link to `target`, whose content is tagged `etag`.
    pub(super) fn of_link(target: Bytes, (uid, gid): (u32, u32), etag: &ETag, now: SystemTime) -> Self {
        let link = Some((etag.clone(), target));
        Self { uid: Some(uid), gid: Some(gid), changed: Some(now), link, ..Self::default() }
    }

    /// The target, if the content tagged `etag` is that of a symbolic link.
    pub(super) fn link(&self, etag: &ETag) -> Option<&Bytes> {
        self.link.as_ref().filter(|(tag, _)| tag == etag).map(|(_, target)| target)
    }

    /// Whether it is a symbolic link, or was one with an earlier content.
    pub(super) fn is_link(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn forget_link(&mut self) {
        self.link = None;
    }

    /// The content tagged `from` has another tag at the name that it was copied or renamed to.
    pub(super) fn retag(&mut self, from: &ETag, to: &ETag) {
        let tags = [self.modified.as_mut().map(|(tag, _)| tag), self.link.as_mut().map(|(tag, _)| tag)];
        for tag in tags.into_iter().flatten().filter(|tag| *tag == from) {
            *tag = to.clone();
        }
    }

    pub(super) fn into_xattrs(self) -> Vec<(String, Bytes)> {
        self.xattrs.into_iter().collect()
    }

    pub(super) fn set_xattr(&mut self, name: &str, value: Option<Bytes>, mode: XattrMode) -> Result<()> {
        let is_there = self.xattrs.contains_key(name);
        let Some(value) = value else {
            return self.xattrs.remove(name).map(|_| ()).ok_or_else(no_xattr);
        };
        match mode {
            XattrMode::Create if is_there => {
                return Err(Error::new(ErrorKind::AlreadyExists, "the xattr exists"));
            }
            XattrMode::Replace if !is_there => return Err(no_xattr()),
            XattrMode::Any | XattrMode::Create | XattrMode::Replace => {}
        }
        let others = self.xattrs.iter().filter(|(k, _)| *k != name).map(|(k, v)| k.len() + v.len());
        if others.sum::<usize>() + name.len() + value.len() > XATTR_BYTES_MAX {
            let message = format!("the xattrs of an entry take at most {XATTR_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        self.xattrs.insert(name.to_owned(), value);
        Ok(())
    }

    pub(super) fn encode(&self) -> Box<[u8]> {
        let flags = [
            (HAS_MODE, self.mode.is_some()),
            (HAS_UID, self.uid.is_some()),
            (HAS_GID, self.gid.is_some()),
            (HAS_ACCESSED, self.accessed.is_some()),
            (HAS_MODIFIED, self.modified.is_some()),
            (HAS_CHANGED, self.changed.is_some()),
            (HAS_LINK, self.link.is_some()),
        ];
        let mut out = vec![flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum()];
        for number in [self.mode, self.uid, self.gid].into_iter().flatten() {
            put_number(&mut out, u64::from(number));
        }
        self.accessed.iter().for_each(|time| put_time(&mut out, *time));
        if let Some((etag, modified)) = &self.modified {
            put_text(&mut out, etag.as_str());
            put_time(&mut out, *modified);
        }
        self.changed.iter().for_each(|time| put_time(&mut out, *time));
        if let Some((etag, target)) = &self.link {
            put_text(&mut out, etag.as_str());
            put_bytes(&mut out, target);
        }
        for (name, value) in &self.xattrs {
            put_text(&mut out, name);
            put_bytes(&mut out, value);
        }
        out.into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let flags = reader.byte()?;
        let mut posix = Self::default();
        for (flag, field) in
            [(HAS_MODE, &mut posix.mode), (HAS_UID, &mut posix.uid), (HAS_GID, &mut posix.gid)]
        {
            if flags & flag != 0 {
                *field = Some(u32::try_from(reader.number()?).ok()?);
            }
        }
        if flags & HAS_ACCESSED != 0 {
            posix.accessed = Some(time(&mut reader)?);
        }
        if flags & HAS_MODIFIED != 0 {
            posix.modified = Some((ETag::new(reader.text()?), time(&mut reader)?));
        }
        if flags & HAS_CHANGED != 0 {
            posix.changed = Some(time(&mut reader)?);
        }
        if flags & HAS_LINK != 0 {
            posix.link = Some((ETag::new(reader.text()?), bytes_of(&mut reader)?));
        }
        while !reader.0.is_empty() {
            let name = reader.text()?.to_owned();
            posix.xattrs.insert(name, bytes_of(&mut reader)?);
        }
        Some(posix)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn bytes_of(reader: &mut Reader<'_>) -> Option<Bytes> {
    let len = usize::try_from(reader.number()?).ok()?;
    Some(Bytes::copy_from_slice(reader.bytes(len)?))
}

/// Seconds with their sign in the lowest bit, and nanoseconds towards the same side.
fn put_time(out: &mut Vec<u8>, time: SystemTime) {
    let (sign, distance) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (0, after),
        Err(before) => (1, before.duration()),
    };
    put_number(out, distance.as_secs() << 1 | sign);
    put_number(out, u64::from(distance.subsec_nanos()));
}

fn time(reader: &mut Reader<'_>) -> Option<SystemTime> {
    let (seconds, nanos) = (reader.number()?, u32::try_from(reader.number()?).ok()?);
    let distance = Duration::from_secs(seconds >> 1).checked_add(Duration::from_nanos(nanos.into()))?;
    match seconds & 1 {
        0 => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    }
}

fn no_xattr() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such xattr")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_read_back_times_before_1970_included() {
        let epoch = SystemTime::UNIX_EPOCH;
        let mut posix = Posix::default();
        assert_eq!(Posix::decode(&posix.encode()), Some(posix.clone()));
        let change = AttributeChange {
            mode: Some(0o640),
            uid: Some(u32::MAX),
            gid: None,
            accessed: Some(epoch - Duration::new(7, 5)),
            modified: Some(epoch + Duration::new(1_700_000_000, 123_456_789)),
        };
        posix.change(&change, &ETag::new("tag"), epoch + Duration::from_secs(9));
        posix.set_xattr("user.a", Some(Bytes::from_static(b"\0\xff")), XattrMode::Create).expect("sets");
        posix.set_xattr("user.empty", Some(Bytes::new()), XattrMode::Any).expect("sets");
        let bytes = posix.encode();
        assert_eq!(Posix::decode(&bytes), Some(posix));
        assert_eq!(Posix::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn link_is_read_back_byte_for_byte_and_holds_for_its_content_only() {
        let [tag, other] = ["tag", "other"].map(ETag::new);
        let target = Bytes::from_static(b"../\xff\n");
        let mut posix = Posix::of_link(target.clone(), (1, 2), &tag, SystemTime::UNIX_EPOCH);
        assert_eq!(Posix::decode(&posix.encode()), Some(posix.clone()));
        assert_eq!((posix.link(&tag), posix.link(&other)), (Some(&target), None));
        posix.retag(&other, &other);
        assert_eq!(posix.link(&other), None, "another content came to the name before it was copied");
        posix.retag(&tag, &other);
        assert_eq!(posix.link(&other), Some(&target));
    }
}
