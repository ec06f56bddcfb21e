//! The `mounts` section: a path for each store, with the options of its kind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_actors::config::{
    MountConfig, MountLimits, ObjectStoreConfig, Quirks, Revalidate, S3StoreConfig, StoreConfig,
};
use forebay_core::{NsPath, Secret};

use super::environment;
use super::gateway;
use super::reader::{Parse, Section};
use super::store::{self, StoreKind, slash_ended};
use super::yaml::Value;

impl Parse for Revalidate {
    const EXPECTED: &'static str = "`always`, `never` or a duration such as 1s";
    const EXAMPLE: &'static str = "1s";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            text => Duration::parse(text).map(Self::After),
        }
    }
}

pub(super) fn read(root: &Section<'_>, base: &Path, defaults: &MountLimits) -> Vec<MountConfig> {
    let Some(node) = root.node("mounts") else {
        root.problem(
            "mounts",
            "there are no `mounts`; write at least one, for example `/data: {store: memory}`",
        );
        return Vec::new();
    };
    let Value::Mapping(entries) = &node.value else {
        root.problem(
            "mounts",
            format!("`mounts` must be a section of `/path: {{…}}` lines, not {}", node.noun()),
        );
        return Vec::new();
    };
    // Reports duplicate paths.
    drop(root.reader.section(node, "mounts"));
    let mut mounts = Vec::new();
    for (path, at, node) in entries {
        let checked = match check_path(path) {
            Ok(path) => Some(path),
            Err(message) => {
                root.reader.problem(at, message);
                None
            }
        };
        let section = root.reader.section(node, path);
        let mount = read_mount(&section, base, defaults);
        section.finish();
        mounts.extend(checked.zip(mount).map(|(path, mount)| MountConfig { path, ..mount }));
    }
    mounts
}

/// A mount's path: its first segment is an S3 bucket, so it must be a legal bucket name.
///
/// Source: "Bucket naming rules" of the Amazon S3 user guide.
fn check_path(path: &str) -> Result<NsPath, String> {
    let path =
        NsPath::parse(path).map_err(|e| format!("`{path}` cannot be a mount's path: {e}; write `/name`"))?;
    let Some(bucket) = path.first() else { return Ok(path) };
    let is_edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = bucket.as_bytes();
    let is_legal = (3..=63).contains(&bytes.len())
        && bytes.iter().all(|&c| is_edge(c) || c == b'-' || c == b'.')
        && is_edge(bytes[0])
        && is_edge(bytes[bytes.len() - 1])
        && !bucket.contains("..")
        && bucket.parse::<std::net::Ipv4Addr>().is_err();
    if is_legal {
        return Ok(path);
    }
    Err(format!(
        "`{bucket}` is no legal S3 bucket name; write 3 to 63 lower-case letters, digits, `-` or `.`, \
         beginning and ending with a letter or digit"
    ))
}

fn read_mount(section: &Section<'_>, base: &Path, defaults: &MountLimits) -> Option<MountConfig> {
    let kind: Option<StoreKind> = section.required("store");
    let store = if let Some(kind) = kind {
        store::read(section, kind, base)
    } else {
        // Known, even if it cannot be read without its kind.
        section.node("options");
        None
    };
    let revalidate = section.section("cache").map(|cache| {
        let revalidate = cache.value("revalidate", Revalidate::After(Duration::from_secs(1)));
        cache.finish();
        revalidate
    });
    Some(MountConfig {
        path: NsPath::root(),
        read_only: section.value("read_only", false),
        revalidate: revalidate.unwrap_or(Revalidate::After(Duration::from_secs(1))),
        limits: gateway::limits(section.section("limits"), defaults),
        quirks: quirks(section.section("quirks")),
        store: store?,
    })
}

/// What the operator knows better than the probes.
fn quirks(section: Option<Section<'_>>) -> Quirks {
    let Some(section) = section else { return Quirks::default() };
    let quirks = Quirks {
        conditional_write: section.optional("conditional_write"),
        ordered_list: section.optional("ordered_list"),
    };
    section.finish();
    quirks
}

/// What `forebay mount` is told on its command line.
pub(crate) struct OneMount {
    pub(crate) url: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) read_only: bool,
}

/// The mount of `forebay mount s3://bucket/prefix DIR` (or a local directory), at the namespace's root.
///
/// Credentials come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; without them requests
/// are unsigned.
///
/// # Errors
/// A URL of an unknown kind.
pub(crate) fn one_mount(options: OneMount) -> anyhow::Result<MountConfig> {
    let store = if let Some(rest) = options.url.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        anyhow::ensure!(!bucket.is_empty(), "{}: write s3://BUCKET/PREFIX", options.url);
        let secret = environment("AWS_SECRET_ACCESS_KEY").map(Secret::new);
        StoreConfig::Object(ObjectStoreConfig::S3(S3StoreConfig {
            bucket: bucket.to_owned(),
            prefix: slash_ended(prefix.to_owned()),
            endpoint: options.endpoint.or_else(|| environment("AWS_ENDPOINT_URL")),
            region: options
                .region
                .or_else(|| environment("AWS_REGION"))
                .unwrap_or_else(|| "us-east-1".to_owned()),
            credentials: environment("AWS_ACCESS_KEY_ID").zip(secret),
            session_token: environment("AWS_SESSION_TOKEN").map(Secret::new),
            is_virtual_host_style: false,
        }))
    } else if let Some(root) = options.url.strip_prefix("file://") {
        StoreConfig::Fs { root: PathBuf::from(root) }
    } else {
        anyhow::bail!("{}: write s3://BUCKET/PREFIX or file:///DIRECTORY", options.url);
    };
    Ok(MountConfig {
        path: NsPath::root(),
        store,
        read_only: options.read_only,
        revalidate: Revalidate::After(Duration::from_secs(1)),
        limits: MountLimits::default(),
        quirks: Quirks::default(),
    })
}
