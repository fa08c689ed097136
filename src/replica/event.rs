//! What goes into the replica core and what comes out of it.

use std::time::Duration;

use bytes::Bytes;

use super::Standing;
use crate::message::peer::{Greeting, Hello, Mark};
use crate::{
    limits::Timing,
    message::{
        log::{LogBatch, LogEntry},
        peer::PeerMessage,
    },
    types::{LogIndex, NodeId, Term},
};

/// What a replica is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    pub id: NodeId,
    pub timing: Timing,
    /// Spreads election timeouts within a node's slot; equal seeds give equal runs.
    pub seed: u64,
    /// Random: no other process of this node has it.
    pub nonce: u64,
}

/// What the disk gave back of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restart {
    /// What `LogBatch::hard_state` last was, where one was ever written.
    pub hard_state: Option<Bytes>,
    /// Encoded raft membership as of `applied`.
    pub membership: Bytes,
    /// The last entry in the state.
    pub applied: (LogIndex, Term),
    /// Entries that follow `compacted`, without a gap.
    pub entries: Vec<LogEntry>,
    /// The entry before the first of `entries`.
    pub compacted: (LogIndex, Term),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The batch of this number, and all before it, is on the disk.
    Persisted {
        number: u64,
    },
    /// An encoded raft message from the peer at the other end of the stream.
    Raft {
        from: NodeId,
        bytes: Bytes,
    },
    /// Renews the promise not to vote (docs/protocol.md R6-promise).
    Heartbeat {
        from: NodeId,
        term: Term,
        round: u64,
        marks: Vec<Mark>,
        alive: Vec<NodeId>,
    },
    /// A process that began says what its disk gave it (R71-forgetful).
    Hello {
        from: NodeId,
        hello: Hello,
    },
    Greeting {
        from: NodeId,
        greeting: Greeting,
    },
    HeartbeatAcknowledged {
        from: NodeId,
        term: Term,
        round: u64,
    },
    /// A message to the peer was lost, or the stream to it ended.
    PeerLost {
        peer: NodeId,
    },
    /// `Proposed` or `Dropped` with this token follows.
    Propose {
        token: u64,
        data: Bytes,
    },
    /// `Proposed` or `Dropped` with this token follows. Learners are added, learners promoted to voters, nodes removed,
    /// in one change that is joint wherever voters change; the leader leaves the joint configuration by itself.
    ChangeMembership {
        token: u64,
        add_learners: Vec<NodeId>,
        promote: Vec<NodeId>,
        remove: Vec<NodeId>,
    },
    /// The state includes every entry up to this one. Given after each `Committed`.
    Applied {
        index: LogIndex,
    },
    /// Entries up to this one leave memory; `Replica::compaction_point` says which may.
    Compact {
        through: LogIndex,
    },
    /// Hand leadership over, to the most advanced voter where none is named. From here on this term confirms no lease.
    Transfer {
        to: Option<NodeId>,
    },
    /// Whether appends of a leader are to be left unanswered, as if this node were slow: it has no place for what they
    /// bring. What is in its log stays promised; the leader sends again what was left out.
    Refuse(bool),
    /// Asks for a heartbeat round that begins now or later. Tickets grow; `LeaseConfirmed` answers this and all before.
    ConfirmLease {
        ticket: u64,
    },
    /// The state was replaced by a peer's at this index, and its `StateBatch` was handed out before this: the store
    /// keeps the log's reset behind it. Only for an index above what was applied.
    SnapshotInstalled {
        index: LogIndex,
        term: Term,
        membership: Bytes,
    },
    /// Nothing happened but time.
    Tick,
}

/// A committed entry in log order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedEntry {
    pub index: LogIndex,
    pub term: Term,
    /// What was proposed; empty for raft's own entries (a new leader's first, changes of membership).
    pub data: Bytes,
    /// Encoded membership from this entry on, where it changed it.
    pub membership: Option<Bytes>,
}

/// Why a proposal was not taken. It is certain that it has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    NotLeading,
    /// Leadership is being handed over.
    Transferring,
    /// Too many bytes are uncommitted: try again when some are committed.
    Full,
    /// A change of membership is under way, or the change makes no sense now.
    Membership,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Messages that promise what is in the batch stay inside the core until `Input::Persisted`.
    Persist(LogBatch),
    Send {
        to: NodeId,
        message: PeerMessage,
    },
    Committed(Vec<CommittedEntry>),
    Proposed {
        token: u64,
        index: LogIndex,
        term: Term,
    },
    Dropped {
        token: u64,
        reason: DropReason,
    },
    /// At every change. When `leading` ends or the term changes, what was `Proposed` before and not yet `Committed` is
    /// unknown: it may still be committed by another leader.
    Leadership {
        leader: Option<NodeId>,
        term: Term,
        leading: bool,
        /// R4-new-leader: what a new leader waits, from now on, for sessions that do not attach. X - E, because voters
        /// kept their promise to the predecessor for E; X where no promise was waited out (transfer, lone voter).
        attach_grace: Duration,
    },
    /// A heartbeat round that began after every `ConfirmLease` up to this ticket was acknowledged by a majority (of
    /// both configurations while joint), and an entry of this leader's own term is committed.
    LeaseConfirmed {
        ticket: u64,
    },
    /// The leader no longer has the entries this node lacks: fetch rows of its state (`PeerMessage::SnapshotRequest`),
    /// then give `SnapshotInstalled`. Repeated while the need lasts: whoever fetches already goes on.
    NeedSnapshot {
        from: NodeId,
        index: LogIndex,
    },
    /// This node lost what it had promised: fetch rows of the leader's state that include this entry, then give
    /// `SnapshotInstalled`. Repeated while the need lasts.
    Refill {
        from: NodeId,
        through: LogIndex,
    },
    /// For the log: a person must look at it.
    Warning(String),
    /// What the peer sent makes no sense and was not taken; for the log.
    Refused {
        from: NodeId,
        reason: String,
    },
    /// The replica cannot go on: stop the process.
    Fatal(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    pub leader: Option<NodeId>,
    pub term: Term,
    pub leading: bool,
    pub standing: Standing,
    pub committed: LogIndex,
    pub last: LogIndex,
    pub peers: Vec<Peer>,
}

/// A member of the configuration, this node included, by id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub id: NodeId,
    pub voter: bool,
    /// Last entry known to be on the peer's disk; at the leader only.
    pub matched: Option<LogIndex>,
    /// The peer acknowledged a heartbeat within the last election timeout; at the leader only.
    pub reachable: Option<bool>,
}

/// Why a replica cannot start from what the disk holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    #[error("{what} is not well-formed: {reason}; restore this node's log or let it join again under a new identity")]
    Form { what: &'static str, reason: String },
    #[error("the log begins behind entry {compacted}, but the state ends at {applied}: entries between are missing")]
    Gap { compacted: LogIndex, applied: LogIndex },
    #[error("log entry {expected} was expected, found {found}")]
    Order { expected: LogIndex, found: LogIndex },
    #[error("raft refuses the configuration: {0}")]
    Raft(String),
}
