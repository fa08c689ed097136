//! What this mount owes the leader: to say that it has caught up, and which inodes without a name are in use here. The
//! leader keeps such an inode until it hears that nobody uses it.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Ino, LogIndex};

#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// The connection's leader is owed the acknowledgement of this entry and all before it.
    catch_up: Option<LogIndex>,
    /// Inodes that lost their last name by an entry that is not acknowledged yet.
    orphaned: BTreeMap<LogIndex, Vec<Ino>>,
    /// Orphans that the leader keeps for us.
    reported: BTreeSet<Ino>,
    /// Of them, those that are not in use any more, which it was not told yet.
    released: Vec<Ino>,
}

impl Owed {
    /// A leader is there: it waits until everything up to this entry is acknowledged.
    pub(crate) const fn catch_up(&mut self, index: LogIndex) {
        self.catch_up = Some(index);
    }

    pub(crate) const fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// The inode lost its last name by this entry.
    pub(crate) fn orphaned(&mut self, index: LogIndex, ino: Ino) {
        self.orphaned.entry(index).or_default().push(ino);
    }

    /// The inode is no more.
    pub(crate) fn freed(&mut self, ino: Ino) {
        self.reported.remove(&ino);
    }

    /// A snapshot may have taken inodes away.
    pub(crate) fn retain(&mut self, is_there: impl Fn(Ino) -> bool) {
        self.reported.retain(|ino| is_there(*ino));
    }

    /// Nobody here uses the inode any more.
    pub(crate) fn release(&mut self, ino: Ino) {
        if self.reported.remove(&ino) {
            self.released.push(ino);
        }
    }

    /// Those of the entries that may be acknowledged by themselves, and which inodes these made orphans.
    pub(crate) fn acknowledge(&mut self, mut entries: Vec<LogIndex>) -> (Vec<LogIndex>, Vec<Ino>) {
        // The entry up to which this mount catches up would stand for all before it.
        entries.retain(|entry| Some(*entry) != self.catch_up);
        let orphans = entries.iter().flat_map(|entry| self.orphaned.remove(entry).unwrap_or_default()).collect();
        (entries, orphans)
    }

    /// The entry up to which this mount had to catch up, once it has: everything up to `applied` is applied, and `first`
    /// is the first entry that is not acknowledged. It stands for all before it, and for the orphans of all before it.
    pub(crate) fn caught_up(&mut self, applied: LogIndex, first: Option<LogIndex>) -> Option<LogIndex> {
        self.catch_up.take_if(|index| applied >= *index && first.is_none_or(|first| first > *index))
    }

    /// The leader is told that these orphans are in use here.
    pub(crate) fn report(&mut self, orphans: &[Ino]) {
        self.reported.extend(orphans);
    }

    /// Orphans that the leader need not keep for this mount any more.
    pub(crate) fn take_released(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_to_catch_up_with_stands_for_all_before_it_and_comes_last() {
        let mut owed = Owed::default();
        owed.catch_up(LogIndex(7));
        owed.orphaned(LogIndex(6), Ino(2));
        assert_eq!(owed.acknowledge(vec![LogIndex(6), LogIndex(7)]), (vec![LogIndex(6)], vec![Ino(2)]));
        assert_eq!(owed.caught_up(LogIndex(6), None), None, "it is not applied");
        assert_eq!(owed.caught_up(LogIndex(8), Some(LogIndex(7))), None, "it waits");
        assert_eq!(owed.caught_up(LogIndex(8), Some(LogIndex(8))), Some(LogIndex(7)));
        assert!(!owed.is_catching_up());
    }

    #[test]
    fn only_orphans_that_the_leader_keeps_are_given_back() {
        let mut owed = Owed::default();
        owed.report(&[Ino(2), Ino(3)]);
        owed.freed(Ino(3));
        for ino in [2, 2, 3, 4] {
            owed.release(Ino(ino));
        }
        assert_eq!((owed.take_released(), owed.take_released()), (vec![Ino(2)], vec![]));
    }
}
