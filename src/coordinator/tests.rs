//! A leader's duties, scripted: a coordinator beside a state, a log that commits when told to, mounts that say what
//! the script has them say.

mod attaching;
mod completing;
mod crowding;
mod failing_over;
mod handing_over;
mod holding;
mod keeping_house;
mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::{
    limits::{self, Retention, SessionBounds, Timing},
    message::mount::{MountPlace, ProtocolRange, ToLeader, Welcome},
    namespace::{Command, Entry, Founding, NewNode, NodeInfo, Operation, Reply, VolumeOptions},
    types::{
        Access, ClearSuid, ClusterId, CredentialId, Errno, FoundingId, FoundingNumber, Generation, Ino, Name, Piece,
        Sequence, Stamp,
    },
};

const T: Timing = Timing::DEFAULT;
const FOUNDING: FoundingId = FoundingId { cluster: ClusterId(77), number: FoundingNumber(1) };
const SESSIONS: SessionBounds = SessionBounds { total: 64, per_credential: 12 };
const ME: NodeId = NodeId(1);

fn node(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        peer_address: format!("n{id}:7441"),
        client_address: format!("n{id}:7440"),
        level_max: 1,
    }
}

fn founded() -> State {
    let nodes = vec![node(1), node(2), node(3)];
    State::found(&Founding { id: FOUNDING, nodes, stamp: Stamp(1000), main: VolumeOptions::default() })
}

fn mkdir(name: &str) -> Operation {
    make(name, NewNode::Directory)
}

fn create(name: &str) -> Operation {
    make(name, NewNode::File)
}

fn make(name: &str, node: NewNode) -> Operation {
    let name = Name::new(name.as_bytes()).expect("a good name");
    Operation::Make { parent: Ino::ROOT, name, node, mode: 0o755, uid: 0, gid: 0, delegate: false, umask: 0 }
}

pub(super) fn write(ino: Ino, pieces: Vec<Piece>) -> Operation {
    let (clear_suid, uploads) = (ClearSuid::No, Vec::new());
    Operation::Write { ino, pieces, append: false, mtime: None, clear_suid, uploads, fence: None }
}

fn unlink(name: &str) -> Operation {
    Operation::Unlink { parent: Ino::ROOT, name: Name::new(name.as_bytes()).expect("a good name") }
}

/// One node's coordinator with a log of its own.
struct Bench {
    now: Instant,
    state: State,
    coordinator: Coordinator,
    term: Term,
    index: LogIndex,
    /// Proposed, not committed.
    proposed: VecDeque<(LogIndex, Bytes)>,
    /// What each connection was sent and the script has not looked at.
    sent: BTreeMap<ConnectionId, VecDeque<ToMount>>,
    closed: BTreeSet<ConnectionId>,
    tickets: Vec<u64>,
    carried: Vec<(u64, Result<Reply, Errno>)>,
    lost: Vec<u64>,
    handed_over: Vec<HandedOver>,
    /// Whether proposals are taken.
    takes: bool,
    /// Whether heartbeat rounds are confirmed at once.
    confirms: bool,
    connections: u64,
}

/// To whom, and the term and keys that went with it.
type HandedOver = (Option<NodeId>, Option<(Term, BTreeSet<Key>)>);

/// An attached mount of the script.
#[derive(Clone, Copy, Debug)]
struct Mounted {
    connection: ConnectionId,
    session: SessionId,
    caught_up_at: LogIndex,
}

impl Bench {
    /// A node that follows nobody.
    fn following() -> Self {
        let state = founded();
        let coordinator = Coordinator::new(
            Config { founding: FOUNDING, timing: T, retention: Retention::DEFAULT, sessions: SESSIONS },
            &state,
            LogIndex(1),
        );
        Self {
            now: Instant(1_000_000_000),
            state,
            coordinator,
            term: Term(1),
            index: LogIndex(1),
            proposed: VecDeque::new(),
            sent: BTreeMap::new(),
            closed: BTreeSet::new(),
            tickets: Vec::new(),
            carried: Vec::new(),
            lost: Vec::new(),
            handed_over: Vec::new(),
            takes: true,
            confirms: true,
            connections: 0,
        }
    }

    /// A leader whose own first entry is applied.
    fn leading() -> Self {
        let mut bench = Self::following();
        bench.elect();
        bench.commit();
        bench
    }

    fn input(&mut self, input: Input) {
        self.coordinator.handle(self.now, &self.state, input);
        while let Some(output) = self.coordinator.poll_output() {
            match output {
                Output::Propose { token, data } if self.takes => {
                    self.index = self.index.next();
                    self.proposed.push_back((self.index, data));
                    self.input(Input::Proposed { token, index: self.index });
                }
                Output::Propose { token, .. } => self.input(Input::Dropped { token }),
                Output::ConfirmLease { ticket } if self.confirms => self.input(Input::LeaseConfirmed { ticket }),
                Output::ConfirmLease { ticket } => self.tickets.push(ticket),
                Output::Send { connection, message } => {
                    assert!(!self.closed.contains(&connection), "{message:?} behind the end of {connection}");
                    self.sent.entry(connection).or_default().push_back(message);
                }
                Output::Close { connection } => assert!(self.closed.insert(connection), "{connection} closed twice"),
                Output::Carried { ticket, outcome } => self.carried.push((ticket, outcome)),
                Output::Lost { ticket } => self.lost.push(ticket),
                Output::HandOver { to, leased, .. } => self.handed_over.push((to, leased)),
            }
        }
    }

    /// This node wins an election in a new term; its first entry is not committed yet.
    fn elect(&mut self) {
        self.term = Term(self.term.0 + 1);
        self.proposed.clear();
        let attach_grace = T.attach_grace();
        self.input(Input::Clock(self.state.last_stamp().0));
        self.input(Input::Leadership { leader: Some(ME), term: self.term, leading: true, attach_grace });
        self.index = self.index.next();
        self.proposed.push_back((self.index, Bytes::new()));
    }

    fn depose(&mut self, leader: Option<u64>) {
        let (leader, term) = (leader.map(NodeId), Term(self.term.0 + 1));
        self.input(Input::Leadership { leader, term, leading: false, attach_grace: Duration::ZERO });
    }

    /// Commits and applies everything proposed, as one batch, until nothing more follows from it.
    fn commit(&mut self) {
        while !self.proposed.is_empty() {
            let mut entries = Vec::new();
            for (index, bytes) in std::mem::take(&mut self.proposed) {
                if !bytes.is_empty() {
                    let entry = Entry::decode(&bytes).expect("proposed by us");
                    let applied = self.state.apply(index, &entry);
                    let (outcome, session) = (applied.outcome, applied.session);
                    entries.push(AppliedEntry { index, entry, bytes, outcome, session });
                }
            }
            self.input(Input::Applied { term: self.term, entries });
        }
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now.after(time);
        while let Some(due) = self.coordinator.poll_timeout().filter(|due| *due <= until) {
            assert!(due > self.now, "a timeout that is due and not handled");
            self.now = due;
            self.input(Input::Tick);
        }
        self.now = until;
        self.input(Input::Tick);
    }

    fn connect(&mut self) -> ConnectionId {
        self.connect_as("main", Access::ReadWrite)
    }

    fn connect_as(&mut self, volume: &str, access: Access) -> ConnectionId {
        let id = self.state.volume_named(volume).map_or(VolumeId(99), crate::namespace::Volume::id);
        self.connect_with(Grant { founding: FOUNDING, volume: id, name: volume.to_owned(), access })
    }

    fn connect_with(&mut self, grant: Grant) -> ConnectionId {
        self.connect_by(grant, CredentialId(1))
    }

    fn connect_by(&mut self, grant: Grant, credential: CredentialId) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.input(Input::Opened { connection, grant, credential });
        connection
    }

    fn say(&mut self, connection: ConnectionId, message: ToLeader) {
        self.input(Input::Message { connection, message });
    }

    fn hello(mount: u128) -> Hello {
        Hello {
            protocol: ProtocolRange { min: limits::PROTOCOL_MIN, max: limits::PROTOCOL_MAX },
            features: 0,
            level_max: 1,
            mount: MountId(mount),
            session: None,
            generation: Generation(1),
            applied: LogIndex(0),
            orphans: Vec::new(),
            place: MountPlace::default(),
        }
    }

    /// A new mount, not caught up yet.
    fn attach(&mut self, mount: u128) -> Mounted {
        let connection = self.connect();
        self.attach_on(connection, Self::hello(mount))
    }

    fn attach_on(&mut self, connection: ConnectionId, hello: Hello) -> Mounted {
        self.say(connection, ToLeader::Hello(hello));
        self.commit();
        match self.take(connection) {
            Some(ToMount::Welcome(Welcome { session, caught_up_at, .. })) => {
                Mounted { connection, session, caught_up_at }
            }
            other => panic!("instead of Welcome: {other:?}"),
        }
    }

    /// A mount that is caught up and holds a lease.
    fn mount(&mut self, mount: u128) -> Mounted {
        let mounted = self.attach(mount);
        self.catch_up(mounted);
        mounted
    }

    fn catch_up(&mut self, mounted: Mounted) {
        while let Some(message) = self.take(mounted.connection) {
            if let ToMount::SnapshotPiece { .. } = message {
                self.say(mounted.connection, ToLeader::PieceReceived);
            }
        }
        self.acknowledge(mounted, mounted.caught_up_at);
        assert_eq!(self.renewed(mounted, 1), Some(1), "a mount that is caught up gets a lease");
    }

    fn acknowledge(&mut self, mounted: Mounted, index: LogIndex) {
        self.say(mounted.connection, ToLeader::Acknowledge { entries: vec![index], referenced: Vec::new() });
    }

    /// The number of the lease that a renewal is answered with at once.
    fn renewed(&mut self, mounted: Mounted, number: u64) -> Option<u64> {
        self.say(mounted.connection, ToLeader::Renew { number });
        self.lease(mounted)
    }

    /// The newest lease among what was sent; all else stays.
    fn lease(&mut self, mounted: Mounted) -> Option<u64> {
        let mut newest = None;
        self.sent.entry(mounted.connection).or_default().retain(|message| match message {
            ToMount::Lease { number, .. } => {
                newest = Some(*number);
                false
            }
            _ => true,
        });
        newest
    }

    fn call(&mut self, mounted: Mounted, sequence: u64, operation: Operation) {
        let (sequence, answered) = (Sequence(sequence), Vec::new());
        self.say(mounted.connection, ToLeader::Operation { sequence, answered, operation });
    }

    /// The call, committed and applied. The index of its entry.
    fn change(&mut self, mounted: Mounted, sequence: u64, operation: Operation) -> LogIndex {
        self.call(mounted, sequence, operation);
        self.commit();
        self.index
    }

    fn take(&mut self, connection: ConnectionId) -> Option<ToMount> {
        self.sent.get_mut(&connection)?.pop_front()
    }

    /// The indexes of entries sent, up to the next message of another kind.
    fn entries(&mut self, mounted: Mounted) -> Vec<LogIndex> {
        let mut indexes = Vec::new();
        while let Some(ToMount::Entries { .. }) = self.sent.get(&mounted.connection).and_then(VecDeque::front) {
            if let Some(ToMount::Entries { entries }) = self.take(mounted.connection) {
                indexes.extend(entries.into_iter().map(|(index, _)| index));
            }
        }
        indexes
    }

    /// The next answer; entries in front of it are dropped.
    fn answer(&mut self, mounted: Mounted) -> Option<(u64, LogIndex, Result<Reply, Errno>)> {
        self.entries(mounted);
        match self.sent.get(&mounted.connection).and_then(VecDeque::front) {
            Some(ToMount::Answer { .. }) => match self.take(mounted.connection) {
                Some(ToMount::Answer { sequence, index, outcome }) => Some((sequence.0, index, outcome)),
                _ => None,
            },
            Some(other) => panic!("instead of an answer: {other:?}"),
            None => None,
        }
    }

    fn refusal(&mut self, connection: ConnectionId) -> Refusal {
        match self.sent.get_mut(&connection).and_then(VecDeque::pop_back) {
            Some(ToMount::Refused { refusal, .. }) => {
                assert!(self.closed.contains(&connection), "a refused connection ends");
                refusal
            }
            other => panic!("instead of a refusal: {other:?}"),
        }
    }

    fn in_roster(&self, mounted: Mounted) -> bool {
        self.coordinator
            .sessions(self.now, &self.state)
            .any(|report| report.session == mounted.session && report.in_roster)
    }

    fn exists(&self, name: &str) -> bool {
        let name = Name::new(name.as_bytes()).expect("a good name");
        self.state.volume_named("main").expect("the main volume").lookup(Ino::ROOT, &name).is_some()
    }
}

fn bound() -> Duration {
    T.lease + T.drift_margin()
}
