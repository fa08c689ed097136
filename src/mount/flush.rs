//! How changes of a file reach the log, in the order in which they were made: written bytes, and with them every
//! operation whose place among the writes matters (truncation, append, times). A job's blocks go to the stores first,
//! while earlier jobs of the file are still being applied; the operation is proposed when those are. Nothing here waits
//! for the *completion* of an earlier job (docs/protocol.md R9-application).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Caller, Mount, Notification, Purpose, Response, Timer,
    changes::Changes,
    delegation::Right,
    waiting::{Kind, Waiting},
};
use crate::{
    limits,
    namespace::{self, Operation, Reply},
    types::{AttributeChanges, BlockHash, Errno, Ino, Instant, LogIndex, Piece, Sequence, UploadId},
};

/// Jobs of one file in its queue beyond which age alone starts no further one.
const QUEUED_BY_AGE_MAX: usize = 4;

/// A change of one or two files on its way into the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct JobId(pub(crate) u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Its blocks are going to the stores.
    Uploading(UploadId),
    /// It waits for earlier changes of its files.
    Ready(Option<UploadId>),
    Submitted(Sequence),
    /// Part of the replica; its answer is still to come.
    Applied,
}

/// What a job shows over the replica until it is applied.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pub(crate) runs: Vec<(u64, Bytes)>,
    pub(crate) changes: Changes,
}

#[derive(Debug)]
pub(crate) struct Job {
    inodes: Vec<Ino>,
    operation: Operation,
    blocks: Vec<(BlockHash, Bytes)>,
    /// The bytes it writes, in order: shown over the replica until it is applied.
    pub(crate) runs: Vec<(u64, Bytes)>,
    pub(crate) run_bytes: usize,
    /// What else it changes, shown likewise.
    pub(crate) changes: Changes,
    /// What its blocks are pinned by in the stores.
    upload: Option<UploadId>,
    /// The request that is answered by its reply. `None`: a flush.
    pub(super) request: Option<u64>,
    /// Requests that wait until it is complete.
    watchers: Vec<u64>,
    stage: Stage,
    deadline: Instant,
}

impl Job {
    /// It gives locks back.
    pub(crate) const fn releases_locks(&self) -> bool {
        use Operation::{CancelLock, ReleaseLocks, Unlock};
        matches!(self.operation, Unlock { .. } | ReleaseLocks { .. } | CancelLock { .. })
    }

    /// Its bytes inside `from..to`, in order, each with its place in the file.
    pub(crate) fn runs_in(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        let first = self.runs.partition_point(|(offset, bytes)| offset + bytes.len() as u64 <= from);
        self.runs[first..].iter().take_while(move |(offset, _)| *offset < to).map(move |(offset, bytes)| {
            let begin = from.max(*offset);
            let end = to.min(offset + bytes.len() as u64);
            // Both ends lie inside a run that is in memory.
            (begin, bytes.slice((begin - offset) as usize..(end - offset) as usize))
        })
    }
}

/// What one operation of a flush carries.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) blocks: Vec<(BlockHash, Bytes)>,
    pub(crate) runs: Vec<(u64, Bytes)>,
}

/// Cuts runs into operations, between runs only. A little content travels inline; larger runs, as soon as there is more
/// than fits, as blocks.
pub(crate) fn flights(runs: Vec<(u64, Bytes)>, inline_bytes_max: usize) -> Vec<Flight> {
    let total: usize = runs.iter().map(|(_, bytes)| bytes.len()).sum();
    let is_small = total <= inline_bytes_max;
    let mut flights: Vec<Flight> = Vec::new();
    let mut inline = 0;
    for (offset, bytes) in runs {
        let is_inline = is_small || bytes.len() <= inline_bytes_max / 4;
        let is_full = flights.last().is_none_or(|flight| {
            flight.pieces.len() >= limits::PIECES_MAX || (is_inline && inline + bytes.len() > inline_bytes_max)
        });
        if is_full {
            inline = 0;
            flights.push(Flight { pieces: Vec::new(), blocks: Vec::new(), runs: Vec::new() });
        }
        let Some(flight) = flights.last_mut() else { continue };
        let hash = BlockHash::of(&bytes);
        let content = is_inline.then(|| bytes.clone());
        if is_inline {
            inline += bytes.len();
        } else {
            flight.blocks.push((hash, bytes.clone()));
        }
        flight.pieces.push(Piece { offset, length: bytes.len() as u64, block: Some(hash), content });
        flight.runs.push((offset, bytes));
    }
    flights
}

impl Mount {
    /// Sends what is dirty of the file on its way.
    pub(super) fn flush(&mut self, now: Instant, ino: Ino) {
        self.send_on(now, ino, false);
    }

    /// The same; with `gives_back` the delegation, where it is held, goes with it.
    pub(super) fn send_on(&mut self, now: Instant, ino: Ino, gives_back: bool) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let grant = if let Right::Held(grant) = file.right { Some(grant) } else { None };
        let gives_back = gives_back && grant.is_some();
        if !file.is_dirty() && !gives_back {
            return;
        }
        if gives_back {
            file.right = Right::Returning;
        }
        let bytes = file.dirty.bytes();
        let runs = file.dirty.take();
        let (changes, fence) = (std::mem::take(&mut file.changes), file.fence.take());
        self.timers.stop(Timer::Age(ino));
        self.dirty_bytes -= bytes;
        let mut flights = flights(runs, self.client.inline_bytes_max());
        if flights.is_empty() {
            flights.push(Flight { pieces: Vec::new(), blocks: Vec::new(), runs: Vec::new() });
        }
        let last = flights.len() - 1;
        for (number, Flight { pieces, blocks, runs }) in flights.into_iter().enumerate() {
            // Cut before anything is written, all else with the last of them.
            let changes = Changes {
                cut: changes.cut.filter(|_| number == 0),
                size_min: if number == last { changes.size_min } else { 0 },
                set: if number == last { changes.set } else { AttributeChanges::default() },
                ..changes
            };
            let operation = match grant {
                Some(grant) => Operation::Flush(Box::new(namespace::Flush {
                    pieces,
                    give_back: gives_back && number == last,
                    ..as_flush(ino, (grant, fence), &changes)
                })),
                // Write-back of a mapping, which waits for no grant (R26-mappings).
                None => Operation::Write {
                    ino,
                    pieces,
                    append: false,
                    mtime: changes.written_at,
                    clear_suid: changes.set.clear_suid,
                    uploads: Vec::new(),
                    fence,
                },
            };
            self.enqueue(now, vec![ino], operation, blocks, Overlay { runs, changes }, None);
        }
        if grant.is_some() && !gives_back && !self.handles.ends_are_told() {
            self.flush_in_time(now, ino);
        }
    }

    /// FLUSH: close(2) of one descriptor. The last one that may write gives the delegation back with what is dirty. If
    /// nothing is dirty, nobody waits for that.
    pub(super) fn close(&mut self, now: Instant, unique: u64, caller: Caller, (ino, fh): (Ino, u64)) {
        let gives_back = self.handles.writers(ino) <= 1;
        if gives_back && self.files.get(&ino).is_some_and(super::file::File::is_dirty) {
            self.send_on(now, ino, true);
        }
        self.complete_file(now, unique, caller, (ino, fh));
        if gives_back {
            self.send_on(now, ino, true);
        }
    }

    pub(super) fn flush_everything(&mut self, now: Instant) {
        let dirty: Vec<Ino> = self.files.iter().filter(|(_, file)| file.is_dirty()).map(|(ino, _)| *ino).collect();
        for ino in dirty {
            self.flush(now, ino);
        }
    }

    /// A change that takes its place behind all that these files already have; `request` is answered by its reply.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        inodes: Vec<Ino>,
        operation: Operation,
        blocks: Vec<(BlockHash, Bytes)>,
        overlay: Overlay,
        request: Option<u64>,
    ) -> JobId {
        self.last_job += 1;
        let id = JobId(self.last_job);
        let stage = if blocks.is_empty() {
            Stage::Ready(None)
        } else {
            let upload = self.uploads.begin(now, blocks.iter().cloned(), self.client.stores());
            self.uploading.insert(upload, id);
            Stage::Uploading(upload)
        };
        let deadline = self.deadline(now);
        if request.is_none() {
            self.timers.set(Timer::Job(id), deadline);
        }
        let Overlay { runs, changes } = overlay;
        let run_bytes = runs.iter().map(|(_, bytes)| bytes.len()).sum();
        self.flushing_bytes += run_bytes;
        for ino in &inodes {
            let file = self.files.entry(*ino).or_default();
            file.queue.push_back(id);
            file.unanswered.insert(id);
        }
        let first = inodes[0];
        let job = Job {
            inodes,
            operation,
            blocks,
            runs,
            run_bytes,
            changes,
            upload: None,
            request,
            watchers: Vec::new(),
            stage,
            deadline,
        };
        self.jobs.insert(id, job);
        if let Some(unique) = request
            && let Some(waiting) = self.waiting.get_mut(unique)
        {
            waiting.job = Some(id);
        }
        self.propose_next(now, first);
        id
    }

    /// FLUSH and FSYNC: answered when all changes of the file up to now are complete.
    pub(super) fn complete_file(&mut self, now: Instant, unique: u64, caller: Caller, (ino, fh): (Ino, u64)) {
        self.flush(now, ino);
        if !self.files.contains_key(&ino) {
            let lost = self.handles.take_error(ino, fh);
            return self.respond(unique, lost.map_or(Ok(Response::Done), Err));
        }
        self.wait(now, unique, Waiting::new(caller, self.deadline(now), Kind::Plain));
        self.watch_file(now, unique, (ino, fh), Response::Done);
    }

    /// The waiting request is answered when all changes of the file up to now are complete.
    pub(super) fn watch_file(&mut self, now: Instant, unique: u64, (ino, fh): (Ino, u64), response: Response) {
        let jobs = self.files.get(&ino).map(|file| file.unanswered.clone()).unwrap_or_default();
        if jobs.is_empty() {
            let lost = self.handles.take_error(ino, fh);
            return self.answer(now, unique, lost.map_or(Ok(response), Err));
        }
        for job in &jobs {
            if let Some(job) = self.jobs.get_mut(job) {
                job.watchers.push(unique);
            }
        }
        if let Some(waiting) = self.waiting.get_mut(unique) {
            waiting.kind = Kind::Flush { jobs, through: Some((ino, fh)), response };
        }
    }

    /// The waiting request is answered when this job is complete.
    pub(super) fn watch_job(&mut self, unique: u64, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.watchers.push(unique);
        }
        if let Some(waiting) = self.waiting.get_mut(unique) {
            waiting.kind = Kind::Flush { jobs: BTreeSet::from([id]), through: None, response: Response::Done };
        }
    }

    /// Proposes what stands first in the queues of all its files and has its blocks stored. What another session may be
    /// changing is recalled first.
    pub(super) fn propose_next(&mut self, now: Instant, ino: Ino) {
        let Some(id) = self.files.get(&ino).and_then(|file| file.queue.front()).copied() else { return };
        let Some(job) = self.jobs.get(&id) else { return };
        let Stage::Ready(upload) = job.stage else { return };
        let is_first = |ino: &Ino| self.files.get(ino).is_some_and(|file| file.queue.front() == Some(&id));
        if !job.inodes.iter().all(is_first) {
            return;
        }
        // A flush says itself what it rests on, and locks are nobody's content.
        let is_free = matches!(job.operation, Operation::Flush(_)) || job.operation.is_locking();
        let elsewhere = job.inodes.iter().copied().find(|ino| !is_free && self.is_delegated_elsewhere(*ino));
        match elsewhere {
            // What is only tidying up is not worth a recall.
            Some(_) if is_coalescing(&job.operation) => return self.job_answered(now, id, Err(Errno::EAGAIN)),
            Some(ino) => return self.recall(now, ino),
            None => {}
        }
        let mut operation = job.operation.clone();
        if let Some(uploads) = operation.uploads_mut() {
            uploads.extend(upload);
        }
        self.counters.operations_proposed += 1;
        let request = job.request;
        let sequence = self.client.submit(operation);
        self.purposes.insert(sequence, Purpose::Job(id));
        if let Some(job) = self.jobs.get_mut(&id) {
            job.stage = Stage::Submitted(sequence);
            job.upload = upload;
        }
        if let Some(waiting) = request.and_then(|unique| self.waiting.get_mut(unique)) {
            waiting.sequence = Some(sequence);
        }
    }

    /// The stores have the job's blocks, or cannot take them.
    pub(super) fn uploaded(&mut self, now: Instant, upload: UploadId, result: Result<(), Errno>) {
        let Some(id) = self.uploading.remove(&upload) else { return };
        match result {
            Ok(()) => {
                let Some(job) = self.jobs.get_mut(&id) else { return };
                job.stage = Stage::Ready(Some(upload));
                for ino in job.inodes.clone() {
                    self.propose_next(now, ino);
                }
            }
            Err(errno) => self.job_answered(now, id, Err(errno)),
        }
    }

    /// The job's entry is part of the replica: its bytes need not be shown over it any more, and the next may go.
    pub(super) fn job_applied(&mut self, now: Instant, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.stage == Stage::Applied {
            return;
        }
        if let Stage::Uploading(upload) = job.stage {
            self.uploading.remove(&upload);
            self.uploads.abandon(upload);
        }
        job.stage = Stage::Applied;
        self.flushing_bytes -= std::mem::take(&mut job.run_bytes);
        job.runs = Vec::new();
        job.changes = Changes::default();
        let (inodes, releases_locks) = (job.inodes.clone(), job.releases_locks());
        for (hash, bytes) in std::mem::take(&mut job.blocks) {
            // What was written is soon read, but one large file is not to drive out everything else.
            if bytes.len() <= self.content.capacity() / 8 {
                self.content.insert(hash, bytes);
            }
        }
        for ino in &inodes {
            if let Some(file) = self.files.get_mut(ino) {
                file.queue.retain(|queued| *queued != id);
            }
        }
        self.restart_deadlines(now, &inodes);
        for ino in inodes {
            self.propose_next(now, ino);
            if matches!(self.right(ino), Right::Held(_)) {
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
        let Some(job) = self.jobs.get_mut(&id) else { return };
        // To a lock it says that another has it.
        if is_coalescing(&job.operation) || job.operation.is_locking() && outcome.is_err() {
            return self.job_answered(now, id, Err(Errno::EAGAIN));
        }
        // Such an entry lifts no pins.
        job.stage = Stage::Ready(job.upload);
        let (inodes, request) = (job.inodes.clone(), job.request);
        if let Some(waiting) = request.and_then(|unique| self.waiting.get_mut(unique)) {
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
        let files = inodes.iter().filter_map(|ino| self.files.get(ino));
        let ids: BTreeSet<JobId> = files.flat_map(|file| file.unanswered.iter().copied()).collect();
        let mut requests = BTreeSet::new();
        for id in ids {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            self.timers.stop(Timer::Job(id));
            job.deadline = deadline;
            if job.request.is_none() {
                self.timers.set(Timer::Job(id), deadline);
            }
            requests.extend(job.request);
            requests.extend(&job.watchers);
        }
        // What is applied makes room.
        requests.extend(&self.blocked);
        for unique in requests {
            let Some(waiting) = self.waiting.get_mut(unique) else { continue };
            // Whose lock is queued has no deadline.
            if waiting.late != Errno::EINTR && self.timers.stop(Timer::Request(unique)) {
                self.timers.set(Timer::Request(unique), deadline);
                waiting.deadline = deadline;
            }
        }
    }

    /// The job is over: complete, refused, or without hope.
    pub(super) fn job_answered(&mut self, now: Instant, id: JobId, outcome: Result<Reply, Errno>) {
        let uploading = match self.jobs.get(&id).map(|job| job.stage) {
            Some(Stage::Uploading(upload) | Stage::Ready(Some(upload))) => Some(upload),
            _ => None,
        };
        self.job_applied(now, id);
        let Some(job) = self.jobs.remove(&id) else { return };
        // Of a job that was carried out its own entry has lifted the pins.
        if outcome.is_err()
            && let Some(upload) = uploading.or(job.upload)
        {
            self.client.abandon_upload(upload);
        }
        self.timers.stop(Timer::Job(id));
        for ino in &job.inodes {
            if let Some(file) = self.files.get_mut(ino) {
                file.unanswered.remove(&id);
            }
        }
        // ESTALE: what the flush rests on was taken away (R12-fencing). To the caller its bytes are lost.
        let is_fenced = matches!(job.operation, Operation::Flush(_)) && outcome == Err(Errno::ESTALE);
        let outcome = if is_fenced { Err(Errno::EIO) } else { outcome };
        let is_told = job.request.is_none() && !is_auxiliary(&job.operation) && !job.operation.is_locking();
        if let Some(errno) = outcome.err().filter(|_| is_told) {
            self.flush_failed(&job, errno);
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
        if self.right(ino) != Right::Returning {
            return;
        }
        let is_still_ours = is_refused && self.own_delegation(ino) == Some(flush.grant);
        let right = if is_still_ours { Right::Held(flush.grant) } else { Right::None };
        if let Some(file) = self.files.get_mut(&ino) {
            file.right = right;
        }
        if !is_bare(flush) {
            self.send_on(now, ino, true);
        }
    }

    /// Flushes that rest on a delegation which was taken away, and did not leave yet.
    pub(super) fn abandon_flushes(&mut self, now: Instant, ino: Ino) {
        let queue = self.files.get(&ino).map(|file| file.queue.clone()).unwrap_or_default();
        for id in queue {
            let is_here = self.jobs.get(&id).is_some_and(|job| {
                matches!(job.operation, Operation::Flush(_))
                    && matches!(job.stage, Stage::Uploading(_) | Stage::Ready(_))
            });
            if is_here {
                self.job_answered(now, id, Err(Errno::EIO));
            }
        }
    }

    /// Changes of the file are on their way whose place among further ones is not theirs to choose.
    pub(super) fn has_ordered_jobs(&self, ino: Ino) -> bool {
        let queue = self.files.get(&ino).into_iter().flat_map(|file| file.queue.iter());
        queue.filter_map(|id| self.jobs.get(id)).any(|job| {
            let is_placeless =
                matches!(job.operation, Operation::Flush(_) | Operation::Coalesce { .. } | Operation::Delegate { .. });
            !is_placeless && !job.operation.is_locking()
        })
    }

    /// Bytes are lost: everyone who has the file open is told, and the kernel must not show them any longer.
    fn flush_failed(&mut self, job: &Job, errno: Errno) {
        for ino in &job.inodes {
            self.handles.fail(*ino, errno);
            if self.lookups.is_known(*ino) {
                let pages = Notification::Pages { ino: *ino, offset: 0, length: 0 };
                self.issue(vec![Notification::Attributes { ino: *ino }, pages], Vec::new());
            }
        }
    }

    fn watched_job_ended(&mut self, now: Instant, unique: u64, id: JobId) {
        let Some(waiting) = self.waiting.get_mut(unique) else { return };
        let Kind::Flush { jobs, through, response } = &mut waiting.kind else { return };
        jobs.remove(&id);
        if jobs.is_empty() {
            let lost = through.and_then(|(ino, fh)| self.handles.take_error(ino, fh));
            let result = lost.map_or_else(|| Ok(response.clone()), Err);
            self.answer(now, unique, result);
        }
    }

    /// A flush has been tried for as long as the write timeout. While the file is open it is tried on, and the next who
    /// asks is told (README.md "Availability"). Of a closed file nobody can be told more than close() was. Where closes
    /// are not told, nobody was told anything yet, and it is tried for as long as this mount lives.
    pub(super) fn job_is_late(&mut self, now: Instant, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        // A lock is given back however long it takes, or ends with the session.
        if job.operation.is_locking() {
            return;
        }
        let is_closed = !job.inodes.iter().any(|ino| self.handles.is_open(*ino));
        if is_auxiliary(&job.operation) || is_closed && self.handles.ends_are_told() {
            return self.abandon_job(now, id, Errno::EIO);
        }
        // Who waited for it was told by its own timeout.
        if job.watchers.is_empty() {
            for ino in &job.inodes {
                self.handles.fail(*ino, Errno::EIO);
            }
        }
    }

    /// Gives the job up. Where it was proposed it may still take effect, once.
    pub(super) fn abandon_job(&mut self, now: Instant, id: JobId, errno: Errno) {
        if let Some(Stage::Submitted(sequence)) = self.jobs.get(&id).map(|job| job.stage) {
            self.client.give_up(sequence);
            self.purposes.remove(&sequence);
        }
        self.job_answered(now, id, Err(errno));
    }

    /// The request that the job's reply answers.
    pub(super) fn request_of(&self, id: JobId) -> Option<u64> {
        self.jobs.get(&id).and_then(|job| job.request)
    }

    /// Jobs of the file that nobody can be told of any more: it is closed and their time is over.
    pub(super) fn abandon_late_jobs(&mut self, now: Instant, ino: Ino) {
        let ids = self.files.get(&ino).map(|file| file.unanswered.clone()).unwrap_or_default();
        let is_late = |job: &Job| job.request.is_none() && job.deadline <= now && !job.operation.is_locking();
        for id in ids {
            if self.jobs.get(&id).is_some_and(&is_late) {
                self.abandon_job(now, id, Errno::EIO);
            }
        }
    }

    /// Pins end with their session: what was stored under it is stored again under the next.
    pub(super) fn upload_again(&mut self, now: Instant) {
        for upload in self.uploads.running() {
            self.uploads.abandon(upload);
        }
        self.uploading.clear();
        for (id, job) in &mut self.jobs {
            if matches!(job.stage, Stage::Uploading(_) | Stage::Ready(Some(_))) {
                let upload = self.uploads.begin(now, job.blocks.iter().cloned(), self.client.stores());
                self.uploading.insert(upload, *id);
                job.stage = Stage::Uploading(upload);
            }
        }
    }

    /// The oldest dirty byte of the file has waited long enough.
    pub(super) fn come_of_age(&mut self, now: Instant, ino: Ino) {
        let Some(file) = self.files.get(&ino) else { return };
        if file.queue.len() < QUEUED_BY_AGE_MAX {
            // Where no close is told, this is all that gives a delegation back.
            return self.send_on(now, ino, !self.handles.ends_are_told());
        }
        // Nothing gets through at present: more and smaller jobs would not help.
        let due = now.after(self.config.timing.flush_age);
        self.timers.set(Timer::Age(ino), due);
    }

    /// The inode is gone for good: nothing of it can be written any more, and nobody can ask.
    pub(super) fn inode_freed(&mut self, now: Instant, ino: Ino) {
        self.refills.forget(ino);
        let Some(file) = self.files.get_mut(&ino) else { return };
        self.dirty_bytes -= file.dirty.bytes();
        file.dirty.take();
        file.changes = Changes::default();
        file.right = Right::None;
        self.timers.stop(Timer::Age(ino));
        for id in file.queue.clone() {
            if matches!(self.jobs.get(&id).map(|job| job.stage), Some(Stage::Uploading(_) | Stage::Ready(_))) {
                self.job_answered(now, id, Err(Errno::ESTALE));
            }
        }
        self.retry_writers(now, ino);
        self.tidy(ino);
    }

    /// Forgets what need not be known of the file.
    pub(super) fn tidy(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(super::file::File::is_idle) && !self.handles.is_open(ino) {
            self.files.remove(&ino);
        }
    }

    /// Many small extents in one stretch of the file become one block, guarded by the content's version: what another
    /// mount writes meanwhile is never undone.
    pub(super) fn coalesce(&mut self, now: Instant, ino: Ino, written: u64) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        file.small_writes += 1;
        if file.small_writes < SMALL_WRITES || !file.queue.is_empty() {
            return;
        }
        file.small_writes = 0;
        let window = (self.client.inline_bytes_max() as u64).min(limits::INLINE_BYTES_MAX as u64);
        let Some((offset, bytes)) = self.scattered(ino, written, window) else { return };
        let Some(data_version) = self.volume().inode(ino).map(|inode| inode.data_version) else { return };
        let block = Some(BlockHash::of(&bytes));
        let piece = Piece { offset, length: bytes.len() as u64, block, content: Some(bytes) };
        let operation = Operation::Coalesce { ino, data_version, piece };
        self.enqueue(now, vec![ino], operation, Vec::new(), Overlay::default(), None);
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
            let block = self.content.get(&block)?;
            let first = usize::try_from(extent.block_offset + (offset - extent.offset)).ok()?;
            let length = usize::try_from(end - offset).ok()?;
            bytes.extend_from_slice(block.get(first..first.checked_add(length)?)?);
            begin.get_or_insert(offset);
            at = end;
        }
        begin.map(|begin| (begin, Bytes::from(bytes)))
    }
}

/// Small writes of a file between two looks at its extents.
const SMALL_WRITES: u32 = 16;
/// Extents in one window of the inline limit that are put together.
const EXTENTS_MAX: usize = 64;

/// The changes as an entry has them, without bytes.
fn as_flush(ino: Ino, (grant, fence): (LogIndex, Option<LogIndex>), changes: &Changes) -> namespace::Flush {
    namespace::Flush {
        cut: changes.cut,
        size_min: changes.size_min,
        written_at: changes.written_at,
        changed_at: changes.changed_at,
        changes: changes.set,
        fence,
        ..namespace::Flush::of(ino, grant)
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

#[cfg(test)]
mod tests {
    use super::*;

    const INLINE: usize = 64 * 1024;

    fn run(offset: u64, length: usize) -> (u64, Bytes) {
        (offset, Bytes::from(vec![offset as u8; length]))
    }

    #[test]
    fn a_little_content_is_one_operation_without_blocks() {
        let flights = flights(vec![run(0, 40_000), run(100_000, 20_000)], INLINE);
        assert_eq!(flights.len(), 1);
        assert!(flights[0].blocks.is_empty());
        assert!(flights[0].pieces.iter().all(|piece| piece.content.is_some()));
    }

    #[test]
    fn large_runs_become_blocks_of_one_operation_and_small_ones_stay_inline() {
        let flights = flights(vec![run(0, 1 << 20), run(2 << 20, 100), run(3 << 20, 1 << 20)], INLINE);
        assert_eq!(flights.len(), 1);
        assert_eq!(flights[0].blocks.len(), 2);
        let inline: Vec<bool> = flights[0].pieces.iter().map(|piece| piece.content.is_some()).collect();
        assert_eq!(inline, [false, true, false]);
    }

    #[test]
    fn no_operation_exceeds_its_pieces_or_its_inline_content() {
        let runs: Vec<_> = (0..1000).map(|number| run(number * 10_000, 4096)).collect();
        let flights = flights(runs.clone(), INLINE);
        let mut all = Vec::new();
        for flight in flights {
            assert!(flight.pieces.len() <= limits::PIECES_MAX);
            let inline: usize = flight.pieces.iter().filter_map(|piece| piece.content.as_ref().map(Bytes::len)).sum();
            assert!(inline <= INLINE);
            all.extend(flight.runs);
        }
        assert_eq!(all, runs, "nothing is lost and the order stays");
    }

    #[test]
    fn a_cluster_that_takes_nothing_inline_gets_blocks() {
        let flights = flights(vec![run(0, 10)], 0);
        assert_eq!(flights[0].blocks.len(), 1);
    }
}
