//! Read indexes: up to where a mount without a lease must apply the log before it answers a read (docs/protocol.md
//! R10-read-index, R16-cut-off).
//!
//! What had completed when the mount asked is applied here: this leader has applied everything of its predecessors, and
//! completes nothing before it is applied. That it still leads is known from a round of heartbeats that begins afterwards,
//! the same that renewals wait for.

use super::{Coordinator, Key, Phase};
use crate::{
    message::mount::ToMount,
    namespace::{State, Volume},
    types::{ConnectionId, LogIndex},
};

/// What is asked, one a connection: the answer to a later number is one to all before it.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// No round was asked for yet.
    waiting: Vec<Read>,
    /// The round under way will confirm them.
    confirming: Vec<Read>,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    connection: ConnectionId,
    number: u64,
    index: LogIndex,
}

impl Reads {
    pub(super) fn ask(&mut self) {
        self.confirming.append(&mut self.waiting);
    }

    pub(super) const fn wait_for_round(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Coordinator {
    pub(super) fn read_index(&mut self, state: &State, connection: ConnectionId, key: Key, number: u64) {
        let index = state.volume(key.0).map_or(LogIndex(0), Volume::applied);
        self.reads.waiting.retain(|read| read.connection != connection);
        self.reads.waiting.push(Read { connection, number, index });
        self.ask_for_round();
    }

    /// The round is over: this node led when it began.
    pub(super) fn tell_read_indexes(&mut self) {
        for Read { connection, number, index } in std::mem::take(&mut self.reads.confirming) {
            if self.connections.get(&connection).is_some_and(|entry| matches!(entry.phase, Phase::Attached(_))) {
                self.send(connection, ToMount::ReadIndex { number, index });
            }
        }
    }
}
