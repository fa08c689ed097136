//! Disks that go back to what they were: restored from a copy, or copied and begun beside the original
//! (docs/protocol.md R71-forgetful).
//!
//! Such a node counts as one of the few that may fail at a time: while it is not back, nothing happens to the others.

use std::time::Duration;

use super::{EPOCH, Event, World};
use crate::{
    message::peer::{PeerMessage, Recollection, Verdict},
    node::{Input, Node, NodeConfig, Output},
    replica::Standing,
    sim::{disk::Disk, host::NodeHost, options::Breach},
    types::{Instant, NodeId},
};

/// Before a disk goes back, everyone must have been well for so long. What one node acknowledges, all others hear of
/// with the next heartbeat.
const QUIET: Duration = Duration::from_secs(1);
/// What a broken R71-forgetful adds to a boot for each life, so that every hello seems to be a newer one.
const BOOTS: u64 = 1000;

/// A second process of a node, on a disk of its own. It reaches the others as the first does; what they send to the
/// node may come to both.
#[derive(Debug)]
pub(super) struct Twin {
    node: NodeId,
    life: u64,
    core: Node,
    disk: Disk,
    wake: Option<Instant>,
}

impl World {
    /// The disk of a node that was copied goes back to the copy.
    pub(super) fn restore(&mut self, victim: NodeId) {
        let Some((id, copy)) = self.copied(victim) else { return };
        self.report.restores += 1;
        self.crash_node(id);
        if let Some(host) = self.nodes.get_mut(&id) {
            host.disk.restore(copy);
        }
        self.gone_back = Some(id);
        let time = self.dice.micros(10_000, 1_500_000);
        self.after(time, Event::NodeStart(id));
    }

    /// The copy is begun beside the node that it is of, for a while.
    pub(super) fn begin_twin(&mut self, victim: NodeId) {
        let Some((node, disk)) = self.copied(victim) else { return };
        self.report.twins += 1;
        let life = self.report.twins;
        let recovered = disk.recover().expect("what a store wrote can be read");
        let config = NodeConfig {
            id: node,
            founding: self.founding.id,
            timing: self.options.timing,
            retention: self.options.retention,
            sessions: self.options.sessions,
            seed: 7 + node.0,
            nonce: u64::MAX - life,
            address: None,
        };
        let core = Node::open(self.now, config, recovered).expect("what a store wrote can be opened");
        self.twin = Some(Twin { node, life, core, disk, wake: None });
        self.tell_twin(Input::Tick);
        let time = self.dice.micros(500_000, 4_000_000);
        self.after(time, Event::TwinEnds(life));
    }

    /// An older disk, where there is one and everyone is well; otherwise one is copied for the next time.
    fn copied(&mut self, victim: NodeId) -> Option<(NodeId, Disk)> {
        if !self.is_well() {
            return None;
        }
        let copy = self.backup.take();
        if copy.is_none() {
            self.backup = self.nodes.get(&victim).map(|host| (victim, host.disk.clone()));
        }
        copy
    }

    fn is_well(&self) -> bool {
        let takes_part = |core: &Node| core.standing() == Standing::TakesPart;
        let is_up = |host: &NodeHost| {
            let is_long_up = self.now.since(host.started) >= QUIET && !host.is_stopping;
            is_long_up && host.core.as_ref().is_some_and(takes_part)
        };
        !self.network.is_cut() && self.nodes.values().all(is_up)
    }

    /// Whether a disk went back and its node is not well yet, or runs twice.
    pub(super) fn is_short_of_a_node(&mut self) -> bool {
        if let Some(host) = self.gone_back.and_then(|id| self.nodes.get(&id)) {
            let is_back = host.core.as_ref().is_some_and(|core| core.standing() == Standing::TakesPart);
            if is_back && self.now.since(host.started) >= QUIET {
                self.gone_back = None;
            }
        }
        self.gone_back.is_some() || self.twin.is_some()
    }

    /// What is sent to the node reaches its second process too, now and then.
    pub(super) fn reach_twin(&mut self, from: NodeId, to: NodeId, message: &PeerMessage) {
        if self.twin.as_ref().is_some_and(|twin| twin.node == to) && self.dice.chance(700) {
            self.tell_twin(Input::Peer { from, message: message.clone() });
        }
    }

    pub(super) fn twin_woke(&mut self, life: u64) {
        let now = self.now;
        if let Some(twin) = self.twin.as_mut().filter(|twin| twin.life == life && twin.wake == Some(now)) {
            twin.wake = None;
            self.tell_twin(Input::Tick);
        }
    }

    pub(super) fn end_twin(&mut self, life: u64) {
        if self.twin.as_ref().is_some_and(|twin| twin.life == life) {
            self.twin = None;
        }
    }

    /// Its disk is done at once; of what it tells, peers alone hear.
    fn tell_twin(&mut self, input: Input) {
        let now = self.now;
        let Some(twin) = &mut self.twin else { return };
        twin.core.handle(now, Input::WallClock(EPOCH + now.0));
        twin.core.handle(now, input);
        let (node, life) = (twin.node, twin.life);
        let mut sent = Vec::new();
        while let Some(output) = twin.core.poll_output() {
            match output {
                Output::PersistLog(batch) => {
                    let number = batch.number;
                    twin.disk.write_log(batch);
                    if let Some(number) = twin.disk.sync_log(number) {
                        twin.core.handle(now, Input::LogPersisted { number });
                    }
                }
                Output::PersistState(batch) => {
                    twin.disk.write_state(batch);
                    let index = twin.disk.sync_state();
                    twin.core.handle(now, Input::StatePersisted { index });
                    if let Some(number) = twin.disk.sync_log(0) {
                        twin.core.handle(now, Input::LogPersisted { number });
                    }
                }
                Output::CompactLog { through, term } => twin.disk.compact(through, term),
                Output::Peer { to, message } => sent.push((to, message)),
                Output::Stopped | Output::Fatal(_) => return self.twin = None,
                _ => {}
            }
        }
        let wake = twin.core.poll_timeout().map(|at| at.max(Instant(now.0 + 1)));
        let is_new = wake != twin.wake;
        twin.wake = wake;
        if let Some(wake) = wake.filter(|_| is_new) {
            self.at(wake, Event::TwinWake(life));
        }
        for (to, message) in sent {
            self.send_peer(node, to, message);
        }
    }

    /// With R71-forgetful switched off everyone seems to begin with all that it ever promised.
    pub(super) fn break_greeting(&mut self, from: NodeId, to: NodeId, message: &mut PeerMessage) {
        if self.options.breach != Some(Breach::Forgetting) {
            return;
        }
        let boots = |id: NodeId| BOOTS * self.nodes.get(&id).map_or(0, |host| host.life);
        match message {
            PeerMessage::Hello { hello, .. } => {
                hello.life.boot += boots(from);
                hello.recollection = Recollection::Refilled;
            }
            PeerMessage::Greeting(greeting) => {
                greeting.life.boot = greeting.life.boot.saturating_sub(boots(to));
                greeting.by.boot += boots(from);
                greeting.verdict = Verdict::Welcome;
            }
            PeerMessage::Heartbeat { marks, alive, .. } => {
                marks.clear();
                alive.clear();
            }
            _ => {}
        }
    }
}
