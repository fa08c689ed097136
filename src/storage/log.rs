//! The Raft log on disk: segments of records, written in groups, each group synced once.
//!
//! A group is all or nothing. Segments are preallocated, so that a sync has no metadata to commit. Every segment begins
//! with the hard state and the compacted position, so that those before it can be deleted whole. A replaced entry is
//! preceded by a truncation; nothing is overwritten. After a crash that tore the last group, a new segment is begun
//! whose header says where the one before it ends.

pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod segment;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
pub use record::Record;
pub use recovery::LogContents;

use self::{
    recovery::{SegmentUse, recover, void_in},
    segment::{SEGMENT, SegmentHeader},
};
use super::{
    Counters, StorageError,
    file::{Directory, RandomFile},
    header::{FileHeader, HEADER_BYTES, remove_unfinished},
};
use crate::{
    message::log::LogBatch,
    types::{LogIndex, Term},
};

/// The log, open for writing by one thread.
#[derive(Debug)]
pub struct Log {
    directory: Arc<dyn Directory>,
    segment_bytes: u64,
    counters: Arc<Counters>,
    /// Bytes of the file system that a new segment leaves free.
    keep_free: u64,
    /// Ascending; the last one is being written.
    segments: Vec<SegmentUse>,
    file: Arc<dyn RandomFile>,
    path: PathBuf,
    header: FileHeader,
    /// Where the next group goes.
    position: u64,
    capacity: u64,
    next_group: u64,
    hard_state: Option<Bytes>,
    compacted: (LogIndex, Term),
    last: LogIndex,
    /// What the state has synced of it.
    settled: LogIndex,
    /// After a failed write or sync nothing is known about the file: nothing more is written.
    failed: Option<StorageError>,
}

impl Log {
    /// Begins a log behind `compacted` in an empty directory; synced when it returns. `segment_bytes` is the size of
    /// its segments; a larger group gets a larger one.
    ///
    /// # Errors
    /// `Full`, `Io`, `Access`, `ReadOnly`.
    pub fn create(
        directory: Arc<dyn Directory>,
        segment_bytes: u64,
        compacted: (LogIndex, Term),
        counters: Arc<Counters>,
    ) -> Result<Self, StorageError> {
        let header = FileHeader::segment(1, 1, 0);
        let capacity = segment_bytes.max(2 * HEADER_BYTES);
        let file = SEGMENT.create(&*directory, &header, capacity)?;
        let mut log = Self {
            segments: vec![SegmentUse { sequence: 1, last: LogIndex(0) }],
            path: SEGMENT.path(&*directory, 1),
            directory,
            segment_bytes,
            counters,
            keep_free: 0,
            file,
            header,
            position: HEADER_BYTES,
            capacity,
            next_group: 1,
            hard_state: None,
            compacted,
            last: compacted.0,
            settled: LogIndex(u64::MAX),
            failed: None,
        };
        log.write_group(&[], Room::Any)?;
        Ok(log)
    }

    /// Opens a log, cuts a torn tail, and gives all it holds, synced.
    ///
    /// # Errors
    /// `Damaged` with file and offset where an intact record follows a bad one; `Io`, `Access`, `ReadOnly`, `Full`.
    pub fn open(
        directory: Arc<dyn Directory>,
        segment_bytes: u64,
        counters: Arc<Counters>,
    ) -> Result<(Self, LogContents), StorageError> {
        remove_unfinished(&*directory)?;
        let recovered = recover(&*directory)?;
        let tail = recovered.tail;
        let mut log = Self {
            segments: recovered.segments,
            path: tail.path,
            directory,
            segment_bytes,
            counters,
            keep_free: 0,
            file: tail.file,
            header: tail.header,
            position: tail.end,
            capacity: tail.capacity,
            next_group: tail.next_group,
            hard_state: recovered.contents.hard_state.clone(),
            compacted: recovered.contents.compacted,
            last: recovered.contents.last(),
            settled: LogIndex(u64::MAX),
            failed: None,
        };
        // What a killed process wrote and did not sync was read above and will be relied on.
        log.sync()?;
        log.sync_directory()?;
        if let Some(found) = tail.torn {
            tracing::warn!(
                file = %log.path.display(), offset = log.position, found,
                "the log ends in a write that a crash interrupted; it was never acknowledged and is cut off"
            );
            log.next_segment(0, Room::Any)?;
        }
        for sequence in recovered.leftover {
            log.remove(sequence)?;
        }
        log.remove_compacted()?;
        Ok((log, recovered.contents))
    }

    /// The same log; its new segments leave this many bytes of the file system free.
    #[must_use]
    pub fn keeping_free(self, bytes: u64) -> Self {
        Self { keep_free: bytes, ..self }
    }

    /// The state has synced the entries up to this one. The content of later ones is written to the disk once more: new
    /// segments leave space for that too, or the state could never take what gives space back.
    pub(crate) const fn settle(&mut self, through: LogIndex) {
        self.settled = through;
    }

    /// Writes the batches as one group and syncs it. All of it is there after a crash, or, where this did not return,
    /// possibly nothing.
    ///
    /// # Errors
    /// `Misuse` for entries that leave a gap, `Full` where there is no space: nothing is written then, and the same may
    /// be tried again. After `Io` the log is unusable.
    pub fn append(&mut self, batches: &[LogBatch]) -> Result<(), StorageError> {
        let mut records = Vec::new();
        let (mut compacted, mut last) = (self.compacted, self.last);
        for batch in batches {
            if let Some(position) = batch.reset {
                records.push(Record::Reset(position.0, position.1));
                (compacted, last) = (position, position.0);
            }
            if let Some(first) = batch.entries.first().filter(|first| first.index <= last) {
                if first.index <= compacted.0 {
                    return Err(StorageError::Misuse {
                        found: format!("entry {} replaces a compacted one (up to {})", first.index, compacted.0),
                    });
                }
                records.push(Record::Truncate(first.index));
                last = LogIndex(first.index.0 - 1);
            }
            for entry in &batch.entries {
                if entry.index != last.next() {
                    return Err(StorageError::Misuse {
                        found: format!("entry {} was given behind entry {last}", entry.index),
                    });
                }
                records.push(Record::Entry(entry.clone()));
                last = entry.index;
            }
            // Behind the entries: its commit index may name them.
            if let Some(hard_state) = &batch.hard_state {
                records.push(Record::HardState(hard_state.clone()));
            }
        }
        if !records.is_empty() {
            self.write_group(&records, Room::Free)?;
        }
        self.counters.log_batches.add(batches.len() as u64);
        for record in records {
            match record {
                Record::Entry(entry) => {
                    self.counters.log_entries.add(1);
                    self.segments.last_mut().expect("one is being written").last = entry.index;
                }
                Record::Truncate(from) => void_in(&mut self.segments, from),
                Record::Reset(..) => void_in(&mut self.segments, LogIndex(0)),
                Record::HardState(bytes) => self.hard_state = Some(bytes),
                Record::Compacted(..) => {}
            }
        }
        let was_reset = self.compacted != compacted;
        (self.compacted, self.last) = (compacted, last);
        if was_reset { self.remove_compacted() } else { Ok(()) }
    }

    /// Entries up to `through` are not needed any more: deletes segments that hold no other. The position is on disk
    /// before anything is deleted.
    ///
    /// # Errors
    /// `Misuse` for a position behind the end of the log; `Full` (nothing is deleted then, and the next compaction makes
    /// up for it); `Io`.
    pub fn compact(&mut self, through: LogIndex, term: Term) -> Result<(), StorageError> {
        if through <= self.compacted.0 {
            return Ok(());
        }
        if through > self.last {
            return Err(StorageError::Misuse {
                found: format!("entry {through} was to be compacted, the log ends at {}", self.last),
            });
        }
        self.compacted = (through, term);
        if self.removable() == 0 {
            return Ok(());
        }
        // It gives space back: it may use what else must stay free.
        self.write_group(&[Record::Compacted(through, term)], Room::Any)?;
        self.remove_compacted()
    }

    /// Whether a write or sync has failed in a way after which nothing more may be written.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Files of the log, the one being written included.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// How many of the oldest segments hold nothing that is needed.
    fn removable(&self) -> usize {
        let closed = &self.segments[..self.segments.len() - 1];
        closed.iter().take_while(|segment| segment.last <= self.compacted.0).count()
    }

    fn remove_compacted(&mut self) -> Result<(), StorageError> {
        // A segment that nothing was written to yet does not say what those before it said.
        if self.position == HEADER_BYTES {
            return Ok(());
        }
        let removable: Vec<_> = self.segments.drain(..self.removable()).collect();
        for segment in &removable {
            self.remove(segment.sequence)?;
        }
        if removable.is_empty() { Ok(()) } else { self.sync_directory() }
    }

    fn remove(&self, sequence: u64) -> Result<(), StorageError> {
        let removed = self.directory.remove(&SEGMENT.name(sequence));
        removed.map_err(|error| StorageError::io("removed", &SEGMENT.path(&*self.directory, sequence), error))
    }

    /// Writes records as one group behind the last one and syncs it.
    fn write_group(&mut self, records: &[Record], room: Room) -> Result<(), StorageError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut head = Vec::new();
        let bytes: u64 = records.iter().map(Record::encoded_bytes).sum();
        let spare = if room == Room::Free { SPARE_BYTES } else { 0 };
        if self.position == HEADER_BYTES || self.position + bytes + spare > self.capacity {
            head.push(Record::Compacted(self.compacted.0, self.compacted.1));
            head.extend(self.hard_state.iter().cloned().map(Record::HardState));
        }
        let bytes = bytes + head.iter().map(Record::encoded_bytes).sum::<u64>();
        let begun = if self.position + bytes + spare > self.capacity { self.next_segment(bytes, room) } else { Ok(()) };
        let written = begun.and_then(|()| self.write_records(&head, records));
        match &written {
            // Nothing was synced: the next group goes to the same place, under the same number.
            Ok(()) => {}
            Err(error) if error.is_shortage() => {}
            Err(error) => self.failed = Some(error.clone()),
        }
        written
    }

    fn write_records(&mut self, head: &[Record], records: &[Record]) -> Result<(), StorageError> {
        let mut buffer = Vec::new();
        let count = head.len() + records.len();
        for (at, record) in head.iter().chain(records).enumerate() {
            record.append_to(&mut buffer, &self.header, self.position, self.next_group, at + 1 == count);
        }
        self.file.write_at(self.position, &buffer).map_err(|error| StorageError::io("written", &self.path, error))?;
        self.sync()?;
        self.counters.log_bytes.add(buffer.len() as u64);
        self.position += buffer.len() as u64;
        self.next_group += 1;
        Ok(())
    }

    /// Begins a segment with room for a group of `bytes`.
    fn next_segment(&mut self, bytes: u64, room: Room) -> Result<(), StorageError> {
        let sequence = self.header.sequence + 1;
        let header = FileHeader::segment(sequence, self.next_group, self.position);
        let least = HEADER_BYTES + bytes + SPARE_BYTES;
        let wanted = self.segment_bytes.max(least);
        let (file, capacity) = match (self.create_segment(&header, wanted, self.kept_free(wanted)), room) {
            (Err(StorageError::Full { .. }), Room::Any) => (self.create_segment(&header, least, 0)?, least),
            (created, _) => (created?, wanted),
        };
        self.file = file;
        self.counters.log_syncs.add(1);
        self.counters.directory_syncs.add(1);
        self.path = SEGMENT.path(&*self.directory, sequence);
        self.segments.push(SegmentUse { sequence, last: LogIndex(0) });
        (self.header, self.position, self.capacity) = (header, HEADER_BYTES, capacity);
        Ok(())
    }

    /// Bytes that stay free beside a new segment.
    fn kept_free(&self, segment_bytes: u64) -> u64 {
        if self.settled == LogIndex(u64::MAX) {
            return self.keep_free;
        }
        let unsettled = self.segments.iter().filter(|segment| segment.last > self.settled).count() as u64;
        self.keep_free + unsettled * self.segment_bytes + segment_bytes
    }

    fn create_segment(
        &self,
        header: &FileHeader,
        capacity: u64,
        keep_free: u64,
    ) -> Result<Arc<dyn RandomFile>, StorageError> {
        let path = self.directory.path();
        let available = self.directory.available().map_err(|error| StorageError::io("read", path, error))?;
        if available < capacity + keep_free {
            return Err(StorageError::Full { path: path.to_owned(), needed: capacity });
        }
        SEGMENT.create(&*self.directory, header, capacity)
    }

    fn sync(&self) -> Result<(), StorageError> {
        fail::fail_point!("store-log-sync", |_| Err(StorageError::unsynced(
            &self.path,
            std::io::Error::other("a failpoint")
        )));
        self.counters.log_syncs.add(1);
        self.file.sync().map_err(|error| StorageError::unsynced(&self.path, error))
    }

    fn sync_directory(&self) -> Result<(), StorageError> {
        self.counters.directory_syncs.add(1);
        self.directory.sync().map_err(|error| StorageError::unsynced(self.directory.path(), error))
    }
}

/// Bytes at the end of a segment for what gives space back: compaction must be able to say so on a full disk.
const SPARE_BYTES: u64 = 512;

/// How much of the file system a group may use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// What is not kept free.
    Free,
    /// All there is: it gives space back, or nothing goes on without it.
    Any,
}
