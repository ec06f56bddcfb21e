//! Health, metrics and actors.

use actix_web::{HttpResponse, web};
use forebay_core::METRICS;
use prometheus::{Encoder as _, TextEncoder};

use super::{AdminState, Admitted};

type State = web::Data<AdminState>;

/// Alive: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready: listeners are bound and shutdown has not begun. A store that does not answer does not make it unready.
pub(super) async fn readyz(state: State) -> HttpResponse {
    if state.operated.readiness.is_ready() {
        HttpResponse::Ok().body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable().body("not ready\n")
    }
}

/// Prometheus' text format.
pub(super) async fn metrics() -> HttpResponse {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&METRICS.registry().gather(), &mut text) {
        Ok(()) => HttpResponse::Ok().content_type(encoder.format_type().to_owned()).body(text),
        Err(e) => HttpResponse::InternalServerError().body(format!("metrics cannot be encoded: {e}\n")),
    }
}

pub(super) async fn actors(_: Admitted, state: State) -> HttpResponse {
    HttpResponse::Ok().json(state.supervisor.children())
}

/// Makes an actor panic, to see it come back; in debug builds only.
#[cfg(debug_assertions)]
pub(super) async fn panic_actor(
    _: Admitted,
    state: State,
    name: web::Path<String>,
) -> Result<HttpResponse, super::ApiError> {
    let work = state.clone();
    let found = state.run(async move { work.supervisor.panic_child(&name).await }).await?;
    Ok(if found { HttpResponse::NoContent().finish() } else { HttpResponse::NotFound().finish() })
}
