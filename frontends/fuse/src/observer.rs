//! What other frontends change, the kernel forgets before the change is acknowledged.
//!
//! The table is brought up to date first, so that a look-up that comes in between is already right.

use std::sync::Weak;

use async_trait::async_trait;
use forebay_core::{Change, ChangeKind, CommitObserver, EntryKind, NsPath, Want};

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
        let followed = server.followed(&change.path).await;
        match &change.kind {
            ChangeKind::Written => {
                for path in followed.iter().chain([&change.path]) {
                    server.written_elsewhere(path).await;
                }
            }
            ChangeKind::Attributes => {
                for inode in followed.iter().chain([&change.path]).filter_map(|path| server.table.at(path)) {
                    server.kernel.forget_inode(inode.number, Forget::Attributes).await;
                }
            }
            ChangeKind::Removed => {
                for path in followed.iter().chain([&change.path]) {
                    server.removed_elsewhere(path).await;
                }
            }
            ChangeKind::Renamed { to } => {
                if let Some(from) = followed {
                    server.removed_elsewhere(&from).await;
                }
                if let Some(to) = server.followed(to).await {
                    server.written_elsewhere(&to).await;
                }
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
    /// Where a path leads once links are followed, as other frontends follow them: the kernel does it by itself, so it
    /// knows the entry by that path. `None` where it knows of no link on the way.
    async fn followed(&self, path: &NsPath) -> Option<NsPath> {
        let is_link = |path: &NsPath| self.table.at(path).is_some_and(|inode| inode.kind == EntryKind::Link);
        if is_link(path) {
            let entry = self.namespace.stat(&self.context, path, Want::Any).await.ok()?;
            return self.table.by_id(entry.file_id)?.path();
        }
        let parent = path.parent()?;
        std::iter::successors(Some(parent.clone()), NsPath::parent).find(is_link)?;
        let directory = self.namespace.stat(&self.context, &parent, Want::Directory).await.ok()?;
        self.table.by_id(directory.file_id)?.path()?.join(path.name()).ok()
    }

    async fn written_elsewhere(&self, path: &NsPath) {
        if let Some(inode) = self.table.at(path) {
            let now = self.namespace.stat(&self.context, path, Want::Unfollowed).await;
            if now.is_ok_and(|entry| self.table.is_still(&inode, &entry)) {
                let what = match inode.kind {
                    EntryKind::File => Forget::Content,
                    EntryKind::Directory | EntryKind::Link => Forget::Attributes,
                };
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
            let inode = self.table.at(&directory).filter(|inode| inode.kind != EntryKind::Directory);
            if let Some(inode) = inode {
                self.table.replaced(&inode);
                self.forget_name(&directory).await;
            }
            next = directory.parent();
        }
    }
}
