//! The HTTP client of one mount: its own pool and timeouts, so that a store that hangs costs its own mount only.
//!
//! HTTP/1.1, which gives more throughput per request than streams of one connection. Redirects are not followed:
//! a signature holds for one host.

use std::time::Duration;

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use opendal::{Buffer, HttpBody, HttpTransport};

use crate::config::MountLimits;

/// Longest wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long an idle connection is kept; stores close theirs after about a minute.
const IDLE: Duration = Duration::from_secs(45);
/// Time between probes of an idle connection, so that dropped ones are noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A transport over `reqwest`.
pub(super) struct Transport {
    client: reqwest::Client,
}

impl Transport {
    pub(super) fn new(limits: &MountLimits) -> Result<Self, reqwest::Error> {
        // Whoever comes first installs it; all install the same.
        rustls::crypto::ring::default_provider().install_default().map_err(drop).unwrap_or_default();
        let client = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(limits.request_deadline)
            .pool_max_idle_per_host(limits.operations)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(KEEPALIVE)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client })
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: http::Request<Buffer>) -> opendal::Result<http::Response<HttpBody>> {
        let is_head = request.method() == http::Method::HEAD;
        let is_list = request.uri().query().is_some_and(|query| query.contains("list-type=2"));
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
        let body = response.bytes_stream().map_ok(Buffer::from).map_err(failed);
        Ok(answer.map(|()| HttpBody::new(Box::pin(body), size)))
    }
}

/// `OpenDAL` drops the first slash of listed keys, so that `/a` would appear under the name of `a`. A second slash
/// is dropped instead.
fn keep_leading_slashes(text: Bytes) -> Bytes {
    match std::str::from_utf8(&text) {
        Ok(xml) if ["<Key>/", "<Prefix>/"].iter().any(|tag| xml.contains(tag)) => {
            Bytes::from(xml.replace("<Key>/", "<Key>//").replace("<Prefix>/", "<Prefix>//"))
        }
        Ok(_) | Err(_) => text,
    }
}

/// Without its URL a transport error holds nothing but the network's complaint.
fn failed(error: reqwest::Error) -> opendal::Error {
    let is_permanent = error.is_builder();
    let error = error.without_url();
    let mut text = error.to_string();
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

    #[test]
    fn only_leading_slashes_are_doubled() {
        let doubled = |xml: &'static str| keep_leading_slashes(Bytes::from(xml));
        assert_eq!(doubled("<Key>/a/b</Key><Prefix>/</Prefix>"), "<Key>//a/b</Key><Prefix>//</Prefix>");
        assert_eq!(doubled("<Key>a/b</Key><Prefix>a/</Prefix>"), "<Key>a/b</Key><Prefix>a/</Prefix>");
    }
}
