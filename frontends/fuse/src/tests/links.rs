//! Symbolic links as applications see them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;

use super::*;

fn target(path: PathBuf) -> Vec<u8> {
    fs::read_link(path).expect("a link").as_os_str().as_bytes().to_vec()
}

#[test]
fn links_are_made_read_listed_and_followed_as_on_a_local_file_system() {
    let _alone = alone();
    for traits in [IN_PLACE, OBJECTS] {
        let Some(stage) = Stage::new(traits) else { return };
        stage.put("d/f", "content");
        let outside = stage.mountpoint.parent().expect("a directory").join("outside");
        fs::write(&outside, "outside").expect("written");
        symlink("d/f", stage.at("relative")).expect("symlink");
        symlink(stage.at("d"), stage.at("directory")).expect("symlink");
        symlink(&outside, stage.at("outside")).expect("symlink");
        let bytes = OsStr::from_bytes(b"\xff no\n/where");
        symlink(bytes, stage.at("dangling")).expect("symlink");
        assert_eq!(target(stage.at("dangling")), bytes.as_bytes(), "{traits:?}");
        assert!(!stage.at("dangling").exists());
        let metadata = fs::symlink_metadata(stage.at("dangling")).expect("lstat");
        assert_eq!((metadata.is_symlink(), metadata.len()), (true, bytes.len() as u64));
        assert_eq!(metadata.mode() & 0o7777, 0o777);
        for name in ["relative", "directory/f", "d/../relative"] {
            assert_eq!(read(stage.at(name)), "content", "{name}");
        }
        assert_eq!(read(stage.at("outside")), "outside", "the kernel follows it wherever it leads");
        fs::write(stage.at("relative"), "written").expect("write");
        assert_eq!(stage.get("d/f").as_deref(), Some("written"));
        let mut kinds: Vec<_> = fs::read_dir(stage.at(""))
            .expect("list")
            .map(|entry| entry.expect("entry"))
            .map(|entry| (entry.file_name(), entry.file_type().expect("told").is_symlink()))
            .collect();
        kinds.sort();
        let links = kinds.iter().filter(|(_, is_link)| *is_link).count();
        assert_eq!((links, kinds.len()), (4, 5), "{kinds:?}");
        let taken = symlink("x", stage.at("dangling")).expect_err("the name is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_link(stage.at("d/f")).expect_err("a file").kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn renames_and_removals_act_on_the_link() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    fs::create_dir(stage.at("d")).expect("mkdir");
    stage.put("d/f", "content");
    symlink("d", stage.at("a")).expect("symlink");
    symlink("nowhere", stage.at("b")).expect("symlink");
    fs::rename(stage.at("a"), stage.at("b")).expect("rename over a link");
    assert_eq!((target(stage.at("b")), stage.at("a").is_symlink()), (b"d".to_vec(), false));
    let times = fs::symlink_metadata(stage.at("b")).expect("lstat");
    lchown(stage.at("b"), Some(times.uid()), Some(times.gid())).expect("lchown");
    fs::rename(stage.at("b"), stage.at("d/f")).expect("rename over a file");
    assert_eq!(target(stage.at("d/f")), b"d");
    fs::remove_file(stage.at("d/f")).expect("unlink");
    assert!(!stage.at("d/f").is_symlink());
    symlink("d", stage.at("a")).expect("the name is free again");
    fs::remove_file(stage.at("a")).expect("unlink");
    assert!(stage.at("d").is_dir());
}

#[test]
fn link_that_another_frontend_replaces_is_a_file_at_once() {
    let _alone = alone();
    let Some(stage) = Stage::new(OBJECTS) else { return };
    stage.put("f", "content");
    for content in ["f", "another"] {
        symlink("f", stage.at("link")).expect("symlink");
        assert_eq!(read(stage.at("link")), "content");
        let inode = fs::symlink_metadata(stage.at("link")).expect("lstat").ino();
        stage.put("link", content);
        assert_eq!(read(stage.at("link")), content);
        let now = fs::symlink_metadata(stage.at("link")).expect("lstat");
        assert!(now.is_file() && now.ino() != inode);
        fs::remove_file(stage.at("link")).expect("unlink");
    }
}

#[test]
fn link_that_is_replaced_by_a_link_leads_to_its_own_target() {
    let _alone = alone();
    let Some(stage) = Stage::new(IN_PLACE) else { return };
    for number in 0..20 {
        let name = number.to_string();
        stage.put(&name, &name);
        symlink(&name, stage.at("tmp")).expect("symlink");
        fs::rename(stage.at("tmp"), stage.at("current")).expect("rename");
        assert_eq!(read(stage.at("current")), name);
        assert_eq!(Path::new(&name), fs::read_link(stage.at("current")).expect("a link"));
    }
}
