use std::time::Duration;

use forebay_actors::config::{Ack, CacheDirectory, Preload, StoreConfig, WriteMode};

use super::*;

fn problems(text: &str) -> Vec<String> {
    match parse(Path::new("m.yaml"), text, Path::new("/base")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

fn assert_problem(text: &str, expected: &str) {
    let found = problems(text);
    assert!(found.iter().any(|line| line.contains(expected)), "{expected:?} is not in {found:#?}");
}

#[test]
fn shipped_sample_is_valid() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../mounts.yaml");
    let config = load(Path::new(sample)).expect("the sample is valid");
    assert!(config.gateway.s3.is_some() && config.gateway.webhdfs.is_some() && config.gateway.fuse.is_some());
    assert!(config.mounts.len() >= 2);
}

#[test]
fn commented_options_of_the_sample_are_valid_too() {
    let sample = include_str!("../../../../mounts.yaml");
    let open = sample.lines().map(|line| line.replacen("# opt ", "", 1)).collect::<Vec<_>>().join("\n");
    assert_eq!(open.matches("# opt").count(), 0);
    let unset = |line: &String| {
        !["environment variable", "cannot read", "cannot use"].iter().any(|text| line.contains(text))
    };
    let left: Vec<_> = problems(&open).into_iter().filter(unset).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn all_problems_are_told_at_once_with_line_and_remedy() {
    let text = "gateway:\n  listners: {}\n  cache: {memory: {size: lots}}\nmounts:\n  /data: {store: ftp}\n  /data: {store: memory}\n  /Bad_Name: {store: memory}\n";
    let found = problems(text);
    for expected in [
        "m.yaml:2:3: unknown key `gateway.listners`; did you mean `listeners`?",
        "m.yaml:3:26: `gateway.cache.memory.size` must be a size such as 512MiB, 4GiB or 1GB; `lots` is not",
        "m.yaml:5:18: `/data.store` must be one of fs, memory, s3, gcs, azblob, oss, cos, http, hdfs; `ftp` is not",
        "m.yaml:6:3: `/data` is already set on line 5; keep one of the two",
        "`Bad_Name` is no legal S3 bucket name",
    ] {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected:?} is not in {found:#?}");
    }
}

#[test]
fn write_modes_are_read_and_refused_where_they_make_no_sense() {
    let mount =
        |store: &str, cache: &str| format!("mounts:\n  /data:\n    store: {store}\n    cache: {{{cache}}}\n");
    let read = |cache: &str| {
        let text = mount("memory", cache);
        parse(Path::new("m.yaml"), &text, Path::new("/base")).expect("valid").mounts[0].write
    };
    assert_eq!(read("ttl: 1h"), WriteMode::Through);
    assert_eq!(read("write: around"), WriteMode::Around);
    assert_eq!(read("write: back"), WriteMode::Back(Ack::NvmeFsync));
    assert_eq!(read("write: back, ack: nvme"), WriteMode::Back(Ack::Nvme));
    assert_problem(
        &mount("memory", "write: behind"),
        "must be `through`, `around` or `back`; `behind` is not",
    );
    assert_problem(&mount("memory", "ack: nvme"), "`ack` says what `write: back` waits for");
    assert_problem(
        &mount("fs\n    options: {root: /tmp/x}", "write: back"),
        "`write: back` is for object stores and HDFS",
    );
}

#[test]
fn preloads_are_once_every_so_often_or_at_a_time_of_day() {
    let mount =
        |preload: &str| format!("mounts:\n  /data:\n    store: memory\n    cache: {{preload: {preload}}}\n");
    let read = |preload: &str| {
        parse(Path::new("m.yaml"), &mount(preload), Path::new("/base")).expect("valid").mounts[0].preload
    };
    assert_eq!((read("true"), read("false")), (Some(Preload::Once), None));
    assert_eq!(read("{every: 24h}"), Some(Preload::Every(Duration::from_hours(24))));
    for written in ["{at: \"02:30\"}", "{at: 02:30}"] {
        assert_eq!(read(written), Some(Preload::Daily(Duration::from_mins(150))), "{written}");
    }
    for wrong in ["{at: 24:00}", "{at: 2:30}", "{at: 02:60}", "{at: 0230}", "{at: noon}"] {
        assert_problem(&mount(wrong), "must be a time of day such as \"02:30\", in UTC");
    }
    for wrong in ["{at: 02:30, every: 1h}", "{}"] {
        assert_problem(&mount(wrong), "write `{every: 24h}`, or `{at: \"02:30\"}`");
    }
}

#[test]
fn syntax_errors_name_their_line() {
    assert_problem("mounts:\n  /a: [1\n", "m.yaml:");
    assert_problem("a: &x 1\nb: *x\n", "anchors");
}

#[test]
fn missing_secrets_are_named_and_present_ones_never_shown() {
    let mount = |secret: &str| {
        format!(
            "mounts:\n  /abc:\n    store: s3\n    options: {{bucket: b, region: r, access_key_id: i, secret_access_key: '{secret}'}}\n"
        )
    };
    assert_problem(
        &mount("${env:FOREBAY_TEST_UNSET}"),
        "the environment variable FOREBAY_TEST_UNSET is not set",
    );
    assert_problem(&mount("${file:/nonexistent/secret}"), "cannot read /nonexistent/secret");
    assert_problem(&mount("${vault:x}"), "write `${env:NAME}` or `${file:/path}`");
    let text = mount("hunter2");
    let config = parse(Path::new("m.yaml"), &text, Path::new("/base")).expect("valid");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn each_kind_of_store_takes_one_way_to_sign_in() {
    let mount = |store: &str, options: &str| {
        format!("mounts:\n  /abc:\n    store: {store}\n    options: {{{options}}}\n")
    };
    let azure = "container: c, endpoint: 'https://a.blob.core.windows.net'";
    for (store, options) in [
        ("gcs", "bucket: b, credential_path: k.json".to_owned()),
        ("gcs", "bucket: b, skip_signature: true, endpoint: 'http://127.0.0.1:1'".to_owned()),
        ("azblob", format!("{azure}, account_name: a, account_key: aGk=")),
        ("azblob", format!("{azure}, sas_token: s")),
        ("oss", "bucket: b, endpoint: 'https://oss', access_key_id: i, access_key_secret: s".to_owned()),
        ("cos", "bucket: b-1, endpoint: 'https://cos', secret_id: i, secret_key: s".to_owned()),
        ("http", "endpoint: 'https://h/data/', username: u, password: p".to_owned()),
        ("http", "endpoint: 'https://h'".to_owned()),
    ] {
        assert_eq!(problems(&mount(store, &options)), Vec::<String>::new(), "{store} {options}");
    }
    assert_problem(&mount("gcs", "bucket: b"), "m.yaml:4:14: write exactly one of `credential_path`");
    assert_problem(&mount("gcs", "bucket: b, token: t, vm_metadata: true"), "write exactly one of");
    assert_problem(&mount("azblob", &format!("{azure}, account_name: a")), "together");
    assert_problem(&mount("http", "endpoint: h"), "`endpoint` must be a URL such as https://HOST/PATH");
    assert_problem(&mount("http", "endpoint: 'http://h', username: u"), "`username` and `password`");
}

#[test]
fn syncs_have_a_time_and_a_store_elsewhere() {
    let mount = |store: &str, sync: &str| {
        format!("mounts:\n  /data:\n    store: {store}\n    cache: {{sync: {sync}}}\n")
    };
    let text = mount("memory", "{every: 1h}");
    let config = parse(Path::new("m.yaml"), &text, Path::new("/base")).expect("valid");
    assert_eq!(config.mounts[0].sync_every, Some(Duration::from_hours(1)));
    assert_problem(&mount("memory", "{every: 0s}"), "`every` must be more than nothing");
    assert_problem(&mount("memory", "{}"), "write `every: ");
    assert_problem(
        &mount("fs\n    options: {root: /tmp/x}", "{every: 1h}"),
        "`sync` is for stores elsewhere",
    );
}

#[test]
fn wrong_shapes_are_explained() {
    assert_problem("mounts: []\n", "must be a section");
    assert_problem(
        "mounts:\n  /abc: memory\n",
        "must be a section of `key: value` lines, not a single value",
    );
    assert_problem("mounts:\n  abc: {store: memory}\n", "cannot be a mount's path");
    assert_problem("{}\n", "there are no `mounts`");
    assert_problem("mounts:\n  /abc: {store: fs}\n", "write `options: {root: /path}`");
}

#[test]
fn open_listeners_need_protection() {
    let text = "gateway:\n  listeners:\n    webhdfs: {listen: '0.0.0.0:1'}\n    admin: {listen: '0.0.0.0:2'}\n  access:\n    - {name: a, webhdfs: {users: ['*']}, grants: [{prefix: /, access: read}]}\nmounts:\n  /abc: {store: memory}\n";
    assert_problem(text, "WebHDFS listens on loopback only");
    assert_problem(text, "the admin API listens on loopback only");
}

#[test]
fn what_is_suggested_is_what_is_usual_there_and_each_known_key_is_named_once() {
    let text = "gateway:\n  listeners: {s3: {}, webhdfs: {}, admin: {}, fuse: {zzzzzz: 1, mountpoint: /m}}\n\
                mounts:\n  /abc: {store: memory}\n";
    for (listener, port) in [("s3", 9000), ("webhdfs", 9870), ("admin", 9080)] {
        assert_problem(text, &format!("{listener}.listen` is missing; write `listen: 127.0.0.1:{port}`"));
    }
    assert_problem(text, "known here: mountpoint, allow_other, attr_ttl, passthrough");
    let unparsed = "gateway: {listeners: {admin: {listen: here}}}\nmounts:\n  /abc: {store: memory}\n";
    assert_problem(unparsed, "must be an IP address and a port, as in 127.0.0.1:PORT; `here` is not");
}

#[test]
fn credentials_belong_to_one_principal() {
    let text = "gateway:\n  access:\n    - {name: a, s3: {access_key: k, secret_key: s}, grants: [{prefix: /, access: read}]}\n    - {name: b, s3: {access_key: k, secret_key: s}, grants: [{prefix: /, access: red}]}\nmounts:\n  /abc: {store: memory}\n";
    assert_problem(text, "the S3 access key `k` is already given to the entry on line 3");
    assert_problem(text, "must be `read` or `write`; `red` is not");
}

#[test]
fn relative_paths_count_from_the_file() {
    let text = "gateway: {var: ./v}\nmounts:\n  /abc: {store: fs, options: {root: ./data}}\n";
    let config = parse(Path::new("m.yaml"), text, Path::new("/base")).expect("valid");
    assert_eq!(config.gateway.var, Path::new("/base/v"));
    let nvme = config.gateway.cache.nvme.expect("on by default");
    assert_eq!(nvme.directories, [CacheDirectory { path: "/base/v/cache".into(), size_bytes: 4 << 30 }]);
}

#[test]
fn hdfs_stores_name_one_or_two_namenodes() {
    let mount = |options: &str| format!("mounts:\n  /abc: {{store: hdfs, options: {{{options}}}}}\n");
    for (options, problem) in [
        ("root: /x", "write `endpoints: [http://namenode:9870]`"),
        ("endpoints: ['hdfs://nn:8020']", "must be URLs without a path"),
        ("endpoints: ['http://nn:9870/webhdfs']", "must be URLs without a path"),
        (
            "endpoints: ['http://a:1', 'http://b:1', 'http://c:1']",
            "one NameNode, or an active one and its standby",
        ),
        ("endpoints: ['http://nn:9870'], root: warehouse", "must be an absolute path in HDFS"),
        (
            "endpoints: ['http://nn:9870'], user: me, delegation_token: t",
            "write `user` or `delegation_token`",
        ),
    ] {
        assert_problem(&mount(options), problem);
    }
    let text = mount("endpoints: 'http://nn:9870/', root: /warehouse/, user: me, doas: you");
    let config = parse(Path::new("m.yaml"), &text, Path::new("/base")).expect("valid");
    let StoreConfig::Hdfs(hdfs) = &config.mounts[0].store else { panic!("not an HDFS store") };
    assert_eq!(
        (hdfs.endpoints.as_slice(), hdfs.root.as_str()),
        (&["http://nn:9870".to_owned()][..], "/warehouse")
    );
}
