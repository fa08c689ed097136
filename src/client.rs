//! The way to the leader: finding it, a session with it, calls that are repeated with the same sequence until they are
//! answered, and the lease.
//!
//! A core: the mount hands it what arrives and takes its events. `transport` is the shell that carries messages.
//!
//! Exactly once (docs/protocol.md R17-exactly-once): a call keeps its sequence over all connections of a session and is
//! looked up in the replicated reply table; each connection has a generation of its own and older ones are refused;
//! what was given up is never sent again, and what of it is still on its way precedes every later call.

mod calls;
mod lease;
mod servers;
mod troubles;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use self::{calls::Calls, lease::Lease, servers::Servers, troubles::Troubles};
use crate::{
    limits::{self, Timing},
    message::mount::{Hello, MountPlace, ProtocolRange, Refusal, StoreAddress, ToLeader, ToMount, Welcome},
    namespace::{Operation, Reply},
    types::{
        ConnectionId, Errno, Generation, Ino, Instant, LogIndex, MountId, Sequence, SessionId, Space, Stamp, UploadId,
    },
};

const NO_LEADER: &str = "more than half of the storage nodes have to run and reach each other";

/// What a client needs to know at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`, dialled in turn.
    pub servers: Vec<String>,
    pub mount: MountId,
    pub seed: u64,
    pub timing: Timing,
    /// What leaders show to administrators.
    pub place: MountPlace,
}

/// What the client wants done, or has learned.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "few exist at a time, and most are the large one")]
pub enum Event {
    Connect {
        connection: ConnectionId,
        address: String,
    },
    Send {
        connection: ConnectionId,
        message: ToLeader,
    },
    /// A leader has welcomed this mount; a snapshot or entries follow.
    Attached(Welcome),
    Snapshot {
        index: LogIndex,
        first: bool,
        last: bool,
        rows: Vec<(Bytes, Bytes)>,
    },
    Entries(Vec<(LogIndex, Bytes)>),
    /// A call is answered. It comes once for each call.
    Answered {
        sequence: Sequence,
        index: LogIndex,
        outcome: Result<Reply, Errno>,
    },
    /// The session has ended. These calls may or may not have taken effect; nobody will ever know.
    Expired {
        unresolved: Vec<Sequence>,
    },
    /// The answer to `ToLeader::ReadIndex` of this number.
    ReadIndex {
        number: u64,
        index: LogIndex,
    },
    /// Leadership is about to go to this address.
    Prepare {
        address: String,
    },
    /// Another mount wants to see the file whose delegation of this number this mount has.
    Recalled {
        ino: Ino,
        grant: LogIndex,
    },
    Fatal(String),
    Notice(String),
}

#[derive(Debug)]
enum Phase {
    Waiting { until: Instant },
    Dialing { connection: ConnectionId, address: String, deadline: Instant },
    Greeting { connection: ConnectionId, address: String, deadline: Instant },
    Attached { connection: ConnectionId, address: String, heard: Instant, renew: Instant, is_leased: bool },
    Ended,
}

/// One mount's way to the leader.
#[derive(Debug)]
pub struct Client {
    config: Config,
    phase: Phase,
    servers: Servers,
    calls: Calls,
    lease: Lease,
    session: Option<SessionId>,
    generation: Generation,
    stores: Vec<StoreAddress>,
    space: Space,
    inline_bytes_max: usize,
    connections: u64,
    /// The leader waits for acknowledgements of this mount, and grants no lease meanwhile.
    is_in_debt: bool,
    /// Servers that said they are of another founding, before any of our own was found.
    strangers: BTreeSet<String>,
    was_welcomed: bool,
    /// Why no server is the leader that this mount looks for.
    troubles: Troubles,
    /// Leaders that were left because they said nothing, since the last lease.
    silences: u32,
    events: VecDeque<Event>,
}

impl Client {
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        let servers = Servers::new(config.servers.clone(), config.seed, config.timing);
        let mut client = Self {
            servers,
            phase: Phase::Waiting { until: now },
            calls: Calls::default(),
            lease: Lease::new(config.timing.lease),
            session: None,
            generation: Generation(0),
            stores: Vec::new(),
            space: Space::default(),
            inline_bytes_max: limits::INLINE_BYTES_MAX,
            connections: 0,
            is_in_debt: false,
            strangers: BTreeSet::new(),
            was_welcomed: false,
            troubles: Troubles::default(),
            silences: 0,
            events: VecDeque::new(),
            config,
        };
        client.tick(now);
        client
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `tick` must be called at the latest. The end of the lease is not among the reasons: who cares about it asks
    /// `lease_until`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Dialing { deadline, .. } | Phase::Greeting { deadline, .. } => Some(*deadline),
            Phase::Attached { heard, renew, is_leased, .. } => {
                Some((*renew).min(heard.after(self.silence(*is_leased))))
            }
            Phase::Ended => None,
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        match &self.phase {
            Phase::Waiting { until } if *until <= now => self.dial(now),
            Phase::Dialing { deadline, address, .. } | Phase::Greeting { deadline, address, .. }
                if *deadline <= now =>
            {
                let address = address.clone();
                self.troubles.silent(&address);
                self.failed(now, &address);
            }
            Phase::Attached { heard, address, is_leased, .. } if now.since(*heard) >= self.silence(*is_leased) => {
                let address = address.clone();
                self.events.push_back(Event::Notice(format!("the leader at {address} is silent, looking for another")));
                self.silences = self.silences.saturating_add(1);
                self.failed(now, &address);
            }
            Phase::Attached { renew, connection, .. } if *renew <= now => {
                let connection = *connection;
                self.renew(now, connection);
            }
            _ => {}
        }
    }

    /// The connection stands: greet with the last entry whose effects this mount can vouch for, and the unlinked inodes
    /// that are open here.
    pub fn connected(&mut self, now: Instant, connection: ConnectionId, applied: LogIndex, orphans: Vec<Ino>) {
        let Phase::Dialing { connection: dialled, address, .. } = &self.phase else { return };
        if *dialled != connection {
            return;
        }
        let deadline = now.after(self.servers.patience() * 2);
        self.phase = Phase::Greeting { connection, address: address.clone(), deadline };
        self.generation = Generation(self.generation.0 + 1);
        let hello = Hello {
            protocol: ProtocolRange { min: limits::PROTOCOL_MIN, max: limits::PROTOCOL_MAX },
            features: 0,
            level_max: limits::FEATURE_LEVEL,
            mount: self.config.mount,
            session: self.session,
            generation: self.generation,
            applied,
            orphans,
            place: self.config.place.clone(),
        };
        self.events.push_back(Event::Send { connection, message: ToLeader::Hello(hello) });
    }

    /// The connection could not be made, or ended.
    pub fn disconnected(&mut self, now: Instant, connection: ConnectionId, reason: &str) {
        let Some((current, address)) = self.current() else { return };
        if current != connection {
            return;
        }
        let address = address.to_owned();
        if self.is_attached() {
            self.events.push_back(Event::Notice(format!("the leader at {address} is gone: {reason}")));
        }
        self.troubles.told(&address, reason.to_owned());
        self.failed(now, &address);
    }

    /// A message of the connection; one of an earlier connection is not heard.
    pub fn message(&mut self, now: Instant, connection: ConnectionId, message: ToMount) {
        let Some((current, address)) = self.current() else { return };
        if current != connection {
            return;
        }
        let address = address.to_owned();
        if let Phase::Attached { heard, is_leased, .. } = &mut self.phase {
            *heard = now;
            *is_leased |= matches!(message, ToMount::Lease { .. });
        }
        match message {
            ToMount::Welcome(welcome) => self.welcomed(now, connection, address, welcome),
            ToMount::NotLeader { leader } => {
                match &leader {
                    Some(_) => self.troubles.over(&address),
                    None => self.troubles.told(&address, format!("{address} knows no leader: {NO_LEADER}")),
                }
                let pause = self.servers.redirected(now, leader);
                self.wait(now, pause);
            }
            ToMount::Refused { refusal, reason } => self.refused(now, &address, refusal, &reason),
            ToMount::SnapshotPiece { index, first, last, rows } => {
                self.tell(ToLeader::PieceReceived);
                self.events.push_back(Event::Snapshot { index, first, last, rows });
            }
            ToMount::Entries { entries } => self.events.push_back(Event::Entries(entries)),
            ToMount::Answer { sequence, index, outcome } => {
                if self.calls.answered(sequence, index, !Reply::comes_again(&outcome)) {
                    self.events.push_back(Event::Answered { sequence, index, outcome });
                }
                self.send_calls();
            }
            ToMount::ReadIndex { number, index } => self.events.push_back(Event::ReadIndex { number, index }),
            ToMount::Prepare { leader } => self.events.push_back(Event::Prepare { address: leader }),
            ToMount::Recall { ino, grant } => self.events.push_back(Event::Recalled { ino, grant }),
            ToMount::Lease { number, stamp, space, stores } => {
                self.lease.granted(number);
                self.silences = 0;
                self.told(now, stamp, space, stores);
            }
        }
    }

    /// Makes a call; `Event::Answered` follows, unless it is given up or the session ends.
    pub fn submit(&mut self, operation: Operation) -> Sequence {
        let sequence = self.calls.submit(operation);
        self.send_calls();
        sequence
    }

    /// No call will need the blocks of this upload.
    pub fn abandon_upload(&mut self, upload: UploadId) {
        self.calls.abandon_upload(upload);
    }

    /// Nobody waits for the call any more. True when it was never sent and so will never take effect.
    pub fn give_up(&mut self, sequence: Sequence) -> bool {
        let unsent = self.calls.give_up(sequence);
        self.send_calls();
        unsent
    }

    /// The log carried out a call of this session (which may be one that was given up).
    pub fn seen_in_log(&mut self, sequence: Sequence) {
        self.calls.seen_in_log(sequence);
    }

    /// Tells the leader, where there is one. What is lost with a connection is told by the next one's greeting.
    pub fn tell(&mut self, message: ToLeader) {
        if let Phase::Attached { connection, .. } = self.phase {
            self.events.push_back(Event::Send { connection, message });
        }
    }

    /// An orderly end: takes leave of the leader and dials no more.
    pub fn leave(&mut self) {
        self.tell(ToLeader::Leave);
        self.phase = Phase::Ended;
    }

    /// No server has anything for this mount any more: it dials none, and has no right to answer.
    pub fn give_up_for_good(&mut self) {
        self.phase = Phase::Ended;
        self.lease.revoke();
    }

    /// Gives the connection up as unusable and looks for another.
    pub fn reattach(&mut self, now: Instant, reason: &str) {
        if let Some((connection, _)) = self.current() {
            self.disconnected(now, connection, reason);
        }
    }

    /// Whether entries are applied here that the leader has no acknowledgement of: then its silence says nothing.
    pub fn set_in_debt(&mut self, is_in_debt: bool) {
        self.is_in_debt = is_in_debt;
    }

    #[must_use]
    pub const fn is_attached(&self) -> bool {
        matches!(self.phase, Phase::Attached { .. })
    }

    /// Address of the leader this mount is attached to.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        match &self.phase {
            Phase::Attached { address, .. } => Some(address),
            _ => None,
        }
    }

    /// Why none of the servers is the leader that this mount looks for, by address; empty while it is attached.
    #[must_use]
    pub const fn troubles(&self) -> &BTreeMap<String, String> {
        self.troubles.by_address()
    }

    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// When the lease ends, or ended.
    #[must_use]
    pub const fn lease_until(&self) -> Option<Instant> {
        self.lease.until()
    }

    #[must_use]
    pub fn lease_is_held(&self, now: Instant) -> bool {
        self.lease.is_held(now)
    }

    /// Cluster time by our reckoning; `None` before the first welcome.
    #[must_use]
    pub fn cluster_time(&self, now: Instant) -> Option<Stamp> {
        self.lease.cluster_time(now)
    }

    #[must_use]
    pub fn stores(&self) -> &[StoreAddress] {
        &self.stores
    }

    #[must_use]
    pub const fn space(&self) -> Space {
        self.space
    }

    /// Bytes of content that may travel in one operation.
    #[must_use]
    pub const fn inline_bytes_max(&self) -> usize {
        self.inline_bytes_max
    }

    /// Calls without an answer.
    #[must_use]
    pub fn calls_unanswered(&self) -> usize {
        self.calls.len()
    }

    /// Connections asked for since the start.
    #[must_use]
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// How long a leader may say nothing before another is looked for. One that has granted a lease answers every
    /// renewal. One that is new, waits for us, or lets us wait because we kept others waiting (R28-probation) may have
    /// nothing to say for longer: then looking for another is tried ever more rarely.
    fn silence(&self, is_leased: bool) -> Duration {
        let timing = &self.config.timing;
        match (is_leased, self.is_in_debt) {
            (true, false) => timing.election,
            (false, false) => timing.lease * (2 << self.silences.min(4)),
            (_, true) => timing.lease * (4 << self.silences.min(4)),
        }
    }

    fn current(&self) -> Option<(ConnectionId, &str)> {
        match &self.phase {
            Phase::Dialing { connection, address, .. }
            | Phase::Greeting { connection, address, .. }
            | Phase::Attached { connection, address, .. } => Some((*connection, address)),
            Phase::Waiting { .. } | Phase::Ended => None,
        }
    }

    fn dial(&mut self, now: Instant) {
        let Some(address) = self.servers.next_address() else {
            self.phase = Phase::Ended;
            self.events.push_back(Event::Fatal(
                "no server is named: give --servers, or a credential that names some".to_owned(),
            ));
            return;
        };
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let deadline = now.after(self.servers.patience());
        self.phase = Phase::Dialing { connection, address: address.clone(), deadline };
        self.events.push_back(Event::Connect { connection, address });
    }

    fn failed(&mut self, now: Instant, address: &str) {
        let pause = self.servers.failed(now, address);
        self.wait(now, pause);
    }

    fn wait(&mut self, now: Instant, pause: Duration) {
        self.lease.reconnected();
        self.phase = Phase::Waiting { until: now.after(pause) };
        self.tick(now);
    }

    fn welcomed(&mut self, now: Instant, connection: ConnectionId, address: String, welcome: Welcome) {
        if !matches!(self.phase, Phase::Greeting { .. }) {
            return;
        }
        if self.session.is_some_and(|session| session != welcome.session) {
            // The leader forgot the session and opened another: what the old one left open stays unknown.
            self.expire();
        }
        self.session = Some(welcome.session);
        self.inline_bytes_max =
            usize::try_from(welcome.inline_bytes_max).unwrap_or(usize::MAX).min(limits::INLINE_BYTES_MAX);
        self.told(now, welcome.stamp, welcome.space, welcome.stores.clone());
        self.servers.attached();
        self.was_welcomed = true;
        self.troubles = Troubles::default();
        self.phase = Phase::Attached { connection, address, heard: now, renew: now, is_leased: false };
        self.events.push_back(Event::Attached(welcome));
        self.renew(now, connection);
        self.calls.reconnected();
        self.send_calls();
    }

    fn refused(&mut self, now: Instant, address: &str, refusal: Refusal, reason: &str) {
        match refusal {
            Refusal::Permanent => {
                self.give_up_for_good();
                self.events.push_back(Event::Fatal(format!("{address} refuses this mount: {reason}")));
            }
            Refusal::Foreign => {
                self.troubles.told(address, format!("{address} is no server of this mount: {reason}"));
                self.strangers.insert(address.to_owned());
                // What a stranger says ends no mount that has been welcomed, nor one whose servers did not all say so.
                if !self.was_welcomed && self.config.servers.iter().all(|server| self.strangers.contains(server)) {
                    self.phase = Phase::Ended;
                    self.events.push_back(Event::Fatal(format!(
                        "no server of the credential is of its founding: {reason}; make a new credential"
                    )));
                } else {
                    self.failed(now, address);
                }
            }
            Refusal::SessionExpired => {
                self.events.push_back(Event::Notice(format!("the session has expired: {reason}")));
                self.expire();
                // The same server leads and will open a new session.
                let pause = self.servers.redirected(now, Some(address.to_owned()));
                self.wait(now, pause);
            }
            Refusal::Busy => {
                self.troubles.told(address, format!("{address} has no room for this mount yet: {reason}"));
                self.failed(now, address);
            }
            Refusal::Protocol => {
                self.troubles.told(address, format!("{address} closed the connection: {reason}"));
                self.failed(now, address);
            }
        }
    }

    fn expire(&mut self) {
        self.session = None;
        self.lease.revoke();
        let unresolved = self.calls.expire();
        self.events.push_back(Event::Expired { unresolved });
    }

    fn told(&mut self, now: Instant, stamp: Stamp, space: Space, stores: Vec<StoreAddress>) {
        self.lease.told_time(now, stamp);
        self.space = space;
        if !stores.is_empty() && stores != self.stores {
            self.servers.learn(stores.iter().map(|store| store.address.as_str()));
            self.stores = stores;
        }
    }

    fn renew(&mut self, now: Instant, connection: ConnectionId) {
        let number = self.lease.renew(now);
        self.events.push_back(Event::Send { connection, message: ToLeader::Renew { number } });
        if let Phase::Attached { renew, .. } = &mut self.phase {
            // Missed ticks are dropped, never made up.
            *renew = now.after(self.config.timing.heartbeat);
        }
    }

    fn send_calls(&mut self) {
        let Phase::Attached { connection, .. } = self.phase else { return };
        while let Some(message) = self.calls.next_message() {
            self.events.push_back(Event::Send { connection, message });
        }
    }
}

#[cfg(test)]
mod tests;
