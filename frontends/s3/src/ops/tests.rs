//! The operations over HTTP requests and a mount in memory. Signatures are the business of the end-to-end suite:
//! here, an anonymous principal holds the grants, or none does.

use std::sync::Arc;

use forebay_core::{Access, AccessBuilder, Grant, NsPath, Permission, Principal, Secret};
use http_body_util::BodyExt;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use s3s::Body;

use super::Gateway;
use crate::handler::Handler;
use crate::server::service;
use crate::testing::{namespace_with, principal};

struct Client(Handler);

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn code(&self) -> &str {
        between(&self.body, "<Code>", "</Code>").unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inside, _)| inside)
}

impl Client {
    async fn new(keys: &[&str], access: Access) -> Self {
        let gateway = Gateway::new(namespace_with(keys).await, "us-east-1".into());
        Self(Handler::new(service(gateway, Arc::new(access), None)))
    }

    async fn anonymous(keys: &[&str]) -> Self {
        Self::new(keys, AccessBuilder::default().anonymous(&principal()).build()).await
    }

    async fn send(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(uri).header("host", "localhost");
        if method != "GET" && method != "HEAD" {
            request = request.header("content-length", body.len());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let Ok(response) = self.0.handle(request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Reply { status: head.status, headers: head.headers, body }
    }

    async fn get(&self, uri: &str) -> Reply {
        self.send("GET", uri, &[], "").await
    }

    async fn put(&self, uri: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send("PUT", uri, headers, body).await
    }
}

#[tokio::test]
async fn what_was_put_is_read_listed_and_described_alike() {
    let client = Client::anonymous(&[]).await;
    let headers = [
        ("content-type", "text/x"),
        ("content-encoding", "gzip"),
        ("x-amz-meta-Color", "blue"),
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
    ];
    let put = client.put("/bkt/dir/k%20+", &headers, "123456789").await;
    assert_eq!((put.status.as_u16(), put.header("x-amz-checksum-crc32")), (200, "y/Q5Jg=="));
    let get = client.get("/bkt/dir/k%20+").await;
    assert_eq!((get.body.as_str(), get.header("content-type")), ("123456789", "text/x"));
    assert_eq!((get.header("x-amz-meta-color"), get.header("content-encoding")), ("blue", "gzip"));
    let head = client.send("HEAD", "/bkt/dir/k%20+", &[], "").await;
    let list = client.get("/bkt?list-type=2&encoding-type=url").await;
    assert_eq!(get.header("etag"), put.header("etag"));
    assert_eq!((head.header("etag"), head.header("content-length")), (put.header("etag"), "9"));
    let tag = put.header("etag").trim_matches('"');
    assert!(list.body.contains("<Key>dir/k%20%2B</Key>") && list.body.contains(tag), "{}", list.body);
}

#[tokio::test]
async fn nothing_of_a_bad_body_appears() {
    let client = Client::anonymous(&[]).await;
    for (headers, code) in [
        (&[("x-amz-checksum-crc32", "AAAAAA==")][..], "BadDigest"),
        (&[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")], "BadDigest"),
        (&[("content-md5", "AA")], "InvalidDigest"),
        (&[("x-amz-checksum-sha256", "AA")], "InvalidRequest"),
        (&[("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")], "NotImplemented"),
        (&[("x-amz-server-side-encryption-customer-algorithm", "AES256")], "NotImplemented"),
        (&[("if-match", "\"none\"")], "PreconditionFailed"),
    ] {
        assert_eq!(client.put("/bkt/k", headers, "body").await.code(), code, "{headers:?}");
        assert_eq!(client.get("/bkt/k").await.code(), "NoSuchKey");
    }
    let request = Request::put("/bkt/k").header("host", "h").header("content-length", 10);
    let Ok(short) = client.0.handle(request.body(Body::from("123".to_owned())).expect("a request")).await;
    assert_eq!(short.status(), StatusCode::BAD_REQUEST);
    assert_eq!(client.get("/bkt/k").await.code(), "NoSuchKey");
}

#[tokio::test]
async fn conditional_writes_and_reads_hold() {
    let client = Client::anonymous(&["k"]).await;
    let exists = client.put("/bkt/k", &[("if-none-match", "*")], "new").await;
    assert_eq!((exists.status.as_u16(), exists.code()), (412, "PreconditionFailed"));
    assert_eq!(client.put("/bkt/k", &[("if-match", "\"k\"")], "new").await.status, 200);
    let tag = client.get("/bkt/k").await.header("etag").to_owned();
    let same = client.send("GET", "/bkt/k", &[("if-none-match", &tag)], "").await;
    assert_eq!((same.status.as_u16(), same.header("etag"), same.body.as_str()), (304, tag.as_str(), ""));
    assert!(!same.header("last-modified").is_empty());
    let other = client.send("GET", "/bkt/k", &[("if-match", "\"x\"")], "").await;
    assert_eq!(other.status, 412);
}

#[tokio::test]
async fn ranges_and_response_headers_are_answered() {
    let client = Client::anonymous(&[]).await;
    client.put("/bkt/k", &[], "0123456789").await;
    let part = client.send("GET", "/bkt/k?response-content-type=text/y", &[("range", "bytes=-3")], "").await;
    assert_eq!((part.status.as_u16(), part.body.as_str()), (206, "789"));
    assert_eq!((part.header("content-range"), part.header("content-type")), ("bytes 7-9/10", "text/y"));
    let beyond = client.send("GET", "/bkt/k", &[("range", "bytes=10-")], "").await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */10"));
    assert_eq!(client.get("/bkt/k?versionId=1").await.code(), "NoSuchVersion");
    assert_eq!(client.get("/bkt/k?versionId=null").await.status, 200);
}

#[tokio::test]
async fn keys_with_a_trailing_slash_are_directories() {
    let client = Client::anonymous(&[]).await;
    assert_eq!(client.put("/bkt/d/", &[], "content").await.code(), "InvalidArgument");
    assert_eq!(client.get("/bkt/d/").await.code(), "NoSuchKey");
    assert_eq!(client.put("/bkt/d/", &[], "").await.status, 200);
    let marker = client.get("/bkt/d/").await;
    assert_eq!((marker.status.as_u16(), marker.header("content-length")), (200, "0"));
    assert_eq!(client.get("/bkt/d").await.code(), "NoSuchKey");
    assert_eq!(client.send("DELETE", "/bkt/d/", &[], "").await.status, 204);
    assert_eq!(client.get("/bkt/d/").await.code(), "NoSuchKey");
}

#[tokio::test]
async fn buckets_are_made_found_and_removed_when_empty() {
    let client = Client::anonymous(&["k"]).await;
    assert_eq!(client.put("/new-bucket", &[], "").await.status, 200);
    assert_eq!(client.put("/new-bucket", &[], "").await.code(), "BucketAlreadyOwnedByYou");
    assert_eq!(client.put("/New_Bucket", &[], "").await.code(), "InvalidBucketName");
    assert!(client.get("/").await.body.contains("<Name>new-bucket</Name>"));
    assert_eq!(client.send("DELETE", "/bkt", &[], "").await.code(), "BucketNotEmpty");
    assert_eq!(client.send("DELETE", "/new-bucket", &[], "").await.status, 204);
    assert_eq!(client.send("HEAD", "/new-bucket", &[], "").await.status, 404);
    assert_eq!(client.get("/new-bucket/k").await.code(), "NoSuchBucket");
    assert_eq!(client.put("/new-bucket/k", &[], "x").await.code(), "NoSuchBucket");
}

#[tokio::test]
async fn copies_keep_or_replace_headers_and_need_a_reason_in_place() {
    let client = Client::anonymous(&[]).await;
    client.put("/bkt/from", &[("x-amz-meta-a", "1")], "bytes").await;
    let source = ("x-amz-copy-source", "/bkt/from");
    assert_eq!(client.put("/bkt/to", &[source], "").await.status, 200);
    let copied = client.get("/bkt/to").await;
    assert_eq!((copied.body.as_str(), copied.header("x-amz-meta-a")), ("bytes", "1"));
    assert_eq!(client.put("/bkt/from", &[source], "").await.code(), "InvalidRequest");
    let replace = [source, ("x-amz-metadata-directive", "REPLACE"), ("x-amz-meta-a", "2")];
    assert_eq!(client.put("/bkt/from", &replace, "").await.status, 200);
    assert_eq!(client.get("/bkt/from").await.header("x-amz-meta-a"), "2");
    let other = [source, ("x-amz-copy-source-if-match", "\"x\"")];
    assert_eq!(client.put("/bkt/to", &other, "").await.code(), "PreconditionFailed");
    assert_eq!(client.put("/bkt/to", &[("x-amz-copy-source", "/bkt/none")], "").await.code(), "NoSuchKey");
}

#[tokio::test]
async fn deletes_report_each_key() {
    let client = Client::anonymous(&["a", "b"]).await;
    let object = |key: &str| format!("<Object><Key>{key}</Key></Object>");
    let body = format!("<Delete>{}{}{}</Delete>", object("a"), object("none"), object("x//y"));
    let reply = client.send("POST", "/bkt?delete", &[], &body).await;
    assert_eq!(reply.body.matches("<Deleted>").count(), 2, "{}", reply.body);
    assert_eq!(between(&reply.body, "<Code>", "</Code>"), Some("InvalidArgument"));
    assert_eq!(client.get("/bkt/a").await.code(), "NoSuchKey");
    let quiet = format!("<Delete><Quiet>true</Quiet>{}</Delete>", object("b"));
    assert!(!client.send("POST", "/bkt?delete", &[], &quiet).await.body.contains("<Deleted>"));
    let many = format!("<Delete>{}</Delete>", object("k").repeat(1001));
    assert_eq!(client.send("POST", "/bkt?delete", &[], &many).await.code(), "MalformedXML");
}

#[tokio::test]
async fn multipart_checks_order_size_and_tags() {
    let client = Client::anonymous(&[]).await;
    let created = client.send("POST", "/bkt/big?uploads", &[], "").await;
    let id = between(&created.body, "<UploadId>", "</UploadId>").expect("an id").to_owned();
    let large = "x".repeat(5 << 20);
    let mut tags = Vec::new();
    for (number, content) in [(1, large.as_str()), (2, "small"), (3, "end")] {
        let part = client.put(&format!("/bkt/big?partNumber={number}&uploadId={id}"), &[], content).await;
        tags.push(part.header("etag").to_owned());
    }
    let complete = |parts: Vec<(usize, String)>| {
        let each = |(n, tag): (usize, String)| {
            format!("<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>")
        };
        let parts: String = parts.into_iter().map(each).collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    };
    let uri = format!("/bkt/big?uploadId={id}");
    for (parts, code) in [
        (vec![(2, tags[1].clone()), (1, tags[0].clone())], "InvalidPartOrder"),
        (vec![(1, "\"wrong\"".to_owned())], "InvalidPart"),
        (vec![(4, tags[0].clone())], "InvalidPart"),
        (vec![(2, tags[1].clone()), (3, tags[2].clone())], "EntityTooSmall"),
    ] {
        let body = complete(parts);
        assert_eq!(client.send("POST", &uri, &[], &body).await.code(), code);
    }
    assert!(client.get("/bkt?uploads").await.body.contains(&id));
    assert_eq!(client.get(&uri).await.body.matches("<Part>").count(), 3);
    let unquoted = tags[1].trim_matches('"').to_owned();
    let done = client.send("POST", &uri, &[], &complete(vec![(1, tags[0].clone()), (2, unquoted)])).await;
    let head = client.send("HEAD", "/bkt/big", &[], "").await;
    assert!(done.body.contains(head.header("etag").trim_matches('"')), "{}", done.body);
    assert_eq!(head.header("content-length"), ((5 << 20) + 5).to_string());
    assert_eq!(client.send("DELETE", &uri, &[], "").await.code(), "NoSuchUpload");
}

#[tokio::test]
async fn settings_answer_as_if_none_was_ever_made() {
    let client = Client::anonymous(&["k"]).await;
    for (query, code) in [
        ("policy", "NoSuchBucketPolicy"),
        ("cors", "NoSuchCORSConfiguration"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("tagging", "NoSuchTagSet"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ] {
        let reply = client.get(&format!("/bkt?{query}")).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (404, code));
    }
    for query in ["versioning", "logging", "notification", "accelerate", "requestPayment", "location"] {
        assert_eq!(client.get(&format!("/bkt?{query}")).await.status, 200, "{query}");
    }
    assert!(client.get("/bkt?acl").await.body.contains("FULL_CONTROL"));
    assert!(client.get("/bkt/k?acl").await.body.contains("FULL_CONTROL"));
    assert_eq!(client.get("/bkt/k?tagging").await.status, 200);
    assert_eq!(client.put("/bkt?versioning", &[], "<VersioningConfiguration/>").await.status, 501);
    assert_eq!(client.send("OPTIONS", "/bkt/k", &[], "").await.status, 403);
}

/// Each way into the namespace, so that none can be added without its refusal.
const DOORS: &[(&str, &str)] = &[
    ("GET", "/"),
    ("HEAD", "/bkt"),
    ("GET", "/bkt"),
    ("GET", "/bkt?list-type=2"),
    ("GET", "/bkt?versions"),
    ("GET", "/bkt?uploads"),
    ("GET", "/bkt?acl"),
    ("GET", "/bkt?policy"),
    ("PUT", "/new-bucket"),
    ("DELETE", "/bkt"),
    ("POST", "/bkt?delete"),
    ("GET", "/bkt/k"),
    ("HEAD", "/bkt/k"),
    ("GET", "/bkt/k?attributes"),
    ("GET", "/bkt/k?acl"),
    ("GET", "/bkt/k?tagging"),
    ("PUT", "/bkt/k"),
    ("DELETE", "/bkt/k"),
    ("POST", "/bkt/k?uploads"),
    ("PUT", "/bkt/k?partNumber=1&uploadId=u"),
    ("POST", "/bkt/k?uploadId=u"),
    ("DELETE", "/bkt/k?uploadId=u"),
    ("GET", "/bkt/k?uploadId=u"),
];

/// How a signature is refused; any other answer came from behind the check.
const REFUSALS: &[&str] = &[
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "InvalidRequest",
];

const XML: &str = "<Delete><Object><Key>k</Key></Object></Delete>";

#[tokio::test]
async fn no_door_opens_to_the_unsigned_the_unknown_or_the_wrongly_signed() {
    let mut builder = AccessBuilder::default();
    let client =
        Client::new(&["k"], builder.s3_key("known", Secret::new("secret"), &principal()).build()).await;
    let scope = "20200101/us-east-1/s3/aws4_request";
    let signature = "0".repeat(64);
    let v4 = |key: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
        )
    };
    let (unknown, old) = (v4("nobody"), v4("known"));
    let unsigned_sha = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    for (method, uri) in DOORS {
        let date = ("x-amz-date", "20200101T000000Z");
        for headers in [
            vec![],
            vec![("authorization", "AWS known:AAAA"), ("date", "Wed, 21 Oct 2015 07:28:00 GMT")],
            vec![("authorization", unknown.as_str()), date, unsigned_sha],
            vec![("authorization", old.as_str()), date, unsigned_sha],
            vec![("authorization", "Bearer x")],
        ] {
            let reply = client.send(method, uri, &headers, XML).await;
            assert!(REFUSALS.contains(&reply.code()), "{method} {uri} {headers:?}: {}", reply.body);
        }
    }
    assert_eq!(client.get("/bkt/k").await.code(), "AccessDenied");
}

#[tokio::test]
async fn no_door_opens_without_a_grant() {
    let grants =
        vec![Grant { prefix: NsPath::parse("/other").expect("valid"), permission: Permission::Write }];
    let stranger = Arc::new(Principal { name: "stranger".into(), grants });
    let client = Client::new(&["k"], AccessBuilder::default().anonymous(&stranger).build()).await;
    for (method, uri) in DOORS.iter().filter(|(_, uri)| *uri != "/") {
        let body = match (*method, uri.rsplit_once('?')) {
            ("POST", Some((_, "delete"))) => XML,
            ("POST", Some((_, "uploadId=u"))) => "<CompleteMultipartUpload/>",
            _ => "",
        };
        let reply = client.send(method, uri, &[("x-amz-object-attributes", "ETag")], body).await;
        assert_eq!(reply.status.as_u16(), 403, "{method} {uri}: {}", reply.body);
    }
    assert!(!client.get("/").await.body.contains("<Name>bkt</Name>"));
}

#[tokio::test]
async fn readers_cannot_write() {
    let grants = vec![Grant { prefix: NsPath::root(), permission: Permission::Read }];
    let reader = Arc::new(Principal { name: "reader".into(), grants });
    let client = Client::new(&["k"], AccessBuilder::default().anonymous(&reader).build()).await;
    assert_eq!(client.get("/bkt/k").await.status, 200);
    for (method, uri) in
        [("PUT", "/bkt/k"), ("DELETE", "/bkt/k"), ("PUT", "/bkt/d/"), ("POST", "/bkt/k?uploads")]
    {
        assert_eq!(client.send(method, uri, &[], "").await.code(), "AccessDenied", "{method} {uri}");
    }
    let reply = client.send("POST", "/bkt?delete", &[], XML).await;
    assert!(reply.body.contains("<Code>AccessDenied</Code>"), "{}", reply.body);
}

#[tokio::test]
async fn panic_in_a_store_is_one_failed_request() {
    let client = Client::anonymous(&["k"]).await;
    let reply = client.get("/bkt/panic").await;
    assert_eq!((reply.status.as_u16(), reply.code()), (500, "InternalError"));
    assert!(reply.body.contains(reply.header("x-amz-request-id")));
    assert_eq!(client.get("/bkt/k").await.status, 200);
}
