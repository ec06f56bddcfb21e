//! What is cached, how it is treated, and why.

use actix_web::{HttpResponse, web};
use forebay_actors::cache::Rule;
use forebay_core::{ByteRange, Explained, ListQuery, NsPath, OpenFile, Result, Version, Want};
use futures::StreamExt as _;
use serde::Deserialize;

use super::api::{ExplainView, FreedView, PartView};
use super::{AdminState, Admitted, ApiError, PathQuery};

/// Names on a page of a walk.
const PAGE: usize = 1_000;
/// Files looked at side by side.
const LOOKS: usize = 16;

type State = web::Data<AdminState>;

pub(super) async fn rules(_: Admitted, state: State) -> HttpResponse {
    HttpResponse::Ok().json(state.operated.rules.list())
}

pub(super) async fn change_rule(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
    change: web::Json<Rule>,
) -> std::result::Result<HttpResponse, ApiError> {
    let (path, rules) = (query.path()?, state.operated.rules.clone());
    state.run(async move { rules.change(&path, &change).await }).await?;
    Ok(HttpResponse::Ok().json(state.operated.rules.list()))
}

/// One setting of the rule for a path.
#[derive(Deserialize)]
pub(super) struct SettingQuery {
    setting: String,
}

pub(super) async fn take_back_rule(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
    setting: web::Query<SettingQuery>,
) -> std::result::Result<HttpResponse, ApiError> {
    let (path, rules, name) = (query.path()?, state.operated.rules.clone(), setting.into_inner().setting);
    state.run(async move { rules.set(&path, &name, None).await }).await?;
    Ok(HttpResponse::Ok().json(state.operated.rules.list()))
}

pub(super) async fn free(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
) -> std::result::Result<HttpResponse, ApiError> {
    let (path, work) = (query.path()?, state.clone());
    Ok(HttpResponse::Ok().json(state.run(async move { free_all(&work, &path).await }).await?))
}

async fn free_all(state: &AdminState, path: &NsPath) -> Result<FreedView> {
    let mut freed = FreedView::default();
    if !state.namespace.stat(&state.context, path, Want::Any).await?.is_directory() {
        free_files(state, vec![path.clone()], &mut freed).await;
        return Ok(freed);
    }
    let mut query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: PAGE };
    loop {
        let page = state.namespace.list(&state.context, path, &query).await?;
        let files = page.items.iter().filter(|item| !item.entry.is_directory());
        let files = files.map(|item| path.join(&item.name)).collect::<Result<Vec<_>>>()?;
        free_files(state, files, &mut freed).await;
        if !page.is_truncated {
            return Ok(freed);
        }
        query.start_after = page.items.last().map(|item| item.name.clone());
    }
}

async fn free_files(state: &AdminState, files: Vec<NsPath>, freed: &mut FreedView) {
    let free = |path: NsPath| async move {
        let file = state.namespace.open(&state.context, &path, Want::File).await;
        file.map(|file| file.free())
    };
    let mut outcomes = futures::stream::iter(files.into_iter().map(free)).buffer_unordered(LOOKS);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(bytes) => {
                freed.files += u64::from(bytes > 0);
                freed.bytes += bytes;
            }
            Err(_) => freed.failed += 1,
        }
    }
}

pub(super) async fn explain(
    _: Admitted,
    state: State,
    query: web::Query<PathQuery>,
) -> std::result::Result<HttpResponse, ApiError> {
    let (path, work) = (query.path()?, state.clone());
    let view = state.run(async move {
        let file = work.namespace.open(&work.context, &path, Want::File).await?;
        Ok(explained(&work, &path, &*file))
    });
    Ok(HttpResponse::Ok().json(view.await?))
}

fn explained(state: &AdminState, path: &NsPath, file: &dyn OpenFile) -> ExplainView {
    let entry = file.entry();
    let cached = file.cached(ByteRange::new(0, entry.size_bytes));
    let (rule, treatment) = state.operated.rules.resolve(path);
    let mount = state.namespace.mount_info(path);
    let (mount, store) = mount.map(|info| (info.name, info.store.to_owned())).unwrap_or_default();
    let missing_bytes = entry.size_bytes - cached.bytes;
    let Explained { parts, is_lent_whole, fetched_requests, fetched_bytes, reasons } = file.explain();
    let read = if entry.size_bytes == 0 {
        "it is empty: nothing is read".to_owned()
    } else if store == "fs" {
        "it is a local file: read as it lies there".to_owned()
    } else if missing_bytes == entry.size_bytes {
        format!("nothing of it is cached: {missing_bytes} bytes come from the store of {mount}")
    } else if missing_bytes > 0 {
        format!("{missing_bytes} bytes come from the store of {mount}, the rest from the cache")
    } else if is_lent_whole {
        "all of it is one verified file on the disk: read without a copy".to_owned()
    } else {
        "all of it is cached: the store is not asked for content".to_owned()
    };
    ExplainView {
        path: path.to_string(),
        mount,
        store,
        size_bytes: entry.size_bytes,
        etag: entry.etag.as_str().to_owned(),
        version: match entry.version {
            Version::Strong(_) => "strong".to_owned(),
            Version::Weak(_) => "weak".to_owned(),
        },
        rule,
        treatment: (*treatment).clone(),
        memory_bytes: cached.memory_bytes,
        disk_bytes: cached.disk_bytes,
        missing_bytes,
        parts: parts.iter().map(PartView::new).collect(),
        is_lent_whole,
        fetched_requests,
        fetched_bytes,
        reasons,
        read,
    }
}
