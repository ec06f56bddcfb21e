//! Percent-encodes what Java leaves raw: bytes above 0x7F in request lines, which actix's URI parser refuses.
//!
//! Follows the framing of HTTP/1.1 just far enough to know which bytes are request lines; no other byte is ever
//! changed. Whatever it does not understand, it stops looking at for good, and such names are then refused.

/// Longest line of a head that is kept to be understood.
const LINE_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    RequestLine,
    Header,
    /// Bytes of a body, or of a chunk with its line end, still to come, and what follows.
    Content(u64, After),
    ChunkSize,
    Trailer,
    /// Not understood: everything passes.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Request,
    Chunk,
}

/// Where one connection's incoming bytes are.
#[derive(Debug)]
pub(crate) struct RequestLines {
    place: Place,
    /// The present line as far as it came in.
    line: Vec<u8>,
    length: Option<u64>,
    is_chunked: bool,
}

impl Default for RequestLines {
    fn default() -> Self {
        Self { place: Place::RequestLine, line: Vec::new(), length: None, is_chunked: false }
    }
}

impl RequestLines {
    /// Follows `bytes`, and returns them changed if a raw byte is in a request line.
    pub(crate) fn encode(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut changed: Option<Vec<u8>> = None;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let taken = match self.place {
                Place::Lost => rest.len(),
                Place::Content(left, after) => self.content(rest.len() as u64, left, after),
                Place::RequestLine | Place::Header | Place::ChunkSize | Place::Trailer => {
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    let part = &rest[..end.map_or(rest.len(), |end| end + 1)];
                    if self.place == Place::RequestLine && !part.is_ascii() {
                        let changed = changed.get_or_insert_with(|| bytes[..at].to_vec());
                        escape(part, changed);
                        at += part.len();
                        self.line(part, end.is_some());
                        continue;
                    }
                    self.line(part, end.is_some());
                    part.len()
                }
            };
            if let Some(changed) = &mut changed {
                changed.extend_from_slice(&rest[..taken]);
            }
            at += taken;
        }
        changed
    }

    fn content(&mut self, here: u64, left: u64, after: After) -> usize {
        let taken = here.min(left);
        self.place = match (left - taken, after) {
            (0, After::Request) => Place::RequestLine,
            (0, After::Chunk) => Place::ChunkSize,
            (left, after) => Place::Content(left, after),
        };
        taken as usize
    }

    fn line(&mut self, part: &[u8], is_whole: bool) {
        if self.line.len() + part.len() > LINE_BYTES_MAX {
            self.place = Place::Lost;
            self.line = Vec::new();
            return;
        }
        self.line.extend_from_slice(part);
        if is_whole {
            let line = std::mem::take(&mut self.line);
            self.place = self.after(line.trim_ascii());
        }
    }

    fn after(&mut self, line: &[u8]) -> Place {
        match self.place {
            // Empty lines before a request are allowed; one after the trailers ends the body.
            Place::RequestLine | Place::Trailer if line.is_empty() => Place::RequestLine,
            Place::RequestLine => {
                self.length = None;
                self.is_chunked = false;
                Place::Header
            }
            Place::Header if line.is_empty() => self.body(),
            Place::Header => self.header(line),
            Place::ChunkSize => match chunk_size(line) {
                Some(0) => Place::Trailer,
                Some(size) => Place::Content(size + 2, After::Chunk),
                None => Place::Lost,
            },
            Place::Trailer | Place::Content(..) | Place::Lost => self.place,
        }
    }

    fn body(&self) -> Place {
        match (self.length, self.is_chunked) {
            (Some(_), true) => Place::Lost,
            (None, true) => Place::ChunkSize,
            (None | Some(0), false) => Place::RequestLine,
            (Some(length), false) => Place::Content(length, After::Request),
        }
    }

    fn header(&mut self, line: &[u8]) -> Place {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Place::Lost };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            if length.is_none() || self.length.is_some_and(|known| Some(known) != length) {
                return Place::Lost;
            }
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Place::Lost;
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            return Place::Lost;
        }
        Place::Header
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    u32::try_from(size).is_ok().then_some(size)
}

fn escape(line: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in line {
        if byte.is_ascii() {
            out.push(*byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stream as it comes out when it comes in in pieces of `step` bytes.
    fn through(input: &[u8], step: usize) -> Vec<u8> {
        let mut lines = RequestLines::default();
        input.chunks(step).flat_map(|piece| lines.encode(piece).unwrap_or_else(|| piece.to_vec())).collect()
    }

    #[test]
    fn raw_bytes_are_escaped_in_request_lines_and_nowhere_else() {
        let head = |target: &str| format!("PUT {target} HTTP/1.1\r\nX-Name: é\r\n");
        let body = "GET /é HTTP/1.1\r\n\r\n";
        let make = |target: &str| {
            let sized = format!("{}Content-Length: {}\r\n\r\n{body}", head(target), body.len());
            let chunks = format!("{:x};x=y\r\n{body}\r\n3\r\né!\r\n0\r\nT: é\r\n\r\n", body.len());
            let chunked = format!("{}Transfer-Encoding: chunked\r\n\r\n{chunks}", head(target));
            format!("{sized}{chunked}{}\r\n{sized}", head(target))
        };
        let (raw, encoded) = (make("/ü/a?x=ß"), make("/%C3%BC/a?x=%C3%9F"));
        for step in 1..raw.len() {
            assert_eq!(String::from_utf8_lossy(&through(raw.as_bytes(), step)), encoded, "step {step}");
        }
    }

    #[test]
    fn ascii_requests_are_not_copied() {
        assert!(RequestLines::default().encode(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").is_none());
    }

    #[test]
    fn unclear_framing_is_left_alone() {
        for head in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Content-Length: x",
            "Transfer-Encoding: gzip",
        ] {
            let input = format!("PUT /a HTTP/1.1\r\n{head}\r\n\r\nGET /é HTTP/1.1\r\n\r\n");
            assert_eq!(through(input.as_bytes(), 7), input.as_bytes());
        }
    }
}
