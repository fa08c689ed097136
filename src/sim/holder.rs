//! A model of the holder beside a worker (`src/holder/watchdog.rs`; docs/protocol.md R7-forgetting): a deadline and a
//! list in memory that it shares with the worker, and what it tells the kernel when the deadline is met, whether the
//! worker runs or not.

use std::collections::BTreeMap;

use crate::{
    mount::Notification,
    types::{Ino, Instant},
};

#[derive(Debug, Default)]
pub(super) struct Holder {
    /// By place: the inode, and whether it is an open file.
    watched: BTreeMap<u32, (Ino, bool)>,
    deadline: Option<Instant>,
    /// The deadline that was met last: each is met once.
    met: Option<Instant>,
}

impl Holder {
    pub(super) fn watch(&mut self, slot: u32, inode: Option<(Ino, bool)>) {
        match inode {
            Some(inode) => drop(self.watched.insert(slot, inode)),
            None => drop(self.watched.remove(&slot)),
        }
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// What the kernel is told now, if the deadline is met: each of these in a thread of its own.
    pub(super) fn act(&mut self, now: Instant, inc_epoch: bool) -> Vec<Vec<Notification>> {
        if self.deadline.is_none_or(|deadline| now < deadline) || self.deadline == self.met {
            return Vec::new();
        }
        self.met = self.deadline;
        let names = inc_epoch.then_some(Notification::AllNames);
        let attributes = self.watched.values().map(|(ino, _)| Notification::Attributes { ino: *ino });
        let open_files = self.watched.values().filter(|(_, is_open_file)| *is_open_file);
        let pages = open_files.map(|(ino, _)| vec![Notification::Pages { ino: *ino, offset: 0, length: 0 }]);
        [names.into_iter().chain(attributes).collect()].into_iter().chain(pages).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_met_once_and_names_go_before_attributes_and_pages() {
        let mut holder = Holder::default();
        holder.watch(0, Some((Ino(1), false)));
        holder.watch(1, Some((Ino(7), true)));
        assert!(holder.act(Instant(9), true).is_empty(), "no deadline");
        holder.set_deadline(Some(Instant(10)));
        assert!(holder.act(Instant(9), true).is_empty(), "not yet");
        let [first, pages] =
            holder.act(Instant(10), true).try_into().expect("names with attributes, and one open file");
        let attributes = [1, 7].map(|ino| Notification::Attributes { ino: Ino(ino) });
        assert_eq!(first, [&[Notification::AllNames][..], &attributes].concat());
        assert_eq!(pages, [Notification::Pages { ino: Ino(7), offset: 0, length: 0 }]);
        assert!(holder.act(Instant(11), true).is_empty(), "met already");
    }
}
