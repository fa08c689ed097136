//! Which inodes the kernel holds: its lookup counts, as replies raised and FORGET lowered them.

use std::collections::BTreeMap;

use crate::types::Ino;

#[derive(Clone, Copy, Debug)]
struct Known {
    count: u64,
    /// The kernel has used the inode since the reply that made it known: it has surely processed that reply, and
    /// compares versions from then on (PROTOCOL R1).
    confirmed: bool,
}

/// The kernel's references. The root has one that is never forgotten.
#[derive(Debug)]
pub(crate) struct Lookups {
    known: BTreeMap<Ino, Known>,
    /// Inodes that became known, or are so no longer, since `take_changed`.
    changed: Vec<Ino>,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        let root = Known { count: 1, confirmed: true };
        Self { known: BTreeMap::from([(Ino::ROOT, root)]), changed: vec![Ino::ROOT] }
    }

    /// The kernel may have cached things about this inode.
    pub(crate) fn is_known(&self, ino: Ino) -> bool {
        self.known.contains_key(&ino)
    }

    /// The kernel has the inode for certain, so that it refuses an attribute reply that an invalidation overtook.
    pub(crate) fn is_confirmed(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.confirmed)
    }

    /// A reply hands the inode to the kernel once more.
    pub(crate) fn replied(&mut self, ino: Ino) {
        let known = self.known.entry(ino).or_insert(Known { count: 0, confirmed: false });
        if known.count == 0 {
            self.changed.push(ino);
        }
        known.count += 1;
    }

    /// The kernel asks about the inode by its number.
    pub(crate) fn confirm(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.confirmed = true;
        }
    }

    /// The kernel dropped `count` references. True when it holds none any more.
    pub(crate) fn forget(&mut self, ino: Ino, count: u64) -> bool {
        if ino == Ino::ROOT {
            return false;
        }
        let Some(known) = self.known.get_mut(&ino) else { return false };
        // FORGET means that the kernel's inode went away; what it was told since belongs to a new one.
        known.confirmed = false;
        known.count = known.count.saturating_sub(count);
        if known.count > 0 {
            return false;
        }
        self.known.remove(&ino);
        self.changed.push(ino);
        true
    }

    pub(crate) fn take_changed(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Ino> + '_ {
        self.known.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_from_its_first_reply_to_its_last_forget() {
        let mut lookups = Lookups::new();
        let ino = Ino(5);
        lookups.replied(ino);
        lookups.replied(ino);
        assert!(!lookups.forget(ino, 1));
        assert!(lookups.is_known(ino));
        assert!(lookups.forget(ino, 1));
        assert!(!lookups.is_known(ino));
    }

    #[test]
    fn it_is_confirmed_by_use_and_not_by_a_second_reply() {
        let mut lookups = Lookups::new();
        let ino = Ino(5);
        lookups.replied(ino);
        lookups.replied(ino);
        assert!(!lookups.is_confirmed(ino));
        lookups.confirm(ino);
        assert!(lookups.is_confirmed(ino));
        lookups.forget(ino, 1);
        assert!(!lookups.is_confirmed(ino), "the kernel's inode is another one now");
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let mut lookups = Lookups::new();
        assert!(!lookups.forget(Ino::ROOT, 100));
        assert!(lookups.is_known(Ino::ROOT));
    }
}
