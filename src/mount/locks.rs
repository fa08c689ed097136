//! flock and fcntl locks of this kernel's processes. Who has which stands in the replica; here are the requests on their
//! way, those that wait for their turn, and what follows when locks are taken away (docs/protocol.md R12-fencing).
//!
//! Everything about the locks of a file takes its place among the changes of the file: what was written under a lock is
//! in the log before the lock is given back. A lock is answered when this kernel has forgotten what entries before the
//! grant made stale: reads under it see what was written under it elsewhere.

use super::{
    Caller, Mount, Output, Response,
    files::NewJob,
    requests::{Awaited, Pending, Purpose, WantedLock},
    timers::Timer,
};
use crate::{
    namespace::{Companion, Operation, Volume, locks::WaitingLock},
    types::{Errno, Ino, Instant, LockClaim, LockFamily, LockHolder, LockRange, LogIndex, Sequence, SessionId},
};

impl Mount {
    /// F_GETLK: what stands against the claim. Processes of other mounts have no number here.
    pub(super) fn get_lock(&self, ino: Ino, claim: &LockClaim) -> Response {
        let session = self.client.session().unwrap_or_default();
        let conflict = self.volume().locks().first_conflict(ino, session, claim);
        Response::Lock(conflict.map(|held| {
            let pid = if held.session == session { held.claim.pid } else { 0 };
            LockClaim { pid, ..held.claim }
        }))
    }

    /// Whether locks of the file are being given back. Who asks what is locked is answered after that: close(2) does
    /// not wait for it, and on a local file system no lock is left of a descriptor that was closed.
    pub(super) fn is_releasing_locks(&self, ino: Ino) -> bool {
        self.files.is_releasing_locks(ino)
    }

    pub(super) fn set_lock(&mut self, now: Instant, unique: u64, caller: Caller, wanted: WantedLock) {
        let WantedLock { ino, claim, .. } = wanted;
        if self.turns.is_lost(ino, claim.fh) {
            return self.respond(unique, Err(Errno::EIO));
        }
        // What was written before is not under the lock.
        self.flush(now, ino);
        let kind = Awaited::Lock { wanted, is_queued: false };
        self.wait(now, unique, Pending::new(caller, self.deadline(now), kind));
        self.propose_lock(now, unique, wanted);
    }

    pub(super) fn unlock(&mut self, now: Instant, unique: u64, caller: Caller, ino: Ino, claim: &LockClaim) {
        let LockClaim { family, owner, range, .. } = *claim;
        if !self.has_some_of(ino, &LockClaim { range: LockRange::ALL, ..*claim }) {
            return self.respond(unique, Ok(Response::Done));
        }
        self.flush(now, ino);
        self.wait(now, unique, Pending::new(caller, self.deadline(now), Awaited::Plain));
        // It is carried out also when the caller waits no longer.
        let unlock = Operation::Unlock { ino, family, owner, range };
        let job = self.enqueue(now, NewJob::of(ino, unlock));
        self.watch_job(unique, job);
    }

    /// A process closed the file, or an open file is no more: its locks end, behind what was written under them.
    pub(super) fn release_locks(&mut self, now: Instant, ino: Ino, holder: LockHolder) {
        let session = self.client.session();
        if session.is_some_and(|session| self.volume().locks().has_of(ino, session, holder)) {
            self.flush(now, ino);
            let release = Operation::ReleaseLocks { ino, holder };
            self.enqueue(now, NewJob::of(ino, release));
        }
    }

    /// Processes of this mount have fcntl locks of the file: any close of it ends those of whoever closes.
    pub(super) fn has_fcntl_locks(&self, ino: Ino) -> bool {
        self.has_lock(ino, LockFamily::Fcntl)
    }

    /// Since when this mount has what it holds, where a lock protects the file: what is written now names it.
    pub(super) fn fence(&self, ino: Ino) -> Option<LogIndex> {
        let session = self.client.session()?;
        // The log of a database is written under locks of the files beside it.
        let is_locked = self.volume().locks().holds(session, ino) || self.volume().is_companion(ino, Companion::Log);
        self.volume().session(session).filter(|_| is_locked).map(|session| session.holds_since)
    }

    /// The call has a place in the queue: it waits as long as it takes.
    pub(super) fn lock_queued(&mut self, unique: u64) {
        let Some(waiting) = self.requests.get_mut(unique) else { return };
        if let Awaited::Lock { is_queued, .. } = &mut waiting.need {
            *is_queued = true;
            if waiting.late != Errno::EINTR {
                self.timers.stop(Timer::Request(unique));
            }
        }
    }

    /// Entries granted what these calls waited for.
    pub(super) fn locks_granted(&mut self, now: Instant, calls: &[Sequence]) {
        for call in calls {
            let is_it =
                |waiting: &Pending| waiting.sequence == Some(*call) && matches!(waiting.need, Awaited::Lock { .. });
            let found = self.requests.iter().find(|(_, waiting)| is_it(waiting)).map(|(unique, _)| unique);
            if let Some(unique) = found {
                self.answer_lock(now, unique);
            }
        }
    }

    pub(super) fn answer_lock(&mut self, now: Instant, unique: u64) {
        self.requests.wait_for_tickets(unique, self.kernel.tickets());
        self.answer(now, unique, Ok(Response::Done));
    }

    /// Nobody waits for the lock any more, but the call may take effect: what it gets is given back, unless the owner
    /// had some of it before.
    pub(super) fn take_lock_back(&mut self, now: Instant, call: Sequence, lock: WantedLock) {
        let WantedLock { ino, claim, .. } = lock;
        let undo = !self.has_some_of(ino, &claim);
        let cancel = Operation::CancelLock { ino, call, claim, undo };
        self.enqueue(now, NewJob::of(ino, cancel));
    }

    /// Locks that were set through these open files are no more: nothing is written through them until they are closed.
    /// What was written under the locks is refused by apply, and its writers are told.
    pub(super) fn locks_lost(&mut self, now: Instant, lost: Vec<(Ino, Vec<u64>)>) {
        let mut count = 0;
        // What a lost lock protected beside its own file.
        let logs = if lost.is_empty() { Vec::new() } else { self.turns.logs() };
        for fh in logs {
            count += u64::from(self.handles.lose_lock(fh));
        }
        for (ino, handles) in lost {
            for fh in handles {
                count += u64::from(self.handles.lose_lock(fh));
            }
            self.flush(now, ino);
        }
        if count > 0 {
            self.counters.locks_lost += count;
            self.outputs.push_back(Output::Notice(format!(
                "locks of {count} open files were taken away: this mount was not heard of for too long; writes to these \
                 files fail until they are closed"
            )));
        }
        self.wait_again(now);
        self.next_turns(now);
    }

    /// The answer to a call that got its lock in this entry. If a snapshot brought that entry and a later one that took
    /// all locks away, neither was seen.
    pub(super) fn look_whether_lost(&mut self, call: Sequence, index: LogIndex) {
        let unique = match self.requests.purpose(call) {
            Some(Purpose::Request(unique)) => Some(unique),
            Some(Purpose::Job(job)) => self.files.request_of(job),
            None => None,
        };
        let session = self.client.session().and_then(|session| self.volume().session(session));
        let is_lost = session.is_some_and(|session| index < session.holds_since);
        if let Some(Awaited::Lock { wanted, .. }) =
            unique.and_then(|unique| self.requests.get(unique)).map(|it| &it.need)
            && is_lost
        {
            self.counters.locks_lost += u64::from(self.handles.lose_lock(wanted.claim.fh));
        }
    }

    /// The session is over, and its locks with it.
    pub(super) fn session_lost(&mut self, now: Instant) {
        let Some(session) = self.locking_as.take() else { return };
        let lost = handles_of(self.volume(), session);
        self.locks_lost(now, lost);
    }

    /// A snapshot took the replica's place: what entries did to locks meanwhile was not seen.
    pub(super) fn locks_replaced(&mut self, now: Instant, before: &Volume) {
        let Some(session) = self.locking_as else { return };
        let since = |volume: &Volume| volume.session(session).map(|session| session.holds_since);
        if since(before) != since(self.volume()) {
            self.locks_lost(now, handles_of(before, session));
        }
        self.look_for_turns(now);
        for ino in self.volume().locks().files_of(session).collect::<Vec<_>>() {
            self.look_at_turn(ino);
        }
        self.next_turns(now);
    }

    /// The answer says that the call has a place in a queue, and the replica is as new as that. If a snapshot brought
    /// the entry, neither it was seen nor a later one that granted the lock.
    pub(super) fn lock_is_queued(&mut self, now: Instant, unique: u64) {
        let waiting = self.requests.get_mut(unique);
        let was_seen = waiting.is_some_and(|waiting| matches!(waiting.need, Awaited::Lock { is_queued: true, .. }));
        self.lock_queued(unique);
        if !was_seen {
            self.look_for_turns(now);
        }
    }

    /// Entries that were not seen may have changed queued calls. Those that were granted are answered, and those
    /// without a place get another.
    fn look_for_turns(&mut self, now: Instant) {
        let Some(session) = self.locking_as else { return };
        let granted: Vec<Sequence> = self
            .queued()
            .into_iter()
            .filter(|(_, _, wanted)| self.volume().locks().grants(wanted.ino, session, &wanted.claim))
            .map(|(_, call, _)| call)
            .collect();
        self.locks_granted(now, &granted);
        self.wait_again(now);
    }

    /// Requests that had a place in a queue and have none any more get another.
    fn wait_again(&mut self, now: Instant) {
        let session = self.client.session();
        for (unique, call, wanted) in self.queued() {
            let is_it = |place: &WaitingLock| Some(place.session) == session && place.call == call;
            let has_place = self.volume().locks().queue(wanted.ino).any(is_it);
            if !has_place {
                if let Some(waiting) = self.requests.get_mut(unique) {
                    waiting.need = Awaited::Lock { wanted, is_queued: false };
                    // What the leader still says of the call that lost its place is not about the next one.
                    if let Some(before) = waiting.job {
                        self.files.detach_request(before);
                    }
                    (waiting.sequence, waiting.job, waiting.is_applied) = (None, None, false);
                }
                self.propose_lock(now, unique, wanted);
            }
        }
    }

    fn propose_lock(&mut self, now: Instant, unique: u64, wanted: WantedLock) {
        let WantedLock { ino, claim, waits } = wanted;
        let lock = Operation::Lock { ino, claim, waits };
        self.enqueue(now, NewJob::of(ino, lock).answering(unique));
    }

    /// Requests that have a place in a queue and are not answered yet.
    pub(super) fn queued(&self) -> Vec<(u64, Sequence, WantedLock)> {
        let queued = self.requests.iter().filter_map(|(unique, waiting)| match waiting.need {
            Awaited::Lock { wanted, is_queued: true } if !waiting.is_decided() => {
                waiting.sequence.map(|call| (unique, call, wanted))
            }
            _ => None,
        });
        queued.collect()
    }

    /// This mount has a lock of the family.
    pub(super) fn has_lock(&self, ino: Ino, family: LockFamily) -> bool {
        self.client.session().is_some_and(|session| self.volume().locks().holds_of(session, ino, family))
    }

    /// The claim's owner has some of its range.
    fn has_some_of(&self, ino: Ino, claim: &LockClaim) -> bool {
        let session = self.client.session();
        session.is_some_and(|session| self.volume().locks().held_in(ino, session, claim).next().is_some())
    }
}

/// The open files through which the session's locks were set.
fn handles_of(volume: &Volume, session: SessionId) -> Vec<(Ino, Vec<u64>)> {
    let locks = volume.locks();
    locks.files_of(session).map(|ino| (ino, locks.handles(ino, session).into_iter().collect())).collect()
}
