//! A file that is sent to its DataNode while the rest of it still arrives, as one request under a temporary name.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_core::{Error, ErrorKind, Headers, Precondition, Result};
use futures::stream;
use reqwest::Body;
use tokio::sync::mpsc;

use super::publish::Temporary;
use super::{Hdfs, Object};
use crate::backend::uploads::no_memory;
use crate::backend::{Pending, Pieces};
use crate::cache::Held;

/// Pieces as those of a file that is here. One is on its way, a few wait for it, one is being read.
pub(super) const PIECES: Pieces = Pieces { piece_bytes: 1 << 20, whole_bytes_max: 8 << 20 };
/// Pieces that wait.
const PIECES_AHEAD: usize = 4;
/// Memory of a file that is sent: those, one that is read and one that the connection has.
const BODY_BYTES: u64 = (PIECES_AHEAD as u64 + 2) * PIECES.piece_bytes;

/// A file in the making. Its connection moves the body by itself, so nothing else has to run for it.
pub(super) struct Ahead {
    store: Arc<Hdfs>,
    key: String,
    headers: Headers,
    condition: Precondition,
    temporary: Temporary,
    /// `None` after the DataNode's answer, or without hope for one.
    request: Option<Request>,
    size_bytes: u64,
    _memory: Held,
}

struct Request {
    /// What comes next in the body, which ends when this is dropped.
    pieces: mpsc::Sender<Bytes>,
    answer: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
}

impl Ahead {
    pub(super) async fn begin(
        store: Arc<Hdfs>,
        key: &str,
        headers: &Headers,
        condition: &Precondition,
    ) -> Result<Self> {
        let memory = store.uploads.try_take(BODY_BYTES).ok_or_else(no_memory)?;
        store.expect(&store.root.path(key)?, condition).await?;
        let temporary = store.temporary();
        let place = store.client.place(&temporary.path).await?;
        let (pieces, arriving) = mpsc::channel(PIECES_AHEAD);
        let body = Body::wrap_stream(stream::unfold(arriving, |mut arriving| async move {
            let piece: Bytes = arriving.recv().await?;
            Some((Ok::<_, std::io::Error>(piece), arriving))
        }));
        let client = Arc::clone(&store.client);
        let answer = Box::pin(async move { client.send(place, body, None).await });
        let (key, headers, condition) = (key.to_owned(), headers.clone(), condition.clone());
        let request = Some(Request { pieces, answer });
        Ok(Self { store, key, headers, condition, temporary, request, size_bytes: 0, _memory: memory })
    }
}

#[async_trait]
impl Pending for Ahead {
    async fn feed(&mut self, bytes: Bytes) -> Result<()> {
        self.size_bytes += bytes.len() as u64;
        let request = self.request.as_mut().ok_or_else(ended)?;
        let error = tokio::select! {
            // The answer before the piece: whoever waits for it sends the request.
            biased;
            answer = &mut request.answer => answer.err().unwrap_or_else(ended),
            sent = request.pieces.send(bytes) => match sent {
                Ok(()) => return Ok(()),
                Err(_) => ended(),
            },
        };
        self.request = None;
        Err(error)
    }

    async fn finish(&mut self) -> Result<Object> {
        let Request { pieces, answer } = self.request.take().ok_or_else(ended)?;
        drop(pieces);
        answer.await?;
        let stored = (self.key.as_str(), self.size_bytes);
        self.store.name(&mut self.temporary, stored, &self.headers, &self.condition).await
    }

    async fn abandon(&mut self) {
        self.request = None;
        self.temporary.remove().await;
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the DataNode ended the request before its body did")
}
