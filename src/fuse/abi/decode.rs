//! What a request says: from the kernel's struct of its opcode to the mount core's words.

use bytes::Bytes;
use fuser::InitFlags;
use nix::libc;

use super::{
    Body, Header,
    init::{Agreement, Offer},
    opcode,
    reader::{Malformed, Reader},
    unresent, values,
};
use crate::{
    fuse::counters::Upcall,
    limits,
    mount::{OpenFlags, Request, WriteFlags},
    namespace::NewNode,
    types::{
        AttributeChanges, ClearSuid, Errno, Ino, LockClaim, LockFamily, LockKind, LockRange, TimeChange, Timestamp,
    },
};

/// FUSE_OPEN_KILL_SUIDGID.
const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// FUSE_LK_FLOCK: flock(2), not fcntl(2).
const LK_FLOCK: u32 = 1 << 0;
/// FUSE_SETXATTR_ACL_KILL_SGID.
const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// Of `fuse_getattr_in.getattr_flags`: an open file is named, which the kernel does before it reads from one, and not for
/// stat(2) or fstat(2) (`fuse_getattr`, fs/fuse/dir.c).
const GETATTR_FH: u32 = 1;

/// Bits of `fuse_setattr_in.valid` (FATTR_*).
mod valid {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
    pub(super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// What a message of the kernel wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::fuse) enum Message {
    Init(Offer),
    /// Something that the mount core answers.
    Request(Request),
    /// Inodes and how many references to them are gone. No reply is expected.
    Forget(Vec<(Ino, u64)>),
    /// The caller of this request was hit by a signal. A reply is possible and not expected.
    Interrupt {
        unique: u64,
    },
    /// Something that is done by being replied to.
    Acknowledge,
    /// Something without a reply that says nothing to us.
    Nothing,
}

/// Why a message is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) enum Fault {
    Malformed,
    Refused(Errno),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// How a request is counted.
pub(in crate::fuse) const fn upcall(number: u32) -> Upcall {
    match number {
        opcode::LOOKUP => Upcall::Lookup,
        opcode::FORGET | opcode::BATCH_FORGET => Upcall::Forget,
        opcode::GETATTR => Upcall::Getattr,
        opcode::SETATTR => Upcall::Setattr,
        opcode::READLINK => Upcall::Readlink,
        opcode::SYMLINK => Upcall::Symlink,
        opcode::MKNOD => Upcall::Mknod,
        opcode::MKDIR => Upcall::Mkdir,
        opcode::UNLINK => Upcall::Unlink,
        opcode::RMDIR => Upcall::Rmdir,
        opcode::RENAME | opcode::RENAME2 => Upcall::Rename,
        opcode::LINK => Upcall::Link,
        opcode::OPEN => Upcall::Open,
        opcode::READ => Upcall::Read,
        opcode::WRITE => Upcall::Write,
        opcode::STATFS => Upcall::Statfs,
        opcode::RELEASE => Upcall::Release,
        opcode::FSYNC => Upcall::Fsync,
        opcode::SETXATTR => Upcall::Setxattr,
        opcode::GETXATTR => Upcall::Getxattr,
        opcode::LISTXATTR => Upcall::Listxattr,
        opcode::REMOVEXATTR => Upcall::Removexattr,
        opcode::FLUSH => Upcall::Flush,
        opcode::OPENDIR => Upcall::Opendir,
        opcode::READDIR => Upcall::Readdir,
        opcode::RELEASEDIR => Upcall::Releasedir,
        opcode::FSYNCDIR => Upcall::Fsyncdir,
        opcode::GETLK => Upcall::GetLock,
        opcode::SETLK | opcode::SETLKW => Upcall::SetLock,
        opcode::ACCESS => Upcall::Access,
        opcode::CREATE => Upcall::Create,
        opcode::INTERRUPT => Upcall::Interrupt,
        opcode::FALLOCATE => Upcall::Allocate,
        opcode::LSEEK => Upcall::Seek,
        opcode::COPY_FILE_RANGE => Upcall::CopyRange,
        opcode::TMPFILE => Upcall::Tmpfile,
        _ => Upcall::Other,
    }
}

/// What the message wants; `agreement` is what INIT ended with.
pub(in crate::fuse) fn decode(header: &Header, body: Body<'_>, agreement: Agreement) -> Result<Message, Fault> {
    let ino = Ino(header.node);
    let mut r = body.reader()?;
    let request = match header.opcode {
        opcode::INIT => return Ok(Message::Init(Offer::parse(r)?)),
        opcode::FORGET => return Ok(Message::Forget(vec![(ino, r.u64()?)])),
        opcode::BATCH_FORGET => return batch_forget(r),
        opcode::INTERRUPT => return Ok(Message::Interrupt { unique: unresent(r.u64()?) }),
        opcode::DESTROY | opcode::RELEASEDIR => return Ok(Message::Acknowledge),
        opcode::NOTIFY_REPLY => return Ok(Message::Nothing),
        opcode::LOOKUP => match r.string()? {
            b"." => Request::ByHandle { ino },
            b".." => Request::Parent { ino },
            name => Request::Lookup { parent: ino, name: values::name(name)? },
        },
        opcode::GETATTR => Request::Getattr { ino, for_read: r.u32()? & GETATTR_FH != 0 },
        opcode::SETATTR => setattr(header, r, agreement)?,
        opcode::READLINK => Request::Readlink { ino },
        opcode::SYMLINK => symlink(ino, r)?,
        opcode::MKNOD => {
            let (mode, rdev, umask) = (r.u32()?, r.u32()?, values::permissions(r.u32()?));
            r.skip(4)?;
            let (node, mode) = (values::node(mode, rdev)?, values::permissions(mode));
            Request::Make { parent: ino, name: values::name(r.string()?)?, node, mode, umask }
        }
        opcode::MKDIR => {
            let (mode, umask) = (values::permissions(r.u32()?), values::permissions(r.u32()?));
            Request::Make { parent: ino, name: values::name(r.string()?)?, node: NewNode::Directory, mode, umask }
        }
        opcode::UNLINK => Request::Unlink { parent: ino, name: values::name(r.string()?)? },
        opcode::RMDIR => Request::Rmdir { parent: ino, name: values::name(r.string()?)? },
        opcode::RENAME | opcode::RENAME2 => {
            let to = Ino(r.u64()?);
            let flags = if header.opcode == opcode::RENAME2 { r.u64()? as u32 } else { 0 };
            let (from_name, to_name) = (values::name(r.string()?)?, values::name(r.string()?)?);
            Request::Rename { from: ino, from_name, to, to_name, mode: values::rename_mode(flags)? }
        }
        opcode::LINK => Request::Link { ino: Ino(r.u64()?), parent: ino, name: values::name(r.string()?)? },
        opcode::OPEN => {
            let (flags, kernel) = (r.u32()?, r.u32()?);
            Request::Open { ino, flags: open_flags(header, agreement, flags, kernel) }
        }
        opcode::CREATE => {
            let flags = r.u32()?;
            let (mode, umask) = (values::permissions(r.u32()?), values::permissions(r.u32()?));
            let flags = open_flags(header, agreement, flags, r.u32()?);
            Request::Create { parent: ino, name: values::name(r.string()?)?, mode, umask, flags }
        }
        // As CREATE; the name behind it is nobody's.
        opcode::TMPFILE => {
            let flags = r.u32()?;
            let (mode, umask) = (values::permissions(r.u32()?), values::permissions(r.u32()?));
            let flags = open_flags(header, agreement, flags, r.u32()?);
            Request::MakeUnnamed { parent: ino, mode, umask, flags }
        }
        opcode::READ => Request::Read { ino, fh: r.u64()?, offset: r.u64()?, length: r.u32()? },
        opcode::WRITE => write(header, r, agreement)?,
        opcode::FLUSH => {
            let fh = r.u64()?;
            r.skip(8)?;
            Request::Flush { ino, fh, owner: r.u64()? }
        }
        opcode::GETLK => match lock(r)? {
            (claim, Some(_)) => Request::GetLock { ino, claim },
            (_, None) => return Err(Fault::Refused(Errno::EINVAL)),
        },
        opcode::SETLK | opcode::SETLKW => match lock(r)? {
            (claim, Some(_)) => Request::SetLock { ino, claim, waits: header.opcode == opcode::SETLKW },
            (claim, None) => Request::Unlock { ino, claim },
        },
        opcode::RELEASE => Request::Release { ino, fh: r.u64()? },
        opcode::FSYNC => Request::Fsync { ino, fh: r.u64()? },
        opcode::READDIR => {
            r.skip(8)?;
            Request::Readdir { ino, offset: r.u64()?, length: r.u32()? }
        }
        opcode::FSYNCDIR => Request::Fsyncdir { ino },
        opcode::STATFS => Request::Statfs,
        opcode::SETXATTR => setxattr(ino, r, agreement)?,
        opcode::GETXATTR => {
            let length = r.u32()?;
            r.skip(4)?;
            Request::Getxattr { ino, name: values::xattr_name(r.string()?)?, length }
        }
        opcode::LISTXATTR => Request::Listxattr { ino, length: r.u32()? },
        opcode::REMOVEXATTR => Request::Removexattr { ino, name: values::xattr_name(r.string()?)? },
        opcode::FALLOCATE => {
            let (fh, offset, length, mode) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?);
            Request::Allocate { ino, fh, mode: values::allocate_mode(mode)?, offset, length }
        }
        opcode::LSEEK => seek(ino, r)?,
        opcode::COPY_FILE_RANGE => {
            r.skip(8)?;
            let (from_offset, to) = (r.u64()?, Ino(r.u64()?));
            r.skip(8)?;
            let (to_offset, length) = (r.u64()?, r.u64()?.min(limits::COPY_RANGE_BYTES_MAX));
            Request::CopyRange { from: ino, from_offset, to, to_offset, length }
        }
        opcode::IOCTL => return Err(Fault::Refused(Errno::ENOTTY)),
        // OPENDIR and ACCESS among them: the kernel opens directories by itself from then on and caches every listing,
        // and it checks permissions by itself (default_permissions).
        _ => return Err(Fault::Refused(Errno::ENOSYS)),
    };
    Ok(Message::Request(request))
}

fn batch_forget(mut r: Reader<'_>) -> Result<Message, Fault> {
    let count = r.u32()?;
    r.skip(4)?;
    // The count is believed as far as the message reaches.
    let inodes = (0..count).map(|_| Ok((Ino(r.u64()?), r.u64()?))).collect::<Result<_, Malformed>>()?;
    Ok(Message::Forget(inodes))
}

/// Whether a write or truncation ends setuid and setgid, which the kernel leaves to us. Before Linux 5.11 it does not
/// say so; then everybody's but root's does.
const fn clearing(header: &Header, agreement: Agreement, is_said: bool) -> ClearSuid {
    match (agreement.has(InitFlags::FUSE_HANDLE_KILLPRIV_V2), is_said) {
        (_, true) => ClearSuid::ByStranger,
        (true, false) => ClearSuid::No,
        (false, false) => ClearSuid::of(header.caller.uid),
    }
}

/// chown ends setuid and setgid whoever asks; to root every group is his own.
fn setattr(header: &Header, mut r: Reader<'_>, agreement: Agreement) -> Result<Request, Fault> {
    let fields = r.u32()?;
    // Padding and the file handle.
    r.skip(12)?;
    let size = r.u64()?;
    // The lock's owner.
    r.skip(8)?;
    let (atime, mtime, _ctime) = (r.u64()?, r.u64()?, r.u64()?);
    let (atime_nanoseconds, mtime_nanoseconds, _ctime_nanoseconds) = (r.u32()?, r.u32()?, r.u32()?);
    let mode = r.u32()?;
    r.skip(4)?;
    let (uid, gid) = (r.u32()?, r.u32()?);
    let has = |field| fields & field != 0;
    let time = |set, now, seconds: u64, nanoseconds| {
        let to = Timestamp { seconds: seconds.cast_signed(), nanoseconds };
        has(set).then(|| if has(now) { TimeChange::Now } else { TimeChange::To(to) })
    };
    let clear_suid = match (has(valid::UID) || has(valid::GID), has(valid::SIZE)) {
        (true, _) => ClearSuid::of(header.caller.uid).max(ClearSuid::ByMember),
        (false, true) => clearing(header, agreement, has(valid::KILL_SUIDGID)),
        (false, false) => ClearSuid::No,
    };
    let changes = AttributeChanges {
        mode: has(valid::MODE).then(|| values::permissions(mode)),
        uid: has(valid::UID).then_some(uid),
        gid: has(valid::GID).then_some(gid),
        size: has(valid::SIZE).then_some(size),
        atime: time(valid::ATIME, valid::ATIME_NOW, atime, atime_nanoseconds),
        mtime: time(valid::MTIME, valid::MTIME_NOW, mtime, mtime_nanoseconds),
        clear_suid,
    };
    Ok(Request::Setattr { ino: Ino(header.node), changes })
}

/// `flags` are those of open(2), `kernel` FUSE_OPEN_*.
const fn open_flags(header: &Header, agreement: Agreement, flags: u32, kernel: u32) -> OpenFlags {
    OpenFlags { clear_suid: clearing(header, agreement, kernel & OPEN_KILL_SUIDGID != 0), ..values::open_flags(flags) }
}

fn symlink(parent: Ino, mut r: Reader<'_>) -> Result<Request, Fault> {
    let (name, target) = (values::name(r.string()?)?, r.string()?);
    if target.len() > limits::SYMLINK_BYTES_MAX {
        return Err(Fault::Refused(Errno::ENAMETOOLONG));
    }
    let node = NewNode::Symlink { target: Bytes::copy_from_slice(target) };
    Ok(Request::Make { parent, name, node, mode: 0o777, umask: 0 })
}

fn write(header: &Header, mut r: Reader<'_>, agreement: Agreement) -> Result<Request, Fault> {
    let (fh, offset, size, kernel) = (r.u64()?, r.u64()?, r.u32()?, r.u32()?);
    // The lock's owner.
    r.skip(8)?;
    let of_file = r.u32()?.cast_signed();
    r.skip(4)?;
    let kernel = fuser::WriteFlags::from_bits_retain(kernel);
    let clear_suid = clearing(header, agreement, kernel.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID));
    let flags = WriteFlags {
        write_back: kernel.contains(fuser::WriteFlags::FUSE_WRITE_CACHE),
        clear_suid,
        append: values::is_append(of_file),
        sync: values::is_sync(of_file),
    };
    let data = Bytes::copy_from_slice(r.bytes(size as usize)?);
    Ok(Request::Write { ino: Ino(header.node), fh, offset, data, flags })
}

fn setxattr(ino: Ino, mut r: Reader<'_>, agreement: Agreement) -> Result<Request, Fault> {
    let (size, flags) = (r.u32()?, r.u32()?);
    let kernel = if agreement.has(InitFlags::FUSE_SETXATTR_EXT) { r.u64()? as u32 } else { 0 };
    let name = values::xattr_name(r.string()?)?;
    let value = Bytes::copy_from_slice(r.bytes(size as usize)?);
    let clear_sgid = kernel & SETXATTR_ACL_KILL_SGID != 0;
    // Without the flag the kernel would take a list for stored, and nobody would enforce it.
    if name.as_bytes().starts_with(b"system.posix_acl_") && !agreement.has(InitFlags::FUSE_POSIX_ACL) {
        return Err(Fault::Refused(Errno::EOPNOTSUPP));
    }
    Ok(Request::Setxattr { ino, name, value, mode: values::xattr_mode(flags)?, clear_sgid })
}

/// `fuse_lk_in`. No kind: the lock is given back.
fn lock(mut r: Reader<'_>) -> Result<(LockClaim, Option<LockKind>), Fault> {
    let (fh, owner, first, last) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let (kind, pid, flags) = (r.u32()?.cast_signed(), r.u32()?, r.u32()?);
    r.skip(4)?;
    let kind = match kind {
        libc::F_RDLCK => Some(LockKind::Shared),
        libc::F_WRLCK => Some(LockKind::Exclusive),
        libc::F_UNLCK => None,
        _ => return Err(Fault::Refused(Errno::EINVAL)),
    };
    let (family, range) = if flags & LK_FLOCK != 0 {
        (LockFamily::Flock, LockRange::ALL)
    } else {
        // OFFSET_MAX stands for the end of the file.
        let last = if last >= i64::MAX as u64 { u64::MAX } else { last };
        (LockFamily::Fcntl, LockRange { first, last })
    };
    Ok((LockClaim { family, owner, kind: kind.unwrap_or(LockKind::Shared), range, pid, fh }, kind))
}

fn seek(ino: Ino, mut r: Reader<'_>) -> Result<Request, Fault> {
    r.skip(8)?;
    let (offset, whence) = (r.u64()?, r.u32()?.cast_signed());
    if offset.cast_signed() < 0 {
        return Err(Fault::Refused(Errno::ENXIO));
    }
    match whence {
        libc::SEEK_DATA => Ok(Request::SeekData { ino, offset }),
        libc::SEEK_HOLE => Ok(Request::SeekHole { ino, offset }),
        _ => Err(Fault::Refused(Errno::EINVAL)),
    }
}

#[cfg(test)]
mod tests;
