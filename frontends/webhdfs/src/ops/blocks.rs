//! `GET_BLOCK_LOCATIONS` (Hadoop up to 3.3) and GETFILEBLOCKLOCATIONS (from 3.4).
//!
//! A file is one block on `localhost`, as Hadoop says of every store without locality. An empty list would do for
//! Spark's own readers, but `MapReduce`'s input formats index into it and fail.

use serde_json::{Value, json};

use crate::call::Call;
use crate::error::Result;
use crate::ops::read;
use crate::reply::Reply;

const HOST: &str = "localhost";
const ADDRESS: &str = "localhost:9866";
const RACK: &str = "/default-rack";

/// The length of the file's one block: `None` where there is none (an empty file, a directory).
async fn block_bytes(call: &Call) -> Result<Option<u64>> {
    let entry = call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    Ok(Some(entry.size_bytes).filter(|size| *size > 0 && !entry.is_directory()))
}

/// GETFILEBLOCKLOCATIONS.
pub(crate) async fn locations(call: &Call) -> Result<Reply> {
    let location = block_bytes(call).await?.map(|length| {
        json!({
            "cachedHosts": [], "corrupt": false, "hosts": [HOST], "length": length, "names": [ADDRESS], "offset": 0,
            "storageTypes": ["DISK"], "topologyPaths": [format!("{RACK}/{ADDRESS}")],
        })
    });
    let locations: Vec<Value> = location.into_iter().collect();
    Ok(Reply::Json(json!({ "BlockLocations": { "BlockLocation": locations } }).to_string()))
}

/// `GET_BLOCK_LOCATIONS`. No client can reach the datanode in it, and none tries: WebHDFS reads go through OPEN.
pub(crate) async fn located(call: &Call) -> Result<Reply> {
    let length = block_bytes(call).await?;
    let datanode = json!({
        "adminState": "NORMAL", "hostName": HOST, "infoPort": 9864, "infoSecurePort": 0, "ipAddr": "127.0.0.1",
        "ipcPort": 9867, "name": "127.0.0.1:9866", "networkLocation": RACK, "storageID": "forebay", "xferPort": 9866,
    });
    let block = length.map(|length| {
        json!({
            "block": { "blockId": 1, "blockPoolId": "forebay", "generationStamp": 1, "numBytes": length },
            "blockToken": { "urlString": "AAAAAA" }, "cachedLocations": [], "isCorrupt": false,
            "locations": [datanode], "startOffset": 0, "storageTypes": ["DISK"],
        })
    });
    let located = json!({
        "fileLength": length.unwrap_or(0), "isLastBlockComplete": true, "isUnderConstruction": false,
        "lastLocatedBlock": block, "locatedBlocks": block.iter().collect::<Vec<_>>(),
    });
    Ok(Reply::Json(json!({ "LocatedBlocks": located }).to_string()))
}
