//! Requests that look, without a lease. The kernel keeps nothing then, and this mount's replica may be behind what has completed. So
//! it asks the leader for a read index, and answers when it has applied that much (docs/protocol.md R10-read-index,
//! R16-cut-off). It waits neither for the lease nor for a notification. So pages and directories that such a request
//! keeps locked are free before any notification needs them.
//!
//! Where no leader answers for as long as a lease, this mount is *cut off*. From then on it answers from its replica,
//! or reads wait (`--when-disconnected`, README.md "Availability").

use std::collections::BTreeMap;

use super::{Caller, Life, Mount, Output, Request, config::WhenDisconnected};
use crate::{
    message::mount::ToLeader,
    types::{Errno, Instant, LogIndex},
};

/// Requests that look and wait, and what the leader was asked for them.
#[derive(Debug, Default)]
pub(crate) struct Leaseless {
    waiting: BTreeMap<u64, Look>,
    last_number: u64,
    /// The number that the leader has not answered yet.
    asked: Option<u64>,
    /// Until then a leader may still answer.
    hope_until: Instant,
    /// It was said that this mount is cut off.
    is_cut_off: bool,
}

#[derive(Debug)]
struct Look {
    caller: Caller,
    request: Request,
    since: Instant,
    /// A signal ends it then.
    ends_at: Option<Instant>,
    question: Question,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    New,
    Asked(u64),
    Known(LogIndex),
}

impl Mount {
    /// No leader answers: this mount goes by its policy.
    pub(super) fn is_cut_off(&self) -> bool {
        self.life != Life::Starting && !self.is_fresh && self.leaseless.hope_until <= self.now
    }

    /// A leader may answer for another lease from now on.
    pub(super) fn hope(&mut self, now: Instant) {
        self.leaseless.hope_until = now.after(self.config.timing.lease);
    }

    /// Keeps a request that must not be answered from this replica as it is. Gives back all others.
    pub(super) fn keep_read(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        request: Request,
    ) -> Option<(Caller, Request)> {
        if self.is_fresh || !request.facts().looks || self.serves_alone() {
            return Some((caller, request));
        }
        let look = Look { caller, request, since: now, ends_at: None, question: Question::New };
        self.leaseless.waiting.insert(unique, look);
        None
    }

    /// A new connection: what was asked on another is not answered any more.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.hope(now);
        self.leaseless.asked = None;
        for look in self.leaseless.waiting.values_mut() {
            if let Question::Asked(_) = look.question {
                look.question = Question::New;
            }
        }
    }

    pub(super) fn read_index(&mut self, now: Instant, number: u64, index: LogIndex) {
        if self.leaseless.asked != Some(number) {
            return;
        }
        self.hope(now);
        self.leaseless.asked = None;
        for look in self.leaseless.waiting.values_mut() {
            if let Question::Asked(asked) = look.question
                && asked <= number
            {
                look.question = Question::Known(index);
            }
        }
    }

    /// Asks for those that came since, and answers those that may be.
    pub(super) fn go_on_reading(&mut self, now: Instant) {
        self.tell_whether_cut_off();
        let (all, applied) = (self.is_fresh || self.serves_alone(), self.replica.applied());
        let is_due = |look: &Look| all || matches!(look.question, Question::Known(index) if index <= applied);
        let due: Vec<u64> =
            self.leaseless.waiting.iter().filter(|(_, look)| is_due(look)).map(|(unique, _)| *unique).collect();
        for unique in due {
            if let Some(Look { caller, request, .. }) = self.leaseless.waiting.remove(&unique) {
                self.request(now, unique, caller, request);
            }
        }
        let is_new = |look: &Look| look.question == Question::New;
        if self.leaseless.asked.is_none() && self.client.is_attached() && self.leaseless.waiting.values().any(is_new) {
            self.leaseless.last_number += 1;
            let number = self.leaseless.last_number;
            self.leaseless.asked = Some(number);
            self.leaseless
                .waiting
                .values_mut()
                .filter(|look| is_new(look))
                .for_each(|look| look.question = Question::Asked(number));
            self.client.tell(ToLeader::ReadIndex { number });
        }
    }

    /// A signal hit the caller: as for changes, the call lasts as long as a change of leader takes and no longer. False
    /// when it is no read that waits.
    pub(super) fn interrupt_read(&mut self, unique: u64) -> bool {
        let lease = self.config.timing.lease;
        let look = self.leaseless.waiting.get_mut(&unique);
        look.map(|look| look.ends_at = Some(look.since.after(lease))).is_some()
    }

    pub(super) fn end_interrupted_reads(&mut self, now: Instant) {
        self.refuse_reads(Errno::EINTR, |look| look.ends_at.is_some_and(|at| at <= now));
    }

    pub(super) fn refuse_all_reads(&mut self, errno: Errno) {
        self.refuse_reads(errno, |_| true);
    }

    fn refuse_reads(&mut self, errno: Errno, is_concerned: impl Fn(&Look) -> bool) {
        let looks = &self.leaseless.waiting;
        let ended: Vec<u64> = looks.iter().filter(|(_, look)| is_concerned(look)).map(|(unique, _)| *unique).collect();
        for unique in ended {
            self.leaseless.waiting.remove(&unique);
            self.respond(unique, Err(errno));
        }
    }

    /// When something is to be done about reads though nothing happens.
    pub(super) fn reads_timeout(&self) -> Option<Instant> {
        let ends = self.leaseless.waiting.values().filter_map(|look| look.ends_at).min();
        let is_hoping = self.life != Life::Starting && !self.is_fresh && !self.leaseless.is_cut_off;
        [ends, is_hoping.then_some(self.leaseless.hope_until)].into_iter().flatten().min()
    }

    pub(super) fn serves_alone(&self) -> bool {
        self.config.when_disconnected == WhenDisconnected::Serve && self.is_cut_off()
    }

    fn tell_whether_cut_off(&mut self) {
        let is_cut_off = self.is_cut_off();
        if is_cut_off && !self.leaseless.is_cut_off {
            self.counters.cut_offs += 1;
            self.outputs.push_back(Output::Notice(
                match self.config.when_disconnected {
                    WhenDisconnected::Serve => {
                        "cut off: no leader answers, reads are answered from what this mount has"
                    }
                    WhenDisconnected::Block => "cut off: no leader answers, reads wait",
                }
                .to_owned(),
            ));
        }
        self.leaseless.is_cut_off = is_cut_off;
    }
}
