//! Symbolic links: objects whose content is the target, and a note in the ledger that the object with this tag is one.
//! Whatever replaces the object, here or behind our back, is a file.

use bytes::Bytes;
use forebay_core::{Entry, Error, ErrorKind, Headers, Key, Precondition, Result, Want};

use super::Core;
use super::directory::exists;
use super::request::Condition;
use crate::backend::Source;

/// Longest target, in bytes: what Linux takes as a path.
const TARGET_BYTES_MAX: usize = 4095;

impl Core {
    pub(super) async fn symlink(&self, key: &Key, target: Bytes, owner: (u32, u32)) -> Result<Entry> {
        self.check_key(key, 0)?;
        if target.len() > TARGET_BYTES_MAX {
            let message = format!("a symbolic link leads to at most {TARGET_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::NameTooLong, message));
        }
        self.require_free(key).await?;
        let (name, size_bytes) = (key.as_str(), target.len() as u64);
        let file = self.staging.light_file().await?;
        file.write_at(0, target.clone()).await?;
        let source = Source::new(vec![(file.file(), size_bytes)]);
        let condition = Condition::Own(Precondition::Absent);
        let entry = match self.put_file(key, &source, &Headers::default(), (&condition, None)).await {
            Err(e) if e.kind() == ErrorKind::PreconditionFailed => return Err(exists()),
            answer => answer?,
        };
        let made = self.ledger.make_link(name, (&target, &entry.etag), owner, self.clock.now());
        if let Err(error) = made {
            self.remove(name).await?;
            return Err(error);
        }
        Ok(self.as_wanted(key, entry, Want::Unfollowed))
    }

    pub(super) async fn read_link(&self, key: &Key) -> Result<Bytes> {
        let entry = self.stat(key, Want::Unfollowed).await?;
        let target = self.ledger.link(key.as_str(), &entry.etag);
        target.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "not a symbolic link"))
    }
}
