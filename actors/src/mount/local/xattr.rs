//! What is kept beside a file's bytes: S3 headers in one xattr, the mark of implicit directories, and the xattrs of
//! clients. Ours are named `user.forebay.*` and never shown.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use forebay_core::{Error, ErrorKind, Headers, Result, XattrMode};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::root::{error, proc_path};

/// All xattrs that clients may see.
const USER: &str = "user.";

/// Our own among them.
const OWN: &str = "user.forebay.";

/// S3 headers as JSON.
const HEADERS: &str = "user.forebay.headers";

/// Marks a directory that exists only through what lies in it, as on an object store.
const IMPLICIT: &str = "user.forebay.implicit";

/// Enough for the headers that S3 allows (2 KiB of metadata); larger ones take a second call.
const HEADERS_BYTES_USUAL: usize = 4096;

/// Most that Linux keeps in one xattr or one list of names, in bytes.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Whether the file system of a directory keeps xattrs.
pub(super) fn are_kept(directory: impl AsFd) -> Result<bool> {
    match rustix::fs::fsetxattr(&directory, "user.forebay.probe", b"", XattrFlags::empty()) {
        Ok(()) => {
            rustix::fs::fremovexattr(&directory, "user.forebay.probe").map_err(error)?;
            Ok(true)
        }
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(error(e)),
    }
}

/// The headers of an open file.
pub(super) fn headers(file: impl AsFd) -> Result<Option<Arc<Headers>>> {
    let mut usual = [MaybeUninit::uninit(); HEADERS_BYTES_USUAL];
    let mut large = Vec::new();
    let text = match rustix::fs::fgetxattr(&file, HEADERS, &mut usual) {
        Err(Errno::RANGE) => {
            large.resize(XATTR_BYTES_MAX, MaybeUninit::uninit());
            rustix::fs::fgetxattr(&file, HEADERS, &mut large[..])
        }
        answer => answer,
    };
    match text {
        Ok((text, _)) => serde_json::from_slice(text).map(|headers| Some(Arc::new(headers))).map_err(|e| {
            Error::new(ErrorKind::Internal, format!("the xattr {HEADERS} is damaged; remove it")).because(e)
        }),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(error(e)),
    }
}

/// Keeps headers with a file; none at all take no xattr.
pub(super) fn set_headers(file: impl AsFd, headers: &Headers) -> Result<()> {
    if *headers == Headers::default() {
        return remove(file, HEADERS);
    }
    let text = serde_json::to_vec(headers)
        .map_err(|e| Error::new(ErrorKind::Internal, "headers cannot be written as JSON").because(e))?;
    rustix::fs::fsetxattr(file, HEADERS, &text, XattrFlags::empty()).map_err(error)
}

/// Whether a directory exists only through what lies in it.
pub(super) fn is_implicit(directory: impl AsFd) -> Result<bool> {
    match rustix::fs::fgetxattr(directory, IMPLICIT, &mut [0; 1]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(error(e)),
    }
}

/// Marks a directory as existing only through what lies in it.
pub(super) fn set_implicit(directory: impl AsFd) -> Result<()> {
    rustix::fs::fsetxattr(directory, IMPLICIT, b"", XattrFlags::empty()).map_err(error)
}

/// Makes a directory exist by itself.
pub(super) fn set_explicit(directory: impl AsFd) -> Result<()> {
    remove(directory, IMPLICIT)
}

fn remove(fd: impl AsFd, name: &str) -> Result<()> {
    match rustix::fs::fremovexattr(fd, name) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(error(e)),
    }
}

/// The xattrs that clients see, in byte order of their names. Names that are not UTF-8 are left out.
pub(super) fn all(fd: impl AsFd) -> Result<Vec<(String, Bytes)>> {
    let path = proc_path(fd);
    let mut list = vec![0; XATTR_BYTES_MAX];
    let len = match rustix::fs::listxattr(&*path, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        answer => answer.map_err(error)?,
    };
    let names = list[..len].split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok());
    let mut found = Vec::new();
    let mut value = vec![0; XATTR_BYTES_MAX];
    for name in names.filter(|name| name.starts_with(USER) && !name.starts_with(OWN)) {
        match rustix::fs::getxattr(&*path, name, &mut value[..]) {
            Ok(len) => found.push((name.to_owned(), Bytes::copy_from_slice(&value[..len]))),
            Err(Errno::NODATA) => {}
            Err(e) => return Err(error(e)),
        }
    }
    found.sort();
    Ok(found)
}

/// Sets or removes an xattr for a client.
pub(super) fn set(fd: impl AsFd, name: &str, value: Option<&[u8]>, mode: XattrMode) -> Result<()> {
    if name.starts_with(OWN) {
        return Err(Error::new(ErrorKind::AccessDenied, format!("the xattrs {OWN}* belong to the gateway")));
    }
    if !name.starts_with(USER) || name.contains('\0') {
        return Err(Error::new(ErrorKind::Unsupported, format!("only xattrs named {USER}* are kept")));
    }
    let path = proc_path(fd);
    let flags = match mode {
        XattrMode::Any => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    };
    let done = match value {
        Some(value) => rustix::fs::setxattr(&*path, name, value, flags),
        None => rustix::fs::removexattr(&*path, name),
    };
    match done {
        Err(Errno::RANGE) => Err(Error::new(ErrorKind::NameTooLong, "the xattr's name is too long")),
        answer => answer.map_err(error),
    }
}
