//! The HTTP client of one mount: its own pool and timeouts, so that a store that hangs costs its own mount only.
//!
//! HTTP/1.1, which gives more throughput per request than streams of one connection. Redirects are not followed:
//! a signature holds for one host.

use std::time::Duration;

use futures::TryStreamExt;
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
        // Each part is one piece of memory, so this does not copy.
        let request = request.map(|body| reqwest::Body::from(body.to_bytes()));
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let response = self.client.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        // The length of a HEAD is that of the body it stands for.
        let size = if is_head { None } else { response.content_length() };
        let body = response.bytes_stream().map_ok(Buffer::from).map_err(failed);
        Ok(answer.map(|()| HttpBody::new(Box::pin(body), size)))
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
