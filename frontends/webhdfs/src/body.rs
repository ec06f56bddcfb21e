//! A request's body on its way to the main runtime: a bounded channel that tells a whole body from a broken one.

use std::time::Duration;

use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use forebay_core::{Error, ErrorKind};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::metrics::WRITTEN_BYTES;

/// Pieces in the channel; each is at most what actix reads at once (32 KiB).
const PIECES: usize = 8;

/// How much is written to staging at once.
const STEP_BYTES: usize = 256 << 10;

/// How long a client may send nothing before its write is given up and its staging space freed.
const IDLE_DEADLINE: Duration = Duration::from_mins(5);

enum Piece {
    Bytes(Bytes),
    /// The body is whole. A channel that closes without it was cut off.
    End,
}

/// The end of the channel on the main runtime.
pub(crate) struct Body {
    pieces: mpsc::Receiver<Piece>,
    is_whole: bool,
}

/// The end of the channel on actix's worker.
pub(crate) struct Pump(mpsc::Sender<Piece>);

pub(crate) fn channel() -> (Pump, Body) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (Pump(sender), Body { pieces: receiver, is_whole: false })
}

impl Pump {
    /// Moves the body over. Ends early when the other side wants no more, or when the client breaks off.
    pub(crate) async fn run(self, mut payload: Payload) {
        while let Some(piece) = payload.next().await {
            match piece {
                Ok(bytes) => {
                    WRITTEN_BYTES.inc_by(bytes.len() as u64);
                    if self.0.send(Piece::Bytes(bytes)).await.is_err() {
                        return;
                    }
                }
                Err(e) => {
                    tracing::debug!(error = %e, "the body broke off");
                    return;
                }
            }
        }
        // A receiver that is gone has answered already.
        self.0.send(Piece::End).await.ok();
    }
}

impl Body {
    /// The next bytes, joined as far as they are here already; `None` at the end of a whole body.
    ///
    /// # Errors
    /// `Incomplete` when the client broke off, `Timeout` when it stopped sending.
    pub(crate) async fn next(&mut self) -> forebay_core::Result<Option<Bytes>> {
        if self.is_whole {
            return Ok(None);
        }
        let waited = tokio::time::timeout(IDLE_DEADLINE, self.pieces.recv()).await;
        let first = match waited.map_err(|_| Error::new(ErrorKind::Timeout, "the client stopped sending"))? {
            Some(Piece::Bytes(bytes)) => bytes,
            Some(Piece::End) => {
                self.is_whole = true;
                return Ok(None);
            }
            None => return Err(Error::new(ErrorKind::Incomplete, "the body ended before it was whole")),
        };
        if self.pieces.is_empty() {
            return Ok(Some(first));
        }
        let mut joined = BytesMut::from(first);
        while joined.len() < STEP_BYTES {
            match self.pieces.try_recv() {
                Ok(Piece::Bytes(bytes)) => joined.extend_from_slice(&bytes),
                Ok(Piece::End) => {
                    self.is_whole = true;
                    break;
                }
                // Empty or broken off: the next call finds out which.
                Err(_) => break,
            }
        }
        Ok(Some(joined.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_sending_is_given_up() {
        let (_pump, mut body) = channel();
        assert_eq!(body.next().await.expect_err("timeout").kind(), ErrorKind::Timeout);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_from_a_whole_one() {
        for is_whole in [true, false] {
            let (Pump(sender), mut body) = channel();
            for piece in ["ab", "c"] {
                sender.send(Piece::Bytes(piece.into())).await.ok();
            }
            if is_whole {
                sender.send(Piece::End).await.ok();
            }
            drop(sender);
            assert_eq!(body.next().await.expect("bytes").as_deref(), Some(&b"abc"[..]));
            match body.next().await {
                Ok(end) => assert!(is_whole && end.is_none()),
                Err(e) => assert!(!is_whole && e.kind() == ErrorKind::Incomplete),
            }
        }
    }
}
