//! Multipart uploads. Their state is the mount's and survives a restart; this module checks and translates.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use forebay_core::{Context, NsPath, PartInfo, Precondition, Publish, UploadId, UploadInfo};
use futures::FutureExt;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    ETag, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput,
    MultipartUpload, Owner, Part, StorageClass, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tracing::Instrument;

use super::put::sent_checksums;
use super::{Gateway, owner};
use crate::auth::caller;
use crate::checksum::{Algorithm, Digests, Verified};
use crate::conditions::{precondition, s3_tag, s3_time};
use crate::error::to_s3;
use crate::headers::stored_headers;
use crate::list::{self, Encoding};
use crate::name::ObjectName;
use crate::upload::Incoming;

/// Highest part number.
const PARTS_MAX: u32 = 10_000;
/// Smallest size of a part that is not the last.
const PART_BYTES_MIN: u64 = 5 << 20;
/// After this long, a completion answers with its head and whitespace, so that clients do not time out.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(5);

/// A part's number.
///
/// # Errors
/// `InvalidArgument` outside 1 to 10000.
pub(super) fn part_number(number: i32) -> S3Result<u32> {
    match u32::try_from(number) {
        Ok(number @ 1..=PARTS_MAX) => Ok(number),
        Ok(_) | Err(_) => Err(s3_error!(InvalidArgument, "part numbers run from 1 to {PARTS_MAX}")),
    }
}

fn object_name(bucket: &str, key: &str) -> S3Result<ObjectName> {
    let name = ObjectName::parse(bucket, key)?;
    if name.is_directory {
        return Err(s3_error!(InvalidArgument, "a key that ends in `/` is a directory and takes no content"));
    }
    Ok(name)
}

/// `CreateMultipartUpload`.
pub(super) async fn create(
    gateway: &Gateway,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let context = caller(&request)?;
    let mut input = request.input;
    let name = object_name(&input.bucket, &input.key)?;
    gateway.require_bucket(&context, &name.bucket).await?;
    let headers = stored_headers!(input)?;
    let upload = gateway.namespace.create_upload(&context, &name.path, headers).await.map_err(to_s3)?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload.0),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..Default::default()
    }))
}

/// `UploadPart`.
pub(super) async fn part(
    gateway: &Gateway,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let context = caller(&request)?;
    let mut input = request.input;
    let name = object_name(&input.bucket, &input.key)?;
    let number = part_number(input.part_number)?;
    let incoming = Incoming::new(input.body.take(), input.content_length)?;
    let mut digests = Digests::new(&sent_checksums!(input), &request.headers)?;
    let upload = UploadId(input.upload_id);
    let staged = gateway.namespace.stage_part(&context, &name.path, (&upload, number), digests.in_head());
    let writer = staged.await.map_err(to_s3)?;
    incoming.write_to(&writer, &mut digests).await?;
    let verified = digests.verify(request.trailing_headers.as_ref())?;
    let entry = writer.publish(Publish::default()).await.map_err(to_s3)?;
    let echoed = |algorithm| Verified::value_of(verified.as_ref(), algorithm);
    Ok(S3Response::new(UploadPartOutput {
        e_tag: Some(s3_tag(&entry.etag)),
        checksum_crc32: echoed(Algorithm::Crc32),
        checksum_crc32c: echoed(Algorithm::Crc32c),
        checksum_crc64nvme: echoed(Algorithm::Crc64Nvme),
        checksum_sha1: echoed(Algorithm::Sha1),
        checksum_sha256: echoed(Algorithm::Sha256),
        ..Default::default()
    }))
}

/// Compares the parts that a client names with those that were staged.
fn chosen_parts(asked: &[CompletedPart], staged: &[PartInfo]) -> S3Result<Vec<u32>> {
    if asked.is_empty() {
        return Err(s3_error!(MalformedXML, "an upload is completed with at least one part"));
    }
    let numbers = asked.iter().map(|part| part_number(part.part_number.unwrap_or_default()));
    let numbers = numbers.collect::<S3Result<Vec<u32>>>()?;
    if !numbers.is_sorted_by(|a, b| a < b) {
        return Err(s3_error!(InvalidPartOrder, "the list of parts was not in ascending order"));
    }
    let staged: HashMap<u32, &PartInfo> = staged.iter().map(|part| (part.number, part)).collect();
    let mut small = None;
    for (part, number) in asked.iter().zip(&numbers) {
        let found = staged.get(number).filter(|found| {
            part.e_tag.as_ref().is_some_and(|tag| tag.value() == found.etag.as_str()) && agrees(part, found)
        });
        let Some(found) = found else {
            let message =
                "one or more of the specified parts could not be found or has another ETag or checksum";
            return Err(s3_error!(InvalidPart, "{message}"));
        };
        let is_last = Some(number) == numbers.last();
        small = small.or((found.size_bytes < PART_BYTES_MIN && !is_last).then_some(*number));
    }
    match small {
        Some(number) => {
            Err(s3_error!(EntityTooSmall, "part {number} is smaller than 5 MiB and not the last"))
        }
        None => Ok(numbers),
    }
}

/// Whether the checksum named with a part is the one kept with it, as far as both are there.
fn agrees(part: &CompletedPart, staged: &PartInfo) -> bool {
    let Some((algorithm, value)) = &staged.checksum else { return true };
    let named = [
        (Algorithm::Crc32, &part.checksum_crc32),
        (Algorithm::Crc32c, &part.checksum_crc32c),
        (Algorithm::Crc64Nvme, &part.checksum_crc64nvme),
        (Algorithm::Sha1, &part.checksum_sha1),
        (Algorithm::Sha256, &part.checksum_sha256),
    ];
    let named = named.into_iter().find(|(named, _)| named.name() == algorithm);
    named.and_then(|(_, named)| named.as_ref()).is_none_or(|named| named == value)
}

/// `CompleteMultipartUpload`.
pub(super) async fn complete(
    gateway: &Gateway,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let name = object_name(&input.bucket, &input.key)?;
    let upload = UploadId(input.upload_id);
    let condition = precondition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let asked = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let staged = gateway.namespace.parts(&context, &name.path, &upload).await.map_err(to_s3)?;
    let parts = chosen_parts(&asked, &staged)?;
    let output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        ..Default::default()
    };
    let publishing = publish(gateway, context, name.path, (upload, parts), condition);
    let completing = async move {
        let e_tag = Some(publishing.await?);
        Ok(CompleteMultipartUploadOutput { e_tag, ..output })
    };
    let mut completing = completing.in_current_span().boxed();
    match tokio::time::timeout(KEEP_ALIVE_AFTER, &mut completing).await {
        Ok(answer) => answer.map(S3Response::new),
        Err(_) => Ok(S3Response::new(CompleteMultipartUploadOutput {
            future: Some(completing),
            ..Default::default()
        })),
    }
}

fn publish(
    gateway: &Gateway,
    context: Context,
    path: NsPath,
    (upload, parts): (UploadId, Vec<u32>),
    condition: Precondition,
) -> impl Future<Output = S3Result<ETag>> + Send + 'static {
    let namespace = std::sync::Arc::clone(&gateway.namespace);
    async move {
        let answer = namespace.complete_upload(&context, &path, (&upload, &parts), condition).await;
        answer.map(|entry| s3_tag(&entry.etag)).map_err(to_s3)
    }
}

/// `AbortMultipartUpload`.
pub(super) async fn abort(
    gateway: &Gateway,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let name = object_name(&input.bucket, &input.key)?;
    gateway.namespace.abort_upload(&context, &name.path, &UploadId(input.upload_id)).await.map_err(to_s3)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

fn listed_part(part: &PartInfo) -> Part {
    let kept = |algorithm: Algorithm| {
        part.checksum.as_ref().filter(|(name, _)| name == algorithm.name()).map(|(_, value)| value.clone())
    };
    Part {
        checksum_crc32: kept(Algorithm::Crc32),
        checksum_crc32c: kept(Algorithm::Crc32c),
        checksum_crc64nvme: kept(Algorithm::Crc64Nvme),
        checksum_sha1: kept(Algorithm::Sha1),
        checksum_sha256: kept(Algorithm::Sha256),
        e_tag: Some(s3_tag(&part.etag)),
        last_modified: Some(s3_time(part.modified)),
        part_number: Some(part.number as i32),
        size: Some(part.size_bytes as i64),
    }
}

fn initiator(owner: &Owner) -> Initiator {
    Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }
}

/// `ListParts`.
pub(super) async fn list_parts(
    gateway: &Gateway,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let name = object_name(&input.bucket, &input.key)?;
    let upload = UploadId(input.upload_id);
    let max_parts = list::limit(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or_default();
    let parts = gateway.namespace.parts(&context, &name.path, &upload).await.map_err(to_s3)?;
    let rest: Vec<&PartInfo> =
        parts.iter().filter(|part| i64::from(part.number) > i64::from(marker)).collect();
    let shown: Vec<Part> = rest.iter().take(max_parts).map(|part| listed_part(part)).collect();
    let owner = owner(&context);
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload.0),
        initiator: Some(initiator(&owner)),
        owner: Some(owner),
        is_truncated: Some(rest.len() > shown.len()),
        max_parts: Some(max_parts as i32),
        next_part_number_marker: shown.last().and_then(|part| part.part_number),
        part_number_marker: Some(marker),
        parts: Some(shown),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

/// The uploads of one page, with their keys.
struct UploadPage {
    uploads: Vec<(String, UploadInfo)>,
    prefixes: BTreeSet<String>,
    is_truncated: bool,
    /// Key (or prefix) and upload id where the next page starts.
    next: Option<(String, String)>,
}

fn upload_page(
    found: Vec<(String, UploadInfo)>,
    input: &ListMultipartUploadsInput,
    max: usize,
) -> UploadPage {
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let delimiter = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let group = |key: &str| {
        let delimiter = delimiter?;
        let at = key.get(prefix.len()..)?.find(delimiter)?;
        Some(key[..prefix.len() + at + delimiter.len()].to_owned())
    };
    let key_marker = input.key_marker.as_deref().unwrap_or_default();
    let id_marker = input.upload_id_marker.as_deref();
    let is_after = |key: &str, id: &str| match key.cmp(key_marker) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => id_marker.is_some_and(|marker| id > marker),
        std::cmp::Ordering::Less => false,
    };
    let mut page =
        UploadPage { uploads: Vec::new(), prefixes: BTreeSet::new(), is_truncated: false, next: None };
    for (key, upload) in found {
        let group = group(&key);
        let is_known = group.as_ref().is_some_and(|group| {
            page.prefixes.contains(group) || (!key_marker.is_empty() && group == key_marker)
        });
        if is_known || !is_after(&key, &upload.upload.0) {
            continue;
        }
        if page.uploads.len() + page.prefixes.len() == max {
            page.is_truncated = max > 0;
            break;
        }
        if let Some(group) = group {
            page.next = Some((group.clone(), String::new()));
            page.prefixes.insert(group);
        } else {
            page.next = Some((key.clone(), upload.upload.0.clone()));
            page.uploads.push((key, upload));
        }
    }
    page
}

/// `ListMultipartUploads`.
pub(super) async fn list_uploads(
    gateway: &Gateway,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max = list::limit(input.max_uploads)?;
    let bucket = gateway.bucket(&context, &input.bucket).await?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let found = gateway.namespace.uploads(&context, &bucket, &prefix).await.map_err(to_s3)?;
    let found =
        found.into_iter().map(|(path, upload)| (ObjectName::key_of(&bucket, &path), upload)).collect();
    let page = upload_page(found, &input, max);
    let owner = owner(&context);
    let listed = |(key, upload): (String, UploadInfo)| MultipartUpload {
        initiated: Some(s3_time(upload.started)),
        initiator: Some(initiator(&owner)),
        key: Some(encoding.write(&key)),
        owner: Some(owner.clone()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(upload.upload.0),
        ..Default::default()
    };
    let (next_key, next_id) = page.next.filter(|_| page.is_truncated).unzip();
    let prefixes = page.prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(encoding.write(prefix)) });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        common_prefixes: Some(prefixes.collect()),
        uploads: Some(page.uploads.into_iter().map(listed).collect()),
        is_truncated: Some(page.is_truncated),
        next_key_marker: next_key.map(|key| encoding.write(&key)),
        next_upload_id_marker: next_id,
        bucket: Some(input.bucket),
        delimiter: input.delimiter.map(|delimiter| encoding.write(&delimiter)),
        key_marker: input.key_marker.map(|key| encoding.write(&key)),
        upload_id_marker: input.upload_id_marker,
        max_uploads: Some(max as i32),
        prefix: Some(encoding.write(&prefix)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
