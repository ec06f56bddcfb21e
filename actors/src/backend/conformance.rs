//! One suite for every store of flat keys: what the port promises, checked against an empty store.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use forebay_core::{ByteRange, ETag, ErrorKind, Headers, ListQuery, Precondition, Result};

use super::{Backend, Object, ObjectPage, Source};

/// A source of one file with this text.
pub(crate) fn source(text: &str) -> Source {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("writes");
    Source::new(vec![(Arc::new(file), text.len() as u64)])
}

/// Runs the suite; the store must be empty and is empty afterwards.
pub(crate) async fn check(backend: &dyn Backend) {
    objects_read_back_as_written(backend).await;
    sources_of_several_files_are_joined(backend).await;
    replaced_objects_are_stale(backend).await;
    conditions_are_checked(backend).await;
    headers_are_kept(backend).await;
    names_are_exact(backend).await;
    deletes_are_idempotent(backend).await;
    copies_equal_their_source(backend).await;
    listings_are_complete_and_ordered(backend).await;
}

async fn put(backend: &dyn Backend, key: &str, text: &str) -> Object {
    let stored = backend.put(key, &source(text), &Headers::default(), &Precondition::None).await;
    stored.unwrap_or_else(|e| panic!("put {key:?}: {e:?}"))
}

async fn read(backend: &dyn Backend, object: &Object) -> Result<String> {
    let range = ByteRange::new(0, object.size_bytes);
    let bytes = backend.read(&object.key, range, &object.etag).await?;
    Ok(String::from_utf8(bytes.to_vec()).expect("text"))
}

async fn clean(backend: &dyn Backend) {
    let query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: 1000 };
    loop {
        let page = backend.list(&query).await.expect("lists");
        // Emptied directories of a hierarchical store show up in the next listing.
        if page.objects.is_empty() {
            return;
        }
        for object in &page.objects {
            backend.delete(&object.key).await.expect("deletes");
        }
    }
}

async fn objects_read_back_as_written(backend: &dyn Backend) {
    let written = put(backend, "dir/file", "0123456789").await;
    let seen = backend.stat("dir/file").await.expect("is there");
    assert_eq!((seen.size_bytes, &seen.etag, seen.is_prefix), (10, &written.etag, false));
    assert_eq!(seen.modified, written.modified);
    assert_eq!(read(backend, &seen).await.expect("reads"), "0123456789");
    let middle = backend.read("dir/file", ByteRange::new(3, 4), &seen.etag).await.expect("reads");
    assert_eq!(&middle[..], b"3456");
    let empty = put(backend, "dir/empty", "").await;
    assert_eq!(read(backend, &empty).await.expect("reads"), "");
    assert_eq!(backend.stat("dir").await.map_err(|e| e.kind()).err(), Some(ErrorKind::NotFound));
    assert_eq!(backend.stat("dir/").await.is_ok(), backend.capability().hierarchical);
    clean(backend).await;
}

async fn sources_of_several_files_are_joined(backend: &dyn Backend) {
    let files: Vec<(Arc<File>, u64)> = ["ab", "", "cde"].iter().flat_map(|text| source(text).files).collect();
    let stored = backend.put("joined", &Source::new(files), &Headers::default(), &Precondition::None).await;
    assert_eq!(read(backend, &stored.expect("stores")).await.expect("reads"), "abcde");
    clean(backend).await;
}

async fn replaced_objects_are_stale(backend: &dyn Backend) {
    let before = put(backend, "k", "before").await;
    let after = put(backend, "k", "after!").await;
    assert_ne!(before.etag, after.etag);
    assert_eq!(read(backend, &before).await.map_err(|e| e.kind()), Err(ErrorKind::Stale));
    assert_eq!(read(backend, &after).await.expect("reads"), "after!");
    backend.delete("k").await.expect("deletes");
    assert_eq!(read(backend, &after).await.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
}

async fn conditions_are_checked(backend: &dyn Backend) {
    if !backend.capability().checks(&Precondition::Absent) {
        return;
    }
    let put = async |text, condition| {
        backend.put("c", &source(text), &Headers::default(), &condition).await.map_err(|e| e.kind())
    };
    let refused = Some(ErrorKind::PreconditionFailed);
    assert_eq!(put("0", Precondition::Matches(ETag::new("x"))).await.err(), refused);
    let first = put("1", Precondition::Absent).await.expect("absent");
    assert_eq!(put("2", Precondition::Absent).await.err(), refused);
    assert_eq!(put("2", Precondition::Matches(ETag::new("x"))).await.err(), refused);
    assert_eq!(read(backend, &first).await.expect("unchanged"), "1");
    put("3", Precondition::Matches(first.etag)).await.expect("matches");
    let now = backend.stat("c").await.expect("is there");
    assert_eq!(read(backend, &now).await.expect("reads"), "3");
    clean(backend).await;
}

async fn headers_are_kept(backend: &dyn Backend) {
    let headers = Headers {
        content_type: Some("text/x-test".into()),
        cache_control: Some("no-cache".into()),
        content_disposition: Some("attachment; filename=\"x\"".into()),
        content_encoding: Some("zstd".into()),
        content_language: Some("de".into()),
        expires: Some("Thu, 01 Dec 2044 16:00:00 GMT".into()),
        user: [("colour".into(), "blue".into()), ("name".into(), "Jörg ☃".into())].into(),
    };
    for condition in [Precondition::None, Precondition::Absent] {
        let stored = backend.put("h", &source("x"), &headers, &condition).await.expect("stores");
        assert_eq!(stored.headers.as_deref(), Some(&headers));
        let seen = backend.stat("h").await.expect("is there");
        assert_eq!(seen.headers.as_deref(), Some(&headers));
        clean(backend).await;
    }
}

async fn names_are_exact(backend: &dyn Backend) {
    let names =
        ["a b", " a", "a ", "A", "a%20b", "a+b", "ä", "a?b=c&d", "a#b", "d/", "d/x ", "~'()*!\"<>&\\|"];
    let text = |name: &str| if name.ends_with('/') { String::new() } else { name.to_owned() };
    for name in names {
        put(backend, name, &text(name)).await;
    }
    for name in names {
        let seen = backend.stat(name).await.unwrap_or_else(|e| panic!("stat {name:?}: {e:?}"));
        assert_eq!(read(backend, &seen).await.expect("reads"), text(name));
    }
    let marked = backend.put("m/", &source("x"), &Headers::default(), &Precondition::None).await;
    assert_eq!(marked.map_err(|e| e.kind()).err(), Some(ErrorKind::InvalidArgument));
    let mut sorted = names.to_vec();
    sorted.retain(|name| !(backend.capability().hierarchical && *name == "d/"));
    sorted.sort_unstable();
    assert_eq!(all(backend, "", false, 1000).await, sorted);
    clean(backend).await;
}

async fn deletes_are_idempotent(backend: &dyn Backend) {
    put(backend, "x/", "").await;
    put(backend, "x/y", "1").await;
    if backend.capability().hierarchical {
        assert_eq!(backend.delete("x/").await.map_err(|e| e.kind()), Err(ErrorKind::NotEmpty));
        clean(backend).await;
        backend.delete("x/").await.expect("missing is fine");
        return;
    }
    backend.delete("x/").await.expect("deletes");
    backend.delete("x/").await.expect("missing is fine");
    assert!(backend.stat("x/").await.is_err());
    assert!(backend.stat("x/y").await.is_ok());
    clean(backend).await;
}

async fn copies_equal_their_source(backend: &dyn Backend) {
    let headers = Headers { content_type: Some("text/x-test".into()), ..Headers::default() };
    backend.put("from me", &source("text"), &headers, &Precondition::None).await.expect("stores");
    match backend.copy("from me", "to/ä", None, &Precondition::None).await {
        Ok(copy) => {
            assert_eq!((copy.key.as_str(), copy.size_bytes), ("to/ä", 4));
            assert_eq!(copy.headers.as_deref(), Some(&headers));
            assert_eq!(read(backend, &copy).await.expect("reads"), "text");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
    let missing = backend.copy("not there", "to", None, &Precondition::None).await;
    assert_eq!(missing.map_err(|e| e.kind()).err(), Some(ErrorKind::NotFound));
    clean(backend).await;
}

/// All names of a listing, page by page of `limit`, checking the pages.
async fn all(backend: &dyn Backend, prefix: &str, shallow: bool, limit: usize) -> Vec<String> {
    let mut query = ListQuery { prefix: prefix.to_owned(), shallow, start_after: None, limit };
    let mut names: Vec<String> = Vec::new();
    loop {
        let ObjectPage { objects, is_truncated } = backend.list(&query).await.expect("lists");
        assert!(objects.len() <= limit && (!is_truncated || !objects.is_empty()));
        for object in objects {
            assert!(names.last().is_none_or(|last| *last < object.key), "{:?} after {names:?}", object.key);
            assert_eq!(object.is_prefix, shallow && object.key.ends_with('/') && object.key != prefix);
            names.push(object.key);
        }
        if !is_truncated {
            return names;
        }
        query.start_after = names.last().cloned();
    }
}

/// Directories of a hierarchical store show themselves only while they are empty. `d` itself is not among the keys: `MinIO` hides what lies below a key that is an object.
async fn listings_are_complete_and_ordered(backend: &dyn Backend) {
    let mut keys: Vec<_> = ["d!", "d/", "d/a", "d/b/1", "d/b/2", "d/c", "d0", "e/f/g", "z"].into();
    for key in &keys {
        put(backend, key, if key.ends_with('/') { "" } else { "1" }).await;
    }
    let seen = backend.stat("d/a").await.expect("is there");
    let query = ListQuery { prefix: "d/a".into(), shallow: true, start_after: None, limit: 10 };
    let listed = backend.list(&query).await.expect("lists").objects.remove(0);
    assert_eq!((listed.etag, listed.modified, listed.size_bytes), (seen.etag, seen.modified, 1));
    keys.sort_unstable();
    let is_hierarchical = backend.capability().hierarchical;
    keys.retain(|key| !(is_hierarchical && *key == "d/"));
    for limit in [1, 2, 3, 100] {
        assert_eq!(all(backend, "", false, limit).await, keys);
        assert_eq!(all(backend, "", true, limit).await, ["d!", "d/", "d0", "e/", "z"]);
        let below = all(backend, "d/", true, limit).await;
        assert_eq!(below[usize::from(!is_hierarchical)..], ["d/a", "d/b/", "d/c"]);
        assert_eq!(all(backend, "d", true, limit).await, ["d!", "d/", "d0"]);
        assert_eq!(all(backend, "d/b/", false, limit).await, ["d/b/1", "d/b/2"]);
        assert!(all(backend, "nothing", true, limit).await.is_empty());
    }
    for (after, expected) in [("d/", "d0"), ("d/b/1", "d0"), ("c", "d!"), ("d0", "e/"), ("e/f", "z")] {
        let after = Some(after.to_owned());
        let query = ListQuery { prefix: String::new(), shallow: true, start_after: after, limit: 1 };
        let page = backend.list(&query).await.expect("lists");
        assert_eq!(page.objects.first().map(|object| object.key.as_str()), Some(expected), "{query:?}");
    }
    let past = ListQuery { prefix: "d/".into(), shallow: true, start_after: Some("x".into()), limit: 9 };
    assert!(backend.list(&past).await.expect("lists").objects.is_empty());
    clean(backend).await;
}
