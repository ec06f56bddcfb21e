//! A client's connection, plain or TLS, as actix reads it: request lines come out in ASCII.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::rt::net::{ActixStream, Ready, TcpStream};
use bytes::{Buf, Bytes};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::request_line::RequestLines;

/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One connection.
pub(crate) struct Connection {
    transport: Transport,
    lines: RequestLines,
    /// Escaped bytes that did not fit into the last read.
    pending: Bytes,
}

impl Connection {
    /// Takes a connection over, after its TLS handshake where the server speaks TLS.
    pub(crate) async fn accept(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        // Without this, replies of several pieces wait 40 ms for the client's delayed acknowledgement.
        stream.set_nodelay(true)?;
        let transport = match tls {
            None => Transport::Plain(stream),
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(stream);
                let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await??;
                Transport::Tls(Box::new(stream))
            }
        };
        Ok(Self { transport, lines: RequestLines::default(), pending: Bytes::new() })
    }

    fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.pending.is_empty() {
            let before = buf.filled().len();
            ready!(match &mut this.transport {
                Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
                Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            })?;
            let Some(escaped) = this.lines.encode(&buf.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            buf.set_filled(before);
            this.pending = escaped.into();
        }
        let fits = this.pending.len().min(buf.remaining());
        buf.put_slice(&this.pending[..fits]);
        this.pending.advance(fits);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl ActixStream for Connection {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(self.tcp(), cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(self.tcp(), cx)
    }
}
