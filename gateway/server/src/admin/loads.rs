//! Loads and syncs, as jobs.

use actix_web::{HttpResponse, web};
use forebay_actors::load::Order;

use super::{AdminState, Admitted, ApiError, PathQuery};

type State = web::Data<AdminState>;

#[derive(serde::Deserialize)]
pub(super) struct How {
    transfers: Option<usize>,
    /// In bytes per second.
    bandwidth: Option<u64>,
}

pub(super) async fn start(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
    how: web::Query<How>,
) -> Result<HttpResponse, ApiError> {
    let order = Order { path: query.path()?, transfers: how.transfers, bandwidth: how.bandwidth };
    let loads = state.operated.loads.clone();
    let job = state.run(async move { loads.add(order).await }).await?;
    Ok(HttpResponse::Accepted().json(job))
}

pub(super) async fn start_sync(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
) -> Result<HttpResponse, ApiError> {
    let (path, loads) = (query.path()?, state.operated.loads.clone());
    let job = state.run(async move { loads.add_sync(path).await }).await?;
    Ok(HttpResponse::Accepted().json(job))
}

pub(super) async fn list(_: Admitted, state: State) -> HttpResponse {
    HttpResponse::Ok().json(state.operated.loads.jobs())
}

pub(super) async fn one(_: Admitted, state: State, id: web::Path<u64>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.operated.loads.job(*id)?))
}

pub(super) async fn cancel(_: Admitted, state: State, id: web::Path<u64>) -> Result<HttpResponse, ApiError> {
    let loads = state.operated.loads.clone();
    let job = state.run(async move { loads.cancel(*id).await }).await?;
    Ok(HttpResponse::Ok().json(job))
}
