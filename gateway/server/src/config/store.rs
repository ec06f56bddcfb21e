//! The `store` and `options` of a mount: one function for each kind of store.

use std::path::{Path, PathBuf};

use forebay_actors::config::{
    AzblobCredential, AzblobStoreConfig, CosStoreConfig, GcsCredential, GcsStoreConfig, HttpCredential,
    HttpStoreConfig, ObjectStoreConfig, OssStoreConfig, S3StoreConfig, StoreConfig,
};
use forebay_core::Secret;

use super::reader::{Bytes, Parse, Section};
use super::yaml::{Node, Value};
use super::{hdfs, rooted};

/// Kinds of store that `store` may name.
#[derive(Clone, Copy)]
pub(super) enum StoreKind {
    Fs,
    Memory,
    S3,
    Gcs,
    Azblob,
    Oss,
    Cos,
    Http,
    Hdfs,
}

impl Parse for StoreKind {
    const EXPECTED: &'static str = "one of fs, memory, s3, gcs, azblob, oss, cos, http, hdfs";
    const EXAMPLE: &'static str = "fs";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "fs" => Some(Self::Fs),
            "memory" => Some(Self::Memory),
            "s3" => Some(Self::S3),
            "gcs" => Some(Self::Gcs),
            "azblob" => Some(Self::Azblob),
            "oss" => Some(Self::Oss),
            "cos" => Some(Self::Cos),
            "http" => Some(Self::Http),
            "hdfs" => Some(Self::Hdfs),
            _ => None,
        }
    }
}

impl StoreKind {
    /// Options to show where all are missing.
    fn example(self) -> &'static str {
        match self {
            Self::Fs => "root: /path",
            Self::Memory => "size: 1GiB",
            Self::S3 => "bucket: NAME, region: REGION, …",
            Self::Gcs => "bucket: NAME, credential_path: /path/key.json",
            Self::Azblob => {
                "container: NAME, endpoint: https://ACCOUNT.blob.core.windows.net, account_key: …"
            }
            Self::Oss => "bucket: NAME, endpoint: https://oss-REGION.aliyuncs.com, …",
            Self::Cos => "bucket: NAME-APPID, endpoint: https://cos.REGION.myqcloud.com, …",
            Self::Http => "endpoint: https://HOST/PATH",
            Self::Hdfs => "endpoints: [http://namenode:9870], …",
        }
    }
}

/// The store of a mount; problems go to the reader.
pub(super) fn read(section: &Section<'_>, kind: StoreKind, base: &Path) -> Option<StoreConfig> {
    let Some(options) = section.section("options") else {
        if matches!(kind, StoreKind::Memory) {
            return Some(StoreConfig::Memory { size_bytes: 1 << 30 });
        }
        section.problem("options", format!("`options` is missing; write `options: {{{}}}`", kind.example()));
        return None;
    };
    let object = |store: Option<ObjectStoreConfig>| store.map(StoreConfig::Object);
    let store = match kind {
        StoreKind::Fs => options.required("root").map(|root| StoreConfig::Fs { root: rooted(base, root) }),
        StoreKind::Memory => {
            Some(StoreConfig::Memory { size_bytes: options.value("size", Bytes(1 << 30)).0 })
        }
        StoreKind::S3 => object(s3(&options).map(ObjectStoreConfig::S3)),
        StoreKind::Gcs => object(gcs(&options, base).map(ObjectStoreConfig::Gcs)),
        StoreKind::Azblob => object(azblob(&options).map(ObjectStoreConfig::Azblob)),
        StoreKind::Oss => object(oss(&options).map(ObjectStoreConfig::Oss)),
        StoreKind::Cos => object(cos(&options).map(ObjectStoreConfig::Cos)),
        StoreKind::Http => object(http(&options).map(ObjectStoreConfig::Http)),
        StoreKind::Hdfs => hdfs::read(&options).map(StoreConfig::Hdfs),
    };
    options.finish();
    store
}

fn s3(options: &Section<'_>) -> Option<S3StoreConfig> {
    let bucket = options.required("bucket");
    let region = options.required("region");
    let credentials = key_pair(options, "access_key_id", "secret_access_key");
    Some(S3StoreConfig {
        prefix: prefix(options),
        endpoint: optional_url(options),
        session_token: options.optional("session_token"),
        is_virtual_host_style: options.value("virtual_host_style", false),
        bucket: bucket?,
        region: region?,
        credentials,
    })
}

fn gcs(options: &Section<'_>, base: &Path) -> Option<GcsStoreConfig> {
    let bucket = options.required("bucket");
    let token = options.optional::<Secret>("token").map(GcsCredential::Token);
    let key = options.optional::<Secret>("credential").map(GcsCredential::Key);
    let file = options.optional::<PathBuf>("credential_path");
    let file = file.map(|path| GcsCredential::File(rooted(base, path)));
    let machine = options.value("vm_metadata", false).then_some(GcsCredential::VmMetadata);
    let unsigned = options.value("skip_signature", false).then_some(GcsCredential::Unsigned);
    let ways = "`credential_path`, `credential`, `token`, `vm_metadata: true` or `skip_signature: true`";
    let credential = one_of(
        options,
        [
            ("token", token),
            ("credential", key),
            ("credential_path", file),
            ("vm_metadata", machine),
            ("skip_signature", unsigned),
        ],
        ways,
    );
    Some(GcsStoreConfig {
        prefix: prefix(options),
        endpoint: optional_url(options),
        storage_class: options.optional("storage_class"),
        bucket: bucket?,
        credential: credential?,
    })
}

fn azblob(options: &Section<'_>) -> Option<AzblobStoreConfig> {
    let container = options.required("container");
    let endpoint = url(options, "https://ACCOUNT.blob.core.windows.net");
    let account = options.optional::<String>("account_name");
    let key = options.optional::<Secret>("account_key");
    if options.node("account_name").is_some() != options.node("account_key").is_some() {
        options.problem("account_key", "write `account_name` and `account_key` together");
    }
    let key = account.zip(key).map(|(account, key)| AzblobCredential::Key { account, key });
    let sas = options.optional::<Secret>("sas_token").map(AzblobCredential::Sas);
    let identity = options.value("identity", false).then_some(AzblobCredential::Identity);
    let unsigned = options.value("skip_signature", false).then_some(AzblobCredential::Unsigned);
    let ways = "`account_name` with `account_key`, `sas_token`, `identity: true` or `skip_signature: true`";
    let credential = one_of(
        options,
        [("account_key", key), ("sas_token", sas), ("identity", identity), ("skip_signature", unsigned)],
        ways,
    );
    Some(AzblobStoreConfig {
        prefix: prefix(options),
        container: container?,
        endpoint: endpoint?,
        credential: credential?,
    })
}

fn oss(options: &Section<'_>) -> Option<OssStoreConfig> {
    let bucket = options.required("bucket");
    let endpoint = url(options, "https://oss-REGION.aliyuncs.com");
    let credentials = key_pair(options, "access_key_id", "access_key_secret");
    Some(OssStoreConfig {
        prefix: prefix(options),
        security_token: options.optional("security_token"),
        is_path_style: options.value("path_style", false),
        bucket: bucket?,
        endpoint: endpoint?,
        credentials,
    })
}

fn cos(options: &Section<'_>) -> Option<CosStoreConfig> {
    let bucket = options.required("bucket");
    let endpoint = url(options, "https://cos.REGION.myqcloud.com");
    let credentials = options.required("secret_id").zip(options.required("secret_key"));
    Some(CosStoreConfig {
        prefix: prefix(options),
        security_token: options.optional("security_token"),
        bucket: bucket?,
        endpoint: endpoint?,
        credentials: credentials?,
    })
}

fn http(options: &Section<'_>) -> Option<HttpStoreConfig> {
    let endpoint = url(options, "https://HOST/PATH");
    let username = options.optional::<String>("username");
    let password = options.optional::<Secret>("password");
    let token = options.optional::<Secret>("token");
    let [has_name, has_password, has_token] =
        ["username", "password", "token"].map(|key| options.node(key).is_some());
    if has_name != has_password || (has_name && has_token) {
        options.problem("username", "write `username` and `password`, or `token` alone, or none of them");
    }
    let credential = match (username.zip(password), token) {
        (Some((username, password)), _) => HttpCredential::Basic { username, password },
        (None, Some(token)) => HttpCredential::Bearer(token),
        (None, None) => HttpCredential::None,
    };
    Some(HttpStoreConfig { endpoint: endpoint?.trim_end_matches('/').to_owned(), credential })
}

/// A key and its secret; `None` for requests that are meant to be unsigned, or after a problem.
fn key_pair(options: &Section<'_>, key: &'static str, secret: &'static str) -> Option<(String, Secret)> {
    let pair = options.optional(key).zip(options.optional(secret));
    let is_unsigned = options.value("skip_signature", false);
    let written = [key, secret].map(|key| options.node(key).is_some());
    if written != [!is_unsigned; 2] {
        options.problem(key, format!("write both `{key}` and `{secret}`, or `skip_signature: true` alone"));
    }
    pair
}

/// The one of several ways to sign in that is written; `ways` are their keys, one each, and what they make.
fn one_of<T, const N: usize>(
    options: &Section<'_>,
    ways: [(&'static str, Option<T>); N],
    names: &str,
) -> Option<T> {
    let is_off = |node: &Node| matches!(&node.value, Value::Scalar { text, .. } if text == "false");
    let is_written = |key: &'static str, way: &Option<T>| {
        way.is_some() || options.node(key).is_some_and(|node| !is_off(node))
    };
    if ways.iter().filter(|(key, way)| is_written(key, way)).count() != 1 {
        options.reader.problem(options.node, format!("write exactly one of {names}"));
    }
    ways.into_iter().find_map(|(_, way)| way)
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn url(options: &Section<'_>, example: &str) -> Option<String> {
    let url: Option<String> = options.required("endpoint");
    if url.as_deref().is_some_and(|url| !is_url(url)) {
        options.problem("endpoint", format!("`endpoint` must be a URL such as {example}"));
        return None;
    }
    url
}

fn optional_url(options: &Section<'_>) -> Option<String> {
    options.node("endpoint").and_then(|_| url(options, "https://storage.example.com"))
}

/// What is put before each key; empty or ending in `/`.
fn prefix(options: &Section<'_>) -> String {
    let prefix: String = options.value("prefix", String::new());
    if prefix.starts_with('/') || prefix.contains("//") {
        options.problem(
            "prefix",
            "`prefix` must be a key such as `team/data/`, without a leading or double slash",
        );
    }
    slash_ended(prefix)
}

fn slash_ended(prefix: String) -> String {
    if prefix.is_empty() || prefix.ends_with('/') { prefix } else { format!("{prefix}/") }
}
