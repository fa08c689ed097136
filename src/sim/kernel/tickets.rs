//! Notifications, as the kernel carries them out: those of one ticket in order, tickets beside each other.

use std::collections::VecDeque;

use super::{Context, Hold, Kernel, Owner, PAGE};
use crate::{
    mount::{Notification, Request, WriteFlags},
    types::Ino,
};

#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) notifications: VecDeque<Notification>,
    /// The first of them hangs: what it does before has been done.
    hangs: bool,
}

impl Kernel {
    /// Begins to carry out a ticket's notifications.
    pub(in crate::sim) fn notify(&mut self, ticket: u64, notifications: Vec<Notification>) {
        self.tickets.insert(ticket, Ticket { notifications: notifications.into(), hangs: false });
        self.stirred = true;
    }

    /// Goes on with the notifications that wait for nothing; says which tickets are done.
    pub(in crate::sim) fn run_tickets(&mut self) -> Vec<u64> {
        let mut done = Vec::new();
        for ticket in self.tickets.keys().copied().collect::<Vec<_>>() {
            while let Some((next, hangs)) =
                self.tickets.get(&ticket).and_then(|t| Some((t.notifications.front()?.clone(), t.hangs)))
            {
                let hangs = !self.carry_out(ticket, &next, hangs);
                let Some(running) = self.tickets.get_mut(&ticket) else { break };
                running.hangs = hangs;
                if hangs {
                    break;
                }
                running.notifications.pop_front();
            }
            if self.tickets.get(&ticket).is_some_and(|running| running.notifications.is_empty()) {
                self.tickets.remove(&ticket);
                done.push(ticket);
            }
        }
        done
    }

    /// False where it has to wait, and is to be called again.
    fn carry_out(&mut self, ticket: u64, notification: &Notification, has_hung: bool) -> bool {
        match notification {
            Notification::Name { parent, name } => {
                let owner = Owner::Ticket(ticket);
                if !self.inodes.contains_key(parent) && *parent != Ino::ROOT {
                    return true;
                }
                let known = self.dentries.get(&(*parent, name.clone())).and_then(|dentry| dentry.ino);
                if self.inval_entry_fails && known.is_none() {
                    // It may have waited for the lock when somebody still bore the name.
                    self.unlock(owner, *parent);
                    return true;
                }
                if !self.lock(owner, *parent, Hold::Exclusive) {
                    return false;
                }
                // A name that is not cached: nothing else happens (docs/protocol.md R2-telling). What bears the name
                // keeps its attributes (fuse_reverse_inval_entry).
                if self.dentries.remove(&(*parent, name.clone())).is_some() {
                    self.directory_changed(*parent);
                }
                self.unlock(owner, *parent);
                true
            }
            Notification::Attributes { ino } => {
                self.forget_attributes(*ino);
                true
            }
            Notification::Pages { ino, offset, length } => {
                if !has_hung {
                    self.forget_attributes(*ino);
                }
                let first = offset / PAGE;
                let last = if *length == 0 { u64::MAX } else { (offset + length - 1) / PAGE };
                if self.are_locked(*ino, first, last) {
                    return false;
                }
                if first == 0
                    && let Some((fh, data)) = self.begin_write_back(*ino)
                {
                    let flags = WriteFlags { write_back: true, ..WriteFlags::default() };
                    let request = Request::Write { ino: *ino, fh, offset: 0, data, flags };
                    self.send(0, request, Context::Launder { ino: *ino });
                    return false;
                }
                if let Some(inode) = self.inodes.get_mut(ino) {
                    inode.pages.retain(|page, _| *page < first || *page > last);
                    inode.listing = None;
                    inode.listing_drops += 1;
                }
                true
            }
            Notification::AllNames => {
                self.epoch += 1;
                true
            }
            // fuse_notify_store: the size first, then the first page, of which nothing is copied.
            Notification::Size { ino, from, size } => {
                let page = from / PAGE;
                let Some(attributes) = self.inodes.get_mut(ino).map(|inode| &mut inode.attributes) else { return true };
                if let Some(attributes) = attributes.as_mut().filter(|attributes| attributes.size < *size) {
                    attributes.size = *size;
                    self.forget_attributes(*ino);
                }
                !self.are_locked(*ino, page, page)
            }
        }
    }
}
