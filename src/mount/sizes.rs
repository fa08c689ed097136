//! Sizes that the kernel does not ask for. A mapping, sendfile(2), splice(2), a lock that is set from the end and
//! pwritev2(RWF_APPEND) go by the size that the kernel believes in. So the kernel is told that a file has grown
//! elsewhere, if the file is open here, before the change is acknowledged (docs/protocol.md R29-sizes).
//!
//! It is told by a FUSE_NOTIFY_STORE up to the new end (`fuse_notify_store`, fs/fuse/dev.c) of which it gets no byte.
//! So nothing has to be fetched, and no page has to be free but the first, which is one that no request has locked. If
//! the kernel believes in too large a size, that does no harm: a READ that is answered short corrects it.
//!
//! A STORE makes the kernel drop an answer that is on its way (`fuse_change_attributes_i`, fs/fuse/inode.c). It then
//! goes by what it believed before, also by the old mode. So while its mode may be an old one, it is not told the size
//! by itself: it asks before it lets the next process in, and then hears of it.
//!
//! The size of an answer that the kernel will drop, because it was told to forget the file after it asked, is told in
//! the same way. Otherwise it would go on believing in the size of before, and a read would end there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mount, Notification, Output, Response, apply::part, invalidation::Gathering, lookups::TAKEN_OVER};
use crate::{
    limits,
    types::{Errno, FileKind, Ino, Instant, LogIndex},
};

const PAGE_BYTES: u64 = 4096;

type Answer = Result<Response, Errno>;

/// Requests for attributes, from their arrival to their answer.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// For each request: the file, whether the kernel may have been told to forget it since the request was sent, and
    /// how often it was told of it before.
    asked: BTreeMap<u64, (Ino, bool, u64)>,
    /// The request that is looked at.
    looked_at: u64,
    /// The holder may have told the kernel to forget every file since requests were sent that arrive before this.
    all_forgotten_until: Instant,
    /// Files to which this mount's own answers give a new version as well, and until when those may be on their way.
    overtaken_until: BTreeMap<Ino, Instant>,
    /// Answers that wait until the kernel knows the size: by ticket.
    telling: BTreeMap<u64, Vec<(u64, Answer)>>,
    /// The size of which content the kernel was told, and the ticket. Told again, it would only drop more answers.
    told: BTreeMap<Ino, (Content, u64)>,
    /// How long the files are that are open here, in the replica.
    open: BTreeMap<Ino, u64>,
    /// Those of them that grew, and whose kernel was not told yet.
    untold: BTreeSet<Ino>,
}

/// A file's size and `data_version`.
type Content = (u64, u64);

impl Sizes {
    pub(crate) fn asked(&mut self, now: Instant, unique: u64, ino: Ino, is_being_forgotten: bool, answers: u64) {
        if self.asked.is_empty() && self.telling.is_empty() && now >= self.all_forgotten_until {
            self.told.clear();
        }
        self.asked.insert(unique, (ino, is_being_forgotten || now < self.all_forgotten_until, answers));
    }

    pub(crate) const fn look_at(&mut self, unique: u64) {
        self.looked_at = unique;
    }

    /// Whether the kernel was given another answer since the one that is looked at was asked for, which it drops then.
    pub(crate) fn is_behind_another(&self, answers: u64) -> bool {
        self.asked.get(&self.looked_at).is_some_and(|(_, _, before)| *before < answers)
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
        for (asked, is_late, _) in self.asked.values_mut() {
            *is_late |= *asked == ino;
        }
    }

    /// The lease is over: this mount's holder may have told the kernel to forget all that it watches.
    pub(crate) fn all_forgotten(&mut self, now: Instant) {
        self.asked.values_mut().for_each(|(_, is_late, _)| *is_late = true);
        self.all_forgotten_until = now.after(TAKEN_OVER);
    }

    /// The file is open here, and so long.
    pub(crate) fn opened(&mut self, ino: Ino, size: u64) {
        self.open.entry(ino).or_insert(size);
    }

    /// It is not open any more.
    pub(crate) fn closed(&mut self, ino: Ino) {
        self.open.remove(&ino);
        self.untold.remove(&ino);
    }

    /// The file's content changed, and it is so long now.
    pub(crate) fn changed(&mut self, ino: Ino, size: u64, is_elsewhere: bool) {
        let Some(before) = self.open.get_mut(&ino) else { return };
        if is_elsewhere && size > *before {
            self.untold.insert(ino);
        }
        *before = size;
    }

    /// The kernel may believe the file shorter than it is.
    pub(crate) fn is_untold(&mut self, ino: Ino) {
        if self.open.contains_key(&ino) {
            self.untold.insert(ino);
        }
    }

    /// The size in an answer that the kernel would drop.
    fn dropped(&mut self, unique: u64, answer: &Answer) -> Option<(Ino, u64)> {
        let (ino, is_late, _) = self.asked.remove(&unique)?;
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
        let Some((ino, size)) = self.sizes.dropped(unique, &answer) else {
            return self.outputs.push_back(Output::Answer { unique, result: answer });
        };
        let content = (size, self.volume().inode(ino).map_or(0, |inode| inode.data_version));
        if let Some((_, ticket)) = self.sizes.told.get(&ino).filter(|(told, _)| *told == content) {
            return match self.sizes.telling.get_mut(ticket) {
                Some(answers) => answers.push((unique, answer)),
                None => self.outputs.push_back(Output::Answer { unique, result: answer }),
            };
        }
        let size = self.size_of(ino, size).unwrap_or_else(|size| size);
        let ticket = self.issue_behind_pages(ino, size);
        self.respond_behind(ticket, unique, answer);
        self.sizes.told.insert(ino, (content, ticket));
    }

    /// The kernel is answered when it has carried the ticket out.
    pub(super) fn respond_behind(&mut self, ticket: u64, unique: u64, answer: Answer) {
        self.sizes.telling.entry(ticket).or_default().push((unique, answer));
    }

    /// Pages of before would show zeros up to the new end.
    pub(super) fn issue_behind_pages(&mut self, ino: Ino, size: Notification) -> u64 {
        let (free, _) = part(&[(0, u64::MAX)], &self.waiting.locked_pages(ino));
        let pages = free.into_iter().map(|range| Notification::of_pages(ino, range));
        self.issue(pages.chain([size]).collect(), Vec::new())
    }

    /// The kernel has carried the ticket out.
    pub(super) fn told_size(&mut self, ticket: u64) {
        for (unique, result) in self.sizes.telling.remove(&ticket).into_iter().flatten() {
            self.outputs.push_back(Output::Answer { unique, result });
        }
    }

    /// The file grew elsewhere, and the kernel is told nothing else of it. It is told the size, unless it could then go
    /// by the mode of before.
    pub(super) fn gather_size(&mut self, ino: Ino, index: LogIndex, gathering: &mut Gathering) {
        if !self.sizes.untold.contains(&ino) || !self.is_access_believed(ino, 0) {
            return;
        }
        // Pages that are just being dropped would show zeros up to it.
        if self.invalidations.is_inode_fenced(ino) {
            gathering.pages.entry(ino).or_default().push((0, u64::MAX));
            gathering.page_entries.entry(ino).or_default().push(index);
        } else {
            gathering.sizes.entry(ino).or_default().push(index);
        }
    }

    /// Tells the kernel of sizes and of nothing else.
    pub(super) fn issue_sizes(&mut self, sizes: BTreeMap<Ino, Vec<LogIndex>>) {
        for (ino, entries) in sizes {
            match self.take_growth(ino) {
                Some(Ok(size)) => self.issue(vec![size], entries),
                Some(Err(size)) => self.issue(vec![size], Vec::new()),
                None => continue,
            };
        }
    }

    /// What tells the kernel how much the file has grown, if it was not told yet; `Err`: it may wait for a page.
    pub(super) fn take_growth(&mut self, ino: Ino) -> Option<Result<Notification, Notification>> {
        let size = self.size(ino);
        (self.sizes.untold.remove(&ino) && size > 0).then(|| self.size_of(ino, size))
    }

    pub(super) fn is_access_believed(&mut self, ino: Ino, thread: u32) -> bool {
        let attributes = self.attributes(ino);
        attributes.is_some_and(|attributes| self.lookups.is_access_believed(&attributes, self.now, thread))
    }

    /// Open files of which the kernel is not told how much they have grown until it asks.
    pub(crate) fn sizes_untold(&self) -> impl Iterator<Item = Ino> + '_ {
        self.sizes.untold.iter().copied()
    }

    /// Told by way of the last page that no request has locked; `Err`: all of them are, within reach.
    pub(super) fn size_of(&self, ino: Ino, size: u64) -> Result<Notification, Notification> {
        let last = (size - 1) / PAGE_BYTES * PAGE_BYTES;
        let mut from = Some(last);
        for (begin, end) in self.waiting.locked_pages(ino).into_iter().rev() {
            from = from.and_then(|from| {
                let is_locked = begin < from + PAGE_BYTES && from < end;
                if is_locked { begin.checked_sub(PAGE_BYTES) } else { Some(from) }
            });
        }
        match from.filter(|from| size - from <= limits::SIZE_REACH_BYTES as u64) {
            Some(from) => Ok(Notification::Size { ino, from, size }),
            None => Err(Notification::Size { ino, from: last, size }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_files_that_grew_elsewhere_have_grown() {
        let (mut sizes, ino) = (Sizes::default(), Ino(3));
        sizes.changed(ino, 10, true);
        assert!(sizes.untold.is_empty(), "it is not open");
        sizes.opened(ino, 10);
        for (size, is_elsewhere) in [(20, false), (15, true), (15, true), (18, false)] {
            sizes.changed(ino, size, is_elsewhere);
            assert!(sizes.untold.is_empty(), "{size}");
        }
        sizes.changed(ino, 19, true);
        assert!(sizes.untold.contains(&ino));
        sizes.closed(ino);
        assert!(sizes.untold.is_empty() && sizes.open.is_empty());
    }
}
