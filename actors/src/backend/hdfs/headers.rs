//! S3 headers as one xattr of the file, set before the file has its name.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forebay_core::{Error, ErrorKind, Headers, Result};

use super::client::Client;
use super::path::Path;

/// Holds all headers as JSON; HDFS allows 16 KiB by default.
const XATTR: &str = "user.forebay.headers";
/// How WebHDFS marks base64.
const BASE64: &str = "0s";

/// Keeps `headers` with a file. Without any, nothing is sent: no xattr means no headers.
pub(super) async fn keep(client: &Client, path: &Path, headers: &Headers) -> Result<()> {
    if *headers == Headers::default() {
        return Ok(());
    }
    let json = serde_json::to_vec(headers)
        .map_err(|e| Error::new(ErrorKind::Internal, "headers cannot be written as JSON").because(e))?;
    client.set_xattr(path, XATTR, &format!("{BASE64}{}", STANDARD.encode(json))).await
}

/// The headers kept with a file.
pub(super) async fn read(client: &Client, path: &Path) -> Result<Arc<Headers>> {
    let text = match client.xattr(path, XATTR).await {
        // A cluster without xattrs keeps no headers, and refuses writes that have some.
        Err(e) if e.kind() == ErrorKind::Unsupported => None,
        answer => answer?,
    };
    let Some(text) = text else { return Ok(Arc::default()) };
    // Written by somebody else, it is no reason to hide the file.
    let headers = parse(&text).unwrap_or_else(|| {
        tracing::warn!(xattr = XATTR, "an xattr does not hold headers and is not shown");
        Headers::default()
    });
    Ok(Arc::new(headers))
}

fn parse(text: &str) -> Option<Headers> {
    serde_json::from_slice(&STANDARD.decode(text.strip_prefix(BASE64)?).ok()?).ok()
}
