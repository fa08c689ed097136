//! What stat shows, and what setattr asks to change.

use serde::{Deserialize, Serialize};

use super::{Ino, Timestamp};

/// The type bits of a mode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// The attributes of an inode as stat shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device file, else 0.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that hold content (holes do not count).
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

/// mtime behind a change of content that was made `at`, of a file or directory with these times: always another one. One
/// that the cluster has stamped never runs backwards; but one that somebody has set ahead of the present ends with the
/// change, as on local file systems. Such a one is later than ctime, which nobody sets.
pub(crate) fn mtime_behind(mtime: Timestamp, ctime: Timestamp, at: Timestamp) -> Timestamp {
    if mtime > ctime && at != mtime { at } else { at.max(mtime.next()) }
}

/// A time that setattr sets: to the time of the entry, or to what the caller gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimeChange {
    Now,
    To(Timestamp),
}

/// What setattr changes; `None` leaves a thing as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttributeChanges {
    /// Permission bits: 0 to 0o7777.
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Bytes; shorter cuts, longer ends in a hole.
    pub size: Option<u64>,
    pub atime: Option<TimeChange>,
    pub mtime: Option<TimeChange>,
    pub clear_suid: ClearSuid,
}

/// Which of setuid and setgid end with a change of a file, and with them its capabilities, as on local file systems
/// (`setattr_should_drop_suidgid`, Linux fs/attr.c). Those of a directory never do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum ClearSuid {
    /// Both stay.
    #[default]
    No,
    /// setuid, and setgid where the group may execute (otherwise the bit once meant mandatory locking): a member of the
    /// file's group has changed it.
    ByMember,
    /// Both: whoever has changed it is not of the file's group.
    ByStranger,
}

impl ClearSuid {
    /// That of a change of content by this user: root's ends nothing.
    #[must_use]
    pub const fn of(uid: u32) -> Self {
        if uid == 0 { Self::No } else { Self::ByStranger }
    }

    /// What is left of the mode.
    #[must_use]
    pub const fn clear(self, mode: u16) -> u16 {
        match self {
            Self::No => mode,
            Self::ByMember if mode & 0o010 == 0 => mode & !0o4000,
            Self::ByMember | Self::ByStranger => mode & !0o6000,
        }
    }
}
