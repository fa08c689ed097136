//! The leader's part: proposals, heartbeat rounds, handing over, changes of membership, peers that need a snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::{
    CAMPAIGN_TRANSFER, ProgressState, SnapshotStatus,
    eraftpb::{ConfChangeV2, Entry, Message, MessageType},
};

use super::{DropReason, Output, Replica, membership};
use crate::{
    message::peer::PeerMessage,
    types::{LogIndex, NodeId, Term},
};

/// Peers that raft waits for to install a snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// The position first offered, and ticks since the last offer.
    waiting: BTreeMap<u64, (u64, usize)>,
}

impl Snapshots {
    /// The oldest position that a peer may be fetching: what follows it is needed afterwards.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.waiting.values().map(|(index, _)| *index).min()
    }
}

impl Replica {
    pub(super) fn propose(&mut self, token: u64, data: Bytes) {
        if !self.is_leading() {
            self.outputs.push_back(Output::Dropped { token, reason: DropReason::NotLeading });
            return;
        }
        let entry = Entry { data, ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.config.id.0;
        message.set_entries(vec![entry].into());
        let is_taken = self.raw.raft.step(message).is_ok();
        self.proposed(token, is_taken, DropReason::Full);
    }

    pub(super) fn change_membership(
        &mut self,
        token: u64,
        add_learners: &[NodeId],
        promote: &[NodeId],
        remove: &[NodeId],
    ) {
        let change = membership::change(&self.raw.store().membership, add_learners, promote, remove);
        let reason = if self.is_leading() { DropReason::Membership } else { DropReason::NotLeading };
        let is_free = self.is_leading() && !self.raw.raft.has_pending_conf();
        let is_taken =
            change.filter(|_| is_free).is_some_and(|change| self.raw.propose_conf_change(Vec::new(), change).is_ok());
        self.proposed(token, is_taken, reason);
    }

    fn proposed(&mut self, token: u64, is_taken: bool, otherwise: DropReason) {
        let raft = &self.raw.raft;
        self.outputs.push_back(if is_taken {
            Output::Proposed { token, index: LogIndex(raft.raft_log.last_index()), term: Term(raft.term) }
        } else {
            let reason = if raft.lead_transferee.is_some() { DropReason::Transferring } else { otherwise };
            Output::Dropped { token, reason }
        });
    }

    pub(super) fn transfer(&mut self, to: Option<NodeId>) {
        if !self.is_leading() {
            return;
        }
        let id = self.config.id.0;
        let membership = &self.raw.store().membership;
        let advanced = |peer: &u64| {
            let matched = self.raw.raft.prs().get(*peer).map_or(0, |progress| progress.matched);
            (self.is_reachable(NodeId(*peer)), matched)
        };
        let others = membership.get_voters().iter().copied().filter(|voter| *voter != id);
        let target = to.map_or_else(|| others.max_by_key(advanced), |to| Some(to.0));
        if let Some(target) = target.filter(|target| *target != id && membership.get_voters().contains(target)) {
            self.raw.transfer_leader(target);
        }
        // From the moment the other may be told to campaign, voters may break the promise that leases rest on. Where nobody
        // is told, those who asked for this have given leases up all the same: the next tick begins a new term.
        self.rounds.revoke();
    }

    pub(super) fn confirm_lease(&mut self, ticket: u64) {
        if self.is_leading() {
            self.rounds.ask(ticket);
        }
    }

    pub(super) fn acknowledged(&mut self, from: NodeId, term: Term, round: u64) {
        let is_member = self.raw.raft.prs().get(from.0).is_some();
        if self.is_leading() && term.0 == self.raw.raft.term && is_member && self.greetings.accepts(from) {
            self.heard(from);
            self.memory.promised(from, term, None);
            self.rounds.acknowledge(self.now, from, round);
        }
    }

    /// Whether the peer acknowledged a round within E; this node always.
    pub(super) fn is_reachable(&self, peer: NodeId) -> bool {
        let heard = self.rounds.acknowledged_at(peer);
        peer == self.config.id || heard.is_some_and(|at| self.now.since(at) < self.config.timing.election)
    }

    pub(super) fn begin_round(&mut self) {
        self.rounds.next_at = self.now.after(self.config.timing.heartbeat);
        if self.rounds.is_revoked() {
            return;
        }
        let round = self.rounds.begin();
        // The leader counts itself among those that promised.
        self.promise = self.promise.max(self.now.after(self.config.timing.election));
        let term = Term(self.raw.raft.term);
        let (marks, alive) = self.gossip();
        for peer in membership::members(&self.raw.store().membership) {
            if peer != self.config.id.0 {
                let (marks, alive) = (marks.clone(), alive.clone());
                let message = PeerMessage::Heartbeat { term, round, stamp: None, marks, alive };
                self.outputs.push_back(Output::Send { to: NodeId(peer), message });
            }
        }
    }

    /// Says which leases are confirmed, and begins the next round when one is waited for.
    pub(super) fn confirm_leases(&mut self) {
        // R4-new-leader: no lease before an entry of this leader's own term is committed.
        while self.is_leading() && !self.rounds.is_revoked() && self.raw.raft.commit_to_current_term() {
            let raft = &self.raw.raft;
            let is_quorum = |nodes: &[NodeId]| raft.prs().has_quorum(&nodes.iter().map(|node| node.0).collect());
            let (ticket, begins) = self.rounds.confirm(self.config.id, is_quorum);
            if let Some(ticket) = ticket {
                self.outputs.push_back(Output::LeaseConfirmed { ticket });
            }
            if !begins {
                break;
            }
            self.begin_round();
        }
    }

    pub(super) fn peer_lost(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer.0);
        self.snapshot_failed(peer.0);
    }

    pub(super) fn tick_leader(&mut self) {
        if self.is_leading() && self.rounds.is_revoked() && self.raw.raft.lead_transferee.is_none() {
            self.begin_new_term();
        }
        self.leave_joint();
        self.watch_snapshots();
    }

    /// The other did not take over, but may still: its request for votes can be on the way. This term grants no lease
    /// any more, so a new one begins; voters give it their votes as to one that leadership is handed to.
    fn begin_new_term(&mut self) {
        self.step_down();
        // As raft does it: no campaign over a change of membership that may not be in force yet.
        let log = &self.raw.raft.raft_log;
        if log.applied == log.committed {
            self.raw.raft.campaign(CAMPAIGN_TRANSFER);
            self.early_term = Some(self.raw.raft.term);
        }
    }

    /// Leases of before the joint configuration are over once E has passed in it.
    fn leave_joint(&mut self) {
        let is_due = self.joint_since.is_some_and(|since| self.now.since(since) >= self.config.timing.election);
        if is_due && self.is_leading() && !self.raw.raft.has_pending_conf() {
            // Dropped while leadership is handed over; the next tick tries again.
            let _ = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    /// Raft sends a peer nothing while it believes it to install a snapshot: where nothing comes of it, offer again.
    fn watch_snapshots(&mut self) {
        let raft = &self.raw.raft;
        let pending: Vec<(u64, u64)> = raft
            .prs()
            .iter()
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(id, progress)| (*id, progress.pending_snapshot))
            .collect();
        // Between two offers a peer is being probed for a moment: only what it has tells that it is done.
        let matched = |id: u64| raft.prs().get(id).map_or(u64::MAX, |progress| progress.matched);
        self.snapshots.waiting.retain(|id, (index, _)| matched(*id) < *index);
        let mut stale = Vec::new();
        for (id, index) in pending {
            let (_, ticks) = self.snapshots.waiting.entry(id).or_insert((index, 0));
            *ticks += 1;
            if *ticks > 2 * self.pace.election {
                stale.push(id);
            }
        }
        stale.sort_unstable();
        for id in stale {
            self.snapshot_failed(id);
        }
    }

    fn snapshot_failed(&mut self, peer: u64) {
        let progress = self.raw.raft.prs().get(peer);
        if self.is_leading() && progress.is_some_and(|progress| progress.state == ProgressState::Snapshot) {
            self.raw.report_snapshot(peer, SnapshotStatus::Failure);
            if let Some((_, ticks)) = self.snapshots.waiting.get_mut(&peer) {
                *ticks = 0;
            }
        }
    }
}
