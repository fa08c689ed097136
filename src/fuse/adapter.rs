//! fuser on one side, the mount core's requests on the other. Translates and nothing else.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs,
    ReplyWrite, ReplyXattr, TimeOrNow,
};
use nix::libc;

use super::{
    counters::{Counters, Upcall},
    reply::Reply,
    translate,
};
use crate::{
    limits,
    mount::{Caller, Request},
    namespace::NewNode,
    types::{Errno, Ino},
};

/// Bytes of entries that one READDIR is prepared for: fuser does not say how much the kernel asked for, and what does
/// not fit is asked for again.
const READDIR_BYTES: u32 = 32 * 1024;
/// Bytes that one copy_file_range moves at most; the caller goes on with the rest.
const COPY_BYTES_MAX: u64 = 1 << 30;
/// The top bit of a request's number says that it was sent again; the request is the same.
const RESENT: u64 = 1 << 63;

/// What we ask of the kernel where it has it. READDIRPLUS is left out because its replies are taken for newer than they
/// are (PROTOCOL R2), WRITEBACK_CACHE because written bytes would wait in the kernel, the two lock flags because fuser
/// cannot tell flock from fcntl, EXPORT_SUPPORT because `.` and `..` are no names here, DONT_MASK because the kernel
/// applies the umask rightly as long as there are no default ACLs.
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Without it every write(2) asks for security.capability first; with it the kernel also says who keeps setuid.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    // O_APPEND files are opened for direct I/O (PROTOCOL R13), and some programs map them.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Who takes the kernel's requests.
pub(super) trait Ask: Send + Sync + 'static {
    /// `reply` is kept until the answer is known; it may be given before this returns.
    fn ask(&self, unique: u64, caller: Caller, request: Request, reply: Reply);
    fn forget(&self, ino: Ino, lookups: u64);
}

/// One session with the kernel.
pub(super) struct Adapter<A> {
    asked: Arc<A>,
    counters: Arc<Counters>,
    /// Version of the kernel's protocol, known after INIT.
    abi: Arc<OnceLock<(u32, u32)>>,
    /// The kernel says with each write whether it clears setuid and setgid.
    writes_say_kill: bool,
}

impl<A: Ask> Adapter<A> {
    pub(super) fn new(asked: Arc<A>, counters: Arc<Counters>, abi: Arc<OnceLock<(u32, u32)>>) -> Self {
        Self { asked, counters, abi, writes_say_kill: false }
    }

    fn ask(&self, from: &fuser::Request, upcall: Upcall, reply: Reply, request: Result<Request, Errno>) {
        self.counters.upcall(upcall);
        match request {
            Ok(request) => {
                let caller = Caller { uid: from.uid(), gid: from.gid(), pid: from.pid() };
                self.asked.ask(from.unique().0 & !RESENT, caller, request, reply);
            }
            Err(errno) => reply.refuse(errno),
        }
    }
}

const fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

impl<A: Ask> Filesystem for Adapter<A> {
    fn init(&mut self, _from: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |flag: InitFlags| io::Error::other(format!("{flag:?} was refused"));
        for flag in WANTED {
            if config.capabilities().contains(*flag) {
                config.add_capabilities(*flag).map_err(refused)?;
            }
        }
        self.writes_say_kill = config.capabilities().contains(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
        if !self.writes_say_kill && config.capabilities().contains(InitFlags::FUSE_HANDLE_KILLPRIV) {
            config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV).map_err(refused)?;
        }
        let out_of_range = |nearest: u32| io::Error::other(format!("fuser takes {nearest} at most"));
        config.set_max_write(limits::FUSE_WRITE_BYTES_MAX).map_err(out_of_range)?;
        config.set_max_background(limits::FUSE_BACKGROUND_MAX).map_err(|nearest| out_of_range(nearest.into()))?;
        let version = config.kernel_abi();
        self.abi.set((version.0, version.1)).map_err(|_| io::Error::other("the kernel sent INIT twice"))
    }

    fn lookup(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let request = translate::name(name).map(|name| Request::Lookup { parent: ino(parent), name });
        self.ask(from, Upcall::Lookup, Reply::Entry(reply), request);
    }

    // BATCH_FORGET too arrives here: its element has no public name in fuser.
    fn forget(&self, _from: &fuser::Request, number: INodeNo, lookups: u64) {
        self.counters.upcall(Upcall::Forget);
        self.asked.forget(ino(number), lookups);
    }

    fn getattr(&self, from: &fuser::Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.ask(from, Upcall::Getattr, Reply::Attributes(reply), Ok(Request::Getattr { ino: ino(number) }));
    }

    fn setattr(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = translate::changes(from.uid(), mode, uid, gid, size, atime, mtime);
        let request = Request::Setattr { ino: ino(number), changes };
        self.ask(from, Upcall::Setattr, Reply::Attributes(reply), Ok(request));
    }

    fn readlink(&self, from: &fuser::Request, number: INodeNo, reply: ReplyData) {
        self.ask(from, Upcall::Readlink, Reply::Data(reply), Ok(Request::Readlink { ino: ino(number) }));
    }

    fn mknod(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let request = translate::name(name).and_then(|name| {
            let node = translate::node(mode, rdev)?;
            Ok(Request::Make { parent: ino(parent), name, node, mode: translate::permissions(mode) })
        });
        self.ask(from, Upcall::Mknod, Reply::Entry(reply), request);
    }

    fn mkdir(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let mode = translate::permissions(mode);
        let request = translate::name(name).map(|name| Request::Make {
            parent: ino(parent),
            name,
            node: NewNode::Directory,
            mode,
        });
        self.ask(from, Upcall::Mkdir, Reply::Entry(reply), request);
    }

    fn unlink(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = translate::name(name).map(|name| Request::Unlink { parent: ino(parent), name });
        self.ask(from, Upcall::Unlink, Reply::Empty(reply), request);
    }

    fn rmdir(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = translate::name(name).map(|name| Request::Rmdir { parent: ino(parent), name });
        self.ask(from, Upcall::Rmdir, Reply::Empty(reply), request);
    }

    fn symlink(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let request = translate::name(name).and_then(|name| {
            if target.len() > limits::SYMLINK_BYTES_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let node = NewNode::Symlink { target: Bytes::copy_from_slice(target) };
            Ok(Request::Make { parent: ino(parent), name, node, mode: 0o777 })
        });
        self.ask(from, Upcall::Symlink, Reply::Entry(reply), request);
    }

    fn rename(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let request = translate::rename_mode(flags).and_then(|mode| {
            let (from_name, to_name) = (translate::name(name)?, translate::name(new_name)?);
            Ok(Request::Rename { from: ino(parent), from_name, to: ino(new_parent), to_name, mode })
        });
        self.ask(from, Upcall::Rename, Reply::Empty(reply), request);
    }

    fn link(&self, from: &fuser::Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let request = translate::name(name).map(|name| Request::Link { ino: ino(number), parent: ino(parent), name });
        self.ask(from, Upcall::Link, Reply::Entry(reply), request);
    }

    fn open(&self, from: &fuser::Request, number: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let request = Request::Open { ino: ino(number), flags: translate::open_flags(flags.0) };
        self.ask(from, Upcall::Open, Reply::Opened(reply), Ok(request));
    }

    fn create(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (mode, flags) = (translate::permissions(mode), translate::open_flags(flags));
        let request = translate::name(name).map(|name| Request::Create { parent: ino(parent), name, mode, flags });
        self.ask(from, Upcall::Create, Reply::Created(reply), request);
    }

    fn read(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let request = Request::Read { ino: ino(number), fh: fh.0, offset, length: size };
        self.ask(from, Upcall::Read, Reply::Data(reply), Ok(request));
    }

    fn write(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: fuser::WriteFlags,
        flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut write_flags = translate::write_flags(write_flags, flags.0);
        // Before Linux 5.11 it does not, and leaves it to us all the same.
        write_flags.kill_suid |= !self.writes_say_kill && from.uid() != 0;
        let data = Bytes::copy_from_slice(data);
        let request = Request::Write { ino: ino(number), fh: fh.0, offset, data, flags: write_flags };
        self.ask(from, Upcall::Write, Reply::Written(reply), Ok(request));
    }

    fn flush(&self, from: &fuser::Request, number: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.ask(from, Upcall::Flush, Reply::Empty(reply), Ok(Request::Flush { ino: ino(number), fh: fh.0 }));
    }

    fn release(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.ask(from, Upcall::Release, Reply::Empty(reply), Ok(Request::Release { ino: ino(number), fh: fh.0 }));
    }

    fn fsync(&self, from: &fuser::Request, number: INodeNo, fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.ask(from, Upcall::Fsync, Reply::Empty(reply), Ok(Request::Fsync { ino: ino(number), fh: fh.0 }));
    }

    /// The kernel then opens directories by itself and caches every listing.
    fn opendir(&self, _from: &fuser::Request, _number: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        self.counters.upcall(Upcall::Opendir);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(&self, from: &fuser::Request, number: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let request = Request::Readdir { ino: ino(number), offset, length: READDIR_BYTES };
        self.ask(from, Upcall::Readdir, Reply::Directory(reply), Ok(request));
    }

    fn releasedir(
        &self,
        _from: &fuser::Request,
        _number: INodeNo,
        _fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.counters.upcall(Upcall::Releasedir);
        reply.ok();
    }

    fn fsyncdir(&self, from: &fuser::Request, number: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.ask(from, Upcall::Fsyncdir, Reply::Empty(reply), Ok(Request::Fsyncdir { ino: ino(number) }));
    }

    fn statfs(&self, from: &fuser::Request, _number: INodeNo, reply: ReplyStatfs) {
        self.ask(from, Upcall::Statfs, Reply::Statfs(reply), Ok(Request::Statfs));
    }

    fn setxattr(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let request = translate::xattr_name(name).and_then(|name| {
            let mode = translate::xattr_mode(flags)?;
            Ok(Request::Setxattr { ino: ino(number), name, value: Bytes::copy_from_slice(value), mode })
        });
        self.ask(from, Upcall::Setxattr, Reply::Empty(reply), request);
    }

    fn getxattr(&self, from: &fuser::Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let request =
            translate::xattr_name(name).map(|name| Request::Getxattr { ino: ino(number), name, length: size });
        self.ask(from, Upcall::Getxattr, Reply::Xattr(reply), request);
    }

    fn listxattr(&self, from: &fuser::Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let request = Request::Listxattr { ino: ino(number), length: size };
        self.ask(from, Upcall::Listxattr, Reply::Xattr(reply), Ok(request));
    }

    fn removexattr(&self, from: &fuser::Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let request = translate::xattr_name(name).map(|name| Request::Removexattr { ino: ino(number), name });
        self.ask(from, Upcall::Removexattr, Reply::Empty(reply), request);
    }

    fn fallocate(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let request = translate::allocate_mode(mode).map(|mode| Request::Allocate {
            ino: ino(number),
            fh: fh.0,
            mode,
            offset,
            length,
        });
        self.ask(from, Upcall::Allocate, Reply::Empty(reply), request);
    }

    fn lseek(
        &self,
        from: &fuser::Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let request = u64::try_from(offset).map_err(|_| Errno::ENXIO).and_then(|offset| match whence {
            libc::SEEK_DATA => Ok(Request::SeekData { ino: ino(number), offset }),
            libc::SEEK_HOLE => Ok(Request::SeekHole { ino: ino(number), offset }),
            _ => Err(Errno::EINVAL),
        });
        self.ask(from, Upcall::Seek, Reply::Offset(reply), request);
    }

    fn copy_file_range(
        &self,
        from: &fuser::Request,
        source: INodeNo,
        _source_fh: FileHandle,
        from_offset: u64,
        target: INodeNo,
        _target_fh: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let length = length.min(COPY_BYTES_MAX);
        let request = Request::CopyRange { from: ino(source), from_offset, to: ino(target), to_offset, length };
        self.ask(from, Upcall::CopyRange, Reply::Written(reply), Ok(request));
    }

    // With default_permissions the kernel decides by itself.
    fn access(&self, _from: &fuser::Request, _number: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        self.counters.upcall(Upcall::Access);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _from: &fuser::Request,
        _number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output: u32,
        reply: ReplyIoctl,
    ) {
        self.counters.upcall(Upcall::Other);
        reply.error(fuser::Errno::ENOTTY);
    }

    // The kernel then answers poll(2) by itself: files are always ready.
    fn poll(
        &self,
        _from: &fuser::Request,
        _number: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        self.counters.upcall(Upcall::Other);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _from: &fuser::Request, _number: INodeNo, _size: u32, _index: u64, reply: ReplyBmap) {
        self.counters.upcall(Upcall::Other);
        reply.error(fuser::Errno::ENOSYS);
    }
}

#[cfg(test)]
mod tests;
