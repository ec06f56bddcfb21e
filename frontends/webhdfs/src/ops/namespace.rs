//! MKDIRS and DELETE.

use forebay_core::{AttributeChange, DeleteMode, Entry, ErrorKind, MkdirMode, NsPath, Want};

use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::json;
use crate::path::refuse_colon;
use crate::reply::Reply;

/// Permission bits of a directory whose maker names none.
const DIRECTORY_MODE: u32 = 0o755;

/// MKDIRS, with parents. An existing directory is fine and keeps its permission.
pub(crate) async fn mkdirs(call: &Call) -> Result<Reply> {
    let mode = call.params.permission()?.unwrap_or(DIRECTORY_MODE);
    refuse_colon(&call.path)?;
    match call.stat(&call.path).await {
        Ok(entry) if entry.is_directory() => return Ok(Reply::Json(json::boolean(true))),
        Ok(_) => {
            let message = format!("Path is not a directory: {}", call.path);
            return Err(RemoteException::new(Exception::FileAlreadyExists, message));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) if e.kind() == ErrorKind::NotDirectory => return Err(under_file(call, &call.path).await),
        Err(e) => return Err(e.into()),
    }
    match call.namespace().mkdir(&call.context, &call.path, MkdirMode::Parents).await {
        Ok(entry) => own(call, &entry, mode).await?,
        Err(e) if e.kind() == ErrorKind::NotDirectory => return Err(under_file(call, &call.path).await),
        Err(e) => return Err(e.into()),
    }
    Ok(Reply::Json(json::boolean(true)))
}

/// Gives a new directory its permission and owner, where the store keeps them.
async fn own(call: &Call, entry: &Entry, mode: u32) -> Result<()> {
    let owner = call.frontend.names.owner(&call.user);
    let change = AttributeChange {
        mode: Some(mode).filter(|mode| *mode != entry.attributes.mode & 0o7777),
        uid: owner.map(|(uid, _)| uid).filter(|uid| *uid != entry.attributes.uid),
        gid: owner.map(|(_, gid)| gid).filter(|gid| *gid != entry.attributes.gid),
        ..AttributeChange::default()
    };
    if change == AttributeChange::default() {
        return Ok(());
    }
    match call.namespace().set_attributes(&call.context, &call.path, change).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The exception of a path under a file: it names the file, as Hadoop does.
pub(crate) async fn under_file(call: &Call, path: &NsPath) -> RemoteException {
    let mut ancestor = path.parent();
    while let Some(candidate) = ancestor {
        if let Ok(entry) = call.stat(&candidate).await {
            if !entry.is_directory() {
                let message = format!("{candidate} (is not a directory)");
                return RemoteException::new(Exception::ParentNotDirectory, message);
            }
            break;
        }
        ancestor = candidate.parent();
    }
    RemoteException::new(Exception::ParentNotDirectory, format!("{path} lies under a file"))
}

/// DELETE. What is not there cannot be deleted (`false`), and neither can the root. Of a symbolic link the link goes.
pub(crate) async fn delete(call: &Call) -> Result<Reply> {
    let is_recursive = call.params.boolean("recursive", false)?;
    if call.path.is_root() {
        return Ok(Reply::Json(json::boolean(false)));
    }
    let entry = match call.namespace().stat(&call.context, &call.path, Want::Unfollowed).await {
        Ok(entry) => entry,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Reply::Json(json::boolean(false))),
        Err(e) if e.kind() == ErrorKind::NotDirectory => return Err(under_file(call, &call.path).await),
        Err(e) => return Err(e.into()),
    };
    let mode = match (entry.is_directory(), is_recursive) {
        (false, _) => DeleteMode::File,
        (true, false) => DeleteMode::EmptyDirectory,
        (true, true) => DeleteMode::Tree,
    };
    match call.namespace().delete(&call.context, &call.path, mode).await {
        Ok(removed) => Ok(Reply::Json(json::boolean(removed))),
        Err(e) if e.kind() == ErrorKind::NotEmpty => {
            let message = format!("`{} is non empty': Directory is not empty", call.path);
            Err(RemoteException::new(Exception::PathIsNotEmptyDirectory, message))
        }
        Err(e) => Err(e.into()),
    }
}
