//! A few replicas, their disks and a bad network between them, in virtual time from one seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    limits::Timing,
    message::{
        log::{LogBatch, LogEntry},
        peer::{PeerMessage, Recollection, Verdict},
    },
    replica::{Config, Input, Output, Replica, Restart},
    types::{Instant, LogIndex, NodeId, Term},
};

pub(super) const TIMING: Timing = Timing::DEFAULT;

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Steele, Lea, Flood: SplitMix64.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % sides.max(1)
    }
}

#[derive(Debug)]
enum Event {
    Wake(NodeId),
    Synced { node: NodeId, life: u64, number: u64 },
    Message { from: NodeId, to: NodeId, message: PeerMessage },
    Fetched { node: NodeId, life: u64, from: NodeId, through: LogIndex },
}

#[derive(Debug, Default, Clone)]
pub(super) struct Disk {
    hard_state: Option<Bytes>,
    membership: Bytes,
    entries: Vec<LogEntry>,
    compacted: (LogIndex, Term),
    state: Vec<(LogIndex, Bytes)>,
    applied: (LogIndex, Term),
}

impl Disk {
    fn write(&mut self, batch: &LogBatch) {
        if let Some(hard_state) = &batch.hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        if let Some(reset) = batch.reset {
            (self.compacted, self.entries) = (reset, Vec::new());
        }
        if let Some(first) = batch.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(batch.entries.iter().cloned());
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    replica: Option<Replica>,
    life: u64,
    disk: Disk,
    unsynced: Vec<LogBatch>,
    wake: Option<Instant>,
    /// When each ticket was asked for.
    asked: BTreeMap<u64, Instant>,
    disk_is_stuck: bool,
    /// What a sync takes at most, where that is more than usual.
    sync_micros: u64,
}

/// How docs/protocol.md R71-forgetful is switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breach {
    /// Whoever says hello is welcome.
    Trust,
    /// A leader refills a forgetful node without an entry behind its hello.
    NoEntry,
}

/// What went over the stage, for the tests to look at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By index: term and data; the same on all.
    pub(super) committed: BTreeMap<u64, (Term, Bytes)>,
    /// When and with which grace a node began to lead, by term.
    pub(super) leaders: BTreeMap<Term, (NodeId, Instant, Duration)>,
    /// When a confirmed lease had been asked for, and in which term.
    pub(super) leases: Vec<(Instant, Term)>,
    pub(super) dropped: BTreeSet<u64>,
    pub(super) proposed: BTreeMap<u64, LogIndex>,
    pub(super) snapshots: u64,
    pub(super) hellos: u64,
    pub(super) refused: Vec<String>,
    pub(super) warnings: Vec<(NodeId, String)>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) dice: Dice,
    nodes: BTreeMap<NodeId, Node>,
    queue: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    /// Of 1000 messages so many are lost, and so many doubled.
    pub(super) loss: u64,
    pub(super) doubles: u64,
    /// Messages take up to so many milliseconds; reordered when above zero.
    pub(super) delay_ms: u64,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// What is sent there waits until it is released.
    held: BTreeMap<(NodeId, NodeId), Vec<PeerMessage>>,
    pub(super) breach: Option<Breach>,
    pub(super) seen: Seen,
    pub(super) trace: u64,
}

impl World {
    pub(super) fn new(seed: u64, voters: u64, others: u64) -> Self {
        let ids: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        let membership = Replica::membership_of(&ids);
        let position = (LogIndex(1), Term(1));
        let mut world = Self {
            now: Instant(0),
            dice: Dice(seed),
            nodes: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            loss: 0,
            doubles: 0,
            delay_ms: 2,
            cut: BTreeSet::new(),
            held: BTreeMap::new(),
            breach: None,
            seen: Seen::default(),
            trace: 0,
        };
        for id in 1..=voters + others {
            let mut node = Node::default();
            if id <= voters {
                (node.disk.membership, node.disk.compacted, node.disk.applied) =
                    (membership.clone(), position, position);
            }
            world.nodes.insert(NodeId(id), node);
            world.start(NodeId(id));
        }
        world
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let disk = &node.disk;
        let restart = Restart {
            hard_state: disk.hard_state.clone(),
            membership: disk.membership.clone(),
            applied: disk.applied,
            entries: disk.entries.clone(),
            compacted: disk.compacted,
        };
        let config = Config { id, timing: TIMING, seed: 11, nonce: node.life + 1 };
        node.replica = Some(Replica::open(now, config, restart).expect("what was written can be read"));
        self.drain(id);
    }

    /// The process ends; of the batches under way a prefix may have reached the disk.
    pub(super) fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        (node.replica, node.wake, node.disk_is_stuck) = (None, None, false);
        node.life += 1;
        node.asked.clear();
        let unsynced = std::mem::take(&mut node.unsynced);
        let kept = self.dice.roll(unsynced.len() as u64 + 1);
        for batch in unsynced.iter().take(usize::try_from(kept).expect("few batches")) {
            node.disk.write(batch);
        }
    }

    /// Starts whatever is down.
    pub(super) fn start_all(&mut self) {
        for id in self.ids() {
            if self.nodes[&id].replica.is_none() {
                self.start(id);
            }
        }
    }

    /// From now on a sync takes up to so many microseconds.
    pub(super) fn slow_disk(&mut self, id: NodeId, micros: u64) {
        self.nodes.get_mut(&id).expect("a node of this world").sync_micros = micros;
    }

    pub(super) fn stick_disk(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a node of this world").disk_is_stuck = true;
    }

    pub(super) fn cut_off(&mut self, id: NodeId) {
        for other in self.ids() {
            self.cut_one_way(id, other);
            self.cut_one_way(other, id);
        }
    }

    pub(super) fn cut_one_way(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// From here on what one sends the other waits.
    pub(super) fn hold(&mut self, from: NodeId, to: NodeId) {
        self.held.entry((from, to)).or_default();
    }

    /// What waited arrives, and all that is sent later.
    pub(super) fn release(&mut self, from: NodeId, to: NodeId) {
        for message in self.held.remove(&(from, to)).unwrap_or_default() {
            self.after(ms(1), Event::Message { from, to, message });
        }
    }

    /// What waited never arrives.
    pub(super) fn forget_held(&mut self, from: NodeId, to: NodeId) {
        self.held.remove(&(from, to));
    }

    /// What a backup of the node's disk would be now.
    pub(super) fn copy(&self, id: NodeId) -> Disk {
        self.nodes[&id].disk.clone()
    }

    /// The node's disk is a backup's from here on.
    pub(super) fn restore(&mut self, id: NodeId, disk: Disk) {
        self.crash(id);
        self.nodes.get_mut(&id).expect("a node of this world").disk = disk;
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn replica(&self, id: NodeId) -> &Replica {
        self.nodes[&id].replica.as_ref().expect("the node is up")
    }

    pub(super) fn input(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        if let Input::ConfirmLease { ticket } = &input {
            node.asked.insert(*ticket, now);
        }
        if let Some(replica) = &mut node.replica {
            replica.handle(now, input);
            self.drain(id);
        }
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        let leading = self.nodes.iter().filter_map(|(id, node)| Some((*id, node.replica.as_ref()?.status())));
        leading.filter(|(_, status)| status.leading).max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    /// Whether all nodes that are up have applied the same and the most.
    pub(super) fn agrees(&self) -> bool {
        let mut applied = self.nodes.values().filter(|node| node.replica.is_some()).map(|node| node.disk.applied);
        let first = applied.next();
        applied.all(|other| Some(other) == first)
    }

    pub(super) fn state(&self, id: NodeId) -> &[(LogIndex, Bytes)] {
        &self.nodes[&id].disk.state
    }

    pub(super) fn compact_all(&mut self) {
        for id in self.ids() {
            let (through, term) = self.nodes[&id].disk.applied;
            self.input(id, Input::Compact { through });
            let disk = &mut self.nodes.get_mut(&id).expect("a node of this world").disk;
            disk.entries.retain(|entry| entry.index > through);
            disk.compacted = (through, term);
        }
    }

    /// Runs until `done` or for `time`; says whether it was done.
    pub(super) fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now.after(time);
        loop {
            if done(self) {
                return true;
            }
            let Some((&(at, _), _)) = self.queue.first_key_value() else { break };
            if at > end {
                break;
            }
            let ((at, _), event) = self.queue.pop_first().expect("it was just there");
            self.now = at;
            self.happen(event);
        }
        self.now = end;
        false
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(id) => {
                if self.nodes[&id].wake == Some(self.now) {
                    self.nodes.get_mut(&id).expect("a node of this world").wake = None;
                    self.input(id, Input::Tick);
                }
            }
            Event::Synced { node: id, life, number } => {
                let node = self.nodes.get_mut(&id).expect("a node of this world");
                if node.life == life && !node.disk_is_stuck {
                    let done: Vec<LogBatch> = node.unsynced.extract_if(.., |batch| batch.number <= number).collect();
                    done.iter().for_each(|batch| node.disk.write(batch));
                    self.input(id, Input::Persisted { number });
                }
            }
            Event::Message { from, to, message } => {
                if self.cut.contains(&(from, to)) {
                    return;
                }
                self.trace_in(&format!("{from} {to} {message:?}"));
                match message {
                    PeerMessage::Raft(bytes) => self.input(to, Input::Raft { from, bytes }),
                    PeerMessage::Heartbeat { term, round, mut marks, alive, .. } => {
                        if self.breach == Some(Breach::Trust) {
                            marks.clear();
                        }
                        self.input(to, Input::Heartbeat { from, term, round, marks, alive });
                    }
                    PeerMessage::Hello { mut hello, .. } => {
                        if self.breach == Some(Breach::Trust) {
                            // As if its disk had counted right, and nobody knew of more.
                            hello.life.boot += 1000 * self.nodes[&from].life;
                            hello.recollection = Recollection::Refilled;
                        }
                        self.input(to, Input::Hello { from, hello });
                    }
                    PeerMessage::Greeting(mut greeting) => {
                        match (self.breach, greeting.verdict) {
                            (Some(Breach::Trust), _) => {
                                greeting.life.boot -= 1000 * self.nodes[&to].life;
                                greeting.by.boot += 1000 * self.nodes[&from].life;
                            }
                            (Some(Breach::NoEntry), Verdict::Forgetful { .. }) if self.leader() == Some(from) => {
                                greeting.verdict = Verdict::Refill { through: LogIndex(1), term: Term(1) };
                            }
                            _ => {}
                        }
                        self.input(to, Input::Greeting { from, greeting });
                    }
                    PeerMessage::HeartbeatAcknowledged { term, round, .. } => {
                        self.input(to, Input::HeartbeatAcknowledged { from, term, round });
                    }
                    other => panic!("a replica does not send {other:?}"),
                }
            }
            Event::Fetched { node: id, life, from, through } => self.fetched(id, life, from, through),
        }
    }

    fn fetched(&mut self, id: NodeId, life: u64, from: NodeId, through: LogIndex) {
        let Some(source) = &self.nodes[&from].replica else { return };
        let (membership, disk) = (source.membership(), &self.nodes[&from].disk);
        let (state, applied) = (disk.state.clone(), disk.applied);
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let is_older = node.disk.applied.0 >= applied.0 && self.breach.is_none();
        if node.life != life || is_older || applied.0 < through {
            return;
        }
        (node.disk.state, node.disk.applied, node.disk.membership) = (state, applied, membership.clone());
        self.seen.snapshots += 1;
        // Half of the time the process dies between the state's sync and the log's.
        if self.loss > 0 && self.dice.roll(2) == 0 {
            self.crash(id);
            self.start(id);
        } else {
            self.input(id, Input::SnapshotInstalled { index: applied.0, term: applied.1, membership });
        }
    }

    fn fetch(&mut self, id: NodeId, from: NodeId, through: LogIndex) {
        let life = self.nodes[&id].life;
        let time = ms(5 + self.dice.roll(300));
        self.after(time, Event::Fetched { node: id, life, from, through });
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.serial += 1;
        self.queue.insert((self.now.after(time), self.serial), event);
    }

    fn drain(&mut self, id: NodeId) {
        loop {
            let Some(replica) = &mut self.nodes.get_mut(&id).expect("a node of this world").replica else { return };
            let Some(output) = replica.poll_output() else { break };
            self.carry_out(id, output);
        }
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let wake = node.replica.as_ref().and_then(Replica::poll_timeout).map(|at| at.max(self.now));
        if wake != node.wake {
            node.wake = wake;
            if let Some(wake) = wake {
                self.after(wake.since(self.now), Event::Wake(id));
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        match output {
            Output::Persist(batch) => {
                let number = batch.number;
                let node = self.nodes.get_mut(&id).expect("a node of this world");
                node.unsynced.push(batch);
                let (life, sync_micros) = (node.life, node.sync_micros);
                let micros = 200 + self.dice.roll(sync_micros.max(3000));
                self.after(Duration::from_micros(micros), Event::Synced { node: id, life, number });
            }
            Output::Send { to, message } => {
                self.seen.hellos += u64::from(matches!(message, PeerMessage::Hello { .. }));
                if let Some(held) = self.held.get_mut(&(id, to)) {
                    return held.push(message);
                }
                if self.dice.roll(1000) < self.loss {
                    return;
                }
                let copies = if self.dice.roll(1000) < self.doubles { 2 } else { 1 };
                for _ in 0..copies {
                    let micros = 100 + self.dice.roll(self.delay_ms * 1000);
                    self.after(
                        Duration::from_micros(micros),
                        Event::Message { from: id, to, message: message.clone() },
                    );
                }
            }
            Output::Committed(entries) => {
                for entry in entries {
                    self.trace_in(&format!("{id} commits {entry:?}"));
                    let seen = self.seen.committed.entry(entry.index.0).or_insert((entry.term, entry.data.clone()));
                    assert_eq!(*seen, (entry.term, entry.data.clone()), "two logs differ at {}", entry.index);
                    let disk = &mut self.nodes.get_mut(&id).expect("a node of this world").disk;
                    assert_eq!(disk.applied.0.next(), entry.index, "entries are handed out in order");
                    disk.applied = (entry.index, entry.term);
                    disk.state.push((entry.index, entry.data));
                    if let Some(membership) = entry.membership {
                        disk.membership = membership;
                    }
                }
                let now = self.now;
                let node = self.nodes.get_mut(&id).expect("a node of this world");
                let index = node.disk.applied.0;
                node.replica.as_mut().expect("it just spoke").handle(now, Input::Applied { index });
            }
            Output::Leadership { term, leading: true, attach_grace, .. } => {
                self.trace_in(&format!("{id} leads {term}"));
                let other = self.seen.leaders.insert(term, (id, self.now, attach_grace));
                assert!(other.is_none(), "term {term} has two leaders");
                self.check_leases();
            }
            Output::LeaseConfirmed { ticket } => {
                let term = self.replica(id).status().term;
                let node = self.nodes.get_mut(&id).expect("a node of this world");
                let later = node.asked.split_off(&(ticket + 1));
                let covered = std::mem::replace(&mut node.asked, later);
                let newest = covered.values().max().expect("what is confirmed was asked for");
                self.seen.leases.push((*newest, term));
                self.check_leases();
            }
            Output::Leadership { leading: false, .. } => {
                self.nodes.get_mut(&id).expect("a node of this world").asked.clear();
            }
            Output::Proposed { token, index, .. } => {
                self.seen.proposed.insert(token, index);
            }
            Output::Dropped { token, .. } => {
                self.seen.dropped.insert(token);
            }
            Output::NeedSnapshot { from, .. } => self.fetch(id, from, LogIndex(0)),
            Output::Refill { from, through } => self.fetch(id, from, through),
            Output::Warning(sentence) => self.seen.warnings.push((id, sentence)),
            Output::Refused { reason, .. } => self.seen.refused.push(reason),
            Output::Fatal(reason) => panic!("{id}: {reason}"),
        }
    }

    /// R4-new-leader, R5-lease: a mount may use a lease until X after it asked. A leader of a later term completes
    /// nothing without that mount before its grace is over: that must not be earlier.
    fn check_leases(&self) {
        for (asked, term) in &self.seen.leases {
            for (later, (_, elected, grace)) in self.seen.leaders.range(Term(term.0 + 1)..) {
                assert!(
                    asked.after(TIMING.lease) <= elected.after(*grace),
                    "a lease of term {term} asked at {asked:?} outlives the wait of the leader of {later}, elected at {elected:?}"
                );
            }
        }
    }

    fn trace_in(&mut self, event: &str) {
        let hash = blake3::hash(format!("{} {:?} {event}", self.trace, self.now).as_bytes());
        self.trace = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
    }
}
