//! The right to buffer changes of a file, as this mount asks for it, has it and gives it back; and what waits here
//! until another mount has given it back (docs/protocol.md R9-application, R11-delegation, R12-fencing).
//!
//! *Ours.* A create brings it along. A writer asks once and waits until the grant is complete. It is given back with
//! the flush at the last writer's close, or at once when another mount recalls it, also before the grant is complete:
//! nothing may wait for a completion that waits for it. A file that is recalled twice within a second is written
//! through for a while. If the right is taken away (hold time, end of the session), what was buffered is dropped and
//! told once.
//!
//! *Theirs.* While the replica shows it with another session, requests that look at the file are parked, and the leader
//! is asked for it again and again. Changes wait in the file's queue. Names are looked up and listed without waiting.
//! Nothing waits longer than until the entry that ends the delegation is *applied* here. A mount that is cut off
//! answers from what it has, or waits (R16-cut-off).

use std::collections::BTreeSet;

use super::{
    Caller, Mount, Notification, Output, Request,
    files::{JobId, NewJob, Right},
    requests::{Awaited, FileRange, Pending},
    timers::Timer,
};
use crate::{
    message::mount::ToLeader,
    namespace::{Command, Delegation, Operation},
    types::{Errno, Ino, Instant, LogIndex},
};

/// What a READ keeps locked in the kernel.
const PAGE_BYTES: u64 = 4096;

impl Mount {
    /// The delegation that the replica shows for this mount.
    pub(super) fn own_delegation(&self, ino: Ino) -> Option<LogIndex> {
        let Delegation { session, grant } = self.volume().delegation(ino)?;
        (self.client.session() == Some(session)).then_some(grant)
    }

    /// Another session may be changing the file.
    pub(super) fn is_delegated_elsewhere(&self, ino: Ino) -> bool {
        let holder = self.volume().delegation(ino).map(|held| held.session);
        holder.is_some_and(|holder| self.client.session() != Some(holder))
    }

    /// Changes may be buffered now. Not without a lease: a mount that is cut off collects nothing that it may lose.
    pub(super) fn may_buffer(&self, ino: Ino) -> bool {
        matches!(self.files.right(ino), Right::Held(_)) && self.is_fresh
    }

    /// The create that brought the delegation is answered: from now on it is used.
    pub(super) fn take_right(&mut self, now: Instant, ino: Ino) {
        if let Some(grant) = self.own_delegation(ino) {
            self.files.take_right(ino, grant);
            if !self.handles.ends_are_told() {
                self.flush_in_time(now, ino);
            }
        }
    }

    /// The request waits until this mount may buffer changes of the file, or is sure that it may not.
    pub(super) fn ask_for_right(&mut self, now: Instant, ino: Ino, unique: u64) {
        self.files.wait_for_right(ino, unique);
        if matches!(self.files.right(ino), Right::None | Right::Returning) {
            let job = self.enqueue(now, NewJob::of(ino, Operation::Delegate { ino }));
            self.files.set_right(ino, Right::Asked(job));
        }
    }

    /// The grant is complete, or refused.
    pub(super) fn asked(&mut self, now: Instant, ino: Ino, job: JobId, refusal: Option<Errno>) {
        let grant = self.own_delegation(ino).filter(|_| refusal.is_none());
        // Recalled in between, and perhaps asked for once more.
        if self.files.right(ino) != Right::Asked(job) {
            return;
        }
        self.files.set_right(ino, grant.map_or(Right::None, Right::Held));
        match refusal {
            None => {
                self.retry_writers(now, ino);
                // Nobody is left who would give it back.
                if !self.handles.ends_are_told() {
                    self.flush_in_time(now, ino);
                } else if self.handles.writers(ino) == 0 {
                    self.send_on(now, ino, true);
                }
            }
            Some(errno) => {
                for unique in self.files.take_writers(ino) {
                    self.give_up(now, unique, errno);
                }
            }
        }
    }

    /// Those who waited for the file look again whether they may go on.
    pub(super) fn retry_writers(&mut self, now: Instant, ino: Ino) {
        for unique in self.files.take_writers(ino) {
            self.go_on_writing(now, unique);
        }
    }

    /// The lease is back: buffering goes on.
    pub(super) fn retry_all_writers(&mut self, now: Instant) {
        for ino in self.files.with_writers() {
            self.retry_writers(now, ino);
        }
    }

    /// This mount is about to end.
    pub(super) fn give_everything_back(&mut self, now: Instant) {
        let held = self.files.rights().filter(|(_, right)| matches!(right, Right::Held(_))).map(|(ino, _)| ino);
        for ino in held.collect::<Vec<_>>() {
            self.send_on(now, ino, true);
        }
    }

    /// Another mount wants to see the file. Whether it is used yet or not, the delegation goes back with what is there.
    pub(super) fn recalled(&mut self, now: Instant, ino: Ino, grant: LogIndex) {
        // What the replica does not show yet is asked for again.
        if self.own_delegation(ino) != Some(grant) {
            return;
        }
        if !self.files.take_right_to_return(ino, grant) {
            return;
        }
        self.counters.delegations_recalled += 1;
        self.files.note_recall(now, ino);
        self.send_on(now, ino, true);
        self.retry_writers(now, ino);
    }

    /// An entry that concerns delegations was applied.
    pub(super) fn delegation_changed(&mut self, now: Instant, ino: Ino, command: &Command) {
        let is_given_back = matches!(command, Command::Operation(_));
        if self.own_delegation(ino).is_some() {
            return;
        }
        match self.files.right(ino) {
            Right::Held(_) if !is_given_back => self.lose(now, ino),
            Right::Returning if !is_given_back => self.lose(now, ino),
            Right::Returning => {
                self.files.set_right(ino, Right::None);
                self.tidy(ino);
            }
            _ => {}
        }
    }

    /// A snapshot took the replica's place: rights that it does not show are lost.
    pub(super) fn check_rights(&mut self, now: Instant) {
        let is_gone = |ino: Ino, right: Right| match right {
            Right::Held(grant) => self.own_delegation(ino) != Some(grant),
            Right::Returning => self.own_delegation(ino).is_none(),
            Right::None | Right::Asked(_) => false,
        };
        let gone = self.files.rights().filter(|(ino, right)| is_gone(*ino, *right)).map(|(ino, _)| ino);
        let gone: Vec<Ino> = gone.collect();
        for ino in gone {
            if self.files.right(ino) == Right::Returning {
                self.files.set_right(ino, Right::None);
                self.tidy(ino);
            } else {
                self.lose(now, ino);
            }
        }
    }

    /// The delegation was taken away: nothing that rests on it will ever be applied (R12-fencing). It is told once, and
    /// the kernel must not show it any longer.
    fn lose(&mut self, now: Instant, ino: Ino) {
        if !self.files.has(ino) {
            return;
        }
        let dropped = self.files.lose(ino);
        self.timers.stop(Timer::Age(ino));
        self.counters.delegations_lost += 1;
        if let Some(bytes) = dropped {
            self.handles.fail(ino, Errno::EIO);
            self.outputs.push_back(Output::Notice(format!(
                "the delegation of inode {ino} was taken away while this mount was not heard of: {bytes} buffered bytes \
                 are dropped, its next write, fsync or close fails with EIO"
            )));
            if self.kernel.is_known(ino) {
                let pages = Notification::Pages { ino, offset: 0, length: 0 };
                self.issue(vec![Notification::Attributes { ino }, pages], Vec::new());
            }
        }
        self.abandon_flushes(now, ino);
        self.retry_writers(now, ino);
        self.tidy(ino);
    }

    // What waits for others.

    /// Whether the request must wait until another mount has given the file's delegation back.
    pub(super) fn must_recall(&self, request: &Request) -> Option<Ino> {
        let ino = request.facts().subject.filter(|_| request.facts().looks_inside)?;
        (!self.serves_alone() && self.is_delegated_elsewhere(ino)).then_some(ino)
    }

    pub(super) fn park(&mut self, now: Instant, unique: u64, caller: Caller, ino: Ino, request: Request) {
        self.set_aside(now, unique, caller, ino, request);
        self.recall(now, ino);
    }

    /// Keeps the request until `resume_parked`.
    pub(super) fn set_aside(&mut self, now: Instant, unique: u64, caller: Caller, ino: Ino, request: Request) {
        let pages = match &request {
            Request::Read { offset, length, .. } => Some(FileRange::of_pages(ino, *offset, *length, PAGE_BYTES)),
            _ => None,
        };
        let waiting = Pending::new(caller, self.deadline(now), Awaited::Parked { request }).locking_pages(pages);
        self.wait(now, unique, waiting);
        self.requests.set_aside(ino, unique);
    }

    /// Has the leader ask the holder, now and again until the delegation is gone.
    pub(super) fn recall(&mut self, now: Instant, ino: Ino) {
        if self.requests.asks_for(ino) {
            self.counters.recalls_sent += 1;
            self.client.tell(ToLeader::Recall { ino });
            self.timers.set(Timer::Recall(ino), now.after(2 * self.config.timing.heartbeat));
        }
    }

    pub(super) fn recall_again(&mut self, now: Instant, ino: Ino) {
        self.requests.may_ask_again(ino);
        let is_wanted = self.requests.has_set_aside(ino) || self.files.is_queued(ino);
        if is_wanted && self.is_delegated_elsewhere(ino) {
            self.recall(now, ino);
            // Without a lease each asks anew for a read index: so it shows when this mount is cut off.
            if !self.is_fresh {
                self.resume_parked(now, ino);
            }
        }
    }

    /// These files may be given back: who waited for that looks again.
    pub(super) fn resume(&mut self, now: Instant, inodes: &BTreeSet<Ino>) {
        for ino in inodes.iter().copied().filter(|ino| !self.is_delegated_elsewhere(*ino)).collect::<Vec<_>>() {
            self.requests.may_ask_again(ino);
            self.propose_next(now, ino);
            self.resume_parked(now, ino);
        }
    }

    /// Without a lease nobody waits for others.
    pub(super) fn resume_all_parked(&mut self, now: Instant) {
        let inodes: Vec<Ino> = self.requests.files_waited_for().collect();
        for ino in inodes {
            self.resume_parked(now, ino);
        }
    }

    fn is_parked(&self, unique: u64) -> bool {
        self.requests.get(unique).is_some_and(|waiting| matches!(waiting.need, Awaited::Parked { .. }))
    }

    /// A request that was set aside waits no longer.
    pub(super) fn unpark(&mut self, unique: u64) -> Option<(Caller, Request)> {
        if !self.is_parked(unique) {
            return None;
        }
        let waiting = self.requests.remove(unique)?;
        self.timers.stop(Timer::Request(unique));
        match waiting.need {
            Awaited::Parked { request } => Some((waiting.caller, request)),
            _ => None,
        }
    }

    pub(super) fn resume_parked(&mut self, now: Instant, ino: Ino) {
        for unique in self.requests.take_set_aside(ino) {
            if !self.is_parked(unique) {
                continue;
            }
            // It ends soon, and stays where its end is known.
            if self.requests.get(unique).is_some_and(|waiting| waiting.late == Errno::EINTR) && !self.is_fresh {
                self.requests.set_aside(ino, unique);
                continue;
            }
            // Without a lease it waits for a read index first, like any other read (R16-cut-off).
            if let Some((caller, request)) = self.unpark(unique)
                && let Some((caller, request)) = self.keep_read(now, unique, caller, request)
            {
                self.dispatch(now, unique, caller, request);
            }
        }
    }
}
