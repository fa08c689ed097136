//! What the kernel may answer about without asking for a name: directories that it holds, and open files. The holder
//! has the same list in shared memory, so that it can make the kernel forget when this process cannot (docs/protocol.md
//! R7-forgetting).

use std::collections::BTreeMap;

use crate::{limits, types::Ino};

/// Inodes and their places in the holder's list.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    slots: BTreeMap<Ino, (u32, bool)>,
    free: Vec<u32>,
}

/// A place in the list that is another's now, or nobody's.
pub(crate) type SlotChange = (u32, Option<(Ino, bool)>);

impl Watched {
    /// Has the inode in the list: as an open file, as a directory, or (`None`) not at all. What is to be changed there for
    /// it; nothing where there is no room.
    pub(crate) fn set(&mut self, ino: Ino, is_open_file: Option<bool>) -> Option<SlotChange> {
        match (self.slots.get(&ino).copied(), is_open_file) {
            (Some((slot, is_file)), Some(now)) if is_file != now => {
                self.slots.insert(ino, (slot, now));
                Some((slot, Some((ino, now))))
            }
            (Some((slot, _)), None) => {
                self.slots.remove(&ino);
                self.free.push(slot);
                Some((slot, None))
            }
            (None, Some(is_file)) => {
                let reserved = if is_file { 0 } else { limits::WATCHED_FILES_MIN };
                if self.slots.len() + reserved >= limits::WATCHED_INODES_MAX {
                    return None;
                }
                let next = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                let slot = self.free.pop().unwrap_or(next);
                self.slots.insert(ino, (slot, is_file));
                Some((slot, Some((ino, is_file))))
            }
            _ => None,
        }
    }

    pub(crate) fn contains(&self, ino: Ino) -> bool {
        self.slots.contains_key(&ino)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The whole list.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotChange> + '_ {
        self.slots.iter().map(|(ino, (slot, is_file))| (*slot, Some((*ino, *is_file))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut watched = Watched::default();
        assert_eq!(watched.set(Ino(1), Some(false)), Some((0, Some((Ino(1), false)))));
        assert_eq!(watched.set(Ino(7), Some(true)), Some((1, Some((Ino(7), true)))));
        assert_eq!(watched.set(Ino(7), Some(true)), None, "nothing changes");
        assert_eq!(watched.set(Ino(1), None), Some((0, None)));
        assert_eq!(watched.set(Ino(1), None), None);
        assert_eq!(watched.set(Ino(8), Some(true)), Some((0, Some((Ino(8), true)))));
        assert_eq!(watched.set(Ino(9), Some(true)), Some((2, Some((Ino(9), true)))));
        assert_eq!(watched.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [1, 0, 2]);
    }

    #[test]
    fn directories_leave_room_for_open_files() {
        let mut watched = Watched::default();
        let mut next = 1..;
        while watched.set(Ino(next.next().expect("endless")), Some(false)).is_some() {}
        assert_eq!(watched.len(), limits::WATCHED_INODES_MAX - limits::WATCHED_FILES_MIN);
        while watched.set(Ino(next.next().expect("endless")), Some(true)).is_some() {}
        assert_eq!(watched.len(), limits::WATCHED_INODES_MAX);
        watched.set(Ino(5), None);
        let slot = watched.set(Ino(1 << 40), Some(true)).expect("room again").0;
        assert!((slot as usize) < limits::WATCHED_INODES_MAX && watched.contains(Ino(1 << 40)));
    }
}
