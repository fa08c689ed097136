//! Beginning and end of a leadership, and what a node that follows does with mounts.
//!
//! A new leader must never complete a change, or grant a lease, before an entry of its own term is applied
//! (docs/protocol.md R4-new-leader). One that hands over must never grant a lease again in its term (R27-handover).

use std::time::Duration;

use super::{Connection, Coordinator, HandingOver, Output, Phase, Role, member::Member, proposals::Origin};
use crate::{
    message::mount::{Refusal, ToMount},
    namespace::{Command, State},
    types::{ConnectionId, CredentialId, Grant, Instant, NodeId, Term, VolumeId},
};

impl Coordinator {
    /// A mount has connected.
    pub(super) fn open(
        &mut self,
        now: Instant,
        state: &State,
        connection: ConnectionId,
        grant: Grant,
        credential: CredentialId,
    ) {
        let (own, other) = (self.config.founding, grant.founding);
        let patience_until = now.after(self.patience());
        let phase = Phase::Silent;
        let opened = Connection { grant, credential, phase, patience_until, sure_behind: None };
        self.connections.insert(connection, opened);
        // Before all else: a mount of another founding is told nothing of this one, not even who leads
        // (docs/protocol.md R67-foundings).
        if other != own {
            let reason = format!("it is of founding {own}, the credential is for founding {other}");
            self.refuse(connection, Refusal::Foreign, reason);
        } else if let Role::Following { leader: Some(leader) } = self.role {
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
            (Role::Elected { term: own, .. } | Role::Leading { term: own, .. }, Some((term, _))) if own == term => {
                return;
            }
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
        self.uses.clear();
        self.completion.clear();
        self.opening.clear();
        self.reaping.clear();
        self.ending_holds.clear();
        self.confirmation.under_way = false;
        self.reads.clear();
        self.handing_over = None;
        self.sweep_at = None;
        for ticket in self.proposals.abandon() {
            self.outputs.push_back(Output::Lost { ticket });
        }
    }

    /// An entry of this term is applied: everything that predecessors committed is in the state (R4-new-leader).
    pub(super) fn become_ready(&mut self, now: Instant, state: &State, term: Term, predecessor_until: Instant) {
        self.role = Role::Leading { term, has_ceded: false };
        self.proposals.stamp_behind(state.last_stamp());
        let inherited = self.inherited.take().filter(|(of, _)| of.0 + 1 == term.0);
        for volume in state.volumes() {
            for (session, _) in volume.sessions() {
                let key = (volume.id(), session);
                let is_free = inherited.as_ref().is_some_and(|(_, leased)| !leased.contains(&key));
                self.members.insert(key, Member::new(now, if is_free { Instant(0) } else { predecessor_until }));
            }
        }
        self.end_remnants(state);
        self.sweep_at = Some(now.after(self.sweep_interval()));
        for connection in self.connections_where(|phase| matches!(phase, Phase::Waiting(_))) {
            self.greet(now, state, connection);
        }
    }

    /// Leadership is to go elsewhere, and mounts connect to where it probably goes. Sessions that the successor would
    /// wait for in vain are waited for here, where changes go on meanwhile. A session that says nothing from now on
    /// does not renew its lease either.
    pub(super) fn hand_over(&mut self, now: Instant, state: &State, to: Option<NodeId>, likely: Option<NodeId>) {
        match self.role {
            Role::Following { .. } => {}
            Role::Elected { .. } => self.outputs.push_back(Output::HandOver { to, likely, leased: None }),
            Role::Leading { .. } => {
                self.handing_over = Some(HandingOver { to, likely, since: now, look_at: now });
                if let Some(successor) = to.or(likely).and_then(|successor| state.node(successor)) {
                    for connection in self.connections_where(|phase| matches!(phase, Phase::Attached(_))) {
                        self.send(connection, ToMount::Prepare { leader: successor.client_address.clone() });
                    }
                }
            }
        }
    }

    pub(super) fn go_on_handing_over(&mut self, now: Instant) {
        let (Some(HandingOver { to, likely, since, .. }), Role::Leading { term, .. }) = (self.handing_over, self.role)
        else {
            return;
        };
        let timing = &self.config.timing;
        let bound = || self.members.iter().filter(|(_, member)| member.is_bound(now));
        let is_awaited = |member: &Member| member.heard <= since || !member.is_prompt(now, timing);
        if bound().any(|(_, member)| is_awaited(member)) && now < since.after(timing.lease + timing.drift_margin()) {
            let look_at = now.after(timing.heartbeat / 4);
            self.handing_over = Some(HandingOver { to, likely, since, look_at });
            return;
        }
        let leased = bound().map(|(key, _)| *key).collect();
        self.handing_over = None;
        self.role = Role::Leading { term, has_ceded: true };
        self.outputs.push_back(Output::HandOver { to, likely, leased: Some((term, leased)) });
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

    /// A change of the cluster part or of a volume.
    pub(super) fn command(&mut self, ticket: Option<u64>, volume: VolumeId, command: Command) {
        match (self.role, ticket) {
            (Role::Following { .. }, Some(ticket)) => self.outputs.push_back(Output::Lost { ticket }),
            (Role::Following { .. }, None) => {}
            _ => {
                let origin = match command {
                    Command::RaiseFeatureLevel(level) => Origin::Raise { level, ticket },
                    _ => Origin::Command { ticket },
                };
                self.proposals.add_own(origin, volume, command);
            }
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
