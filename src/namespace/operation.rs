//! What a mount asks of the state, and what it is answered.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{
    AttributeChanges, BlockHash, ClearSuid, Errno, Ino, LockClaim, LockFamily, LockHolder, LockRange, LogIndex, Name,
    Piece, Sequence, Timestamp, UploadId, XattrName,
};

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
    /// Mode 0: what is a hole in the range is reserved, and the size grows to its end.
    Extend,
    /// KEEP_SIZE: as before, but the size stays; what is reserved may lie behind the end.
    KeepSize,
    /// PUNCH_HOLE with KEEP_SIZE: content and what is reserved goes.
    Punch,
    /// ZERO_RANGE: content goes, and all of the range is reserved; the size grows to the end of the range unless `keep_size`.
    Zero { keep_size: bool },
    /// COLLAPSE_RANGE: the range is taken out and what follows moves down. Block-aligned to 4096.
    Collapse,
    /// INSERT_RANGE: a hole is put in and what follows moves up. Block-aligned to 4096.
    Insert,
}

/// A change of the tree that a mount proposes. Variants are only ever added at the end: their order is the encoding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// mknod, mkdir, symlink, create. EEXIST when the name exists. `umask` is the caller's; a parent's default access
    /// control list stands in its place. A setgid parent overrides `gid`. With `delegate` the caller gets the write delegation of a file made so,
    /// and the turn to have it open where one mount at a time has (`Companion`).
    Make {
        parent: Ino,
        name: Name,
        node: NewNode,
        mode: u16,
        uid: u32,
        gid: u32,
        delegate: bool,
        umask: u16,
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
    /// `uploads`: those whose pins this entry lifts, its own and abandoned ones. `fence`, where the bytes were written under a lock:
    /// since when the session has had what it holds; EIO if that was taken away meanwhile (docs/protocol.md
    /// R12-fencing).
    Write {
        ino: Ino,
        pieces: Vec<Piece>,
        append: bool,
        mtime: Option<Timestamp>,
        clear_suid: ClearSuid,
        uploads: Vec<UploadId>,
        fence: Option<LogIndex>,
    },
    /// EAGAIN where the range has more bytes of holes than `at_most`, which the leader writes: so many it has found space for.
    Allocate {
        ino: Ino,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        at_most: u64,
    },
    SetXattr {
        ino: Ino,
        name: XattrName,
        value: Bytes,
        mode: XattrMode,
        /// An access control list takes setgid away: its setter is not of the file's group.
        clear_sgid: bool,
    },
    RemoveXattr {
        ino: Ino,
        name: XattrName,
    },
    /// copy_file_range: the ranges share blocks afterwards. `length` is cut at the source's end, and where one entry would
    /// change too much.
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
    /// Asks for the exclusive right to buffer changes of the file; its number is the index of this entry. EAGAIN while
    /// another session has it.
    Delegate {
        ino: Ino,
    },
    /// What the holder of the delegation did to the file meanwhile, as one change. ESTALE unless the delegation is still
    /// the one of this number (R12-fencing).
    Flush(Box<Flush>),
    /// flock, fcntl and open: takes or converts a lock of a file, or (`waits`) a place in the queue. EAGAIN where it is taken
    /// and the caller does not wait, EDEADLK where he would wait for himself, ENOLCK where there are too many.
    Lock {
        ino: Ino,
        claim: LockClaim,
        waits: bool,
    },
    Unlock {
        ino: Ino,
        family: LockFamily,
        owner: u64,
        range: LockRange,
    },
    /// The `call` that asked for the claim waits no longer. Where it has its lock already that stays, unless it is to be
    /// undone.
    CancelLock {
        ino: Ino,
        call: Sequence,
        claim: LockClaim,
        undo: bool,
    },
    /// A process closed the file, or an open file is no more.
    ReleaseLocks {
        ino: Ino,
        holder: LockHolder,
    },
    /// O_TMPFILE: a file in this directory without a name, an orphan from the beginning. All else as in `Make`.
    MakeUnnamed {
        parent: Ino,
        mode: u16,
        uid: u32,
        gid: u32,
        umask: u16,
    },
    /// Gives a file its first name that was made without one; its session must know that it was. As `Link` where it has
    /// a name.
    LinkUnnamed {
        ino: Ino,
        parent: Ino,
        name: Name,
    },
}

/// Changes made under a delegation, in the order in which they are carried out: cut, written, lengthened, attributes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Flush {
    pub ino: Ino,
    /// The entry that granted the delegation.
    pub grant: LogIndex,
    /// What lies behind this goes first.
    pub cut: Option<u64>,
    pub pieces: Vec<Piece>,
    /// The file is at least so long afterwards: bytes.
    pub size_min: u64,
    /// When content or size were changed last, by cluster time; `None`: they were not. It counts where it is later than
    /// the inode's own time, so that stat shows the same before and after.
    pub written_at: Option<Timestamp>,
    /// When anything was changed last, by the same rule.
    pub changed_at: Option<Timestamp>,
    /// Mode, owner and times as they were set last; never a size. A time set here is kept whatever was written before.
    pub changes: AttributeChanges,
    /// Those whose pins this entry lifts, its own and abandoned ones.
    pub uploads: Vec<UploadId>,
    /// The delegation ends with this.
    pub give_back: bool,
    /// Where bytes were written under a lock: since when, as in `Operation::Write`.
    pub fence: Option<LogIndex>,
}

impl Flush {
    /// One that changes nothing yet.
    #[must_use]
    pub fn of(ino: Ino, grant: LogIndex) -> Self {
        Self {
            ino,
            grant,
            cut: None,
            pieces: Vec::new(),
            size_min: 0,
            written_at: None,
            changed_at: None,
            changes: AttributeChanges::default(),
            uploads: Vec::new(),
            give_back: false,
            fence: None,
        }
    }
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
    /// The lock is the caller's.
    Locked,
    /// The lock is another's; a later entry grants it (`Change::LockGranted`).
    Queued,
    /// A part is carried out: as much as one entry may change. Who wants the rest asks again.
    Unfinished,
}

impl Reply {
    /// Whether the same call comes again: it was refused for the moment, or carried out in part. Its entry lifts no pins.
    #[must_use]
    pub const fn comes_again(outcome: &Result<Self, Errno>) -> bool {
        matches!(outcome, Err(Errno::EAGAIN) | Ok(Self::Unfinished))
    }
}

impl Operation {
    /// About locks alone: it changes nothing that a kernel shows, and is for mounts that only read, too.
    #[must_use]
    pub const fn is_locking(&self) -> bool {
        matches!(self, Self::Lock { .. } | Self::Unlock { .. } | Self::CancelLock { .. } | Self::ReleaseLocks { .. })
    }

    /// Bytes that it holds in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        const SMALL: usize = 256;
        let pieces = |pieces: &[Piece]| -> usize {
            pieces.iter().map(|piece| SMALL + piece.content.as_ref().map_or(0, Bytes::len)).sum()
        };
        SMALL
            + match self {
                Self::Make { node: NewNode::Symlink { target }, .. } => target.len(),
                Self::Write { pieces: written, .. } => pieces(written),
                Self::Flush(flush) => pieces(&flush.pieces),
                Self::Coalesce { piece, .. } => pieces(std::slice::from_ref(piece)),
                Self::SetXattr { value, .. } => value.len(),
                _ => 0,
            }
    }

    /// Uploads whose pins it lifts: those that it completes, and abandoned ones.
    #[must_use]
    pub fn uploads(&self) -> &[UploadId] {
        match self {
            Self::Write { uploads, .. } => uploads,
            Self::Flush(flush) => &flush.uploads,
            _ => &[],
        }
    }

    /// The same, where it can have any.
    pub(crate) const fn uploads_mut(&mut self) -> Option<&mut Vec<UploadId>> {
        match self {
            Self::Write { uploads, .. } => Some(uploads),
            Self::Flush(flush) => Some(&mut flush.uploads),
            _ => None,
        }
    }

    /// The blocks that carrying it out needs in the stores and that do not travel in it.
    pub fn blocks_needed(&self) -> impl Iterator<Item = BlockHash> + '_ {
        let pieces = match self {
            Self::Write { pieces, .. } => pieces.as_slice(),
            Self::Coalesce { piece, .. } => std::slice::from_ref(piece),
            Self::Flush(flush) => flush.pieces.as_slice(),
            _ => &[],
        };
        pieces.iter().filter(|piece| piece.content.is_none()).filter_map(|piece| piece.block)
    }
}
