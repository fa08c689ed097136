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

use super::{Caller, Mount, Notification, Request, kernel::Range};
use crate::types::{Ino, Instant, Timestamp};

impl Mount {
    /// A request gets here.
    pub(super) fn watch_refills(&mut self, now: Instant, caller: Caller, request: &Request) {
        match request {
            Request::Read { ino, fh, offset, length } => {
                // A writer's open was answered before it wrote; where opens are not told, anybody may.
                let may_be_written = !self.handles.ends_are_told() || self.handles.writers(*ino) > 0;
                if may_be_written && !self.handles.is_direct(*fh) {
                    let end = offset.saturating_add(u64::from(*length));
                    self.kernel.reads(now, *ino, caller.pid, (*offset, end));
                }
            }
            // It shows that its writer is alive when it has taken effect.
            Request::Write { .. } => {}
            _ => {
                if let Some(ino) = request.facts().subject {
                    self.kernel.thread_asks(ino, caller.pid);
                }
            }
        }
    }

    /// A WRITE of the thread has taken effect and is answered.
    pub(super) fn drop_refilled(&mut self, thread: u32, ino: Ino, range: Range) {
        if let Some(pages) = self.kernel.written(ino, thread, range) {
            self.counters.pages_refilled += 1;
            self.drop_pages(ino, pages);
        }
    }

    /// What the kernel shows of a file that was written here is not so: whoever reads it from now on waits until it is
    /// gone.
    pub(super) fn drop_pages(&mut self, ino: Ino, (begin, end): Range) {
        if !self.kernel.is_known(ino) {
            return;
        }
        let length = if end == u64::MAX { 0 } else { end - begin };
        let ticket = self.issue(vec![Notification::Pages { ino, offset: begin, length }], Vec::new());
        self.kernel.drops_pages(ticket, ino);
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
            Request::Getattr { ino, .. } if self.is_fresh && self.kernel.is_dropping_pages(*ino) => Some(*ino),
            _ => None,
        }
    }
}
