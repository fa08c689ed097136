//! What applying an entry brought about, for those who keep rows, blocks and kernel caches in step with the state.

use bytes::Bytes;

use super::Reply;
use crate::types::{BlockHash, Errno, Ino, Name, Sequence, SessionId};

/// A row of the state store that got a new value or went away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowChange {
    /// Orders rows as `Volume::rows` and `State::rows` list them.
    pub key: Bytes,
    /// `None`: the row is gone.
    pub value: Option<Bytes>,
}

/// What a kernel may have cached and must forget; also what a mount's own bookkeeping watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The name means another inode now, or none, or for the first time one. The directory's listing, times and link
    /// count changed with it. `before` and `now` are the inodes it meant and means.
    Name { parent: Ino, name: Name, before: Option<Ino>, now: Option<Ino> },
    /// Mode, owner, times, link count or xattrs of the inode.
    Attributes { ino: Ino },
    /// The directory's mtime is earlier than it was: a listing may be kept under one that comes again (docs/protocol.md
    /// R2-telling).
    Rewound { ino: Ino },
    /// Bytes of the file from `offset` on (`length` of them, `u64::MAX` for all that follow), with size and times.
    Content { ino: Ino, offset: u64, length: u64 },
    /// The inode has no name any more; it is an orphan until reaped.
    Orphaned { ino: Ino },
    /// The inode is gone for good.
    Freed { ino: Ino },
    /// Another session (or none) has the write delegation now.
    Delegated { ino: Ino, before: Option<SessionId>, now: Option<SessionId> },
    /// A call that waited for a lock has it.
    LockGranted { ino: Ino, session: SessionId, call: Sequence },
    /// The session's locks of the file, set through these open files, and its places in the queue were taken away.
    LocksLost { ino: Ino, session: SessionId, handles: Vec<u64> },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// In the order they happened; a later change of a key overrides an earlier one.
    pub rows: Vec<RowChange>,
    /// Inline content that came with the entry, to be kept in packs (storage node) or cache (mount).
    pub content: Vec<(BlockHash, Bytes)>,
    /// How many more (or fewer) extents of this volume name the block.
    pub references: Vec<(BlockHash, i64)>,
    pub changes: Vec<Change>,
}

/// The result of applying one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// What the caller is told. A repeated call gets the reply of the first time.
    pub outcome: Result<Reply, Errno>,
    /// The session that `OpenSession` opened or found.
    pub session: Option<crate::types::SessionId>,
    /// The call had been carried out before (reply table): nothing happened this time.
    pub repeated: bool,
    pub effects: Effects,
}
