//! All locks of a volume, and who waits for them: flock(2) and fcntl(2) across mounts (README.md "Locks"), and the turn
//! to have a file open that one mount at a time may have open.
//!
//! The table is part of the state, queues included, so that a new leader goes on with both. Whoever takes a lock away
//! (unlock, close, the end of a session) grants at once, by the same entry, what others waited for.
//!
//! Who comes first is served first: a blocking request waits also for requests before it that it excludes, so that
//! readers who come and go do not starve a writer. Only where that one waits for the requester itself, directly or by
//! way of others, does the requester go before it: waiting for each other would be a deadlock that Linux does not have.
//! A request that does not block looks at locks alone, as on Linux.
//!
//! fcntl refuses with EDEADLK what would close a circle of owners that wait for each other's locks.
//!
//! Each lock and each request is a row of its own. A call costs O(log n) and what it touches; one that would replace or end
//! very many locks of its owner does so in parts (`Unfinished`), from the first byte on.

mod held;
mod lock;
mod overlaps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;

pub(in crate::namespace) use self::lock::{HeldKey, HeldRow};
pub use self::lock::{HeldLock, WaitingLock};
use self::{
    held::{Held, Holder, less},
    lock::Owner,
};
use super::{Reply, row::RowKey};
use crate::{
    limits,
    types::{Errno, Ino, LockClaim, LockFamily, LockHolder, LockRange, LogIndex, Sequence, SessionId},
};

/// Owners that a search for a circle visits at most; a longer chain is taken for none.
const SEARCH_MAX: usize = 1024;

/// The locks of a volume as a value.
#[derive(Clone, Debug, Default)]
pub struct LockTable {
    held: Held,
    /// Requests that wait, by the entry that brought them.
    queue: OrdMap<(Ino, LogIndex), WaitingLock>,
    files: OrdMap<Ino, Counts>,
    /// Locks and waiting requests of each session in each file, and in all.
    places: OrdMap<(SessionId, Ino), usize>,
    totals: OrdMap<SessionId, usize>,
    /// How many requests for fcntl locks an owner has waiting in a file.
    waiting: OrdMap<(Owner, Ino), usize>,
}

/// What a file has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    held: usize,
    waiting: usize,
}

/// A request that waited and has its lock now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Granted {
    pub(super) ino: Ino,
    pub(super) session: SessionId,
    pub(super) call: Sequence,
}

/// What makes one owner wait for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edges {
    /// A lock that stands against a request: no order of service helps.
    Locks,
    /// That, or a request that came before.
    LocksAndQueues,
}

/// What a change of the table brought about.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) touched: BTreeSet<RowKey>,
    pub(super) granted: Vec<Granted>,
}

impl LockTable {
    /// Whether the file has any lock, or anybody waits for one.
    #[must_use]
    pub fn has_file(&self, ino: Ino) -> bool {
        self.files.contains_key(&ino)
    }

    /// The files that have any.
    pub fn files(&self) -> impl Iterator<Item = Ino> + '_ {
        self.files.keys().copied()
    }

    /// Sessions that have any lock, or wait for one.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.totals.keys().copied()
    }

    /// Files of which the session has locks, or waits for some.
    pub fn files_of(&self, session: SessionId) -> impl Iterator<Item = Ino> + '_ {
        self.places.range((session, Ino(0))..=(session, Ino(u64::MAX))).map(|((_, ino), _)| *ino)
    }

    /// Whether the session has any lock, or waits for one.
    #[must_use]
    pub fn has_any(&self, session: SessionId) -> bool {
        self.totals.contains_key(&session)
    }

    /// Whether the session has a lock that this entry, or one before it, granted.
    #[must_use]
    pub fn has_older(&self, session: SessionId, than: LogIndex) -> bool {
        let mut locks = self.files_of(session).flat_map(|ino| self.held.of_session(ino, session));
        locks.any(|lock| lock.grant <= than)
    }

    /// Whether the session has a lock of the file.
    #[must_use]
    pub fn holds(&self, session: SessionId, ino: Ino) -> bool {
        self.held.of_session(ino, session).next().is_some()
    }

    /// Whether the session has a lock of the family.
    #[must_use]
    pub fn holds_of(&self, session: SessionId, ino: Ino, family: LockFamily) -> bool {
        self.held.of_family(ino, session, family).next().is_some()
    }

    /// What the claim's owner has of the range, in order.
    pub fn held_in(&self, ino: Ino, session: SessionId, claim: &LockClaim) -> impl Iterator<Item = &HeldLock> + '_ {
        self.held.of(Holder::of(ino, session, claim), claim.range)
    }

    /// Whether locks end with what this holder stands for.
    #[must_use]
    pub fn has_of(&self, ino: Ino, session: SessionId, holder: LockHolder) -> bool {
        match holder {
            LockHolder::Owner(owner) => {
                let holder = Holder { ino, family: LockFamily::Fcntl, owner: (session, owner) };
                self.held.of(holder, LockRange::ALL).next().is_some()
            }
            LockHolder::Handle(fh) => self.held.through_handle(ino, session, fh).next().is_some(),
        }
    }

    /// The open files through which the session's locks of the file were set.
    #[must_use]
    pub fn handles(&self, ino: Ino, session: SessionId) -> BTreeSet<u64> {
        self.held.handles(ino, session).collect()
    }

    /// Who waits, in the order of arrival.
    pub fn queue(&self, ino: Ino) -> impl Iterator<Item = &WaitingLock> + '_ {
        self.queue_before(ino, LogIndex(u64::MAX))
    }

    /// A lock of somebody else that stands against the claim.
    #[must_use]
    pub fn conflict(&self, ino: Ino, session: SessionId, claim: &LockClaim) -> Option<&HeldLock> {
        self.held.bars(ino, session, claim).next()
    }

    /// What F_GETLK names: of the locks that stand against the claim the one that begins first.
    #[must_use]
    pub fn first_conflict(&self, ino: Ino, session: SessionId, claim: &LockClaim) -> Option<&HeldLock> {
        self.held.bars(ino, session, claim).min_by_key(|held| held.claim.range.first)
    }

    /// The owner has all of the claim already, or more than it.
    #[must_use]
    pub fn grants(&self, ino: Ino, session: SessionId, claim: &LockClaim) -> bool {
        let mut first = claim.range.first;
        for held in self.held_in(ino, session, claim) {
            let range = held.claim.range;
            if range.first > first || held.claim.kind < claim.kind {
                return false;
            }
            if claim.range.last <= range.last {
                return true;
            }
            first = range.last.saturating_add(1);
        }
        false
    }

    /// Takes the lock, or a place in the queue if the caller waits. EAGAIN where it is taken and he does not, EDEADLK
    /// where he would wait for himself, ENOLCK where there are too many. `Unfinished` where it replaces very many locks of
    /// his: he has it up to some byte.
    pub(super) fn lock(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        who: (Ino, SessionId, Sequence),
        claim: LockClaim,
        waits: bool,
    ) -> Result<Reply, Errno> {
        let before = self.clone();
        let reply = self.try_lock(outcome, index, who, claim, waits);
        if reply.is_err() {
            *self = before;
            outcome.granted.clear();
        }
        reply
    }

    fn try_lock(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session, call): (Ino, SessionId, Sequence),
        claim: LockClaim,
        waits: bool,
    ) -> Result<Reply, Errno> {
        let is_full = self.is_full(session);
        let is_barred = self.conflict(ino, session, &claim).is_some();
        let held = self.counts(ino).held;
        if !(is_barred || waits && self.is_behind(ino, LogIndex(u64::MAX), session, &claim)) {
            if is_full {
                return Err(Errno::ENOLCK);
            }
            let is_whole = self.place(outcome, ino, (session, claim, index), limits::LOCKS_PER_CALL_MAX);
            self.check_bounds(ino, held, Holder::of(ino, session, &claim))?;
            self.serve(outcome, ino, index);
            return Ok(if is_whole { Reply::Locked } else { Reply::Unfinished });
        }
        if !waits {
            return Err(Errno::EAGAIN);
        }
        if is_full {
            return Err(Errno::ENOLCK);
        }
        let blockers = self.owners_that_bar(ino, session, &claim);
        let is_fcntl = claim.family == LockFamily::Fcntl;
        if is_fcntl && self.reached(blockers.clone(), Edges::Locks).contains(&(session, claim.owner)) {
            return Err(Errno::EDEADLK);
        }
        // flock(2): a conversion that has to wait gives the old lock up first; two that keep theirs wait for ever.
        if claim.family == LockFamily::Flock {
            self.clear(outcome, Holder::of(ino, session, &claim), claim.range, limits::LOCKS_PER_CALL_MAX);
        }
        self.enqueue(outcome, ino, index, WaitingLock { session, call, claim });
        self.check_bounds(ino, held, Holder::of(ino, session, &claim))?;
        // Nothing is given back by a request for an fcntl lock.
        if !is_fcntl {
            self.serve(outcome, ino, index);
        }
        // Those this one waits for may now go before others that wait for it.
        let reached = self.reached(blockers, Edges::LocksAndQueues);
        let elsewhere: BTreeSet<Ino> = reached.iter().flat_map(|owner| self.waits_of(*owner)).collect();
        elsewhere.into_iter().for_each(|ino| self.serve(outcome, ino, index));
        let own = Granted { ino, session, call };
        let before = outcome.granted.len();
        outcome.granted.retain(|granted| *granted != own);
        Ok(if outcome.granted.len() < before { Reply::Locked } else { Reply::Queued })
    }

    /// Gives the range back. ENOLCK where that splits a lock and there are too many already. `Unfinished` where it is very
    /// many locks: those from the first byte on are given back.
    pub(super) fn unlock(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session): (Ino, SessionId),
        (family, owner, range): (LockFamily, u64, LockRange),
    ) -> Result<Reply, Errno> {
        let holder = Holder { ino, family, owner: (session, owner) };
        let splits = self.held.of(holder, range).next().is_some_and(|held| held.claim.range.without(range).count() > 1);
        if splits && self.is_full(session) {
            return Err(Errno::ENOLCK);
        }
        let (before, held) = (self.clone(), self.counts(ino).held);
        let is_whole = self.clear(outcome, holder, range, limits::LOCKS_PER_CALL_MAX);
        if let Err(errno) = self.check_bounds(ino, held, holder) {
            *self = before;
            return Err(errno);
        }
        self.serve(outcome, ino, index);
        Ok(done(is_whole))
    }

    /// The caller waits no longer: `Locked` if the lock was his already and stays so. With `undo` it is given back then.
    pub(super) fn cancel(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session, call): (Ino, SessionId, Sequence),
        claim: LockClaim,
        undo: bool,
    ) -> Result<Reply, Errno> {
        if self.dequeue_all(outcome, ino, |waiting| (waiting.session, waiting.call) == (session, call)) {
            self.serve(outcome, ino, index);
            return Ok(Reply::Done);
        }
        match (self.grants(ino, session, &claim), undo) {
            (true, false) => Ok(Reply::Locked),
            (true, true) => self.unlock(outcome, index, (ino, session), (claim.family, claim.owner, claim.range)),
            (false, _) => Ok(Reply::Done),
        }
    }

    /// Ends the locks of a process that closed the file, or of an open file that is no more. `Unfinished` where there are
    /// more than one entry may end.
    pub(super) fn release(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session): (Ino, SessionId),
        holder: LockHolder,
    ) -> Reply {
        if !self.places.contains_key(&(session, ino)) {
            return Reply::Done;
        }
        let (holders, through): (Vec<Holder>, _) = match holder {
            LockHolder::Owner(owner) => {
                (vec![Holder { ino, family: LockFamily::Fcntl, owner: (session, owner) }], None)
            }
            LockHolder::Handle(fh) => (self.held.through_handle(ino, session, fh).collect(), Some(fh)),
        };
        let holders = holders.into_iter().filter(|holder| holder.family != LockFamily::Open);
        let locks = holders.flat_map(|holder| self.held.of(holder, LockRange::ALL));
        let his = locks.filter(|held| through.is_none_or(|fh| held.claim.fh == fh)).map(|held| held.key(ino));
        let mut his: Vec<HeldKey> = his.take(limits::LOCKS_PER_CALL_MAX + 1).collect();
        let is_whole = his.len() <= limits::LOCKS_PER_CALL_MAX;
        his.truncate(limits::LOCKS_PER_CALL_MAX);
        his.iter().for_each(|key| self.remove(outcome, key));
        // Another thread of a process that closes the file may go on waiting, as on Linux.
        if let Some(fh) = through {
            self.dequeue_all(outcome, ino, |waiting| {
                waiting.session == session && waiting.claim.family != LockFamily::Open && waiting.claim.fh == fh
            });
        }
        self.serve(outcome, ino, index);
        done(is_whole)
    }

    /// Ends all that the session has and waits for, so many rows at most, give or take a few. The open files whose locks it
    /// had, with their inodes.
    pub(super) fn end_session(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        session: SessionId,
        rows_max: usize,
    ) -> Vec<(Ino, Vec<u64>)> {
        let mut lost: BTreeMap<Ino, BTreeSet<u64>> = BTreeMap::new();
        while outcome.touched.len() < rows_max {
            let Some(ino) = self.files_of(session).next() else { break };
            self.dequeue_all(outcome, ino, |waiting| waiting.session == session);
            let room = rows_max.saturating_sub(outcome.touched.len()).max(1);
            let his: Vec<HeldLock> = self.held.of_session(ino, session).take(room).copied().collect();
            lost.entry(ino).or_default().extend(his.iter().map(|held| held.claim.fh));
            his.iter().for_each(|held| self.remove(outcome, &held.key(ino)));
        }
        lost.keys().for_each(|ino| self.serve(outcome, *ino, index));
        lost.into_iter().map(|(ino, handles)| (ino, handles.into_iter().collect())).collect()
    }

    /// The inode is to go: so many rows of its locks at most, give or take the requests that wait.
    pub(super) fn end_file(&mut self, outcome: &mut Outcome, ino: Ino, rows_max: usize) {
        self.dequeue_all(outcome, ino, |_| true);
        let all = self.held.from(HeldKey::first_of(ino)).take_while(|(key, _)| key.ino == ino);
        let keys: Vec<HeldKey> = all.map(|(key, _)| *key).take(rows_max).collect();
        keys.iter().for_each(|key| self.remove(outcome, key));
    }

    pub(super) fn held(&self, key: &HeldKey) -> Option<&HeldLock> {
        self.held.get(key)
    }

    /// The keys of all locks from this one on.
    pub(super) fn held_from(&self, key: HeldKey) -> impl Iterator<Item = HeldKey> + '_ {
        self.held.from(key).map(|(key, _)| *key)
    }

    pub(super) fn request(&self, ino: Ino, since: LogIndex) -> Option<&WaitingLock> {
        self.queue.get(&(ino, since))
    }

    /// The keys of all requests that wait from this one on.
    pub(super) fn requests_from(&self, ino: Ino, since: LogIndex) -> impl Iterator<Item = (Ino, LogIndex)> + '_ {
        self.queue.range((ino, since)..).map(|(key, _)| *key)
    }

    /// Takes the row of a lock in. Rows come in the order of their keys.
    pub(super) fn add_held(&mut self, key: HeldKey, held: HeldLock) -> Result<(), &'static str> {
        let claim = held.claim;
        if !claim.family.takes(claim.range) {
            return Err("a lock has a range that none can have");
        }
        let holder = Holder::of(key.ino, held.session, &claim);
        let beside = LockRange { first: claim.range.first.saturating_sub(1), last: claim.range.last };
        let joins = |other: &HeldLock| other.claim.range.overlaps(claim.range) || other.claim.kind == claim.kind;
        if self.held.of(holder, beside).any(joins) {
            return Err("two locks of one owner are to be one");
        }
        if self.conflict(key.ino, held.session, &claim).is_some() {
            return Err("two locks exclude each other");
        }
        self.insert(&mut Outcome::default(), key.ino, held);
        self.is_within_bounds(key.ino).then_some(()).ok_or("the file has more locks than one may have")
    }

    /// The same of a request that waits.
    pub(super) fn add_request(&mut self, ino: Ino, since: LogIndex, waiting: WaitingLock) -> Result<(), &'static str> {
        if !waiting.claim.family.takes(waiting.claim.range) {
            return Err("a request has a range that no lock can have");
        }
        self.enqueue(&mut Outcome::default(), ino, since, waiting);
        self.is_within_bounds(ino).then_some(()).ok_or("more wait for the file's locks than may")
    }

    /// Grants, in order, what nothing stands against any more.
    fn serve(&mut self, outcome: &mut Outcome, ino: Ino, index: LogIndex) {
        loop {
            let mut is_served = false;
            let queue: Vec<(LogIndex, WaitingLock)> = self.queue_of(ino).map(|(at, waiting)| (at, *waiting)).collect();
            for (since, WaitingLock { session, call, claim }) in queue {
                let is_free =
                    self.conflict(ino, session, &claim).is_none() && !self.is_behind(ino, since, session, &claim);
                if is_free {
                    self.dequeue(outcome, ino, since);
                    self.place(outcome, ino, (session, claim, index), usize::MAX);
                    outcome.granted.push(Granted { ino, session, call });
                    is_served = true;
                }
            }
            if !is_served {
                return;
            }
            // What was granted may have taken the place of a stronger lock of its owner, so that others are free.
        }
    }

    /// One of those that came before this entry is to be served first.
    fn is_behind(&self, ino: Ino, since: LogIndex, session: SessionId, claim: &LockClaim) -> bool {
        let me = (session, claim.owner);
        self.queue_before(ino, since).filter(|other| other.owner() != me && other.claim.excludes(claim)).any(|other| {
            let bars = |holder: Holder| {
                let held = self.held.of(holder, other.claim.range).take(SEARCH_MAX);
                held.into_iter().any(|held| held.owner() != other.owner() && held.claim.excludes(&other.claim))
            };
            // A process may hold a lock through one open file and ask through another.
            let is_same = |holder: &Holder| holder.family == claim.family;
            let mut same = self.held.of_process(ino, session, claim.pid).filter(|_| claim.pid != 0).filter(is_same);
            let waits_for_me = bars(Holder::of(ino, session, claim))
                || same.any(bars)
                || claim.family == LockFamily::Fcntl
                    && self.reached(vec![other.owner()], Edges::LocksAndQueues).contains(&me);
            !waits_for_me
        })
    }

    /// These owners of fcntl locks and all whose locks they wait for, directly or by way of others.
    fn reached(&self, mut from: Vec<Owner>, edges: Edges) -> BTreeSet<Owner> {
        let mut reached = BTreeSet::new();
        while let Some(owner) = from.pop() {
            if reached.len() >= SEARCH_MAX || !reached.insert(owner) {
                continue;
            }
            for ino in self.waits_of(owner) {
                let waits = self.queue_of(ino).filter(|(_, waiting)| waiting.owner() == owner);
                for (since, waiting) in waits.filter(|(_, waiting)| waiting.claim.family == LockFamily::Fcntl) {
                    from.extend(self.owners_that_bar(ino, waiting.session, &waiting.claim));
                    if edges == Edges::LocksAndQueues {
                        let before = self.queue_before(ino, since);
                        let before = before.filter(|other| other.claim.excludes(&waiting.claim));
                        from.extend(before.map(WaitingLock::owner));
                    }
                }
            }
        }
        reached
    }

    /// Whose locks stand against the claim: those of very many owners are not all looked for.
    fn owners_that_bar(&self, ino: Ino, session: SessionId, claim: &LockClaim) -> Vec<Owner> {
        let me = (session, claim.owner);
        let all: Vec<Owner> = self.held.candidates(ino, claim).map(HeldLock::owner).take(SEARCH_MAX + 1).collect();
        if all.len() <= SEARCH_MAX {
            let owners: BTreeSet<Owner> = all.into_iter().filter(|owner| *owner != me).collect();
            return owners.into_iter().collect();
        }
        let bars = |owner: &Owner| {
            let holder = Holder { ino, family: claim.family, owner: *owner };
            *owner != me && self.held.of(holder, claim.range).take(SEARCH_MAX).any(|held| held.claim.excludes(claim))
        };
        self.held.owners(ino, claim.family).take(SEARCH_MAX).filter(bars).collect()
    }

    fn waits_of(&self, owner: Owner) -> impl Iterator<Item = Ino> + '_ {
        self.waiting.range((owner, Ino(0))..=(owner, Ino(u64::MAX))).map(|((_, ino), _)| *ino)
    }

    fn queue_of(&self, ino: Ino) -> impl Iterator<Item = (LogIndex, &WaitingLock)> + '_ {
        let all = self.queue.range((ino, LogIndex(0))..=(ino, LogIndex(u64::MAX)));
        all.map(|((_, since), waiting)| (*since, waiting))
    }

    fn queue_before(&self, ino: Ino, since: LogIndex) -> impl Iterator<Item = &WaitingLock> + '_ {
        self.queue.range((ino, LogIndex(0))..(ino, since)).map(|(_, waiting)| waiting)
    }

    fn is_full(&self, session: SessionId) -> bool {
        self.held.len() + self.queue.len() >= limits::LOCKS_PER_VOLUME_MAX
            || self.totals.get(&session).is_some_and(|total| *total >= limits::LOCKS_PER_SESSION_MAX)
    }

    fn counts(&self, ino: Ino) -> Counts {
        self.files.get(&ino).copied().unwrap_or_default()
    }

    /// ENOLCK where a change of the holder's locks, or a request of his, leaves too many. Locks beyond the bound, of
    /// requests that had waited, are no reason to refuse what makes them no more.
    fn check_bounds(&self, ino: Ino, held_before: usize, holder: Holder) -> Result<(), Errno> {
        let held_max = held_before.max(limits::LOCKS_PER_FILE_MAX);
        if self.counts(ino).held > held_max || !self.is_within_bounds(ino) {
            return Err(Errno::ENOLCK);
        }
        // A grant replaces what its owner has of the range, all by the entry of whoever gives it free.
        let mut own = self.queue(ino).filter(|waiting| Holder::of(ino, waiting.session, &waiting.claim) == holder);
        let replaces_many = |waiting: &WaitingLock| {
            let replaced = self.held.of(holder, waiting.claim.range).take(limits::LOCKS_PER_GRANT_MAX + 1);
            replaced.count() > limits::LOCKS_PER_GRANT_MAX
        };
        if own.any(replaces_many) { Err(Errno::ENOLCK) } else { Ok(()) }
    }

    /// Also when all that wait have their locks: granting one never needs more than it had reserved.
    fn is_within_bounds(&self, ino: Ino) -> bool {
        let Counts { held, waiting } = self.counts(ino);
        waiting <= limits::LOCK_WAITERS_PER_FILE_MAX && held + 2 * waiting <= limits::LOCK_PLACES_PER_FILE_MAX
    }

    /// Gives the owner the claim: whatever he had of the range becomes this, and joins with what it touches. So many of his
    /// locks are looked at; false where that is not all of the range.
    fn place(
        &mut self,
        outcome: &mut Outcome,
        ino: Ino,
        (session, claim, grant): (SessionId, LockClaim, LogIndex),
        locks_max: usize,
    ) -> bool {
        let LockRange { first, last } = claim.range;
        let beside = LockRange { first: first.saturating_sub(1), last: last.saturating_add(1) };
        let holder = Holder::of(ino, session, &claim);
        let mut his: Vec<HeldLock> = self.held.of(holder, beside).take(locks_max.saturating_add(1)).copied().collect();
        let is_whole = his.len() <= locks_max;
        his.truncate(locks_max);
        let taken = match his.last() {
            Some(end) if !is_whole => LockRange { first, last: end.claim.range.last.min(last) },
            _ => claim.range,
        };
        let mut range = taken;
        for held in his {
            if held.claim.kind == claim.kind {
                range = range.joined(held.claim.range);
            } else if !held.claim.range.overlaps(taken) {
                continue;
            }
            self.remove(outcome, &held.key(ino));
            if held.claim.kind != claim.kind {
                self.insert_rest(outcome, ino, &held, taken);
            }
        }
        self.insert(outcome, ino, HeldLock { session, claim: LockClaim { range, ..claim }, grant });
        is_whole
    }

    /// Takes the range from the holder; what of his locks lies outside stays. So many of them; false where he has more.
    fn clear(&mut self, outcome: &mut Outcome, holder: Holder, range: LockRange, locks_max: usize) -> bool {
        let mut his: Vec<HeldLock> = self.held.of(holder, range).take(locks_max.saturating_add(1)).copied().collect();
        let is_whole = his.len() <= locks_max;
        his.truncate(locks_max);
        for held in his {
            self.remove(outcome, &held.key(holder.ino));
            self.insert_rest(outcome, holder.ino, &held, range);
        }
        is_whole
    }

    fn insert_rest(&mut self, outcome: &mut Outcome, ino: Ino, held: &HeldLock, without: LockRange) {
        for range in held.claim.range.without(without) {
            self.insert(outcome, ino, HeldLock { claim: LockClaim { range, ..held.claim }, ..*held });
        }
    }

    // Every lock and every request comes and goes here: counts follow.

    fn insert(&mut self, outcome: &mut Outcome, ino: Ino, held: HeldLock) {
        outcome.touched.insert(RowKey::Lock(held.key(ino)));
        self.held.insert(ino, held);
        self.count(ino, held.session, |counts| counts.held += 1);
    }

    fn remove(&mut self, outcome: &mut Outcome, key: &HeldKey) {
        if let Some(held) = self.held.remove(key) {
            outcome.touched.insert(RowKey::Lock(*key));
            self.discount(key.ino, held.session, |counts| counts.held -= 1);
        }
    }

    fn enqueue(&mut self, outcome: &mut Outcome, ino: Ino, since: LogIndex, waiting: WaitingLock) {
        outcome.touched.insert(RowKey::LockRequest(ino, since));
        self.queue.insert((ino, since), waiting);
        self.count(ino, waiting.session, |counts| counts.waiting += 1);
        if waiting.claim.family == LockFamily::Fcntl {
            *self.waiting.entry((waiting.owner(), ino)).or_insert(0) += 1;
        }
    }

    fn dequeue(&mut self, outcome: &mut Outcome, ino: Ino, since: LogIndex) {
        let Some(waiting) = self.queue.remove(&(ino, since)) else { return };
        outcome.touched.insert(RowKey::LockRequest(ino, since));
        self.discount(ino, waiting.session, |counts| counts.waiting -= 1);
        if waiting.claim.family == LockFamily::Fcntl {
            less(&mut self.waiting, &(waiting.owner(), ino));
        }
    }

    /// Those requests of the file wait no longer; whether there was any.
    fn dequeue_all(&mut self, outcome: &mut Outcome, ino: Ino, which: impl Fn(&WaitingLock) -> bool) -> bool {
        let found = self.queue_of(ino).filter(|(_, waiting)| which(waiting)).map(|(since, _)| since);
        let found: Vec<LogIndex> = found.collect();
        found.iter().for_each(|since| self.dequeue(outcome, ino, *since));
        !found.is_empty()
    }

    fn count(&mut self, ino: Ino, session: SessionId, change: impl FnOnce(&mut Counts)) {
        change(self.files.entry(ino).or_default());
        *self.places.entry((session, ino)).or_insert(0) += 1;
        *self.totals.entry(session).or_insert(0) += 1;
    }

    fn discount(&mut self, ino: Ino, session: SessionId, change: impl FnOnce(&mut Counts)) {
        if let Some(counts) = self.files.get_mut(&ino) {
            change(counts);
            if *counts == Counts::default() {
                self.files.remove(&ino);
            }
        }
        less(&mut self.places, &(session, ino));
        less(&mut self.totals, &session);
    }
}

const fn done(is_whole: bool) -> Reply {
    if is_whole { Reply::Done } else { Reply::Unfinished }
}
