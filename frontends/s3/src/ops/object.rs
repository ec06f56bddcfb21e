//! Reading objects: HEAD, GET and their attributes.

use std::ops::ControlFlow;
use std::sync::Arc;

use forebay_core::{
    ByteRange, CACHE_HEADER, Context, EPOCH_HEADER, EXPLAIN_HEADER, Entry, ErrorKind, Headers, OpenFile, Want,
};
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};
use s3s::dto::{
    GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ObjectAttributes, Range, StorageClass, StreamingBlob, TimestampFormat,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::{Gateway, only_null_version, require_read};
use crate::auth::caller;
use crate::body::body_of;
use crate::conditions::{Conditions, Verdict, s3_tag, s3_time};
use crate::error::to_s3;
use crate::headers::{DEFAULT_CONTENT_TYPE, expires};
use crate::name::ObjectName;

/// Fills an output with what HEAD and GET both tell of an object.
macro_rules! described {
    ($output:ident, $entry:expr, $headers:expr, { $($field:ident: $value:expr,)* }) => {
        $output {
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(s3_tag(&$entry.etag)),
            last_modified: Some(s3_time($entry.modified)),
            content_type: Some($headers.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned())),
            cache_control: $headers.cache_control,
            content_disposition: $headers.content_disposition,
            content_encoding: $headers.content_encoding,
            content_language: $headers.content_language,
            metadata: Some($headers.user.into_iter().collect()),
            $($field: $value,)*
            ..Default::default()
        }
    };
}

/// `HeadObject`.
pub(super) async fn head(
    gateway: &Gateway,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let context = caller(&request)?;
    let mut input = request.input;
    only_null_version(input.version_id.as_deref())?;
    refuse_part(input.part_number)?;
    let name = ObjectName::parse(&input.bucket, &input.key)?;
    let entry = stat(gateway, &context, &name).await?;
    let conditions = Conditions {
        matches: input.if_match.take(),
        none_match: input.if_none_match.take(),
        modified_since: input.if_modified_since.take(),
        unmodified_since: input.if_unmodified_since.take(),
    };
    proceed(&conditions, &entry)?;
    let stored = headers_of(&entry);
    let expires = input.response_expires.take().or_else(|| expires(&stored));
    let headers = Headers {
        content_type: input.response_content_type.or(stored.content_type),
        cache_control: input.response_cache_control.or(stored.cache_control),
        content_disposition: input.response_content_disposition.or(stored.content_disposition),
        content_encoding: input.response_content_encoding.or(stored.content_encoding),
        content_language: input.response_content_language.or(stored.content_language),
        expires: None,
        user: stored.user,
    };
    Ok(S3Response::new(described!(HeadObjectOutput, entry, headers, {
        content_length: Some(entry.size_bytes as i64),
        expires: expires,
    })))
}

/// Looks at an object or a directory marker as S3 sees it.
async fn stat(gateway: &Gateway, context: &Context, name: &ObjectName) -> S3Result<Entry> {
    require_read(context, &name.path)?;
    let found = match gateway.namespace.try_stat(context, &name.path, name.want()) {
        Some(answer) => answer,
        None => gateway.namespace.stat(context, &name.path, name.want()).await,
    };
    match found {
        Ok(entry) => Ok(entry),
        Err(e) => Err(gateway.object_error(context, &name.bucket, e).await),
    }
}

fn headers_of(entry: &Entry) -> Headers {
    entry.headers.as_deref().cloned().unwrap_or_default()
}

fn refuse_part(part: Option<i32>) -> S3Result<()> {
    match part {
        None => Ok(()),
        Some(_) => Err(s3_error!(NotImplemented, "objects do not remember the parts they were made of")),
    }
}

fn proceed(conditions: &Conditions, entry: &Entry) -> S3Result<()> {
    match conditions.evaluate(entry) {
        Verdict::Proceed => Ok(()),
        Verdict::NotModified => Err(not_modified(entry)),
        Verdict::Failed => {
            Err(s3_error!(PreconditionFailed, "at least one of the preconditions you specified did not hold"))
        }
    }
}

/// 304 with what a cache needs to go on using its copy.
fn not_modified(entry: &Entry) -> S3Error {
    let mut headers = HeaderMap::new();
    if let Ok(etag) = HeaderValue::try_from(entry.etag.quoted()) {
        headers.insert(ETAG, etag);
    }
    let mut date = Vec::new();
    let is_written = s3_time(entry.modified).format(TimestampFormat::HttpDate, &mut date).is_ok();
    if let (true, Ok(date)) = (is_written, HeaderValue::try_from(date)) {
        headers.insert(LAST_MODIFIED, date);
    }
    let mut error = s3_error!(NotModified);
    error.set_status_code(hyper::StatusCode::NOT_MODIFIED);
    error.set_headers(headers);
    error
}

/// The bytes asked for, and whether they were asked for as a range.
fn resolve(range: Option<Range>, size_bytes: u64) -> S3Result<(ByteRange, bool)> {
    let Some(range) = range else { return Ok((ByteRange::new(0, size_bytes), false)) };
    match range.check(size_bytes) {
        Ok(range) if !range.is_empty() => Ok((ByteRange::new(range.start, range.end - range.start), true)),
        Ok(_) | Err(_) => {
            let mut headers = HeaderMap::new();
            let unsatisfied = HeaderValue::try_from(format!("bytes */{size_bytes}"));
            headers.insert(CONTENT_RANGE, unsatisfied.expect("digits are a header value"));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            let mut error = s3_error!(InvalidRange, "the requested range is not satisfiable");
            error.set_headers(headers);
            Err(error)
        }
    }
}

/// `GetObject`. Conditions, range and first bytes are those of one version; when it is replaced in between, the
/// whole is repeated once.
pub(super) async fn get(
    gateway: &Gateway,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let context = caller(&request)?;
    let is_explained = request.headers.contains_key(EXPLAIN_HEADER);
    let is_data_set = request.headers.get(EPOCH_HEADER).is_some_and(|value| value == "1");
    let mut input = request.input;
    only_null_version(input.version_id.as_deref())?;
    refuse_part(input.part_number)?;
    let name = ObjectName::parse(&input.bucket, &input.key)?;
    let conditions = Conditions {
        matches: input.if_match.take(),
        none_match: input.if_none_match.take(),
        modified_since: input.if_modified_since.take(),
        unmodified_since: input.if_unmodified_since.take(),
    };
    if name.is_directory {
        let entry = stat(gateway, &context, &name).await?;
        proceed(&conditions, &entry)?;
        resolve(input.range, 0)?;
        return Ok(S3Response::new(answer(&entry, (ByteRange::new(0, 0), false), s3s::Body::empty())));
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        let opened = if is_data_set {
            gateway.namespace.open_as_data_set(&context, &name.path, Want::File).await
        } else {
            gateway.namespace.open(&context, &name.path, Want::File).await
        };
        let file = match opened {
            Ok(file) => file,
            Err(e) => return Err(gateway.object_error(&context, &name.bucket, e).await),
        };
        // As it was before this request changed it.
        let found = is_explained.then(|| explained(&*file, input.range));
        if let ControlFlow::Break(output) = read(file, &conditions, input.range, attempt == 1).await? {
            let mut response = S3Response::new(output);
            let header = |word| (HeaderName::from_static(CACHE_HEADER), HeaderValue::from_static(word));
            response.headers.extend(found.map(header));
            return Ok(response);
        }
    }
}

/// Where the bytes asked for are found.
fn explained(file: &dyn OpenFile, range: Option<Range>) -> &'static str {
    let size_bytes = file.entry().size_bytes;
    let (range, _) = resolve(range, size_bytes).unwrap_or((ByteRange::new(0, size_bytes), false));
    file.found(range)
}

/// Reads an open file up to its first bytes; goes on where it should be opened anew.
async fn read(
    file: Arc<dyn OpenFile>,
    conditions: &Conditions,
    range: Option<Range>,
    may_repeat: bool,
) -> S3Result<ControlFlow<GetObjectOutput>> {
    let entry = file.entry().clone();
    proceed(conditions, &entry)?;
    let selected = resolve(range, entry.size_bytes)?;
    match body_of(file, selected.0).await {
        Ok(body) => Ok(ControlFlow::Break(answer(&entry, selected, body))),
        Err(e) if e.kind() == ErrorKind::Stale && may_repeat => Ok(ControlFlow::Continue(())),
        Err(e) => Err(to_s3(e)),
    }
}

fn answer(entry: &Entry, (range, is_partial): (ByteRange, bool), body: s3s::Body) -> GetObjectOutput {
    let headers = headers_of(entry);
    let expires = expires(&headers);
    let content_range = is_partial
        .then(|| format!("bytes {}-{}/{}", range.offset, range.end().saturating_sub(1), entry.size_bytes));
    described!(GetObjectOutput, entry, headers, {
        content_length: Some(range.len as i64),
        content_range: content_range,
        expires: expires,
        body: Some(StreamingBlob::from(body)),
    })
}

/// `GetObjectAttributes`.
pub(super) async fn attributes(
    gateway: &Gateway,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let context = caller(&request)?;
    let input = request.input;
    only_null_version(input.version_id.as_deref())?;
    let name = ObjectName::parse(&input.bucket, &input.key)?;
    let entry = stat(gateway, &context, &name).await?;
    let asked = |attribute| input.object_attributes.iter().any(|asked| asked.as_str() == attribute);
    Ok(S3Response::new(GetObjectAttributesOutput {
        e_tag: asked(ObjectAttributes::ETAG).then(|| s3_tag(&entry.etag)),
        last_modified: Some(s3_time(entry.modified)),
        object_size: asked(ObjectAttributes::OBJECT_SIZE).then_some(entry.size_bytes as i64),
        storage_class: asked(ObjectAttributes::STORAGE_CLASS)
            .then(|| StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_object_or_refused_with_its_size() {
        let resolved = |text, size| resolve(Some(Range::parse(text).expect("well formed")), size);
        assert_eq!(resolved("bytes=2-9", 5).expect("inside").0, ByteRange::new(2, 3));
        assert_eq!(resolved("bytes=-2", 5).expect("inside").0, ByteRange::new(3, 2));
        for (text, size) in [("bytes=5-", 5), ("bytes=-0", 5), ("bytes=-1", 0), ("bytes=0-", 0)] {
            let error = resolved(text, size).expect_err(text);
            let headers = error.headers().expect("told");
            assert_eq!(headers[CONTENT_RANGE], format!("bytes */{size}").as_str());
        }
    }
}
