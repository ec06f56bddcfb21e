//! From a request's raw path to a name, byte for byte: decoded once, `+` literal, nothing collapsed.

use forebay_core::NsPath;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Exception, RemoteException, Result};

/// Where the API lives.
pub(crate) const PREFIX: &str = "/webhdfs/v1";

/// What is not escaped in a path that this server hands out: RFC 3986's unreserved characters and the slash.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The name in a raw request path, with its `/webhdfs/v1` and still as text.
pub(crate) fn decode(raw: &str) -> Result<String> {
    let Some(rest) = raw.strip_prefix(PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        let message = format!("{raw} is not below {PREFIX}, where the WebHDFS API is");
        return Err(RemoteException::new(Exception::FileNotFound, message));
    };
    match percent_decode_str(rest).decode_utf8() {
        Ok(text) if text.is_empty() => Ok("/".to_owned()),
        Ok(text) => Ok(text.into_owned()),
        Err(_) => {
            let message = format!("Invalid path name Invalid file name: {rest} is not UTF-8");
            Err(RemoteException::new(Exception::InvalidPath, message))
        }
    }
}

/// Accepts a decoded absolute path; one trailing slash is allowed, as Hadoop does.
pub(crate) fn parse(text: &str) -> Result<NsPath> {
    let trimmed = text.strip_suffix('/').filter(|rest| !rest.is_empty() && *rest != "/").unwrap_or(text);
    NsPath::parse(trimmed).map_err(|_| invalid(text))
}

/// Refuses to make a name that Hadoop's client could not read back.
pub(crate) fn refuse_colon(path: &NsPath) -> Result<()> {
    if path.as_str().contains(':') { Err(invalid(path.as_str())) } else { Ok(()) }
}

/// The path as a URL carries it.
pub(crate) fn encode(path: &NsPath) -> String {
    utf8_percent_encode(path.as_str(), ESCAPED).to_string()
}

fn invalid(text: &str) -> RemoteException {
    RemoteException::new(Exception::InvalidPath, format!("Invalid path name Invalid file name: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> Result<NsPath> {
        parse(&decode(&format!("{PREFIX}{raw}"))?)
    }

    #[test]
    fn names_are_decoded_once_and_kept_byte_for_byte() {
        for (raw, name) in [
            ("", "/"),
            ("/", "/"),
            ("/b/", "/b"),
            ("/a+b", "/a+b"),
            ("/a%2Bb%20c", "/a+b c"),
            ("/p/a%25b%20c+d=e;f&g", "/p/a%b c+d=e;f&g"),
            ("/%C3%A9", "/é"),
            ("/e%CC%81", "/e\u{301}"),
            ("/a%252Fb", "/a%2Fb"),
            ("/k=%3D", "/k=="),
        ] {
            assert_eq!(path(raw).expect("valid").as_str(), name, "{raw}");
        }
    }

    #[test]
    fn names_that_no_store_could_hold_are_invalid_paths() {
        let long = format!("/{}", "x".repeat(5000));
        for raw in ["/a//b", "/a/./b", "/a/../b", "/a%00b", "/%FF", "//", "/a/%2E%2E/b", &long] {
            assert_eq!(path(raw).expect_err("refused").exception, Exception::InvalidPath, "{raw}");
        }
    }

    #[test]
    fn every_name_survives_being_sent_back() {
        for name in ["/a b+c%d", "/é\u{301}?#&=;", "/-._~", "/\u{1}\n\"'<>[]{}|\\^`"] {
            let encoded = encode(&NsPath::parse(name).expect("valid"));
            assert!(encoded.is_ascii());
            assert_eq!(path(&encoded).expect("valid").as_str(), name);
        }
    }

    #[test]
    fn other_paths_are_not_found() {
        for raw in ["/", "/webhdfs/v10/a", "/webhdfs"] {
            assert_eq!(decode(raw).expect_err("refused").exception, Exception::FileNotFound);
        }
    }
}
