//! How headers travel to a store and back.
//!
//! What the service below cannot carry as a header of its own travels as user metadata under reserved names. User
//! metadata must be ASCII: other values are sent as RFC 2047 words, as Amazon S3 itself answers them. Where names
//! must be identifiers (Azure), others are sent in hexadecimal digits.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forebay_core::Headers;
use opendal::Metadata;
use opendal::options::WriteOptions;

use super::dialect::{Dialect, MetadataNames};

/// Reserved names start with this.
const RESERVED: &str = "forebay-";
const CACHE_CONTROL: &str = "forebay-cache-control";
const DISPOSITION: &str = "forebay-content-disposition";
const ENCODING: &str = "forebay-content-encoding";
const LANGUAGE: &str = "forebay-content-language";
const EXPIRES: &str = "forebay-expires";
/// Names one write, so that it is known again after a lost response.
pub(super) const WRITE: &str = "forebay-write";
const WORD_START: &str = "=?UTF-8?B?";
const WORD_END: &str = "?=";

/// The options that store `headers`; `write` names this write.
pub(super) fn to_options(headers: &Headers, write: Option<&str>, dialect: &Dialect) -> WriteOptions {
    let can = dialect.service.capability_dyn();
    let carried = |is_carried: bool, value: &Option<String>| value.clone().filter(|_| is_carried);
    let left = |is_carried: bool, value: &Option<String>| value.clone().filter(|_| !is_carried);
    let reserved = [
        (CACHE_CONTROL, left(can.write_with_cache_control, &headers.cache_control)),
        (DISPOSITION, left(can.write_with_content_disposition, &headers.content_disposition)),
        (ENCODING, left(can.write_with_content_encoding, &headers.content_encoding)),
        (LANGUAGE, headers.content_language.clone()),
        (EXPIRES, headers.expires.clone()),
        (WRITE, write.map(str::to_owned)),
    ];
    let user: HashMap<String, String> = headers
        .user
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .chain(reserved.into_iter().filter_map(|(name, value)| Some((name, value?))))
        .map(|(name, value)| (dialect.metadata_names.sent(name), encoded(&value)))
        .collect();
    WriteOptions {
        content_type: headers.content_type.clone(),
        cache_control: carried(can.write_with_cache_control, &headers.cache_control),
        content_disposition: carried(can.write_with_content_disposition, &headers.content_disposition),
        content_encoding: carried(can.write_with_content_encoding, &headers.content_encoding),
        user_metadata: (!user.is_empty()).then_some(user),
        ..WriteOptions::default()
    }
}

/// The headers stored with an object, and the name of the write that stored it, if it has one.
pub(super) fn from_metadata(metadata: &Metadata, names: MetadataNames) -> (Headers, Option<String>) {
    let mut user: BTreeMap<String, String> = metadata
        .user_metadata()
        .into_iter()
        .flatten()
        .map(|(name, value)| (names.received(name), decoded(value)))
        .collect();
    let write = user.remove(WRITE);
    let mut own = |value: Option<&str>, name: &str| user.remove(name).or_else(|| value.map(str::to_owned));
    let headers = Headers {
        content_type: metadata.content_type().map(str::to_owned),
        cache_control: own(metadata.cache_control(), CACHE_CONTROL),
        content_disposition: own(metadata.content_disposition(), DISPOSITION),
        content_encoding: own(metadata.content_encoding(), ENCODING),
        content_language: own(None, LANGUAGE),
        expires: own(None, EXPIRES),
        user,
    };
    (headers, write)
}

/// Starts a name whose digits follow.
const HEX_NAME: &str = "forebay_x_";

impl MetadataNames {
    /// A name as it is sent.
    fn sent(self, name: &str) -> String {
        let is_identifier = !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.is_empty();
        match self {
            Self::Tokens => name.to_owned(),
            Self::Identifiers if name.starts_with(RESERVED) => name.replace('-', "_"),
            Self::Identifiers if is_identifier && !name.starts_with("forebay_") => name.to_owned(),
            Self::Identifiers => format!("{HEX_NAME}{}", hex::encode(name)),
        }
    }

    /// The name that was sent as `name`.
    fn received(self, name: &str) -> String {
        if self == Self::Tokens {
            return name.to_owned();
        }
        if let Some(digits) = name.strip_prefix(HEX_NAME) {
            let text = hex::decode(digits).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            return text.unwrap_or_else(|| name.to_owned());
        }
        if name.starts_with("forebay_") { name.replace('_', "-") } else { name.to_owned() }
    }
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
    fn names_travel_as_identifiers_where_they_must() {
        let names = MetadataNames::Identifiers;
        for name in
            ["plain", "with-hyphen", "0digit", "forebay_x_", "forebay-mine", "forebay-expires", "ä", ""]
        {
            let sent = names.sent(name);
            assert!(sent.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{sent}");
            assert_eq!(names.received(&sent), name);
        }
        assert_eq!(MetadataNames::Tokens.sent("with-hyphen"), "with-hyphen");
    }

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
