//! Records of the index log and their form on disk; see [`crate::frame`] for the frames.

use std::io::Read;

use crc_fast::{CrcAlgorithm, Digest};

use super::packed::Place;
use crate::cache::page::ContentKey;
pub(super) use crate::frame::checksum;
use crate::frame::{self, Format, Frames, HEADER_BYTES};

const FORMAT: Format = Format { magic: b"FBINDEX\0", version: 1, payload_bytes_max: 64 };

/// One change of what the disk tier holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A file was made for a content of so many bytes, so many seconds after 1970.
    Made { file: FileName, size_bytes: u64, born_s: u64 },
    /// A page of it is there.
    Page { serial: u64, number: u64, checksum: u32 },
    /// It was evicted or dropped.
    Gone { serial: u64 },
    /// An object was put into a segment; the segment that is no more takes its objects with it.
    Packed { content: ContentKey, place: Place, born_s: u32 },
    /// It was dropped.
    Unpacked { content: ContentKey },
}

/// The name of a file: its content, and a number that no other file of the directory ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    pub(super) content: ContentKey,
    pub(super) serial: u64,
}

impl FileName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (content, serial) = name.split_once('-')?;
        let name = Self {
            content: ContentKey::from_bits(u128::from_str_radix(content, 16).ok()?),
            serial: u64::from_str_radix(serial, 16).ok()?,
        };
        Some(name)
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:x}", self.content, self.serial)
    }
}

/// CRC-32C of several pieces as one.
pub(super) fn checksum_of(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize() as u32
}

/// What a log begins with.
pub(super) fn header() -> [u8; HEADER_BYTES] {
    FORMAT.header()
}

impl Record {
    /// Appends the record's frame.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        frame::encode(to, |to| self.fill(to));
    }

    fn fill(&self, to: &mut Vec<u8>) {
        match *self {
            Self::Made { file, size_bytes, born_s } => {
                to.push(1);
                to.extend_from_slice(&file.content.bits().to_le_bytes());
                to.extend_from_slice(&file.serial.to_le_bytes());
                to.extend_from_slice(&size_bytes.to_le_bytes());
                to.extend_from_slice(&born_s.to_le_bytes());
            }
            Self::Page { serial, number, checksum } => {
                to.push(2);
                to.extend_from_slice(&serial.to_le_bytes());
                to.extend_from_slice(&number.to_le_bytes());
                to.extend_from_slice(&checksum.to_le_bytes());
            }
            Self::Gone { serial } => {
                to.push(3);
                to.extend_from_slice(&serial.to_le_bytes());
            }
            Self::Packed { content, place, born_s } => {
                to.push(4);
                to.extend_from_slice(&content.bits().to_le_bytes());
                for field in [place.segment, place.offset, place.length, born_s] {
                    to.extend_from_slice(&field.to_le_bytes());
                }
            }
            Self::Unpacked { content } => {
                to.push(5);
                to.extend_from_slice(&content.bits().to_le_bytes());
            }
        }
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let record = match fields.take::<1>()? {
            [1] => {
                let content = ContentKey::from_bits(u128::from_le_bytes(fields.take()?));
                let file = FileName { content, serial: fields.number()? };
                Self::Made { file, size_bytes: fields.number()?, born_s: fields.number()? }
            }
            [2] => {
                Self::Page { serial: fields.number()?, number: fields.number()?, checksum: fields.word()? }
            }
            [3] => Self::Gone { serial: fields.number()? },
            [4] => {
                let content = ContentKey::from_bits(u128::from_le_bytes(fields.take()?));
                let [segment, offset, length] = [fields.word()?, fields.word()?, fields.word()?];
                Self::Packed { content, place: Place { segment, offset, length }, born_s: fields.word()? }
            }
            [5] => Self::Unpacked { content: ContentKey::from_bits(u128::from_le_bytes(fields.take()?)) },
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }
}

/// What is left of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The records of a log, up to its end or to the first damage.
pub(super) struct Records<R>(Frames<R>);

impl<R: Read> Records<R> {
    pub(super) fn new(log: R) -> Self {
        Self(Frames::new(log, FORMAT))
    }

    /// Where the damage begins, if the log did not end as it should.
    pub(super) fn damage(&self) -> Option<u64> {
        self.0.damage()
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.0.next_as(Record::decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let file = |serial| FileName { content: ContentKey::from_bits(7 << 100 | 5), serial };
        vec![
            Record::Made { file: file(3), size_bytes: 3 << 20, born_s: 1_700_000_000 },
            Record::Page { serial: 3, number: 0, checksum: 0xDEAD_BEEF },
            Record::Page { serial: 3, number: 2, checksum: 1 },
            Record::Gone { serial: 3 },
            Record::Packed {
                content: ContentKey::from_bits(9),
                place: Place { segment: 1, offset: u32::MAX, length: 4 },
                born_s: 5,
            },
            Record::Unpacked { content: ContentKey::from_bits(9) },
            Record::Made { file: file(u64::MAX), size_bytes: u64::MAX, born_s: 0 },
        ]
    }

    fn log() -> Vec<u8> {
        let mut log = header().to_vec();
        for record in records() {
            record.encode(&mut log);
        }
        log
    }

    #[test]
    fn log_reads_as_it_was_written() {
        let log = log();
        let mut read = Records::new(&log[..]);
        assert_eq!(read.by_ref().collect::<Vec<_>>(), records());
        assert_eq!(read.damage(), None);
    }

    /// How many records end before byte `at`.
    fn records_before(at: usize) -> usize {
        let ends = records().into_iter().scan(HEADER_BYTES, |end, record| {
            let mut frame = Vec::new();
            record.encode(&mut frame);
            *end += frame.len();
            Some(*end)
        });
        ends.take_while(|end| *end <= at).count()
    }

    #[test]
    fn log_cut_anywhere_keeps_what_lies_before_the_cut() {
        let log = log();
        for length in 0..log.len() {
            let found: Vec<_> = Records::new(&log[..length]).collect();
            assert_eq!(found, records()[..records_before(length)], "cut to {length} bytes");
        }
    }

    #[test]
    fn log_with_any_byte_changed_keeps_what_lies_before_it() {
        let log = log();
        for at in 0..log.len() {
            for flip in [1, 0x80, 0xFF] {
                let mut damaged = log.clone();
                damaged[at] ^= flip;
                let mut read = Records::new(&damaged[..]);
                let found: Vec<_> = read.by_ref().collect();
                let kept = if at < HEADER_BYTES { 0 } else { records_before(at) };
                assert_eq!(found, records()[..kept], "byte {at} xor {flip}");
                assert!(read.damage().is_some());
            }
        }
    }

    #[test]
    fn names_are_what_they_were_made_of() {
        let name = FileName { content: ContentKey::from_bits(1 << 120), serial: 255 };
        assert_eq!(FileName::parse(&name.to_string()), Some(name));
        assert_eq!(FileName::parse("notes"), None);
    }
}
