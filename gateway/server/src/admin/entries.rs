//! Entries and listings.

use actix_web::{HttpResponse, web};
use forebay_core::{DeleteMode, Error, ErrorKind, ListQuery, NsPath, Precondition, Want};

use super::api::{EntryView, ListView};
use super::{AdminState, Admitted, ApiError, PathQuery};

const PAGE: usize = 1000;

type State = web::Data<AdminState>;

pub(super) async fn stat(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
) -> Result<HttpResponse, ApiError> {
    let path = query.path()?;
    let work = state.clone();
    let entry = state.run(async move { work.namespace.stat(&work.context, &path, Want::Any).await }).await?;
    Ok(HttpResponse::Ok().json(EntryView::new(query.into_inner().path, &entry)))
}

#[derive(serde::Deserialize)]
pub(super) struct Recursive {
    #[serde(default)]
    recursive: bool,
    after: Option<String>,
}

pub(super) async fn list(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
    how: web::Query<Recursive>,
) -> Result<HttpResponse, ApiError> {
    let path = query.path()?;
    let how = how.into_inner();
    let query =
        ListQuery { prefix: String::new(), shallow: !how.recursive, start_after: how.after, limit: PAGE };
    let work = state.clone();
    let page = state
        .run(async move {
            let entry = work.namespace.stat(&work.context, &path, Want::Any).await?;
            if !entry.is_directory() {
                return Err(Error::new(ErrorKind::NotDirectory, "this is a file").at("list", &path));
            }
            work.namespace.list(&work.context, &path, &query).await
        })
        .await?;
    let next = if page.is_truncated { page.items.last().map(|item| item.name.clone()) } else { None };
    let items = page.items.into_iter().map(|item| EntryView::new(item.name, &item.entry)).collect();
    Ok(HttpResponse::Ok().json(ListView { items, next }))
}

pub(super) async fn remove(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
    how: web::Query<Recursive>,
) -> Result<HttpResponse, ApiError> {
    let path = query.path()?;
    let mode = if how.recursive { DeleteMode::Tree } else { DeleteMode::File };
    let work = state.clone();
    let removed = state
        .run(async move {
            if work.namespace.delete(&work.context, &path, mode).await? {
                return Ok(());
            }
            Err(Error::new(ErrorKind::NotFound, "no such file or directory").at("remove", &path))
        })
        .await;
    removed.map(|()| HttpResponse::NoContent().finish())
}

#[derive(serde::Deserialize)]
pub(super) struct CopyQuery {
    path: String,
    to: String,
}

pub(super) async fn copy(
    _: Admitted,
    state: State,
    query: web::Query<CopyQuery>,
) -> Result<HttpResponse, ApiError> {
    let (from, to) = (NsPath::parse(&query.path)?, NsPath::parse(&query.to)?);
    let work = state.clone();
    let copied = state
        .run(async move { work.namespace.copy(&work.context, (&from, &to), None, Precondition::None).await });
    Ok(HttpResponse::Ok().json(EntryView::new(query.to.clone(), &copied.await?)))
}
