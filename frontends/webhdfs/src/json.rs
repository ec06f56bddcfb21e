//! Hadoop's JSON documents about files. Field order is Hadoop's (alphabetical).

use std::time::{SystemTime, UNIX_EPOCH};

use forebay_core::{Entry, EntryKind};
use serde::Serialize;

use crate::names::Names;

/// HDFS's default block size: what clients split a file by.
pub(crate) const BLOCK_BYTES: u64 = 128 << 20;

/// Milliseconds since 1970; 0 before.
pub(crate) fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// One `FileStatus`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileStatus<'a> {
    access_time: u64,
    block_size: u64,
    children_num: u64,
    file_id: i64,
    group: String,
    length: u64,
    modification_time: u64,
    owner: String,
    path_suffix: &'a str,
    permission: String,
    replication: u32,
    storage_policy: u32,
    r#type: &'static str,
}

impl<'a> FileStatus<'a> {
    /// The status of `entry`; `suffix` is its name in a listing, empty for the path itself.
    pub(crate) fn new(entry: &Entry, suffix: &'a str, names: &Names) -> Self {
        let is_file = match entry.kind {
            EntryKind::File | EntryKind::Link => true,
            EntryKind::Directory => false,
        };
        Self {
            access_time: if is_file { millis(entry.attributes.accessed) } else { 0 },
            block_size: if is_file { BLOCK_BYTES } else { 0 },
            children_num: 0,
            file_id: (entry.file_id.as_u128() >> 65) as i64,
            group: names.group(entry.attributes.gid),
            length: if is_file { entry.size_bytes } else { 0 },
            modification_time: millis(entry.modified),
            owner: names.user(entry.attributes.uid),
            path_suffix: suffix,
            permission: permission(entry),
            replication: u32::from(is_file),
            storage_policy: 0,
            r#type: if is_file { "FILE" } else { "DIRECTORY" },
        }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of numbers and strings is JSON")
    }
}

/// Permission bits as Hadoop prints them; it knows no set-user-id bits.
pub(crate) fn permission(entry: &Entry) -> String {
    format!("{:o}", entry.attributes.mode & 0o1777)
}

/// `{"boolean":…}`.
pub(crate) fn boolean(value: bool) -> String {
    format!("{{\"boolean\":{value}}}")
}
