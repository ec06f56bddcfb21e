//! Listings of a bucket in the three forms of S3.

use forebay_core::Entry;
use s3s::dto::{
    CommonPrefix, CommonPrefixList, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object, ObjectList, ObjectStorageClass,
    ObjectVersion, ObjectVersionStorageClass, Owner,
};
use s3s::{S3Request, S3Response, S3Result};

use super::{Gateway, owner};
use crate::auth::caller;
use crate::conditions::{s3_tag, s3_time};
use crate::error::to_s3;
use crate::list::{self, Encoding, Page, Query, from_token, token};

fn some_delimiter(delimiter: Option<String>) -> Option<String> {
    delimiter.filter(|delimiter| !delimiter.is_empty())
}

fn object(encoding: Encoding, (name, entry): (String, Entry), owner: Option<Owner>) -> Object {
    Object {
        e_tag: Some(s3_tag(&entry.etag)),
        key: Some(encoding.write(&name)),
        last_modified: Some(s3_time(entry.modified)),
        owner,
        size: Some(entry.size_bytes as i64),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    }
}

fn objects_of(encoding: Encoding, objects: Vec<(String, Entry)>, owner: Option<&Owner>) -> ObjectList {
    objects.into_iter().map(|found| object(encoding, found, owner.cloned())).collect()
}

fn prefixes_of(encoding: Encoding, prefixes: &[String]) -> CommonPrefixList {
    prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(encoding.write(prefix)) }).collect()
}

/// `ListObjects`, the first version.
pub(super) async fn objects(
    gateway: &Gateway,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let query = Query {
        bucket: gateway.bucket(&context, &input.bucket).await?,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: some_delimiter(input.delimiter),
        after: input.marker.clone().filter(|marker| !marker.is_empty()),
        max_keys: list::limit(input.max_keys)?,
    };
    let page = list::page(&gateway.namespace, &context, &query).await.map_err(to_s3)?;
    // Without a delimiter, clients go on from the last key.
    let next = page.last.as_deref().filter(|_| page.is_truncated && query.delimiter.is_some());
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.write(&query.prefix)),
        marker: Some(encoding.write(input.marker.as_deref().unwrap_or_default())),
        max_keys: Some(query.max_keys as i32),
        is_truncated: Some(page.is_truncated),
        next_marker: next.map(|name| encoding.write(name)),
        common_prefixes: Some(prefixes_of(encoding, &page.prefixes)),
        contents: Some(objects_of(encoding, page.objects, Some(&owner(&context)))),
        delimiter: query.delimiter.as_deref().map(|delimiter| encoding.write(delimiter)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

/// `ListObjects`, the second version.
pub(super) async fn objects_v2(
    gateway: &Gateway,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let context = caller(&request)?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let after = match &input.continuation_token {
        Some(token) => Some(from_token(token)?),
        None => input.start_after.clone().filter(|after| !after.is_empty()),
    };
    let query = Query {
        bucket: gateway.bucket(&context, &input.bucket).await?,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: some_delimiter(input.delimiter),
        after,
        max_keys: list::limit(input.max_keys)?,
    };
    let page = list::page(&gateway.namespace, &context, &query).await.map_err(to_s3)?;
    let owner = input.fetch_owner.unwrap_or(false).then(|| owner(&context));
    let key_count = page.objects.len() + page.prefixes.len();
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.write(&query.prefix)),
        max_keys: Some(query.max_keys as i32),
        key_count: Some(key_count as i32),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.is_truncated),
        next_continuation_token: page.last.as_deref().filter(|_| page.is_truncated).map(token),
        common_prefixes: Some(prefixes_of(encoding, &page.prefixes)),
        contents: Some(objects_of(encoding, page.objects, owner.as_ref())),
        delimiter: query.delimiter.as_deref().map(|delimiter| encoding.write(delimiter)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.as_deref().map(|after| encoding.write(after)),
        ..Default::default()
    }))
}

/// `ListObjectVersions`: each object has one version, `null`.
pub(super) async fn versions(
    gateway: &Gateway,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let query = Query {
        bucket: gateway.bucket(&context, &input.bucket).await?,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: some_delimiter(input.delimiter),
        after: input.key_marker.clone().filter(|marker| !marker.is_empty()),
        max_keys: list::limit(input.max_keys)?,
    };
    let page = list::page(&gateway.namespace, &context, &query).await.map_err(to_s3)?;
    let next = page.last.as_deref().filter(|_| page.is_truncated);
    let is_object = page.objects.last().is_some_and(|(name, _)| Some(name) == page.last.as_ref());
    let Page { objects, prefixes, is_truncated, .. } = &page;
    let owner = owner(&context);
    let version = |(name, entry): &(String, Entry)| ObjectVersion {
        e_tag: Some(s3_tag(&entry.etag)),
        is_latest: Some(true),
        key: Some(encoding.write(name)),
        last_modified: Some(s3_time(entry.modified)),
        owner: Some(owner.clone()),
        size: Some(entry.size_bytes as i64),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        version_id: Some("null".to_owned()),
        ..Default::default()
    };
    Ok(S3Response::new(ListObjectVersionsOutput {
        versions: Some(objects.iter().map(version).collect()),
        common_prefixes: Some(prefixes_of(encoding, prefixes)),
        is_truncated: Some(*is_truncated),
        next_key_marker: next.map(|name| encoding.write(name)),
        next_version_id_marker: next.filter(|_| is_object).map(|_| "null".to_owned()),
        name: Some(input.bucket),
        prefix: Some(encoding.write(&query.prefix)),
        key_marker: Some(encoding.write(input.key_marker.as_deref().unwrap_or_default())),
        version_id_marker: input.version_id_marker,
        max_keys: Some(query.max_keys as i32),
        delimiter: query.delimiter.as_deref().map(|delimiter| encoding.write(delimiter)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
