//! From an HTTP request to its reply: understood, answered at once or on the main runtime, measured, and never left
//! without an answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use actix_web::http::header::USER_AGENT;
use actix_web::{HttpRequest, HttpResponse, web};
use futures::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use crate::body;
use crate::call::{Call, Frontend};
use crate::error::{RemoteException, Result};
use crate::metrics::{FRONTEND, Timed};
use crate::ops;
use crate::reply::{self, Agent, Reply};

/// Answers every request.
pub(crate) async fn answer(
    request: HttpRequest,
    payload: web::Payload,
    frontend: web::Data<Frontend>,
) -> HttpResponse {
    let timed = Timed::start();
    let agent = match request.headers().get(USER_AGENT).map(|agent| agent.as_bytes().starts_with(b"Java/")) {
        Some(true) => Agent::Java,
        Some(false) | None => Agent::Other,
    };
    let (operation, call) = Call::understand(&request, &frontend.into_inner());
    let id = Uuid::new_v4().simple();
    let span = tracing::info_span!("request", %id, frontend = FRONTEND, operation);
    let answer = async { respond(call?, payload).await };
    // Without this, a panic would end the connection without a status.
    let answer = AssertUnwindSafe(answer).catch_unwind().instrument(span.clone()).await;
    let answer = answer.unwrap_or_else(|_| Err(RemoteException::panicked()));
    let response = reply::render(answer, agent);
    let status = response.status();
    timed.answered(operation, status);
    span.in_scope(|| tracing::debug!(status = status.as_u16(), target = %request.uri().path(), "answered"));
    response
}

async fn respond(call: Call, payload: web::Payload) -> Result<Reply> {
    if let Some(reply) = ops::at_once(&call) {
        return reply;
    }
    let call = Arc::new(call);
    let crossing = &call.frontend.crossing;
    if ops::takes_body(&call)? {
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
