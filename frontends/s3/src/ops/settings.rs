//! Bucket and object settings: none can be made, so each getter answers what S3 answers where none was made.

#[allow(clippy::wildcard_imports, reason = "a list would repeat each name of the table below")]
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::{Gateway, only_null_version, owner, require_read};
use crate::auth::caller;
use crate::name::ObjectName;

/// A getter that answers an empty configuration of an existing bucket.
macro_rules! empty {
    ($($(#[$doc:meta])* $function:ident($input:ident) -> $output:ident { $($body:tt)* })*) => {
        $($(#[$doc])*
        pub(super) async fn $function(
            gateway: &Gateway,
            request: S3Request<$input>,
        ) -> S3Result<S3Response<$output>> {
            gateway.bucket(&caller(&request)?, &request.input.bucket).await?;
            Ok(S3Response::new($output { $($body)* }))
        })*
    };
}

/// A getter that answers that an existing bucket has no such configuration.
macro_rules! missing {
    ($($function:ident($input:ident) -> $output:ident = $code:ident;)*) => {
        $(pub(super) async fn $function(
            gateway: &Gateway,
            request: S3Request<$input>,
        ) -> S3Result<S3Response<$output>> {
            gateway.bucket(&caller(&request)?, &request.input.bucket).await?;
            Err(not_found(s3_error!($code, "there is no such configuration")))
        })*
    };
}

empty! {
    versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput { ..Default::default() }
    logging(GetBucketLoggingInput) -> GetBucketLoggingOutput { ..Default::default() }
    notification(GetBucketNotificationConfigurationInput) -> GetBucketNotificationConfigurationOutput {
        ..Default::default()
    }
    accelerate(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput {
        ..Default::default()
    }
    request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput {
        payer: Some(Payer::from_static(Payer::BUCKET_OWNER)),
    }
}

missing! {
    policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = NoSuchBucketPolicy;
    policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput = NoSuchBucketPolicy;
    cors(GetBucketCorsInput) -> GetBucketCorsOutput = NoSuchCORSConfiguration;
    lifecycle(GetBucketLifecycleConfigurationInput)
        -> GetBucketLifecycleConfigurationOutput = NoSuchLifecycleConfiguration;
    tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = NoSuchTagSet;
    website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput = NoSuchWebsiteConfiguration;
    encryption(GetBucketEncryptionInput)
        -> GetBucketEncryptionOutput = ServerSideEncryptionConfigurationNotFoundError;
    replication(GetBucketReplicationInput)
        -> GetBucketReplicationOutput = ReplicationConfigurationNotFoundError;
    ownership(GetBucketOwnershipControlsInput)
        -> GetBucketOwnershipControlsOutput = OwnershipControlsNotFoundError;
    object_lock(GetObjectLockConfigurationInput)
        -> GetObjectLockConfigurationOutput = ObjectLockConfigurationNotFoundError;
    legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput = NoSuchObjectLockConfiguration;
    retention(GetObjectRetentionInput) -> GetObjectRetentionOutput = NoSuchObjectLockConfiguration;
}

pub(super) async fn public_access(
    gateway: &Gateway,
    request: S3Request<GetPublicAccessBlockInput>,
) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
    gateway.bucket(&caller(&request)?, &request.input.bucket).await?;
    let code = S3ErrorCode::Custom("NoSuchPublicAccessBlockConfiguration".into());
    Err(not_found(S3Error::with_message(code, "there is no public access block")))
}

/// s3s has no status for some of these codes, or another than S3.
fn not_found(mut error: S3Error) -> S3Error {
    error.set_status_code(hyper::StatusCode::NOT_FOUND);
    error
}

fn full_control(owner: &Owner) -> Grants {
    let grantee = Grantee {
        display_name: owner.display_name.clone(),
        email_address: None,
        id: owner.id.clone(),
        type_: Type::from_static(Type::CANONICAL_USER),
        uri: None,
    };
    let permission = Permission::from_static(Permission::FULL_CONTROL);
    vec![Grant { grantee: Some(grantee), permission: Some(permission) }]
}

/// Everything is private: its owner, who is whoever may ask, has full control.
pub(super) async fn bucket_acl(
    gateway: &Gateway,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    let context = caller(&request)?;
    gateway.bucket(&context, &request.input.bucket).await?;
    let owner = owner(&context);
    Ok(S3Response::new(GetBucketAclOutput { grants: Some(full_control(&owner)), owner: Some(owner) }))
}

async fn require_object<T>(gateway: &Gateway, request: &S3Request<T>, name: &ObjectName) -> S3Result<()> {
    let context = caller(request)?;
    require_read(&context, &name.path)?;
    match gateway.namespace.stat(&context, &name.path, name.want()).await {
        Ok(_) => Ok(()),
        Err(e) => Err(gateway.object_error(&context, &name.bucket, e).await),
    }
}

/// As [`bucket_acl`], for an object.
pub(super) async fn object_acl(
    gateway: &Gateway,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    only_null_version(request.input.version_id.as_deref())?;
    let name = ObjectName::parse(&request.input.bucket, &request.input.key)?;
    require_object(gateway, &request, &name).await?;
    let owner = owner(&caller(&request)?);
    let grants = Some(full_control(&owner));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner: Some(owner), ..Default::default() }))
}

/// Objects have no tags.
pub(super) async fn object_tagging(
    gateway: &Gateway,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    only_null_version(request.input.version_id.as_deref())?;
    let name = ObjectName::parse(&request.input.bucket, &request.input.key)?;
    require_object(gateway, &request, &name).await?;
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: TagSet::new(), version_id: None }))
}
