//! The `mounts` section: a path for each store, with the options of its kind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use forebay_actors::cache::{Priority, Rule};
use forebay_actors::config::{Ack, MountConfig, MountLimits, Preload, Quirks, Revalidate, WriteMode};
use forebay_core::NsPath;

use super::environment;
use super::gateway;
use super::problem::Problems;
use super::reader::{Bytes, Parse, Reader, Section};
use super::store::{self, StoreKind};
use super::url;
use super::yaml::{self, Value};

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
    let cache = section.section("cache").map(|cache| {
        let revalidate = cache.value("revalidate", Revalidate::After(Duration::from_secs(1)));
        let (rule, write) = (rule(&cache), write_mode(&cache, kind));
        let (preload, sync_every) = (preload(&cache), sync_every(&cache, kind));
        cache.finish();
        (revalidate, write, rule, (preload, sync_every))
    });
    let trusted = Revalidate::After(Duration::from_secs(1));
    let (revalidate, write, rule, (preload, sync_every)) =
        cache.unwrap_or((trusted, WriteMode::default(), Rule::default(), (None, None)));
    Some(MountConfig {
        path: NsPath::root(),
        read_only: section.value("read_only", false),
        revalidate,
        write,
        rule,
        preload,
        sync_every,
        limits: gateway::limits(section.section("limits"), defaults),
        quirks: quirks(section.section("quirks")),
        store: store?,
    })
}

/// `write: through`, `around` or `back`, the last with what it waits for.
fn write_mode(cache: &Section<'_>, store: Option<StoreKind>) -> WriteMode {
    let ack = cache.optional::<Ack>("ack");
    let mode = match cache.optional("write") {
        Some(WriteMode::Back(default)) => WriteMode::Back(ack.unwrap_or(default)),
        mode => {
            if ack.is_some() {
                cache.problem(
                    "ack",
                    "`ack` says what `write: back` waits for; write that, too, or leave `ack` out",
                );
            }
            mode.unwrap_or_default()
        }
    };
    if let (WriteMode::Back(_), Some(StoreKind::Fs | StoreKind::Http)) = (mode, store) {
        let message = "`write: back` is for object stores and HDFS; leave it out: local directories need none, and \
                       web servers take no writes";
        cache.problem("write", message);
    }
    mode
}

impl Parse for WriteMode {
    const EXPECTED: &'static str = "`through`, `around` or `back`";
    const EXAMPLE: &'static str = "through";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "through" => Some(Self::Through),
            "around" => Some(Self::Around),
            "back" => Some(Self::Back(Ack::default())),
            _ => None,
        }
    }
}

impl Parse for Ack {
    const EXPECTED: &'static str = "`uploaded`, `nvme-fsync` or `nvme`";
    const EXAMPLE: &'static str = "nvme-fsync";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "uploaded" => Some(Self::Uploaded),
            "nvme-fsync" => Some(Self::NvmeFsync),
            "nvme" => Some(Self::Nvme),
            _ => None,
        }
    }
}

/// How the mount's content is treated in the cache.
fn rule(cache: &Section<'_>) -> Rule {
    Rule {
        pin: cache.optional("pin"),
        epoch: cache.optional("epoch").and_then(|Epoch(is_data_set)| is_data_set),
        ttl_ms: cache.optional("ttl").map(|ttl: Duration| ttl.as_millis() as u64),
        quota_bytes: cache.optional("quota").map(|Bytes(bytes)| bytes),
        priority: cache.optional("priority"),
        // The mount's own is its `revalidate`.
        revalidate: None,
    }
}

/// Whether a mount is a data set, or `None` where the way it is read decides.
struct Epoch(Option<bool>);

impl Parse for Epoch {
    const EXPECTED: &'static str = "`auto`, `true` or `false`";
    const EXAMPLE: &'static str = "auto";
    fn parse(text: &str) -> Option<Self> {
        Some(Self(if text == "auto" { None } else { Some(bool::parse(text)?) }))
    }
}

/// When the mount is loaded: `true`, `{every: 1h}` or `{at: "02:30"}`.
fn preload(cache: &Section<'_>) -> Option<Preload> {
    if let Value::Mapping(_) = cache.node("preload")?.value {
        let section = cache.section("preload")?;
        let (every, at) = (section.optional("every"), section.optional("at"));
        let has_one = section.node("every").is_some() != section.node("at").is_some();
        if !has_one {
            section.problem("at", "write `{every: 24h}`, or `{at: \"02:30\"}` for a time of day in UTC");
        }
        section.finish();
        return every.map(Preload::Every).or(at.map(|TimeOfDay(at)| Preload::Daily(at)));
    }
    cache.optional("preload").filter(|is_wanted: &bool| *is_wanted).map(|_| Preload::Once)
}

/// A time of day, as what has passed since midnight.
struct TimeOfDay(Duration);

impl Parse for TimeOfDay {
    const EXPECTED: &'static str = "a time of day such as \"02:30\", in UTC";
    const EXAMPLE: &'static str = "\"02:30\"";
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|_| text.len() == 2);
        let (hours, minutes) = text.split_once(':')?;
        let (hours, minutes): (u64, u64) = (number(hours)?, number(minutes)?);
        (hours < 24 && minutes < 60).then(|| Self(Duration::from_secs((hours * 60 + minutes) * 60)))
    }
}

/// `sync: {every: 1h}`: how often what is known of the mount is compared with its store.
fn sync_every(cache: &Section<'_>, store: Option<StoreKind>) -> Option<Duration> {
    let section = cache.section("sync")?;
    let every = section.required("every").filter(|every: &Duration| {
        if every.is_zero() {
            section.problem("every", "`every` must be more than nothing");
        }
        !every.is_zero()
    });
    section.finish();
    if matches!(store, Some(StoreKind::Fs)) {
        cache.problem(
            "sync",
            "`sync` is for stores elsewhere; leave it out: what changes in a local directory is seen at once",
        );
    }
    every
}

impl Parse for Priority {
    const EXPECTED: &'static str = "`low`, `normal` or `high`";
    const EXAMPLE: &'static str = "high";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "low" => Some(Self::Low),
            "normal" => Some(Self::Normal),
            "high" => Some(Self::High),
            _ => None,
        }
    }
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
    /// Options of the store, as in the configuration file.
    pub(crate) options: Vec<(String, String)>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) read_only: bool,
}

/// The mount of `forebay mount URL DIR`, at the namespace's root: read like an entry of the configuration file.
///
/// What an S3 store is not told comes from `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; without keys requests are unsigned.
///
/// # Errors
/// A URL of an unknown kind; everything that is wrong with the options.
pub(crate) fn one_mount(mount: OneMount) -> anyhow::Result<MountConfig> {
    let location = url::locate(&mount.url).map_err(anyhow::Error::msg)?;
    let mut options: BTreeMap<String, String> =
        location.options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let flags = [("endpoint", mount.endpoint), ("region", mount.region)];
    options.extend(flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    options.extend(mount.options);
    if location.store == "s3" {
        from_aws_environment(&mut options);
    }
    let entry =
        serde_json::json!({ "store": location.store, "options": options, "read_only": mount.read_only });
    let place = Path::new("command line");
    let root = yaml::parse(place, &entry.to_string()).map_err(|problem| Problems(vec![problem]))?;
    let reader = Reader::new(place);
    let section = reader.section(&root, "");
    let read = read_mount(&section, Path::new("."), &MountLimits::default());
    section.finish();
    let problems = reader.into_problems();
    match read.filter(|_| problems.is_empty()) {
        Some(mount) => Ok(mount),
        None => Err(Problems(problems).into()),
    }
}

/// Adds what other S3 tools take from the environment.
fn from_aws_environment(options: &mut BTreeMap<String, String>) {
    let mut default = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            options.entry(key.to_owned()).or_insert(value);
        }
    };
    default("endpoint", environment("AWS_ENDPOINT_URL"));
    default("region", Some(environment("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned())));
    let keys = environment("AWS_ACCESS_KEY_ID").zip(environment("AWS_SECRET_ACCESS_KEY"));
    let is_signed = options.contains_key("access_key_id") || options.contains_key("skip_signature");
    let own = match keys {
        _ if is_signed => return,
        None => vec![("skip_signature", Some("true".to_owned()))],
        Some((id, secret)) => vec![
            ("access_key_id", Some(id)),
            ("secret_access_key", Some(secret)),
            ("session_token", environment("AWS_SESSION_TOKEN")),
        ],
    };
    options.extend(own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
}
