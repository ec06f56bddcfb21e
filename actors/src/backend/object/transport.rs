//! The HTTP client of one mount: its own pool and timeouts, so that a store that hangs costs its own mount only.
//!
//! HTTP/1.1, which gives more throughput per request than streams of one connection. Redirects are not followed:
//! a signature holds for one host.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::{Error, ErrorKind};
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use http::{HeaderValue, StatusCode};
use opendal::raw::Operation;
use opendal::{Buffer, HttpBody, HttpTransport};
use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt;

use super::from_opendal;
use crate::backend::error::NO_ANSWER;
use crate::config::{HttpCredential, MountLimits};

/// Longest wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long an idle connection is kept; stores close theirs after about a minute.
const IDLE: Duration = Duration::from_secs(45);
/// Time between probes of an idle connection, so that dropped ones are noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Which certificates are trusted, read from the machine once: a thousand mounts that read it themselves would take
/// seconds. `None` leaves it to each client, which then says what is wrong.
static TRUST: LazyLock<Option<ClientConfig>> = LazyLock::new(|| ClientConfig::with_platform_verifier().ok());

/// A transport over `reqwest`. Clones share the connections.
#[derive(Clone)]
pub(super) struct Transport {
    client: reqwest::Client,
}

impl Transport {
    pub(super) fn new(limits: &MountLimits) -> Result<Self, reqwest::Error> {
        // Whoever comes first installs it; all install the same.
        rustls::crypto::ring::default_provider().install_default().map_err(drop).unwrap_or_default();
        let mut builder = reqwest::Client::builder();
        if let Some(trust) = &*TRUST {
            builder = builder.tls_backend_preconfigured(trust.clone());
        }
        let client = builder
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            // Shorter than the deadline, so that a write whose answer does not come can still be looked for.
            .read_timeout(limits.request_deadline * 3 / 4)
            .pool_max_idle_per_host(limits.operations)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(KEEPALIVE)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client })
    }
}

impl Transport {
    /// The page at `url`, at most `size_bytes_max` of it; `None` where there is none to be read.
    ///
    /// # Errors
    /// `Unavailable` when the server cannot be reached, fails, or answers more than that.
    pub(super) async fn page(
        &self,
        url: &str,
        credential: &HttpCredential,
        size_bytes_max: usize,
    ) -> forebay_core::Result<Option<String>> {
        let request = match credential {
            HttpCredential::None => self.client.get(url),
            HttpCredential::Basic { username, password } => {
                self.client.get(url).basic_auth(username, Some(password.expose()))
            }
            HttpCredential::Bearer(token) => self.client.get(url).bearer_auth(token.expose()),
        };
        let mut response = request.send().await.map_err(|e| from_opendal(&failed(e)))?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(Error::new(ErrorKind::AccessDenied, "the server asks for other credentials"));
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Error::new(ErrorKind::Unavailable, format!("the server answered {status}")));
        }
        if !status.is_success() {
            return Ok(None);
        }
        let mut page = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| from_opendal(&failed(e)))? {
            page.extend_from_slice(&piece);
            if page.len() > size_bytes_max {
                let text = format!("the server's page of a directory is longer than {size_bytes_max} bytes");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        Ok(Some(String::from_utf8_lossy(&page).into_owned()))
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: http::Request<Buffer>) -> opendal::Result<http::Response<HttpBody>> {
        let is_head = request.method() == http::Method::HEAD;
        let is_list = request.extensions().get::<Operation>() == Some(&Operation::List);
        let range = request.headers().get(http::header::RANGE).and_then(bounds);
        // Each part is one piece of memory, so this does not copy.
        let request = request.map(|body| reqwest::Body::from(body.to_bytes()));
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let response = self.client.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        if is_list {
            let text = keep_leading_slashes(response.bytes().await.map_err(failed)?);
            let size = text.len() as u64;
            return Ok(answer.map(|()| HttpBody::new(stream::iter([Ok(Buffer::from(text))]), Some(size))));
        }
        // The length of a HEAD is that of the body it stands for.
        let size = if is_head { None } else { response.content_length() };
        let is_whole = response.status() == StatusCode::OK;
        let body = response.bytes_stream().map_ok(Buffer::from).map_err(failed);
        if let Some((start, end)) = range.filter(|_| is_whole) {
            let size = size.map(|size| end.saturating_add(1).min(size).saturating_sub(start));
            return Ok(answer.map(|()| HttpBody::new(Box::pin(part(body, start, end)), size)));
        }
        Ok(answer.map(|()| HttpBody::new(Box::pin(body), size)))
    }
}

/// First and last byte of a `Range` header.
fn bounds(range: &HeaderValue) -> Option<(u64, u64)> {
    let (start, end) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    Some((start.parse().ok()?, if end.is_empty() { u64::MAX } else { end.parse().ok()? }))
}

/// Bytes `start` to `end` of the body of a server that takes no ranges and sends all of it.
fn part(
    body: impl Stream<Item = opendal::Result<Buffer>>,
    start: u64,
    end: u64,
) -> impl Stream<Item = opendal::Result<Buffer>> {
    let left = (start, (end - start).saturating_add(1));
    body.scan(left, |(skip, take), buffer| {
        if *take == 0 {
            return future::ready(None);
        }
        let piece = buffer.map(|buffer| {
            let size = buffer.len() as u64;
            let from = (*skip).min(size);
            let to = from.saturating_add(*take).min(size);
            (*skip, *take) = (*skip - from, *take - (to - from));
            buffer.slice(from as usize..to as usize)
        });
        future::ready(Some(piece))
    })
    .try_filter(|piece| future::ready(!piece.is_empty()))
}

/// How the names of a listing begin, in the XML of S3 and its like, in Azure's and in Google's JSON.
const NAMES: [&str; 3] = ["<Key>/", "<Prefix>/", "<Name>/"];

/// `OpenDAL` drops the first slash of listed keys, so that `/a` would appear under the name of `a`. A second slash
/// is dropped instead.
fn keep_leading_slashes(text: Bytes) -> Bytes {
    let Ok(listing) = std::str::from_utf8(&text) else { return text };
    if listing.starts_with('{') {
        return keep_in_json(listing).map_or(text, Bytes::from);
    }
    if !NAMES.iter().any(|name| listing.contains(name)) {
        return text;
    }
    Bytes::from(NAMES.iter().fold(listing.to_owned(), |xml, name| xml.replace(name, &format!("{name}/"))))
}

/// The same for Google's listings, in which emulators write `null` for no names; `None` where nothing is to be
/// mended.
fn keep_in_json(listing: &str) -> Option<Vec<u8>> {
    if !listing.contains("\"/") && !listing.contains("null") {
        return None;
    }
    let mut json: serde_json::Value = serde_json::from_str(listing).ok()?;
    json.as_object_mut()?.retain(|_, value| !value.is_null());
    let keep = |name: &mut serde_json::Value| {
        if let Some(text) = name.as_str().filter(|text| text.starts_with('/')) {
            *name = format!("/{text}").into();
        }
    };
    let mut names = |field: &str, keep: &dyn Fn(&mut serde_json::Value)| {
        json.get_mut(field).and_then(|names| names.as_array_mut()).into_iter().flatten().for_each(keep);
    };
    names("items", &|item| keep(&mut item["name"]));
    names("prefixes", &keep);
    serde_json::to_vec(&json).ok()
}

/// Without its URL a transport error holds nothing but the network's complaint.
fn failed(error: reqwest::Error) -> opendal::Error {
    let is_permanent = error.is_builder();
    let error = error.without_url();
    let mut text = format!("{NO_ANSWER}{error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let failed = opendal::Error::new(opendal::ErrorKind::Unexpected, text);
    if is_permanent { failed } else { failed.set_temporary() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_whole_body_the_part_asked_for_is_taken() {
        for (header, expected) in
            [("bytes=0-1", "ab"), ("bytes=2-5", "cdef"), ("bytes=6-", "ghi"), ("bytes=8-99", "i")]
        {
            let (start, end) = bounds(&HeaderValue::from_static(header)).expect("a range");
            let body = stream::iter(["abc", "", "def", "ghi"].map(|text| Ok(Buffer::from(text))));
            let pieces: Vec<Buffer> = part(body, start, end).try_collect().await.expect("no error");
            assert!(pieces.iter().all(|piece| !piece.is_empty()), "an empty piece would end the body");
            let text: Vec<u8> = pieces.iter().flat_map(Buffer::to_vec).collect();
            assert_eq!(text, expected.as_bytes(), "{header}");
        }
    }

    #[test]
    fn only_leading_slashes_are_doubled() {
        let doubled = |xml: &'static str| keep_leading_slashes(Bytes::from(xml));
        assert_eq!(doubled("<Key>/a/b</Key><Prefix>/</Prefix>"), "<Key>//a/b</Key><Prefix>//</Prefix>");
        assert_eq!(doubled("<Key>a/b</Key><Prefix>a/</Prefix>"), "<Key>a/b</Key><Prefix>a/</Prefix>");
        assert_eq!(doubled("<Name>/a</Name>"), "<Name>//a</Name>");
        let json = doubled(r#"{"items":[{"name":"/a"},{"name":"b/"}],"prefixes":["/"]}"#);
        assert_eq!(json, r#"{"items":[{"name":"//a"},{"name":"b/"}],"prefixes":["//"]}"#);
        assert_eq!(doubled(r#"{"items":null,"prefixes":["a/"]}"#), r#"{"prefixes":["a/"]}"#);
        let plain = r#"{"items":[{"name":"a/b"}]}"#;
        assert_eq!(doubled(plain), plain);
    }
}
