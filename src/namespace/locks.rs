//! All locks of a volume, and who waits for them: flock(2) and fcntl(2) across mounts (DESIGN P5), and the turn to have a
//! file open that one mount at a time may have open.
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

mod file;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};

use self::file::Owner;
pub use self::file::{FileLocks, HeldLock, WaitingLock};
use super::Reply;
use crate::{
    limits,
    types::{Errno, Ino, LockClaim, LockFamily, LockHolder, LockRange, LogIndex, Sequence, SessionId},
};

/// Owners that a search for a circle visits at most; a longer chain is taken for none.
const SEARCH_MAX: usize = 1024;

/// The locks of a volume as a value.
#[derive(Clone, Debug, Default)]
pub struct LockTable {
    files: OrdMap<Ino, Arc<FileLocks>>,
    /// Locks and waiting requests of each session in each file, and in all.
    places: OrdMap<(SessionId, Ino), usize>,
    totals: OrdMap<SessionId, usize>,
    /// Where owners of fcntl locks wait.
    waiting: OrdSet<(Owner, Ino)>,
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
    pub(super) touched: BTreeSet<Ino>,
    pub(super) granted: Vec<Granted>,
}

impl LockTable {
    #[must_use]
    pub fn file(&self, ino: Ino) -> Option<&FileLocks> {
        self.files.get(&ino).map(Arc::as_ref)
    }

    /// The files that have any, from this number on, in order.
    pub fn files_from(&self, ino: Ino) -> impl Iterator<Item = (Ino, &FileLocks)> + '_ {
        self.files.range(ino..).map(|(ino, file)| (*ino, file.as_ref()))
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

    /// Whether the session has a lock of the file.
    #[must_use]
    pub fn holds(&self, session: SessionId, ino: Ino) -> bool {
        self.file(ino).is_some_and(|file| file.held().iter().any(|held| held.session == session))
    }

    /// Takes the lock, or a place in the queue if the caller waits. EAGAIN where it is taken and he does not, EDEADLK
    /// where he would wait for himself, ENOLCK where there are too many.
    pub(super) fn lock(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session, call): (Ino, SessionId, Sequence),
        claim: LockClaim,
        waits: bool,
    ) -> Result<Reply, Errno> {
        let file = self.files.get(&ino).cloned().unwrap_or_default();
        let is_full = self.is_full(session);
        let is_barred = file.conflict(session, &claim).is_some();
        if !(is_barred || waits && self.is_behind(&file, file.queue(), session, &claim)) {
            if is_full {
                return Err(Errno::ENOLCK);
            }
            self.grow(outcome, ino, |file| file.place(session, claim, index))?;
            self.serve(outcome, ino, index);
            return Ok(Reply::Locked);
        }
        if !waits {
            return Err(Errno::EAGAIN);
        }
        if is_full {
            return Err(Errno::ENOLCK);
        }
        let blockers = owners_that_bar(&file, session, &claim);
        let is_fcntl = claim.family == LockFamily::Fcntl;
        if is_fcntl && self.reached(blockers.clone(), Edges::Locks).contains(&(session, claim.owner)) {
            return Err(Errno::EDEADLK);
        }
        self.grow(outcome, ino, |file| {
            // flock(2): a conversion that has to wait gives the old lock up first; two that keep theirs wait for ever.
            if claim.family == LockFamily::Flock {
                file.clear(session, claim.family, claim.owner, claim.range);
            }
            file.enqueue(WaitingLock { session, call, claim });
        })?;
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

    /// Gives the range back. ENOLCK where that splits a lock and there are too many already.
    pub(super) fn unlock(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session): (Ino, SessionId),
        (family, owner, range): (LockFamily, u64, LockRange),
    ) -> Result<Reply, Errno> {
        let Some(file) = self.file(ino) else { return Ok(Reply::Done) };
        let splits = file.of(session, family, owner).any(|held| held.claim.range.without(range).count() > 1);
        if splits && self.is_full(session) {
            return Err(Errno::ENOLCK);
        }
        self.grow(outcome, ino, |file| file.clear(session, family, owner, range))?;
        self.serve(outcome, ino, index);
        Ok(Reply::Done)
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
        let Some(file) = self.file(ino) else { return Ok(Reply::Done) };
        let is_it = |waiting: &WaitingLock| (waiting.session, waiting.call) == (session, call);
        if file.queue().iter().any(is_it) {
            self.edit(outcome, ino, |file| file.retain(|_| true, |waiting| !is_it(waiting)));
            self.serve(outcome, ino, index);
            return Ok(Reply::Done);
        }
        match (file.grants(session, &claim), undo) {
            (true, false) => Ok(Reply::Locked),
            (true, true) => self.unlock(outcome, index, (ino, session), (claim.family, claim.owner, claim.range)),
            (false, _) => Ok(Reply::Done),
        }
    }

    /// Ends the locks of a process that closed the file, or of an open file that is no more.
    pub(super) fn release(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        (ino, session): (Ino, SessionId),
        holder: LockHolder,
    ) {
        if !self.places.contains_key(&(session, ino)) {
            return;
        }
        let is_his = |of: SessionId, claim: &LockClaim| {
            of == session
                && match holder {
                    LockHolder::Owner(owner) => (claim.family, claim.owner) == (LockFamily::Fcntl, owner),
                    LockHolder::Handle(fh) => claim.family != LockFamily::Open && claim.fh == fh,
                }
        };
        // Another thread of a process that closes the file may go on waiting, as on Linux.
        let is_waiting =
            |waiting: &WaitingLock| matches!(holder, LockHolder::Owner(_)) || !is_his(waiting.session, &waiting.claim);
        self.edit(outcome, ino, |file| file.retain(|held| !is_his(held.session, &held.claim), is_waiting));
        self.serve(outcome, ino, index);
    }

    /// Ends all that the session has and waits for, in so many files at most. The open files whose locks it had, with their
    /// inodes.
    pub(super) fn end_session(
        &mut self,
        outcome: &mut Outcome,
        index: LogIndex,
        session: SessionId,
        files_max: usize,
    ) -> Vec<(Ino, Vec<u64>)> {
        let mut lost = Vec::new();
        let files: Vec<Ino> = self.files_of(session).take(files_max).collect();
        for ino in &files {
            let Some(file) = self.file(*ino) else { continue };
            let held = file.held().iter().filter(|held| held.session == session);
            let handles: BTreeSet<u64> = held.map(|held| held.claim.fh).collect();
            lost.push((*ino, handles.into_iter().collect()));
            self.edit(outcome, *ino, |file| {
                file.retain(|held| held.session != session, |waiting| waiting.session != session);
            });
        }
        files.into_iter().for_each(|ino| self.serve(outcome, ino, index));
        lost
    }

    /// The inode is no more.
    pub(super) fn end_file(&mut self, outcome: &mut Outcome, ino: Ino) {
        if self.files.contains_key(&ino) {
            self.edit(outcome, ino, |file| *file = FileLocks::default());
        }
    }

    /// Takes a row in.
    pub(super) fn add_row(&mut self, ino: Ino, file: FileLocks) -> Result<(), &'static str> {
        file.check()?;
        self.put(ino, file);
        Ok(())
    }

    /// Grants, in order, what nothing stands against any more.
    fn serve(&mut self, outcome: &mut Outcome, ino: Ino, index: LogIndex) {
        loop {
            let Some(mut file) = self.files.get(&ino).map(|file| file.as_ref().clone()) else { return };
            let mut granted = Vec::new();
            let mut at = 0;
            while let Some(waiting) = file.queue().get(at).copied() {
                let (session, claim) = (waiting.session, waiting.claim);
                let is_free = file.conflict(session, &claim).is_none()
                    && !self.is_behind(&file, &file.queue()[..at], session, &claim);
                if is_free {
                    let WaitingLock { session, call, .. } = file.grant(at, index);
                    granted.push(Granted { ino, session, call });
                } else {
                    at += 1;
                }
            }
            if granted.is_empty() {
                return;
            }
            outcome.touched.insert(ino);
            outcome.granted.append(&mut granted);
            // What was granted may have taken the place of a stronger lock of its owner, so that others are free.
            self.put(ino, file);
        }
    }

    /// One of those before it is to be served first.
    fn is_behind(&self, file: &FileLocks, before: &[WaitingLock], session: SessionId, claim: &LockClaim) -> bool {
        let me = (session, claim.owner);
        before.iter().filter(|other| other.owner() != me && other.claim.excludes(claim)).any(|other| {
            let bars: Vec<&HeldLock> =
                file.held().iter().filter(|held| held.bars(other.session, &other.claim)).collect();
            // A process may hold a lock through one open file and ask through another.
            let is_same = |held: &&HeldLock| {
                held.owner() == me || held.session == session && claim.pid != 0 && held.claim.pid == claim.pid
            };
            let waits_for_me = bars.iter().any(is_same)
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
            for file in self.waits_of(owner).filter_map(|ino| self.file(ino)) {
                let waits = file.queue().iter().enumerate().filter(|(_, waiting)| waiting.owner() == owner);
                for (at, waiting) in waits.filter(|(_, waiting)| waiting.claim.family == LockFamily::Fcntl) {
                    from.extend(owners_that_bar(file, waiting.session, &waiting.claim));
                    if edges == Edges::LocksAndQueues {
                        let before = file.queue()[..at].iter().filter(|other| other.claim.excludes(&waiting.claim));
                        from.extend(before.map(WaitingLock::owner));
                    }
                }
            }
        }
        reached
    }

    fn waits_of(&self, owner: Owner) -> impl Iterator<Item = Ino> + '_ {
        self.waiting.range((owner, Ino(0))..=(owner, Ino(u64::MAX))).map(|(_, ino)| *ino)
    }

    fn is_full(&self, session: SessionId) -> bool {
        self.totals.get(&session).is_some_and(|total| *total >= limits::LOCKS_PER_SESSION_MAX)
    }

    fn edit(&mut self, outcome: &mut Outcome, ino: Ino, change: impl FnOnce(&mut FileLocks)) {
        let mut file = self.copy_of(ino);
        change(&mut file);
        outcome.touched.insert(ino);
        self.put(ino, file);
    }

    /// The same for what may need room: ENOLCK where there is none. Locks beyond the bound, of requests that had waited, are
    /// no reason to refuse what makes them no more.
    fn grow(&mut self, outcome: &mut Outcome, ino: Ino, change: impl FnOnce(&mut FileLocks)) -> Result<(), Errno> {
        let mut file = self.copy_of(ino);
        let held_max = file.held().len().max(limits::LOCKS_PER_FILE_MAX);
        change(&mut file);
        if file.held().len() > held_max || !file.is_within_bounds() {
            return Err(Errno::ENOLCK);
        }
        outcome.touched.insert(ino);
        self.put(ino, file);
        Ok(())
    }

    fn copy_of(&self, ino: Ino) -> FileLocks {
        self.files.get(&ino).map(|file| file.as_ref().clone()).unwrap_or_default()
    }

    /// The file's locks are these; counts and queues follow.
    fn put(&mut self, ino: Ino, file: FileLocks) {
        let before = self.files.get(&ino).cloned().unwrap_or_default();
        let (old, new) = (tally(&before), tally(&file));
        for session in old.keys().chain(new.keys()).copied().collect::<BTreeSet<SessionId>>() {
            let (was, is) = (old.get(&session).copied().unwrap_or(0), new.get(&session).copied().unwrap_or(0));
            set(&mut self.places, (session, ino), is);
            let total = self.totals.get(&session).copied().unwrap_or(0) + is - was;
            set(&mut self.totals, session, total);
        }
        for owner in waiting_owners(&before) {
            self.waiting.remove(&(owner, ino));
        }
        for owner in waiting_owners(&file) {
            self.waiting.insert((owner, ino));
        }
        if file.is_empty() {
            self.files.remove(&ino);
        } else {
            self.files.insert(ino, Arc::new(file));
        }
    }
}

fn set<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: K, count: usize) {
    if count == 0 {
        counts.remove(&key);
    } else {
        counts.insert(key, count);
    }
}

fn owners_that_bar(file: &FileLocks, session: SessionId, claim: &LockClaim) -> Vec<Owner> {
    file.held().iter().filter(|held| held.bars(session, claim)).map(HeldLock::owner).collect()
}

fn tally(file: &FileLocks) -> BTreeMap<SessionId, usize> {
    let held = file.held().iter().map(|held| held.session);
    let waiting = file.queue().iter().map(|waiting| waiting.session);
    let mut counts = BTreeMap::new();
    held.chain(waiting).for_each(|session| *counts.entry(session).or_insert(0) += 1);
    counts
}

fn waiting_owners(file: &FileLocks) -> BTreeSet<Owner> {
    let fcntl = file.queue().iter().filter(|waiting| waiting.claim.family == LockFamily::Fcntl);
    fcntl.map(WaitingLock::owner).collect()
}
