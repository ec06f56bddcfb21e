//! What an application sees through a real mount, over a store that lends real files.
//!
//! Skipped, with the reason printed, where the machine allows no FUSE mount.

mod double;
mod links;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forebay_core::{
    AccessBuilder, Context, DeleteMode, Grant, METRICS, MountTable, Namespace, NsPath, Permission, Principal,
    Publish,
};

use self::double::{Double, Traits};
use crate::{FuseConfig, FuseSession};

const IN_PLACE: Traits = Traits { is_in_place: true, lends: true };
const OBJECTS: Traits = Traits { is_in_place: false, lends: true };
const REMOTE: Traits = Traits { is_in_place: false, lends: false };

/// A mounted double.
struct Stage {
    runtime: tokio::runtime::Runtime,
    session: Option<FuseSession>,
    namespace: Arc<Namespace>,
    double: Arc<Double>,
    other: Context,
    mountpoint: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(traits: Traits) -> Option<Self> {
        Self::with(traits, Duration::from_hours(1), true)
    }

    fn with(traits: Traits, attr_ttl: Duration, passthrough: bool) -> Option<Self> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let mountpoint = directory.path().join("mnt");
        let double = Double::new(traits).expect("a directory");
        let mount: Arc<dyn forebay_core::Mount> = Arc::clone(&double) as _;
        let table = MountTable::new([(path("/m"), mount)]).expect("one mount");
        let namespace = Arc::new(Namespace::new(table, SystemTime::UNIX_EPOCH));
        let grants = vec![Grant { prefix: NsPath::root(), permission: Permission::Write }];
        let principal = Arc::new(Principal { name: "owner".into(), grants });
        let access = AccessBuilder::default().fuse(&principal).build();
        let config = FuseConfig { mountpoint, attr_ttl, passthrough, ..FuseConfig::default() };
        let mounted = FuseSession::mount(&config, Arc::clone(&namespace), &access, runtime.handle().clone());
        let session = match mounted {
            Ok(session) => session,
            Err(e) => {
                eprintln!("skipped: {e}");
                return None;
            }
        };
        Some(Self {
            runtime,
            session: Some(session),
            namespace,
            double,
            other: Context::new(principal),
            mountpoint: config.mountpoint,
            _directory: directory,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mountpoint.join("m").join(name)
    }

    /// Puts a whole content as another frontend does.
    fn put(&self, name: &str, content: &str) {
        let content = Bytes::from(content.to_owned());
        self.runtime
            .block_on(async {
                let writer = self.namespace.replace(&self.other, &path(&format!("/m/{name}"))).await?;
                writer.write_at(0, content).await?;
                writer.publish(Publish::default()).await
            })
            .expect("put");
    }

    /// Reads as another frontend does.
    fn get(&self, name: &str) -> Option<String> {
        let name = path(&format!("/m/{name}"));
        self.runtime.block_on(async {
            let file = self.namespace.open(&self.other, &name, forebay_core::Want::File).await.ok()?;
            let mut text = Vec::new();
            while (text.len() as u64) < file.entry().size_bytes {
                let rest = file.entry().size_bytes - text.len() as u64;
                let range = forebay_core::ByteRange::new(text.len() as u64, rest);
                text.extend(file.read(range).await.ok()?.read().ok()?.concat());
            }
            String::from_utf8(text).ok()
        })
    }

    fn delete(&self, name: &str) {
        let name = path(&format!("/m/{name}"));
        let deleted = self.runtime.block_on(self.namespace.delete(&self.other, &name, DeleteMode::Object));
        assert!(deleted.expect("delete"));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let unmounted = self.runtime.block_on(session.unmount(Duration::from_secs(1)));
            if !std::thread::panicking() {
                unmounted.expect("unmount");
            }
        }
    }
}

fn path(text: &str) -> NsPath {
    NsPath::parse(text).expect("valid path")
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).expect("readable")
}

fn text_of(mut file: &File) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_string(&mut text).expect("readable");
    text
}

fn opens(mode: &str) -> u64 {
    METRICS.fuse_opens.with_label_values(&[mode]).get()
}

/// The tests count opens process-wide, so they run one at a time.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits until `condition` holds; `false` when it did not in time.
fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + time;
    while !condition() {
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn a_lent_file_is_read_by_passthrough_and_its_bytes_do_not_pass_here() {
    let _alone = alone();
    let Some(stage) = Stage::new(IN_PLACE) else { return };
    stage.put("a", "content");
    let (before, bytes) = (opens("passthrough"), METRICS.client_bytes.with_label_values(&["fuse", "read"]));
    let opened = METRICS.fuse_opened_bytes.with_label_values(&["passthrough"]);
    let (read_before, opened_before) = (bytes.get(), opened.get());
    assert_eq!(read(stage.at("a")), "content");
    assert_eq!(opens("passthrough") - before, 1);
    assert_eq!(bytes.get(), read_before);
    assert_eq!(opened.get() - opened_before, 7, "its length is known");
}

#[test]
fn a_file_is_promoted_to_passthrough_after_its_last_close_and_not_before() {
    let _alone = alone();
    let Some(stage) = Stage::new(REMOTE) else { return };
    // Larger than what is held in memory.
    let content = "0123456789".repeat(150_000);
    stage.put("a", &content);
    let first = File::open(stage.at("a")).expect("open");
    stage.double.lend_files(true);
    let (passthrough, buffered) = (opens("passthrough"), opens("buffered"));
    let second = File::open(stage.at("a")).expect("open beside a buffered handle");
    assert_eq!((text_of(&first), text_of(&second)), (content.clone(), content.clone()));
    assert_eq!((opens("passthrough") - passthrough, opens("buffered") - buffered), (0, 1));
    drop((first, second));
    let deadline = SystemTime::now() + Duration::from_secs(5);
    while opens("passthrough") == passthrough && SystemTime::now() < deadline {
        // The release of the last handle reaches us after `close` has returned.
        assert_eq!(read(stage.at("a")), content);
    }
    assert_eq!(opens("passthrough") - passthrough, 1);
}

#[test]
fn a_replacement_by_another_frontend_is_a_new_inode_at_once_and_open_files_keep_the_old() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS, REMOTE] {
        let Some(stage) = Stage::new(traits) else { return };
        stage.put("a", "old");
        let open = File::open(stage.at("a")).expect("open");
        let old = fs::metadata(stage.at("a")).expect("stat").ino();
        stage.put("a", "new content");
        assert_eq!(read(stage.at("a")), "new content", "{traits:?}");
        assert_ne!(fs::metadata(stage.at("a")).expect("stat").ino(), old, "{traits:?}");
        assert_eq!(text_of(&open), "old", "{traits:?}");
        assert_eq!(open.metadata().expect("fstat").nlink(), 0, "{traits:?}");
    }
}

#[test]
fn opening_for_write_beside_passthrough_readers_moves_to_a_new_inode_unnoticed() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    stage.put("a", "old");
    let reader = File::open(stage.at("a")).expect("open");
    let mut writer =
        OpenOptions::new().write(true).open(stage.at("a")).expect("ESTALE is repeated by the kernel");
    writer.write_all(b"NEW").expect("write");
    drop(writer);
    assert_eq!(text_of(&reader), "old");
    assert_eq!(read(stage.at("a")), "NEW");
    assert_eq!(stage.get("a").as_deref(), Some("NEW"));
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    assert_eq!(fs::read_to_string(link).expect("the set-aside inode can be opened again"), "old");
}

#[test]
fn a_new_file_is_seen_here_at_once_and_by_others_when_it_is_closed() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS, REMOTE] {
        let Some(stage) = Stage::new(traits) else { return };
        let mut file = File::create(stage.at("new")).expect("create");
        file.write_all(b"one").expect("write");
        assert_eq!(fs::metadata(stage.at("new")).expect("stat").len(), 3);
        assert_eq!(read(stage.at("new")), "one", "{traits:?}");
        let names: Vec<_> =
            fs::read_dir(stage.at("")).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, ["new"]);
        drop(file);
        assert_eq!(stage.get("new").as_deref(), Some("one"), "{traits:?}");
    }
}

#[test]
fn closing_and_syncing_again_publishes_nothing_more() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    let mut file = File::create(stage.at("a")).expect("create");
    file.write_all(b"one").expect("write");
    drop(file.try_clone().expect("dup"));
    let published = stage.double.publications();
    assert_eq!(published, 1);
    file.sync_all().expect("fsync");
    file.sync_all().expect("fsync");
    drop(file.try_clone().expect("dup"));
    assert_eq!(stage.double.publications(), published);
    file.write_all(b" two").expect("write");
    drop(file);
    assert_eq!(stage.double.publications(), published + 1);
    assert_eq!(stage.get("a").as_deref(), Some("one two"));
}

#[test]
fn syncing_through_a_handle_opened_for_reading_publishes_what_another_one_wrote() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    stage.put("f", "old");
    let mut writer = OpenOptions::new().write(true).open(stage.at("f")).expect("open");
    let reader = File::open(stage.at("f")).expect("open");
    writer.write_all(b"new").expect("write");
    reader.sync_all().expect("sync");
    assert_eq!(stage.get("f").as_deref(), Some("new"));
}

#[test]
fn syncing_a_directory_syncs_it_in_its_mount() {
    let _alone = alone();
    let Some(stage) = Stage::new(IN_PLACE) else { return };
    fs::create_dir(stage.at("d")).expect("mkdir");
    File::open(stage.at("d")).expect("open").sync_all().expect("sync");
    assert_eq!(stage.double.synced(), ["d"]);
    File::open(&stage.mountpoint)
        .expect("open")
        .sync_all()
        .expect("above all mounts there is nothing to sync");
}

#[test]
fn writes_in_place_keep_the_inode_and_readers_see_them() {
    let _alone = alone();
    for (traits, passthrough) in [(IN_PLACE, true), (IN_PLACE, false), (OBJECTS, false)] {
        let Some(stage) = Stage::with(traits, Duration::from_hours(1), passthrough) else { return };
        stage.put("db", "aaaabbbbcccc");
        let file = OpenOptions::new().read(true).write(true).open(stage.at("db")).expect("open");
        let number = file.metadata().expect("fstat").ino();
        let reader = File::open(stage.at("db")).expect("open");
        file.write_all_at(b"XX", 4).expect("write");
        file.write_all_at(b"end", 20).expect("write beyond the end");
        file.set_len(22).expect("truncate");
        let expected = "aaaaXXbbcccc\0\0\0\0\0\0\0\0en";
        assert_eq!(text_of(&reader), expected, "{traits:?} passthrough {passthrough}");
        file.sync_all().expect("fsync");
        drop((file, reader));
        assert_eq!(stage.get("db").as_deref(), Some(expected));
        assert_eq!(fs::metadata(stage.at("db")).expect("stat").ino(), number);
        let mut append = OpenOptions::new().append(true).open(stage.at("db")).expect("open");
        append.write_all(b"!").expect("append");
        drop(append);
        assert_eq!(read(stage.at("db")), format!("{expected}!"));
    }
}

#[test]
fn saving_by_a_temporary_file_replaces_atomically() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS] {
        let Some(stage) = Stage::new(traits) else { return };
        stage.put("a", "old");
        let open = File::open(stage.at("a")).expect("open");
        fs::write(stage.at("a.tmp"), "new").expect("write");
        fs::rename(stage.at("a.tmp"), stage.at("a")).expect("rename over");
        assert_eq!((read(stage.at("a")), text_of(&open)), ("new".into(), "old".into()), "{traits:?}");
        assert_eq!((stage.get("a").as_deref(), stage.get("a.tmp")), (Some("new"), None));
        assert!(!stage.at("a.tmp").exists());
    }
}

#[test]
fn a_file_renamed_while_it_is_written_ends_at_its_new_path() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS] {
        let Some(stage) = Stage::new(traits) else { return };
        let mut file = File::create(stage.at("tmp")).expect("create");
        file.write_all(b"one").expect("write");
        fs::create_dir(stage.at("d")).expect("mkdir");
        fs::rename(stage.at("tmp"), stage.at("d/final")).expect("rename");
        file.write_all(b" two").expect("write");
        drop(file);
        assert_eq!(stage.get("d/final").as_deref(), Some("one two"), "{traits:?}");
        assert_eq!(stage.get("tmp"), None);
        assert_eq!(read(stage.at("d/final")), "one two");
    }
}

#[test]
fn a_file_moved_over_one_that_is_being_published_stays() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    stage.put("new", "new");
    let mut old = File::create(stage.at("held")).expect("create");
    old.write_all(b"old").expect("write");
    std::thread::scope(|scope| {
        scope.spawn(|| drop(old));
        let is_held = within(Duration::from_secs(10), || stage.double.held() == 1);
        let rename = scope.spawn(|| fs::rename(stage.at("new"), stage.at("held")));
        // Time enough to overtake.
        within(Duration::from_millis(100), || rename.is_finished());
        stage.double.release();
        rename.join().expect("no panic").expect("rename");
        assert!(is_held);
    });
    assert_eq!(stage.get("held").as_deref(), Some("new"));
}

#[test]
fn a_removed_open_file_works_on_and_is_never_published() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS] {
        let Some(stage) = Stage::new(traits) else { return };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(stage.at("a"))
            .expect("create");
        file.write_all(b"one").expect("write");
        fs::remove_file(stage.at("a")).expect("unlink");
        file.write_all(b" two").expect("write");
        assert_eq!(text_of(&file), "one two", "{traits:?}");
        assert_eq!(file.metadata().expect("fstat").len(), 7);
        drop(file);
        assert_eq!(stage.get("a"), None);
        assert!(fs::read_dir(stage.at("")).expect("list").next().is_none());
    }
}

#[test]
fn removal_by_another_frontend_is_seen_at_once_with_the_directory_that_vanished() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    stage.put("d/a", "x");
    assert_eq!(read(stage.at("d/a")), "x");
    stage.delete("d/a");
    assert_eq!(File::open(stage.at("d/a")).map_err(|e| e.kind()).err(), Some(io::ErrorKind::NotFound));
    assert!(!stage.at("d").exists());
    stage.put("d/b", "y");
    assert_eq!(read(stage.at("d/b")), "y");
}

#[test]
fn a_replacement_by_another_frontend_waits_for_no_request_in_its_directory() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    if !stage.session.as_ref().expect("mounted").server.kernel.forgets_all_names() {
        eprintln!("skipped: this kernel cannot forget all names at once (Linux 6.16)");
        return;
    }
    stage.put("removed", "x");
    fs::rename(stage.at("removed"), stage.at("held")).expect("rename");
    stage.put("other", "old");
    assert_eq!(read(stage.at("other")), "old");
    let observer = format!("fuse {}", stage.mountpoint.display());
    let late = || METRICS.observer_timeouts.with_label_values(&[&observer]).get();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| fs::remove_file(stage.at("held")));
        let is_held = within(Duration::from_secs(10), || stage.double.held() == 1);
        stage.put("other", "new");
        let was_held = !removal.is_finished();
        stage.double.release();
        removal.join().expect("no panic").expect("unlink");
        assert!(is_held && was_held);
    });
    assert_eq!(late(), 0, "the kernel was told before the commit was acknowledged");
    assert_eq!(read(stage.at("other")), "new");
    assert!(!stage.at("held").exists());
}

#[test]
fn truncation_by_path_changes_the_content_and_keeps_the_file() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS] {
        let Some(stage) = Stage::new(traits) else { return };
        stage.put("a", "content");
        let file = OpenOptions::new().write(true).open(stage.at("a")).expect("open");
        file.set_len(4).expect("truncate");
        drop(file);
        assert_eq!(stage.get("a").as_deref(), Some("cont"), "{traits:?}");
        let truncated = std::process::Command::new("truncate").args(["-s", "0"]).arg(stage.at("a")).status();
        assert!(truncated.expect("coreutils").success());
        assert_eq!(stage.get("a").as_deref(), Some(""), "{traits:?}");
        assert_eq!(fs::metadata(stage.at("a")).expect("stat").len(), 0);
    }
}

#[test]
fn attributes_set_before_the_first_publication_are_kept() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    let mut file = File::create(stage.at("a")).expect("create");
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    file.write_all(b"x").expect("write");
    let dated = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_modified(dated).expect("utimens");
    drop(file);
    let metadata = fs::metadata(stage.at("a")).expect("stat");
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(metadata.modified().expect("mtime"), dated);
    assert_eq!(stage.double.publications(), 1);
}

#[test]
fn many_readers_race_replacements_and_never_see_a_mixture() {
    let _alone = alone();
    for traits in [OBJECTS, REMOTE] {
        let Some(stage) = Stage::new(traits) else { return };
        stage.put("a", &"0".repeat(5000));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        // Once in any case, however late the thread begins.
                        loop {
                            let text = read(stage.at("a"));
                            assert_eq!(text.len(), 5000);
                            assert!(text.bytes().all(|byte| byte == text.as_bytes()[0]), "mixed");
                            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                                break;
                            }
                        }
                    })
                })
                .collect();
            for digit in 0..100 {
                stage.put("a", &(digit % 10).to_string().repeat(5000));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for reader in readers {
                reader.join().expect("no mixture");
            }
        });
    }
}

#[test]
fn a_directory_of_several_pages_is_listed_whole() {
    let _alone = alone();
    let Some(stage) = Stage::new(REMOTE) else { return };
    for i in 0..2500 {
        stage.put(&format!("f{i:04}"), "");
    }
    let mut names: Vec<_> =
        fs::read_dir(stage.at("")).expect("list").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    let expected: Vec<_> = (0..2500).map(|i| std::ffi::OsString::from(format!("f{i:04}"))).collect();
    assert_eq!(names, expected);
}

#[test]
fn unmounting_publishes_what_is_still_open() {
    let _alone = alone();
    let Some(mut stage) = Stage::new(OBJECTS) else { return };
    let mut file = File::create(stage.at("a")).expect("create");
    file.write_all(b"kept").expect("write");
    let session = stage.session.take().expect("mounted");
    stage.runtime.block_on(session.unmount(Duration::from_millis(200))).expect("detached");
    assert_eq!(stage.get("a").as_deref(), Some("kept"));
}

#[test]
fn files_whose_publication_hangs_keep_no_other_from_being_published_before_unmounting() {
    let _alone = alone();
    let Some(mut stage) = Stage::new(OBJECTS) else { return };
    let begin = |name: &str| {
        let mut file = File::create(stage.at(name)).expect("create");
        file.write_all(b"kept").expect("write");
        file
    };
    let files = ["held 1", "a", "held 2", "b", "held 3", "c"].map(begin);
    let session = stage.session.take().expect("mounted");
    let unmount = stage.runtime.spawn(session.unmount(Duration::from_secs(20)));
    let is_kept = |name: &&str| stage.get(name).as_deref() == Some("kept");
    let are_kept = within(Duration::from_secs(10), || ["a", "b", "c"].iter().all(is_kept));
    stage.double.release();
    drop(files);
    stage.runtime.block_on(unmount).expect("no panic").expect("unmounted");
    assert!(are_kept);
}

#[test]
fn names_that_cannot_be_are_refused_with_their_own_errno() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    let errno = |result: io::Result<File>| result.expect_err("refused").raw_os_error();
    let long = "x".repeat(256);
    assert_eq!(errno(File::create(stage.at(&long))), Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
    let not_utf8: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    let at = stage.at("").join(not_utf8);
    assert_eq!(errno(File::create(at)), Some(rustix::io::Errno::ILSEQ.raw_os_error()));
    stage.put("a", "x");
    let linked = fs::hard_link(stage.at("a"), stage.at("link")).expect_err("no hard links");
    assert_eq!(linked.kind(), io::ErrorKind::PermissionDenied);
}
