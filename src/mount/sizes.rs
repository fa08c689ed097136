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

use std::collections::BTreeMap;

use super::{
    Mount, Notification, Output,
    apply::part,
    kernel::{Answer, Gathering},
};
use crate::{
    limits,
    types::{Ino, LogIndex},
};

const PAGE_BYTES: u64 = 4096;

impl Mount {
    /// An answer to a request that did not wait, or waits no longer.
    pub(super) fn respond(&mut self, unique: u64, answer: Answer) {
        let Some((ino, size)) = self.kernel.size_dropped(unique, &answer) else {
            return self.outputs.push_back(Output::Answer { unique, result: answer });
        };
        let content = (size, self.volume().inode(ino).map_or(0, |inode| inode.data_version));
        if let Some(ticket) = self.kernel.content_told_by(ino, content) {
            if self.kernel.has_answers_behind(ticket) {
                self.kernel.answer_behind(ticket, unique, answer);
            } else {
                self.outputs.push_back(Output::Answer { unique, result: answer });
            }
            return;
        }
        let size = self.size_of(ino, size).unwrap_or_else(|size| size);
        let ticket = self.issue_behind_pages(ino, size);
        self.kernel.answer_behind(ticket, unique, answer);
        self.kernel.tells_content(ino, content, ticket);
    }

    /// Pages of before would show zeros up to the new end.
    pub(super) fn issue_behind_pages(&mut self, ino: Ino, size: Notification) -> u64 {
        let (free, _) = part(&[(0, u64::MAX)], &self.requests.locked_pages(ino));
        let pages = free.into_iter().map(|range| Notification::of_pages(ino, range));
        self.issue(pages.chain([size]).collect(), Vec::new())
    }

    /// The file grew elsewhere, and the kernel is told nothing else of it. It is told the size, unless it could then go
    /// by the mode of before.
    pub(super) fn gather_size(&mut self, ino: Ino, index: LogIndex, gathering: &mut Gathering) {
        if !self.kernel.has_grown(ino) || !self.is_access_believed(ino, 0) {
            return;
        }
        // Pages that are just being dropped would show zeros up to it.
        if self.kernel.is_inode_uncacheable(ino) {
            gathering.all_pages(ino, index);
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
        (self.kernel.take_growth(ino) && size > 0).then(|| self.size_of(ino, size))
    }

    pub(super) fn is_access_believed(&mut self, ino: Ino, thread: u32) -> bool {
        let attributes = self.attributes(ino);
        attributes.is_some_and(|attributes| self.kernel.is_access_believed(&attributes, self.now, thread))
    }

    /// Open files of which the kernel is not told how much they have grown until it asks.
    pub(crate) fn sizes_untold(&self) -> impl Iterator<Item = Ino> + '_ {
        self.kernel.sizes_untold()
    }

    /// Told by way of the last page that no request has locked; `Err`: all of them are, within reach.
    pub(super) fn size_of(&self, ino: Ino, size: u64) -> Result<Notification, Notification> {
        let last = (size - 1) / PAGE_BYTES * PAGE_BYTES;
        let mut from = Some(last);
        for (begin, end) in self.requests.locked_pages(ino).into_iter().rev() {
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
