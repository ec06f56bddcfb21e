//! What a WebHDFS listener is told.

use std::net::SocketAddr;
use std::time::Duration;

/// What listings do with names that contain `:`.
///
/// Hadoop's Java client cannot hold such a name: one of them makes its whole `listStatus` fail. Showing them is the
/// default all the same, since a job that fails is better than a job that silently reads less. Hadoop refuses to
/// *make* such names, and so does this frontend under either policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColonPolicy {
    /// List them: every client but Java's reads them.
    #[default]
    Show,
    /// Leave them out of listings; they can still be opened by name.
    Hide,
}

/// Settings of one WebHDFS listener.
#[derive(Clone, Debug)]
pub struct WebHdfsConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Serve HTTPS with this.
    pub tls: Option<rustls::ServerConfig>,
    /// `scheme://host:port` that redirects name, where clients reach this server by another address than the one in
    /// their `Host` header.
    pub advertised: Option<String>,
    /// Names with `:` in listings.
    pub colon: ColonPolicy,
    /// How long requests in flight may take once the server is told to stop.
    pub drain: Duration,
}
