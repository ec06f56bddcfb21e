//! A stand-in for a NameNode and its DataNode: enough of WebHDFS over a tree in memory to try the client's own
//! promises and every fault. What real servers do is tested against a real HDFS, end to end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is listed at once, so that listings have many pages.
const BATCH: usize = 3;

/// What goes wrong with the next request of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is done, and the connection closes without an answer.
    Lost,
    /// The connection closes, and nothing was done.
    Dropped,
    /// An exception of this class is thrown.
    Thrown(&'static str),
}

/// The servers, listening until the runtime ends.
pub(crate) struct StandIn {
    pub(super) endpoint: String,
    /// Refuses everything, as a standby does.
    pub(crate) is_standby: AtomicBool,
    /// Says of all directories that they are too large to be read whole.
    pub(super) seems_large: AtomicBool,
    tree: Arc<Mutex<Tree>>,
    faults: Mutex<Vec<(&'static str, Fault)>>,
    seen: Mutex<Vec<String>>,
}

struct Tree {
    nodes: BTreeMap<String, Node>,
    last: u64,
    seems_large: bool,
}

#[derive(Clone)]
struct Node {
    id: u64,
    modified: u64,
    /// `None` for directories.
    content: Option<Vec<u8>>,
    xattrs: Vec<(String, String)>,
}

struct Request {
    path: String,
    query: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn get(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

type Answer = Result<(u16, Vec<u8>), (u16, &'static str, String)>;

impl StandIn {
    pub(crate) async fn start() -> Arc<Self> {
        let root = Node { id: 16_385, modified: 0, content: None, xattrs: Vec::new() };
        let tree = Tree { nodes: [("/".to_owned(), root)].into(), last: 16_385, seems_large: false };
        Self::over(Arc::new(Mutex::new(tree))).await
    }

    /// Another NameNode of the same tree.
    pub(crate) async fn twin(&self) -> Arc<Self> {
        Self::over(Arc::clone(&self.tree)).await
    }

    async fn over(tree: Arc<Mutex<Tree>>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let standin = Arc::new(Self {
            endpoint: format!("http://{}", listener.local_addr().expect("bound")),
            is_standby: AtomicBool::new(false),
            seems_large: AtomicBool::new(false),
            tree,
            faults: Mutex::default(),
            seen: Mutex::default(),
        });
        let serving = Arc::clone(&standin);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = Arc::clone(&serving);
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        standin
    }

    /// Spoils the next request of `operation`.
    pub(super) fn spoil(&self, operation: &'static str, fault: Fault) {
        self.faults.lock().expect("test").push((operation, fault));
    }

    /// The operations seen since the last time this was asked.
    pub(super) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("test"))
    }

    /// Changes a file behind the client's back: its end is cut off.
    pub(super) fn truncate(&self, path: &str, length: usize) {
        let mut tree = self.tree.lock().expect("test");
        let node = tree.nodes.get_mut(path).expect("there");
        node.content.as_mut().expect("a file").truncate(length);
        node.modified += 1;
    }

    /// What a deep listing shows: files, and empty directories as `name/`.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        let tree = self.tree.lock().expect("test");
        let shown = tree.nodes.iter().filter_map(|(path, node)| match node.content {
            Some(_) => Some(path[1..].to_owned()),
            None => (tree.below(path).next().is_none()).then(|| format!("{}/", &path[1..])),
        });
        shown.filter(|key| !key.starts_with(super::path::OWN_DIRECTORY)).collect()
    }

    /// All paths, in byte order.
    pub(super) fn paths(&self) -> Vec<String> {
        self.tree.lock().expect("test").nodes.keys().cloned().collect()
    }

    async fn serve(&self, mut stream: TcpStream) {
        let Some(request) = read(&mut stream).await else { return };
        let operation = request.get("op").to_owned();
        if request.get("step") != "2" {
            self.seen.lock().expect("test").push(operation.clone());
        }
        let fault = {
            let mut faults = self.faults.lock().expect("test");
            faults.iter().position(|(spoiled, _)| *spoiled == operation).map(|at| faults.remove(at).1)
        };
        let answer = match fault {
            Some(Fault::Dropped) => return,
            Some(Fault::Thrown(class)) => Err((403, class, "told to".to_owned())),
            Some(Fault::Lost) => {
                drop(self.answer(&operation, &request));
                return;
            }
            None if self.is_standby.load(Ordering::Relaxed) => {
                Err((403, "StandbyException", "Operation category READ is not supported".to_owned()))
            }
            None => self.answer(&operation, &request),
        };
        let (status, body, more) = match answer {
            Ok((307, location)) => {
                (307, Vec::new(), format!("Location: {}\r\n", String::from_utf8_lossy(&location)))
            }
            Ok((status, body)) => (status, body, String::new()),
            Err((status, class, message)) => {
                let exception =
                    json!({"exception": class, "javaClassName": format!("x.{class}"), "message": message});
                (status, json!({"RemoteException": exception}).to_string().into_bytes(), String::new())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // A client that hung up needs no answer.
        stream.write_all(&[head.into_bytes(), body].concat()).await.ok();
    }

    fn answer(&self, operation: &str, request: &Request) -> Answer {
        let is_first = request.get("step") != "2";
        if matches!(operation, "CREATE" | "OPEN") && is_first {
            let query: Vec<_> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let path = super::super::path::Root::new("/").directory(&request.path[1..]);
            let path = path.map_or_else(|| request.path.clone(), |path| path.as_str().to_owned());
            let location = format!("{}/webhdfs/v1{path}?{}&step=2", self.endpoint, query.join("&"));
            return Ok((307, location.into_bytes()));
        }
        let mut tree = self.tree.lock().expect("test");
        tree.seems_large = self.seems_large.load(Ordering::Relaxed);
        let path = tree.resolve(&request.path)?;
        match operation {
            "GETFILESTATUS" => tree.status(&path, "").map(|status| shown(&json!({"FileStatus": status}))),
            "LISTSTATUS_BATCH" => tree.list(&path, request.get("startAfter")),
            "MKDIRS" => tree.make(&path).map(|()| boolean(true)),
            "CREATE" => tree.create(&path, request.body.clone()),
            "OPEN" => tree.open(&path, request),
            "RENAME" => tree.rename(&path, request),
            "DELETE" => tree.delete(&path, request.get("recursive") == "true"),
            "SETXATTR" => tree.set_xattr(&path, request),
            "GETXATTRS" => tree.xattrs(&path),
            _ => Err((400, "IllegalArgumentException", format!("no operation {operation}"))),
        }
    }
}

fn shown(value: &Value) -> (u16, Vec<u8>) {
    (200, value.to_string().into_bytes())
}

fn boolean(value: bool) -> (u16, Vec<u8>) {
    shown(&json!({ "boolean": value }))
}

fn not_found(path: &str) -> (u16, &'static str, String) {
    (404, "FileNotFoundException", format!("File does not exist: {path}"))
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

impl Tree {
    fn resolve(&self, path: &str) -> Result<String, (u16, &'static str, String)> {
        let Some(number) = path.strip_prefix("/.reserved/.inodes/") else { return Ok(path.to_owned()) };
        let found = self.nodes.iter().find(|(_, node)| node.id.to_string() == number);
        found.map(|(path, _)| path.clone()).ok_or_else(|| not_found(path))
    }

    fn node(&self, path: &str) -> Result<&Node, (u16, &'static str, String)> {
        self.nodes.get(path).ok_or_else(|| not_found(path))
    }

    fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        self.nodes.keys().map(String::as_str).filter(move |name| *name != "/" && name.starts_with(&prefix))
    }

    fn status(&self, path: &str, name: &str) -> Result<Value, (u16, &'static str, String)> {
        let node = self.node(path)?;
        let children = self.below(path).filter(|child| parent(child) == path).count();
        Ok(json!({
            "fileId": node.id,
            "modificationTime": node.modified,
            "length": node.content.as_ref().map_or(0, Vec::len),
            "type": if node.content.is_some() { "FILE" } else { "DIRECTORY" },
            "pathSuffix": name,
            "childrenNum": if self.seems_large && children > 0 { 10_000 } else { children },
        }))
    }

    fn list(&self, path: &str, after: &str) -> Answer {
        self.node(path)?;
        let base = if path == "/" { 1 } else { path.len() + 1 };
        let mut names: Vec<&str> =
            self.below(path).filter(|child| parent(child) == path).map(|child| &child[base..]).collect();
        // As HDFS orders them.
        let signed = |name: &str| name.bytes().map(|byte| byte as i8).collect::<Vec<i8>>();
        names.sort_unstable_by_key(|name| signed(name));
        names.retain(|name| after.is_empty() || signed(name) > signed(after));
        let shown_names = &names[..names.len().min(BATCH)];
        let mut statuses = Vec::new();
        for name in shown_names {
            statuses.push(self.status(&format!("{}/{name}", path.trim_end_matches('/')), name)?);
        }
        let listing = json!({
            "partialListing": {"FileStatuses": {"FileStatus": statuses}},
            "remainingEntries": names.len() - shown_names.len(),
        });
        Ok(shown(&json!({"DirectoryListing": listing})))
    }

    fn insert(&mut self, path: &str, content: Option<Vec<u8>>) {
        self.last += 1;
        let node = Node { id: self.last, modified: self.last, content, xattrs: Vec::new() };
        self.nodes.insert(path.to_owned(), node);
    }

    fn make(&mut self, path: &str) -> Result<(), (u16, &'static str, String)> {
        match self.nodes.get(path) {
            Some(node) if node.content.is_some() => {
                Err((403, "FileAlreadyExistsException", format!("Path is not a directory: {path}")))
            }
            Some(_) => Ok(()),
            None => {
                self.check_parents(path)?;
                self.make(parent(path))?;
                self.insert(path, None);
                Ok(())
            }
        }
    }

    fn check_parents(&self, path: &str) -> Result<(), (u16, &'static str, String)> {
        let mut above = path;
        while above != "/" {
            above = parent(above);
            if self.nodes.get(above).is_some_and(|node| node.content.is_some()) {
                return Err((403, "ParentNotDirectoryException", format!("{above} (is not a directory)")));
            }
        }
        Ok(())
    }

    fn create(&mut self, path: &str, body: Vec<u8>) -> Answer {
        if self.nodes.contains_key(path) {
            return Err((403, "FileAlreadyExistsException", path.to_owned()));
        }
        self.make(parent(path))?;
        self.insert(path, Some(body));
        Ok((201, Vec::new()))
    }

    fn open(&self, path: &str, request: &Request) -> Answer {
        let content = self.node(path)?.content.as_ref().ok_or_else(|| not_found(path))?;
        let number = |name| request.get(name).parse::<usize>().expect("a number");
        let (offset, length) = (number("offset"), number("length"));
        if offset >= content.len() {
            let message = format!("Offset={offset} out of the range [0, {})", content.len());
            return Err((403, "IOException", message));
        }
        Ok((200, content[offset..content.len().min(offset + length)].to_vec()))
    }

    fn rename(&mut self, from: &str, request: &Request) -> Answer {
        let to = request.get("destination").to_owned();
        let source = self.node(from)?.clone();
        if to.contains(':') {
            return Err((400, "InvalidPathException", to));
        }
        self.check_parents(&to)?;
        self.node(parent(&to))?;
        if let Some(target) = self.nodes.get(&to) {
            if request.get("renameoptions") != "OVERWRITE" {
                return Err((403, "FileAlreadyExistsException", to));
            }
            if target.content.is_some() != source.content.is_some() {
                return Err((403, "IOException", "must both be directories".to_owned()));
            }
            if self.below(&to).next().is_some() {
                return Err((403, "IOException", "rename destination directory is not empty".to_owned()));
            }
        }
        let names: Vec<String> = self.below(from).map(str::to_owned).chain([from.to_owned()]).collect();
        for name in names {
            let node = self.nodes.remove(&name).expect("just listed");
            self.nodes.insert(format!("{to}{}", &name[from.len()..]), node);
        }
        Ok((200, Vec::new()))
    }

    fn delete(&mut self, path: &str, is_recursive: bool) -> Answer {
        if !self.nodes.contains_key(path) {
            return Ok(boolean(false));
        }
        let below: Vec<String> = self.below(path).map(str::to_owned).collect();
        if !is_recursive && !below.is_empty() {
            return Err((403, "PathIsNotEmptyDirectoryException", path.to_owned()));
        }
        self.nodes.retain(|name, _| name != path && !below.contains(name));
        Ok(boolean(true))
    }

    fn set_xattr(&mut self, path: &str, request: &Request) -> Answer {
        let node = self.nodes.get_mut(path).ok_or_else(|| not_found(path))?;
        node.xattrs.push((request.get("xattr.name").to_owned(), request.get("xattr.value").to_owned()));
        Ok((200, Vec::new()))
    }

    fn xattrs(&self, path: &str) -> Answer {
        let xattrs = self.node(path)?.xattrs.iter();
        let xattrs: Vec<_> = xattrs.map(|(name, value)| json!({"name": name, "value": value})).collect();
        Ok(shown(&json!({ "XAttrs": xattrs })))
    }
}

/// One request; `None` when the client hung up.
async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).expect("ASCII");
    let length = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = bytes.split_off(head + 4);
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    if text.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        body = unchunked(&body);
    }
    let mut words = text.split(' ');
    let target = words.nth(1)?;
    let (path, query) = target.strip_prefix("/webhdfs/v1")?.split_once('?')?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned();
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    Some(Request { path: decoded(path), query, body })
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.iter().position(|byte| *byte == b'\r') {
        let len = std::str::from_utf8(&body[..end]).ok().and_then(|len| usize::from_str_radix(len, 16).ok());
        let chunk = &body[end + 2..][..len.expect("a length")];
        content.extend_from_slice(chunk);
        body = &body[end + 2 + chunk.len() + 2..];
    }
    content
}
