//! What a server does around a storage node's core: disk, peers, connections of mounts.

use std::{collections::BTreeMap, hash::Hash, time::Duration};

use super::{DEVICE_BYTES, Event, World};
use crate::{
    message::{
        log::{LogBatch, StateBatch},
        mount::{ToLeader, ToMount},
        peer::PeerMessage,
    },
    node::{Input, Node, NodeConfig, Output},
    replica::{self, Replica, Standing},
    sim::{
        disk::Disk,
        host::{Link, NodeHost},
        network::{Place, Stream},
        options::{Breach, Fault},
    },
    types::{ConnectionId, CredentialId, Instant, LogIndex, NodeId, Space, VolumeId},
};

/// The volume that every mount shows.
pub(super) const VOLUME: VolumeId = VolumeId(1);
/// The credential that every mount has, as pods of one site do.
pub(super) const CREDENTIAL: CredentialId = CredentialId(1);

impl World {
    pub(super) fn found(&mut self) {
        let voters: Vec<NodeId> = self.founding.nodes.iter().map(|node| node.id).collect();
        let membership = Replica::membership_of(&voters);
        for id in voters {
            let host = NodeHost {
                core: None,
                clock: self.new_clock(),
                life: 0,
                disk: Disk::found(&self.founding, membership.clone(), self.options.breach != Some(Breach::Marks)),
                wake: None,
                log: BTreeMap::new(),
                applied: LogIndex(1),
                state_sync_due: false,
                skew: self.dice.roll(50_000_000),
                set_ahead: 0,
                slowness: 1,
                is_full: false,
                space_told: self.now,
                connections: BTreeMap::new(),
                last_connection: 0,
                is_stopping: false,
                started: self.now,
                is_forgetful: false,
            };
            self.nodes.insert(id, host);
            let time = self.dice.micros(0, 300_000);
            self.after(time, Event::NodeStart(id));
        }
        for _ in 0..self.options.mounts {
            self.add_mount();
        }
    }

    pub(super) fn start_node(&mut self, id: NodeId) {
        let Some(host) = self.nodes.get_mut(&id).filter(|host| host.core.is_none()) else { return };
        host.life += 1;
        let recovered = host.disk.recover().expect("what a store wrote can be read");
        host.applied = recovered.state_index;
        host.log = host.disk.entries().map(|entry| (entry.index, entry.clone())).collect();
        let (founding, address) = (self.founding.id, None);
        let (mut timing, retention, sessions) = (self.options.timing, self.options.retention, self.options.sessions);
        if self.options.breach == Some(Breach::Holds) {
            (timing.hold, timing.session) = (Duration::from_secs(3600), Duration::from_secs(3600));
        }
        if self.options.breach == Some(Breach::Waiting) {
            timing.lease = timing.election + timing.heartbeat;
        }
        let nonce = host.life;
        let config = NodeConfig { id, founding, timing, retention, sessions, seed: 7 + id.0, nonce, address };
        host.core =
            Some(Node::open(host.clock.at(self.now), config, recovered).expect("what a store wrote can be opened"));
        (host.is_stopping, host.wake, host.state_sync_due) = (false, None, false);
        (host.started, host.is_forgetful) = (self.now, false);
        host.connections.clear();
        self.tell_space(id);
    }

    pub(super) fn set_full(&mut self, id: NodeId, is_full: bool) {
        if let Some(host) = self.nodes.get_mut(&id) {
            host.is_full = is_full;
            self.tell_space(id);
        }
    }

    /// The node's wall clock is set to what is right, and so much more.
    pub(super) fn set_clock(&mut self, id: NodeId, ahead: i64) {
        if let Some(host) = self.nodes.get_mut(&id).filter(|host| host.set_ahead != ahead) {
            host.set_ahead = ahead;
            self.tell_node(id, Input::Tick);
        }
    }

    fn tell_space(&mut self, id: NodeId) {
        let Some(host) = self.nodes.get_mut(&id) else { return };
        host.space_told = self.now;
        let is_full = host.is_full;
        let mut free = DEVICE_BYTES.saturating_sub(host.disk.content_bytes());
        if self.options.breach == Some(Breach::Devices) {
            free *= 2;
        }
        let available = if is_full { 0 } else { free };
        self.tell_node(id, Input::Space(Space { total: DEVICE_BYTES, available }));
        if is_full || self.options.faults.contains(&Fault::FullDisk) {
            self.tell_node(id, Input::ShortOfSpace(is_full));
        }
    }

    /// The process ends: what it had not synced may be lost, its streams break.
    pub(super) fn crash_node(&mut self, id: NodeId) {
        let mut dice = self.dice.split();
        let Some(host) = self.nodes.get_mut(&id).filter(|host| host.core.is_some()) else { return };
        host.core = None;
        host.life += 1;
        self.report.torn_writes += u64::from(host.disk.crash(&mut dice));
        let links: Vec<u64> = host.connections.values().copied().collect();
        for link in links {
            self.break_link(link);
        }
        for peer in self.ids() {
            if peer != id {
                self.break_peers(id, peer);
            }
        }
    }

    pub(super) fn tell_node(&mut self, id: NodeId, input: Input) {
        let Some(host) = self.nodes.get_mut(&id) else { return };
        let (now, wall_clock) = (host.clock.at(self.now), host.wall_clock(self.now));
        let Some(core) = &mut host.core else { return };
        core.handle(now, Input::WallClock(wall_clock));
        core.handle(now, input);
        self.drain_node(id);
    }

    fn drain_node(&mut self, id: NodeId) {
        let before = self.nodes.get(&id).map(|host| host.applied);
        loop {
            let Some(core) = self.nodes.get_mut(&id).and_then(|host| host.core.as_mut()) else { return };
            let Some(output) = core.poll_output() else { break };
            self.carry_out_node(id, output);
        }
        let Some(host) = self.nodes.get_mut(&id) else { return };
        let Some(core) = &host.core else { return };
        let is_forgetful = core.standing() == Standing::Forgetful;
        self.report.forgetful += u64::from(is_forgetful && !host.is_forgetful);
        host.is_forgetful = is_forgetful;
        if before != Some(host.applied) {
            let status = core.status();
            self.oracle.check_node(id, status.applied, status.digest);
            (status.applied, status.digest).hash(&mut self.trace);
        }
        let wake = core.poll_timeout().map(|at| host.clock.when(at).max(Instant(self.now.0 + 1)));
        if wake != host.wake {
            host.wake = wake;
            let life = host.life;
            if let Some(wake) = wake {
                self.at(wake, Event::NodeWake { node: id, life });
            }
        }
    }

    pub(super) fn node_woke(&mut self, id: NodeId, life: u64) {
        let now = self.now;
        let Some(host) = self.nodes.get_mut(&id) else { return };
        if host.life == life && host.wake == Some(now) {
            host.wake = None;
            self.tell_node(id, Input::Tick);
        }
        self.look_at_device(id);
    }

    /// A server looks at its device now and then.
    fn look_at_device(&mut self, id: NodeId) {
        let is_due = |host: &NodeHost| self.now >= host.space_told.after(10 * self.options.timing.heartbeat);
        if self.options.reserves > 0 && self.nodes.get(&id).is_some_and(is_due) {
            self.tell_space(id);
        }
    }

    fn carry_out_node(&mut self, id: NodeId, output: Output) {
        match output {
            Output::PersistLog(batch) => self.persist_log(id, batch),
            Output::PersistState(batch) => self.persist_state(id, batch),
            Output::CompactLog { through, term } => {
                if let Some(host) = self.nodes.get_mut(&id) {
                    host.disk.compact(through, term);
                }
            }
            Output::Peer { to, message } => self.send_peer(id, to, message),
            Output::PeerAddress(_) => {}
            Output::Mount { connection, message } => {
                self.check_durable(&message);
                let link = self.nodes.get(&id).and_then(|host| host.connections.get(&connection)).copied();
                if let Some(link) = link {
                    let at = self.network.arrival(self.now, Stream::ToMount { connection: link });
                    self.make_up_acknowledgement(link, &message);
                    self.at(at, Event::ToMount { link, message: Box::new(message) });
                }
            }
            Output::CloseMount { connection } => self.node_closed(id, connection),
            Output::Admin { .. } | Output::Notice(_) | Output::Warning(_) => {}
            Output::Leadership { leader, term } => {
                (id, leader, term).hash(&mut self.trace);
                self.report.elections += u64::from(leader == Some(id));
            }
            Output::Stopped => self.node_stopped(id),
            Output::Fatal(reason) => panic!("node {id} cannot go on: {reason}"),
        }
    }

    fn persist_log(&mut self, id: NodeId, batch: LogBatch) {
        let (low, high) = self.options.sync;
        let time = self.dice.micros(low, high);
        let Some(host) = self.nodes.get_mut(&id) else { return };
        if batch.reset.is_some() {
            host.log.clear();
        }
        if let Some(first) = batch.entries.first() {
            host.log.split_off(&first.index);
            host.log.extend(batch.entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        let (life, number, time) = (host.life, batch.number, time * host.slowness);
        host.disk.write_log(batch);
        self.after(time, Event::LogSynced { node: id, life, number });
        if self.options.breach == Some(Breach::Sync) {
            self.after(Duration::ZERO, Event::LogClaimed { node: id, life, number });
        }
    }

    /// The node is told that its log is synced, whether or not.
    pub(super) fn log_claimed(&mut self, id: NodeId, life: u64, number: u64) {
        if self.nodes.get(&id).is_some_and(|host| host.life == life) {
            self.tell_node(id, Input::LogPersisted { number });
        }
    }

    pub(super) fn log_synced(&mut self, id: NodeId, life: u64, number: u64) {
        let Some(host) = self.nodes.get_mut(&id).filter(|host| host.life == life) else { return };
        if let Some(number) = host.disk.sync_log(number) {
            self.tell_node(id, Input::LogPersisted { number });
        }
    }

    fn persist_state(&mut self, id: NodeId, batch: StateBatch) {
        let time = self.dice.micros(5_000, 300_000);
        let Some(host) = self.nodes.get_mut(&id) else { return };
        let first = if batch.reset { batch.index.next() } else { host.applied.next() };
        for index in first.0..=batch.index.0 {
            let entry = host.log.get(&LogIndex(index)).expect("a node applies what stands in its log");
            let data = replica::proposed_by(&entry.bytes).expect("raft's own entries can be read");
            self.oracle.committed(self.now, entry.index, entry.term, &data);
            if let Some(tell) = self.tell {
                tell(&format!("    node {id} applies {index}: {:?}", crate::namespace::Entry::decode(&data)));
            }
        }
        host.applied = batch.index;
        self.report.snapshots += u64::from(batch.reset);
        host.disk.write_state(batch);
        if !host.state_sync_due {
            host.state_sync_due = true;
            let life = host.life;
            self.after(time, Event::StateSynced { node: id, life });
        }
    }

    pub(super) fn state_synced(&mut self, id: NodeId, life: u64) {
        let Some(host) = self.nodes.get_mut(&id).filter(|host| host.life == life) else { return };
        host.state_sync_due = false;
        let index = host.disk.sync_state();
        // A reset of the log waited for it.
        let number = host.disk.sync_log(0);
        self.tell_node(id, Input::StatePersisted { index });
        if let Some(number) = number {
            self.tell_node(id, Input::LogPersisted { number });
        }
    }

    /// What a leader tells a mount as done is synced by a majority.
    fn check_durable(&self, message: &ToMount) {
        let ToMount::Answer { index, .. } = message else { return };
        if let Some(term) = self.oracle.term_of(*index) {
            // A disk that went back had it.
            let keeps = |id: &NodeId, host: &NodeHost| host.disk.keeps(*index, term) || self.gone_back == Some(*id);
            let keepers = self.nodes.iter().filter(|(id, host)| keeps(id, host)).count();
            assert!(keepers * 2 > self.nodes.len(), "durability: entry {index} is acknowledged and on {keepers} disks");
        }
    }

    pub(super) fn send_peer(&mut self, from: NodeId, to: NodeId, mut message: PeerMessage) {
        if !self.nodes.contains_key(&to) {
            return;
        }
        if let (Some(Breach::Leases), PeerMessage::HandOver { leased, .. }) = (self.options.breach, &mut message) {
            leased.clear();
        }
        if let (Some(Breach::WallClocks), PeerMessage::HeartbeatAcknowledged { wall_clock, .. }) =
            (self.options.breach, &mut message)
        {
            *wall_clock = self.nodes.get(&to).map(|host| host.wall_clock(self.now));
        }
        let generation = self.network.generation(from, to);
        let at = self.network.arrival(self.now, Stream::Peers { from, to });
        self.at(at, Event::Peer { from, to, generation, message });
    }

    pub(super) fn peer_arrived(&mut self, from: NodeId, to: NodeId, generation: u64, mut message: PeerMessage) {
        if generation != self.network.generation(from, to) {
            // Of a stream that broke: lost, or late, and then perhaps twice.
            if !self.network.is_late() {
                return;
            }
            if self.dice.chance(300) {
                let time = self.dice.micros(0, 500_000);
                self.after(time, Event::Peer { from, to, generation, message: message.clone() });
            }
        }
        let is_down = self.nodes.get(&to).is_none_or(|host| host.core.is_none());
        if is_down || !self.network.reaches(Place::Node(from), Place::Node(to)) {
            self.lose_peer(from, to);
            return;
        }
        self.break_greeting(from, to, &mut message);
        self.reach_twin(from, to, &message);
        if let PeerMessage::Raft(bytes) = &message {
            bytes.hash(&mut self.trace);
        }
        self.tell_node(to, Input::Peer { from, message });
    }

    /// The sender learns, a little later, that what it sent did not come through.
    fn lose_peer(&mut self, from: NodeId, to: NodeId) {
        let time = self.dice.micros(1_000, 200_000);
        let Some(life) = self.nodes.get(&from).map(|host| host.life) else { return };
        self.after(time, Event::PeerLost { node: from, life, peer: to });
    }

    pub(super) fn break_peers(&mut self, one: NodeId, other: NodeId) {
        self.network.break_peers(one, other);
        self.lose_peer(one, other);
        self.lose_peer(other, one);
    }

    pub(super) fn peer_lost(&mut self, id: NodeId, life: u64, peer: NodeId) {
        if self.nodes.get(&id).is_some_and(|host| host.life == life) {
            self.tell_node(id, Input::PeerLost { peer });
        }
    }

    /// A mount's dial has come through to the node.
    pub(super) fn open_link(&mut self, mount: usize, mount_connection: ConnectionId, id: NodeId) -> Option<u64> {
        let mount_life = self.mounts[mount].life;
        let host = self.nodes.get_mut(&id)?;
        host.core.as_ref()?;
        host.last_connection += 1;
        let node_connection = ConnectionId(host.last_connection);
        let link = self.links.len() as u64 + 1;
        host.connections.insert(node_connection, link);
        let node_life = host.life;
        self.links.insert(
            link,
            Link { mount, mount_life, mount_connection, node: id, node_life, node_connection, is_open: true },
        );
        let grant = self.grant();
        self.tell_node(id, Input::MountOpened { connection: node_connection, grant, credential: CREDENTIAL });
        Some(link)
    }

    pub(super) fn reach_node(&mut self, number: u64, mut message: ToLeader) {
        let Some(link) = self.links.get(&number).copied().filter(|link| link.is_open) else { return };
        if !self.network.reaches(Place::Mount(link.mount), Place::Node(link.node)) {
            self.break_link(number);
            return;
        }
        std::mem::discriminant(&message).hash(&mut self.trace);
        self.break_for_node(number, link, &mut message);
        let input = Input::Mount { connection: link.node_connection, message };
        if !self.is_strangers(link, input.clone()) {
            self.tell_node(link.node, input);
        }
    }

    /// The connection ends for both, and each learns it in its own time.
    pub(super) fn break_link(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number).filter(|link| link.is_open) else { return };
        link.is_open = false;
        let link = *link;
        let (at_node, at_mount) = (self.dice.micros(100, 400_000), self.dice.micros(100, 400_000));
        self.after(at_node, Event::ClosedAtNode { link: number });
        let closed =
            Event::ClosedAtMount { mount: link.mount, life: link.mount_life, connection: link.mount_connection };
        self.after(at_mount, closed);
    }

    pub(super) fn closed_at_node(&mut self, number: u64) {
        let Some(link) = self.links.get(&number).copied() else { return };
        if self.is_strangers(link, Input::MountClosed { connection: link.node_connection }) {
            return;
        }
        let Some(host) = self.nodes.get_mut(&link.node).filter(|host| host.life == link.node_life) else { return };
        if host.connections.remove(&link.node_connection).is_some() {
            self.tell_node(link.node, Input::MountClosed { connection: link.node_connection });
        }
    }

    /// The node ends a connection behind what it sent on it.
    fn node_closed(&mut self, id: NodeId, connection: ConnectionId) {
        let Some(number) = self.nodes.get_mut(&id).and_then(|host| host.connections.remove(&connection)) else {
            return;
        };
        let Some(link) = self.links.get(&number).copied() else { return };
        let at = self.network.arrival(self.now, Stream::ToMount { connection: number });
        let closed =
            Event::ClosedAtMount { mount: link.mount, life: link.mount_life, connection: link.mount_connection };
        self.at(at, closed);
    }

    fn node_stopped(&mut self, id: NodeId) {
        if self.nodes.get(&id).is_some_and(|host| host.is_stopping) {
            self.crash_node(id);
            let time = Duration::from_millis(50 + self.dice.roll(1500));
            self.after(time, Event::NodeStart(id));
        }
    }
}
