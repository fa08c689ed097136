//! Where each `Breach` takes effect: what is changed, on purpose, on the way between mounts, kernels and nodes so that
//! a rule of docs/protocol.md is broken.

use std::time::Duration;

use super::{Event, World};
use crate::{
    limits::Timing,
    message::mount::{ToLeader, ToMount},
    mount::{Notification, OpenedAs, Request, Response},
    namespace::{Operation, Reply},
    sim::{host::Link, options::Breach, oracle::Oracle},
    types::{Errno, Ino, LockFamily, LockKind, LogIndex, Space, Stamp},
};

/// An open file that the mount was never told of.
const FORGED_HANDLE: u64 = u64::MAX;
/// Where a sequence says which sending of a call it was, if those are to be taken for different calls.
const SENDING_BITS: u32 = 40;

impl World {
    /// The mount has sent this, whether it will arrive or not.
    pub(super) fn break_at_sending(&mut self, link: u64, message: &ToLeader) {
        let message = match (self.options.breach, message) {
            (Some(Breach::Renewals), ToLeader::Renew { number }) => granted(*number),
            // Before the entries that it lacks, which come the same way.
            (Some(Breach::ReadIndexes), ToLeader::ReadIndex { number }) => {
                ToMount::ReadIndex { number: *number, index: LogIndex(0) }
            }
            _ => return,
        };
        if let Some(Link { mount, mount_life: life, mount_connection: connection, .. }) = self.links.get(&link).copied()
        {
            self.after(Duration::ZERO, Event::Forged { mount, life, connection, message: Box::new(message) });
        }
    }

    /// The kernel asks the mount.
    pub(super) fn break_request(&self, request: &mut Request) {
        if let (Some(Breach::Appends), Request::Write { flags, .. }) = (self.options.breach, request) {
            flags.append = false;
        }
    }

    /// What the kernel is answered in the mount's place.
    pub(super) fn answer_in_its_place(&self, number: usize, request: &Request) -> Option<Result<Response, Errno>> {
        if self.options.breach != Some(Breach::Recalls) {
            return None;
        }
        let session = self.mounts[number].core.status().session;
        let is_elsewhere = |ino: &Ino| self.oracle.delegated_to(*ino).is_some_and(|holder| Some(holder) != session);
        match request {
            Request::Getattr { ino, .. } if is_elsewhere(ino) => {
                let attributes = self.oracle.attributes(*ino)?;
                Some(Ok(Response::Attributes { attributes, ttl: Duration::ZERO }))
            }
            Request::Open { ino, flags } if is_elsewhere(ino) && !flags.write => {
                let opened = OpenedAs { fh: FORGED_HANDLE, no_flush: true, ..OpenedAs::default() };
                Some(Ok(Response::Opened(opened)))
            }
            Request::Read { ino, fh: FORGED_HANDLE, .. } => Some(Ok(Response::Data(vec![self.oracle.content(*ino)?]))),
            Request::Release { fh: FORGED_HANDLE, .. } => Some(Ok(Response::Done)),
            _ => None,
        }
    }

    /// The mount answers its kernel.
    pub(super) fn break_answer(&self, result: &mut Result<Response, Errno>) {
        match (self.options.breach, result) {
            (Some(Breach::Fences), result) => keep_for_long(result),
            (Some(Breach::Closes), Ok(Response::Opened(opened) | Response::Created { opened, .. })) => {
                opened.no_flush = true;
            }
            _ => {}
        }
    }

    /// The message arrives at a node.
    pub(super) fn break_for_node(&mut self, number: u64, link: Link, message: &mut ToLeader) {
        match (self.options.breach, message) {
            (Some(Breach::LateWrites), ToLeader::Operation { operation, .. }) => match operation {
                Operation::Write { fence, .. } => *fence = None,
                Operation::Flush(flush) => flush.fence = None,
                _ => {}
            },
            (Some(Breach::Turns), ToLeader::Operation { operation: Operation::Lock { claim, .. }, .. })
                if claim.family == LockFamily::Open =>
            {
                claim.kind = LockKind::Shared;
            }
            (Some(Breach::Retries), ToLeader::Operation { sequence, .. }) => {
                let sendings = self.sendings.entry((link.mount, link.mount_life, *sequence)).or_insert(0);
                sequence.0 |= *sendings << SENDING_BITS;
                *sendings += 1;
            }
            (Some(Breach::Orphans), ToLeader::Acknowledge { referenced, .. }) => referenced.clear(),
            (Some(Breach::Orphans), ToLeader::Hello(hello)) => hello.orphans.clear(),
            (Some(Breach::Rounds), ToLeader::Renew { number: renewal }) => {
                let message = Box::new(granted(*renewal));
                self.after(Duration::ZERO, Event::ToMount { link: number, message });
            }
            _ => {}
        }
    }

    /// The message arrives at a mount.
    pub(super) fn break_for_mount(&self, message: &mut ToMount) {
        match (self.options.breach, message) {
            (Some(Breach::Queue), ToMount::Answer { outcome, .. }) if *outcome == Ok(Reply::Queued) => {
                *outcome = Ok(Reply::Locked);
            }
            (Some(Breach::Retries), ToMount::Answer { sequence, .. }) => sequence.0 &= (1 << SENDING_BITS) - 1,
            _ => {}
        }
    }

    /// The leader has sent the mount this: without waiting for anybody it is told that all of it is acknowledged.
    pub(super) fn make_up_acknowledgement(&mut self, link: u64, message: &ToMount) {
        if let (Some(Breach::Completion), ToMount::Entries { entries }) = (self.options.breach, message) {
            let entries = entries.iter().map(|(index, _)| *index).collect();
            let message = Box::new(ToLeader::Acknowledge { entries, referenced: Vec::new() });
            self.after(Duration::ZERO, Event::ToNode { link, message });
        }
    }
}

/// Whether the ticket drops pages that a READ may have filled from before a WRITE: a part of a file and nothing else.
pub(super) fn is_of_refills(notifications: &[Notification]) -> bool {
    matches!(notifications, [Notification::Pages { length: 1.., .. }])
}

/// What tells a kernel of a directory behind the listings that are on their way.
pub(super) fn is_told_again(notifications: &[Notification], oracle: &Oracle) -> bool {
    matches!(notifications, [Notification::Attributes { ino }, Notification::Pages { ino: of, offset: 0, length: 0 }]
        if ino == of && oracle.is_directory(*ino))
}

/// The answer to a renewal.
fn granted(number: u64) -> ToMount {
    let space = Space { total: 1 << 40, available: 1 << 39 };
    ToMount::Lease { number, stamp: Stamp(0), space, stores: Vec::new() }
}

/// Lets the kernel keep everything that the answer tells, for as long as anything.
fn keep_for_long(result: &mut Result<Response, Errno>) {
    let long = Timing::DEFAULT.cache;
    match result {
        Ok(Response::Entry { entry_ttl, attributes_ttl, .. } | Response::Created { entry_ttl, attributes_ttl, .. }) => {
            (*entry_ttl, *attributes_ttl) = (long, long)
        }
        Ok(Response::Attributes { ttl, .. } | Response::Missing { ttl }) => *ttl = long,
        _ => {}
    }
}
