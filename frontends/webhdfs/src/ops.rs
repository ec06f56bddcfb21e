//! The operations, one file per kind. This table says which runs where; the files say what each does.

mod attributes;
mod blocks;
mod constants;
mod listing;
mod namespace;
mod read;
mod rename;
mod summary;
mod write;
mod xattrs;

use std::sync::Arc;

use crate::body::Body;
use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::operation::Operation;
use crate::redirect;
use crate::reply::Reply;

/// The answer if it needs no waiting: on actix's worker, without a crossing.
pub(crate) fn at_once(call: &Call) -> Option<Result<Reply>> {
    match call.operation {
        Operation::GetFileStatus => read::status_at_once(call),
        Operation::Open | Operation::GetFileChecksum | Operation::Append => match call.is_data_step() {
            Ok(true) => None,
            Ok(false) => read::redirect_at_once(call),
            Err(e) => Some(Err(e)),
        },
        // Hadoop looks nothing up before the second step.
        Operation::Create => match call.is_data_step() {
            Ok(true) => None,
            Ok(false) => Some(redirect::reply(call)),
            Err(e) => Some(Err(e)),
        },
        Operation::GetHomeDirectory => Some(Ok(constants::home_directory(call))),
        Operation::GetTrashRoot => Some(Ok(constants::trash_root(call))),
        Operation::GetServerDefaults => Some(Ok(constants::server_defaults())),
        Operation::GetAllStoragePolicy => Some(Ok(constants::storage_policies())),
        Operation::GetDelegationToken => Some(Ok(constants::delegation_token())),
        Operation::RenewDelegationToken => Some(constants::renew_token(call)),
        Operation::CancelDelegationToken => Some(constants::cancel_token(call)),
        Operation::Unsupported => {
            let message = format!("op={} is not supported", call.name);
            Some(Err(RemoteException::new(Exception::UnsupportedOperation, message)))
        }
        Operation::ListStatus
        | Operation::ListStatusBatch
        | Operation::GetContentSummary
        | Operation::GetQuotaUsage
        | Operation::GetBlockLocations
        | Operation::GetFileBlockLocations
        | Operation::GetAclStatus
        | Operation::GetXAttrs
        | Operation::ListXAttrs
        | Operation::CheckAccess
        | Operation::Mkdirs
        | Operation::Rename
        | Operation::SetReplication
        | Operation::SetOwner
        | Operation::SetPermission
        | Operation::SetTimes
        | Operation::SetXAttr
        | Operation::RemoveXAttr
        | Operation::Concat
        | Operation::Truncate
        | Operation::Delete => None,
    }
}

/// Whether the request's body is content.
pub(crate) fn takes_body(call: &Call) -> Result<bool> {
    Ok(matches!(call.operation, Operation::Create | Operation::Append) && call.is_data_step()?)
}

/// The second step of CREATE or APPEND; on the main runtime.
pub(crate) async fn receive(call: Arc<Call>, body: Body) -> Result<Reply> {
    if call.operation == Operation::Append {
        write::append(&call, body).await
    } else {
        write::create(&call, body).await
    }
}

/// Everything else; on the main runtime.
pub(crate) async fn run(call: Arc<Call>) -> Result<Reply> {
    match call.operation {
        Operation::Open => read::open(call).await,
        Operation::GetFileStatus => read::status(&call).await,
        Operation::GetFileChecksum => read::checksum(&call).await,
        Operation::GetBlockLocations => blocks::located(&call).await,
        Operation::GetFileBlockLocations => blocks::locations(&call).await,
        Operation::ListStatus => listing::list(call).await,
        Operation::ListStatusBatch => listing::batch(&call).await,
        Operation::GetContentSummary => summary::content(&call).await,
        Operation::GetQuotaUsage => summary::quota(&call).await,
        Operation::GetAclStatus => attributes::acl(&call).await,
        Operation::CheckAccess => attributes::check_access(&call).await,
        Operation::SetReplication => attributes::set_replication(&call).await,
        Operation::SetOwner => attributes::set_owner(&call).await,
        Operation::SetPermission => attributes::set_permission(&call).await,
        Operation::SetTimes => attributes::set_times(&call).await,
        Operation::GetXAttrs => xattrs::values(&call).await,
        Operation::ListXAttrs => xattrs::names(&call).await,
        Operation::SetXAttr => xattrs::set(&call).await,
        Operation::RemoveXAttr => xattrs::remove(&call).await,
        Operation::Mkdirs => namespace::mkdirs(&call).await,
        Operation::Delete => namespace::delete(&call).await,
        Operation::Rename => rename::rename(&call).await,
        Operation::Concat => write::concat(&call).await,
        Operation::Truncate => write::truncate(&call).await,
        // The first step of APPEND, where the file had to be looked up.
        Operation::Append => read::redirect(&call).await,
        Operation::Create
        | Operation::GetHomeDirectory
        | Operation::GetTrashRoot
        | Operation::GetServerDefaults
        | Operation::GetAllStoragePolicy
        | Operation::GetDelegationToken
        | Operation::RenewDelegationToken
        | Operation::CancelDelegationToken
        | Operation::Unsupported => unreachable!("answered at once or received with a body"),
    }
}
