//! The operations of WebHDFS by HTTP method, as Hadoop 3.3.6 names them.

use actix_web::http::Method;

use crate::error::{Exception, RemoteException, Result};

/// What is asked for. `GETFILELINKSTATUS` is `GETFILESTATUS` here: there are no symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    GetFileStatus,
    ListStatus,
    ListStatusBatch,
    GetContentSummary,
    GetQuotaUsage,
    GetFileChecksum,
    GetHomeDirectory,
    GetTrashRoot,
    GetServerDefaults,
    GetDelegationToken,
    GetBlockLocations,
    GetFileBlockLocations,
    GetAclStatus,
    GetXAttrs,
    ListXAttrs,
    GetAllStoragePolicy,
    CheckAccess,
    Create,
    Mkdirs,
    Rename,
    SetReplication,
    SetOwner,
    SetPermission,
    SetTimes,
    SetXAttr,
    RemoveXAttr,
    RenewDelegationToken,
    CancelDelegationToken,
    Append,
    Concat,
    Truncate,
    Delete,
    /// Hadoop has it, no store here could: 400.
    Unsupported,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

use Operation as Op;
use Verb::{Delete, Get, Post, Put};

const OPERATIONS: &[(Verb, &str, Operation)] = &[
    (Get, "OPEN", Op::Open),
    (Get, "GETFILESTATUS", Op::GetFileStatus),
    (Get, "GETFILELINKSTATUS", Op::GetFileStatus),
    (Get, "LISTSTATUS", Op::ListStatus),
    (Get, "LISTSTATUS_BATCH", Op::ListStatusBatch),
    (Get, "GETCONTENTSUMMARY", Op::GetContentSummary),
    (Get, "GETQUOTAUSAGE", Op::GetQuotaUsage),
    (Get, "GETFILECHECKSUM", Op::GetFileChecksum),
    (Get, "GETHOMEDIRECTORY", Op::GetHomeDirectory),
    (Get, "GETTRASHROOT", Op::GetTrashRoot),
    (Get, "GETSERVERDEFAULTS", Op::GetServerDefaults),
    (Get, "GETDELEGATIONTOKEN", Op::GetDelegationToken),
    (Get, "GET_BLOCK_LOCATIONS", Op::GetBlockLocations),
    (Get, "GETFILEBLOCKLOCATIONS", Op::GetFileBlockLocations),
    (Get, "GETACLSTATUS", Op::GetAclStatus),
    (Get, "GETXATTRS", Op::GetXAttrs),
    (Get, "LISTXATTRS", Op::ListXAttrs),
    (Get, "GETALLSTORAGEPOLICY", Op::GetAllStoragePolicy),
    (Get, "CHECKACCESS", Op::CheckAccess),
    (Get, "GETSTORAGEPOLICY", Op::Unsupported),
    (Get, "GETECPOLICY", Op::Unsupported),
    (Get, "GETECPOLICIES", Op::Unsupported),
    (Get, "GETECCODECS", Op::Unsupported),
    (Get, "GETLINKTARGET", Op::Unsupported),
    (Get, "GETSNAPSHOTDIFF", Op::Unsupported),
    (Get, "GETSNAPSHOTDIFFLISTING", Op::Unsupported),
    (Get, "GETSNAPSHOTTABLEDIRECTORYLIST", Op::Unsupported),
    (Get, "GETSNAPSHOTLIST", Op::Unsupported),
    (Put, "CREATE", Op::Create),
    (Put, "MKDIRS", Op::Mkdirs),
    (Put, "RENAME", Op::Rename),
    (Put, "SETREPLICATION", Op::SetReplication),
    (Put, "SETOWNER", Op::SetOwner),
    (Put, "SETPERMISSION", Op::SetPermission),
    (Put, "SETTIMES", Op::SetTimes),
    (Put, "SETXATTR", Op::SetXAttr),
    (Put, "REMOVEXATTR", Op::RemoveXAttr),
    (Put, "RENEWDELEGATIONTOKEN", Op::RenewDelegationToken),
    (Put, "CANCELDELEGATIONTOKEN", Op::CancelDelegationToken),
    (Put, "CREATESYMLINK", Op::Unsupported),
    (Put, "MODIFYACLENTRIES", Op::Unsupported),
    (Put, "REMOVEACLENTRIES", Op::Unsupported),
    (Put, "REMOVEDEFAULTACL", Op::Unsupported),
    (Put, "REMOVEACL", Op::Unsupported),
    (Put, "SETACL", Op::Unsupported),
    (Put, "ENABLEECPOLICY", Op::Unsupported),
    (Put, "DISABLEECPOLICY", Op::Unsupported),
    (Put, "SETECPOLICY", Op::Unsupported),
    (Put, "ALLOWSNAPSHOT", Op::Unsupported),
    (Put, "DISALLOWSNAPSHOT", Op::Unsupported),
    (Put, "CREATESNAPSHOT", Op::Unsupported),
    (Put, "RENAMESNAPSHOT", Op::Unsupported),
    (Put, "SETSTORAGEPOLICY", Op::Unsupported),
    (Put, "SATISFYSTORAGEPOLICY", Op::Unsupported),
    (Put, "SETQUOTA", Op::Unsupported),
    (Put, "SETQUOTABYSTORAGETYPE", Op::Unsupported),
    (Post, "APPEND", Op::Append),
    (Post, "CONCAT", Op::Concat),
    (Post, "TRUNCATE", Op::Truncate),
    (Post, "UNSETSTORAGEPOLICY", Op::Unsupported),
    (Post, "UNSETECPOLICY", Op::Unsupported),
    (Delete, "DELETE", Op::Delete),
    (Delete, "DELETESNAPSHOT", Op::Unsupported),
];

impl Operation {
    /// The operation that `op=text` names for an HTTP method, with Hadoop's spelling of it. `HEAD` is `GET`.
    pub(crate) fn parse(method: &Method, text: Option<&str>) -> Result<(&'static str, Self)> {
        let verb = match *method {
            Method::GET | Method::HEAD => Get,
            Method::PUT => Put,
            Method::POST => Post,
            Method::DELETE => Delete,
            _ => {
                let message = format!("HTTP method {method} is not supported");
                return Err(RemoteException::new(Exception::UnsupportedOperation, message));
            }
        };
        let Some(text) = text.filter(|text| !text.eq_ignore_ascii_case("null")) else {
            return Err(RemoteException::new(Exception::UnsupportedOperation, "op=NULL is not supported"));
        };
        let mut known = OPERATIONS.iter();
        let known = known.find(|(of, name, _)| *of == verb && name.eq_ignore_ascii_case(text));
        known.map(|(_, name, operation)| (*name, *operation)).ok_or_else(|| {
            let method = if *method == Method::HEAD { &Method::GET } else { method };
            RemoteException::parameter("op", &format!("{text} is not a valid {method} operation."))
        })
    }

    /// All names, for metrics.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        OPERATIONS.iter().map(|(_, name, _)| *name)
    }

    /// Whether it changes something: it then runs to its end even when the client leaves.
    pub(crate) fn is_change(self) -> bool {
        match self {
            Self::Create
            | Self::Mkdirs
            | Self::Rename
            | Self::SetReplication
            | Self::SetOwner
            | Self::SetPermission
            | Self::SetTimes
            | Self::SetXAttr
            | Self::RemoveXAttr
            | Self::RenewDelegationToken
            | Self::CancelDelegationToken
            | Self::Append
            | Self::Concat
            | Self::Truncate
            | Self::Delete => true,
            Self::Open
            | Self::GetFileStatus
            | Self::ListStatus
            | Self::ListStatusBatch
            | Self::GetContentSummary
            | Self::GetQuotaUsage
            | Self::GetFileChecksum
            | Self::GetHomeDirectory
            | Self::GetTrashRoot
            | Self::GetServerDefaults
            | Self::GetDelegationToken
            | Self::GetBlockLocations
            | Self::GetFileBlockLocations
            | Self::GetAclStatus
            | Self::GetXAttrs
            | Self::ListXAttrs
            | Self::GetAllStoragePolicy
            | Self::CheckAccess
            | Self::Unsupported => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ignore_case_and_belong_to_a_method() {
        assert_eq!(
            Operation::parse(&Method::GET, Some("listStatus")).expect("known"),
            ("LISTSTATUS", Op::ListStatus)
        );
        let wrong = Operation::parse(&Method::POST, Some("MKDIRS")).expect_err("a PUT operation");
        assert_eq!(
            wrong.message,
            "Invalid value for webhdfs parameter \"op\": MKDIRS is not a valid POST operation."
        );
        let none = Operation::parse(&Method::GET, None).expect_err("no operation");
        assert_eq!(none.message, "op=NULL is not supported");
    }
}
