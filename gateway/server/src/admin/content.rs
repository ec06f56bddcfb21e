//! Content up and down: one crossing to the main runtime per request, then pieces through a bounded channel.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, OpenFile, Publish, Result, Want};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::api::EntryView;
use super::{AdminState, Admitted, ApiError, PathQuery};

/// Pieces between the two runtimes, in either direction.
const PIECES_IN_FLIGHT: usize = 8;
/// How much is asked for at once.
const READ_BYTES: u64 = 1 << 20;

type State = web::Data<AdminState>;

pub(super) async fn get(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
) -> std::result::Result<HttpResponse, ApiError> {
    let path = query.path()?;
    let work = state.clone();
    let file = state.run(async move { work.namespace.open(&work.context, &path, Want::Any).await }).await?;
    let size_bytes = file.entry().size_bytes;
    let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
    // Owned by the channel: it ends when the receiver is dropped with the response.
    state.runtime.spawn(send(file, sender));
    let pieces =
        futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    Ok(HttpResponse::Ok()
        .no_chunking(size_bytes)
        .streaming(pieces.map(|piece| piece.map_err(ApiError::Failed))))
}

async fn send(file: std::sync::Arc<dyn OpenFile>, sender: mpsc::Sender<Result<Bytes>>) {
    let size_bytes = file.entry().size_bytes;
    let mut offset = 0;
    while offset < size_bytes {
        let range = ByteRange::new(offset, READ_BYTES.min(size_bytes - offset));
        let pieces = match file.read_bytes(range).await {
            Ok(pieces) => pieces,
            Err(e) => {
                // The receiver is gone only when the client is.
                sender.send(Err(e)).await.unwrap_or(());
                return;
            }
        };
        for piece in pieces {
            offset += piece.len() as u64;
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    }
}

pub(super) async fn put(
    _: Admitted,
    state: State,
    request: HttpRequest,
    query: web::Query<PathQuery>,
    mut body: web::Payload,
) -> std::result::Result<HttpResponse, ApiError> {
    let path = query.path()?;
    let announced =
        request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES_IN_FLIGHT);
    let work = state.clone();
    let (finished, is_whole) = tokio::sync::oneshot::channel::<()>();
    let written = state.runtime.spawn(async move {
        let writer = work.namespace.replace(&work.context, &path).await?;
        let mut offset = 0;
        while let Some(piece) = receiver.recv().await {
            let len = piece.len() as u64;
            writer.write_at(offset, piece).await?;
            offset += len;
        }
        if is_whole.await.is_err() || announced.is_some_and(|announced| announced != offset) {
            return Err(Error::new(ErrorKind::Incomplete, "the body ended early; nothing was written"));
        }
        writer.publish(Publish { is_durable: true, ..Publish::default() }).await
    });
    let is_broken = loop {
        match body.next().await {
            None => break false,
            Some(Err(_)) => break true,
            Some(Ok(piece)) => {
                // When the writer failed, its error is the answer.
                if sender.send(piece).await.is_err() {
                    break true;
                }
            }
        }
    };
    if !is_broken {
        // The writer may be gone already; its error is the answer then.
        finished.send(()).unwrap_or(());
    }
    drop(sender);
    let entry = match written.await {
        Ok(entry) => entry?,
        Err(e) => return Err(Error::new(ErrorKind::Internal, "the upload failed inside").because(e).into()),
    };
    Ok(HttpResponse::Created().json(EntryView::new(query.into_inner().path, &entry)))
}
