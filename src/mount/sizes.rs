//! Sizes that the kernel does not take over. It asks for a file's attributes before it reads, and drops the answer if it
//! was told to forget the file after it asked (`fuse_change_attributes_i`, fs/fuse/inode.c): then it goes on believing in
//! the size of before, and the read ends there. Where what it believes may be older than what has completed, because this
//! mount was out of step, the read would be stale. So the kernel is given the file's last byte first
//! (FUSE_NOTIFY_STORE, `fuse_notify_store` in fs/fuse/dev.c), which makes it believe in no less than the size. That it
//! believes in too much does no harm: a READ that is answered short corrects it.

use std::collections::BTreeMap;

use super::{Caller, Mount, Notification, Output, Response, lookups::TAKEN_OVER};
use crate::types::{Errno, FileKind, Ino, Instant};

/// Numbers of this mount's own READs; the kernel counts its requests up from 1 (`fuse_get_unique`).
pub(super) const OWN_READS: u64 = 1 << 63;

type Answer = Result<Response, Errno>;

/// Requests for attributes, from their arrival to their answer.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// The file, and whether the kernel was told to forget it since the request may have been sent.
    asked: BTreeMap<u64, (Ino, bool)>,
    /// The holder may have told the kernel to forget every file since requests were sent that arrive before this.
    all_forgotten_until: Instant,
    /// Files to which this mount's own answers give a new version as well, and until when those may be on their way.
    overtaken_until: BTreeMap<Ino, Instant>,
    /// Answers that wait for their file's last byte: by this mount's own READ for it.
    reading: BTreeMap<u64, (u64, Ino, u64, Answer)>,
    /// Answers that wait until the kernel has the byte: by ticket.
    storing: BTreeMap<u64, Vec<(u64, Answer)>>,
    /// The last byte of which content the kernel was given, and the ticket. Told again, it would only drop more answers.
    stored: BTreeMap<Ino, (Content, u64)>,
}

/// A file's size and `data_version`.
type Content = (u64, u64);

impl Sizes {
    pub(crate) fn asked(&mut self, now: Instant, unique: u64, ino: Ino, is_being_forgotten: bool) {
        if self.asked.is_empty() && self.storing.is_empty() && now >= self.all_forgotten_until {
            self.stored.clear();
        }
        self.asked.insert(unique, (ino, is_being_forgotten || now < self.all_forgotten_until));
    }

    /// Whether an own answer that is on its way may overtake those that are asked for now.
    pub(crate) fn is_overtaken(&self, now: Instant, ino: Ino) -> bool {
        self.overtaken_until.get(&ino).is_some_and(|until| now < *until)
    }

    /// The kernel is given an answer that makes it drop attributes of the file which it asked for before.
    pub(crate) fn overtaken(&mut self, now: Instant, ino: Ino) {
        self.forgotten(ino);
        self.overtaken_until.retain(|_, until| now < *until);
        self.overtaken_until.insert(ino, now.after(TAKEN_OVER));
    }

    /// The kernel is being told to forget the file.
    pub(crate) fn forgotten(&mut self, ino: Ino) {
        for (asked, is_late) in self.asked.values_mut() {
            *is_late |= *asked == ino;
        }
    }

    /// The lease is over: this mount's holder may have told the kernel to forget all that it watches.
    pub(crate) fn all_forgotten(&mut self, now: Instant) {
        self.asked.values_mut().for_each(|(_, is_late)| *is_late = true);
        self.all_forgotten_until = now.after(TAKEN_OVER);
    }

    /// The size in an answer that the kernel would drop.
    fn dropped(&mut self, unique: u64, answer: &Answer) -> Option<(Ino, u64)> {
        let (ino, is_late) = self.asked.remove(&unique)?;
        match answer {
            Ok(Response::Attributes { attributes, .. }) if is_late && attributes.kind == FileKind::File => {
                Some((ino, attributes.size)).filter(|(_, size)| *size > 0)
            }
            _ => None,
        }
    }
}

impl Mount {
    /// An answer to a request that did not wait, or waits no longer.
    pub(super) fn respond(&mut self, unique: u64, answer: Answer) {
        if let Some((waiting, ino, size, attributes)) = self.sizes.reading.remove(&unique) {
            return self.store_last_byte(waiting, ino, size, attributes, answer);
        }
        let Some((ino, size)) = self.sizes.dropped(unique, &answer) else {
            return self.outputs.push_back(Output::Answer { unique, result: answer });
        };
        let Some(answer) = self.wait_for_last_byte(unique, ino, size, answer) else { return };
        let read = OWN_READS | unique;
        self.sizes.reading.insert(read, (unique, ino, size, answer));
        self.read(self.now, read, Caller::default(), (ino, size - 1, 1));
    }

    fn store_last_byte(&mut self, unique: u64, ino: Ino, size: u64, attributes: Answer, read: Answer) {
        let byte = match read {
            Ok(Response::Data(parts)) => parts.concat(),
            _ => Vec::new(),
        };
        if byte.is_empty() {
            // It was cut meanwhile, or cannot be read.
            return self.outputs.push_back(Output::Answer { unique, result: attributes });
        }
        let Some(attributes) = self.wait_for_last_byte(unique, ino, size, attributes) else { return };
        // Pages of before would show zeros up to it.
        let pages = Notification::Pages { ino, offset: 0, length: 0 };
        let last_byte = Notification::LastByte { ino, offset: size - 1, byte: byte[0] };
        let ticket = self.issue(vec![pages, last_byte], Vec::new());
        self.sizes.storing.insert(ticket, vec![(unique, attributes)]);
        self.sizes.stored.insert(ino, ((size, self.data_version(ino)), ticket));
    }

    /// Gives the answer back where the kernel was not given the byte yet.
    fn wait_for_last_byte(&mut self, unique: u64, ino: Ino, size: u64, answer: Answer) -> Option<Answer> {
        let content = (size, self.data_version(ino));
        let Some((_, ticket)) = self.sizes.stored.get(&ino).filter(|(stored, _)| *stored == content) else {
            return Some(answer);
        };
        match self.sizes.storing.get_mut(ticket) {
            Some(answers) => answers.push((unique, answer)),
            None => self.outputs.push_back(Output::Answer { unique, result: answer }),
        }
        None
    }

    fn data_version(&self, ino: Ino) -> u64 {
        self.volume().inode(ino).map_or(0, |inode| inode.data_version)
    }

    pub(super) fn stored_last_byte(&mut self, ticket: u64) {
        for (unique, result) in self.sizes.storing.remove(&ticket).into_iter().flatten() {
            self.outputs.push_back(Output::Answer { unique, result });
        }
    }
}
