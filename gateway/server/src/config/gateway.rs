//! The `gateway` section: listeners, cache, limits, shutdown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_actors::config::{CacheConfig, MountLimits, NvmeConfig};
use forebay_core::Access;
use forebay_webhdfs::ColonPolicy;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::reader::{Bytes, Parse, Section};
use super::{access, cache, rooted};

/// Everything that is not a mount.
#[derive(Clone, Debug)]
pub(crate) struct GatewayConfig {
    /// Where cache, staging and state lie.
    pub(crate) var: PathBuf,
    pub(crate) s3: Option<S3Options>,
    pub(crate) webhdfs: Option<WebHdfsOptions>,
    pub(crate) admin: Option<HttpListener>,
    pub(crate) fuse: Option<FuseOptions>,
    pub(crate) cache: CacheConfig,
    /// Defaults of each mount's limits.
    pub(crate) limits: MountLimits,
    /// Longest time from SIGTERM to exit.
    pub(crate) shutdown_deadline: Duration,
}

/// Where an HTTP listener listens, and with which certificate.
#[derive(Clone, Debug)]
pub(crate) struct HttpListener {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

/// The S3 listener.
#[derive(Clone, Debug)]
pub(crate) struct S3Options {
    pub(crate) http: HttpListener,
    pub(crate) region: String,
    pub(crate) domain: Option<String>,
}

impl Parse for ColonPolicy {
    const EXPECTED: &'static str = "`show` or `hide`";
    const EXAMPLE: &'static str = "show";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "show" => Some(Self::Show),
            "hide" => Some(Self::Hide),
            _ => None,
        }
    }
}

/// The `WebHDFS` listener.
#[derive(Clone, Debug)]
pub(crate) struct WebHdfsOptions {
    pub(crate) http: HttpListener,
    pub(crate) advertised: Option<String>,
    pub(crate) colon: ColonPolicy,
}

/// The FUSE mount.
#[derive(Clone, Debug)]
pub(crate) struct FuseOptions {
    pub(crate) mountpoint: PathBuf,
    pub(crate) allow_other: bool,
    pub(crate) attr_ttl: Duration,
    pub(crate) passthrough: bool,
}

impl GatewayConfig {
    /// A gateway that serves nothing but one FUSE mount.
    pub(crate) fn for_one_mount(var: &Path, mountpoint: PathBuf, cache_gib: u64, allow_other: bool) -> Self {
        let mut config = Self::defaults(var.to_owned());
        config.cache.nvme = Some(default_nvme(var, cache_gib << 30));
        let attr_ttl = Duration::from_secs(1);
        config.fuse = Some(FuseOptions { mountpoint, allow_other, attr_ttl, passthrough: true });
        config
    }

    fn defaults(var: PathBuf) -> Self {
        Self {
            s3: None,
            webhdfs: None,
            admin: None,
            fuse: None,
            cache: CacheConfig {
                memory_bytes: 256 << 20,
                nvme: Some(default_nvme(&var, 4 << 30)),
                high_percent: 95,
                low_percent: 90,
            },
            limits: MountLimits::default(),
            shutdown_deadline: Duration::from_secs(30),
            var,
        }
    }
}

fn default_nvme(var: &Path, size_bytes: u64) -> NvmeConfig {
    NvmeConfig::in_one(var.join("cache"), size_bytes, 64 << 10)
}

pub(super) fn read(section: Option<Section<'_>>, base: &Path) -> (GatewayConfig, Access) {
    let var = section.as_ref().map_or_else(|| PathBuf::from("var"), |s| s.value("var", PathBuf::from("var")));
    let var = rooted(base, var);
    let mut config = GatewayConfig::defaults(var);
    let Some(section) = section else { return (config, Access::default()) };
    let access = access::read(&section);
    if let Some(listeners) = section.section("listeners") {
        read_listeners(&mut config, &listeners, base, &access);
        listeners.finish();
    }
    cache::read(&mut config.cache, section.section("cache"), base);
    config.limits = limits(section.section("limits"), &config.limits);
    if let Some(shutdown) = section.section("shutdown") {
        config.shutdown_deadline = shutdown.value("deadline", config.shutdown_deadline);
        shutdown.finish();
    }
    section.finish();
    (config, access)
}

fn read_listeners(config: &mut GatewayConfig, listeners: &Section<'_>, base: &Path, access: &Access) {
    config.s3 = listeners.section("s3").and_then(|s| {
        let options = S3Options {
            region: s.value("region", "us-east-1".to_owned()),
            domain: s.optional("domain"),
            http: http(&s, base, "127.0.0.1:9000")?,
        };
        s.finish();
        Some(options)
    });
    config.webhdfs = listeners.section("webhdfs").and_then(|s| {
        let options = WebHdfsOptions {
            advertised: s.optional("advertised"),
            colon: s.value("colon", ColonPolicy::default()),
            http: http(&s, base, "127.0.0.1:9870")?,
        };
        if !options.http.listen.ip().is_loopback() && !access.webhdfs_needs_token() {
            s.problem(
                "listen",
                "without a token for each user in `access`, WebHDFS listens on loopback only",
            );
        }
        s.finish();
        Some(options)
    });
    config.admin = listeners.section("admin").and_then(|s| {
        let listener = http(&s, base, "127.0.0.1:9080")?;
        if !listener.listen.ip().is_loopback() && !access.has_admin_token() {
            s.problem(
                "listen",
                "without `admin: {token: …}` in `access`, the admin API listens on loopback only",
            );
        }
        s.finish();
        Some(listener)
    });
    config.fuse = listeners.section("fuse").and_then(|s| {
        let mountpoint = rooted(base, s.required("mountpoint")?);
        let options = FuseOptions {
            mountpoint,
            allow_other: s.value("allow_other", false),
            attr_ttl: s.value("attr_ttl", Duration::from_secs(1)),
            passthrough: s.value("passthrough", true),
        };
        s.finish();
        Some(options)
    });
}

fn http(section: &Section<'_>, base: &Path, usual: &str) -> Option<HttpListener> {
    let listen = section.required_such_as("listen", usual);
    let tls = section.section("tls").map(|tls| {
        let files = tls.required::<PathBuf>("cert").zip(tls.required::<PathBuf>("key"));
        let loaded = files.map(|(cert, key)| server_tls(&rooted(base, cert), &rooted(base, key)));
        let config = match loaded {
            Some(Ok(config)) => Some(config),
            Some(Err(message)) => {
                tls.problem("cert", message);
                None
            }
            None => None,
        };
        tls.finish();
        config
    });
    match tls {
        None => Some(HttpListener { listen: listen?, tls: None }),
        Some(tls) => Some(HttpListener { listen: listen?, tls: Some(tls?) }),
    }
}

fn server_tls(cert: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, String> {
    let named = |file: &Path, e: &dyn std::fmt::Display| format!("cannot use {}: {e}", file.display());
    let chain = CertificateDer::pem_file_iter(cert).map_err(|e| named(cert, &e))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| named(cert, &e))?;
    if chain.is_empty() {
        return Err(named(cert, &"it holds no certificate"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| named(cert, &e))?;
    Ok(Arc::new(config))
}

pub(super) fn limits(section: Option<Section<'_>>, defaults: &MountLimits) -> MountLimits {
    let Some(section) = section else { return defaults.clone() };
    let (read_bandwidth, write_bandwidth) = bandwidth(section.section("bandwidth"), defaults);
    let limits = MountLimits {
        operations: section.value("operations", defaults.operations as u64) as usize,
        bytes_in_flight: section.value("bytes_in_flight", Bytes(defaults.bytes_in_flight)).0,
        read_bandwidth,
        write_bandwidth,
        queue_deadline: section.value("queue_deadline", defaults.queue_deadline),
        request_deadline: section.value("request_deadline", defaults.request_deadline),
        stall_window: section.value("stall_window", defaults.stall_window),
        stall_bytes: section.value("stall_bytes", Bytes(defaults.stall_bytes)).0,
        attempts: section.value("attempts", defaults.attempts as u64) as usize,
        retry_percent: section.value("retry_percent", u64::from(defaults.retry_percent)).min(100) as u8,
        hedge: section.value("hedge", defaults.hedge),
        staging_bytes: section.value("staging", Bytes(defaults.staging_bytes)).0,
        upload_age: section.value("upload_age", defaults.upload_age),
    };
    let at_least_one = [
        ("operations", limits.operations == 0),
        ("attempts", limits.attempts == 0),
        ("bytes_in_flight", limits.bytes_in_flight == 0),
        ("stall_window", limits.stall_window.is_zero()),
        ("upload_age", limits.upload_age.is_zero()),
    ];
    for (key, _) in at_least_one.into_iter().filter(|(_, is_zero)| *is_zero) {
        section.problem(key, format!("`{key}` must be more than nothing"));
    }
    section.finish();
    limits
}

/// Bytes per second from and to the store.
fn bandwidth(section: Option<Section<'_>>, defaults: &MountLimits) -> (Option<u64>, Option<u64>) {
    let Some(section) = section else { return (defaults.read_bandwidth, defaults.write_bandwidth) };
    let rate = |key, default| match section.optional(key) {
        Some(Bytes(0)) => {
            section.problem(
                key,
                format!("`{key}` is bytes per second, for example 200MB; leave it out for no limit"),
            );
            None
        }
        Some(Bytes(rate)) => Some(rate),
        None => default,
    };
    let rates = (rate("read", defaults.read_bandwidth), rate("write", defaults.write_bandwidth));
    section.finish();
    rates
}
