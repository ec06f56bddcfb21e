//! Pages and their keys.

use std::hash::{BuildHasherDefault, Hasher};

use forebay_core::{ByteRange, FileId, Version};

use super::ContentId;

/// Length of every page but a content's last: what one fetch asks a store for.
pub const PAGE_BYTES: u64 = 1 << 20;

/// What is fetched of a content of several pages before anything else, so that its first reader waits for no page.
pub(super) const HEAD_BYTES: u64 = 128 << 10;

/// 128 bits of hash that stand for a [`ContentId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContentKey(u128);

impl ContentKey {
    pub(crate) fn of(content: &ContentId) -> Self {
        let strength: &[u8] = match content.version {
            Version::Strong(_) => b"strong",
            Version::Weak(_) => b"weak",
        };
        let file_id = content.file_id.as_u128().to_le_bytes();
        Self(FileId::of(&[&file_id, strength, content.version.as_str().as_bytes()]).as_u128())
    }

    pub(crate) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u128 {
        self.0
    }

    pub(super) fn page(self, number: u64) -> PageKey {
        PageKey { content: self, number }
    }

    /// What a policy remembers it by.
    pub(super) fn fingerprint(self) -> u64 {
        (self.0 ^ self.0 >> 64) as u64
    }

    /// Stands for the first [`HEAD_BYTES`], among flights only.
    pub(super) fn head(self) -> PageKey {
        PageKey { content: self, number: u64::MAX }
    }
}

impl std::fmt::Display for ContentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One page of one content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PageKey {
    pub(super) content: ContentKey,
    pub(super) number: u64,
}

impl PageKey {
    /// What a policy remembers it by; that of no content.
    pub(super) fn fingerprint(self) -> u64 {
        self.content.fingerprint().wrapping_add((self.number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

/// Hashes keys that are hashes already.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

pub(super) type KeyHash = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 ^= (hash as u64) ^ ((hash >> 64) as u64);
    }
}

/// How many pages a content of `size_bytes` has.
pub(super) fn page_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(PAGE_BYTES)
}

/// The bytes of page `number` of a content of `size_bytes`.
pub(super) fn page_range(number: u64, size_bytes: u64) -> ByteRange {
    ByteRange::new(number * PAGE_BYTES, PAGE_BYTES).clamp_to(size_bytes)
}

/// The part of `range` that lies in page `number`, counted from the content's start.
pub(super) fn within(range: ByteRange, number: u64) -> ByteRange {
    let start = range.offset.max(number * PAGE_BYTES);
    let end = range.end().min((number + 1) * PAGE_BYTES);
    ByteRange::new(start, end.saturating_sub(start))
}

/// The numbers of the pages that `range` touches; it must not be empty.
pub(super) fn pages(range: ByteRange) -> std::ops::RangeInclusive<u64> {
    range.offset / PAGE_BYTES..=(range.end() - 1) / PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_page_borders() {
        let range = ByteRange::new(PAGE_BYTES - 1, 2);
        assert_eq!(pages(range), 0..=1);
        assert_eq!(within(range, 0), ByteRange::new(PAGE_BYTES - 1, 1));
        assert_eq!(within(range, 1), ByteRange::new(PAGE_BYTES, 1));
        assert_eq!(page_range(1, PAGE_BYTES + 7), ByteRange::new(PAGE_BYTES, 7));
        assert_eq!(page_count(PAGE_BYTES + 7), 2);
        assert_eq!(page_count(0), 0);
    }

    #[test]
    fn neither_strength_nor_file_nor_version_is_lost_in_the_key() {
        let id = |file: &[u8], version| ContentId { file_id: FileId::of(&[file]), version };
        let keys = [
            ContentKey::of(&id(b"a", Version::Strong("1".into()))),
            ContentKey::of(&id(b"a", Version::Weak("1".into()))),
            ContentKey::of(&id(b"a", Version::Strong("2".into()))),
            ContentKey::of(&id(b"b", Version::Strong("1".into()))),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|other| one != other));
        }
    }
}
