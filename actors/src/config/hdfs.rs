//! Options of an HDFS store.

use forebay_core::Secret;

/// Options of an HDFS store, spoken to through WebHDFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HdfsStoreConfig {
    /// Base URLs of the NameNodes, without a path: the only one, or the active and the standby in any order.
    pub endpoints: Vec<String>,
    /// The directory that is mounted: `/` or `/a/b`, without a trailing slash. Made on the first write.
    pub root: String,
    /// Who is asking (`user.name`), where the cluster takes clients at their word.
    pub user: Option<String>,
    /// On whose behalf the user, who must be allowed to, asks.
    pub doas: Option<String>,
    /// Proves who is asking, in place of `user`.
    pub delegation_token: Option<Secret>,
}
