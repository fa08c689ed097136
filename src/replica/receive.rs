//! Messages of peers: checked before raft sees them (`guard.rs`), heartbeats and greetings handled here. No message,
//! whatever it is, may panic the node.

use bytes::Bytes;
use raft::{
    CAMPAIGN_TRANSFER, StateRole,
    eraftpb::{Message, MessageType, Snapshot},
};

use super::{Output, Replica, Standing, guard, membership};
use crate::message::peer::Mark;
use crate::{
    message::peer::PeerMessage,
    types::{LogIndex, NodeId, Term},
};

impl Replica {
    pub(super) fn receive(&mut self, from: NodeId, bytes: &Bytes) {
        if !self.takes_from(from) {
            return;
        }
        let raft = &self.raw.raft;
        let here = guard::Position { id: self.config.id.0, term: raft.term, last: raft.raft_log.last_index() };
        let message =
            guard::message(bytes).and_then(|message| guard::admissible(&message, from.0, here).map(|()| message));
        match message {
            Ok(message) => {
                self.note_promise(&message);
                self.check_leader(&message);
                self.take(message);
            }
            Err(reason) => self.outputs.push_back(Output::Refused { from, reason }),
        }
    }

    fn take(&mut self, message: Message) {
        let kind = message.get_msg_type();
        match kind {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                let is_handed_over = message.context == CAMPAIGN_TRANSFER;
                if self.now < self.promise && !is_handed_over {
                    return;
                }
            }
            MessageType::MsgTimeoutNow => {
                // Only the leader of this very term hands over; such a message may be late. And raft would campaign
                // over a snapshot whose position is not on the disk yet.
                let raft = &self.raw.raft;
                let is_from_leader = message.term == raft.term && message.from == raft.leader_id;
                if !is_from_leader || self.unsynced.has_reset() {
                    return;
                }
            }
            MessageType::MsgSnapshot if self.needs(message.get_snapshot()) => {
                if message.term >= self.raw.raft.term {
                    let index = LogIndex(message.get_snapshot().get_metadata().index);
                    self.outputs.push_back(Output::NeedSnapshot { from: NodeId(message.from), index });
                }
                return;
            }
            MessageType::MsgAppend if !message.get_entries().is_empty() && self.has_no_place() => return,
            _ => {}
        }
        // Refusals of `step` are about what this node itself proposes.
        let _ = self.raw.raft.step(message);
        if kind == MessageType::MsgTimeoutNow && self.raw.raft.state != StateRole::Follower {
            self.early_term = Some(self.raw.raft.term);
        }
    }

    /// Whether entries would heap up in memory: the node has no place for them, or its disk is stuck.
    fn has_no_place(&self) -> bool {
        self.refuses || self.unsynced.ticks() > self.pace.election
    }

    /// Whether rows must be fetched: the log here does not reach the snapshot's position.
    fn needs(&self, snapshot: &Snapshot) -> bool {
        let (log, metadata) = (&self.raw.raft.raft_log, snapshot.get_metadata());
        metadata.index > log.committed && !log.match_term(metadata.index, metadata.term)
    }

    /// A heartbeat of the leader: promise, and say so.
    pub(super) fn promise_to(&mut self, from: NodeId, term: Term, round: u64, marks: Vec<Mark>, alive: &[NodeId]) {
        if !self.takes_from(from) {
            return;
        }
        let raft = &self.raw.raft;
        // A term that is not on the disk may be forgotten, and with it that there was anything to promise.
        let is_known = term.0 == raft.term && term.0 <= self.unsynced.term();
        let is_leader = raft.leader_id == from.0 || (raft.leader_id == 0 && raft.state == StateRole::Follower);
        if is_known && is_leader && !self.is_leading() {
            self.promise = self.promise.max(self.now.after(self.config.timing.election));
            let message = PeerMessage::HeartbeatAcknowledged { term, round, wall_clock: None };
            self.outputs.push_back(Output::Send { to: from, message });
            self.heard(from);
            self.memory.promised(from, term, None);
            self.learn(marks, alive);
        }
    }

    /// The state was replaced by a peer's; raft's log follows it.
    pub(super) fn installed(&mut self, index: u64, term: u64, membership: &Bytes) {
        let membership = match guard::conf_state(membership) {
            Ok(membership) => membership,
            Err(reason) => {
                self.outputs.push_back(Output::Fatal(format!("the snapshot at {index} is damaged: {reason}")));
                return;
            }
        };
        if !membership::has(&membership, self.config.id.0) {
            self.outputs.push_back(Output::Fatal("this node is not a member of the cluster any more".to_owned()));
            return;
        }
        self.delivered = self.delivered.max(index);
        if self.standing() == Standing::Forgetful {
            return self.refilled(index, term, membership);
        }
        let log = self.raw.mut_store();
        log.applied = log.applied.max(index);
        // A leader has all that is committed; its commit index will pass this one by itself.
        if !self.is_leading() && index > self.raw.raft.raft_log.committed {
            let raft = &mut self.raw.raft;
            if raft.state != StateRole::Follower {
                let term = raft.term;
                raft.become_follower(term, raft::INVALID_ID);
            }
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (index, term);
            metadata.set_conf_state(membership);
            if raft.restore(snapshot) && raft.leader_id != 0 {
                let mut answer = Message::default();
                answer.set_msg_type(MessageType::MsgAppendResponse);
                (answer.from, answer.to, answer.term) = (raft.id, raft.leader_id, raft.term);
                (answer.index, answer.commit) = (raft.raft_log.last_index(), raft.raft_log.committed);
                raft.msgs.push(answer);
            }
        }
        self.catch_up_applied();
    }
}
