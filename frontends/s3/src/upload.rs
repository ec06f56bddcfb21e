//! Bodies of requests: written to staging as they arrive, hashed on the way, published only when complete.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forebay_core::{METRICS, Writer};
use futures::StreamExt;
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::checksum::Digests;
use crate::error::to_s3;

/// Pieces below this are gathered before they are written.
const GATHER_BYTES: usize = 128 << 10;
/// How long a client may pause inside a body.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// A body and the length that the client announced for it.
pub(crate) struct Incoming {
    body: StreamingBlob,
    length_bytes: u64,
}

impl Incoming {
    /// Takes a request's body; `content_length` is the decoded length.
    ///
    /// # Errors
    /// `MissingContentLength` when no length is known.
    pub(crate) fn new(body: Option<StreamingBlob>, content_length: Option<i64>) -> S3Result<Self> {
        let body = body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
        let announced = content_length.and_then(|length| u64::try_from(length).ok());
        let known = || body.remaining_length().exact().map(|length| length as u64);
        match announced.or_else(known) {
            Some(length_bytes) => Ok(Self { body, length_bytes }),
            None => Err(s3_error!(MissingContentLength, "a body needs its length in the head")),
        }
    }

    /// The announced length.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Writes the whole body.
    ///
    /// # Errors
    /// `IncompleteBody` for a body shorter or longer than announced, what a wrong signature or checksum of a chunk
    /// is, and as [`Writer::write_at`].
    pub(crate) async fn write_to(mut self, writer: &Writer, digests: &mut Digests) -> S3Result<()> {
        let received_metric = METRICS.client_bytes.with_label_values(&["s3", "write"]);
        let mut gathered = BytesMut::new();
        let (mut received, mut written) = (0_u64, 0_u64);
        while let Some(piece) = self.next().await? {
            received += piece.len() as u64;
            received_metric.inc_by(piece.len() as u64);
            if received > self.length_bytes {
                return Err(s3_error!(IncompleteBody, "the body is longer than announced"));
            }
            digests.update(&piece);
            let ready = gather(&mut gathered, piece);
            if let Some(bytes) = ready {
                let len = bytes.len() as u64;
                writer.write_at(written, bytes).await.map_err(to_s3)?;
                written += len;
            }
        }
        if received != self.length_bytes {
            let message = "you did not provide the number of bytes specified by the Content-Length header";
            return Err(s3_error!(IncompleteBody, "{message}"));
        }
        if !gathered.is_empty() {
            writer.write_at(written, gathered.freeze()).await.map_err(to_s3)?;
        }
        Ok(())
    }

    async fn next(&mut self) -> S3Result<Option<Bytes>> {
        match tokio::time::timeout(IDLE_TIMEOUT, self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(e))) => Err(broken_body(&e.to_string())),
            Err(_) => Err(s3_error!(RequestTimeout, "the body stopped arriving")),
        }
    }
}

/// Adds a piece; gives back what is worth a write, in order.
fn gather(gathered: &mut BytesMut, piece: Bytes) -> Option<Bytes> {
    if gathered.is_empty() && piece.len() >= GATHER_BYTES {
        return Some(piece);
    }
    gathered.extend_from_slice(&piece);
    (gathered.len() >= GATHER_BYTES).then(|| gathered.split().freeze())
}

/// s3s keeps the types of these errors to itself; their texts are all that tells them apart.
fn broken_body(text: &str) -> S3Error {
    if text.ends_with("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "the signature of a chunk does not match")
    } else if text.ends_with("Sha256Mismatch") {
        let mut error = s3_error!(BadDigest, "x-amz-content-sha256 does not match what was received");
        error.set_code(S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()));
        error.set_status_code(hyper::StatusCode::BAD_REQUEST);
        error
    } else if text.ends_with("FormatError") {
        s3_error!(InvalidRequest, "the body is not in aws-chunked form")
    } else {
        s3_error!(IncompleteBody, "the body ended early")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_gathered_and_large_ones_pass() {
        let mut gathered = BytesMut::new();
        let large = Bytes::from(vec![1; GATHER_BYTES]);
        assert_eq!(gather(&mut gathered, large.clone()).expect("passes").as_ptr(), large.as_ptr());
        assert!(gather(&mut gathered, Bytes::from_static(b"a")).is_none());
        let joined = gather(&mut gathered, large).expect("full");
        assert_eq!((joined.len(), joined[0]), (GATHER_BYTES + 1, b'a'));
        assert!(gathered.is_empty());
    }

    #[test]
    fn causes_of_broken_bodies_keep_their_codes() {
        let code = |text| broken_body(text).code().as_str().to_owned();
        assert_eq!(code("AwsChunkedStreamError: SignatureMismatch"), "SignatureDoesNotMatch");
        assert_eq!(code("UploadStreamError: Sha256Mismatch"), "XAmzContentSHA256Mismatch");
        assert_eq!(code("AwsChunkedStreamError: Incomplete"), "IncompleteBody");
        assert_eq!(code("connection closed before message completed"), "IncompleteBody");
    }
}
