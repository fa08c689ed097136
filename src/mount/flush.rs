//! How changes of a file reach the log, in the order in which they were made: written bytes, and with them every
//! operation whose place among the writes matters (truncation, append, times). A job's blocks go to the stores first,
//! while earlier jobs of the file are still being applied; the operation is proposed when those are. Nothing here waits
//! for the *completion* of an earlier job (docs/protocol.md R9-application).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Caller, Mount, Notification, Response,
    files::{AppliedJob, Job, JobId, NewJob, Right},
    requests::{Awaited, OpenFile, Pending, Purpose},
    timers::Timer,
};
use crate::{
    limits,
    namespace::{self, Operation, Reply},
    types::{BlockHash, Errno, Ino, Instant, Piece, UploadId},
};

/// Jobs of one file in its queue beyond which age alone starts no further one.
const QUEUED_BY_AGE_MAX: usize = 4;
/// Extents in one window of the inline limit that are put together.
const EXTENTS_MAX: usize = 64;

impl Mount {
    /// Sends what is dirty of the file on its way.
    pub(super) fn flush(&mut self, now: Instant, ino: Ino) {
        self.send_on(now, ino, false);
    }

    /// The same; with `gives_back` the delegation, where it is held, goes with it.
    pub(super) fn send_on(&mut self, now: Instant, ino: Ino, gives_back: bool) {
        let Some(sending) = self.files.take_dirty(ino, gives_back) else { return };
        self.timers.stop(Timer::Age(ino));
        let keeps_delegation = sending.keeps_delegation();
        for job in sending.into_jobs(self.client.inline_bytes_max()) {
            self.enqueue(now, job);
        }
        if keeps_delegation && !self.handles.ends_are_told() {
            self.flush_in_time(now, ino);
        }
    }

    pub(super) fn flush_everything(&mut self, now: Instant) {
        for ino in self.files.dirty_inodes() {
            self.flush(now, ino);
        }
    }

    /// A change that takes its place behind all that its files already have.
    pub(super) fn enqueue(&mut self, now: Instant, job: NewJob) -> JobId {
        let (first, request, deadline) = (job.inodes[0], job.request, self.deadline(now));
        let id = self.files.enqueue(now, job, deadline, self.client.stores());
        match request {
            None => self.timers.set(Timer::Job(id), deadline),
            Some(unique) => {
                if let Some(waiting) = self.requests.get_mut(unique) {
                    waiting.job = Some(id);
                }
            }
        }
        self.propose_next(now, first);
        id
    }

    /// FLUSH and FSYNC: answered when all changes of the file up to now are complete.
    pub(super) fn complete_file(&mut self, now: Instant, unique: u64, caller: Caller, file: OpenFile) {
        let OpenFile { ino, fh } = file;
        self.flush(now, ino);
        if !self.files.has(ino) {
            let lost = self.handles.take_error(ino, fh);
            return self.respond(unique, lost.map_or(Ok(Response::Done), Err));
        }
        self.wait(now, unique, Pending::new(caller, self.deadline(now), Awaited::Plain));
        self.watch_file(now, unique, file, Response::Done);
    }

    /// The waiting request is answered when all changes of the file up to now are complete.
    pub(super) fn watch_file(&mut self, now: Instant, unique: u64, file: OpenFile, response: Response) {
        let jobs = self.files.watch(file.ino, unique);
        if jobs.is_empty() {
            let lost = self.handles.take_error(file.ino, file.fh);
            return self.answer(now, unique, lost.map_or(Ok(response), Err));
        }
        if let Some(waiting) = self.requests.get_mut(unique) {
            waiting.need = Awaited::Flush { jobs, through: Some(file), response };
        }
    }

    /// The waiting request is answered when this job is complete.
    pub(super) fn watch_job(&mut self, unique: u64, id: JobId) {
        self.files.watch_job(id, unique);
        if let Some(waiting) = self.requests.get_mut(unique) {
            waiting.need = Awaited::Flush { jobs: BTreeSet::from([id]), through: None, response: Response::Done };
        }
    }

    /// Proposes what stands first in the queues of all its files and has its blocks stored. What another session may be
    /// changing is recalled first.
    pub(super) fn propose_next(&mut self, now: Instant, ino: Ino) {
        let Some((id, job)) = self.files.next_job(ino) else { return };
        // A flush says itself what it rests on, and locks are nobody's content.
        let is_free = matches!(job.operation(), Operation::Flush(_)) || job.operation().is_locking();
        let elsewhere = job.inodes().iter().copied().find(|ino| !is_free && self.is_delegated_elsewhere(*ino));
        match elsewhere {
            // What is only tidying up is not worth a recall.
            Some(_) if is_coalescing(job.operation()) => return self.job_answered(now, id, Err(Errno::EAGAIN)),
            Some(ino) => return self.recall(now, ino),
            None => {}
        }
        let (operation, request) = (job.proposal(), job.request());
        self.counters.operations_proposed += 1;
        let sequence = self.client.submit(operation);
        self.requests.submitted(sequence, Purpose::Job(id), request);
        self.files.submitted(id, sequence);
    }

    /// The stores have the job's blocks, or cannot take them.
    pub(super) fn uploaded(&mut self, now: Instant, upload: UploadId, result: Result<(), Errno>) {
        let Some(id) = self.files.uploaded(upload, result) else { return };
        if let Err(errno) = result {
            return self.job_answered(now, id, Err(errno));
        }
        let inodes = self.files.job(id).map(|job| job.inodes().to_vec()).unwrap_or_default();
        for ino in inodes {
            self.propose_next(now, ino);
        }
    }

    /// The job's entry is part of the replica: its bytes need not be shown over it any more, and the next may go.
    pub(super) fn job_applied(&mut self, now: Instant, id: JobId) {
        let Some(AppliedJob { inodes, releases_locks, blocks }) = self.files.applied(id) else { return };
        for (hash, bytes) in blocks {
            // What was written is soon read, but one large file is not to drive out everything else.
            if bytes.len() <= self.reading.capacity() / 8 {
                self.reading.keep(hash, bytes);
            }
        }
        self.restart_deadlines(now, &inodes);
        for ino in inodes {
            self.propose_next(now, ino);
            if matches!(self.files.right(ino), Right::Held(_)) {
                self.retry_writers(now, ino);
            }
            if releases_locks {
                self.resume_parked(now, ino);
            }
        }
    }

    /// Another session had the file when its entry was applied, or it was carried out in part: it goes again from its place
    /// in the queue, once the file is back.
    pub(super) fn propose_again(&mut self, now: Instant, id: JobId, outcome: Result<Reply, Errno>) {
        let Some(job) = self.files.job(id) else { return };
        // To a lock it says that another has it.
        if is_coalescing(job.operation()) || job.operation().is_locking() && outcome.is_err() {
            return self.job_answered(now, id, Err(Errno::EAGAIN));
        }
        let (inodes, request) = (job.inodes().to_vec(), job.request());
        self.files.make_ready_again(id);
        if let Some(waiting) = request.and_then(|unique| self.requests.get_mut(unique)) {
            waiting.sequence = None;
        }
        if outcome.is_ok() {
            self.restart_deadlines(now, &inodes);
        }
        for ino in inodes {
            self.propose_next(now, ino);
        }
    }

    /// A change of these files, or a part of one, was carried out. The write timeout is for what makes no progress. So it
    /// begins anew for the rest of the change, for what stands behind it, for whoever waits for these, and for WRITEs that
    /// wait for room; not for a caller that a signal hit.
    fn restart_deadlines(&mut self, now: Instant, inodes: &[Ino]) {
        let deadline = self.deadline(now);
        let ids: BTreeSet<JobId> = inodes.iter().flat_map(|ino| self.files.unanswered(*ino)).collect();
        let mut requests = BTreeSet::new();
        for id in ids {
            let Some(renewed) = self.files.renew(id, deadline) else { continue };
            if renewed.request.is_none() {
                self.timers.set(Timer::Job(id), deadline);
            }
            requests.extend(renewed.request);
            requests.extend(renewed.watchers);
        }
        // What is applied makes room.
        requests.extend(self.files.blocked());
        for unique in requests {
            let Some(waiting) = self.requests.get_mut(unique) else { continue };
            // Whose lock is queued has no deadline.
            if waiting.late != Errno::EINTR && self.timers.stop(Timer::Request(unique)) {
                self.timers.set(Timer::Request(unique), deadline);
                waiting.deadline = deadline;
            }
        }
    }

    /// The job is over: complete, refused, or without hope.
    pub(super) fn job_answered(&mut self, now: Instant, id: JobId, outcome: Result<Reply, Errno>) {
        let unsent_upload = self.files.job(id).and_then(Job::unsent_upload);
        self.job_applied(now, id);
        let Some(job) = self.files.end(id) else { return };
        // Of a job that was carried out its own entry has lifted the pins.
        if outcome.is_err()
            && let Some(upload) = unsent_upload.or(job.upload)
        {
            self.client.abandon_upload(upload);
        }
        self.timers.stop(Timer::Job(id));
        // ESTALE: what the flush rests on was taken away (R12-fencing). To the caller its bytes are lost.
        let is_refused = matches!(job.operation, Operation::Flush(_)) && outcome == Err(Errno::ESTALE);
        let outcome = if is_refused { Err(Errno::EIO) } else { outcome };
        let is_told = job.request.is_none() && !is_auxiliary(&job.operation) && !job.operation.is_locking();
        if let Some(errno) = outcome.err().filter(|_| is_told) {
            self.flush_failed(&job.inodes, errno);
        }
        for unique in &job.watchers {
            self.watched_job_ended(now, *unique, id);
        }
        if let Some(unique) = job.request {
            self.complete(now, unique, outcome);
        }
        match &job.operation {
            Operation::Delegate { ino } => self.asked(now, *ino, id, outcome.err()),
            Operation::Flush(flush) if flush.give_back => self.given_back(now, flush, outcome.is_err()),
            _ => {}
        }
        for ino in job.inodes {
            self.turn_step_ended(now, ino, id, outcome.err());
            self.tidy(ino);
        }
    }

    /// A flush that gives back is over. Where it was refused for what it carried, the delegation goes back without that.
    fn given_back(&mut self, now: Instant, flush: &namespace::Flush, is_refused: bool) {
        let ino = flush.ino;
        if self.files.right(ino) != Right::Returning {
            return;
        }
        let is_still_ours = is_refused && self.own_delegation(ino) == Some(flush.grant);
        let right = if is_still_ours { Right::Held(flush.grant) } else { Right::None };
        self.files.set_right(ino, right);
        if !is_bare(flush) {
            self.send_on(now, ino, true);
        }
    }

    /// Flushes that rest on a delegation which was taken away, and did not leave yet.
    pub(super) fn abandon_flushes(&mut self, now: Instant, ino: Ino) {
        for id in self.files.queue(ino) {
            let is_flush = |job: &Job| matches!(job.operation(), Operation::Flush(_));
            if self.files.job(id).is_some_and(|job| is_flush(job) && job.is_unsent()) {
                self.job_answered(now, id, Err(Errno::EIO));
            }
        }
    }

    /// Bytes are lost: everyone who has the file open is told, and the kernel must not show them any longer.
    fn flush_failed(&mut self, inodes: &[Ino], errno: Errno) {
        for ino in inodes {
            self.handles.fail(*ino, errno);
            if self.kernel.is_known(*ino) {
                let pages = Notification::Pages { ino: *ino, offset: 0, length: 0 };
                self.issue(vec![Notification::Attributes { ino: *ino }, pages], Vec::new());
            }
        }
    }

    fn watched_job_ended(&mut self, now: Instant, unique: u64, id: JobId) {
        let Some(waiting) = self.requests.get_mut(unique) else { return };
        let Awaited::Flush { jobs, through, response } = &mut waiting.need else { return };
        jobs.remove(&id);
        if jobs.is_empty() {
            let lost = through.and_then(|file| self.handles.take_error(file.ino, file.fh));
            let result = lost.map_or_else(|| Ok(response.clone()), Err);
            self.answer(now, unique, result);
        }
    }

    /// A flush has been tried for as long as the write timeout. While the file is open it is tried on, and the next who
    /// asks is told (README.md "Availability"). Of a closed file nobody can be told more than close() was. Where closes
    /// are not told, nobody was told anything yet, and it is tried for as long as this mount lives.
    pub(super) fn job_is_late(&mut self, now: Instant, id: JobId) {
        let Some(job) = self.files.job(id) else { return };
        // A lock is given back however long it takes, or ends with the session.
        if job.operation().is_locking() {
            return;
        }
        let is_closed = !job.inodes().iter().any(|ino| self.handles.is_open(*ino));
        if is_auxiliary(job.operation()) || is_closed && self.handles.ends_are_told() {
            return self.abandon_job(now, id, Errno::EIO);
        }
        // Who waited for it was told by its own timeout.
        if !job.is_watched() {
            for ino in job.inodes() {
                self.handles.fail(*ino, Errno::EIO);
            }
        }
    }

    /// Gives the job up. Where it was proposed it may still take effect, once.
    pub(super) fn abandon_job(&mut self, now: Instant, id: JobId, errno: Errno) {
        if let Some(sequence) = self.files.job(id).and_then(Job::call) {
            self.client.give_up(sequence);
            self.requests.take_purpose(sequence);
        }
        self.job_answered(now, id, Err(errno));
    }

    /// Jobs of the file that nobody can be told of any more: it is closed and their time is over.
    pub(super) fn abandon_late_jobs(&mut self, now: Instant, ino: Ino) {
        for id in self.files.unanswered(ino) {
            if self.files.is_late(id, now) {
                self.abandon_job(now, id, Errno::EIO);
            }
        }
    }

    /// The oldest dirty byte of the file has waited long enough.
    pub(super) fn come_of_age(&mut self, now: Instant, ino: Ino) {
        if !self.files.has(ino) {
            return;
        }
        if self.files.queue(ino).len() < QUEUED_BY_AGE_MAX {
            // Where no close is told, this is all that gives a delegation back.
            return self.send_on(now, ino, !self.handles.ends_are_told());
        }
        // Nothing gets through at present: more and smaller jobs would not help.
        let due = now.after(self.config.timing.flush_age);
        self.timers.set(Timer::Age(ino), due);
    }

    /// The inode is gone for good: nothing of it can be written any more, and nobody can ask.
    pub(super) fn inode_freed(&mut self, now: Instant, ino: Ino) {
        self.kernel.forget_readers(ino);
        if !self.files.freed(ino) {
            return;
        }
        self.timers.stop(Timer::Age(ino));
        for id in self.files.queue(ino) {
            if self.files.job(id).is_some_and(Job::is_unsent) {
                self.job_answered(now, id, Err(Errno::ESTALE));
            }
        }
        self.retry_writers(now, ino);
        self.tidy(ino);
    }

    /// Forgets what need not be known of the file.
    pub(super) fn tidy(&mut self, ino: Ino) {
        if !self.handles.is_open(ino) {
            self.files.tidy(ino);
        }
    }

    /// Many small extents in one stretch of the file become one block, guarded by the content's version: what another
    /// mount writes meanwhile is never undone.
    pub(super) fn coalesce(&mut self, now: Instant, ino: Ino, written: u64) {
        if !self.files.is_scattered(ino) {
            return;
        }
        let window = (self.client.inline_bytes_max() as u64).min(limits::INLINE_BYTES_MAX as u64);
        let Some((offset, bytes)) = self.scattered(ino, written, window) else { return };
        let Some(data_version) = self.volume().inode(ino).map(|inode| inode.data_version) else { return };
        let block = Some(BlockHash::of(&bytes));
        let piece = Piece { offset, length: bytes.len() as u64, block, content: Some(bytes) };
        let operation = Operation::Coalesce { ino, data_version, piece };
        self.enqueue(now, NewJob::of(ino, operation));
    }

    /// The bytes around `written`, within one window and without a hole, where they lie in many extents and are all here.
    fn scattered(&mut self, ino: Ino, written: u64, window: u64) -> Option<(u64, Bytes)> {
        let from = written - written.checked_rem(window)?;
        let extents = self.volume().extents(ino, from, window);
        let extents: Vec<_> = extents.filter_map(|extent| extent.block.map(|block| (extent, block))).collect();
        if extents.len() < EXTENTS_MAX {
            return None;
        }
        let mut bytes = Vec::new();
        let mut begin = None;
        let mut at = 0;
        for (extent, block) in extents {
            let offset = extent.offset.max(from);
            let end = extent.end().min(from + window);
            if begin.is_some() && offset != at {
                // Behind a hole a new stretch begins; the one with the written byte is wanted.
                if at > written {
                    break;
                }
                bytes.clear();
                begin = None;
            }
            let block = self.reading.block(&block)?;
            let first = usize::try_from(extent.block_offset + (offset - extent.offset)).ok()?;
            let length = usize::try_from(end - offset).ok()?;
            bytes.extend_from_slice(block.get(first..first.checked_add(length)?)?);
            begin.get_or_insert(offset);
            at = end;
        }
        begin.map(|begin| (begin, Bytes::from(bytes)))
    }
}

/// It carries nothing that could be lost.
fn is_bare(flush: &namespace::Flush) -> bool {
    flush.pieces.is_empty() && flush.changed_at.is_none()
}

/// Nobody asked for it, and nobody is told when it fails.
fn is_auxiliary(operation: &Operation) -> bool {
    match operation {
        Operation::Coalesce { .. } | Operation::Delegate { .. } => true,
        Operation::Flush(flush) => is_bare(flush),
        _ => false,
    }
}

const fn is_coalescing(operation: &Operation) -> bool {
    matches!(operation, Operation::Coalesce { .. })
}
