//! Write delegations: granted by an entry, fenced by its index, ended by a flush of their holder, by the hold time or with
//! the session (docs/protocol.md R11-delegation, R12-fencing).
//!
//! Who does not hold a file's delegation changes nothing of what the holder may be changing: EAGAIN until it is back.
//! Names are nobody's: links, unlinks and renames go on. The refusal is what makes appends safe that were under way when
//! the delegation was granted: carried out below bytes that are still buffered, they would be overwritten by these.

use super::draft::Draft;
use crate::{
    limits,
    namespace::{Change, Delegation, Flush, Operation, Reply, row::RowKey},
    types::{AttributeChanges, ClearSuid, Errno, FileKind, Ino, SessionId, XattrName},
};

impl Draft {
    /// EAGAIN where the operation concerns what another session may be changing.
    pub(super) fn check_delegations(&self, session: SessionId, operation: &Operation) -> Result<(), Errno> {
        let is_free = |ino: &Ino| self.volume.delegation(*ino).is_none_or(|delegation| delegation.session == session);
        let may = match operation {
            Operation::SetAttributes { ino, .. }
            | Operation::Write { ino, .. }
            | Operation::Allocate { ino, .. }
            | Operation::SetXattr { ino, .. }
            | Operation::RemoveXattr { ino, .. }
            | Operation::Coalesce { ino, .. }
            | Operation::Delegate { ino } => is_free(ino),
            Operation::CopyRange { from, to, .. } => is_free(from) && is_free(to),
            // A flush says itself which delegation it rests on.
            Operation::Flush(_)
            | Operation::Make { .. }
            | Operation::MakeUnnamed { .. }
            | Operation::Link { .. }
            | Operation::LinkUnnamed { .. }
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::Lock { .. }
            | Operation::Unlock { .. }
            | Operation::CancelLock { .. }
            | Operation::ReleaseLocks { .. } => true,
        };
        if may { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    /// A session that has the delegation gets a new number for it. The leader itself (session 0) buffers nothing.
    pub(super) fn delegate(&mut self, ino: Ino, session: SessionId) -> Result<Reply, Errno> {
        match self.inode(ino)?.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if session == SessionId(0) {
            return Err(Errno::EINVAL);
        }
        let before = self.volume.delegation(ino).map(|delegation| delegation.session);
        self.touch(RowKey::Delegation(ino));
        self.volume.delegations.insert(ino, Delegation { session, grant: self.index });
        if before != Some(session) {
            self.tell_holder(Change::Delegated { ino, before, now: Some(session) });
        }
        Ok(Reply::Done)
    }

    pub(super) fn flush(&mut self, session: SessionId, flush: &Flush) -> Result<Reply, Errno> {
        let Flush { ino, grant, cut, pieces, size_min, written_at, changed_at, changes, uploads, give_back, fence } =
            flush;
        let (ino, grant) = (*ino, *grant);
        if self.volume.delegation(ino) != Some(Delegation { session, grant }) {
            return Err(Errno::ESTALE);
        }
        self.check_fence(session, *fence)?;
        if uploads.len() > limits::PIECES_MAX || changes.size.is_some() {
            return Err(Errno::EINVAL);
        }
        if let Some(size) = cut.filter(|size| self.inode(ino).is_ok_and(|inode| *size < inode.size))
            && self.set_size(ino, size)? == Reply::Unfinished
        {
            return Ok(Reply::Unfinished);
        }
        // Also without pieces: it looks at the times.
        if self.write(ino, pieces, false, *written_at, changes.clear_suid)? == Reply::Unfinished {
            return Ok(Reply::Unfinished);
        }
        if *size_min > self.inode(ino)?.size {
            self.set_size(ino, *size_min)?;
        }
        let mut changed_at = *changed_at;
        if let Some(at) = *written_at {
            self.stamp_content(ino, Some(at));
            self.drop_xattr(ino, &XattrName::capability());
            changed_at = changed_at.max(Some(self.inode(ino)?.mtime));
        }
        // Cleared above: a mode that was set since stays.
        let set = AttributeChanges { clear_suid: ClearSuid::No, ..*changes };
        if set != AttributeChanges::default() {
            self.set_attributes(ino, &set)?;
        }
        if let Some(at) = changed_at {
            super::attributes::check_time(at)?;
            self.stamp_attributes_at(ino, at);
        }
        if *give_back {
            self.end_delegation(ino);
        }
        Ok(Reply::Done)
    }

    /// The session loses its delegations, so many of them as one entry may end.
    pub(super) fn end_delegations(&mut self, session: SessionId) {
        let held = self.volume.delegations.iter().filter(|(_, delegation)| delegation.session == session);
        let held: Vec<Ino> = held.map(|(ino, _)| *ino).take(self.room()).collect();
        held.into_iter().for_each(|ino| self.end_delegation(ino));
    }

    pub(super) fn end_delegation(&mut self, ino: Ino) {
        if let Some(ended) = self.volume.delegations.remove(&ino) {
            self.touch(RowKey::Delegation(ino));
            self.tell_holder(Change::Delegated { ino, before: Some(ended.session), now: None });
        }
    }
}
