//! WebHDFS on the wire: one request to whichever NameNode is active, and what follows at a DataNode.
//!
//! Invariants:
//! - A request that may have had an effect is sent once; only one that a standby refused, or for which no
//!   connection came about, goes to the other NameNode.
//! - Bodies go to a DataNode alone: a NameNode's redirect is followed by hand.
//! - No error shows a URL, which may hold a token.
//!
//! Source: "WebHDFS REST API", Hadoop 3.3.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_core::{ByteRange, Error, ErrorKind, RenameMode, Result};
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{refusal, unanswered};
use super::path::{Path, value};
use super::status::Status;
use crate::backend::Source;
use crate::backend::deadline::{Pace, exactly};
use crate::config::{HdfsStoreConfig, MountLimits};

/// Longest wait for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long an idle connection is kept; a NameNode closes its own after ten seconds.
const IDLE: Duration = Duration::from_secs(8);
/// Time between probes of an idle connection, so that dropped ones are noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How much of a staged file is read and sent at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces read ahead of the connection.
const PIECES_AHEAD: usize = 2;
/// Memory of a body that is sent: what was read ahead, and what the connection has.
pub(super) const BODY_BYTES: u64 = (PIECES_AHEAD as u64 + 1) * PIECE_BYTES;

/// A client of one pair of NameNodes, with connections of its own.
pub(super) struct Client {
    http: reqwest::Client,
    /// For what is answered after a body that takes its time.
    uploads: reqwest::Client,
    pace: Pace,
    /// Base URLs, `http://host:port/webhdfs/v1`.
    endpoints: Vec<String>,
    /// Which of them answered last.
    active: AtomicUsize,
    /// Who asks, as the end of each query.
    identity: String,
    /// Of one request to a NameNode; shorter than that of the mount's, so that a second attempt meets the other one.
    deadline: Duration,
}

/// A page of a directory.
pub(super) struct Batch {
    /// In byte order of their names.
    pub(super) statuses: Vec<Status>,
    /// There are more.
    pub(super) is_cut: bool,
}

#[derive(Deserialize)]
struct FileStatus {
    #[serde(rename = "FileStatus")]
    status: Status,
}

#[derive(Deserialize)]
struct DirectoryListing {
    #[serde(rename = "DirectoryListing")]
    listing: Listing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    partial_listing: PartialListing,
    remaining_entries: u64,
}

#[derive(Deserialize)]
struct PartialListing {
    #[serde(rename = "FileStatuses")]
    statuses: FileStatuses,
}

#[derive(Deserialize)]
struct FileStatuses {
    #[serde(rename = "FileStatus")]
    statuses: Vec<Status>,
}

#[derive(Deserialize)]
struct Outcome {
    boolean: bool,
}

#[derive(Deserialize)]
struct XAttrs {
    #[serde(rename = "XAttrs")]
    xattrs: Vec<XAttr>,
}

#[derive(Deserialize)]
struct XAttr {
    name: String,
    value: Option<String>,
}

/// Why one NameNode did not do what it was asked.
enum Failure {
    /// It had no effect there: another NameNode may be asked.
    Elsewhere(Error),
    /// This is the answer.
    Final(Error),
}

impl Client {
    pub(super) fn new(config: &HdfsStoreConfig, limits: &MountLimits) -> reqwest::Result<Self> {
        // Whoever comes first installs it; all install the same.
        rustls::crypto::ring::default_provider().install_default().map_err(drop).unwrap_or_default();
        let builder = || {
            reqwest::Client::builder()
                .http1_only()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_DEADLINE)
                .pool_max_idle_per_host(limits.operations)
                .pool_idle_timeout(IDLE)
                .tcp_keepalive(KEEPALIVE)
                .tcp_nodelay(true)
        };
        let base = |endpoint: &String| format!("{}/webhdfs/v1", endpoint.trim_end_matches('/'));
        Ok(Self {
            http: builder().read_timeout(limits.request_deadline).build()?,
            uploads: builder().build()?,
            pace: Pace::new(limits),
            endpoints: config.endpoints.iter().map(base).collect(),
            active: AtomicUsize::new(0),
            identity: identity(config),
            deadline: limits.request_deadline / 2,
        })
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// `NotFound`, also below a file.
    pub(super) async fn status(&self, path: &Path) -> Result<Status> {
        match self.json::<FileStatus>(Method::GET, path, "GETFILESTATUS").await {
            Ok(found) => Ok(found.status),
            Err(e) if e.kind() == ErrorKind::NotDirectory => {
                Err(Error::new(ErrorKind::NotFound, "an ancestor is a file").because(e))
            }
            Err(e) => Err(e),
        }
    }

    /// As [`Client::status`]; `None` where nothing is.
    pub(super) async fn look(&self, path: &Path) -> Result<Option<Status>> {
        match self.status(path).await {
            Ok(status) => Ok(Some(status)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The entries of a directory whose names come after `after`. Nothing, or a file, has none.
    pub(super) async fn list(&self, path: &Path, after: &str) -> Result<Batch> {
        let query = match after {
            "" => "LISTSTATUS_BATCH".to_owned(),
            after => format!("LISTSTATUS_BATCH&startAfter={}", value(after)),
        };
        let listing = match self.json::<DirectoryListing>(Method::GET, path, &query).await {
            Ok(answer) => answer.listing,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => {
                return Ok(Batch { statuses: Vec::new(), is_cut: false });
            }
            Err(e) => return Err(e),
        };
        let mut statuses = listing.partial_listing.statuses.statuses;
        // Listed, a file shows itself.
        statuses.retain(|status| !status.path_suffix.is_empty());
        Ok(Batch { is_cut: listing.remaining_entries > 0 && !statuses.is_empty(), statuses })
    }

    /// Makes a directory with its parents; an existing one is fine.
    pub(super) async fn mkdirs(&self, path: &Path) -> Result<()> {
        if self.boolean(Method::PUT, path, "MKDIRS").await? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Internal, "HDFS did not make the directory and does not say why"))
    }

    /// Removes a file or directory; `false` if there was none.
    pub(super) async fn delete(&self, path: &Path, is_recursive: bool) -> Result<bool> {
        self.boolean(Method::DELETE, path, &format!("DELETE&recursive={is_recursive}")).await
    }

    /// Moves a file or directory, atomically. With options HDFS throws where it would answer `false` without.
    ///
    /// # Errors
    /// `NotFound` for a missing source or parent, `AlreadyExists`, `NotDirectory`, `NotEmpty`.
    pub(super) async fn rename(&self, from: &Path, to: &Path, mode: RenameMode) -> Result<()> {
        let option = match mode {
            RenameMode::NoReplace => "NONE",
            RenameMode::Replace => "OVERWRITE",
        };
        let query = format!("RENAME&renameoptions={option}&destination={}", to.as_str());
        let answer = self.ask(Method::PUT, from, &query).await?;
        let body = answer.bytes().await.map_err(unanswered)?;
        match serde_json::from_slice(&body) {
            Ok(Outcome { boolean: false }) => Err(Error::new(ErrorKind::Internal, "HDFS refused the rename")),
            // Nothing, as documented, or `true`.
            Ok(Outcome { boolean: true }) | Err(_) => Ok(()),
        }
    }

    /// Sets an xattr on a file that has none of this name.
    pub(super) async fn set_xattr(&self, path: &Path, name: &str, bytes: &str) -> Result<()> {
        let query = format!("SETXATTR&xattr.name={name}&xattr.value={}&flag=CREATE", value(bytes));
        self.ask(Method::PUT, path, &query).await.map(drop)
    }

    /// An xattr of a file as HDFS encodes it in base64 (`0s…`); `None` if it has none of this name.
    pub(super) async fn xattr(&self, path: &Path, name: &str) -> Result<Option<String>> {
        // Asked for by name, a missing one is an exception with its stack; asked for all, there is just none.
        let answer: XAttrs = self.json(Method::GET, path, "GETXATTRS&encoding=base64").await?;
        Ok(answer.xattrs.into_iter().find(|xattr| xattr.name == name).and_then(|xattr| xattr.value))
    }

    /// Exactly the bytes of `range`, or an error.
    ///
    /// # Errors
    /// `RangeNotSatisfiable` where the file ends before the range begins; `NotFound`.
    pub(super) async fn open(&self, path: &Path, range: ByteRange) -> Result<Bytes> {
        let query = format!("OPEN&offset={}&length={}", range.offset, range.len);
        let location = self.redirect(Method::GET, path, &query).await?;
        let answer = self.http.get(location).send().await.map_err(datanode)?;
        let answer = accepted(answer, StatusCode::OK).await?;
        exactly(answer.bytes_stream().map_err(unanswered), range.len, self.pace).await
    }

    /// Writes a new file that nobody else has the name of.
    pub(super) async fn create(&self, path: &Path, source: &Source) -> Result<()> {
        let location = self.place(path).await?;
        self.send(location, body(source), Some(source.size_bytes())).await
    }

    /// Where the bytes of a new file go.
    pub(super) async fn place(&self, path: &Path) -> Result<Url> {
        self.redirect(Method::PUT, path, "CREATE&overwrite=false").await
    }

    /// Writes a new file to its place: exactly `size_bytes`, where they are known, else all that comes.
    pub(super) async fn send(&self, place: Url, body: Body, size_bytes: Option<u64>) -> Result<()> {
        let mut request = self.uploads.put(place).header(CONTENT_TYPE, "application/octet-stream").body(body);
        if let Some(size_bytes) = size_bytes {
            request = request.header(CONTENT_LENGTH, size_bytes);
        }
        let answer = request.send().await.map_err(datanode)?;
        accepted(answer, StatusCode::CREATED).await.map(drop)
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &Path, query: &str) -> Result<T> {
        let answer = self.ask(method, path, query).await?;
        let body = answer.bytes().await.map_err(unanswered)?;
        serde_json::from_slice(&body).map_err(|e| {
            let text = format!("the NameNode's answer is not understood ({e}); HttpFS is no NameNode");
            Error::new(ErrorKind::Internal, text)
        })
    }

    async fn boolean(&self, method: Method, path: &Path, query: &str) -> Result<bool> {
        self.json::<Outcome>(method, path, query).await.map(|outcome| outcome.boolean)
    }

    /// Where the second step of a request goes.
    async fn redirect(&self, method: Method, path: &Path, query: &str) -> Result<Url> {
        let answer = self.ask(method, path, query).await?;
        let location = answer.headers().get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
        location
            .and_then(|location| Url::parse(&location).ok())
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the NameNode names no DataNode"))
    }

    /// Sends a request without a body to the NameNode that answered last, else to the other.
    async fn ask(&self, method: Method, path: &Path, query: &str) -> Result<Response> {
        let first = self.active.load(Ordering::Relaxed);
        let mut refused = Vec::new();
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            match self.ask_one(&self.endpoints[at], (method.clone(), path, query)).await {
                Ok(answer) => {
                    if turn > 0 {
                        tracing::info!(endpoint = self.endpoints[at], "failed over to this NameNode");
                        self.active.store(at, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(Failure::Elsewhere(error)) => refused.push(error),
                Err(Failure::Final(error)) => {
                    // It may hang: whoever asks again asks the other one first, which says so if it is a standby.
                    let next = if error.is_temporary() { at + 1 } else { at };
                    self.active.store(next % self.endpoints.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        let texts: Vec<_> = refused.iter().map(ToString::to_string).collect();
        Err(Error::new(ErrorKind::Unavailable, format!("no NameNode is active: {}", texts.join("; "))))
    }

    async fn ask_one(
        &self,
        endpoint: &str,
        (method, path, query): (Method, &Path, &str),
    ) -> std::result::Result<Response, Failure> {
        let url = format!("{endpoint}{}?op={query}{}", path.as_str(), self.identity);
        let request = self.http.request(method, url).header(CONTENT_LENGTH, 0).timeout(self.deadline);
        let answer = request.send().await.map_err(|e| {
            if e.is_connect() { Failure::Elsewhere(unanswered(e)) } else { Failure::Final(unanswered(e)) }
        })?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::TEMPORARY_REDIRECT {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|e| Failure::Final(unanswered(e)))?;
        let refusal = refusal(status, &body);
        Err(if refusal.is_standby {
            Failure::Elsewhere(refusal.error)
        } else {
            Failure::Final(refusal.error)
        })
    }
}

/// `&user.name=…` or `&delegation=…`, and `&doas=…`.
fn identity(config: &HdfsStoreConfig) -> String {
    let mut identity = match (&config.delegation_token, &config.user) {
        (Some(token), _) => format!("&delegation={}", value(token.expose())),
        (None, Some(user)) => format!("&user.name={}", value(user)),
        (None, None) => String::new(),
    };
    if let Some(doas) = &config.doas {
        identity = format!("{identity}&doas={}", value(doas));
    }
    identity
}

/// A staged file as a stream of pieces: neither the whole of it in memory nor a blocked worker.
fn body(source: &Source) -> Body {
    let (source, size_bytes) = (source.clone(), source.size_bytes());
    let pieces = (0..size_bytes.div_ceil(PIECE_BYTES)).map(move |number| {
        let range = ByteRange::new(number * PIECE_BYTES, PIECE_BYTES).clamp_to(size_bytes);
        let source = source.clone();
        async move {
            tokio::task::spawn_blocking(move || source.read(range)).await.map_err(std::io::Error::other)?
        }
    });
    Body::wrap_stream(stream::iter(pieces).buffered(PIECES_AHEAD).map_err(std::io::Error::other))
}

/// The answer, if it is the one that means success; else why not.
async fn accepted(answer: Response, expected: StatusCode) -> Result<Response> {
    let status = answer.status();
    if status == expected {
        return Ok(answer);
    }
    let body = answer.bytes().await.map_err(unanswered)?;
    Err(refusal(status, &body).error)
}

/// The host comes from the NameNode's redirect, so it is named where it cannot be reached.
fn datanode(error: reqwest::Error) -> Error {
    let host =
        error.url().map(|url| format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(80)));
    let error = unanswered(error);
    Error::new(error.kind(), format!("DataNode {}: {error}", host.unwrap_or_default()))
}
