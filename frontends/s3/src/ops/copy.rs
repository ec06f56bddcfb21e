//! Copies: of whole objects, inside the store where it can, and of ranges into parts.

use forebay_core::{
    ByteRange, Context, ETag, Entry, MkdirMode, Precondition, Publish, UploadId, Want, copy_range,
};
use hyper::HeaderMap;
use hyper::header::{HeaderValue, IF_MATCH, IF_NONE_MATCH};
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, MetadataDirective,
    Range, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::multipart::part_number;
use super::{Gateway, only_null_version, require_read};
use crate::auth::caller;
use crate::conditions::{Conditions, Verdict, s3_tag, s3_time};
use crate::error::to_s3;
use crate::headers::stored_headers;
use crate::name::ObjectName;

/// The object that a copy reads.
fn source_name(source: &CopySource) -> S3Result<ObjectName> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            only_null_version(version_id.as_deref())?;
            ObjectName::parse(bucket, key)
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(s3_error!(NotImplemented, "the source of a copy is a bucket and a key"))
        }
    }
}

/// A source that is not what the client expected is a failed precondition, however it differs.
fn check_source(conditions: &Conditions, entry: &Entry) -> S3Result<()> {
    match conditions.evaluate(entry) {
        Verdict::Proceed => Ok(()),
        Verdict::NotModified | Verdict::Failed => {
            Err(s3_error!(PreconditionFailed, "the source of the copy does not match the conditions"))
        }
    }
}

/// The condition on the destination, which s3s leaves in the headers.
fn destination_condition(headers: &HeaderMap) -> S3Result<Precondition> {
    let value = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default().trim());
    match (value(IF_MATCH), value(IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::None),
        (None, Some("*")) => Ok(Precondition::Absent),
        (Some(tag), None) if tag != "*" => Ok(Precondition::Matches(ETag::new(tag))),
        (Some(_), _) | (None, Some(_)) => {
            Err(s3_error!(NotImplemented, "copies take `If-None-Match: *` or `If-Match: <tag>`, not both"))
        }
    }
}

/// `CopyObject`.
pub(super) async fn object(
    gateway: &Gateway,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let context = caller(&request)?;
    let condition = destination_condition(&request.headers)?;
    let mut input = request.input;
    let from = source_name(&input.copy_source)?;
    let to = ObjectName::parse(&input.bucket, &input.key)?;
    let replaces = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "the metadata directive is COPY or REPLACE")),
    };
    if from.path == to.path && !replaces {
        let message =
            "this copy request is illegal because it copies an object to itself without changing it";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    gateway.require_bucket(&context, &to.bucket).await?;
    let conditions = Conditions {
        matches: input.copy_source_if_match.take(),
        none_match: input.copy_source_if_none_match.take(),
        modified_since: input.copy_source_if_modified_since.take(),
        unmodified_since: input.copy_source_if_unmodified_since.take(),
    };
    let source = stat_source(gateway, &context, &from).await?;
    check_source(&conditions, &source)?;
    let headers = if replaces { Some(stored_headers!(input)?) } else { None };
    let entry = match (from.is_directory, to.is_directory) {
        (false, false) => {
            let paths = (&from.path, &to.path);
            match gateway.namespace.copy(&context, paths, headers, condition).await {
                Ok(entry) => entry,
                Err(e) => return Err(gateway.object_error(&context, &from.bucket, e).await),
            }
        }
        (true, true) => {
            gateway.namespace.mkdir(&context, &to.path, MkdirMode::Parents).await.map_err(to_s3)?
        }
        (true, false) | (false, true) => {
            return Err(s3_error!(InvalidArgument, "a directory is copied to a key that ends in `/`, too"));
        }
    };
    let result = CopyObjectResult {
        e_tag: Some(s3_tag(&entry.etag)),
        last_modified: Some(s3_time(entry.modified)),
        ..Default::default()
    };
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

async fn stat_source(gateway: &Gateway, context: &Context, from: &ObjectName) -> S3Result<Entry> {
    require_read(context, &from.path)?;
    match gateway.namespace.stat(context, &from.path, from.want()).await {
        Ok(entry) => Ok(entry),
        Err(e) => Err(gateway.object_error(context, &from.bucket, e).await),
    }
}

/// The range of a part that is copied: first and last byte, both inside the source.
fn source_range(range: Option<&str>, size_bytes: u64) -> S3Result<ByteRange> {
    let Some(text) = range else { return Ok(ByteRange::new(0, size_bytes)) };
    match Range::parse(text) {
        Ok(Range::Int { first, last: Some(last) }) if last < size_bytes => {
            Ok(ByteRange::new(first, last - first + 1))
        }
        Ok(Range::Int { last: Some(_), .. }) => {
            Err(s3_error!(InvalidRange, "the range lies outside the source, which has {size_bytes} bytes"))
        }
        Ok(Range::Int { .. } | Range::Suffix { .. }) | Err(_) => {
            Err(s3_error!(InvalidArgument, "x-amz-copy-source-range has the form bytes=first-last"))
        }
    }
}

/// `UploadPartCopy`.
pub(super) async fn part(
    gateway: &Gateway,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let context = caller(&request)?;
    let mut input = request.input;
    let from = source_name(&input.copy_source)?;
    let to = ObjectName::parse(&input.bucket, &input.key)?;
    let number = part_number(input.part_number)?;
    let conditions = Conditions {
        matches: input.copy_source_if_match.take(),
        none_match: input.copy_source_if_none_match.take(),
        modified_since: input.copy_source_if_modified_since.take(),
        unmodified_since: input.copy_source_if_unmodified_since.take(),
    };
    let file = match gateway.namespace.open(&context, &from.path, Want::File).await {
        Ok(file) => file,
        Err(e) => return Err(gateway.object_error(&context, &from.bucket, e).await),
    };
    check_source(&conditions, file.entry())?;
    let range = source_range(input.copy_source_range.as_deref(), file.entry().size_bytes)?;
    let upload = UploadId(input.upload_id);
    let part = (&upload, number);
    let writer = gateway.namespace.stage_part(&context, &to.path, part, None).await.map_err(to_s3)?;
    copy_range(&*file, range, &writer).await.map_err(to_s3)?;
    let entry = writer.publish(Publish::default()).await.map_err(to_s3)?;
    let result = CopyPartResult {
        e_tag: Some(s3_tag(&entry.etag)),
        last_modified: Some(s3_time(entry.modified)),
        ..Default::default()
    };
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_ranges_lie_inside_the_source() {
        let code = |text| source_range(Some(text), 10).map_err(|e| e.code().as_str().to_owned());
        assert_eq!(code("bytes=0-9"), Ok(ByteRange::new(0, 10)));
        assert_eq!(code("bytes=5-10"), Err("InvalidRange".to_owned()));
        assert_eq!(code("bytes=5-"), Err("InvalidArgument".to_owned()));
        assert_eq!(code("0-1"), Err("InvalidArgument".to_owned()));
    }
}
