//! Who calls, and whether the way they signed is accepted.
//!
//! s3s verifies signatures with the secrets that [`Auth`] gives it, then asks [`Auth`] for access. Only that answer
//! attaches a [`Context`] to the request, and operations take theirs from [`caller`]: a path around the check ends in
//! `AccessDenied`, not in the namespace.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use forebay_core::{Access, Context};
use hyper::header::{AUTHORIZATION, HeaderName};
use hyper::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Request, S3Result, s3_error};

use crate::handler::RequestTag;

/// Longest life of a presigned URL.
const PRESIGNED_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Authentication and access against the configured principals.
#[derive(Clone)]
pub(crate) struct Auth(pub(crate) Arc<Access>);

#[async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.s3(access_key) {
            Some((secret, _)) => Ok(SecretKey::from(secret.expose())),
            None => Err(s3_error!(InvalidAccessKeyId, "this access key is not in the access section")),
        }
    }
}

#[async_trait]
impl S3Access for Auth {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if let Some(tag) = cx.extensions_mut().get::<Arc<RequestTag>>().cloned() {
            tag.operation(cx.s3_op().name());
        }
        let principal = if let Some(credentials) = cx.credentials() {
            refuse_long_life(cx.uri())?;
            refuse_unsigned(cx.uri(), cx.headers())?;
            self.0.s3(&credentials.access_key).map(|(_, principal)| principal)
        } else {
            refuse_framed_bodies(cx.headers(), true)?;
            self.0.anonymous()
        };
        let Some(principal) = principal else {
            return Err(s3_error!(AccessDenied, "requests must be signed with a configured access key"));
        };
        refuse_framed_bodies(cx.headers(), false)?;
        refuse_unsupported(cx.headers())?;
        let context = Context::new(principal);
        cx.extensions_mut().insert(context);
        Ok(())
    }
}

/// The caller that the access check attached.
///
/// # Errors
/// `AccessDenied` when there was no check; `InvalidRequest` for `SigV2`, whose credentials carry no region.
pub(crate) fn caller<T>(request: &S3Request<T>) -> S3Result<Context> {
    if request.credentials.is_some() && request.region.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "signature version 2 is not accepted; please use AWS4-HMAC-SHA256"
        ));
    }
    match request.extensions.get::<Context>() {
        Some(context) => Ok(context.clone()),
        None => Err(s3_error!(AccessDenied, "the request did not pass the access check")),
    }
}

/// Presigned URLs that live too long.
fn refuse_long_life(uri: &Uri) -> S3Result<()> {
    let is_long =
        |value: Cow<'_, str>| value.parse::<u64>().is_ok_and(|seconds| seconds > PRESIGNED_SECONDS_MAX);
    if query(uri, "X-Amz-Expires").any(is_long) {
        let message = "X-Amz-Expires must be at most 604800 seconds";
        return Err(s3_error!(AuthorizationQueryParametersError, "{message}"));
    }
    Ok(())
}

/// Refuses `x-amz-*` headers that the signature does not cover: one of them could turn a signed request into another
/// (`x-amz-copy-source` makes a PUT a copy).
///
/// # Errors
/// `AccessDenied`, as S3 answers.
fn refuse_unsigned(uri: &Uri, headers: &HeaderMap) -> S3Result<()> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let in_header =
        authorization.split([',', ' ']).find_map(|part| part.trim().strip_prefix("SignedHeaders="));
    let in_query = query(uri, "X-Amz-SignedHeaders").next();
    let Some(signed) = in_header.map(Cow::Borrowed).or(in_query) else { return Ok(()) };
    let is_unsigned = |name: &&str| {
        name.starts_with("x-amz-")
            && *name != "x-amz-content-sha256"
            && !signed.split(';').any(|signed| signed.eq_ignore_ascii_case(name))
    };
    match headers.keys().map(HeaderName::as_str).find(is_unsigned) {
        None => Ok(()),
        Some(name) => {
            Err(s3_error!(AccessDenied, "there was a header in the request which was not signed: {name}"))
        }
    }
}

/// The values of a query parameter.
fn query<'a>(uri: &'a Uri, wanted: &str) -> impl Iterator<Item = Cow<'a, str>> {
    uri.query().unwrap_or_default().split('&').filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decode_str(name).eq(wanted.bytes()).then(|| percent_decode_str(value).decode_utf8_lossy())
    })
}

/// Bodies in `aws-chunked` framing that nothing would take out of its frames: they would be stored with them.
fn refuse_framed_bodies(headers: &HeaderMap, is_unsigned: bool) -> S3Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_streaming = text("x-amz-content-sha256").starts_with("STREAMING-");
    let is_framed = text("content-encoding").split(',').any(|coding| coding.trim() == "aws-chunked");
    if is_unsigned && (is_streaming || is_framed) {
        return Err(s3_error!(NotImplemented, "unsigned requests cannot send aws-chunked bodies"));
    }
    if is_framed && !is_streaming {
        return Err(s3_error!(InvalidRequest, "an aws-chunked body needs x-amz-content-sha256: STREAMING-…"));
    }
    Ok(())
}

/// What would change the meaning of the request if it were ignored.
fn refuse_unsupported(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("x-amz-") else { continue };
        let refused = match name {
            "acl" => {
                !matches!(value.as_bytes(), b"private" | b"bucket-owner-full-control" | b"bucket-owner-read")
            }
            "storage-class" => value != "STANDARD",
            "website-redirect-location" => true,
            "tagging" => !value.is_empty(),
            "bucket-object-lock-enabled" => !value.as_bytes().eq_ignore_ascii_case(b"false"),
            _ => {
                name.starts_with("server-side-encryption")
                    || name.starts_with("copy-source-server-side-encryption")
                    || name.starts_with("grant-")
                    || name.starts_with("object-lock-")
            }
        };
        if refused && name == "storage-class" {
            return Err(s3_error!(InvalidStorageClass, "the only storage class is STANDARD"));
        }
        if refused {
            return Err(s3_error!(NotImplemented, "x-amz-{name} is not supported with this value"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hyper::http::Extensions;
    use s3s::auth::Credentials;
    use s3s::region::Region;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
        headers
    }

    fn code(result: S3Result<()>) -> String {
        result.map_or_else(|e| e.code().as_str().to_owned(), |()| "ok".to_owned())
    }

    fn request(region: Option<&str>) -> S3Request<()> {
        let credentials = Credentials { access_key: "k".into(), secret_key: SecretKey::from("s") };
        let region = region.map(|region| Region::new(region.into()).expect("a region"));
        let mut extensions = Extensions::new();
        extensions.insert(crate::testing::context());
        S3Request {
            input: (),
            method: hyper::Method::GET,
            uri: Uri::from_static("/b/k"),
            headers: HeaderMap::new(),
            extensions,
            credentials: Some(credentials),
            region,
            service: None,
            trailing_headers: None,
        }
    }

    #[test]
    fn caller_is_what_the_access_check_attached() {
        let mut request = request(Some("us-east-1"));
        assert_eq!(
            caller(&request).expect("checked").principal.name,
            crate::testing::context().principal.name
        );
        request.extensions.clear();
        assert_eq!(code(caller(&request).map(|_| ())), "AccessDenied");
    }

    #[test]
    fn signature_v2_is_refused() {
        assert_eq!(code(caller(&request(None)).map(|_| ())), "InvalidRequest");
    }

    #[test]
    fn presigned_urls_live_seven_days_at_most() {
        assert_eq!(code(refuse_long_life(&Uri::from_static("/b/k?X-Amz-Expires=604800"))), "ok");
        let more = Uri::from_static("/b/k?X%2dAmz-Expires=604801");
        assert_eq!(code(refuse_long_life(&more)), "AuthorizationQueryParametersError");
    }

    #[test]
    fn headers_that_the_signature_does_not_cover_are_refused() {
        let presigned = Uri::from_static("/b/k?X-Amz-SignedHeaders=host%3Bx-amz-meta-a");
        let plain = Uri::from_static("/b/k");
        assert_eq!(code(refuse_unsigned(&presigned, &headers("x-amz-meta-a", "1"))), "ok");
        assert_eq!(code(refuse_unsigned(&presigned, &headers("x-amz-copy-source", "/b/x"))), "AccessDenied");
        let mut signed = headers(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=k, SignedHeaders=host;x-amz-date, Signature=s",
        );
        signed.insert("x-amz-date", "20260101T000000Z".parse().expect("a value"));
        assert_eq!(code(refuse_unsigned(&plain, &signed)), "ok");
        signed.insert("x-amz-copy-source", "/b/x".parse().expect("a value"));
        assert_eq!(code(refuse_unsigned(&plain, &signed)), "AccessDenied");
    }

    #[test]
    fn framing_is_never_stored() {
        let framed = headers("content-encoding", "gzip, aws-chunked");
        assert_eq!(code(refuse_framed_bodies(&framed, false)), "InvalidRequest");
        let streaming = headers("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        assert_eq!(code(refuse_framed_bodies(&streaming, true)), "NotImplemented");
        assert_eq!(code(refuse_framed_bodies(&streaming, false)), "ok");
    }

    #[test]
    fn what_cannot_be_kept_is_not_accepted() {
        for (name, value) in [
            ("x-amz-acl", "public-read"),
            ("x-amz-grant-read", "id=1"),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-object-lock-mode", "GOVERNANCE"),
        ] {
            assert_eq!(code(refuse_unsupported(&headers(name, value))), "NotImplemented", "{name}");
        }
        assert_eq!(code(refuse_unsupported(&headers("x-amz-acl", "private"))), "ok");
        assert_eq!(
            code(refuse_unsupported(&headers("x-amz-storage-class", "GLACIER"))),
            "InvalidStorageClass"
        );
    }
}
