//! What nodes tell each other of themselves: their addresses, which the leader keeps in the state, and their space, of
//! which mounts are told what a majority has.

use std::collections::BTreeMap;

use super::{Node, NodeConfig, Output, PeerMessage};
use crate::{
    coordinator,
    namespace::{Command, NodeInfo},
    types::{Instant, NodeId, message::Space},
};

#[derive(Debug)]
pub(super) struct Reports {
    /// Of each node, this one included.
    spaces: BTreeMap<NodeId, Space>,
    addresses: BTreeMap<NodeId, NodeInfo>,
    /// Addresses that entries of this leader are to bring into the state.
    proposed: BTreeMap<NodeId, NodeInfo>,
    due_at: Instant,
}

impl Reports {
    pub(super) fn new(now: Instant, config: &NodeConfig) -> Self {
        let own = config.address.clone().map(|address| (config.id, address));
        Self { spaces: BTreeMap::new(), addresses: own.into_iter().collect(), proposed: BTreeMap::new(), due_at: now }
    }

    pub(super) const fn due_at(&self) -> Instant {
        self.due_at
    }
}

impl Node {
    pub(super) fn own_space(&mut self, space: Space) {
        if self.reports.spaces.insert(self.config.id, space) != Some(space) {
            self.report();
        }
    }

    /// Tells every peer of this node.
    pub(super) fn report(&mut self) {
        self.reports.due_at = self.now.after(10 * self.config.timing.heartbeat);
        let (node, space) = (self.config.address.clone(), self.reports.spaces.get(&self.config.id).copied());
        if node.is_some() || space.is_some() {
            for peer in self.state.nodes().filter(|peer| peer.id != self.config.id) {
                let message = PeerMessage::Report { node: node.clone(), space };
                self.outputs.push_back(Output::Peer { to: peer.id, message });
            }
        }
        self.use_reports();
    }

    pub(super) fn take_report(&mut self, from: NodeId, node: Option<NodeInfo>, space: Option<Space>) {
        // Only nodes of the state are heard: whoever else has a certificate may not fill this table.
        if self.state.node(from).is_none() {
            return;
        }
        if let Some(node) = node.filter(|node| node.id == from) {
            self.reports.addresses.insert(from, node);
        }
        if let Some(space) = space {
            self.reports.spaces.insert(from, space);
        }
        self.use_reports();
    }

    pub(super) fn leadership_of_reports(&mut self) {
        self.reports.proposed.clear();
        self.use_reports();
    }

    fn use_reports(&mut self) {
        if !self.leading {
            return;
        }
        if let Some(space) = self.majority_space() {
            self.tell_coordinator(coordinator::Input::Space(space));
        }
        let moved = |address: &&NodeInfo| {
            self.state.node(address.id).is_some_and(|known| known != *address)
                && self.reports.proposed.get(&address.id) != Some(address)
        };
        let moved: Vec<NodeInfo> = self.reports.addresses.values().filter(moved).cloned().collect();
        for address in moved {
            self.reports.proposed.insert(address.id, address.clone());
            self.tell_coordinator(coordinator::Input::Command { ticket: None, command: Command::SetNode(address) });
        }
    }

    /// What the fullest node of the emptiest majority has; `None` as long as no majority has said.
    fn majority_space(&self) -> Option<Space> {
        let voters: Vec<NodeId> =
            self.replica.status().peers.iter().filter(|peer| peer.voter).map(|peer| peer.id).collect();
        let mut known: Vec<Space> = voters.iter().filter_map(|voter| self.reports.spaces.get(voter)).copied().collect();
        known.sort_unstable_by_key(|space| std::cmp::Reverse((space.available, space.total)));
        known.get(voters.len() / 2).copied()
    }
}
