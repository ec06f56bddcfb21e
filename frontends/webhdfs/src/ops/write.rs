//! CREATE, APPEND, CONCAT and TRUNCATE: staged, then published whole.

use forebay_core::{
    ByteRange, DeleteMode, Entry, ErrorKind, NsPath, OpenFile, Permission, Precondition, Publish, Want,
    Writer,
};

use crate::body::Body;
use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::json;
use crate::ops::{namespace, read};
use crate::path;
use crate::reply::Reply;

/// Permission bits of a file whose maker names none.
const FILE_MODE: u32 = 0o644;

/// How much CONCAT reads at once.
const CONCAT_STEP_BYTES: u64 = 4 << 20;

/// The second step of CREATE. Nothing is visible before the body arrived whole; parents come into being with it.
pub(crate) async fn create(call: &Call, mut body: Body) -> Result<Reply> {
    let overwrite = call.params.boolean("overwrite", false)?;
    let mode = call.params.permission()?.unwrap_or(FILE_MODE);
    path::refuse_colon(&call.path)?;
    check_target(call, overwrite).await?;
    let writer = call.namespace().replace(&call.context, &call.path).await?;
    let publish = Publish {
        condition: if overwrite { Precondition::None } else { Precondition::Absent },
        mode: Some(mode),
        owner: call.frontend.names.owner(&call.user),
        is_durable: true,
        ..Publish::default()
    };
    writer.expect(&publish, None);
    receive(&writer, 0, &mut body).await?;
    match writer.publish(publish).await {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::PreconditionFailed | ErrorKind::AlreadyExists) => {
            return Err(already_exists(call));
        }
        Err(e) if e.kind() == ErrorKind::IsDirectory => return Err(is_directory(call)),
        Err(e) if e.kind() == ErrorKind::NotDirectory => {
            return Err(namespace::under_file(call, &call.path).await);
        }
        Err(e) => return Err(e.into()),
    }
    let (_, authority) = call.server.split_once("://").unwrap_or(("", &call.server));
    Ok(Reply::Created(format!("webhdfs://{authority}{}", path::encode(&call.path))))
}

/// Refuses early what publishing would refuse after the whole body.
async fn check_target(call: &Call, overwrite: bool) -> Result<()> {
    match call.stat(&call.path).await {
        Ok(entry) if entry.is_directory() => return Err(is_directory(call)),
        Ok(_) if !overwrite => return Err(already_exists(call)),
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) if e.kind() == ErrorKind::NotDirectory => {
            return Err(namespace::under_file(call, &call.path).await);
        }
        Err(e) => return Err(e.into()),
    }
    // Stores of flat keys would take a file under a file, so the nearest ancestor that exists decides.
    let mut ancestor = call.path.parent();
    while let Some(candidate) = ancestor {
        match call.stat(&candidate).await {
            Ok(entry) if entry.is_directory() => return Ok(()),
            Ok(_) => return Err(namespace::under_file(call, &call.path).await),
            Err(e) if e.kind() == ErrorKind::NotDirectory => {
                return Err(namespace::under_file(call, &call.path).await);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        if !call.params.boolean("createparent", true)? {
            let message = format!("Parent directory doesn't exist: {candidate}");
            return Err(RemoteException::new(Exception::FileNotFound, message));
        }
        ancestor = candidate.parent();
    }
    Ok(())
}

fn already_exists(call: &Call) -> RemoteException {
    let message = format!("{} for client {} already exists", call.path, call.client);
    RemoteException::new(Exception::FileAlreadyExists, message)
}

fn is_directory(call: &Call) -> RemoteException {
    let message = format!("{} already exists as a directory", call.path);
    RemoteException::new(Exception::FileAlreadyExists, message)
}

/// Writes the whole body from `offset` on.
async fn receive(writer: &Writer, mut offset: u64, body: &mut Body) -> forebay_core::Result<()> {
    while let Some(bytes) = body.next().await? {
        let len = bytes.len() as u64;
        writer.write_at(offset, bytes).await?;
        offset += len;
    }
    Ok(())
}

/// The file that an operation changes, and its length.
async fn existing(call: &Call) -> Result<Entry> {
    let entry = call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    if entry.is_directory() {
        let message = format!("Path is not a file: {}", call.path);
        return Err(RemoteException::new(Exception::FileNotFound, message));
    }
    Ok(entry)
}

/// The second step of APPEND. One at a time per file, as with HDFS's leases; a body that breaks off adds nothing.
pub(crate) async fn append(call: &Call, mut body: Body) -> Result<Reply> {
    existing(call).await?;
    let _lease = call.frontend.appends.lease(&call.path)?;
    let writer = call.namespace().modify(&call.context, &call.path).await?;
    let size_bytes = writer.size_bytes()?;
    if let Err(e) = receive(&writer, size_bytes, &mut body).await {
        // On a local mount the staged file is the stored one: take back what came in.
        writer.truncate(size_bytes).await?;
        return Err(e.into());
    }
    writer.publish(Publish { is_durable: true, ..Publish::default() }).await?;
    Ok(Reply::Empty)
}

/// TRUNCATE, done at once (`true`; HDFS may answer `false` and go on).
pub(crate) async fn truncate(call: &Call) -> Result<Reply> {
    call.required("newlength")?;
    let wanted = call.params.bytes("newlength")?.unwrap_or(0);
    existing(call).await?;
    let _lease = call.frontend.appends.lease(&call.path)?;
    let writer = call.namespace().modify(&call.context, &call.path).await?;
    let size_bytes = writer.size_bytes()?;
    if wanted > size_bytes {
        let message = format!(
            "Cannot truncate to a larger file size. Current size: {size_bytes}, truncate size: {wanted}."
        );
        return Err(RemoteException::new(Exception::IllegalArgument, message));
    }
    writer.truncate(wanted).await?;
    writer.publish(Publish { is_durable: true, ..Publish::default() }).await?;
    Ok(Reply::Json(json::boolean(true)))
}

/// CONCAT: the sources' bytes move to the end of the target, and the sources go.
pub(crate) async fn concat(call: &Call) -> Result<Reply> {
    let sources = sources(call)?;
    existing(call).await?;
    let _lease = call.frontend.appends.lease(&call.path)?;
    let mut files = Vec::with_capacity(sources.len());
    for source in &sources {
        let is_writable = call.context.principal.may(Permission::Write, source);
        if !is_writable || call.namespace().mount_info(source).is_none_or(|mount| mount.read_only) {
            let message = format!("Permission denied: {source} cannot be removed");
            return Err(RemoteException::new(Exception::AccessControl, message));
        }
        files.push(call.namespace().open(&call.context, source, Want::Any).await?);
    }
    let writer = call.namespace().modify(&call.context, &call.path).await?;
    let size_bytes = writer.size_bytes()?;
    let mut end = size_bytes;
    for file in files {
        if let Err(e) = copy(&*file, end, &writer).await {
            writer.truncate(size_bytes).await?;
            return Err(e.into());
        }
        end += file.entry().size_bytes;
    }
    writer.publish(Publish { is_durable: true, ..Publish::default() }).await?;
    for source in &sources {
        call.namespace().delete(&call.context, source, DeleteMode::File).await?;
    }
    Ok(Reply::Empty)
}

fn sources(call: &Call) -> Result<Vec<NsPath>> {
    let text = call.required("sources")?;
    let sources = text.split(',').map(path::parse).collect::<Result<Vec<_>>>()?;
    if sources.contains(&call.path) {
        let message = format!("concat: the src file {} is the same with the target file", call.path);
        return Err(RemoteException::new(Exception::IllegalArgument, message));
    }
    for (i, source) in sources.iter().enumerate() {
        if sources[..i].contains(source) {
            let message = format!("concat: the src file {source} is named twice");
            return Err(RemoteException::new(Exception::IllegalArgument, message));
        }
    }
    Ok(sources)
}

async fn copy(file: &dyn OpenFile, mut to: u64, writer: &Writer) -> forebay_core::Result<()> {
    let mut rest = ByteRange::new(0, file.entry().size_bytes);
    while !rest.is_empty() {
        let step = ByteRange::new(rest.offset, rest.len.min(CONCAT_STEP_BYTES));
        for piece in file.read_bytes(step).await? {
            let len = piece.len() as u64;
            writer.write_at(to, piece).await?;
            to += len;
            rest = ByteRange::new(rest.offset + len, rest.len - len);
        }
    }
    Ok(())
}
