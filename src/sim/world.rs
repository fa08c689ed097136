//! A cluster with its mounts, kernels and processes, on one queue of events in virtual time.

mod backups;
mod breaches;
mod deletion;
mod faults;
mod locks;
mod mounts;
mod nodes;
mod stops;
mod stranger;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use backups::Twin;
use bytes::Bytes;

use super::{
    Report,
    clock::Clock,
    dice::Dice,
    disk::Disk,
    host::{Link, MountHost, NodeHost},
    network::Network,
    options::{Breach, DRIFT_MAX, Options},
    oracle::Oracle,
    packs::Upload,
    workload::Workload,
};
use crate::{
    message::{
        mount::{ToLeader, ToMount},
        peer::PeerMessage,
    },
    mount::{Caller, Notification, Request, Response, StoreError},
    namespace::{Founding, NodeInfo, VolumeOptions},
    types::{BlockHash, ClusterId, ConnectionId, Errno, FoundingId, FoundingNumber, Instant, NodeId, Sequence, Stamp},
};

/// Wall clock at the beginning of virtual time, nanoseconds since 1970.
pub(super) const EPOCH: u64 = 1_750_000_000_000_000_000;
/// Bytes of each store's device. Only reservations come near.
pub(super) const DEVICE_BYTES: u64 = 16 << 20;
/// When the faults are over, every call returns within this: the hold time of what a lost mount had, and as much again.
const LIVENESS: Duration = Duration::from_secs(20);
/// A run has some 7,000 on average: one that has this many goes round and round.
const EVENTS_MAX: u64 = 5_000_000;

#[derive(Debug)]
enum Event {
    NodeStart(NodeId),
    NodeWake { node: NodeId, life: u64 },
    StrangerWake,
    LogSynced { node: NodeId, life: u64, number: u64 },
    LogClaimed { node: NodeId, life: u64, number: u64 },
    StateSynced { node: NodeId, life: u64 },
    Peer { from: NodeId, to: NodeId, generation: u64, message: PeerMessage },
    PeerLost { node: NodeId, life: u64, peer: NodeId },
    Dialled { mount: usize, life: u64, connection: ConnectionId, node: Option<NodeId> },
    DialAnswered { link: u64 },
    ToNode { link: u64, message: Box<ToLeader> },
    ToMount { link: u64, message: Box<ToMount> },
    ClosedAtNode { link: u64 },
    ClosedAtMount { mount: usize, life: u64, connection: ConnectionId },
    Store { mount: usize, life: u64, node: NodeId, upload: Box<Upload> },
    Stored { mount: usize, life: u64, ticket: u64, node: NodeId, result: Result<(), StoreError> },
    Fetch { mount: usize, life: u64, ticket: u64, node: NodeId, hash: BlockHash },
    Fetched { mount: usize, life: u64, ticket: u64, node: NodeId, result: Result<Bytes, StoreError> },
    MountStart { mount: usize, life: u64 },
    MountWake { mount: usize, life: u64 },
    Asked { mount: usize, life: u64, unique: u64, caller: Caller, request: Box<Request> },
    Answer { mount: usize, life: u64, unique: u64, result: Result<Response, Errno> },
    Notify { mount: usize, life: u64, ticket: u64, notifications: Vec<Notification> },
    Notified { mount: usize, life: u64, ticket: u64 },
    NextCall { mount: usize, life: u64, process: usize },
    MountResumed { mount: usize, life: u64 },
    WorkerContinued { mount: usize, life: u64 },
    HolderDue { mount: usize, life: u64 },
    Forged { mount: usize, life: u64, connection: ConnectionId, message: Box<ToMount> },
    Killed { mount: usize, life: u64, process: usize, started: Instant },
    Fault,
    Deletion,
    MountEnds { mount: usize, life: u64 },
    Heal,
    SpaceAgain(NodeId),
    ClockRight(NodeId),
    TwinWake(u64),
    TwinEnds(u64),
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    options: Options,
    dice: Dice,
    queue: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    network: Network,
    nodes: BTreeMap<NodeId, NodeHost>,
    mounts: Vec<MountHost>,
    links: BTreeMap<u64, Link>,
    /// How often each mount's life sent each call.
    sendings: BTreeMap<(usize, u64, Sequence), u64>,
    /// A disk as it once was, and whose it is.
    backup: Option<(NodeId, Disk)>,
    /// The node whose disk went back, until it takes part again.
    gone_back: Option<NodeId>,
    twin: Option<Twin>,
    oracle: Oracle,
    workload: Workload,
    founding: Founding,
    /// A node of another founding.
    stranger: Option<stranger::Stranger>,
    /// Of its own: what clocks are rolled moves nothing else.
    clock_dice: Dice,
    /// Whose wall clock is set, now and then: no other's ever is.
    wrong_clock: Option<NodeId>,
    /// Of its own, too: how long threads take.
    thread_dice: Dice,
    /// Processes make calls of their own accord.
    is_busy: bool,
    /// All is quiet: what is seen is the newest.
    is_final: bool,
    trace: DefaultHasher,
    report: Report,
    /// Where each event is told, by who looks for a fault.
    tell: Option<fn(&str)>,
}

impl World {
    pub(super) fn new(seed: u64, options: Options, tell: Option<fn(&str)>) -> Self {
        let mut dice = Dice::new(seed);
        let founding = Founding {
            id: FoundingId { cluster: ClusterId(u128::from(seed) + 1), number: FoundingNumber(1) },
            nodes: (1..=options.nodes).map(node_info).collect(),
            stamp: Stamp(EPOCH),
            main: VolumeOptions::default(),
        };
        let mut world = Self {
            now: Instant(1_000_000_000),
            queue: BTreeMap::new(),
            serial: 0,
            network: Network::new(dice.split(), options.delay),
            nodes: BTreeMap::new(),
            mounts: Vec::new(),
            links: BTreeMap::new(),
            sendings: BTreeMap::new(),
            backup: None,
            gone_back: None,
            twin: None,
            oracle: Oracle::new(&founding),
            workload: Workload::new(dice.split(), &options),
            founding,
            stranger: None,
            clock_dice: Dice::new(seed ^ 0x636c_6f63_6b73),
            wrong_clock: None,
            thread_dice: Dice::new(seed ^ 0x0074_6872_6561_6473),
            is_busy: false,
            is_final: false,
            trace: DefaultHasher::new(),
            tell,
            report: Report::default(),
            dice,
            options,
        };
        world.found();
        world.found_stranger(Dice::new(seed ^ 0x0073_7472_616e));
        world
    }

    /// The whole run: founding, faults, quiet, and a last look at everything.
    pub(super) fn run(mut self) -> Report {
        self.settle_directories();
        self.is_busy = true;
        self.start_processes();
        if !self.options.faults.is_empty() {
            self.after(self.options.chaos / 8, Event::Fault);
        }
        if let Some(time) = self.options.deletes {
            self.after(time, Event::Deletion);
        }
        let end = self.now.after(self.options.chaos);
        self.run_to(end);
        self.is_busy = false;
        self.end_faults();
        // Whoever waits for a lock of a mount that is no more waits for the end of its hold time.
        let patience = LIVENESS + self.options.timing.hold;
        self.wait_for("every call to return", patience, Self::is_idle);
        self.wait_for("all locks to be given back", patience, |world| world.oracle.is_unlocked());
        self.wait_for("all nodes and mounts to have applied the same", LIVENESS, Self::agrees);
        self.wait_for("all kernels to have forgotten what was before", LIVENESS, Self::has_invalidated);
        self.is_final = true;
        self.look_at_everything();
        self.wait_for("the last look to end", LIVENESS, Self::is_idle);
        let oracle = &self.oracle;
        if oracle.has_volume() {
            self.workload.check(|path| oracle.content_at(&path.directory, &path.name));
        }
        self.report.trace = self.trace.finish();
        self.report.entries = self.oracle.next().0 - 2;
        self.report.sights = self.oracle.checked;
        self.report.behind = self.oracle.behind;
        self.report.sessions_ended = self.oracle.sessions_ended;
        self.report.counts = self.workload.counts();
        self.report.holds_ended = self.oracle.sessions_without_holds();
        self.report
    }

    fn settle_directories(&mut self) {
        self.make_directories();
        self.wait_for("the directories to be made", LIVENESS, Self::is_idle);
    }

    fn is_idle(&self) -> bool {
        self.mounts
            .iter()
            .all(|mount| mount.processes.iter().all(|process| process.running.is_none() && process.next.is_empty()))
    }

    fn agrees(&self) -> bool {
        let newest = self.oracle.next();
        let volume = self.oracle.volume_applied();
        let has_applied = |mount: &MountHost| mount.core.status().applied == volume;
        self.nodes.values().all(|node| node.core.is_some() && node.applied.next() == newest)
            && if self.is_deleted() { self.is_deleted_everywhere() } else { self.mounts.iter().all(has_applied) }
    }

    /// A name in a directory that a mount changed itself is forgotten a moment after that call returned
    /// (docs/protocol.md D3-one-directory).
    fn has_invalidated(&self) -> bool {
        self.mounts.iter().all(|mount| mount.tickets.is_empty())
    }

    fn wait_for(&mut self, what: &str, bound: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now.after(bound);
        while !done(self) {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= end);
            assert!(next.is_some(), "liveness: waited {bound:?} for {what}\n{}", self.describe());
            self.step();
        }
    }

    fn run_to(&mut self, end: Instant) {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        if let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            at.hash(&mut self.trace);
            self.happen(event);
        }
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now.after(time), event);
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.is_paused(&event) {
            return self.at(until, event);
        }
        std::mem::discriminant(&event).hash(&mut self.trace);
        self.report.events += 1;
        assert!(self.report.events < EVENTS_MAX, "liveness: events without an end\n{}", self.describe());
        self.tell(|| format!("{event:?}"));
        match event {
            Event::NodeStart(node) => self.start_node(node),
            Event::StrangerWake => self.stranger_woke(),
            Event::NodeWake { node, life } => self.node_woke(node, life),
            Event::LogSynced { node, life, number } => self.log_synced(node, life, number),
            Event::LogClaimed { node, life, number } => self.log_claimed(node, life, number),
            Event::StateSynced { node, life } => self.state_synced(node, life),
            Event::Peer { from, to, generation, message } => self.peer_arrived(from, to, generation, message),
            Event::PeerLost { node, life, peer } => self.peer_lost(node, life, peer),
            Event::Dialled { mount, life, connection, node } => self.dialled(mount, life, connection, node),
            Event::DialAnswered { link } => self.dial_answered(link),
            Event::ToNode { link, message } => self.reach_node(link, *message),
            Event::ToMount { link, message } => self.reach_mount(link, *message),
            Event::ClosedAtNode { link } => self.closed_at_node(link),
            Event::ClosedAtMount { mount, life, connection } => self.closed_at_mount(mount, life, connection),
            Event::Store { mount, life, node, upload } => self.store(mount, life, node, *upload),
            Event::Stored { mount, life, ticket, node, result } => self.stored(mount, life, ticket, node, result),
            Event::Fetch { mount, life, ticket, node, hash } => self.fetch(mount, life, ticket, node, hash),
            Event::Fetched { mount, life, ticket, node, result } => self.fetched(mount, life, ticket, node, result),
            Event::MountStart { mount, life } => self.start_mount(mount, life),
            Event::MountWake { mount, life } => self.mount_woke(mount, life),
            Event::Asked { mount, life, unique, caller, request } => self.asked(mount, life, unique, caller, *request),
            Event::Answer { mount, life, unique, result } => self.kernel_answered(mount, life, unique, result),
            Event::Notify { mount, life, ticket, notifications } => self.notify(mount, life, ticket, notifications),
            Event::Notified { mount, life, ticket } => self.notified(mount, life, ticket),
            Event::NextCall { mount, life, process } => self.next_call(mount, life, process),
            Event::MountResumed { mount, life } => self.mount_resumed(mount, life),
            Event::WorkerContinued { mount, life } => self.worker_continued(mount, life),
            Event::HolderDue { mount, life } => self.holder_acts(mount, life),
            Event::Forged { mount, life, connection, message } => self.forged(mount, life, connection, *message),
            Event::Killed { mount, life, process, started } => self.killed(mount, life, process, started),
            Event::Fault => self.fault(),
            Event::Deletion => self.delete_volume(),
            Event::MountEnds { mount, life } => self.mount_ended(mount, life),
            Event::Heal => self.network.heal(),
            Event::TwinWake(life) => self.twin_woke(life),
            Event::TwinEnds(life) => self.end_twin(life),
            Event::SpaceAgain(id) => self.set_full(id, false),
            Event::ClockRight(id) => self.set_clock(id, 0),
        }
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(tell) = self.tell {
            tell(&format!("{:>12.6} {}", self.now.0 as f64 / 1e9, line()));
        }
    }

    /// Where everything stands, for the report of a hang.
    fn describe(&self) -> String {
        let mut lines = Vec::new();
        for (id, node) in &self.nodes {
            lines.push(match &node.core {
                Some(core) => {
                    let status = core.status();
                    format!(
                        "node {id}: leader {:?} term {} applied {} committed {} sessions {:?}",
                        status.leader, status.term, status.applied, status.committed, status.sessions
                    )
                }
                None => format!("node {id}: down"),
            });
        }
        for (number, mount) in self.mounts.iter().enumerate() {
            lines.push(format!("mount {number}: {:?}", mount.core.status()));
            for (process, running) in mount.processes.iter().enumerate() {
                if let Some(running) = &running.running {
                    lines.push(format!("  process {process}: {running:?}"));
                }
            }
            lines.extend(mount.kernel.waits().into_iter().map(|wait| format!("  {wait}")));
        }
        lines.join("\n")
    }

    /// The clock of one more machine.
    fn new_clock(&mut self) -> Clock {
        match (self.options.breach, self.options.drift) {
            (Some(Breach::Clocks), _) => Clock::any(&mut self.clock_dice, 10 * DRIFT_MAX),
            (_, 0) => Clock::default(),
            (_, drift) => Clock::any(&mut self.clock_dice, drift),
        }
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    fn running_nodes(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.core.is_some()).map(|(id, _)| *id).collect()
    }
}

fn node_info(number: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(number),
        peer_address: format!("node{number}:7441"),
        client_address: format!("node{number}:7440"),
        level_max: 1,
    }
}

/// The node at this client address.
fn node_at(address: &str) -> Option<NodeId> {
    let number = address.strip_prefix("node")?.strip_suffix(":7440")?;
    number.parse().ok().map(NodeId)
}
