//! Sessions and exactly-once calls.

use std::sync::Arc;

use super::draft::{Draft, Verdict};
use crate::{
    limits,
    namespace::{
        Companion, EntryHeader, NewNode, Operation, Reply,
        row::{ReplyRow, RowKey},
        session::{Session, SpentCalls},
    },
    types::{CredentialId, Errno, LockClaim, MountId, Sequence, SessionId},
};

/// What a session asks for, and what it was answered if it asked before.
enum Call {
    First,
    Repeated(Result<Reply, Errno>),
}

impl Draft {
    /// A mount's change, exactly once. Without a session (0) it is the leader's own and leaves no reply.
    pub(super) fn call(&mut self, header: &EntryHeader, operation: &Operation) -> Verdict {
        let (session, sequence) = (header.session, header.sequence);
        if session == SessionId(0) {
            return Verdict::of(self.whole(|draft| draft.operate((session, sequence), operation)));
        }
        match self.begin_call(session, sequence, &header.answered) {
            Err(errno) => Verdict::of(Err(errno)),
            Ok(Call::Repeated(outcome)) => Verdict { repeated: true, ..Verdict::of(outcome) },
            Ok(Call::First) => {
                let outcome = self.whole(|draft| {
                    draft.check_delegations(session, operation)?;
                    draft.operate((session, sequence), operation)
                });
                self.put_reply(session, sequence, outcome);
                Verdict::of(outcome)
            }
        }
    }

    fn operate(&mut self, (session, sequence): (SessionId, Sequence), operation: &Operation) -> Result<Reply, Errno> {
        match operation {
            Operation::Make { parent, name, node, mode, uid, gid, delegate, umask } => {
                let made = self.make(*parent, name, node, (*mode, *umask, *uid, *gid))?;
                if let (true, NewNode::File, Reply::Made { ino }) = (*delegate, node, made) {
                    self.delegate(ino, session)?;
                    // Who makes it has it open.
                    if Companion::of(name) == Some(Companion::SharedMemory) {
                        self.lock(ino, (session, sequence), LockClaim::OPEN, false)?;
                    }
                }
                Ok(made)
            }
            Operation::MakeUnnamed { parent, mode, uid, gid, umask } => {
                self.make_unnamed(*parent, (*mode, *umask, *uid, *gid))
            }
            Operation::Link { ino, parent, name } => self.link(*ino, *parent, name, false),
            Operation::LinkUnnamed { ino, parent, name } => self.link(*ino, *parent, name, true),
            Operation::Unlink { parent, name } => self.unlink(*parent, name),
            Operation::Rmdir { parent, name } => self.rmdir(*parent, name),
            Operation::Rename { from, from_name, to, to_name, mode } => {
                self.rename((*from, from_name), (*to, to_name), *mode)
            }
            Operation::SetAttributes { ino, changes } => self.set_attributes(*ino, changes),
            Operation::Write { ino, pieces, append, mtime, clear_suid, uploads, fence } => {
                self.check_fence(session, *fence)?;
                if uploads.len() > limits::PIECES_MAX {
                    return Err(Errno::EINVAL);
                }
                self.write(*ino, pieces, *append, *mtime, *clear_suid)
            }
            Operation::Allocate { ino, mode, offset, length, at_most } => {
                self.allocate(*ino, *mode, (*offset, *length), *at_most)
            }
            Operation::SetXattr { ino, name, value, mode, clear_sgid } => {
                self.set_xattr(*ino, name, value, *mode, *clear_sgid)
            }
            Operation::RemoveXattr { ino, name } => self.remove_xattr(*ino, name),
            Operation::CopyRange { from, from_offset, to, to_offset, length } => {
                self.copy_range((*from, *from_offset), (*to, *to_offset), *length)
            }
            Operation::Coalesce { ino, data_version, piece } => self.coalesce(*ino, *data_version, piece),
            Operation::Delegate { ino } => self.delegate(*ino, session),
            Operation::Flush(flush) => self.flush(session, flush),
            Operation::Lock { ino, claim, waits } => self.lock(*ino, (session, sequence), *claim, *waits),
            Operation::Unlock { ino, family, owner, range } => self.unlock(*ino, session, (*family, *owner, *range)),
            Operation::CancelLock { ino, call, claim, undo } => self.cancel_lock(*ino, (session, *call), *claim, *undo),
            Operation::ReleaseLocks { ino, holder } => Ok(self.release_locks(*ino, session, *holder)),
        }
    }

    /// Prunes what was answered, then looks whether the call is a new one.
    fn begin_call(&mut self, session: SessionId, sequence: Sequence, answered: &[Sequence]) -> Result<Call, Errno> {
        if !self.volume.sessions.contains_key(&session) {
            return Err(Errno::ESTALE);
        }
        // The call itself is looked up first: its own confirmation cannot have come before its answer.
        let known = self.volume.replies.get(&(session, sequence)).map(|reply| reply.outcome);
        for sequence in answered {
            self.drop_reply(session, *sequence);
            self.spend_call(session, *sequence);
        }
        if let Some(outcome) = known {
            return Ok(Call::Repeated(outcome));
        }
        let is_spent = self.volume.sessions.get(&session).is_some_and(|session| session.spent.contains(sequence));
        // Its answer is gone; carrying it out now would be a second time.
        if is_spent { Ok(Call::Repeated(Err(Errno::ESTALE))) } else { Ok(Call::First) }
    }

    /// The call is carried out by this entry, or never.
    fn spend_call(&mut self, session: SessionId, sequence: Sequence) {
        self.touch(RowKey::Session(session));
        if let Some(session) = self.volume.sessions.get_mut(&session) {
            Arc::make_mut(session).spent.insert(sequence);
        }
    }

    /// Keeps the answer of a call that was carried out. A mount in good order confirms answers long before there are too
    /// many; of one that never does, the oldest go.
    fn put_reply(&mut self, session: SessionId, sequence: Sequence, outcome: Result<Reply, Errno>) {
        self.spend_call(session, sequence);
        self.touch(RowKey::Reply(session, sequence));
        self.volume.replies.insert((session, sequence), ReplyRow { index: self.index, outcome });
        let Some(row) = self.volume.sessions.get_mut(&session).map(Arc::make_mut) else { return };
        row.held += 1;
        if row.held > limits::SESSION_REPLIES_MAX {
            let of_session = (session, Sequence(0))..=(session, Sequence(u64::MAX));
            let mut others = self.volume.replies.range(of_session).map(|((_, other), _)| *other);
            if let Some(oldest) = others.find(|other| *other != sequence) {
                self.drop_reply(session, oldest);
            }
        }
    }

    fn drop_reply(&mut self, session: SessionId, sequence: Sequence) {
        if self.volume.replies.remove(&(session, sequence)).is_some() {
            self.touch(RowKey::Reply(session, sequence));
            if let Some(session) = self.volume.sessions.get_mut(&session) {
                Arc::make_mut(session).held -= 1;
            }
        }
    }

    /// The session this mount has, or a new one. ENFILE where there are too many.
    pub(super) fn open_session(&mut self, mount: MountId, credential: CredentialId, level_max: u16) -> Verdict {
        let session = match self.volume.mounts.get(&mount) {
            Some(session) => {
                let session = *session;
                if let Some(row) = self.volume.sessions.get_mut(&session).filter(|row| row.level_max != level_max) {
                    Arc::make_mut(row).level_max = level_max;
                    self.touch(RowKey::Session(session));
                }
                session
            }
            None if self.volume.sessions.len() >= limits::SESSIONS_MAX => return Verdict::of(Err(Errno::ENFILE)),
            None => {
                let session = SessionId(self.volume.counters.next_session);
                self.volume.counters.next_session += 1;
                let row = Session {
                    mount,
                    opened: self.index,
                    opened_at: self.stamp,
                    holds_since: self.index,
                    credential,
                    level_max,
                    spent: SpentCalls::default(),
                    held: 0,
                };
                self.touch(RowKey::Session(session));
                self.volume.sessions.insert(session, Arc::new(row));
                self.volume.mounts.insert(mount, session);
                session
            }
        };
        Verdict { session: Some(session), ..Verdict::of(Ok(Reply::Done)) }
    }

    /// Ends the sessions that there are among these, with their replies and all they hold. `Unfinished` where some of it
    /// has to wait for the next entry.
    pub(super) fn close_sessions(&mut self, sessions: &[SessionId]) -> Reply {
        for session in sessions {
            if !self.volume.sessions.contains_key(session) {
                continue;
            }
            if self.end_holds(*session) == Reply::Unfinished {
                return Reply::Unfinished;
            }
            // With the row: as long as the session is there, a call of its that comes again finds its answer
            // (docs/protocol.md R17-exactly-once).
            self.drop_replies(*session);
            if let Some(row) = self.volume.sessions.remove(session) {
                self.volume.mounts.remove(&row.mount);
                self.touch(RowKey::Session(*session));
            }
        }
        Reply::Done
    }

    /// The session's answers, of which there are `limits::SESSION_REPLIES_MAX` at most.
    fn drop_replies(&mut self, session: SessionId) {
        let of_session = (session, Sequence(0))..=(session, Sequence(u64::MAX));
        let replies: Vec<_> = self.volume.replies.range(of_session).map(|((_, sequence), _)| *sequence).collect();
        for sequence in replies {
            self.drop_reply(session, sequence);
        }
    }
}
