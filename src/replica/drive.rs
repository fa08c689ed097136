//! Carries out what raft has ready: batches for the disk, messages, committed entries. No message that promises
//! something may leave before its batch is synced (docs/protocol.md R101-synced).

use bytes::Bytes;
use protobuf::Message as _;
use raft::{
    Ready,
    eraftpb::{Entry, Message},
};

use super::{CommittedEntry, Output, Replica, guard, membership, unsynced::Synced};
use crate::{
    message::{
        log::{LogBatch, LogEntry},
        peer::PeerMessage,
    },
    types::{LogIndex, NodeId, Term},
};

impl Replica {
    pub(super) fn drive(&mut self) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let messages = ready.take_messages();
            self.send(messages);
            let committed = ready.take_committed_entries();
            let synced = self.take_in(&mut ready);
            self.raw.advance_append_async(ready);
            self.finish(synced);
            self.deliver(committed);
            self.catch_up_applied();
            self.settle();
        }
        self.confirm_leases();
    }

    pub(super) fn persisted(&mut self, number: u64) {
        let synced = self.unsynced.persisted(number);
        self.finish(synced);
        self.catch_up_applied();
        if self.greetings.begins_with.is_some_and(|batch| batch <= number) {
            self.greetings.begins_with = None;
            self.tick_greetings();
            self.begin_if_greeted();
        }
    }

    /// Raft's applied follows the state's, as far as raft knows the entries as committed and on the disk.
    pub(super) fn catch_up_applied(&mut self) {
        let log = &self.raw.raft.raft_log;
        let applied = self.raw.store().applied.min(log.committed).min(log.persisted);
        if applied > log.applied {
            self.raw.advance_apply_to(applied);
        }
    }

    /// The disk's log is older than the state: it begins anew behind the state. The batch's number.
    pub(super) fn persist_reset(&mut self, index: u64, term: u64) -> u64 {
        self.persist_alone(Some((LogIndex(index), Term(term))))
    }

    /// A batch without entries, for what this node must not forget. Its number.
    pub(super) fn persist_alone(&mut self, reset: Option<(LogIndex, Term)>) -> u64 {
        let hard_state = &self.raw.store().hard_state;
        let number = self.unsynced.submit(0, hard_state.term, reset.is_some(), Vec::new());
        let hard_state = Some(self.memory.save(hard_state));
        self.outputs.push_back(Output::Persist(LogBatch { number, hard_state, entries: Vec::new(), reset }));
        number
    }

    /// Puts what is to be persisted into the log in memory and on its way to the disk.
    fn take_in(&mut self, ready: &mut Ready) -> Synced {
        let number = ready.number();
        let messages = ready.take_persisted_messages();
        let metadata = ready.snapshot().get_metadata().clone();
        let reset = (metadata.index != 0).then_some((LogIndex(metadata.index), Term(metadata.term)));
        let entries = ready.take_entries();
        let log = self.raw.mut_store();
        if let Some(hard_state) = ready.hs() {
            log.hard_state = hard_state.clone();
        }
        if reset.is_some() {
            log.reset(metadata.index, metadata.term);
            log.membership = metadata.get_conf_state().clone();
        }
        log.append(&entries);
        // A newer commit alone is no promise: it goes with the next batch.
        if !ready.must_sync() {
            return self.unsynced.follow(number, messages);
        }
        let hard_state = log.hard_state.clone();
        let batch = self.unsynced.submit(number, hard_state.term, reset.is_some(), messages);
        self.outputs.push_back(Output::Persist(LogBatch {
            number: batch,
            hard_state: Some(self.memory.save(&hard_state)),
            entries: entries.iter().map(stored).collect(),
            reset,
        }));
        Synced::default()
    }

    fn finish(&mut self, synced: Synced) {
        if let Some(ready) = synced.ready {
            self.raw.on_persist_ready(ready);
        }
        self.send(synced.messages);
        self.outputs.extend(synced.outputs);
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let bytes = message.write_to_bytes().expect("raft's messages have an encoding and memory suffices");
            let message_to = NodeId(message.to);
            self.outputs.push_back(Output::Send { to: message_to, message: PeerMessage::Raft(bytes.into()) });
        }
    }

    fn deliver(&mut self, entries: Vec<Entry>) {
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let membership = self.change_of(&entry);
            // A snapshot brought the state further than raft's log was known to be committed.
            if entry.index > self.delivered {
                self.delivered = entry.index;
                committed.push(CommittedEntry {
                    index: LogIndex(entry.index),
                    term: Term(entry.term),
                    data: super::data_of(&entry),
                    membership,
                });
            }
        }
        if !committed.is_empty() {
            self.outputs.push_back(Output::Committed(committed));
        }
    }

    /// Puts a committed change of membership in force; what every node refuses changes nothing anywhere.
    fn change_of(&mut self, entry: &Entry) -> Option<Bytes> {
        let change = match guard::conf_change(entry) {
            Ok(change) => change?,
            Err(reason) => {
                self.outputs.push_back(Output::Fatal(format!("log entry {} is damaged: {reason}", entry.index)));
                return None;
            }
        };
        let state = self.raw.apply_conf_change(&change).ok()?;
        self.joint_since = Some(self.now).filter(|_| membership::is_joint(&state));
        let encoded = membership::encode(&state);
        self.greetings.hello_at = self.now;
        self.memory.keep_only(|node| membership::has(&state, node));
        self.raw.mut_store().membership = state;
        Some(encoded)
    }
}

fn stored(entry: &Entry) -> LogEntry {
    let bytes = entry.write_to_bytes().expect("raft's entries have an encoding and memory suffices");
    LogEntry { index: LogIndex(entry.index), term: Term(entry.term), bytes: bytes.into() }
}
