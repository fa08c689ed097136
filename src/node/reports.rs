//! What nodes tell each other of themselves: their addresses, which the leader keeps in the state, and their space, of
//! which mounts are told what a majority has.

use std::collections::BTreeMap;

use super::{Node, NodeConfig, Output};
use crate::message::peer::{Measured, PeerMessage};
use crate::{
    coordinator,
    namespace::{Command, NodeInfo},
    replica::{self, Standing},
    types::{Instant, NodeId, Space, VolumeId},
};

/// A node reports once in so many heartbeats.
const REPORT_HEARTBEATS: u32 = 10;
/// Reports that no majority has space must hold for so many of their periods: that one disk has space again may become
/// known later than that another ran full.
const FULL_REPORTS: u32 = 2;
/// Reports in a row that may be missing before a node counts as one that cannot be written to.
const REPORTS_LOST: u32 = 5;
/// Less content than this is not worth what catching up with it costs.
const GAIN_BYTES_MIN: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Reports {
    /// Of each node, this one included, and when it was said.
    spaces: BTreeMap<NodeId, (Measured, Instant)>,
    /// Content that this node's state named when its device was last looked at, in bytes.
    looked_at: Option<u64>,
    /// Content that the states of the others name, in bytes.
    content: BTreeMap<NodeId, u64>,
    /// This node's disk is so full that it should take no more.
    is_short: bool,
    /// Since when the reports say that no majority has space.
    full_since: Option<Instant>,
    /// Leadership is not handed over for want of space before.
    hand_over_at: Instant,
    /// From then on whoever has said nothing is missing.
    settled_at: Instant,
    addresses: BTreeMap<NodeId, NodeInfo>,
    /// Addresses that entries of this leader are to bring into the state.
    proposed: BTreeMap<NodeId, NodeInfo>,
    due_at: Instant,
}

/// When a node that said something at `said_at` and nothing since counts as one that cannot be written to.
fn lost_at(said_at: Instant, config: &NodeConfig) -> Instant {
    said_at.after(REPORTS_LOST * REPORT_HEARTBEATS * config.timing.heartbeat)
}

impl Reports {
    pub(super) fn new(now: Instant, config: &NodeConfig) -> Self {
        let own = config.address.clone().map(|address| (config.id, address));
        Self {
            spaces: BTreeMap::new(),
            looked_at: None,
            content: BTreeMap::new(),
            is_short: false,
            full_since: None,
            hand_over_at: now,
            settled_at: lost_at(now, config),
            addresses: own.into_iter().collect(),
            proposed: BTreeMap::new(),
            due_at: now,
        }
    }

    pub(super) const fn due_at(&self) -> Instant {
        self.due_at
    }

    pub(super) const fn is_short(&self) -> bool {
        self.is_short
    }
}

impl Node {
    pub(super) fn own_space(&mut self, space: Space) {
        let content = self.content_bytes();
        // What was applied just before may not have come to the device yet.
        let before = self.reports.looked_at.replace(content);
        let measured = Measured { space, content: before.map_or(content, |before| before.min(content)) };
        let before = self.reports.spaces.insert(self.config.id, (measured, self.now));
        if before.is_none_or(|(before, _)| before.space != space) {
            self.report();
        }
    }

    pub(super) fn own_shortage(&mut self, is_short: bool) {
        self.reports.is_short = is_short;
        self.cut_log();
        self.use_reports();
    }

    /// Whether this node may keep the rest of its space: it is short of it, and a majority of the others has some. Where
    /// none has, the leader lets in only what gives space back, and all have to take that. So has a node whose leader
    /// has come to less content than it has itself: what it lacks makes room.
    pub(super) fn is_spared(&self) -> bool {
        self.reports.is_short && self.majority_space().is_some_and(|space| space.available > 0) && !self.would_gain()
    }

    fn would_gain(&self) -> bool {
        let own = self.content_bytes();
        let leader = self.leader.and_then(|leader| self.reports.content.get(&leader));
        leader.is_some_and(|content| content.saturating_add(GAIN_BYTES_MIN.max(own / 64)) <= own)
    }

    pub(super) fn content_bytes(&self) -> u64 {
        self.state.content_bytes()
    }

    /// Tells every peer of this node.
    pub(super) fn report(&mut self) {
        self.reports.due_at = self.now.after(REPORT_HEARTBEATS * self.config.timing.heartbeat);
        let (node, measured) = (self.config.address.clone(), self.measured_of(self.config.id));
        let content_bytes = self.content_bytes();
        // Two processes may say that they are this node: the one that takes part is.
        let takes_part = self.replica.standing() == Standing::TakesPart;
        if takes_part && (node.is_some() || measured.is_some()) {
            for peer in self.state.nodes().filter(|peer| peer.id != self.config.id) {
                let message = PeerMessage::Report { node: node.clone(), measured, content_bytes };
                self.outputs.push_back(Output::Peer { to: peer.id, message });
            }
        }
        self.use_reports();
    }

    pub(super) fn take_report(
        &mut self,
        from: NodeId,
        node: Option<NodeInfo>,
        measured: Option<Measured>,
        content_bytes: u64,
    ) {
        // Only nodes of the state are heard: whoever else has a certificate may not fill this table.
        if self.state.node(from).is_none() {
            return;
        }
        if let Some(node) = node.filter(|node| node.id == from) {
            // While nobody led, a copy of it may have said hello from elsewhere; only who takes part reports.
            self.outputs.push_back(Output::PeerAddress(node.clone()));
            self.reports.addresses.insert(from, node);
        }
        if let Some(measured) = measured {
            self.reports.spaces.insert(from, (measured, self.now));
        }
        self.reports.content.insert(from, content_bytes);
        self.use_reports();
    }

    pub(super) fn leadership_of_reports(&mut self) {
        self.reports.proposed.clear();
        self.use_reports();
    }

    fn use_reports(&mut self) {
        self.refuse_or_take();
        self.watch_clock();
        if !self.leading {
            return;
        }
        self.hand_over_when_short();
        let known = self.measured_by_majority();
        if let Some(Measured { space, content }) = known.filter(|known| self.is_believed(known.space)) {
            self.tell_coordinator(coordinator::Input::Space { space, content });
        }
        let moved = |address: &&NodeInfo| {
            self.state.node(address.id).is_some_and(|known| known != *address)
                && self.reports.proposed.get(&address.id) != Some(address)
        };
        let moved: Vec<NodeInfo> = self.reports.addresses.values().filter(moved).cloned().collect();
        for address in moved {
            self.reports.proposed.insert(address.id, address.clone());
            self.tell_coordinator(coordinator::Input::Command {
                ticket: None,
                volume: VolumeId(0),
                command: Command::SetNode(address),
            });
        }
    }

    /// Fullness makes calls fail, so it is believed when it lasts.
    fn is_believed(&mut self, space: Space) -> bool {
        if space.available > 0 {
            self.reports.full_since = None;
            return true;
        }
        let since = *self.reports.full_since.get_or_insert(self.now);
        self.now >= since.after(FULL_REPORTS * REPORT_HEARTBEATS * self.config.timing.heartbeat)
    }

    /// Nothing known speaks against it: a leader without space would hand over at once.
    pub(super) fn may_lead(&self, node: NodeId) -> bool {
        self.space_of(node).is_none_or(|space| space.available > 0)
    }

    /// A leader takes everything: one without a place for it must not lead while another could.
    fn hand_over_when_short(&mut self) {
        if !self.is_spared() || self.now < self.reports.hand_over_at {
            return;
        }
        let peers = self.replica.status().peers;
        let can = |peer: &&replica::Peer| {
            let has_space = self.space_of(peer.id).is_some_and(|space| space.available > 0);
            peer.id != self.config.id && peer.voter && peer.reachable == Some(true) && has_space
        };
        if let Some(successor) = peers.iter().filter(can).max_by_key(|peer| peer.matched) {
            // Should it fail, this node leads on for as long as it takes to find out.
            self.reports.hand_over_at = self.now.after(4 * self.config.timing.lease);
            let sentence = format!("short of space: leadership goes to node {}", successor.id);
            self.outputs.push_back(Output::Notice(sentence));
            self.hand_over(Some(successor.id));
        }
    }

    /// What the fullest node of the emptiest majority has; `None` as long as no majority has said. Who has not been heard
    /// of lately is no part of a majority: what it could hold is of no use. Just after a start nobody is missing yet.
    fn measured_by_majority(&self) -> Option<Measured> {
        let voters: Vec<NodeId> =
            self.replica.status().peers.iter().filter(|peer| peer.voter).map(|peer| peer.id).collect();
        let mut known: Vec<Measured> = voters.iter().filter_map(|voter| self.measured_of(*voter)).collect();
        known
            .sort_unstable_by_key(|known| std::cmp::Reverse((known.space.available, known.space.total, known.content)));
        let is_settled = known.len() == voters.len() || self.now >= self.reports.settled_at;
        known.get(voters.len() / 2).copied().filter(|known| is_settled || known.space.available > 0)
    }

    fn majority_space(&self) -> Option<Space> {
        self.measured_by_majority().map(|measured| measured.space)
    }

    /// What the node has said of its space, unless that was too long ago; this one's own is always true.
    pub(super) fn space_of(&self, node: NodeId) -> Option<Space> {
        self.measured_of(node).map(|measured| measured.space)
    }

    fn measured_of(&self, node: NodeId) -> Option<Measured> {
        let (measured, said_at) = *self.reports.spaces.get(&node)?;
        let is_fresh = self.now < lost_at(said_at, &self.config);
        (is_fresh || node == self.config.id).then_some(measured)
    }
}
