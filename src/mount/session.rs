//! What a mount does when its client core reports something: a leader, entries, answers, the lease, the end of the
//! session.

use std::collections::BTreeMap;

use super::{Life, Mount, Notification, Output, WhenDisconnected, requests::Purpose};
use crate::{
    client::Event,
    namespace::Reply,
    types::{Errno, Ino, Instant, LogIndex, Name, Sequence},
};

impl Mount {
    pub(super) fn client_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connect { connection, address } => self.outputs.push_back(Output::Connect { connection, address }),
            Event::Send { connection, message } => self.outputs.push_back(Output::Send { connection, message }),
            Event::Attached(welcome) => {
                self.owed.catch_up(welcome.caught_up_at);
                self.locking_as = self.client.session();
                self.ask_again(now);
                self.client.set_in_debt(true);
                // Stores may be known now that were not before.
                self.files.tick(now, self.client.stores());
            }
            Event::Snapshot { index, first, last, rows } => self.snapshot(now, index, (first, last), rows),
            Event::Entries(entries) => self.entries(now, entries),
            // An index of 0 is a refusal without an entry.
            Event::Answered { sequence, index, outcome } if index <= self.replica.applied() => {
                self.answered(now, sequence, index, outcome);
            }
            Event::Answered { sequence, index, outcome } => {
                self.requests.keep_answer(index, (sequence, outcome));
            }
            Event::Expired { unresolved } => self.expired(now, &unresolved),
            Event::Fatal(sentence) => self.end_for_good(now, &sentence),
            Event::Notice(sentence) => self.outputs.push_back(Output::Notice(sentence)),
            Event::Prepare { address } => self.outputs.push_back(Output::Prepare { address }),
            Event::Recalled { ino, grant } => self.recalled(now, ino, grant),
            Event::ReadIndex { number, index } => self.read_index(now, number, index),
        }
    }

    /// Answers whose entries are part of the replica now.
    pub(super) fn give_answers(&mut self, now: Instant) {
        while let Some((index, outcomes)) = self.requests.take_answers(self.replica.applied()) {
            for (sequence, outcome) in outcomes {
                self.answered(now, sequence, index, outcome);
            }
        }
    }

    /// Compares the lease with the clock: at its end the kernel is made to ask about everything again.
    pub(super) fn watch_lease(&mut self, now: Instant) {
        let is_held = self.caches_until().is_some_and(|until| now < until);
        if self.is_fresh && !is_held {
            self.is_fresh = false;
            self.hope(now);
            self.counters.leases_lost += 1;
            self.outputs.push_back(Output::Notice(
                "the lease has ended: the kernel keeps nothing, and the leader is asked before a read is answered"
                    .to_owned(),
            ));
            self.kernel.all_forgotten(now);
            self.forget_everything();
            self.resume_all_parked(now);
        } else if !self.is_fresh && is_held && !self.owed.is_catching_up() && self.replica.is_loaded() {
            // What this connection's leader had before is applied and forgotten; what comes, it waits for us.
            self.is_fresh = true;
            self.become_ready(now);
            self.retry_all_writers(now);
            self.next_turns(now);
            if self.counters.leases_lost > 0 {
                self.outputs.push_back(Output::Notice("the lease is back: this mount is in step again".to_owned()));
            }
        }
    }

    pub(super) fn stop(&mut self, now: Instant) {
        if matches!(self.life, Life::Stopping { .. } | Life::Stopped) {
            return;
        }
        self.life = Life::Stopping { deadline: self.deadline(now) };
        self.flush_everything(now);
        self.give_everything_back(now);
    }

    /// Takes leave once everything written is in the log, or the time for that is over.
    pub(super) fn end_if_done(&mut self, now: Instant) {
        let Life::Stopping { deadline } = self.life else { return };
        if self.files.is_clean() && self.requests.is_empty() || deadline <= now {
            self.life = Life::Stopped;
            let lost = self.files.unapplied_bytes();
            if lost > 0 {
                self.outputs.push_back(Output::Notice(format!(
                    "{lost} written bytes could not be brought to the cluster before the end"
                )));
            }
            self.refuse_all_reads(Errno::EIO);
            self.client.leave();
            while let Some(event) = self.client.poll_event() {
                self.client_event(now, event);
            }
            self.outputs.push_back(Output::Stopped);
        }
    }

    /// Not before the first lease: until then changes complete without this mount, and it would answer from before them.
    fn become_ready(&mut self, now: Instant) {
        if self.life != Life::Starting {
            return;
        }
        self.life = Life::Running;
        self.outputs.push_back(Output::Ready);
        for (unique, caller, request) in self.requests.take_early() {
            self.request(now, unique, caller, request);
        }
    }

    fn answered(&mut self, now: Instant, sequence: Sequence, index: LogIndex, outcome: Result<Reply, Errno>) {
        if outcome == Ok(Reply::Locked) {
            self.look_whether_lost(sequence, index);
        }
        match self.requests.take_purpose(sequence) {
            Some(Purpose::Request(unique)) => self.complete(now, unique, outcome),
            Some(Purpose::Job(job)) if Reply::comes_again(&outcome) => self.propose_again(now, job, outcome),
            Some(Purpose::Job(job)) => self.job_answered(now, job, outcome),
            None => {}
        }
    }

    fn expired(&mut self, now: Instant, unresolved: &[Sequence]) {
        for sequence in unresolved {
            match self.requests.take_purpose(*sequence) {
                Some(Purpose::Request(unique)) => {
                    // Applied or not, the kernel hears EIO and believes that nothing happened.
                    if let Some(waiting) = self.requests.get_mut(unique) {
                        waiting.sequence = None;
                        self.give_up(now, unique, Errno::EIO);
                    }
                }
                Some(Purpose::Job(job)) => self.job_answered(now, job, Err(Errno::EIO)),
                None => {}
            }
        }
        self.requests.forget_answers();
        self.session_lost(now);
        self.files.upload_again(now, self.client.stores());
    }

    /// The kernel asks again about everything (docs/protocol.md R7-forgetting, R28-probation): every name, and the
    /// attributes of every inode that it may have. Pages stay: they are invalidated by the entries that changed them,
    /// when these arrive.
    fn forget_everything(&mut self) {
        if self.config.when_disconnected == WhenDisconnected::Block {
            // What is mapped, or sent without being read, is looked at without a question.
            for ino in self.handles.inodes() {
                self.issue_pages(ino, vec![(0, u64::MAX)], Vec::new());
            }
        }
        let cached = self.kernel.inodes().filter(|ino| self.may_answer(*ino));
        let attributes = cached.map(|ino| Notification::Attributes { ino });
        if self.config.kernel.inc_epoch {
            let all = [Notification::AllNames].into_iter().chain(attributes).collect();
            let ticket = self.issue(all, Vec::new());
            return self.is_forgetting([ticket]);
        }
        let attributes = attributes.collect();
        let ticket = self.issue(attributes, Vec::new());
        self.is_forgetting([ticket]);
        // Names end with the lease; what is told here reaches those that a late reply brought.
        let (mut free, mut locked): (Vec<Notification>, BTreeMap<Ino, Vec<Notification>>) = Default::default();
        for (parent, name) in self.cached_names() {
            let is_locked = self.requests.is_locked(parent);
            let notification = Notification::Name { parent, name };
            if is_locked { locked.entry(parent).or_default().push(notification) } else { free.push(notification) }
        }
        // A ticket that hangs on one directory's lock does not stop the others.
        for names in [free].into_iter().chain(locked.into_values()).filter(|names| !names.is_empty()) {
            self.issue(names, Vec::new());
        }
    }

    /// Names that the kernel may have, those that do not exist included.
    pub(super) fn cached_names(&mut self) -> Vec<(Ino, Name)> {
        let missing = self
            .kernel
            .take_missing()
            .into_iter()
            .flat_map(|(parent, names)| names.into_iter().map(move |name| (parent, name)).collect::<Vec<_>>());
        let missing: Vec<(Ino, Name)> = missing.collect();
        let existing = self.kernel.inodes().flat_map(|directory| {
            let entries = self.volume().entries_after(directory, 0);
            entries
                .filter(|(_, _, ino, _)| self.kernel.is_known(*ino))
                .map(move |(_, name, ..)| (directory, name.clone()))
                .collect::<Vec<_>>()
        });
        existing.chain(missing).collect()
    }
}
