//! What the kernel is being told to forget, what must not be cached meanwhile, and which entries may be acknowledged.
//!
//! Order (docs/protocol.md R3-apply-first): an entry is applied, its ticket is issued, the kernel carries it out, the
//! entry is acknowledged. From issue to completion the names and inodes of a ticket are *uncacheable*: replies about
//! them carry TTL 0. A ticket may hang on a kernel's lock or page of a request that itself waits for the cluster. Such
//! a ticket is *excused*: its entries wait for another ticket instead, or for none. Its names and inodes stay uncacheable
//! until the kernel is done.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    mount::Notification,
    types::{Ino, LogIndex, Name},
};

/// Ranges of a file, begin and end each; `u64::MAX` is the end of one without end.
pub(crate) type Ranges = Vec<(u64, u64)>;

#[derive(Debug)]
struct Ticket {
    notifications: Vec<Notification>,
    /// Entries whose acknowledgement waits for this ticket.
    entries: Vec<LogIndex>,
}

/// The tickets that the kernel has not finished.
#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    last_ticket: u64,
    tickets: BTreeMap<u64, Ticket>,
    /// Entries that are applied and not acknowledged, and how many things each waits for.
    duties: BTreeMap<LogIndex, u32>,
    /// Entries with nothing left to wait for.
    done: Vec<LogIndex>,
    names: BTreeMap<(Ino, Name), u32>,
    inodes: BTreeMap<Ino, u32>,
}

impl Invalidations {
    /// The entry is applied and is now to be acknowledged, once all that `require` adds is released.
    pub(crate) fn require(&mut self, entry: LogIndex) {
        *self.duties.entry(entry).or_insert(0) += 1;
    }

    /// One of the things is done.
    pub(crate) fn release(&mut self, entry: LogIndex) {
        if let Some(count) = self.duties.get_mut(&entry) {
            *count -= 1;
            if *count == 0 {
                self.duties.remove(&entry);
                self.done.push(entry);
            }
        }
    }

    /// A ticket for these notifications; `entries` wait for it. Its names and inodes are uncacheable until it is done.
    pub(crate) fn issue(&mut self, notifications: Vec<Notification>, entries: Vec<LogIndex>) -> u64 {
        self.last_ticket += 1;
        for notification in &notifications {
            match notification {
                Notification::Name { parent, name } => self.forbid_name(*parent, name),
                Notification::Attributes { ino } | Notification::Pages { ino, .. } | Notification::Size { ino, .. } => {
                    self.forbid_inode(*ino);
                }
                Notification::AllNames => {}
            }
        }
        for entry in &entries {
            self.require(*entry);
        }
        self.tickets.insert(self.last_ticket, Ticket { notifications, entries });
        self.last_ticket
    }

    /// The entry waits for all that the kernel is being told of the inode. Not if there is a ticket that no entry waits for,
    /// which may hang: says whether it does.
    pub(crate) fn join(&mut self, ino: Ino, entry: LogIndex) -> bool {
        let concerns = |n: &Notification| matches!(n, Notification::Attributes { ino: of } | Notification::Pages { ino: of, .. } if *of == ino);
        let is_concerned = |ticket: &Ticket| ticket.notifications.iter().any(concerns);
        if self.tickets.values().any(|ticket| ticket.entries.is_empty() && is_concerned(ticket)) {
            return false;
        }
        let mut has_joined = false;
        for ticket in self.tickets.values_mut().filter(|ticket| is_concerned(ticket)) {
            has_joined = true;
            if !ticket.entries.contains(&entry) {
                ticket.entries.push(entry);
                *self.duties.entry(entry).or_insert(0) += 1;
            }
        }
        has_joined
    }

    /// The kernel has carried the ticket out; of which inodes it was told.
    pub(crate) fn notified(&mut self, ticket: u64) -> Vec<Ino> {
        let Some(ticket) = self.tickets.remove(&ticket) else { return Vec::new() };
        let mut inodes = Vec::new();
        for notification in &ticket.notifications {
            match notification {
                Notification::Name { parent, name } => self.allow_name(*parent, name),
                Notification::Attributes { ino } | Notification::Pages { ino, .. } | Notification::Size { ino, .. } => {
                    lower(&mut self.inodes, ino);
                    inodes.push(*ino);
                }
                Notification::AllNames => {}
            }
        }
        for entry in ticket.entries {
            self.release(entry);
        }
        inodes
    }

    /// Takes the entries off the tickets that concern `is_concerned`, and returns them with the tickets' notifications,
    /// so that what does not hang can be issued again. The caller releases each returned entry when it is provided for.
    pub(crate) fn excuse(
        &mut self,
        is_concerned: impl Fn(&Notification) -> bool,
    ) -> Vec<(Vec<LogIndex>, Vec<Notification>)> {
        self.tickets
            .values_mut()
            .filter(|ticket| !ticket.entries.is_empty() && ticket.notifications.iter().any(&is_concerned))
            .map(|ticket| (std::mem::take(&mut ticket.entries), ticket.notifications.clone()))
            .collect()
    }

    /// True while some unfinished ticket has a notification of this kind.
    pub(crate) fn any(&self, is_concerned: impl Fn(&Notification) -> bool) -> bool {
        self.tickets.values().any(|ticket| ticket.notifications.iter().any(&is_concerned))
    }

    /// Those that the kernel has not finished.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = u64> + '_ {
        self.tickets.keys().copied()
    }

    pub(crate) fn is_running(&self, ticket: u64) -> bool {
        self.tickets.contains_key(&ticket)
    }

    /// Replies about the name are not to be cached.
    pub(crate) fn forbid_name(&mut self, parent: Ino, name: &Name) {
        *self.names.entry((parent, name.clone())).or_insert(0) += 1;
    }

    pub(crate) fn allow_name(&mut self, parent: Ino, name: &Name) {
        lower(&mut self.names, &(parent, name.clone()));
    }

    pub(crate) fn is_name_uncacheable(&self, parent: Ino, name: &Name) -> bool {
        !self.names.is_empty() && self.names.contains_key(&(parent, name.clone()))
    }

    pub(crate) fn forbid_inode(&mut self, ino: Ino) {
        *self.inodes.entry(ino).or_insert(0) += 1;
    }

    pub(crate) fn allow_inode(&mut self, ino: Ino) {
        lower(&mut self.inodes, &ino);
    }

    pub(crate) fn is_inode_uncacheable(&self, ino: Ino) -> bool {
        self.inodes.contains_key(&ino)
    }

    /// Entries that may be acknowledged now.
    pub(crate) fn take_done(&mut self) -> Vec<LogIndex> {
        std::mem::take(&mut self.done)
    }

    /// The entry is applied but its acknowledgement still waits for something.
    pub(crate) fn is_awaited(&self, entry: LogIndex) -> bool {
        self.duties.contains_key(&entry)
    }

    /// The first entry that is applied and not acknowledged.
    pub(crate) fn first_awaited(&self) -> Option<LogIndex> {
        self.duties.first_key_value().map(|(entry, _)| *entry)
    }

    pub(crate) fn running(&self) -> usize {
        self.tickets.len()
    }
}

fn lower<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What a batch of entries makes the kernel forget, gathered so that each thing is told once, in the order of
/// R2-telling: names, then their directories, then other inodes. Pages go in tickets of their own (R8-locked-pages).
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    pub(crate) all_names: bool,
    pub(crate) names: BTreeSet<(Ino, Name)>,
    /// Directories whose listing changed.
    pub(crate) directories: BTreeSet<Ino>,
    pub(crate) inodes: BTreeSet<Ino>,
    pub(crate) pages: BTreeMap<Ino, Ranges>,
    /// The entries that wait for names and attributes, and for the pages of each inode.
    pub(crate) entries: Vec<LogIndex>,
    pub(crate) page_entries: BTreeMap<Ino, Vec<LogIndex>>,
    /// Files that grew, of which the kernel is told nothing else, and the entries that wait for that.
    pub(crate) sizes: BTreeMap<Ino, Vec<LogIndex>>,
    /// Renames that are answered only when the ticket is done (R23-renames).
    pub(crate) renames: Vec<u64>,
}

impl Gathering {
    /// All pages of the file, because of this entry.
    pub(crate) fn all_pages(&mut self, ino: Ino, index: LogIndex) {
        self.pages.entry(ino).or_default().push((0, u64::MAX));
        self.page_entries.entry(ino).or_default().push(index);
    }

    /// Names, directories and attributes, in order.
    pub(crate) fn notifications(&self) -> Vec<Notification> {
        let all = self.all_names.then_some(Notification::AllNames);
        // Every cached name asks again: one by one would only wait for locks.
        let names = self.names.iter().filter(|_| !self.all_names);
        let names = names.map(|(parent, name)| Notification::Name { parent: *parent, name: name.clone() });
        let directories = self.directories.iter().map(|ino| Notification::Pages { ino: *ino, offset: 0, length: 0 });
        let inodes = self.inodes.difference(&self.directories).map(|ino| Notification::Attributes { ino: *ino });
        all.into_iter().chain(names).chain(directories).chain(inodes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn name_of(parent: u64, text: &str) -> Notification {
        Notification::Name { parent: Ino(parent), name: name(text) }
    }

    #[test]
    fn an_entry_is_done_when_everything_it_waits_for_is() {
        let mut invalidations = Invalidations::default();
        let entry = LogIndex(4);
        invalidations.require(entry);
        let names = invalidations.issue(vec![name_of(1, "a")], vec![entry]);
        let pages = invalidations.issue(vec![Notification::Pages { ino: Ino(2), offset: 0, length: 0 }], vec![entry]);
        invalidations.release(entry);
        invalidations.notified(names);
        assert!(invalidations.is_awaited(entry) && invalidations.take_done().is_empty());
        invalidations.notified(pages);
        assert_eq!(invalidations.take_done(), [entry]);
        invalidations.notified(pages);
        assert!(invalidations.take_done().is_empty(), "a ticket is done once");
    }

    #[test]
    fn what_is_uncacheable_stays_so_until_the_last_ticket_that_names_the_thing_is_done() {
        let mut invalidations = Invalidations::default();
        let first = invalidations.issue(vec![name_of(1, "a")], vec![]);
        let second = invalidations.issue(vec![name_of(1, "a"), Notification::Attributes { ino: Ino(7) }], vec![]);
        invalidations.notified(first);
        assert!(invalidations.is_name_uncacheable(Ino(1), &name("a")) && invalidations.is_inode_uncacheable(Ino(7)));
        invalidations.notified(second);
        assert!(!invalidations.is_name_uncacheable(Ino(1), &name("a")) && !invalidations.is_inode_uncacheable(Ino(7)));
    }

    #[test]
    fn an_excused_ticket_keeps_what_is_uncacheable_and_gives_back_its_entries() {
        let mut invalidations = Invalidations::default();
        let ticket = invalidations.issue(vec![name_of(1, "a")], vec![LogIndex(4)]);
        let in_directory = |n: &Notification| matches!(n, Notification::Name { parent, .. } if *parent == Ino(1));
        let excused = invalidations.excuse(in_directory);
        assert_eq!(excused, [(vec![LogIndex(4)], vec![name_of(1, "a")])]);
        assert!(invalidations.excuse(in_directory).is_empty(), "nothing waits for it any more");
        invalidations.release(LogIndex(4));
        assert_eq!(invalidations.take_done(), [LogIndex(4)]);
        assert!(invalidations.is_name_uncacheable(Ino(1), &name("a")));
        invalidations.notified(ticket);
        assert!(!invalidations.is_name_uncacheable(Ino(1), &name("a")));
        assert!(invalidations.take_done().is_empty());
    }

    #[test]
    fn names_come_first_then_their_directories_then_other_inodes() {
        let gathering = Gathering {
            names: BTreeSet::from([(Ino(3), name("x"))]),
            directories: BTreeSet::from([Ino(3)]),
            inodes: BTreeSet::from([Ino(1), Ino(3)]),
            ..Gathering::default()
        };
        let pages = Notification::Pages { ino: Ino(3), offset: 0, length: 0 };
        assert_eq!(gathering.notifications(), [name_of(3, "x"), pages, Notification::Attributes { ino: Ino(1) }]);
    }
}
