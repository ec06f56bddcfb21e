//! The admin listener: health, metrics, and the API behind the commands. See `api` for its types.
//!
//! actix-web parses and answers in a System of its own; what touches a store runs on the main runtime.

pub(crate) mod api;
mod cached;
mod content;
pub(crate) mod copies;
mod entries;
mod health;
mod loads;
mod mounts;
mod pending;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, web};
use forebay_actors::cache::Rules;
use forebay_actors::load::Loads;
use forebay_actors::mounts::Mounts;
use forebay_actors::supervisor::Supervisor;
use forebay_core::{Access, Context, Error, ErrorKind, Namespace, NsPath};

pub(crate) use self::server::AdminServer;
use crate::reload::{Refused, Reloader};

/// Whether the gateway takes requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub(crate) fn set(&self, is_ready: bool) {
        self.0.store(is_ready, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is operated through the API.
#[derive(Clone)]
pub(crate) struct Operated {
    pub(crate) readiness: Readiness,
    pub(crate) mounts: Arc<Mounts>,
    /// `None` for a gateway that was not started from a file.
    pub(crate) reloader: Option<Reloader>,
    pub(crate) loads: Loads,
    pub(crate) rules: Arc<Rules>,
}

/// What the handlers work on.
#[derive(Clone)]
pub(crate) struct AdminState {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) access: Arc<Access>,
    pub(crate) supervisor: Supervisor,
    pub(crate) operated: Operated,
    /// Runs everything that may wait for a store.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Whoever may use the API may do everything.
    pub(crate) context: Context,
}

impl AdminState {
    /// Runs `work` on the main runtime.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = forebay_core::Result<T>> + Send + 'static,
    ) -> Result<T, ApiError> {
        match self.runtime.spawn(work).await {
            Ok(answer) => answer.map_err(ApiError::Failed),
            Err(e) => {
                Err(ApiError::Failed(Error::new(ErrorKind::Internal, "the request failed inside").because(e)))
            }
        }
    }
}

/// A request that showed the admin token (or none is configured).
struct Admitted;

impl FromRequest for Admitted {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let state = request.app_data::<web::Data<AdminState>>().expect("set for the whole application");
        std::future::ready(if state.access.admin(token) { Ok(Self) } else { Err(ApiError::NotAdmitted) })
    }
}

/// Why an API request failed; shown as `{"error": "…"}`.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("the admin token is missing or wrong; set FOREBAY_ADMIN_TOKEN")]
    NotAdmitted,
    #[error("{}", .0)]
    Failed(Error),
    #[error("{}", .0)]
    Refused(Refused),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> actix_web::http::StatusCode {
        use actix_web::http::StatusCode as Status;
        let kind = match self {
            Self::NotAdmitted => return Status::UNAUTHORIZED,
            Self::Failed(error) => error.kind(),
            Self::Refused(refused) => refused.kind(),
        };
        match kind {
            ErrorKind::NotFound | ErrorKind::NoSuchUpload => Status::NOT_FOUND,
            ErrorKind::AlreadyExists
            | ErrorKind::IsDirectory
            | ErrorKind::NotDirectory
            | ErrorKind::NotEmpty
            | ErrorKind::Stale
            | ErrorKind::CrossMount => Status::CONFLICT,
            ErrorKind::AccessDenied | ErrorKind::ReadOnly => Status::FORBIDDEN,
            ErrorKind::InvalidName
            | ErrorKind::NameTooLong
            | ErrorKind::InvalidArgument
            | ErrorKind::InvalidPart
            | ErrorKind::BadChecksum
            | ErrorKind::Incomplete => Status::BAD_REQUEST,
            ErrorKind::RangeNotSatisfiable => Status::RANGE_NOT_SATISFIABLE,
            ErrorKind::PreconditionFailed => Status::PRECONDITION_FAILED,
            ErrorKind::Unsupported => Status::NOT_IMPLEMENTED,
            ErrorKind::NoSpace => Status::INSUFFICIENT_STORAGE,
            ErrorKind::Busy => Status::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => Status::SERVICE_UNAVAILABLE,
            ErrorKind::Timeout => Status::GATEWAY_TIMEOUT,
            ErrorKind::Internal => Status::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        if status.is_server_error() {
            tracing::warn!(frontend = "admin", error = %self, "request failed");
        }
        let problems = match self {
            Self::NotAdmitted | Self::Failed(_) => Vec::new(),
            Self::Refused(refused) => refused.lines().to_vec(),
        };
        HttpResponse::build(status).json(api::ErrorView { error: self.to_string(), problems })
    }
}

/// The namespace path that most requests name.
#[derive(serde::Deserialize)]
struct PathQuery {
    path: String,
}

impl PathQuery {
    fn path(&self) -> forebay_core::Result<NsPath> {
        NsPath::parse(&self.path).map_err(|e| e.at("parse", format!("`{}`", self.path)))
    }
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/healthz", web::get().to(health::healthz))
        .route("/readyz", web::get().to(health::readyz))
        .route("/metrics", web::get().to(health::metrics))
        .route("/api/v1/mounts", web::get().to(mounts::list))
        .route("/api/v1/mounts", web::post().to(mounts::add))
        .route("/api/v1/mounts", web::delete().to(mounts::remove))
        .route("/api/v1/reload", web::post().to(mounts::reload))
        .route("/api/v1/pending", web::get().to(pending::list))
        .route("/api/v1/conflicts", web::get().to(pending::conflicts))
        .route("/api/v1/lost", web::get().to(pending::lost))
        .route("/api/v1/flush", web::post().to(pending::flush))
        .route("/api/v1/actors", web::get().to(health::actors))
        .route("/api/v1/entries", web::get().to(entries::stat))
        .route("/api/v1/entries", web::delete().to(entries::remove))
        .route("/api/v1/list", web::get().to(entries::list))
        .route("/api/v1/copy", web::put().to(entries::copy))
        .route("/api/v1/copies", web::post().to(copies::start))
        .route("/api/v1/rules", web::get().to(cached::rules))
        .route("/api/v1/rules", web::patch().to(cached::change_rule))
        .route("/api/v1/rules", web::delete().to(cached::take_back_rule))
        .route("/api/v1/cached", web::delete().to(cached::free))
        .route("/api/v1/explain", web::get().to(cached::explain))
        .route("/api/v1/loads", web::post().to(loads::start))
        .route("/api/v1/syncs", web::post().to(loads::start_sync))
        .route("/api/v1/jobs", web::get().to(loads::list))
        .route("/api/v1/jobs/{id}", web::get().to(loads::one))
        .route("/api/v1/jobs/{id}", web::delete().to(loads::cancel))
        .route("/api/v1/content", web::get().to(content::get))
        .route("/api/v1/content", web::put().to(content::put));
    #[cfg(debug_assertions)]
    config.route("/debug/actors/{name:.*}/panic", web::post().to(health::panic_actor));
}
