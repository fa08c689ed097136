//! What the segments of a log amount to.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    record::Record,
    segment::{SEGMENT, Scan, SegmentHeader, scan},
};
use crate::{
    message::log::LogEntry,
    storage::{
        StorageError,
        file::{Directory, RandomFile},
        header::FileHeader,
    },
    types::{LogIndex, Term},
};

/// What a log holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogContents {
    /// Encoded raft hard state, where one was ever written.
    pub hard_state: Option<Bytes>,
    /// Index and term of the entry before the first of `entries`.
    pub compacted: (LogIndex, Term),
    /// Without gaps.
    pub entries: Vec<LogEntry>,
}

impl LogContents {
    /// The last entry, or the position behind which the log begins.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.compacted.0, |entry| entry.index)
    }

    /// The term of this entry, or of the position behind which the log begins; `None` where the log holds neither.
    #[must_use]
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        let (begin, term) = self.compacted;
        match index.0.checked_sub(begin.0)? {
            0 => Some(term),
            distance => self.entries.get(usize::try_from(distance).ok()? - 1).map(|entry| entry.term),
        }
    }
}

/// A segment as compaction sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentUse {
    pub(crate) sequence: u64,
    /// The last entry in it that counts; 0 where none does.
    pub(crate) last: LogIndex,
}

/// The last segment, which goes on being written.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) file: Arc<dyn RandomFile>,
    pub(crate) header: FileHeader,
    pub(crate) path: PathBuf,
    pub(crate) end: u64,
    pub(crate) capacity: u64,
    pub(crate) next_group: u64,
    pub(crate) torn: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) contents: LogContents,
    /// Ascending; the last one is `tail`.
    pub(crate) segments: Vec<SegmentUse>,
    pub(crate) tail: Tail,
    /// Segments that were being deleted when the process ended.
    pub(crate) leftover: Vec<u64>,
}

/// Reads one segment whole.
pub(crate) fn read_segment(
    directory: &dyn Directory,
    sequence: u64,
    end: Option<u64>,
) -> Result<(Arc<dyn RandomFile>, FileHeader, Scan, u64), StorageError> {
    let path = SEGMENT.path(directory, sequence);
    let (file, header) = SEGMENT.open(directory, sequence)?;
    let length = file.length().map_err(|error| StorageError::io("read", &path, error))?;
    let mut bytes = vec![0; usize::try_from(length).expect("a segment fits into memory")];
    file.read_at(0, &mut bytes).map_err(|error| StorageError::io("read", &path, error))?;
    let scan = scan(&path, &bytes, &header, end)?;
    Ok((file, header, scan, length))
}

/// Verifies a segment that is not written any more, as the disk has it, up to where its successor says that it ends. Its
/// length in bytes.
pub(crate) fn verify_segment(directory: &dyn Directory, sequence: u64, successor: u64) -> Result<u64, StorageError> {
    let end = SEGMENT.open(directory, successor)?.1.previous_end();
    SEGMENT.open(directory, sequence)?.0.forget(0, 0);
    let (_, _, _, length) = read_segment(directory, sequence, Some(end))?;
    Ok(length)
}

/// Reads all segments and changes nothing.
pub(crate) fn recover(directory: &dyn Directory) -> Result<Recovered, StorageError> {
    let mut sequences = SEGMENT.list(directory)?;
    if sequences.is_empty() {
        return Err(StorageError::Damaged {
            path: directory.path().to_owned(),
            offset: 0,
            found: "the log has no segments".to_owned(),
        });
    }
    // Deletion goes from the oldest on, yet a crash may leave any of those it was deleting.
    let first = (1..sequences.len()).rev().find(|&at| sequences[at] != sequences[at - 1] + 1).unwrap_or_default();
    let leftover: Vec<u64> = sequences.drain(..first).collect();

    let mut replay = Replay::default();
    let mut tail = None;
    let mut headers = Vec::new();
    for &sequence in &sequences {
        headers.push(SEGMENT.open(directory, sequence)?.1);
    }
    for (at, &sequence) in sequences.iter().enumerate() {
        let successor = headers.get(at + 1);
        let path = SEGMENT.path(directory, sequence);
        let (file, header, scan, capacity) =
            read_segment(directory, sequence, successor.map(FileHeader::previous_end))?;
        if let Some(successor) = successor.filter(|successor| successor.first_group() != scan.next_group) {
            let found = format!(
                "it ends before group {}, its successor begins with {}",
                scan.next_group,
                successor.first_group()
            );
            return Err(StorageError::Damaged { path, offset: scan.end, found });
        }
        replay.segments.push(SegmentUse { sequence, last: LogIndex(0) });
        for (offset, framed) in scan.records {
            replay.apply(framed.record).map_err(|found| StorageError::Damaged { path: path.clone(), offset, found })?;
        }
        let (end, next_group, torn) = (scan.end, scan.next_group, scan.torn);
        tail = Some(Tail { file, header, path, end, capacity, next_group, torn });
    }
    let (contents, segments) = replay.finish().map_err(|found| StorageError::Damaged {
        path: SEGMENT.path(directory, sequences[0]),
        offset: 0,
        found,
    })?;
    Ok(Recovered { contents, segments, tail: tail.expect("there is a segment"), leftover })
}

/// The log as of the records read so far.
#[derive(Default)]
struct Replay {
    hard_state: Option<Bytes>,
    compacted: (LogIndex, Term),
    entries: VecDeque<LogEntry>,
    segments: Vec<SegmentUse>,
}

impl Replay {
    fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::HardState(bytes) => self.hard_state = Some(bytes),
            Record::Entry(entry) => {
                if let Some(last) = self.entries.back().filter(|last| last.index.next() != entry.index) {
                    return Err(format!("entry {} follows entry {}", entry.index, last.index));
                }
                self.segments.last_mut().expect("records are in segments").last = entry.index;
                self.entries.push_back(entry);
            }
            Record::Truncate(from) => self.void(from),
            Record::Reset(index, term) => {
                self.void(LogIndex(0));
                self.compacted = (index, term);
            }
            Record::Compacted(index, term) => {
                if index > self.compacted.0 {
                    self.compacted = (index, term);
                }
            }
        }
        Ok(())
    }

    /// Entries from `from` on do not count any more.
    fn void(&mut self, from: LogIndex) {
        while self.entries.back().is_some_and(|entry| entry.index >= from) {
            self.entries.pop_back();
        }
        void_in(&mut self.segments, from);
    }

    fn finish(mut self) -> Result<(LogContents, Vec<SegmentUse>), String> {
        while self.entries.front().is_some_and(|entry| entry.index <= self.compacted.0) {
            self.entries.pop_front();
        }
        if let Some(first) = self.entries.front().filter(|first| first.index != self.compacted.0.next()) {
            return Err(format!(
                "the log begins behind entry {} but the first entry in it is {}: a segment is missing",
                self.compacted.0, first.index
            ));
        }
        let contents =
            LogContents { hard_state: self.hard_state, compacted: self.compacted, entries: self.entries.into() };
        Ok((contents, self.segments))
    }
}

/// Entries from `from` on do not count any more in these segments.
pub(crate) fn void_in(segments: &mut [SegmentUse], from: LogIndex) {
    for segment in segments {
        segment.last = segment.last.min(LogIndex(from.0.saturating_sub(1)));
    }
}
