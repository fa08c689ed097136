//! READs that may have filled pages from before a WRITE, and pages that the kernel is being told to forget for that
//! (docs/protocol.md R24-pages).

use std::collections::{BTreeMap, VecDeque};

use super::lookups::TAKEN_OVER;
use crate::types::{Ino, Instant};

/// Requests about one file that are remembered.
const SEEN_MAX: usize = 64;
/// Files beyond which those are forgotten that nobody has read lately.
const FILES_MAX: usize = 1024;
const PAGE_BYTES: u64 = 4096;

/// Begin and end; `u64::MAX` is the end of one without end.
pub(crate) type Range = (u64, u64);

#[derive(Clone, Copy, Debug)]
enum Seen {
    /// The thread asked for something, and waits for the answer.
    Asked { thread: u32 },
    /// The kernel fills these pages for the thread (0: nobody knows which).
    Read { thread: u32, range: Range },
}

#[derive(Debug, Default)]
struct File {
    seen: VecDeque<Seen>,
    /// What READs filled that are not remembered one by one any more.
    older: Option<Range>,
    read_at: Instant,
}

/// Files that may be written to while they are read, and whose pages the kernel is being told to forget.
#[derive(Debug)]
pub(crate) struct Refills {
    files: BTreeMap<Ino, File>,
    /// With so many files it is looked which of them were read lately.
    sweep_at: usize,
    dropping: BTreeMap<u64, Ino>,
}

impl Default for Refills {
    fn default() -> Self {
        Self { files: BTreeMap::new(), sweep_at: FILES_MAX, dropping: BTreeMap::new() }
    }
}

impl Refills {
    pub(crate) fn read(&mut self, now: Instant, ino: Ino, thread: u32, range: Range) {
        if self.files.len() >= self.sweep_at {
            self.files.retain(|_, file| now < file.read_at.after(TAKEN_OVER));
            self.sweep_at = FILES_MAX.max(2 * self.files.len());
        }
        let file = self.files.entry(ino).or_default();
        file.read_at = now;
        file.push(Seen::Read { thread, range });
    }

    /// The thread is not inside write(2) on the file.
    pub(crate) fn asked(&mut self, ino: Ino, thread: u32) {
        if thread != 0
            && let Some(file) = self.files.get_mut(&ino)
        {
            file.push(Seen::Asked { thread });
        }
    }

    /// A WRITE of the thread has taken effect. The pages of it that may have been filled from before it.
    pub(crate) fn written(&mut self, ino: Ino, thread: u32, range: Range) -> Option<Range> {
        let file = self.files.get_mut(&ino)?;
        let is_doubtful = file.is_doubtful(thread, range);
        let (begin, end) = range;
        let pages = (begin - begin % PAGE_BYTES, end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX));
        if is_doubtful {
            let stays = |read: &Range| read.0 < pages.0 || pages.1 < read.1;
            file.seen.retain(|seen| !matches!(seen, Seen::Read { range, .. } if !stays(range)));
            file.older = file.older.filter(stays);
        }
        self.asked(ino, thread);
        is_doubtful.then_some(pages)
    }

    /// Nobody has the file open for writing.
    pub(crate) fn forget(&mut self, ino: Ino) {
        self.files.remove(&ino);
    }

    /// The ticket's notifications are carried out. The file whose pages are gone by it.
    pub(crate) fn notified(&mut self, ticket: u64) -> Option<Ino> {
        self.dropping.remove(&ticket)
    }

    /// The ticket makes the kernel forget pages of the file.
    pub(crate) fn drops(&mut self, ticket: u64, ino: Ino) {
        self.dropping.insert(ticket, ino);
    }

    pub(crate) fn is_dropping(&self, ino: Ino) -> bool {
        self.dropping.values().any(|dropping| *dropping == ino)
    }
}

impl File {
    fn push(&mut self, seen: Seen) {
        if self.seen.len() >= SEEN_MAX
            && let Some(Seen::Read { range: (begin, end), .. }) = self.seen.pop_front()
        {
            self.older = Some(self.older.map_or((begin, end), |older| (older.0.min(begin), older.1.max(end))));
        }
        self.seen.push_back(seen);
    }

    /// Whether a READ of another thread may have filled a part of the range while this one was inside write(2).
    fn is_doubtful(&self, thread: u32, range: Range) -> bool {
        let overlaps = |other: Range| other.0 < range.1 && range.0 < other.1;
        for seen in self.seen.iter().rev() {
            match *seen {
                Seen::Asked { thread: asked } if asked == thread => return false,
                Seen::Read { thread: reader, range } if (reader == 0 || reader != thread) && overlaps(range) => {
                    return true;
                }
                _ => {}
            }
        }
        self.older.is_some_and(overlaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(2);
    const NOW: Instant = Instant(1_000_000_000);
    const PAGE: Range = (0, 4096);

    fn read_by(thread: u32) -> Refills {
        let mut refills = Refills::default();
        refills.read(NOW, FILE, thread, PAGE);
        refills
    }

    #[test]
    fn a_read_of_another_thread_is_doubted_once_and_where_it_was() {
        assert_eq!(read_by(1).written(FILE, 2, (10, 20)), Some(PAGE));
        assert_eq!(read_by(1).written(FILE, 2, (4096, 4097)), None);
        assert_eq!(read_by(1).written(FILE, 2, (4000, 5000)), Some((0, 8192)));
        assert_eq!(read_by(1).written(Ino(3), 2, (10, 20)), None);
        let mut refills = read_by(1);
        refills.written(FILE, 2, (10, 20));
        assert_eq!(refills.written(FILE, 3, (10, 20)), None, "its page is gone");
    }

    #[test]
    fn whoever_asked_since_was_not_writing() {
        let mut refills = read_by(1);
        refills.asked(FILE, 2);
        assert_eq!(refills.written(FILE, 2, (10, 20)), None);
        assert_eq!(refills.written(FILE, 3, (10, 20)), Some(PAGE), "another thread's word is no proof");
        assert_eq!(read_by(2).written(FILE, 2, (10, 20)), None, "nobody reads inside write(2)");
        let mut refills = read_by(0);
        refills.asked(FILE, 0);
        assert_eq!(refills.written(FILE, 0, (10, 20)), Some(PAGE), "threads without a number may be any");
    }

    #[test]
    fn what_is_not_remembered_one_by_one_is_remembered_as_a_whole() {
        let mut refills = read_by(1);
        for _ in 0..2 * SEEN_MAX {
            refills.read(NOW, FILE, 1, (8192, 12288));
        }
        assert!(refills.files[&FILE].seen.len() <= SEEN_MAX);
        assert_eq!(refills.written(FILE, 2, (10, 20)), Some(PAGE));
        assert_eq!(refills.written(FILE, 2, (20000, 20001)), None);
    }

    #[test]
    fn files_that_nobody_reads_are_forgotten() {
        let mut refills = Refills::default();
        for number in 0..10 * FILES_MAX as u64 {
            refills.read(Instant(NOW.0 + number * 1_000_000), Ino(number), 1, PAGE);
        }
        assert!(refills.files.len() <= FILES_MAX);
    }
}
