//! Writing objects: PUT, and POST forms, which s3s turns into PUTs. A key that ends in `/` makes a directory.

use forebay_core::{Context, MkdirMode, Publish};
use s3s::dto::{ChecksumType, PutObjectInput, PutObjectOutput};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Gateway;
use crate::auth::caller;
use crate::checksum::{Algorithm, Digests, Verified};
use crate::conditions::{precondition, s3_tag};
use crate::error::to_s3;
use crate::headers::stored_headers;
use crate::name::ObjectName;
use crate::upload::Incoming;

/// What the request sends about checksums; the fields have these names in PUT and in parts.
macro_rules! sent_checksums {
    ($input:expr) => {
        $crate::checksum::Sent {
            md5: $input.content_md5.as_deref(),
            crc32: $input.checksum_crc32.as_deref(),
            crc32c: $input.checksum_crc32c.as_deref(),
            crc64nvme: $input.checksum_crc64nvme.as_deref(),
            sha1: $input.checksum_sha1.as_deref(),
            sha256: $input.checksum_sha256.as_deref(),
        }
    };
}
pub(super) use sent_checksums;

/// `PutObject`.
pub(super) async fn object(
    gateway: &Gateway,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let context = caller(&request)?;
    let mut input = request.input;
    let name = ObjectName::parse(&input.bucket, &input.key)?;
    if input.write_offset_bytes.is_some() {
        return Err(s3_error!(NotImplemented, "objects cannot be appended to over S3"));
    }
    gateway.require_bucket(&context, &name.bucket).await?;
    let condition = precondition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let incoming = Incoming::new(input.body.take(), input.content_length)?;
    if name.is_directory {
        if incoming.length_bytes() > 0 {
            return Err(s3_error!(
                InvalidArgument,
                "a key that ends in `/` is a directory and takes no content"
            ));
        }
        return directory(gateway, &context, &name).await;
    }
    let mut digests = Digests::new(&sent_checksums!(input), &request.headers)?;
    let headers = stored_headers!(input)?;
    let writer = gateway.namespace.replace(&context, &name.path).await.map_err(to_s3)?;
    let publish = Publish { condition, headers: Some(headers), is_durable: true, ..Publish::default() };
    writer.expect(&publish, Some(incoming.length_bytes()));
    incoming.write_to(&writer, &mut digests).await?;
    let verified = digests.verify(request.trailing_headers.as_ref())?;
    let entry = match writer.publish(publish).await {
        Ok(entry) => entry,
        Err(e) if e.kind() == forebay_core::ErrorKind::NotFound => {
            return Err(gateway.object_error(&context, &name.bucket, e).await);
        }
        Err(e) => return Err(to_s3(e)),
    };
    let echoed = |algorithm| Verified::value_of(verified.as_ref(), algorithm);
    Ok(S3Response::new(PutObjectOutput {
        e_tag: Some(s3_tag(&entry.etag)),
        checksum_crc32: echoed(Algorithm::Crc32),
        checksum_crc32c: echoed(Algorithm::Crc32c),
        checksum_crc64nvme: echoed(Algorithm::Crc64Nvme),
        checksum_sha1: echoed(Algorithm::Sha1),
        checksum_sha256: echoed(Algorithm::Sha256),
        checksum_type: verified.is_some().then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        ..Default::default()
    }))
}

/// Makes a directory, or finds it made.
async fn directory(
    gateway: &Gateway,
    context: &Context,
    name: &ObjectName,
) -> S3Result<S3Response<PutObjectOutput>> {
    let entry = gateway.namespace.mkdir(context, &name.path, MkdirMode::Parents).await.map_err(to_s3)?;
    Ok(S3Response::new(PutObjectOutput { e_tag: Some(s3_tag(&entry.etag)), ..Default::default() }))
}
