//! Notifications that meet the kernel's own locks. The kernel holds a directory's lock while a request that changes the
//! directory is unanswered, and a page's while the page is read or written. A notification about the name, or about the
//! page, waits for that lock. The request may wait for another mount, and that mount for our acknowledgement. So no
//! acknowledgement may ever wait for a lock that an unanswered request holds (docs/protocol.md D3-one-directory,
//! R8-locked-pages, R22-collisions, R23-renames).
//!
//! With INC_EPOCH, which takes no lock, the kernel is made to ask again about every name. Linux also takes away what is
//! mounted below the names then. So an epoch is sent only for names that this kernel was told (`kernel/told_names.rs`), the less
//! often the more names there are, and acknowledgements wait for the next one. The names of a rename are told once more
//! when it has been answered.
//!
//! Without INC_EPOCH (before Linux 6.16) the entry is acknowledged first, and the name is invalidated when the request
//! has been answered. Until then this kernel may answer from before (README.md "Not yet").

use super::{Mount, Notification, kernel::Gathering, requests::Pending, timers::Timer};
use crate::types::{Ino, Instant, LogIndex, Name};

impl Mount {
    /// A name changed elsewhere. Unless the kernel's lock of the directory is ours to wait for, it goes another way.
    pub(super) fn gather_name(
        &mut self,
        now: Instant,
        index: LogIndex,
        parent: Ino,
        name: &Name,
        gathering: &mut Gathering,
    ) {
        if !self.requests.is_locked(parent) {
            gathering.names.insert((parent, name.clone()));
            return;
        }
        if !self.may_believe(parent, name) {
            return;
        }
        let by_epoch = gathering.all_names || self.may_send_epoch(now);
        gathering.all_names |= by_epoch;
        // Also behind an epoch: the kernel keeps a stale name, and with it a file that was unlinked, until it is used.
        self.kernel.defer(parent, name);
        if !by_epoch {
            self.wait_for_epoch(index);
        }
        let mut moved = Vec::new();
        for unique in self.requests.lockers(parent) {
            let Some(waiting) = self.requests.get_mut(unique) else { continue };
            if !waiting.names.iter().any(|(directory, own)| *directory == parent && own == name) {
                continue;
            }
            if by_epoch {
                // R23-renames: a rename moves the entry that the kernel believes in; it must be stale before.
                if waiting.is_rename {
                    gathering.renames.push(unique);
                    moved.extend(waiting.names.iter().cloned());
                }
            } else {
                waiting.collided = true;
                // This entry comes before the rename in the log: what the kernel will move is not what the rename
                // moved. So its acknowledgement waits for the rename. An entry waits only for later ones like this, so
                // no two mounts wait for each other.
                if waiting.is_rename && !waiting.is_applied {
                    waiting.held.push(index);
                    self.kernel.require(index);
                }
            }
        }
        self.defer_moved(moved);
    }

    /// A request arrived that holds directories' locks. From now on no acknowledgement waits for notifications that
    /// these locks stop.
    pub(super) fn make_way_for_locks(&mut self, now: Instant, unique: u64) {
        let Some(waiting) = self.requests.get(unique) else { return };
        let (locks, names, is_rename) = (waiting.locks().to_vec(), waiting.names.clone(), waiting.is_rename);
        let is_stopped = |n: &Notification| matches!(n, Notification::Name { parent, .. } if locks.contains(parent));
        // Also tickets that no acknowledgement waits for any more: the kernel still believes in what they are to make
        // stale, and a rename moves that to where no ticket looks for it.
        let touches_own = self.kernel.is_being_told(|n| {
            matches!(n, Notification::Name { parent, name } if names.iter().any(|own| (&own.0, &own.1) == (parent, name)))
        });
        let excused = self.kernel.excuse(is_stopped);
        if excused.is_empty() {
            if let Some(waiting) = self.requests.get_mut(unique).filter(|_| touches_own) {
                waiting.collided = true;
            }
            return;
        }
        let mut gathering = Gathering::default();
        for (entries, notifications) in &excused {
            gathering.entries.extend(entries);
            for notification in notifications {
                match notification {
                    Notification::Name { parent, .. } if locks.contains(parent) => {}
                    Notification::Name { parent, name } => {
                        gathering.names.insert((*parent, name.clone()));
                    }
                    // Pages of files have tickets of their own, without names.
                    Notification::Pages { ino, .. } => {
                        gathering.directories.insert(*ino);
                    }
                    Notification::Attributes { ino } => {
                        gathering.inodes.insert(*ino);
                    }
                    Notification::AllNames => gathering.all_names = true,
                    // It has tickets without names as well.
                    Notification::Size { .. } => {}
                }
            }
        }
        let is_believed = touches_own
            || excused.iter().flat_map(|(_, notifications)| notifications).any(|n| match n {
                Notification::Name { parent, name } => locks.contains(parent) && self.may_believe(*parent, name),
                _ => false,
            });
        let by_epoch = gathering.all_names || is_believed && self.may_send_epoch(now);
        gathering.all_names = by_epoch;
        let entries: Vec<LogIndex> = excused.iter().flat_map(|(entries, _)| entries.iter().copied()).collect();
        if let Some(waiting) = self.requests.get_mut(unique).filter(|_| touches_own) {
            if !by_epoch {
                // The ticket that hangs invalidates its names once the request is answered. But where a rename has
                // moved them to is known only to us.
                waiting.collided = true;
                if is_rename {
                    for entry in &entries {
                        waiting.held.push(*entry);
                        self.kernel.require(*entry);
                    }
                }
            } else if is_rename {
                gathering.renames.push(unique);
                self.defer_moved(names);
            }
        }
        self.issue_gathered(gathering);
        for entry in entries {
            if is_believed && !by_epoch {
                self.wait_for_epoch(entry);
            }
            self.kernel.release(entry);
        }
    }

    /// Whether the kernel was told the name, or a request that it has not answered may tell it. Else it asks for it.
    fn may_believe(&self, parent: Ino, name: &Name) -> bool {
        // Without epochs nobody would forget what is noted here.
        let is_noted = !self.config.kernel.inc_epoch || self.kernel.may_have_told(parent, name);
        let names_it = |unique: &u64| {
            let waiting = self.requests.get(*unique);
            waiting
                .is_some_and(|waiting| waiting.names.iter().any(|(directory, own)| *directory == parent && own == name))
        };
        is_noted || self.requests.lockers(parent).iter().any(names_it)
    }

    /// A request arrived that keeps pages locked while it waits: what stands behind these pages in a ticket is told
    /// again, around them.
    pub(super) fn make_way_for_pages(&mut self, ino: Ino, begin: u64, end: u64) {
        let is_stopped = |n: &Notification| match n {
            Notification::Pages { ino: of, offset, length } => {
                let to = if *length == 0 { u64::MAX } else { offset.saturating_add(*length) };
                *of == ino && *offset < end && begin < to
            }
            Notification::Size { ino: of, from, .. } => *of == ino && (begin..end).contains(from),
            _ => false,
        };
        for (entries, notifications) in self.kernel.excuse(is_stopped) {
            if notifications.iter().any(|notification| matches!(notification, Notification::Size { .. })) {
                self.kernel.size_untold(ino);
            }
            let ranges = notifications.iter().filter_map(|notification| match notification {
                Notification::Pages { offset, length, .. } => {
                    Some((*offset, if *length == 0 { u64::MAX } else { offset.saturating_add(*length) }))
                }
                _ => None,
            });
            self.issue_pages(ino, ranges.collect(), entries.clone());
            for entry in entries {
                self.kernel.release(entry);
            }
        }
    }

    /// A request was answered, and its locks are free: what was put off because of them is told now.
    pub(super) fn make_up(&mut self, _now: Instant, waiting: Pending) {
        let mut gathering = Gathering::default();
        let mut allowed = Vec::new();
        if waiting.is_rename {
            // What the kernel was told of one it believes of the other now.
            waiting.names.iter().for_each(|(directory, name)| self.kernel.told_name(*directory, name));
        }
        for directory in waiting.locks() {
            // Another request has the lock; it will make up for this.
            if self.requests.is_locked(*directory) {
                continue;
            }
            for name in self.kernel.take_deferred(*directory) {
                gathering.names.insert((*directory, name.clone()));
                allowed.push((*directory, name));
            }
        }
        if waiting.collided {
            for (directory, name) in &waiting.names {
                let child = self.volume().lookup(*directory, name);
                gathering.inodes.extend(child.filter(|child| self.may_answer(*child)));
                if !self.kernel.is_known(*directory) {
                    continue;
                }
                gathering.directories.insert(*directory);
                if self.requests.is_locked(*directory) {
                    self.kernel.defer(*directory, name);
                } else {
                    gathering.names.insert((*directory, name.clone()));
                }
            }
        }
        gathering.entries.clone_from(&waiting.held);
        self.issue_gathered(gathering);
        for (directory, name) in allowed {
            self.kernel.allow_name(directory, &name);
        }
        for entry in waiting.held {
            self.kernel.release(entry);
        }
    }

    /// A rename moves what the kernel believed in, which INC_EPOCH has made stale. A LOOKUP that comes before the
    /// kernel has moved it must not make it fresh again.
    fn defer_moved(&mut self, names: Vec<(Ino, Name)>) {
        for (directory, name) in names {
            self.kernel.defer(directory, &name);
        }
    }

    /// INC_EPOCH is due that acknowledgements wait for.
    pub(super) fn send_late_epoch(&mut self, now: Instant) {
        let entries = self.kernel.take_epoch(now);
        self.issue_gathered(Gathering { all_names: true, entries: entries.clone(), ..Gathering::default() });
        for entry in entries {
            self.kernel.release(entry);
        }
    }

    /// The entry is acknowledged behind the next INC_EPOCH, if this kernel has it.
    fn wait_for_epoch(&mut self, entry: LogIndex) {
        if !self.config.kernel.inc_epoch {
            return;
        }
        if let Some(due) = self.kernel.wait_for_epoch(self.now, entry, self.config.timing.heartbeat) {
            self.timers.set(Timer::Epoch, due);
        }
    }

    /// Whether the kernel can be told of all names now; it will be.
    fn may_send_epoch(&mut self, now: Instant) -> bool {
        self.config.kernel.inc_epoch && self.kernel.send_epoch(now, self.config.timing.heartbeat)
    }
}
