//! The kernel's requests, translated: arguments in, replies out. What they do is in `ops`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forebay_core::XattrMode;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FileType, OFlags, XattrFlags};

use crate::attr::file_type;
use crate::counters::Operation;
use crate::handle::Mode;
use crate::ops::attributes::Changes;
use crate::ops::create::NewFile;
use crate::ops::lookup::Found;
use crate::ops::open::Wish;
use crate::server::Server;

/// Inode numbers are derived from identities and never mean another file, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// Unit of `statfs`.
const SPACE_BLOCK_BYTES: u32 = 4096;

/// What the kernel calls.
pub(crate) struct Frontend {
    pub(crate) server: Arc<Server>,
    pub(crate) wants_passthrough: bool,
    pub(crate) max_background: u16,
}

fn answer_entry(reply: ReplyEntry) -> impl FnOnce(Result<Found, Errno>) + Send {
    move |answer| match answer {
        Ok(found) => reply.entry(&found.ttl, &found.attr, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn answer_attr(reply: ReplyAttr) -> impl FnOnce(Result<Found, Errno>) + Send {
    move |answer| match answer {
        Ok(found) => reply.attr(&found.ttl, &found.attr),
        Err(errno) => reply.error(errno),
    }
}

fn answer_empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) + Send {
    move |answer| match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers a request for an xattr or the list of them: the size when asked for it, else the bytes if they fit.
fn answer_xattr(reply: ReplyXattr, room_bytes: u32) -> impl FnOnce(Result<Bytes, Errno>) + Send {
    move |answer| match answer {
        Ok(value) if room_bytes == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > room_bytes as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

/// Starts an asynchronous call of a server's method with these arguments.
macro_rules! call {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {{
        let server = Arc::clone(&$self.server);
        async move { server.$method($($argument),*).await }
    }};
}

impl Filesystem for Frontend {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // All or nothing: so one by one, and what an older kernel lacks stays off.
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            // A link that has another target is another inode.
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            if let Err(lacking) = config.add_capabilities(wanted) {
                tracing::debug!(?lacking, "the kernel lacks a FUSE capability");
            }
        }
        if self.wants_passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok()
        {
            self.server.passthrough.enable();
        }
        if config.set_max_background(self.max_background).is_err() {
            return Err(io::Error::other("fuse.max_background must be at least 1"));
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.server.serve_in(
            &[parent.0],
            Operation::Lookup,
            call!(self.lookup(parent.0, &name)),
            answer_entry(reply),
        );
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.server.table.forget(inode.0, count);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.server.serve(Operation::Getattr, call!(self.getattr(inode.0)), answer_attr(reply));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size_bytes: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _checked: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes { mode, uid, gid, size_bytes, accessed, modified };
        self.server.serve(Operation::Setattr, call!(self.setattr(inode.0, changes)), answer_attr(reply));
    }

    fn access(&self, _request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.server.serve(Operation::Access, call!(self.access(inode.0, mask)), answer_empty(reply));
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let server = Arc::clone(&self.server);
        self.server.serve(Operation::Open, call!(self.open(inode.0, Wish::of(flags))), move |answer| {
            let opened = answer.and_then(|offer| {
                server.admit(offer, |file| reply.open_backing(file)).map_err(|e| e.errno())
            });
            match opened {
                Ok(opened) => match opened.mode {
                    Mode::Passthrough(backing) => {
                        reply.opened_passthrough(FileHandle(opened.handle), opened.flags, &backing);
                    }
                    Mode::Buffered => reply.opened(FileHandle(opened.handle), opened.flags),
                },
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let is_exclusive = flags as u32 & OFlags::EXCL.bits() != 0;
        let new = NewFile { mode, uid: request.uid(), gid: request.gid(), is_exclusive };
        let (name, wish) = (name.to_owned(), Wish::of(OpenFlags(flags)));
        let server = Arc::clone(&self.server);
        self.server.serve_in(
            &[parent.0],
            Operation::Create,
            call!(self.create(parent.0, &name, new, wish)),
            move |answer| {
                let (found, offer) = match answer {
                    Ok(created) => created,
                    Err(errno) => return reply.error(errno),
                };
                let opened = match server.admit(offer, |file| reply.open_backing(file)) {
                    Ok(opened) => opened,
                    Err(e) => {
                        server.table.forget(found.attr.ino.0, 1);
                        return reply.error(e.errno());
                    }
                };
                // One TTL for name and attributes, and the attributes change with every write.
                let (ttl, handle) = (Duration::ZERO, FileHandle(opened.handle));
                match opened.mode {
                    Mode::Passthrough(backing) => {
                        reply.created_passthrough(
                            &ttl,
                            &found.attr,
                            GENERATION,
                            handle,
                            opened.flags,
                            &backing,
                        );
                    }
                    Mode::Buffered => reply.created(&ttl, &found.attr, GENERATION, handle, opened.flags),
                }
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        if FileType::from_raw_mode(mode) != FileType::RegularFile {
            return reply.error(Errno::EPERM);
        }
        let new = NewFile { mode, uid: request.uid(), gid: request.gid(), is_exclusive: true };
        let name = name.to_owned();
        self.server.serve_in(
            &[parent.0],
            Operation::Mknod,
            call!(self.mknod(parent.0, &name, new)),
            answer_entry(reply),
        );
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = move |answer: Result<Vec<Bytes>, Errno>| match answer {
            Ok(pieces) => match pieces.as_slice() {
                [piece] => reply.data(piece),
                pieces => reply.data(&pieces.concat()),
            },
            Err(errno) => reply.error(errno),
        };
        self.server.serve(Operation::Read, call!(self.read(handle.0, offset, size)), answer);
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = Bytes::copy_from_slice(data);
        let answer = move |answer| match answer {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        };
        self.server.serve(Operation::Write, call!(self.write(handle.0, offset, bytes)), answer);
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.server.serve(Operation::Flush, call!(self.flush(handle.0)), answer_empty(reply));
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.server.serve(Operation::Fsync, call!(self.fsync(handle.0)), answer_empty(reply));
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let server = Arc::clone(&self.server);
        let work = async move {
            server.release(handle.0).await;
            Ok(())
        };
        self.server.serve(Operation::Release, work, answer_empty(reply));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = call!(self.fallocate(handle.0, offset, length, mode));
        self.server.serve(Operation::Fallocate, work, answer_empty(reply));
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let server = Arc::clone(&self.server);
        let answer = move |answer| match answer {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        };
        self.server.serve(Operation::Opendir, async move { server.opendir(inode.0) }, answer);
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let server = Arc::clone(&self.server);
        self.server.serve_in(
            &[inode.0],
            Operation::Readdir,
            call!(self.readdir(handle.0, offset)),
            move |answer| {
                let batch = match answer {
                    Ok(batch) => batch,
                    Err(errno) => return reply.error(errno),
                };
                for (listed, next) in batch.entries.iter().zip(offset + 1..) {
                    let number = server.number_of(&batch, listed);
                    if reply.add(number, next, file_type(listed.entry.kind), &listed.name) {
                        break;
                    }
                }
                reply.ok();
            },
        );
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let server = Arc::clone(&self.server);
        self.server.serve_in(
            &[inode.0],
            Operation::Readdir,
            call!(self.readdir(handle.0, offset)),
            move |answer| {
                let batch = match answer {
                    Ok(batch) => batch,
                    Err(errno) => return reply.error(errno),
                };
                for (listed, next) in batch.entries.iter().zip(offset + 1..) {
                    let Found { attr, ttl } = server.plus(&batch, listed);
                    if reply.add(attr.ino, next, &listed.name, &ttl, &attr, GENERATION) {
                        // It did not fit, so the kernel does not count it.
                        if batch.is_counted(listed) {
                            server.table.forget(attr.ino.0, 1);
                        }
                        break;
                    }
                }
                reply.ok();
            },
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.server.releasedir(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.server.serve(Operation::Fsyncdir, call!(self.fsyncdir(handle.0)), answer_empty(reply));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let new = NewFile { mode, uid: request.uid(), gid: request.gid(), is_exclusive: true };
        let name = name.to_owned();
        self.server.serve_in(
            &[parent.0],
            Operation::Mkdir,
            call!(self.mkdir(parent.0, &name, new)),
            answer_entry(reply),
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.server.serve_in(
            &[parent.0],
            Operation::Rmdir,
            call!(self.rmdir(parent.0, &name)),
            answer_empty(reply),
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.server.serve_in(
            &[parent.0],
            Operation::Unlink,
            call!(self.unlink(parent.0, &name)),
            answer_empty(reply),
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let work = call!(self.rename((parent.0, &name), (new_parent.0, &new_name), flags));
        self.server.serve_in(&[parent.0, new_parent.0], Operation::Rename, work, answer_empty(reply));
    }

    fn statfs(&self, _request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        self.server.serve(Operation::Statfs, call!(self.statfs(inode.0)), move |answer| match answer {
            Ok(usage) => {
                let blocks = |bytes: u64| bytes / u64::from(SPACE_BLOCK_BYTES);
                let free = blocks(usage.free_bytes);
                let (unit, name_bytes) = (SPACE_BLOCK_BYTES, 255);
                let total = blocks(usage.capacity_bytes);
                reply.statfs(total, free, free, usage.files, usage.free_files, unit, name_bytes, unit);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.server.serve(
            Operation::Getxattr,
            call!(self.getxattr(inode.0, &name)),
            answer_xattr(reply, size),
        );
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        self.server.serve(Operation::Listxattr, call!(self.listxattr(inode.0)), answer_xattr(reply, size));
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let mode = if flags.contains(XattrFlags::CREATE) {
            XattrMode::Create
        } else if flags.contains(XattrFlags::REPLACE) {
            XattrMode::Replace
        } else {
            XattrMode::Any
        };
        let (name, value, caller) = (name.to_owned(), Some(Bytes::copy_from_slice(value)), request.uid());
        let work = call!(self.setxattr(inode.0, (&name, value), mode, caller));
        self.server.serve(Operation::Setxattr, work, answer_empty(reply));
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, caller) = (name.to_owned(), request.uid());
        let work = call!(self.setxattr(inode.0, (&name, None), XattrMode::Replace, caller));
        self.server.serve(Operation::Removexattr, work, answer_empty(reply));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target, owner) = (name.to_owned(), target.to_owned(), (request.uid(), request.gid()));
        let work = call!(self.symlink(parent.0, &name, target.as_os_str(), owner));
        self.server.serve_in(&[parent.0], Operation::Symlink, work, answer_entry(reply));
    }

    fn link(&self, _request: &Request, _inode: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        self.server.serve(Operation::Readlink, call!(self.readlink(inode.0)), move |answer| match answer {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    // ENOSYS: the kernel then does it itself and does not ask again.
    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        _from_handle: FileHandle,
        _from_offset: u64,
        _to: INodeNo,
        _to_handle: FileHandle,
        _to_offset: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _room_bytes: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
