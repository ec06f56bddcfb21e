//! The jobs on the disk: a file each, replaced atomically.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_core::{Error, ErrorKind, Result};

use super::job::{Job, JobStatus, is_ended};
use crate::staging::{blocking, make_directory, replace};

/// Where the jobs of one gateway are kept.
#[derive(Clone)]
pub(super) struct Store {
    directory: PathBuf,
    /// Held while a job is written, on threads that may block: what is written last is what was true last.
    writing: Arc<Mutex<()>>,
}

impl Store {
    /// The store and what it keeps. A file that cannot be read is named in the log and left alone.
    pub(super) async fn open(directory: &Path) -> Result<(Self, Vec<JobStatus>)> {
        let store = Self { directory: directory.to_owned(), writing: Arc::default() };
        let copy = store.clone();
        let kept = blocking(move || copy.read()).await?;
        Ok((store, kept))
    }

    fn read(&self) -> Result<Vec<JobStatus>> {
        make_directory(&self.directory, 0o755)?;
        let (mut found, mut lists) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // A write that was cut off.
                Some("new") => {
                    std::fs::remove_file(&path)?;
                    continue;
                }
                Some("contents") => {
                    lists.push(path);
                    continue;
                }
                Some(_) | None => continue,
            }
            match serde_json::from_slice::<JobStatus>(&std::fs::read(&path)?) {
                Ok(status) => found.push(status),
                Err(e) => {
                    tracing::warn!(file = %path.display(), error = %e, "a job is forgotten: its file cannot be read");
                }
            }
        }
        // Those of jobs that ended as the gateway did.
        let is_open =
            |list: &PathBuf| found.iter().any(|job| !is_ended(job.state) && self.list(job.id) == *list);
        for list in lists.iter().filter(|list| !is_open(list)) {
            std::fs::remove_file(list)?;
        }
        Ok(found)
    }

    /// The list of what a job loaded.
    pub(super) fn list(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id}.contents"))
    }

    fn path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// Writes down what of a job is to be kept.
    pub(super) async fn save(&self, job: &Arc<Job>) -> Result<()> {
        let (store, job) = (self.clone(), Arc::clone(job));
        blocking(move || {
            let _turn = store.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = job.kept();
            let text = serde_json::to_vec(&kept)
                .map_err(|e| Error::new(ErrorKind::Internal, "a job cannot be written").because(e))?;
            let path = store.path(kept.id);
            replace(&path, &text).map_err(|e| e.at("write", path.display()))
        })
        .await
    }

    /// Removes the list of what a job loaded.
    pub(super) async fn remove_list(&self, id: u64) -> Result<()> {
        let list = self.list(id);
        let remove = move || match std::fs::remove_file(list) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            Ok(()) | Err(_) => Ok(()),
        };
        blocking(remove).await
    }

    /// Forgets jobs.
    pub(super) async fn remove(&self, ids: Vec<u64>) -> Result<()> {
        let paths: Vec<_> = ids.into_iter().map(|id| self.path(id)).collect();
        let remove = move || paths.iter().try_for_each(|path| Ok(std::fs::remove_file(path)?));
        blocking(remove).await
    }
}
