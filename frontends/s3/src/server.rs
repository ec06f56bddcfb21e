//! The listener: accepts, speaks TLS where configured, serves HTTP/1 and HTTP/2, and drains on shutdown.
//!
//! Each connection is a task of [`S3Server::run`], which joins or aborts them all before it returns.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::{Access, Namespace};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use s3s::Body;
use s3s::config::{S3Config as ProtocolConfig, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

use crate::auth::Auth;
use crate::handler::Handler;
use crate::name::{AnySegment, Domain};
use crate::ops::Gateway;

/// Most connections; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// What a connection holds of what it reads, and of what it writes beside one piece; hyper's own limit is three times
/// this, which slow clients fill.
const BUFFER_BYTES: usize = 128 << 10;
/// Requests at once on one HTTP/2 connection; each may hold a form of 16 MiB before it is admitted.
const STREAMS_MAX: u32 = 32;
/// How long a client may take to send a request's head, and an idle connection lives.
const HEADER_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest XML body: 1000 keys of 1024 bytes in their longest escaped form.
const XML_BYTES_MAX: usize = 8 << 20;
/// Largest object in a POST form, which is held in memory.
const FORM_OBJECT_BYTES_MAX: u64 = 16 << 20;

/// How the S3 listener runs.
#[derive(Clone)]
pub struct S3Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificates, where it speaks TLS. ALPN names decide between HTTP/1 and HTTP/2.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The region it says it is in.
    pub region: String,
    /// Below this domain, host names are buckets (`bucket.domain`); path style always works.
    pub domain: Option<String>,
    /// How long requests in flight may take after shutdown began.
    pub drain: Duration,
}

/// The bound S3 listener.
pub struct S3Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    drain: Duration,
}

impl S3Server {
    /// Binds the listener; nothing is served before [`S3Server::run`].
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub async fn bind(config: S3Config, namespace: Arc<Namespace>, access: Arc<Access>) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let gateway = Gateway::new(namespace, config.region);
        let handler = Arc::new(Handler::new(service(gateway, access, config.domain)));
        Ok(Self { listener, tls: config.tls.map(TlsAcceptor::from), handler, drain: config.drain })
    }

    /// The bound address, with the real port where 0 was asked for.
    ///
    /// # Errors
    /// The socket's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` resolves, then finishes what is in flight within the configured time.
    ///
    /// # Errors
    /// None at present; failures to accept are logged and retried.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
        let graceful = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                (stream, permit) = self.accept(&permits) => {
                    let connection = self.serve(stream, permit, graceful.watcher());
                    connections.spawn(connection);
                }
            }
        }
        drop(self.listener);
        if tokio::time::timeout(self.drain, graceful.shutdown()).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "S3 requests were cut off at the end of the drain"
            );
        }
        connections.shutdown().await;
        Ok(())
    }

    async fn accept(&self, permits: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
        let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return (stream, permit),
                Err(e) => {
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send + 'static {
        let handler = Arc::clone(&self.handler);
        let tls = self.tls.clone();
        async move {
            // Without it, streamed small bodies wait 40 ms for the client's delayed acknowledgement.
            if let Err(e) = stream.set_nodelay(true) {
                tracing::debug!(error = %e, "a connection was gone before it was served");
                return;
            }
            match tls {
                None => speak_http(stream, handler, watcher).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => speak_http(stream, handler, watcher).await,
                    Ok(Err(e)) => tracing::debug!(error = %e, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                },
            }
            drop(permit);
        }
    }
}

async fn speak_http<S>(stream: S, handler: Arc<Handler>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADER_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX);
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { handler.handle(request.map(Body::from)).await }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(e) = watcher.watch(connection).await {
        tracing::debug!(error = e, "a connection ended early");
    }
}

/// The protocol service: authentication and access are set here, in the one place that builds it.
pub(crate) fn service(gateway: Gateway, access: Arc<Access>, domain: Option<String>) -> S3Service {
    let mut protocol = ProtocolConfig::default();
    protocol.xml_max_body_size = XML_BYTES_MAX;
    protocol.post_object_max_file_size = FORM_OBJECT_BYTES_MAX;
    protocol.form_max_fields_size = 1 << 20;
    let mut builder = S3ServiceBuilder::new(gateway);
    builder.set_auth(Auth(Arc::clone(&access)));
    builder.set_access(Auth(access));
    builder.set_validation(AnySegment);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(protocol))));
    if let Some(domain) = domain {
        builder.set_host(Domain(domain));
    }
    builder.build()
}
