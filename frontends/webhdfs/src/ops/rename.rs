//! RENAME: plain (a boolean, and into an existing directory) and with `renameoptions` (empty, or an exception).

use forebay_core::{Entry, ErrorKind, NsPath, RenameMode};

use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::json;
use crate::path;
use crate::reply::Reply;

pub(crate) async fn rename(call: &Call) -> Result<Reply> {
    let destination = destination(call)?;
    match options(call)? {
        None => plain(call, destination).await.map(|done| Reply::Json(json::boolean(done))),
        Some(mode) => with_options(call, destination, mode).await.map(|()| Reply::Empty),
    }
}

fn destination(call: &Call) -> Result<NsPath> {
    let text = call.required("destination")?;
    if !text.starts_with('/') {
        let problem = format!("Invalid parameter value: destination = \"{text}\" is not an absolute path.");
        return Err(RemoteException::parameter("destination", &problem));
    }
    let destination = path::parse(text)?;
    path::refuse_colon(&destination)?;
    Ok(destination)
}

fn options(call: &Call) -> Result<Option<RenameMode>> {
    let Some(text) = call.params.text("renameoptions") else { return Ok(None) };
    let mut mode = RenameMode::NoReplace;
    for option in text.split(',') {
        match option.trim().to_ascii_uppercase().as_str() {
            "NONE" => {}
            "OVERWRITE" => mode = RenameMode::Replace,
            _ => {
                let problem = format!("No enum constant org.apache.hadoop.fs.Options.Rename.{option}");
                return Err(RemoteException::parameter("renameoptions", &problem));
            }
        }
    }
    Ok(Some(mode))
}

/// What is there; `None` if nothing is, also where an ancestor is a file.
async fn found(call: &Call, path: &NsPath) -> Result<Option<Entry>> {
    match call.stat(path).await {
        Ok(entry) => Ok(Some(entry)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Without options: `false` wherever POSIX has an error, and an existing directory is moved into.
async fn plain(call: &Call, mut to: NsPath) -> Result<bool> {
    let from = &call.path;
    let Some(source) = found(call, from).await? else { return Ok(false) };
    if from.is_root() {
        return Ok(false);
    }
    if *from == to {
        return Ok(!source.is_directory());
    }
    if let Some(entry) = found(call, &to).await? {
        if !entry.is_directory() {
            return Ok(false);
        }
        to = to.join(from.name())?;
        if *from == to || found(call, &to).await?.is_some() {
            return Ok(false);
        }
    }
    if to.starts_with(from) {
        return Ok(false);
    }
    let parent = to.parent().unwrap_or_else(NsPath::root);
    match found(call, &parent).await? {
        None => return Ok(false),
        Some(entry) if !entry.is_directory() => {
            let message = format!("{parent} (is not a directory)");
            return Err(RemoteException::new(Exception::ParentNotDirectory, message));
        }
        Some(_) => {}
    }
    match call.namespace().rename(&call.context, from, &to, RenameMode::NoReplace).await {
        Ok(()) => Ok(true),
        // Somebody was faster: the same answers as above.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn with_options(call: &Call, to: NsPath, mode: RenameMode) -> Result<()> {
    let from = &call.path;
    let exists = |to: &NsPath| {
        RemoteException::new(Exception::FileAlreadyExists, format!("rename destination {to} already exists"))
    };
    let io = |message: String| Err(RemoteException::new(Exception::Io, message));
    let Some(source) = found(call, from).await? else {
        let message = format!("rename source {from} is not found.");
        return Err(RemoteException::new(Exception::FileNotFound, message));
    };
    if from.is_root() || to.is_root() {
        let end = if from.is_root() { "source" } else { "destination" };
        return io(format!("rename {end} cannot be the root"));
    }
    if *from == to {
        let message = format!("The source {from} and destination {to} are the same");
        return Err(RemoteException::new(Exception::FileAlreadyExists, message));
    }
    if to.starts_with(from) {
        return io(format!("Rename destination {to} is a directory or file under source {from}"));
    }
    if let Some(entry) = found(call, &to).await? {
        if entry.is_directory() != source.is_directory() {
            let kind = if source.is_directory() { "directories" } else { "files" };
            return io(format!("Source {from} and destination {to} must both be {kind}"));
        }
        if mode == RenameMode::NoReplace {
            return Err(exists(&to));
        }
    }
    let parent = to.parent().unwrap_or_else(NsPath::root);
    match found(call, &parent).await? {
        None => {
            let message = format!("rename destination parent {parent} not found.");
            return Err(RemoteException::new(Exception::FileNotFound, message));
        }
        Some(entry) if !entry.is_directory() => {
            let message = format!("rename destination parent {parent} is a file.");
            return Err(RemoteException::new(Exception::ParentNotDirectory, message));
        }
        Some(_) => {}
    }
    match call.namespace().rename(&call.context, from, &to, mode).await {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(exists(&to)),
        Err(e) if e.kind() == ErrorKind::NotEmpty => {
            io(format!("rename destination directory is not empty: {to}"))
        }
        Err(e) => Err(e.into()),
    }
}
