//! What a NameNode says of a file or directory, and the version made of it.
//!
//! A file of HDFS has a number of its own that is never given again, and its content changes by appending and
//! truncating only. So (number, modification time, length) names a content, and the tag made of it begins with the
//! number: a read finds the file wherever it was moved.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forebay_core::{ETag, FileId, Headers};
use serde::Deserialize;

use crate::backend::Object;

/// Hex digits of a file's number in its tag, and of the hash after it.
const TAG_DIGITS: usize = 16;

/// File, directory, or what this gateway does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
}

/// A `FileStatus` of WebHDFS.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// Never given to another file.
    pub(super) file_id: u64,
    pub(super) length: u64,
    /// Milliseconds since the epoch.
    pub(super) modification_time: u64,
    /// The name in its directory; empty for what was asked for itself.
    pub(super) path_suffix: String,
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    /// Entries of a directory.
    #[serde(default)]
    pub(super) children_num: Option<u64>,
}

impl Status {
    pub(super) fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub(super) fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.modification_time)
    }

    /// The tag of a file's present content: 32 hex digits and `-1`, so that nobody takes it for an MD5.
    pub(super) fn tag(&self) -> ETag {
        let numbers = [self.file_id, self.modification_time, self.length].map(u64::to_le_bytes);
        let hash = FileId::of(&[&numbers[0], &numbers[1], &numbers[2]]).to_string();
        ETag::new(&format!("{:016x}{}-1", self.file_id, &hash[..TAG_DIGITS]))
    }

    /// This file as the port shows it.
    pub(super) fn file(&self, key: String, headers: Option<Arc<Headers>>) -> Object {
        Object {
            key,
            is_prefix: false,
            size_bytes: self.length,
            is_weak: false,
            etag: self.tag(),
            modified: self.modified(),
            headers,
            inode: Some(self.file_id),
        }
    }

    /// This directory as the port shows it under `key`, which ends in `/`.
    pub(super) fn directory(&self, key: &str) -> Object {
        Object {
            modified: self.modified(),
            inode: Some(self.file_id),
            is_prefix: false,
            ..Object::prefix(key)
        }
    }
}

/// The number of the file that a tag was made for; `None` for tags of others.
pub(super) fn number(tag: &ETag) -> Option<u64> {
    let digits = tag.as_str().strip_suffix("-1").filter(|digits| digits.len() == 2 * TAG_DIGITS)?;
    u64::from_str_radix(digits.get(..TAG_DIGITS)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_contents_apart_and_lead_back_to_the_file() {
        let status = Status {
            file_id: 16_390,
            length: 5,
            modification_time: 1_795_593_726_154,
            path_suffix: String::new(),
            kind: Kind::File,
            children_num: Some(0),
        };
        let tag = status.tag();
        assert_eq!(tag.as_str().len(), 34);
        assert_eq!(number(&tag), Some(16_390));
        for other in [
            Status { length: 6, ..status.clone() },
            Status { modification_time: 1_795_593_726_155, ..status.clone() },
            Status { file_id: 16_391, ..status.clone() },
        ] {
            assert_ne!(other.tag(), tag);
        }
        for foreign in ["", "d41d8cd98f00b204e9800998ecf8427e", "zz-1", "é4567890123456789012345678901234-1"]
        {
            assert_eq!(number(&ETag::new(foreign)), None, "{foreign}");
        }
    }
}
