//! Beginning and end of a leadership, and what a node that follows does with mounts.

use std::time::Duration;

use super::{Connection, Coordinator, Output, Phase, Role, member::Member, proposals::Origin};
use crate::{
    namespace::{Command, State},
    types::{Access, ConnectionId, Instant, NodeId, Term, VolumeId, message::ToMount},
};

impl Coordinator {
    /// A mount has connected.
    pub(super) fn open(
        &mut self,
        now: Instant,
        state: &State,
        connection: ConnectionId,
        volume: String,
        access: Access,
    ) {
        let patience_until = now.after(self.patience());
        let phase = Phase::Silent;
        self.connections.insert(connection, Connection { volume, access, phase, patience_until, sure_behind: None });
        if let Role::Following { leader: Some(leader) } = self.role {
            self.send_to(state, connection, Some(leader));
        }
    }

    /// Who leads has changed, or the term has.
    pub(super) fn change_leadership(
        &mut self,
        now: Instant,
        state: &State,
        leader: Option<NodeId>,
        leading: Option<(Term, Duration)>,
    ) {
        match (self.role, leading) {
            // Said twice: nothing has changed.
            (Role::Elected { term: own, .. } | Role::Leading { term: own }, Some((term, _))) if own == term => return,
            _ => self.cede(now),
        }
        if let Some((term, attach_grace)) = leading {
            let predecessor_until = now.after(attach_grace + self.config.timing.drift_margin());
            self.role = Role::Elected { term, predecessor_until };
            for connection in self.connections_where(|phase| matches!(phase, Phase::Stranded)) {
                self.send_to(state, connection, leader);
            }
        } else {
            self.role = Role::Following { leader };
            if leader.is_some() {
                for connection in self.connections_where(|_| true) {
                    self.send_to(state, connection, leader);
                }
            }
        }
    }

    /// Everything that only a leader knows is void. Mounts stay until it is known where they should go.
    fn cede(&mut self, now: Instant) {
        let patience_until = now.after(self.patience());
        for connection in self.connections.values_mut() {
            connection.patience_until = patience_until;
            connection.sure_behind = None;
            if let Phase::Attached(_) = connection.phase {
                connection.phase = Phase::Stranded;
            }
        }
        self.members.clear();
        self.completion.clear();
        self.opening.clear();
        self.reaping.clear();
        self.ending_holds.clear();
        self.confirmation.under_way = false;
        self.reads.clear();
        self.sweep_at = None;
        for ticket in self.proposals.abandon() {
            self.outputs.push_back(Output::Lost { ticket });
        }
    }

    /// An entry of this term is applied: everything that predecessors committed is in the state (PROTOCOL R4).
    pub(super) fn become_ready(&mut self, now: Instant, state: &State, term: Term, predecessor_until: Instant) {
        self.role = Role::Leading { term };
        self.proposals.stamp_behind(state.last_stamp());
        for volume in state.volumes() {
            for (session, _) in volume.sessions() {
                self.members.insert((volume.id(), session), Member::new(now, predecessor_until));
            }
        }
        self.sweep_at = Some(now.after(self.sweep_interval()));
        for connection in self.connections_where(|phase| matches!(phase, Phase::Waiting(_))) {
            self.greet(now, state, connection);
        }
    }

    /// The state was replaced by a peer's: entries in between are not at hand. Only a follower installs snapshots.
    pub(super) fn replace(&mut self, now: Instant, state: &State) {
        self.history.clear();
        for volume in state.volumes() {
            self.history.begin(volume.id(), volume.applied());
        }
        if !matches!(self.role, Role::Following { .. }) {
            self.change_leadership(now, state, None, None);
        }
    }

    /// A change of the cluster part.
    pub(super) fn command(&mut self, ticket: Option<u64>, command: Command) {
        match (self.role, ticket) {
            (Role::Following { .. }, Some(ticket)) => self.outputs.push_back(Output::Lost { ticket }),
            (Role::Following { .. }, None) => {}
            _ => self.proposals.add_own(Origin::Command { ticket }, VolumeId(0), command),
        }
    }

    /// Sends on those who have waited long enough for a leader to be known.
    pub(super) fn dismiss_impatient(&mut self, now: Instant, state: &State) {
        if let Role::Following { leader } = self.role {
            let tired: Vec<ConnectionId> = self
                .connections
                .iter()
                .filter(|(_, connection)| connection.patience_until <= now)
                .map(|(connection, _)| *connection)
                .collect();
            for connection in tired {
                self.send_to(state, connection, leader);
            }
        }
    }

    fn send_to(&mut self, state: &State, connection: ConnectionId, leader: Option<NodeId>) {
        let leader = leader.and_then(|leader| state.node(leader)).map(|node| node.client_address.clone());
        self.send(connection, ToMount::NotLeader { leader });
        self.close(connection);
    }

    pub(super) fn connections_where(&self, wanted: impl Fn(&Phase) -> bool) -> Vec<ConnectionId> {
        self.connections
            .iter()
            .filter(|(_, connection)| wanted(&connection.phase))
            .map(|(connection, _)| *connection)
            .collect()
    }
}
