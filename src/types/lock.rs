//! Locks on files as flock(2) and fcntl(2) have them: what a process asks for, and what it has.

use serde::{Deserialize, Serialize};

/// Which call made the lock. They are independent of each other, the first two as on Linux.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LockFamily {
    /// flock(2): of an open file, for all of it.
    Flock,
    /// fcntl(2): of a process (or, with F_OFD_*, of an open file), for a range of bytes.
    Fcntl,
    /// open(2) of a file that one mount at a time may have open: of a session, for all of it (a share reservation that
    /// denies both, RFC 8881 section 9.7).
    Open,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// Bytes of a file, both ends inclusive. `u64::MAX` as the last one is the end of the file, wherever that will be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LockRange {
    pub first: u64,
    pub last: u64,
}

/// A lock that somebody asks for or has. Who that is the kernel of his mount says: `owner` is its number for the
/// process or the open file, unique within a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockClaim {
    pub family: LockFamily,
    pub owner: u64,
    pub kind: LockKind,
    /// Of flock and open: `LockRange::ALL`.
    pub range: LockRange,
    /// For F_GETLK; 0 where the mount cannot see the process.
    pub pid: u32,
    /// The open file through which it was asked for: the end of that ends the lock.
    pub fh: u64,
}

/// Whose locks of a file end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockHolder {
    /// The fcntl locks of a process: it closed some descriptor of the file.
    Owner(u64),
    /// All locks that were asked for through this open file: its last descriptor is gone.
    Handle(u64),
}

impl LockRange {
    /// The whole file.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.first <= self.last
    }

    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// They overlap, or no byte lies between them.
    #[must_use]
    pub const fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The smallest range that contains both.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// What of it lies before and behind the other.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let before = (self.first < other.first)
            .then(|| Self { first: self.first, last: self.last.min(other.first.saturating_sub(1)) });
        let behind = (other.last < self.last)
            .then(|| Self { first: self.first.max(other.last.saturating_add(1)), last: self.last });
        before.into_iter().chain(behind)
    }
}

impl LockFamily {
    /// Whether its locks can have the range.
    #[must_use]
    pub fn takes(self, range: LockRange) -> bool {
        range.is_valid() && (self == Self::Fcntl || range == LockRange::ALL)
    }
}

impl LockClaim {
    /// A session's turn to have a file open.
    pub const OPEN: Self =
        Self { family: LockFamily::Open, owner: 0, kind: LockKind::Exclusive, range: LockRange::ALL, pid: 0, fh: 0 };

    /// The two cannot be held at the same time by different owners.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        self.family == other.family
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
            && self.range.overlaps(other.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(first: u64, last: u64) -> LockRange {
        LockRange { first, last }
    }

    #[test]
    fn ranges_know_their_neighbours_up_to_the_end_of_all_files() {
        assert!(range(0, 4).touches(range(5, 9)) && !range(0, 4).overlaps(range(5, 9)));
        assert!(!range(0, 4).touches(range(6, 9)));
        assert!(range(7, u64::MAX).touches(range(0, 6)) && LockRange::ALL.overlaps(range(u64::MAX, u64::MAX)));
        assert_eq!(range(0, 4).joined(range(5, 9)), range(0, 9));
    }

    #[test]
    fn what_is_left_of_a_range_lies_on_both_sides() {
        let left = |of: LockRange, without| of.without(without).collect::<Vec<_>>();
        assert_eq!(left(range(0, 9), range(3, 5)), [range(0, 2), range(6, 9)]);
        assert_eq!(left(range(3, 9), range(0, 5)), [range(6, 9)]);
        assert_eq!(left(LockRange::ALL, range(5, u64::MAX)), [range(0, 4)]);
        assert_eq!(left(range(3, 4), range(0, 9)), []);
    }
}
