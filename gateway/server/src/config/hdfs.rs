//! Options of an HDFS store.

use forebay_actors::config::HdfsStoreConfig;
use forebay_core::NsPath;

use super::reader::{Reader, Section};

/// Most NameNodes of one store: the active and its standby.
const ENDPOINTS_MAX: usize = 2;

pub(super) fn read(options: &Section<'_>) -> Option<HdfsStoreConfig> {
    let user = options.optional("user");
    let delegation_token = options.optional("delegation_token");
    if options.node("user").is_some() && options.node("delegation_token").is_some() {
        options.problem("user", "write `user` or `delegation_token`; the token says who asks");
    }
    Some(HdfsStoreConfig {
        root: root(options),
        doas: options.optional("doas"),
        endpoints: endpoints(options)?,
        user,
        delegation_token,
    })
}

/// The NameNodes' URLs: one, or a list of two.
fn endpoints(options: &Section<'_>) -> Option<Vec<String>> {
    let Some(node) = options.node("endpoints") else {
        options.problem("endpoints", "`endpoints` is missing; write `endpoints: [http://namenode:9870]`");
        return None;
    };
    let written = Reader::items(node);
    let read = written.iter().filter_map(|node| options.reader.value::<String>(node, "endpoints"));
    let endpoints: Vec<String> = read.map(|url| url.trim_end_matches('/').to_owned()).collect();
    if endpoints.iter().any(|url| !is_base_url(url)) {
        options.problem("endpoints", "`endpoints` must be URLs without a path such as http://namenode:9870");
        return None;
    }
    if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
        options.problem("endpoints", "`endpoints` must be one NameNode, or an active one and its standby");
        return None;
    }
    (endpoints.len() == written.len()).then_some(endpoints)
}

fn is_base_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']))
}

/// The mounted directory, `/` if none is named.
fn root(options: &Section<'_>) -> String {
    let root: String = options.value("root", "/".to_owned());
    let root = if root == "/" { root } else { root.trim_end_matches('/').to_owned() };
    if NsPath::parse(&root).is_err() || root.contains(':') {
        options.problem("root", "`root` must be an absolute path in HDFS such as /warehouse");
    }
    root
}
