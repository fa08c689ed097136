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
    /// Clear setuid (and setgid of a group-executable file) as the kernel asks after a truncate by another than root.
    pub clear_suid: bool,
}
