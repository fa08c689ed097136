//! The calls of a session that have no answer yet, and the answers whose arrival the cluster has not heard of.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    limits,
    message::mount::ToLeader,
    namespace::Operation,
    types::{LogIndex, Sequence, UploadId},
};

/// Answered calls named in one message.
const CARRIED_MAX: usize = 256;

/// A call that has not been answered.
#[derive(Debug)]
struct Call {
    operation: Operation,
    /// Answered calls that this one tells of; the same ones at every repetition, because any of them may be the one
    /// that reaches the log.
    carried: Vec<Sequence>,
    /// Some connection has carried it: it may take effect.
    sent: bool,
    /// Abandoned uploads that its operation names, beside its own.
    lifts: Vec<UploadId>,
}

/// Calls in the order in which they were made. Each keeps its sequence until it is answered or given up, however often
/// it is sent.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last: Sequence,
    calls: BTreeMap<Sequence, Call>,
    /// Calls that the present connection has not carried yet.
    waiting: BTreeSet<Sequence>,
    /// Answers that have arrived and that no call has told of, and calls that were given up.
    answered: BTreeSet<Sequence>,
    /// Calls that were given up and that this connection's leader still has: they count as under way.
    ghosts: BTreeSet<Sequence>,
    /// Uploads whose pins no entry has lifted, and whose blocks no call will need.
    abandoned: BTreeSet<UploadId>,
}

impl Calls {
    pub(crate) fn submit(&mut self, operation: Operation) -> Sequence {
        self.last = Sequence(self.last.0 + 1);
        self.calls.insert(self.last, Call { operation, carried: Vec::new(), sent: false, lifts: Vec::new() });
        self.waiting.insert(self.last);
        self.last
    }

    /// The next message for the present connection, as long as fewer than `SESSION_CALLS_MAX` are on their way.
    pub(crate) fn next_message(&mut self) -> Option<ToLeader> {
        if self.calls.len() - self.waiting.len() + self.ghosts.len() >= limits::SESSION_CALLS_MAX {
            return None;
        }
        let sequence = self.waiting.pop_first()?;
        let call = self.calls.get_mut(&sequence)?;
        if !call.sent {
            call.sent = true;
            while call.carried.len() < CARRIED_MAX
                && let Some(answered) = self.answered.pop_first()
            {
                call.carried.push(answered);
            }
            // Not before the calls are barred that were given up: one of them may need the blocks still.
            if self.answered.is_empty()
                && let Some(uploads) = call.operation.uploads_mut()
            {
                while uploads.len() < limits::PIECES_MAX
                    && let Some(abandoned) = self.abandoned.pop_first()
                {
                    call.lifts.push(abandoned);
                    uploads.push(abandoned);
                }
            }
        }
        Some(ToLeader::Operation { sequence, answered: call.carried.clone(), operation: call.operation.clone() })
    }

    /// A new connection stands: everything unanswered is sent again, in order.
    pub(crate) fn reconnected(&mut self) {
        self.waiting = self.calls.keys().copied().collect();
        self.ghosts.clear();
    }

    /// An answer has arrived, of the entry at `index`; 0 where the leader refused the call without one. `lifts`: such an
    /// entry lifts the pins of the uploads it names. False when nobody waits for it any more.
    pub(crate) fn answered(&mut self, sequence: Sequence, index: LogIndex, lifts: bool) -> bool {
        self.waiting.remove(&sequence);
        self.ghosts.remove(&sequence);
        let mut call = self.calls.remove(&sequence);
        let is_awaited = call.is_some();
        if let Some(call) = call.as_mut().filter(|_| index == LogIndex(0) || !lifts) {
            self.abandoned.extend(call.lifts.drain(..));
        }
        if index == LogIndex(0) {
            // What the call told of has not reached the log either.
            self.answered.extend(call.map(|call| call.carried).unwrap_or_default());
            self.leave_no_gap(sequence);
        } else {
            self.answered.insert(sequence);
        }
        is_awaited
    }

    /// The call never takes effect, so nothing needs to be told of it; but the cluster keeps a session's calls as ranges, and
    /// fewer of them where none is left out.
    fn leave_no_gap(&mut self, sequence: Sequence) {
        if self.answered.len() < CARRIED_MAX {
            self.answered.insert(sequence);
        }
    }

    /// The log carried this call out. Where it was given up, its reply need not be kept for us.
    pub(crate) fn seen_in_log(&mut self, sequence: Sequence) {
        if !self.calls.contains_key(&sequence) {
            self.answered.insert(sequence);
        }
    }

    /// Nobody waits for the call any more: it is not sent again. What was sent may still take effect, once, and before
    /// any later call: that one carries its sequence as answered, which bars it from then on (docs/protocol.md
    /// R17-exactly-once). True when it was never sent, and so never will take effect.
    pub(crate) fn give_up(&mut self, sequence: Sequence) -> bool {
        let is_under_way = !self.waiting.remove(&sequence);
        match self.calls.remove(&sequence) {
            Some(call) => {
                if is_under_way {
                    self.ghosts.insert(sequence);
                }
                self.answered.extend(call.carried);
                self.abandoned.extend(call.lifts);
                if call.sent {
                    self.answered.insert(sequence);
                } else {
                    self.leave_no_gap(sequence);
                }
                !call.sent
            }
            None => false,
        }
    }

    /// No call will need the blocks of this upload: the next operation that can say so has their pins lifted.
    pub(crate) fn abandon_upload(&mut self, upload: UploadId) {
        self.abandoned.insert(upload);
    }

    /// The session is gone. Calls that were sent may have taken effect and are never tried under another session: they
    /// are returned. The others stay for the next session.
    pub(crate) fn expire(&mut self) -> Vec<Sequence> {
        self.answered.clear();
        // Pins end with their session.
        self.abandoned.clear();
        let sent: Vec<Sequence> = self.calls.iter().filter(|(_, call)| call.sent).map(|(s, _)| *s).collect();
        self.calls.retain(|_, call| !call.sent);
        self.reconnected();
        sent
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClearSuid, Ino, Name};

    fn operation(name: &str) -> Operation {
        Operation::Unlink { parent: Ino::ROOT, name: Name::new(name.as_bytes()).expect("a name") }
    }

    fn sent(calls: &mut Calls) -> Vec<(u64, Vec<u64>)> {
        let mut messages = Vec::new();
        while let Some(ToLeader::Operation { sequence, answered, .. }) = calls.next_message() {
            messages.push((sequence.0, answered.iter().map(|s| s.0).collect()));
        }
        messages
    }

    /// Answered by some entry.
    fn answer(calls: &mut Calls, sequence: u64) -> bool {
        calls.answered(Sequence(sequence), LogIndex(7), true)
    }

    #[test]
    fn unanswered_calls_go_again_with_their_sequence_in_order() {
        let mut calls = Calls::default();
        for name in ["a", "b", "c"] {
            calls.submit(operation(name));
        }
        assert_eq!(sent(&mut calls), [(1, vec![]), (2, vec![]), (3, vec![])]);
        assert!(answer(&mut calls, 2));
        calls.reconnected();
        assert_eq!(sent(&mut calls), [(1, vec![]), (3, vec![])]);
    }

    #[test]
    fn an_answer_is_told_with_the_next_call_and_with_all_its_repetitions() {
        let mut calls = Calls::default();
        calls.submit(operation("a"));
        sent(&mut calls);
        answer(&mut calls, 1);
        calls.submit(operation("b"));
        assert_eq!(sent(&mut calls), [(2, vec![1])]);
        calls.reconnected();
        assert_eq!(sent(&mut calls), [(2, vec![1])]);
        calls.submit(operation("c"));
        assert_eq!(sent(&mut calls), [(3, vec![])], "told once is enough");
    }

    /// Alternating success and ENOSPC left every success unconfirmed: the next call told of it, and was refused.
    #[test]
    fn what_a_refused_call_told_is_told_by_the_next() {
        let mut calls = Calls::default();
        calls.submit(operation("a"));
        sent(&mut calls);
        answer(&mut calls, 1);
        let mut refused = calls.submit(operation("b"));
        assert_eq!(sent(&mut calls), [(2, vec![1])]);
        assert!(calls.answered(refused, LogIndex(0), true));
        for _ in 0..4 * CARRIED_MAX {
            refused = calls.submit(operation("c"));
            let told = sent(&mut calls).remove(0).1;
            assert!(told.starts_with(&[1, 2]), "{told:?}");
            calls.answered(refused, LogIndex(0), true);
        }
        assert_eq!(calls.answered.len(), CARRIED_MAX, "refused ones are told as far as there is room");
    }

    fn write(upload: u64) -> Operation {
        Operation::Write {
            ino: Ino(2),
            pieces: Vec::new(),
            append: false,
            mtime: None,
            clear_suid: ClearSuid::No,
            uploads: vec![UploadId(upload)],
            fence: None,
        }
    }

    /// What the next call has lifted.
    fn lifted(calls: &mut Calls) -> Vec<u64> {
        let Some(ToLeader::Operation { operation, .. }) = calls.next_message() else { panic!("nothing to send") };
        operation.uploads().iter().map(|upload| upload.0).collect()
    }

    #[test]
    fn abandoned_uploads_are_named_by_the_next_write_that_reaches_the_log() {
        let mut calls = Calls::default();
        calls.abandon_upload(UploadId(1));
        calls.submit(operation("a"));
        assert!(lifted(&mut calls).is_empty(), "it has no place for them");
        let refused = calls.submit(write(2));
        assert_eq!(lifted(&mut calls), [2, 1]);
        calls.reconnected();
        calls.next_message();
        assert_eq!(lifted(&mut calls), [2, 1], "the same at every repetition");
        calls.answered(refused, LogIndex(0), true);
        let again = calls.submit(write(2));
        assert_eq!(lifted(&mut calls), [2, 1]);
        calls.answered(again, LogIndex(8), false);
        let given_up = calls.submit(write(3));
        assert_eq!(lifted(&mut calls), [3, 1]);
        calls.give_up(given_up);
        calls.submit(write(4));
        assert_eq!(lifted(&mut calls), [4, 1]);
        calls.submit(write(5));
        assert_eq!(lifted(&mut calls), [5], "once is enough");
    }

    #[test]
    fn uploads_are_not_lifted_while_a_call_that_was_given_up_may_take_effect() {
        let mut calls = Calls { last: Sequence(CARRIED_MAX as u64), ..Calls::default() };
        let given_up = calls.submit(write(1));
        calls.next_message();
        calls.answered = (1..=CARRIED_MAX as u64).map(Sequence).collect();
        calls.give_up(given_up);
        calls.abandon_upload(UploadId(1));
        calls.submit(write(1000));
        assert_eq!(lifted(&mut calls), [1000], "it does not bar the one that was given up");
        calls.submit(write(1001));
        assert_eq!(lifted(&mut calls), [1001, 1]);
    }

    #[test]
    fn no_more_than_the_limit_are_on_their_way() {
        let mut calls = Calls::default();
        for _ in 0..limits::SESSION_CALLS_MAX + 3 {
            calls.submit(operation("a"));
        }
        assert_eq!(sent(&mut calls).len(), limits::SESSION_CALLS_MAX);
        answer(&mut calls, 5);
        assert_eq!(sent(&mut calls), [(limits::SESSION_CALLS_MAX as u64 + 1, vec![5])]);
    }

    #[test]
    fn what_was_given_up_is_not_sent_again_and_what_it_told_is_told_by_another() {
        let mut calls = Calls::default();
        calls.submit(operation("a"));
        sent(&mut calls);
        answer(&mut calls, 1);
        calls.submit(operation("b"));
        sent(&mut calls);
        assert!(!calls.give_up(Sequence(2)), "it was sent and may take effect");
        calls.reconnected();
        calls.submit(operation("c"));
        assert_eq!(sent(&mut calls), [(3, vec![1, 2])], "and it is barred before anything else is done");
        assert!(!answer(&mut calls, 2), "nobody waits for the late answer");
    }

    #[test]
    fn what_was_given_up_counts_until_the_leader_is_rid_of_it() {
        let mut calls = Calls::default();
        for _ in 0..limits::SESSION_CALLS_MAX {
            calls.submit(operation("a"));
        }
        sent(&mut calls);
        calls.give_up(Sequence(1));
        calls.submit(operation("b"));
        assert_eq!(sent(&mut calls), [], "the leader still has as many as it may");
        answer(&mut calls, 1);
        assert_eq!(sent(&mut calls).len(), 1);
    }

    #[test]
    fn an_expired_session_takes_what_was_sent_and_leaves_what_was_not() {
        let mut calls = Calls::default();
        calls.submit(operation("a"));
        sent(&mut calls);
        calls.submit(operation("b"));
        assert_eq!(calls.expire(), [Sequence(1)]);
        assert_eq!(sent(&mut calls), [(2, vec![])]);
    }
}
