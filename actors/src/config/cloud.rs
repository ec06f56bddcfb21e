//! Options of the stores that are reached over the network, one type each.

use std::path::PathBuf;

use forebay_core::Secret;

/// A store of objects, with its typed options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectStoreConfig {
    /// Amazon S3 or anything that speaks it.
    S3(S3StoreConfig),
    /// Google Cloud Storage.
    Gcs(GcsStoreConfig),
    /// Azure Blob Storage.
    Azblob(AzblobStoreConfig),
    /// Alibaba Cloud OSS.
    Oss(OssStoreConfig),
    /// Tencent Cloud COS.
    Cos(CosStoreConfig),
    /// Files of an HTTP server; read only.
    Http(HttpStoreConfig),
}

/// Options of an S3 store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3StoreConfig {
    /// The bucket.
    pub bucket: String,
    /// Keys below this prefix only; empty or ending in `/`.
    pub prefix: String,
    /// Base URL; `None` for AWS.
    pub endpoint: Option<String>,
    /// Region name.
    pub region: String,
    /// Key pair; `None` sends unsigned requests.
    pub credentials: Option<(String, Secret)>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// `bucket.host` instead of `host/bucket`.
    pub is_virtual_host_style: bool,
}

/// Options of a Google Cloud Storage store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcsStoreConfig {
    /// The bucket.
    pub bucket: String,
    /// Keys below this prefix only; empty or ending in `/`.
    pub prefix: String,
    /// Base URL; `None` for Google's own.
    pub endpoint: Option<String>,
    /// Who asks.
    pub credential: GcsCredential,
    /// Storage class of new objects; `None` takes the bucket's.
    pub storage_class: Option<String>,
}

/// How requests to Google Cloud Storage are authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GcsCredential {
    /// Not at all: public buckets and emulators.
    Unsigned,
    /// An access token; whoever wrote it renews it.
    Token(Secret),
    /// The JSON key of a service account; access tokens are fetched and renewed.
    Key(Secret),
    /// A file with such a key, or with an external account's configuration.
    File(PathBuf),
    /// The service account of the virtual machine or pod.
    VmMetadata,
}

/// Options of an Azure Blob store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzblobStoreConfig {
    /// The container.
    pub container: String,
    /// Keys below this prefix only; empty or ending in `/`.
    pub prefix: String,
    /// Base URL, with the account: `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: String,
    /// Who asks.
    pub credential: AzblobCredential,
}

/// How requests to Azure Blob are authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzblobCredential {
    /// Not at all: public containers.
    Unsigned,
    /// The account's name and one of its keys, in base64.
    Key {
        /// Name of the storage account.
        account: String,
        /// Its key.
        key: Secret,
    },
    /// A shared access signature, without the leading `?`.
    Sas(Secret),
    /// The identity of the machine: workload identity, managed identity or service principal.
    Identity,
}

/// Options of an Alibaba Cloud OSS store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OssStoreConfig {
    /// The bucket.
    pub bucket: String,
    /// Keys below this prefix only; empty or ending in `/`.
    pub prefix: String,
    /// Base URL of the region, without the bucket.
    pub endpoint: String,
    /// Key pair; `None` sends unsigned requests.
    pub credentials: Option<(String, Secret)>,
    /// Token of temporary credentials.
    pub security_token: Option<Secret>,
    /// `host/bucket` instead of `bucket.host`.
    pub is_path_style: bool,
}

/// Options of a Tencent Cloud COS store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosStoreConfig {
    /// The bucket, with its application id.
    pub bucket: String,
    /// Keys below this prefix only; empty or ending in `/`.
    pub prefix: String,
    /// Base URL of the region, without the bucket.
    pub endpoint: String,
    /// Key pair.
    pub credentials: (String, Secret),
    /// Token of temporary credentials.
    pub security_token: Option<Secret>,
}

/// Options of an HTTP server whose files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpStoreConfig {
    /// URL of the directory that is mounted, without a trailing slash.
    pub endpoint: String,
    /// Who asks.
    pub credential: HttpCredential,
}

/// How requests to an HTTP server are authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpCredential {
    /// Not at all.
    None,
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// `Authorization: Bearer`.
    Bearer(Secret),
}

/// What the operator knows better than the probes of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// Whether writes whose condition does not hold are refused; `None` asks the store.
    pub conditional_write: Option<bool>,
    /// Whether listings come in byte order and start where they are told to; `None` asks the store.
    pub ordered_list: Option<bool>,
}
