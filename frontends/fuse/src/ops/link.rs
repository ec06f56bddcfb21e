//! Symbolic links. Nobody here follows them: the kernel does, also to what lies outside the mount.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use forebay_core::ErrorKind;
use fuser::Errno;

use crate::error::Failure;
use crate::ops::lookup::Found;
use crate::server::Server;

impl Server {
    /// Makes a symbolic link.
    pub(crate) async fn symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        owner: (u32, u32),
    ) -> Result<Found, Failure> {
        let path = self.child(parent, name)?;
        if self.is_new(&path) {
            return Err(Failure::Refused(Errno::EEXIST, "the name is taken"));
        }
        let entry = self.namespace.symlink(&self.context, &path, target.as_bytes(), owner).await?;
        Ok(self.found(&self.table.remember(&path, &entry), &entry))
    }

    /// The target of a symbolic link.
    pub(crate) async fn readlink(&self, number: u64) -> Result<Bytes, Failure> {
        let path = self.path(number)?;
        match self.namespace.read_link(&self.context, &path).await {
            // Something else is there by now.
            Err(e) if e.kind() == ErrorKind::InvalidArgument => Err(Failure::stale()),
            answer => Ok(answer?),
        }
    }
}
