//! OPEN, GETFILESTATUS and GETFILECHECKSUM.

mod download;

use std::sync::Arc;

use forebay_core::{ByteRange, Entry, Error, ErrorKind, Want};
use futures::StreamExt;

use self::download::Download;
use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::json::FileStatus;
use crate::operation::Operation;
use crate::redirect;
use crate::reply::Reply;

/// GETFILESTATUS, if the attributes are at hand.
pub(crate) fn status_at_once(call: &Call) -> Option<Result<Reply>> {
    let answer = call.namespace().try_stat(&call.context, &call.path, Want::Any)?;
    Some(answer.map_err(|e| missing(call, e)).map(|entry| status_reply(call, &entry)))
}

/// GETFILESTATUS.
pub(crate) async fn status(call: &Call) -> Result<Reply> {
    let entry = call.stat(&call.path).await.map_err(|e| missing(call, e))?;
    Ok(status_reply(call, &entry))
}

fn status_reply(call: &Call, entry: &Entry) -> Reply {
    let status = FileStatus::new(entry, "", &call.frontend.names);
    Reply::Json(format!("{{\"FileStatus\":{}}}", status.to_json()))
}

/// A failed look at `call.path` as Hadoop words it; what lies under a file is missing, too.
pub(crate) fn missing(call: &Call, error: Error) -> RemoteException {
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) {
        return error.into();
    }
    let (path, operation) = (&call.path, call.operation);
    let message = if matches!(operation, Operation::Open | Operation::Append) {
        format!("File {path} not found.")
    } else if matches!(operation, Operation::ListStatus | Operation::ListStatusBatch) {
        format!("File {path} does not exist.")
    } else if matches!(operation, Operation::SetPermission | Operation::SetOwner) {
        format!("Directory/File does not exist {path}")
    } else {
        format!("File does not exist: {path}")
    };
    RemoteException::new(Exception::FileNotFound, message)
}

/// The first step of OPEN, APPEND and GETFILECHECKSUM, if the attributes are at hand.
pub(crate) fn redirect_at_once(call: &Call) -> Option<Result<Reply>> {
    let answer = call.namespace().try_stat(&call.context, &call.path, Want::Any)?;
    Some(answer.map_err(|e| missing(call, e)).and_then(|entry| checked_redirect(call, &entry)))
}

/// The first step of OPEN, APPEND and GETFILECHECKSUM: only of what exists.
pub(crate) async fn redirect(call: &Call) -> Result<Reply> {
    let entry = call.stat(&call.path).await.map_err(|e| missing(call, e))?;
    checked_redirect(call, &entry)
}

fn checked_redirect(call: &Call, entry: &Entry) -> Result<Reply> {
    if call.operation == Operation::Open && !entry.is_directory() {
        range(call, entry.size_bytes)?;
    } else {
        call.params.bytes("offset")?;
    }
    redirect::reply(call)
}

/// Which bytes OPEN asks for. An offset at the end is an error, except of an empty file; a length past it is not.
fn range(call: &Call, size_bytes: u64) -> Result<ByteRange> {
    let offset = call.params.bytes("offset")?.unwrap_or(0);
    let length = call.params.bytes("length")?.unwrap_or(u64::MAX);
    if offset >= size_bytes && size_bytes > 0 {
        let message = format!("Offset={offset} out of the range [0, {size_bytes}); OPEN, path={}", call.path);
        return Err(RemoteException::new(Exception::Io, message));
    }
    Ok(ByteRange::new(offset, length).clamp_to(size_bytes))
}

/// OPEN: the first step where the file had to be looked up, or the content.
pub(crate) async fn open(call: Arc<Call>) -> Result<Reply> {
    if !call.is_data_step()? {
        return redirect(&call).await;
    }
    let opened = if call.is_data_set {
        call.namespace().open_as_data_set(&call.context, &call.path, Want::Any).await
    } else {
        call.namespace().open(&call.context, &call.path, Want::Any).await
    };
    let file = opened.map_err(|e| {
        if e.kind() != ErrorKind::IsDirectory {
            return missing(&call, e);
        }
        RemoteException::new(Exception::FileNotFound, format!("Path is not a file: {}", call.path))
    })?;
    let range = range(&call, file.entry().size_bytes)?;
    // As it is before this request changes it.
    let found = call.is_explained.then(|| file.found(range));
    // Without a length the client wants as much as it turns out to read.
    if call.params.bytes("length")?.is_some() {
        file.expect(range);
    }
    let stream = Download::new(file, range, Arc::clone(&call.frontend)).into_stream().boxed();
    Ok(Reply::Content { len: range.len, stream, found })
}

/// GETFILECHECKSUM: HDFS's checksum is one of its blocks, which no other store has.
pub(crate) async fn checksum(call: &Call) -> Result<Reply> {
    if !call.is_data_step()? {
        return redirect(call).await;
    }
    call.stat(&call.path).await.map_err(|e| missing(call, e))?;
    let message = "GETFILECHECKSUM is not supported: this store keeps no HDFS block checksums";
    Err(RemoteException::new(Exception::UnsupportedOperation, message))
}
