//! Locks of files, and what their loss bars from then on (docs/protocol.md R12-fencing).

use std::sync::Arc;

use super::draft::Draft;
use crate::{
    namespace::{Change, Reply, locks::Outcome, row::RowKey},
    types::{Errno, FileKind, Ino, LockClaim, LockFamily, LockHolder, LockRange, LogIndex, Sequence, SessionId},
};

impl Draft {
    pub(super) fn lock(
        &mut self,
        ino: Ino,
        (session, call): (SessionId, Sequence),
        claim: LockClaim,
        waits: bool,
    ) -> Result<Reply, Errno> {
        self.lockable(ino, session, (claim.family, claim.range))?;
        let mut outcome = Outcome::default();
        let index = self.index;
        let reply = self.volume.locks.lock(&mut outcome, index, (ino, session, call), claim, waits);
        self.locks_changed(outcome);
        reply
    }

    pub(super) fn unlock(
        &mut self,
        ino: Ino,
        session: SessionId,
        (family, owner, range): (LockFamily, u64, LockRange),
    ) -> Result<Reply, Errno> {
        self.lockable(ino, session, (family, range))?;
        let mut outcome = Outcome::default();
        let index = self.index;
        let reply = self.volume.locks.unlock(&mut outcome, index, (ino, session), (family, owner, range));
        self.locks_changed(outcome);
        reply
    }

    pub(super) fn cancel_lock(
        &mut self,
        ino: Ino,
        (session, call): (SessionId, Sequence),
        claim: LockClaim,
        undo: bool,
    ) -> Result<Reply, Errno> {
        if !claim.family.takes(claim.range) {
            return Err(Errno::EINVAL);
        }
        let mut outcome = Outcome::default();
        let index = self.index;
        let reply = self.volume.locks.cancel(&mut outcome, index, (ino, session, call), claim, undo);
        self.locks_changed(outcome);
        reply
    }

    pub(super) fn release_locks(&mut self, ino: Ino, session: SessionId, holder: LockHolder) -> Reply {
        let mut outcome = Outcome::default();
        let index = self.index;
        let reply = self.volume.locks.release(&mut outcome, index, (ino, session), holder);
        self.locks_changed(outcome);
        reply
    }

    /// Takes everything from the session that it holds; what it did under that and comes late is refused. `Unfinished`
    /// where that is too much for one entry: from the first on all is refused.
    pub(super) fn end_holds(&mut self, session: SessionId) -> Reply {
        let index = self.index;
        self.touch(RowKey::Session(session));
        if let Some(session) = self.volume.sessions.get_mut(&session) {
            Arc::make_mut(session).holds_since = index;
        }
        self.end_delegations(session);
        self.end_locks(session);
        let is_whole = self.room() > 0 && !self.volume.locks.has_any(session);
        if is_whole { Reply::Done } else { Reply::Unfinished }
    }

    fn end_locks(&mut self, session: SessionId) {
        let mut outcome = Outcome::default();
        let index = self.index;
        for (ino, handles) in self.volume.locks.end_session(&mut outcome, index, session, self.room()) {
            self.tell_life(Change::LocksLost { ino, session, handles });
        }
        self.locks_changed(outcome);
    }

    pub(super) fn end_locks_of_file(&mut self, ino: Ino) {
        let mut outcome = Outcome::default();
        let rows_max = self.room();
        self.volume.locks.end_file(&mut outcome, ino, rows_max);
        self.locks_changed(outcome);
    }

    /// EIO for what was done under holds that were taken away since.
    pub(super) fn check_fence(&self, session: SessionId, fence: Option<LogIndex>) -> Result<(), Errno> {
        let stands = |fence| self.volume.sessions.get(&session).is_some_and(|session| session.holds_since == fence);
        if fence.is_none_or(stands) { Ok(()) } else { Err(Errno::EIO) }
    }

    fn lockable(&self, ino: Ino, session: SessionId, (family, range): (LockFamily, LockRange)) -> Result<(), Errno> {
        let is_file = self.inode(ino)?.kind == FileKind::File;
        // The leader itself has no locks.
        if is_file && family.takes(range) && session != SessionId(0) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn locks_changed(&mut self, outcome: Outcome) {
        outcome.touched.into_iter().for_each(|key| self.touch(key));
        for granted in outcome.granted {
            self.tell_life(Change::LockGranted { ino: granted.ino, session: granted.session, call: granted.call });
        }
    }
}
