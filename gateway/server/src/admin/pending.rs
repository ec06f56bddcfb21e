//! What was acknowledged and is not at its store yet, came there under another name, or was lost.

use actix_web::{HttpResponse, web};

use super::api::{ConflictView, LostView, PendingView};
use super::{AdminState, Admitted, ApiError, PathQuery};

type State = web::Data<AdminState>;

pub(super) async fn list(_: Admitted, state: State) -> HttpResponse {
    let pending = state.operated.mounts.pending();
    let views =
        pending.iter().flat_map(|(mount, writes)| writes.iter().map(|write| PendingView::new(mount, write)));
    HttpResponse::Ok().json(views.collect::<Vec<_>>())
}

pub(super) async fn conflicts(_: Admitted, state: State) -> HttpResponse {
    let conflicts = state.operated.mounts.conflicts();
    let views = conflicts
        .iter()
        .flat_map(|(mount, list)| list.iter().map(|conflict| ConflictView::new(mount, conflict)));
    HttpResponse::Ok().json(views.collect::<Vec<_>>())
}

pub(super) async fn lost(_: Admitted, state: State) -> HttpResponse {
    let lost = state.operated.mounts.lost();
    let views = lost.iter().flat_map(|(mount, list)| list.iter().map(|write| LostView::new(mount, write)));
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
