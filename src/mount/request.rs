//! What the kernel asks and what it is answered, in words of our own. The adapters in `fuse/` translate; the
//! simulator's kernel model speaks them directly. Sources: Linux `include/uapi/linux/fuse.h`, `fs/fuse/`.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    namespace::{AllocateMode, NewNode, RenameMode, XattrMode},
    types::{AttributeChanges, Attributes, ClearSuid, FileKind, Ino, LockClaim, Name, VolumeSpace, XattrName},
};

/// Who asks. The kernel has checked permissions already (default_permissions).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// Flags of open(2) that matter to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// With `write`: the file may be mapped and written to by memory.
    pub read: bool,
    pub write: bool,
    pub append: bool,
    /// O_TRUNC that the kernel left to us (FUSE_ATOMIC_O_TRUNC).
    pub truncate: bool,
    pub exclusive: bool,
    /// O_SYNC or O_DSYNC: every write is durable before it returns.
    pub sync: bool,
    /// FUSE_OPEN_KILL_SUIDGID: what the truncation ends, should the caller not be of the file's group.
    pub clear_suid: ClearSuid,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteFlags {
    /// FUSE_WRITE_CACHE: write-back of a shared mmap; `fh` is a guess (docs/protocol.md R26-mappings).
    pub write_back: bool,
    /// FUSE_WRITE_KILL_SUIDGID: what the write ends, should the caller not be of the file's group.
    pub clear_suid: ClearSuid,
    /// O_APPEND stands on the open file: the offset is not to be trusted (R13-appends).
    pub append: bool,
    /// O_SYNC or O_DSYNC stands on the open file.
    pub sync: bool,
}

/// A request of the kernel. `fh` is the number that `Response::Opened` gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Lookup {
        parent: Ino,
        name: Name,
    },
    /// What a file handle names (open_by_handle_at(2), an NFS server): a LOOKUP of `.` in an inode that the kernel need not
    /// know.
    ByHandle {
        ino: Ino,
    },
    /// The same of a directory's parent: a LOOKUP of `..`.
    Parent {
        ino: Ino,
    },
    /// No answer is sent.
    Forget {
        inodes: Vec<(Ino, u64)>,
    },
    /// `for_read`: the kernel wants to know how long the file is, and shows the rest to nobody.
    Getattr {
        ino: Ino,
        for_read: bool,
    },
    Setattr {
        ino: Ino,
        changes: AttributeChanges,
    },
    Readlink {
        ino: Ino,
    },
    /// mknod, mkdir, symlink; `mode` is not masked yet.
    Make {
        parent: Ino,
        name: Name,
        node: NewNode,
        mode: u16,
        umask: u16,
    },
    Create {
        parent: Ino,
        name: Name,
        mode: u16,
        umask: u16,
        flags: OpenFlags,
    },
    /// O_TMPFILE: a file without a name, open. Answered as `Create`.
    MakeUnnamed {
        parent: Ino,
        mode: u16,
        umask: u16,
        flags: OpenFlags,
    },
    Unlink {
        parent: Ino,
        name: Name,
    },
    Rmdir {
        parent: Ino,
        name: Name,
    },
    Rename {
        from: Ino,
        from_name: Name,
        to: Ino,
        to_name: Name,
        mode: RenameMode,
    },
    Link {
        ino: Ino,
        parent: Ino,
        name: Name,
    },
    Open {
        ino: Ino,
        flags: OpenFlags,
    },
    Read {
        ino: Ino,
        fh: u64,
        offset: u64,
        length: u32,
    },
    Write {
        ino: Ino,
        fh: u64,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    },
    /// close(2) of one descriptor. `owner`: the kernel's number for the process, whose fcntl locks of the file end.
    Flush {
        ino: Ino,
        fh: u64,
        owner: u64,
    },
    /// F_GETLK: what stands against the claim.
    GetLock {
        ino: Ino,
        claim: LockClaim,
    },
    /// flock, F_SETLK, and, if it `waits`, F_SETLKW.
    SetLock {
        ino: Ino,
        claim: LockClaim,
        waits: bool,
    },
    /// The kind of the claim means nothing.
    Unlock {
        ino: Ino,
        claim: LockClaim,
    },
    /// The last descriptor of an open is gone, and the locks that were set through it with it.
    Release {
        ino: Ino,
        fh: u64,
    },
    Fsync {
        ino: Ino,
        fh: u64,
    },
    Opendir {
        ino: Ino,
    },
    Releasedir {
        ino: Ino,
    },
    /// Entries behind cookie `offset` (0: from the beginning), `length` bytes of encoded entries at most.
    Readdir {
        ino: Ino,
        offset: u64,
        length: u32,
    },
    Fsyncdir {
        ino: Ino,
    },
    Statfs,
    /// `length` 0 asks for the size only.
    Getxattr {
        ino: Ino,
        name: XattrName,
        length: u32,
    },
    Listxattr {
        ino: Ino,
        length: u32,
    },
    Setxattr {
        ino: Ino,
        name: XattrName,
        value: Bytes,
        mode: XattrMode,
        /// FUSE_SETXATTR_ACL_KILL_SGID: the new access list takes setgid away.
        clear_sgid: bool,
    },
    Removexattr {
        ino: Ino,
        name: XattrName,
    },
    Allocate {
        ino: Ino,
        fh: u64,
        mode: AllocateMode,
        offset: u64,
        length: u64,
    },
    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    SeekData {
        ino: Ino,
        offset: u64,
    },
    SeekHole {
        ino: Ino,
        offset: u64,
    },
    CopyRange {
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        length: u64,
    },
}

/// FOPEN_* of the answer to an open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenedAs {
    pub fh: u64,
    pub keep_cache: bool,
    pub direct_io: bool,
    pub no_flush: bool,
    pub cache_dir: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    pub ino: Ino,
    /// Where the next readdir goes on behind this entry.
    pub cookie: u64,
    pub kind: FileKind,
    /// `.` and `..` are among them, so bytes and not a `Name`.
    pub name: Bytes,
}

/// The answer of success. A refusal is an `Errno`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    Done,
    Entry {
        attributes: Attributes,
        entry_ttl: Duration,
        attributes_ttl: Duration,
    },
    /// The name does not exist, and the kernel may remember so.
    Missing {
        ttl: Duration,
    },
    Attributes {
        attributes: Attributes,
        ttl: Duration,
    },
    Opened(OpenedAs),
    Created {
        attributes: Attributes,
        entry_ttl: Duration,
        attributes_ttl: Duration,
        opened: OpenedAs,
    },
    /// Content of a file, in parts that follow one another; or a symlink's target, an xattr's value or a list of
    /// names with their final zeros, in one part.
    Data(Vec<Bytes>),
    Written {
        length: u32,
    },
    Directory(Vec<DirectoryEntry>),
    /// The lock that stands against a claim.
    Lock(Option<LockClaim>),
    /// Size of an xattr value or list.
    Size(u32),
    Offset(u64),
    Statfs(VolumeSpace),
}
