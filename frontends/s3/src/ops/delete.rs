//! Deleting objects, one or up to 1000 at once. What does not exist counts as deleted.

use forebay_core::{Context, DeleteMode};
use futures::{StreamExt, stream};
use s3s::dto::{
    Delete, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    Error, ObjectIdentifier,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::{Gateway, is_missing, only_null_version};
use crate::auth::caller;
use crate::error::to_s3;
use crate::name::ObjectName;

/// Most keys in one request.
const KEYS_MAX: usize = 1000;
/// How many of one request's keys are deleted at the same time.
const PARALLEL: usize = 16;

async fn remove(gateway: &Gateway, context: &Context, name: &ObjectName) -> S3Result<()> {
    let mode = if name.is_directory { DeleteMode::Marker } else { DeleteMode::Object };
    match gateway.namespace.delete(context, &name.path, mode).await {
        Ok(_) => Ok(()),
        Err(e) if is_missing(&e) => Ok(()),
        Err(e) => Err(to_s3(e)),
    }
}

/// `DeleteObject`.
pub(super) async fn one(
    gateway: &Gateway,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    only_null_version(input.version_id.as_deref())?;
    let is_conditional = input.if_match.is_some()
        || input.if_match_size.is_some()
        || input.if_match_last_modified_time.is_some();
    if is_conditional {
        // Looking first and deleting then would not be atomic.
        return Err(s3_error!(NotImplemented, "deletes take no conditions"));
    }
    let name = ObjectName::parse(&input.bucket, &input.key)?;
    gateway.require_bucket(&context, &name.bucket).await?;
    remove(gateway, &context, &name).await?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

/// `DeleteObjects`.
pub(super) async fn many(
    gateway: &Gateway,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let Delete { objects, quiet } = input.delete;
    if objects.is_empty() || objects.len() > KEYS_MAX {
        return Err(s3_error!(MalformedXML, "a request deletes 1 to {KEYS_MAX} keys"));
    }
    gateway.bucket(&context, &input.bucket).await?;
    let (context, bucket) = (&context, input.bucket.as_str());
    let outcomes: Vec<(ObjectIdentifier, S3Result<()>)> = stream::iter(objects)
        .map(|object| async move {
            let outcome = one_of_many(gateway, context, bucket, &object).await;
            (object, outcome)
        })
        .buffered(PARALLEL)
        .collect()
        .await;
    let mut output = DeleteObjectsOutput::default();
    for (object, outcome) in outcomes {
        match outcome {
            Ok(()) if quiet == Some(true) => {}
            Ok(()) => output.deleted.get_or_insert_default().push(DeletedObject {
                key: Some(object.key),
                version_id: object.version_id,
                ..Default::default()
            }),
            Err(e) => output.errors.get_or_insert_default().push(told(object, &e)),
        }
    }
    Ok(S3Response::new(output))
}

async fn one_of_many(
    gateway: &Gateway,
    context: &Context,
    bucket: &str,
    object: &ObjectIdentifier,
) -> S3Result<()> {
    only_null_version(object.version_id.as_deref())?;
    if object.e_tag.is_some() || object.size.is_some() || object.last_modified_time.is_some() {
        return Err(s3_error!(NotImplemented, "deletes take no conditions"));
    }
    remove(gateway, context, &ObjectName::parse(bucket, &object.key)?).await
}

fn told(object: ObjectIdentifier, error: &S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(object.key),
        message: error.message().map(str::to_owned),
        version_id: object.version_id,
    }
}
