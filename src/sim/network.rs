//! When messages arrive, and which never do. Streams are ordered; what a broken stream carried is lost, or arrives late
//! beside what the next stream carries.

use std::collections::{BTreeMap, BTreeSet};

use super::dice::Dice;
use crate::types::{Instant, NodeId};

/// An end of a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    Node(NodeId),
    Mount(usize),
}

/// One ordered direction: between two places, or a connection of a mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stream {
    Peers {
        from: NodeId,
        to: NodeId,
    },
    ToNode {
        connection: u64,
    },
    ToMount {
        connection: u64,
    },
    /// Calls for blocks: each on its own.
    Block,
}

#[derive(Debug)]
pub(super) struct Network {
    dice: Dice,
    delay: (u64, u64),
    /// When the last message of a stream arrives: none overtakes it.
    arrivals: BTreeMap<Stream, Instant>,
    /// How often a stream between two nodes was broken: what an older one carried is lost.
    broken: BTreeMap<(NodeId, NodeId), u64>,
    cut: BTreeSet<(Place, Place)>,
}

impl Network {
    pub(super) fn new(dice: Dice, delay: (u64, u64)) -> Self {
        Self { dice, delay, arrivals: BTreeMap::new(), broken: BTreeMap::new(), cut: BTreeSet::new() }
    }

    pub(super) fn reaches(&self, from: Place, to: Place) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub(super) fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    pub(super) fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// When a message that is sent now arrives, behind those sent before it on its stream.
    pub(super) fn arrival(&mut self, now: Instant, stream: Stream) -> Instant {
        let at = now.after(self.dice.micros(self.delay.0, self.delay.1));
        if stream == Stream::Block {
            return at;
        }
        let last = self.arrivals.entry(stream).or_insert(at);
        *last = at.max(Instant(last.0 + 1));
        *last
    }

    /// The stream that messages between the two travel on now.
    pub(super) fn generation(&self, from: NodeId, to: NodeId) -> u64 {
        self.broken.get(&(from.min(to), from.max(to))).copied().unwrap_or(0)
    }

    pub(super) fn break_peers(&mut self, one: NodeId, other: NodeId) {
        *self.broken.entry((one.min(other), one.max(other))).or_insert(0) += 1;
    }

    /// Whether a message of a stream that is broken arrives all the same.
    pub(super) fn is_late(&mut self) -> bool {
        self.dice.chance(300)
    }
}
