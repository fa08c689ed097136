//! A storage node's disk: what is synced, what is on its way, and what a crash leaves of that.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    dice::Dice,
    packs::{Packs, Pin},
};
use crate::{
    message::log::{LogBatch, LogEntry, StateBatch},
    namespace::{Founding, RowError, State},
    node::{Ends, Recovered},
    types::{BlockHash, LogIndex, Term},
};

/// The log as it is synced.
#[derive(Clone, Debug)]
struct LogImage {
    hard_state: Option<Bytes>,
    entries: VecDeque<LogEntry>,
    compacted: (LogIndex, Term),
}

/// The state store as it is synced, membership and position included.
#[derive(Clone, Debug)]
struct StateImage {
    rows: BTreeMap<Bytes, Bytes>,
    membership: Bytes,
    index: LogIndex,
    term: Term,
    /// The state is a snapshot's, and the log may not have begun behind it yet.
    is_installed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    log: LogImage,
    state: StateImage,
    /// Written and not synced, in order.
    log_queue: VecDeque<LogBatch>,
    state_queue: VecDeque<StateBatch>,
    packs: Packs,
    /// What a snapshot installed is marked, as a store does.
    marks: bool,
}

impl Disk {
    /// A founding node's disk: the state at index 1.
    pub(super) fn found(founding: &Founding, membership: Bytes, marks: bool) -> Self {
        let position = (LogIndex(1), Term(1));
        Self {
            log: LogImage { hard_state: None, entries: VecDeque::new(), compacted: position },
            state: StateImage {
                rows: State::found(founding).rows().collect(),
                membership,
                index: position.0,
                term: position.1,
                is_installed: false,
            },
            log_queue: VecDeque::new(),
            state_queue: VecDeque::new(),
            packs: Packs::default(),
            marks,
        }
    }

    /// What its blocks take.
    pub(super) fn content_bytes(&self) -> u64 {
        self.packs.content_bytes()
    }

    pub(super) fn write_log(&mut self, batch: LogBatch) {
        self.log_queue.push_back(batch);
    }

    pub(super) fn write_state(&mut self, batch: StateBatch) {
        self.state_queue.push_back(batch);
    }

    /// Syncs the log up to this batch; says up to which it got. A reset waits until the state that it belongs to is
    /// synced.
    pub(super) fn sync_log(&mut self, number: u64) -> Option<u64> {
        let mut reached = None;
        while self.log_queue.front().is_some_and(|batch| batch.number <= number) {
            let waits = |batch: &LogBatch| batch.reset.is_some_and(|(index, _)| index > self.state.index);
            if self.log_queue.front().is_some_and(waits) {
                break;
            }
            let Some(batch) = self.log_queue.pop_front() else { break };
            reached = Some(batch.number);
            self.log.take(batch);
        }
        reached
    }

    fn take_state(&mut self, batch: StateBatch) {
        self.packs.take(&batch);
        let is_another = batch.reset;
        self.state.take(batch);
        if is_another {
            self.packs.name(self.state.references());
        }
    }

    /// Syncs all of the state that was written; says up to which entry it is synced.
    pub(super) fn sync_state(&mut self) -> LogIndex {
        while let Some(batch) = self.state_queue.pop_front() {
            self.take_state(batch);
        }
        self.state.index
    }

    pub(super) fn compact(&mut self, through: LogIndex, term: Term) {
        let log = &mut self.log;
        while log.entries.front().is_some_and(|entry| entry.index <= through) {
            log.entries.pop_front();
        }
        if log.compacted.0 < through {
            log.compacted = (through, term);
        }
    }

    /// The process ends: of what was written some is on the disk, in order, and the last of it torn. True where a part of
    /// a batch was left.
    pub(super) fn crash(&mut self, dice: &mut Dice) -> bool {
        let mut is_torn = false;
        let kept = dice.index(self.state_queue.len() + 1);
        for _ in 0..kept {
            if let Some(batch) = self.state_queue.pop_front() {
                self.take_state(batch);
            }
        }
        self.state_queue.clear();
        let kept = dice.index(self.log_queue.len() + 1);
        for _ in 0..kept {
            let newest = self.log_queue.front().map_or(0, |batch| batch.number);
            if self.sync_log(newest).is_none() {
                break;
            }
        }
        if let Some(mut torn) = self.log_queue.pop_front().filter(|torn| torn.reset.is_none()) {
            let (written, whole) = (torn.entries.len(), dice.index(torn.entries.len() + 1));
            torn.entries.truncate(whole);
            if dice.chance(500) {
                is_torn = whole < written;
                self.log.take(torn);
            }
        }
        self.log_queue.clear();
        is_torn
    }

    /// The disk goes back to a copy of it. Blocks stay: a node fetches from others what its packs lack.
    pub(super) fn restore(&mut self, copy: Self) {
        (self.log, self.state) = (copy.log, copy.state);
        self.packs.name(self.state.references());
        self.log_queue.clear();
        self.state_queue.clear();
    }

    /// What the storage shell gives a node that starts.
    pub(super) fn recover(&self) -> Result<Recovered, RowError> {
        self.ends().check().unwrap_or_else(|apart| panic!("log and state: {apart}"));
        Ok(Recovered {
            hard_state: self.log.hard_state.clone(),
            membership: self.state.membership.clone(),
            state: State::from_rows(self.state.rows.iter().map(|(key, value)| (key.clone(), value.clone())))?,
            state_index: self.state.index,
            state_term: self.state.term,
            entries: self.log.entries.iter().cloned().collect(),
            compacted: self.log.compacted,
        })
    }

    fn ends(&self) -> Ends {
        let (log, state) = (&self.log, &self.state);
        let entry = log.entries.iter().find(|entry| entry.index == state.index).map(|entry| entry.term);
        Ends {
            log_begin: log.compacted.0,
            log_end: log.entries.back().map_or(log.compacted.0, |entry| entry.index),
            state: (state.index, state.term),
            term_in_log: entry.or((log.compacted.0 == state.index).then_some(log.compacted.1)),
            is_installed: state.is_installed && self.marks,
        }
    }

    /// Whether the entry would survive a crash here: in the log, or in the state.
    pub(super) fn keeps(&self, index: LogIndex, term: Term) -> bool {
        self.state.index >= index
            || self.log.compacted.0 >= index
            || self.log.entries.iter().any(|entry| (entry.index, entry.term) == (index, term))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.log.entries.iter()
    }

    pub(super) fn put_block(&mut self, hash: BlockHash, bytes: Bytes, pin: Option<Pin>) {
        self.packs.put(hash, bytes, pin);
    }

    /// Blocks are readable before the state that names them is synced: packs are written first.
    pub(super) fn block(&self, hash: &BlockHash) -> Option<Bytes> {
        let queued = || self.state_queue.iter().flat_map(|batch| &batch.content).find(|(found, _)| found == hash);
        self.packs.get(hash).or_else(|| queued().map(|(_, bytes)| bytes)).cloned()
    }
}

impl LogImage {
    fn take(&mut self, batch: LogBatch) {
        if batch.hard_state.is_some() {
            self.hard_state = batch.hard_state;
        }
        if let Some(reset) = batch.reset {
            self.entries.clear();
            self.compacted = reset;
        }
        if let Some(first) = batch.entries.first() {
            while self.entries.back().is_some_and(|entry| entry.index >= first.index) {
                self.entries.pop_back();
            }
            self.entries.extend(batch.entries);
        }
    }
}

impl StateImage {
    /// How many extents name each block; none where the rows are no state.
    fn references(&self) -> BTreeMap<BlockHash, u64> {
        let rows = self.rows.iter().map(|(key, value)| (key.clone(), value.clone()));
        State::from_rows(rows).map(|state| state.references()).unwrap_or_default()
    }

    fn take(&mut self, batch: StateBatch) {
        if batch.reset {
            self.rows.clear();
        }
        for row in batch.rows {
            match row.value {
                Some(value) => self.rows.insert(row.key, value),
                None => self.rows.remove(&row.key),
            };
        }
        if let Some(membership) = batch.membership {
            self.membership = membership;
        }
        (self.index, self.term, self.is_installed) = (batch.index, batch.term, batch.reset);
    }
}
