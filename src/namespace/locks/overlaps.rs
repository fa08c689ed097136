//! Which locks of a file share a byte with a range: found in O(log n) each, and nothing else is looked at, however the
//! others lie and overlap each other.
//!
//! Locks are sorted by length into classes: those of class k have 2^k bytes and more, and fewer than twice as many. In cells
//! of 2^k bytes such a lock begins in one and ends in one of the next two. So with `first` of the range in cell c, a lock of
//! the class that overlaps it begins
//! - in cell c or behind, up to the end of the range: every such lock does, for one that begins in c goes to its end;
//! - or in one of the two cells before, and ends at `first` or behind: there locks are sorted by their ends.

use std::iter;

use imbl::OrdSet;

use super::lock::{HeldKey, HeldLock};
use crate::types::{Ino, LockFamily, LockKind, LockRange, SessionId};

/// The locks of one file that may stand against the same claims.
type Group = (Ino, LockFamily, LockKind);
type Class = u8;
/// An owner and the first byte of one of its locks.
type Beginning = (SessionId, u64, u64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Overlaps {
    /// By first byte.
    begins: OrdSet<(Group, Class, u64, (SessionId, u64))>,
    /// By the cell of the first byte, and the last byte.
    ends: OrdSet<(Group, Class, u64, u64, Beginning)>,
}

impl Overlaps {
    pub(super) fn insert(&mut self, ino: Ino, lock: &HeldLock) {
        let (group, class, range) = place(ino, lock);
        self.begins.insert((group, class, range.first, lock.owner()));
        self.ends.insert((group, class, cell(class, range.first), range.last, end(lock)));
    }

    pub(super) fn remove(&mut self, ino: Ino, lock: &HeldLock) {
        let (group, class, range) = place(ino, lock);
        self.begins.remove(&(group, class, range.first, lock.owner()));
        self.ends.remove(&(group, class, cell(class, range.first), range.last, end(lock)));
    }

    pub(super) fn with(&self, group: Group, range: LockRange) -> impl Iterator<Item = HeldKey> + '_ {
        let (ino, family, _) = group;
        let key = move |session, owner, first| HeldKey { ino, family, session, owner, first };
        let classes = iter::successors(self.class_from(group, 0), move |class| self.class_from(group, class + 1));
        classes.flat_map(move |class| {
            let at = cell(class, range.first);
            let before = [at.checked_sub(2), at.checked_sub(1)].into_iter().flatten();
            let ends = before.flat_map(move |cell| {
                let from = (group, class, cell, range.first, (SessionId(0), 0, 0));
                let to = (group, class, cell, u64::MAX, (SessionId(u64::MAX), u64::MAX, u64::MAX));
                self.ends.range(from..=to)
            });
            let from = (group, class, at.checked_shl(class.into()).unwrap_or(0), (SessionId(0), 0));
            let to = (group, class, range.last, (SessionId(u64::MAX), u64::MAX));
            let begins = self.begins.range(from..=to);
            ends.map(move |(.., (session, owner, first))| key(*session, *owner, *first))
                .chain(begins.map(move |(_, _, first, (session, owner))| key(*session, *owner, *first)))
        })
    }

    /// The next class of the group, from this one on, that has any lock.
    fn class_from(&self, group: Group, class: Class) -> Option<Class> {
        let (of, class, ..) = self.begins.range((group, class, 0, (SessionId(0), 0))..).next()?;
        (*of == group).then_some(*class)
    }
}

fn place(ino: Ino, lock: &HeldLock) -> (Group, Class, LockRange) {
    let range = lock.claim.range;
    let class = (range.last - range.first).checked_add(1).map_or(64, u64::ilog2);
    ((ino, lock.claim.family, lock.claim.kind), u8::try_from(class).unwrap_or(64), range)
}

fn cell(class: Class, at: u64) -> u64 {
    at.checked_shr(class.into()).unwrap_or(0)
}

const fn end(lock: &HeldLock) -> Beginning {
    (lock.session, lock.claim.owner, lock.claim.range.first)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::types::{LockClaim, LogIndex};

    const GROUP: Group = (Ino(2), LockFamily::Fcntl, LockKind::Shared);

    /// Short ones and long ones, also up to the end of all files.
    fn range() -> impl Strategy<Value = LockRange> {
        let short = (0..40_u64, 0..9_u64).prop_map(|(first, more)| (first, first + more));
        let long = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        let open = (0..40_u64, any::<bool>()).prop_map(|(a, is_low)| (if is_low { a } else { u64::MAX - a }, u64::MAX));
        prop_oneof![6 => short, 1 => long, 1 => open].prop_map(|(first, last)| LockRange { first, last })
    }

    proptest! {
        #[test]
        fn exactly_what_overlaps_is_found(
            ranges in vec(range(), 0..40), gone in vec(any::<prop::sample::Index>(), 0..10), asked in vec(range(), 1..20),
        ) {
            let lock = |owner, range| {
                let (_, family, kind) = GROUP;
                let claim = LockClaim { family, owner, kind, range, pid: 0, fh: 0 };
                HeldLock { session: SessionId(1), claim, grant: LogIndex(1) }
            };
            let mut locks: Vec<HeldLock> = (0..).zip(ranges).map(|(owner, range)| lock(owner, range)).collect();
            let mut overlaps = Overlaps::default();
            locks.iter().for_each(|lock| overlaps.insert(GROUP.0, lock));
            for index in gone {
                let at = index.index(locks.len().max(1));
                if at < locks.len() {
                    overlaps.remove(GROUP.0, &locks.remove(at));
                }
            }
            for range in asked {
                let mut found: Vec<HeldKey> = overlaps.with(GROUP, range).collect();
                found.sort_unstable();
                let with = locks.iter().filter(|lock| lock.claim.range.overlaps(range));
                let mut expected: Vec<HeldKey> = with.map(|lock| lock.key(GROUP.0)).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
