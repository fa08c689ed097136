//! Open files. A handle is only a number with an inode behind it: every request carries what its answer needs, so that a
//! successor process can answer the requests of this one.
//!
//! Where the kernel does not tell of opens (`--opens=untracked`), every file that it knows counts as open until it forgets
//! it. Handles are then those that creates made; whether their end is told depends on the kernel's version.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{OpenFlags, Opens};
use crate::types::{Errno, Ino};

/// Bytes of a file that did not get into the log.
#[derive(Clone, Copy, Debug)]
struct Loss {
    errno: Errno,
    /// A WRITE was refused for it.
    has_refused: bool,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    ino: Ino,
    /// The kernel was told to pass its page cache by.
    is_direct: bool,
    /// A lock that was set through it was taken away: nothing is written through it any more.
    lost_lock: bool,
    /// Opened for writing.
    writes: bool,
    /// Opened for reading and writing, as a mapping that is written to asks for and keeps.
    maps: bool,
    /// What became of bytes of the file, and was not told through this handle yet.
    loss: Option<Loss>,
}

#[derive(Debug)]
pub(crate) struct Handles {
    last: u64,
    open: BTreeMap<u64, Handle>,
    /// Open handles of each inode that has any.
    counts: BTreeMap<Ino, u32>,
    /// Inodes that were opened for the first time or closed for the last since `take_changed`.
    changed: Vec<Ino>,
    /// Those of them that were opened for writing.
    writers: BTreeMap<Ino, u32>,
    /// Those of them that may be mapped.
    mappers: BTreeMap<Ino, u32>,
    /// Files that may be open without our knowing, and what is to be told to the first who asks of each.
    unseen: Option<BTreeMap<Ino, Option<Loss>>>,
}

impl Handles {
    pub(crate) fn new(opens: Opens) -> Self {
        Self {
            last: 0,
            open: BTreeMap::new(),
            counts: BTreeMap::new(),
            changed: Vec::new(),
            writers: BTreeMap::new(),
            mappers: BTreeMap::new(),
            unseen: (opens == Opens::Untracked).then(BTreeMap::new),
        }
    }

    /// Whether the last close of a file is told.
    pub(crate) const fn ends_are_told(&self) -> bool {
        self.unseen.is_none()
    }

    /// The kernel has the file from now on, and may open it.
    pub(crate) fn file_known(&mut self, ino: Ino) {
        if let Some(unseen) = &mut self.unseen
            && let Entry::Vacant(entry) = unseen.entry(ino)
        {
            entry.insert(None);
            self.changed.push(ino);
        }
    }

    /// The kernel has forgotten the file: it is not open any more. Whether that is news.
    pub(crate) fn file_forgotten(&mut self, ino: Ino) -> bool {
        if self.unseen.as_mut().is_none_or(|unseen| unseen.remove(&ino).is_none()) {
            return false;
        }
        self.changed.push(ino);
        if self.counts.remove(&ino).is_some() {
            self.writers.remove(&ino);
            self.mappers.remove(&ino);
            self.open.retain(|_, handle| handle.ino != ino);
        }
        true
    }

    /// A number never given before.
    pub(crate) fn open(&mut self, ino: Ino, flags: OpenFlags) -> u64 {
        self.last += 1;
        let (is_direct, writes, maps) = (flags.append, flags.write, flags.read && flags.write);
        self.open.insert(self.last, Handle { ino, is_direct, writes, maps, lost_lock: false, loss: None });
        let count = self.counts.entry(ino).or_insert(0);
        if *count == 0 {
            self.changed.push(ino);
        }
        *count += 1;
        if writes {
            *self.writers.entry(ino).or_insert(0) += 1;
        }
        if maps {
            *self.mappers.entry(ino).or_insert(0) += 1;
        }
        self.last
    }

    /// The inode. An unknown number is nothing.
    pub(crate) fn release(&mut self, fh: u64) -> Option<Ino> {
        let Handle { ino, writes, maps, .. } = self.open.remove(&fh)?;
        lower(&mut self.counts, ino);
        if writes {
            lower(&mut self.writers, ino);
        }
        if maps {
            lower(&mut self.mappers, ino);
        }
        if !self.counts.contains_key(&ino) {
            self.changed.push(ino);
        }
        Some(ino)
    }

    pub(crate) fn inodes(&self) -> Vec<Ino> {
        let unseen = self.unseen.iter().flat_map(BTreeMap::keys).filter(|ino| !self.counts.contains_key(ino));
        self.counts.keys().chain(unseen).copied().collect()
    }

    /// A lock of the handle was taken away; whether that is news.
    pub(crate) fn lose_lock(&mut self, fh: u64) -> bool {
        self.open.get_mut(&fh).is_some_and(|handle| !std::mem::replace(&mut handle.lost_lock, true))
    }

    pub(crate) fn has_lost_lock(&self, fh: u64) -> bool {
        self.open.get(&fh).is_some_and(|handle| handle.lost_lock)
    }

    /// Bytes of the file are lost. Each handle is told once, as the kernel does for its own file systems
    /// (lib/errseq.c). Handles that are not known one by one share one telling.
    pub(crate) fn fail(&mut self, ino: Ino, errno: Errno) {
        let known = self.open.values_mut().filter(|handle| handle.ino == ino).map(|handle| &mut handle.loss);
        let unseen = self.unseen.as_mut().and_then(|unseen| unseen.get_mut(&ino));
        for loss in known.chain(unseen) {
            *loss = Some(Loss { errno, has_refused: false });
        }
    }

    /// What is to be told through the handle, once.
    pub(crate) fn take_error(&mut self, ino: Ino, fh: u64) -> Option<Errno> {
        self.loss(ino, fh)?.take().map(|loss| loss.errno)
    }

    /// Why a WRITE is refused. Only one is, and fsync or close tell of the loss all the same: the WRITE may be one part
    /// of a write(2), which then returns how much it has written and no error (`fuse_perform_write`, fs/fuse/file.c).
    pub(crate) fn refuse_write(&mut self, ino: Ino, fh: u64) -> Option<Errno> {
        let loss = self.loss(ino, fh)?.as_mut().filter(|loss| !loss.has_refused)?;
        loss.has_refused = true;
        Some(loss.errno)
    }

    fn loss(&mut self, ino: Ino, fh: u64) -> Option<&mut Option<Loss>> {
        match self.open.get_mut(&fh) {
            Some(handle) => Some(&mut handle.loss),
            None => self.unseen.as_mut()?.get_mut(&ino),
        }
    }

    pub(crate) fn take_changed(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.changed)
    }

    /// Open handles of the inode that may write.
    pub(crate) fn writers(&self, ino: Ino) -> u32 {
        self.writers.get(&ino).copied().unwrap_or(0)
    }

    /// Whether a process may have mapped the inode and write to it by memory.
    pub(crate) fn may_be_mapped(&self, ino: Ino) -> bool {
        self.mappers.contains_key(&ino) || self.unseen.as_ref().is_some_and(|unseen| unseen.contains_key(&ino))
    }

    pub(crate) fn is_open(&self, ino: Ino) -> bool {
        self.counts.contains_key(&ino) || self.unseen.as_ref().is_some_and(|unseen| unseen.contains_key(&ino))
    }

    /// Requests through this handle lock no pages in the kernel. One that is unknown here may.
    pub(crate) fn is_direct(&self, fh: u64) -> bool {
        self.open.get(&fh).is_some_and(|handle| handle.is_direct)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

fn lower(counts: &mut BTreeMap<Ino, u32>, ino: Ino) {
    if let Some(count) = counts.get_mut(&ino) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClearSuid;

    const READER: OpenFlags = OpenFlags {
        read: true,
        write: false,
        append: false,
        truncate: false,
        exclusive: false,
        sync: false,
        clear_suid: ClearSuid::No,
    };
    const WRITER: OpenFlags = OpenFlags { read: false, write: true, ..READER };
    const APPENDER: OpenFlags = OpenFlags { append: true, ..WRITER };

    #[test]
    fn a_file_may_be_mapped_while_it_is_open_for_reading_and_writing() {
        let mut handles = Handles::new(Opens::Tracked);
        handles.open(Ino(3), READER);
        handles.open(Ino(3), WRITER);
        assert!(!handles.may_be_mapped(Ino(3)));
        let both = handles.open(Ino(3), OpenFlags { read: true, ..WRITER });
        assert!(handles.may_be_mapped(Ino(3)));
        handles.release(both);
        assert!(!handles.may_be_mapped(Ino(3)));
        let mut untracked = Handles::new(Opens::Untracked);
        untracked.file_known(Ino(3));
        assert!(untracked.may_be_mapped(Ino(3)), "nobody tells");
    }

    #[test]
    fn handles_are_counted_by_inode_and_those_that_write_apart() {
        let mut handles = Handles::new(Opens::Tracked);
        let (first, second) = (handles.open(Ino(3), READER), handles.open(Ino(3), APPENDER));
        assert_ne!(first, second);
        assert!(!handles.is_direct(first) && handles.is_direct(second) && !handles.is_direct(99));
        assert_eq!(handles.release(first), Some(Ino(3)));
        assert!(handles.is_open(Ino(3)));
        assert_eq!(handles.writers(Ino(3)), 1);
        assert_eq!(handles.release(first), None, "a number is released once");
        assert_eq!(handles.release(second), Some(Ino(3)));
        assert!(!handles.is_open(Ino(3)));
        assert_eq!(handles.writers(Ino(3)), 0);
    }

    #[test]
    fn what_is_lost_is_told_once_through_each_handle_that_was_open() {
        let mut handles = Handles::new(Opens::Tracked);
        let (first, second) = (handles.open(Ino(3), WRITER), handles.open(Ino(3), WRITER));
        let other = handles.open(Ino(4), WRITER);
        handles.fail(Ino(3), Errno::EIO);
        let later = handles.open(Ino(3), WRITER);
        for fh in [first, second] {
            assert_eq!(handles.take_error(Ino(3), fh), Some(Errno::EIO));
            assert_eq!(handles.take_error(Ino(3), fh), None);
        }
        handles.fail(Ino(3), Errno::EDQUOT);
        let refused = [first, first].map(|fh| handles.refuse_write(Ino(3), fh));
        assert_eq!(refused, [Some(Errno::EDQUOT), None], "the next one may go well");
        assert_eq!(handles.take_error(Ino(3), first), Some(Errno::EDQUOT));
        handles.take_error(Ino(3), later);
        assert_eq!((handles.take_error(Ino(4), other), handles.take_error(Ino(3), later)), (None, None));
        let mut untracked = Handles::new(Opens::Untracked);
        untracked.file_known(Ino(3));
        untracked.fail(Ino(3), Errno::ENOSPC);
        assert_eq!(untracked.take_error(Ino(3), 0), Some(Errno::ENOSPC));
        assert_eq!(untracked.take_error(Ino(3), 0), None);
    }

    #[test]
    fn where_opens_are_not_told_a_file_is_open_until_it_is_forgotten() {
        let mut handles = Handles::new(Opens::Untracked);
        handles.file_known(Ino(3));
        assert!(handles.is_open(Ino(3)) && !handles.is_open(Ino(4)));
        let created = handles.open(Ino(4), WRITER);
        handles.file_known(Ino(4));
        assert_eq!((handles.inodes(), handles.take_changed()), (vec![Ino(4), Ino(3)], vec![Ino(3), Ino(4), Ino(4)]));
        assert_eq!(handles.release(created), Some(Ino(4)));
        assert!(handles.is_open(Ino(4)), "it may have been opened since");
        handles.open(Ino(4), WRITER);
        assert!(handles.file_forgotten(Ino(4)) && !handles.file_forgotten(Ino(4)));
        assert!(!handles.is_open(Ino(4)) && handles.writers(Ino(4)) == 0 && handles.len() == 0);
        assert!(!Handles::new(Opens::Tracked).file_forgotten(Ino(3)));
    }
}
