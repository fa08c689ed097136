//! Between the kernel's numbers and the mount core's words. fuser has parsed the requests; what it lost or bent on the
//! way is mended here.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};
use nix::libc;

use crate::{
    mount::{OpenFlags, OpenedAs, WriteFlags},
    namespace::{AllocateMode, NewNode, RenameMode, XattrMode},
    types::{AttributeChanges, Attributes, Errno, FileKind, Ino, Name, NameError, TimeChange, Timestamp, XattrName},
};

/// What stat(2) calls the best size of a read or write, in bytes.
const BLOCK_SIZE: u32 = 4096;

pub(super) fn name(name: &OsStr) -> Result<Name, Errno> {
    Name::new(name.as_bytes()).map_err(refusal)
}

pub(super) fn xattr_name(name: &OsStr) -> Result<XattrName, Errno> {
    let bytes = name.as_bytes();
    // The kernel would take an ACL for stored, and nobody would enforce it.
    if bytes == b"system.posix_acl_access" || bytes == b"system.posix_acl_default" {
        return Err(Errno::EOPNOTSUPP);
    }
    XattrName::new(bytes).map_err(|_| Errno::ERANGE)
}

const fn refusal(error: NameError) -> Errno {
    match error {
        NameError::Length { found: 0 } => Errno::ENOENT,
        NameError::Length { .. } => Errno::ENAMETOOLONG,
        NameError::Byte | NameError::Dot => Errno::EINVAL,
    }
}

pub(super) const fn open_flags(flags: i32) -> OpenFlags {
    OpenFlags {
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
        sync: is_sync(flags),
    }
}

/// `flags` are those of the open file.
pub(super) fn write_flags(kernel: fuser::WriteFlags, flags: i32) -> WriteFlags {
    WriteFlags {
        write_back: kernel.contains(fuser::WriteFlags::FUSE_WRITE_CACHE),
        kill_suid: kernel.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        append: flags & libc::O_APPEND != 0,
        sync: is_sync(flags),
    }
}

/// O_SYNC contains O_DSYNC.
const fn is_sync(flags: i32) -> bool {
    flags & libc::O_DSYNC != 0
}

pub(super) const fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// What mknod(2) makes.
pub(super) const fn node(mode: u32, rdev: u32) -> Result<NewNode, Errno> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(NewNode::File),
        libc::S_IFIFO => Ok(NewNode::Fifo),
        libc::S_IFSOCK => Ok(NewNode::Socket),
        libc::S_IFCHR => Ok(NewNode::CharDevice { rdev }),
        libc::S_IFBLK => Ok(NewNode::BlockDevice { rdev }),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn rename_mode(flags: fuser::RenameFlags) -> Result<RenameMode, Errno> {
    match flags {
        flags if flags.is_empty() => Ok(RenameMode::Replace),
        fuser::RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        fuser::RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const fn allocate_mode(mode: i32) -> Result<AllocateMode, Errno> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
    match mode {
        0 => Ok(AllocateMode::Extend),
        KEEP => Ok(AllocateMode::KeepSize),
        PUNCH_KEEP => Ok(AllocateMode::Punch),
        ZERO => Ok(AllocateMode::Zero { keep_size: false }),
        ZERO_KEEP => Ok(AllocateMode::Zero { keep_size: true }),
        libc::FALLOC_FL_COLLAPSE_RANGE => Ok(AllocateMode::Collapse),
        libc::FALLOC_FL_INSERT_RANGE => Ok(AllocateMode::Insert),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// What SETATTR asks. The kernel leaves clearing setuid and setgid to us (FUSE_HANDLE_KILLPRIV_V2): chown clears them
/// whoever asks, a truncate unless root does. fuser does not pass the flag that says so for other capable users.
pub(super) fn changes(
    caller: u32,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
) -> AttributeChanges {
    AttributeChanges {
        mode: mode.map(permissions),
        uid,
        gid,
        size,
        atime: atime.map(time_change),
        mtime: mtime.map(time_change),
        clear_suid: uid.is_some() || gid.is_some() || (size.is_some() && caller != 0),
    }
}

fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::To(timestamp(time)),
    }
}

/// fuser 0.18 takes the nanoseconds of a time before 1970 off instead of adding them; taking them off once more gives
/// the kernel's numbers back.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Timestamp { seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanoseconds: after.subsec_nanos() }
        }
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            Timestamp { seconds, nanoseconds: before.subsec_nanos() }
        }
    }
}

/// The other way fuser is right. A time that the platform cannot express is shown as 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

pub(super) const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn attributes(of: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(of.ino.0),
        size: of.size,
        blocks: of.blocks,
        atime: system_time(of.atime),
        mtime: system_time(of.mtime),
        ctime: system_time(of.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(of.kind),
        perm: of.mode & 0o7777,
        nlink: of.nlink,
        uid: of.uid,
        gid: of.gid,
        rdev: of.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// A missing name is an entry of inode 0: the kernel remembers it.
pub(super) fn missing() -> FileAttr {
    let zero = Timestamp::default();
    attributes(&Attributes {
        ino: Ino(0),
        kind: FileKind::File,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    })
}

pub(super) fn opened(as_: OpenedAs) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, as_.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, as_.direct_io);
    flags.set(FopenFlags::FOPEN_NOFLUSH, as_.no_flush);
    flags.set(FopenFlags::FOPEN_CACHE_DIR, as_.cache_dir);
    flags
}

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_open_are_told_apart() {
        let flags = open_flags(libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC);
        assert!(flags.write && flags.append && flags.truncate && flags.sync && !flags.exclusive);
        let flags = open_flags(libc::O_RDONLY);
        assert_eq!(flags, OpenFlags::default());
        assert!(open_flags(libc::O_RDWR | libc::O_DSYNC).sync);
        assert!(write_flags(fuser::WriteFlags::FUSE_WRITE_CACHE, 0).write_back);
        assert!(write_flags(fuser::WriteFlags::empty(), libc::O_APPEND).append);
    }

    #[test]
    fn times_before_1970_survive_both_ways() {
        // As fuser hands on what the kernel gave as (-1, 999_999_999): one nanosecond before 1970.
        let bent = UNIX_EPOCH - Duration::new(1, 999_999_999);
        let time = Timestamp { seconds: -1, nanoseconds: 999_999_999 };
        assert_eq!(timestamp(bent), time);
        assert_eq!(system_time(time), UNIX_EPOCH - Duration::from_nanos(1));
        assert_eq!(system_time(Timestamp { seconds: -2, nanoseconds: 0 }), UNIX_EPOCH - Duration::from_secs(2));
    }

    #[test]
    fn no_time_makes_the_translation_panic() {
        for seconds in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX] {
            let time = Timestamp { seconds, nanoseconds: 999_999_999 };
            let _ = system_time(time);
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused_as_the_kernel_would() {
        assert_eq!(name(OsStr::from_bytes(&[b'x'; 256])), Err(Errno::ENAMETOOLONG));
        assert!(name(OsStr::from_bytes(&[0xff; 255])).is_ok());
        assert_eq!(name(OsStr::new("..")), Err(Errno::EINVAL));
        assert_eq!(xattr_name(OsStr::new("system.posix_acl_access")), Err(Errno::EOPNOTSUPP));
    }

    #[test]
    fn modes_of_fallocate_and_rename() {
        assert_eq!(allocate_mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Ok(AllocateMode::Punch));
        assert_eq!(allocate_mode(libc::FALLOC_FL_PUNCH_HOLE), Err(Errno::EOPNOTSUPP));
        assert_eq!(rename_mode(fuser::RenameFlags::RENAME_WHITEOUT), Err(Errno::EINVAL));
        assert_eq!(rename_mode(fuser::RenameFlags::RENAME_EXCHANGE), Ok(RenameMode::Exchange));
    }

    #[test]
    fn chown_clears_setuid_and_chmod_does_not() {
        let chown = changes(0, None, Some(1), None, None, None, None);
        let chmod = changes(7, Some(0o104_755), None, None, None, None, None);
        assert!(chown.clear_suid && !chmod.clear_suid);
        assert_eq!(chmod.mode, Some(0o4755));
        assert!(changes(7, None, None, None, Some(0), None, None).clear_suid);
        assert!(!changes(0, None, None, None, Some(0), None, None).clear_suid);
    }
}
