//! GETXATTRS, LISTXATTRS, SETXATTR and REMOVEXATTR, for `user.*`; ours are shown where they are named.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forebay_core::{ErrorKind, OWN_XATTRS, XattrMode};
use serde_json::json;

use crate::call::Call;
use crate::error::{Exception, RemoteException, Result};
use crate::ops::read;
use crate::reply::Reply;

/// How values are shown.
#[derive(Clone, Copy)]
enum Encoding {
    Text,
    Hex,
    Base64,
}

impl Encoding {
    fn of(call: &Call) -> Result<Self> {
        let Some(text) = call.params.text("encoding") else { return Ok(Self::Text) };
        match text.to_ascii_uppercase().as_str() {
            "TEXT" => Ok(Self::Text),
            "HEX" => Ok(Self::Hex),
            "BASE64" => Ok(Self::Base64),
            _ => {
                let problem = format!("No enum constant org.apache.hadoop.fs.XAttrCodec.{text}");
                Err(RemoteException::parameter("encoding", &problem))
            }
        }
    }

    fn encode(self, value: &[u8]) -> String {
        match self {
            Self::Text => format!("\"{}\"", String::from_utf8_lossy(value)),
            Self::Hex => format!("0x{}", hex::encode(value)),
            Self::Base64 => format!("0s{}", STANDARD.encode(value)),
        }
    }
}

/// A value as `setfattr` and Hadoop write it: `0x…`, `0s…`, `"text"` or text.
fn decode(text: &str) -> Result<Bytes> {
    let bad =
        || RemoteException::new(Exception::IllegalArgument, format!("the xattr value {text} is malformed"));
    let prefix = text.get(..2).map(str::to_ascii_lowercase);
    let value = match prefix.as_deref() {
        Some("0x") => hex::decode(&text[2..]).map_err(|_| bad())?,
        Some("0s") => STANDARD.decode(&text[2..]).map_err(|_| bad())?,
        _ => {
            let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            quoted.unwrap_or(text).as_bytes().to_vec()
        }
    };
    Ok(value.into())
}

fn checked(name: &str) -> Result<&str> {
    if name.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) {
        return Ok(name);
    }
    if ["trusted.", "security.", "system.", "raw."].iter().any(|namespace| name.starts_with(namespace)) {
        let message = format!("User doesn't have permission for xattr: {name}");
        return Err(RemoteException::new(Exception::AccessControl, message));
    }
    let message = "An XAttr name must be prefixed with user/trusted/security/system/raw, followed by a '.'";
    Err(RemoteException::new(Exception::IllegalArgument, message))
}

fn io(message: impl Into<String>) -> RemoteException {
    RemoteException::new(Exception::Io, message)
}

async fn all(call: &Call) -> Result<Vec<(String, Bytes)>> {
    call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    call.namespace().xattrs(&call.context, &call.path).await.map_err(|e| read::missing(call, e))
}

/// GETXATTRS: all, or those named; naming one that is not there is an error.
pub(crate) async fn values(call: &Call) -> Result<Reply> {
    let encoding = Encoding::of(call)?;
    let wanted = call.params.all("xattr.name").map(checked).collect::<Result<Vec<_>>>()?;
    let mut found = all(call).await?;
    for name in &wanted {
        let Some(setting) = name.strip_prefix(OWN_XATTRS) else { continue };
        let said = call.namespace().cache_setting(&call.context, &call.path, setting)?;
        found.extend(said.map(|value| ((*name).to_owned(), Bytes::from(value))));
    }
    if !wanted.iter().all(|name| found.iter().any(|(known, _)| known == name)) {
        return Err(io("At least one of the attributes provided was not found."));
    }
    let shown = found.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(&name.as_str()));
    let shown: Vec<_> =
        shown.map(|(name, value)| json!({ "name": name, "value": encoding.encode(value) })).collect();
    Ok(Reply::Json(json!({ "XAttrs": shown }).to_string()))
}

/// LISTXATTRS: a JSON array inside a JSON string, as Hadoop sends it.
pub(crate) async fn names(call: &Call) -> Result<Reply> {
    let names: Vec<_> = all(call).await?.into_iter().map(|(name, _)| name).collect();
    Ok(Reply::Json(json!({ "XAttrNames": json!(names).to_string() }).to_string()))
}

/// SETXATTR with `flag` CREATE, REPLACE or both.
pub(crate) async fn set(call: &Call) -> Result<Reply> {
    let name = checked(call.required("xattr.name")?)?;
    let value = decode(call.params.text("xattr.value").unwrap_or_default())?;
    let flags = call.required("flag")?.to_ascii_uppercase();
    let mode = match flags.as_str() {
        "CREATE" => XattrMode::Create,
        "REPLACE" => XattrMode::Replace,
        "CREATE,REPLACE" | "REPLACE,CREATE" => XattrMode::Any,
        _ => {
            let problem = format!("No enum constant org.apache.hadoop.fs.XAttrSetFlag.{flags}");
            return Err(RemoteException::parameter("flag", &problem));
        }
    };
    call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    let set = call.namespace().set_xattr(&call.context, &call.path, (name, Some(value)), mode).await;
    let short = name.trim_start_matches("user.");
    match set {
        Ok(()) => Ok(Reply::Empty),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            Err(io(format!("XAttr: {short} already exists. The REPLACE flag must be specified.")))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(io(format!("XAttr: {short} does not exist. The CREATE flag must be specified.")))
        }
        Err(e) => Err(e.into()),
    }
}

/// REMOVEXATTR.
pub(crate) async fn remove(call: &Call) -> Result<Reply> {
    let name = checked(call.required("xattr.name")?)?;
    call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    let removed =
        call.namespace().set_xattr(&call.context, &call.path, (name, None), XattrMode::Replace).await;
    match removed {
        Ok(()) => Ok(Reply::Empty),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(io("No matching attributes found for remove operation"))
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_setfattr_writes_them() {
        for text in ["0x6162", "0sYWI=", "\"ab\"", "ab"] {
            assert_eq!(decode(text).expect("valid"), "ab", "{text}");
        }
        assert!(decode("0x6").is_err());
        assert_eq!(Encoding::Text.encode(b"ab"), "\"ab\"");
        assert_eq!(Encoding::Hex.encode(b"ab"), "0x6162");
        assert_eq!(Encoding::Base64.encode(b"ab"), "0sYWI=");
    }

    #[test]
    fn only_the_user_namespace_is_open() {
        assert!(checked("user.a").is_ok());
        assert_eq!(checked("trusted.a").expect_err("refused").exception, Exception::AccessControl);
        assert_eq!(checked("a").expect_err("refused").exception, Exception::IllegalArgument);
    }
}
