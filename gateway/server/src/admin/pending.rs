//! What was acknowledged and is not at its store yet.

use actix_web::{HttpResponse, web};

use super::api::PendingView;
use super::{AdminState, Admitted, ApiError, PathQuery};

type State = web::Data<AdminState>;

pub(super) async fn list(_: Admitted, state: State) -> HttpResponse {
    let pending = state.operated.mounts.pending();
    let views =
        pending.iter().flat_map(|(mount, writes)| writes.iter().map(|write| PendingView::new(mount, write)));
    HttpResponse::Ok().json(views.collect::<Vec<_>>())
}

pub(super) async fn flush(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
) -> Result<HttpResponse, ApiError> {
    let (path, mounts) = (query.path()?, state.operated.mounts.clone());
    state.run(async move { mounts.flush(&path).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}
