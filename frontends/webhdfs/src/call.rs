//! One request, understood: what is asked, of which name, by whom.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use actix_http::RequestHead;
use actix_web::http::header::HOST;
use forebay_core::{Access, Context, EPOCH_HEADER, EXPLAIN_HEADER, Entry, Namespace, NsPath, Want};

use crate::auth;
use crate::config::ColonPolicy;
use crate::crossing::Crossing;
use crate::error::{Exception, RemoteException, Result};
use crate::metrics::INVALID;
use crate::names::Names;
use crate::operation::Operation;
use crate::params::Params;
use crate::path;

/// What every request shares.
pub(crate) struct Frontend {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) access: Arc<Access>,
    pub(crate) crossing: Crossing,
    pub(crate) names: Names,
    pub(crate) colon: ColonPolicy,
    /// `scheme://host:port` of redirects; `None`: from the `Host` header.
    pub(crate) advertised: Option<String>,
    pub(crate) scheme: &'static str,
    /// Where the server listens, for clients that send no `Host`.
    pub(crate) address: String,
    pub(crate) appends: Appends,
}

/// Files with an append in progress: HDFS's leases, in their smallest form. The lock is never held across an await.
#[derive(Default)]
pub(crate) struct Appends(Mutex<HashSet<NsPath>>);

/// The right to append to one file, until dropped.
pub(crate) struct AppendLease<'a> {
    appends: &'a Appends,
    path: NsPath,
}

impl Appends {
    /// # Errors
    /// `AlreadyBeingCreatedException` while another append is in progress.
    pub(crate) fn lease(&self, path: &NsPath) -> Result<AppendLease<'_>> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            return Ok(AppendLease { appends: self, path: path.clone() });
        }
        let message = format!("Failed to APPEND_FILE {path}: another client is appending to it");
        Err(RemoteException::new(Exception::AlreadyBeingCreated, message))
    }
}

impl Drop for AppendLease<'_> {
    fn drop(&mut self) {
        self.appends.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// One request.
pub(crate) struct Call {
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) operation: Operation,
    /// Hadoop's name of the operation.
    pub(crate) name: &'static str,
    pub(crate) path: NsPath,
    pub(crate) params: Params,
    /// The query as sent, for the redirect.
    pub(crate) query: String,
    pub(crate) context: Context,
    /// Who calls, as Hadoop shows it.
    pub(crate) user: String,
    /// The client's address without its port.
    pub(crate) client: String,
    /// Whether the client wants to know where the bytes of an answer were found.
    pub(crate) is_explained: bool,
    /// Whether what it reads is to be cached as a part of a data set.
    pub(crate) is_data_set: bool,
    /// `scheme://host:port` that the client knows this server by.
    pub(crate) server: String,
}

impl Call {
    /// Understands a request. The operation's name comes back in any case, for metrics and logs.
    pub(crate) fn understand(
        request: &RequestHead,
        frontend: &Arc<Frontend>,
    ) -> (&'static str, Result<Self>) {
        // The URI as sent: `HttpRequest::path` is decoded already, and not byte for byte.
        let query = request.uri.query().unwrap_or_default();
        let asked = Params::parse(query).and_then(|params| {
            let asked = Operation::parse(&request.method, params.text("op"))?;
            Ok((params, asked))
        });
        match asked {
            Err(e) => (INVALID, path::decode(request.uri.path()).and(Err(e))),
            Ok((params, asked)) => (asked.0, Self::of(request, frontend, params, asked)),
        }
    }

    fn of(
        request: &RequestHead,
        frontend: &Arc<Frontend>,
        params: Params,
        (name, operation): (&'static str, Operation),
    ) -> Result<Self> {
        let text = path::decode(request.uri.path())?;
        let caller = auth::authenticate(&frontend.access, &request.headers, &params)?;
        let path = path::parse(&text).map_err(|e| {
            // Hadoop looks such a name up and does not find it; only making one is an error of its own.
            if text.contains("//") && !operation.is_change() {
                RemoteException::new(Exception::FileNotFound, format!("File does not exist: {text}"))
            } else {
                e
            }
        })?;
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok());
        let server = frontend
            .advertised
            .clone()
            .unwrap_or_else(|| format!("{}://{}", frontend.scheme, host.unwrap_or(&frontend.address)));
        Ok(Self {
            frontend: Arc::clone(frontend),
            operation,
            name,
            path,
            params,
            query: request.uri.query().unwrap_or_default().to_owned(),
            context: Context::new(caller.principal),
            user: caller.user,
            client: request.peer_addr.map(|peer| peer.ip().to_string()).unwrap_or_default(),
            is_explained: request.headers.contains_key(EXPLAIN_HEADER),
            is_data_set: request.headers.get(EPOCH_HEADER).is_some_and(|value| value == "1"),
            server,
        })
    }

    /// The second step of a redirected operation, which carries the content.
    pub(crate) fn is_data_step(&self) -> Result<bool> {
        self.params.boolean("data", false)
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.frontend.namespace
    }

    /// A parameter that the operation cannot do without.
    pub(crate) fn required(&self, name: &str) -> Result<&str> {
        self.params.required(name, self.name)
    }

    /// Looks at `path`; a directory comes before a file of the same name.
    pub(crate) async fn stat(&self, path: &NsPath) -> forebay_core::Result<Entry> {
        match self.namespace().try_stat(&self.context, path, Want::Any) {
            Some(answer) => answer,
            None => self.namespace().stat(&self.context, path, Want::Any).await,
        }
    }
}
