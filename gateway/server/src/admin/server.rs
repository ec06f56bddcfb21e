//! The HTTP server of the admin listener, in an actix System on a thread of its own.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use tokio::sync::oneshot;

use super::{AdminState, routes};
use crate::config::HttpListener;

/// Seconds for requests in flight once it is told to stop.
const DRAIN_SECONDS: u64 = 5;

/// A bound admin listener.
pub(crate) struct AdminServer {
    listener: TcpListener,
    config: HttpListener,
    state: AdminState,
}

impl AdminServer {
    /// Binds the listener.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn bind(config: &HttpListener, state: AdminState) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(config.listen)?, config: config.clone(), state })
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then finishes what is in flight.
    ///
    /// # Errors
    /// The server's own.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
        let (started, handle) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let answer = actix_web::rt::System::new().block_on(self.serve(started));
            // Nobody waits any more when the whole service was aborted.
            ended.send(answer).unwrap_or(());
        })?;
        if let Ok(handle) = handle.await {
            let handle: ServerHandle = handle;
            let _cut = CutOff(handle.clone());
            let mut end = end;
            tokio::select! {
                answer = &mut end => return answer.unwrap_or_else(|_| Err(io::Error::other("the admin thread died"))),
                () = shutdown => {}
            }
            handle.stop(true).await;
            return end.await.unwrap_or_else(|_| Err(io::Error::other("the admin thread died")));
        }
        drop(thread);
        end.await.unwrap_or_else(|_| Err(io::Error::other("the admin thread died")))
    }

    async fn serve(self, started: oneshot::Sender<ServerHandle>) -> io::Result<()> {
        let state = web::Data::new(self.state);
        let server = HttpServer::new(move || App::new().app_data(state.clone()).configure(routes))
            .workers(1)
            .disable_signals()
            .shutdown_timeout(DRAIN_SECONDS);
        let server = match &self.config.tls {
            Some(tls) => server.listen_rustls_0_23(self.listener, rustls::ServerConfig::clone(tls))?,
            None => server.listen(self.listener)?,
        };
        let server = server.run();
        // The receiver is gone only when the whole service was aborted.
        started.send(server.handle()).unwrap_or(());
        server.await
    }
}

/// Ends a server whose run is given up in the middle, because its actor failed: on a thread of its own it would go on
/// and keep the port from its successor.
struct CutOff(ServerHandle);

impl Drop for CutOff {
    fn drop(&mut self) {
        // The command is sent here; only its completion would have to be awaited.
        drop(self.0.stop(false));
    }
}
