//! A lock that stands and a request that waits, each a row of the state.

use serde::{Deserialize, Serialize};

use crate::types::{Ino, LockClaim, LockFamily, LockKind, LockRange, LogIndex, Sequence, SessionId};

/// Who has or wants a lock: a session, and its kernel's number for the process or open file.
pub(crate) type Owner = (SessionId, u64);

/// A lock that stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldLock {
    pub session: SessionId,
    pub claim: LockClaim,
    /// The entry that granted it, or the last part of it (docs/protocol.md R12-fencing).
    pub grant: LogIndex,
}

/// A request that waits for its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitingLock {
    pub session: SessionId,
    /// The call that asked; its mount knows the request by it.
    pub call: Sequence,
    pub claim: LockClaim,
}

/// The locks of one owner and family neither overlap nor, where they are of one kind, touch: each has a first byte of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::namespace) struct HeldKey {
    pub(in crate::namespace) ino: Ino,
    pub(in crate::namespace) family: LockFamily,
    pub(in crate::namespace) session: SessionId,
    pub(in crate::namespace) owner: u64,
    pub(in crate::namespace) first: u64,
}

/// What the key does not say.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(in crate::namespace) struct HeldRow {
    kind: LockKind,
    last: u64,
    pid: u32,
    fh: u64,
    grant: LogIndex,
}

impl HeldKey {
    /// No key of the file comes before it.
    pub(in crate::namespace) const fn first_of(ino: Ino) -> Self {
        Self { ino, family: LockFamily::Flock, session: SessionId(0), owner: 0, first: 0 }
    }

    pub(in crate::namespace) fn lock(self, row: HeldRow) -> HeldLock {
        let HeldRow { kind, last, pid, fh, grant } = row;
        let range = LockRange { first: self.first, last };
        let claim = LockClaim { family: self.family, owner: self.owner, kind, range, pid, fh };
        HeldLock { session: self.session, claim, grant }
    }
}

impl HeldLock {
    pub(crate) const fn owner(&self) -> Owner {
        (self.session, self.claim.owner)
    }

    pub(in crate::namespace) const fn key(&self, ino: Ino) -> HeldKey {
        let LockClaim { family, owner, range, .. } = self.claim;
        HeldKey { ino, family, session: self.session, owner, first: range.first }
    }

    pub(in crate::namespace) const fn row(&self) -> HeldRow {
        let LockClaim { kind, range, pid, fh, .. } = self.claim;
        HeldRow { kind, last: range.last, pid, fh, grant: self.grant }
    }
}

impl WaitingLock {
    pub(crate) const fn owner(&self) -> Owner {
        (self.session, self.claim.owner)
    }
}
