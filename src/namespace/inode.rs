//! An inode: what stat shows, and what hangs on it by kind.

use bytes::Bytes;

use super::extent::Extents;
use crate::types::{Attributes, FileKind, Ino, Timestamp};

/// What stat shows of a directory's size: it has none of its own.
pub(super) const DIRECTORY_SIZE: u64 = 4096;

/// A living inode, or an orphan when `nlink` is 0.
#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Device number of a device file, else 0.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// One more with every change of the content; guards what was prepared from an older one.
    pub data_version: u64,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File {
        extents: Extents,
        /// Sum of the extents' lengths, reserved ones included.
        bytes: u64,
    },
    Directory {
        /// The root is its own parent. Of an orphan: the last one it had.
        parent: Ino,
    },
    Symlink {
        target: Bytes,
    },
    Special,
}

impl Inode {
    /// Where the symlink leads; `None` for all other kinds.
    #[must_use]
    pub const fn symlink_target(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Symlink { target } => Some(target),
            _ => None,
        }
    }

    /// Bytes of content and of what is reserved for it (holes do not count).
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        match &self.body {
            Body::File { bytes, .. } => *bytes,
            _ => 0,
        }
    }

    /// What stat shows.
    #[must_use]
    pub const fn attributes(&self, ino: Ino) -> Attributes {
        Attributes {
            ino,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            blocks: self.bytes().div_ceil(512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    pub(super) const fn extents(&self) -> Option<&Extents> {
        match &self.body {
            Body::File { extents, .. } => Some(extents),
            _ => None,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// A directory whose mtime was later before (`Change::Rewound`).
    pub(crate) fn is_rewound_from(&self, before: &Self) -> bool {
        self.is_directory() && self.mtime < before.mtime
    }
}
