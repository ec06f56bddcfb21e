//! Checksums that clients send with a body: `Content-MD5`, `x-amz-checksum-*` headers and trailers.
//!
//! Only what was asked for is computed. Nothing is published before [`Digests::verify`] agreed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use s3s::crypto::{Checksum, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Result, TrailingHeaders, s3_error};

/// The checksum algorithms of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As S3 names it in requests and listings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    fn check(self, value: &str) -> S3Result<()> {
        match STANDARD.decode(value) {
            Ok(bytes) if bytes.len() == self.bytes() => Ok(()),
            Ok(_) | Err(_) => Err(s3_error!(InvalidRequest, "value for {} is invalid", self.header())),
        }
    }
}

enum Hasher {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Self::Crc32(Crc32::new()),
            Algorithm::Crc32c => Self::Crc32c(Crc32c::new()),
            Algorithm::Crc64Nvme => Self::Crc64Nvme(Crc64Nvme::new()),
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc32(hasher) => hasher.update(data),
            Self::Crc32c(hasher) => hasher.update(data),
            Self::Crc64Nvme(hasher) => hasher.update(data),
            Self::Sha1(hasher) => hasher.update(data),
            Self::Sha256(hasher) => hasher.update(data),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Crc32(hasher) => STANDARD.encode(hasher.finalize()),
            Self::Crc32c(hasher) => STANDARD.encode(hasher.finalize()),
            Self::Crc64Nvme(hasher) => STANDARD.encode(hasher.finalize()),
            Self::Sha1(hasher) => STANDARD.encode(hasher.finalize()),
            Self::Sha256(hasher) => STANDARD.encode(hasher.finalize()),
        }
    }
}

/// A checksum that a client sent and the body has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) algorithm: Algorithm,
    /// Base64, as sent.
    pub(crate) value: String,
}

impl Verified {
    /// The value, if `algorithm` is this one's.
    pub(crate) fn value_of(this: Option<&Self>, algorithm: Algorithm) -> Option<String> {
        this.filter(|sum| sum.algorithm == algorithm).map(|sum| sum.value.clone())
    }
}

/// The checksums of one body in progress.
pub(crate) struct Digests {
    md5: Option<(Md5, String)>,
    /// `None` as value: it comes in the trailer.
    sum: Option<(Algorithm, Hasher, Option<String>)>,
}

/// What a request says about its body's checksums.
#[derive(Default)]
pub(crate) struct Sent<'a> {
    pub(crate) md5: Option<&'a str>,
    pub(crate) crc32: Option<&'a str>,
    pub(crate) crc32c: Option<&'a str>,
    pub(crate) crc64nvme: Option<&'a str>,
    pub(crate) sha1: Option<&'a str>,
    pub(crate) sha256: Option<&'a str>,
}

impl Digests {
    /// Prepares for what the request sends or announces.
    ///
    /// # Errors
    /// `InvalidDigest` and `InvalidRequest` for malformed values, or more than one checksum.
    pub(crate) fn new(sent: &Sent<'_>, headers: &HeaderMap) -> S3Result<Self> {
        let md5 = match sent.md5 {
            None => None,
            Some(value) if STANDARD.decode(value).is_ok_and(|bytes| bytes.len() == 16) => {
                Some((Md5::new(), value.to_owned()))
            }
            Some(_) => return Err(s3_error!(InvalidDigest, "the Content-MD5 you specified is not valid")),
        };
        let values = [sent.crc32, sent.crc32c, sent.crc64nvme, sent.sha1, sent.sha256];
        let mut announced = Vec::new();
        for (algorithm, value) in Algorithm::ALL.into_iter().zip(values) {
            if let Some(value) = value {
                algorithm.check(value)?;
                announced.push((algorithm, Hasher::new(algorithm), Some(value.to_owned())));
            }
        }
        for name in trailer_names(headers) {
            if let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.header() == name) {
                announced.push((algorithm, Hasher::new(algorithm), None));
            } else if name.starts_with("x-amz-checksum-") {
                return Err(s3_error!(InvalidRequest, "the trailer {name} is not a known checksum"));
            }
        }
        if announced.len() > 1 {
            return Err(s3_error!(InvalidRequest, "expecting a single x-amz-checksum- header or trailer"));
        }
        Ok(Self { md5, sum: announced.pop() })
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        if let Some((hasher, _)) = &mut self.md5 {
            hasher.update(data);
        }
        if let Some((_, hasher, _)) = &mut self.sum {
            hasher.update(data);
        }
    }

    /// The checksum's algorithm and the value sent in the head, if any.
    pub(crate) fn in_head(&self) -> Option<(String, String)> {
        match &self.sum {
            Some((algorithm, _, Some(value))) => Some((algorithm.name().to_owned(), value.clone())),
            Some((_, _, None)) | None => None,
        }
    }

    /// Compares at the end of the body.
    ///
    /// # Errors
    /// `BadDigest`; `InvalidRequest` for a trailer that is malformed or was announced and did not come.
    pub(crate) fn verify(self, trailers: Option<&TrailingHeaders>) -> S3Result<Option<Verified>> {
        if let Some((hasher, expected)) = self.md5
            && STANDARD.encode(hasher.finalize()) != expected
        {
            return Err(s3_error!(BadDigest, "the Content-MD5 you specified did not match what we received"));
        }
        let Some((algorithm, hasher, in_head)) = self.sum else { return Ok(None) };
        let expected = match in_head {
            Some(value) => value,
            None => in_trailer(algorithm, trailers)?,
        };
        if hasher.finish() != expected {
            let name = algorithm.name();
            return Err(s3_error!(BadDigest, "the {name} you specified did not match what we received"));
        }
        Ok(Some(Verified { algorithm, value: expected }))
    }
}

fn trailer_names(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    let values = headers.get_all("x-amz-trailer").into_iter();
    let text = values.filter_map(|value| value.to_str().ok());
    text.flat_map(|text| text.split(',')).map(|name| name.trim().to_ascii_lowercase())
}

fn in_trailer(algorithm: Algorithm, trailers: Option<&TrailingHeaders>) -> S3Result<String> {
    let read = |headers: &HeaderMap| {
        headers.get(algorithm.header()).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match trailers.and_then(|trailers| trailers.read(read)).flatten() {
        Some(value) => algorithm.check(&value).map(|()| value),
        None => Err(s3_error!(InvalidRequest, "the trailer {} did not come", algorithm.header())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: S3Result<T>) -> String {
        result.map_or_else(|e| e.code().as_str().to_owned(), |_| "ok".to_owned())
    }

    fn verify(sent: &Sent<'_>) -> String {
        let digests = Digests::new(sent, &HeaderMap::new());
        code(digests.and_then(|mut digests| {
            digests.update(b"1234");
            digests.update(b"56789");
            digests.verify(None)
        }))
    }

    #[test]
    fn known_values_of_each_algorithm_match() {
        let right = [
            Sent { md5: Some("JfnnlDI7RTiF9RgfG2JNCw=="), ..Sent::default() },
            Sent { crc32: Some("y/Q5Jg=="), ..Sent::default() },
            Sent { crc32c: Some("4waSgw=="), ..Sent::default() },
            Sent { crc64nvme: Some("rosUhgp5mIg="), ..Sent::default() },
            Sent { sha1: Some("98O8HYCOBHMq32eZZczDTKeuNEE="), ..Sent::default() },
            Sent { sha256: Some("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="), ..Sent::default() },
        ];
        for (i, sent) in right.iter().enumerate() {
            let got = verify(sent);
            assert_eq!(got, "ok", "{i}");
        }
    }

    #[test]
    fn wrong_values_are_bad_digests_and_malformed_ones_invalid() {
        assert_eq!(verify(&Sent { crc32: Some("AAAAAA=="), ..Sent::default() }), "BadDigest");
        assert_eq!(verify(&Sent { md5: Some("AAAAAAAAAAAAAAAAAAAAAA=="), ..Sent::default() }), "BadDigest");
        assert_eq!(verify(&Sent { crc32: Some("AAAA"), ..Sent::default() }), "InvalidRequest");
        assert_eq!(verify(&Sent { md5: Some("x"), ..Sent::default() }), "InvalidDigest");
        let two = Sent { crc32: Some("y/Q5Jg=="), crc32c: Some("4waSgw=="), ..Sent::default() };
        assert_eq!(verify(&two), "InvalidRequest");
    }

    #[test]
    fn announced_trailer_must_come() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-trailer", hyper::header::HeaderValue::from_static("x-amz-checksum-crc32"));
        let digests = Digests::new(&Sent::default(), &headers).expect("valid");
        assert_eq!(code(digests.verify(None)), "InvalidRequest");
    }
}
