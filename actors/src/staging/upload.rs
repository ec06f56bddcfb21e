//! Multipart uploads as files, so that they survive a restart:
//! `uploads/<id>/{upload.json, 00001.json, 00001.<random>.part}`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use forebay_core::{
    Dirty, ETag, Error, ErrorKind, Headers, Key, PartInfo, Result, Staged, UploadId, UploadInfo,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::part::StagedPart;
use super::{PRIVATE, Shared, Staging, StagingFile, blocking, make_directory, replace};

/// The highest part number of S3.
const PART_NUMBER_MAX: u32 = 10_000;

/// Name of the file that makes a directory an upload.
const UPLOAD_FILE: &str = "upload.json";

/// What an upload will become.
#[derive(Serialize, Deserialize)]
struct UploadRecord {
    key: String,
    started: SystemTime,
    headers: Headers,
}

/// A part that was staged.
#[derive(Serialize, Deserialize)]
pub(super) struct PartRecord {
    /// Name of the file with the part's bytes.
    pub(super) data: String,
    pub(super) size_bytes: u64,
    pub(super) md5: String,
    pub(super) checksum: Option<(String, String)>,
    pub(super) modified: SystemTime,
}

/// Parts picked to become one file. The open files stay readable whatever happens to the upload.
pub struct Parts {
    /// S3 headers that the upload was started with.
    pub headers: Headers,
    /// The parts in the order asked for.
    pub infos: Vec<PartInfo>,
    /// Their files with their lengths in bytes.
    pub files: Vec<(Arc<File>, u64)>,
}

impl Staging {
    /// Starts an upload of `key`.
    ///
    /// # Errors
    /// The disk's.
    pub async fn create_upload(&self, key: &Key, headers: Headers, started: SystemTime) -> Result<UploadId> {
        let record = UploadRecord { key: key.as_str().to_owned(), started, headers };
        let shared = Arc::clone(&self.0);
        blocking(move || {
            let id = Uuid::new_v4().simple().to_string();
            let directory = shared.uploads.join(&id);
            make_directory(&directory, PRIVATE)?;
            write_record(&record, &directory.join(UPLOAD_FILE))?;
            Ok(UploadId(id))
        })
        .await
    }

    /// Uploads in progress whose key starts with `prefix`, in order of (key, id).
    ///
    /// # Errors
    /// The disk's.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<UploadInfo>> {
        let (shared, prefix) = (Arc::clone(&self.0), prefix.to_owned());
        blocking(move || {
            let mut found = Vec::new();
            for entry in fs::read_dir(&shared.uploads)? {
                let entry = entry?;
                let Some(record) = read_record::<UploadRecord>(&entry.path().join(UPLOAD_FILE))? else {
                    continue;
                };
                if record.key.starts_with(&prefix) {
                    let upload = UploadId(entry.file_name().to_string_lossy().into_owned());
                    let key = Key::parse(&record.key)?;
                    found.push(UploadInfo { key, upload, started: record.started, headers: record.headers });
                }
            }
            found.sort_by(|a, b| (a.key.as_str(), &a.upload).cmp(&(b.key.as_str(), &b.upload)));
            Ok(found)
        })
        .await
    }

    /// The parts of an upload in order of number.
    ///
    /// # Errors
    /// `NoSuchUpload` also when the upload belongs to another key.
    pub async fn parts(&self, key: &Key, upload: &UploadId) -> Result<Vec<PartInfo>> {
        let (shared, key, upload) = (Arc::clone(&self.0), key.clone(), upload.clone());
        blocking(move || {
            let (directory, _) = shared.upload(&key, &upload)?;
            let mut found = Vec::new();
            for entry in fs::read_dir(&directory)? {
                let name = entry?.file_name();
                let number = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u32>().ok());
                let Some(number) = number else { continue };
                if let Some(record) = read_record::<PartRecord>(&directory.join(&name))? {
                    found.push(record.info(number));
                }
            }
            found.sort_by_key(|part| part.number);
            Ok(found)
        })
        .await
    }

    /// Starts a part. Publishing it replaces an earlier one of the same number.
    ///
    /// # Errors
    /// `NoSuchUpload`, `InvalidArgument` for a number outside 1 to 10000, `NoSpace`.
    pub async fn stage_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: u32,
        checksum: Option<(String, String)>,
    ) -> Result<Arc<dyn Staged>> {
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            let message = format!("a part number lies between 1 and {PART_NUMBER_MAX}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (shared, key, upload) = (Arc::clone(&self.0), key.clone(), upload.clone());
        blocking(move || {
            let (directory, _) = shared.upload(&key, &upload)?;
            let file = Arc::new(StagingFile::create(Arc::clone(&shared), true)?);
            let part: Arc<dyn Staged> =
                Arc::new(StagedPart::new(shared, directory, number, (file, checksum)));
            Ok(part)
        })
        .await
    }

    /// Picks parts by number, in the given order. The upload stays until [`Staging::abort_upload`].
    ///
    /// # Errors
    /// `NoSuchUpload`, `InvalidPart` for a number that was not staged.
    pub async fn take_parts(&self, key: &Key, upload: &UploadId, numbers: &[u32]) -> Result<Parts> {
        let (shared, key, upload) = (Arc::clone(&self.0), key.clone(), upload.clone());
        let numbers = numbers.to_vec();
        blocking(move || {
            let (directory, record) = shared.upload(&key, &upload)?;
            let mut parts = Parts { headers: record.headers, infos: Vec::new(), files: Vec::new() };
            let _commits = shared.commits();
            for number in numbers {
                let part =
                    read_record::<PartRecord>(&directory.join(part_name(number)))?.ok_or_else(|| {
                        Error::new(ErrorKind::InvalidPart, format!("part {number} was not uploaded"))
                    })?;
                parts.files.push((Arc::new(File::open(directory.join(&part.data))?), part.size_bytes));
                parts.infos.push(part.info(number));
            }
            Ok(parts)
        })
        .await
    }

    /// Forgets an upload and its parts.
    ///
    /// # Errors
    /// `NoSuchUpload`.
    pub async fn abort_upload(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let (shared, key, upload) = (Arc::clone(&self.0), key.clone(), upload.clone());
        blocking(move || {
            let (directory, _) = shared.upload(&key, &upload)?;
            let doomed = shared.write_path();
            {
                let _commits = shared.commits();
                fs::rename(&directory, &doomed).map_err(|e| vanished(e, &upload))?;
            }
            let freed_bytes = data_bytes(&doomed)?;
            fs::remove_dir_all(&doomed)?;
            shared.space.release(freed_bytes);
            Ok(())
        })
        .await
    }
}

impl Shared {
    /// Nobody else changes the set of parts meanwhile. It lies on the disk, so a panic leaves nothing half done here.
    fn commits(&self) -> MutexGuard<'_, ()> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory and record of an upload of `key`.
    fn upload(&self, key: &Key, upload: &UploadId) -> Result<(PathBuf, UploadRecord)> {
        let is_well_formed = upload.0.len() == 32 && upload.0.bytes().all(|b| b.is_ascii_hexdigit());
        if is_well_formed {
            let directory = self.uploads.join(&upload.0);
            if let Some(record) = read_record::<UploadRecord>(&directory.join(UPLOAD_FILE))?
                && record.key == key.as_str()
            {
                return Ok((directory, record));
            }
        }
        Err(no_such_upload(upload))
    }

    /// Makes a staged file the data of a part; an earlier part of the number goes.
    pub(super) fn commit_part(
        &self,
        directory: &Path,
        number: u32,
        file: &StagingFile,
        mut record: PartRecord,
    ) -> Result<PartInfo> {
        let upload = UploadId(directory.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let _commits = self.commits();
        record.data = format!("{number:05}.{}.part", Uuid::new_v4().simple());
        let path = directory.join(part_name(number));
        let before = read_record::<PartRecord>(&path)?;
        fs::rename(file.path(), directory.join(&record.data)).map_err(|e| vanished(e, &upload))?;
        file.moved();
        self.space.take(record.size_bytes);
        write_record(&record, &path)?;
        if let Some(before) = before {
            fs::remove_file(directory.join(&before.data))?;
            self.space.release(before.size_bytes);
        }
        Ok(record.info(number))
    }

    /// Adds the uploads in progress.
    pub(super) fn count_uploads(&self, dirty: &mut Dirty) -> Result<()> {
        for entry in fs::read_dir(&self.uploads)? {
            let directory = entry?.path();
            let Some(record) = read_record::<UploadRecord>(&directory.join(UPLOAD_FILE))? else { continue };
            dirty.uploads += 1;
            match data_bytes(&directory) {
                Ok(bytes) => dirty.add(bytes, record.started),
                // Completed or aborted since the record was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => dirty.uploads -= 1,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Removes what crashes left in `uploads/`; returns the bytes of the parts that stay.
    pub(super) fn reap_uploads(&self) -> io::Result<u64> {
        let mut kept_bytes = 0;
        for entry in fs::read_dir(&self.uploads)? {
            let directory = entry?.path();
            if !directory.join(UPLOAD_FILE).exists() {
                fs::remove_dir_all(&directory)?;
                continue;
            }
            let mut data = HashSet::new();
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.extension().is_none_or(|extension| extension != "json") {
                    continue;
                }
                let record =
                    fs::read(&path).ok().and_then(|text| serde_json::from_slice::<PartRecord>(&text).ok());
                data.extend(record.map(|record| record.data));
            }
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_data(&name) && !data.contains(&name) {
                    fs::remove_file(entry.path())?;
                }
            }
            kept_bytes += data_bytes(&directory)?;
        }
        Ok(kept_bytes)
    }
}

impl PartRecord {
    fn info(&self, number: u32) -> PartInfo {
        PartInfo {
            number,
            size_bytes: self.size_bytes,
            etag: ETag::new(&self.md5),
            checksum: self.checksum.clone(),
            modified: self.modified,
        }
    }
}

/// Whether a file of an upload holds a part's bytes.
fn is_data(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "part")
}

fn part_name(number: u32) -> String {
    format!("{number:05}.json")
}

/// Bytes in the data files of an upload.
fn data_bytes(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_data(&entry.file_name().to_string_lossy()) {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

/// Writes a record that is there with what lies beside it, whenever the machine stops.
fn write_record(record: &impl Serialize, path: &Path) -> Result<()> {
    let text = serde_json::to_vec(record)
        .map_err(|e| Error::new(ErrorKind::Internal, "a record cannot be written as JSON").because(e))?;
    replace(path, &text)
}

/// A record, or `None` where there is none.
fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        Error::new(ErrorKind::Internal, "a record of a multipart upload is damaged; abort the upload")
            .because(e)
            .at("read", path.display())
    })
}

fn no_such_upload(upload: &UploadId) -> Error {
    Error::new(ErrorKind::NoSuchUpload, format!("there is no upload {} of this key", upload.0))
}

/// The error of an upload that was completed or aborted meanwhile.
fn vanished(error: io::Error, upload: &UploadId) -> Error {
    if error.kind() == io::ErrorKind::NotFound { no_such_upload(upload) } else { error.into() }
}
