//! The right to let the kernel answer from its caches: it ends a little before the lease does, so that the kernel has
//! forgotten by then (docs/protocol.md R7-forgetting). This mount does that by itself; its holder does where this mount
//! cannot, by the deadline and the list that it is given.

use std::time::Duration;

use super::{Mount, Notification, Output};
use crate::types::{FileKind, Ino, Instant};

impl Mount {
    /// When this mount stops to answer for its kernel's caches; `None` when it never did.
    pub(crate) fn caches_until(&self) -> Option<Instant> {
        let early = self.config.timing.forget_time(self.kernel.watched_count());
        self.client.lease_until().map(|until| before(until, early))
    }

    /// How long the kernel may believe in a name. Names end with the lease by themselves where nobody else can end them
    /// all at once.
    pub(super) fn name_ttl(&self) -> Duration {
        if !self.config.kernel.inval_entry {
            return Duration::ZERO;
        }
        let rest = self.caches_until().map_or(Duration::ZERO, |until| until.since(self.now));
        if self.config.kernel.inc_epoch { self.config.timing.cache } else { rest.min(self.config.timing.cache) }
    }

    /// Whether the holder can make the kernel forget what it is told of this inode.
    pub(super) fn is_watched(&self, ino: Ino) -> bool {
        self.kernel.is_watched(ino) || !(self.handles.is_open(ino) || self.is_directory(ino))
    }

    /// The kernel has forgotten when these tickets are done.
    pub(super) fn is_forgetting(&mut self, tickets: impl IntoIterator<Item = u64>) {
        self.kernel.forgets_by(tickets);
    }

    /// What the holder's list holds and its deadline, for one that has just come.
    pub fn watch(&self) -> impl Iterator<Item = Output> + '_ {
        let slots = self.kernel.watch_list().map(|(slot, inode)| Output::Watch { slot, inode });
        slots.chain([Output::Deadline(self.kernel.deadline())])
    }

    /// Tells the holder what changed.
    pub(super) fn tell_holder(&mut self) {
        let mut changed = self.kernel.take_changed();
        changed.append(&mut self.handles.take_changed());
        for ino in changed {
            let (is_open, is_directory) = (self.handles.is_open(ino), self.is_directory(ino));
            match self.volume().inode(ino).filter(|_| is_open) {
                Some(inode) => {
                    let size = inode.size;
                    self.kernel.file_opened(ino, size);
                }
                None => self.kernel.file_closed(ino),
            }
            let is_wanted = is_open || self.kernel.is_known(ino) && is_directory;
            if let Some((slot, inode)) = self.kernel.watch(ino, is_wanted.then_some(is_open)) {
                self.outputs.push_back(Output::Watch { slot, inode });
            } else if is_open && !self.kernel.is_watched(ino) {
                // Attributes of before the open may be there still.
                self.issue(vec![Notification::Attributes { ino }], Vec::new());
            }
        }
        let lease = self.is_fresh.then(|| {
            // The first half of the time is this mount's own.
            let late = self.config.timing.forget_time(self.kernel.watched_count()) / 2;
            self.caches_until().map(|until| until.after(late))
        });
        if let Some(deadline) = self.kernel.move_deadline(lease) {
            self.outputs.push_back(Output::Deadline(deadline));
        }
    }

    /// What is not in the replica (any more) may be one.
    fn is_directory(&self, ino: Ino) -> bool {
        self.volume().inode(ino).is_none_or(|inode| inode.kind == FileKind::Directory)
    }
}

fn before(at: Instant, duration: Duration) -> Instant {
    Instant(at.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
}
