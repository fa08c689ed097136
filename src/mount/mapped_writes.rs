//! Writes to memory that is mapped to a file. The process does not ask, and the kernel writes back when it likes. (This
//! is not about storage nodes, which are called stores elsewhere.)
//!
//! On local file systems such a write changes mtime at once. Here mtime changes when the page is written back, since
//! nobody hears of it earlier. That must not undo a time that somebody sets in between. So before a time is set, the
//! kernel is told to forget the file's pages, and writes the dirty ones back first (`fuse_launder_folio`,
//! fs/fuse/file.c). A later write needs the page again, and counts as later.

use super::{
    Caller, Mount, Notification, Request,
    apply::part,
    requests::{Awaited, Pending},
};
use crate::types::{AttributeChanges, Ino, Instant, TimeChange};

impl Mount {
    /// Whether a store that was made before the change may be written back behind it and undo it.
    pub(super) fn may_be_undone(&self, ino: Ino, changes: &AttributeChanges) -> bool {
        let sets_time = matches!(changes.mtime, Some(TimeChange::To(_))) && changes.size.is_none();
        // Without a lease nothing waits for a notification (docs/protocol.md R10-read-index).
        sets_time && self.is_fresh && self.handles.may_be_mapped(ino) && self.kernel.has_pages(ino)
    }

    /// The change waits until what is dirty has been written back. Pages that a request keeps locked are not up to date,
    /// so nobody has stored anything there (R8-locked-pages).
    pub(super) fn set_behind_stores(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        ino: Ino,
        changes: AttributeChanges,
    ) {
        let (free, _) = part(&[(0, u64::MAX)], &self.requests.locked_pages(ino));
        let pages = free.into_iter().map(|range| Notification::of_pages(ino, range)).collect();
        let ticket = self.issue(pages, Vec::new());
        if !self.kernel.is_running(ticket) {
            return self.setattr(now, unique, caller, ino, changes);
        }
        self.kernel.write_back(ticket, unique);
        let kind = Awaited::Parked { request: Request::Setattr { ino, changes } };
        self.wait(now, unique, Pending::new(caller, self.deadline(now), kind));
    }

    /// The kernel has written back what was dirty.
    pub(super) fn written_back(&mut self, now: Instant, unique: u64) {
        // Unless its time was over.
        if let Some((caller, Request::Setattr { ino, changes })) = self.unpark(unique) {
            self.setattr(now, unique, caller, ino, changes);
        }
    }
}
