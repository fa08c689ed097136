//! Whole nodes in a tiny world: disks that sync at once, a network that delivers in order and at once unless a link is
//! cut, virtual time, and mounts that apply, acknowledge and renew as a mount does.

mod clocks;
mod clusters;
mod hostile;
mod one_node;
mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::*;
use crate::{
    message::{
        log::{LogBatch, LogEntry},
        mount::{Hello, MountPlace, ProtocolRange, Refusal, ToLeader, ToMount},
    },
    namespace::{Founding, NewNode, Operation, Reply, Volume, VolumeOptions},
    types::{
        Access, ClearSuid, ClusterId, ConnectionId, CredentialId, Errno, FoundingNumber, Generation, Grant, Ino,
        MountId, Name, Piece, Sequence, SessionId, Space, Stamp,
    },
};

const T: Timing = Timing::DEFAULT;
const FOUNDING: FoundingId = FoundingId { cluster: ClusterId(9), number: FoundingNumber(1) };

/// What one node has on its disk: everything it ever asked to have there.
#[derive(Clone, Default)]
struct Disk {
    hard_state: Option<Bytes>,
    membership: Bytes,
    rows: BTreeMap<Bytes, Bytes>,
    state: (LogIndex, Term),
    entries: VecDeque<LogEntry>,
    compacted: (LogIndex, Term),
}

impl Disk {
    fn founded(nodes: &[NodeId]) -> Self {
        let infos = nodes.iter().map(|id| info(id.0)).collect();
        let founding = Founding { id: FOUNDING, nodes: infos, stamp: Stamp(1), main: VolumeOptions::default() };
        let position = (LogIndex(1), Term(1));
        Self {
            membership: Replica::membership_of(nodes),
            rows: State::found(&founding).rows().collect(),
            state: position,
            compacted: position,
            ..Self::default()
        }
    }

    fn write_log(&mut self, batch: LogBatch) {
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = Some(hard_state);
        }
        if let Some(position) = batch.reset {
            self.entries.clear();
            self.compacted = position;
        }
        for entry in batch.entries {
            self.entries.retain(|kept| kept.index < entry.index);
            self.entries.push_back(entry);
        }
    }

    fn write_state(&mut self, batch: StateBatch) {
        if batch.reset {
            self.rows.clear();
        } else {
            let most = limits::STATE_STEP_ROWS + limits::ENTRY_ROWS_MAX;
            assert!(batch.rows.len() <= most, "{} rows in one batch: an entry changed too many", batch.rows.len());
        }
        for row in batch.rows {
            match row.value {
                Some(value) => self.rows.insert(row.key, value),
                None => self.rows.remove(&row.key),
            };
        }
        if let Some(membership) = batch.membership {
            self.membership = membership;
        }
        assert!(batch.index >= self.state.0, "the state store goes backwards");
        self.state = (batch.index, batch.term);
    }

    fn recover(&self) -> Recovered {
        Recovered {
            hard_state: self.hard_state.clone(),
            membership: self.membership.clone(),
            state: State::from_rows(self.rows.clone()).expect("our own rows"),
            state_index: self.state.0,
            state_term: self.state.1,
            entries: self.entries.iter().cloned().collect(),
            compacted: self.compacted,
        }
    }
}

fn info(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        peer_address: format!("n{id}:7441"),
        client_address: format!("n{id}:7440"),
        level_max: 1,
    }
}

/// A mount that does what a mount must, and no more.
struct Client {
    mount: MountId,
    node: Option<NodeId>,
    connection: Option<ConnectionId>,
    generation: u64,
    session: Option<SessionId>,
    volume: Option<Volume>,
    rows: Vec<(Bytes, Bytes)>,
    caught_up_at: Option<LogIndex>,
    calls: BTreeMap<Sequence, Operation>,
    answers: BTreeMap<Sequence, Result<Reply, Errno>>,
    renewals: u64,
    renewals_sent: BTreeMap<u64, Instant>,
    renew_at: Instant,
    lease_until: Instant,
    /// Neither acknowledges nor renews: stopped, with its connection alive.
    is_stopped: bool,
    refusals: Vec<Refusal>,
    space: Space,
}

struct World {
    now: Instant,
    timing: Timing,
    retention: Retention,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, Disk>,
    network: VecDeque<(NodeId, NodeId, PeerMessage)>,
    inbox: VecDeque<(NodeId, Input)>,
    is_handling: bool,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose state stores write and do not sync, and up to where each has written.
    unsynced: BTreeMap<NodeId, LogIndex>,
    /// Pieces of snapshots arrive twice.
    repeats_pieces: bool,
    /// Of the pieces of snapshots, those that get lost.
    lose_pieces: usize,
    clients: Vec<Client>,
    connections: u64,
    /// Connections that nodes have closed.
    closed: BTreeSet<ConnectionId>,
    addresses: BTreeMap<(NodeId, NodeId), NodeInfo>,
    admin: BTreeMap<u64, Result<AdminAnswer, AdminError>>,
    stopped: BTreeSet<NodeId>,
    pieces: usize,
    /// Every output, where a test looks at them: large entries take long to print.
    is_recording: bool,
    trace: Vec<String>,
    warnings: Vec<(NodeId, String)>,
    /// By how much wall clocks are ahead of virtual time, nanoseconds.
    clocks: BTreeMap<NodeId, i64>,
    /// Nanoseconds since 1970 at time zero.
    epoch: u64,
}

impl World {
    fn new(count: u64) -> Self {
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let mut world = Self {
            now: Instant(1_000_000_000),
            timing: T,
            retention: Retention::DEFAULT,
            nodes: BTreeMap::new(),
            disks: ids.iter().map(|id| (*id, Disk::founded(&ids))).collect(),
            network: VecDeque::new(),
            inbox: VecDeque::new(),
            is_handling: false,
            cut: BTreeSet::new(),
            unsynced: BTreeMap::new(),
            repeats_pieces: false,
            lose_pieces: 0,
            clients: Vec::new(),
            connections: 0,
            closed: BTreeSet::new(),
            addresses: BTreeMap::new(),
            admin: BTreeMap::new(),
            stopped: BTreeSet::new(),
            pieces: 0,
            is_recording: false,
            trace: Vec::new(),
            warnings: Vec::new(),
            clocks: BTreeMap::new(),
            epoch: 1_700_000_000_000_000_000,
        };
        ids.iter().for_each(|id| world.start(*id));
        world
    }

    /// Three nodes with a leader.
    fn elected(count: u64) -> Self {
        let mut world = Self::new(count);
        world.run_until("a leader", |world| world.leader().is_some());
        world
    }

    fn start(&mut self, id: NodeId) {
        self.start_at(id, Some(info(id.0)));
    }

    fn start_at(&mut self, id: NodeId, address: Option<NodeInfo>) {
        let config = NodeConfig {
            id,
            founding: FOUNDING,
            timing: self.timing,
            retention: self.retention,
            sessions: SessionBounds::DEFAULT,
            seed: id.0,
            nonce: self.now.0,
            address,
        };
        let node = Node::open(self.now, config, self.disks[&id].recover()).expect("what it wrote itself");
        self.nodes.insert(id, node);
        self.handle(id, Input::Space(Space { total: id.0 << 40, available: id.0 << 30 }));
    }

    /// The process is gone; its disk stays.
    fn kill(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.network.retain(|(from, to, _)| *from != id && *to != id);
        for client in self.clients.iter_mut().filter(|client| client.node == Some(id)) {
            client.lose_connection();
        }
    }

    fn isolate(&mut self, id: NodeId) {
        let others: Vec<NodeId> = self.disks.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| node.coordinator.leads();
        self.nodes.values().filter(leads).max_by_key(|node| node.status().term).map(|node| node.config.id)
    }

    /// Gives the node the input; what follows from it at once is done when this returns.
    fn handle(&mut self, id: NodeId, input: Input) {
        self.inbox.push_back((id, input));
        if self.is_handling {
            return;
        }
        self.is_handling = true;
        while let Some((id, input)) = self.inbox.pop_front() {
            let now = self.now;
            let clock = (self.epoch + now.0).saturating_add_signed(self.clocks.get(&id).copied().unwrap_or(0));
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.handle(now, Input::WallClock(clock));
            node.handle(now, input);
            while let Some(output) = self.nodes.get_mut(&id).and_then(Node::poll_output) {
                self.carry_out(id, output);
            }
        }
        self.is_handling = false;
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        if self.is_recording {
            self.trace.push(format!("{} {id} {output:?}", self.now.0));
        }
        match output {
            Output::PersistLog(batch) => {
                let number = batch.number;
                self.disks.get_mut(&id).expect("each node has a disk").write_log(batch);
                self.handle(id, Input::LogPersisted { number });
            }
            Output::PersistState(batch) => {
                let index = batch.index;
                self.disks.get_mut(&id).expect("each node has a disk").write_state(batch);
                match self.unsynced.get_mut(&id) {
                    Some(written) => *written = index,
                    None => self.handle(id, Input::StatePersisted { index }),
                }
            }
            Output::CompactLog { through, term } => {
                let disk = self.disks.get_mut(&id).expect("each node has a disk");
                assert!(through <= disk.state.0, "the log is cut above what the state has");
                disk.entries.retain(|entry| entry.index > through);
                disk.compacted = (through, term);
            }
            Output::Peer { to, message } => self.network.push_back((id, to, message)),
            Output::PeerAddress(address) => drop(self.addresses.insert((id, address.id), address)),
            Output::Mount { connection, message } => self.reach_client(connection, message),
            Output::CloseMount { connection } => {
                self.closed.insert(connection);
                if let Some(client) = self.clients.iter_mut().find(|client| client.connection == Some(connection)) {
                    client.lose_connection();
                }
            }
            Output::Admin { ticket, answer } => drop(self.admin.insert(ticket, answer)),
            Output::Leadership { .. } | Output::Notice(_) => {}
            Output::Warning(sentence) => self.warnings.push((id, sentence)),
            Output::Stopped => drop(self.stopped.insert(id)),
            Output::Fatal(reason) => panic!("node {id}: {reason}"),
        }
    }

    /// Delivers everything that is on its way.
    fn flow(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            if let PeerMessage::SnapshotPiece { .. } = message {
                self.pieces += 1;
                if self.lose_pieces > 0 {
                    self.lose_pieces -= 1;
                    continue;
                }
            }
            if self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to) {
                self.handle(from, Input::PeerLost { peer: to });
            } else {
                if self.repeats_pieces && matches!(message, PeerMessage::SnapshotPiece { .. }) {
                    self.handle(to, Input::Peer { from, message: message.clone() });
                }
                self.handle(to, Input::Peer { from, message });
            }
        }
    }

    fn next_event(&self) -> Instant {
        let nodes = self.nodes.values().filter_map(Node::poll_timeout);
        let clients = self.clients.iter().filter(|client| !client.is_stopped).map(|client| client.renew_at);
        nodes.chain(clients).min().unwrap_or(self.now.after(T.heartbeat))
    }

    /// Lets time pass to the next thing that happens, at most to `until`.
    fn step(&mut self, until: Instant) {
        self.flow();
        let next = self.next_event().max(Instant(self.now.0 + 1));
        self.now = next.min(until);
        let due: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.poll_timeout().is_some_and(|at| at <= self.now))
            .map(|(id, _)| *id)
            .collect();
        due.into_iter().for_each(|id| self.handle(id, Input::Tick));
        for at in 0..self.clients.len() {
            if self.clients[at].renew_at <= self.now && !self.clients[at].is_stopped {
                self.clients[at].renew_at = self.now.after(self.timing.heartbeat);
                self.refresh(at);
            }
        }
        self.flow();
    }

    fn run(&mut self, time: Duration) {
        let until = self.now.after(time);
        while self.now < until {
            self.step(until);
        }
    }

    /// Runs until it holds; how long that took.
    fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = self.now;
        let patience = began.after(Duration::from_secs(60));
        self.flow();
        while !holds(self) {
            assert!(self.now < patience, "{what} did not come about");
            self.step(patience);
        }
        self.now.since(began)
    }

    fn mount(&mut self, mount: u128) -> usize {
        self.clients.push(Client {
            mount: MountId(mount),
            node: None,
            connection: None,
            generation: 0,
            session: None,
            volume: None,
            rows: Vec::new(),
            caught_up_at: None,
            calls: BTreeMap::new(),
            answers: BTreeMap::new(),
            renewals: 0,
            renewals_sent: BTreeMap::new(),
            renew_at: self.now,
            lease_until: Instant(0),
            is_stopped: false,
            refusals: Vec::new(),
            space: Space::default(),
        });
        let at = self.clients.len() - 1;
        self.run_until("a lease", |world| world.clients[at].lease_until > world.now);
        at
    }

    /// Once a heartbeat: renews, or dials the next node.
    fn refresh(&mut self, at: usize) {
        let now = self.now;
        let Some(connection) = self.clients[at].connection else {
            let last = self.clients[at].node.unwrap_or(NodeId(0));
            let next = self.disks.keys().copied().find(|id| *id > last).unwrap_or(NodeId(1));
            return self.dial(at, next);
        };
        let client = &mut self.clients[at];
        client.renewals += 1;
        client.renewals_sent.insert(client.renewals, now);
        if let Some(node) = client.node
            && client.caught_up_at.is_some()
        {
            let message = ToLeader::Renew { number: client.renewals };
            self.handle(node, Input::Mount { connection, message });
        }
    }

    fn dial(&mut self, at: usize, node: NodeId) {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let client = &mut self.clients[at];
        client.node = Some(node);
        if !self.nodes.contains_key(&node) {
            return;
        }
        client.connection = Some(connection);
        client.generation += 1;
        let hello = Hello {
            protocol: ProtocolRange { min: limits::PROTOCOL_MIN, max: limits::PROTOCOL_MAX },
            features: 0,
            level_max: 1,
            mount: client.mount,
            session: client.session,
            generation: Generation(client.generation),
            applied: client.volume.as_ref().map_or(LogIndex(0), Volume::applied),
            orphans: Vec::new(),
            place: MountPlace::default(),
        };
        let (volume, name) = (VolumeId(1), "main".to_owned());
        let grant = Grant { founding: FOUNDING, volume, name, access: Access::ReadWrite };
        self.handle(node, Input::MountOpened { connection, grant, credential: CredentialId(1) });
        self.handle(node, Input::Mount { connection, message: ToLeader::Hello(hello) });
    }

    fn reach_client(&mut self, connection: ConnectionId, message: ToMount) {
        let Some(at) = self.clients.iter().position(|client| client.connection == Some(connection)) else { return };
        let (now, lease) = (self.now, self.timing.lease);
        let client = &mut self.clients[at];
        let node = client.node.expect("a connection leads somewhere");
        let mut replies = Vec::new();
        match message {
            ToMount::Welcome(welcome) => {
                client.session = Some(welcome.session);
                client.caught_up_at = Some(welcome.caught_up_at);
                client.space = welcome.space;
                for (sequence, operation) in &client.calls {
                    let (sequence, operation) = (*sequence, operation.clone());
                    replies.push(ToLeader::Operation { sequence, answered: Vec::new(), operation });
                }
            }
            ToMount::NotLeader { leader } => {
                client.lose_connection();
                let named = leader.and_then(|leader| leader.trim_start_matches('n').split(':').next()?.parse().ok());
                if let Some(id) = named {
                    // The next heartbeat dials the node behind this one.
                    client.node = Some(NodeId(u64::saturating_sub(id, 1)));
                    client.renew_at = now;
                }
            }
            // No client of these tests has anything delegated, or reads.
            ToMount::Recall { .. } | ToMount::ReadIndex { .. } | ToMount::Prepare { .. } => {}
            ToMount::Refused { refusal, .. } => client.refusals.push(refusal),
            ToMount::SnapshotPiece { first, last, rows, .. } => {
                if first {
                    client.rows.clear();
                }
                client.rows.extend(rows);
                replies.push(ToLeader::PieceReceived);
                if last {
                    client.volume = Some(Volume::from_rows(client.rows.drain(..)).expect("rows of a volume"));
                }
            }
            ToMount::Entries { entries } => {
                let indexes: Vec<LogIndex> = entries.iter().map(|(index, _)| *index).collect();
                let volume = client.volume.as_mut().expect("entries follow a snapshot");
                for (index, bytes) in entries {
                    assert!(index > volume.applied(), "entry {index} comes twice");
                    volume.apply(index, &Entry::decode(&bytes).expect("an entry of the log"));
                }
                if !client.is_stopped {
                    replies.push(ToLeader::Acknowledge { entries: indexes, referenced: Vec::new() });
                }
            }
            ToMount::Answer { sequence, index, outcome } => {
                let applied = client.volume.as_ref().map_or(LogIndex(0), Volume::applied);
                assert!(index <= applied, "answered before its entry was sent");
                if client.calls.remove(&sequence).is_some() {
                    client.answers.insert(sequence, outcome);
                }
            }
            ToMount::Lease { number, space, .. } => {
                client.space = space;
                client.lease_until = client.lease_until.max(client.renewals_sent[&number].after(lease));
            }
        }
        let applied = client.volume.as_ref().map(Volume::applied);
        if client.caught_up_at.is_some_and(|at| applied.is_some_and(|applied| applied >= at)) && !client.is_stopped {
            let entries = client.caught_up_at.into_iter().collect();
            replies.push(ToLeader::Acknowledge { entries, referenced: Vec::new() });
        }
        for message in replies {
            self.handle(node, Input::Mount { connection, message });
        }
    }

    fn call(&mut self, at: usize, sequence: u64, operation: Operation) {
        let sequence = Sequence(sequence);
        self.clients[at].calls.insert(sequence, operation.clone());
        if let (Some(node), Some(connection)) = (self.clients[at].node, self.clients[at].connection) {
            let message = ToLeader::Operation { sequence, answered: Vec::new(), operation };
            self.handle(node, Input::Mount { connection, message });
        }
    }

    fn changes(&mut self, at: usize, sequences: std::ops::RangeInclusive<u64>) {
        for n in sequences {
            self.change(at, n, mkdir(&format!("d{n}")));
        }
    }

    /// The call, until it is answered; how long that took.
    fn change(&mut self, at: usize, sequence: u64, operation: Operation) -> Duration {
        self.call(at, sequence, operation);
        let took = self.run_until("an answer", |world| world.clients[at].answers.contains_key(&Sequence(sequence)));
        let outcome = self.clients[at].answers[&Sequence(sequence)];
        assert!(outcome.is_ok(), "call {sequence}: {outcome:?}");
        took
    }

    fn digests(&self) -> BTreeSet<u128> {
        self.nodes.values().map(|node| node.state.digest()).collect()
    }

    /// All living nodes have the same state, and every mount its part of it.
    fn agree(&mut self) {
        self.run_until("agreement", |world| {
            let leader = world.leader().and_then(|leader| world.nodes.get(&leader));
            let digest = leader.and_then(|leader| leader.state.volume_named("main")).map(Volume::digest);
            let mounts = |client: &Client| client.is_stopped || client.volume.as_ref().map(Volume::digest) == digest;
            world.digests().len() == 1 && world.clients.iter().all(mounts)
        });
    }

    fn ask(&mut self, id: NodeId, ticket: u64, request: AdminRequest) {
        self.handle(id, Input::Admin { ticket, request });
        self.flow();
    }
}

impl Client {
    fn lose_connection(&mut self) {
        self.connection = None;
        self.caught_up_at = None;
    }
}

fn mkdir(name: &str) -> Operation {
    make(name, NewNode::Directory)
}

fn make(name: &str, node: NewNode) -> Operation {
    let name = Name::new(name.as_bytes()).expect("a good name");
    Operation::Make { parent: Ino::ROOT, name, node, mode: 0o755, uid: 0, gid: 0, delegate: false, umask: 0 }
}

fn write(ino: Ino, pieces: Vec<Piece>) -> Operation {
    let (clear_suid, uploads) = (ClearSuid::No, Vec::new());
    Operation::Write { ino, pieces, append: false, mtime: None, clear_suid, uploads, fence: None }
}

fn set_xattr(name: &str, bytes: usize) -> Operation {
    let name = crate::types::XattrName::new(format!("user.{name}").as_bytes()).expect("a good name");
    let value = Bytes::from(vec![bytes as u8; bytes]);
    Operation::SetXattr { ino: Ino::ROOT, name, value, mode: crate::namespace::XattrMode::Set, clear_sgid: false }
}
