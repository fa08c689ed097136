//! Reads without a lease. The kernel keeps nothing then, and this mount's replica may be behind what has completed. So
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

/// Reads that wait, and what the leader was asked for them.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: BTreeMap<u64, Read>,
    last_number: u64,
    /// The number that the leader has not answered yet.
    asked: Option<u64>,
    /// Until then a leader may still answer.
    hope_until: Instant,
    /// It was said that this mount is cut off.
    is_cut_off: bool,
}

#[derive(Debug)]
struct Read {
    caller: Caller,
    request: Request,
    since: Instant,
    /// A signal ends it then.
    ends_at: Option<Instant>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    New,
    Asked(u64),
    Known(LogIndex),
}

impl Mount {
    /// No leader answers: this mount goes by its policy.
    pub(super) fn is_cut_off(&self) -> bool {
        self.life != Life::Starting && !self.is_fresh && self.reads.hope_until <= self.now
    }

    /// A leader may answer for another lease from now on.
    pub(super) fn hope(&mut self, now: Instant) {
        self.reads.hope_until = now.after(self.config.timing.lease);
    }

    /// Keeps a request that must not be answered from this replica as it is. Gives back all others.
    pub(super) fn keep_read(
        &mut self,
        now: Instant,
        unique: u64,
        caller: Caller,
        request: Request,
    ) -> Option<(Caller, Request)> {
        if self.is_fresh || !is_read(&request) || self.serves_alone() {
            return Some((caller, request));
        }
        let read = Read { caller, request, since: now, ends_at: None, stage: Stage::New };
        self.reads.waiting.insert(unique, read);
        None
    }

    /// A new connection: what was asked on another is not answered any more.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.hope(now);
        self.reads.asked = None;
        for read in self.reads.waiting.values_mut() {
            if let Stage::Asked(_) = read.stage {
                read.stage = Stage::New;
            }
        }
    }

    pub(super) fn read_index(&mut self, now: Instant, number: u64, index: LogIndex) {
        if self.reads.asked != Some(number) {
            return;
        }
        self.hope(now);
        self.reads.asked = None;
        for read in self.reads.waiting.values_mut() {
            if let Stage::Asked(asked) = read.stage
                && asked <= number
            {
                read.stage = Stage::Known(index);
            }
        }
    }

    /// Asks for those that came since, and answers those that may be.
    pub(super) fn go_on_reading(&mut self, now: Instant) {
        self.tell_whether_cut_off();
        let (all, applied) = (self.is_fresh || self.serves_alone(), self.replica.applied());
        let is_due = |read: &Read| all || matches!(read.stage, Stage::Known(index) if index <= applied);
        let due: Vec<u64> =
            self.reads.waiting.iter().filter(|(_, read)| is_due(read)).map(|(unique, _)| *unique).collect();
        for unique in due {
            if let Some(Read { caller, request, .. }) = self.reads.waiting.remove(&unique) {
                self.request(now, unique, caller, request);
            }
        }
        let is_new = |read: &Read| read.stage == Stage::New;
        if self.reads.asked.is_none() && self.client.is_attached() && self.reads.waiting.values().any(is_new) {
            self.reads.last_number += 1;
            let number = self.reads.last_number;
            self.reads.asked = Some(number);
            self.reads
                .waiting
                .values_mut()
                .filter(|read| is_new(read))
                .for_each(|read| read.stage = Stage::Asked(number));
            self.client.tell(ToLeader::ReadIndex { number });
        }
    }

    /// A signal hit the caller: as for changes, the call lasts as long as a change of leader takes and no longer. False
    /// when it is no read that waits.
    pub(super) fn interrupt_read(&mut self, unique: u64) -> bool {
        let lease = self.config.timing.lease;
        let read = self.reads.waiting.get_mut(&unique);
        read.map(|read| read.ends_at = Some(read.since.after(lease))).is_some()
    }

    pub(super) fn end_interrupted_reads(&mut self, now: Instant) {
        self.refuse_reads(Errno::EINTR, |read| read.ends_at.is_some_and(|at| at <= now));
    }

    pub(super) fn refuse_all_reads(&mut self, errno: Errno) {
        self.refuse_reads(errno, |_| true);
    }

    fn refuse_reads(&mut self, errno: Errno, is_concerned: impl Fn(&Read) -> bool) {
        let reads = &self.reads.waiting;
        let ended: Vec<u64> = reads.iter().filter(|(_, read)| is_concerned(read)).map(|(unique, _)| *unique).collect();
        for unique in ended {
            self.reads.waiting.remove(&unique);
            self.respond(unique, Err(errno));
        }
    }

    /// When something is to be done about reads though nothing happens.
    pub(super) fn reads_timeout(&self) -> Option<Instant> {
        let ends = self.reads.waiting.values().filter_map(|read| read.ends_at).min();
        let is_hoping = self.life != Life::Starting && !self.is_fresh && !self.reads.is_cut_off;
        [ends, is_hoping.then_some(self.reads.hope_until)].into_iter().flatten().min()
    }

    pub(super) fn serves_alone(&self) -> bool {
        self.config.when_disconnected == WhenDisconnected::Serve && self.is_cut_off()
    }

    fn tell_whether_cut_off(&mut self) {
        let is_cut_off = self.is_cut_off();
        if is_cut_off && !self.reads.is_cut_off {
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
        self.reads.is_cut_off = is_cut_off;
    }
}

/// Answered from the replica.
const fn is_read(request: &Request) -> bool {
    matches!(
        request,
        Request::Lookup { .. }
            | Request::ByHandle { .. }
            | Request::Parent { .. }
            | Request::Getattr { .. }
            | Request::Readlink { .. }
            | Request::Open { .. }
            | Request::Read { .. }
            | Request::Opendir { .. }
            | Request::Readdir { .. }
            | Request::Getxattr { .. }
            | Request::Listxattr { .. }
            | Request::SeekData { .. }
            | Request::SeekHole { .. }
    )
}
