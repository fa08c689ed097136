//! Pages that a READ may have filled from before a WRITE (docs/protocol.md R24-pages).
//!
//! write(2) copies into a page that is up to date, and lets go of the page before the WRITE is sent
//! (`fuse_fill_write_pages`, fs/fuse/file.c, since Linux 5.10). In between something may drop the page: an answer with
//! a new mtime (FUSE_AUTO_INVAL_DATA) or a notification. Then another thread's READ fills it again. That READ may get
//! here before the WRITE: it was sent earlier, or another serving thread was quicker, or the WRITE waits here for the
//! right to buffer. The kernel then shows the writer what was before its own bytes.
//!
//! So where such a READ may have been, the kernel is told to forget the pages of a WRITE once that has taken effect.
//! The WRITE's answer cannot wait for this, since the kernel may keep the last page locked until then
//! (R8-locked-pages). GETATTR can, and it comes before the first read(2) that follows a write (`fuse_cache_read_iter`):
//! it is answered when the pages are gone. A READ is beyond suspicion if the writing thread has asked for something
//! since: that thread was not inside write(2) then.

use std::collections::{BTreeMap, VecDeque};

use super::{Caller, Mount, Notification, Request, lookups::TAKEN_OVER};
use crate::types::{Ino, Instant, Timestamp};

/// Requests about one file that are remembered.
const SEEN_MAX: usize = 64;
/// Files beyond which those are forgotten that nobody has read lately.
const FILES_MAX: usize = 1024;
const PAGE_BYTES: u64 = 4096;

/// Begin and end; `u64::MAX` is the end of one without end.
type Range = (u64, u64);

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
    fn read(&mut self, now: Instant, ino: Ino, thread: u32, range: Range) {
        if self.files.len() >= self.sweep_at {
            self.files.retain(|_, file| now < file.read_at.after(TAKEN_OVER));
            self.sweep_at = FILES_MAX.max(2 * self.files.len());
        }
        let file = self.files.entry(ino).or_default();
        file.read_at = now;
        file.push(Seen::Read { thread, range });
    }

    /// The thread is not inside write(2) on the file.
    fn asked(&mut self, ino: Ino, thread: u32) {
        if thread != 0
            && let Some(file) = self.files.get_mut(&ino)
        {
            file.push(Seen::Asked { thread });
        }
    }

    /// A WRITE of the thread has taken effect. The pages of it that may have been filled from before it.
    fn written(&mut self, ino: Ino, thread: u32, range: Range) -> Option<Range> {
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

    fn is_dropping(&self, ino: Ino) -> bool {
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

impl Mount {
    /// A request gets here.
    pub(super) fn watch_refills(&mut self, now: Instant, caller: Caller, request: &Request) {
        match request {
            Request::Read { ino, fh, offset, length } => {
                // A writer's open was answered before it wrote; where opens are not told, anybody may.
                let may_be_written = !self.handles.ends_are_told() || self.handles.writers(*ino) > 0;
                if may_be_written && !self.handles.is_direct(*fh) {
                    let end = offset.saturating_add(u64::from(*length));
                    self.refills.read(now, *ino, caller.pid, (*offset, end));
                }
            }
            // It shows that its writer is alive when it has taken effect.
            Request::Write { .. } => {}
            _ => {
                if let Some(ino) = request.facts().subject {
                    self.refills.asked(ino, caller.pid);
                }
            }
        }
    }

    /// A WRITE of the thread has taken effect and is answered.
    pub(super) fn drop_refilled(&mut self, thread: u32, ino: Ino, range: Range) {
        if let Some(pages) = self.refills.written(ino, thread, range) {
            self.counters.pages_refilled += 1;
            self.drop_pages(ino, pages);
        }
    }

    /// What the kernel shows of a file that was written here is not so: whoever reads it from now on waits until it is
    /// gone.
    pub(super) fn drop_pages(&mut self, ino: Ino, (begin, end): Range) {
        if !self.lookups.is_known(ino) {
            return;
        }
        let length = if end == u64::MAX { 0 } else { end - begin };
        let ticket = self.issue(vec![Notification::Pages { ino, offset: begin, length }], Vec::new());
        if self.invalidations.is_running(ticket) {
            self.refills.dropping.insert(ticket, ino);
        }
    }

    /// The kernel drops all pages of a file whose mtime moves (FUSE_AUTO_INVAL_DATA). It has the bytes that were written
    /// here, and is told by name what changes elsewhere (R24-pages): before it reads, it need not hear of what is not
    /// in the log yet.
    pub(super) fn mtime_for_read(&self, ino: Ino, shown: Timestamp) -> Timestamp {
        self.volume().inode(ino).map_or(shown, |inode| inode.mtime)
    }

    /// Whether the answer would be followed by a read of pages that are still to go. Without a lease nothing waits for a
    /// notification (R10-read-index).
    pub(super) fn waits_for_pages(&self, request: &Request) -> Option<Ino> {
        match request {
            Request::Getattr { ino, .. } if self.is_fresh && self.refills.is_dropping(*ino) => Some(*ino),
            _ => None,
        }
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
