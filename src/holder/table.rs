//! What the worker tells its holder in shared memory, so that the holder can act when the worker cannot
//! (docs/protocol.md R7-forgetting): when the kernel's caches must be gone, and what is in them that no name leads to.
//!
//! A memfd of the holder's, read and written by position; no page of it is mapped. Words of the machine, 8 bytes each:
//!
//! ```text
//! word 0     what this is, and the version of the layout
//! word 1, 2  the deadline in nanoseconds of CLOCK_BOOTTIME, 0 for none; all its bits inverted
//! word 3     1 where the kernel has FUSE_NOTIFY_INC_EPOCH
//! word 4     slots in use: those from the first to the last that was ever taken
//! word 8...  slots: an inode's number, 0 in a free one; 1 when it is a file with open handles, 0 for a directory
//! ```

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use nix::{
    fcntl::posix_fallocate,
    sys::memfd::{MFdFlags, memfd_create},
};

use crate::{
    limits,
    types::{Ino, Instant},
};

/// "manyfs", and version 1.
const MAGIC: u64 = u64::from_be_bytes(*b"manyfs\0\x01");
const DEADLINE_AT: u64 = 8;
const INC_EPOCH_AT: u64 = 24;
const USED_AT: u64 = 32;
const SLOTS_AT: u64 = 64;
const SLOT_BYTES: u64 = 16;
const BYTES: u64 = SLOTS_AT + limits::WATCHED_INODES_MAX as u64 * SLOT_BYTES;

/// One end of the table.
#[derive(Debug)]
pub struct Table(File);

/// Something the kernel may answer about without asking for a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    pub ino: Ino,
    /// A file with open handles; a directory otherwise.
    pub is_open_file: bool,
}

impl Table {
    /// An empty table. Its memory is there from the start, so that no write to it fails later.
    ///
    /// # Errors
    /// As memfd_create(2) and posix_fallocate(3).
    pub fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"manyfs-lease", MFdFlags::MFD_CLOEXEC)?);
        posix_fallocate(&file, 0, BYTES.cast_signed())?;
        let table = Self(file);
        table.write(0, &[MAGIC, 0, !0])?;
        Ok(table)
    }

    /// The worker's end.
    ///
    /// # Errors
    /// `InvalidData` when it is no table of this layout.
    pub fn received(descriptor: OwnedFd) -> io::Result<Self> {
        let table = Self(File::from(descriptor));
        if table.word(0)? == MAGIC && table.0.metadata()?.len() >= BYTES {
            return Ok(table);
        }
        let reason = "the holder's table has a layout that this worker does not know: start both from one version";
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    /// # Errors
    /// As pwrite(2), here and below.
    pub fn set_inc_epoch(&self, inc_epoch: bool) -> io::Result<()> {
        self.write(INC_EPOCH_AT, &[inc_epoch.into()])
    }

    /// From `deadline` on the kernel may not answer from its caches any more; `None`: there is nothing in them.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
        let word = deadline.map_or(0, |at| at.0.max(1));
        self.write(DEADLINE_AT, &[word, !word])
    }

    /// # Errors
    /// As pwrite(2).
    pub fn set_slot(&self, slot: u32, watched: Option<Watched>) -> io::Result<()> {
        let words = watched.map_or([0, 0], |watched| [watched.ino.0, watched.is_open_file.into()]);
        self.write(SLOTS_AT + u64::from(slot) * SLOT_BYTES, &words)?;
        if self.word(USED_AT)? <= u64::from(slot) {
            self.write(USED_AT, &[u64::from(slot) + 1])?;
        }
        Ok(())
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn inc_epoch(&self) -> io::Result<bool> {
        Ok(self.word(INC_EPOCH_AT)? == 1)
    }

    pub(super) fn deadline(&self) -> io::Result<Option<Instant>> {
        loop {
            let mut bytes = [0; 16];
            self.0.read_exact_at(&mut bytes, DEADLINE_AT)?;
            let (word, inverted) = (word_of(&bytes[..8]), word_of(&bytes[8..]));
            // Otherwise it is being written at this moment.
            if word == !inverted {
                return Ok((word != 0).then_some(Instant(word)));
            }
        }
    }

    pub(super) fn watched(&self) -> io::Result<Vec<Watched>> {
        let used = self.word(USED_AT)?.min(limits::WATCHED_INODES_MAX as u64);
        let mut bytes = vec![0; usize::try_from(used * SLOT_BYTES).unwrap_or(0)];
        self.0.read_exact_at(&mut bytes, SLOTS_AT)?;
        let slots = bytes.chunks_exact(16).map(|slot| (word_of(&slot[..8]), word_of(&slot[8..])));
        let taken = slots.filter(|(ino, _)| *ino != 0);
        Ok(taken.map(|(ino, kind)| Watched { ino: Ino(ino), is_open_file: kind == 1 }).collect())
    }

    fn word(&self, at: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn write(&self, at: u64, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.0.write_all_at(&bytes, at)
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_reads_what_the_other_wrote() {
        let holder = Table::new().expect("memfd");
        let worker = Table::received(holder.descriptor().try_clone_to_owned().expect("dup")).expect("a table");
        assert_eq!((holder.deadline().expect("read"), holder.inc_epoch().expect("read")), (None, false));
        assert!(holder.watched().expect("read").is_empty());
        let directory = Watched { ino: Ino(1), is_open_file: false };
        let last = Watched { ino: Ino(u64::MAX), is_open_file: true };
        worker.set_inc_epoch(true).expect("write");
        worker.set_deadline(Some(Instant(77))).expect("write");
        worker.set_slot(3, Some(directory)).expect("write");
        worker.set_slot(limits::WATCHED_INODES_MAX as u32 - 1, Some(last)).expect("write");
        assert_eq!((holder.deadline().expect("read"), holder.inc_epoch().expect("read")), (Some(Instant(77)), true));
        assert_eq!(holder.watched().expect("read"), [directory, last]);
        worker.set_slot(3, None).expect("write");
        worker.set_deadline(None).expect("write");
        assert_eq!((holder.watched().expect("read"), holder.deadline().expect("read")), (vec![last], None));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let file = memfd_create(c"other", MFdFlags::MFD_CLOEXEC).expect("memfd");
        posix_fallocate(&file, 0, 4096).expect("room");
        assert_eq!(Table::received(file).expect_err("refused").kind(), io::ErrorKind::InvalidData);
    }
}
