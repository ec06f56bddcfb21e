//! The headers that S3 keeps with an object, from requests and to answers.

use forebay_core::Headers;
use s3s::dto::{Metadata, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

/// Most user metadata, names and values together.
const METADATA_BYTES_MAX: usize = 2048;
/// What S3 says of objects stored without a type.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Makes [`Headers`] of the fields that all storing requests of s3s share.
macro_rules! stored_headers {
    ($input:expr) => {
        $crate::headers::stored(
            forebay_core::Headers {
                content_type: $input.content_type.take(),
                cache_control: $input.cache_control.take(),
                content_disposition: $input.content_disposition.take(),
                content_encoding: $input.content_encoding.take(),
                content_language: $input.content_language.take(),
                expires: None,
                user: std::collections::BTreeMap::new(),
            },
            $input.expires.take(),
            $input.metadata.take(),
        )
    };
}
pub(crate) use stored_headers;

/// Completes the headers to store.
///
/// # Errors
/// `MetadataTooLarge`.
pub(crate) fn stored(
    mut headers: Headers,
    expires: Option<Timestamp>,
    metadata: Option<Metadata>,
) -> S3Result<Headers> {
    headers.content_encoding = headers.content_encoding.and_then(|coding| without_framing(&coding));
    headers.expires = expires.and_then(|date| {
        let mut text = Vec::new();
        date.format(TimestampFormat::HttpDate, &mut text).ok()?;
        String::from_utf8(text).ok()
    });
    headers.user = metadata.into_iter().flatten().map(|(name, value)| (name.to_lowercase(), value)).collect();
    let bytes: usize = headers.user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(s3_error!(MetadataTooLarge, "user metadata takes {bytes} bytes, more than 2048"));
    }
    Ok(headers)
}

/// `aws-chunked` describes the request, not the object.
fn without_framing(coding: &str) -> Option<String> {
    let kept: Vec<_> =
        coding.split(',').map(str::trim).filter(|c| !c.is_empty() && *c != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Stored `Expires` as s3s takes it; what is no HTTP date is not shown.
pub(crate) fn expires(headers: &Headers) -> Option<Timestamp> {
    headers.expires.as_deref().and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_coding(coding: &str) -> Headers {
        Headers { content_encoding: Some(coding.to_owned()), ..Headers::default() }
    }

    #[test]
    fn framing_is_not_kept_as_an_encoding() {
        let coding = |text| stored(with_coding(text), None, None).expect("small").content_encoding;
        assert_eq!(coding("aws-chunked"), None);
        assert_eq!(coding("gzip,aws-chunked").as_deref(), Some("gzip"));
        assert_eq!(coding("gzip, br").as_deref(), Some("gzip, br"));
    }

    #[test]
    fn expires_survives_the_round_trip() {
        let date =
            Timestamp::parse(TimestampFormat::HttpDate, "Wed, 21 Oct 2015 07:28:00 GMT").expect("a date");
        let headers = stored(Headers::default(), Some(date.clone()), None).expect("small");
        assert_eq!(headers.expires.as_deref(), Some("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(expires(&headers), Some(date));
    }

    #[test]
    fn metadata_is_limited() {
        let metadata = Metadata::from([("k".to_owned(), "v".repeat(3000))]);
        assert!(stored(Headers::default(), None, Some(metadata)).is_err());
    }
}
