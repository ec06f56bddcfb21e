//! The actix actor that owns the HTTP listener: it starts serving when it starts, and drains when it is told to.
//!
//! It dies with its server and its server with it; whoever waits for its end then starts another one.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, System};
use actix_http::error::DispatchError;
use actix_http::{HttpService, Request};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, Server, ServerHandle};
use actix_web::rt::net::TcpStream;
use actix_web::{App, web};
use rustls::ServerConfig;
use tokio::sync::oneshot;

use crate::call::Frontend;
use crate::connection::Connection;
use crate::service;

/// How long an idle connection stays open: longer than Java keeps one (5 s), so that the client closes first and no PUT
/// meets a closing connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a refused body is read and thrown away, so that its client reads the refusal and not a reset connection.
const LINGER: Duration = Duration::from_secs(2);

/// Everything that a listener serves with.
pub(crate) struct Listening {
    pub(crate) socket: TcpListener,
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) drain: Duration,
}

/// A listener that serves, as seen from outside its System.
pub(crate) struct Serving {
    pub(crate) listener: Addr<Listener>,
    /// Reaches the server even when its actor is gone.
    pub(crate) server: ServerHandle,
    pub(crate) system: System,
}

/// The actor.
pub(crate) struct Listener {
    /// Taken when the actor starts.
    start: Option<(Listening, oneshot::Sender<std::io::Result<Serving>>)>,
    server: Option<ServerHandle>,
    /// Dropped with the actor, however it ends.
    _alive: oneshot::Sender<()>,
}

/// Stops accepting, and answers when the requests in flight are done or the drain time is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

#[derive(Message)]
#[rtype(result = "()")]
struct ServerEnded;

impl Listener {
    pub(crate) fn new(
        listening: Listening,
        started: oneshot::Sender<std::io::Result<Serving>>,
        alive: oneshot::Sender<()>,
    ) -> Self {
        Self { start: Some((listening, started)), server: None, _alive: alive }
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((listening, started)) = self.start.take() else { return };
        let answer = serve(listening).map(|server| {
            let handle = server.handle();
            self.server = Some(handle.clone());
            let address = ctx.address();
            actix::spawn(async move {
                if let Err(e) = server.await {
                    tracing::error!(error = %e, "the WebHDFS server failed");
                }
                address.do_send(ServerEnded);
            });
            Serving { listener: ctx.address(), server: handle, system: System::current() }
        });
        if answer.is_err() {
            ctx.stop();
            System::current().stop();
        }
        // Nobody waits for a server that was given up meanwhile.
        started.send(answer).ok();
    }
}

impl Handler<ServerEnded> for Listener {
    type Result = ();

    fn handle(&mut self, _: ServerEnded, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Drain> for Listener {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        let server = self.server.clone();
        Box::pin(async move {
            if let Some(server) = server {
                server.stop(true).await;
            }
        })
    }
}

fn serve(listening: Listening) -> std::io::Result<Server> {
    let Listening { socket, frontend, tls, drain } = listening;
    let builder = Server::build().workers(1).disable_signals().shutdown_timeout(drain.as_secs());
    let signal = builder.graceful_shutdown_signal();
    let builder = builder.listen("webhdfs", socket, move || {
        let app = App::new()
            .app_data(web::Data::from(Arc::clone(&frontend)))
            .default_service(web::to(service::answer))
            .into_factory()
            .map_err(|e: actix_web::Error| e.error_response());
        let signal = signal.clone();
        let asked = Arc::clone(&frontend);
        let http = HttpService::build()
            .keep_alive(KEEP_ALIVE)
            .client_disconnect_timeout(LINGER)
            .expect(fn_service(move |request: Request| service::expect(request, Arc::clone(&asked))))
            .graceful_shutdown_signal(move || {
                let signal = signal.clone();
                async move { signal.notified().await }
            })
            .h1(map_config(app, |()| AppConfig::default()));
        let tls = tls.clone();
        fn_service(move |stream: TcpStream| {
            let tls = tls.clone();
            async move {
                let peer = stream.peer_addr().ok();
                let connection = Connection::accept(stream, tls).await.map_err(DispatchError::Io)?;
                Ok::<_, DispatchError>((connection, peer))
            }
        })
        .and_then(http)
    })?;
    Ok(builder.run())
}

/// Kills the actor, as a fault of ours would.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Panic;

#[cfg(test)]
impl Handler<Panic> for Listener {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Self::Context) {
        panic!("on purpose");
    }
}
