//! A WebHDFS server: a socket bound at once, then an actix System on a thread of its own that serves it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, System};
use actix_web::dev::ServerHandle;
use forebay_core::{Access, Namespace};
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::call::{Appends, Frontend};
use crate::config::WebHdfsConfig;
use crate::crossing::Crossing;
use crate::listener::{Drain, Listener, Listening, Serving};
use crate::names::Names;

/// Most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How much the kernel takes of a reply ahead of its client. Java's client drops the connection at every seek: what
/// lies here then was read for nothing.
const SEND_BUFFER_BYTES: u32 = 256 << 10;

/// A bound WebHDFS server.
pub struct WebHdfsServer {
    listening: Listening,
    address: SocketAddr,
}

impl WebHdfsServer {
    /// Binds the listener. Backend work of its requests runs on `handle`.
    ///
    /// # Errors
    /// The socket's: the address is in use or not ours.
    pub fn bind(
        config: WebHdfsConfig,
        namespace: Arc<Namespace>,
        access: Arc<Access>,
        handle: Handle,
    ) -> io::Result<Self> {
        let socket = listen(config.listen, &handle)?;
        let address = socket.local_addr()?;
        let tls = config.tls.map(|mut tls| {
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(tls)
        });
        let frontend = Arc::new(Frontend {
            namespace,
            access,
            crossing: Crossing::new(handle),
            names: Names::of_machine(),
            colon: config.colon,
            advertised: config.advertised.map(|base| base.trim_end_matches('/').to_owned()),
            scheme: if tls.is_some() { "https" } else { "http" },
            address: address.to_string(),
            appends: Appends::default(),
        });
        Ok(Self { listening: Listening { socket, frontend, tls, drain: config.drain }, address })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then finishes the requests in flight for as long as the configuration allows.
    ///
    /// # Errors
    /// When the server ends by itself; bind and run another one then.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        self.start().await?.until(shutdown).await
    }

    async fn start(self) -> io::Result<Running> {
        let (started, starting) = oneshot::channel();
        let (alive, ended) = oneshot::channel();
        let (frontend, drain) = (Arc::clone(&self.listening.frontend), self.listening.drain);
        let thread = std::thread::Builder::new().name("webhdfs".into()).spawn(move || {
            let system = System::new();
            system.block_on(async move { Listener::new(self.listening, started, alive).start() });
            system.run()
        })?;
        let Ok(serving) = starting.await else { return Err(io::Error::other("the listener did not start")) };
        Ok(Running { serving: serving?, ended, thread, frontend, drain })
    }
}

/// A server at work: its System and thread end with [`Running::until`].
struct Running {
    serving: Serving,
    /// Closed when the listener's actor is gone.
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<io::Result<()>>,
    frontend: Arc<Frontend>,
    drain: Duration,
}

impl Running {
    async fn until(self, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let Serving { listener, server, system } = self.serving;
        let _cut = CutOff { server: server.clone(), system: system.clone() };
        let mut drain = self.drain;
        let outcome = tokio::select! {
            () = shutdown => {
                let begun = Instant::now();
                let drained = listener.send(Drain).await.map_err(io::Error::other);
                drain = drain.saturating_sub(begun.elapsed());
                drained
            }
            _ = self.ended => {
                // The actor may have died without its server, which would go on holding the port.
                server.stop(false).await;
                Err(io::Error::other("the WebHDFS listener ended by itself"))
            }
        };
        finish(&self.frontend, drain).await;
        system.stop();
        join(self.thread).await.and(outcome)
    }
}

/// Ends a server whose run is given up in the middle, because its actor failed: on a thread of its own it would go on
/// and keep the port from its successor.
struct CutOff {
    server: ServerHandle,
    system: System,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        // The command is sent here; only its completion would have to be awaited.
        drop(self.server.stop(false));
        self.system.stop();
    }
}

fn listen(address: SocketAddr, handle: &Handle) -> io::Result<TcpListener> {
    let _runtime = handle.enter();
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

async fn finish(frontend: &Frontend, drain: Duration) {
    if tokio::time::timeout(drain, frontend.crossing.finish()).await.is_err() {
        tracing::warn!("changes were still running when the drain time was over");
    }
}

async fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await.map_err(io::Error::other)?;
    joined.map_err(|_| io::Error::other("the WebHDFS thread panicked"))?
}

#[cfg(test)]
mod tests;
