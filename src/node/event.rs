//! What goes into a storage node's core and what comes out of it.

use bytes::Bytes;

use crate::{
    namespace::{NodeInfo, QuotaChanges, RowChange, State, VolumeOptions},
    replica::{Greeting, Hello, Mark, Standing},
    types::{
        BlockHash, ConnectionId, CredentialId, FoundingId, Grant, LogIndex, NodeId, SessionId, Stamp, Term, UploadId,
        VolumeId,
        message::{MountPlace, Space, ToLeader, ToMount},
    },
};

/// What the disk holds of the log, and the state as of its applied index, when a node starts.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What `LogBatch::hard_state` last was, where one was ever written.
    pub hard_state: Option<Bytes>,
    /// Encoded raft membership as of `state_index`.
    pub membership: Bytes,
    /// The state and the index and term of the last entry in it; rows and packs hold all of it.
    pub state: State,
    pub state_index: LogIndex,
    pub state_term: Term,
    /// Entries that follow `compacted`, without a gap.
    pub entries: Vec<LogEntry>,
    /// Index and term of the entry before the first of `entries`.
    pub compacted: (LogIndex, Term),
}

/// An entry of the Raft log as the log file keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    pub index: LogIndex,
    pub term: Term,
    /// The whole raft entry, encoded (type, context and data included).
    pub bytes: Bytes,
}

/// What a node says of its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    pub space: Space,
    /// Bytes of content, over all volumes, that the node's state named at the least when it last looked at the device and
    /// when it looked before.
    pub content: u64,
}

/// A write to the log: all of it is synced, in this order of batches, before `LogPersisted` says so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogBatch {
    /// Grows by one with every batch.
    pub number: u64,
    /// Raft's hard state, and what else the replica must not forget; its own encoding.
    pub hard_state: Option<Bytes>,
    /// Entries to append. Where the first has an index the log already has, that and all behind it are replaced.
    pub entries: Vec<LogEntry>,
    /// The log begins anew behind this position (a snapshot was installed); earlier entries are void. The store holds
    /// the batch back until the `StateBatch` of that snapshot is synced, so that the log never runs ahead of the state:
    /// emit that one without waiting for this.
    pub reset: Option<(LogIndex, Term)>,
}

/// Rows and content that applied entries brought, to be written in order; the index goes into the same batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateBatch {
    /// Index and term of the last entry in it.
    pub index: LogIndex,
    pub term: Term,
    /// `State::digest` at `index`: rows that a store lost without a trace are noticed by it at the next start.
    pub digest: u128,
    /// Encoded raft membership, where it changed.
    pub membership: Option<Bytes>,
    /// A snapshot was installed: `rows` are all rows of the state and replace what the store held, at once. The store
    /// counts references anew from them.
    pub reset: bool,
    pub rows: Vec<RowChange>,
    /// Inline content for packs.
    pub content: Vec<(BlockHash, Bytes)>,
    /// Changes of how many extents name a block, over all volumes.
    pub references: Vec<(BlockHash, i64)>,
    /// Volumes that name a block in more extents than before: their mounts may read it. Empty with `reset`, as above.
    pub named: Vec<(VolumeId, BlockHash)>,
    /// Pins that end with the entries of this batch, after its references were counted (docs/protocol.md R18-pins).
    pub unpinned: Vec<Unpinned>,
}

/// Uploads that are over: from here on their blocks live only while extents name them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unpinned {
    /// An entry named these uploads (`Operation::uploads`), and its call does not come again.
    Uploads { volume: VolumeId, session: SessionId, uploads: Vec<UploadId> },
    /// The session ended (`Command::CloseSessions`).
    Session { volume: VolumeId, session: SessionId },
    /// The volume is gone (`Command::DeleteVolume`).
    Volume { volume: VolumeId },
}

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
    /// R71-forgetful: first of all, to each peer until it greets; with the address to answer to, where the node knows
    /// it.
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
    /// R27-handover: the leader of this term grants no lease any more, and no session but these may have one. Whoever
    /// leads in the next term waits for no other.
    HandOver {
        term: Term,
        leased: Vec<(VolumeId, SessionId)>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminRequest {
    Status,
    CreateVolume {
        name: String,
        options: VolumeOptions,
    },
    /// `force`: though there are mounts of it.
    DeleteVolume {
        name: String,
        force: bool,
    },
    SetQuotas {
        name: String,
        changes: QuotaChanges,
    },
    TransferLeader {
        to: Option<NodeId>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminAnswer {
    Done,
    Status(Box<NodeStatus>),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("this node does not lead; ask {}", .leader.as_deref().unwrap_or("again once a leader is elected"))]
    NotLeader { leader: Option<String> },
    #[error("{0}")]
    Refused(String),
    #[error("the cluster has no quorum: nothing was changed for certain, look again once nodes are back")]
    TimedOut,
}

/// What `status` shows of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    pub founding: FoundingId,
    pub id: NodeId,
    pub leader: Option<NodeId>,
    pub term: Term,
    pub applied: LogIndex,
    pub committed: LogIndex,
    /// Digest of the whole state at `applied`.
    pub digest: u128,
    pub peers: Vec<PeerStatus>,
    pub volumes: Vec<VolumeStatus>,
    /// Known at the leader only.
    pub sessions: Vec<SessionStatus>,
    /// The node's disk is so full that it takes no entries as long as a majority does without it.
    pub short_of_space: bool,
    pub clock: ClockStatus,
    /// Whether the node takes part in votes and acknowledgements.
    pub standing: Standing,
    /// Of its own disk.
    pub space: Option<Space>,
    /// Milliseconds since it last knew a leader, or since its process began; `None` while it knows one.
    pub leaderless_ms: Option<u64>,
}

/// A node's wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockStatus {
    /// Times that it was set by a second or more since the process began.
    pub jumps: u64,
    /// Milliseconds by which it is ahead of cluster time; less than nothing where it is behind, `None` while cluster time
    /// is not known.
    pub ahead_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    pub node: NodeInfo,
    pub voter: bool,
    /// Last entry known to be on the peer's disk; at the leader only.
    pub matched: Option<LogIndex>,
    /// The peer answered within the last election timeout; at the leader only.
    pub reachable: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStatus {
    pub id: VolumeId,
    pub name: String,
    pub inodes: u64,
    pub bytes: u64,
    pub quota_bytes: Option<u64>,
    pub quota_inodes: u64,
    pub digest: u128,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionStatus {
    pub session: SessionId,
    pub volume: VolumeId,
    pub connected: bool,
    pub in_roster: bool,
    /// Entries sent and not acknowledged yet.
    pub unacknowledged: u64,
    /// Milliseconds since it was opened: since the mount began, but for one that was away for longer than a session lasts.
    pub age_ms: u64,
    /// As the mount says; `None` where it has not attached to this leader.
    pub place: Option<MountPlace>,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// The batch of this number, and all before it, is on the disk.
    LogPersisted {
        number: u64,
    },
    /// State store and packs hold everything up to this entry, synced: the log may be cut below it.
    StatePersisted {
        index: LogIndex,
    },
    Peer {
        from: NodeId,
        message: PeerMessage,
    },
    /// A message to the peer was lost or could not be sent.
    PeerLost {
        peer: NodeId,
    },
    /// A mount has connected; its certificate says what it may.
    MountOpened {
        connection: ConnectionId,
        grant: Grant,
        credential: CredentialId,
    },
    Mount {
        connection: ConnectionId,
        message: ToLeader,
    },
    MountClosed {
        connection: ConnectionId,
    },
    Admin {
        ticket: u64,
        request: AdminRequest,
    },
    /// Space of this node's own device, less what log and state need for themselves; at start and every few seconds.
    Space(Space),
    /// Whether so much of what log and state need for themselves is used up that this node should take no more as long as
    /// a majority can do without it; told with `Space`.
    ShortOfSpace(bool),
    /// This machine's wall clock, nanoseconds since 1970; given now and then and before each handling of mount messages.
    WallClock(u64),
    /// Orderly stop: hand leadership over if possible; `Output::Stopped` follows.
    Stop,
    /// Nothing happened but time.
    Tick,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    PersistLog(LogBatch),
    PersistState(StateBatch),
    /// Entries up to this one may be cut from the log.
    CompactLog {
        through: LogIndex,
        term: Term,
    },
    Peer {
        to: NodeId,
        message: PeerMessage,
    },
    /// Address of a peer as the state knows it now; sent at start and at changes.
    PeerAddress(NodeInfo),
    Mount {
        connection: ConnectionId,
        message: ToMount,
    },
    CloseMount {
        connection: ConnectionId,
    },
    Admin {
        ticket: u64,
        answer: Result<AdminAnswer, AdminError>,
    },
    /// For logs, metrics and `status`.
    Leadership {
        leader: Option<NodeId>,
        term: Term,
    },
    /// A sentence for the log that an operator should see.
    Notice(String),
    /// The same, of what an operator should do something about.
    Warning(String),
    Stopped,
    /// The node cannot go on (an entry of a newer feature level, a log that contradicts itself): stop the process.
    Fatal(String),
}
