//! S3 names as paths of the namespace: a bucket is the first segment, a key the rest, byte for byte.
//!
//! A key that ends in `/` names a directory. Keys with empty, `.` or `..` segments or a NUL are refused.

use forebay_core::{Key, NsPath, Want};
use s3s::host::{S3Host, VirtualHost};
use s3s::validation::NameValidation;
use s3s::{S3Result, s3_error};

use crate::error::to_s3;

/// A bucket and a key in it.
#[derive(Clone, Debug)]
pub(crate) struct ObjectName {
    /// The bucket's path.
    pub(crate) bucket: NsPath,
    /// The object's path, without a trailing slash.
    pub(crate) path: NsPath,
    /// Whether the key ends in `/`.
    pub(crate) is_directory: bool,
}

impl ObjectName {
    /// Takes a bucket and a key as a client sent them.
    ///
    /// # Errors
    /// `InvalidArgument` or `KeyTooLongError` for a name that no store could hold.
    pub(crate) fn parse(bucket: &str, key: &str) -> S3Result<Self> {
        let bucket = bucket_path(bucket)?;
        let (relative, is_directory) = match key.strip_suffix('/') {
            Some(relative) => (relative, true),
            None => (key, false),
        };
        let path = bucket.join(relative).map_err(|e| to_s3(e.at("key", format_args!("{key:?}"))))?;
        Ok(Self { bucket, path, is_directory })
    }

    /// Which of a file and a directory the key means.
    pub(crate) fn want(&self) -> Want {
        if self.is_directory { Want::Directory } else { Want::File }
    }

    /// The name of a path below a bucket.
    pub(crate) fn key_of(bucket: &NsPath, path: &NsPath) -> String {
        path.relative_to(bucket).as_ref().map_or_else(String::new, |key: &Key| key.as_str().to_owned())
    }
}

/// The path of a bucket.
///
/// # Errors
/// `InvalidBucketName` for what is not one path segment.
pub(crate) fn bucket_path(bucket: &str) -> S3Result<NsPath> {
    match NsPath::root().join(bucket) {
        Ok(path) if path.parent().is_some_and(|parent| parent.is_root()) => Ok(path),
        Ok(_) | Err(_) => Err(s3_error!(InvalidBucketName, "a bucket is one path segment")),
    }
}

/// Buckets are names of directories, so any segment is looked up; only new buckets must be legal S3 names.
pub(crate) struct AnySegment;

impl NameValidation for AnySegment {
    fn validate_bucket_name(&self, name: &str) -> bool {
        bucket_path(name).is_ok()
    }
}

/// Host-style addressing below one domain; any other host is path style.
pub(crate) struct Domain(pub(crate) String);

impl S3Host for Domain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            Some(_) | None => host,
        };
        let bucket = name.strip_suffix(self.0.as_str()).and_then(|rest| rest.strip_suffix('.'));
        let host = VirtualHost::new(self.0.as_str());
        Ok(match bucket {
            Some(bucket) if !bucket.is_empty() => host.with_bucket(bucket),
            Some(_) | None => host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_byte_exact_or_refused() {
        let name = ObjectName::parse("b", "a b/+%20").expect("valid");
        assert_eq!((name.path.as_str(), name.is_directory), ("/b/a b/+%20", false));
        let name = ObjectName::parse("b", "d/").expect("valid");
        assert_eq!((name.path.as_str(), name.is_directory), ("/b/d", true));
        for key in ["", "/", "/a", "a//b", "a//", ".", "a/./b", "../a", "a\0"] {
            let error = ObjectName::parse("b", key).expect_err(key);
            assert_eq!(error.code().as_str(), "InvalidArgument", "{key:?}");
        }
    }

    #[test]
    fn buckets_are_one_segment() {
        assert!(bucket_path("data").is_ok());
        for bucket in ["", ".", "..", "a/b", "a\0"] {
            assert!(bucket_path(bucket).is_err(), "{bucket:?}");
        }
    }

    #[test]
    fn host_style_only_below_the_domain() {
        let domain = Domain("s3.test".into());
        let bucket = |host| {
            let host = domain.parse_host_header(host).expect("always");
            host.bucket().map(str::to_owned)
        };
        assert_eq!(bucket("data.s3.test:9000").as_deref(), Some("data"));
        assert_eq!(bucket("s3.test"), None);
        assert_eq!(bucket("localhost:9000"), None);
        assert_eq!(bucket("xs3.test"), None);
    }
}
