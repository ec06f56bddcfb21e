//! Append logs: a header, then frames of length, CRC-32C over length and payload, and payload. Integers are
//! little-endian. What cannot be read ends a log: a reader gets every frame before it and none after.

use std::io::{self, Read};

use crc_fast::CrcAlgorithm;

/// Bytes of what a log begins with.
pub(crate) const HEADER_BYTES: usize = 16;

/// Bytes before a payload: its length and the checksum.
const PREFIX_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;

/// What kind of log it is.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) magic: &'static [u8; 8],
    pub(crate) version: u32,
    /// No frame is longer: a length that says so is damage.
    pub(crate) payload_bytes_max: usize,
}

/// CRC-32C.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

impl Format {
    /// What a log begins with.
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(self.magic);
        header[8..12].copy_from_slice(&self.version.to_le_bytes());
        let sum = checksum(&header[..12]);
        header[12..].copy_from_slice(&sum.to_le_bytes());
        header
    }
}

/// Appends a frame whose payload is what `fill` appends.
pub(crate) fn encode(to: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend_from_slice(&[0; PREFIX_BYTES]);
    fill(to);
    let length = ((to.len() - start - PREFIX_BYTES) as u32).to_le_bytes();
    // The length lies next to the payload for as long as both are summed.
    to[start + LENGTH_BYTES..start + PREFIX_BYTES].copy_from_slice(&length);
    let sum = checksum(&to[start + LENGTH_BYTES..]).to_le_bytes();
    to[start..start + LENGTH_BYTES].copy_from_slice(&length);
    to[start + LENGTH_BYTES..start + PREFIX_BYTES].copy_from_slice(&sum);
}

/// The frames of a log, up to its end or to the first damage.
pub(crate) struct Frames<R> {
    log: R,
    format: Format,
    /// Length and payload of the frame read last.
    frame: Vec<u8>,
    /// Bytes that were good so far.
    good_bytes: u64,
    is_damaged: bool,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(mut log: R, format: Format) -> Self {
        let mut found = [0; HEADER_BYTES];
        let is_damaged = log.read_exact(&mut found).is_err() || found != format.header();
        let good_bytes = if is_damaged { 0 } else { HEADER_BYTES as u64 };
        Self { log, format, frame: Vec::new(), good_bytes, is_damaged }
    }

    /// As [`Frames::new`] for what follows the first `good_bytes` of a log, which were read from elsewhere.
    pub(crate) fn resume(rest: R, format: Format, good_bytes: u64) -> Self {
        Self { log: rest, format, frame: Vec::new(), good_bytes, is_damaged: false }
    }

    /// How much of the log was good so far.
    pub(crate) fn good_bytes(&self) -> u64 {
        self.good_bytes
    }

    /// Where the damage begins, if the log did not end as it should.
    pub(crate) fn damage(&self) -> Option<u64> {
        self.is_damaged.then_some(self.good_bytes)
    }

    /// What the next frame is read as; `None` at the end of what is good. A payload that `decode` does not know is
    /// damage.
    pub(crate) fn next_as<T>(&mut self, decode: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        if self.is_damaged {
            return None;
        }
        let read = self.read();
        let is_end = matches!(read, Ok(false));
        let decoded = read.ok().filter(|is_read| *is_read).and_then(|_| decode(&self.frame[LENGTH_BYTES..]));
        match decoded {
            Some(_) => self.good_bytes += (LENGTH_BYTES + self.frame.len()) as u64,
            None => self.is_damaged = !is_end,
        }
        decoded
    }

    /// Reads a frame; `false` at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut prefix = [0; PREFIX_BYTES];
        if self.log.read(&mut prefix[..1])? == 0 {
            return Ok(false);
        }
        self.log.read_exact(&mut prefix[1..])?;
        let [a, b, c, d, sum @ ..] = prefix;
        let length = [a, b, c, d];
        let payload_bytes = u32::from_le_bytes(length) as usize;
        if payload_bytes > self.format.payload_bytes_max {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.frame.resize(LENGTH_BYTES + payload_bytes, 0);
        self.frame[..LENGTH_BYTES].copy_from_slice(&length);
        self.log.read_exact(&mut self.frame[LENGTH_BYTES..])?;
        if checksum(&self.frame) != u32::from_le_bytes(sum) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(true)
    }
}
