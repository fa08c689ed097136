//! The locks of one file: who has which, and who waits, in the order of arrival. A row of the state.

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    types::{LockClaim, LockFamily, LockKind, LockRange, LogIndex, Sequence, SessionId},
};

/// Who has or wants a lock: a session, and its kernel's number for the process or open file.
pub(crate) type Owner = (SessionId, u64);

/// A lock that stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldLock {
    pub session: SessionId,
    pub claim: LockClaim,
    /// The entry that granted it, or the last part of it (PROTOCOL R12).
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

/// Locks of one owner and family neither overlap nor, where they are of one kind, touch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileLocks {
    /// In the order of family, owner and range.
    held: Vec<HeldLock>,
    queue: Vec<WaitingLock>,
}

impl HeldLock {
    pub(crate) const fn owner(&self) -> Owner {
        (self.session, self.claim.owner)
    }

    /// Somebody else's lock that stands against the claim.
    pub(crate) fn bars(&self, session: SessionId, claim: &LockClaim) -> bool {
        self.owner() != (session, claim.owner) && self.claim.excludes(claim)
    }

    fn place(&self) -> (LockFamily, Owner, u64) {
        (self.claim.family, self.owner(), self.claim.range.first)
    }
}

impl WaitingLock {
    pub(crate) const fn owner(&self) -> Owner {
        (self.session, self.claim.owner)
    }
}

impl FileLocks {
    #[must_use]
    pub fn held(&self) -> &[HeldLock] {
        &self.held
    }

    /// In the order of arrival.
    #[must_use]
    pub fn queue(&self) -> &[WaitingLock] {
        &self.queue
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.queue.is_empty()
    }

    /// The first lock, by its range, that stands against the claim.
    #[must_use]
    pub fn conflict(&self, session: SessionId, claim: &LockClaim) -> Option<&HeldLock> {
        self.held.iter().filter(|held| held.bars(session, claim)).min_by_key(|held| held.claim.range)
    }

    /// The owner has all of the claim already, or more than it.
    #[must_use]
    pub fn grants(&self, session: SessionId, claim: &LockClaim) -> bool {
        let mut first = claim.range.first;
        for held in self.of(session, claim.family, claim.owner).filter(|held| held.claim.kind >= claim.kind) {
            let range = held.claim.range;
            if range.first <= first && first <= range.last {
                if claim.range.last <= range.last {
                    return true;
                }
                first = range.last.saturating_add(1);
            }
        }
        false
    }

    pub(super) fn of(&self, session: SessionId, family: LockFamily, owner: u64) -> impl Iterator<Item = &HeldLock> {
        self.held.iter().filter(move |held| held.owner() == (session, owner) && held.claim.family == family)
    }

    /// Gives the owner the claim: whatever he had of the range becomes this, and joins with what it touches.
    pub(super) fn place(&mut self, session: SessionId, claim: LockClaim, grant: LogIndex) {
        self.clear(session, claim.family, claim.owner, claim.range);
        let mut range = claim.range;
        self.held.retain(|held| {
            let is_neighbour = held.owner() == (session, claim.owner)
                && (held.claim.family, held.claim.kind) == (claim.family, claim.kind)
                && held.claim.range.touches(range);
            if is_neighbour {
                range = range.joined(held.claim.range);
            }
            !is_neighbour
        });
        self.insert(HeldLock { session, claim: LockClaim { range, ..claim }, grant });
    }

    /// Takes the range from the owner; what of his locks lies outside stays.
    pub(super) fn clear(&mut self, session: SessionId, family: LockFamily, owner: u64, range: LockRange) {
        let mut rest = Vec::new();
        self.held.retain(|held| {
            let is_hit =
                held.owner() == (session, owner) && held.claim.family == family && held.claim.range.overlaps(range);
            if is_hit {
                let parts = held.claim.range.without(range);
                rest.extend(parts.map(|range| HeldLock { claim: LockClaim { range, ..held.claim }, ..*held }));
            }
            !is_hit
        });
        rest.into_iter().for_each(|part| self.insert(part));
    }

    pub(super) fn retain(&mut self, held: impl Fn(&HeldLock) -> bool, waiting: impl Fn(&WaitingLock) -> bool) {
        self.held.retain(held);
        self.queue.retain(waiting);
    }

    pub(super) fn enqueue(&mut self, waiting: WaitingLock) {
        self.queue.push(waiting);
    }

    /// The waiting request gets what it waited for.
    pub(super) fn grant(&mut self, at: usize, grant: LogIndex) -> WaitingLock {
        let waiting = self.queue.remove(at);
        self.place(waiting.session, waiting.claim, grant);
        waiting
    }

    /// Also when all that wait have their locks: granting one never needs more than it had reserved.
    pub(super) fn is_within_bounds(&self) -> bool {
        self.queue.len() <= limits::LOCK_WAITERS_PER_FILE_MAX
            && self.held.len() + 2 * self.queue.len() <= limits::LOCK_PLACES_PER_FILE_MAX
    }

    /// What a row must be to be one that this program wrote.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.is_empty() {
            return Err("it holds no lock and nobody waits");
        }
        if !self.is_within_bounds() {
            return Err("it holds more locks than a file may have");
        }
        let claims = self.held.iter().map(|held| &held.claim).chain(self.queue.iter().map(|waiting| &waiting.claim));
        if claims.into_iter().any(|claim| !claim.family.takes(claim.range)) {
            return Err("a lock has a range that none can have");
        }
        if self.held.windows(2).any(|pair| pair[0].place() >= pair[1].place()) {
            return Err("locks are out of order");
        }
        let joins = |pair: &[HeldLock]| {
            let (one, other) = (&pair[0].claim, &pair[1].claim);
            pair[0].owner() == pair[1].owner()
                && one.family == other.family
                && (one.range.overlaps(other.range) || one.kind == other.kind && one.range.touches(other.range))
        };
        if self.held.windows(2).any(joins) {
            return Err("two locks of one owner are to be one");
        }
        let exclusive = self.held.iter().filter(|held| held.claim.kind == LockKind::Exclusive);
        for held in exclusive {
            if self.held.iter().any(|other| other.bars(held.session, &held.claim)) {
                return Err("two locks exclude each other");
            }
        }
        Ok(())
    }

    fn insert(&mut self, held: HeldLock) {
        let at = self.held.partition_point(|other| other.place() < held.place());
        self.held.insert(at, held);
    }
}
