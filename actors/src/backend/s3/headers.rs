//! How headers travel to S3 and back.
//!
//! `OpenDAL` carries neither `Content-Language` nor `Expires`: they travel as user metadata under reserved names.
//! User metadata must be ASCII: other values are sent as RFC 2047 words, as Amazon S3 itself answers them.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forebay_core::Headers;
use opendal::Metadata;
use opendal::options::WriteOptions;

const LANGUAGE: &str = "forebay-content-language";
const EXPIRES: &str = "forebay-expires";
/// Names one write, so that it is known again after a lost response.
pub(super) const WRITE: &str = "forebay-write";
const WORD_START: &str = "=?UTF-8?B?";
const WORD_END: &str = "?=";

/// The options that store `headers`; `write` names this write.
pub(super) fn to_options(headers: &Headers, write: Option<&str>) -> WriteOptions {
    let reserved = [
        (LANGUAGE, headers.content_language.as_deref()),
        (EXPIRES, headers.expires.as_deref()),
        (WRITE, write),
    ];
    let user: HashMap<String, String> = headers
        .user
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .chain(reserved.into_iter().filter_map(|(name, value)| Some((name, value?))))
        .map(|(name, value)| (name.to_owned(), encoded(value)))
        .collect();
    WriteOptions {
        content_type: headers.content_type.clone(),
        cache_control: headers.cache_control.clone(),
        content_disposition: headers.content_disposition.clone(),
        content_encoding: headers.content_encoding.clone(),
        user_metadata: (!user.is_empty()).then_some(user),
        ..WriteOptions::default()
    }
}

/// The headers stored with an object, and the name of the write that stored it, if it has one.
pub(super) fn from_metadata(metadata: &Metadata) -> (Headers, Option<String>) {
    let mut user: BTreeMap<String, String> = metadata
        .user_metadata()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect();
    let write = user.remove(WRITE);
    let headers = Headers {
        content_type: metadata.content_type().map(str::to_owned),
        cache_control: metadata.cache_control().map(str::to_owned),
        content_disposition: metadata.content_disposition().map(str::to_owned),
        content_encoding: metadata.content_encoding().map(str::to_owned),
        content_language: user.remove(LANGUAGE),
        expires: user.remove(EXPIRES),
        user,
    };
    (headers, write)
}

fn encoded(value: &str) -> String {
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain && !value.starts_with(WORD_START) && value.trim() == value {
        return value.to_owned();
    }
    format!("{WORD_START}{}{WORD_END}", STANDARD.encode(value))
}

fn decoded(value: &str) -> String {
    let word = value.strip_prefix(WORD_START).and_then(|rest| rest.strip_suffix(WORD_END));
    let text = word.and_then(|word| String::from_utf8(STANDARD.decode(word).ok()?).ok());
    text.unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_travel_as_visible_ascii() {
        for value in ["plain", "", "Jörg ☃", " padded ", "line\nbreak", "=?UTF-8?B?x?="] {
            let sent = encoded(value);
            assert!(sent.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{sent}");
            assert_eq!(decoded(&sent), value);
        }
        assert_eq!(decoded("=?UTF-8?B?not base64?="), "=?UTF-8?B?not base64?=");
    }
}
