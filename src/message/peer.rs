//! What storage nodes say to each other, on one ordered stream in each direction.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    namespace::NodeInfo,
    types::{LogIndex, NodeId, SessionId, Space, Stamp, Term, VolumeId},
};

/// Between storage nodes, on one ordered stream per direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// An encoded raft message; its sender is the stream's other end.
    Raft(Bytes),
    /// R6-promise: renews the voter's promise; `round` grows with every heartbeat of the term.
    Heartbeat {
        term: Term,
        round: u64,
        /// Cluster time, from which whoever leads next goes on; `None` as long as it is not known.
        stamp: Option<Stamp>,
        /// Once in a heartbeat's time: what every node is known to have promised, and who is alive (R71-forgetful).
        marks: Vec<Mark>,
        alive: Vec<NodeId>,
    },
    HeartbeatAcknowledged {
        term: Term,
        round: u64,
        /// The sender's own clock, nanoseconds since 1970.
        wall_clock: Option<u64>,
    },
    /// R71-forgetful: first of all, to each peer until it greets; with the address to answer to, where the node knows it.
    Hello {
        hello: Hello,
        node: Option<NodeInfo>,
    },
    Greeting(Greeting),
    /// Asks the leader for one piece of a snapshot of its state: the rows behind `after` (empty: from the first) of the
    /// snapshot at `index` (0: of any). A leader that does not have that one begins a new one. One request, one piece.
    SnapshotRequest {
        index: LogIndex,
        after: Bytes,
    },
    /// Rows of the whole state at `index`, in key order. With another index than the piece before, it begins anew.
    SnapshotPiece {
        index: LogIndex,
        term: Term,
        membership: Bytes,
        rows: Vec<(Bytes, Bytes)>,
        last: bool,
    },
    /// What a node says of itself, to all peers about once a second and when its space changes. The leader keeps the
    /// addresses in the state by `SetNode` entries, and tells mounts the space of a majority.
    Report {
        node: Option<NodeInfo>,
        measured: Option<Measured>,
        /// Bytes of content that its state names, over all volumes.
        content_bytes: u64,
    },
    /// R27-handover: the leader of this term grants no lease any more, and no session but these may have one. Whoever leads
    /// in the next term waits for no other.
    HandOver {
        term: Term,
        leased: Vec<(VolumeId, SessionId)>,
    },
}

/// What a node says of its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    pub space: Space,
    /// Bytes of content, over all volumes, that the node's state named at the least when it last looked at the device and
    /// when it looked before.
    pub content: u64,
}

/// One process of a node, from its start to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Life {
    /// One more at each start, as the node's own disk counts them.
    pub boot: u64,
    /// Random: tells two processes apart that began with copies of one disk.
    pub nonce: u64,
}

/// What a node is known to have promised in its newest known life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub node: NodeId,
    pub life: Life,
    /// It was in this term: it votes in no earlier one, and perhaps has voted in this one.
    pub term: Term,
    /// To a leader of this term it acknowledged its log up to this entry.
    pub acknowledged: (Term, LogIndex),
}

/// What a process has to say of itself when it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    pub life: Life,
    pub term: Term,
    /// The last entry of its log.
    pub last: LogIndex,
    pub recollection: Recollection,
}

/// What a node believes of its own disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recollection {
    /// All it ever promised is there, as far as it knows.
    Whole,
    /// It was told otherwise, and asks the leader for an entry.
    Lost,
    /// Its log begins behind such an entry.
    Refilled,
}

/// What one node answers to another's `Hello`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Of the process that is greeted.
    pub life: Life,
    /// Of the one that greets.
    pub by: Life,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing is known here that the node has forgotten.
    Welcome,
    /// It promised more than it knows; a life with this boot was seen.
    Forgetful { boot: u64 },
    /// The leader's entry is applied: a state that includes it makes the node whole.
    Refill { through: LogIndex, term: Term },
    /// Another process of the same node is alive.
    Rival,
}
