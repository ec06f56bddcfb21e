//! Answers that hang on no file.

use serde_json::json;

use crate::call::Call;
use crate::error::Result;
use crate::json::BLOCK_BYTES;
use crate::reply::Reply;

pub(crate) fn home_directory(call: &Call) -> Reply {
    Reply::Json(json!({ "Path": format!("/user/{}", call.user) }).to_string())
}

pub(crate) fn trash_root(call: &Call) -> Reply {
    Reply::Json(json!({ "Path": format!("/user/{}/.Trash", call.user) }).to_string())
}

/// `encryptDataTransfer` must be a JSON boolean; a trash interval of 0 makes `hadoop fs -rm` remove.
pub(crate) fn server_defaults() -> Reply {
    let defaults = json!({
        "blockSize": BLOCK_BYTES, "bytesPerChecksum": 512, "checksumType": 2, "defaultStoragePolicyId": 7,
        "encryptDataTransfer": false, "fileBufferSize": 4096, "keyProviderUri": "", "replication": 1,
        "trashInterval": 0, "writePacketSize": 65536,
    });
    Reply::Json(json!({ "FsServerDefaults": defaults }).to_string())
}

/// HDFS's default policy, alone: stores decide for themselves where bytes lie.
pub(crate) fn storage_policies() -> Reply {
    let hot = json!({
        "copyOnCreateFile": false, "creationFallbacks": [], "id": 7, "name": "HOT",
        "replicationFallbacks": ["ARCHIVE"], "storageTypes": ["DISK"],
    });
    Reply::Json(json!({ "BlockStoragePolicies": { "BlockStoragePolicy": [hot] } }).to_string())
}

/// What Hadoop answers without Kerberos: no token is needed. A bare `null` would be an error to its client.
pub(crate) fn delegation_token() -> Reply {
    Reply::Json(r#"{"Token":null}"#.to_owned())
}

/// Tokens of the access section do not expire.
pub(crate) fn renew_token(call: &Call) -> Result<Reply> {
    call.required("token")?;
    Ok(Reply::Json(json!({ "long": i64::MAX }).to_string()))
}

/// There is nothing to take back: tokens are given by the access section alone.
pub(crate) fn cancel_token(call: &Call) -> Result<Reply> {
    call.required("token")?;
    Ok(Reply::Empty)
}
