//! From the options of a mount to the dialect and service of its store.
//!
//! Nothing is taken from the environment or from configuration files of other tools, except where the options say
//! that the machine's own identity is meant.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forebay_core::{Error, ErrorKind, Result};
use opendal::Builder;
use opendal::raw::Servicer;
use opendal::services::{Azblob, Cos, Gcs, Http, Oss, S3};
use reqwest::Url;

use super::dialect::{Dialect, Listing, MetadataNames, Revision};
use super::index::Index;
use crate::config::{
    AzblobCredential, AzblobStoreConfig, CosStoreConfig, GcsCredential, GcsStoreConfig, HttpCredential,
    HttpStoreConfig, ObjectStoreConfig, OssStoreConfig, S3StoreConfig,
};

/// Longest key of all these stores but HTTP servers.
const KEY_BYTES_MAX: usize = 1024;

fn built(builder: impl Builder) -> Result<Servicer> {
    let service = builder.build().map_err(|e| Error::new(ErrorKind::InvalidArgument, e.message()))?;
    Ok(Arc::new(service))
}

/// What most stores have in common; `place` is the bucket's address.
fn usual(kind: &'static str, service: Servicer, place: &str, prefix: &str) -> Dialect {
    Dialect {
        kind,
        service,
        fingerprint: format!("{kind}:{place}/{prefix}"),
        prefix: prefix.to_owned(),
        key_bytes_max: KEY_BYTES_MAX,
        revision: Revision::ETag,
        listing: Listing::StartAfter,
        metadata_names: MetadataNames::Tokens,
        copy_bytes_max: 0,
        forbidden: &[],
        index: None,
    }
}

/// What the store of a mount is like, and what speaks to it.
///
/// # Errors
/// `InvalidArgument` for options that make no sense together.
pub(super) fn dialect(config: &ObjectStoreConfig) -> Result<Dialect> {
    match config {
        ObjectStoreConfig::S3(config) => s3(config),
        ObjectStoreConfig::Gcs(config) => gcs(config),
        ObjectStoreConfig::Azblob(config) => azblob(config),
        ObjectStoreConfig::Oss(config) => oss(config),
        ObjectStoreConfig::Cos(config) => cos(config),
        ObjectStoreConfig::Http(config) => http(config),
    }
}

fn s3(config: &S3StoreConfig) -> Result<Dialect> {
    let endpoint = match &config.endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{}.amazonaws.com", config.region),
    };
    let mut builder = S3::default()
        .bucket(&config.bucket)
        .endpoint(&endpoint)
        .region(&config.region)
        .disable_config_load()
        .disable_ec2_metadata();
    builder = match &config.credentials {
        Some((key, secret)) => builder.access_key_id(key).secret_access_key(secret.expose()),
        None => builder.skip_signature(),
    };
    if let Some(token) = &config.session_token {
        builder = builder.session_token(token.expose());
    }
    if config.is_virtual_host_style {
        builder = builder.enable_virtual_host_style();
    }
    Ok(Dialect {
        copy_bytes_max: 5 << 30,
        ..usual("s3", built(builder)?, &format!("{endpoint}/{}", config.bucket), &config.prefix)
    })
}

fn gcs(config: &GcsStoreConfig) -> Result<Dialect> {
    let mut builder = Gcs::default().bucket(&config.bucket).disable_config_load();
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(class) = &config.storage_class {
        builder = builder.default_storage_class(class);
    }
    builder = match &config.credential {
        GcsCredential::Unsigned => builder.skip_signature().disable_vm_metadata(),
        GcsCredential::Token(token) => builder.token(token.expose().to_owned()).disable_vm_metadata(),
        GcsCredential::Key(key) => builder.credential(&STANDARD.encode(key.expose())).disable_vm_metadata(),
        GcsCredential::File(path) => builder.credential_path(&path.to_string_lossy()).disable_vm_metadata(),
        GcsCredential::VmMetadata => builder,
    };
    let endpoint = config.endpoint.as_deref().unwrap_or_default();
    Ok(Dialect {
        revision: Revision::Generation,
        copy_bytes_max: u64::MAX,
        ..usual("gcs", built(builder)?, &format!("{endpoint}/{}", config.bucket), &config.prefix)
    })
}

fn azblob(config: &AzblobStoreConfig) -> Result<Dialect> {
    let endpoint = config.endpoint.trim_end_matches('/');
    let mut builder = Azblob::default().container(&config.container).endpoint(endpoint);
    builder = match &config.credential {
        AzblobCredential::Unsigned => builder.skip_signature(),
        AzblobCredential::Key { account, key } => builder.account_name(account).account_key(key.expose()),
        AzblobCredential::Sas(token) => builder.sas_token(token.expose().trim_start_matches('?')),
        AzblobCredential::Identity => builder,
    };
    Ok(Dialect {
        listing: Listing::Continuation,
        metadata_names: MetadataNames::Identifiers,
        // What one synchronous request copies.
        copy_bytes_max: 256 << 20,
        forbidden: &['\\'],
        ..usual("azblob", built(builder)?, &format!("{endpoint}/{}", config.container), &config.prefix)
    })
}

fn oss(config: &OssStoreConfig) -> Result<Dialect> {
    let endpoint = config.endpoint.trim_end_matches('/');
    let mut builder = Oss::default().bucket(&config.bucket).endpoint(endpoint);
    builder = match &config.credentials {
        Some((key, secret)) => builder.access_key_id(key).access_key_secret(secret.expose()),
        None => builder.skip_signature(),
    };
    if let Some(token) = &config.security_token {
        builder = builder.security_token(token.expose());
    }
    if config.is_path_style {
        builder = builder.addressing_style("path");
    }
    Ok(Dialect {
        copy_bytes_max: 1 << 30,
        ..usual("oss", built(builder)?, &format!("{endpoint}/{}", config.bucket), &config.prefix)
    })
}

fn cos(config: &CosStoreConfig) -> Result<Dialect> {
    let endpoint = config.endpoint.trim_end_matches('/');
    let (id, key) = &config.credentials;
    let mut builder = Cos::default()
        .bucket(&config.bucket)
        .endpoint(endpoint)
        .disable_config_load()
        .secret_id(id)
        .secret_key(key.expose());
    if let Some(token) = &config.security_token {
        builder = builder.security_token(token.expose());
    }
    Ok(Dialect {
        key_bytes_max: 850,
        listing: Listing::Continuation,
        copy_bytes_max: 5 << 30,
        ..usual("cos", built(builder)?, &format!("{endpoint}/{}", config.bucket), &config.prefix)
    })
}

fn http(config: &HttpStoreConfig) -> Result<Dialect> {
    let endpoint = config.endpoint.trim_end_matches('/');
    let url = Url::parse(endpoint)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, "`endpoint` is no URL").because(e))?;
    let mut builder = Http::default().endpoint(endpoint);
    builder = match &config.credential {
        HttpCredential::None => builder,
        HttpCredential::Basic { username, password } => {
            builder.username(username).password(password.expose())
        }
        HttpCredential::Bearer(token) => builder.token(token.expose()),
    };
    Ok(Dialect {
        fingerprint: format!("http:{endpoint}"),
        key_bytes_max: 4096,
        revision: Revision::Validators,
        listing: Listing::Index,
        index: Some(Index { endpoint: url, credential: config.credential.clone() }),
        ..usual("http", built(builder)?, endpoint, "")
    })
}
