//! Entries of the log, as a mount takes them: applied in order, answered from at once, then turned into notifications
//! about what this kernel may have cached, and acknowledged when the kernel has carried those out (docs/protocol.md
//! R2-telling, R3-apply-first, R8-locked-pages, R25-one-by-one). Applying never waits for a notification
//! (R9-application).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Life, Mount, Notification, Output,
    kernel::{Answer, Gathering, Notified, Ranges, Telling},
    replica::{Carried, ReplicaError},
    requests::{Awaited, Purpose},
    timers::Timer,
};
use crate::{
    message::mount::ToLeader,
    namespace::{Change, Command, Operation, Reply, Volume},
    types::{Errno, FileKind, Ino, Instant, LogIndex, Name, Sequence},
};

/// Ranges of one file's pages in one ticket; more are told as one that spans them all.
const PAGE_RANGES_MAX: usize = 32;

/// What a batch of entries did to this mount's locks.
#[derive(Debug, Default)]
struct Locking {
    granted: Vec<Sequence>,
    lost: Vec<(Ino, Vec<u64>)>,
}

impl Mount {
    pub(super) fn entries(&mut self, now: Instant, entries: Vec<(LogIndex, Bytes)>) {
        let mut gathering = Gathering::default();
        let mut required = Vec::new();
        let mut changed = BTreeSet::new();
        let mut locking = Locking::default();
        let mut delegated = BTreeSet::new();
        for (index, bytes) in entries {
            match self.replica.apply(index, &bytes) {
                Ok(Some(carried)) => {
                    self.counters.entries_applied += 1;
                    self.kernel.require(index);
                    required.push(index);
                    self.carried(now, index, &carried, &mut gathering, (&mut changed, &mut locking));
                    for change in &carried.applied.effects.changes {
                        if let Change::Delegated { ino, .. } = change {
                            delegated.insert(*ino);
                            self.delegation_changed(now, *ino, &carried.command);
                        }
                    }
                }
                // Sent again by a leader that does not know how far we are.
                Ok(None) if self.kernel.is_awaited(index) => {}
                Ok(None) => {
                    self.kernel.require(index);
                    required.push(index);
                }
                Err(error) => return self.unreadable(now, &error),
            }
        }
        self.issue_gathered(gathering);
        for index in required {
            self.kernel.release(index);
        }
        self.read_again(now, |ino| changed.contains(&ino));
        self.locks_granted(now, &locking.granted);
        if !locking.lost.is_empty() {
            self.locks_lost(now, locking.lost);
        }
        self.resume(now, &delegated);
        self.next_turns(now);
        self.give_answers(now);
    }

    pub(super) fn snapshot(
        &mut self,
        now: Instant,
        index: LogIndex,
        (first, last): (bool, bool),
        rows: Vec<(Bytes, Bytes)>,
    ) {
        let was_loaded = self.replica.is_loaded();
        match self.replica.snapshot(index, first, last, rows) {
            Ok(None) => {}
            Ok(Some(before)) => {
                self.counters.snapshots += 1;
                if was_loaded {
                    self.replaced(now, index, &before);
                }
                self.give_answers(now);
            }
            Err(error) => self.unreadable(now, &error),
        }
    }

    /// The kernel has carried a ticket out.
    pub(super) fn notified(&mut self, now: Instant, ticket: u64) {
        let Notified { answers, written_back, dropped } = self.kernel.notified(now, ticket);
        self.give(answers);
        if let Some(unique) = written_back {
            self.written_back(now, unique);
        }
        if let Some(ino) = dropped {
            self.resume_parked(now, ino);
        }
        for unique in self.requests.held_by(ticket) {
            if let Some(verdict) = self.requests.take_verdict(unique) {
                self.answer(now, unique, verdict);
            }
        }
    }

    /// Answers that waited for a ticket.
    pub(super) fn give(&mut self, answers: Vec<(u64, Answer)>) {
        self.outputs.extend(answers.into_iter().map(|(unique, result)| Output::Answer { unique, result }));
    }

    /// Has the kernel forget these things; `entries` are acknowledged when it has.
    pub(super) fn issue(&mut self, notifications: Vec<Notification>, entries: Vec<LogIndex>) -> u64 {
        // Before this mount is ready its kernel was told nothing that it could forget. And it must not be waited for: a
        // request of it may hold a lock that a notification needs, and is itself answered only when this is ready.
        if self.life == Life::Starting {
            return self.kernel.issue_to_nobody(notifications, entries);
        }
        self.counters.notifications += notifications.len() as u64;
        let ticket = self.kernel.issue(self.now, notifications.clone(), entries, self.is_fresh);
        self.outputs.push_back(Output::Notify { ticket, notifications });
        ticket
    }

    pub(super) fn issue_gathered(&mut self, mut gathering: Gathering) -> Option<u64> {
        let pages = std::mem::take(&mut gathering.pages);
        let mut page_entries = std::mem::take(&mut gathering.page_entries);
        let sizes = std::mem::take(&mut gathering.sizes);
        let ticket = self.issue_names(gathering);
        for (ino, ranges) in pages {
            self.issue_pages(ino, ranges, page_entries.remove(&ino).unwrap_or_default());
        }
        self.issue_sizes(sizes);
        ticket
    }

    /// Names, directories and attributes, in order.
    fn issue_names(&mut self, mut gathering: Gathering) -> Option<u64> {
        let notifications = gathering.notifications();
        if notifications.is_empty() {
            return None;
        }
        gathering.entries.sort_unstable();
        gathering.entries.dedup();
        let ticket = self.issue(notifications, gathering.entries);
        for unique in gathering.renames {
            self.requests.wait_for_tickets(unique, [ticket]);
        }
        Some(ticket)
    }

    /// Tells a file's attributes at once, then its pages, then how much it has grown. Pages that a request of this
    /// mount keeps locked are told too, but nobody waits for that: such a page is not up to date, and its request is
    /// answered from the state as it is now (R8-locked-pages).
    pub(super) fn issue_pages(&mut self, ino: Ino, ranges: Ranges, mut entries: Vec<LogIndex>) {
        if !self.kernel.is_known(ino) {
            return;
        }
        entries.sort_unstable();
        entries.dedup();
        let (free, locked) = part(&spanned(ranges), &self.requests.locked_pages(ino));
        let pages = |range: &(u64, u64)| Notification::of_pages(ino, *range);
        let attributes = Notification::Attributes { ino };
        let mut told: Vec<Notification> = [attributes].into_iter().chain(free.iter().map(pages)).collect();
        let mut behind: Vec<Notification> = Vec::new();
        match self.take_growth(ino) {
            Some(Ok(size)) => told.push(size),
            Some(Err(size)) => behind.push(size),
            None => {}
        }
        behind.extend(locked.iter().map(pages));
        self.issue(told, entries);
        if !behind.is_empty() {
            self.issue(behind, Vec::new());
        }
    }

    /// Tells the leader what is invalidated, and what of it is still in use here.
    pub(super) fn acknowledge(&mut self) {
        let done = self.kernel.take_done();
        let (mut entries, mut referenced) = self.owed.acknowledge(done);
        referenced.retain(|ino| self.is_in_use(*ino));
        let first_awaited = self.kernel.first_awaited();
        if self.client.is_attached()
            && self.replica.is_loaded()
            && let Some(index) = self.owed.caught_up(self.replica.applied(), first_awaited)
        {
            entries.push(index);
            referenced = self.orphans_in_use();
        }
        self.client.set_in_debt(self.owed.is_catching_up() || first_awaited.is_some());
        if !entries.is_empty() {
            entries.sort_unstable();
            entries.dedup();
            self.owed.report(&referenced);
            self.client.tell(ToLeader::Acknowledge { entries, referenced });
        }
        let orphans = self.owed.take_released();
        if !orphans.is_empty() {
            self.client.tell(ToLeader::Released { orphans });
        }
    }

    /// The inode may be gone for this mount's sake, if the leader keeps it for us.
    pub(super) fn release_orphan(&mut self, ino: Ino) {
        if !self.is_in_use(ino) {
            self.owed.release(ino);
        }
    }

    pub(super) fn orphans_in_use(&self) -> Vec<Ino> {
        self.volume().orphans().map(|(ino, _)| ino).filter(|ino| self.is_in_use(*ino)).collect()
    }

    fn carried(
        &mut self,
        now: Instant,
        index: LogIndex,
        carried: &Carried,
        gathering: &mut Gathering,
        (changed, locking): (&mut BTreeSet<Ino>, &mut Locking),
    ) {
        let Carried { header, command, applied } = carried;
        for (hash, bytes) in &applied.effects.content {
            self.reading.keep(*hash, bytes.clone());
        }
        let is_ours = self.client.session() == Some(header.session);
        let purpose = self.requests.purpose(header.sequence).filter(|_| is_ours);
        if is_ours && purpose.is_none() {
            self.client.seen_in_log(header.sequence);
            // A create that was given up may have brought a turn.
            if let Ok(Reply::Made { ino }) = applied.outcome {
                self.look_at_turn(ino);
            }
        }
        for change in &applied.effects.changes {
            match change {
                Change::Name { parent, name, .. } => self.kernel.forget_missing(*parent, name),
                Change::Content { ino, .. } => {
                    changed.insert(*ino);
                    let size = self.volume().inode(*ino).map_or(0, |inode| inode.size);
                    self.kernel.size_changed(*ino, size, purpose.is_none());
                }
                Change::Orphaned { ino } => self.owed.orphaned(index, *ino),
                Change::Freed { ino } => {
                    changed.insert(*ino);
                    self.owed.freed(*ino);
                    self.unnamed.remove(ino);
                    self.inode_freed(now, *ino);
                }
                Change::LockGranted { session, call, .. } if self.locking_as == Some(*session) => {
                    locking.granted.push(*call);
                }
                Change::LocksLost { ino, session, handles } if self.locking_as == Some(*session) => {
                    locking.lost.push((*ino, handles.clone()));
                }
                Change::Attributes { .. }
                | Change::Rewound { .. }
                | Change::Delegated { .. }
                | Change::LockGranted { .. }
                | Change::LocksLost { .. } => {}
            }
        }
        match purpose {
            None => self.gather(now, index, &applied.effects.changes, gathering),
            Some(Purpose::Request(unique)) => self.own_request_applied(now, unique, carried),
            Some(Purpose::Job(job)) => {
                if let Some(unique) = self.files.request_of(job) {
                    self.own_request_applied(now, unique, carried);
                }
                // Refused because another session has the file, or carried out in part: it is proposed again from its
                // place in the queue.
                if Reply::comes_again(&applied.outcome) {
                    return;
                }
                self.job_applied(now, job);
                if let (Command::Operation(operation), Ok(reply)) = (command, &applied.outcome) {
                    self.own_write_applied(now, index, self.files.request_of(job), operation, *reply);
                }
            }
        }
    }

    /// An operation of this mount is part of the replica now. Its kernel knows what it asked for and is told nothing,
    /// with one exception: attributes from before the operation may be on their way to another thread. The kernel takes
    /// them over even after the request that made them old, unless that request wrote bytes or a notification comes
    /// between. (`fuse_update_ctime` and `fuse_dir_changed` in fs/fuse/dir.c leave the inode's version as it is.)
    fn own_request_applied(&mut self, now: Instant, unique: u64, Carried { command, applied, .. }: &Carried) {
        self.own_applied(unique, &applied.outcome);
        let Some(thread) = self.requests.get(unique).map(|waiting| waiting.caller.pid) else { return };
        if matches!(command, Command::Operation(Operation::Write { .. } | Operation::Flush(_))) {
            return;
        }
        let (mut inodes, mut unnamed, mut named): (BTreeSet<Ino>, Vec<Ino>, BTreeSet<Ino>) = Default::default();
        for change in &applied.effects.changes {
            match change {
                Change::Name { parent, before, now, .. } => {
                    inodes.extend([Some(*parent), *before, *now].iter().flatten());
                    unnamed.extend(before);
                    named.extend(now);
                }
                Change::Attributes { ino } | Change::Content { ino, .. } | Change::Orphaned { ino } => {
                    inodes.insert(*ino);
                }
                // No listing is on its way: the kernel has kept the directory locked since before the request.
                Change::Rewound { .. }
                | Change::Freed { .. }
                | Change::Delegated { .. }
                | Change::LockGranted { .. }
                | Change::LocksLost { .. } => {}
            }
        }
        // fuse_entry_unlinked gives these a new version.
        unnamed.retain(|ino| !named.contains(ino));
        if let Some(waiting) = self.requests.get_mut(unique) {
            waiting.unnamed = unnamed;
        }
        inodes.retain(|ino| self.kernel.is_on_its_way(*ino, now, thread));
        if inodes.is_empty() {
            return;
        }
        let overtaking = inodes.into_iter().map(|ino| Notification::Attributes { ino }).collect();
        let ticket = self.issue(overtaking, Vec::new());
        self.requests.wait_for_tickets(unique, [ticket]);
    }

    fn own_applied(&mut self, unique: u64, outcome: &Result<Reply, Errno>) {
        let Some(waiting) = self.requests.get_mut(unique).filter(|waiting| !waiting.is_applied) else { return };
        waiting.is_applied = outcome.is_ok();
        if *outcome == Ok(Reply::Queued) {
            return self.lock_queued(unique);
        }
        let Ok(Reply::Made { ino }) = outcome else { return };
        let ino = *ino;
        match &waiting.need {
            Awaited::Create { flags, .. } | Awaited::MakeUnnamed { flags, .. } => {
                let flags = *flags;
                // Open from now on: if another mount unlinks it before the answer, it is an orphan of ours.
                let fh = self.open_handle(ino, flags);
                let attributes = self.attributes(ino);
                if let Some(waiting) = self.requests.get_mut(unique)
                    && let Awaited::Create { made, .. } | Awaited::MakeUnnamed { made, .. } = &mut waiting.need
                {
                    *made = attributes.map(|attributes| (attributes, fh));
                }
            }
            Awaited::Make { .. } => {
                let attributes = self.attributes(ino);
                if let Some(waiting) = self.requests.get_mut(unique)
                    && let Awaited::Make { made, .. } = &mut waiting.need
                {
                    *made = attributes;
                }
            }
            _ => {}
        }
    }

    /// Bytes of this mount reached the log. The kernel has the same in its pages, except where apply chose the place.
    fn own_write_applied(
        &mut self,
        now: Instant,
        index: LogIndex,
        request: Option<u64>,
        operation: &Operation,
        reply: Reply,
    ) {
        let (ino, pieces, append) = match operation {
            Operation::Write { ino, pieces, append, .. } => (*ino, pieces, *append),
            Operation::Flush(flush) => (flush.ino, &flush.pieces, false),
            _ => return,
        };
        let mut written = pieces.last().map_or(0, |last| last.offset);
        if let (Reply::Written { size, .. }, true) = (reply, append) {
            let kind = request.and_then(|unique| self.requests.get(unique)).map(|waiting| &waiting.need);
            if let Some(Awaited::Append { offset, length, .. }) = kind
                && size > offset.saturating_add(u64::from(*length))
            {
                self.kernel.size_untold(ino);
            }
            self.kernel.inode_changed(now, ino, index);
            if self.may_answer(ino) {
                self.issue_pages(ino, vec![(0, u64::MAX)], Vec::new());
            } else if self.is_access_believed(ino, 0) {
                self.issue_sizes(BTreeMap::from([(ino, Vec::new())]));
            }
            written = size.saturating_sub(1);
        }
        if !pieces.is_empty() && pieces.iter().all(|piece| piece.content.is_some()) {
            self.coalesce(now, ino, written);
        }
    }

    /// What a change made elsewhere (or one that was given up here) makes stale in this kernel.
    fn gather(&mut self, now: Instant, index: LogIndex, changes: &[Change], gathering: &mut Gathering) {
        for change in changes {
            match change {
                Change::Name { parent, name, before, now: present } => {
                    for child in [before, present].into_iter().flatten() {
                        self.gather_inode(now, *child, index, false, gathering);
                    }
                    if self.kernel.is_known(*parent) {
                        gathering.directories.insert(*parent);
                        gathering.entries.push(index);
                        self.gather_name(now, index, *parent, name, gathering);
                    }
                }
                // Delegation: its holder buffers from the grant's completion on; nothing of it may stay in a kernel
                // (R11-delegation).
                Change::Content { ino, .. } | Change::Delegated { ino, now: Some(_), .. } => {
                    self.gather_inode(now, *ino, index, true, gathering);
                }
                Change::Rewound { ino } => self.directory_rewound(now, index, *ino),
                Change::Delegated { now: None, .. } | Change::LockGranted { .. } | Change::LocksLost { .. } => {}
                Change::Attributes { ino } | Change::Orphaned { ino } | Change::Freed { ino } => {
                    self.gather_inode(now, *ino, index, false, gathering);
                }
            }
        }
    }

    pub(super) fn is_file(&self, ino: Ino) -> bool {
        self.volume().inode(ino).is_some_and(|inode| inode.kind == FileKind::File)
    }

    /// Whether this kernel may answer about the inode by itself, or will have forgotten what it may only in a moment.
    pub(super) fn may_answer(&self, ino: Ino) -> bool {
        self.kernel.may_answer(ino, self.is_file(ino))
    }

    /// An inode changed elsewhere: what the kernel has of it goes into what is gathered, or is told later.
    fn gather_inode(&mut self, now: Instant, ino: Ino, index: LogIndex, is_content: bool, gathering: &mut Gathering) {
        match self.kernel.gather_inode(now, ino, index, (self.is_file(ino), is_content), gathering) {
            Telling::Gathered => {}
            Telling::Size => self.gather_size(ino, index, gathering),
            Telling::At(until) => self.timers.set(Timer::HeldBack(ino), until),
        }
    }

    fn directory_rewound(&mut self, now: Instant, index: LogIndex, ino: Ino) {
        if let Some(until) = self.kernel.directory_rewound(now, index, ino) {
            self.timers.set(Timer::HeldBack(ino), until);
        }
    }

    /// The kernel has taken over what it was told of the file, and is told what was held back for that.
    pub(super) fn tell_held_back(&mut self, now: Instant, ino: Ino) {
        let Some(due) = self.kernel.take_held_back(now, ino) else { return };
        self.issue_pages(ino, vec![(0, u64::MAX)], due.clone());
        self.kernel.told_held_back(ino, due);
    }

    /// A snapshot took the replica's place: the kernel forgets what differs.
    fn replaced(&mut self, now: Instant, index: LogIndex, before: &Volume) {
        let mut gathering = Gathering::default();
        self.kernel.require(index);
        let known: Vec<Ino> = self.kernel.inodes().collect();
        let mut changed = BTreeSet::new();
        let mut names: Vec<(Ino, Name)> = Vec::new();
        for ino in known {
            let (old, new) = (before.inode(ino), self.volume().inode(ino));
            let shown = |volume: &Volume| volume.attributes(ino);
            let is_delegated = self.is_delegated_elsewhere(ino);
            if shown(before) == shown(self.volume()) && !is_delegated {
                continue;
            }
            let is_directory = old.or(new).is_some_and(|inode| inode.kind == FileKind::Directory);
            let is_rewritten = old.map(|inode| inode.data_version) != new.map(|inode| inode.data_version);
            let is_rewound = old.zip(new).is_some_and(|(old, new)| new.is_rewound_from(old));
            let size = new.map_or(0, |inode| inode.size);
            changed.insert(ino);
            self.kernel.inode_changed(now, ino, index);
            self.kernel.size_changed(ino, size, true);
            if is_directory {
                gathering.directories.insert(ino);
                if is_rewound {
                    self.directory_rewound(now, index, ino);
                }
                names.extend(names_that_differ(ino, before, self.volume()));
            } else {
                gathering.inodes.insert(ino);
            }
            if is_delegated || is_rewritten {
                gathering.pages.insert(ino, vec![(0, u64::MAX)]);
                gathering.page_entries.insert(ino, vec![index]);
            }
        }
        gathering.entries.push(index);
        for (parent, name) in &names {
            self.gather_name(now, index, *parent, name, &mut gathering);
        }
        self.issue_gathered(gathering);
        self.kernel.release(index);
        let gone: Vec<Ino> = self.files.inodes().filter(|ino| self.volume().inode(*ino).is_none()).collect();
        for ino in gone {
            self.inode_freed(now, ino);
        }
        self.owed.retain(|ino| self.replica.volume().inode(ino).is_some());
        self.check_rights(now);
        self.read_again(now, |_| true);
        self.locks_replaced(now, before);
        let waiting: BTreeSet<Ino> = self.files.queued_inodes().chain(self.requests.files_waited_for()).collect();
        self.resume(now, &waiting);
    }

    fn unreadable(&mut self, now: Instant, error: &ReplicaError) {
        match error {
            // Another leader would send the same.
            ReplicaError::Entry { .. } => {
                self.client.give_up_for_good();
                self.end_for_good(now, &format!("this mount cannot follow the volume: {error}"));
            }
            ReplicaError::Nothing | ReplicaError::Snapshot { .. } | ReplicaError::Piece { .. } => {
                self.outputs.push_back(Output::Notice(format!("what the leader sent is no use: {error}")));
                self.client.reattach(now, "it sent what cannot be the volume");
            }
        }
    }
}

/// Names of the directory that mean something else in `after` than in `before`.
fn names_that_differ(directory: Ino, before: &Volume, after: &Volume) -> BTreeSet<(Ino, Name)> {
    let names = |volume: &Volume| -> Vec<(Name, Ino)> {
        volume.entries_after(directory, 0).map(|(_, name, ino, _)| (name.clone(), ino)).collect()
    };
    let went = names(before).into_iter().filter(|(name, ino)| after.lookup(directory, name) != Some(*ino));
    let came = names(after).into_iter().filter(|(name, ino)| before.lookup(directory, name) != Some(*ino));
    went.chain(came).map(|(name, _)| (directory, name)).collect()
}

/// The ranges in order, those that touch as one; too many become one that spans them.
fn spanned(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut merged: Ranges = Vec::with_capacity(ranges.len());
    for (begin, end) in ranges {
        match merged.last_mut() {
            Some((_, last)) if begin <= *last => *last = end.max(*last),
            _ => merged.push((begin, end)),
        }
    }
    match (merged.first(), merged.last()) {
        (Some((begin, _)), Some((_, end))) if merged.len() > PAGE_RANGES_MAX => vec![(*begin, *end)],
        _ => merged,
    }
}

/// What of the ranges lies outside the locked ones, and what inside. Both are in order.
pub(super) fn part(ranges: &[(u64, u64)], locked: &[(u64, u64)]) -> (Ranges, Ranges) {
    let (mut free, mut inside) = (Ranges::new(), Ranges::new());
    for (begin, end) in ranges {
        let mut at = *begin;
        for (lock, unlock) in locked {
            let (from, to) = ((*lock).max(at), (*unlock).min(*end));
            if from < to {
                if at < from {
                    free.push((at, from));
                }
                inside.push((from, to));
                at = to;
            }
        }
        if at < *end {
            free.push((at, *end));
        }
    }
    (free, inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one_and_too_many_are_one() {
        assert_eq!(spanned(vec![(8, 12), (0, 4), (4, 8), (20, u64::MAX)]), [(0, 12), (20, u64::MAX)]);
        let many = (0..100).map(|at| (at * 10, at * 10 + 1)).collect();
        assert_eq!(spanned(many), [(0, 991)]);
    }

    #[test]
    fn locked_pages_are_left_out_and_told_apart() {
        assert_eq!(part(&[(0, 100)], &[]), (vec![(0, 100)], vec![]));
        assert_eq!(part(&[(0, 100)], &[(10, 20), (15, 30)]), (vec![(0, 10), (30, 100)], vec![(10, 20), (20, 30)]));
        assert_eq!(part(&[(0, 10), (20, 30)], &[(5, 25)]), (vec![(0, 5), (25, 30)], vec![(5, 10), (20, 25)]));
        assert_eq!(part(&[(50, u64::MAX)], &[(0, 60)]), (vec![(60, u64::MAX)], vec![(50, 60)]));
    }
}
