//! Bodies of answers: what is at hand goes out as it is; the rest is read piece by piece, one piece ahead as long as the
//! cache keeps them.
//!
//! An error after the head breaks the connection, because the announced length is then not reached.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use forebay_core::{ByteRange, Content, Error, ErrorKind, Extent, Lent, OpenFile, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use s3s::Body;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// How much is asked of a file at once, aligned: a cache page.
const PIECE_BYTES: u64 = 1 << 20;
/// How much of a lent file is copied at once: fits a core's second-level cache.
const LENT_STEP_BYTES: u64 = 128 << 10;

/// The body for `range` of `file`. Its first piece is read before this returns, so that what fails then has a status.
///
/// # Errors
/// As [`OpenFile::read`].
pub(crate) async fn body_of(file: Arc<dyn OpenFile>, range: ByteRange) -> Result<Body> {
    if range.is_empty() {
        return Ok(Body::empty());
    }
    file.expect(range);
    let piece = piece_of(range);
    let content = match file.try_read(piece) {
        Some(content) => content,
        None => file.read(piece).await?,
    };
    if content.len() == range.len
        && range.len <= LENT_STEP_BYTES
        && let Ok(Some(mut pieces)) = content.try_bytes()
        && pieces.len() == 1
    {
        return Ok(Body::from(pieces.remove(0)));
    }
    let mut outgoing =
        Outgoing { file, rest: range, queue: VecDeque::new(), copying: None, ahead: None, queued_bytes: 0 };
    outgoing.enqueue(&content)?;
    Ok(Body::http_body_unsync(outgoing))
}

fn piece_of(range: ByteRange) -> ByteRange {
    let to_border = PIECE_BYTES - range.offset % PIECE_BYTES;
    ByteRange::new(range.offset, range.len.min(to_border))
}

/// A task that ends with its owner.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Owned<Result<T>> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let joined = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(
            joined.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, "a read task died").because(e))),
        )
    }
}

/// A body in progress. Holds at most one piece that is being sent and one that is read ahead, which the cache has then.
struct Outgoing {
    file: Arc<dyn OpenFile>,
    /// What was not asked of the file yet, or is being read ahead.
    rest: ByteRange,
    queue: VecDeque<Extent>,
    queued_bytes: u64,
    /// The next step of a lent extent at the front of the queue, read off the workers.
    copying: Option<BoxFuture<'static, Result<Bytes>>>,
    /// The piece after the queue.
    ahead: Option<Owned<Result<Content>>>,
}

impl Outgoing {
    fn enqueue(&mut self, content: &Content) -> Result<()> {
        let len = content.len();
        if len == 0 || len > self.rest.len {
            return Err(Error::new(ErrorKind::Internal, "a read returned a wrong number of bytes"));
        }
        self.rest = ByteRange::new(self.rest.offset + len, self.rest.len - len);
        self.queued_bytes += len;
        self.queue.extend(content.extents().iter().filter(|extent| !extent.is_empty()).cloned());
        Ok(())
    }

    /// Starts to read the next piece, unless it is at hand anyway.
    fn read_ahead(&mut self) {
        if self.rest.is_empty() || self.ahead.is_some() {
            return;
        }
        let (file, piece) = (Arc::clone(&self.file), piece_of(self.rest));
        let read = async move {
            match file.try_read(piece) {
                Some(content) => Ok(content),
                None => file.read(piece).await,
            }
        };
        self.ahead = Some(Owned(tokio::spawn(read.in_current_span())));
    }

    /// The next bytes of the extent at the front, if the queue holds one.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if let Some(copying) = &mut self.copying {
            let answer = ready!(copying.as_mut().poll(cx));
            self.copying = None;
            return Poll::Ready(Some(answer));
        }
        let Some(front) = self.queue.pop_front() else { return Poll::Ready(None) };
        let lent = match front {
            Extent::Bytes(bytes) => return Poll::Ready(Some(Ok(bytes))),
            Extent::Lent(lent) => lent,
        };
        let step = self.take_step(&lent);
        if let Ok(Some(bytes)) = step.try_read() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        let mut copying = copied(Arc::clone(&self.file), step).boxed();
        let polled = copying.as_mut().poll(cx);
        if polled.is_pending() {
            self.copying = Some(copying);
        }
        polled.map(Some)
    }

    /// The first step of a lent extent; the rest of it goes back to the front of the queue.
    fn take_step(&mut self, lent: &Lent) -> Lent {
        let range = lent.range();
        let step = ByteRange::new(range.offset, range.len.min(LENT_STEP_BYTES));
        let rest = ByteRange::new(step.end(), range.len - step.len);
        if !rest.is_empty() {
            self.queue.push_front(Extent::Lent(lent.slice(rest)));
        }
        lent.slice(step)
    }

    /// Fills the queue; `false` at the end of the body.
    fn poll_refill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        if let Some(ahead) = &mut self.ahead {
            let content = ready!(ahead.poll(cx));
            self.ahead = None;
            let content = content?;
            let read = ByteRange::new(self.rest.offset, content.len());
            self.enqueue(&content)?;
            // What the cache has no room for is in no budget, and a slow client holds it for long: one piece of it.
            if self.file.cached(read).bytes == read.len {
                self.read_ahead();
            }
            return Poll::Ready(Ok(true));
        }
        if self.rest.is_empty() {
            return Poll::Ready(Ok(false));
        }
        if let Some(content) = self.file.try_read(piece_of(self.rest)) {
            self.enqueue(&content)?;
            return Poll::Ready(Ok(true));
        }
        self.read_ahead();
        self.poll_refill(cx)
    }
}

/// Reads one step of a lent file, waiting for its disk. A loan whose disk fails is taken back, and `file` reads it from
/// elsewhere.
async fn copied(file: Arc<dyn OpenFile>, step: Lent) -> Result<Bytes> {
    let mut rest = step.range();
    if let Ok(bytes) = step.load().await {
        return Ok(bytes);
    }
    let mut copy = BytesMut::with_capacity(rest.len as usize);
    while !rest.is_empty() {
        let before = copy.len();
        file.read_bytes(rest).await?.iter().for_each(|piece| copy.extend_from_slice(piece));
        let len = (copy.len() - before) as u64;
        if len == 0 || len > rest.len {
            return Err(Error::new(ErrorKind::Internal, "a read returned a wrong number of bytes"));
        }
        rest = ByteRange::new(rest.offset + len, rest.len - len);
    }
    Ok(copy.freeze())
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        loop {
            if let Some(answer) = ready!(self.poll_front(cx)) {
                let bytes = answer.inspect_err(|e| tracing::warn!(error = %e, "a body broke off"))?;
                self.queued_bytes -= bytes.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match ready!(self.poll_refill(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(None),
                Err(e) => {
                    tracing::warn!(error = %e, "a body broke off");
                    return Poll::Ready(Some(Err(e)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.queued_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len + self.queued_bytes)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::testing::{Pieces, Serve};

    async fn collect(file: Pieces, range: ByteRange) -> std::result::Result<Vec<u8>, String> {
        let body = body_of(Arc::new(file), range).await.map_err(|e| e.to_string())?;
        body.collect().await.map(|all| all.to_bytes().to_vec()).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn any_range_comes_out_byte_for_byte() {
        for serve in [Serve::AtOnce, Serve::Later, Serve::Lent] {
            let file = Pieces::new(3 * PIECE_BYTES as usize + 77, serve);
            let all = file.bytes();
            for range in
                [(0, all.len()), (5, 10), (PIECE_BYTES as usize - 1, PIECE_BYTES as usize + 2), (7, 0)]
            {
                let want = &all[range.0..range.0 + range.1];
                let got = collect(file.clone(), ByteRange::new(range.0 as u64, range.1 as u64)).await;
                assert!(got.as_deref() == Ok(want), "{serve:?} {range:?}");
            }
        }
    }

    #[tokio::test]
    async fn small_object_at_hand_is_one_buffer_without_a_task() {
        let file = Pieces::new(4096, Serve::AtOnce);
        let body = body_of(Arc::new(file.clone()), ByteRange::new(0, 4096)).await.expect("read");
        let bytes = body.bytes().expect("in memory");
        assert_eq!(bytes.as_ptr(), file.bytes().as_ptr());
    }

    #[tokio::test]
    async fn slow_client_holds_one_piece_of_what_is_not_cached_and_one_more_of_what_is() {
        for (serve, ahead) in [(Serve::Uncached, 0), (Serve::Later, 1)] {
            let file = Pieces::new(4 * PIECE_BYTES as usize, serve);
            let mut body =
                body_of(Arc::new(file.clone()), ByteRange::new(0, 4 * PIECE_BYTES)).await.expect("read");
            for taken in 1..4 {
                body.frame().await.expect("more").expect("read");
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                // The first piece is read before there is a client who might be slow, and nothing after it yet.
                let ahead = if taken == 1 { 0 } else { ahead };
                assert_eq!(file.reads(), taken + ahead, "{serve:?}");
            }
        }
    }

    #[tokio::test]
    async fn failure_before_the_first_byte_has_a_status_and_later_breaks_the_body() {
        let range = ByteRange::new(0, 2 * PIECE_BYTES);
        let fails = |at| Pieces::new(2 * PIECE_BYTES as usize, Serve::FailsAt(at));
        assert!(body_of(Arc::new(fails(0)), range).await.is_err());
        let body = body_of(Arc::new(fails(PIECE_BYTES)), range).await.expect("the first piece is there");
        assert_eq!(body.size_hint().exact(), Some(range.len));
        assert!(body.collect().await.is_err());
    }
}
