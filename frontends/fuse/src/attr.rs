//! Entries as the kernel wants them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use forebay_core::{Entry, EntryKind};
use fuser::{FileAttr, FileType, INodeNo};

/// What `stat` calls a block.
const BLOCK_BYTES: u64 = 512;
/// Preferred size of reads and writes, as shown by `stat`; programs use at least this.
const IO_BYTES: u32 = 4096;

/// Owner and group shown for everything, where the configuration sets them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// The type of an entry.
pub(crate) fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::File => FileType::RegularFile,
        EntryKind::Directory => FileType::Directory,
        EntryKind::Link => FileType::Symlink,
    }
}

/// The attributes of `entry` under an inode number.
pub(crate) fn of_entry(number: u64, entry: &Entry, owner: Owner) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: entry.size_bytes,
        blocks: entry.size_bytes.div_ceil(BLOCK_BYTES),
        atime: entry.attributes.accessed,
        mtime: entry.modified,
        ctime: entry.attributes.changed,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(entry.kind),
        perm: (entry.attributes.mode & 0o7777) as u16,
        nlink: if entry.is_directory() { 2 } else { 1 },
        uid: owner.uid.unwrap_or(entry.attributes.uid),
        gid: owner.gid.unwrap_or(entry.attributes.gid),
        rdev: 0,
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// The attributes of a file that is being written: size and times as its local file has them.
pub(crate) fn of_written(number: u64, entry: &Entry, file: &Metadata, owner: Owner) -> FileAttr {
    let modified = file.modified().unwrap_or(entry.modified);
    FileAttr {
        size: file.len(),
        blocks: file.blocks(),
        mtime: modified,
        ctime: modified.max(entry.attributes.changed),
        ..of_entry(number, entry, owner)
    }
}
