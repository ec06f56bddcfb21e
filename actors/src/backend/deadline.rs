//! How long a body is waited for. The mount's vitals bound a request as a whole; this bounds the silence inside it,
//! so that a store that stalls or trickles is given up long before the whole deadline and asked again.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_core::{Error, ErrorKind, Result};
use futures::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::config::MountLimits;

/// What a body must move to be waited for: this many bytes in each window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    window: Duration,
    window_bytes: u64,
}

/// One body under way.
struct Watch {
    pace: Pace,
    window_end: Instant,
    /// In this window.
    moved_bytes: u64,
}

impl Pace {
    pub(super) fn new(limits: &MountLimits) -> Self {
        Self { window: limits.stall_window, window_bytes: limits.stall_bytes }
    }

    fn start(self) -> Watch {
        Watch { pace: self, window_end: Instant::now() + self.window, moved_bytes: 0 }
    }
}

impl Watch {
    /// Waits for a chunk for as long as the body keeps pace: from a stall on at most two windows.
    async fn wait<T>(&mut self, chunk: impl Future<Output = T>) -> Result<T> {
        let mut chunk = pin!(chunk);
        loop {
            if let Ok(chunk) = timeout_at(self.window_end, &mut chunk).await {
                return Ok(chunk);
            }
            if self.moved_bytes < self.pace.window_bytes {
                let text = format!("the store sent {} bytes in {:?}", self.moved_bytes, self.pace.window);
                return Err(Error::new(ErrorKind::Timeout, text));
            }
            *self = self.pace.start();
        }
    }
}

/// The `len` bytes of a body: neither fewer nor, from a server that ignores ranges, more. Dropping it drops `chunks`.
///
/// # Errors
/// Those of `chunks`; `Timeout` when the body falls behind `pace`, `Unavailable` when it ends early, `Internal` when
/// it does not end where it should.
pub(super) async fn exactly<C: Buf>(
    chunks: impl Stream<Item = Result<C>>,
    len: u64,
    pace: Pace,
) -> Result<Bytes> {
    let mut chunks = pin!(chunks);
    let mut watch = pace.start();
    let mut content = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
    while let Some(chunk) = watch.wait(chunks.next()).await? {
        let chunk = chunk?;
        if (content.len() + chunk.remaining()) as u64 > len {
            return Err(Error::new(ErrorKind::Internal, "the store sent more than the range asked for"));
        }
        watch.moved_bytes += chunk.remaining() as u64;
        content.put(chunk);
    }
    if (content.len() as u64) < len {
        return Err(Error::new(ErrorKind::Unavailable, "the store closed the connection early"));
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const PACE: Pace = Pace { window: Duration::from_secs(5), window_bytes: 1000 };

    /// Chunks of `len` bytes, one each `pause`.
    fn body(count: usize, len: usize, pause: Duration) -> impl Stream<Item = Result<Bytes>> {
        stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from(vec![7; len]))
        })
    }

    async fn outcome(chunks: impl Stream<Item = Result<Bytes>>, len: u64) -> (Option<ErrorKind>, Duration) {
        let began = Instant::now();
        let kind = exactly(chunks, len, PACE).await.err().map(|e| e.kind());
        (kind, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_body_that_keeps_pace_is_waited_for() {
        let (kind, took) = outcome(body(60, 300, Duration::from_secs(1)), 60 * 300).await;
        assert_eq!((kind, took), (None, Duration::from_mins(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_is_given_up_within_two_windows() {
        let stalled = body(10, 5000, Duration::from_millis(10)).chain(stream::pending());
        let (kind, took) = outcome(stalled, 1 << 20).await;
        assert_eq!(kind, Some(ErrorKind::Timeout));
        assert!(took <= PACE.window * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn trickle_is_given_up_though_bytes_come_all_the_time() {
        let (kind, took) = outcome(body(100_000, 10, Duration::from_millis(100)), 1_000_000).await;
        assert_eq!((kind, took), (Some(ErrorKind::Timeout), PACE.window));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_another_length_are_refused() {
        let quick = |count| body(count, 100, Duration::ZERO);
        assert_eq!(outcome(quick(9), 1000).await.0, Some(ErrorKind::Unavailable));
        assert_eq!(outcome(quick(10), 1000).await.0, None);
        assert_eq!(outcome(quick(11), 1000).await.0, Some(ErrorKind::Internal));
    }
}
