//! Mounts, and the configuration they come from.

use actix_web::{HttpResponse, web};
use forebay_core::{Error, ErrorKind};

use super::api::{MountView, NewMount, ReloadView};
use super::{AdminState, Admitted, ApiError, PathQuery};
use crate::reload::{Refused, Reloader};

type State = web::Data<AdminState>;

pub(super) async fn list(_: Admitted, state: State) -> HttpResponse {
    let views = state.operated.mounts.statuses().into_iter().map(MountView::new);
    HttpResponse::Ok().json(views.collect::<Vec<_>>())
}

pub(super) async fn reload(_: Admitted, state: State) -> Result<HttpResponse, ApiError> {
    ordered(&state, async |reloader: Reloader| reloader.reload().await).await
}

pub(super) async fn add(
    _: Admitted,
    state: State,
    mount: web::Json<NewMount>,
) -> Result<HttpResponse, ApiError> {
    ordered(&state, async |reloader: Reloader| reloader.add(mount.into_inner()).await).await
}

#[derive(serde::Deserialize)]
pub(super) struct Force {
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
    how: web::Query<Force>,
) -> Result<HttpResponse, ApiError> {
    let path = query.path()?;
    ordered(&state, async |reloader: Reloader| reloader.remove(path, how.force).await).await
}

/// The order is carried out by its actor, so nothing of it runs on this thread.
async fn ordered(
    state: &AdminState,
    order: impl AsyncFnOnce(Reloader) -> Result<ReloadView, Refused>,
) -> Result<HttpResponse, ApiError> {
    let Some(reloader) = state.operated.reloader.clone() else {
        let message = "this gateway was started without a configuration file; its mount cannot be changed";
        return Err(Error::new(ErrorKind::Unsupported, message).into());
    };
    let view = order(reloader).await.map_err(ApiError::Refused)?;
    Ok(HttpResponse::Ok().json(view))
}
