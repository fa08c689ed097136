//! One storage node as a pure core: replica, state and coordinator put together, with everything outside as inputs
//! and outputs. The server shell and the simulator execute the same outputs.
//!
//! The replica says what is committed; it is applied here, in log order, and becomes rows for the store and work for
//! the coordinator. Nothing waits for the state store: entries stay in the log until it has them.

mod admin;
mod apply;
mod clocks;
mod ends;
pub mod event;
mod hello;
mod reports;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

pub use ends::{Apart, Ends};
pub use event::{
    AdminAnswer, AdminError, AdminRequest, ClockStatus, Input, NodeStatus, Output, PeerStatus, Recovered,
    SessionStatus, VolumeStatus,
};

pub use self::hello::{HelloError, PeerHello};

use self::{admin::Admin, clocks::Clocks, reports::Reports, snapshots::Snapshots};
use crate::{
    coordinator::{self, Coordinator},
    limits::{self, Retention, SessionBounds, Timing},
    message::{log::StateBatch, peer::PeerMessage},
    namespace::{DecodeError, Entry, NodeInfo, State},
    replica::{self, Replica, ReplicaError, Restart, Standing},
    types::{FoundingId, Instant, LogIndex, NodeId, Term, VolumeId},
};

/// Between two lines about nonsense of the same peer.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// What a node is told once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    pub id: NodeId,
    pub founding: FoundingId,
    pub timing: Timing,
    pub retention: Retention,
    pub sessions: SessionBounds,
    /// Spreads election timeouts within a node's slot; equal seeds give equal runs.
    pub seed: u64,
    /// Random: no other process of this node has it.
    pub nonce: u64,
    /// Where peers and mounts find this node; the leader keeps it in the state. `None`: the state knows.
    pub address: Option<NodeInfo>,
}

/// Why a node cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("the data is of founding {found}, this node is of founding {expected}: give it its own data directory")]
    Founding { expected: FoundingId, found: FoundingId },
    #[error("the data needs feature level {found}, this program knows {}: upgrade this node", limits::FEATURE_LEVEL)]
    FeatureLevel { found: u16 },
    #[error("log entry {index} cannot be read: {error}")]
    Entry { index: LogIndex, error: DecodeError },
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// One storage node. Driven by a shell: `handle` everything that happens, then take outputs until there are none, then
/// call again at `poll_timeout` at the latest (with `Input::Tick`). Several inputs handled before a poll share one
/// batch of the log.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    now: Instant,
    replica: Replica,
    coordinator: Coordinator,
    state: State,
    /// The last entry in `state`, of whatever kind, and the membership as of it.
    applied: (LogIndex, Term),
    membership: Bytes,
    /// What the last word about leadership was.
    leader: Option<NodeId>,
    leading: bool,
    /// Since when no leader is known, while none is.
    leaderless_since: Option<Instant>,
    reports: Reports,
    clocks: Clocks,
    snapshots: Snapshots,
    admin: Admin,
    /// What the state store was given and has not synced: the last entry of each batch and its bytes.
    backlog: VecDeque<(LogIndex, usize)>,
    backlog_bytes: usize,
    /// The last entry in the state that is synced.
    persisted: LogIndex,
    /// What the replica was told about entries of a leader.
    refuses: bool,
    /// Addresses of peers as the shell was told them.
    told_addresses: BTreeMap<NodeId, NodeInfo>,
    /// What the last report rested on.
    told_standing: Standing,
    /// When a peer's nonsense was last spoken of, and how often it was not since.
    complaints: BTreeMap<NodeId, (Option<Instant>, u64)>,
    /// An orderly stop is under way; it is given up at this time.
    stopping: Option<Instant>,
    /// `Fatal` was said: nothing is done any more.
    failed: bool,
    outputs: VecDeque<Output>,
}

impl Node {
    /// Starts from what the disk holds.
    ///
    /// # Errors
    /// `NodeError` where the data is another cluster's, of a newer program, or contradicts itself.
    pub fn open(now: Instant, config: NodeConfig, recovered: Recovered) -> Result<Self, NodeError> {
        let Recovered { hard_state, membership, state, state_index, state_term, entries, compacted } = recovered;
        // A node that is to receive its first snapshot has no state yet.
        if state_index > LogIndex(0) && state.founding() != config.founding {
            return Err(NodeError::Founding { expected: config.founding, found: state.founding() });
        }
        if state.feature_level() > limits::FEATURE_LEVEL {
            return Err(NodeError::FeatureLevel { found: state.feature_level() });
        }
        let applied = (state_index, state_term);
        let restart = Restart { hard_state, membership: membership.clone(), applied, entries, compacted };
        let replica_config =
            replica::Config { id: config.id, timing: config.timing, seed: config.seed, nonce: config.nonce };
        let replica = Replica::open(now, replica_config, restart)?;
        let coordinator = remembering(&config, &replica, &state, compacted.0, state_index)?;
        let mut node = Self {
            reports: Reports::new(now, &config),
            clocks: Clocks::new(now),
            now,
            replica,
            coordinator,
            state,
            applied,
            membership,
            leader: None,
            leaderless_since: Some(now),
            leading: false,
            snapshots: Snapshots::default(),
            admin: Admin::default(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            persisted: state_index,
            refuses: false,
            told_addresses: BTreeMap::new(),
            told_standing: Standing::Waits,
            complaints: BTreeMap::new(),
            stopping: None,
            failed: false,
            outputs: VecDeque::new(),
            config,
        };
        node.tell_addresses();
        Ok(node)
    }

    /// Takes notice of something. Never blocks, never fails.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::LogPersisted { number } => self.tell_replica(replica::Input::Persisted { number }),
            Input::StatePersisted { index } => self.state_persisted(index),
            Input::Peer { from, message } => self.peer_message(from, message),
            Input::PeerLost { peer } => self.tell_replica(replica::Input::PeerLost { peer }),
            Input::MountOpened { connection, grant, credential } => {
                self.tell_coordinator(coordinator::Input::Opened { connection, grant, credential });
            }
            Input::Mount { connection, message } => {
                self.tell_coordinator(coordinator::Input::Message { connection, message });
            }
            Input::MountClosed { connection } => self.tell_coordinator(coordinator::Input::Closed { connection }),
            Input::Admin { ticket, request } => self.administer(ticket, request),
            Input::Space(space) => self.own_space(space),
            Input::ShortOfSpace(is_short) => self.own_shortage(is_short),
            Input::WallClock(nanoseconds) => self.own_clock(nanoseconds),
            Input::Stop => self.stop(),
            Input::Tick => {}
        }
        self.pass_time();
    }

    /// What is to be carried out next, in this order.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.settle();
        }
        self.outputs.pop_front()
    }

    /// When `handle` must be called again even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        [
            self.replica.poll_timeout(),
            self.coordinator.poll_timeout(),
            self.snapshots.poll_timeout(&self.config.timing),
            self.admin.poll_timeout(),
            self.stopping,
            Some(self.reports.due_at()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What `status` shows, as of the last `handle`.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let replica = self.replica.status();
        let unknown =
            |id: NodeId| NodeInfo { id, peer_address: String::new(), client_address: String::new(), level_max: 1 };
        let peer = |peer: replica::Peer| PeerStatus {
            node: self.state.node(peer.id).cloned().unwrap_or_else(|| unknown(peer.id)),
            voter: peer.voter,
            matched: peer.matched,
            reachable: peer.reachable,
        };
        let volume = |volume: &crate::namespace::Volume| VolumeStatus {
            id: volume.id(),
            name: volume.name().to_owned(),
            inodes: volume.inode_count(),
            bytes: volume.bytes_used(),
            quota_bytes: volume.options().quota_bytes,
            quota_inodes: volume.options().quota_inodes,
            digest: volume.digest(),
        };
        let session = |report: coordinator::SessionReport| SessionStatus {
            session: report.session,
            volume: report.volume,
            connected: report.connected,
            in_roster: report.in_roster,
            unacknowledged: report.unacknowledged,
            age_ms: report.age_ms,
            place: report.place,
        };
        NodeStatus {
            founding: self.config.founding,
            id: self.config.id,
            leader: self.leader,
            term: replica.term,
            applied: self.applied.0,
            committed: replica.committed,
            digest: self.state.digest(),
            peers: replica.peers.into_iter().map(peer).collect(),
            volumes: self.state.volumes().map(volume).collect(),
            sessions: self.coordinator.sessions(self.now, &self.state).map(session).collect(),
            short_of_space: self.reports.is_short(),
            clock: self.clock(),
            standing: replica.standing,
            space: self.space_of(self.config.id),
            leaderless_ms: self.leaderless_since.map(|since| self.now.since(since).as_millis() as u64),
        }
    }

    /// This node's wall clock.
    #[must_use]
    pub fn clock(&self) -> ClockStatus {
        self.clocks.status()
    }

    /// Whether this node takes part.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.replica.standing()
    }

    /// The state as of the last entry applied.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Lets the cores answer each other until all is quiet.
    fn settle(&mut self) {
        while !self.failed {
            if let Some(output) = self.replica.poll_output() {
                self.heed_replica(output);
            } else if let Some(output) = self.coordinator.poll_output() {
                self.heed_coordinator(output);
            } else {
                break;
            }
        }
    }

    fn tell_replica(&mut self, input: replica::Input) {
        self.replica.handle(self.now, input);
    }

    fn tell_coordinator(&mut self, input: coordinator::Input) {
        self.coordinator.handle(self.now, &self.state, input);
    }

    fn heed_replica(&mut self, output: replica::Output) {
        match output {
            replica::Output::Persist(batch) => self.outputs.push_back(Output::PersistLog(batch)),
            replica::Output::Send { to, message } => self.send_peer(to, message),
            replica::Output::Committed(entries) => self.apply(entries),
            replica::Output::Proposed { token, index, .. } => {
                self.tell_coordinator(coordinator::Input::Proposed { token, index });
            }
            replica::Output::Dropped { token, .. } => self.tell_coordinator(coordinator::Input::Dropped { token }),
            replica::Output::Leadership { leader, term, leading, attach_grace } => {
                (self.leader, self.leading) = (leader, leading);
                self.leaderless_since = match leader {
                    Some(_) => None,
                    None => self.leaderless_since.or(Some(self.now)),
                };
                self.outputs.push_back(Output::Leadership { leader, term });
                self.tell_coordinator(coordinator::Input::Leadership { leader, term, leading, attach_grace });
                self.leadership_changed();
            }
            replica::Output::LeaseConfirmed { ticket } => {
                self.tell_coordinator(coordinator::Input::LeaseConfirmed { ticket });
            }
            replica::Output::NeedSnapshot { from, index } => self.need_snapshot(from, index),
            replica::Output::Refill { from, through } => self.need_refill(from, through),
            replica::Output::Warning(sentence) => self.outputs.push_back(Output::Warning(sentence)),
            replica::Output::Refused { from, reason } => self.complain(from, &reason),
            replica::Output::Fatal(reason) => self.fail(reason),
        }
    }

    fn heed_coordinator(&mut self, output: coordinator::Output) {
        match output {
            coordinator::Output::Propose { token, data } => self.tell_replica(replica::Input::Propose { token, data }),
            coordinator::Output::ConfirmLease { ticket } => self.tell_replica(replica::Input::ConfirmLease { ticket }),
            coordinator::Output::Send { connection, message } => {
                self.outputs.push_back(Output::Mount { connection, message });
            }
            coordinator::Output::Close { connection } => self.outputs.push_back(Output::CloseMount { connection }),
            coordinator::Output::Carried { ticket, outcome } => self.command_carried(ticket, outcome),
            coordinator::Output::Lost { ticket } => self.command_lost(ticket),
            coordinator::Output::HandOver { to, likely, leased } => {
                let peers = self.replica.status().peers;
                if let Some((term, leased)) = leased {
                    let leased: Vec<_> = leased.into_iter().collect();
                    for peer in peers.iter().filter(|peer| peer.id != self.config.id) {
                        let message = PeerMessage::HandOver { term, leased: leased.clone() };
                        self.outputs.push_back(Output::Peer { to: peer.id, message });
                    }
                }
                // It may have been lost meanwhile.
                let can = |id: &NodeId| peers.iter().any(|peer| peer.id == *id && peer.reachable == Some(true));
                self.tell_replica(replica::Input::Transfer { to: to.or(likely.filter(can)) });
            }
        }
    }

    /// What the replica leaves out, which knows no wall clock and no address, is added here.
    fn send_peer(&mut self, to: NodeId, mut message: PeerMessage) {
        match &mut message {
            PeerMessage::Hello { node, .. } => node.clone_from(&self.config.address),
            PeerMessage::Heartbeat { round, stamp, .. } => {
                self.clocks.heartbeat_sent(self.now, *round);
                *stamp = self.clocks.cluster_time(self.now);
            }
            PeerMessage::HeartbeatAcknowledged { wall_clock, .. } => *wall_clock = self.wall_clock(),
            _ => {}
        }
        self.outputs.push_back(Output::Peer { to, message });
    }

    /// A peer that sends nonsense may send much of it: one sentence in a while.
    fn complain(&mut self, from: NodeId, reason: &str) {
        let (said_at, left_out) = self.complaints.entry(from).or_insert((None, 0));
        if said_at.is_some_and(|at: Instant| self.now < at.after(COMPLAINT_PERIOD)) {
            *left_out += 1;
            return;
        }
        let others = if *left_out > 0 { format!(" ({left_out} more since the last such line)") } else { String::new() };
        (*said_at, *left_out) = (Some(self.now), 0);
        self.outputs.push_back(Output::Notice(format!("a message of node {from} was not taken: {reason}{others}")));
    }

    fn peer_message(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(bytes) => self.tell_replica(replica::Input::Raft { from, bytes }),
            PeerMessage::Heartbeat { term, round, stamp, marks, alive } => {
                self.take_time(from, stamp);
                self.tell_replica(replica::Input::Heartbeat { from, term, round, marks, alive });
            }
            PeerMessage::Hello { hello, node } => {
                // Whoever moved while it was away is answered where it is now, not where a process of its number is alive.
                let info = node.filter(|info| info.id == from && self.state.node(from).is_some());
                if let Some(info) = info.filter(|_| !self.replica.has_rival(from, hello.life)) {
                    self.outputs.push_back(Output::PeerAddress(info));
                }
                self.tell_replica(replica::Input::Hello { from, hello });
            }
            PeerMessage::Greeting(greeting) => self.tell_replica(replica::Input::Greeting { from, greeting }),
            PeerMessage::HeartbeatAcknowledged { term, round, wall_clock } => {
                self.take_clock(from, round, wall_clock);
                self.tell_replica(replica::Input::HeartbeatAcknowledged { from, term, round });
            }
            PeerMessage::SnapshotRequest { index, after } => self.serve_snapshot(from, index, after),
            PeerMessage::SnapshotPiece { index, term, membership, rows, last } => {
                self.take_piece(from, index, term, membership, rows, last);
            }
            PeerMessage::Report { node, measured, content_bytes } => {
                self.take_report(from, node, measured, content_bytes);
            }
            PeerMessage::HandOver { term, leased } => {
                self.tell_coordinator(coordinator::Input::Inherited { term, leased: leased.into_iter().collect() });
            }
        }
    }

    /// Everything that is due by the time alone.
    fn pass_time(&mut self) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let (replica, coordinator) = (is_due(self.replica.poll_timeout()), is_due(self.coordinator.poll_timeout()));
        if replica {
            self.tell_replica(replica::Input::Tick);
        }
        if coordinator {
            self.tell_coordinator(coordinator::Input::Tick);
        }
        let standing = self.standing();
        if std::mem::replace(&mut self.told_standing, standing) != standing {
            self.report();
        }
        self.ask_again_for_snapshot();
        self.expire_admin();
        if self.reports.due_at() <= self.now {
            self.report();
        }
        if self.stopping.is_some_and(|until| until <= self.now) {
            self.stopped();
        }
    }

    /// The state store has everything up to this entry: what lies before may leave the log.
    fn state_persisted(&mut self, index: LogIndex) {
        self.snapshot_persisted(index);
        while self.backlog.front().is_some_and(|(last, _)| *last <= index) {
            self.backlog_bytes -= self.backlog.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        self.persisted = self.persisted.max(index);
        self.bound_backlog();
        self.cut_log();
    }

    /// What lies behind the synced state stays in the log for those that lag. A follower that is short of space keeps
    /// none of it: the place may be what its state waits for.
    fn cut_log(&mut self) {
        let is_pressed = self.reports.is_short() && !self.leading;
        let retained = if is_pressed { 0 } else { self.config.retention.log_bytes };
        if let Some((through, term)) = self.replica.compaction_point(self.persisted, retained) {
            self.tell_replica(replica::Input::Compact { through });
            self.outputs.push_back(Output::CompactLog { through, term });
        }
    }

    /// Gives the state store a batch.
    fn persist_state(&mut self, batch: StateBatch, bytes: usize) {
        self.backlog.push_back((batch.index, bytes));
        self.backlog_bytes += bytes;
        self.outputs.push_back(Output::PersistState(batch));
        self.bound_backlog();
    }

    /// Where too much is on its way to the state store, a leader lets new calls wait, and a follower takes no entries.
    fn bound_backlog(&mut self) {
        self.tell_coordinator(coordinator::Input::Hold(self.has_backlog()));
        self.refuse_or_take();
    }

    fn has_backlog(&self) -> bool {
        self.backlog_bytes > limits::STATE_BACKLOG_BYTES_MAX
    }

    /// Whether entries of a leader are taken: not where there is no place for them and others have one.
    fn refuse_or_take(&mut self) {
        let refuses = self.has_backlog() || self.is_spared();
        if self.refuses != refuses {
            self.refuses = refuses;
            self.tell_replica(replica::Input::Refuse(refuses));
        }
    }

    /// Hands leadership over, where there is somebody to hand it to.
    fn stop(&mut self) {
        let others = self.replica.status().peers.iter().any(|peer| peer.voter && peer.id != self.config.id);
        if self.leading && others {
            self.hand_over(None);
            self.stopping = Some(self.now.after(2 * self.config.timing.lease));
        } else {
            self.stopped();
        }
    }

    /// Gives leadership to this voter, or to the most advanced one.
    fn hand_over(&mut self, to: Option<NodeId>) {
        let peers = self.replica.status().peers.into_iter();
        let others = peers.filter(|peer| peer.voter && peer.reachable == Some(true) && peer.id != self.config.id);
        let likely = others.max_by_key(|peer| (peer.matched, peer.id)).map(|peer| peer.id);
        self.tell_coordinator(coordinator::Input::HandOver { to, likely });
    }

    fn stopped(&mut self) {
        self.stopping = None;
        self.outputs.push_back(Output::Stopped);
    }

    fn leadership_changed(&mut self) {
        self.leadership_of_clocks();
        self.leadership_of_reports();
        self.leadership_of_snapshots();
        self.leadership_of_admin();
        if self.stopping.is_some() && self.leader.is_some_and(|leader| leader != self.config.id) {
            // Mounts are told who leads now before the process ends.
            self.settle();
            self.stopped();
        }
    }

    fn fail(&mut self, reason: String) {
        self.failed = true;
        self.outputs.push_back(Output::Fatal(reason));
    }

    /// Tells the shell where peers are, as far as it does not know.
    fn tell_addresses(&mut self) {
        for node in self.state.nodes().filter(|node| node.id != self.config.id) {
            if self.told_addresses.get(&node.id) != Some(node) {
                self.told_addresses.insert(node.id, node.clone());
                self.outputs.push_back(Output::PeerAddress(node.clone()));
            }
        }
    }
}

/// A coordinator that remembers the entries which the log still holds of what the state includes.
fn remembering(
    config: &NodeConfig,
    replica: &Replica,
    state: &State,
    compacted: LogIndex,
    applied: LogIndex,
) -> Result<Coordinator, NodeError> {
    let NodeConfig { founding, timing, retention, sessions, .. } = *config;
    let coordinator_config = coordinator::Config { founding, timing, retention, sessions };
    // The log may lie behind the state, where a snapshot was installed: then it holds nothing of use.
    let Some(entries) = replica.entries(compacted.min(applied), applied) else {
        return Ok(Coordinator::new(coordinator_config, state, applied));
    };
    let mut coordinator = Coordinator::new(coordinator_config, state, compacted.min(applied));
    for (index, _, data) in entries.filter(|(_, _, data)| !data.is_empty()) {
        let entry = Entry::decode(&data).map_err(|error| NodeError::Entry { index, error })?;
        let volume = entry.header.volume;
        if volume != VolumeId(0) && state.volume(volume).is_some() {
            coordinator.recall(volume, index, data);
        }
    }
    Ok(coordinator)
}
