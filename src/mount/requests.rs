//! Who waits for what: requests of the kernel without an answer, the calls that carry them, answers that came before their
//! entry, and requests that are set aside until a file may be looked at. When something is due is not known here.

mod pending;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::pending::{Awaited, FileRange, NewBytes, OpenFile, Pending, ReadRange, WantedLock};
use super::{Caller, Request, Response, files::JobId};
use crate::{
    namespace::Reply,
    types::{Errno, Ino, LogIndex, Sequence},
};

/// For whom a call was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Request(u64),
    Job(JobId),
}

/// The answer to a call.
pub(crate) type Outcome = (Sequence, Result<Reply, Errno>);

/// All requests without an answer, by their unique number.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Those that came before the volume.
    early: Vec<(u64, Caller, Request)>,
    pending: BTreeMap<u64, Pending>,
    /// Who holds which directory's lock.
    locks: BTreeMap<Ino, BTreeSet<u64>>,
    /// Who keeps pages of which inode locked.
    pages: BTreeMap<Ino, BTreeSet<u64>>,
    purposes: BTreeMap<Sequence, Purpose>,
    /// Answers that came before their entry.
    answers: BTreeMap<LogIndex, Vec<Outcome>>,
    /// Requests that wait until another mount has given a file back, or the kernel has forgotten pages of it.
    set_aside: BTreeMap<Ino, Vec<u64>>,
    /// Files that the leader was asked for lately.
    recalling: BTreeSet<Ino>,
}

impl Requests {
    pub(crate) fn insert(&mut self, unique: u64, pending: Pending) {
        for ino in &pending.locks {
            self.locks.entry(*ino).or_default().insert(unique);
        }
        if let Some(FileRange { ino, .. }) = pending.pages {
            self.pages.entry(ino).or_default().insert(unique);
        }
        self.pending.insert(unique, pending);
    }

    pub(crate) fn remove(&mut self, unique: u64) -> Option<Pending> {
        let pending = self.pending.remove(&unique)?;
        for ino in &pending.locks {
            drop_from(&mut self.locks, *ino, unique);
        }
        if let Some(FileRange { ino, .. }) = pending.pages {
            drop_from(&mut self.pages, ino, unique);
        }
        Some(pending)
    }

    pub(crate) fn get(&self, unique: u64) -> Option<&Pending> {
        self.pending.get(&unique)
    }

    pub(crate) fn get_mut(&mut self, unique: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&unique)
    }

    /// Nobody waits any more: all of them, and what is to be answered where that is known.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Option<Result<Response, Errno>>)> {
        (self.locks, self.pages) = Default::default();
        let all = std::mem::take(&mut self.pending).into_iter();
        all.map(|(unique, pending)| (unique, pending.verdict)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Pending)> + '_ {
        self.pending.iter().map(|(unique, pending)| (*unique, pending))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// READs that wait for blocks, in the order of their numbers.
    pub(crate) fn reads(&self) -> impl Iterator<Item = (u64, Ino)> + '_ {
        self.pending.iter().filter_map(|(unique, pending)| match pending.need {
            Awaited::Read(range) => Some((*unique, range.ino)),
            _ => None,
        })
    }

    // Before the volume is there.

    pub(crate) fn keep_early(&mut self, unique: u64, caller: Caller, request: Request) {
        self.early.push((unique, caller, request));
    }

    pub(crate) fn take_early(&mut self) -> Vec<(u64, Caller, Request)> {
        std::mem::take(&mut self.early)
    }

    /// False when it is no such request.
    pub(crate) fn remove_early(&mut self, unique: u64) -> bool {
        let at = self.early.iter().position(|(early, ..)| *early == unique);
        at.map(|at| self.early.remove(at)).is_some()
    }

    // The kernel's locks.

    /// Requests for which the kernel holds this directory's lock.
    pub(crate) fn lockers(&self, directory: Ino) -> Vec<u64> {
        self.locks.get(&directory).map(|uniques| uniques.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn is_locked(&self, directory: Ino) -> bool {
        self.locks.contains_key(&directory)
    }

    /// Ranges of the inode's pages that the kernel keeps locked, in order.
    pub(crate) fn locked_pages(&self, ino: Ino) -> Vec<(u64, u64)> {
        let uniques = self.pages.get(&ino).into_iter().flatten();
        let mut ranges: Vec<(u64, u64)> = uniques
            .filter_map(|unique| self.pending.get(unique)?.pages)
            .map(|range| (range.begin, range.end))
            .collect();
        ranges.sort_unstable();
        ranges
    }

    // Calls.

    /// The call was submitted for this; `request`: the request that it carries, if there is one.
    pub(crate) fn submitted(&mut self, call: Sequence, purpose: Purpose, request: Option<u64>) {
        self.purposes.insert(call, purpose);
        if let Some(pending) = request.and_then(|unique| self.pending.get_mut(&unique)) {
            pending.sequence = Some(call);
        }
    }

    pub(crate) fn purpose(&self, call: Sequence) -> Option<Purpose> {
        self.purposes.get(&call).copied()
    }

    /// The call is over, or given up.
    pub(crate) fn take_purpose(&mut self, call: Sequence) -> Option<Purpose> {
        self.purposes.remove(&call)
    }

    /// The answer has come before its entry.
    pub(crate) fn keep_answer(&mut self, index: LogIndex, outcome: Outcome) {
        self.answers.entry(index).or_default().push(outcome);
    }

    /// Answers to the first entry that has some and is applied.
    pub(crate) fn take_answers(&mut self, applied: LogIndex) -> Option<(LogIndex, Vec<Outcome>)> {
        self.answers.first_entry().filter(|first| *first.key() <= applied).map(|first| first.remove_entry())
    }

    /// The session is over: no answer to its calls counts.
    pub(crate) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    // What is to be said, and may not be yet.

    /// The request is answered only when the kernel has carried these tickets out.
    pub(crate) fn wait_for_tickets(&mut self, unique: u64, tickets: impl IntoIterator<Item = u64>) {
        if let Some(pending) = self.pending.get_mut(&unique) {
            pending.tickets.extend(tickets);
        }
    }

    /// Requests whose answer is known and waits for the ticket.
    pub(crate) fn held_by(&self, ticket: u64) -> Vec<u64> {
        let held = self.iter().filter(|(_, pending)| pending.verdict.is_some() && pending.tickets.contains(&ticket));
        held.map(|(unique, _)| unique).collect()
    }

    /// The request's answer, if it is known.
    pub(crate) fn take_verdict(&mut self, unique: u64) -> Option<Result<Response, Errno>> {
        self.pending.get_mut(&unique)?.verdict.take()
    }

    // Files that others have, or whose pages are going.

    /// The request waits until the file may be looked at.
    pub(crate) fn set_aside(&mut self, ino: Ino, unique: u64) {
        self.set_aside.entry(ino).or_default().push(unique);
    }

    /// Requests that were set aside for the file, in their order; none is afterwards.
    pub(crate) fn take_set_aside(&mut self, ino: Ino) -> Vec<u64> {
        self.set_aside.remove(&ino).unwrap_or_default()
    }

    pub(crate) fn has_set_aside(&self, ino: Ino) -> bool {
        self.set_aside.contains_key(&ino)
    }

    /// Files for which requests were set aside.
    pub(crate) fn files_waited_for(&self) -> impl Iterator<Item = Ino> + '_ {
        self.set_aside.keys().copied()
    }

    /// Whether the leader is to be asked for the file; it counts as asked.
    pub(crate) fn asks_for(&mut self, ino: Ino) -> bool {
        self.recalling.insert(ino)
    }

    /// The leader may be asked for it anew.
    pub(crate) fn may_ask_again(&mut self, ino: Ino) {
        self.recalling.remove(&ino);
    }
}

fn drop_from(table: &mut BTreeMap<Ino, BTreeSet<u64>>, ino: Ino, unique: u64) {
    if let Some(uniques) = table.get_mut(&ino) {
        uniques.remove(&unique);
        if uniques.is_empty() {
            table.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Instant;

    #[test]
    fn locks_stand_from_arrival_to_answer() {
        let mut requests = Requests::default();
        let pending =
            || Pending::new(Caller::default(), Instant(0), Awaited::Plain).locking(vec![Ino(1), Ino(2)], Vec::new());
        requests.insert(7, pending());
        requests.insert(8, pending());
        assert_eq!(requests.lockers(Ino(2)), [7, 8]);
        requests.remove(7);
        assert_eq!(requests.lockers(Ino(2)), [8]);
        requests.remove(8);
        assert!(!requests.is_locked(Ino(1)) && !requests.is_locked(Ino(2)) && requests.is_empty());
    }

    #[test]
    fn answers_wait_for_their_entries_in_the_order_of_these() {
        let mut requests = Requests::default();
        for index in [5, 3, 5] {
            requests.keep_answer(LogIndex(index), (Sequence(index), Ok(Reply::Done)));
        }
        assert_eq!(requests.take_answers(LogIndex(2)), None);
        let indexes: Vec<(u64, usize)> = std::iter::from_fn(|| requests.take_answers(LogIndex(5)))
            .map(|(index, outcomes)| (index.0, outcomes.len()))
            .collect();
        assert_eq!(indexes, [(3, 1), (5, 2)]);
    }
}
