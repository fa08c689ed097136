//! A second founding with the authority of the first: its one node answers at the last node's address now and then, as one
//! does whose disk was lost and that was founded anew.

use std::collections::BTreeMap;

use super::{EPOCH, Event, World, node_info};
use crate::{
    node::{Input, Node, NodeConfig, Output},
    replica::Replica,
    sim::{dice::Dice, disk::Disk, host::Link, network::Stream, options::Breach},
    types::{Access, ConnectionId, FoundingId, FoundingNumber, Grant, Instant, NodeId, Space},
};

/// What links call it; its own number is 1.
const STRANGER: NodeId = NodeId(u64::MAX);

/// It never fails, and what it writes is synced at once.
#[derive(Debug)]
pub(super) struct Stranger {
    core: Node,
    wake: Option<Instant>,
    /// Connections of mounts: its own number, and the world's.
    connections: BTreeMap<ConnectionId, u64>,
    last_connection: u64,
    dice: Dice,
}

impl World {
    pub(super) fn found_stranger(&mut self, dice: Dice) {
        if self.options.strangers == 0 {
            return;
        }
        let mut founding = self.founding.clone();
        founding.id = FoundingId { number: FoundingNumber(2), ..founding.id };
        founding.nodes = vec![node_info(1)];
        let recovered = Disk::found(&founding, Replica::membership_of(&[NodeId(1)]), true).recover();
        let config = NodeConfig {
            id: NodeId(1),
            founding: founding.id,
            timing: self.options.timing,
            retention: self.options.retention,
            sessions: self.options.sessions,
            seed: 1,
            nonce: 0,
            address: None,
        };
        let core = Node::open(self.now, config, recovered.expect("what a store wrote can be read"));
        let core = core.expect("what a store wrote can be opened");
        self.stranger = Some(Stranger { core, wake: None, connections: BTreeMap::new(), last_connection: 0, dice });
        self.tell_stranger(Input::Space(Space { total: 1 << 40, available: 1 << 39 }));
    }

    /// Whether it answers a mount that dials, in the place of the node that was meant.
    pub(super) fn is_strangers_turn(&mut self, meant: NodeId) -> bool {
        let (chance, nodes) = (self.options.strangers, self.options.nodes);
        // A mount all of whose servers are strangers ends, and rightly.
        let is_there = nodes > 1 && meant == NodeId(nodes);
        self.stranger.as_mut().is_some_and(|stranger| is_there && stranger.dice.chance(chance))
    }

    pub(super) fn open_to_stranger(&mut self, mount: usize, mount_connection: ConnectionId) {
        let mount_life = self.mounts[mount].life;
        let number = self.links.len() as u64 + 1;
        let Some(stranger) = &mut self.stranger else { return };
        stranger.last_connection += 1;
        let node_connection = ConnectionId(stranger.last_connection);
        stranger.connections.insert(node_connection, number);
        let link =
            Link { mount, mount_life, mount_connection, node: STRANGER, node_life: 0, node_connection, is_open: true };
        self.links.insert(number, link);
        // The mount hears that the stream stands before it hears what is said on it.
        let at = self.network.arrival(self.now, Stream::ToMount { connection: number });
        self.at(at, Event::DialAnswered { link: number });
        let mut grant = self.grant();
        if self.options.breach == Some(Breach::Foundings) {
            grant.founding.number = FoundingNumber(2);
        }
        self.tell_stranger(Input::MountOpened {
            connection: node_connection,
            grant,
            credential: super::nodes::CREDENTIAL,
        });
    }

    /// What every mount's credential says.
    pub(super) fn grant(&self) -> Grant {
        let (volume, name) = (super::nodes::VOLUME, "main".to_owned());
        Grant { founding: self.founding.id, volume, name, access: Access::ReadWrite }
    }

    /// Whether the link is one to it; then it is told.
    pub(super) fn is_strangers(&mut self, link: Link, input: Input) -> bool {
        if link.node != STRANGER {
            return false;
        }
        if let (Input::MountClosed { connection }, Some(stranger)) = (&input, &mut self.stranger) {
            stranger.connections.remove(connection);
        }
        self.tell_stranger(input);
        true
    }

    pub(super) fn stranger_woke(&mut self) {
        let now = self.now;
        if self.stranger.as_mut().is_some_and(|stranger| stranger.wake.take_if(|wake| *wake == now).is_some()) {
            self.tell_stranger(Input::Tick);
        }
    }

    fn tell_stranger(&mut self, input: Input) {
        let now = self.now;
        let Some(stranger) = &mut self.stranger else { return };
        stranger.core.handle(now, Input::WallClock(EPOCH + now.0));
        stranger.core.handle(now, input);
        let mut said = Vec::new();
        while let Some(output) = stranger.core.poll_output() {
            match output {
                Output::PersistLog(batch) => stranger.core.handle(now, Input::LogPersisted { number: batch.number }),
                Output::PersistState(batch) => stranger.core.handle(now, Input::StatePersisted { index: batch.index }),
                Output::Mount { connection, message } => said.push((connection, Some(message))),
                Output::CloseMount { connection } => said.push((connection, None)),
                Output::Fatal(reason) => panic!("the second founding cannot go on: {reason}"),
                _ => {}
            }
        }
        let wake = stranger.core.poll_timeout().map(|at| at.max(Instant(now.0 + 1)));
        if wake != stranger.wake {
            stranger.wake = wake;
            if let Some(wake) = wake {
                self.at(wake, Event::StrangerWake);
            }
        }
        for (connection, message) in said {
            let Some(stranger) = &mut self.stranger else { return };
            let number = match message {
                Some(_) => stranger.connections.get(&connection).copied(),
                None => stranger.connections.remove(&connection),
            };
            let Some((number, link)) = number.and_then(|number| Some((number, *self.links.get(&number)?))) else {
                continue;
            };
            let at = self.network.arrival(self.now, Stream::ToMount { connection: number });
            let event = match message {
                Some(message) => Event::ToMount { link: number, message: Box::new(message) },
                None => {
                    Event::ClosedAtMount { mount: link.mount, life: link.mount_life, connection: link.mount_connection }
                }
            };
            self.at(at, event);
        }
    }
}
