//! The log in memory, as raft reads it: every entry since the last one that was cut.

use std::collections::VecDeque;

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

/// What an entry costs in memory and on disk beside its data.
const ENTRY_OVERHEAD: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Log {
    /// Index and term of the entry before the first.
    compacted: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    pub(super) hard_state: HardState,
    /// The membership as of `applied`.
    pub(super) membership: ConfState,
    /// The last entry that the state includes.
    pub(super) applied: u64,
}

impl Log {
    pub(super) fn new(compacted: (u64, u64), entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(cost).sum();
        Self { compacted, entries: entries.into(), bytes, ..Self::default() }
    }

    pub(super) fn compacted(&self) -> (u64, u64) {
        self.compacted
    }

    pub(super) fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.compacted.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.compacted.0 { Some(self.compacted.1) } else { self.get(index).map(|entry| entry.term) }
    }

    /// Takes entries; what the log has from the first one's index on is replaced.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.last() >= first.index {
            let Some(entry) = self.entries.pop_back() else { break };
            self.bytes -= cost(&entry);
        }
        debug_assert_eq!(self.last() + 1, first.index, "raft appends without gaps");
        self.bytes += entries.iter().map(cost).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Forgets everything; the log goes on behind this position.
    pub(super) fn reset(&mut self, index: u64, term: u64) {
        (self.compacted, self.bytes) = ((index, term), 0);
        self.entries.clear();
    }

    pub(super) fn compact(&mut self, through: u64) {
        while self.compacted.0 < through {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= cost(&entry);
            self.compacted = (entry.index, entry.term);
        }
    }

    /// The furthest position up to `limit` that leaves `retained` bytes behind it, where that frees a good part.
    pub(super) fn compaction_point(&self, limit: u64, retained: usize) -> Option<(u64, u64)> {
        let mut left = self.bytes;
        let mut point = None;
        for entry in &self.entries {
            left -= cost(entry);
            if entry.index > limit || left < retained {
                break;
            }
            point = Some((entry.index, entry.term, left));
        }
        let (index, term, left) = point?;
        // Cutting entry by entry would cost more than it frees.
        (self.bytes - left >= retained / 8).then_some((index, term))
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + ENTRY_OVERHEAD
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.membership.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut entries = Vec::new();
        for entry in (low..high).filter_map(|index| self.get(index)) {
            size += cost(entry) as u64;
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.compacted.0 {
            return Err(StorageError::Compacted.into());
        }
        self.term_of(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Position and membership only: rows travel between nodes, not through raft.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let Some(term) = self.term_of(self.applied).filter(|_| self.applied >= request_index) else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.applied, term);
        metadata.set_conf_state(self.membership.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
        range
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, term);
                entry.data = vec![0; 100].into();
                entry
            })
            .collect()
    }

    #[test]
    fn a_conflicting_suffix_is_replaced() {
        let mut log = Log::new((4, 1), entries(5..11, 1));
        log.append(&entries(7..9, 2));
        assert_eq!((log.last(), log.term_of(6), log.term_of(7), log.term_of(9)), (8, Some(1), Some(2), None));
        assert_eq!(log.bytes, 4 * (100 + ENTRY_OVERHEAD));
    }

    #[test]
    fn compaction_keeps_what_laggards_need() {
        let mut log = Log::new((0, 0), entries(1..101, 1));
        let each = 100 + ENTRY_OVERHEAD;
        assert_eq!(log.compaction_point(100, 20 * each), Some((80, 1)));
        assert_eq!(log.compaction_point(40, 20 * each), Some((40, 1)));
        assert_eq!(log.compaction_point(1, 20 * each), None, "too little to be worth it");
        log.compact(80);
        assert_eq!((log.compacted(), log.last(), log.bytes), ((80, 1), 100, 20 * each));
        assert_eq!(log.term_of(80), Some(1));
        assert!(log.term(79).is_err());
        assert!(log.entries(80, 90, None, GetEntriesContext::empty(false)).is_err());
        assert_eq!(
            log.entries(81, 101, 3 * each as u64, GetEntriesContext::empty(false)).expect("they are there").len(),
            3
        );
    }

    #[test]
    fn a_snapshot_names_the_applied_position() {
        let mut log = Log::new((0, 0), entries(1..11, 3));
        log.applied = 7;
        let snapshot = log.snapshot(0, 2).expect("applied entries are a snapshot");
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (7, 3));
        assert!(log.snapshot(8, 2).is_err());
        log.reset(20, 4);
        assert_eq!((log.last(), log.term_of(20)), (20, Some(4)));
    }
}
