//! From an HTTP request to its reply: understood, answered at once or on the main runtime, measured, and never left
//! without an answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use actix_http::{Request, RequestHead, Response};
use actix_web::body::BoxBody;
use actix_web::http::header::USER_AGENT;
use actix_web::http::{ConnectionType, Method};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, web};
use futures::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use crate::body;
use crate::call::{Call, Frontend};
use crate::error::{RemoteException, Result};
use crate::metrics::{FRONTEND, Timed};
use crate::ops;
use crate::params::Params;
use crate::reply::{Agent, Reply, render};

/// Answers a request.
pub(crate) async fn answer(
    request: HttpRequest,
    payload: Payload,
    frontend: web::Data<Frontend>,
) -> HttpResponse {
    reply(request.head(), Some(payload), &frontend.into_inner()).await
}

/// Answers a client that asks before it sends its body (`Expect: 100-continue`): go on where the body is wanted, else
/// the reply at once. Without this, `curl -L -T` would send a file to the first step, too.
pub(crate) async fn expect(
    request: Request,
    frontend: Arc<Frontend>,
) -> std::result::Result<Request, Response<BoxBody>> {
    let params = Params::parse(request.uri().query().unwrap_or_default());
    if params.is_ok_and(|params| params.boolean("data", false).is_ok_and(|wants_body| wants_body)) {
        return Ok(request);
    }
    Err(reply(request.head(), None, &frontend).await.into())
}

async fn reply(request: &RequestHead, payload: Option<Payload>, frontend: &Arc<Frontend>) -> HttpResponse {
    let timed = Timed::start();
    let agent = match request.headers.get(USER_AGENT).map(|agent| agent.as_bytes().starts_with(b"Java/")) {
        Some(true) => Agent::Java,
        Some(false) | None => Agent::Other,
    };
    let (operation, call) = Call::understand(request, frontend);
    let id = Uuid::new_v4().simple();
    let span = tracing::info_span!("request", %id, frontend = FRONTEND, operation);
    let answer = async { respond(call?, payload).await };
    // Without this, a panic would end the connection without a status.
    let answer = AssertUnwindSafe(answer).catch_unwind().instrument(span.clone()).await;
    let answer = answer.unwrap_or_else(|_| Err(RemoteException::panicked()));
    let mut response = render(answer, agent);
    if request.method == Method::HEAD {
        // `curl -X HEAD` waits for a body as long as the connection lives.
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    let status = response.status();
    timed.answered(operation, status);
    span.in_scope(|| tracing::debug!(status = status.as_u16(), target = %request.uri.path(), "answered"));
    response
}

async fn respond(call: Call, payload: Option<Payload>) -> Result<Reply> {
    if let Some(reply) = ops::at_once(&call) {
        return reply;
    }
    let call = Arc::new(call);
    let crossing = &call.frontend.crossing;
    if let (true, Some(payload)) = (ops::takes_body(&call)?, payload) {
        let (pump, body) = body::channel();
        let mut work = crossing.change(ops::receive(Arc::clone(&call), body));
        let answer = tokio::select! {
            biased;
            answer = &mut work => answer,
            () = pump.run(payload) => work.await,
        };
        return answer.unwrap_or_else(|_| Err(RemoteException::panicked()));
    }
    let work = ops::run(Arc::clone(&call));
    let answer = if call.operation.is_change() { crossing.change(work) } else { crossing.read(work) };
    answer.await.unwrap_or_else(|_| Err(RemoteException::panicked()))
}
