//! What is written here and not in the log yet: dirty bytes, the jobs that carry them, the blocks that these have
//! stored, and the right to buffer changes of each file. No other code counts these bytes or moves a job. What a kernel
//! believes, who waits, and what the log says is not known here.

mod buffered;
mod file;
mod job;
mod overlay;
mod runs;
mod upload;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use self::{
    buffered::Buffered,
    file::File,
    job::{EndedJob, JobIds, JobState, RenewedJob, Sending},
    upload::{Finished, Uploads},
};
pub(crate) use self::{
    buffered::ChangeTimes,
    file::Right,
    job::{AppliedJob, Job, JobId, NewJob},
    overlay::Segment,
    upload::StoreRequest,
};
use super::StoreError;
use crate::{
    limits,
    message::mount::StoreAddress,
    namespace::Operation,
    types::{AttributeChanges, ClearSuid, Errno, Ino, Instant, LogIndex, Sequence, Timestamp, UploadId},
};

/// Two recalls of a file within this make it contended.
const CONTENTION: Duration = Duration::from_secs(1);
/// For so long a contended file is written through.
const WRITTEN_THROUGH: Duration = Duration::from_secs(3);
/// Files whose recalls are remembered.
const RECALLED_MAX: usize = 1024;
/// Small writes of a file between two looks at its extents.
const SMALL_WRITES: u32 = 16;

/// When a file was recalled last, and until when it is written through.
#[derive(Clone, Copy, Debug)]
struct Recalled {
    at: Instant,
    contended_until: Instant,
}

/// The files that are open or being written here.
#[derive(Debug)]
pub(crate) struct Files {
    files: BTreeMap<Ino, File>,
    jobs: BTreeMap<JobId, Job>,
    last_job: u64,
    uploads: Uploads,
    /// The jobs whose blocks are going to the stores.
    uploading: BTreeMap<UploadId, JobId>,
    /// Bytes written and in no job, and bytes in jobs that are not applied.
    dirty_bytes: usize,
    flushing_bytes: usize,
    /// WRITEs that wait for room, in their order.
    blocked: VecDeque<u64>,
    /// Files that were recalled from here.
    recalled: BTreeMap<Ino, Recalled>,
}

impl Files {
    /// `pause`: before a store that failed is asked again.
    pub(crate) const fn new(pause: Duration) -> Self {
        Self {
            files: BTreeMap::new(),
            jobs: BTreeMap::new(),
            last_job: 0,
            uploads: Uploads::new(pause),
            uploading: BTreeMap::new(),
            dirty_bytes: 0,
            flushing_bytes: 0,
            blocked: VecDeque::new(),
            recalled: BTreeMap::new(),
        }
    }

    /// Bytes that were written and are not part of the replica.
    pub(crate) const fn unapplied_bytes(&self) -> usize {
        self.dirty_bytes + self.flushing_bytes
    }

    /// Everything is in the log, and answered.
    pub(crate) fn is_clean(&self) -> bool {
        self.jobs.is_empty() && self.dirty_bytes == 0
    }

    /// Nothing will get into the log any more.
    pub(crate) fn give_up_all(&mut self) {
        (self.dirty_bytes, self.flushing_bytes) = (0, 0);
        self.jobs.clear();
    }

    // Files.

    /// Something is remembered of the file.
    pub(crate) fn has(&self, ino: Ino) -> bool {
        self.files.contains_key(&ino)
    }

    pub(crate) fn inodes(&self) -> impl Iterator<Item = Ino> + '_ {
        self.files.keys().copied()
    }

    pub(crate) fn is_dirty(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(File::is_dirty)
    }

    /// Files of which something is in no job.
    pub(crate) fn dirty_inodes(&self) -> Vec<Ino> {
        self.files.iter().filter(|(_, file)| file.is_dirty()).map(|(ino, _)| *ino).collect()
    }

    /// True while the replica does not show the file as its writers here see it.
    pub(crate) fn is_ahead(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(File::is_ahead)
    }

    /// Forgets the file if nothing of it is on its way.
    pub(crate) fn tidy(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(File::is_idle) {
            self.files.remove(&ino);
        }
    }

    /// The inode is gone for good: nothing of it can be written any more. False: there was nothing.
    pub(crate) fn freed(&mut self, ino: Ino) -> bool {
        let Some(file) = self.files.get_mut(&ino) else { return false };
        self.dirty_bytes -= file.drop_dirty();
        file.right = Right::None;
        true
    }

    /// A READ of these bytes; whether it goes on where the last one ended.
    pub(crate) fn is_sequential(&mut self, ino: Ino, from: u64, to: u64) -> bool {
        let file = self.files.entry(ino).or_default();
        std::mem::replace(&mut file.read_end, to) == from
    }

    // Writing.

    /// There is room for so many bytes more.
    pub(crate) const fn has_room(&self, bytes: usize) -> bool {
        self.dirty_bytes + self.flushing_bytes + bytes <= limits::DIRTY_BYTES_MAX
    }

    /// Puts bytes over what the file shows. `fence`: the lock that they are written under is held since then. How many
    /// bytes of the file are in no job now.
    pub(crate) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        times: ChangeTimes,
        clear_suid: ClearSuid,
        fence: Option<LogIndex>,
    ) -> usize {
        let file = self.files.entry(ino).or_default();
        let before = file.dirty.bytes();
        file.dirty.write(offset, data);
        file.fence = file.fence.or(fence);
        file.buffered.wrote(times, clear_suid);
        let bytes = file.dirty.bytes();
        self.dirty_bytes = self.dirty_bytes - before + bytes;
        bytes
    }

    /// Changes attributes, or the size of a file that was shown with `shown` bytes; `now` by cluster time.
    pub(crate) fn set_attributes(
        &mut self,
        ino: Ino,
        shown: u64,
        changes: &AttributeChanges,
        now: Timestamp,
        times: ChangeTimes,
    ) {
        let file = self.files.entry(ino).or_default();
        let before = file.dirty.bytes();
        if let Some(size) = changes.size {
            file.dirty.truncate(size);
            file.buffered.resized(shown, size, times);
        }
        file.buffered.set(changes, now, times.ctime);
        self.dirty_bytes = self.dirty_bytes - before + file.dirty.bytes();
    }

    /// The WRITE that goes first of those that wait for room.
    pub(crate) fn first_blocked(&self) -> Option<u64> {
        self.blocked.front().copied()
    }

    /// All of them, in their order.
    pub(crate) fn blocked(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocked.iter().copied()
    }

    /// The WRITE waits for room.
    pub(crate) fn block(&mut self, unique: u64) {
        self.blocked.push_back(unique);
    }

    /// It does not any more.
    pub(crate) fn unblock(&mut self, unique: u64) {
        self.blocked.retain(|blocked| *blocked != unique);
    }

    /// A small write of the file was applied; whether it is time to look at the file's extents.
    pub(crate) fn is_scattered(&mut self, ino: Ino) -> bool {
        let Some(file) = self.files.get_mut(&ino) else { return false };
        file.small_writes += 1;
        let is_time = file.small_writes >= SMALL_WRITES && file.queue.is_empty();
        if is_time {
            file.small_writes = 0;
        }
        is_time
    }

    // The right to buffer.

    pub(crate) fn right(&self, ino: Ino) -> Right {
        self.files.get(&ino).map_or(Right::None, |file| file.right)
    }

    /// Of a file that is known here.
    pub(crate) fn set_right(&mut self, ino: Ino, right: Right) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.right = right;
        }
    }

    /// A create brought the delegation.
    pub(crate) fn take_right(&mut self, ino: Ino, grant: LogIndex) {
        let file = self.files.entry(ino).or_default();
        if file.right == Right::None {
            file.right = Right::Held(grant);
        }
    }

    /// The delegation is to go back: used or not, it is here. False if it is on its way already.
    pub(crate) fn take_right_to_return(&mut self, ino: Ino, grant: LogIndex) -> bool {
        let file = self.files.entry(ino).or_default();
        if file.right == Right::Returning {
            return false;
        }
        file.right = Right::Held(grant);
        true
    }

    /// Files with a right of some kind.
    pub(crate) fn rights(&self) -> impl Iterator<Item = (Ino, Right)> + '_ {
        self.files.iter().map(|(ino, file)| (*ino, file.right)).filter(|(_, right)| *right != Right::None)
    }

    /// The delegation was taken away, and what was buffered under it is dropped: so many bytes, or `None` if nothing was.
    pub(crate) fn lose(&mut self, ino: Ino) -> Option<usize> {
        let file = self.files.get_mut(&ino)?;
        let was_dirty = file.is_dirty();
        let bytes = file.drop_dirty();
        file.right = Right::None;
        self.dirty_bytes -= bytes;
        was_dirty.then_some(bytes)
    }

    /// The request waits for the right, or for the changes before it.
    pub(crate) fn wait_for_right(&mut self, ino: Ino, unique: u64) {
        self.files.entry(ino).or_default().writers.push(unique);
    }

    /// Those that wait, in their order; none does afterwards.
    pub(crate) fn take_writers(&mut self, ino: Ino) -> Vec<u64> {
        self.files.get_mut(&ino).map(|file| std::mem::take(&mut file.writers)).unwrap_or_default()
    }

    /// Files for which requests wait, but not for a grant.
    pub(crate) fn with_writers(&self) -> Vec<Ino> {
        let waiting =
            self.files.iter().filter(|(_, file)| !file.writers.is_empty() && !matches!(file.right, Right::Asked(_)));
        waiting.map(|(ino, _)| *ino).collect()
    }

    /// Another mount has asked the file back.
    pub(crate) fn note_recall(&mut self, now: Instant, ino: Ino) {
        let before = self.recalled.get(&ino).copied();
        let is_contended = before.is_some_and(|before| now.since(before.at) < CONTENTION);
        let contended_until = if is_contended { now.after(WRITTEN_THROUGH) } else { Instant(0) };
        let contended_until = before.map_or(contended_until, |before| contended_until.max(before.contended_until));
        if self.recalled.len() >= RECALLED_MAX {
            self.recalled.retain(|_, recalled| now.since(recalled.at) < CONTENTION || now < recalled.contended_until);
        }
        if self.recalled.len() < RECALLED_MAX {
            self.recalled.insert(ino, Recalled { at: now, contended_until });
        }
    }

    /// Several mounts write the file in turn: buffering would only make each wait for the other.
    pub(crate) fn is_contended(&self, now: Instant, ino: Ino) -> bool {
        self.recalled.get(&ino).is_some_and(|recalled| now < recalled.contended_until)
    }

    // Jobs.

    /// Takes what is dirty of the file, to be sent on its way; with `gives_back` the delegation, where it is held, goes
    /// with it. `None`: there is nothing to send.
    pub(crate) fn take_dirty(&mut self, ino: Ino, gives_back: bool) -> Option<Sending> {
        let file = self.files.get_mut(&ino)?;
        let grant = if let Right::Held(grant) = file.right { Some(grant) } else { None };
        let gives_back = gives_back && grant.is_some();
        if !file.is_dirty() && !gives_back {
            return None;
        }
        if gives_back {
            file.right = Right::Returning;
        }
        self.dirty_bytes -= file.dirty.bytes();
        let (runs, buffered) = (file.dirty.take(), std::mem::take(&mut file.buffered));
        Some(Sending { ino, grant, gives_back, runs, buffered, fence: file.fence.take() })
    }

    /// A change that takes its place behind all that its files already have.
    pub(crate) fn enqueue(&mut self, now: Instant, new: NewJob, deadline: Instant, stores: &[StoreAddress]) -> JobId {
        let NewJob { inodes, operation, blocks, overlay, request } = new;
        self.last_job += 1;
        let id = JobId(self.last_job);
        let state = if blocks.is_empty() {
            JobState::Ready(None)
        } else {
            let upload = self.uploads.begin(now, blocks.iter().cloned(), stores);
            self.uploading.insert(upload, id);
            JobState::Uploading(upload)
        };
        let run_bytes = overlay.runs.iter().map(|(_, bytes)| bytes.len()).sum();
        self.flushing_bytes += run_bytes;
        for ino in &inodes {
            let file = self.files.entry(*ino).or_default();
            file.queue.push_back(id);
            file.unanswered.insert(id);
        }
        let job = Job {
            inodes,
            operation,
            blocks,
            runs: overlay.runs,
            run_bytes,
            buffered: overlay.buffered,
            upload: None,
            request,
            watchers: Vec::new(),
            state,
            deadline,
        };
        self.jobs.insert(id, job);
        id
    }

    pub(crate) fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// The request that the job's reply answers.
    pub(crate) fn request_of(&self, id: JobId) -> Option<u64> {
        self.jobs.get(&id).and_then(Job::request)
    }

    /// The job's reply answers nobody any more.
    pub(crate) fn detach_request(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.request = None;
        }
    }

    /// Jobs of the file that are not applied yet, in their order.
    pub(crate) fn queue(&self, ino: Ino) -> Vec<JobId> {
        self.files.get(&ino).map(|file| file.queue.iter().copied().collect()).unwrap_or_default()
    }

    /// Files with such jobs.
    pub(crate) fn queued_inodes(&self) -> impl Iterator<Item = Ino> + '_ {
        self.files.iter().filter(|(_, file)| !file.queue.is_empty()).map(|(ino, _)| *ino)
    }

    pub(crate) fn is_queued(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|file| !file.queue.is_empty())
    }

    /// Locks of the file are being given back.
    pub(crate) fn is_releasing_locks(&self, ino: Ino) -> bool {
        self.queued_jobs(ino).any(Job::releases_locks)
    }

    /// Changes of the file are on their way whose place among further ones is not theirs to choose.
    pub(crate) fn has_ordered_jobs(&self, ino: Ino) -> bool {
        self.queued_jobs(ino).any(|job| {
            let is_placeless =
                matches!(job.operation, Operation::Flush(_) | Operation::Coalesce { .. } | Operation::Delegate { .. });
            !is_placeless && !job.operation.is_locking()
        })
    }

    /// The job that may be proposed next for the file: it stands first in the queues of all its files, and has its blocks
    /// stored.
    pub(crate) fn next_job(&self, ino: Ino) -> Option<(JobId, &Job)> {
        let id = self.files.get(&ino)?.queue.front().copied()?;
        let job = self.jobs.get(&id)?;
        let is_first = |ino: &Ino| self.files.get(ino).is_some_and(|file| file.queue.front() == Some(&id));
        (matches!(job.state, JobState::Ready(_)) && job.inodes.iter().all(is_first)).then_some((id, job))
    }

    /// The job's operation was submitted as this call.
    pub(crate) fn submitted(&mut self, id: JobId, call: Sequence) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.upload = job.unsent_upload();
            job.state = JobState::Submitted(call);
        }
    }

    /// The job's entry is part of the replica: its bytes need not be shown over it any more. `None`: that is known.
    pub(crate) fn applied(&mut self, id: JobId) -> Option<AppliedJob> {
        let job = self.jobs.get_mut(&id).filter(|job| job.state != JobState::Applied)?;
        if let JobState::Uploading(upload) = job.state {
            self.uploading.remove(&upload);
            self.uploads.abandon(upload);
        }
        job.state = JobState::Applied;
        self.flushing_bytes -= std::mem::take(&mut job.run_bytes);
        job.runs = Vec::new();
        job.buffered = Buffered::default();
        let (inodes, releases_locks) = (job.inodes.clone(), job.releases_locks());
        let blocks = std::mem::take(&mut job.blocks);
        for ino in &inodes {
            if let Some(file) = self.files.get_mut(ino) {
                file.queue.retain(|queued| *queued != id);
            }
        }
        Some(AppliedJob { inodes, releases_locks, blocks })
    }

    /// Its entry changed nothing, or a part: it is to be proposed again from its place in the queue.
    pub(crate) fn make_ready_again(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            // Such an entry lifts no pins.
            job.state = JobState::Ready(job.upload);
        }
    }

    /// The job is over, applied or not.
    pub(crate) fn end(&mut self, id: JobId) -> Option<EndedJob> {
        let Job { inodes, operation, upload, request, watchers, .. } = self.jobs.remove(&id)?;
        for ino in &inodes {
            if let Some(file) = self.files.get_mut(ino) {
                file.unanswered.remove(&id);
            }
        }
        Some(EndedJob { inodes, operation, upload, request, watchers })
    }

    /// The request waits for all changes of the file up to now.
    pub(crate) fn watch(&mut self, ino: Ino, unique: u64) -> JobIds {
        let ids = self.unanswered(ino);
        for id in &ids {
            self.watch_job(*id, unique);
        }
        ids
    }

    /// The request waits for this job.
    pub(crate) fn watch_job(&mut self, id: JobId, unique: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.watchers.push(unique);
        }
    }

    /// Changes of the file that are not complete yet.
    pub(crate) fn unanswered(&self, ino: Ino) -> JobIds {
        self.files.get(&ino).map(|file| file.unanswered.clone()).unwrap_or_default()
    }

    /// The job may take until then.
    pub(crate) fn renew(&mut self, id: JobId, deadline: Instant) -> Option<RenewedJob> {
        let job = self.jobs.get_mut(&id)?;
        job.deadline = deadline;
        Some(RenewedJob { request: job.request, watchers: job.watchers.clone() })
    }

    /// The job's time is over, and nobody hears of its end. Locks are given back however long that takes.
    pub(crate) fn is_late(&self, id: JobId, now: Instant) -> bool {
        let is_late = |job: &Job| job.request.is_none() && job.deadline <= now && !job.operation.is_locking();
        self.jobs.get(&id).is_some_and(is_late)
    }

    fn queued_jobs(&self, ino: Ino) -> impl DoubleEndedIterator<Item = &Job> {
        self.files.get(&ino).into_iter().flat_map(|file| file.queue.iter()).filter_map(|id| self.jobs.get(id))
    }

    // Blocks on their way to the stores.

    /// The stores are these now, or time has passed.
    pub(crate) fn tick(&mut self, now: Instant, stores: &[StoreAddress]) {
        self.uploads.tick(now, stores);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.uploads.poll_timeout()
    }

    /// What the stores are to be asked.
    pub(crate) fn take_requests(&mut self) -> Vec<StoreRequest> {
        self.uploads.take_requests()
    }

    pub(crate) fn block_stored(
        &mut self,
        now: Instant,
        ticket: u64,
        result: Result<(), StoreError>,
        stores: &[StoreAddress],
    ) {
        self.uploads.stored(now, ticket, result, stores);
    }

    /// Jobs whose blocks the stores have, or cannot take.
    pub(crate) fn take_finished_uploads(&mut self) -> Vec<Finished> {
        self.uploads.take_finished()
    }

    /// The upload is over. The job that it was for, where there is one; if all is stored, it may be proposed.
    pub(crate) fn uploaded(&mut self, upload: UploadId, result: Result<(), Errno>) -> Option<JobId> {
        let id = self.uploading.remove(&upload)?;
        if result.is_ok() {
            self.jobs.get_mut(&id)?.state = JobState::Ready(Some(upload));
        }
        Some(id)
    }

    /// Pins end with their session: what was stored under it is stored again under the next.
    pub(crate) fn upload_again(&mut self, now: Instant, stores: &[StoreAddress]) {
        for upload in self.uploads.running() {
            self.uploads.abandon(upload);
        }
        self.uploading.clear();
        for (id, job) in &mut self.jobs {
            if job.unsent_upload().is_some() {
                let upload = self.uploads.begin(now, job.blocks.iter().cloned(), stores);
                self.uploading.insert(upload, *id);
                job.state = JobState::Uploading(upload);
            }
        }
    }
}
