//! All locks of a volume that stand, found by owner, by open file, and by what they stand against.

use imbl::OrdMap;

use super::{
    lock::{HeldKey, HeldLock, Owner},
    overlaps::Overlaps,
};
use crate::types::{
    Ino, LockClaim, LockFamily,
    LockKind::{Exclusive, Shared},
    LockRange, SessionId,
};

/// By what a lock of a session is found besides its owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Trace {
    /// The open file through which it was asked for.
    Handle(u64),
    Process(u32),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    locks: OrdMap<HeldKey, HeldLock>,
    overlaps: Overlaps,
    /// Locks of each owner of a file.
    owners: OrdMap<(Ino, LockFamily, Owner), usize>,
    /// Locks of each owner of a file that have this trace.
    traces: OrdMap<(Ino, SessionId, Trace, LockFamily, u64), usize>,
}

/// One owner of locks of one family in one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    pub(super) ino: Ino,
    pub(super) family: LockFamily,
    pub(super) owner: Owner,
}

impl Holder {
    pub(super) const fn of(ino: Ino, session: SessionId, claim: &LockClaim) -> Self {
        Self { ino, family: claim.family, owner: (session, claim.owner) }
    }

    const fn key(self, first: u64) -> HeldKey {
        HeldKey { ino: self.ino, family: self.family, session: self.owner.0, owner: self.owner.1, first }
    }
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.locks.len()
    }

    pub(super) fn get(&self, key: &HeldKey) -> Option<&HeldLock> {
        self.locks.get(key)
    }

    /// In the order of their keys.
    pub(super) fn from(&self, key: HeldKey) -> impl Iterator<Item = (&HeldKey, &HeldLock)> + '_ {
        self.locks.range(key..)
    }

    pub(super) fn insert(&mut self, ino: Ino, lock: HeldLock) {
        self.locks.insert(lock.key(ino), lock);
        self.overlaps.insert(ino, &lock);
        *self.owners.entry((ino, lock.claim.family, lock.owner())).or_insert(0) += 1;
        for trace in traces(ino, &lock) {
            *self.traces.entry(trace).or_insert(0) += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &HeldKey) -> Option<HeldLock> {
        let lock = self.locks.remove(key)?;
        self.overlaps.remove(key.ino, &lock);
        less(&mut self.owners, &(key.ino, key.family, lock.owner()));
        for trace in traces(key.ino, &lock) {
            less(&mut self.traces, &trace);
        }
        Some(lock)
    }

    /// The holder's locks that share a byte with the range, in order.
    pub(super) fn of(&self, holder: Holder, range: LockRange) -> impl Iterator<Item = &HeldLock> + '_ {
        let before = self.locks.get_prev(&holder.key(range.first)).filter(|(key, _)| holder.key(key.first) == **key);
        let rest = self.locks.range(holder.key(range.first)..=holder.key(range.last));
        let before = before.filter(move |(key, _)| key.first < range.first);
        before.into_iter().chain(rest).map(|(_, lock)| lock).filter(move |lock| lock.claim.range.overlaps(range))
    }

    /// All of the session's in the file.
    pub(super) fn of_session(&self, ino: Ino, session: SessionId) -> impl Iterator<Item = &HeldLock> + '_ {
        let families = [LockFamily::Flock, LockFamily::Fcntl, LockFamily::Open];
        families.into_iter().flat_map(move |family| self.of_family(ino, session, family))
    }

    pub(super) fn of_family(
        &self,
        ino: Ino,
        session: SessionId,
        family: LockFamily,
    ) -> impl Iterator<Item = &HeldLock> + '_ {
        let key = move |end| Holder { ino, family, owner: (session, end) }.key(end);
        self.locks.range(key(0)..=key(u64::MAX)).map(|(_, lock)| lock)
    }

    /// Others' locks that stand against the claim.
    pub(super) fn bars<'a>(
        &'a self,
        ino: Ino,
        session: SessionId,
        claim: &LockClaim,
    ) -> impl Iterator<Item = &'a HeldLock> + use<'a> {
        let me = (session, claim.owner);
        let is_alone = self.owners(ino, claim.family).all(|owner| owner == me);
        let candidates = (!is_alone).then(|| self.candidates(ino, claim)).into_iter().flatten();
        candidates.filter(move |held| held.owner() != me)
    }

    /// Locks that stand against the claim, also of its owner.
    pub(super) fn candidates<'a>(
        &'a self,
        ino: Ino,
        claim: &LockClaim,
    ) -> impl Iterator<Item = &'a HeldLock> + use<'a> {
        let LockClaim { family, range, .. } = *claim;
        let kinds = [Some(Exclusive), (claim.kind == Exclusive).then_some(Shared)].into_iter().flatten();
        let keys = kinds.flat_map(move |kind| self.overlaps.with((ino, family, kind), range));
        keys.filter_map(|key| self.locks.get(&key))
    }

    /// Who has any lock of the family.
    pub(super) fn owners(&self, ino: Ino, family: LockFamily) -> impl Iterator<Item = Owner> + '_ {
        let key = |end| (ino, family, (SessionId(end), end));
        self.owners.range(key(0)..=key(u64::MAX)).map(|((.., owner), _)| *owner)
    }

    /// The owners of the session that have locks through this open file.
    pub(super) fn through_handle(&self, ino: Ino, session: SessionId, fh: u64) -> impl Iterator<Item = Holder> + '_ {
        self.traced(ino, session, Trace::Handle(fh))
    }

    /// The owners of the session that have locks for this process.
    pub(super) fn of_process(&self, ino: Ino, session: SessionId, pid: u32) -> impl Iterator<Item = Holder> + '_ {
        self.traced(ino, session, Trace::Process(pid))
    }

    /// The open files through which the session has locks, each once for every owner.
    pub(super) fn handles(&self, ino: Ino, session: SessionId) -> impl Iterator<Item = u64> + '_ {
        let key = |fh, family, owner| (ino, session, Trace::Handle(fh), family, owner);
        let traces = self.traces.range(key(0, LockFamily::Flock, 0)..=key(u64::MAX, LockFamily::Open, u64::MAX));
        traces.filter_map(|((_, _, trace, ..), _)| match trace {
            Trace::Handle(fh) => Some(*fh),
            Trace::Process(_) => None,
        })
    }

    fn traced(&self, ino: Ino, session: SessionId, trace: Trace) -> impl Iterator<Item = Holder> + '_ {
        let key = |family, owner| (ino, session, trace, family, owner);
        let traces = self.traces.range(key(LockFamily::Flock, 0)..=key(LockFamily::Open, u64::MAX));
        traces.map(move |((_, _, _, family, owner), _)| Holder { ino, family: *family, owner: (session, *owner) })
    }
}

fn traces(ino: Ino, lock: &HeldLock) -> impl Iterator<Item = (Ino, SessionId, Trace, LockFamily, u64)> {
    let LockClaim { family, owner, pid, fh, .. } = lock.claim;
    let session = lock.session;
    let process = (pid != 0).then_some(Trace::Process(pid));
    [Some(Trace::Handle(fh)), process].into_iter().flatten().map(move |trace| (ino, session, trace, family, owner))
}

/// One less; what is none goes.
pub(super) fn less<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}
