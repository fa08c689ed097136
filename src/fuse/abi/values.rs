//! Between the kernel's numbers and the mount core's words.

use nix::libc;

use super::decode::Fault;
use crate::{
    mount::OpenFlags,
    namespace::{AllocateMode, NewNode, RenameMode, XattrMode},
    types::{ClearSuid, Errno, FileKind, Name, NameError, XattrName},
};

pub(super) fn name(bytes: &[u8]) -> Result<Name, Fault> {
    let refusal = |error| match error {
        NameError::Length { found: 0 } => Errno::ENOENT,
        NameError::Length { .. } => Errno::ENAMETOOLONG,
        NameError::Byte | NameError::Dot => Errno::EINVAL,
    };
    Name::new(bytes).map_err(|error| Fault::Refused(refusal(error)))
}

pub(super) fn xattr_name(bytes: &[u8]) -> Result<XattrName, Fault> {
    XattrName::new(bytes).map_err(|_| Fault::Refused(Errno::ERANGE))
}

/// `flags` as open(2) takes them.
pub(super) const fn open_flags(flags: u32) -> OpenFlags {
    let flags = flags.cast_signed();
    OpenFlags {
        read: flags & libc::O_ACCMODE != libc::O_WRONLY,
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        append: is_append(flags),
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
        sync: is_sync(flags),
        clear_suid: ClearSuid::No,
    }
}

pub(super) const fn is_append(flags: i32) -> bool {
    flags & libc::O_APPEND != 0
}

/// O_SYNC contains O_DSYNC.
pub(super) const fn is_sync(flags: i32) -> bool {
    flags & libc::O_DSYNC != 0
}

pub(super) const fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// What mknod(2) makes.
pub(super) const fn node(mode: u32, rdev: u32) -> Result<NewNode, Fault> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(NewNode::File),
        libc::S_IFIFO => Ok(NewNode::Fifo),
        libc::S_IFSOCK => Ok(NewNode::Socket),
        libc::S_IFCHR => Ok(NewNode::CharDevice { rdev }),
        libc::S_IFBLK => Ok(NewNode::BlockDevice { rdev }),
        _ => Err(Fault::Refused(Errno::EINVAL)),
    }
}

pub(super) const fn rename_mode(flags: u32) -> Result<RenameMode, Fault> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Fault::Refused(Errno::EINVAL)),
    }
}

pub(super) const fn xattr_mode(flags: u32) -> Result<XattrMode, Fault> {
    match flags.cast_signed() {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Fault::Refused(Errno::EINVAL)),
    }
}

pub(super) const fn allocate_mode(mode: u32) -> Result<AllocateMode, Fault> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
    match mode.cast_signed() {
        0 => Ok(AllocateMode::Extend),
        KEEP => Ok(AllocateMode::KeepSize),
        PUNCH_KEEP => Ok(AllocateMode::Punch),
        ZERO => Ok(AllocateMode::Zero { keep_size: false }),
        ZERO_KEEP => Ok(AllocateMode::Zero { keep_size: true }),
        libc::FALLOC_FL_COLLAPSE_RANGE => Ok(AllocateMode::Collapse),
        libc::FALLOC_FL_INSERT_RANGE => Ok(AllocateMode::Insert),
        _ => Err(Fault::Refused(Errno::EOPNOTSUPP)),
    }
}

/// The file type bits of `st_mode`.
pub(super) const fn file_type(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_open_are_told_apart() {
        let flags = |flags: i32| open_flags(flags.cast_unsigned());
        let all = flags(libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC);
        assert!(all.write && all.append && all.truncate && all.sync && !all.exclusive);
        assert_eq!(flags(libc::O_RDONLY), OpenFlags { read: true, ..OpenFlags::default() });
        let both = flags(libc::O_RDWR | libc::O_DSYNC);
        assert!(both.read && both.write && both.sync && !all.read);
    }

    #[test]
    fn names_that_cannot_be_are_refused_as_the_kernel_would() {
        assert_eq!(name(&[b'x'; 256]), Err(Fault::Refused(Errno::ENAMETOOLONG)));
        assert!(name(&[0xff; 255]).is_ok());
        assert_eq!(name(b".."), Err(Fault::Refused(Errno::EINVAL)));
    }

    #[test]
    fn modes_of_fallocate_and_rename() {
        let allocate = |mode: i32| allocate_mode(mode.cast_unsigned());
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Ok(AllocateMode::Punch));
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE), Err(Fault::Refused(Errno::EOPNOTSUPP)));
        assert_eq!(rename_mode(libc::RENAME_WHITEOUT), Err(Fault::Refused(Errno::EINVAL)));
        assert_eq!(rename_mode(libc::RENAME_EXCHANGE), Ok(RenameMode::Exchange));
    }
}
