//! Mount cores against node cores, without a shell between them: three nodes with disks that sync after a moment, a
//! network that takes a millisecond, kernels that carry out notifications, all in virtual time and one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use manyfs::{
    limits::{Retention, SessionBounds, Timing},
    message::{
        log::LogEntry,
        mount::{ToLeader, ToMount},
        peer::PeerMessage,
    },
    mount::{self, Caller, Config, KernelFeatures, Mount, OpenFlags, Request, Response, StoreError, WriteFlags},
    namespace::{Founding, NewNode, NodeInfo, State, VolumeOptions},
    node::{self, Node, NodeConfig, event::Recovered},
    replica::Replica,
    types::{
        Access, BlockHash, ClusterId, ConnectionId, CredentialId, Errno, FoundingId, FoundingNumber, Grant, Ino,
        Instant, LogIndex, MountId, Name, NodeId, Space, Stamp, Term, VolumeId,
    },
};

/// Linux 6.1.
const OLD_KERNEL: KernelFeatures = KernelFeatures { inc_epoch: false, inval_entry: true };
const FOUNDING: FoundingId = FoundingId { cluster: ClusterId(9), number: FoundingNumber(1) };
const WAY: Duration = Duration::from_millis(1);
const SYNC: Duration = Duration::from_micros(500);
const KERNEL: Duration = Duration::from_micros(200);

/// What a node has on its disk.
#[derive(Clone, Default)]
struct Disk {
    hard_state: Option<Bytes>,
    membership: Bytes,
    rows: BTreeMap<Bytes, Bytes>,
    state: (LogIndex, Term),
    entries: Vec<LogEntry>,
    compacted: (LogIndex, Term),
    blocks: BTreeMap<BlockHash, Bytes>,
}

enum Event {
    Node(NodeId, node::event::Input),
    Peer { from: NodeId, to: NodeId, message: PeerMessage },
    Mount(usize, mount::Input),
    ToNode { mount: usize, connection: ConnectionId, message: ToLeader },
    ToMount { connection: ConnectionId, message: ToMount },
    Dial { mount: usize, connection: ConnectionId, address: String },
    CloseMount { connection: ConnectionId },
    StoreBlock { mount: usize, ticket: u64, store: NodeId, hash: BlockHash, bytes: Bytes },
    FetchBlock { mount: usize, ticket: u64, store: NodeId, hash: BlockHash },
}

struct Side {
    mount: Mount,
    /// The connection that stands, and the node at its other end.
    connection: Option<(ConnectionId, NodeId)>,
    answers: BTreeMap<u64, (Instant, Result<Response, Errno>)>,
    is_ready: bool,
    is_cut_off: bool,
}

struct World {
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, Disk>,
    sides: Vec<Side>,
    unique: u64,
}

/// A connection's number at the node's end, of which there is one per mount and connection.
fn far(mount: usize, connection: ConnectionId) -> ConnectionId {
    ConnectionId(mount as u64 * 1_000_000 + connection.0)
}

fn info(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        peer_address: format!("n{id}:7441"),
        client_address: format!("n{id}:7440"),
        level_max: 1,
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

impl World {
    fn new(nodes: u64, mounts: usize, kernel: KernelFeatures) -> Self {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let founding = Founding {
            id: FOUNDING,
            nodes: ids.iter().map(|id| info(id.0)).collect(),
            stamp: Stamp(1),
            main: VolumeOptions::default(),
        };
        let position = (LogIndex(1), Term(1));
        let disk = Disk {
            membership: Replica::membership_of(&ids),
            rows: State::found(&founding).rows().collect(),
            state: position,
            compacted: position,
            ..Disk::default()
        };
        let mut world = Self {
            now: Instant(1_000_000_000),
            events: BTreeMap::new(),
            scheduled: 0,
            nodes: BTreeMap::new(),
            disks: ids.iter().map(|id| (*id, disk.clone())).collect(),
            sides: Vec::new(),
            unique: 0,
        };
        for id in &ids {
            world.start(*id);
        }
        for number in 0..mounts {
            world.mount(number, kernel);
        }
        world.until("all mounts hold the lease", |world| {
            world.sides.iter().all(|side| side.is_ready && side.mount.status().lease_held)
        });
        world
    }

    fn start(&mut self, id: NodeId) {
        let config = NodeConfig {
            id,
            founding: FOUNDING,
            timing: Timing::DEFAULT,
            retention: Retention::DEFAULT,
            sessions: SessionBounds::DEFAULT,
            seed: id.0,
            nonce: 1,
            address: Some(info(id.0)),
        };
        let disk = &self.disks[&id];
        let recovered = Recovered {
            hard_state: disk.hard_state.clone(),
            membership: disk.membership.clone(),
            state: State::from_rows(disk.rows.clone()).expect("its own rows"),
            state_index: disk.state.0,
            state_term: disk.state.1,
            entries: disk.entries.clone(),
            compacted: disk.compacted,
        };
        let node = Node::open(self.now, config, recovered).expect("what it wrote itself");
        self.nodes.insert(id, node);
        self.tell_node(id, node::event::Input::Space(Space { total: 1 << 40, available: 1 << 39 }));
    }

    fn mount(&mut self, number: usize, kernel: KernelFeatures) {
        let servers = self.disks.keys().map(|id| format!("n{id}:7440")).collect();
        let config = Config { kernel, seed: number as u64, ..Config::new(servers, MountId(number as u128 + 1)) };
        let mount = Mount::new(self.now, config);
        self.sides.push(Side { mount, connection: None, answers: BTreeMap::new(), is_ready: false, is_cut_off: false });
        self.drain_mount(number);
    }

    fn kill(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        for number in 0..self.sides.len() {
            if self.sides[number].connection.is_some_and(|(_, node)| node == id) {
                self.break_connection(number);
            }
        }
    }

    fn break_connection(&mut self, number: usize) {
        if let Some((connection, node)) = self.sides[number].connection.take() {
            let gone = mount::Input::Disconnected { connection, reason: "reset".to_owned() };
            self.after(WAY, Event::Mount(number, gone));
            let closed = node::event::Input::MountClosed { connection: far(number, connection) };
            self.after(WAY, Event::Node(node, closed));
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| node.status().leader == Some(node.status().id);
        self.nodes.values().filter(leads).max_by_key(|node| node.status().term).map(|node| node.status().id)
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now.after(time), self.scheduled), event);
    }

    fn tell_node(&mut self, id: NodeId, input: node::event::Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.handle(self.now, node::event::Input::WallClock(1_700_000_000_000_000_000 + self.now.0));
        node.handle(self.now, input);
        while let Some(output) = self.nodes.get_mut(&id).and_then(Node::poll_output) {
            self.node_output(id, output);
        }
    }

    fn node_output(&mut self, id: NodeId, output: node::event::Output) {
        use node::event::{Input, Output};
        match output {
            Output::PersistLog(batch) => {
                let disk = self.disks.get_mut(&id).expect("each node has a disk");
                if batch.hard_state.is_some() {
                    disk.hard_state = batch.hard_state;
                }
                if let Some(position) = batch.reset {
                    disk.entries.clear();
                    disk.compacted = position;
                }
                for entry in batch.entries {
                    disk.entries.retain(|kept| kept.index < entry.index);
                    disk.entries.push(entry);
                }
                self.after(SYNC, Event::Node(id, Input::LogPersisted { number: batch.number }));
            }
            Output::PersistState(batch) => {
                let disk = self.disks.get_mut(&id).expect("each node has a disk");
                if batch.reset {
                    disk.rows.clear();
                }
                for row in batch.rows {
                    match row.value {
                        Some(value) => disk.rows.insert(row.key, value),
                        None => disk.rows.remove(&row.key),
                    };
                }
                disk.blocks.extend(batch.content);
                if let Some(membership) = batch.membership {
                    disk.membership = membership;
                }
                disk.state = (batch.index, batch.term);
                self.after(SYNC, Event::Node(id, Input::StatePersisted { index: batch.index }));
            }
            Output::CompactLog { through, term } => {
                let disk = self.disks.get_mut(&id).expect("each node has a disk");
                disk.entries.retain(|entry| entry.index > through);
                disk.compacted = (through, term);
            }
            Output::Peer { to, message } => self.after(WAY, Event::Peer { from: id, to, message }),
            Output::Mount { connection, message } => self.after(WAY, Event::ToMount { connection, message }),
            Output::CloseMount { connection } => self.after(WAY, Event::CloseMount { connection }),
            Output::Fatal(reason) => panic!("node {id}: {reason}"),
            _ => {}
        }
    }

    fn tell_mount(&mut self, number: usize, input: mount::Input) {
        self.sides[number].mount.handle(self.now, input);
        self.drain_mount(number);
    }

    fn drain_mount(&mut self, number: usize) {
        use mount::{Input, Output};
        while let Some(output) = self.sides[number].mount.poll_output() {
            match output {
                Output::Answer { unique, result } => {
                    let earlier = self.sides[number].answers.insert(unique, (self.now, result));
                    assert!(earlier.is_none(), "answered twice");
                }
                Output::Notify { ticket, .. } => self.after(KERNEL, Event::Mount(number, Input::Notified { ticket })),
                Output::Prepare { .. } => {}
                Output::Connect { connection, address } => {
                    if let Some((earlier, node)) = self.sides[number].connection.take() {
                        let closed = node::event::Input::MountClosed { connection: far(number, earlier) };
                        self.after(WAY, Event::Node(node, closed));
                    }
                    self.after(WAY, Event::Dial { mount: number, connection, address });
                }
                Output::Send { connection, message } => {
                    self.after(WAY, Event::ToNode { mount: number, connection, message });
                }
                Output::StoreBlock { ticket, store, hash, bytes, .. } => {
                    self.after(WAY, Event::StoreBlock { mount: number, ticket, store, hash, bytes });
                }
                Output::FetchBlock { ticket, store, hash, .. } => {
                    self.after(WAY, Event::FetchBlock { mount: number, ticket, store, hash });
                }
                Output::Ready => self.sides[number].is_ready = true,
                Output::Fatal(reason) | Output::Stale(reason) => panic!("mount {number}: {reason}"),
                Output::Notice(_) | Output::Stopped | Output::Watch { .. } | Output::Deadline(_) => {}
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Node(id, input) => self.tell_node(id, input),
            Event::Peer { from, to, message } if self.nodes.contains_key(&to) => {
                self.tell_node(to, node::event::Input::Peer { from, message });
            }
            Event::Peer { from, to, .. } => self.tell_node(from, node::event::Input::PeerLost { peer: to }),
            Event::Mount(number, input) => self.tell_mount(number, input),
            Event::ToNode { mount, connection, message } => {
                if let Some((_, node)) = self.sides[mount].connection.filter(|(stands, _)| *stands == connection) {
                    self.tell_node(node, node::event::Input::Mount { connection: far(mount, connection), message });
                }
            }
            Event::ToMount { connection, message } => {
                for number in 0..self.sides.len() {
                    if let Some((stands, _)) = self.sides[number].connection
                        && far(number, stands) == connection
                    {
                        let message = message.clone();
                        self.tell_mount(number, mount::Input::Message { connection: stands, message });
                    }
                }
            }
            Event::Dial { mount, connection, address } => {
                let node = self.nodes.keys().copied().find(|id| format!("n{id}:7440") == address);
                match node.filter(|_| !self.sides[mount].is_cut_off) {
                    Some(node) => {
                        self.sides[mount].connection = Some((connection, node));
                        let opened = node::event::Input::MountOpened {
                            connection: far(mount, connection),
                            grant: Grant {
                                founding: FOUNDING,
                                volume: VolumeId(1),
                                name: "main".to_owned(),
                                access: Access::ReadWrite,
                            },
                            credential: CredentialId(1),
                        };
                        self.tell_node(node, opened);
                        self.tell_mount(mount, mount::Input::Connected { connection });
                    }
                    None => {
                        let reason = "refused".to_owned();
                        self.tell_mount(mount, mount::Input::Disconnected { connection, reason });
                    }
                }
            }
            Event::CloseMount { connection } => {
                for number in 0..self.sides.len() {
                    if let Some((stands, _)) = self.sides[number].connection
                        && far(number, stands) == connection
                    {
                        self.sides[number].connection = None;
                        let gone = mount::Input::Disconnected { connection: stands, reason: "closed".to_owned() };
                        self.tell_mount(number, gone);
                    }
                }
            }
            Event::StoreBlock { mount, ticket, store, hash, bytes } => {
                let result = if self.nodes.contains_key(&store) {
                    self.disks.get_mut(&store).expect("a disk").blocks.insert(hash, bytes);
                    Ok(())
                } else {
                    Err(StoreError::Unreachable("down".to_owned()))
                };
                self.after(WAY, Event::Mount(mount, mount::Input::BlockStored { ticket, store, result }));
            }
            Event::FetchBlock { mount, ticket, store, hash } => {
                let result = if self.nodes.contains_key(&store) {
                    self.disks[&store].blocks.get(&hash).cloned().ok_or(StoreError::Missing)
                } else {
                    Err(StoreError::Unreachable("down".to_owned()))
                };
                self.after(WAY, Event::Mount(mount, mount::Input::BlockFetched { ticket, store, result }));
            }
        }
    }

    /// The next thing that happens.
    fn step(&mut self) {
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let nodes = self.nodes.iter().filter_map(|(id, node)| node.poll_timeout().map(|at| (at, *id))).min();
        let mounts = self.sides.iter().enumerate().filter_map(|(n, side)| Some((side.mount.poll_timeout()?, n))).min();
        let next = [event, nodes.map(|(at, _)| at), mounts.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(next) = next else { return };
        self.now = self.now.max(next);
        if let Some((at, id)) = nodes.filter(|(at, _)| *at <= self.now) {
            assert!(at <= self.now);
            self.tell_node(id, node::event::Input::Tick);
        }
        if let Some((_, number)) = mounts.filter(|(at, _)| *at <= self.now) {
            self.tell_mount(number, mount::Input::Tick);
        }
        while let Some(first) = self.events.first_entry().filter(|first| first.key().0 <= self.now) {
            let event = first.remove();
            self.happen(event);
        }
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = self.now;
        while !holds(self) {
            assert!(self.now.since(began) < Duration::from_secs(60), "{what} did not come about");
            self.step();
        }
        self.now.since(began)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.step();
        }
    }

    fn send(&mut self, number: usize, request: Request) -> u64 {
        self.unique += 1;
        let caller = Caller { uid: 33, gid: 33, pid: 1 };
        let unique = self.unique;
        self.tell_mount(number, mount::Input::Request { unique, caller, request });
        unique
    }

    fn answer(&self, number: usize, unique: u64) -> Option<Result<Response, Errno>> {
        self.sides[number].answers.get(&unique).map(|(_, answer)| answer.clone())
    }

    fn call(&mut self, number: usize, request: Request) -> Result<Response, Errno> {
        let what = format!("an answer to {request:?}");
        let unique = self.send(number, request);
        self.until(&what, |world| world.sides[number].answers.contains_key(&unique));
        self.answer(number, unique).expect("it was waited for")
    }

    fn lookup(&mut self, number: usize, text: &str) -> Option<Ino> {
        match self.call(number, Request::Lookup { parent: Ino::ROOT, name: name(text) }) {
            Ok(Response::Entry { attributes, .. }) => Some(attributes.ino),
            Ok(Response::Missing { .. }) => None,
            other => panic!("lookup: {other:?}"),
        }
    }

    fn file(&mut self, number: usize, text: &str, content: &[u8]) -> Ino {
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let created =
            self.call(number, Request::Create { parent: Ino::ROOT, name: name(text), mode: 0o644, umask: 0, flags });
        let Ok(Response::Created { attributes, opened, .. }) = created else { panic!("create: {created:?}") };
        let (ino, fh) = (attributes.ino, opened.fh);
        for (at, part) in content.chunks(1 << 20).enumerate() {
            let data = Bytes::copy_from_slice(part);
            let write = Request::Write { ino, fh, offset: (at as u64) << 20, data, flags: WriteFlags::default() };
            assert!(self.call(number, write).is_ok());
        }
        assert_eq!(self.call(number, Request::Flush { ino, fh, owner: 0 }), Ok(Response::Done));
        assert_eq!(self.call(number, Request::Release { ino, fh }), Ok(Response::Done));
        ino
    }

    fn read(&mut self, number: usize, ino: Ino, offset: u64, length: u32) -> Vec<u8> {
        match self.call(number, Request::Read { ino, fh: 0, offset, length }) {
            Ok(Response::Data(parts)) => parts.concat(),
            other => panic!("read: {other:?}"),
        }
    }

    fn mkdir_request(text: &str) -> Request {
        Request::Make { parent: Ino::ROOT, name: name(text), node: NewNode::Directory, mode: 0o755, umask: 0 }
    }

    /// Every mount has the same tree as the leader.
    fn assert_in_step(&mut self) {
        self.pass(Duration::from_secs(2));
        let leader = self.leader().expect("a leader");
        let digest = self.nodes[&leader].state().volume_named("main").expect("it is made with the cluster").digest();
        for side in &self.sides {
            assert_eq!(side.mount.status().digest, digest);
            assert_eq!(side.mount.status().calls_unanswered, 0);
            assert_eq!(side.mount.status().invalidations_running, 0);
            assert!(side.mount.status().lease_held);
        }
    }
}

#[test]
fn a_file_written_through_one_mount_is_read_through_the_other() {
    let mut world = World::new(3, 2, OLD_KERNEL);
    let small = world.file(0, "small", b"hello");
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 11) as u8).collect();
    let large = world.file(0, "large", &content);
    assert_eq!(world.lookup(1, "small"), Some(small));
    assert_eq!(world.lookup(1, "large"), Some(large));
    assert_eq!(world.read(1, small, 0, 100), b"hello");
    assert_eq!(world.read(1, large, 2_000_000, 1 << 20), content[2_000_000..]);
    world.assert_in_step();
}

#[test]
fn both_mounts_change_one_directory_for_a_while() {
    for inc_epoch in [false, true] {
        let mut world = World::new(3, 2, KernelFeatures { inc_epoch, inval_entry: true });
        let began = world.now;
        for round in 0..50 {
            let sent: Vec<u64> =
                (0..2).map(|side| world.send(side, World::mkdir_request(&format!("{side}-{round}")))).collect();
            world.until("both answers", |world| (0..2).all(|side| world.answer(side, sent[side]).is_some()));
            for (side, unique) in sent.iter().enumerate() {
                assert!(matches!(world.answer(side, *unique), Some(Ok(Response::Entry { .. }))));
            }
        }
        let each = world.now.since(began) / 50;
        assert!(each < Duration::from_millis(20), "a round took {each:?}");
        world.assert_in_step();
    }
}

#[test]
fn the_leader_dies_and_no_call_fails_or_is_done_twice() {
    let mut world = World::new(3, 2, OLD_KERNEL);
    let mut longest = Duration::ZERO;
    for round in 0..60 {
        if round == 20 {
            let leader = world.leader().expect("a leader");
            // In the middle of a call.
            let unique = world.send(0, World::mkdir_request("in-flight"));
            world.pass(Duration::from_micros(2_500));
            world.kill(leader);
            world.until("the call in flight is answered", |world| world.answer(0, unique).is_some());
            assert!(matches!(world.answer(0, unique), Some(Ok(Response::Entry { .. }))));
        }
        for side in 0..2 {
            let began = world.now;
            let text = format!("{side}-{round}");
            let made = world.call(side, World::mkdir_request(&text));
            assert!(matches!(made, Ok(Response::Entry { .. })), "{made:?}");
            longest = longest.max(world.now.since(began));
            assert!(world.lookup(1 - side, &text).is_some(), "what has returned on one is seen on the other");
        }
    }
    assert!(longest < Duration::from_secs(2), "writes paused for {longest:?}");
    for side in &world.sides {
        assert_eq!(side.mount.status().counters.leases_lost, 0, "healthy mounts keep their caches over a failover");
    }
    world.assert_in_step();
}

#[test]
fn writes_pause_for_less_than_two_seconds_wherever_the_kill_falls() {
    let mut worst = Duration::ZERO;
    for moment in 0..12 {
        let mut world = World::new(3, 2, OLD_KERNEL);
        world.pass(Duration::from_millis(17 * moment));
        let leader = world.leader().expect("a leader");
        world.kill(leader);
        let began = world.now;
        assert!(world.call(0, World::mkdir_request("d")).is_ok());
        worst = worst.max(world.now.since(began));
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
}

#[test]
fn without_a_quorum_reads_go_on_and_writes_fail_in_the_end_and_go_on_by_themselves() {
    let mut world = World::new(3, 2, OLD_KERNEL);
    let file = world.file(0, "a", b"content");
    assert_eq!(world.lookup(1, "a"), Some(file));
    assert_eq!(world.read(1, file, 0, 10), b"content");
    for id in [1, 2] {
        world.kill(NodeId(id));
    }
    world.pass(Duration::from_secs(3));
    assert_eq!(world.read(1, file, 0, 10), b"content");
    let began = world.now;
    assert_eq!(world.call(0, World::mkdir_request("lost")), Err(Errno::EIO));
    assert!(world.now.since(began) >= Timing::DEFAULT.write_timeout);
    let waiting = world.send(1, World::mkdir_request("waits"));
    for id in [1, 2] {
        world.start(NodeId(id));
    }
    world.until("the cluster goes on", |world| world.answer(1, waiting).is_some());
    assert!(matches!(world.answer(1, waiting), Some(Ok(Response::Entry { .. }))));
    world.assert_in_step();
    assert_eq!(world.lookup(1, "a"), Some(file));
}

#[test]
fn a_mount_that_comes_late_or_was_away_catches_up() {
    let mut world = World::new(3, 2, OLD_KERNEL);
    world.sides[1].is_cut_off = true;
    world.break_connection(1);
    for number in 0..300 {
        assert!(world.call(0, World::mkdir_request(&format!("d{number}"))).is_ok());
    }
    world.mount(2, OLD_KERNEL);
    world.sides[1].is_cut_off = false;
    world.until("all are ready", |world| world.sides.iter().all(|side| side.mount.status().lease_held));
    for side in [1, 2] {
        assert!(world.lookup(side, "d299").is_some());
    }
    world.assert_in_step();
}

#[test]
fn a_stopped_mount_delays_others_by_a_lease_once() {
    let mut world = World::new(3, 2, OLD_KERNEL);
    world.lookup(1, "d0");
    // Its connection stands, but nothing that arrives is heeded and nothing is sent.
    let stopped = world.sides[1].connection.take();
    assert!(stopped.is_some());
    world.sides[1].is_cut_off = true;
    let began = world.now;
    assert!(world.call(0, World::mkdir_request("d0")).is_ok());
    let first = world.now.since(began);
    assert!(first < Timing::DEFAULT.lease + Duration::from_millis(200), "{first:?}");
    let began = world.now;
    assert!(world.call(0, World::mkdir_request("d1")).is_ok());
    assert!(world.now.since(began) < Duration::from_millis(50), "only once");
}

#[test]
fn orphans_live_while_they_are_open_and_go_afterwards() {
    let mut world = World::new(3, 2, OLD_KERNEL);
    let file = world.file(0, "a", b"still here");
    assert_eq!(world.lookup(1, "a"), Some(file));
    let Ok(Response::Opened(opened)) = world.call(1, Request::Open { ino: file, flags: OpenFlags::default() }) else {
        panic!("it does not open")
    };
    assert_eq!(world.call(0, Request::Unlink { parent: Ino::ROOT, name: name("a") }), Ok(Response::Done));
    world.pass(Duration::from_secs(5));
    let leader = world.leader().expect("a leader");
    world.kill(leader);
    world.pass(Duration::from_secs(8));
    assert_eq!(world.read(1, file, 0, 100), b"still here");
    assert_eq!(world.call(1, Request::Release { ino: file, fh: opened.fh }), Ok(Response::Done));
    for side in [0, 1] {
        world.send(side, Request::Forget { inodes: vec![(file, u64::MAX)] });
    }
    world.pass(Duration::from_secs(5));
    assert_eq!(world.call(1, Request::Getattr { ino: file, for_read: false }), Err(Errno::ENOENT));
    let kept: BTreeSet<Ino> = {
        let leader = world.leader().expect("a leader");
        let volume = world.nodes[&leader].state().volume_named("main").expect("there");
        volume.orphans().map(|(ino, _)| ino).collect()
    };
    assert!(kept.is_empty(), "{kept:?}");
}
