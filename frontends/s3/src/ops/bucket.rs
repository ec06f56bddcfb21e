//! Buckets: the directories at the top of the namespace.

use forebay_core::{DeleteMode, ErrorKind, ListQuery, MkdirMode, NsPath};
use s3s::dto::{
    Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput,
};
use s3s::path::check_bucket_name;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::{Gateway, no_such_bucket, owner};
use crate::auth::caller;
use crate::conditions::s3_time;
use crate::error::to_s3;
use crate::list::{from_token, token};
use crate::name::bucket_path;

/// Most buckets in one answer.
const BUCKETS_MAX: usize = 10_000;
/// Where a location is not spelled out.
const DEFAULT_REGION: &str = "us-east-1";

/// Lists what the caller may pass through at the top of the namespace.
pub(super) async fn list(
    gateway: &Gateway,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let asked = input.max_buckets.and_then(|max| usize::try_from(max).ok()).unwrap_or(BUCKETS_MAX);
    let max = asked.clamp(1, BUCKETS_MAX);
    let mut start_after = input.continuation_token.as_deref().map(from_token).transpose()?;
    let mut buckets: Vec<Bucket> = Vec::new();
    let is_truncated = loop {
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            shallow: true,
            start_after: start_after.clone(),
            limit: max - buckets.len(),
        };
        let page = gateway.namespace.list(&context, &NsPath::root(), &query).await.map_err(to_s3)?;
        start_after = page.items.last().map(|item| item.name.clone());
        for item in page.items {
            // Files at the top belong to no bucket.
            let Some(name) = item.name.strip_suffix('/') else { continue };
            buckets.push(Bucket {
                bucket_region: Some(gateway.region.clone()),
                creation_date: Some(s3_time(item.entry.modified)),
                name: Some(name.to_owned()),
            });
        }
        if !page.is_truncated || buckets.len() >= max {
            break page.is_truncated;
        }
    };
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token: start_after.filter(|_| is_truncated).map(|last| token(&last)),
        owner: Some(owner(&context)),
        prefix: input.prefix,
    }))
}

/// Tells whether a bucket exists.
pub(super) async fn head(
    gateway: &Gateway,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    gateway.bucket(&caller(&request)?, &request.input.bucket).await?;
    let bucket_region = Some(gateway.region.clone());
    Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
}

/// Makes a directory at the top, where one mount serves the top.
pub(super) async fn create(
    gateway: &Gateway,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    if !check_bucket_name(&input.bucket) {
        return Err(s3_error!(InvalidBucketName, "the specified bucket is not valid"));
    }
    let constraint = input.create_bucket_configuration.and_then(|config| config.location_constraint);
    if let Some(constraint) = constraint
        && !["", DEFAULT_REGION, &gateway.region].contains(&constraint.as_str())
    {
        let message = format!("this gateway is in the region {}", gateway.region);
        return Err(s3_error!(InvalidLocationConstraint, "{message}"));
    }
    let path = bucket_path(&input.bucket)?;
    let exists = gateway.namespace.stat(&context, &path, forebay_core::Want::Any).await.is_ok();
    if exists {
        return Err(s3_error!(BucketAlreadyOwnedByYou, "the bucket exists"));
    }
    if gateway.namespace.mount_info(&path).is_none() {
        let message = "no mount at `/` can hold new buckets; add the bucket as a mount to mounts.yaml";
        return Err(s3_error!(AccessDenied, "{message}"));
    }
    gateway.namespace.mkdir(&context, &path, MkdirMode::New).await.map_err(to_s3)?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
}

/// Removes an empty directory at the top; never a mount.
pub(super) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let context = caller(&request)?;
    let path = gateway.bucket(&context, &request.input.bucket).await?;
    match gateway.namespace.delete(&context, &path, DeleteMode::EmptyDirectory).await {
        Ok(true) => Ok(S3Response::new(DeleteBucketOutput::default())),
        Ok(false) => Err(no_such_bucket()),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(no_such_bucket()),
        Err(e) => Err(to_s3(e)),
    }
}

/// The region, which S3 leaves out for us-east-1.
pub(super) async fn location(
    gateway: &Gateway,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    gateway.bucket(&caller(&request)?, &request.input.bucket).await?;
    let region = Some(gateway.region.clone()).filter(|region| region != DEFAULT_REGION);
    let location_constraint = region.map(BucketLocationConstraint::from);
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}
