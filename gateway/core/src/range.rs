//! Byte ranges of a file.

/// `len` bytes from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl ByteRange {
    /// `len` bytes from `offset`.
    pub fn new(offset: u64, len: u64) -> Self {
        Self { offset, len }
    }

    /// One past the last byte.
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// The part of this range that exists in a file of `size_bytes`; empty at or past its end.
    #[must_use]
    pub fn clamp_to(self, size_bytes: u64) -> Self {
        let offset = self.offset.min(size_bytes);
        Self { offset, len: self.end().min(size_bytes) - offset }
    }

    /// Whether no byte is asked for.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_past_the_end_are_clamped() {
        assert_eq!(ByteRange::new(5, 10).clamp_to(8), ByteRange::new(5, 3));
        assert!(ByteRange::new(9, 1).clamp_to(8).is_empty());
        assert_eq!(ByteRange::new(1, u64::MAX).clamp_to(8), ByteRange::new(1, 7));
    }
}
