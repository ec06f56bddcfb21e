//! SETPERMISSION, SETOWNER, SETTIMES, SETREPLICATION, GETACLSTATUS and CHECKACCESS.
//!
//! A store that keeps no attributes accepts changes and forgets them, as Hadoop's own object store clients do: jobs
//! that set a permission they do not need must not fail.

use std::time::{Duration, UNIX_EPOCH};

use forebay_core::{AttributeChange, ErrorKind, Permission};
use serde_json::json;

use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::json;
use crate::ops::read;
use crate::reply::Reply;

async fn change(call: &Call, change: AttributeChange) -> Result<Reply> {
    call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    if change == AttributeChange::default() {
        return Ok(Reply::Empty);
    }
    match call.namespace().set_attributes(&call.context, &call.path, change).await {
        Ok(_) => Ok(Reply::Empty),
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Reply::Empty),
        Err(e) => Err(read::missing(call, e)),
    }
}

/// SETPERMISSION, to 755 where none is named.
pub(crate) async fn set_permission(call: &Call) -> Result<Reply> {
    let mode = Some(call.params.permission()?.unwrap_or(0o755));
    change(call, AttributeChange { mode, ..AttributeChange::default() }).await
}

/// SETOWNER. A name that this machine does not know changes nothing: stores keep numbers.
pub(crate) async fn set_owner(call: &Call) -> Result<Reply> {
    let (owner, group) = (call.params.text("owner"), call.params.text("group"));
    if owner.is_none() && group.is_none() {
        let message = "Both owner and group are empty.";
        return Err(RemoteException::new(Exception::IllegalArgument, message));
    }
    let uid = owner.and_then(|name| call.frontend.names.uid(name));
    let gid = group.and_then(|name| call.frontend.names.gid(name));
    change(call, AttributeChange { uid, gid, ..AttributeChange::default() }).await
}

/// SETTIMES; -1 leaves a time as it is.
pub(crate) async fn set_times(call: &Call) -> Result<Reply> {
    let time = |name| -> Result<_> {
        let millis = call.params.number(name, -1)?;
        Ok(millis.filter(|ms| *ms >= 0).map(|ms| UNIX_EPOCH + Duration::from_millis(ms as u64)))
    };
    let (modified, accessed) = (time("modificationtime")?, time("accesstime")?);
    change(call, AttributeChange { modified, accessed, ..AttributeChange::default() }).await
}

/// SETREPLICATION: `true` for files, and the store decides.
pub(crate) async fn set_replication(call: &Call) -> Result<Reply> {
    call.params.number("replication", 1)?;
    match call.stat(&call.path).await {
        Ok(entry) => Ok(Reply::Json(json::boolean(!entry.is_directory()))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Reply::Json(json::boolean(false))),
        Err(e) => Err(e.into()),
    }
}

/// GETACLSTATUS: permission bits are all there is.
pub(crate) async fn acl(call: &Call) -> Result<Reply> {
    let entry = call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    let names = &call.frontend.names;
    let status = json!({
        "entries": [], "group": names.group(entry.attributes.gid), "owner": names.user(entry.attributes.uid),
        "permission": json::permission(&entry), "stickyBit": entry.attributes.mode & 0o1000 != 0,
    });
    Ok(Reply::Json(json!({ "AclStatus": status }).to_string()))
}

/// CHECKACCESS, by the grants of the access section and the mount; they decide, not the permission bits.
pub(crate) async fn check_access(call: &Call) -> Result<Reply> {
    let action = call.required("fsaction")?;
    let is_action = action.len() == 3
        && action.bytes().zip(*b"rwx").all(|(asked, right)| asked == b'-' || asked == right);
    if !is_action {
        let problem = format!(
            "Invalid parameter value: fsaction = \"{action}\" does not match the pattern [r-][w-][x-]."
        );
        return Err(RemoteException::parameter("fsaction", &problem));
    }
    call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    let asks_write = action.contains('w');
    let needed = if asks_write { Permission::Write } else { Permission::Read };
    let is_read_only = call.namespace().mount_info(&call.path).is_none_or(|info| info.read_only);
    if call.context.principal.may(needed, &call.path) && !(asks_write && is_read_only) {
        return Ok(Reply::Empty);
    }
    let message =
        format!("Permission denied: user={}, access={}, inode=\"{}\"", call.user, action, call.path);
    Err(RemoteException::new(Exception::AccessControl, message))
}
