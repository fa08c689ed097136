//! The leader's duties towards mounts, as a pure core: sessions attach and catch up, their calls enter the log exactly
//! once, committed entries are pushed to all, and a call is answered when it is *complete*: applied here, and
//! acknowledged by every session of the roster. `member` says who is in the roster, `completion` what waits for whom.
//!
//! Everything that must survive a leader is in the replicated state (sessions, replies, orphans); all else here is soft
//! and begins anew with each leadership: until the new leader has applied an entry of its own term it takes nothing,
//! and sessions it has not seen count as bound until any lease of the predecessor has ended (docs/protocol.md
//! R4-new-leader).
//!
//! A node that follows sends mounts to the leader, and keeps the newest entries, so that it can serve when it leads.

mod attach;
mod calls;
mod completion;
mod crowding;
mod event;
mod history;
mod holds;
mod housekeeping;
mod leadership;
mod member;
mod messages;
mod proposals;
mod reads;
mod space;
mod stream;
#[cfg(test)]
mod tests;
mod uses;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

pub use self::event::{AppliedEntry, Config, Input, Output, SessionReport};
use self::{
    completion::{Completion, Members},
    history::History,
    proposals::Proposals,
    stream::Stream,
    uses::Uses,
};
use crate::{
    message::mount::{Hello, Refusal, StoreAddress, ToMount},
    namespace::State,
    types::{ConnectionId, CredentialId, Errno, Grant, Instant, LogIndex, MountId, NodeId, SessionId, Term, VolumeId},
};

/// A session: its number is unique within its volume only.
type Key = (VolumeId, SessionId);

/// The coordinator of one node. `handle` takes the node's state as it is after the input.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    role: Role,
    history: History,
    connections: BTreeMap<ConnectionId, Connection>,
    members: Members,
    uses: Uses,
    completion: Completion,
    proposals: Proposals,
    /// Mounts whose `OpenSession` is on its way, and their credentials.
    opening: BTreeMap<(VolumeId, MountId), CredentialId>,
    /// Volumes whose `ReapOrphans` is on its way.
    reaping: BTreeSet<VolumeId>,
    /// Sessions whose `EndHolds` is on its way.
    ending_holds: BTreeSet<Key>,
    confirmation: Confirmation,
    reads: reads::Reads,
    stores: space::Stores,
    handing_over: Option<HandingOver>,
    /// The sessions that may have a lease of the leader of this term, who grants none any more.
    inherited: Option<(Term, BTreeSet<Key>)>,
    /// Nothing is proposed meanwhile.
    held: bool,
    /// When sessions and orphans are looked through next.
    sweep_at: Option<Instant>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Following {
        leader: Option<NodeId>,
    },
    /// Elected, and not yet sure to have applied everything that predecessors committed.
    Elected {
        term: Term,
        /// Any lease of a predecessor's has ended at this time.
        predecessor_until: Instant,
    },
    Leading {
        term: Term,
        /// Leadership was given away: no lease is granted any more (R6-promise, R27-handover).
        has_ceded: bool,
    },
}

/// Leadership is to be given away.
#[derive(Clone, Copy, Debug)]
struct HandingOver {
    to: Option<NodeId>,
    likely: Option<NodeId>,
    since: Instant,
    /// When to look again whether nothing speaks against it.
    look_at: Instant,
}

/// Rounds of heartbeats that renewals and refusals wait for: one at a time.
#[derive(Debug, Default)]
struct Confirmation {
    last_ticket: u64,
    under_way: bool,
    /// The last round that a majority acknowledged.
    confirmed: u64,
}

#[derive(Debug)]
struct Connection {
    grant: Grant,
    credential: CredentialId,
    phase: Phase,
    /// When the mount is sent elsewhere if no leader is known until then.
    patience_until: Instant,
    /// The mount is to be refused, and may be behind this round.
    sure_behind: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    /// `Hello` has not come yet.
    Silent,
    /// `Hello` is here, and waits for a leader's readiness or for its session to be opened.
    Waiting(Hello),
    Attached(Stream),
    /// It was attached when leadership was lost.
    Stranded,
}

impl Coordinator {
    /// A coordinator that follows nobody yet. The log's entries up to `history_begins` are not at hand; those behind it
    /// that `state` includes may be given by `recall`.
    #[must_use]
    pub fn new(config: Config, state: &State, history_begins: LogIndex) -> Self {
        let mut history = History::default();
        for volume in state.volumes() {
            history.begin(volume.id(), history_begins.min(volume.applied()));
        }
        Self {
            config,
            role: Role::Following { leader: None },
            history,
            connections: BTreeMap::new(),
            members: BTreeMap::new(),
            uses: Uses::default(),
            completion: Completion::default(),
            proposals: Proposals::default(),
            opening: BTreeMap::new(),
            reaping: BTreeSet::new(),
            ending_holds: BTreeSet::new(),
            confirmation: Confirmation::default(),
            reads: reads::Reads::default(),
            stores: space::Stores::default(),
            handing_over: None,
            inherited: None,
            held: false,
            sweep_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// An entry of the volume that the state included at `new`, in log order.
    pub fn recall(&mut self, volume: VolumeId, index: LogIndex, bytes: Bytes) {
        self.history.push(volume, index, bytes);
        self.history.trim(self.config.retention.log_bytes);
    }

    /// Takes notice of something; `state` already includes it. Never blocks, never fails.
    pub fn handle(&mut self, now: Instant, state: &State, input: Input) {
        match input {
            Input::Opened { connection, grant, credential } => self.open(now, state, connection, grant, credential),
            Input::Message { connection, message } => self.message(now, state, connection, message),
            Input::Closed { connection } => self.drop_connection(connection),
            Input::Leadership { leader, term, leading, attach_grace } => {
                self.change_leadership(now, state, leader, leading.then_some((term, attach_grace)));
            }
            Input::Applied { term, entries } => self.apply(now, state, term, entries),
            Input::Replaced => self.replace(now, state),
            Input::Proposed { token, index } => self.proposals.taken(token, index),
            Input::Dropped { token } => self.take_back(now, token),
            Input::LeaseConfirmed { ticket } => self.lease_confirmed(now, state, ticket),
            Input::Command { ticket, volume, command } => self.command(ticket, volume, command),
            Input::HandOver { to, likely } => self.hand_over(now, state, to, likely),
            Input::Inherited { term, leased } => self.inherited = Some((term, leased)),
            Input::Hold(held) => self.held = held,
            Input::Clock(nanoseconds) => self.proposals.set_clock(nanoseconds),
            Input::Space { space, content } => self.stores.told(space, content),
            Input::Tick => {}
        }
        self.advance(now, state);
    }

    /// What is to be carried out next, in this order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle` must be called again even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let offer = self.proposals.poll_timeout().filter(|_| !self.held);
        let lapse =
            self.completion.blockers().filter_map(|key| self.members.get(&key)).map(member::Member::bound_until).min();
        let patience = match self.role {
            Role::Following { .. } => self.connections.values().map(|connection| connection.patience_until).min(),
            _ => None,
        };
        let handing_over = self.handing_over.map(|handing_over| handing_over.look_at);
        [self.sweep_at, offer, lapse, patience, handing_over].into_iter().flatten().min()
    }

    /// Whether this node leads and has applied everything its predecessors committed.
    #[must_use]
    pub const fn leads(&self) -> bool {
        matches!(self.role, Role::Leading { .. })
    }

    /// The sessions that this leader knows, by volume and number.
    pub fn sessions<'a>(&'a self, now: Instant, state: &'a State) -> impl Iterator<Item = SessionReport> + use<'a> {
        let time = self.proposals.time();
        let age_ms = move |volume: VolumeId, session: SessionId| {
            let opened = state.volume(volume).and_then(|volume| volume.session(session)).map(|row| row.opened_at);
            opened.map_or(0, |opened| time.0.saturating_sub(opened.0) / 1_000_000)
        };
        self.members.iter().map(move |(&(volume, session), member)| SessionReport {
            volume,
            session,
            connected: member.connection.is_some(),
            in_roster: member.is_bound(now),
            unacknowledged: member.unacknowledged_count() as u64,
            age_ms: age_ms(volume, session),
            place: member.place.clone(),
        })
    }

    /// Everything that is due by the time alone.
    fn advance(&mut self, now: Instant, state: &State) {
        self.dismiss_impatient(now, state);
        if !self.leads() {
            return;
        }
        self.let_lapse(now);
        self.go_on_handing_over(now);
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now, state);
        }
        if !self.held {
            self.offer(now);
        }
    }

    /// Gives the replica what waits for it.
    fn offer(&mut self, now: Instant) {
        let Self { proposals, members, outputs, .. } = self;
        let wanted = |origin| match origin {
            proposals::Origin::Call { key, sequence } => members.get_mut(&key).is_some_and(|member| {
                let call = member.calls.get_mut(&sequence).filter(|call| **call == calls::Call::Queued);
                call.map(|call| *call = calls::Call::Proposed).is_some()
            }),
            _ => true,
        };
        for origin in proposals.offer(now, wanted, outputs) {
            self.refuse_entry(origin);
        }
    }

    /// What was to be proposed is too large for an entry.
    fn refuse_entry(&mut self, origin: proposals::Origin) {
        match origin {
            proposals::Origin::Call { key, sequence } => self.refuse_call(key, sequence, Errno::E2BIG),
            proposals::Origin::Command { ticket: Some(ticket) } => {
                self.outputs.push_back(Output::Carried { ticket, outcome: Err(Errno::E2BIG) });
            }
            // The leader's own: cut to `limits::ENTRY_LIST_MAX`, or what a node says of itself.
            _ => {}
        }
    }

    fn take_back(&mut self, now: Instant, token: u64) {
        let again_at = now.after(self.config.timing.heartbeat / 4);
        if let Some(proposals::Origin::Call { key, sequence }) = self.proposals.refused(token, again_at)
            && let Some(member) = self.members.get_mut(&key)
            && let Some(call) = member.calls.get_mut(&sequence)
        {
            *call = calls::Call::Queued;
        }
    }

    fn send(&mut self, connection: ConnectionId, message: ToMount) {
        self.outputs.push_back(Output::Send { connection, message });
    }

    fn refuse(&mut self, connection: ConnectionId, refusal: Refusal, reason: String) {
        self.send(connection, ToMount::Refused { refusal, reason });
        self.close(connection);
    }

    fn close(&mut self, connection: ConnectionId) {
        self.outputs.push_back(Output::Close { connection });
        self.drop_connection(connection);
    }

    fn drop_connection(&mut self, connection: ConnectionId) {
        let Some(Connection { phase: Phase::Attached(stream), .. }) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&stream.key).filter(|member| member.connection == Some(connection)) {
            member.detach();
        }
    }

    fn stores(state: &State) -> Vec<StoreAddress> {
        let address =
            |node: &crate::namespace::NodeInfo| StoreAddress { node: node.id, address: node.client_address.clone() };
        state.nodes().map(address).collect()
    }

    /// How long a mount waits at a node that knows no leader before it is sent on.
    fn patience(&self) -> Duration {
        3 * self.config.timing.heartbeat
    }
}
