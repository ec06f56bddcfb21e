//! Identity, version and tag of a local file.
//!
//! `FileId` is made of (device, inode, birth time), so that a reused inode number is another file. The version is
//! (inode, ctime, mtime, size): ctime cannot be set back, so equal versions mean equal bytes as far as the kernel's
//! clock tells writes apart (each write that follows a look since Linux 6.13, a tick of at most 10 ms before).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forebay_core::{Attributes, ETag, Entry, EntryKind, Error, ErrorKind, FileId, Headers, Result, Version};
use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};

/// Permission bits of a mode.
pub(super) const MODE_BITS: u32 = 0o7777;

/// File, directory or symbolic link; `None` for what is none of them.
pub(super) fn kind(stat: &Statx) -> Option<EntryKind> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Link),
        _ => None,
    }
}

/// The entry of what was looked at; whatever else there is does not exist for clients.
pub(super) fn entry(stat: &Statx, headers: Option<Arc<Headers>>) -> Result<Entry> {
    let kind = kind(stat).ok_or_else(|| Error::new(ErrorKind::NotFound, "neither a file nor a directory"))?;
    let version = version(stat);
    Ok(Entry {
        file_id: file_id(stat),
        kind,
        size_bytes: if kind == EntryKind::Directory { 0 } else { stat.stx_size },
        etag: ETag::minted(&[b"fs", version.as_bytes()]),
        version: Version::Strong(version.into()),
        modified: time(stat.stx_mtime),
        attributes: Attributes {
            mode: u32::from(stat.stx_mode) & MODE_BITS,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            accessed: time(stat.stx_atime),
            changed: time(stat.stx_ctime),
        },
        headers,
    })
}

fn file_id(stat: &Statx) -> FileId {
    let mut parts = [0; 28];
    parts[..4].copy_from_slice(&stat.stx_dev_major.to_le_bytes());
    parts[4..8].copy_from_slice(&stat.stx_dev_minor.to_le_bytes());
    parts[8..16].copy_from_slice(&stat.stx_ino.to_le_bytes());
    if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
        parts[16..24].copy_from_slice(&stat.stx_btime.tv_sec.to_le_bytes());
        parts[24..].copy_from_slice(&stat.stx_btime.tv_nsec.to_le_bytes());
    }
    FileId::of(&[b"fs", &parts])
}

fn version(stat: &Statx) -> String {
    let (changed, modified) = (stat.stx_ctime, stat.stx_mtime);
    format!(
        "{:x}-{:x}.{:x}-{:x}.{:x}-{:x}",
        stat.stx_ino, changed.tv_sec, changed.tv_nsec, modified.tv_sec, modified.tv_nsec, stat.stx_size
    )
}

/// A time of the file system.
pub(super) fn time(stamp: StatxTimestamp) -> SystemTime {
    let seconds = Duration::from_secs(stamp.tv_sec.unsigned_abs());
    let whole = if stamp.tv_sec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole.unwrap_or(SystemTime::UNIX_EPOCH) + Duration::from_nanos(stamp.tv_nsec.into())
}
