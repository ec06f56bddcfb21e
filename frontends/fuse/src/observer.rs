//! What other frontends change, the kernel forgets before the change is acknowledged.
//!
//! The table is brought up to date first, so that a look-up that comes in between is already right.

use std::sync::Weak;

use async_trait::async_trait;
use forebay_core::{Change, ChangeKind, CommitObserver, NsPath, Want};

use crate::kernel::Forget;
use crate::server::Server;

/// Watches the namespace for one session, as long as the session lives.
pub(crate) struct Observer(pub(crate) Weak<Server>);

#[async_trait]
impl CommitObserver for Observer {
    async fn committed(&self, change: &Change) {
        let Some(server) = self.0.upgrade() else { return };
        if change.origin.is_some() && change.origin == server.context.origin {
            return;
        }
        match &change.kind {
            ChangeKind::Written => server.written_elsewhere(&change.path).await,
            ChangeKind::Attributes => {
                if let Some(inode) = server.table.at(&change.path) {
                    server.kernel.forget_inode(inode.number, Forget::Attributes).await;
                }
            }
            ChangeKind::Removed => server.removed_elsewhere(&change.path).await,
            ChangeKind::Renamed { to } => {
                server.table.renamed(&change.path, to);
                server.forget_name(&change.path).await;
                server.forget_vanished_parents(&change.path).await;
                server.forget_name(to).await;
                server.forget_shadowed(to).await;
            }
        }
    }
}

impl Server {
    async fn written_elsewhere(&self, path: &NsPath) {
        if let Some(inode) = self.table.at(path) {
            let now = self.namespace.stat(&self.context, path, Want::Any).await;
            if now.is_ok_and(|entry| self.table.is_still(&inode, &entry)) {
                let what = if inode.is_directory { Forget::Attributes } else { Forget::Content };
                self.kernel.forget_inode(inode.number, what).await;
            } else {
                // A staged write stays at its path: whoever publishes last wins.
                if inode.writing().is_none_or(|writing| writing.is_in_place()) {
                    self.repeats.expect(path);
                    self.table.replaced(&inode);
                }
                self.forget_name(path).await;
            }
        }
        if let Some(parent) = path.parent().and_then(|parent| self.table.at(&parent)) {
            self.kernel.forget_inode(parent.number, Forget::Attributes).await;
        }
        self.forget_shadowed(path).await;
    }

    async fn removed_elsewhere(&self, path: &NsPath) {
        self.table.removed(path);
        self.forget_name(path).await;
        self.forget_vanished_parents(path).await;
    }

    /// Makes the kernel look a name up again and ask for its directory's attributes.
    async fn forget_name(&self, path: &NsPath) {
        let Some(parent) = path.parent().and_then(|parent| self.table.at(&parent)) else { return };
        self.kernel.forget_entry(parent.number, path.name()).await;
        self.kernel.forget_inode(parent.number, Forget::Attributes).await;
    }

    /// Directories that existed only through what was removed are gone, too. One that is still there is left alone:
    /// forgetting its name would take the ground from under processes that work in it.
    async fn forget_vanished_parents(&self, path: &NsPath) {
        let mut next = path.parent();
        while let Some(directory) = next.filter(|directory| !directory.is_root()) {
            if self.namespace.stat(&self.context, &directory, Want::Directory).await.is_ok() {
                return;
            }
            self.table.removed(&directory);
            self.forget_name(&directory).await;
            next = directory.parent();
        }
    }

    /// A directory that appeared with `path` shadows a file of its name.
    async fn forget_shadowed(&self, path: &NsPath) {
        let mut next = path.parent();
        while let Some(directory) = next {
            if let Some(inode) = self.table.at(&directory).filter(|inode| !inode.is_directory) {
                self.table.replaced(&inode);
                self.forget_name(&directory).await;
            }
            next = directory.parent();
        }
    }
}
