//! What the kernel asks and is told of the sizes of files, and answers that wait until it knows one (docs/protocol.md
//! R29-sizes).

use std::collections::{BTreeMap, BTreeSet};

use super::lookups::TAKEN_OVER;
use crate::{
    mount::Response,
    types::{Errno, FileKind, Ino, Instant},
};

pub(crate) type Answer = Result<Response, Errno>;

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
pub(crate) type Content = (u64, u64);

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
    pub(crate) fn dropped(&mut self, unique: u64, answer: &Answer) -> Option<(Ino, u64)> {
        let (ino, is_late, _) = self.asked.remove(&unique)?;
        match answer {
            Ok(Response::Attributes { attributes, .. }) if is_late && attributes.kind == FileKind::File => {
                Some((ino, attributes.size)).filter(|(_, size)| *size > 0)
            }
            _ => None,
        }
    }

    /// The ticket by which the kernel was told of this content last, if it was.
    pub(crate) fn told_by(&self, ino: Ino, content: Content) -> Option<u64> {
        self.told.get(&ino).filter(|(told, _)| *told == content).map(|(_, ticket)| *ticket)
    }

    /// The kernel is told of this content by the ticket.
    pub(crate) fn tells(&mut self, ino: Ino, content: Content, ticket: u64) {
        self.told.insert(ino, (content, ticket));
    }

    /// The answer waits until the kernel has carried the ticket out.
    pub(crate) fn wait_for(&mut self, ticket: u64, unique: u64, answer: Answer) {
        self.telling.entry(ticket).or_default().push((unique, answer));
    }

    /// Whether answers wait for the ticket.
    pub(crate) fn is_telling(&self, ticket: u64) -> bool {
        self.telling.contains_key(&ticket)
    }

    /// The ticket is carried out: the answers that waited for it.
    pub(crate) fn notified(&mut self, ticket: u64) -> Vec<(u64, Answer)> {
        self.telling.remove(&ticket).unwrap_or_default()
    }

    /// The file has grown, and its kernel was not told.
    pub(crate) fn has_grown(&self, ino: Ino) -> bool {
        self.untold.contains(&ino)
    }

    /// The same; it is told now.
    pub(crate) fn take_growth(&mut self, ino: Ino) -> bool {
        self.untold.remove(&ino)
    }

    pub(crate) fn untold(&self) -> impl Iterator<Item = Ino> + '_ {
        self.untold.iter().copied()
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
