//! What a mount asks of the state, and what it is answered.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{AttributeChanges, BlockHash, Ino, Name, Piece, Timestamp, UploadId, XattrName};

/// What `Operation::Make` makes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NewNode {
    File,
    Directory,
    Symlink { target: Bytes },
    Fifo,
    Socket,
    CharDevice { rdev: u32 },
    BlockDevice { rdev: u32 },
}

/// The flags of renameat2(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// The flags of setxattr(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum XattrMode {
    Set,
    Create,
    Replace,
}

/// The modes of fallocate(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AllocateMode {
    /// Mode 0: the size grows to the end of the range.
    Extend,
    /// KEEP_SIZE: nothing changes but ctime (space is not reserved).
    KeepSize,
    /// PUNCH_HOLE with KEEP_SIZE.
    Punch,
    /// ZERO_RANGE; the size grows to the end of the range unless `keep_size`.
    Zero { keep_size: bool },
    /// COLLAPSE_RANGE: the range is taken out and what follows moves down. Block-aligned to 4096.
    Collapse,
    /// INSERT_RANGE: a hole is put in and what follows moves up. Block-aligned to 4096.
    Insert,
}

/// A change of the tree that a mount proposes. Variants are only ever added at the end: their order is the encoding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// mknod, mkdir, symlink, create. EEXIST when the name exists. `mode` is already masked by the caller's umask;
    /// a setgid parent overrides `gid`.
    Make {
        parent: Ino,
        name: Name,
        node: NewNode,
        mode: u16,
        uid: u32,
        gid: u32,
    },
    Link {
        ino: Ino,
        parent: Ino,
        name: Name,
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
    SetAttributes {
        ino: Ino,
        changes: AttributeChanges,
    },
    /// Gives ranges of a file new bytes, in order; the size grows to the furthest end. With `append` the pieces'
    /// offsets count from the end that apply finds. `mtime`: the time of the last write() where the mount knows it
    /// (apply keeps it unless the inode's own is later); `None` is the entry's. `clear_suid` as the kernel asks.
    /// `uploads`: uploads that this entry completes, unpinned by it.
    Write {
        ino: Ino,
        pieces: Vec<Piece>,
        append: bool,
        mtime: Option<Timestamp>,
        clear_suid: bool,
        uploads: Vec<UploadId>,
    },
    Allocate {
        ino: Ino,
        mode: AllocateMode,
        offset: u64,
        length: u64,
    },
    SetXattr {
        ino: Ino,
        name: XattrName,
        value: Bytes,
        mode: XattrMode,
    },
    RemoveXattr {
        ino: Ino,
        name: XattrName,
    },
    /// copy_file_range: the ranges share blocks afterwards. `length` is cut at the source's end.
    CopyRange {
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        length: u64,
    },
    /// Replaces many small extents by one block with the same bytes: refused with ESTALE unless the inode's
    /// `data_version` is still this one. Changes no time.
    Coalesce {
        ino: Ino,
        data_version: u64,
        piece: Piece,
    },
}

/// What an operation that was carried out tells its caller; all else is read from the state that includes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// The inode that was made (or linked).
    Made {
        ino: Ino,
    },
    /// Where an append landed, or a write began; and the size afterwards.
    Written {
        offset: u64,
        size: u64,
    },
    /// Bytes that were copied.
    Copied {
        length: u64,
    },
}

impl Operation {
    /// The blocks that carrying it out needs in the stores and that do not travel in it.
    pub fn blocks_needed(&self) -> impl Iterator<Item = BlockHash> + '_ {
        let pieces = match self {
            Self::Write { pieces, .. } => pieces.as_slice(),
            Self::Coalesce { piece, .. } => std::slice::from_ref(piece),
            _ => &[],
        };
        pieces.iter().filter(|piece| piece.content.is_none()).filter_map(|piece| piece.block)
    }
}
