//! GETCONTENTSUMMARY and GETQUOTAUSAGE: a walk over all names below a path, in constant memory.

use forebay_core::ListQuery;
use serde_json::json;

use crate::call::Call;
use crate::error::Result;
use crate::ops::read;
use crate::reply::Reply;

/// Names per page of the walk.
const PAGE_NAMES: usize = 1000;

#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    directories: u64,
    files: u64,
    length_bytes: u64,
}

/// Counts directories from the names below them: in byte order, all names of a directory lie together.
#[derive(Default)]
struct Walk {
    summary: Summary,
    /// The directories that the last name lay in.
    inside: Vec<String>,
}

impl Walk {
    fn visit(&mut self, name: &str, size_bytes: u64) {
        let (directories, file) = name.rsplit_once('/').unwrap_or(("", name));
        let chain: Vec<&str> = directories.split('/').filter(|segment| !segment.is_empty()).collect();
        let known = self.inside.iter().zip(&chain).take_while(|(a, b)| a == *b).count();
        self.summary.directories += (chain.len() - known) as u64;
        self.inside = chain.into_iter().map(str::to_owned).collect();
        if !file.is_empty() {
            self.summary.files += 1;
            self.summary.length_bytes += size_bytes;
        }
    }
}

async fn walk(call: &Call) -> Result<Summary> {
    let entry = call.stat(&call.path).await.map_err(|e| read::missing(call, e))?;
    if !entry.is_directory() {
        return Ok(Summary { directories: 0, files: 1, length_bytes: entry.size_bytes });
    }
    let mut walk = Walk { summary: Summary { directories: 1, ..Summary::default() }, ..Walk::default() };
    let mut query = ListQuery { prefix: String::new(), shallow: false, start_after: None, limit: PAGE_NAMES };
    loop {
        let page = call.namespace().list(&call.context, &call.path, &query).await?;
        for item in &page.items {
            walk.visit(&item.name, item.entry.size_bytes);
        }
        query.start_after = page.items.last().map(|item| item.name.clone());
        if !page.is_truncated {
            return Ok(walk.summary);
        }
    }
}

/// GETCONTENTSUMMARY. There are no quotas, and every byte counts once.
pub(crate) async fn content(call: &Call) -> Result<Reply> {
    let summary = walk(call).await?;
    let summary = json!({
        "directoryCount": summary.directories, "ecPolicy": "", "fileCount": summary.files,
        "length": summary.length_bytes, "quota": -1, "snapshotDirectoryCount": 0, "snapshotFileCount": 0,
        "snapshotLength": 0, "snapshotSpaceConsumed": 0, "spaceConsumed": summary.length_bytes,
        "spaceQuota": -1, "typeQuota": {},
    });
    Ok(Reply::Json(json!({ "ContentSummary": summary }).to_string()))
}

/// GETQUOTAUSAGE.
pub(crate) async fn quota(call: &Call) -> Result<Reply> {
    let summary = walk(call).await?;
    let usage = json!({
        "fileAndDirectoryCount": summary.directories + summary.files, "quota": -1,
        "spaceConsumed": summary.length_bytes, "spaceQuota": -1, "typeQuota": {},
    });
    Ok(Reply::Json(json!({ "QuotaUsage": usage }).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_counted_once_whether_marked_or_implied() {
        let mut walk = Walk::default();
        for (name, size) in [("a/", 0), ("a/b/x", 1), ("a/b/y", 2), ("a/c/", 0), ("a.txt", 4), ("d/e/f/z", 8)]
        {
            walk.visit(name, size);
        }
        assert_eq!(walk.summary, Summary { directories: 6, files: 4, length_bytes: 15 });
    }
}
