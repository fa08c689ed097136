//! A job: one change of one or two files on its way into the log.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::buffered::Buffered;
use crate::{
    limits,
    namespace::{self, Operation},
    types::{AttributeChanges, BlockHash, Ino, Instant, LogIndex, Piece, Sequence, UploadId},
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct JobId(pub(crate) u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JobState {
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
    /// The bytes it writes, in order, each with its place in the file.
    pub(crate) runs: Vec<(u64, Bytes)>,
    pub(crate) buffered: Buffered,
}

/// What is to become a job.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) inodes: Vec<Ino>,
    pub(crate) operation: Operation,
    pub(crate) blocks: Vec<(BlockHash, Bytes)>,
    pub(crate) overlay: Overlay,
    /// The request that is answered by its reply. `None`: nobody waits for it.
    pub(crate) request: Option<u64>,
}

impl NewJob {
    /// A change of one file.
    pub(crate) fn of(ino: Ino, operation: Operation) -> Self {
        Self::of_all(vec![ino], operation)
    }

    /// A change of these files, of which there is one at least.
    pub(crate) fn of_all(inodes: Vec<Ino>, operation: Operation) -> Self {
        Self { inodes, operation, blocks: Vec::new(), overlay: Overlay::default(), request: None }
    }

    /// Its reply answers the request.
    pub(crate) fn answering(self, unique: u64) -> Self {
        Self { request: Some(unique), ..self }
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(super) inodes: Vec<Ino>,
    pub(super) operation: Operation,
    pub(super) blocks: Vec<(BlockHash, Bytes)>,
    pub(super) runs: Vec<(u64, Bytes)>,
    pub(super) run_bytes: usize,
    pub(super) buffered: Buffered,
    /// What its blocks are pinned by in the stores.
    pub(super) upload: Option<UploadId>,
    pub(super) request: Option<u64>,
    /// Requests that wait until it is complete.
    pub(super) watchers: Vec<u64>,
    pub(super) state: JobState,
    pub(super) deadline: Instant,
}

impl Job {
    pub(crate) fn inodes(&self) -> &[Ino] {
        &self.inodes
    }

    pub(crate) const fn operation(&self) -> &Operation {
        &self.operation
    }

    /// The request that its reply answers.
    pub(crate) const fn request(&self) -> Option<u64> {
        self.request
    }

    /// Somebody waits until it is complete.
    pub(crate) fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// What its blocks are pinned by, before it is submitted.
    pub(crate) const fn unsent_upload(&self) -> Option<UploadId> {
        match self.state {
            JobState::Uploading(upload) | JobState::Ready(Some(upload)) => Some(upload),
            JobState::Ready(None) | JobState::Submitted(_) | JobState::Applied => None,
        }
    }

    /// It did not leave yet.
    pub(crate) const fn is_unsent(&self) -> bool {
        matches!(self.state, JobState::Uploading(_) | JobState::Ready(_))
    }

    /// The call that carries it and has no answer.
    pub(crate) const fn call(&self) -> Option<Sequence> {
        if let JobState::Submitted(sequence) = self.state { Some(sequence) } else { None }
    }

    /// Its operation, which names what its blocks are pinned by.
    pub(crate) fn proposal(&self) -> Operation {
        let mut operation = self.operation.clone();
        if let Some(uploads) = operation.uploads_mut() {
            uploads.extend(self.unsent_upload());
        }
        operation
    }

    /// It gives locks back.
    pub(super) const fn releases_locks(&self) -> bool {
        use Operation::{CancelLock, ReleaseLocks, Unlock};
        matches!(self.operation, Unlock { .. } | ReleaseLocks { .. } | CancelLock { .. })
    }

    /// The end of its last byte; 0 when there is none.
    pub(super) fn end(&self) -> u64 {
        self.runs.last().map_or(0, |(offset, last)| offset + last.len() as u64)
    }

    /// Its bytes inside `from..to`, in order, each with its place in the file.
    pub(super) fn runs_in(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Bytes)> + '_ {
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
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) blocks: Vec<(BlockHash, Bytes)>,
    pub(crate) runs: Vec<(u64, Bytes)>,
}

/// Cuts runs into operations, between runs only. A little content travels inline; larger runs, as soon as there is more
/// than fits, as blocks.
fn flights(runs: Vec<(u64, Bytes)>, inline_bytes_max: usize) -> Vec<Flight> {
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
            flights.push(Flight::default());
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

/// What was dirty of a file and is to be sent on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(super) ino: Ino,
    /// The delegation that it was written under, and whether it goes back with this.
    pub(super) grant: Option<LogIndex>,
    pub(super) gives_back: bool,
    pub(super) runs: Vec<(u64, Bytes)>,
    pub(super) buffered: Buffered,
    pub(super) fence: Option<LogIndex>,
}

impl Sending {
    /// The delegation stays here.
    pub(crate) const fn keeps_delegation(&self) -> bool {
        self.grant.is_some() && !self.gives_back
    }

    /// As jobs, in order; one at least.
    pub(crate) fn into_jobs(self, inline_bytes_max: usize) -> Vec<NewJob> {
        let Self { ino, grant, gives_back, runs, buffered, fence } = self;
        let mut flights = flights(runs, inline_bytes_max);
        if flights.is_empty() {
            flights.push(Flight::default());
        }
        let last = flights.len() - 1;
        let jobs = flights.into_iter().enumerate().map(|(number, Flight { pieces, blocks, runs })| {
            // Cut before anything is written, all else with the last of them.
            let buffered = Buffered {
                cut: buffered.cut.filter(|_| number == 0),
                size_min: if number == last { buffered.size_min } else { 0 },
                set: if number == last { buffered.set } else { AttributeChanges::default() },
                ..buffered
            };
            let operation = match grant {
                Some(grant) => Operation::Flush(Box::new(namespace::Flush {
                    pieces,
                    give_back: gives_back && number == last,
                    ..as_flush(ino, grant, fence, &buffered)
                })),
                // Write-back of a mapping, which waits for no grant (R26-mappings).
                None => Operation::Write {
                    ino,
                    pieces,
                    append: false,
                    mtime: buffered.written_at,
                    clear_suid: buffered.set.clear_suid,
                    uploads: Vec::new(),
                    fence,
                },
            };
            NewJob { blocks, overlay: Overlay { runs, buffered }, ..NewJob::of(ino, operation) }
        });
        jobs.collect()
    }
}

/// What is buffered as an entry has it, without bytes.
fn as_flush(ino: Ino, grant: LogIndex, fence: Option<LogIndex>, buffered: &Buffered) -> namespace::Flush {
    namespace::Flush {
        cut: buffered.cut,
        size_min: buffered.size_min,
        written_at: buffered.written_at,
        changed_at: buffered.changed_at,
        changes: buffered.set,
        fence,
        ..namespace::Flush::of(ino, grant)
    }
}

/// A job that was applied: what follows from that.
#[derive(Debug)]
pub(crate) struct AppliedJob {
    pub(crate) inodes: Vec<Ino>,
    pub(crate) releases_locks: bool,
    pub(crate) blocks: Vec<(BlockHash, Bytes)>,
}

/// A job whose time was begun anew: who waits for it.
#[derive(Debug)]
pub(crate) struct RenewedJob {
    pub(crate) request: Option<u64>,
    pub(crate) watchers: Vec<u64>,
}

/// A job that is over.
#[derive(Debug)]
pub(crate) struct EndedJob {
    pub(crate) inodes: Vec<Ino>,
    pub(crate) operation: Operation,
    pub(crate) upload: Option<UploadId>,
    pub(crate) request: Option<u64>,
    pub(crate) watchers: Vec<u64>,
}

/// Jobs to wait for.
pub(crate) type JobIds = BTreeSet<JobId>;

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
