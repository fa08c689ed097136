//! Batches on their way to the disk, and the messages that promise what is in them.

use std::collections::VecDeque;

use raft::eraftpb::Message;

use super::Output;

#[derive(Debug)]
struct Batch {
    number: u64,
    /// Raft's number of the newest `Ready` that is done with this batch.
    ready: u64,
    /// The term whose vote or entries the batch carries.
    term: u64,
    /// Raft's last entry and the reset come from a snapshot.
    reset: bool,
    messages: Vec<Message>,
    outputs: Vec<Output>,
}

/// In order: a message waits for its own batch and all before it.
#[derive(Debug)]
pub(super) struct Unsynced {
    batches: VecDeque<Batch>,
    newest: u64,
    /// The term of the hard state on the disk.
    term: u64,
    /// Ticks since the disk last finished a batch, while one waits.
    ticks: usize,
}

/// What became true when batches reached the disk.
#[derive(Debug, Default)]
pub(super) struct Synced {
    /// For `RawNode::on_persist_ready`.
    pub(super) ready: Option<u64>,
    pub(super) messages: Vec<Message>,
    pub(super) outputs: Vec<Output>,
}

impl Unsynced {
    pub(super) fn new(term: u64) -> Self {
        Self { batches: VecDeque::new(), newest: 0, term, ticks: 0 }
    }

    /// The number of a new batch; `messages` wait for it.
    pub(super) fn submit(&mut self, ready: u64, term: u64, reset: bool, messages: Vec<Message>) -> u64 {
        self.newest += 1;
        self.batches.push_back(Batch { number: self.newest, ready, term, reset, messages, outputs: Vec::new() });
        self.newest
    }

    /// A `Ready` that writes nothing is done with the newest batch; at once where none waits.
    pub(super) fn follow(&mut self, ready: u64, messages: Vec<Message>) -> Synced {
        match self.batches.back_mut() {
            Some(batch) => {
                batch.ready = ready;
                batch.messages.extend(messages);
                Synced::default()
            }
            None => Synced { ready: Some(ready), messages, outputs: Vec::new() },
        }
    }

    /// Keeps the output until all that waits is synced; gives it back where nothing does.
    pub(super) fn attach(&mut self, output: Output) -> Option<Output> {
        match self.batches.back_mut() {
            Some(batch) => {
                batch.outputs.push(output);
                None
            }
            None => Some(output),
        }
    }

    /// What waits for the disk promises nothing any more, and raft is not told of it.
    pub(super) fn forget(&mut self) {
        for batch in &mut self.batches {
            batch.ready = 0;
            batch.messages.clear();
        }
    }

    pub(super) fn persisted(&mut self, number: u64) -> Synced {
        let mut synced = Synced::default();
        while self.batches.front().is_some_and(|batch| batch.number <= number) {
            let Some(batch) = self.batches.pop_front() else { break };
            self.ticks = 0;
            self.term = self.term.max(batch.term);
            synced.ready = Some(batch.ready);
            synced.messages.extend(batch.messages);
            synced.outputs.extend(batch.outputs);
        }
        synced
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// A snapshot's position is not on the disk yet.
    pub(super) fn has_reset(&self) -> bool {
        self.batches.iter().any(|batch| batch.reset)
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// Counts a tick; the ticks that the disk has been busy with its oldest batch.
    pub(super) fn tick(&mut self) -> usize {
        self.ticks = if self.batches.is_empty() { 0 } else { self.ticks + 1 };
        self.ticks
    }

    pub(super) fn ticks(&self) -> usize {
        self.ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_for_their_batch_and_all_before_it() {
        let message = |to| Message { to, ..Message::default() };
        let mut unsynced = Unsynced::new(3);
        assert_eq!(unsynced.follow(1, vec![message(9)]).messages.len(), 1, "nothing to wait for");
        let first = unsynced.submit(2, 4, false, vec![message(1)]);
        let second = unsynced.submit(3, 5, true, vec![message(2)]);
        assert!(unsynced.follow(4, vec![message(3)]).messages.is_empty());
        assert_eq!((unsynced.tick(), unsynced.tick()), (1, 2));
        let synced = unsynced.persisted(first);
        assert_eq!((synced.ready, synced.messages.len(), unsynced.term()), (Some(2), 1, 4));
        assert!(unsynced.has_reset());
        let synced = unsynced.persisted(second);
        assert_eq!((synced.ready, synced.messages.len(), unsynced.term()), (Some(4), 2, 5));
        assert!(unsynced.is_empty() && !unsynced.has_reset());
        assert_eq!(unsynced.tick(), 0);
    }
}
