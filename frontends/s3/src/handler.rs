//! One request from head to answer: its id, span and metrics, and the containment of panics.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use bytes::Bytes;
use forebay_core::METRICS;
use futures::FutureExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, SERVER, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode, s3_error};
use tracing::{Instrument, Span};

use crate::request_id::RequestId;

/// What is known of a request beside its head. Travels with it as an extension.
pub(crate) struct RequestTag {
    span: Span,
    operation: OnceLock<String>,
}

impl RequestTag {
    /// Names the request's operation, as soon as it is known.
    pub(crate) fn operation(&self, name: &str) {
        if self.operation.set(name.to_owned()).is_ok() {
            self.span.record("operation", name);
        }
    }
}

/// Answers requests. Shared by all connections.
pub(crate) struct Handler(S3Service);

impl Handler {
    pub(crate) fn new(service: S3Service) -> Self {
        Self(service)
    }

    /// Answers one request; never fails, so that a connection only ends for its own reasons.
    pub(crate) async fn handle(&self, request: Request<Body>) -> Result<Response<Answer>, Infallible> {
        let started = Instant::now();
        let in_flight = InFlight::enter();
        let id = RequestId::next();
        let path = request.uri().path();
        let span =
            tracing::info_span!("request", %id, frontend = "s3", operation = tracing::field::Empty, path);
        let tag = Arc::new(RequestTag { span: span.clone(), operation: OnceLock::new() });
        let upload = Upload::of(request.headers());
        let mut response = self.answer(request, &tag).instrument(span).await;
        decorate(&mut response, id);
        if upload.ends_connection(response.status()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let operation = tag.operation.get().map_or("unknown", String::as_str);
        let outcome = outcome(response.status());
        METRICS.requests.with_label_values(&["s3", operation, outcome]).inc();
        let seconds = started.elapsed().as_secs_f64();
        METRICS.request_seconds.with_label_values(&["s3", operation]).observe(seconds);
        let is_content = operation == "GetObject";
        Ok(response.map(|body| Answer { body, is_content, _in_flight: in_flight }))
    }

    async fn answer(&self, mut request: Request<Body>, tag: &Arc<RequestTag>) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            let mut refusal = s3_error!(AccessDenied, "CORS is not enabled for this bucket");
            refusal.set_code(S3ErrorCode::Custom("AccessForbidden".into()));
            refusal.set_status_code(StatusCode::FORBIDDEN);
            return error_response(refusal);
        }
        request.extensions_mut().insert(Arc::clone(tag));
        match AssertUnwindSafe(self.0.call(request)).catch_unwind().await {
            Ok(Ok(response)) => {
                tracing::debug!(status = response.status().as_u16(), "answered");
                response
            }
            Ok(Err(e)) => {
                let error: Box<dyn std::error::Error + Send + Sync> = e.into();
                tracing::error!(error, "an answer could not be written");
                error_response(s3_error!(InternalError))
            }
            Err(_) => {
                tracing::error!("a request handler panicked");
                error_response(s3_error!(InternalError, "an internal error; the log has the details"))
            }
        }
    }
}

/// What a request's head says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    None,
    /// `Expect: 100-continue` before a body of no bytes. hyper does not send the 100 then, and botocore (`aws s3 sync`
    /// of an empty file) takes the next request's for a final answer.
    ExpectsBeforeNothing,
    Body,
}

impl Upload {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_LENGTH) {
            Some(length) if length == "0" && headers.contains_key(EXPECT) => Self::ExpectsBeforeNothing,
            Some(length) if length != "0" => Self::Body,
            None if headers.contains_key(TRANSFER_ENCODING) => Self::Body,
            Some(_) | None => Self::None,
        }
    }

    /// Whether the connection must not be used again. A refusal may leave a body unread, after which hyper closes:
    /// a client that is not told sends its next request into the closed connection.
    fn ends_connection(self, status: StatusCode) -> bool {
        match self {
            Self::None => false,
            Self::ExpectsBeforeNothing => true,
            Self::Body => status.is_client_error() || status.is_server_error(),
        }
    }
}

fn error_response(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Adds the request's id to the head and to the text of an error.
fn decorate(response: &mut Response<Body>, id: RequestId) {
    let text = id.to_string();
    let status = response.status();
    if status == StatusCode::NOT_MODIFIED {
        *response.body_mut() = Body::empty();
    } else if (status.is_client_error() || status.is_server_error())
        && let Some(body) = response.body().bytes().and_then(|body| with_request_id(&body, &text))
    {
        *response.body_mut() = Body::from(body);
    }
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("Forebay"));
    headers.insert("x-amz-request-id", HeaderValue::try_from(text).expect("hex digits are a header value"));
}

fn with_request_id(body: &Bytes, id: &str) -> Option<String> {
    let head = std::str::from_utf8(body).ok()?.strip_suffix("</Error>")?;
    Some(format!("{head}<RequestId>{id}</RequestId></Error>"))
}

fn outcome(status: StatusCode) -> &'static str {
    if status.is_server_error() {
        "server_error"
    } else if status.is_client_error() {
        "client_error"
    } else {
        "ok"
    }
}

/// Counts a request while it is served, its body included.
struct InFlight;

impl InFlight {
    fn enter() -> Self {
        METRICS.requests_in_flight.with_label_values(&["s3"]).inc();
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        METRICS.requests_in_flight.with_label_values(&["s3"]).dec();
    }
}

/// A response body that counts its bytes.
pub(crate) struct Answer {
    body: Body,
    /// The bytes of an object, not of XML.
    is_content: bool,
    _in_flight: InFlight,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (true, Poll::Ready(Some(Ok(frame)))) = (self.is_content, &polled)
            && let Some(data) = frame.data_ref()
        {
            METRICS.client_bytes.with_label_values(&["s3", "read"]).inc_by(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_carry_the_request_id() {
        let id = RequestId::next();
        let mut response = error_response(s3_error!(NoSuchKey, "no such file"));
        decorate(&mut response, id);
        let body = response.body().bytes().expect("in memory");
        let text = std::str::from_utf8(&body).expect("XML");
        assert!(text.ends_with(&format!("<RequestId>{id}</RequestId></Error>")), "{text}");
        assert_eq!(response.headers()["x-amz-request-id"], id.to_string().as_str());
    }

    #[test]
    fn answers_that_may_leave_a_body_unread_close_the_connection() {
        let head = |pairs: &[(hyper::header::HeaderName, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            Upload::of(&pairs.collect())
        };
        let body = head(&[(CONTENT_LENGTH, "1"), (EXPECT, "100-continue")]);
        assert!(body.ends_connection(StatusCode::FORBIDDEN) && !body.ends_connection(StatusCode::OK));
        assert!(head(&[(TRANSFER_ENCODING, "chunked")]).ends_connection(StatusCode::FORBIDDEN));
        let empty = head(&[(CONTENT_LENGTH, "0"), (EXPECT, "100-continue")]);
        assert!(empty.ends_connection(StatusCode::OK));
        assert!(!head(&[(CONTENT_LENGTH, "0")]).ends_connection(StatusCode::NOT_FOUND));
        assert!(!head(&[]).ends_connection(StatusCode::NOT_FOUND));
    }

    #[test]
    fn redirects_and_not_modified_count_as_served() {
        assert_eq!(outcome(StatusCode::NOT_MODIFIED), "ok");
        assert_eq!(outcome(StatusCode::NOT_FOUND), "client_error");
        assert_eq!(outcome(StatusCode::SERVICE_UNAVAILABLE), "server_error");
    }
}
