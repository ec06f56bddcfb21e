//! A server over an in-memory store, and the plainest HTTP client there is.

mod mount;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forebay_core::{AccessBuilder, Grant, MountTable, Namespace, NsPath, Permission, Principal, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) use self::mount::MemoryMount;
use crate::config::{ColonPolicy, WebHdfsConfig};
use crate::server::WebHdfsServer;

/// A running server; `b` is a store with real directories, `o` one where names may be file and directory at once.
pub(crate) struct Served {
    pub(crate) address: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

/// A reply, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }

    fn parse(bytes: &[u8]) -> Self {
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut answer = Self { status, head, body: bytes[split + 4..].to_vec() };
        if answer.header("transfer-encoding").is_some() {
            answer.body = unchunk(&answer.body);
        }
        answer
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).expect("a chunk size");
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    body
}

/// A server over two empty stores, with the users `root`, `reader` and (with the token `t`) `alice`.
pub(crate) fn bind(listen: &str, colon: ColonPolicy) -> io::Result<WebHdfsServer> {
    let mounts = [("/b", true), ("/o", false)].map(|(path, is_hierarchical)| {
        let path = NsPath::parse(path).expect("valid path");
        let mount = MemoryMount::new(path.as_str(), is_hierarchical);
        mount.seed("colon/a:b");
        let mount: Arc<dyn forebay_core::Mount> = Arc::new(mount);
        (path, mount)
    });
    let table = MountTable::new(mounts).expect("two paths");
    let namespace = Arc::new(Namespace::new(table, SystemTime::UNIX_EPOCH));
    let principal = |name: &str, permission| {
        let grant = Grant { prefix: NsPath::root(), permission };
        Arc::new(Principal { name: name.into(), grants: vec![grant] })
    };
    let mut access = AccessBuilder::default();
    access.webhdfs_user("root", None, &principal("root", Permission::Write));
    access.webhdfs_user("reader", None, &principal("reader", Permission::Read));
    access.webhdfs_user("alice", Some(Secret::new("t")), &principal("alice", Permission::Write));
    let config = WebHdfsConfig {
        listen: listen.parse().expect("an address"),
        tls: None,
        advertised: None,
        colon,
        drain: Duration::from_secs(5),
    };
    WebHdfsServer::bind(config, namespace, Arc::new(access.build()), Handle::current())
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::with(ColonPolicy::Show)
    }

    pub(crate) fn with(colon: ColonPolicy) -> Self {
        let server = bind("127.0.0.1:0", colon).expect("a free port");
        let address = server.local_addr().to_string();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        Self { address, stop, server: tokio::spawn(server.run(shutdown)) }
    }

    /// Stops the server and waits for its end.
    pub(crate) async fn stop(self) -> io::Result<()> {
        self.stop.send(()).ok();
        self.server.await.expect("no panic")
    }

    /// Sends bytes as they are, on a connection of their own, and reads until the server closes it.
    pub(crate) async fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).await.expect("connect");
        stream.write_all(request).await.expect("send");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("receive");
        reply
    }

    /// One request below `/webhdfs/v1`.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        let address = &self.address;
        let length = body.len();
        let request = format!(
            "{method} /webhdfs/v1{target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        Answer::parse(&self.raw(request.as_bytes()).await)
    }

    /// `method op` as root, without a body: status and body text.
    pub(crate) async fn op(&self, method: &str, path: &str, op: &str) -> (u16, String) {
        let answer = self.ask(method, &format!("{path}?op={op}&user.name=root"), "").await;
        (answer.status, answer.text())
    }

    /// Both steps of an operation with content.
    pub(crate) async fn follow(&self, method: &str, path: &str, op: &str, body: &str) -> Answer {
        let first = self.ask(method, &format!("{path}?op={op}&user.name=root"), "").await;
        if first.status != 307 {
            return first;
        }
        let location = first.header("location").expect("a location");
        let base = format!("http://{}/webhdfs/v1", self.address);
        self.ask(method, location.strip_prefix(&base).expect("to ourselves"), body).await
    }

    /// Makes a file and expects it to work.
    pub(crate) async fn create(&self, path: &str, body: &str) {
        let answer = self.follow("PUT", path, "CREATE", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// A file's content.
    pub(crate) async fn read(&self, path: &str) -> String {
        self.follow("GET", path, "OPEN", "").await.text()
    }
}
