//! The whole server, asked over a socket: golden replies of a real HDFS (Hadoop 3.3.6) and the traps of clients.

use crate::config::ColonPolicy;
use crate::listener::Panic;
use crate::testing::{Served, bind};

const TRUE: &str = r#"{"boolean":true}"#;
const FALSE: &str = r#"{"boolean":false}"#;

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

/// Whether a reply is this exception with this message.
fn is_exception(reply: &(u16, String), status: u16, exception: &str, message: &str) -> bool {
    let message = serde_json::json!(message).to_string();
    let wanted = [format!("\"exception\":\"{exception}\""), format!("\"message\":{message}")];
    reply.0 == status && wanted.iter().all(|part| reply.1.contains(part))
}

/// The names in a LISTSTATUS reply, in its order.
fn names(text: &str) -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let listed = document["FileStatuses"]["FileStatus"].as_array().expect("a list").clone();
    listed.iter().map(|status| status["pathSuffix"].as_str().expect("text").to_owned()).collect()
}

macro_rules! assert_exception {
    ($reply:expr, $status:literal, $exception:literal, $message:literal) => {
        let reply = $reply;
        assert!(is_exception(&reply, $status, $exception, $message), "{reply:?}");
    };
}

#[tokio::test]
async fn files_are_made_read_and_removed_as_hadoop_does() {
    let served = Served::start();
    assert_eq!(served.op("PUT", "/b/d", "MKDIRS").await, ok(TRUE));
    assert_eq!(served.op("PUT", "/b/d", "MKDIRS").await, ok(TRUE));
    let first = served.ask("PUT", "/b/f?op=CREATE&user.name=root&overwrite=false&noredirect=FALSE", "").await;
    assert_eq!(
        (first.status, first.header("location")),
        (
            307,
            Some(format!(
                "http://{}/webhdfs/v1/b/f?op=CREATE&user.name=root&overwrite=false&data=true",
                served.address
            ))
        )
    );
    let made = served.follow("PUT", "/b/f", "CREATE", "hello world").await;
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some(format!("webhdfs://{}/b/f", served.address)))
    );
    let again = served.follow("PUT", "/b/f", "CREATE", "x").await;
    assert_exception!(
        (again.status, again.text()),
        403,
        "FileAlreadyExistsException",
        "/b/f for client 127.0.0.1 already exists"
    );
    assert_exception!(
        served.op("PUT", "/b/f", "MKDIRS").await,
        403,
        "FileAlreadyExistsException",
        "Path is not a directory: /b/f"
    );
    for op in ["MKDIRS", "CREATE&data=true"] {
        assert_exception!(
            served.op("PUT", "/b/f/x", op).await,
            403,
            "ParentNotDirectoryException",
            "/b/f (is not a directory)"
        );
    }
    let made = served.follow("PUT", "/b/new/deep/f", "CREATE", "made with its parents").await;
    assert_eq!(made.status, 201);
    let orphan = served.follow("PUT", "/b/zz/f", "CREATE&createparent=false", "x").await;
    assert_exception!(
        (orphan.status, orphan.text()),
        404,
        "FileNotFoundException",
        "Parent directory doesn't exist: /b/zz"
    );
    assert_eq!(served.op("DELETE", "/b/no", "DELETE").await, ok(FALSE));
    assert_eq!(served.op("DELETE", "/", "DELETE&recursive=true").await, ok(FALSE));
    assert_exception!(
        served.op("DELETE", "/b/new", "DELETE").await,
        403,
        "PathIsNotEmptyDirectoryException",
        "`/b/new is non empty': Directory is not empty"
    );
    assert_eq!(served.op("DELETE", "/b/new", "DELETE&recursive=TRUE").await, ok(TRUE));
    served.stop().await.expect("a clean end");
}

#[tokio::test]
async fn statuses_and_listings_look_like_hadoops() {
    let served = Served::start();
    served.create("/b/f", "hello world").await;
    served.op("PUT", "/b/d", "MKDIRS").await;
    let (status, text) = served.op("GET", "/b/f", "GETFILESTATUS").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let file = &document["FileStatus"];
    assert_eq!((&file["length"], &file["type"]), (&11.into(), &"FILE".into()));
    assert_eq!((&file["permission"], &file["pathSuffix"]), (&"644".into(), &"".into()));
    assert_exception!(
        served.op("GET", "/b/f/x", "GETFILESTATUS").await,
        404,
        "FileNotFoundException",
        "File does not exist: /b/f/x"
    );
    assert_exception!(
        served.op("GET", "/b/no", "LISTSTATUS").await,
        404,
        "FileNotFoundException",
        "File /b/no does not exist."
    );
    assert_eq!(served.op("GET", "//b//x", "GETFILESTATUS").await.0, 404);
    assert_eq!(names(&served.op("GET", "/b/", "liststatus").await.1), ["colon", "d", "f"]);
    assert_eq!(names(&served.op("GET", "/b/f", "LISTSTATUS").await.1), [""]);
    assert!(names(&served.op("GET", "/b/d", "LISTSTATUS").await.1).is_empty());
    assert_eq!(names(&served.op("GET", "", "LISTSTATUS").await.1), ["b", "o"]);
}

#[tokio::test]
async fn long_listings_come_whole_in_pages_and_batches() {
    let served = Served::start();
    for i in 0..2500 {
        served.ask("PUT", &format!("/b/l/f{i:04}?op=CREATE&user.name=root&data=true"), "").await;
    }
    let (_, text) = served.op("GET", "/b/l", "LISTSTATUS").await;
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["FileStatuses"]["FileStatus"].as_array().map(Vec::len), Some(2500));
    let (mut seen, mut after) = (0, String::new());
    loop {
        let (_, text) = served.op("GET", "/b/l", &format!("LISTSTATUS_BATCH&startAfter={after}")).await;
        let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let listing = &document["DirectoryListing"];
        let statuses = listing["partialListing"]["FileStatuses"]["FileStatus"].as_array().expect("a list");
        seen += statuses.len();
        if listing["remainingEntries"] == 0 {
            break;
        }
        after = statuses.last().and_then(|last| last["pathSuffix"].as_str()).expect("a name").to_owned();
    }
    assert_eq!(seen, 2500);
}

#[tokio::test]
async fn directories_shadow_files_of_the_same_name() {
    let served = Served::start();
    for path in ["/o/d/a", "/o/d/a-1", "/o/d/a/f", "/o/d/x"] {
        served.ask("PUT", &format!("{path}?op=CREATE&user.name=root&data=true"), "1").await;
    }
    let mut found = names(&served.op("GET", "/o/d", "LISTSTATUS").await.1);
    found.sort();
    assert_eq!(found, ["a", "a-1", "x"]);
}

#[tokio::test]
async fn names_with_colons_are_never_made_and_listed_as_the_policy_says() {
    for (policy, listed) in [(ColonPolicy::Show, vec!["a:b"]), (ColonPolicy::Hide, vec![])] {
        let served = Served::with(policy);
        assert_eq!(names(&served.op("GET", "/o/colon", "LISTSTATUS").await.1), listed);
        assert_eq!(served.op("GET", "/o/colon/a:b", "GETFILESTATUS").await.0, 200);
        for op in ["MKDIRS", "CREATE&data=true"] {
            assert_exception!(
                served.op("PUT", "/b/a:b", op).await,
                400,
                "InvalidPathException",
                "Invalid path name Invalid file name: /b/a:b"
            );
        }
    }
}

#[tokio::test]
async fn open_checks_its_range_in_both_steps() {
    let served = Served::start();
    for name in ["f", "slow"] {
        let path = format!("/b/{name}");
        served.create(&path, "hello world").await;
        assert_eq!(served.follow("GET", &path, "OPEN&offset=3&length=4", "").await.text(), "lo w");
        assert_eq!(served.follow("GET", &path, "OPEN&offset=6&length=100", "").await.text(), "world");
        let empty = served.follow("GET", &path, "OPEN&length=0", "").await;
        assert_eq!((empty.status, empty.header("content-length").as_deref()), (200, Some("0")));
        for offset in [11, 99] {
            for step in ["", "&data=true"] {
                let (status, text) = served.op("GET", &path, &format!("OPEN&offset={offset}{step}")).await;
                let message = format!("Offset={offset} out of the range [0, 11); OPEN, path={path}");
                assert!(is_exception(&(status, text), 403, "IOException", &message));
            }
        }
    }
    served.create("/b/empty", "").await;
    assert_eq!(served.read("/b/empty").await, "");
    assert_exception!(
        served.op("GET", "/b/no", "OPEN").await,
        404,
        "FileNotFoundException",
        "File /b/no not found."
    );
    served.op("PUT", "/b/d", "MKDIRS").await;
    assert_exception!(
        served.op("GET", "/b/d", "OPEN&data=true").await,
        404,
        "FileNotFoundException",
        "Path is not a file: /b/d"
    );
    let location = served.op("GET", "/b/f", "OPEN&noredirect=True").await;
    let wanted = format!("http://{}/webhdfs/v1/b/f?op=OPEN&user.name=root&data=true", served.address);
    assert_eq!(location, ok(&serde_json::json!({ "Location": wanted }).to_string()));
}

#[tokio::test]
async fn large_files_come_back_as_they_went_whether_cached_or_not() {
    let served = Served::start();
    let content: String = (0..300_000).map(|i| char::from(b'a' + (i * 7 % 26) as u8)).collect();
    for path in ["/b/large", "/b/slow-large"] {
        served.create(path, &content).await;
        assert!(served.read(path).await == content, "{path}");
    }
}

#[tokio::test]
async fn renames_answer_as_the_golden_table_says() {
    let served = Served::start();
    let rename = |from: &'static str, to: &'static str| {
        let served = &served;
        async move { served.op("PUT", from, &format!("RENAME&destination={to}")).await }
    };
    served.op("PUT", "/b/d", "MKDIRS").await;
    served.create("/b/f", "1").await;
    assert_eq!(rename("/b/f", "/b/g").await, ok(TRUE));
    assert_eq!(rename("/b/f", "/b/h").await, ok(FALSE));
    assert_eq!(rename("/b/g", "/b/d").await, ok(TRUE));
    assert_eq!(rename("/b/d/g", "/b/qq/g").await, ok(FALSE));
    served.create("/b/k", "k").await;
    assert_eq!(rename("/b/k", "/b/d/g").await, ok(FALSE));
    assert_exception!(
        rename("/b/k", "/b/d/g&renameoptions=NONE").await,
        403,
        "FileAlreadyExistsException",
        "rename destination /b/d/g already exists"
    );
    assert_eq!(rename("/b/k", "/b/d/g&renameoptions=OVERWRITE").await, ok(""));
    assert_eq!(served.read("/b/d/g").await, "k");
    assert_exception!(
        rename("/b/k", "/b/x&renameoptions=NONE").await,
        404,
        "FileNotFoundException",
        "rename source /b/k is not found."
    );
    assert_eq!(rename("/b/d", "/b/d").await, ok(FALSE));
    assert_eq!(rename("/b/d", "/b/d/e").await, ok(FALSE));
    assert_eq!(rename("/", "/b/d/e").await, ok(FALSE));
    assert_eq!(rename("/b/d/g", "/b/d/g").await, ok(TRUE));
    assert_eq!(rename("/b/d/g", "/b/d").await, ok(FALSE));
    assert_exception!(
        rename("/b/d", "b/x").await,
        400,
        "IllegalArgumentException",
        "Invalid value for webhdfs parameter \"destination\": Invalid parameter value: destination = \"b/x\" is not an absolute path."
    );
    assert_exception!(
        served.op("PUT", "/b/d", "RENAME").await,
        400,
        "IllegalArgumentException",
        "Required param destination for op: RENAME is null or empty"
    );
    assert_eq!(rename("/b/d", "/b/moved").await, ok(TRUE));
    assert_eq!(served.read("/b/moved/g").await, "k");
}

#[tokio::test]
async fn appends_concats_and_truncates_change_the_end() {
    let served = Served::start();
    served.create("/b/f", "").await;
    for piece in ["one", "two", ""] {
        assert_eq!(served.follow("POST", "/b/f", "APPEND", piece).await.status, 200);
    }
    served.create("/b/g", "three").await;
    assert_eq!(served.op("POST", "/b/f", "CONCAT&sources=/b/g").await, ok(""));
    assert_eq!(served.read("/b/f").await, "onetwothree");
    assert_eq!(served.op("GET", "/b/g", "GETFILESTATUS").await.0, 404);
    assert_eq!(served.op("POST", "/b/f", "TRUNCATE&newlength=4").await, ok(TRUE));
    assert_eq!(served.read("/b/f").await, "onet");
    assert_eq!(served.op("POST", "/b/f", "TRUNCATE&newlength=5").await.0, 400);
    assert_exception!(
        served.op("POST", "/b/no", "APPEND").await,
        404,
        "FileNotFoundException",
        "File /b/no not found."
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let served = Served::start();
    served.create("/b/f", "whole").await;
    for (method, path, op) in
        [("PUT", "/b/new", "CREATE"), ("PUT", "/b/f", "CREATE&overwrite=true"), ("POST", "/b/f", "APPEND")]
    {
        for framing in ["Content-Length: 100\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
            let head = format!(
                "{method} /webhdfs/v1{path}?op={op}&user.name=root&data=true HTTP/1.1\r\nHost: x\r\n"
            );
            let mut stream = tokio::net::TcpStream::connect(&served.address).await.expect("connect");
            let request = format!("{head}{framing}");
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("send");
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await.expect("half close");
            let mut reply = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut reply).await.ok();
            assert!(!reply.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&reply));
        }
    }
    let address = served.address.clone();
    assert_eq!(served.read("/b/f").await, "whole");
    assert_eq!(served.op("GET", "/b/new", "GETFILESTATUS").await.0, 404);
    served.stop().await.expect("a clean end");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn chunked_bodies_and_raw_utf8_names_share_a_connection() {
    let served = Served::start();
    let request = "PUT /webhdfs/v1/b/é%20ß?op=CREATE&user.name=root&data=true HTTP/1.1\r\nHost: x\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhé!!\r\n0\r\n\r\n\
        GET /webhdfs/v1/b/é%20ß?op=OPEN&user.name=root HTTP/1.1\r\nHost: x\r\nUser-Agent: Java/17\r\n\
        Connection: close\r\n\r\n";
    let reply = String::from_utf8_lossy(&served.raw(request.as_bytes()).await).into_owned();
    assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
    let location = "ocation: http://x/webhdfs/v1/b/%C3%A9%20%C3%9F?op=OPEN&user.name=root&data=true";
    assert!(reply.contains(location), "{reply}");
    assert_eq!(served.read("/b/%C3%A9%20%C3%9F").await, "hé!!");
}

#[tokio::test]
async fn java_gets_json_without_a_content_type() {
    let served = Served::start();
    for (agent, content_type) in [("Java/17.0.1", None), ("curl/8", Some("application/json"))] {
        let request = format!(
            "GET /webhdfs/v1/b?op=GETFILESTATUS&user.name=root HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n\
             Connection: close\r\n\r\n"
        );
        let reply = String::from_utf8_lossy(&served.raw(request.as_bytes()).await).to_lowercase();
        assert_eq!(reply.contains("content-type: application/json"), content_type.is_some(), "{reply}");
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_the_server_lives() {
    let served = Served::start();
    for path in ["/b/panic", "/b/slow-panic"] {
        let reply = served.op("GET", path, "GETFILESTATUS").await;
        assert!(reply.0 == 500 && reply.1.contains("RemoteException"), "{reply:?}");
    }
    assert_eq!(served.op("GET", "/b", "GETFILESTATUS").await.0, 200);
}

#[tokio::test]
async fn callers_are_known_and_kept_to_their_grants() {
    let served = Served::start();
    served.create("/b/f", "1").await;
    let status = |target: &'static str| {
        let served = &served;
        async move { served.ask("GET", target, "").await.status }
    };
    assert_eq!(status("/b/f?op=GETFILESTATUS").await, 401);
    assert_eq!(status("/b/f?op=GETFILESTATUS&user.name=nobody").await, 401);
    assert_eq!(status("/b/f?op=GETFILESTATUS&user.name=alice").await, 401);
    assert_eq!(status("/b/f?op=GETFILESTATUS&user.name=alice&delegation=t").await, 200);
    assert_eq!(status("/b/f?op=GETFILESTATUS&user.name=root&doas=reader").await, 200);
    assert_eq!(status("/b/f?op=GETFILESTATUS&user.name=root&doas=alice").await, 403);
    let refused = served.ask("DELETE", "/b/f?op=DELETE&user.name=reader", "").await;
    assert!(refused.status == 403 && refused.text().contains("AccessControlException"));
    assert_eq!(status("/b/f?op=CHECKACCESS&fsaction=r--&user.name=reader").await, 200);
    assert_eq!(status("/b/f?op=CHECKACCESS&fsaction=rw-&user.name=reader").await, 403);
}

#[tokio::test]
async fn attributes_summaries_and_constants() {
    let served = Served::start();
    served.create("/b/s/f", "four").await;
    assert_eq!(served.op("PUT", "/b/s/f", "SETPERMISSION&permission=600").await, ok(""));
    assert!(served.op("GET", "/b/s/f", "GETACLSTATUS").await.1.contains("\"permission\":\"600\""));
    assert_exception!(
        served.op("PUT", "/b/no", "SETPERMISSION&permission=600").await,
        404,
        "FileNotFoundException",
        "Directory/File does not exist /b/no"
    );
    assert_eq!(served.op("PUT", "/b/s", "SETREPLICATION&replication=2").await, ok(FALSE));
    assert_eq!(
        served.op("PUT", "/b/s/f", "SETXATTR&xattr.name=user.a&xattr.value=0x6162&flag=CREATE").await,
        ok("")
    );
    let values = served.op("GET", "/b/s/f", "GETXATTRS&encoding=text").await;
    assert_eq!(values, ok(r#"{"XAttrs":[{"name":"user.a","value":"\"ab\""}]}"#));
    assert_eq!(served.op("GET", "/b/s/f", "LISTXATTRS").await, ok(r#"{"XAttrNames":"[\"user.a\"]"}"#));
    assert_eq!(served.op("PUT", "/b/s/f", "SETXATTR&xattr.name=user.a&flag=CREATE").await.0, 403);
    assert_eq!(served.op("PUT", "/b/s/f", "REMOVEXATTR&xattr.name=user.a").await, ok(""));
    assert_eq!(
        served.op("GET", "/b/s", "GETQUOTAUSAGE").await.1,
        r#"{"QuotaUsage":{"fileAndDirectoryCount":2,"quota":-1,"spaceConsumed":4,"spaceQuota":-1,"typeQuota":{}}}"#
    );
    assert_eq!(served.op("GET", "/", "GETHOMEDIRECTORY").await, ok(r#"{"Path":"/user/root"}"#));
    assert_eq!(served.op("GET", "/", "GETDELEGATIONTOKEN").await, ok(r#"{"Token":null}"#));
    assert_eq!(served.follow("GET", "/b/s/f", "GETFILECHECKSUM", "").await.status, 400);
    assert_exception!(
        served.op("GET", "/", "NOSUCHOP").await,
        400,
        "IllegalArgumentException",
        "Invalid value for webhdfs parameter \"op\": NOSUCHOP is not a valid GET operation."
    );
    assert_exception!(
        served.op("PUT", "/b/s", "CREATESNAPSHOT").await,
        400,
        "UnsupportedOperationException",
        "op=CREATESNAPSHOT is not supported"
    );
}

#[tokio::test]
async fn a_client_that_asks_first_sends_its_body_once() {
    let served = Served::start();
    let ask = |step: &str| {
        format!(
            "PUT /webhdfs/v1/b/f?op=CREATE&user.name=root{step} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let first = String::from_utf8_lossy(&served.raw(ask("").as_bytes()).await).into_owned();
    assert!(first.starts_with("HTTP/1.1 307 "), "{first}");
    let request = format!("{}abc", ask("&data=true"));
    let second = String::from_utf8_lossy(&served.raw(request.as_bytes()).await).into_owned();
    assert!(second.starts_with("HTTP/1.1 100 ") && second.contains("HTTP/1.1 201 "), "{second}");
    assert_eq!(served.read("/b/f").await, "abc");
}

#[tokio::test]
async fn a_file_is_one_block_and_an_empty_one_none() {
    let served = Served::start();
    served.create("/b/f", "four").await;
    served.create("/b/empty", "").await;
    for (op, list) in [
        ("GETFILEBLOCKLOCATIONS", "/BlockLocations/BlockLocation"),
        ("GET_BLOCK_LOCATIONS", "/LocatedBlocks/locatedBlocks"),
    ] {
        for (path, blocks) in [("/b/f", 1), ("/b/empty", 0)] {
            let (_, text) = served.op("GET", path, op).await;
            let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let listed = document.pointer(list).and_then(|list| list.as_array());
            assert_eq!(listed.map(Vec::len), Some(blocks), "{text}");
        }
    }
}

#[tokio::test]
async fn a_listener_that_dies_says_so_and_frees_its_port() {
    let server = bind("127.0.0.1:0", ColonPolicy::Show).expect("a free port");
    let address = server.local_addr().to_string();
    let running = server.start().await.expect("started");
    running.serving.listener.do_send(Panic);
    running.until(std::future::pending()).await.expect_err("ended by itself");
    let again = bind(&address, ColonPolicy::Show).expect("the same port");
    again.run(std::future::ready(())).await.expect("a clean end");
}
