//! The first of two steps: a redirect to ourselves, absolute, with every parameter and `data=true`.
//!
//! Hadoop answers CREATE, APPEND, OPEN and GETFILECHECKSUM in two steps, and its clients send no content in the first.

use crate::call::Call;
use crate::error::Result;
use crate::path::{self, PREFIX};
use crate::reply::Reply;

/// Where the second step of `call` goes. The path is percent-encoded: Java would encode raw bytes once more.
fn location(call: &Call) -> String {
    let own = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !name.eq_ignore_ascii_case("noredirect") && !name.eq_ignore_ascii_case("data")
    };
    let query: Vec<_> = call.query.split('&').filter(|pair| !pair.is_empty()).filter(own).collect();
    format!("{}{PREFIX}{}?{}&data=true", call.server, path::encode(&call.path), query.join("&"))
}

/// 307, or 200 with the location as JSON where the client asks for that.
pub(crate) fn reply(call: &Call) -> Result<Reply> {
    let location = location(call);
    if call.params.boolean("noredirect", false)? {
        return Ok(Reply::Json(serde_json::json!({ "Location": location }).to_string()));
    }
    Ok(Reply::Redirect(location))
}
