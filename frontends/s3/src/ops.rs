//! The operations: one table from S3's names to the functions that carry them out.
//!
//! What is not in the table answers `NotImplemented`, among it every setter of bucket configuration.

mod bucket;
mod copy;
mod delete;
mod listing;
mod multipart;
mod object;
mod put;
mod settings;

use std::sync::Arc;

use async_trait::async_trait;
use forebay_core::{Context, Error, ErrorKind, Namespace, NsPath, Permission, Want};
#[allow(clippy::wildcard_imports, reason = "a list would repeat each name of the table below")]
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::error::to_s3;
use crate::name::bucket_path;

/// The namespace as s3s calls it.
pub(crate) struct Gateway {
    namespace: Arc<Namespace>,
    region: String,
}

impl Gateway {
    pub(crate) fn new(namespace: Arc<Namespace>, region: String) -> Self {
        Self { namespace, region }
    }

    /// The path of a bucket that exists and that the caller may look at.
    async fn bucket(&self, context: &Context, bucket: &str) -> S3Result<NsPath> {
        let path = bucket_path(bucket)?;
        self.require_bucket(context, &path).await?;
        Ok(path)
    }

    async fn require_bucket(&self, context: &Context, path: &NsPath) -> S3Result<()> {
        let found = match self.namespace.try_stat(context, path, Want::Directory) {
            Some(answer) => answer,
            None => self.namespace.stat(context, path, Want::Directory).await,
        };
        found.map(|_| ()).map_err(|e| if is_missing(&e) { no_such_bucket() } else { to_s3(e) })
    }

    /// The error of an operation on an object: what is missing may be the bucket.
    async fn object_error(&self, context: &Context, bucket: &NsPath, error: Error) -> S3Error {
        if !is_missing(&error) {
            return to_s3(error);
        }
        match self.require_bucket(context, bucket).await {
            Err(e) if *e.code() == s3s::S3ErrorCode::NoSuchBucket => e,
            Ok(()) | Err(_) => s3_error!(NoSuchKey, "the specified key does not exist"),
        }
    }
}

/// Whether S3, which has no directories, would say that there is nothing.
fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsDirectory | ErrorKind::NotDirectory)
}

fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "the specified bucket does not exist")
}

/// Refuses versions: each object has one, named `null`.
fn only_null_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null" | "") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "the specified version does not exist")),
    }
}

/// Looking at one object needs the right to read it, not only to pass by.
fn require_read(context: &Context, path: &NsPath) -> S3Result<()> {
    if context.principal.may(Permission::Read, path) {
        return Ok(());
    }
    Err(s3_error!(AccessDenied, "{} has no grant to read here", context.principal.name))
}

fn owner(context: &Context) -> Owner {
    let name = context.principal.name.clone();
    Owner { display_name: Some(name.clone()), id: Some(name) }
}

macro_rules! operations {
    ($($method:ident($input:ident) -> $output:ident = $module:ident::$function:ident;)*) => {
        #[async_trait]
        impl S3 for Gateway {
            $(async fn $method(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                $module::$function(self, request).await
            })*
        }
    };
}

operations! {
    list_buckets(ListBucketsInput) -> ListBucketsOutput = bucket::list;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = bucket::head;
    create_bucket(CreateBucketInput) -> CreateBucketOutput = bucket::create;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = bucket::delete;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = bucket::location;

    list_objects(ListObjectsInput) -> ListObjectsOutput = listing::objects;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = listing::objects_v2;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput = listing::versions;

    head_object(HeadObjectInput) -> HeadObjectOutput = object::head;
    get_object(GetObjectInput) -> GetObjectOutput = object::get;
    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = object::attributes;
    put_object(PutObjectInput) -> PutObjectOutput = put::object;
    copy_object(CopyObjectInput) -> CopyObjectOutput = copy::object;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = delete::one;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = delete::many;

    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = multipart::create;
    upload_part(UploadPartInput) -> UploadPartOutput = multipart::part;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = copy::part;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = multipart::complete;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = multipart::abort;
    list_parts(ListPartsInput) -> ListPartsOutput = multipart::list_parts;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = multipart::list_uploads;

    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = settings::versioning;
    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = settings::bucket_acl;
    get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = settings::object_acl;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = settings::object_tagging;
    get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = settings::policy;
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput = settings::policy_status;
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = settings::cors;
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput)
        -> GetBucketLifecycleConfigurationOutput = settings::lifecycle;
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = settings::tagging;
    get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput = settings::website;
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = settings::encryption;
    get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput = settings::replication;
    get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput = settings::public_access;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput)
        -> GetBucketOwnershipControlsOutput = settings::ownership;
    get_object_lock_configuration(GetObjectLockConfigurationInput)
        -> GetObjectLockConfigurationOutput = settings::object_lock;
    get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput = settings::legal_hold;
    get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput = settings::retention;
    get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput = settings::logging;
    get_bucket_notification_configuration(GetBucketNotificationConfigurationInput)
        -> GetBucketNotificationConfigurationOutput = settings::notification;
    get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput)
        -> GetBucketAccelerateConfigurationOutput = settings::accelerate;
    get_bucket_request_payment(GetBucketRequestPaymentInput)
        -> GetBucketRequestPaymentOutput = settings::request_payment;
}

#[cfg(test)]
mod tests;
