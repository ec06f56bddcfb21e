//! Replies as Hadoop sends them: status, headers and body of each kind, in one place.

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use forebay_core::{CACHE_HEADER, Error};
use futures::stream::BoxStream;

use crate::error::{Exception, RemoteException, Result};

const OCTETS: &str = "application/octet-stream";

/// How long a client should wait before it repeats a request that met temporary trouble, in seconds.
const RETRY_AFTER_S: &str = "1";

/// Who reads the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// Hadoop's client. Its JSON goes without a `Content-Type`: the client of Hadoop 3.5 cannot parse any (its
    /// `MediaType` is shaded wrongly), and older ones do not care.
    Java,
    Other,
}

/// Bytes that follow the head.
pub(crate) type ByteStream = BoxStream<'static, std::result::Result<Bytes, Error>>;

/// What a request is answered with.
pub(crate) enum Reply {
    /// 200 and a JSON document.
    Json(String),
    /// 200 and a JSON document in pieces.
    JsonStream(ByteStream),
    /// 200 without a body.
    Empty,
    /// 201, with the new file's URL.
    Created(String),
    /// 307 to the second step.
    Redirect(String),
    /// 200 and a file's content.
    Content {
        /// Exactly this many bytes follow.
        len: u64,
        /// The bytes.
        stream: ByteStream,
        /// Where they were found, if that was asked.
        found: Option<&'static str>,
    },
}

/// The HTTP response for an answer.
pub(crate) fn render(answer: Result<Reply>, agent: Agent) -> HttpResponse {
    match answer {
        Ok(Reply::Json(body)) => json(StatusCode::OK, agent).body(body),
        Ok(Reply::JsonStream(stream)) => json(StatusCode::OK, agent).streaming(stream),
        Ok(Reply::Empty) => head(StatusCode::OK).insert_header((CONTENT_TYPE, OCTETS)).finish(),
        Ok(Reply::Created(location)) => {
            head(StatusCode::CREATED).insert_header((LOCATION, location)).finish()
        }
        Ok(Reply::Redirect(location)) => head(StatusCode::TEMPORARY_REDIRECT)
            .insert_header((LOCATION, location))
            .insert_header((CONTENT_TYPE, OCTETS))
            .finish(),
        Ok(Reply::Content { len, stream, found }) => {
            let mut response = head(StatusCode::OK);
            response.insert_header((CONTENT_TYPE, OCTETS));
            if let Some(found) = found {
                response.insert_header((CACHE_HEADER, found));
            }
            response.body(SizedStream::new(len, stream))
        }
        Err(error) => failure(&error, agent),
    }
}

fn failure(error: &RemoteException, agent: Agent) -> HttpResponse {
    let mut response = json(error.status(), agent);
    if error.exception == Exception::Retriable {
        response.insert_header((RETRY_AFTER, RETRY_AFTER_S));
    }
    if error.exception == Exception::Unauthenticated {
        response.insert_header((WWW_AUTHENTICATE, "Bearer"));
    }
    response.body(error.to_json())
}

fn json(status: StatusCode, agent: Agent) -> HttpResponseBuilder {
    let mut response = head(status);
    if agent == Agent::Other {
        response.insert_header((CONTENT_TYPE, "application/json"));
    }
    response
}

fn head(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("X-FRAME-OPTIONS", "SAMEORIGIN"))
        .insert_header(("X-XSS-Protection", "1; mode=block"));
    response
}
